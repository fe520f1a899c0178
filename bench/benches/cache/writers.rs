//! What writers cost: the hold that closes what they have opened, and how long a store waits that need not wait.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use stillwire_bench::{Cached, FILE};
use stillwire_filecache::{Cache, Config, View};

use crate::Effort;
use crate::clock::{Times, ratio, text};
use crate::table::{Goal, Row, Table};

pub fn measure(effort: &Effort, table: &mut Table) {
    // Nothing is written back meanwhile: that holds and closes pages, too.
    let late = Duration::from_secs(3600);
    let config =
        Config { bytes: 2 * FILE, dirty_background: 100, dirty_most: 100, flush_after: late, ..Default::default() };
    let cached = Cached::with(config);
    let view = cached.file.view().expect("a view");
    for pages in [16, 512] {
        protect(effort, &cached, &view, pages, table);
    }
    let wake = wake_ups(effort);
    fault(effort, &cached, &view, &wake, table);
    release(effort, &cached, &view, &wake, table);
}

/// The hold that closes a run of `pages` open pages, which the same view opened.
fn protect(effort: &Effort, cached: &Cached, view: &View, pages: u64, table: &mut Table) {
    let (mut closing, mut clean) = (Times::default(), Times::default());
    let rounds = 20 * effort.rounds as u64;
    let before = cached.cache.stats();
    for round in 0..rounds {
        // The first page last: the guard may be about to say that it is open, and a hold that began with others would be
        // closed in two parts.
        for page in (0..pages).rev() {
            view.write_at(page * 4096, &round.to_ne_bytes()).expect("a store");
        }
        std::thread::sleep(SETTLE);
        let range = 0..pages * 4096;
        drop(closing.of(|| cached.file.hold(range.clone()).expect("it is cached")));
        drop(clean.of(|| cached.file.hold(range.clone()).expect("it is cached")));
    }
    let after = cached.cache.stats();
    assert_eq!(after.closes - before.closes, rounds * pages, "pages closed");
    assert_eq!(after.close_calls - before.close_calls, rounds, "one call a run");
    table.add(Row {
        work: format!("hold that closes {pages} open pages"),
        here: closing.spread(),
        beside: format!("{} when they are clean", text(clean.median())),
        ratio: ratio(closing.median(), clean.median()),
        goal: Goal::None,
    });
}

/// From a store into a protected page that nobody holds to the store's end.
fn fault(effort: &Effort, cached: &Cached, view: &View, wake: &Times, table: &mut Table) {
    let mut stores = Times::default();
    let rounds = 100 * effort.rounds as u64;
    let opens = cached.cache.stats().opens;
    for round in 0..rounds {
        drop(cached.file.hold(0..4096).expect("it is cached"));
        stores.of(|| view.write_at(0, &round.to_ne_bytes()).expect("a store"));
    }
    assert_eq!(cached.cache.stats().opens - opens, rounds, "stores that faulted");
    table.add(Row {
        work: "store into a protected page, fault to resume".into(),
        here: stores.spread(),
        beside: format!("{} to wake a thread", text(wake.median())),
        ratio: ratio(stores.median(), wake.median()),
        goal: Goal::None,
    });
}

/// From the release of a page's only hold to the end of the store that waited for it.
fn release(effort: &Effort, cached: &Cached, view: &View, wake: &Times, table: &mut Table) {
    let mut waits = Times::default();
    let rounds = 100 * effort.rounds as u64;
    let pauses = cached.cache.stats().writer_pauses;
    let (order, orders) = mpsc::channel::<u64>();
    let (tell, ended) = mpsc::channel();
    let view = view.clone();
    let writer = std::thread::spawn(move || {
        for round in orders {
            view.write_at(0, &round.to_ne_bytes()).expect("a store");
            let _ = tell.send(Instant::now());
        }
    });
    for round in 0..rounds {
        let hold = cached.file.hold(0..4096).expect("it is cached");
        order.send(round).expect("the writer lives");
        until_a_writer_waits(&cached.cache);
        let start = Instant::now();
        drop(hold);
        waits.add(ended.recv().expect("the store ends").duration_since(start));
    }
    drop(order);
    writer.join().expect("the writer ends");
    assert_eq!(cached.cache.stats().writer_pauses - pauses, rounds, "stores that waited");
    table.add(Row {
        work: "store into a held page, release to resume".into(),
        here: waits.spread(),
        beside: format!("{} to wake a thread", text(wake.median())),
        ratio: ratio(waits.median(), wake.median()),
        goal: Goal::None,
    });
}

fn until_a_writer_waits(cache: &Cache) {
    let start = Instant::now();
    while cache.stats().writers_waiting == 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "no writer waits");
        std::thread::yield_now();
    }
}

/// What any wait for another thread ends with.
fn wake_ups(effort: &Effort) -> Times {
    let mut times = Times::default();
    let (tell, told) = mpsc::channel();
    let sleeper = std::thread::spawn(move || {
        while let Some(()) = {
            std::thread::park();
            tell.send(Instant::now()).ok()
        } {}
    });
    for _ in 0..100 * effort.rounds {
        // Asleep by then; if it should not be, that is one time among many.
        std::thread::sleep(SETTLE);
        let start = Instant::now();
        sleeper.thread().unpark();
        times.add(told.recv().expect("the sleeper lives").duration_since(start));
    }
    drop(told);
    sleeper.thread().unpark();
    sleeper.join().expect("the sleeper ends");
    times
}

/// Time for other threads to finish what they are about to do.
const SETTLE: Duration = Duration::from_micros(100);
