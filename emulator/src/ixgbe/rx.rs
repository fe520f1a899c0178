//! Receive queues: filters, queue choice, buffers, checksum verdicts, write-back.

use super::desc::RxWriteBack;
use super::tx::desc_words;
use super::{Model, Ring, State, regs, rss};
use crate::headers::{self, Headers, Network, Transport, Verdict};

/// One receive queue's inside.
#[derive(Default)]
pub(super) struct RxQueue {
    pub(super) state: State,
    pub(super) ring: Ring,
    /// Next descriptor to fill.
    pub(super) head: u32,
    /// What the page last showed as RDH.
    pub(super) shown: u32,
}

impl RxQueue {
    /// Latches a ring and starts from `head`.
    pub(super) fn start(&mut self, ring: Ring, head: u32) {
        *self = Self { state: State::On, ring, head, shown: head };
    }
}

/// What became of the frame at the front of the packet buffer.
enum Delivery {
    Done,
    /// No descriptors, and the queue does not drop: it blocks all that is behind.
    Blocked,
}

impl Model {
    /// Takes frames from the wire into the packet buffer, and from there into host memory.
    pub(super) fn step_rx(&mut self) -> bool {
        let mut busy = self.take_from_wire();
        while self.may_start_dma()
            && let Some(frame) = self.packet_buffer.pop_front()
        {
            match self.deliver(&frame) {
                Delivery::Done => {
                    self.packet_buffer_bytes -= frame.len();
                    self.spare.push(frame);
                    busy = true;
                }
                Delivery::Blocked => {
                    self.packet_buffer.push_front(frame);
                    break;
                }
            }
        }
        self.watch_packet_buffer();
        busy
    }

    fn take_from_wire(&mut self) -> bool {
        let mut busy = false;
        let room = (self.regs.get(regs::RXPBSIZE) >> 10) as usize * 1024;
        for _ in 0..self.config.frames_per_step {
            let mut frame = self.spare.pop().unwrap_or_default();
            frame.clear();
            let found = self.link_up && self.take_frame(&mut frame);
            if found && self.accept(&frame) {
                if self.packet_buffer_bytes + frame.len() <= room {
                    self.packet_buffer_bytes += frame.len();
                    self.packet_buffer.push_back(frame);
                    busy = true;
                    continue;
                }
                self.regs.add(regs::MPC, 1);
                self.bus.counters.rx_dropped += 1;
            }
            self.spare.push(frame);
            if !found {
                break;
            }
            busy = true;
        }
        self.spare.truncate(64);
        busy
    }

    /// The MAC's filters; counts what passes and what is malformed.
    fn accept(&mut self, frame: &[u8]) -> bool {
        if !self.regs.has(regs::RXCTRL, regs::RXCTRL_RXEN) {
            return false;
        }
        self.regs.add(regs::TPR, 1);
        self.regs.add_u64(regs::TOR, frame.len() as u64 + 4);
        if frame.len() < 60 {
            self.regs.add(regs::RUC, 1);
            return false;
        }
        if frame.len() + 4 > self.longest_rx(frame) {
            self.regs.add(regs::ROC, 1);
            return false;
        }
        if self.take_mac_control(frame) || !self.address_matches(frame) || !self.vlan_matches(frame) {
            return false;
        }
        self.count_rx(frame);
        true
    }

    /// Longest frame with its check sequence, bytes.
    fn longest_rx(&self, frame: &[u8]) -> usize {
        let tag = if self.is_tagged(frame) { 4 } else { 0 };
        let jumbo = self.regs.has(regs::HLREG0, regs::HLREG0_JUMBOEN);
        tag + if jumbo { (self.regs.get(regs::MAXFRS) >> 16) as usize } else { 1518 }
    }

    fn address_matches(&self, frame: &[u8]) -> bool {
        let fctrl = self.regs.get(regs::FCTRL);
        let destination = &frame[..6];
        if destination == [0xff; 6] {
            return fctrl & (regs::FCTRL_BAM | regs::FCTRL_MPE) != 0;
        }
        if destination[0] & 1 == 1 {
            return fctrl & regs::FCTRL_MPE != 0 || self.exact_match(destination) || self.multicast_hash(destination);
        }
        fctrl & regs::FCTRL_UPE != 0 || self.exact_match(destination)
    }

    fn exact_match(&self, address: &[u8]) -> bool {
        let low = u32::from_le_bytes([address[0], address[1], address[2], address[3]]);
        let high = u32::from(u16::from_le_bytes([address[4], address[5]]));
        (0..128).map(|i| regs::RAR + 8 * i).any(|rar| {
            let rah = self.regs.get(rar + 4);
            rah & regs::RAH_AV != 0 && rah & 0xffff == high && self.regs.get(rar) == low
        })
    }

