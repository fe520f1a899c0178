//! Which arena page caches which page of a file: two levels, read without a lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// File page to arena page. The second level is made when the first page of its part of the file is cached.
#[derive(Debug)]
pub(crate) struct PageTable {
    parts: Box<[OnceLock<Part>]>,
    pages: u64,
}

type Part = Box<[AtomicU32]>;

impl PageTable {
    /// A table for a file of `pages` pages, none of them cached.
    pub(crate) fn new(pages: u64) -> Self {
        let parts = pages.div_ceil(PART_PAGES) as usize;
        Self { parts: (0..parts).map(|_| OnceLock::new()).collect(), pages }
    }

    /// Length of the file, pages.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// The arena page of file page `page`, if it has one.
    #[inline]
    pub(crate) fn get(&self, page: u64) -> Option<u32> {
        let part = self.parts.get((page / PART_PAGES) as usize)?.get()?;
        // Acquire: the arena page's phase, set before it was put here, is seen.
        part.get((page % PART_PAGES) as usize)?.load(Ordering::Acquire).checked_sub(1)
    }

    /// Sets the arena page of file page `page`.
    pub(crate) fn set(&self, page: u64, arena_page: Option<u32>) {
        let index = page / PART_PAGES;
        let pages = (self.pages - index * PART_PAGES).min(PART_PAGES);
        let part = self.parts[index as usize].get_or_init(|| (0..pages).map(|_| AtomicU32::new(0)).collect());
        let entry = arena_page.map_or(0, |arena_page| arena_page + 1);
        part[(page % PART_PAGES) as usize].store(entry, Ordering::Release);
    }

    /// All cached pages: file page and arena page.
    pub(crate) fn cached(&self) -> impl Iterator<Item = (u64, u32)> {
        let made = (0u64..).zip(&self.parts).filter(|(_, part)| part.get().is_some());
        made.flat_map(|(index, _)| index * PART_PAGES..((index + 1) * PART_PAGES).min(self.pages))
            .filter_map(|page| Some((page, self.get(page)?)))
    }
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

/// Pages in a second-level part.
const PART_PAGES: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_table_remembers_and_forgets() {
        let table = PageTable::new(1025);
        assert_eq!(table.get(1024), None);
        table.set(1024, Some(0));
        table.set(3, Some(77));
        assert_eq!((table.get(1024), table.get(3), table.get(4), table.get(1025)), (Some(0), Some(77), None, None));
        assert_eq!(table.cached().collect::<Vec<_>>(), [(3, 77), (1024, 0)]);
        table.set(3, None);
        assert_eq!(table.get(3), None);
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
