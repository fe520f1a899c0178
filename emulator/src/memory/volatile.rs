//! The table as `vm_memory` sees it, for rings that a library walks.

use std::cell::{Cell, RefCell};
use std::iter::FusedIterator;
use std::sync::RwLockReadGuard;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::bitmap::BS;
use vm_memory::guest_memory::{Error, GuestMemorySliceIterator};
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryRegion, GuestMemoryRegionBytes, GuestUsize, Permissions,
    VolatileSlice,
};

use super::between::{Between, Bytes, garble};
use super::{DmaFate, MemoryTable, Table};
use crate::bus::{BusFault, BusMemory};

/// The table, locked: nothing is unmapped while this lives. Do not call the table itself meanwhile.
pub(crate) struct RingMemory<'t> {
    table: RwLockReadGuard<'t, Table>,
    /// Whether the device may reach memory at all (bus mastering).
    open: bool,
    tally: Cell<Tally>,
    /// Who is asked before each access, if anybody.
    between: Option<&'t Between>,
    /// What stands for memory in accesses that are not what they seem. None goes before `self`.
    shadows: RefCell<Vec<Shadow>>,
}

/// Words that stand for memory in one access.
struct Shadow {
    words: Box<[AtomicU64]>,
    /// The access begins so many bytes behind the first word's start, so that it is aligned as it would be in memory.
    skip: usize,
    address: u64,
    len: usize,
    /// What becomes of what is written into them, if it is not done yet.
    fate: Option<DmaFate>,
}

impl Shadow {
    fn new(address: u64, bytes: &[u8]) -> Self {
        let skip = (address % 8) as usize;
        let mut all = vec![0; (skip + bytes.len()).next_multiple_of(8)];
        all[skip..skip + bytes.len()].copy_from_slice(bytes);
        let words = all.as_chunks().0.iter().map(|word| AtomicU64::new(u64::from_ne_bytes(*word))).collect();
        Self { words, skip, address, len: bytes.len(), fate: None }
    }

    fn bytes(&self) -> Vec<u8> {
        let all = self.words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
        all.skip(self.skip).take(self.len).collect()
    }

    fn pointer(&self) -> *mut u8 {
        // In bounds: `new` made room for `skip` bytes and the access.
        self.words.as_ptr().cast::<u8>().cast_mut().wrapping_add(self.skip)
    }
}

/// What was done through a [`RingMemory`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    /// Reads.
    pub(crate) reads: u64,
    /// Writes.
    pub(crate) writes: u64,
    /// Bytes read.
    pub(crate) read_bytes: u64,
    /// Bytes written.
    pub(crate) write_bytes: u64,
    /// Accesses that no mapping allows.
    pub(crate) faults: u64,
    /// Accesses while the bus was shut.
    pub(crate) gated: u64,
}

impl MemoryTable {
    /// Locks the table for a look at rings. With `open` false every access fails.
    pub(crate) fn lock(&self, open: bool) -> RingMemory<'_> {
        RingMemory {
            table: self.read_table(),
            open,
            tally: Cell::default(),
            between: self.between.get(),
            shadows: RefCell::default(),
        }
    }
}

impl RingMemory<'_> {
    /// What was done so far.
    pub(crate) fn tally(&self) -> Tally {
        self.tally.get()
    }

    fn note(&self, change: impl FnOnce(&mut Tally)) {
        let mut tally = self.tally.get();
        change(&mut tally);
        self.tally.set(tally);
    }
}

impl RingMemory<'_> {
    /// Asks whoever is between what becomes of an access; a shadow if it is not what it seems.
    fn shadow(&self, address: u64, count: usize, write: bool) -> Result<Option<(*mut u8, usize)>, BusFault> {
        let Some(between) = self.between else { return Ok(None) };
        self.finish();
        let fate = between.ask(&self.table, BusFault { address, len: count, write })?;
        let as_it_seems = match write {
            true => fate == DmaFate::Pass && !between.is_held_up(),
            false => !matches!(fate, DmaFate::Garble(_)),
        };
        if as_it_seems {
            return Ok(None);
        }
        let mut bytes = vec![0; count];
        self.table.read(address, &mut bytes)?;
        if let (false, DmaFate::Garble(flip)) = (write, fate) {
            garble(&mut bytes, flip);
        }
        let shadow = Shadow { fate: write.then_some(fate), ..Shadow::new(address, &bytes) };
        let mut shadows = self.shadows.borrow_mut();
        shadows.push(shadow);
        // Of the one in the list: its words stay where they are from now on.
        Ok(shadows.last().map(|shadow| (shadow.pointer(), count)))
    }

    /// An access is over when the next one begins: what was written into its shadow meets its fate.
    fn finish(&self) {
        let Some(between) = self.between else { return };
        let mut shadows = self.shadows.borrow_mut();
        let Some(last) = shadows.last_mut() else { return };
        if let Some(fate) = last.fate.take() {
            let _ = between.write(&self.table, fate, last.address, Bytes::Any(last.bytes().into()));
        }
    }
}

impl Drop for RingMemory<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