    fn multicast_hash(&self, address: &[u8]) -> bool {
        let control = self.regs.get(regs::MCSTCTRL);
        // Which 12 of the address' last 16 bits: from bit 36, 35, 34 or 32 on.
        let shift = [4, 3, 2, 0][control as usize & 3];
        let hash = (u32::from(u16::from_le_bytes([address[4], address[5]])) >> shift) & 0xfff;
        control & regs::MCSTCTRL_MFE != 0 && self.regs.get(regs::MTA + 4 * (hash >> 5)) >> (hash & 31) & 1 == 1
    }

    fn is_tagged(&self, frame: &[u8]) -> bool {
        frame[12..14] == ((self.regs.get(regs::VLNCTRL) & 0xffff) as u16).to_be_bytes()
    }

    fn vlan_matches(&self, frame: &[u8]) -> bool {
        let control = self.regs.get(regs::VLNCTRL);
        if control & regs::VLNCTRL_VFE == 0 || !self.is_tagged(frame) {
            return true;
        }
        let tag = u32::from(u16::from_be_bytes([frame[14], frame[15]]));
        let canonical = (tag >> 12 & 1 == 1) == (control & regs::VLNCTRL_CFI != 0);
        if control & regs::VLNCTRL_CFIEN != 0 && !canonical {
            return false;
        }
        let id = tag & 0xfff;
        self.regs.get(regs::VFTA + 4 * (id >> 5)) >> (id & 31) & 1 == 1
    }

    fn deliver(&mut self, frame: &[u8]) -> Delivery {
        let parsed = headers::parse(frame);
        let hash = rss::hash(&self.regs, frame, parsed.as_ref());
        let q = usize::from(hash.map_or(0, |hash| rss::queue(&self.regs, self.part, hash.value)));
        let page = regs::RX_PAGE + 0x40 * q as u32;
        let vme = self.pages.get(page + regs::rx::RXDCTL) & regs::RXDCTL_VME != 0;
        let strip = vme && self.is_tagged(frame);
        let len = frame.len() - if strip { 4 } else { 0 };
        let srrctl = self.pages.get(page + regs::rx::SRRCTL);
        let size = (srrctl & 0x1f) as usize * 1024;
        match self.room(q, page, srrctl, size, len) {
            Some(true) => {}
            Some(false) if srrctl & regs::SRRCTL_DROP_EN == 0 => {
                return Delivery::Blocked;
            }
            _ => {
                self.count_rx_dropped(q);
                return Delivery::Done;
            }
        }
        let mut back = verdict(frame, parsed.as_ref());
        if let Some(hash) = hash.filter(|_| self.regs.has(regs::RXCSUM, regs::RXCSUM_PCSD)) {
            (back.rss_type, back.rss_hash) = (hash.kind, hash.value);
        }
        if strip {
            back.vlan_stripped = Some(u16::from_be_bytes([frame[14], frame[15]]));
            let untagged = [&frame[..12], &frame[16..]].concat();
            self.fill_buffers(q, size, &untagged, back);
        } else {
            self.fill_buffers(q, size, frame, back);
        }
        Delivery::Done
    }

    /// Whether the queue has descriptors for `len` bytes; `None` when it takes no frames at all.
    fn room(&mut self, q: usize, page: u32, srrctl: u32, size: usize, len: usize) -> Option<bool> {
        let rxdctl = self.pages.get(page + regs::rx::RXDCTL);
        let limited = self.part.is_copper() && rxdctl & regs::RXDCTL_RLPML_EN != 0;
        let too_long = limited && len > (rxdctl & regs::RXDCTL_RLPML) as usize;
        if self.rx[q].state != State::On || too_long {
            return None;
        }
        let tail = self.pages.get(page + regs::rx::RDT);
        let problem = match srrctl >> 25 & 7 {
            _ if tail >= self.rx[q].ring.count => Some("RDT points beyond the ring"),
            1 if (1..=16 * 1024).contains(&size) => None,
            1 => Some("SRRCTL.BSIZEPKT is not within 1..16 KiB"),
            _ => Some("only one-buffer advanced descriptors (SRRCTL.DESCTYPE 1) are modelled"),
        };
        if let Some(problem) = problem {
            self.halt_rx(q, problem);
            return None;
        }
        if self.pages.get(page + regs::rx::DCA_RXCTRL) & regs::DCA_RXCTRL_RESERVED != 0 {
            self.complain("DCA_RXCTRL bit 12 is set while receiving: hardware would deliver garbage");
        }
        let strips = self.regs.has(regs::HLREG0, regs::HLREG0_RXCRCSTRP);
        if strips != self.regs.has(regs::RDRXCTL, regs::RDRXCTL_CRCSTRIP) {
            self.complain("HLREG0.RXCRCSTRP and RDRXCTL.CRCSTRIP differ");
        }
        if self.pages.get(page + regs::rx::RSCCTL) & 1 != 0 {
            self.complain("RSC is not modelled: frames are not coalesced");
        }
        let queue = &self.rx[q];
        let free = (tail + queue.ring.count - queue.head) % queue.ring.count;
        Some(len.div_ceil(size) <= free as usize)
    }

