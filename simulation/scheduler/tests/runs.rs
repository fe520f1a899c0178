//! What a run is: the same for the same seed, another for another, and over when something is wrong.
#![allow(missing_docs)]

use std::collections::HashSet;
use std::time::Duration;

use stillwire_scheduler::sync::atomic::{AtomicU64, Ordering};
use stillwire_scheduler::sync::{Arc, Condvar, Mutex, RwLock};
use stillwire_scheduler::time::Instant;
use stillwire_scheduler::{Ended, Failure, Settings, abandon, choose, failed, on_step, run, sleep, thread};

fn go(seed: u64, main: impl FnOnce() + Send + 'static) -> Result<Ended, Failure> {
    // A run that fails leaves its thread unfit for another.
    let run = move || run(Settings { seed, most_steps: 100_000, keeps_log: true }, main);
    std::thread::spawn(run).join().unwrap()
}

/// Adds without an atomic addition: two may read the same.
fn add_badly(number: &Arc<AtomicU64>) {
    let adders: Vec<_> = (0..2)
        .map(|_| {
            let number = number.clone();
            thread::spawn(move || {
                let before = number.load(Ordering::SeqCst);
                number.store(before + 1, Ordering::SeqCst);
            })
        })
        .collect();
    adders.into_iter().for_each(|adder| adder.join().unwrap());
}

#[test]
fn a_seed_is_a_run_and_other_seeds_are_others() {
    let one = |seed| {
        go(seed, || {
            let number = Arc::new(AtomicU64::new(0));
            add_badly(&number);
            sleep(Duration::from_nanos(choose(1000)));
        })
        .unwrap()
    };
    let traces: HashSet<u64> = (0..50)
        .map(|seed| {
            let (first, second) = (one(seed), one(seed));
            assert_eq!((first.trace, first.steps, first.time), (second.trace, second.steps, second.time));
            first.trace
        })
        .collect();
    assert!(traces.len() > 25, "{}", traces.len());
}

#[test]
fn a_lost_addition_is_met_by_some_seeds_and_not_by_others() {
    let sums: HashSet<u64> = (0..200)
        .map(|seed| {
            let sum = Arc::new(std::sync::Mutex::new(0));
            let place = sum.clone();
            go(seed, move || {
                let number = Arc::new(AtomicU64::new(0));
                add_badly(&number);
                *place.lock().unwrap() = number.load(Ordering::SeqCst);
            })
            .unwrap();
            *sum.lock().unwrap()
        })
        .collect();
    assert_eq!(sums, HashSet::from([1, 2]));
}

#[test]
fn locks_exclude_each_other_and_conditions_wake() {
    for seed in 0..100 {
        go(seed, || {
            let queue = Arc::new((Mutex::new(Vec::<u32>::new()), Condvar::new()));
            let most = Arc::new(RwLock::new(0u32));
            let takers: Vec<_> = (0..3)
                .map(|_| {
                    let (queue, most) = (queue.clone(), most.clone());
                    thread::spawn(move || {
                        let mut numbers = queue.0.lock().unwrap();
                        while numbers.is_empty() {
                            numbers = queue.1.wait(numbers).unwrap();
                        }
                        let number = numbers.pop().unwrap();
                        drop(numbers);
                        let mut most = most.write().unwrap();
                        *most = number.max(*most);
                    })
                })
                .collect();
            for number in 1..=3 {
                queue.0.lock().unwrap().push(number);
                queue.1.notify_one();
            }
            takers.into_iter().for_each(|taker| taker.join().unwrap());
            assert_eq!(*most.read().unwrap(), 3);
        })
        .unwrap_or_else(|failure| panic!("seed {seed}: {}", failure.what));
    }
}

#[test]
fn nobody_to_wake_a_task_is_the_end_of_the_run() {
    let failure = go(1, || {
        let (lock, bell) = (Mutex::new(()), Condvar::new());
        // Told again and again of nothing, it would wait for ever.
        let mut held = lock.lock().unwrap();
        loop {
            held = bell.wait(held).unwrap();
        }
    });
    assert!(failure.unwrap_err().what.contains("nobody can go on; the tasks: main waits for a condition"));
}

#[test]
fn locks_in_a_circle_are_found_by_some_seed() {
    let found = (0..200).any(|seed| {
        let circle = go(seed, || {
            let locks = Arc::new((Mutex::new(()), Mutex::new(())));
            let other = locks.clone();
            let task = thread::spawn(move || {
                let _second = other.1.lock().unwrap();
                let _first = other.0.lock().unwrap();
            });
            let first = locks.0.lock().unwrap();
            let second = locks.1.lock().unwrap();
            drop((first, second));
            task.join().unwrap();
        });
        circle.is_err_and(|failure| failure.what.contains("waits for a lock"))
    });
    assert!(found);
}

#[test]
fn time_passes_in_a_leap_and_ends_waits() {
    let ended = go(3, || {
        let begun = Instant::now();
        sleep(Duration::from_secs(3600));
        assert!(begun.elapsed() >= Duration::from_secs(3600));
        let (lock, bell) = (Mutex::new(()), Condvar::new());
        let mut held = lock.lock().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(5) {
            held = bell.wait_timeout(held, Duration::from_millis(5)).unwrap().0;
        }
    })
    .unwrap();
    assert!(ended.time < Duration::from_secs(3601) && ended.steps < 1000, "{ended:?}");
}

#[test]
fn what_is_wrong_ends_the_run_where_it_is() {
    let what = |main: fn()| go(7, main).unwrap_err().what;
    assert_eq!(what(|| failed("this".into())), "this (in main)");
    assert!(what(|| panic!("that")).contains("a panic in main: that"));
    assert!(
        what(|| loop {
            thread::yield_now();
        })
        .contains("no end after 100000 steps")
    );
    let watched = what(|| {
        let number = Arc::new(AtomicU64::new(0));
        let seen = number.clone();
        on_step(move || if seen.peek() < 3 { Ok(()) } else { Err("three".into()) });
        let task = thread::spawn(move || {
            (0..1000).for_each(|_| {
                number.fetch_add(1, Ordering::SeqCst);
            })
        });
        task.join().unwrap();
    });
    assert!(watched.starts_with("three (after "), "{watched}");
}

#[test]
fn tasks_that_are_left_behind_are_told_of_unless_that_was_meant() {
    let leave = |meant: bool| {
        go(1, move || {
            thread::spawn(|| sleep(Duration::from_secs(1)));
            if meant {
                abandon();
            }
        })
    };
    assert!(leave(false).unwrap_err().what.contains("main has ended before others"));
    assert!(leave(true).is_ok());
}

#[test]
fn outside_of_a_run_things_are_what_they_are_elsewhere() {
    let (lock, number) = (Mutex::new(1), AtomicU64::new(2));
    *lock.lock().unwrap() += 1;
    number.fetch_add(1, Ordering::Relaxed);
    assert_eq!((*lock.lock().unwrap(), number.load(Ordering::Relaxed), choose(5)), (2, 3, 0));
}
