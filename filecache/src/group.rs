//! Sixteen neighbours held at once: a hold of all of them by one atomic operation instead of one for each two.
//!
//! A *group* is [`PAGES`] neighbours in the arena, from a multiple of that on. Its word is no second place where it says whether
//! a page is held: that stays the page's own word (`page.rs`). A group that *stands* has a hold of each of its pages, like any
//! holder, and shares it out: who holds the group, holds them all.
//!
//! ```text
//!              form: a holder of all pages gives its holds to the group
//!     nothing ---------------------------------------------------------> standing, n holds
//!        ^                                                                  |          |
//!        |  part, n = 0: whoever asks for it has the pages' holds now       |          | part, n > 0
//!        +------------------------------------------------------------------+          v
//!        |  the last release has the pages' holds now                               parting: no new ones
//!        +------------------------------------------------------------------------------+
//! ```
//!
//! So a group that nobody holds goes on holding its pages. That is what makes the next hold cheap, and it must be in nobody's
//! way: who wants a page that is held for this reason only has the group *part*, and releases its pages.
//!
//! - A writer that waits, a page that leaves its file: whoever sets [`WAITER`] or [`HOLDERS`] has the group part **after**; who
//!   forms a group looks for these bits of its pages **after**. Both change the group's word, so one of them comes first: if
//!   it is the one who forms it, the group is seen standing; if not, the bit is seen.
//! - Eviction, and whoever takes a page: has groups part that nobody holds, and then finds the page as it would be without.
//! - A page that is used by its group is not marked as used. But to look at the marks takes the page's count to be zero, so
//!   the group has parted, and the next hold is one of pages again.
//!
//! Every change is a compare-and-swap: there are no passing counts, so the change that ends a standing group happens once, and
//! who makes it has the pages' holds by it. These keep the memory, as all holds do; who releases a group and does not
//! end it touches its word no more.

#[cfg(not(loom))]
use crate::sync::atomic::{AtomicU32, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};

#[cfg(doc)]
use crate::word::{HOLDERS, WAITER};

/// The word of a group.
#[derive(Debug)]
pub(crate) struct GroupWord(AtomicU32);

/// Whether the holds that the group had of its pages are the caller's now, to be released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "pages that nobody releases stay held for ever"]
pub(crate) enum Pages {
    /// They are.
    Yours,
    /// The group keeps them, or has none.
    NotYours,
}

impl GroupWord {
    /// A group that does not stand.
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Holds all pages; `false`: it does not stand, or not for new holds.
    #[inline]
    pub(crate) fn hold(&self) -> bool {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            if seen & !HOLDS != STANDING || seen & HOLDS == HOLDS {
                return false;
            }
            // Acquire: what was seen by who formed the group, which held the pages by their words.
            match self.0.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => seen = other,
            }
        }
    }

    /// The group stands from now on: the caller's holds, one of each page, are the group's, and the caller has one of the group
    /// instead. `false`: it does already, and nothing has changed.
    ///
    /// The caller looks at the pages after, and has the group [part](Self::part) if a writer waits for one or it has no file.
    #[must_use]
    pub(crate) fn form(&self) -> bool {
        // AcqRel: the bytes that the caller has seen, for who holds the group after; and the bits that were set by who had it
        // part before.
        self.0.compare_exchange(0, STANDING + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Ends one hold.
    #[inline]
    pub(crate) fn let_go(&self) -> Pages {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            debug_assert!(seen & STANDING != 0 && seen & HOLDS > 0, "a group was released more often than held");
            let last = seen == STANDING | PARTING | 1;
            let next = if last { 0 } else { seen - 1 };
            // Release: what the holder read, it read before the pages are released. Acquire: so did the others.
            match self.0.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return if last { Pages::Yours } else { Pages::NotYours },
                Err(other) => seen = other,
            }
        }
    }

    /// Nobody may hold the group any more, until it is formed again.
    pub(crate) fn part(&self) -> Pages {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let next = match seen {
                STANDING => 0,
                seen if seen & STANDING != 0 => seen | PARTING,
                seen => seen,
            };
            // Also when it changes nothing: who forms the group after this sees what the caller did before. Acquire: as in
            // `let_go`.
            match self.0.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return if seen == STANDING { Pages::Yours } else { Pages::NotYours },
                Err(other) => seen = other,
            }
        }
    }

    /// The same for a group that nobody holds. Others are left as they are.
    pub(crate) fn part_idle(&self) -> Pages {
        match self.0.compare_exchange(STANDING, 0, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Pages::Yours,
            Err(_) => Pages::NotYours,
        }
    }

    /// How many holds each page has by the group, and has of it: of these its word counts one, the group's own.
    pub(crate) fn holds(&self) -> Option<u32> {
        Self::holds_of(self.0.load(Ordering::Relaxed))
    }

    /// The same, and nobody goes on meanwhile.
    #[cfg(simulation)]
    pub(crate) fn peek(&self) -> Option<u32> {
        Self::holds_of(self.0.peek())
    }

    fn holds_of(seen: u32) -> Option<u32> {
        (seen & STANDING != 0).then_some(seen & HOLDS)
    }
}

/// Pages of a group: 64 KiB of small pages, as much as a NIC cuts into frames at a time. A power of two, and whole pairs.
/// Fewer where every interleaving is looked at, or many short ones.
pub(crate) const PAGES: u32 = if cfg!(loom) {
    2
} else if cfg!(simulation) {
    4
} else {
    16
};

/// The group has a hold of each of its pages.
const STANDING: u32 = 1 << 31;
/// Only of one that stands and is held: no new holds.
const PARTING: u32 = 1 << 30;
/// Number of holds. What would be one too many is a hold of the pages instead.
const HOLDS: u32 = PARTING - 1;

#[cfg(all(test, not(any(loom, simulation))))]
#[path = "group_tests.rs"]
mod tests;