    /// Writes the frame into as many buffers as it takes; each write-back is one 64-bit store with DD, after all else.
    fn fill_buffers(&mut self, q: usize, size: usize, frame: &[u8], last: RxWriteBack) {
        let mut pieces = frame.chunks(size).peekable();
        while let Some(piece) = pieces.next() {
            let middle = RxWriteBack { len: piece.len() as u16, ..RxWriteBack::default() };
            let end = RxWriteBack { len: piece.len() as u16, end: true, ..last };
            let back = if pieces.peek().is_some() { middle } else { end };
            if let Err(problem) = self.fill_buffer(q, piece, back) {
                return self.halt_rx(q, problem);
            }
        }
        let queue = &mut self.rx[q];
        let shown = std::mem::replace(&mut queue.shown, queue.head);
        self.pages.replace(regs::RX_PAGE + 0x40 * q as u32 + regs::rx::RDH, shown, queue.head);
        self.bus.counters.frames_received += 1;
        self.count_rx_queue(q, frame.len());
        self.queue_event(false, q);
    }

    fn fill_buffer(&mut self, q: usize, piece: &[u8], back: RxWriteBack) -> Result<(), &'static str> {
        let queue = &mut self.rx[q];
        let address = queue.ring.descriptor(queue.head);
        let mut bytes = [0; 16];
        self.bus.read(address, &mut bytes).map_err(|_| "bus fault while fetching a descriptor")?;
        // The second word is the header buffer's address, which one-buffer descriptors do not have: Linux leaves there what
        // the device wrote back before, its done bit among it.
        let [buffer, _] = desc_words(&bytes);
        self.bus.write(buffer, piece).map_err(|_| "bus fault while writing a frame")?;
        let [low, high] = back.encode();
        self.bus.store_u64(address, low).map_err(|_| "bus fault while writing a descriptor back")?;
        self.bus.store_u64(address + 8, high).map_err(|_| "bus fault while writing a descriptor back")?;
        queue.head = queue.ring.after(queue.head);
        Ok(())
    }

    /// A queue that met something it cannot do takes no more frames until it is disabled.
    pub(super) fn halt_rx(&mut self, q: usize, reason: &'static str) {
        self.rx[q].state = State::Halted;
        self.block_malicious(regs::WQBR_RX, q);
        self.note_halt(format!("RX queue {q}: {reason}"), reason);
    }
}

/// Protocols and checksums, as the write-back tells them.
fn verdict(frame: &[u8], parsed: Option<&Headers>) -> RxWriteBack {
    let Some(headers) = parsed else { return RxWriteBack::default() };
    let mut packet_type = match headers.network {
        Network::V4 { options: false } => 1 << 0,
        Network::V4 { options: true } => 1 << 0 | 1 << 1,
        Network::V6 { extensions: false } => 1 << 2,
        Network::V6 { extensions: true } => 1 << 2 | 1 << 3,
    };
    let transport = headers.transport.as_ref().map(|(kind, _)| *kind);
    packet_type |= match transport {
        Some(Transport::Tcp) => 1 << 4,
        Some(Transport::Udp) => 1 << 5,
        Some(Transport::Sctp) => 1 << 6,
        None => 0,
    };
    let l4 = told(headers.check_transport(frame));
    RxWriteBack {
        packet_type,
        ip: told(headers.check_ip(frame)),
        l4,
        udp: transport == Some(Transport::Udp) && l4.is_some(),
        ..RxWriteBack::default()
    }
}

fn told(verdict: Verdict) -> Option<bool> {
    match verdict {
        Verdict::Absent => None,
        Verdict::Good => Some(true),
        Verdict::Bad => Some(false),
    }
}