impl GuestMemory for RingMemory<'_> {
    type PhysicalMemory = Nowhere;
    type Bitmap = ();

    fn check_range(&self, addr: GuestAddress, count: usize, access: Permissions) -> bool {
        self.get_slices(addr, count, access).is_ok_and(|mut slices| slices.all(|slice| slice.is_ok()))
    }

    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, BS<'a, ()>>, Error> {
        if !self.open {
            self.note(|tally| tally.gated += 1);
            return Err(Error::InvalidGuestAddress(addr));
        }
        let write = access.has_write();
        self.note(|tally| {
            let (times, bytes) = match write {
                true => (&mut tally.writes, &mut tally.write_bytes),
                false => (&mut tally.reads, &mut tally.read_bytes),
            };
            *times += 1;
            *bytes += count as u64;
        });
        let shadow = self.shadow(addr.0, count, write).map_err(|_| {
            self.note(|tally| tally.faults += 1);
            Error::InvalidGuestAddress(addr)
        })?;
        Ok(Slices { memory: self, next: Some(addr.0), left: count, write, shadow })
    }
}

/// The pieces of one access, in order.
struct Slices<'a, 't> {
    memory: &'a RingMemory<'t>,
    /// `None` when the address space is at its end, or after a fault.
    next: Option<u64>,
    left: usize,
    write: bool,
    /// What stands for all of it: a pointer into one of the memory's shadows, and its length.
    shadow: Option<(*mut u8, usize)>,
}

impl<'a> Iterator for Slices<'a, '_> {
    type Item = Result<VolatileSlice<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        if let Some((pointer, len)) = self.shadow.take() {
            self.left = 0;
            // SAFETY: `pointer` has `len` bytes behind it in the words of a `Shadow` that is in `memory.shadows`: it was made with
            // room for them, its words are never moved or freed before the `RingMemory` (the list only grows, and a box that moves
            // leaves its words where they are), to whose borrow 'a the slice is bound. They are atomics, so they may be written
            // while references to them exist.
            return Some(Ok(unsafe { VolatileSlice::new(pointer, len) }));
        }
        let address = self.next.take();
        let found = address.and_then(|address| self.memory.table.find(address, self.write));
        let (Some(address), Some((pointer, beyond))) = (address, found) else {
            self.left = 0;
            self.memory.note(|tally| tally.faults += 1);
            return Some(Err(Error::InvalidGuestAddress(GuestAddress(address.unwrap_or(u64::MAX)))));
        };
        let len = beyond.min(self.left);
        self.left -= len;
        self.next = address.checked_add(len as u64);
        // SAFETY: `find` gave a pointer with `beyond` >= `len` bytes behind it in a region of the table, writable if
        // `write`. The table is locked for reading as long as the `RingMemory` lives, to whose borrow 'a the slice is
        // bound, so the region and its map stand. Others reach the bytes through mappings of their own; through this map
        // only this type and `BusMemory` do, and no Rust reference to its bytes ever exists.
        Some(Ok(unsafe { VolatileSlice::new(pointer, len) }))
    }
}

impl FusedIterator for Slices<'_, '_> {}
impl<'a> GuestMemorySliceIterator<'a, ()> for Slices<'a, '_> {}

/// `vm_memory` wants a type for memory without an IOMMU before it; there is none here.
pub(crate) enum Nowhere {}

impl GuestMemoryBackend for Nowhere {
    type R = Self;

    fn iter(&self) -> impl Iterator<Item = &Self> {
        std::iter::empty()
    }
}

impl GuestMemoryRegion for Nowhere {
    type B = ();

    fn len(&self) -> GuestUsize {
        match *self {}
    }

    fn start_addr(&self) -> GuestAddress {
        match *self {}
    }

    fn bitmap(&self) -> BS<'_, ()> {
        match *self {}
    }
}

impl GuestMemoryRegionBytes for Nowhere {}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn what_is_mapped_is_reached_and_the_rest_is_noted() {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 0x3000).unwrap();
        let table = MemoryTable::new();
        table.map(0x1000, fd.as_fd(), 0x2000, 0x1000, true).unwrap();
        table.map(0x2000, fd.as_fd(), 0, 0x1000, false).unwrap();
        let memory = table.lock(true);
        memory.store(7u16, GuestAddress(0x1ffe), Ordering::Release).unwrap();
        // Over two regions whose pages lie apart in the file.
        assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(0x1ffe)).unwrap(), [7, 0, 0, 0]);
        assert_eq!(memory.tally(), Tally { reads: 1, writes: 1, read_bytes: 4, write_bytes: 2, ..Tally::default() });
        assert!(memory.store(7u16, GuestAddress(0x2000), Ordering::Release).is_err());
        assert!(memory.read_obj::<[u8; 4]>(GuestAddress(0x2ffe)).is_err());
        assert!(memory.read_obj::<[u8; 4]>(GuestAddress(u64::MAX)).is_err());
        assert!(memory.load::<u16>(GuestAddress(0x1001), Ordering::Acquire).is_err(), "not aligned");
        assert_eq!(memory.tally().faults, 3);
        assert!(!memory.check_range(GuestAddress(0x1000), 0x2001, Permissions::Read));
        drop(memory);
        // The end of the address space is an end.
        table.map(0, fd.as_fd(), 0, 0x1000, true).unwrap();
        table.map(u64::MAX - 0xfff, fd.as_fd(), 0, 0x1000, true).unwrap();
        assert!(table.lock(true).read_obj::<[u8; 4]>(GuestAddress(u64::MAX - 3)).is_ok());
        assert!(table.lock(true).read_obj::<[u8; 4]>(GuestAddress(u64::MAX - 2)).is_err());
        let shut = table.lock(false);
        assert!(shut.load::<u16>(GuestAddress(0x1000), Ordering::Acquire).is_err());
        assert_eq!(shut.tally(), Tally { gated: 1, ..Tally::default() });
    }
}
