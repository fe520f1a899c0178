//! What threads, locks and time are: the standard library's; in a simulation (`--cfg simulation`), those of its scheduler,
//! which decides by a seed who goes on.
//!
//! Whatever of this crate runs in a simulation takes them from here.

#[cfg(not(simulation))]
pub(crate) use std::{
    collections::HashMap,
    hint::spin_loop,
    sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic},
    thread, time,
};

#[cfg(simulation)]
pub(crate) use stillwire_scheduler::{
    sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic},
    thread,
    thread::spin_loop,
    time,
};

/// Of which the order is the same in each run.
#[cfg(simulation)]
pub(crate) type HashMap<K, V> =
    std::collections::HashMap<K, V, std::hash::BuildHasherDefault<std::hash::DefaultHasher>>;
