//! Parts of shared memory that a data path reaches on every frame: places worked out and checked once.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use crate::{Iova, Segment, SharedMemory};

/// A power of two of 64-bit words: a descriptor ring. An index counts round and round, so that none is outside.
pub struct RingWords {
    first: NonNull<AtomicU64>,
    mask: usize,
    /// Keeps the words mapped.
    _memory: SharedMemory,
}

/// The same, borrowed: for a function that works with the words, so that it need not look where they are at each of them.
#[derive(Clone, Copy)]
pub struct RingView<'a> {
    first: &'a AtomicU64,
    mask: usize,
}

/// A power of two of slots of `SLOT` bytes that the CPU writes and a device reads. Counts round like [`RingWords`]. `SLOT` is a
/// multiple of 8.
pub struct RingSlots<const SLOT: usize> {
    first: NonNull<AtomicU64>,
    mask: usize,
    /// The device's name for the first byte.
    iova: Iova,
    /// Keeps the slots mapped.
    _memory: SharedMemory,
}

// SAFETY: both point to atomics, which any thread may use, in pages that `_memory` (itself `Send` and `Sync`) keeps mapped
// wherever the value goes.
unsafe impl Send for RingWords {}
// SAFETY: as above.
unsafe impl Sync for RingWords {}
// SAFETY: as above.
unsafe impl<const SLOT: usize> Send for RingSlots<SLOT> {}
// SAFETY: as above.
unsafe impl<const SLOT: usize> Sync for RingSlots<SLOT> {}

impl RingWords {
    /// `count` words (a power of two) of `memory`, from byte `offset` on.
    ///
    /// # Panics
    /// As [`SharedMemory::words`], and when `count` is not a power of two, or 1.
    pub fn new(memory: &SharedMemory, offset: usize, count: usize) -> Self {
        assert!(count.is_power_of_two() && count > 1, "a ring of {count} words");
        let first = NonNull::from(&memory.words(offset, count)[0]);
        Self { first, mask: count - 1, _memory: memory.clone() }
    }

    /// The word at `index`, modulo the number of words.
    #[inline]
    pub fn at(&self, index: usize) -> &AtomicU64 {
        // SAFETY: `new` saw `mask + 1` words there, which `_memory` keeps mapped for as long as `self` lives.
        unsafe { self.first.add(index & self.mask).as_ref() }
    }

    /// All of them.
    #[inline]
    pub fn view(&self) -> RingView<'_> {
        RingView { first: self.at(0), mask: self.mask }
    }
}

impl<'a> RingView<'a> {
    /// Two words of which `index` counts, modulo the number of pairs: a descriptor.
    #[inline]
    pub fn pair(self, index: usize) -> [&'a AtomicU64; 2] {
        let at = index.wrapping_mul(2) & self.mask;
        // SAFETY: `RingWords::new` saw `mask + 1` words there, an even number, so an even one has a next; `'a` is a borrow of
        // what keeps them mapped.
        unsafe {
            let first = std::ptr::from_ref(self.first).add(at);
            [&*first, &*first.add(1)]
        }
    }
}

impl<const SLOT: usize> RingSlots<SLOT> {
    const WORDS: usize = {
        assert!(SLOT > 0 && SLOT.is_multiple_of(8), "slots are whole words");
        SLOT / 8
    };

    /// The slots (a power of two) of `memory` from byte `offset` on that the device knows as `name`.
    ///
    /// # Panics
    /// As [`RingWords::new`].
    pub fn new(memory: &SharedMemory, offset: usize, name: Segment) -> Self {
        let count = name.len as usize / SLOT;
        assert!(count.is_power_of_two(), "a ring of {count} slots");
        let first = NonNull::from(&memory.words(offset, count * Self::WORDS)[0]);
        Self { first, mask: count - 1, iova: name.iova, _memory: memory.clone() }
    }

    /// The slot at `index`, modulo the number of slots.
    #[inline]
    pub fn at(&self, index: usize) -> RingSlot<'_, SLOT> {
        let index = index & self.mask;
        // SAFETY: `new` saw `(mask + 1) * WORDS` words there, which `_memory` keeps mapped for as long as `self` lives.
        let first = unsafe { self.first.add(index * Self::WORDS).as_ref() };
        RingSlot { first, iova: Iova::new(self.iova.get() + (index * SLOT) as u64) }
    }
}

/// One of [`RingSlots`].
#[derive(Clone, Copy)]
pub struct RingSlot<'a, const SLOT: usize> {
    first: &'a AtomicU64,
    iova: Iova,
}

