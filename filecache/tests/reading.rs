//! Holds read the right bytes; files that can not be cached say why.
#![allow(unsafe_code, reason = "one test changes its thread's user")]

mod common;

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::Barrier;

use common::*;
use proptest::prelude::*;
use stillwire_filecache::{Cache, CachedFile, Config, Error, Held};

fn held_bytes(file: &CachedFile, range: std::ops::Range<u64>) -> Vec<u8> {
    let hold = file.hold(range.clone()).unwrap();
    assert_eq!((hold.len() as u64, hold.file_offset()), (range.end - range.start, range.start));
    let bytes: Vec<u8> = hold.chunks().flatten().copied().collect();
    assert_eq!(hold.crc32(), crc32fast::hash(&bytes));
    bytes
}

#[test]
fn files_of_odd_lengths_read_back() {
    for len in [0, 1, 4095, 4096, 4097, 3 * PAGE + 1, 600 * PAGE + 17] {
        let (_cache, file, bytes) = cached(len);
        assert_eq!(file.len(), len as u64);
        assert_eq!(held_bytes(&file, 0..len as u64), bytes, "{len} bytes");
        assert!(file.hold(0..len as u64 + 1).is_err());
    }
}

#[test]
fn the_end_of_the_last_page_is_zero() {
    // A page that cached something else before.
    let cache = cache(PAGE);
    let old = cache.open(file_of(&[0xff; PAGE]).path()).unwrap();
    drop(old.hold(0..1).unwrap());
    drop(old);
    let new = cache.open(file_of(&[1; 100]).path()).unwrap();
    drop(new.hold(0..1).unwrap());
    let mut page = [0xee; PAGE];
    memory(&cache).read_at(0, &mut page);
    assert_eq!(page[..100], [1; 100]);
    assert_eq!(page[100..], [0; PAGE - 100]);
}

#[test]
fn what_is_held_and_what_was_missed_is_counted() {
    let (cache, file, bytes) = cached(40 * PAGE);
    let (all, one) = (file.hold(0..40 * PAGE as u64).unwrap(), file.hold(5..PAGE as u64).unwrap());
    assert_eq!(cache.held(), Held { pages: 40, page_holds: 41 });
    let stats = cache.stats();
    assert_eq!((stats.holds, stats.holds_missed), (2, 1), "the second found its page there");
    let mut some = vec![0; 2 * PAGE];
    all.read_at(3 * PAGE + 7, &mut some);
    assert_eq!(some, bytes[3 * PAGE + 7..][..2 * PAGE]);
    all.read_at(40 * PAGE, &mut []);
    drop(all);
    assert_eq!(cache.held(), Held { pages: 1, page_holds: 1 });
    drop(one);
    assert_eq!(cache.held(), Held::default());
    assert_eq!(cache.pauses(&[]).count, cache.stats().writer_pauses);
}

#[test]
fn a_large_file_is_one_piece_for_each_large_folio() {
    let (_cache, file, _) = cached(4 << 20);
    let hold = file.hold(0..4 << 20).unwrap();
    assert!(hold.chunks().count() <= 2, "{} pieces", hold.chunks().count());
}

#[test]
fn small_files_waste_less_than_a_page() {
    let cache = cache(64 * PAGE);
    let free = || cache.stats().free_bytes as usize / PAGE;
    let files: Vec<_> = [1, PAGE, PAGE + 1, 5 * PAGE]
        .map(|len| {
            let before = free();
            let file = cache.open(file_of(&pattern(len)).path()).unwrap();
            drop(file.hold(0..len as u64).unwrap());
            assert_eq!(before - free(), len.div_ceil(PAGE));
            file
        })
        .into();
    drop(files);
    assert_eq!(free(), 64, "closed files give everything back");
}

