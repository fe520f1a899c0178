//! Groups of a cache that is there, in real threads. Every interleaving is in `page_model/group.rs`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;
use crate::{Cache, CachedFile, Config, Hold};

const GROUP: u64 = PAGES as u64 * 4096;

/// A file of `groups` groups, in a cache of `room` bytes.
struct Cached {
    cache: Cache,
    file: CachedFile,
    bytes: Vec<u8>,
    folder: tempfile::TempDir,
}

impl Cached {
    fn new(room: usize, groups: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(Config { bytes: room, max_folio: GROUP as usize, ..Default::default() }).unwrap();
        let bytes: Vec<u8> = (0..GROUP * groups).map(|at| (at / 7) as u8).collect();
        let path = folder.path().join("file");
        std::fs::write(&path, &bytes).unwrap();
        let file = cache.open(path).unwrap();
        Self { cache, file, bytes, folder }
    }

    fn other(&self, len: u64) -> PathBuf {
        let path = self.folder.path().join("other");
        std::fs::write(&path, vec![5; len as usize]).unwrap();
        path
    }

    /// Held so often that the group stands.
    fn hold_often(&self, group: u64) -> Hold {
        let hold = || self.file.hold(group * GROUP..(group + 1) * GROUP).unwrap();
        (0..3).for_each(|_| drop(hold()));
        hold()
    }

    /// How often a group of the file is held by its own word; `None`: it does not stand.
    fn by_group(&self, group: u64) -> Option<u32> {
        let opened = &self.file.0;
        let frame = opened.file.table.get(group * u64::from(PAGES))?;
        opened.cache.core.arena.group(frame)?.holds()
    }
}

fn bytes_of(hold: &Hold) -> Vec<u8> {
    hold.chunks().flatten().copied().collect()
}

fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come about");
        std::thread::yield_now();
    }
}

#[test]
fn a_group_is_formed_by_the_third_hold_and_shared_by_others() {
    let cached = Cached::new(1 << 20, 2);
    let hold = || cached.file.hold(GROUP..2 * GROUP).unwrap();
    drop(hold());
    drop(hold());
    assert_eq!(cached.by_group(1), None, "not before it is worth it");
    drop(hold());
    assert_eq!((cached.by_group(0), cached.by_group(1)), (None, Some(0)));
    assert_eq!(cached.cache.held().pages, 0, "a group is no holder");

    let holds = [hold(), hold()];
    assert_eq!(cached.by_group(1), Some(2));
    // Of pages, beside: not all of them, or not theirs alone.
    let others =
        [(GROUP + 1, 2 * GROUP - 4096), (GROUP - 1, 2 * GROUP)].map(|(at, end)| cached.file.hold(at..end).unwrap());
    let held = cached.cache.held();
    assert_eq!((held.pages, held.page_holds), (17, 2 * 16 + 15 + 17));
    for hold in &holds {
        assert_eq!(bytes_of(hold), cached.bytes[GROUP as usize..]);
        assert_eq!(hold.crc32(), crc32fast::hash(&cached.bytes[GROUP as usize..]));
    }
    drop((holds, others));
    assert_eq!((cached.by_group(1), cached.cache.held().page_holds), (Some(0), 0));
}

#[test]
fn what_is_in_a_group_may_be_less_than_its_bytes() {
    let cached = Cached::new(1 << 20, 1);
    let range = 100..GROUP - 100;
    let hold = || cached.file.hold(range.clone()).unwrap();
    (0..3).for_each(|_| drop(hold()));
    let hold = hold();
    assert_eq!(cached.by_group(0), Some(1));
    assert_eq!(bytes_of(&hold), cached.bytes[100..GROUP as usize - 100]);
}

#[test]
fn a_group_that_nobody_holds_is_no_pause() {
    let cached = Cached::new(1 << 20, 1);
    let view = cached.file.view().unwrap();
    drop(cached.hold_often(0));
    assert_eq!(cached.by_group(0), Some(0));
    view.write_at(4096, b"changed").unwrap();
    assert_eq!(cached.by_group(0), None);
    eventually("the guard's count", || cached.cache.stats().opens == 1);
    assert_eq!(cached.cache.stats().writer_pauses, 0);
    // The page is closed by the next hold, and the group stands again after it.
    drop(cached.hold_often(0));
    assert_eq!(cached.by_group(0), Some(0));
    assert_eq!(bytes_of(&cached.hold_often(0))[4096..4103], *b"changed");
}

#[test]
fn a_writer_waits_for_all_who_hold_the_group_and_others_get_a_copy() {
    let cached = Cached::new(1 << 20, 1);
    let view = cached.file.view().unwrap();
    let holds = [cached.hold_often(0), cached.hold_often(0)];
    assert_eq!(cached.by_group(0), Some(2));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| view.write_at(9 * 4096, b"new").unwrap());
        eventually("a writer that waits", || cached.cache.stats().writers_waiting == 1);
        let later = cached.file.hold(0..GROUP).unwrap();
        assert_eq!((cached.by_group(0), cached.cache.stats().snapshots), (Some(2), 1), "no new hold of the group");
        let [first, second] = holds;
        drop(first);
        assert!(!writer.is_finished() && cached.cache.stats().writers_waiting == 1);
        assert_eq!(bytes_of(&second), cached.bytes);
        drop(second);
        writer.join().unwrap();
        assert_eq!(bytes_of(&later), cached.bytes, "what was held before stays");
    });
    assert_eq!(cached.by_group(0), None);
    assert_eq!(bytes_of(&cached.file.hold(0..GROUP).unwrap())[9 * 4096..9 * 4096 + 3], *b"new");
}

#[test]
fn groups_that_nobody_holds_make_room() {
    let cached = Cached::new(4 * GROUP as usize, 3);
    (0..3).for_each(|group| drop(cached.hold_often(group)));
    let kept = cached.hold_often(1);
    let other = cached.cache.open(cached.other(2 * GROUP)).unwrap();
    // At once, so that neither makes room for the other.
    assert_eq!(bytes_of(&other.hold(0..2 * GROUP).unwrap()), vec![5; 2 * GROUP as usize]);
    assert!(cached.cache.stats().evictions > 0);
    assert_eq!(cached.by_group(1), Some(1), "what is held stays");
    assert_eq!(bytes_of(&kept), cached.bytes[GROUP as usize..2 * GROUP as usize]);
}

#[test]
fn what_is_cut_off_is_free_when_its_last_holder_goes() {
    let cached = Cached::new(1 << 20, 3);
    let free = || cached.cache.stats().free_bytes;
    let idle = free();
    let held = cached.hold_often(1);
    drop(cached.hold_often(2));
    drop(cached.hold_often(0));
    cached.file.set_len(0).unwrap();
    assert_eq!(free(), idle - GROUP, "but what is held");
    assert_eq!(bytes_of(&held), cached.bytes[GROUP as usize..2 * GROUP as usize]);
    drop(held);
    assert_eq!((free(), cached.cache.held().pages), (idle, 0));
}

#[test]
fn a_group_outlives_its_cache_as_long_as_it_is_held() {
    let cached = Cached::new(1 << 20, 2);
    let holds = [cached.hold_often(0), cached.hold_often(0)];
    drop(cached.hold_often(1));
    let core = std::sync::Arc::downgrade(&cached.cache.0.core);
    let Cached { cache, file, bytes, .. } = cached;
    drop((cache, file));
    let [first, second] = holds;
    drop(first);
    assert_eq!(bytes_of(&second), bytes[..GROUP as usize]);
    assert!(core.strong_count() > 0);
    drop(second);
    assert_eq!(core.strong_count(), 0);
}
