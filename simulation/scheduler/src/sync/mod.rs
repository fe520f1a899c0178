//! Locks, by the names of `std::sync`. None is ever poisoned: a run is over when a task panics.

pub mod atomic;
mod condvar;
mod mutex;
mod rwlock;

pub use condvar::{Condvar, WaitTimeoutResult};
pub use mutex::{Mutex, MutexGuard};
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use std::sync::{Arc, LockResult, OnceLock, PoisonError, TryLockError, TryLockResult, Weak};

/// What those who wait for `what` wait for.
fn key<T: ?Sized>(what: &T) -> usize {
    std::ptr::from_ref(what).cast::<u8>().addr()
}
