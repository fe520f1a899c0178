//! What the cache counts.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Counts since the cache was made. Taken one after the other, not at one instant.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Holds taken.
    pub holds: u64,
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

/// The counters behind [`Stats`].
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) holds: Striped,
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
    pauses: Mutex<Histogram<u64>>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            holds: Striped::default(),
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
            pauses: Mutex::new(pause_histogram()),
        }
    }

    /// One writer has waited for a hold.
    pub(crate) fn paused(&self, wait: Duration) {
        let nanoseconds = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanoseconds.max(1));
    }

    pub(crate) fn read(&self) -> Stats {
        let pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            holds: self.holds.sum(),
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

/// A counter in several cache lines, so that threads that hold at the same time do not pull one line back and forth.
#[derive(Debug, Default)]
pub(crate) struct Striped([Stripe; STRIPES]);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

impl Striped {
    #[inline]
    pub(crate) fn add_one(&self) {
        count(&self.0[STRIPE.get() % STRIPES].0, 1);
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum()
    }
}

/// From 1 ns to 10 minutes, three digits.
fn pause_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).unwrap_or_else(|_| unreachable!("constant bounds are valid"))
}

static NEXT_STRIPE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: Cell<usize> = Cell::new(NEXT_STRIPE.fetch_add(1, Ordering::Relaxed));
}

const STRIPES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_of_many_threads_are_summed() {
        let counters = Counters::new();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..1000).for_each(|_| counters.holds.add_one()));
            }
        });
        assert_eq!(counters.read().holds, 20_000);
    }

    #[test]
    fn pauses_become_quantiles() {
        let counters = Counters::new();
        (1..=100).for_each(|us| counters.paused(Duration::from_micros(us)));
        let stats = counters.read();
        assert_eq!(stats.writer_pauses, 100);
        assert_eq!(stats.pause_p50.as_micros(), 50);
        assert_eq!(stats.pause_max.as_micros(), 100);
    }
}
