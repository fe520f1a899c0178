//! Somebody between a device and its memory, who sees each access before it happens and says what becomes of it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{MemoryTable, Table};
use crate::bus::{BusFault, BusMemory};

/// An access of a device that is about to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaAccess {
    /// Whether it is a write.
    pub write: bool,
    /// First byte.
    pub address: u64,
    /// Bytes.
    pub len: usize,
    /// Whether all of it is mapped, for writing if it is a write: else it faults, whatever is said here.
    pub mapped: bool,
}

/// What becomes of an access that is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DmaFate {
    /// It happens.
    #[default]
    Pass,
    /// It faults, as if it were not mapped.
    Refuse,
    /// A write is lost, and the device does not know; a read happens.
    Lose,
    /// A write happens so many steps later, and those after it no earlier; but all of them before the device's next read, and before
    /// the driver's next read of a register is answered: both push them (PCI Express 2.4). A read happens now.
    Late(u32),
    /// The same, but those after it do not wait, and the device's reads do not push it: as if the device had kept it for itself.
    Overtaken(u32),
    /// A write happens now, and once more so much later.
    Twice(u32),
    /// A write happens so many bytes further on, or back, if that is mapped; a read happens as it should.
    Astray(i64),
    /// Each 32 bits that are read or written, counted from the first byte, have these flipped.
    Garble(u32),
}

/// Who decides. It is called with the table locked: it must not map or unmap.
pub type Interposer = Box<dyn FnMut(DmaAccess) -> DmaFate + Send>;

/// An interposer, and the writes that have not happened yet.
pub(super) struct Between {
    decide: Mutex<Interposer>,
    late: Mutex<VecDeque<Late>>,
}

struct Late {
    /// Steps until it happens.
    steps: u32,
    /// It does not pass one before it that is in order as well.
    in_order: bool,
    address: u64,
    bytes: Bytes,
}

/// A write, as wide as the device made it.
#[derive(Clone)]
pub(super) enum Bytes {
    Word32(u32),
    Word64(u64),
    Any(Box<[u8]>),
}

impl Bytes {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Word32(_) => 4,
            Self::Word64(_) => 8,
            Self::Any(bytes) => bytes.len(),
        }
    }

    fn garble(&mut self, flip: u32) {
        match self {
            Self::Word32(word) => *word ^= flip,
            Self::Word64(word) => *word ^= u64::from(flip) << 32 | u64::from(flip),
            Self::Any(bytes) => garble(bytes, flip),
        }
    }

    fn put(&self, table: &Table, address: u64) -> Result<(), BusFault> {
        match self {
            Self::Word32(word) => table.store_u32(address, *word),
            Self::Word64(word) => table.store_u64(address, *word),
            Self::Any(bytes) => table.write(address, bytes),
        }
    }
}

/// Flips bits of each 32.
pub(crate) fn garble(bytes: &mut [u8], flip: u32) {
    bytes.iter_mut().zip(flip.to_le_bytes().iter().cycle()).for_each(|(byte, flip)| *byte ^= flip);
}

impl DmaFate {
    fn steps(self) -> u32 {
        match self {
            Self::Late(steps) | Self::Overtaken(steps) | Self::Twice(steps) => steps,
            _ => 0,
        }
    }
}

impl Between {
    pub(super) fn new(decide: Interposer) -> Self {
        Self { decide: Mutex::new(decide), late: Mutex::default() }
    }

    /// Asks what becomes of an access.
    ///
    /// # Errors
    /// The fault, when it is refused or not mapped.
    pub(super) fn ask(&self, table: &Table, fault: BusFault) -> Result<DmaFate, BusFault> {
        let BusFault { address, len, write } = fault;
        if !write {
            self.push(table);
        }
        let mapped = table.pieces(fault, |_, _, _| ()).is_ok();
        let decide = &mut *self.decide.lock().unwrap_or_else(PoisonError::into_inner);
        match decide(DmaAccess { write, address, len, mapped }) {
            _ if !mapped => Err(fault),
            DmaFate::Refuse => Err(fault),
            fate => Ok(fate),
        }
    }

