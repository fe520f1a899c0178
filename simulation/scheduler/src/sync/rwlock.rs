use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, TryLockError, TryLockResult};

use super::key;
use crate::run;

/// `std::sync::RwLock`. Who waits to write is not preferred, so readers may overtake it.
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized> {
    inner: std::sync::RwLock<T>,
}

/// Its guard for reading.
#[derive(Debug)]
pub struct RwLockReadGuard<'a, T: ?Sized> {
    inner: Option<std::sync::RwLockReadGuard<'a, T>>,
    lock: &'a RwLock<T>,
}

/// Its guard for writing.
#[derive(Debug)]
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    inner: Option<std::sync::RwLockWriteGuard<'a, T>>,
    lock: &'a RwLock<T>,
}

impl<T> RwLock<T> {
    /// A lock of `value`.
    pub const fn new(value: T) -> Self {
        Self { inner: std::sync::RwLock::new(value) }
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Locks for reading.
    ///
    /// # Errors
    /// None.
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        run::step();
        loop {
            match self.try_read_now() {
                Some(guard) => return Ok(guard),
                None => self.wait(),
            }
        }
    }

    /// Locks for reading, if nobody writes.
    ///
    /// # Errors
    /// Somebody writes.
    pub fn try_read(&self) -> TryLockResult<RwLockReadGuard<'_, T>> {
        run::step();
        self.try_read_now().ok_or(TryLockError::WouldBlock)
    }

    /// Locks for writing.
    ///
    /// # Errors
    /// None.
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        run::step();
        loop {
            match self.inner.try_write() {
                Ok(inner) => return Ok(RwLockWriteGuard { inner: Some(inner), lock: self }),
                Err(TryLockError::Poisoned(error)) => {
                    return Ok(RwLockWriteGuard { inner: Some(error.into_inner()), lock: self });
                }
                Err(TryLockError::WouldBlock) => self.wait(),
            }
        }
    }

    fn try_read_now(&self) -> Option<RwLockReadGuard<'_, T>> {
        let inner = match self.inner.try_read() {
            Ok(inner) => inner,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(RwLockReadGuard { inner: Some(inner), lock: self })
    }

    fn wait(&self) {
        assert!(run::is_active(), "a lock is taken that nobody will leave");
        run::wait_for(key(self), None, "a lock for reading or writing");
    }
}

macro_rules! guard {
    ($guard:ident) => {
        impl<T: ?Sized> Deref for $guard<'_, T> {
            type Target = T;

            fn deref(&self) -> &T {
                self.inner.as_ref().unwrap_or_else(|| unreachable!("taken at its end only"))
            }
        }

        impl<T: ?Sized> Drop for $guard<'_, T> {
            fn drop(&mut self) {
                drop(self.inner.take());
                run::wake(key(self.lock));
                run::step();
            }
        }
    };
}

guard!(RwLockReadGuard);
guard!(RwLockWriteGuard);

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().unwrap_or_else(|| unreachable!("taken at its end only"))
    }
}
