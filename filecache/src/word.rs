//! The bits of a page's word. What they mean together is in `page.rs`.

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
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

impl Word {
    pub(crate) const fn of(phase: Phase) -> Word {
        Word((phase as u64) << PHASE_SHIFT)
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

    pub(crate) fn holds(self) -> u64 {
        self.0 & HOLDS
    }

    pub(crate) fn with(self, phase: Phase) -> Word {
        Word(self.0 & !PHASE | Word::of(phase).0)
    }

    pub(crate) fn set(self, bits: u64) -> Word {
        Word(self.0 | bits)
    }

    pub(crate) fn clear(self, bits: u64) -> Word {
        Word(self.0 & !bits)
    }
}

/// Bits 0..=39: number of holds.
pub(crate) const HOLDS: u64 = (1 << 40) - 1;
/// Top bit of the number of holds: most holds that a page can have. Above it is room for as many passing counts of
/// threads that are about to be refused: more threads than a machine can have.
pub(crate) const TOO_MANY: u64 = 1 << 39;
/// A writer waits for the holds to end.
pub(crate) const WAITER: u64 = 1 << 40;
/// A store may have landed that is not on the disk.
pub(crate) const DIRTY: u64 = 1 << 41;
/// Held since eviction last looked.
pub(crate) const REFERENCED: u64 = 1 << 42;
/// Held more than once since eviction last looked.
pub(crate) const OFTEN: u64 = 1 << 43;
/// In no file (any more): belongs to its holders, and the last release frees it.
pub(crate) const HOLDERS: u64 = 1 << 44;
/// Written to the file since the last store, not known to be on the disk yet.
pub(crate) const WRITTEN: u64 = 1 << 45;
/// The cache has ended, and only holds are left.
pub(crate) const ENDED: u64 = 1 << 47;
/// Taken from `Error`.
pub(crate) const UNREAD: u64 = 1 << 46;
pub(crate) const FLAGS: u64 = WAITER | DIRTY | REFERENCED | OFTEN | HOLDERS | WRITTEN | UNREAD;
/// Bits 61..=63: [`Phase`].
const PHASE_SHIFT: u32 = 61;
pub(crate) const PHASE: u64 = 7 << PHASE_SHIFT;
/// What [`PageWord::hold`](crate::page::PageWord::hold) sees of a page that it need not look at twice.
pub(crate) const ADMITS: u64 = (Phase::Protected as u64) << PHASE_SHIFT | REFERENCED | OFTEN;
