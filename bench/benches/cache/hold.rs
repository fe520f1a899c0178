//! Holds while nobody writes. Criterion has the same in more detail (`benches/hold.rs`); here they take turns.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stillwire_bench::Cached;

use crate::Effort;
use crate::table::{Goal, Row, Table};

pub fn measure(effort: &Effort, table: &mut Table) {
    let cached = Cached::new();
    let word = AtomicU64::new(0);
    let floor = || {
        black_box(&word).fetch_add(1, Ordering::Acquire);
        black_box(&word).fetch_sub(1, Ordering::Release);
    };
    let hold = |len: u64| drop(black_box(cached.file.hold(black_box(0..len)).expect("it is cached")));
    let holds = cached.cache.stats().holds;
    let (mut floors, mut pages, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        floors.push(time(&floor));
        pages.push(time(&|| hold(1448)));
        runs.push(time(&|| hold(RUN)));
    }
    assert_eq!(cached.cache.stats().holds - holds, 2 * effort.rounds as u64 * u64::from(TIMES), "holds");
    assert_eq!(word.into_inner(), 0);
    let [floor, page, run] = [floors, pages, runs].map(median);
    let a_page = run / (RUN / 4096) as f64;
    for (work, here, goal) in [
        ("hold and release, a clean page", page, Goal::AtMost(1.3)),
        ("hold and release, a page of a clean 64 KiB run", a_page, Goal::None),
    ] {
        table.add(Row {
            work: work.into(),
            here: format!("{here:.1} ns"),
            beside: format!("{floor:.1} ns two atomic additions"),
            ratio: Some(here / floor),
            goal,
        });
    }
}

/// Nanoseconds that `work` takes.
fn time(work: &dyn Fn()) -> f64 {
    let start = Instant::now();
    (0..TIMES).for_each(|_| work());
    nanoseconds(start.elapsed()) / f64::from(TIMES)
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

const TIMES: u32 = 200_000;
const RUN: u64 = 64 << 10;
