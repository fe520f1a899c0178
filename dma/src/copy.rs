//! Copies between private memory and memory that others (a device, a thread, a process) may be using at the same time.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Copies out of memory that others may be writing, by atomic words: some mix of old and new bytes, never undefined.
///
/// # Safety
/// `from..from + to.len()` is mapped readable.
#[inline]
pub unsafe fn copy_out(from: *const u8, to: &mut [u8]) {
    let head = from.align_offset(8).min(to.len());
    let (to_head, rest) = to.split_at_mut(head);
    let (to_words, to_tail) = rest.split_at_mut(rest.len() / 8 * 8);
    let words = from.wrapping_add(head);
    for (at, byte) in to_head.iter_mut().enumerate() {
        // SAFETY: `at < head <= to.len()`, so the byte is in the caller's range; a byte is aligned.
        *byte = unsafe { AtomicU8::from_ptr(from.add(at).cast_mut()) }.load(Ordering::Relaxed);
    }
    for (at, word) in to_words.chunks_exact_mut(8).enumerate() {
        // SAFETY: the eight bytes at `head + 8 * at` are in the caller's range, aligned since `head` aligns.
        let value = unsafe { AtomicU64::from_ptr(words.add(8 * at).cast_mut().cast()) }.load(Ordering::Relaxed);
        word.copy_from_slice(&value.to_ne_bytes());
    }
    let tail = words.wrapping_add(to_words.len());
    for (at, byte) in to_tail.iter_mut().enumerate() {
        // SAFETY: the bytes after the last whole word are in the caller's range.
        *byte = unsafe { AtomicU8::from_ptr(tail.add(at).cast_mut()) }.load(Ordering::Relaxed);
    }
}

/// Copies into memory that others may be reading or writing, by atomic words.
///
/// # Safety
/// `to..to + from.len()` is mapped writable, and no reference to its bytes exists whose owner relies on them.
#[inline]
pub unsafe fn copy_in(from: &[u8], to: *mut u8) {
    let head = to.align_offset(8).min(from.len());
    let (from_head, rest) = from.split_at(head);
    let (from_words, from_tail) = rest.split_at(rest.len() / 8 * 8);
    let words = to.wrapping_add(head);
    for (at, byte) in from_head.iter().enumerate() {
        // SAFETY: as in `copy_out`, for writing.
        unsafe { AtomicU8::from_ptr(to.add(at)) }.store(*byte, Ordering::Relaxed);
    }
    for (at, word) in from_words.chunks_exact(8).enumerate() {
        let value = u64::from_ne_bytes(word.try_into().unwrap_or_default());
        // SAFETY: as in `copy_out`, for writing.
        unsafe { AtomicU64::from_ptr(words.add(8 * at).cast()) }.store(value, Ordering::Relaxed);
    }
    let tail = words.wrapping_add(from_words.len());
    for (at, byte) in from_tail.iter().enumerate() {
        // SAFETY: as in `copy_out`, for writing.
        unsafe { AtomicU8::from_ptr(tail.add(at)) }.store(*byte, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_place_and_length(bytes in prop::collection::vec(any::<u8>(), 0..100), at in 0..17usize) {
            let mut memory = vec![0xee; 128];
            // SAFETY: 16 + 99 bytes from the start of 128 that nobody else uses.
            unsafe { copy_in(&bytes, memory.as_mut_ptr().add(at)) };
            prop_assert_eq!(&memory[at..at + bytes.len()], &bytes[..]);
            prop_assert!(memory[..at].iter().chain(&memory[at + bytes.len()..]).all(|byte| *byte == 0xee));
            let mut back = vec![0; bytes.len()];
            // SAFETY: as above.
            unsafe { copy_out(memory.as_ptr().add(at), &mut back) };
            prop_assert_eq!(back, bytes);
        }
    }
}
