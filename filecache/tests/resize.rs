//! Files that grow, shrink and have holes.
#![allow(unsafe_code, reason = "stores behind the end of a file, by raw pointer")]

mod common;

use common::*;
use stillwire_filecache::{CachedFile, Error};
use tempfile::NamedTempFile;

fn all(file: &CachedFile) -> Vec<u8> {
    file.hold(0..file.len()).unwrap().chunks().flatten().copied().collect()
}

fn opened(len: usize) -> (NamedTempFile, stillwire_filecache::Cache, CachedFile) {
    let disk = file_of(&pattern(len));
    let cache = cache(256 * PAGE);
    let file = cache.open(disk.path()).unwrap();
    (disk, cache, file)
}

/// The file is `expected`, here and on the disk.
fn is(file: &CachedFile, disk: &NamedTempFile, expected: &[u8]) {
    assert!(all(file) == expected, "in the cache");
    file.sync().unwrap();
    assert!(std::fs::read(disk.path()).unwrap() == expected, "on the disk");
}

#[test]
fn a_file_grows_by_zeros_and_can_be_written_there() {
    let (disk, _cache, file) = opened(5000);
    let view = file.view().unwrap();
    let mut expected = pattern(5000);
    for len in [5001, 2 * PAGE, 2 * PAGE + 1, 100 * PAGE + 77] {
        file.set_len(len as u64).unwrap();
        assert_eq!((file.len(), view.len()), (len as u64, len));
        expected.resize(len, 0);
        view.write_at(len as u64 - 1, b"!").unwrap();
        expected[len - 1] = b'!';
        is(&file, &disk, &expected);
    }
}

#[test]
fn what_was_stored_behind_the_end_does_not_come_back() {
    let (disk, _cache, file) = opened(5000);
    let view = file.view().unwrap();
    view.write_at(4999, b"x").unwrap();
    // SAFETY: inside the view's last page, which the store before has opened.
    unsafe { view.as_ptr().add(6000).write(0xff) };
    let hold = file.hold(0..100).unwrap();
    file.set_len(7000).unwrap();
    drop(hold);
    let mut expected = pattern(5000);
    expected[4999] = b'x';
    expected.resize(7000, 0);
    is(&file, &disk, &expected);
}

#[test]
fn growing_waits_for_holds_of_a_last_page_with_stores() {
    let (disk, _cache, file) = opened(5000);
    file.view().unwrap().write_at(4999, b"x").unwrap();
    let hold = file.hold(4990..5000).unwrap();
    let held: Vec<u8> = hold.chunks().flatten().copied().collect();
    std::thread::scope(|scope| {
        let grower = scope.spawn(|| file.set_len(9000).unwrap());
        for _ in 0..200 {
            assert!(!grower.is_finished() && file.len() == 5000, "the last page is held");
            std::thread::yield_now();
        }
        assert!(hold.chunks().flatten().eq(&held));
        drop(hold);
        grower.join().unwrap();
    });
    let mut expected = pattern(5000);
    expected[4999] = b'x';
    expected.resize(9000, 0);
    is(&file, &disk, &expected);
}

#[test]
fn growing_does_not_wait_for_holds_of_what_nobody_wrote() {
    let (disk, _cache, file) = opened(5000);
    let hold = file.hold(4990..5000).unwrap();
    let held: Vec<u8> = hold.chunks().flatten().copied().collect();
    file.set_len(9000).unwrap();
    let mut expected = pattern(5000);
    expected.resize(9000, 0);
    is(&file, &disk, &expected);
    assert!(hold.chunks().flatten().eq(&held), "held bytes changed");
}

#[test]
fn a_file_that_is_cut_off_keeps_what_is_held_and_drops_what_was_stored() {
    let (disk, cache, file) = opened(20 * PAGE);
    let view = file.view().unwrap();
    view.write_at(3 * PAGE as u64, b"stays").unwrap();
    view.write_at(18 * PAGE as u64, b"goes").unwrap();
    let hold = file.hold(17 * PAGE as u64..20 * PAGE as u64).unwrap();
    let held: Vec<u8> = hold.chunks().flatten().copied().collect();
    file.set_len(4 * PAGE as u64 + 100).unwrap();
    assert!(hold.chunks().flatten().eq(&held), "held bytes changed");
    assert!(matches!(file.hold(0..20 * PAGE as u64), Err(Error::OutOfRange { .. })));
    assert!(matches!(view.write_at(18 * PAGE as u64, b"x"), Err(Error::OutOfRange { .. })));
    let mut expected = pattern(20 * PAGE);
    expected.truncate(4 * PAGE + 100);
    expected[3 * PAGE..3 * PAGE + 5].copy_from_slice(b"stays");
    is(&file, &disk, &expected);
    // Longer again: nothing of what was there before.
    file.set_len(20 * PAGE as u64).unwrap();
    expected.resize(20 * PAGE, 0);
    is(&file, &disk, &expected);
    assert!(hold.chunks().flatten().eq(&held), "held bytes changed");
    drop((hold, view));
    assert_eq!(cache.stats().dirty_bytes, 0);
    file.evict(0..file.len());
    assert_eq!(cache.stats().free_bytes, 256 * PAGE as u64, "every page came back");
}

