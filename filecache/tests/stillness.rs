//! No store lands in a held page, and none is lost.
#![allow(unsafe_code, reason = "system calls store through raw pointers")]

mod common;

use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::counting::{Counting, crc_now};
use common::*;
use stillwire_filecache::{Cache, CachedFile, Hold, View};

/// Starts a store into a held byte; returns when the guard has a writer waiting.
fn waiting_writer<'scope, 'env>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    cache: &Cache,
    view: &View,
    offset: u64,
    bytes: &'static [u8],
) -> std::thread::ScopedJoinHandle<'scope, ()> {
    let before = cache.stats().writers_waiting;
    let view = view.clone();
    let writer = scope.spawn(move || view.write_at(offset, bytes).unwrap());
    eventually("a writer that waits", || cache.stats().writers_waiting == before + 1);
    writer
}

fn bytes_of(hold: &Hold) -> Vec<u8> {
    hold.chunks().flatten().copied().collect()
}

fn all(file: &CachedFile) -> Vec<u8> {
    bytes_of(&file.hold(0..file.len()).unwrap())
}

#[test]
fn a_store_waits_for_the_hold_and_then_lands() {
    let (cache, file, bytes) = cached(2 * PAGE);
    let view = file.view().unwrap();
    let hold = file.hold(0..PAGE as u64).unwrap();
    let digest = hold.crc32();
    std::thread::scope(|scope| {
        let writer = waiting_writer(scope, &cache, &view, 100, b"changed");
        assert_eq!(hold.crc32(), digest);
        assert_eq!(bytes_of(&hold), bytes[..PAGE]);
        let mut seen = [0; 7];
        view.read_at(100, &mut seen).unwrap();
        assert_eq!(seen, bytes[100..107], "readers of the view see the old bytes too");
        assert!(!writer.is_finished());
        drop(hold);
        writer.join().unwrap();
    });
    assert_eq!(all(&file)[100..107], *b"changed");
    eventually("the guard has counted", || cache.stats().opens == 1);
    let stats = cache.stats();
    assert_eq!((stats.writer_pauses, stats.writers_waiting), (1, 0));
    assert!(stats.pause_max > Duration::ZERO && stats.pause_p50 <= stats.pause_max);
}

#[test]
fn every_hold_counts_until_the_last() {
    let (cache, file, _) = cached(PAGE);
    let view = file.view().unwrap();
    let holds: Vec<_> = (0..5).map(|_| file.hold(0..10).unwrap()).collect();
    std::thread::scope(|scope| {
        let writer = waiting_writer(scope, &cache, &view, 0, b"x");
        let mut holds = holds.into_iter();
        let last = holds.next_back().unwrap();
        drop(holds);
        assert_eq!(cache.stats().writers_waiting, 1);
        assert_ne!(bytes_of(&last)[0], b'x');
        drop(last);
        writer.join().unwrap();
    });
    assert_eq!(all(&file)[0], b'x');
}

#[test]
fn an_open_page_closes_and_the_next_writer_waits_again() {
    let (cache, file, _) = cached(16 * PAGE);
    let view = file.view().unwrap();
    for round in 1..=3 {
        let shut = cache.stats().opens;
        // The first page last: a store ends a moment before the guard says that its page is open, and the hold waits for
        // that if it is its first page.
        for page in (0..16).rev() {
            view.write_at(page * PAGE as u64, &[round]).unwrap();
        }
        eventually("every page is open", || cache.stats().opens == shut + 16);
        let before = cache.stats();
        let hold = file.hold(0..16 * PAGE as u64).unwrap();
        let after = cache.stats();
        assert_eq!(after.closes - before.closes, 16);
        assert_eq!(after.close_calls - before.close_calls, 1, "one ioctl for the run");
        let digest = hold.crc32();
        std::thread::scope(|scope| {
            let writers = [0, 7, 15].map(|page| waiting_writer(scope, &cache, &view, page * PAGE as u64 + 9, b"late"));
            assert_eq!(hold.crc32(), digest);
            drop(hold);
            writers.into_iter().for_each(|writer| writer.join().unwrap());
        });
        let now = all(&file);
        for page in [0, 7, 15] {
            assert_eq!(now[page * PAGE..][..1], [round]);
            assert_eq!(now[page * PAGE + 9..][..4], *b"late");
        }
        assert_eq!(cache.stats().writer_pauses, 3 * u64::from(round));
    }
}

