//! The state of one page: who may write it, and who relies on it not being written.
//!
//! 32 bits a page of the arena, two neighbours in one atomic word (`pair.rs`). A page's word, here, is its half: nothing that
//! is done to one half changes the other. The phases, and who moves a page from one to the next:
//!
//! ```text
//!            fill             fill                    guard (or the last release, for a waiting writer)
//!   Empty ---------> Filling -------> Protected ----------------------> Opening
//!     ^               |   ^           |  ^    ^                            |
//!     |          fill |   | fill      |  |    | holder                     | guard, after it has unprotected
//!     |               v   |           |  |    |                            v
//!     |               Error           |  |  Closing <-------------------- Open
//!     |                               |  |            holder
//!     +---------------- Taken <-------+  |
//!       evictor           |   evictor    |
//!                         +--------------+
//! ```
//!
//! *Protected* means: no view of the page lets a store through. *Open* means: some view may. *Opening* belongs to the
//! guard alone, *Closing* to one holder alone, and the protection of a page's views changes in these two phases only. So the
//! order of "decide, change the protection, publish" is the same on both sides, and the two sides can not be inside at the
//! same time:
//!
//! - a holder counts itself in on a *Protected* page only; the guard leaves *Protected* only at a count of zero; both
//!   are one atomic operation on the same word, so one of them comes first and the other sees it;
//! - a holder that finds the page *Open* moves it to *Closing* (nobody else can then open it), protects, and publishes
//!   *Protected* together with its own count.
//!
//! *Taken* belongs to one thread, that takes the page out of its file or changes its bytes itself. It too is entered at a
//! count of zero only.
//!
//! The count is optimistic: [`PageWord::hold`] adds one first and looks at the phase after. An addition to a page that
//! is not *Protected* is a *passing* count; it is taken back at once, and it is harmless because every other transition
//! keeps the count as it finds it. Taking back is a release like any other: if a writer began to wait because of
//! a passing count, taking it back lets the writer go on. [`PairWord::hold`] does the same for two neighbours at once, and then
//! looks at each of them.
//!
//! A page may have left its file between the moment a holder looked it up and the moment it was counted in. So the holder
//! looks it up again after: a page that is held stays in its file (or is [detached](PageWord::detach) from it and then
//! belongs to its holders).

#[cfg(not(loom))]
use crate::sync::atomic::{Ordering, fence};
#[cfg(loom)]
use loom::sync::atomic::{Ordering, fence};

pub(crate) use crate::pair::{At, Half, PageWord, PairWord};
pub(crate) use crate::word::Phase;
use crate::word::{
    ADMITS, DIRTY, ENDED, FLAGS, HOLDERS, LOOKED_AT, OFTEN, REFERENCED, TOO_MANY, UNREAD, WAITER, WRITTEN, Word,
};

/// What [`PageWord::hold`] found besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touch {
    /// The page was held before.
    Again,
    /// The first hold since the page was filled, or since eviction last looked.
    First,
}

/// Why [`PageWord::hold`] did not simply hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The page was in this phase. `released`: what taking the count back leaves to do.
    Phase { phase: Phase, released: Released },
    /// The page *is* held (release it), but a writer waits for it: send something else instead, or the writer starves.
    WriterWaits,
    /// 2^22 holds exist already.
    TooMany,
}

/// What [`PageWord::hold`] answers.
pub(crate) type Answer = Result<Touch, Refusal>;

/// What a release leaves to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a writer waits for ever, or a page is lost, if nobody does it"]
pub(crate) enum Released {
    /// Nothing.
    Done,
    /// The page is [`Phase::Opening`]: the guard must be told.
    Opening,
    /// The page belonged to its holders, and this was the last: it is [`Phase::Empty`] and free.
    Free,
    /// The cache has ended, and this was the last hold of the page.
    Last,
}

/// What [`PageWord::let_go`] has left to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a writer waits for ever, or a page is lost, if nobody does it"]
pub(crate) enum Left {
    /// Nothing.
    Nothing,
    /// [`PageWord::settle`]. Not by who can not be sure that the word is still there: others may settle the page first, and
    /// end the cache.
    Unsettled,
    /// As [`Released::Last`]. The cache waits for that, so it is still there.
    Ended,
}

impl Left {
    /// What the release that found the word to be `before` has left.
    #[inline]
    pub(crate) fn of(before: Word) -> Self {
        if before.0 & (WAITER | HOLDERS) == 0 { Self::Nothing } else { Self::of_last(before) }
    }

