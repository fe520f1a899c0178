//! What the cache counts.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Counts since the cache was made. Taken one after the other, not at one instant.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Holds taken.
    pub holds: u64,
    /// Those among them for which a page had to be read in, or was just being read.
    pub holds_missed: u64,
    /// Reads of folios, or of the parts of them that had failed before.
    pub fills: u64,
    /// Bytes read from files.
    pub fill_bytes: u64,
    /// Stores that hit protection, as the guard heard of them: at least one for each opening.
    pub faults: u64,
    /// Pages that were opened to a writer.
    pub opens: u64,
    /// Pages that a hold closed again.
    pub closes: u64,
    /// Calls that closed them: one a run of pages.
    pub close_calls: u64,
    /// Reads that somebody had to wait for: no page, and nobody had asked for it.
    pub misses: u64,
    /// Reads ahead of who reads in sequence.
    pub read_ahead: u64,
    /// Pages evicted.
    pub evictions: u64,
    /// Copies of pages for which a writer waited: newer holds got those.
    pub snapshots: u64,
    /// Holds that made a writer wait longer, for want of memory for a copy.
    pub no_snapshot: u64,
    /// Pages that were written back and are on the disk.
    pub written_back: u64,
    /// Write-backs that failed.
    pub write_errors: u64,
    /// Stores that waited because too much was dirty.
    pub held_back: u64,
    /// Changes of files by somebody else.
    pub outside_changes: u64,
    /// Those that met dirty pages.
    pub conflicts: u64,
    /// Pages dropped because of a change, or cut off.
    pub dropped: u64,
    /// Touches that failed: beyond the end of a file, or where it could not be read.
    pub poisoned: u64,
    /// Pages that could not be taken from a process that does not answer.
    pub stuck: u64,
    /// Bytes that are not on the disk yet.
    pub dirty_bytes: u64,
    /// Writers that wait at this moment, for a hold or because too much is dirty.
    pub writers_waiting: u64,
    /// Writers that have waited for a hold.
    pub writer_pauses: u64,
    /// Median wait of those.
    pub pause_p50: Duration,
    /// The wait that 99 of 100 did not exceed.
    pub pause_p99: Duration,
    /// The longest wait.
    pub pause_max: Duration,
    /// Size of the arena, bytes.
    pub arena_bytes: u64,
    /// Of that, not allocated.
    pub free_bytes: u64,
}

/// How long writers waited for holds: [`Cache::pauses`](crate::Cache::pauses).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pauses {
    /// Waits of at most each bound that was asked for; a wait is known to three digits.
    pub up_to: Vec<u64>,
    /// Waits of any length.
    pub count: u64,
    /// All of them together.
    pub total: Duration,
}

/// What is held at this moment: [`Cache::held`](crate::Cache::held).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Pages that are held.
    pub pages: u64,
    /// Holds of each page, added up: a hold of sixteen pages counts sixteen times.
    pub page_holds: u64,
}

/// The waits of writers.
#[derive(Debug)]
struct Waits {
    histogram: Histogram<u64>,
    total: Duration,
}

