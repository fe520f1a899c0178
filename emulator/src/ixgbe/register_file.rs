//! The values of the registers.

use super::regs::{SPACE, TABLE};

/// The values of all registers outside of the queue pages.
pub struct Registers {
    values: Vec<u32>,
}

impl Registers {
    /// All at their reset values.
    pub fn new() -> Self {
        let mut registers = Self { values: vec![0; SPACE as usize / 4] };
        registers.reset();
        registers
    }

    /// Back to the reset values.
    pub fn reset(&mut self) {
        self.values.fill(0);
        for register in TABLE.iter().filter(|register| register.reset != 0) {
            for i in 0..register.count {
                self.set(register.offset + i * register.stride, register.reset);
            }
        }
    }

    /// The value; 0 beyond the space.
    pub fn get(&self, offset: u32) -> u32 {
        self.values.get(offset as usize / 4).copied().unwrap_or(0)
    }

    /// Whether all of `bits` are set.
    pub fn has(&self, offset: u32, bits: u32) -> bool {
        self.get(offset) & bits == bits
    }

    /// Changes the value; nothing happens beyond the space.
    pub fn set(&mut self, offset: u32, value: u32) {
        if let Some(word) = self.values.get_mut(offset as usize / 4) {
            *word = value;
        }
    }

    /// Takes the value and leaves 0: a counter that is read.
    pub fn take(&mut self, offset: u32) -> u32 {
        self.values.get_mut(offset as usize / 4).map_or(0, std::mem::take)
    }

    /// Counts up; saturates.
    pub fn add(&mut self, offset: u32, count: u32) {
        self.set(offset, self.get(offset).saturating_add(count));
    }

    /// Counts up a pair of registers, low word first; saturates.
    pub fn add_u64(&mut self, offset: u32, count: u64) {
        let value = u64::from(self.get(offset + 4)) << 32 | u64::from(self.get(offset));
        let value = value.saturating_add(count);
        self.set(offset, value as u32);
        self.set(offset + 4, (value >> 32) as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::super::regs::{GORC, GPRC};
    use super::*;

    #[test]
    fn counters_carry_and_saturate() {
        let mut registers = Registers::new();
        registers.add_u64(GORC, 0xffff_ffff);
        registers.add_u64(GORC, 2);
        assert_eq!((registers.take(GORC), registers.take(GORC + 4)), (1, 1));
        registers.set(GPRC, u32::MAX);
        registers.add(GPRC, 1);
        assert_eq!(registers.take(GPRC), u32::MAX);
        assert_eq!(registers.get(GPRC), 0);
    }
}
