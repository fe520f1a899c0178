//! The state of one page: who may write it, and who relies on it not being written.
//!
//! One atomic word a page. The phases, and who moves a page from one to the next:
//!
//! ```text
//!            fill                fill                    guard (or the last release, for a waiting writer)
//!   Empty ---------> Filling ----------> Protected -------------------> Opening
//!                     |   ^                ^    ^                          |
//!                fill |   | fill           |    | guard: no view left      | guard, after it has unprotected
//!                     v   |         holder |    +--------------------------+
//!                     Error                |                               v
//!                                       Closing <----------------------- Open
//!                                                       holder
//! ```
//!
//! *Protected* means: no view of the page lets a store through. *Opening* belongs to the guard alone and *Closing* to
//! one holder alone, and the protection of a page's views changes in these two phases only. So the order of "decide,
//! change the protection, publish" is the same on both sides, and the two sides can not be inside at the same time:
//!
//! - a holder counts itself in on a *Protected* page only; the guard leaves *Protected* only at a count of zero; both
//!   are one atomic operation on the same word, so one of them comes first and the other sees it;
//! - a holder that finds the page *Open* moves it to *Closing* (nobody else can then open it), protects, and publishes
//!   *Protected* together with its own count.
//!
//! The count is optimistic: [`PageWord::hold`] adds one first and looks at the phase after. An addition to a page that
//! is not *Protected* is a *passing* count; it is taken back at once, and it is harmless because every other transition
//! keeps the count as it finds it. Taking back is a release like any other: if a writer began to wait because of
//! a passing count, taking it back lets the writer go on.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// What may be done with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Caches nothing.
    Empty = 0,
    /// One thread is reading the file into it.
    Filling = 1,
    /// Caches bytes of its file; no view lets a store through.
    Protected = 2,
    /// The guard is about to let a writer through.
    Opening = 3,
    /// Writers may store.
    Open = 4,
    /// One holder is about to keep writers out again.
    Closing = 5,
    /// Reading the file failed; may be tried again.
    Error = 6,
}

/// Why [`PageWord::hold`] did not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The page was in this phase. `opening`: taking the count back moved the page to [`Phase::Opening`], and the
    /// guard must be told.
    Phase { phase: Phase, opening: bool },
    /// 2^39 holds exist already.
    TooMany,
}

/// What the guard does about a store that hit protection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The page is now [`Phase::Opening`] and the guard's: unprotect, then [`PageWord::opened`].
    Open,
    /// The page is held; the last release moves it to [`Phase::Opening`] and tells the guard.
    Wait,
    /// A release has moved the page to [`Phase::Opening`] already and tells the guard.
    Queued,
    /// The page is in a phase in which no view shows it.
    Stray(Phase),
}

/// A page's atomic word.
#[derive(Debug)]
pub(crate) struct PageWord(AtomicU64);

