//! What both kinds of queue share: their states, their rings, and how they start and stop.

use super::{Doorbells, Model, desc, regs};

/// Where a queue stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum State {
    /// Disabled, and acknowledged.
    #[default]
    Off,
    /// Running.
    On,
    /// Disabled, but frames are between their passes.
    Stopping,
    /// It met something it cannot do.
    Halted,
}

/// A ring's geometry, checked when the queue starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Ring {
    pub(super) base: u64,
    /// Descriptors.
    pub(super) count: u32,
}

impl Ring {
    /// Checks what the registers say.
    pub(super) fn new(base: u64, bytes: u32, head: u32) -> Result<Self, &'static str> {
        let ring = Self { base, count: bytes / desc::LEN as u32 };
        match () {
            () if bytes == 0 || !bytes.is_multiple_of(128) || bytes > 128 << 10 => {
                Err("ring length is not a multiple of 128 bytes up to 128 KiB")
            }
            () if !base.is_multiple_of(128) => Err("ring is not aligned to 128 bytes"),
            () if base.checked_add(u64::from(bytes)).is_none() => Err("ring wraps around the end of the address space"),
            () if head >= ring.count => Err("head lies beyond the ring"),
            () => Ok(ring),
        }
    }

    pub(super) fn descriptor(self, index: u32) -> u64 {
        self.base + u64::from(index) * desc::LEN
    }

    pub(super) fn after(self, index: u32) -> u32 {
        if index + 1 >= self.count { 0 } else { index + 1 }
    }
}

impl Model {
    /// Looks at the registers of every queue, which a client may have changed unseen where they are mapped; elsewhere of those
    /// that are not at rest.
    pub(super) fn poll_queues(&mut self) {
        let unseen = self.config.doorbells == Doorbells::Mapped || std::mem::take(&mut self.touched_queues);
        for q in bits(if unseen { u64::MAX } else { self.awake }) {
            let wanted = self.poll_tx(q) | self.poll_rx(q);
            let at_rest = self.tx[q].is_idle() && self.rx[q].state == State::Off;
            self.awake = self.awake & !(1 << q) | u64::from(wanted || !at_rest) << q;
        }
    }

    /// Pairs of which a queue may have something to do.
    pub(super) fn awake(&self) -> impl Iterator<Item = usize> + use<> {
        bits(self.awake)
    }

    /// Whether it is enabled.
    fn poll_tx(&mut self, q: usize) -> bool {
        let page = regs::TX_PAGE + 0x40 * q as u32;
        let wanted = self.pages.get(page + regs::tx::TXDCTL) & regs::DCTL_ENABLE != 0;
        let queue = &mut self.tx[q];
        match (wanted, queue.state) {
            (false, State::Off) => {}
            (false, _) => {
                queue.state = State::Stopping;
                if !queue.is_pending() && !self.faults.stuck_tx_disable {
                    queue.state = State::Off;
                }
            }
            (true, State::Off | State::Stopping) if self.regs.has(regs::DMATXCTL, regs::DMATXCTL_TE) => {
                self.start_tx(q, page);
            }
            (true, State::On) if self.config.doorbells == Doorbells::Mapped => {
                // Disabled, set up and enabled again between two looks?
                let (ring, head) = self.geometry(page);
                if ring != Ok(self.tx[q].ring) || head != self.tx[q].shown {
                    self.start_tx(q, page);
                }
            }
            (true, _) => {}
        }
        wanted
    }

    fn start_tx(&mut self, q: usize, page: u32) {
        let thresholds = self.pages.get(page + regs::tx::TXDCTL);
        if thresholds & 0x7f != 0 && thresholds >> 8 & 0x7f == 0 {
            self.complain("TXDCTL.PTHRESH without HTHRESH");
        }
        match self.geometry(page) {
            (Ok(ring), head) => self.tx[q].start(ring, head),
            (Err(problem), _) => self.halt_tx(q, problem),
        }
    }

    /// Whether it is enabled.
    fn poll_rx(&mut self, q: usize) -> bool {
        let page = regs::RX_PAGE + 0x40 * q as u32;
        let wanted = self.pages.get(page + regs::rx::RXDCTL) & regs::DCTL_ENABLE != 0;
        match (wanted, self.rx[q].state) {
            (false, State::Off) => {}
            (false, _) => self.rx[q].state = State::Off,
            (true, State::Off) => self.start_rx(q, page),
            (true, State::On) if self.config.doorbells == Doorbells::Mapped => {
                let (ring, head) = self.geometry(page);
                if ring != Ok(self.rx[q].ring) || head != self.rx[q].shown {
                    self.start_rx(q, page);
                }
            }
            (true, _) => {}
        }
        wanted
    }

    fn start_rx(&mut self, q: usize, page: u32) {
        match self.geometry(page) {
            (Ok(ring), head) => self.rx[q].start(ring, head),
            (Err(problem), _) => self.halt_rx(q, problem),
        }
    }

    /// Ring and head as a queue's page says; both kinds of queue have them at the same places.
    fn geometry(&self, page: u32) -> (Result<Ring, &'static str>, u32) {
        let low = self.pages.get(page + regs::tx::TDBAL);
        let high = self.pages.get(page + regs::tx::TDBAH);
        let bytes = self.pages.get(page + regs::tx::TDLEN);
        let head = self.pages.get(page + regs::tx::TDH);
        (Ring::new(u64::from(high) << 32 | u64::from(low), bytes, head), head)
    }
}

/// Numbers of the bits that are set, in ascending order.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(bit)
    })
}