#[test]
fn a_cold_folio_is_read_once_for_all_who_want_it() {
    for round in 0..20 {
        let (cache, bytes) = (cache(2048 * PAGE), pattern(512 * PAGE));
        let file = cache.open(file_of(&bytes).path()).unwrap();
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (file, bytes, start) = (&file, &bytes, &start);
                scope.spawn(move || {
                    start.wait();
                    let at = thread * 100 * PAGE as u64;
                    assert_eq!(held_bytes(file, at..at + 5000), bytes[at as usize..][..5000]);
                });
            }
        });
        let stats = cache.stats();
        assert_eq!((stats.fills, stats.fill_bytes, stats.holds), (1, 512 * PAGE as u64, 4), "round {round}");
    }
}

#[test]
fn two_openings_share_the_pages() {
    let cache = cache(64 * PAGE);
    let disk = file_of(&pattern(PAGE));
    let (one, two) = (cache.open(disk.path()).unwrap(), cache.open(disk.path()).unwrap());
    drop(one.hold(0..10).unwrap());
    drop(two.hold(0..10).unwrap());
    assert_eq!(cache.stats().fills, 1);
    one.view().unwrap().write_at(0, b"new").unwrap();
    assert_eq!(held_bytes(&two, 0..3), b"new");
}

#[test]
fn stores_survive_closing_and_opening() {
    let cache = cache(64 * PAGE);
    let disk = file_of(&pattern(PAGE));
    cache.open(disk.path()).unwrap().view().unwrap().write_at(5, b"kept").unwrap();
    assert_eq!(held_bytes(&cache.open(disk.path()).unwrap(), 5..9), b"kept");
}

#[test]
fn what_can_not_be_cached_says_why() {
    let cache = cache(64 * PAGE);
    let dir = tempfile::tempdir().unwrap();
    let text = |path: &std::path::Path| match cache.open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    };
    assert!(text(&dir.path().join("none")).contains("there is no such file"));
    assert!(text(dir.path()).contains("is a directory"));
    let socket = dir.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    assert!(text(&socket).contains("is a socket"));
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(text(&fifo).contains("is a FIFO"));
    assert!(text("/dev/null".as_ref()).contains("is a character device"));
}

/// As a user without rights: this thread gives its own up, for file access only.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let nobody = scope.spawn(|| {
            // SAFETY: changes the user for file access of this thread only, which ends here.
            unsafe { libc::setfsuid(65534) };
            work()
        });
        nobody.join().unwrap()
    })
}

#[test]
fn permissions_are_told_apart() {
    let cache = cache(64 * PAGE);
    let disk = file_of(b"secret");
    let mode = |mode| File::open(disk.path()).unwrap().set_permissions(PermissionsExt::from_mode(mode)).unwrap();
    mode(0o600);
    let secret = as_nobody(|| cache.open(disk.path()).err());
    if secret.is_none() {
        skip("permissions, told apart", "this user may not become another, or owns every file");
        return;
    }
    assert!(matches!(secret, Some(Error::NotPermitted { .. })), "{secret:?}");
    mode(0o644);
    let readable = as_nobody(|| cache.open(disk.path())).unwrap();
    assert_eq!(held_bytes(&readable, 0..6), b"secret");
    assert!(matches!(readable.view().err(), Some(Error::ReadOnly { .. })));
}

#[test]
fn a_file_that_shrinks_ends_where_it_ends_now() {
    let cache = cache(64 * PAGE);
    let bytes = pattern(4 * PAGE);
    let disk = file_of(&bytes);
    let file = cache.open(disk.path()).unwrap();
    let end = PAGE as u64 + 10;
    File::options().write(true).open(disk.path()).unwrap().set_len(end).unwrap();
    // Before the cache has looked, what is read in turns out to be short; after, the range is outside.
    let error = file.hold(2 * PAGE as u64..3 * PAGE as u64).err().unwrap();
    assert!(matches!(error, Error::Shrunk { .. } | Error::OutOfRange { .. }), "{error}");
    file.recheck().unwrap();
    assert_eq!(file.len(), end);
    assert_eq!(held_bytes(&file, 0..end), bytes[..end as usize]);
    let error = file.hold(2 * PAGE as u64..3 * PAGE as u64).err().unwrap();
    assert!(matches!(error, Error::OutOfRange { len, .. } if len == end), "{error}");
    std::fs::write(disk.path(), &bytes).unwrap();
    file.recheck().unwrap();
    assert_eq!(held_bytes(&file, 0..bytes.len() as u64), bytes);
    file.view().unwrap().write_at(0, b"x").unwrap();
    assert_eq!(cache.stats().writer_pauses, 0, "a hold that failed holds nothing");
}