impl<const SLOT: usize> RingSlot<'_, SLOT> {
    /// Writes `bytes` to the start of the slot, and returns the device's name for them. What is behind them in the slot is
    /// anything after that.
    ///
    /// # Panics
    /// When there are no bytes, or more than `SLOT`.
    #[inline]
    pub fn write(self, bytes: &[u8]) -> Segment {
        assert!((1..=SLOT).contains(&bytes.len()), "{} bytes for a slot of {SLOT}", bytes.len());
        self.fill(0, bytes);
        Segment { iova: self.iova, len: bytes.len() as u32 }
    }

    /// Writes two words to the start of the slot and `bytes` behind them, and returns the device's name for all of it.
    ///
    /// # Panics
    /// When there are no bytes, or more than `SLOT` - 16.
    #[inline]
    pub fn write_behind(self, front: [u64; 2], bytes: &[u8]) -> Segment {
        assert!((1..=SLOT.saturating_sub(16)).contains(&bytes.len()), "{} bytes behind 16 of {SLOT}", bytes.len());
        self.word(0).store(front[0].to_le(), Ordering::Relaxed);
        self.word(1).store(front[1].to_le(), Ordering::Relaxed);
        self.fill(2, bytes);
        Segment { iova: self.iova, len: 16 + bytes.len() as u32 }
    }

    /// Writes `bytes`, which has some, from word `start` on; the callers have seen that they fit.
    #[inline(always)]
    fn fill(self, start: usize, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for (at, word) in words.iter().enumerate() {
            self.word(start + at).store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        if !rest.is_empty() {
            let last = match bytes.last_chunk::<8>() {
                // The end of the last eight bytes, moved to the start of a word: cheaper than a copy of some length.
                Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
                None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
            };
            self.word(start + words.len()).store(last.to_le(), Ordering::Relaxed);
        }
    }

    /// Writes two bytes at an even place in the slot (`at` is rounded down), modulo its length.
    #[inline]
    pub fn write_pair(self, at: usize, pair: [u8; 2]) {
        let at = at / 2 % (SLOT / 2);
        // SAFETY: less than a slot's bytes from its start, which is all there (`RingSlots::at`), and aligned.
        let two = unsafe { AtomicU16::from_ptr(self.first.as_ptr().cast::<u16>().add(at)) };
        two.store(u16::from_ne_bytes(pair), Ordering::Relaxed);
    }

    /// A word of the slot; `word` is below its number of words.
    #[inline]
    fn word(&self, word: usize) -> &AtomicU64 {
        debug_assert!(word < SLOT / 8);
        // SAFETY: `RingSlots::new` saw all words of the slot; the callers stay inside of it.
        unsafe { &*std::ptr::from_ref(self.first).add(word) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HugePages;
    use proptest::prelude::*;

    #[test]
    fn words_go_round() {
        let memory = SharedMemory::new("test", 8192, HugePages::Never).unwrap();
        let ring = RingWords::new(&memory, 4096, 8);
        ring.at(9).store(7, Ordering::Relaxed);
        assert_eq!(memory.word64(4096 + 8).load(Ordering::Relaxed), 7);
        assert_eq!(ring.at(usize::MAX).as_ptr(), memory.word64(4096 + 56).as_ptr());
        let pair = ring.view().pair(4 + 3).map(AtomicU64::as_ptr);
        assert_eq!(pair, [48, 56].map(|at| memory.word64(4096 + at).as_ptr()));
    }

    fn name(slots: u32) -> Segment {
        Segment { iova: Iova::new(0x10_0000), len: slots * 256 }
    }

    #[test]
    fn slots_have_the_device_s_names() {
        let memory = SharedMemory::new("test", 8192, HugePages::Never).unwrap();
        let segment = RingSlots::<256>::new(&memory, 4096, name(16)).at(16 + 3).write(b"header");
        assert_eq!(segment, Segment { iova: Iova::new(0x10_0300), len: 6 });
        let mut bytes = [0; 6];
        memory.read_at(4096 + 768, &mut bytes);
        assert_eq!(&bytes, b"header");
    }

    #[test]
    #[should_panic(expected = "asked of a region")]
    fn slots_behind_the_end_panic() {
        let memory = SharedMemory::new("test", 4096, HugePages::Never).unwrap();
        RingSlots::<256>::new(&memory, 0, name(32));
    }

    #[test]
    #[should_panic(expected = "257 bytes for a slot")]
    fn more_than_a_slot_panics() {
        let memory = SharedMemory::new("test", 4096, HugePages::Never).unwrap();
        RingSlots::<256>::new(&memory, 0, name(2)).at(0).write(&[0; 257]);
    }

    #[test]
    fn what_is_behind_two_words_is_behind_them() {
        let memory = SharedMemory::new("test", 4096, HugePages::Never).unwrap();
        let slots = RingSlots::<256>::new(&memory, 0, name(2));
        let segment = slots.at(1).write_behind([0x0807_0605_0403_0201, 0x0f0e_0d0c_0b0a_0900], b"eleven more");
        assert_eq!(segment, Segment { iova: Iova::new(0x10_0100), len: 27 });
        let mut bytes = [0; 27];
        memory.read_at(256, &mut bytes);
        assert_eq!(bytes[..16], [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(&bytes[16..], b"eleven more");
    }

    #[test]
    #[should_panic(expected = "241 bytes behind 16")]
    fn more_than_fits_behind_two_words_panics() {
        let memory = SharedMemory::new("test", 4096, HugePages::Never).unwrap();
        RingSlots::<256>::new(&memory, 0, name(2)).at(0).write_behind([0; 2], &[0; 241]);
    }

    proptest! {
        /// Whatever is written lies at the start of its slot, and no other slot is touched.
        #[test]
        fn slots_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 1..=256), index: u16, at in 0usize..128) {
            let memory = SharedMemory::new("test", 4096, HugePages::Never).unwrap();
            memory.write_at(0, &[0xee; 4096]);
            let slots = RingSlots::<256>::new(&memory, 1024, name(8));
            let slot = slots.at(index.into());
            slot.write(&bytes);
            let start = 1024 + usize::from(index) % 8 * 256;
            let mut all = [0; 4096];
            memory.read_at(0, &mut all);
            prop_assert_eq!(&all[start..start + bytes.len()], &bytes[..]);
            prop_assert!(all[..start].iter().chain(&all[start + 256..]).all(|byte| *byte == 0xee));
            slot.write_pair(2 * at, [1, 2]);
            memory.read_at(0, &mut all);
            prop_assert_eq!(&all[start + 2 * at..start + 2 * at + 2], &[1, 2]);
        }
    }
}
