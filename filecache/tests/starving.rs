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

#[test]
fn a_writer_waits_for_what_is_queued_and_not_longer() {
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
    let stats = cache.stats();
    assert!(p99 <= 2 * drain, "p99 of the waits is {p99:?}, what is queued drains in {drain:?}; {stats:?}");
    assert!(stats.snapshots >= 30 && stats.writer_pauses >= 30, "the writer hardly met the senders: {stats:?}");
    assert!(waits[waits.len() / 2] > DRAIN / 10, "the senders were no obstacle: {waits:?}");
}

#[test]
fn without_snapshots_it_starves() {
    let cache = Cache::new(Config { bytes: 64 * PAGE, snapshots: false, ..quiet() }).unwrap();
    let file = cache.open(file_of(&pattern(PAGE)).path()).unwrap();
    let view = file.view().unwrap();
    std::thread::scope(|scope| {
        let (writer, _) = while_sent(&file, || {
            let writer = scope.spawn(|| view.write_at(7, b"late").unwrap());
            eventually("the writer waits", || cache.stats().writers_waiting == 1);
            let begun = Instant::now();
            while begun.elapsed() < 20 * DRAIN {
                assert!(!writer.is_finished(), "it got through after {:?}", begun.elapsed());
                std::thread::sleep(DRAIN / 5);
            }
            writer
        });
        writer.join().unwrap();
    });
    assert_eq!(cache.stats().snapshots, 0);
    let hold = file.hold(7..11).unwrap();
    assert_eq!(hold.chunks().next(), Some(&b"late"[..]), "when nobody sends any more, it lands");
}
