//! Interrupt causes, masks and vectors; throttling (EITR) is not modelled, for the model has no clock of its own.

use super::{Model, Part, regs};

/// EICR's mailbox, which also tells of blocked queues.
const MAILBOX: u32 = 1 << 19;
/// EICR's link status change.
const LSC: u32 = 1 << 20;
/// Causes that are no queue's.
const OTHER: u32 = 0x7fff_0000;

impl Model {
    /// Something was completed on a queue: its vector fires if IVAR names one.
    pub(super) fn queue_event(&mut self, tx: bool, q: usize) {
        let ivar = self.regs.get(regs::IVAR + 4 * (q as u32 / 2));
        let entry = ivar >> (16 * (q as u32 % 2) + if tx { 8 } else { 0 });
        if entry & 0x80 != 0 {
            self.fire(entry & 0x3f);
        }
    }

    /// The link went up or down.
    pub(super) fn link_event(&mut self) {
        self.other_event(LSC);
    }

    /// With malicious driver detection on, an X550 names the queue that it blocked, and tells it as it tells of mail.
    pub(super) fn block_malicious(&mut self, blocked: u32, q: usize) {
        let (control, enabled, tell) = match blocked {
            regs::WQBR_TX => (regs::DMATXCTL, regs::DMATXCTL_MDP_EN, regs::DMATXCTL_MBINTEN),
            _ => (regs::RDRXCTL, regs::RDRXCTL_MDP_EN, regs::RDRXCTL_MBINTEN),
        };
        if self.part != Part::X550 || !self.regs.has(control, enabled) {
            return;
        }
        let word = blocked + 4 * (q as u32 / 32);
        self.regs.set(word, self.regs.get(word) | 1 << (q % 32));
        if self.regs.has(control, tell) {
            self.other_event(MAILBOX);
        }
    }

    fn other_event(&mut self, causes: u32) {
        self.regs.set(regs::EICR, self.regs.get(regs::EICR) | causes);
        let entry = self.regs.get(regs::IVAR_MISC) >> 8;
        if causes & self.regs.get(regs::EIMS) & OTHER != 0 && entry & 0x80 != 0 {
            self.raise((entry & 0x3f) as u16);
        }
    }

    /// A queue vector's cause is set; if its mask allows, the message goes out, and the automatic bits follow.
    fn fire(&mut self, vector: u32) {
        let (word, bit) = (vector / 32, 1 << (vector % 32));
        if vector < 16 {
            self.regs.set(regs::EICR, self.regs.get(regs::EICR) | bit);
        }
        if self.regs.get(regs::EIMS_EX + 4 * word) & bit == 0 {
            self.waiting_vectors |= 1 << vector;
            return;
        }
        self.waiting_vectors &= !(1 << vector);
        self.raise(vector as u16);
        let automask =
            self.regs.get(0x0_0AD0 + 4 * word) | if word == 0 { self.regs.get(regs::EIAM) & 0xffff } else { 0 };
        if self.regs.has(regs::GPIE, regs::GPIE_EIAME) && automask & bit != 0 {
            self.set_mask(word, self.regs.get(regs::EIMS_EX + 4 * word) & !bit);
        }
        if vector < 16 && self.regs.get(regs::EIAC) & bit != 0 {
            self.regs.set(regs::EICR, self.regs.get(regs::EICR) & !bit);
        }
    }

    fn raise(&mut self, vector: u16) {
        self.bus.counters.interrupts += 1;
        self.interrupts.raise(vector);
    }

    /// EIMS' low half and EIMS_EX(0)'s are the same bits. A vector whose cause came while it was masked fires now: a
    /// driver that looked at its ring before it unmasked would sleep over that frame.
    fn set_mask(&mut self, word: u32, mask: u32) {
        let unmasked = mask & !self.regs.get(regs::EIMS_EX + 4 * word);
        self.regs.set(regs::EIMS_EX + 4 * word, mask);
        if word == 0 {
            self.regs.set(regs::EIMS, self.regs.get(regs::EIMS) & !0xffff | mask & 0xffff);
        }
        let waiting = (self.waiting_vectors >> (32 * word)) as u32 & unmasked;
        (0..32).filter(|bit| waiting >> bit & 1 == 1).for_each(|bit| self.fire(32 * word + bit));
    }

    /// Causes that are taken out of EICR are served: their vectors need not fire any more.
    pub(super) fn forget_causes(&mut self, causes: u32) {
        self.waiting_vectors &= !u64::from(causes & 0xffff);
    }

    /// Writes to the interrupt registers; false when `offset` is none of those with side effects.
    pub(super) fn write_interrupt(&mut self, offset: u32, value: u32) -> bool {
        match offset {
            regs::EICR => {
                self.regs.set(regs::EICR, self.regs.get(regs::EICR) & !value);
                self.forget_causes(value);
            }
            regs::EICS => {
                (0..16).filter(|bit| value >> bit & 1 == 1).for_each(|bit| self.fire(bit));
                if value & OTHER != 0 {
                    self.other_event(value & OTHER);
                }
            }
            regs::EIMS | regs::EIMC => {
                let set = |old: u32| if offset == regs::EIMS { old | value } else { old & !value };
                let before = self.regs.get(regs::EIMS);
                let (mask, queues) = (set(before), set(self.regs.get(regs::EIMS_EX)));
                self.regs.set(regs::EIMS, mask);
                let high = self.regs.get(regs::EIMS_EX) & !0xffff;
                self.set_mask(0, high | queues & 0xffff);
                let waiting = self.regs.get(regs::EICR) & mask & !before & OTHER;
                if waiting != 0 {
                    self.other_event(waiting);
                }
            }
            0x0A90 | 0x0A94 => {
                let first = (offset - regs::EICS_EX) / 4 * 32;
                (0..32).filter(|bit| value >> bit & 1 == 1).for_each(|bit| self.fire(first + bit));
            }
            0x0AA0 | 0x0AA4 => {
                let word = (offset - regs::EIMS_EX) / 4;
                self.set_mask(word, self.regs.get(offset) | value);
            }
            0x0AB0 | 0x0AB4 => {
                let word = (offset - regs::EIMC_EX) / 4;
                self.set_mask(word, self.regs.get(regs::EIMS_EX + 4 * word) & !value);
            }
            _ => return false,
        }
        true
    }
}