#[test]
fn a_writer_of_another_page_does_not_wait() {
    let (cache, file, _) = cached(2 * PAGE);
    let view = file.view().unwrap();
    let hold = file.hold(0..PAGE as u64).unwrap();
    view.write_at(PAGE as u64, b"free").unwrap();
    assert_eq!(cache.stats().writer_pauses, 0, "nobody waited for a hold");
    drop(hold);
}

#[test]
fn nothing_is_asked_of_the_guard_when_nobody_writes() {
    let (cache, file, _) = cached(64 * PAGE);
    let _view = file.view().unwrap();
    for _ in 0..1000 {
        drop(file.hold(0..64 * PAGE as u64).unwrap());
    }
    let stats = cache.stats();
    assert_eq!((stats.faults, stats.opens, stats.closes, stats.holds), (0, 0, 0, 1000));
}

#[test]
fn two_writers_of_one_page_both_go_on() {
    let (cache, file, _) = cached(PAGE);
    let view = file.view().unwrap();
    let hold = file.hold(0..1).unwrap();
    std::thread::scope(|scope| {
        let one = waiting_writer(scope, &cache, &view, 0, b"1");
        let two = waiting_writer(scope, &cache, &view, 64, b"2");
        drop(hold);
        one.join().unwrap();
        two.join().unwrap();
    });
    let now = all(&file);
    assert_eq!((now[0], now[64]), (b'1', b'2'));
    assert_eq!(cache.stats().writer_pauses, 2);
}

#[test]
fn a_store_by_the_kernel_waits_too() {
    let (cache, file, bytes) = cached(4 * PAGE);
    if let Some(notice) = cache.notices().iter().find(|notice| notice.contains("EFAULT")) {
        skip("a store by the kernel into a held page", notice);
        return;
    }
    let view = file.view().unwrap();
    let mut source = tempfile::tempfile().unwrap();
    source.write_all(&[0xab; 3 * PAGE]).unwrap();
    source.rewind().unwrap();
    let hold = file.hold(PAGE as u64..2 * PAGE as u64).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            // SAFETY: three pages of a view of four, which lives longer than this thread.
            unsafe { libc::read(source.as_raw_fd(), view.as_ptr().cast(), 3 * PAGE) }
        });
        eventually("the kernel waits", || cache.stats().writers_waiting == 1);
        assert_eq!(bytes_of(&hold), bytes[PAGE..2 * PAGE]);
        drop(hold);
        assert_eq!(reader.join().unwrap(), 3 * PAGE as isize, "no error and no short read");
    });
    let now = all(&file);
    assert_eq!(now[..3 * PAGE], [0xab; 3 * PAGE]);
    assert_eq!(now[3 * PAGE..], bytes[3 * PAGE..]);
}

#[test]
fn a_new_view_is_as_protected_as_the_first() {
    let (cache, file, _) = cached(3 * PAGE);
    for round in 1..=5u8 {
        let view = file.view().unwrap();
        let same = file.view().unwrap();
        assert_eq!(view.as_ptr(), same.as_ptr());
        drop(same);
        view.write_at(PAGE as u64, &[round]).unwrap();
        let hold = file.hold(0..3 * PAGE as u64).unwrap();
        std::thread::scope(|scope| {
            let writer = waiting_writer(scope, &cache, &view, 0, b"w");
            drop(hold);
            writer.join().unwrap();
        });
        drop(view);
        let before = cache.stats().closes;
        assert_eq!(all(&file)[PAGE], round);
        assert_eq!(cache.stats().closes, before, "without a view there is nothing to close");
    }
    assert_eq!(cache.stats().writer_pauses, 5);
}

