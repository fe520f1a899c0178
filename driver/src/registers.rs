//! Named registers, and waiting for them with a deadline.

use std::time::Duration;

use stillwire_dma::RegisterSpace;

use crate::{Error, Result};

/// How a register may be accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Read only.
    Ro,
    /// Read and write.
    Rw,
    /// Write only.
    Wo,
    /// Cleared by reading.
    Rc,
}

/// One register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reg {
    pub name: &'static str,
    pub offset: u32,
    pub mode: Mode,
}

/// `count` registers, `stride` bytes apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegArray {
    pub name: &'static str,
    pub first: u32,
    pub stride: u32,
    pub count: u32,
    pub mode: Mode,
}

impl RegArray {
    /// Register `index` of the array.
    pub(crate) fn at(self, index: u32) -> Reg {
        assert!(index < self.count, "{}[{index}] of {}", self.name, self.count);
        Reg { name: self.name, offset: self.first + self.stride * index, mode: self.mode }
    }
}

/// Makes one constant a line: `NAME offset mode "meaning";` or `NAME[count, stride] offset mode "meaning";`
macro_rules! registers {
    () => {};
    ($name:ident $offset:literal $mode:ident $meaning:literal; $($rest:tt)*) => {
        #[doc = $meaning]
        pub(crate) const $name: $crate::registers::Reg = $crate::registers::Reg {
            name: stringify!($name), offset: $offset, mode: $crate::registers::Mode::$mode,
        };
        $crate::registers::registers! { $($rest)* }
    };
    ($name:ident[$count:literal, $stride:literal] $offset:literal $mode:ident $meaning:literal; $($rest:tt)*) => {
        #[doc = $meaning]
        pub(crate) const $name: $crate::registers::RegArray = $crate::registers::RegArray {
            name: stringify!($name), first: $offset, stride: $stride, count: $count,
            mode: $crate::registers::Mode::$mode,
        };
        $crate::registers::registers! { $($rest)* }
    };
}
pub(crate) use registers;

/// A device's registers by name.
#[derive(Clone)]
pub(crate) struct Registers {
    space: RegisterSpace,
    /// A register that never reads as all ones while the device is there.
    witness: Reg,
    device: String,
}

impl Registers {
    pub(crate) fn new(space: RegisterSpace, witness: Reg, device: String) -> Self {
        Self { space, witness, device }
    }

    pub(crate) fn space(&self) -> &RegisterSpace {
        &self.space
    }

    /// The device's time, from any moment that does not change.
    pub(crate) fn now(&self) -> Duration {
        self.space.now()
    }

    /// Lets time pass for the device.
    pub(crate) fn sleep(&self, time: Duration) {
        self.space.sleep(time);
    }

    pub(crate) fn read(&self, register: Reg) -> u32 {
        debug_assert!(register.mode != Mode::Wo, "{} is write only", register.name);
        match register.mode {
            Mode::Rc => self.space.read_by_message(register.offset),
            Mode::Ro | Mode::Rw | Mode::Wo => self.space.read(register.offset),
        }
    }

    pub(crate) fn write(&self, register: Reg, value: u32) {
        debug_assert!(matches!(register.mode, Mode::Rw | Mode::Wo), "{} is read only", register.name);
        self.space.write(register.offset, value);
    }

    pub(crate) fn set(&self, register: Reg, bits: u32) {
        self.write(register, self.read(register) | bits);
    }

    pub(crate) fn clear(&self, register: Reg, bits: u32) {
        self.write(register, self.read(register) & !bits);
    }

    /// Pushes posted writes out to the device.
    pub(crate) fn flush(&self) {
        let _ = self.read(self.witness);
    }

    /// Errors when the device no longer answers.
    pub(crate) fn alive(&self) -> Result<()> {
        if self.read(self.witness) == u32::MAX { Err(Error::Gone { name: self.device.clone() }) } else { Ok(()) }
    }

    /// Reads until the bits under `mask` are `wanted`, at most for `deadline`.
    pub(crate) fn wait(&self, register: Reg, mask: u32, wanted: u32, deadline: Duration) -> Result<()> {
        let start = self.now();
        loop {
            let found = self.read(register);
            // All ones would satisfy any wait for set bits; it is also what a missing device answers.
            if found == u32::MAX {
                self.alive()?;
            }
            if found & mask == wanted {
                return Ok(());
            }
            let waited = self.now().saturating_sub(start);
            if waited >= deadline {
                let (name, offset) = (register.name, register.offset);
                return Err(Error::Timeout { register: name, offset, found, mask, wanted, waited });
            }
            self.sleep(POLL);
        }
    }
}

/// Between two looks at a register, outside of the data path.
const POLL: Duration = Duration::from_micros(100);