impl PageWord {
    /// A page that caches nothing.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(Word::of(Phase::Empty).0))
    }

    /// Keeps writers out until [`release`](Self::release): one atomic addition on a protected page.
    #[inline]
    pub(crate) fn hold(&self) -> Result<(), Refusal> {
        // Acquire: the bytes that a fill or a closing holder published before `Protected` are visible after this.
        let before = Word(self.0.fetch_add(1, Ordering::Acquire));
        if before.0 & (PHASE | WAITER | REFERENCED | TOO_MANY) == ADMITS {
            return Ok(());
        }
        self.hold_unusual(before)
    }

    /// The rest of [`hold`](Self::hold), for words other than the usual one; the count is in already.
    #[cold]
    fn hold_unusual(&self, before: Word) -> Result<(), Refusal> {
        if before.0 & TOO_MANY != 0 {
            // The count stays far above zero, so this release can not be the last.
            self.0.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::TooMany);
        }
        // Waiter and no holds: the last release is on its way to `Opening`; stepping in would starve the writer.
        let turn_of_writer = before.0 & WAITER != 0 && before.holds() == 0;
        if before.phase() == Phase::Protected && !turn_of_writer {
            if before.0 & REFERENCED == 0 {
                self.0.fetch_or(REFERENCED, Ordering::Relaxed);
            }
            return Ok(());
        }
        let opening = self.release();
        let phase = if turn_of_writer { Phase::Opening } else { before.phase() };
        Err(Refusal::Phase { phase, opening })
    }

    /// Ends one hold. `true`: it was the last, a writer waits, and the page is now [`Phase::Opening`]: tell the guard.
    #[inline]
    #[must_use = "the guard must be told when this is true, or a writer waits for ever"]
    pub(crate) fn release(&self) -> bool {
        // Release: what the holder read, it read before any store of the writer that this lets through.
        let before = Word(self.0.fetch_sub(1, Ordering::Release));
        debug_assert!(before.holds() > 0, "a page was released more often than held");
        before.0 & (WAITER | HOLDS) == WAITER | 1 && self.open_for_waiter()
    }

    #[cold]
    fn open_for_waiter(&self) -> bool {
        self.change(|word| {
            let last = word.phase() == Phase::Protected && word.0 & WAITER != 0 && word.holds() == 0;
            last.then(|| word.with(Phase::Opening).set(DIRTY).clear(WAITER))
        })
        .is_ok()
    }

    /// A store hit protection: what the guard does about it. Only the guard calls this.
    pub(crate) fn fault(&self) -> Fault {
        let changed = self.change(|word| match word.phase() {
            // Dirty before the store can land: nobody must see the store and a clean page.
            Phase::Protected if word.holds() == 0 => Some(word.with(Phase::Opening).set(DIRTY).clear(WAITER)),
            Phase::Open => Some(word.with(Phase::Opening).set(DIRTY)),
            Phase::Protected | Phase::Closing => Some(word.set(WAITER)),
            _ => None,
        });
        match changed {
            Ok(word) if word.phase() == Phase::Opening => Fault::Open,
            Ok(_) => Fault::Wait,
            Err(word) if word.phase() == Phase::Opening => Fault::Queued,
            Err(word) => Fault::Stray(word.phase()),
        }
    }

    /// `Opening` to `Open`: the guard has unprotected the page.
    pub(crate) fn opened(&self) {
        self.step(Phase::Opening, Phase::Open, 0);
    }

    /// `Opening` back to `Protected`: the guard has found no view to unprotect.
    pub(crate) fn not_opened(&self) {
        self.step(Phase::Opening, Phase::Protected, 0);
    }

    /// `Open` to `Closing`; `false` when the page is in another phase. The caller protects the page next.
    #[must_use]
    pub(crate) fn begin_close(&self) -> bool {
        self.change(|word| (word.phase() == Phase::Open).then(|| word.with(Phase::Closing))).is_ok()
    }

    /// `Closing` to `Protected`, held once by the caller.
    pub(crate) fn closed_and_held(&self) {
        self.step(Phase::Closing, Phase::Protected, 1);
    }

    /// `Closing` back to `Open`: the page could not be protected. `true`: a writer waits; the page is
    /// [`Phase::Opening`] and the guard must be told.
    #[must_use = "the guard must be told when this is true, or a writer waits for ever"]
    pub(crate) fn not_closed(&self) -> bool {
        let changed = self.change(|word| {
            debug_assert_eq!(word.phase(), Phase::Closing);
            Some(if word.0 & WAITER != 0 { word.with(Phase::Opening).clear(WAITER) } else { word.with(Phase::Open) })
        });
        matches!(changed, Ok(word) if word.phase() == Phase::Opening)
    }

    /// `Open` to `Protected` without a hold: no view is left through which a store could come.
    pub(crate) fn views_gone(&self) {
        let _ = self.change(|word| (word.phase() == Phase::Open).then(|| word.with(Phase::Protected)));
    }

    /// `Empty` or `Error` to `Filling`; `false` when the page is in another phase.
    #[must_use]
    pub(crate) fn begin_fill(&self) -> bool {
        let empty = |word: Word| matches!(word.phase(), Phase::Empty | Phase::Error);
        self.change(|word| empty(word).then(|| word.with(Phase::Filling).clear(DIRTY | REFERENCED))).is_ok()
    }

    /// `Filling` to `Protected`: the bytes are there.
    pub(crate) fn filled(&self) {
        self.step(Phase::Filling, Phase::Protected, 0);
    }

    /// `Filling` to `Error`.
    pub(crate) fn not_filled(&self) {
        self.step(Phase::Filling, Phase::Error, 0);
    }

    /// To `Empty`, if nothing holds the page and nobody is changing it; `false` otherwise.
    #[must_use]
    pub(crate) fn empty(&self) -> bool {
        let idle =
            |word: Word| word.holds() == 0 && matches!(word.phase(), Phase::Protected | Phase::Error | Phase::Empty);
        self.change(|word| idle(word).then(|| word.with(Phase::Empty).clear(WAITER | DIRTY | REFERENCED))).is_ok()
    }

    /// The phase at this moment.
    pub(crate) fn phase(&self) -> Phase {
        self.now().phase()
    }

    /// Number of holds at this moment, passing ones included.
    #[cfg_attr(not(test), allow(dead_code, reason = "eviction asks"))]
    pub(crate) fn holds(&self) -> u64 {
        self.now().holds()
    }

    /// Whether a store may have landed since the page was filled or cleaned.
    pub(crate) fn is_dirty(&self) -> bool {
        self.now().0 & DIRTY != 0
    }

    fn now(&self) -> Word {
        Word(self.0.load(Ordering::Acquire))
    }

    /// A transition by the only party that may leave `from`; the rest of the word stays, and `holds` are added.
    fn step(&self, from: Phase, to: Phase, holds: u64) {
        let delta = Word::of(to).0.wrapping_sub(Word::of(from).0).wrapping_add(holds);
        // AcqRel: what this party did to the bytes or to the protection comes before the new phase.
        let before = Word(self.0.fetch_add(delta, Ordering::AcqRel));
        debug_assert_eq!(before.phase(), from, "a page left {from:?} behind its owner's back");
    }

    /// Replaces the word by `next` of it. `Ok`: the new word. `Err`: the word for which `next` gave nothing.
    fn change(&self, next: impl Fn(Word) -> Option<Word>) -> Result<Word, Word> {
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            let Some(new) = next(Word(seen)) else { return Err(Word(seen)) };
            match self.0.compare_exchange_weak(seen, new.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(new),
                Err(other) => seen = other,
            }
        }
    }
}

