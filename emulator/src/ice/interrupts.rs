//! Causes, vectors and when descriptors are written back; throttling is not modelled, for the model has no clock of its own.
//!
//! A vector fires once and masks itself (INTENA). What comes while it is masked fires when it is unmasked. CLEARPBA takes
//! back a message that was not sent yet; a cause stays, or a driver that looked at its ring before it unmasked would sleep.
//!
//! **Write-back.** Done descriptors are written by the cache line. A line that is not full waits for its queue's vector: it
//! is written when the vector is about to fire, and at once while the vector may not fire but has WB_ON_ITR.

use super::{Model, VECTORS, regs};

impl Model {
    /// Whether a queue whose interrupt control is `control` has its lines written before they are full; `None` when it has
    /// no vector.
    pub(super) fn writes_back(&self, control: u32) -> Option<bool> {
        let vector = control & regs::INT_CTL_VECTOR;
        if control & regs::INT_CTL_CAUSE_ENA == 0 || vector >= u32::from(VECTORS) {
            return None;
        }
        let dynamic = self.regs.get(regs::GLINT_DYN_CTL + 4 * vector);
        Some(dynamic & (regs::DYN_CTL_INTENA | regs::DYN_CTL_WB_ON_ITR) != 0)
    }

    /// A cause is set; if its control register names a vector, that fires.
    pub(super) fn cause(&mut self, control: u32) {
        if control & regs::INT_CTL_CAUSE_ENA != 0 {
            self.fire(control & regs::INT_CTL_VECTOR);
        }
    }

    fn fire(&mut self, vector: u32) {
        if vector >= u32::from(VECTORS) {
            return self.complain("a cause was given to a vector that there is not");
        }
        let register = regs::GLINT_DYN_CTL + 4 * vector;
        let dynamic = self.regs.get(register);
        if dynamic & regs::DYN_CTL_INTENA == 0 {
            self.waiting_vectors |= 1 << vector;
            return;
        }
        self.waiting_vectors &= !(1 << vector);
        self.regs.set(register, dynamic & !regs::DYN_CTL_INTENA);
        self.bus.counters.interrupts += 1;
        self.interrupts.raise(vector as u16);
    }

    /// Firmware put something into the admin receive queue.
    pub(super) fn firmware_event(&mut self) {
        let control = self.regs.get(regs::PFINT_FW_CTL);
        self.regs.set(regs::PFINT_FW_CTL, control | regs::INT_CTL_INTEVENT);
        self.regs.set(regs::PFINT_OICR, self.regs.get(regs::PFINT_OICR) | regs::OICR_INTEVENT);
        self.cause(control);
    }

    /// Causes that are no queue's.
    pub(super) fn other_cause(&mut self, causes: u32) {
        let all = self.regs.get(regs::PFINT_OICR) | causes | regs::OICR_INTEVENT;
        self.regs.set(regs::PFINT_OICR, all);
        if causes & self.regs.get(regs::PFINT_OICR_ENA) != 0 {
            self.cause(self.regs.get(regs::PFINT_OICR_CTL));
        }
    }

    /// Writes to the interrupt registers; false when `offset` is none of those with side effects.
    pub(super) fn write_interrupt(&mut self, offset: u32, value: u32) -> bool {
        match offset {
            regs::PFINT_OICR => self.other_cause(value),
            regs::PFINT_OICR_ENA => {
                let before = self.regs.get(offset);
                self.regs.set(offset, value);
                let waiting = self.regs.get(regs::PFINT_OICR) & value & !before;
                if waiting != 0 {
                    self.other_cause(waiting);
                }
            }
            _ => match regs::index(offset, regs::GLINT_DYN_CTL) {
                Some(vector) => self.write_dynamic(vector as u32, value),
                None => return false,
            },
        }
        true
    }

    fn write_dynamic(&mut self, vector: u32, value: u32) {
        let register = regs::GLINT_DYN_CTL + 4 * vector;
        let before = self.regs.get(register);
        let once = regs::DYN_CTL_CLEARPBA | regs::DYN_CTL_SWINT_TRIG | regs::DYN_CTL_INTENA_MSK;
        let enable = if value & regs::DYN_CTL_INTENA_MSK != 0 { before } else { value } & regs::DYN_CTL_INTENA;
        self.regs.set(register, value & !once & !regs::DYN_CTL_INTENA | enable);
        if vector >= u32::from(VECTORS) {
            return;
        }
        let waiting = self.waiting_vectors >> vector & 1 == 1 && enable != 0;
        if waiting || value & regs::DYN_CTL_SWINT_TRIG != 0 {
            self.fire(vector);
        }
    }
}