/// The counters behind [`Stats`].
#[derive(Debug)]
pub(crate) struct Counters {
    /// Holds that found their pages there.
    pub(crate) hits: Striped,
    pub(crate) holds_missed: AtomicU64,
    pub(crate) fills: AtomicU64,
    pub(crate) fill_bytes: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) opens: AtomicU64,
    pub(crate) closes: AtomicU64,
    pub(crate) close_calls: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) read_ahead: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) snapshots: AtomicU64,
    pub(crate) no_snapshot: AtomicU64,
    pub(crate) written_back: AtomicU64,
    pub(crate) write_errors: AtomicU64,
    pub(crate) held_back: AtomicU64,
    pub(crate) outside_changes: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) poisoned: AtomicU64,
    pub(crate) stuck: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pauses: Mutex<Waits>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            hits: Striped::default(),
            holds_missed: zero(),
            fills: zero(),
            fill_bytes: zero(),
            faults: zero(),
            opens: zero(),
            closes: zero(),
            close_calls: zero(),
            misses: zero(),
            read_ahead: zero(),
            evictions: zero(),
            snapshots: zero(),
            no_snapshot: zero(),
            written_back: zero(),
            write_errors: zero(),
            held_back: zero(),
            outside_changes: zero(),
            conflicts: zero(),
            dropped: zero(),
            poisoned: zero(),
            stuck: zero(),
            waiting: zero(),
            pauses: Mutex::new(Waits { histogram: pause_histogram(), total: Duration::ZERO }),
        }
    }

    /// One writer has waited for a hold.
    pub(crate) fn paused(&self, wait: Duration) {
        let nanoseconds = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        pauses.histogram.saturating_record(nanoseconds.max(1));
        pauses.total += wait;
    }

    /// How long the writers waited that have waited for a hold.
    pub(crate) fn pauses(&self, bounds: &[Duration]) -> Pauses {
        let pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let up_to = |bound: &Duration| {
            let nanoseconds = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
            pauses.histogram.count_between(0, nanoseconds)
        };
        Pauses { up_to: bounds.iter().map(up_to).collect(), count: pauses.histogram.len(), total: pauses.total }
    }

    pub(crate) fn read(&self) -> Stats {
        let pauses = &self.pauses.lock().unwrap_or_else(PoisonError::into_inner).histogram;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let holds_missed = get(&self.holds_missed);
        Stats {
            holds: self.hits.sum() + holds_missed,
            holds_missed,
            fills: get(&self.fills),
            fill_bytes: get(&self.fill_bytes),
            faults: get(&self.faults),
            opens: get(&self.opens),
            closes: get(&self.closes),
            close_calls: get(&self.close_calls),
            misses: get(&self.misses),
            read_ahead: get(&self.read_ahead),
            evictions: get(&self.evictions),
            snapshots: get(&self.snapshots),
            no_snapshot: get(&self.no_snapshot),
            written_back: get(&self.written_back),
            write_errors: get(&self.write_errors),
            held_back: get(&self.held_back),
            outside_changes: get(&self.outside_changes),
            conflicts: get(&self.conflicts),
            dropped: get(&self.dropped),
            poisoned: get(&self.poisoned),
            stuck: get(&self.stuck),
            writers_waiting: get(&self.waiting),
            writer_pauses: pauses.len(),
            pause_p50: Duration::from_nanos(pauses.value_at_quantile(0.5)),
            pause_p99: Duration::from_nanos(pauses.value_at_quantile(0.99)),
            pause_max: Duration::from_nanos(pauses.max()),
            dirty_bytes: 0,
            arena_bytes: 0,
            free_bytes: 0,
        }
    }
}

/// Adds one, in the order of nothing else.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// A counter with a cache line for each thread, so that counting is a plain addition. Threads beyond the number of lines
/// share the last one.
#[derive(Debug)]
pub(crate) struct Striped([Stripe; STRIPES]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe(AtomicU64);

impl Default for Striped {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Stripe::default()))
    }
}

impl Striped {
    #[inline]
    pub(crate) fn add_one(&self) {
        let stripe = STRIPE.get();
        match self.0.get(stripe) {
            Some(line) if stripe < SHARED => line.0.store(line.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed),
            _ => self.add_one_shared(),
        }
    }

    #[cold]
    fn add_one_shared(&self) {
        if STRIPE.get() == UNKNOWN {
            LENT.with(|lent| STRIPE.set(lent.0));
            self.add_one();
        } else {
            count(&self.0[SHARED].0, 1);
        }
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum()
    }
}

/// A line that is this thread's until it ends.
struct Lent(usize);

impl Lent {
    fn new() -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let line = free.trailing_zeros() as usize;
        // The lock orders the additions of the line's last owner before ours.
        *free &= !1u64.checked_shl(line as u32).unwrap_or(0);
        Self(line.min(SHARED))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Counts after this, by other thread locals that are dropped later, are shared ones.
        STRIPE.set(SHARED);
        if self.0 < SHARED {
            *FREE.lock().unwrap_or_else(PoisonError::into_inner) |= 1 << self.0;
        }
    }
}

/// From 1 ns to 10 minutes, three digits.
fn pause_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).unwrap_or_else(|_| unreachable!("constant bounds are valid"))
}

/// Lines that no thread has, by bit.
static FREE: Mutex<u64> = Mutex::new((1 << SHARED) - 1);

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(UNKNOWN) };
    static LENT: Lent = Lent::new();
}

const STRIPES: usize = 33;
/// The line that is everybody's.
const SHARED: usize = STRIPES - 1;
/// The thread has not counted yet.
const UNKNOWN: usize = usize::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_of_many_threads_are_summed() {
        let counters = Counters::new();
        std::thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| (0..1000).for_each(|_| counters.hits.add_one()));
            }
        });
        assert_eq!(counters.read().holds, 50_000);
    }

    #[test]
    fn pauses_become_quantiles() {
        let counters = Counters::new();
        (1..=100).for_each(|us| counters.paused(Duration::from_micros(us)));
        let stats = counters.read();
        assert_eq!(stats.writer_pauses, 100);
        assert_eq!(stats.pause_p50.as_micros(), 50);
        assert_eq!(stats.pause_max.as_micros(), 100);
        let bounds = [0, 10, 50, 100, 1_000_000].map(Duration::from_micros);
        let pauses = counters.pauses(&bounds);
        assert_eq!((pauses.up_to, pauses.count), (vec![0, 10, 50, 100, 100], 100));
        assert_eq!(pauses.total, Duration::from_micros(5050));
    }
}
