//! Two neighbours' words in one: page `2k` of the arena has the lower half, page `2k + 1` the upper one.
//!
//! An atomic operation costs the same for both as for one, and a run is mostly pairs. Folios of two pages and more begin at
//! even pages, so their pairs are theirs alone; otherwise neighbours may be strangers, and it makes no difference: every
//! operation on a page leaves the other half as it is.
//!
//! - Always as 64 bits: an atomic that is accessed in two sizes has no meaning in the language.
//! - An addition or a subtraction carries nothing over: a half's number of holds stays in its bits. Why it is never too great
//!   is at [`TOO_MANY`](crate::word::TOO_MANY); it is never below zero, since what is subtracted was added before, by the same
//!   party or for it. A step between phases is taken by the only party that may leave the phase that is there.
//! - A comparison may fail because the neighbour has changed: so each is in a loop.
//! - All changes are read-modify-writes, so a change of one half breaks no order that the other one has made: who acquires
//!   sees all releases before, of both halves.

#[cfg(not(loom))]
use crate::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

use crate::page::{Answer, Left, Released};
use crate::word::{ADMITS, HOLDERS, LOOKED_AT, Phase, WAITER, Word};

/// The atomic word of two pages.
#[derive(Debug)]
pub(crate) struct PairWord(AtomicU64);

/// A page's half of a [`PairWord`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageWord<'a> {
    pair: &'a AtomicU64,
    /// 0 or 32.
    shift: u32,
}

/// What [`PairWord::hold`] found where it did not simply hold both pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Half {
    /// Whether the lower page is simply held. Otherwise the upper one is let go.
    pub(crate) lower: bool,
    /// What the first that is not simply held said.
    pub(crate) answer: Answer,
    /// What letting the upper page go leaves to do.
    pub(crate) upper: Released,
}

impl PairWord {
    /// Two pages that cache nothing.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(both(Word::of(Phase::Empty).0)))
    }

    /// The half of arena page `page`, which is one of these two.
    #[inline]
    pub(crate) fn of(&self, page: u32) -> PageWord<'_> {
        PageWord { pair: &self.0, shift: page % 2 * HALF }
    }

    /// [`PageWord::hold`] of both pages, by one addition.
    #[inline]
    pub(crate) fn hold(&self) -> Result<(), Half> {
        // Acquire: as for one page.
        let before = self.0.fetch_add(both(1), Ordering::Acquire);
        if before & both(LOOKED_AT) == both(ADMITS) { Ok(()) } else { Err(self.hold_unusual(before)) }
    }

    /// Whether a writer waits for one of the pages, or one is in no file.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Acquire) & both(WAITER | HOLDERS) != 0
    }

    /// The rest, for words other than the usual ones; both counts are in already.
    #[cold]
    pub(crate) fn hold_unusual(&self, before: u64) -> Half {
        let (lower, upper) = (self.of(0), self.of(1));
        if lower.part(before).0 & LOOKED_AT == ADMITS {
            return Half { lower: true, answer: upper.hold_unusual(upper.part(before)), upper: Released::Done };
        }
        // A hold's release, or a passing count's: they are the same.
        let let_go = upper.release();
        Half { lower: false, answer: lower.hold_unusual(lower.part(before)), upper: let_go }
    }

    /// [`PageWord::let_go`] of both pages, by one subtraction. `None`: nothing is left of either.
    #[inline]
    pub(crate) fn let_go(&self) -> Option<[Left; 2]> {
        // Release: as for one page.
        let before = self.0.fetch_sub(both(1), Ordering::Release);
        let parts = || [0, 1].map(|page| self.of(page).part(before));
        debug_assert!(parts().iter().all(|word| word.holds() > 0), "a page was released more often than held");
        if before & both(WAITER | HOLDERS) == 0 { None } else { Some(parts().map(Left::of)) }
    }
}