#[test]
fn views_come_and_go_while_pages_are_held() {
    let (_cache, file, _) = cached(8 * PAGE);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2u8 {
            let (file, stop) = (&file, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let view = file.view().unwrap();
                    for page in 0..8 {
                        view.write_at(page * PAGE as u64 + u64::from(thread) * 8, &[thread; 8]).unwrap();
                    }
                }
            });
        }
        let start = Instant::now();
        for _ in 0..3000 {
            let hold = file.hold(0..8 * PAGE as u64).unwrap();
            assert_eq!(hold.crc32(), crc_now(&hold), "held bytes changed");
            if start.elapsed() > Duration::from_secs(20) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn many_writers_and_many_holders() {
    const PAGES: usize = 32;
    let cache = cache(64 * PAGE);
    let file = cache.open(file_of(&[0; PAGES * PAGE]).path()).unwrap();
    let view = file.view().unwrap();
    let done = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for slot in 0..3 {
            let (view, done) = (&view, &done);
            scope.spawn(move || {
                let mut writer = Counting::new(view, slot);
                while done.load(Ordering::Relaxed) < 3 {
                    writer.step();
                }
                writer.check();
            });
        }
        for holder in 0..3usize {
            let (file, done) = (&file, &done);
            scope.spawn(move || {
                let mut random = holder + 1;
                for _ in 0..1500 {
                    random = random.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                    let first = (random >> 16) % PAGES;
                    let pages = 1 + (random >> 24) % (PAGES - first).min(16);
                    let hold = file.hold((first * PAGE) as u64..((first + pages) * PAGE) as u64).unwrap();
                    let digest = hold.crc32();
                    std::thread::yield_now();
                    assert_eq!(crc_now(&hold), digest, "held bytes changed");
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    let stats = cache.stats();
    assert!(stats.writer_pauses > 0 && stats.closes > 0, "nothing met: {stats:?}");
    assert_eq!(stats.writers_waiting, 0);
}

#[test]
fn the_same_without_a_hold_is_torn() {
    let cache = cache(64 * PAGE);
    let file = cache.open(file_of(&[0; 8 * PAGE]).path()).unwrap();
    let view = file.view().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = Counting::new(&view, 0);
            while !stop.load(Ordering::Relaxed) {
                writer.step();
            }
        });
        let unheld = file.unheld(0..8 * PAGE as u64).unwrap();
        eventually("two digests of the same bytes that differ", || unheld.crc32() != unheld.crc32());
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_hold_may_end_in_another_thread() {
    let (cache, file, _) = cached(PAGE);
    let view = file.view().unwrap();
    let hold = file.hold(0..1).unwrap();
    std::thread::scope(|scope| {
        let writer = waiting_writer(scope, &cache, &view, 0, b"y");
        scope.spawn(move || drop(hold));
        writer.join().unwrap();
    });
}

#[test]
fn a_hold_outlives_everything_it_came_from() {
    let (cache, file, bytes) = cached(3 * PAGE);
    let view = file.view().unwrap();
    let hold = file.hold(10..2 * PAGE as u64).unwrap();
    drop((view, file, cache));
    assert_eq!(bytes_of(&hold), bytes[10..2 * PAGE]);
}

#[test]
fn a_view_outlives_the_file_and_the_cache() {
    let (cache, file, _) = cached(PAGE);
    let view = file.view().unwrap();
    drop((file, cache));
    view.write_at(0, b"still here").unwrap();
    let mut back = [0; 10];
    view.read_at(0, &mut back).unwrap();
    assert_eq!(&back, b"still here");
    assert!(view.write_at(PAGE as u64 - 1, b"xy").is_err());
    assert!(view.write_at(u64::MAX, b"xy").is_err());
}

#[test]
fn an_empty_file_has_an_empty_view() {
    let (_cache, file, _) = cached(0);
    let view = file.view().unwrap();
    assert!(view.is_empty());
    view.write_at(0, b"").unwrap();
    assert!(view.write_at(0, b"x").is_err());
}
