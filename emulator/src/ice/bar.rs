//! Register reads and writes by message, and what else they do.

use super::config_space::{BAR0_LEN, BAR3_LEN};
use super::regs::{self, Mode, control_queue as cq};
use super::{Event, Model, State};

impl Model {
    /// Reads BAR `bar`. Registers answer 32-bit accesses; other sizes get the bytes of the words they touch.
    pub fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        if self.is_removed() {
            return data.fill(0xff);
        }
        match bar {
            _ if offset >= BAR0_LEN => data.fill(0),
            0 => {
                let mut word = None;
                for (at, byte) in (offset..).zip(data) {
                    let start = at & !3;
                    let value = match word {
                        Some((known, value)) if known == start => value,
                        _ => self.read_register(start),
                    };
                    word = Some((start, value));
                    *byte = (value >> (8 * (at & 3))) as u8;
                }
            }
            3 => {
                for (at, byte) in (offset..).zip(data) {
                    *byte = usize::try_from(at).ok().and_then(|at| self.msix.get(at)).copied().unwrap_or(0);
                }
            }
            _ => data.fill(0),
        }
    }

    /// Writes BAR `bar`. Registers take aligned 32-bit words; anything else is counted and changes nothing.
    pub fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        if self.is_removed() {
            return;
        }
        match bar {
            _ if offset >= BAR0_LEN => self.bus.counters.odd_accesses += 1,
            0 if offset.is_multiple_of(4) && data.len().is_multiple_of(4) => {
                for (at, word) in (offset..).step_by(4).zip(data.as_chunks::<4>().0) {
                    self.write_register(at, u32::from_le_bytes(*word));
                }
            }
            3 => {
                for (at, byte) in (offset..BAR3_LEN).zip(data) {
                    self.msix[at as usize] = *byte;
                }
            }
            _ => self.bus.counters.odd_accesses += 1,
        }
    }

    fn known(&mut self, offset: u64, write: bool) -> Option<(u32, Mode)> {
        let offset = u32::try_from(offset).ok().filter(|at| u64::from(*at) < BAR0_LEN)?;
        self.history.touch(offset, write);
        regs::lookup(offset).map(|register| (offset, register.mode))
    }

    fn read_register(&mut self, offset: u64) -> u32 {
        let Some((offset, mode)) = self.known(offset, false) else { return 0 };
        match (offset, mode) {
            (_, Mode::Count) => self.stats.get(offset),
            (_, Mode::Bell) => self.tails.get(offset),
            (regs::PFINT_OICR, _) => self.regs.take(offset),
            _ => match (regs::index(offset, regs::QTX_COMM_HEAD), regs::index(offset, regs::QRX_CTRL)) {
                (Some(q), _) => self.tx.get(q).map_or(0, |queue| queue.head),
                (_, Some(q)) => self.rx_control(q),
                _ => self.regs.get(offset),
            },
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let Some((offset, mode)) = self.known(offset, true) else { return };
        if matches!(mode, Mode::Ro | Mode::Count) || self.write_interrupt(offset, value) {
            return;
        }
        match offset {
            _ if mode == Mode::Bell => self.write_tail(offset, value),
            regs::PFGEN_CTRL if value & regs::PFGEN_CTRL_PFSWR != 0 => {
                self.history.note(Event::Reset);
                self.reset();
                if self.faults.stuck_reset {
                    self.regs.set(offset, value);
                }
            }
            regs::GLGEN_RTRIG if value & regs::GLGEN_RTRIG_ANY != 0 => {
                self.history.note(Event::Reset);
                self.core_reset();
                self.other_cause(regs::OICR_GRST);
            }
            regs::GL_MDET_TX_PQM
            | regs::GL_MDET_TX_TCLAN
            | regs::GL_MDET_RX
            | regs::PF_MDET_TX_PQM
            | regs::PF_MDET_TX_TCLAN
            | regs::PF_MDET_RX => self.regs.set(offset, self.regs.get(offset) & !value),
            _ => {
                self.regs.set(offset, value);
                self.after_write(offset, value);
            }
        }
    }

    /// What registers set off that read as they were written.
    fn after_write(&mut self, offset: u32, value: u32) {
        const ATQ_TAIL: u32 = regs::PF_FW_ATQ + cq::TAIL;
        const ARQ_TAIL: u32 = regs::PF_FW_ARQ + cq::TAIL;
        match offset {
            ATQ_TAIL | ARQ_TAIL => {
                self.adminq_rung |= offset == ATQ_TAIL;
                self.serve_adminq();
            }
            _ => {
                if let Some(q) = regs::index(offset, regs::QRX_CTRL) {
                    self.control_rx(q, value);
                }
            }
        }
    }

    fn write_tail(&mut self, offset: u32, value: u32) {
        let off = match regs::index(offset, regs::QTX_COMM_DBELL) {
            Some(q) => self.tx.get(q).is_none_or(|queue| queue.state == State::Off),
            None => false,
        };
        if off && value != 0 {
            self.complain("a transmit tail was written before its queue was added");
        }
        self.tails.set(offset, value);
    }
}
