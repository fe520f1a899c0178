//! The flusher: a thread that writes dirty pages back when there are many, or when some time has passed.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::thread::JoinHandle;
use crate::sync::time::{Duration, Instant};
use crate::sync::{Condvar, Mutex};
use std::sync::{Arc, PoisonError};

use crate::core::{Core, Mail, lock};
use crate::{Config, Error, Result};

/// How much is dirty, and how much may be.
pub(crate) struct Dirt {
    pages: AtomicU64,
    /// Pages from which on the flusher does not wait.
    background: u64,
    /// Pages from which on writers wait.
    most: u64,
    /// The last round could not clean everything.
    failing: AtomicBool,
    orders: Mutex<Orders>,
    bell: Condvar,
    /// Rung after each round.
    room: Condvar,
}

#[derive(Default)]
struct Orders {
    now: bool,
    stop: bool,
    rounds: u64,
}

impl Dirt {
    pub(crate) fn new(config: &Config, pages: u32) -> Self {
        let share = |percent: u8| (u64::from(pages) * u64::from(percent.min(100)) / 100).max(1);
        Self {
            pages: AtomicU64::new(0),
            background: share(config.dirty_background),
            most: share(config.dirty_most),
            failing: AtomicBool::new(false),
            orders: Mutex::default(),
            bell: Condvar::new(),
            room: Condvar::new(),
        }
    }

    /// One page more is dirty.
    pub(crate) fn more(&self) {
        let before = self.pages.fetch_add(1, Ordering::Relaxed);
        if before == 0 || before + 1 == self.background {
            // From none: the clock starts. At the limit: it is not waited for.
            lock(&self.orders).now |= before + 1 >= self.background;
            self.bell.notify_all();
        }
    }

    pub(crate) fn less(&self, pages: u64) {
        self.pages.fetch_sub(pages, Ordering::Relaxed);
    }

    /// Pages that are not on the disk.
    pub(crate) fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// Whether writers have to wait.
    pub(crate) fn is_too_much(&self) -> bool {
        self.pages() >= self.most
    }

    /// Whether room is to be expected.
    pub(crate) fn will_shrink(&self) -> bool {
        self.pages() > 0 && !self.failing.load(Ordering::Relaxed)
    }

    /// Has the flusher begin a round.
    pub(crate) fn clean_soon(&self) {
        lock(&self.orders).now = true;
        self.bell.notify_all();
    }

    /// Has the flusher begin a round, and waits for its end or `most`.
    pub(crate) fn wait_for_room(&self, most: Duration) {
        let mut orders = lock(&self.orders);
        orders.now = true;
        self.bell.notify_all();
        let (begun, rounds) = (Instant::now(), orders.rounds);
        while orders.rounds == rounds && begun.elapsed() < most {
            orders = self.room.wait_timeout(orders, most).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets the flusher end.
    pub(crate) fn stop(&self) {
        lock(&self.orders).stop = true;
        self.bell.notify_all();
    }

    /// Waits until there is a reason for a round; `false` at the end.
    fn wait(&self, after: Duration) -> bool {
        let mut orders = lock(&self.orders);
        let mut begun = Instant::now();
        while !orders.stop {
            // A disk that has just refused is left alone for a moment.
            let failing = self.failing.load(Ordering::Relaxed) && begun.elapsed() < AFTER_FAILURE;
            let left = if orders.now && failing { AFTER_FAILURE } else { after }.saturating_sub(begun.elapsed());
            if orders.now && !failing || self.pages() > 0 && left.is_zero() {
                orders.now = false;
                return true;
            }
            if self.pages() == 0 && !orders.now {
                orders = self.bell.wait(orders).unwrap_or_else(PoisonError::into_inner);
                begun = Instant::now();
            } else {
                orders = self.bell.wait_timeout(orders, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        false
    }

    fn round_ended(&self, failed: bool) {
        self.failing.store(failed, Ordering::Relaxed);
        lock(&self.orders).rounds += 1;
        self.room.notify_all();
    }
}

/// Starts the flusher thread.
pub(crate) fn start(core: Arc<Core>) -> Result<JoinHandle<()>> {
    crate::sync::thread::Builder::new()
        .name("stillwire-flush".into())
        .spawn(move || {
            while core.dirt.wait(core.config.flush_after) {
                let failed = core.flush();
                core.dirt.round_ended(failed);
                core.tell_guard(Mail::Cleaned);
            }
        })
        .map_err(|source| Error::Guard { what: "starting the flusher", source })
}

impl Core {
    /// Writes everything back; whether something could not be. Errors are kept with the files, for who asks.
    pub(crate) fn flush(self: &Arc<Self>) -> bool {
        let files = self.all_files();
        let failed =
            files.iter().filter(|file| !file.is_durable() && file.write_back(self, 0..u64::MAX).is_err()).count();
        failed > 0
    }
}

/// Time between two rounds when the disk refuses.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