/// A copy of the word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const fn of(phase: Phase) -> Word {
        Word((phase as u64) << PHASE_SHIFT)
    }

    fn phase(self) -> Phase {
        match self.0 >> PHASE_SHIFT {
            0 => Phase::Empty,
            1 => Phase::Filling,
            2 => Phase::Protected,
            3 => Phase::Opening,
            4 => Phase::Open,
            5 => Phase::Closing,
            _ => Phase::Error,
        }
    }

    fn holds(self) -> u64 {
        self.0 & HOLDS
    }

    fn with(self, phase: Phase) -> Word {
        Word(self.0 & !PHASE | Word::of(phase).0)
    }

    fn set(self, bits: u64) -> Word {
        Word(self.0 | bits)
    }

    fn clear(self, bits: u64) -> Word {
        Word(self.0 & !bits)
    }
}

/// Bits 0..=39: number of holds.
const HOLDS: u64 = (1 << 40) - 1;
/// Top bit of the number of holds: most holds that a page can have. Above it is room for as many passing counts of
/// threads that are about to be refused: more threads than a machine can have.
const TOO_MANY: u64 = 1 << 39;
/// A writer waits for the holds to end.
const WAITER: u64 = 1 << 40;
/// A store may have landed since the page was last in step with its file.
const DIRTY: u64 = 1 << 41;
/// Held since eviction last looked.
const REFERENCED: u64 = 1 << 42;
/// Bits 61..=63: [`Phase`].
const PHASE_SHIFT: u32 = 61;
const PHASE: u64 = 7 << PHASE_SHIFT;
/// What [`PageWord::hold`] sees of a page that it need not look at twice.
const ADMITS: u64 = (Phase::Protected as u64) << PHASE_SHIFT | REFERENCED;

