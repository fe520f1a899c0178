//! The two wires of an SFP+ module's EEPROM, which a driver moves by hand in I2CCTL.
//!
//! The model sees levels and has no clock: a bit is taken at SCL's rise, the module's own bit is put out at its fall, and
//! SDA that moves while SCL is high begins or ends a transfer (I2C specification, 3.1).

use super::sfp::Module;

/// I2CCTL's bits: what the lines are at, and what the driver pulls them to.
pub const CLOCK_IN: u32 = 1 << 0;
pub const CLOCK_OUT: u32 = 1 << 1;
pub const DATA_IN: u32 = 1 << 2;
pub const DATA_OUT: u32 = 1 << 3;
/// Both lines let go.
pub const IDLE: u32 = CLOCK_OUT | DATA_OUT;

/// The module's address on the bus, shifted to make room for the direction.
const ADDRESS: u8 = 0xA0;

/// Where a transfer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    /// Nobody was addressed, or somebody else.
    #[default]
    Idle,
    /// A byte comes in: the address, the offset, or a byte to be written.
    Address,
    Offset,
    Written,
    /// A byte goes out.
    Out,
}

/// The module's side of the bus.
#[derive(Default)]
pub struct I2c {
    driven: u32,
    phase: Phase,
    /// Bits of the byte so far; the ninth is the acknowledgement.
    bits: u8,
    byte: u8,
    /// Which byte of the EEPROM is next.
    offset: u8,
    /// The module holds SDA down.
    low: bool,
    /// After the acknowledgement, the next phase.
    next: Phase,
}

impl I2c {
    /// The lines at rest.
    pub fn new() -> Self {
        Self { driven: IDLE, ..Self::default() }
    }

    /// What I2CCTL reads.
    pub fn lines(&self) -> u32 {
        let data = if self.driven & DATA_OUT != 0 && !self.low { DATA_IN } else { 0 };
        let clock = if self.driven & CLOCK_OUT != 0 { CLOCK_IN } else { 0 };
        self.driven | data | clock
    }

    /// The driver moves the lines.
    pub fn drive(&mut self, value: u32, module: Module) {
        let (before, now) = (self.driven, value & IDLE);
        self.driven = now;
        let high = before & CLOCK_OUT != 0 && now & CLOCK_OUT != 0;
        match (before & DATA_OUT != 0, now & DATA_OUT != 0) {
            (true, false) if high => self.start(module),
            (false, true) if high => self.stop(),
            _ => {}
        }
        match (before & CLOCK_OUT != 0, now & CLOCK_OUT != 0) {
            (false, true) => self.rise(now & DATA_OUT != 0),
            (true, false) => self.fall(module),
            _ => {}
        }
    }

    fn start(&mut self, module: Module) {
        self.phase = if module == Module::None { Phase::Idle } else { Phase::Address };
        (self.bits, self.byte, self.low) = (0, 0, false);
    }

    fn stop(&mut self) {
        (self.phase, self.low) = (Phase::Idle, false);
    }

    fn rise(&mut self, data: bool) {
        match (self.phase, self.bits) {
            (Phase::Idle, _) => {}
            // The driver acknowledges a byte that it wants to follow.
            (Phase::Out, 8) => self.next = if data { Phase::Idle } else { Phase::Out },
            (Phase::Out, _) | (_, 8) => {}
            _ => self.byte = self.byte << 1 | u8::from(data),
        }
        self.bits += 1;
    }

    fn fall(&mut self, module: Module) {
        match (self.phase, self.bits) {
            (Phase::Idle, _) => self.bits = 0,
            // The condition that began the transfer.
            (Phase::Address | Phase::Offset | Phase::Written, 0) => {}
            (Phase::Address | Phase::Offset | Phase::Written, 8) => self.take(),
            (Phase::Out, 8) => self.low = false,
            (_, 9) => self.turn(module),
            (Phase::Out, bits) => self.low = self.byte >> (7 - bits) & 1 == 0,
            _ => {}
        }
    }

