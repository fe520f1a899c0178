//! Which bytes of a file are there: a sorted set of byte ranges that grow together.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of bytes, kept as sorted ranges that neither touch nor overlap.
///
/// It never holds more ranges than it was made for, whatever is inserted, but for one that begins at 0: a range that would
/// be one too many, because it touches none that is there, is left out, and [`insert`](RangeSet::insert) says so. What
/// extends or joins a range always goes in, and so does what begins at 0. The start of any gap is one or the other, so a
/// sender that fills gaps from their start always gets on, be it one small piece at a time.
///
/// Inserting costs O(log ranges), and with everything in order there is one range.
#[derive(Clone, Debug)]
pub struct RangeSet {
    /// Start → end.
    ranges: BTreeMap<u64, u64>,
    covered: u64,
    limit: usize,
}

/// What an insertion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// So many bytes were not in the set and are now; never 0.
    New(u64),
    /// All of them were in the set.
    Known,
    /// None of them went in: the set holds as many ranges as it may.
    Full,
}

impl RangeSet {
    /// An empty set that never holds more than `limit` ranges, and one more that begins at 0.
    pub fn new(limit: usize) -> RangeSet {
        RangeSet { ranges: BTreeMap::new(), covered: 0, limit }
    }

    /// Adds all bytes of `range`, or none of them.
    pub fn insert(&mut self, range: Range<u64>) -> Insert {
        if range.is_empty() || self.contains(&range) {
            return Insert::Known;
        }
        let Range { mut start, mut end } = range;
        let mut joined = 0;
        // From the right: each range that begins no later than we end either reaches us or ends the walk.
        while let Some((&other_start, &other_end)) = self.ranges.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.ranges.remove(&other_start);
            joined += other_end - other_start;
            start = start.min(other_start);
            end = end.max(other_end);
        }
        if joined == 0 && start > 0 && self.ranges.len() >= self.limit {
            return Insert::Full;
        }
        self.ranges.insert(start, end);
        let new = (end - start) - joined;
        self.covered += new;
        Insert::New(new)
    }

    /// Takes out the first bytes of the lowest range, at most `max` of them.
    pub fn take_first(&mut self, max: u64) -> Option<Range<u64>> {
        let (start, end) = self.ranges.pop_first()?;
        let cut = end.min(start.saturating_add(max));
        if cut < end {
            self.ranges.insert(cut, end);
        }
        self.covered -= cut - start;
        Some(start..cut)
    }

    /// Whether all bytes of `range` are in the set.
    pub fn contains(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.ranges.range(..=range.start).next_back().is_some_and(|(_, &end)| end >= range.end)
    }

    /// The parts of `within` that are not in the set, ascending.
    pub fn gaps(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let Range { start, end } = within;
        let around = self.ranges.range(..=start).next_back().map_or(start, |(_, &other_end)| other_end.max(start));
        let mut above = around.min(end);
        self.ranges
            .range(above..end)
            .map(|(&start, &end)| (start, end))
            .chain([(end, end)])
            .map(move |(start, end)| std::mem::replace(&mut above, end)..start)
            .filter(|gap| !gap.is_empty())
    }

    /// The ranges in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    /// Bytes in the set.
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// Ranges in the set.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is no byte in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.covered = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Inserts `ranges` in turn and compares what is missing below 100.
    fn check(ranges: &[Range<u64>], missing: &[Range<u64>]) {
        let mut set = RangeSet::new(8);
        for range in ranges {
            set.insert(range.clone());
        }
        assert_eq!(set.gaps(0..100).collect::<Vec<_>>(), missing, "after {ranges:?}");
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one missing range")]
    fn what_is_missing() {
        check(&[], &[0..100]);
        check(&[0..100], &[]);
        check(&[0..200], &[]);
        check(&[150..200], &[0..100]);
        check(&[90..200], &[0..90]);
        check(&[10..20, 30..40], &[0..10, 20..30, 40..100]);
        check(&[10..20, 20..40], &[0..10, 40..100]);
        check(&[10..20, 30..40, 15..35], &[0..10, 40..100]);
        check(&[10..20, 30..40, 0..100], &[]);
        check(&[5..5], &[0..100]);
        assert_eq!(RangeSet::new(1).gaps(0..0).count(), 0);
    }

    #[test]
    fn a_full_set_takes_only_what_touches() {
        let mut set = RangeSet::new(2);
        assert_eq!(set.insert(10..20), Insert::New(10));
        assert_eq!(set.insert(30..40), Insert::New(10));
        assert_eq!(set.insert(50..60), Insert::Full);
        assert_eq!(set.insert(12..18), Insert::Known);
        assert_eq!(set.insert(20..30), Insert::New(10));
        assert_eq!(set.insert(50..60), Insert::New(10));
        assert_eq!((set.len(), set.covered()), (2, 40));
    }

    #[test]
    fn a_full_set_takes_the_start_of_every_gap() {
        let mut set = RangeSet::new(1);
        assert_eq!(set.insert(50..60), Insert::New(10));
        assert_eq!(set.insert(30..40), Insert::Full);
        for start in (0..50).step_by(10).chain([60, 70]) {
            assert_eq!(set.insert(start..start + 10), Insert::New(10), "at {start}");
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), std::slice::from_ref(&(0..80)));
    }

    #[test]
    fn taking_cuts_the_lowest() {
        let mut set = RangeSet::new(4);
        set.insert(10..20);
        set.insert(30..40);
        assert_eq!(set.take_first(4), Some(10..14));
        assert_eq!(set.take_first(100), Some(14..20));
        assert_eq!(set.covered(), 10);
        assert_eq!(set.take_first(u64::MAX), Some(30..40));
        assert_eq!(set.take_first(1), None);
        assert!(set.is_empty());
    }

    #[test]
    fn in_order_is_one_range() {
        let mut set = RangeSet::new(2);
        for piece in 0..1_000_000u64 {
            assert_eq!(set.insert(piece * 1400..(piece + 1) * 1400), Insert::New(1400));
        }
        assert_eq!((set.len(), set.covered()), (1, 1_400_000_000));
    }

    const BYTES: usize = 96;

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(
            pieces in prop::collection::vec((0..BYTES as u64, 0..20u64), 0..40),
            limit in 1..12usize,
            (start, end) in (0..=BYTES as u64, 0..=BYTES as u64),
        ) {
            let mut set = RangeSet::new(limit);
            let mut bits = [false; BYTES + 20];
            for (start, len) in pieces {
                let range = start..start + len;
                let bytes = start as usize..(start + len) as usize;
                let new = bits[bytes.clone()].iter().filter(|bit| !**bit).count() as u64;
                match set.insert(range.clone()) {
                    Insert::New(count) => prop_assert_eq!(count, new),
                    Insert::Known => prop_assert_eq!(new, 0),
                    Insert::Full => {
                        prop_assert!(set.len() >= limit && start > 0);
                        let around = bytes.start.saturating_sub(1)..(bytes.end + 1).min(bits.len());
                        prop_assert!(bits[around].iter().all(|bit| !bit), "{:?} touches what is there", range);
                        continue;
                    }
                }
                bits[bytes].fill(true);
                prop_assert!(set.contains(&range));
                prop_assert!(set.len() <= limit + 1);
            }
            prop_assert_eq!(set.covered(), bits.iter().filter(|bit| **bit).count() as u64);
            let mut missing = [false; BYTES + 20];
            let mut above = None;
            for gap in set.gaps(start..end.max(start)) {
                prop_assert!(!gap.is_empty() && above.is_none_or(|above| gap.start > above));
                above = Some(gap.end);
                missing[gap.start as usize..gap.end as usize].fill(true);
            }
            for (at, (bit, missing)) in bits.iter().zip(missing).enumerate() {
                prop_assert_eq!(missing, !bit && (start..end).contains(&(at as u64)), "byte {}", at);
            }
        }
    }
}
