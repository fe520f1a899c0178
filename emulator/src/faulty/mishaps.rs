//! What can go wrong, and who decides that it does.

use std::sync::{Arc, Mutex};

use super::locked;
use crate::memory::{DmaAccess, DmaFate};

/// An access of a driver that is about to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegisterAccess {
    /// The BAR; `None` for configuration space.
    pub bar: Option<u8>,
    /// Whether it is a write.
    pub write: bool,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RegisterFate {
    /// It happens.
    #[default]
    Pass,
    /// The device takes so many steps before it answers a read. A write waits so long on its way, and others behind it; a read
    /// pushes them.
    Late(u32),
    /// A write never arrives; a read gives ones.
    Lose,
    /// Each 32 bits that are read or written have these flipped.
    Garble(u32),
    /// The function is reset first, by somebody else.
    Reset,
    /// The card is out from now on: registers and configuration space read as ones, writes go nowhere, there is no DMA and no interrupt.
    Remove,
}

/// What becomes of an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum InterruptFate {
    /// It arrives.
    #[default]
    Pass,
    /// It never arrives.
    Lose,
    /// It arrives so many steps later.
    Late(u32),
    /// It arrives now, and once more so much later.
    Twice(u32),
}

/// What happens to the device by itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum StepFate {
    /// It works.
    #[default]
    Pass,
    /// It does nothing in this step.
    Skip,
    /// Function-level reset, by somebody else.
    Reset,
    /// The card is pulled ([`RegisterFate::Remove`]).
    Remove,
    /// One of the model's own faults ([`DeviceModel::set_fault`]); none if it has no such.
    Fault(&'static str),
}

/// Decides what goes wrong. Nothing does, unless a call says so. It is called before the thing happens, with the device locked: it
/// must not reach the device or change its mappings.
pub trait Mishaps: Send {
    /// The device is about to reach memory.
    fn dma(&mut self, access: DmaAccess) -> DmaFate {
        let _ = access;
        DmaFate::Pass
    }

    /// The driver is about to reach a register or configuration space.
    fn register(&mut self, access: RegisterAccess) -> RegisterFate {
        let _ = access;
        RegisterFate::Pass
    }

    /// The device is about to send a message.
    fn interrupt(&mut self, vector: u16) -> InterruptFate {
        let _ = vector;
        InterruptFate::Pass
    }

    /// The device is about to do something by itself.
    fn step(&mut self) -> StepFate {
        StepFate::Pass
    }
}

/// For who wants to look at it, or change it, between two calls.
impl<T: Mishaps> Mishaps for Arc<Mutex<T>> {
    fn dma(&mut self, access: DmaAccess) -> DmaFate {
        locked(self).dma(access)
    }

    fn register(&mut self, access: RegisterAccess) -> RegisterFate {
        locked(self).register(access)
    }

    fn interrupt(&mut self, vector: u16) -> InterruptFate {
        locked(self).interrupt(vector)
    }

    fn step(&mut self) -> StepFate {
        locked(self).step()
    }
}
