//! A queue: its registers, its ring, and what the device has taken out of it.

use std::collections::VecDeque;

use super::config::Features;
use super::packed::Packed;
use super::split::Split;
use super::tx::InFlight;
use crate::memory::RingMemory;

/// No vector.
pub const NO_VECTOR: u16 = 0xffff;

/// Why a ring cannot be used any further.
pub type Problem = &'static str;

/// Buffers that a driver made available as one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chain {
    /// Index of its first descriptor (split), or the driver's own number (packed).
    pub id: u16,
    /// Descriptors that it takes in a packed ring.
    pub slots: u16,
    /// Address and length of what the device may read.
    pub readable: Vec<(u64, usize)>,
    /// Address and length of what the device may write; it comes after.
    pub writable: Vec<(u64, usize)>,
}

impl Chain {
    /// Adds a descriptor.
    pub fn push(&mut self, address: u64, len: u32, write: bool) -> Result<(), Problem> {
        let list = match write {
            true => &mut self.writable,
            false if !self.writable.is_empty() => return Err("a readable descriptor after a writable one"),
            false => &mut self.readable,
        };
        list.push((address, len as usize));
        Ok(())
    }

    /// Bytes that fit.
    pub fn capacity(&self) -> usize {
        self.writable.iter().map(|(_, len)| len).sum()
    }

    /// Given back with `len` bytes written.
    pub fn used(&self, len: usize) -> Used {
        Used { id: self.id, slots: self.slots, len: len as u32, capacity: self.capacity() as u32 }
    }
}

/// A chain that goes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Used {
    /// Of the chain.
    pub id: u16,
    /// Of the chain.
    pub slots: u16,
    /// Bytes written.
    pub len: u32,
    /// Bytes that could have been written.
    pub capacity: u32,
}

/// What a driver says of a queue before it enables it.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Descriptors.
    pub size: u16,
    /// Descriptor area.
    pub descriptors: u64,
    /// Driver area: available ring, or driver event suppression.
    pub driver: u64,
    /// Device area: used ring, or device event suppression.
    pub device: u64,
    /// What was negotiated.
    pub features: Features,
}

/// A ring of either layout.
pub enum Ring {
    /// Split.
    Split(Split),
    /// Packed.
    Packed(Packed),
}

impl Ring {
    /// A ring at its beginning.
    pub fn new(setup: &Setup) -> Result<Self, Problem> {
        Ok(match setup.features.contains(Features::RING_PACKED) {
            true => Self::Packed(Packed::new(setup)?),
            false => Self::Split(Split::new(setup)?),
        })
    }

    /// Takes the next chain that is available.
    pub fn pop(&mut self, memory: &RingMemory<'_>) -> Result<Option<Chain>, Problem> {
        match self {
            Self::Split(ring) => ring.pop(memory),
            Self::Packed(ring) => ring.pop(memory),
        }
    }

    /// Gives chains back; the driver sees all of them or none.
    pub fn push(&mut self, memory: &RingMemory<'_>, used: &[Used]) -> Result<(), Problem> {
        match self {
            Self::Split(ring) => ring.push(memory, used),
            Self::Packed(ring) => ring.push(memory, used),
        }
    }

    /// Gives chains back with one entry, which names the last (IN_ORDER).
    pub fn push_batch(&mut self, memory: &RingMemory<'_>, used: &[Used]) -> Result<(), Problem> {
        match self {
            Self::Split(ring) => ring.push_batch(memory, used),
            Self::Packed(ring) => ring.push_batch(memory, used),
        }
    }

    /// An entry as no honest device writes it.
    pub fn push_raw(&mut self, memory: &RingMemory<'_>, id: u16, len: u32) -> Result<(), Problem> {
        match self {
            Self::Split(ring) => ring.push_raw(memory, id, len),
            Self::Packed(ring) => ring.push_raw(memory, id, len),
        }
    }

    /// Moves on in the used ring by `count` entries that name nothing.
    pub fn jump(&mut self, memory: &RingMemory<'_>, count: u16) -> Result<(), Problem> {
        match self {
            Self::Split(ring) => ring.jump(memory, count),
            Self::Packed(ring) => (0..count).try_for_each(|_| ring.push_raw(memory, 0, 0)),
        }
    }