    /// Writes as `fate` says.
    pub(super) fn write(&self, table: &Table, fate: DmaFate, address: u64, mut bytes: Bytes) -> Result<(), BusFault> {
        match fate {
            DmaFate::Pass => self.put(table, address, bytes),
            DmaFate::Refuse => Err(BusFault { address, len: bytes.len(), write: true }),
            DmaFate::Lose => Ok(()),
            DmaFate::Late(_) | DmaFate::Overtaken(_) => {
                let (steps, in_order) = (fate.steps(), matches!(fate, DmaFate::Late(_)));
                self.late().push_back(Late { steps, in_order, address, bytes });
                Ok(())
            }
            DmaFate::Twice(steps) => {
                self.put(table, address, bytes.clone())?;
                self.late().push_back(Late { steps, in_order: false, address, bytes });
                Ok(())
            }
            DmaFate::Astray(by) => {
                // Where there is nothing it is lost: the device hears nothing of it either way.
                let _ = self.put(table, address.wrapping_add_signed(by), bytes);
                Ok(())
            }
            DmaFate::Garble(flip) => {
                bytes.garble(flip);
                self.put(table, address, bytes)
            }
        }
    }

    /// Writes, now or behind what is late and in order.
    fn put(&self, table: &Table, address: u64, bytes: Bytes) -> Result<(), BusFault> {
        let mut late = self.late();
        if is_in_order(&late) {
            late.push_back(Late { steps: 0, in_order: true, address, bytes });
            return Ok(());
        }
        drop(late);
        bytes.put(table, address)
    }

    /// What is late and in order happens now.
    fn push(&self, table: &Table) {
        self.late().retain(|late| {
            if late.in_order {
                let _ = late.bytes.put(table, late.address);
            }
            !late.in_order
        });
    }

    /// Whether a write that is to happen has to wait for one before it.
    pub(super) fn is_held_up(&self) -> bool {
        is_in_order(&self.late())
    }

    fn late(&self) -> MutexGuard<'_, VecDeque<Late>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_in_order(late: &VecDeque<Late>) -> bool {
    late.iter().any(|late| late.in_order)
}

impl MemoryTable {
    /// Has `decide` asked before each access from now on. There can be one; a second changes nothing.
    pub fn interpose(&self, decide: Interposer) {
        let _ = self.between.set(Between::new(decide));
    }

    /// A step has passed: writes that are due happen, in the order in which they were made. What is not mapped any more is lost.
    pub fn step_late_writes(&self) {
        let mut waits = false;
        self.put_late(|late| {
            late.steps = late.steps.saturating_sub(1);
            let due = late.steps == 0 && !(late.in_order && waits);
            waits |= late.in_order && !due;
            due
        });
    }

    /// All writes that are late happen now.
    pub fn push_late_writes(&self) {
        self.put_late(|_| true);
    }

    /// Writes that are late never happen: the device was reset.
    pub fn forget_late_writes(&self) {
        if let Some(between) = self.between.get() {
            between.late().clear();
        }
    }

    /// Whether there are writes that are late.
    pub fn has_late_writes(&self) -> bool {
        self.between.get().is_some_and(|between| !between.late().is_empty())
    }

    fn put_late(&self, mut is_due: impl FnMut(&mut Late) -> bool) {
        let Some(between) = self.between.get() else { return };
        let table = self.read_table();
        between.late().retain_mut(|late| {
            let due = is_due(late);
            if due {
                let _ = late.bytes.put(&table, late.address);
            }
            !due
        });
    }

    /// Writes through whoever is between.
    pub(super) fn write_through(
        &self,
        address: u64,
        bytes: impl FnOnce() -> Bytes,
        len: usize,
    ) -> Option<Result<(), BusFault>> {
        let between = self.between.get()?;
        let table = self.read_table();
        let outcome = between.ask(&table, BusFault { address, len, write: true });
        Some(outcome.and_then(|fate| between.write(&table, fate, address, bytes())))
    }

