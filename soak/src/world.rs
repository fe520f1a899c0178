//! What all actors share: the seed, the accounts, who is at what, and what went wrong.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use stillwire_filecache::Cache;

use crate::counts::Counts;
use crate::ledger::Ledger;
use crate::random::Random;

/// What is wrong on purpose, to see that it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Broken {
    /// What is sent is not held.
    Unheld,
    /// Now and then a hold is forgotten.
    LeakHold,
    /// Now and then a descriptor is forgotten.
    LeakFd,
    /// Memory is forgotten.
    LeakMemory,
    /// A thread that never ends is started now and then.
    LeakThread,
    /// Files are left in the folder for temporary files.
    LeakFile,
    /// A store is said to have returned that was never made.
    LostStore,
    /// Senders that are killed say that a sync has answered before it has (`--crash`).
    EarlyAnswer,
    /// An actor stands still.
    Stall,
    /// An actor panics.
    Panic,
}

/// What all actors share.
pub struct World {
    /// Of all choices.
    pub seed: u64,
    /// Wrong on purpose.
    pub broken: Option<Broken>,
    /// What was done.
    pub counts: Counts,
    /// What must be seen in files.
    pub ledger: Ledger,
    /// Where files are.
    pub folder: PathBuf,
    /// How long an actor may stand still.
    pub patience: Duration,
    start: Instant,
    over: AtomicBool,
    failed: AtomicBool,
    violations: Mutex<Vec<String>>,
    actors: Mutex<Vec<Arc<Pulse>>>,
    caches: Mutex<BTreeMap<String, Cache>>,
}

impl World {
    /// A world in `folder`.
    pub fn new(seed: u64, broken: Option<Broken>, ledger: Ledger, folder: PathBuf, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            seed,
            broken,
            counts: Counts::default(),
            ledger,
            folder,
            patience,
            start: Instant::now(),
            over: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            violations: Mutex::default(),
            actors: Mutex::default(),
            caches: Mutex::default(),
        })
    }

    /// Choices for who is called `name`.
    pub fn random(&self, name: &str) -> Random {
        Random::new(self.seed, name)
    }

    /// Whether all are to end what they are at.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) || self.has_failed()
    }

    /// Has all end what they are at, or lets them begin again.
    pub fn set_over(&self, over: bool) {
        self.over.store(over, Ordering::Release);
    }

    /// Whether something went wrong.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Something that must not be has happened: the run fails, and all end.
    pub fn violate(&self, what: impl Into<String>) {
        let what = what.into();
        let mut violations = lock(&self.violations);
        eprintln!("soak: {:.1} s: WRONG: {what}", self.start.elapsed().as_secs_f64());
        if violations.len() < MOST_VIOLATIONS {
            violations.push(what);
        }
        self.failed.store(true, Ordering::Release);
    }

    /// What went wrong.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    /// An actor begins; it is watched as long as the pulse lives.
    pub fn pulse(self: &Arc<Self>, name: impl Into<String>) -> Beating {
        let pulse = Arc::new(Pulse { name: name.into(), beats: AtomicU64::new(0), at: Mutex::new("starts") });
        lock(&self.actors).push(pulse.clone());
        Beating { pulse, world: Arc::downgrade(self) }
    }

    /// The actors that there are now.
    pub fn actors(&self) -> Vec<Arc<Pulse>> {
        lock(&self.actors).clone()
    }

    /// A cache is there.
    pub fn add_cache(&self, name: &str, cache: &Cache) {
        lock(&self.caches).insert(name.to_owned(), cache.clone());
    }

    /// A cache is about to end: what it counted is added to all others'.
    pub fn remove_cache(&self, name: &str) {
        let Some(cache) = lock(&self.caches).remove(name) else { return };
        let (stats, counts) = (cache.stats(), &self.counts);
        for (sum, more) in [
            (&counts.writer_pauses, stats.writer_pauses),
            (&counts.snapshots, stats.snapshots),
            (&counts.evictions, stats.evictions),
            (&counts.written_back, stats.written_back),
            (&counts.outside_changes, stats.outside_changes),
        ] {
            sum.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// The caches that there are now.
    pub fn caches(&self) -> Vec<(String, Cache)> {
        lock(&self.caches).iter().map(|(name, cache)| (name.clone(), cache.clone())).collect()
    }
}

/// That an actor gets on, and what it is at.
pub struct Pulse {
    /// Who it is.
    pub name: String,
    beats: AtomicU64,
    at: Mutex<&'static str>,
}

impl Pulse {
    /// How often it got on.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// What it is at.
    pub fn at(&self) -> &'static str {
        *lock(&self.at)
    }
}

/// An actor at work.
pub struct Beating {
    pulse: Arc<Pulse>,
    world: Weak<World>,
}

impl Beating {
    /// The actor gets on, with `at`.
    pub fn at(&self, at: &'static str) {
        *lock(&self.pulse.at) = at;
        self.pulse.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Sleeps, in parts, until `time` is over or `over` says so.
    pub fn sleep(&self, time: Duration, over: impl Fn() -> bool) {
        let end = Instant::now() + time;
        self.at("sleeps");
        while !over() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
        self.at("wakes");
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        if let Some(world) = self.world.upgrade() {
            lock(&world.actors).retain(|pulse| !Arc::ptr_eq(pulse, &self.pulse));
        }
    }
}

/// A lock of something that is whole whenever it is not locked.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const MOST_VIOLATIONS: usize = 50;