    /// Whether the driver wants to be told of what was given back since it was asked last.
    pub fn wants_interrupt(&mut self, memory: &RingMemory<'_>) -> Result<bool, Problem> {
        match self {
            Self::Split(ring) => ring.wants_interrupt(memory),
            Self::Packed(ring) => ring.wants_interrupt(memory),
        }
    }

    /// Asks the driver to ring the bell; true when something came meanwhile, for which it may not have rung.
    pub fn arm(&mut self, memory: &RingMemory<'_>) -> Result<bool, Problem> {
        match self {
            Self::Split(ring) => ring.arm(memory),
            Self::Packed(ring) => ring.arm(memory),
        }
    }

    /// Tells the driver that it need not ring the bell.
    pub fn disarm(&mut self, memory: &RingMemory<'_>) -> Result<(), Problem> {
        match self {
            Self::Split(ring) => ring.disarm(memory),
            Self::Packed(ring) => ring.disarm(memory),
        }
    }

    /// Descriptors.
    pub fn size(&self) -> u16 {
        match self {
            Self::Split(ring) => ring.size(),
            Self::Packed(ring) => ring.size(),
        }
    }
}

/// A queue.
pub struct VirtQueue {
    /// Descriptors, as the driver chose.
    pub size: u16,
    /// MSI-X vector.
    pub vector: u16,
    /// Descriptor area.
    pub descriptors: u64,
    /// Driver area.
    pub driver: u64,
    /// Device area.
    pub device: u64,
    /// Where there is one, the queue is enabled.
    pub ring: Option<Ring>,
    /// The bell rang, and the ring was not found empty since.
    pub kicked: bool,
    /// Transmit: frames between their passes.
    pub in_flight: VecDeque<InFlight>,
    /// Receive: chains that wait for a frame.
    pub held: VecDeque<Chain>,
    /// Receive: frames that wait for chains.
    pub backlog: VecDeque<Vec<u8>>,
}

impl VirtQueue {
    /// A queue after a reset.
    pub fn new(size: u16) -> Self {
        Self {
            size,
            vector: NO_VECTOR,
            descriptors: 0,
            driver: 0,
            device: 0,
            ring: None,
            kicked: false,
            in_flight: VecDeque::new(),
            held: VecDeque::new(),
            backlog: VecDeque::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::MemoryTable;

    /// What is made available between the last look and the wish for the bell must not be slept over.
    #[test]
    fn asking_for_the_bell_finds_what_came_meanwhile() {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 0x4000).unwrap();
        for (features, at, value) in [
            (Features::empty(), 0x2000, 1u32 << 16),
            (Features::EVENT_IDX, 0x2000, 1 << 16),
            (Features::RING_PACKED, 0x100c, 1 << 23),
            (Features::RING_PACKED | Features::EVENT_IDX, 0x100c, 1 << 23),
        ] {
            let table = MemoryTable::new();
            table.map(0x1000, fd.as_fd(), 0, 0x4000, true).unwrap();
            let memory = table.lock(true);
            memory.write_slice(&[0; 0x4000], GuestAddress(0x1000)).unwrap();
            let (driver, device) = (0x2000, 0x3000);
            let mut ring = Ring::new(&Setup { size: 4, descriptors: 0x1000, driver, device, features }).unwrap();
            assert_eq!(ring.pop(&memory), Ok(None));
            assert_eq!(ring.arm(&memory), Ok(false), "{features:?}");
            memory.store(value, GuestAddress(at), Ordering::Release).unwrap();
            assert_eq!(ring.arm(&memory), Ok(true), "{features:?}");
        }
    }

    #[test]
    fn a_packed_descriptor_that_is_used_is_not_available() {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 0x1000).unwrap();
        let table = MemoryTable::new();
        table.map(0x1000, fd.as_fd(), 0, 0x1000, true).unwrap();
        let memory = table.lock(true);
        let features = Features::RING_PACKED;
        let setup = Setup { size: 4, descriptors: 0x1000, driver: 0x1100, device: 0x1200, features };
        let mut ring = Ring::new(&setup).unwrap();
        for (marks, available) in [(1u16 << 7 | 1 << 15, false), (1 << 15, false), (0, false), (1 << 7, true)] {
            memory.store(marks, GuestAddress(0x100e), Ordering::Release).unwrap();
            assert_eq!(ring.pop(&memory).unwrap().is_some(), available, "{marks:#x}");
        }
    }
}
