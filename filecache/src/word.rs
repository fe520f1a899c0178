//! The bits of a page's word. What they mean together is in `page.rs`, where they lie in `pair.rs`.

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
    /// One thread has it for itself: to take it out of its file, or to change its bytes.
    Taken = 7,
}

impl Phase {
    /// Whether the page has its file's bytes.
    pub(crate) fn has_bytes(self) -> bool {
        matches!(self, Phase::Protected | Phase::Opening | Phase::Open | Phase::Closing)
    }
}

/// A copy of the word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word(pub(crate) u32);

impl Word {
    pub(crate) const fn of(phase: Phase) -> Word {
        Word((phase as u32) << PHASE_SHIFT)
    }

    pub(crate) fn phase(self) -> Phase {
        match self.0 >> PHASE_SHIFT {
            0 => Phase::Empty,
            1 => Phase::Filling,
            2 => Phase::Protected,
            3 => Phase::Opening,
            4 => Phase::Open,
            5 => Phase::Closing,
            6 => Phase::Error,
            _ => Phase::Taken,
        }
    }

    pub(crate) fn holds(self) -> u32 {
        self.0 & HOLDS
    }

    /// The cache has ended, and only holds are left.
    pub(crate) fn has_ended(self) -> bool {
        self.0 & (PHASE | ENDED) == Word::of(Phase::Protected).0 | ENDED
    }

    pub(crate) fn with(self, phase: Phase) -> Word {
        Word(self.0 & !PHASE | Word::of(phase).0)
    }

    pub(crate) fn set(self, bits: u32) -> Word {
        Word(self.0 | bits)
    }

    pub(crate) fn clear(self, bits: u32) -> Word {
        Word(self.0 & !bits)
    }
}

/// Bits 0..=22: number of holds.
pub(crate) const HOLDS: u32 = (1 << 23) - 1;
/// Top bit of the number of holds: most holds that a page can have.
///
/// # Why the number never grows out of its bits, into the flags or the neighbour
/// A hold that finds this bit is refused, so of those that stay none was added to a number of 2^22 or more: they are 2^22 at
/// most. All others are passing counts. A thread has one of them a page at a time, from the addition that is refused to
/// the subtraction that follows it, and the threads of a machine are fewer than 2^22: each has a number of its own below
/// that (`PID_MAX_LIMIT` of Linux). 2^22 and 2^22 - 1 is the greatest number that these bits have.
pub(crate) const TOO_MANY: u32 = 1 << 22;
/// A writer waits for the holds to end.
pub(crate) const WAITER: u32 = 1 << 23;
/// A store may have landed that is not on the disk.
pub(crate) const DIRTY: u32 = 1 << 24;
/// Held since eviction last looked.
pub(crate) const REFERENCED: u32 = 1 << 25;
/// Held more than once since eviction last looked.
pub(crate) const OFTEN: u32 = 1 << 26;
/// Of a page that is not [`Phase::Taken`]: in no file (any more); it belongs to its holders, and the last release frees it.
pub(crate) const HOLDERS: u32 = 1 << 27;
/// Of a page that is [`Phase::Taken`]: it was `Error` before. The same bit: only a page of a file is taken.
pub(crate) const UNREAD: u32 = HOLDERS;
/// Written to the file since the last store, not known to be on the disk yet.
pub(crate) const WRITTEN: u32 = 1 << 28;
/// Both, of a page that is [`Phase::Protected`]: the cache has ended, and only holds are left. No writer waits for a page of
/// its holders, so they mean nothing else together.
pub(crate) const ENDED: u32 = WAITER | HOLDERS;
pub(crate) const FLAGS: u32 = WAITER | DIRTY | REFERENCED | OFTEN | HOLDERS | WRITTEN;
/// Bits 29..=31: [`Phase`].
const PHASE_SHIFT: u32 = 29;
pub(crate) const PHASE: u32 = 7 << PHASE_SHIFT;
/// What a hold looks at.
pub(crate) const LOOKED_AT: u32 = PHASE | WAITER | REFERENCED | OFTEN | TOO_MANY;
/// What it sees there of a page that it need not look at twice.
pub(crate) const ADMITS: u32 = (Phase::Protected as u32) << PHASE_SHIFT | REFERENCED | OFTEN;

// Holds and passing counts together, as `TOO_MANY` says.
const _: () = assert!(TOO_MANY + (THREADS - 1) == HOLDS && HOLDS & FLAGS == 0 && (HOLDS | FLAGS) & PHASE == 0);
/// Threads are fewer.
pub(crate) const THREADS: u32 = 1 << 22;
