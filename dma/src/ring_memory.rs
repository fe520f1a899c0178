//! Parts of shared memory that a data path reaches on every frame: places worked out and checked once.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::SharedMemory;

/// A power of two of 64-bit words: a descriptor ring. An index counts round and round, so that none is outside.
pub struct RingWords {
    first: NonNull<AtomicU64>,
    mask: usize,
    /// Keeps the words mapped.
    _memory: SharedMemory,
}

/// A power of two of slots of [`RingSlots::SLOT`] bytes that the CPU writes and a device reads. Counts round like
/// [`RingWords`].
pub struct RingSlots {
    first: NonNull<AtomicU64>,
    mask: usize,
    /// Keeps the slots mapped.
    _memory: SharedMemory,
}

// SAFETY: both point to atomics, which any thread may use, in pages that `_memory` (itself `Send` and `Sync`) keeps mapped
// wherever the value goes.
unsafe impl Send for RingWords {}
// SAFETY: as above.
unsafe impl Sync for RingWords {}
// SAFETY: as above.
unsafe impl Send for RingSlots {}
// SAFETY: as above.
unsafe impl Sync for RingSlots {}

impl RingWords {
    /// `count` words (a power of two) of `memory`, from byte `offset` on.
    ///
    /// # Panics
    /// As [`SharedMemory::words`], and when `count` is not a power of two.
    pub fn new(memory: &SharedMemory, offset: usize, count: usize) -> Self {
        assert!(count.is_power_of_two(), "a ring of {count} words");
        let first = NonNull::from(&memory.words(offset, count)[0]);
        Self { first, mask: count - 1, _memory: memory.clone() }
    }

    /// The word at `index`, modulo the number of words.
    #[inline]
    pub fn at(&self, index: usize) -> &AtomicU64 {
        // SAFETY: `new` saw `mask + 1` words there, which `_memory` keeps mapped.
        unsafe { self.first.add(index & self.mask).as_ref() }
    }
}

impl RingSlots {
    /// Bytes of a slot.
    pub const SLOT: usize = 256;
    const WORDS: usize = Self::SLOT / 8;

    /// `count` slots (a power of two) of `memory`, from byte `offset` on.
    ///
    /// # Panics
    /// As [`RingWords::new`].
    pub fn new(memory: &SharedMemory, offset: usize, count: usize) -> Self {
        assert!(count.is_power_of_two(), "a ring of {count} slots");
        let first = NonNull::from(&memory.words(offset, count * Self::WORDS)[0]);
        Self { first, mask: count - 1, _memory: memory.clone() }
    }

    /// Writes `bytes` to the start of the slot at `index`, modulo the number of slots. What is behind them in the slot is
    /// anything after that.
    ///
    /// # Panics
    /// When there are more than [`SLOT`](Self::SLOT) bytes.
    #[inline]
    pub fn write(&self, index: usize, bytes: &[u8]) {
        assert!(bytes.len() <= Self::SLOT, "{} bytes for a slot of {}", bytes.len(), Self::SLOT);
        let (words, rest) = bytes.as_chunks::<8>();
        for (at, word) in words.iter().enumerate() {
            self.word(index, at).store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        if !rest.is_empty() {
            let last = match bytes.last_chunk::<8>() {
                // The end of the last eight bytes, moved to the start of a word: cheaper than a copy of some length.
                Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
                None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
            };
            self.word(index, words.len()).store(last.to_le(), Ordering::Relaxed);
        }
    }

    /// Writes two bytes `at` bytes into the slot.
    ///
    /// # Panics
    /// When they are not in the slot.
    #[inline]
    pub fn write_pair(&self, index: usize, at: usize, pair: [u8; 2]) {
        assert!(at < Self::SLOT - 1, "two bytes at {at} of a slot of {}", Self::SLOT);
        let slot = self.word(index, 0).as_ptr().cast::<u8>();
        for (at, byte) in (at..).zip(pair) {
            // SAFETY: `at` is inside the slot (asserted), and the slot inside the memory (`word`).
            unsafe { AtomicU8::from_ptr(slot.add(at)) }.store(byte, Ordering::Relaxed);
        }
    }

    /// A word of a slot; `word` is below [`WORDS`](Self::WORDS).
    #[inline]
    fn word(&self, index: usize, word: usize) -> &AtomicU64 {
        debug_assert!(word < Self::WORDS);
        // SAFETY: `new` saw `(mask + 1) * WORDS` words there, which `_memory` keeps mapped; the callers stay inside of the slot.
        unsafe { self.first.add((index & self.mask) * Self::WORDS + word).as_ref() }
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
    }

    #[test]
    #[should_panic(expected = "asked of a region")]
    fn slots_behind_the_end_panic() {
        let memory = SharedMemory::new("test", 4096, HugePages::Never).unwrap();
        RingSlots::new(&memory, 0, 32);
    }

    #[test]
    #[should_panic(expected = "257 bytes for a slot")]
    fn more_than_a_slot_panics() {
        let memory = SharedMemory::new("test", 4096, HugePages::Never).unwrap();
        RingSlots::new(&memory, 0, 2).write(0, &[0; 257]);
    }

    proptest! {
        /// Whatever is written lies at the start of its slot, and no other slot is touched.
        #[test]
        fn slots_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..=256), index: u16, at in 0usize..255) {
            let memory = SharedMemory::new("test", 4096, HugePages::Never).unwrap();
            memory.write_at(0, &[0xee; 4096]);
            let slots = RingSlots::new(&memory, 1024, 8);
            slots.write(index.into(), &bytes);
            let start = 1024 + usize::from(index) % 8 * 256;
            let mut all = [0; 4096];
            memory.read_at(0, &mut all);
            prop_assert_eq!(&all[start..start + bytes.len()], &bytes[..]);
            prop_assert!(all[..start].iter().chain(&all[start + 256..]).all(|byte| *byte == 0xee));
            slots.write_pair(index.into(), at, [1, 2]);
            memory.read_at(0, &mut all);
            prop_assert_eq!(&all[start + at..start + at + 2], &[1, 2]);
        }
    }
}
