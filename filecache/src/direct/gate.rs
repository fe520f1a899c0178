//! Who may use a file's mapping now: holders, or the one keeper that is about to change it.
//!
//! ```text
//!          keeper: a writer waits          keeper: count is zero          keeper: done for good
//!   Open ------------------------> Closing ---------------------> Closed ----------------------> Gone
//!     ^                                                             |
//!     +-------------------------------------------------------------+
//!                    keeper: the file is still again
//! ```
//!
//! Phase and count are one word, so entering and shutting have an order: a holder that counts itself in at *Open* is seen
//! by the keeper, and one that comes later sees that the gate is shut. The count is optimistic, as in `page.rs`: one is
//! added first and the phase looked at after. An addition at a shut gate is a *passing* count and is taken back at once;
//! every transition keeps the count as it finds it.
#![allow(unsafe_code)]

#[cfg(loom)]
use loom::cell::UnsafeCell;
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::cell::UnsafeCell;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether holds are given out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum Phase {
    /// A hold is one addition.
    Open = 0,
    /// No new holds; the old ones are waited for.
    Closing = 1,
    /// Nobody uses the value but the keeper.
    Closed = 2,
    /// As `Closed`, and it stays so.
    Gone = 3,
}

/// A value that is used by whoever is counted in, and changed by a keeper while nobody is.
pub(crate) struct Gate<T> {
    word: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: threads share `value` by `&T` while they are counted in (needs `T: Sync`), and the keeper replaces it from its
// own thread, which drops in one thread what was made in another (needs `T: Send`).
unsafe impl<T: Send + Sync> Sync for Gate<T> {}

impl<T> Gate<T> {
    /// An open gate.
    pub(crate) fn new(value: T) -> Self {
        Self { word: AtomicU64::new(Phase::Open as u64), value: UnsafeCell::new(value) }
    }

    /// Counts the caller in, or says which phase is in the way. `Err` also says whether taking back the passing count
    /// was the last one, so that the keeper must be told.
    #[inline]
    pub(crate) fn enter(&self) -> Result<(), (Phase, bool)> {
        // Acquire: what the keeper did before it opened the gate has happened.
        let phase = phase_of(self.word.fetch_add(ONE, Ordering::Acquire));
        if phase == Phase::Open { Ok(()) } else { Err((phase, self.leave())) }
    }

    /// Counts the caller out; true when the keeper waits for just this.
    #[inline]
    #[must_use]
    pub(crate) fn leave(&self) -> bool {
        // Release: all uses of the value come before the keeper's change.
        let before = self.word.fetch_sub(ONE, Ordering::Release);
        phase_of(before) == Phase::Closing && before >> COUNT_SHIFT == 1
    }

    /// The value.
    ///
    /// # Safety
    /// The caller has entered, and has not left for as long as the reference lives.
    pub(crate) unsafe fn value(&self) -> &T {
        // SAFETY: `change` needs a shut gate with a count of zero, found by one load of the word; the caller's count is
        // in the word from before the gate was shut until the reference is gone.
        #[cfg(not(loom))]
        return unsafe { &*self.value.get() };
        // SAFETY: as above; loom checks it.
        #[cfg(loom)]
        return self.value.with(|value| unsafe { &*value });
    }

    /// The phase now.
    pub(crate) fn phase(&self) -> Phase {
        phase_of(self.word.load(Ordering::Acquire))
    }

    /// Lets nobody in any more. Only the keeper calls this and what follows.
    pub(crate) fn shut(&self) {
        self.set(Phase::Open, Phase::Closing);
    }

