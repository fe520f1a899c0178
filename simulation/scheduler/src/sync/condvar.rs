use std::sync::LockResult;
use std::time::Duration;

use super::{MutexGuard, key};
use crate::run;

/// `std::sync::Condvar`. It wakes without reason now and then, as that one may.
#[derive(Debug, Default)]
pub struct Condvar {
    /// So that it has an address of its own.
    _place: u8,
}

/// Whether a wait ended by time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// By time, and not because somebody told.
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self { _place: 0 }
    }

    /// Leaves the lock, waits to be told, and takes it again.
    ///
    /// # Errors
    /// None.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        Ok(self.wait_for(guard, None).0)
    }

    /// The same for at most `time`.
    ///
    /// # Errors
    /// None.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        Ok(self.wait_for(guard, Some(time)))
    }

    /// Tells one of those who wait.
    pub fn notify_one(&self) {
        run::wake_some(key(self), false);
        run::step();
    }

    /// Tells all of them.
    pub fn notify_all(&self) {
        run::wake(key(self));
        run::step();
    }

    fn wait_for<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Option<Duration>,
    ) -> (MutexGuard<'a, T>, WaitTimeoutResult) {
        assert!(run::is_active(), "a wait that nobody will end");
        let lock = guard.lock;
        if run::chance(10) {
            drop(guard);
            return (lock.lock_now(), WaitTimeoutResult(false));
        }
        // Nobody goes on between the two: who tells after the lock was left tells this one too.
        guard.leave();
        let woken = run::wait_for(key(self), time, "a condition");
        (lock.lock_now(), WaitTimeoutResult(!woken))
    }
}
