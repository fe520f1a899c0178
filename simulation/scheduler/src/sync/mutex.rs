use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, TryLockError};

use super::key;
use crate::run;

/// `std::sync::Mutex`.
#[derive(Default)]
pub struct Mutex<T: ?Sized> {
    inner: std::sync::Mutex<T>,
}

/// Its guard.
pub struct MutexGuard<'a, T: ?Sized> {
    /// Taken when it goes.
    inner: Option<std::sync::MutexGuard<'a, T>>,
    pub(super) lock: &'a Mutex<T>,
}

impl<T> Mutex<T> {
    /// A lock of `value`.
    pub const fn new(value: T) -> Self {
        Self { inner: std::sync::Mutex::new(value) }
    }

    /// What was locked.
    ///
    /// # Errors
    /// None.
    pub fn into_inner(self) -> LockResult<T> {
        Ok(self.inner.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks.
    ///
    /// # Errors
    /// None.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        run::step();
        Ok(self.lock_now())
    }

    pub(super) fn lock_now(&self) -> MutexGuard<'_, T> {
        loop {
            match self.inner.try_lock() {
                Ok(inner) => return MutexGuard { inner: Some(inner), lock: self },
                Err(TryLockError::Poisoned(error)) => {
                    return MutexGuard { inner: Some(error.into_inner()), lock: self };
                }
                Err(TryLockError::WouldBlock) if run::is_active() => {
                    run::wait_for(key(self), None, "a lock");
                }
                Err(TryLockError::WouldBlock) => panic!("a lock is taken that nobody will leave"),
            }
        }
    }
}

impl<T: ?Sized> MutexGuard<'_, T> {
    /// Leaves the lock, and nobody else goes on before the caller's next step.
    pub(super) fn leave(mut self) {
        drop(self.inner.take());
        run::wake(key(self.lock));
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().unwrap_or_else(|| unreachable!("taken at its end only"))
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().unwrap_or_else(|| unreachable!("taken at its end only"))
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.inner.take().is_some() {
            run::wake(key(self.lock));
            run::step();
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