    /// `Closing` becomes `Closed`, if the last one has left.
    pub(crate) fn close(&self) -> bool {
        // Acquire pairs with `leave`. A passing count makes this fail too; taking it back tells the keeper again.
        let empty = Phase::Closing as u64;
        self.word.compare_exchange(empty, Phase::Closed as u64, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Puts another value in; the old one. Only when [`close`](Self::close) has said so.
    pub(crate) fn change(&self, value: T) -> T {
        assert!(matches!(self.phase(), Phase::Closed | Phase::Gone), "a value in use was to be changed");
        // SAFETY: `Closed` was reached by `close`, which found a count of zero: whoever was counted in has left, and
        // whoever adds to the count since finds the gate shut and does not touch the value. The keeper is one thread.
        #[cfg(not(loom))]
        return unsafe { std::mem::replace(&mut *self.value.get(), value) };
        // SAFETY: as above; loom checks it.
        #[cfg(loom)]
        return self.value.with_mut(|old| std::mem::replace(unsafe { &mut *old }, value));
    }

    /// `Closed` becomes `Open`.
    pub(crate) fn open(&self) {
        self.set(Phase::Closed, Phase::Open);
    }

    /// `Closed` becomes `Gone`.
    pub(crate) fn end(&self) {
        self.set(Phase::Closed, Phase::Gone);
    }

    fn set(&self, from: Phase, to: Phase) {
        // An addition or subtraction of the phase's bits alone leaves passing counts as they are. Release: a holder that
        // finds the gate open finds the new value.
        let before = match (to as u64).checked_sub(from as u64) {
            Some(more) => self.word.fetch_add(more, Ordering::AcqRel),
            None => self.word.fetch_sub(from as u64 - to as u64, Ordering::AcqRel),
        };
        assert_eq!(phase_of(before), from, "the gate has one keeper");
    }
}

fn phase_of(word: u64) -> Phase {
    match word & PHASE_MASK {
        0 => Phase::Open,
        1 => Phase::Closing,
        2 => Phase::Closed,
        _ => Phase::Gone,
    }
}

/// The phase is in the low two bits, the count above: it can not overflow, for every count is a value in memory.
const PHASE_MASK: u64 = 3;
const COUNT_SHIFT: u32 = 2;
const ONE: u64 = 1 << COUNT_SHIFT;

#[cfg(all(test, loom))]
mod loom_model {
    use super::*;
    use loom::sync::Arc;

    /// Two holders against a keeper that changes the value once; loom's cell reports a use during the change.
    #[test]
    fn loom_nobody_uses_the_value_while_it_is_changed() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(1));
            let holders: Vec<_> = (0..2)
                .map(|_| {
                    let gate = gate.clone();
                    loom::thread::spawn(move || {
                        if gate.enter().is_ok() {
                            // SAFETY: entered, and left after the last use.
                            gate.value.with(|value| assert!(matches!(unsafe { *value }, 1 | 2)));
                            let _ = gate.leave();
                        }
                    })
                })
                .collect();
            gate.shut();
            while !gate.close() {
                loom::thread::yield_now();
            }
            assert_eq!(gate.change(2), 1);
            gate.open();
            holders.into_iter().for_each(|holder| holder.join().unwrap());
            // SAFETY: all others have ended.
            assert_eq!(gate.value.with(|value| unsafe { *value }), 2);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_last_to_leave_tells_the_keeper() {
        let gate = Gate::new("old");
        gate.enter().unwrap();
        gate.enter().unwrap();
        gate.shut();
        assert!(!gate.close(), "two are inside");
        assert_eq!(gate.enter(), Err((Phase::Closing, false)));
        assert!(!gate.leave());
        assert!(gate.leave(), "the last");
        assert_eq!(gate.enter(), Err((Phase::Closing, true)), "a passing count may hide that the last has left");
        assert!(gate.close());
        assert_eq!(gate.change("new"), "old");
        assert_eq!(gate.enter(), Err((Phase::Closed, false)));
        gate.open();
        gate.enter().unwrap();
        // SAFETY: just entered.
        assert_eq!(*unsafe { gate.value() }, "new");
        assert!(!gate.leave(), "nobody waits");
    }

    #[test]
    #[should_panic(expected = "in use")]
    fn a_value_in_use_is_not_changed() {
        let gate = Gate::new(0);
        gate.enter().unwrap();
        gate.shut();
        gate.change(1);
    }
}
