//! Somebody else changes a cached file.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::*;
use stillwire_filecache::{CachedFile, Error};

fn bytes_of(file: &CachedFile, range: std::ops::Range<u64>) -> Vec<u8> {
    file.hold(range).unwrap().chunks().flatten().copied().collect()
}

fn all(file: &CachedFile) -> Vec<u8> {
    bytes_of(file, 0..file.len())
}

fn write(path: &Path, bytes: &[u8], offset: u64) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// A conflict; how it is told.
fn conflict(file: &CachedFile) -> String {
    match file.sync() {
        Err(error @ Error::Conflict { .. }) => error.to_string(),
        other => panic!("no conflict: {other:?}"),
    }
}

#[test]
fn a_write_is_noticed_without_being_asked() {
    let disk = file_of(&pattern(20 * PAGE));
    let cache = cache(64 * PAGE);
    let file = cache.open(disk.path()).unwrap();
    let before = all(&file);
    write(disk.path(), b"outside", 3 * PAGE as u64);
    eventually("the new bytes", || bytes_of(&file, 3 * PAGE as u64..3 * PAGE as u64 + 7) == b"outside");
    assert_eq!(bytes_of(&file, 0..3 * PAGE as u64), before[..3 * PAGE]);
    assert_eq!((cache.stats().conflicts, cache.stats().writers_waiting), (0, 0));
    file.sync().unwrap();
}

#[test]
fn what_is_held_stays_as_it_was() {
    let disk = file_of(&pattern(4 * PAGE));
    let cache = cache(64 * PAGE);
    let file = cache.open(disk.path()).unwrap();
    let free = cache.stats().free_bytes;
    let hold = file.hold(0..2 * PAGE as u64).unwrap();
    let (digest, before) = (hold.crc32(), hold.chunks().flatten().copied().collect::<Vec<_>>());
    write(disk.path(), &[0xee; 4 * PAGE], 0);
    file.recheck().unwrap();
    assert!(hold.chunks().flatten().copied().eq(before.iter().copied()), "held bytes changed");
    assert_eq!(all(&file), [0xee; 4 * PAGE], "new holds see the file");
    assert!(hold.chunks().flatten().copied().eq(before), "held bytes changed");
    assert_eq!(hold.crc32(), digest);
    drop(hold);
    file.evict(0..file.len());
    assert_eq!(cache.stats().free_bytes, free, "what was held is free after its last hold, and nothing else is lost");
}

#[test]
fn a_view_shows_what_was_written_outside() {
    let disk = file_of(&pattern(4 * PAGE));
    let cache = cache(64 * PAGE);
    let file = cache.open(disk.path()).unwrap();
    let view = file.view().unwrap();
    let mut seen = [0; 3];
    view.read_at(10, &mut seen).unwrap();
    write(disk.path(), b"new", 10);
    file.recheck().unwrap();
    view.read_at(10, &mut seen).unwrap();
    assert_eq!(&seen, b"new");
    view.write_at(11, b"-").unwrap();
    file.sync().unwrap();
    assert_eq!(std::fs::read(disk.path()).unwrap()[9..14], [pattern(10)[9], b'n', b'-', b'w', pattern(14)[13]]);
}

#[test]
fn a_writer_that_waits_for_a_page_that_goes_goes_on() {
    let disk = file_of(&pattern(2 * PAGE));
    let cache = cache(64 * PAGE);
    let file = cache.open(disk.path()).unwrap();
    let view = file.view().unwrap();
    let hold = file.hold(0..PAGE as u64).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| view.write_at(5, b"ours").unwrap());
        eventually("a writer that waits", || cache.stats().writers_waiting == 1);
        // The page has no store yet, so this is no conflict; the writer has nothing to wait for any more.
        write(disk.path(), &[0xaa; 2 * PAGE], 0);
        file.recheck().unwrap();
        writer.join().unwrap();
    });
    assert_ne!(hold.chunks().next().unwrap()[5], b'o', "the store went to the file's new page");
    let mut expected = [0xaa; PAGE];
    expected[5..9].copy_from_slice(b"ours");
    assert_eq!(bytes_of(&file, 0..PAGE as u64), expected);
}