    /// The same, if there is something unusual about the page.
    #[cold]
    fn of_last(before: Word) -> Self {
        if before.holds() > 1 {
            return Self::Nothing;
        }
        if !before.has_ended() {
            return Self::Unsettled;
        }
        // Acquire: what the page's other holders did comes before the memory goes. Nobody passes by any more, so one
        // release comes here.
        fence(Ordering::Acquire);
        Self::Ended
    }
}

/// What the guard does about a store that hit protection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The page is now [`Phase::Opening`] and the guard's: unprotect, then [`PageWord::opened`].
    Open,
    /// The page is held or taken; whoever ends that tells the guard.
    Wait,
    /// A release has moved the page to [`Phase::Opening`] already and tells the guard.
    Queued,
    /// The page is in a phase in which no view shows it.
    Stray(Phase),
}

/// How much a page was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(crate) enum Use {
    /// Not held since eviction last looked.
    None,
    /// Held once.
    Once,
    /// Held more than once.
    Often,
}

/// Holding and releasing.
impl PageWord<'_> {
    /// Keeps writers out until [`release`](Self::release): one atomic addition on a protected page.
    #[inline]
    pub(crate) fn hold(self) -> Answer {
        // Acquire: the bytes that a fill or a closing holder published before `Protected` are visible after this.
        let before = self.add(1, Ordering::Acquire);
        if before.0 & LOOKED_AT == ADMITS {
            return Ok(Touch::Again);
        }
        self.hold_unusual(before)
    }

    /// The rest of [`hold`](Self::hold), for words other than the usual one; the count is in already.
    #[cold]
    pub(crate) fn hold_unusual(self, before: Word) -> Answer {
        if before.0 & TOO_MANY != 0 {
            // The count stays far above zero, so this release can not be the last.
            self.sub(1, Ordering::Relaxed);
            return Err(Refusal::TooMany);
        }
        let waiter = before.0 & WAITER != 0;
        if before.phase() == Phase::Protected && !waiter {
            let first = before.0 & REFERENCED == 0;
            self.set(if first { REFERENCED } else { OFTEN }, Ordering::Relaxed);
            return Ok(if first { Touch::First } else { Touch::Again });
        }
        if before.phase() == Phase::Protected && before.holds() > 0 {
            return Err(Refusal::WriterWaits);
        }
        // Waiter and no holds: the last release is on its way to `Opening`; stepping in would starve the writer.
        let phase = if before.phase() == Phase::Protected { Phase::Opening } else { before.phase() };
        Err(Refusal::Phase { phase, released: self.release() })
    }

    /// Ends one hold, and leaves the rest to the caller. For who holds the page by nothing but this count: what the page is of
    /// may be gone after it, and this word with it.
    #[inline]
    pub(crate) fn let_go(self) -> Left {
        // Release: what the holder read, it read before any store of the writer that this lets through.
        let before = self.sub(1, Ordering::Release);
        debug_assert!(before.holds() > 0, "a page was released more often than held");
        Left::of(before)
    }

    /// Does what the last [`let_go`](Self::let_go) of a page has left, unless somebody else did it, or there was nothing:
    /// anybody may call this at any time.
    #[cold]
    pub(crate) fn settle(self) -> Released {
        let changed = self.change(|word| {
            let last = word.phase() == Phase::Protected && word.holds() == 0 && !word.has_ended();
            if last && word.0 & HOLDERS != 0 {
                return Some(Word::of(Phase::Empty));
            }
            (last && word.0 & WAITER != 0).then(|| word.with(Phase::Opening).set(DIRTY).clear(WAITER | WRITTEN))
        });
        match changed {
            Ok(word) if word.phase() == Phase::Opening => Released::Opening,
            Ok(_) => Released::Free,
            Err(_) => Released::Done,
        }
    }

    /// Ends one hold.
    #[inline]
    pub(crate) fn release(self) -> Released {
        match self.let_go() {
            Left::Nothing => Released::Done,
            Left::Unsettled => self.settle(),
            Left::Ended => Released::Last,
        }
    }

    /// `Open` to `Closing`; `false` when the page is in another phase. The caller protects the page next.
    #[must_use]
    pub(crate) fn begin_close(self) -> bool {
        self.change(|word| (word.phase() == Phase::Open).then(|| word.with(Phase::Closing))).is_ok()
    }

    /// `Closing` to `Protected`, held once by the caller.
    pub(crate) fn closed_and_held(self) {
        self.step(Phase::Closing, Phase::Protected, 1);
    }

    /// `Closing` back to `Open`: the page could not be protected. `true`: a writer waits; the page is
    /// [`Phase::Opening`] and the guard must be told.
    #[must_use = "the guard must be told when this is true, or a writer waits for ever"]
    pub(crate) fn not_closed(self) -> bool {
        let changed = self.change(|word| {
            debug_assert_eq!(word.phase(), Phase::Closing);
            Some(if word.0 & WAITER != 0 { word.with(Phase::Opening).clear(WAITER) } else { word.with(Phase::Open) })
        });
        matches!(changed, Ok(word) if word.phase() == Phase::Opening)
    }

    /// `Empty` to `Protected`, held once by the caller and from now on by nobody but holders: the last release frees it.
    /// A copy of a page is made so.
    pub(crate) fn begin_for_holders(self) {
        let word = Word::of(Phase::Protected).set(HOLDERS | REFERENCED | OFTEN).0 + 1;
        let before = self.add(word, Ordering::AcqRel);
        debug_assert_eq!(before.phase(), Phase::Empty, "a page in use was made a copy");
    }
}