/// What is done to one half.
impl PageWord<'_> {
    /// The half of `pair` that is this page's.
    #[inline]
    fn part(self, pair: u64) -> Word {
        Word((pair >> self.shift) as u32)
    }

    /// The word, and nobody goes on meanwhile.
    #[cfg(simulation)]
    pub(crate) fn peek(self) -> Word {
        self.part(self.pair.peek())
    }

    #[inline]
    pub(crate) fn load(self, order: Ordering) -> Word {
        self.part(self.pair.load(order))
    }

    /// Adds to the word, which stays in its bits: the word before.
    #[inline]
    pub(crate) fn add(self, number: u32, order: Ordering) -> Word {
        self.part(self.pair.fetch_add(u64::from(number) << self.shift, order))
    }

    /// Subtracts from the word, which has so much: the word before.
    #[inline]
    pub(crate) fn sub(self, number: u32, order: Ordering) -> Word {
        self.part(self.pair.fetch_sub(u64::from(number) << self.shift, order))
    }

    pub(crate) fn set(self, bits: u32, order: Ordering) {
        self.pair.fetch_or(u64::from(bits) << self.shift, order);
    }

    pub(crate) fn clear(self, bits: u32, order: Ordering) {
        self.pair.fetch_and(!(u64::from(bits) << self.shift), order);
    }

    /// A transition by the only party that may leave `from`; the rest of the word stays, and `holds` are added.
    pub(crate) fn step(self, from: Phase, to: Phase, holds: u32) {
        // A negative difference takes from this half what the phase has there, and nothing from the other one.
        let more = i64::from(Word::of(to).0) - i64::from(Word::of(from).0) + i64::from(holds);
        // AcqRel: what this party did to the bytes or to the protection comes before the new phase.
        let before = self.part(self.pair.fetch_add((more << self.shift) as u64, Ordering::AcqRel));
        debug_assert_eq!(before.phase(), from, "a page left {from:?} behind its owner's back");
    }

    /// Replaces the word by `next` of it, and asks `next` again when the pair has changed meanwhile. `Ok`: the new word.
    /// `Err`: the word for which `next` gave nothing.
    pub(crate) fn change(self, mut next: impl FnMut(Word) -> Option<Word>) -> Result<Word, Word> {
        let mut seen = self.pair.load(Ordering::Acquire);
        loop {
            let word = self.part(seen);
            let Some(new) = next(word) else { return Err(word) };
            let pair = seen ^ u64::from(word.0 ^ new.0) << self.shift;
            match self.pair.compare_exchange_weak(seen, pair, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(new),
                Err(other) => seen = other,
            }
        }
    }
}

/// Where a page's word is: the address of its pair, and half a pair more for the upper half.
///
/// Only a name: to use the word takes the knowledge that it is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At(*const u8);

impl At {
    /// The word of page `page` of `pairs`.
    #[inline]
    pub(crate) fn of(pairs: &[PairWord], page: u32) -> Self {
        Self(pairs.as_ptr().cast()).after(page)
    }

    /// The word of the page that comes `pages` later.
    #[inline]
    pub(crate) fn after(self, pages: u32) -> Self {
        Self(self.0.wrapping_add(pages as usize * STRIDE))
    }

    /// The pair. Who may use one page's may use those of its neighbours by this, as far as they are there.
    #[inline]
    pub(crate) fn pair(self) -> *const PairWord {
        self.0.map_addr(|address| address & !STRIDE).cast()
    }

    /// Whether it is the upper half.
    #[inline]
    pub(crate) fn is_upper(self) -> bool {
        self.0.addr() & STRIDE != 0
    }

    /// The number of the page of `pairs` that this is; a number beyond all of them if it is none.
    #[inline]
    pub(crate) fn page_of(self, pairs: &[PairWord]) -> u32 {
        let bytes = self.0.addr().wrapping_sub(pairs.as_ptr().addr());
        u32::try_from(bytes / STRIDE).unwrap_or(u32::MAX)
    }
}

/// `half` twice.
const fn both(half: u32) -> u64 {
    half as u64 | (half as u64) << HALF
}

/// Bits of a half.
const HALF: u32 = 32;
/// Bytes from a page's word to the next.
const STRIDE: usize = 4;
const _: () = assert!(cfg!(loom) || size_of::<PairWord>() == 2 * STRIDE && align_of::<PairWord>() == 2 * STRIDE);