#[test]
fn a_write_against_our_stores_is_a_conflict_until_somebody_decides() {
    for ours in [false, true] {
        let disk = file_of(&pattern(4 * PAGE));
        let cache = cache(64 * PAGE);
        let (file, other) = (cache.open(disk.path()).unwrap(), cache.open(disk.path()).unwrap());
        file.view().unwrap().write_at(PAGE as u64, b"ours").unwrap();
        write(disk.path(), b"theirs", 2 * PAGE as u64);
        for _ in 0..2 {
            let told = conflict(&file);
            assert!(told.contains("written by somebody else") && told.contains("discard"), "{told}");
        }
        conflict(&other);
        assert_eq!(cache.stats().conflicts, 1);
        assert_eq!(std::fs::read(disk.path()).unwrap()[PAGE..PAGE + 4], pattern(4 * PAGE)[PAGE..PAGE + 4]);
        assert_eq!(bytes_of(&file, PAGE as u64..PAGE as u64 + 4), b"ours", "stores are not dropped in silence");
        assert_eq!(bytes_of(&file, 2 * PAGE as u64..2 * PAGE as u64 + 6), b"theirs", "clean pages are up to date");
        if ours {
            file.overwrite()
        } else {
            file.discard()
        }
        file.sync().unwrap();
        other.sync().unwrap();
        let mut expected = pattern(4 * PAGE);
        expected[2 * PAGE..2 * PAGE + 6].copy_from_slice(b"theirs");
        if ours {
            expected[PAGE..PAGE + 4].copy_from_slice(b"ours");
        }
        assert_eq!(std::fs::read(disk.path()).unwrap(), expected);
        assert_eq!(all(&file), expected);
    }
}

#[test]
fn a_file_that_is_cut_off_outside() {
    let disk = file_of(&pattern(10 * PAGE));
    let cache = cache(64 * PAGE);
    let file = cache.open(disk.path()).unwrap();
    let hold = file.hold(8 * PAGE as u64..10 * PAGE as u64).unwrap();
    File::options().write(true).open(disk.path()).unwrap().set_len(5000).unwrap();
    eventually("the new length", || file.len() == 5000);
    assert_eq!(all(&file), pattern(5000));
    assert!(matches!(file.hold(0..5001), Err(Error::OutOfRange { len: 5000, .. })));
    assert!(hold.chunks().flatten().eq(&pattern(10 * PAGE)[8 * PAGE..]), "held bytes changed");

    // And with a store that is beyond the new end.
    file.view().unwrap().write_at(4097, b"ours").unwrap();
    File::options().write(true).open(disk.path()).unwrap().set_len(100).unwrap();
    assert!(conflict(&file).contains("truncated"));
    assert_eq!(bytes_of(&file, 4097..4101), b"ours");
    file.overwrite();
    file.sync().unwrap();
    let now = std::fs::read(disk.path()).unwrap();
    assert_eq!((now.len(), &now[4097..4101]), (5000, &b"ours"[..]));
}

#[test]
fn a_file_that_is_replaced_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (path, new) = (folder.path().join("file"), folder.path().join("new"));
    std::fs::write(&path, b"the old file").unwrap();
    std::fs::write(&new, b"the new file").unwrap();
    let cache = cache(64 * PAGE);
    let file = cache.open(&path).unwrap();
    assert_eq!(all(&file), b"the old file");
    std::fs::rename(&new, &path).unwrap();
    assert_eq!(all(&cache.open(&path).unwrap()), b"the new file");
    assert_eq!(all(&file), b"the old file", "who has it open still has it");
    file.view().unwrap().write_at(4, b"OLD").unwrap();
    file.sync().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"the new file");
    assert_eq!(all(&file), b"the OLD file");
}

#[test]
fn stores_into_a_file_that_is_deleted_meanwhile_are_a_conflict() {
    let disk = file_of(&pattern(PAGE));
    let cache = cache(64 * PAGE);
    let file = cache.open(disk.path()).unwrap();
    file.view().unwrap().write_at(0, b"where to?").unwrap();
    drop(disk);
    eventually("that it is noticed", || cache.stats().conflicts == 1);
    assert!(conflict(&file).contains("deleted"), "{}", conflict(&file));
    file.overwrite();
    file.sync().unwrap();
}

#[test]
fn a_closed_file_stays_cached_and_is_looked_at_when_it_is_opened() {
    let disk = file_of(&pattern(2 * PAGE));
    let cache = cache(64 * PAGE);
    assert_eq!(all(&cache.open(disk.path()).unwrap()), pattern(2 * PAGE));
    assert_eq!(all(&cache.open(disk.path()).unwrap()), pattern(2 * PAGE));
    assert_eq!(cache.stats().fills, 1, "still there");
    write(disk.path(), b"changed while it was closed", 0);
    assert_eq!(bytes_of(&cache.open(disk.path()).unwrap(), 0..7), b"changed");
}

#[test]
fn closed_files_are_not_kept_without_end() {
    let cache =
        stillwire_filecache::Cache::new(stillwire_filecache::Config { bytes: 64 * PAGE, closed_files: 3, ..quiet() })
            .unwrap();
    let disks: Vec<_> = (0..10).map(|_| file_of(&pattern(PAGE))).collect();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = (cache.stats().free_bytes, descriptors());
    for disk in &disks {
        all(&cache.open(disk.path()).unwrap());
    }
    let kept = (before.0 - cache.stats().free_bytes) as usize / PAGE;
    assert_eq!(kept, 3);
    assert!(descriptors() <= before.1 + 2 * 3 + 20, "descriptors of other tests aside");
}
