//! The values of the registers: a sparse space, of which a driver reaches a few hundred.

use std::collections::HashMap;

use super::regs::{self, Mode};

/// The values of all registers that are neither counters nor tails.
#[derive(Default)]
pub struct Registers {
    values: HashMap<u32, u32>,
}

impl Registers {
    /// Back to the reset values; QRXFLXP_CNTXT keeps what it holds.
    pub fn reset(&mut self) {
        self.values.retain(|offset, _| *offset >= regs::QRXFLXP_CNTXT);
    }

    /// The value; 0 where there is no register.
    pub fn get(&self, offset: u32) -> u32 {
        match self.values.get(&offset) {
            Some(value) => *value,
            None => regs::lookup(offset).map_or(0, |register| register.reset),
        }
    }

    /// Changes the value; nothing happens where there is no register.
    pub fn set(&mut self, offset: u32, value: u32) {
        if regs::lookup(offset).is_some_and(|register| !matches!(register.mode, Mode::Bell | Mode::Count)) {
            self.values.insert(offset, value);
        }
    }

    /// Takes the value and leaves 0.
    pub fn take(&mut self, offset: u32) -> u32 {
        let value = self.get(offset);
        self.set(offset, 0);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_keeps_the_choice_of_descriptors_only() {
        let mut registers = Registers::default();
        registers.set(regs::PFGEN_CTRL, 1);
        registers.set(regs::QRXFLXP_CNTXT + 8, 2);
        registers.set(4, 7);
        assert_eq!(
            (registers.get(regs::PFGEN_CTRL), registers.get(regs::QRXFLXP_CNTXT + 8), registers.get(4)),
            (1, 2, 0)
        );
        registers.reset();
        assert_eq!((registers.get(regs::PFGEN_CTRL), registers.get(regs::QRXFLXP_CNTXT + 8)), (0, 2));
        assert_eq!(registers.take(regs::GLNVM_ULD), regs::GLNVM_ULD_DONE);
        assert_eq!(registers.get(regs::GLNVM_ULD), 0);
    }
}