    /// A whole byte came: it is acknowledged, unless it addresses somebody else.
    fn take(&mut self) {
        self.next = match self.phase {
            Phase::Address if self.byte & !1 != ADDRESS => Phase::Idle,
            Phase::Address if self.byte & 1 == 1 => Phase::Out,
            Phase::Address => Phase::Offset,
            Phase::Offset => {
                self.offset = self.byte;
                Phase::Written
            }
            phase => phase,
        };
        self.low = self.next != Phase::Idle;
    }

    /// The acknowledgement is over.
    fn turn(&mut self, module: Module) {
        (self.phase, self.bits, self.low) = (self.next, 0, false);
        self.byte = 0;
        if self.phase == Phase::Out {
            self.byte = module.byte(self.offset);
            self.offset = self.offset.wrapping_add(1);
            self.low = self.byte >> 7 == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A driver that moves the lines.
    struct Driver(I2c, Module);

    impl Driver {
        fn lines(&mut self, clock: bool, data: bool) {
            let value = if clock { CLOCK_OUT } else { 0 } | if data { DATA_OUT } else { 0 };
            self.0.drive(value, self.1);
        }

        fn start(&mut self) {
            [(false, true), (true, true), (true, false), (false, false)]
                .into_iter()
                .for_each(|(c, d)| self.lines(c, d));
        }

        fn stop(&mut self) {
            [(false, false), (true, false), (true, true)].into_iter().for_each(|(c, d)| self.lines(c, d));
        }

        fn bit(&mut self, data: bool) -> bool {
            self.lines(false, data);
            self.lines(true, data);
            let seen = self.0.lines() & DATA_IN != 0;
            self.lines(false, data);
            seen
        }

        /// Whether it was acknowledged.
        fn put(&mut self, byte: u8) -> bool {
            (0..8).rev().for_each(|i| _ = self.bit(byte >> i & 1 == 1));
            !self.bit(true)
        }

        fn get(&mut self, more: bool) -> u8 {
            let byte = (0..8).fold(0, |byte, _| byte << 1 | u8::from(self.bit(true)));
            self.bit(!more);
            byte
        }

        fn read(&mut self, offset: u8, count: usize) -> Option<Vec<u8>> {
            self.start();
            let found = self.put(0xa0) && self.put(offset);
            self.start();
            if !found || !self.put(0xa1) {
                self.stop();
                return None;
            }
            let bytes = (0..count).map(|i| self.get(i + 1 < count)).collect();
            self.stop();
            Some(bytes)
        }
    }

    #[test]
    fn bytes_are_read_one_by_one_and_in_a_row() {
        for module in [Module::Sr, Module::Da] {
            let mut driver = Driver(I2c::new(), module);
            for offset in 0..=255 {
                assert_eq!(driver.read(offset, 1), Some(vec![module.byte(offset)]), "{module:?} {offset}");
            }
            let all: Vec<u8> = (0..=255).map(|offset| module.byte(offset)).collect();
            assert_eq!(driver.read(0, 256), Some(all));
        }
    }

    #[test]
    fn an_empty_cage_and_another_address_are_not_acknowledged() {
        assert_eq!(Driver(I2c::new(), Module::None).read(0, 1), None);
        let mut driver = Driver(I2c::new(), Module::Sr);
        driver.start();
        assert!(!driver.put(0xa2));
        driver.stop();
        // The bus is free for the next one.
        assert_eq!(driver.read(0, 1), Some(vec![3]));
    }

    #[test]
    fn a_transfer_that_was_broken_off_harms_nobody() {
        let mut driver = Driver(I2c::new(), Module::Sr);
        for bits in 0..20 {
            driver.start();
            (0..bits).for_each(|i| _ = driver.bit(i % 2 == 0));
            assert_eq!(driver.read(3, 1), Some(vec![0x10]), "after {bits} bits");
        }
    }
}