    /// Reads through whoever is between.
    pub(super) fn read_through(&self, address: u64, bytes: &mut [u8]) -> Option<Result<(), BusFault>> {
        let between = self.between.get()?;
        let table = self.read_table();
        let outcome = between.ask(&table, BusFault { address, len: bytes.len(), write: false });
        Some(outcome.and_then(|fate| {
            table.read(address, bytes)?;
            if let DmaFate::Garble(flip) = fate {
                garble(bytes, flip);
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use vm_memory::{Bytes as _, GuestAddress};

    use super::*;

    /// A page at 0x1000 of which the first accesses have these fates, and what was asked.
    fn page(fates: &[DmaFate]) -> (Arc<MemoryTable>, Arc<Mutex<Vec<DmaAccess>>>) {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 0x1000).unwrap();
        let table = MemoryTable::new();
        table.map(0x1000, fd.as_fd(), 0, 0x1000, true).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (mut fates, asked_of) = (Vec::from(fates).into_iter(), asked.clone());
        table.interpose(Box::new(move |access| {
            asked_of.lock().unwrap().push(access);
            fates.next().unwrap_or_default()
        }));
        (table, asked)
    }

    fn word(table: &MemoryTable, at: u64) -> u32 {
        let mut bytes = [0; 4];
        table.read_table().read(at, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Writes 1, 2, ... to 0x1000, 0x1004, ..., each in all ways, with these fates; what is there after each step.
    fn check(fates: &[DmaFate], expect: &[&[u32]]) {
        let ways: [fn(&MemoryTable, u64, u32); 3] = [
            |table, at, value| table.store_u32(at, value).unwrap(),
            |table, at, value| table.write(at, &value.to_le_bytes()).unwrap(),
            |table, at, value| table.lock(true).store(value.to_le(), GuestAddress(at), Ordering::Release).unwrap(),
        ];
        for (way, put) in ways.iter().enumerate() {
            let (table, asked) = page(fates);
            (0..fates.len()).for_each(|i| put(&table, 0x1000 + 4 * i as u64, 1 + i as u32));
            for (step, expect) in expect.iter().enumerate() {
                let seen: Vec<_> = (0..expect.len()).map(|i| word(&table, 0x1000 + 4 * i as u64)).collect();
                assert_eq!(seen, *expect, "way {way}, after {step} steps of {fates:?}");
                table.step_late_writes();
            }
            let told = |i| DmaAccess { write: true, address: 0x1000 + 4 * i as u64, len: 4, mapped: true };
            assert_eq!(*asked.lock().unwrap(), (0..fates.len()).map(told).collect::<Vec<_>>());
        }
    }

    #[test]
    fn writes_meet_their_fates() {
        use DmaFate::*;
        check(&[Pass, Lose, Pass], &[&[1, 0, 3]]);
        check(&[Late(2), Pass], &[&[0, 0], &[0, 0], &[1, 2]]);
        check(&[Late(2), Late(1), Lose, Pass], &[&[0, 0, 0, 0], &[0, 0, 0, 0], &[1, 2, 0, 4]]);
        check(&[Overtaken(1), Pass], &[&[0, 2], &[1, 2]]);
        check(&[Overtaken(2), Late(1), Pass], &[&[0, 0, 0], &[0, 2, 3], &[1, 2, 3]]);
        check(&[Astray(4), Pass], &[&[0, 2]]);
        check(&[Pass, Astray(-4)], &[&[2, 0]]);
        check(&[Garble(0x8000_0001)], &[&[0x8000_0000]]);
        check(&[Pass, Astray(0x10_0000)], &[&[1, 0]]);
    }

    #[test]
    fn a_write_that_comes_twice_undoes_what_came_between() {
        let (table, _) = page(&[DmaFate::Twice(2)]);
        table.store_u64(0x1000, 7).unwrap();
        table.store_u64(0x1000, 8).unwrap();
        assert_eq!(word(&table, 0x1000), 8);
        table.step_late_writes();
        assert!(table.has_late_writes());
        table.step_late_writes();
        assert_eq!((word(&table, 0x1000), table.has_late_writes()), (7, false));
    }

    #[test]
    fn a_read_of_the_device_pushes_what_it_wrote_in_order() {
        let (table, _) = page(&[DmaFate::Late(9), DmaFate::Overtaken(9)]);
        table.store_u32(0x1000, 1).unwrap();
        table.store_u32(0x1004, 2).unwrap();
        let mut bytes = [0; 8];
        table.read(0x1000, &mut bytes).unwrap();
        assert_eq!((bytes, table.has_late_writes()), ([1, 0, 0, 0, 0, 0, 0, 0], true));
    }

    #[test]
    fn what_is_late_can_be_pushed_forgotten_or_unmapped() {
        for what in 0..3 {
            let (table, _) = page(&[DmaFate::Late(9), DmaFate::Overtaken(9)]);
            table.store_u32(0x1000, 1).unwrap();
            table.write(0x1004, &[2]).unwrap();
            match what {
                0 => table.push_late_writes(),
                1 => table.forget_late_writes(),
                _ => {
                    table.unmap(0x1004, 0x100);
                    table.push_late_writes();
                    assert_eq!(word(&table, 0x1000), 1);
                    continue;
                }
            }
            let expect = if what == 0 { (1, 2) } else { (0, 0) };
            assert_eq!((word(&table, 0x1000), word(&table, 0x1004)), expect);
            assert!(!table.has_late_writes());
        }
    }

    #[test]
    fn refused_and_unmapped_accesses_fault_and_are_told_of() {
        let (table, asked) = page(&[DmaFate::Refuse, DmaFate::Refuse, DmaFate::Pass, DmaFate::Lose]);
        assert!(table.read(0x1000, &mut [0; 4]).is_err());
        assert!(table.store_u64(0x1000, 1).is_err());
        assert!(table.read(0x1ffe, &mut [0; 4]).is_err());
        assert!(table.write(0x3000, &[0; 4]).is_err(), "a fault is a fault, whatever is decided");
        assert_eq!(
            asked.lock().unwrap().iter().map(|access| access.mapped).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        let (table, _) = page(&[DmaFate::Refuse]);
        assert!(table.lock(true).load::<u32>(GuestAddress(0x1000), Ordering::Acquire).is_err());
        assert_eq!(table.lock(true).load::<u32>(GuestAddress(0x1000), Ordering::Acquire).unwrap(), 0);
    }

    #[test]
    fn reads_are_garbled_and_memory_is_not() {
        let (table, _) = page(&[DmaFate::Pass, DmaFate::Garble(0xff), DmaFate::Garble(0xff00), DmaFate::Late(1)]);
        table.store_u32(0x1000, 0x1234_5678).unwrap();
        let mut bytes = [0; 4];
        table.read(0x1000, &mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 0x1234_5687);
        let memory = table.lock(true);
        assert_eq!(memory.read_obj::<u32>(GuestAddress(0x1000)).unwrap(), 0x1234_a978);
        assert_eq!(memory.read_obj::<u32>(GuestAddress(0x1000)).unwrap(), 0x1234_5678);
    }

    /// A library's accesses of all widths and places in a word.
    #[test]
    fn shadows_are_aligned_as_memory_is() {
        let (table, _) = page(&[DmaFate::Late(1); 16]);
        let memory = table.lock(true);
        memory.store(0x0102u16.to_le(), GuestAddress(0x1002), Ordering::Release).unwrap();
        memory.store(0x0304_0506u32.to_le(), GuestAddress(0x1004), Ordering::Release).unwrap();
        memory.write_slice(b"abcdefghijk", GuestAddress(0x100d)).unwrap();
        drop(memory);
        table.push_late_writes();
        assert_eq!((word(&table, 0x1000), word(&table, 0x1004)), (0x0102_0000, 0x0304_0506));
        let mut bytes = [0; 11];
        table.read_table().read(0x100d, &mut bytes).unwrap();
        assert_eq!(&bytes, b"abcdefghijk");
        let memory = table.lock(true);
        assert!(memory.store(1u32, GuestAddress(0x1002), Ordering::Release).is_err(), "not aligned");
    }
}