/// The guard's side.
impl PageWord<'_> {
    /// A store hit protection: what the guard does about it. Only the guard calls this.
    pub(crate) fn fault(self) -> Fault {
        let changed = self.change(|word| match word.phase() {
            // Out of its file, and shown by a view of a process that does not answer. The end of that view tells the guard.
            Phase::Protected if word.0 & HOLDERS != 0 => Some(word),
            // Dirty before the store can land: nobody must see the store and a clean page.
            Phase::Protected if word.holds() == 0 => Some(word.with(Phase::Opening).set(DIRTY).clear(WAITER | WRITTEN)),
            Phase::Open => Some(word.with(Phase::Opening).set(DIRTY)),
            Phase::Protected | Phase::Closing | Phase::Taken => Some(word.set(WAITER)),
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
    pub(crate) fn opened(self) {
        self.step(Phase::Opening, Phase::Open, 0);
    }
}

/// Filling, cleaning, taking.
impl PageWord<'_> {
    /// `Empty` or `Error` to `Filling`; `false` when the page is in another phase.
    #[must_use]
    pub(crate) fn begin_fill(self) -> bool {
        let empty = |word: Word| matches!(word.phase(), Phase::Empty | Phase::Error);
        self.change(|word| empty(word).then(|| word.with(Phase::Filling).clear(FLAGS))).is_ok()
    }

    /// `Filling` to `Protected`: the bytes are there.
    pub(crate) fn filled(self) {
        self.step(Phase::Filling, Phase::Protected, 0);
    }

    /// `Filling` to `Error`.
    pub(crate) fn not_filled(self) {
        self.step(Phase::Filling, Phase::Error, 0);
    }

    /// The page's bytes have been written to the file, as they are since it was last protected. Says nothing of a page that
    /// is on its way to a writer.
    pub(crate) fn written(self) {
        let _ = self.change(|word| (word.phase() == Phase::Protected).then(|| word.set(WRITTEN)));
    }

    /// What was [`written`](Self::written) is on the disk: `true`, and the page is clean, unless a store may have landed
    /// since.
    #[must_use]
    pub(crate) fn durable(self) -> bool {
        let written = |word: Word| word.0 & WRITTEN != 0 || stillwire_dma::seeded!(CleanTooSoon);
        self.change(|word| written(word).then(|| word.clear(DIRTY | WRITTEN))).is_ok()
    }

    /// What was [`written`](Self::written) may be lost.
    pub(crate) fn not_durable(self) {
        self.clear(WRITTEN, Ordering::AcqRel);
    }

    /// To `Taken`, if nobody holds the page, waits for it or is changing it, and it is in step with its file.
    #[must_use]
    pub(crate) fn take(self) -> bool {
        self.change(|word| {
            let idle = word.holds() == 0 && word.0 & (WAITER | DIRTY | HOLDERS) == 0;
            let rests = matches!(word.phase(), Phase::Protected | Phase::Error);
            let unread = if word.phase() == Phase::Error { UNREAD } else { 0 };
            (idle && rests).then(|| word.with(Phase::Taken).set(unread))
        })
        .is_ok()
    }

    /// To `Taken`, dirty or not, if nobody holds the page or waits for it.
    #[must_use]
    pub(crate) fn take_dirty(self) -> bool {
        self.change(|word| {
            let idle = word.phase() == Phase::Protected && word.holds() == 0 && word.0 & (WAITER | HOLDERS) == 0;
            idle.then(|| word.with(Phase::Taken))
        })
        .is_ok()
    }

    /// `Taken` back to what it was. `true`: a writer has come; the page is [`Phase::Opening`] and the guard must be told.
    #[must_use = "the guard must be told when this is true, or a writer waits for ever"]
    pub(crate) fn put_back(self) -> bool {
        let changed = self.change(|word| {
            debug_assert_eq!(word.phase(), Phase::Taken);
            Some(match word.0 & (UNREAD | WAITER) {
                0 => word.with(Phase::Protected),
                WAITER => word.with(Phase::Opening).set(DIRTY).clear(WAITER | WRITTEN),
                // No view shows a page that could not be read, so there is no writer.
                _ => word.with(Phase::Error).clear(UNREAD | WAITER),
            })
        });
        matches!(changed, Ok(word) if word.phase() == Phase::Opening)
    }

    /// `Taken` to `Empty`. `true`: a writer has come meanwhile, and must try again.
    #[must_use = "a writer waits for ever if it is not told"]
    pub(crate) fn emptied(self) -> bool {
        let mut waited = false;
        let _ = self.change(|word| {
            debug_assert_eq!(word.phase(), Phase::Taken);
            waited = word.0 & WAITER != 0;
            Some(word.with(Phase::Empty).clear(FLAGS))
        });
        waited
    }

    /// Ends one hold of a page that leaves its file, dirty or not. [`Released::Free`]: it is `Empty`; otherwise it belongs to
    /// its other holders, and the last of them frees it.
    pub(crate) fn detach(self) -> Released {
        let changed = self.change(|word| {
            debug_assert!(word.phase() == Phase::Protected && word.holds() > 0, "only a held page is detached");
            Some(match word.holds() {
                1 => Word::of(Phase::Empty),
                _ => Word(word.clear(FLAGS).set(HOLDERS | REFERENCED | OFTEN).0 - 1),
            })
        });
        if matches!(changed, Ok(word) if word.phase() == Phase::Empty) { Released::Free } else { Released::Done }
    }

    /// The cache ends: whether the page is held, and its last release will say so.
    #[must_use = "somebody will be told"]
    pub(crate) fn end(self) -> bool {
        self.change(|word| {
            debug_assert!(word.holds() == 0 || word.phase() == Phase::Protected, "nobody passes by any more");
            (word.holds() > 0).then(|| word.set(ENDED))
        })
        .is_ok()
    }

    /// How much the page was used since this was last asked.
    pub(crate) fn look(self) -> Use {
        let before = self.load(Ordering::Relaxed);
        if before.0 & (REFERENCED | OFTEN) != 0 {
            self.clear(REFERENCED | OFTEN, Ordering::Relaxed);
        }
        match before.0 & (REFERENCED | OFTEN) {
            0 => Use::None,
            REFERENCED => Use::Once,
            _ => Use::Often,
        }
    }

    /// Whether [`take`](Self::take) would succeed now.
    pub(crate) fn may_be_taken(self) -> bool {
        let word = self.now();
        let rests = matches!(word.phase(), Phase::Protected | Phase::Error);
        rests && word.holds() == 0 && word.0 & (WAITER | DIRTY | HOLDERS) == 0
    }
}

/// Looking.
impl PageWord<'_> {
    /// The phase at this moment.
    pub(crate) fn phase(self) -> Phase {
        self.now().phase()
    }

    /// Number of holds at this moment, passing ones included.
    pub(crate) fn holds(self) -> u32 {
        self.now().holds()
    }

    /// Whether a store may have landed that is not on the disk.
    pub(crate) fn is_dirty(self) -> bool {
        self.now().0 & DIRTY != 0
    }

    /// Whether the page belongs to its holders only: a copy, or detached from its file.
    pub(crate) fn is_for_holders(self) -> bool {
        let word = self.now();
        word.phase() != Phase::Taken && word.0 & HOLDERS != 0
    }

    fn now(self) -> Word {
        self.load(Ordering::Acquire)
    }
}

#[cfg(all(test, loom))]
#[path = "page_model/mod.rs"]
mod loom_model;

#[cfg(all(test, not(loom)))]
#[path = "page_tests.rs"]
mod tests;
