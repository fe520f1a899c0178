//! A page that is sent without pause: its writer waits for what is queued, not for ever. Alone in its process, as what is
//! queued is let go by the clock.

mod common;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use stillwire_filecache::{Cache, CachedFile, Config, Hold};

/// How long a descriptor is queued: long against the noise of a busy machine.
const DRAIN: Duration = Duration::from_millis(20);
const SENDERS: usize = 4;

/// Holds the page again and again until `stop`, each time until it has been queued for [`DRAIN`]. There is always one in the
/// queue: the next is taken before one goes. The longest that one was queued.
fn send(file: &CachedFile, sending: &AtomicBool, stop: &AtomicBool) -> Duration {
    let mut queue: VecDeque<(Instant, Hold)> = VecDeque::new();
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        queue.push_back((Instant::now(), file.hold(0..PAGE as u64).unwrap()));
        sending.store(true, Ordering::Relaxed);
        std::thread::sleep(DRAIN / 5);
        while queue.len() > 1 && queue[0].0.elapsed() >= DRAIN {
            let (since, hold) = queue.pop_front().unwrap();
            drop(hold);
            longest = longest.max(since.elapsed());
        }
    }
    longest
}

/// Runs `writer` while all senders send; its answer, and the longest time in a queue.
fn while_sent<R>(file: &CachedFile, writer: impl FnOnce() -> R) -> (R, Duration) {
    let stop = AtomicBool::new(false);
    let longest = Mutex::new(Duration::ZERO);
    let sending: [AtomicBool; SENDERS] = Default::default();
    let answer = std::thread::scope(|scope| {
        for one in &sending {
            let (stop, longest) = (&stop, &longest);
            scope.spawn(move || {
                let own = send(file, one, stop);
                let mut longest = longest.lock().unwrap();
                *longest = own.max(*longest);
            });
        }
        eventually("all send", || sending.iter().all(|one| one.load(Ordering::Relaxed)));
        let answer = writer();
        stop.store(true, Ordering::Relaxed);
        answer
    });
    (answer, longest.into_inner().unwrap())
}

/// What is held after the writer came is never released before it is through: so it waits for none of it.
#[test]
fn a_writer_waits_for_what_was_queued_before_it_came_alone() {
    let cache = cache(64 * PAGE);
    let file = cache.open(file_of(&pattern(PAGE)).path()).unwrap();
    let view = file.view().unwrap();
    for number in 1..=60u8 {
        let hold = |_| file.hold(0..PAGE as u64).unwrap();
        let queued: Vec<_> = (0..SENDERS).map(hold).collect();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| view.write_at(7, &[number]).unwrap());
            eventually("the writer waits", || cache.stats().writers_waiting == 1);
            let later: Vec<_> = (0..SENDERS).map(hold).collect();
            drop(queued);
            eventually("the writer is through", || writer.is_finished());
            assert!(later.iter().all(|hold| hold.chunks().next().unwrap()[7] != number), "held before it stored");
        });
    }
    let stats = cache.stats();
    assert_eq!((stats.snapshots, stats.writer_pauses), (60, 60));
}

/// The same while others send without pause. (How long it waits is the machine's business: it is printed.)
#[test]
fn a_writer_gets_through_whatever_is_sent() {
    let cache = cache(64 * PAGE);
    let file = cache.open(file_of(&pattern(PAGE)).path()).unwrap();
    let view = file.view().unwrap();
    let (mut waits, drain) = while_sent(&file, || {
        let wait = |number: u8| {
            let begun = Instant::now();
            view.write_at(7, &[number]).unwrap();
            let wait = begun.elapsed();
            // Until it is queued by somebody again.
            let seen = cache.stats().closes;
            eventually("the page is sent again", || cache.stats().closes > seen || number == 0);
            wait
        };
        (1..=60).map(wait).collect::<Vec<_>>()
    });
    waits.sort_unstable();
    let p99 = waits[waits.len() * 99 / 100];
    println!("p99 of the waits is {p99:?}; what is queued drained in {drain:?} at most");
    let stats = cache.stats();
    assert!(stats.snapshots >= 30 && stats.writer_pauses >= 30, "the writer hardly met the senders: {stats:?}");
}

/// Without copies, what is held later is the page itself, and the writer waits for that too.
#[test]
fn without_snapshots_it_starves() {
    let cache = Cache::new(Config { bytes: 64 * PAGE, snapshots: false, ..quiet() }).unwrap();
    let file = cache.open(file_of(&pattern(PAGE)).path()).unwrap();
    let view = file.view().unwrap();
    let hold = || file.hold(0..PAGE as u64).unwrap();
    std::thread::scope(|scope| {
        let mut held = hold();
        let writer = scope.spawn(|| view.write_at(7, b"late").unwrap());
        eventually("the writer waits", || cache.stats().writers_waiting == 1);
        for _ in 0..1000 {
            held = hold();
            assert!(!writer.is_finished() && cache.stats().writers_waiting == 1, "it got through");
        }
        drop(held);
        writer.join().unwrap();
    });
    assert_eq!(cache.stats().snapshots, 0);
    assert_eq!(file.hold(7..11).unwrap().chunks().next(), Some(&b"late"[..]), "when nobody sends any more, it lands");
}
