//! Where threads sleep until a page leaves a phase that somebody else must end (filling, opening, closing).
//!
//! Those phases last for a file read or an ioctl, so a thread looks a few times before it sleeps. Waking costs a fence and
//! a load when nobody sleeps.

use crate::sync::atomic::{AtomicU32, Ordering, fence};
use crate::sync::{Condvar, Mutex};
use std::sync::PoisonError;

/// The sleeping places, shared by all pages.
#[derive(Debug)]
pub(crate) struct Parking {
    lots: [Lot; LOTS],
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Lot {
    sleepers: AtomicU32,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Parking {
    pub(crate) fn new() -> Self {
        Self { lots: std::array::from_fn(|_| Lot::default()) }
    }

    /// Returns when `busy` says no. Whoever makes it so calls [`wake`](Self::wake) with the same page after.
    pub(crate) fn wait_while(&self, page: u32, busy: impl Fn() -> bool) {
        for look in 0..LOOKS {
            if !busy() {
                return;
            }
            if look < LOOKS / 2 { crate::sync::spin_loop() } else { crate::sync::thread::yield_now() }
        }
        let lot = &self.lots[page as usize % LOTS];
        lot.sleepers.fetch_add(1, Ordering::SeqCst);
        // Pairs with the fence in `wake`: either this sees the page's new phase, or `wake` sees this sleeper.
        fence(Ordering::SeqCst);
        let mut held = lot.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while busy() {
            held = lot.bell.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        drop(held);
        lot.sleepers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Wakes those who wait for a page of the run; the pages' new phases are published already.
    pub(crate) fn wake(&self, first: u32, pages: u32) {
        fence(Ordering::SeqCst);
        for page in first..first + pages.min(LOTS as u32) {
            let lot = &self.lots[page as usize % LOTS];
            if lot.sleepers.load(Ordering::Relaxed) > 0 {
                // Under the lock, so that it can not fall between a sleeper's look and its sleep.
                let _held = lot.lock.lock().unwrap_or_else(PoisonError::into_inner);
                lot.bell.notify_all();
            }
        }
    }
}

const LOTS: usize = 64;
/// Looks before sleeping: the first half spins, the second yields.
const LOOKS: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn no_wake_up_is_lost() {
        for _ in 0..200 {
            let parking = Arc::new((Parking::new(), AtomicBool::new(true)));
            let sleepers: Vec<_> = (0..3)
                .map(|_| {
                    let parking = parking.clone();
                    std::thread::spawn(move || parking.0.wait_while(70, || parking.1.load(Ordering::Acquire)))
                })
                .collect();
            parking.1.store(false, Ordering::Release);
            parking.0.wake(70, 1);
            for sleeper in sleepers {
                sleeper.join().unwrap();
            }
        }
    }

    #[test]
    fn waking_a_long_run_reaches_every_lot() {
        let parking = Arc::new((Parking::new(), AtomicBool::new(true)));
        let sleeper = {
            let parking = parking.clone();
            std::thread::spawn(move || parking.0.wait_while(63, || parking.1.load(Ordering::Acquire)))
        };
        while parking.0.lots[63].sleepers.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        parking.1.store(false, Ordering::Release);
        parking.0.wake(512, 512);
        sleeper.join().unwrap();
    }
}
