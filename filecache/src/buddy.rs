//! Which runs of the arena's pages are free: a buddy allocator.
//!
//! A block of order `n` is `2^n` pages that begin at a multiple of `2^n`. Two blocks of an order that differ in one bit
//! of their first page are buddies; when both are free they become one block of the next order. Pure: it hands out page
//! numbers and touches no memory.

use std::collections::BTreeSet;

/// Free and allocated blocks.
#[derive(Debug)]
pub(crate) struct Buddy {
    /// First pages of the free blocks, by order. Sorted, so that the lowest block goes first and the top of the arena
    /// stays whole for long.
    free: [BTreeSet<u32>; ORDERS],
    /// Order of the allocated block that begins at a page; [`NO_BLOCK`] elsewhere.
    allocated: Vec<u8>,
    free_pages: u32,
}

impl Buddy {
    /// All of `pages` free. Any number will do: the end is covered by smaller blocks.
    pub(crate) fn new(pages: u32) -> Self {
        let mut buddy = Self { free: Default::default(), allocated: vec![NO_BLOCK; pages as usize], free_pages: pages };
        let mut first = 0;
        while first < pages {
            let aligned = if first == 0 { HIGHEST_ORDER } else { first.trailing_zeros() as u8 };
            let fits = (pages - first).ilog2() as u8;
            let order = aligned.min(fits).min(HIGHEST_ORDER);
            buddy.free[usize::from(order)].insert(first);
            first += 1 << order;
        }
        buddy
    }

    /// First page of a block of `2^order` pages; `None` when no free block is large enough.
    pub(crate) fn allocate(&mut self, order: u8) -> Option<u32> {
        let found = (order..=HIGHEST_ORDER).find(|&o| !self.free[usize::from(o)].is_empty())?;
        let first = self.free[usize::from(found)].pop_first()?;
        // The upper halves go back, from the largest down.
        for half in (order..found).rev() {
            self.free[usize::from(half)].insert(first + (1 << half));
        }
        self.allocated[first as usize] = order;
        self.free_pages -= 1 << order;
        Some(first)
    }

    /// Takes back the block that [`allocate`](Self::allocate) gave.
    ///
    /// # Panics
    /// When no allocated block begins at `first`.
    pub(crate) fn free(&mut self, first: u32) {
        let mut order = std::mem::replace(&mut self.allocated[first as usize], NO_BLOCK);
        assert!(order != NO_BLOCK, "no allocated block begins at page {first}");
        self.free_pages += 1 << order;
        let mut block = first;
        while order < HIGHEST_ORDER && self.free[usize::from(order)].remove(&(block ^ (1 << order))) {
            block &= !(1 << order);
            order += 1;
        }
        self.free[usize::from(order)].insert(block);
    }

    /// Makes single pages of the allocated block that begins at `first`, to be freed one by one.
    ///
    /// # Panics
    /// When no allocated block begins at `first`.
    pub(crate) fn split(&mut self, first: u32) {
        let order = self.allocated[first as usize];
        assert!(order != NO_BLOCK, "no allocated block begins at page {first}");
        self.allocated[first as usize..][..1 << order].fill(0);
    }

    /// Order of the allocated block that begins at `first`, if one does.
    #[cfg(test)]
    fn order(&self, first: u32) -> Option<u8> {
        self.allocated.get(first as usize).copied().filter(|&order| order != NO_BLOCK)
    }

    /// Free pages in blocks of any size.
    pub(crate) fn free_pages(&self) -> u32 {
        self.free_pages
    }
}

/// Largest order: 512 pages, 2 MiB of 4 KiB pages.
pub(crate) const HIGHEST_ORDER: u8 = 9;
const ORDERS: usize = HIGHEST_ORDER as usize + 1;
const NO_BLOCK: u8 = u8::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fresh_arena_gives_its_blocks_from_the_bottom() {
        let mut buddy = Buddy::new(1024);
        assert_eq!(buddy.allocate(9), Some(0));
        assert_eq!(buddy.allocate(0), Some(512));
        assert_eq!(buddy.allocate(9), None, "the second half is broken");
        assert_eq!(buddy.allocate(8), Some(768));
        assert_eq!((buddy.order(0), buddy.order(512), buddy.order(1)), (Some(9), Some(0), None));
        assert_eq!(buddy.free_pages(), 1024 - 512 - 1 - 256);
    }

    #[test]
    #[should_panic(expected = "no allocated block begins at page 3")]
    fn a_block_is_freed_once() {
        let mut buddy = Buddy::new(8);
        for _ in 0..4 {
            buddy.allocate(0);
        }
        buddy.free(3);
        buddy.free(3);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u8),
        Free(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![(0..=HIGHEST_ORDER).prop_map(Step::Allocate), any::<usize>().prop_map(Step::Free)]
    }

    /// Whether a free, aligned run of `2^order` pages exists.
    fn has_room(owned: &[bool], order: u8) -> bool {
        owned.chunks_exact(1 << order).any(|run| run.iter().all(|&taken| !taken))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, ..ProptestConfig::default() })]

        /// Against a flag a page: blocks are aligned, inside and disjoint, a block is refused only when there is none,
        /// and what is freed grows together again.
        #[test]
        fn behaves_like_a_flag_a_page(pages in 1u32..1500, steps in proptest::collection::vec(step(), 1..200)) {
            let mut buddy = Buddy::new(pages);
            let mut owned = vec![false; pages as usize];
            let mut blocks: Vec<(u32, u8)> = Vec::new();
            for step in steps {
                match step {
                    Step::Allocate(order) => match buddy.allocate(order) {
                        Some(first) => {
                            prop_assert_eq!(first % (1 << order), 0);
                            prop_assert!(first + (1 << order) <= pages);
                            for page in &mut owned[first as usize..][..1 << order] {
                                prop_assert!(!*page, "handed out twice");
                                *page = true;
                            }
                            blocks.push((first, order));
                        }
                        None => prop_assert!(!has_room(&owned, order)),
                    },
                    Step::Free(which) if !blocks.is_empty() => {
                        let (first, order) = blocks.swap_remove(which % blocks.len());
                        owned[first as usize..][..1 << order].fill(false);
                        buddy.free(first);
                    }
                    Step::Free(_) => {}
                }
                prop_assert_eq!(buddy.free_pages() as usize, owned.iter().filter(|taken| !**taken).count());
            }
            for (first, _) in blocks {
                buddy.free(first);
            }
            prop_assert_eq!(buddy.free, Buddy::new(pages).free);
        }
    }
}