#[test]
fn a_writer_that_waits_for_a_page_that_is_cut_off_does_not_wait_for_ever() {
    let (_disk, cache, file) = opened(4 * PAGE);
    let view = file.view().unwrap();
    let hold = file.hold(0..4 * PAGE as u64).unwrap();
    std::thread::scope(|scope| {
        // In a page that stays.
        let writer = scope.spawn(|| view.write_at(PAGE as u64, b"late").unwrap());
        eventually("a writer that waits", || cache.stats().writers_waiting == 1);
        file.set_len(2 * PAGE as u64).unwrap();
        drop(hold);
        writer.join().unwrap();
    });
    assert_eq!(all(&file)[PAGE..PAGE + 4], *b"late");
}

#[test]
fn a_store_that_waits_for_a_page_that_is_cut_off_is_an_error_and_no_signal() {
    let (disk, cache, file) = opened(2 * PAGE);
    let view = file.view().unwrap();
    for round in 0..3u8 {
        let hold = file.hold(PAGE as u64..2 * PAGE as u64).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| view.write_at(PAGE as u64 + 5, b"where?"));
            eventually("a writer that waits", || cache.stats().writers_waiting == 1);
            file.set_len(PAGE as u64).unwrap();
            assert!(matches!(writer.join().unwrap(), Err(Error::OutOfRange { .. })));
        });
        drop(hold);
        file.set_len(2 * PAGE as u64).unwrap();
        let mut expected = pattern(PAGE);
        expected.resize(2 * PAGE, 0);
        is(&file, &disk, &expected);
        view.write_at(PAGE as u64, &[round]).unwrap();
        expected[PAGE] = round;
        is(&file, &disk, &expected);
    }
}

#[test]
fn only_what_lies_in_the_range_is_evicted() {
    let (_disk, cache, file) = opened(64 * PAGE);
    drop(file.hold(0..64 * PAGE as u64).unwrap());
    let free = cache.stats().free_bytes;
    file.evict(0..PAGE as u64);
    assert_eq!(cache.stats().free_bytes, free, "a part of a folio stays");
    file.evict(0..64 * PAGE as u64);
    assert_eq!(cache.stats().free_bytes, 256 * PAGE as u64);
}

#[test]
fn holes_are_zeros_and_stay_holes_where_nobody_writes() {
    use std::os::unix::fs::MetadataExt;
    let disk = NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 30).unwrap();
    let cache = cache(1024 * PAGE);
    let file = cache.open(disk.path()).unwrap();
    let view = file.view().unwrap();
    view.write_at(700 << 20, b"an island").unwrap();
    let hold = file.hold((700 << 20) - 10..(700 << 20) + 20).unwrap();
    let found: Vec<u8> = hold.chunks().flatten().copied().collect();
    assert_eq!(found, [&[0; 10][..], b"an island", &[0; 11]].concat());
    drop(hold);
    file.sync().unwrap();
    let blocks = disk.as_file().metadata().unwrap().blocks() * 512;
    assert!(blocks < 1 << 20, "{blocks} bytes on the disk for one page");
}

#[test]
fn a_huge_sparse_file_costs_nothing_until_it_is_touched() {
    let disk = NamedTempFile::new().unwrap();
    disk.as_file().set_len(100 << 30).unwrap();
    let cache = cache(1024 * PAGE);
    let file = cache.open(disk.path()).unwrap();
    let view = file.view().unwrap();
    assert!(view.len() == 100 << 30 && view.capacity() >= view.len());
    assert_eq!((cache.stats().fills, cache.stats().free_bytes), (0, 1024 * PAGE as u64));
    for gib in [0u64, 99, 50] {
        // SAFETY: inside the view.
        unsafe { view.as_ptr().add((gib << 30) as usize).write_volatile(gib as u8 + 1) };
    }
    for gib in [0u64, 99, 50] {
        assert_eq!(file.hold(gib << 30..(gib << 30) + 1).unwrap().chunks().next(), Some(&[gib as u8 + 1][..]));
    }
    assert_eq!(cache.stats().poisoned, 0);
}

#[test]
fn lengths_that_can_not_be_are_refused_and_change_nothing() {
    let (disk, _cache, file) = opened(5000);
    assert!(matches!(file.set_len(1 << 60), Err(Error::TooLong { .. })));
    // More than ext4 can have: the disk says no.
    match file.set_len(100 << 40) {
        Err(Error::File { what: "ftruncate", .. }) => {}
        Ok(()) => file.set_len(5000).unwrap(),
        other => panic!("{other:?}"),
    }
    is(&file, &disk, &pattern(5000));
}
