//! Which arena page caches which page of a file: two levels, read without a lock.

use crate::sync::atomic::{AtomicU32, Ordering};
use std::sync::OnceLock;

/// File page to arena page. Grows without moving what is there: the first parts of the file are found at once, the others in
/// buckets, each twice as long as the one before. A bucket or part is made when the first page of it is cached.
#[derive(Debug)]
pub(crate) struct PageTable {
    /// Most files have no other parts: one look less, and nothing to compute before it.
    first: [OnceLock<Part>; FIRST],
    buckets: [OnceLock<Box<[OnceLock<Part>]>>; BUCKETS],
}

type Part = Box<[Entry; PART_PAGES as usize]>;

/// Which arena page caches a file page.
#[derive(Debug)]
pub(crate) struct Entry(AtomicU32);

impl Entry {
    /// The arena page, if there is one.
    #[inline]
    pub(crate) fn get(&self) -> Option<u32> {
        // Acquire: the arena page's phase, set before it was put here, is seen.
        self.0.load(Ordering::Acquire).checked_sub(1)
    }
}

impl PageTable {
    /// A table of which no page is cached.
    pub(crate) fn new() -> Self {
        Self { first: [const { OnceLock::new() }; FIRST], buckets: [const { OnceLock::new() }; BUCKETS] }
    }

    /// The arena page of file page `page`, if it has one.
    #[inline]
    pub(crate) fn get(&self, page: u64) -> Option<u32> {
        self.entries(page).first()?.get()
    }

    /// The entries from file page `page` to the end of its part; none when no page of the part was ever cached.
    #[inline]
    pub(crate) fn entries(&self, page: u64) -> &[Entry] {
        let part = match self.first.get((page / PART_PAGES) as usize) {
            Some(part) => part.get(),
            None => self.later(page / PART_PAGES),
        };
        part.map_or(&[], |part| &part[(page % PART_PAGES) as usize..])
    }

    /// A part that is not one of the first.
    fn later(&self, part: u64) -> Option<&Part> {
        let (bucket, index) = place(part);
        self.buckets.get(bucket)?.get()?[index].get()
    }

    /// Sets the arena page of file page `page`, which is below [`MOST_PAGES`].
    pub(crate) fn set(&self, page: u64, arena_page: Option<u32>) {
        let part = page / PART_PAGES;
        let part = self.first.get(part as usize).unwrap_or_else(|| {
            let (bucket, index) = place(part);
            &self.buckets[bucket].get_or_init(|| (0..(FIRST + 1) << bucket).map(|_| OnceLock::new()).collect())[index]
        });
        let part = part.get_or_init(|| Box::new([const { Entry(AtomicU32::new(0)) }; PART_PAGES as usize]));
        let entry = arena_page.map_or(0, |arena_page| arena_page + 1);
        part[(page % PART_PAGES) as usize].0.store(entry, Ordering::Release);
    }
}

/// Bucket of a part that is not one of the first, and its place there: bucket `b` has the parts from
/// `(FIRST + 1) * 2^b - 1` on.
fn place(part: u64) -> (usize, usize) {
    let log = (part + 1).ilog2();
    ((log - (FIRST + 1).ilog2()) as usize, (part + 1 - (1 << log)) as usize)
}

/// The run of file pages that one folio should cache so that `page` is in it: first page and order.
///
/// A file is cut into runs of the highest order, and its rest into one run for each one bit of its length, largest
/// first: no page of the arena is wasted, every run is aligned, and the cut needs no memory.
pub(crate) fn folio_of(page: u64, pages: u64, highest_order: u8) -> (u64, u8) {
    debug_assert!(page < pages);
    // The highest bit in which `page` and the length differ is the one bit of the length whose run has the page.
    let differ = 63 - (page ^ pages).leading_zeros() as u8;
    let order = differ.min(highest_order);
    (page >> order << order, order)
}

/// Pages in a part: 2 KiB of table, a 512th of the memory that a page takes.
const PART_PAGES: u64 = 512;
/// Parts that are found at once, 254 MiB of 4 KiB pages: 2 KiB a file. One less than a power of two.
const FIRST: usize = 127;
const BUCKETS: usize = 19;
/// Pages that a file can have: 128 TiB of 4 KiB pages, as much as there is address space for views.
pub(crate) const MOST_PAGES: u64 = (((FIRST as u64 + 1) << BUCKETS) - 1) * PART_PAGES;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_table_remembers_and_forgets() {
        let table = PageTable::new();
        assert_eq!(table.get(1024), None);
        table.set(1024, Some(0));
        table.set(3, Some(77));
        let (last, later) = (FIRST as u64 * PART_PAGES - 1, FIRST as u64 * PART_PAGES);
        table.set(last, Some(5));
        table.set(later, Some(6));
        assert_eq!((table.get(last), table.get(later), table.get(2 * later)), (Some(5), Some(6), None));
        table.set(MOST_PAGES - 1, None);
        assert_eq!((table.get(1024), table.get(3), table.get(4), table.get(1025)), (Some(0), Some(77), None, None));
        assert_eq!((table.get(MOST_PAGES - 1), table.get(u64::MAX / 4096)), (None, None));
        table.set(3, None);
        assert_eq!(table.get(3), None);
    }

    #[test]
    fn every_part_has_a_place_of_its_own() {
        let mut expected = (0, 0);
        for part in FIRST as u64..10_000 {
            assert_eq!(place(part), expected);
            let is_last = expected.1 == ((FIRST + 1) << expected.0) - 1;
            expected = if is_last { (expected.0 + 1, 0) } else { (expected.0, expected.1 + 1) };
        }
        let last = ((FIRST + 1) << (BUCKETS - 1)) - 1;
        assert_eq!(place(MOST_PAGES / PART_PAGES - 1), (BUCKETS - 1, last));
    }

    #[test]
    fn folios_by_file_size() {
        let cut = |pages: u64| {
            let mut at = 0;
            let mut orders = Vec::new();
            while at < pages {
                let (first, order) = folio_of(at, pages, 9);
                assert_eq!(first, at);
                orders.push(order);
                at += 1 << order;
            }
            assert_eq!(at, pages, "no page beyond the file");
            orders
        };
        assert_eq!(cut(1), [0]);
        assert_eq!(cut(2), [1]);
        assert_eq!(cut(7), [2, 1, 0]);
        assert_eq!(cut(512), [9]);
        assert_eq!(cut(1024 + 256 + 3), [9, 9, 8, 1, 0]);
    }

    proptest! {
        /// Every page of a run names the same run, and the run lies in the file.
        #[test]
        fn runs_are_aligned_and_agree(pages in 1u64..100_000, page in any::<u64>(), highest in 0u8..=9) {
            let page = page % pages;
            let (first, order) = folio_of(page, pages, highest);
            prop_assert!(first <= page && page < first + (1 << order) && first + (1 << order) <= pages);
            prop_assert_eq!(first % (1 << order), 0);
            for other in [first, first + (1 << order) - 1] {
                prop_assert_eq!(folio_of(other, pages, highest), (first, order));
            }
        }
    }
}