#[cfg(all(test, loom))]
#[path = "page_model.rs"]
mod loom_model;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn protected() -> PageWord {
        let page = PageWord::new();
        assert!(page.begin_fill());
        page.filled();
        page
    }

    fn open() -> PageWord {
        let page = protected();
        assert_eq!(page.fault(), Fault::Open);
        page.opened();
        page
    }

    #[test]
    fn a_fault_on_an_idle_page_opens_it_and_makes_it_dirty() {
        let page = protected();
        assert!(!page.is_dirty());
        assert_eq!(page.fault(), Fault::Open);
        assert!(page.is_dirty(), "dirty before the store can land");
        assert_eq!(page.phase(), Phase::Opening);
        page.opened();
        assert_eq!(page.phase(), Phase::Open);
    }

    #[test]
    fn a_fault_on_a_held_page_waits_for_the_last_release() {
        let page = protected();
        page.hold().unwrap();
        page.hold().unwrap();
        assert_eq!(page.fault(), Fault::Wait);
        assert!(!page.release());
        assert_eq!(page.phase(), Phase::Protected);
        assert!(page.release(), "the last release tells the guard");
        assert_eq!(page.phase(), Phase::Opening);
        assert_eq!(page.fault(), Fault::Queued, "another writer on the same page");
    }

    #[test]
    fn a_release_without_a_writer_tells_nobody() {
        let page = protected();
        page.hold().unwrap();
        assert!(!page.release());
        assert_eq!((page.phase(), page.holds()), (Phase::Protected, 0));
    }

    #[test]
    fn a_hold_on_an_open_page_closes_it() {
        let page = open();
        assert_eq!(page.hold(), Err(Refusal::Phase { phase: Phase::Open, opening: false }));
        assert_eq!(page.holds(), 0);
        assert!(page.begin_close());
        assert!(!page.begin_close(), "one holder closes");
        assert_eq!(page.fault(), Fault::Wait, "a writer that comes while the page closes waits for this hold");
        page.closed_and_held();
        assert_eq!((page.phase(), page.holds()), (Phase::Protected, 1));
        assert!(page.release());
    }

    #[test]
    fn a_page_that_could_not_be_closed_is_given_back_to_its_writer() {
        let page = open();
        assert!(page.begin_close());
        assert!(!page.not_closed());
        assert_eq!(page.phase(), Phase::Open);
        assert!(page.begin_close());
        assert_eq!(page.fault(), Fault::Wait);
        assert!(page.not_closed());
        assert_eq!(page.phase(), Phase::Opening);
    }

    #[test]
    fn a_new_holder_can_not_step_in_front_of_a_writer_whose_turn_has_come() {
        let page = protected();
        page.hold().unwrap();
        assert_eq!(page.fault(), Fault::Wait);
        // What the last release does, stopped between its two steps.
        page.0.fetch_sub(1, Ordering::Release);
        assert_eq!(page.hold(), Err(Refusal::Phase { phase: Phase::Opening, opening: true }));
        assert_eq!(page.phase(), Phase::Opening);
        assert!(!page.open_for_waiter(), "the guard is told once");
    }

    #[test]
    fn too_many_holds_are_refused_and_leave_the_word_alone() {
        let page = protected();
        page.0.fetch_add(TOO_MANY - 1, Ordering::Relaxed);
        page.hold().unwrap();
        assert_eq!(page.hold(), Err(Refusal::TooMany));
        assert_eq!((page.phase(), page.holds()), (Phase::Protected, TOO_MANY));
        assert!(!page.release());
        page.hold().unwrap();
    }

    #[test]
    fn a_failed_fill_may_be_tried_again() {
        let page = PageWord::new();
        assert!(page.begin_fill());
        assert!(!page.begin_fill(), "one thread fills");
        page.not_filled();
        assert_eq!(page.hold(), Err(Refusal::Phase { phase: Phase::Error, opening: false }));
        assert!(page.begin_fill());
        page.filled();
        page.hold().unwrap();
    }

    #[test]
    fn only_an_idle_page_is_emptied() {
        let page = protected();
        page.hold().unwrap();
        assert!(!page.empty());
        assert!(!page.release());
        assert!(page.empty());
        assert!(!open().empty());
    }

    #[test]
    fn views_that_go_leave_the_page_dirty_and_protected() {
        let page = open();
        page.views_gone();
        assert_eq!(page.phase(), Phase::Protected);
        assert!(page.is_dirty());
    }
}