#[test]
fn a_cache_that_is_held_says_how_large_it_is() {
    let cache = cache(4 * PAGE);
    let (small, large) = (file_of(&pattern(3 * PAGE)), file_of(&pattern(2 * PAGE)));
    let (small, large) = (cache.open(small.path()).unwrap(), cache.open(large.path()).unwrap());
    let held = small.hold(0..3 * PAGE as u64).unwrap();
    let bytes: Vec<u8> = held_bytes(&large, 0..10);
    assert_eq!(bytes, pattern(10), "a smaller folio is taken when there is no large one");
    let error = large.hold(0..2 * PAGE as u64).err().unwrap();
    assert!(matches!(error, Error::ArenaFull { arena: 16384, free: 0, needed: 4096, offset: 4096, .. }), "{error}");
    assert!(error.to_string().contains("Config::bytes"));
    drop(held);
    assert_eq!(held_bytes(&large, 0..2 * PAGE as u64), pattern(2 * PAGE), "what is idle makes room");
}

#[test]
fn impossible_caches_are_refused() {
    assert!(Cache::new(Config { bytes: 0, ..Config::default() }).is_err());
    assert!(Cache::new(Config { bytes: usize::MAX, ..Config::default() }).is_err());
}

#[test]
fn a_cache_that_asks_for_huge_pages_works_without_them() {
    let cache = Cache::new(Config { bytes: 4 << 20, huge: true, ..Config::default() }).unwrap();
    let bytes = pattern(5000);
    let file = cache.open(file_of(&bytes).path()).unwrap();
    assert_eq!(held_bytes(&file, 0..5000), bytes);
    let view = file.view().unwrap();
    view.write_at(4090, b"over a page").unwrap();
    assert_eq!(held_bytes(&file, 4090..4101), b"over a page");
    if memory(&cache).page_size() == PAGE {
        assert!(cache.notices().iter().any(|notice| notice.contains("nr_hugepages")), "{:?}", cache.notices());
    }
}

#[test]
fn an_empty_range_is_an_empty_hold() {
    let (_cache, file, _) = cached(100);
    let hold = file.hold(50..50).unwrap();
    assert!(hold.is_empty() && hold.chunks().next().is_none());
    assert_eq!(hold.crc32(), 0);
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = file.hold(60..50);
    assert!(matches!(backwards.err(), Some(Error::OutOfRange { start: 60, end: 50, len: 100, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Any ranges of any file, in any order, in an arena that others have broken into pieces.
    #[test]
    fn any_range_of_any_file_reads_back(
        len in 1usize..300_000,
        broken in proptest::collection::vec(1usize..20_000, 0..6),
        ranges in proptest::collection::vec((any::<u64>(), any::<u64>()), 1..12),
    ) {
        let cache = Cache::new(Config { bytes: 128 * PAGE, max_folio: 32 * PAGE, ..Config::default() }).unwrap();
        let mut others = Vec::new();
        for other in &broken {
            let file = cache.open(file_of(&pattern(*other)).path()).unwrap();
            drop(file.hold(0..*other as u64).unwrap());
            others.push(file);
        }
        others.retain({ let mut keep = false; move |_| { keep = !keep; keep } });
        let bytes = pattern(len);
        let file = cache.open(file_of(&bytes).path()).unwrap();
        for (start, end) in ranges {
            let (start, end) = (start % (len as u64 + 1), end % (len as u64 + 1));
            let range = start.min(end)..start.max(end);
            let expected = &bytes[range.start as usize..range.end as usize];
            prop_assert_eq!(held_bytes(&file, range.clone()), expected);
            prop_assert_eq!(file.unheld(range).unwrap().crc32(), crc32fast::hash(expected));
        }
    }
}
