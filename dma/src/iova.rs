//! Which device addresses are free. Pure arithmetic: no memory is touched.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Hands out device addresses from the ranges the IOMMU reports, lowest first.
///
/// The ranges have holes (on x86 the MSI window at `0xfee0_0000`) and an end (39, 48 or 57 bits); a run never crosses
/// either. Address 0 is never handed out: it is what an uninitialised descriptor holds.
#[derive(Debug)]
pub struct IovaAllocator {
    /// Free runs: first address → last address. Never adjacent, never overlapping.
    free: BTreeMap<u64, u64>,
}

impl IovaAllocator {
    /// Smallest unit that is handed out, bytes.
    pub const GRANULE: u64 = 4096;

    /// All of `ranges` is free.
    pub fn new(ranges: impl IntoIterator<Item = RangeInclusive<u64>>) -> Self {
        let mut free = BTreeMap::new();
        for range in ranges {
            // Whole granules only, and not the first page of the address space.
            let Some(first) = (*range.start()).max(Self::GRANULE).checked_next_multiple_of(Self::GRANULE) else {
                continue;
            };
            // The last whole granule ends just below this address; 2^64 itself cannot be written down.
            let end = match range.end().checked_add(1) {
                Some(end) => end - end % Self::GRANULE,
                None => u64::MAX - (Self::GRANULE - 1),
            };
            if first < end {
                free.insert(first, end - 1);
            }
        }
        Self { free }
    }

    /// Takes `len` bytes (rounded up to whole granules) whose first address is a multiple of `align` (a power of two,
    /// bytes). `None` when no free run is large enough.
    pub fn take(&mut self, len: u64, align: u64) -> Option<u64> {
        assert!(align.is_power_of_two(), "alignment {align} is not a power of two");
        let len = Self::round(len)?;
        let align = align.max(Self::GRANULE);
        let (first, last, start) = self.free.iter().find_map(|(&first, &last)| {
            let start = first.checked_next_multiple_of(align)?;
            let end = start.checked_add(len - 1)?;
            (end <= last).then_some((first, last, start))
        })?;
        self.free.remove(&first);
        if first < start {
            self.free.insert(first, start - 1);
        }
        if start + (len - 1) < last {
            self.free.insert(start + len, last);
        }
        Some(start)
    }

    /// Gives back what [`take`](Self::take) returned, with the same `len`.
    pub fn give(&mut self, start: u64, len: u64) {
        let Some(len) = Self::round(len) else { return };
        let (mut first, mut last) = (start, start + (len - 1));
        if let Some((&before, &before_last)) = self.free.range(..first).next_back()
            && before_last + 1 == first
        {
            self.free.remove(&before);
            first = before;
        }
        if let Some(next) = last.checked_add(1)
            && let Some(next_last) = self.free.remove(&next)
        {
            last = next_last;
        }
        self.free.insert(first, last);
    }

    /// Length of the largest free run, bytes.
    pub fn largest(&self) -> u64 {
        self.free.iter().map(|(first, last)| last - first + 1).max().unwrap_or(0)
    }

    fn round(len: u64) -> Option<u64> {
        len.max(1).checked_next_multiple_of(Self::GRANULE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn address_zero_is_never_taken_and_holes_are_respected() {
        let mut free = IovaAllocator::new([0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff]);
        assert_eq!(free.take(1, 1), Some(0x1000));
        assert_eq!(free.take(0xfedf_e000, 1), Some(0x2000), "the rest of the low range, to its last byte");
        assert_eq!(free.take(4096, 1), Some(0xfef0_0000), "next is behind the hole");
        assert_eq!(free.take(1 << 40, 1), None);
    }

    #[test]
    fn the_end_of_the_address_space_does_not_overflow() {
        let mut free = IovaAllocator::new([0xffff_ffff_ffff_0000..=u64::MAX]);
        let start = free.take(4096, 1).unwrap();
        free.give(start, 4096);
        assert_eq!(free.take(u64::MAX, 1), None);
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_everything_comes_back(
            sizes in prop::collection::vec((1u64..100_000, 0u32..22), 1..60),
            order in prop::collection::vec(any::<prop::sample::Index>(), 60),
        ) {
            let ranges = [0x0..=0xf_ffff, 0x20_0000..=0xff_ffff];
            let mut free = IovaAllocator::new(ranges.clone());
            let whole = free.largest();
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (len, shift) in sizes {
                let align = 1u64 << shift;
                if let Some(start) = free.take(len, align) {
                    let end = start + len - 1;
                    prop_assert_eq!(start % align, 0);
                    prop_assert!(ranges.iter().any(|range| range.contains(&start) && range.contains(&end)));
                    for &(other, other_len) in &taken {
                        prop_assert!(end < other || start > other + other_len - 1, "overlap");
                    }
                    taken.push((start, len));
                }
            }
            for index in order {
                if !taken.is_empty() {
                    let (start, len) = taken.swap_remove(index.index(taken.len()));
                    free.give(start, len);
                }
            }
            for (start, len) in taken {
                free.give(start, len);
            }
            prop_assert_eq!(free.largest(), whole);
            prop_assert_eq!(free.free.len(), 2);
        }
    }
}
