//! Files far larger than the cache.

mod common;

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use common::*;
use stillwire_filecache::{Cache, Config, MemoryStorage};

/// A page whose every word tells which page of which round it is.
fn page_of(number: u64, round: u64) -> Vec<u8> {
    (number << 8 | round).to_ne_bytes().repeat(PAGE / 8)
}

/// Reads all of a file of `bytes` through a cache, stores into every page of it, syncs, and looks at the disk.
fn read_and_written_through(cache: &Cache, bytes: usize) {
    let pages = (bytes / PAGE) as u64;
    let disk = tempfile::NamedTempFile::new().unwrap();
    for page in 0..pages {
        disk.as_file().write_all_at(&page_of(page, 1), page * PAGE as u64).unwrap();
    }
    let file = cache.open(disk.path()).unwrap();
    for first in (0..pages).step_by(16) {
        let last = (first + 16).min(pages);
        let hold = file.hold(first * PAGE as u64..last * PAGE as u64).unwrap();
        let found: Vec<u8> = hold.chunks().flatten().copied().collect();
        let expected: Vec<u8> = (first..last).flat_map(|page| page_of(page, 1)).collect();
        assert!(found == expected, "pages {first}..{last}");
    }
    let view = file.view().unwrap();
    for page in 0..pages {
        view.write_at(page * PAGE as u64, &page_of(page, 2)).unwrap();
    }
    file.sync().unwrap();
    let mut found = vec![0; PAGE];
    for page in 0..pages {
        disk.as_file().read_exact_at(&mut found, page * PAGE as u64).unwrap();
        assert!(found == page_of(page, 2), "page {page} on the disk");
    }
    let stats = cache.stats();
    let page_size = memory(cache).page_size() as u64;
    let most = stats.arena_bytes / page_size;
    assert!(stats.evictions + 2 * most >= 2 * bytes as u64 / page_size, "both rounds went through: {stats:?}");
    assert!(stats.written_back >= bytes as u64 / page_size, "{stats:?}");
    assert_eq!(stats.dirty_bytes, 0);
}

#[test]
fn a_file_is_sixteen_times_the_cache() {
    let cache = Cache::new(Config { bytes: 4 << 20, ..Config::default() }).unwrap();
    read_and_written_through(&cache, 64 << 20);
    assert_eq!((memory(&cache).len(), cache.stats().arena_bytes), (4 << 20, 4 << 20));
    // Mapped for the arena and for the view, each page at most twice.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssShmem:")).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kilobytes <= 2 * (4 << 10) + (1 << 10), "{line}");
}

#[test]
fn a_hold_is_of_the_page_that_was_asked_for_while_all_pages_come_and_go() {
    const PAGES: u64 = 48;
    let cache = Cache::new(Config { bytes: 8 * PAGE, max_folio: PAGE, read_ahead: 0, ..Config::default() }).unwrap();
    let bytes: Vec<u8> = (0..PAGES).flat_map(|page| page_of(page, 1)).collect();
    let file = cache.open_storage((1, 1), Arc::new(MemoryStorage::new("simulated", &bytes))).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let file = &file;
            scope.spawn(move || {
                let mut random = thread + 1;
                for _ in 0..20_000 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let page = (random >> 33) % PAGES;
                    let hold = file.hold(page * PAGE as u64..(page + 1) * PAGE as u64).unwrap();
                    let found = hold.chunks().next().unwrap();
                    let (first, last) = (&found[..8], &found[PAGE - 8..]);
                    let expected = (page << 8 | 1).to_ne_bytes();
                    assert!(first == expected && last == expected, "page {page} begins with {first:?}");
                }
            });
        }
    });
    assert!(cache.stats().evictions > 1000, "{:?}", cache.stats());
}

/// Huge pages for the length of a test. They are the whole machine's: few, and given back.
struct HugePages {
    before: u64,
}

impl HugePages {
    const FILE: &str = "/proc/sys/vm/nr_hugepages";

    fn now() -> Option<u64> {
        std::fs::read_to_string(Self::FILE).ok()?.trim().parse().ok()
    }

    fn take(pages: u64) -> Option<Self> {
        let taken = Self::now().and_then(|before| {
            std::fs::write(Self::FILE, (before + pages).to_string()).ok()?;
            let huge = Self { before };
            (Self::now()? >= before + pages).then_some(huge)
        });
        if taken.is_none() {
            skip("a cache of huge pages", &format!("{pages} of them can not be had through {}", Self::FILE));
        }
        taken
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::FILE, self.before.to_string());
    }
}

#[test]
fn a_file_is_four_times_a_cache_of_huge_pages() {
    let Some(_huge) = HugePages::take(8) else { return };
    let cache = Cache::new(Config { bytes: 16 << 20, huge: true, ..Config::default() }).unwrap();
    if memory(&cache).page_size() == PAGE {
        skip("a cache of huge pages", &format!("another program took them: {:?}", cache.notices()));
        return;
    }
    read_and_written_through(&cache, 64 << 20);
}

/// The kernel's huge pages under pages that are held and protected one by one.
#[test]
fn through_memory_that_was_prepared() {
    let cache = Cache::new(Config { bytes: 16 << 20, prepare: true, ..Config::default() }).unwrap();
    if let Some(notice) = cache.notices().iter().find(|notice| notice.contains("MADV_COLLAPSE")) {
        return skip("a cache whose memory was prepared", notice);
    }
    read_and_written_through(&cache, 32 << 20);
    let disk = file_of(&pattern(64 * PAGE));
    let file = cache.open(disk.path()).unwrap();
    let (view, hold) = (file.view().unwrap(), file.hold(7 * PAGE as u64..8 * PAGE as u64).unwrap());
    let before = cache.stats().writers_waiting;
    view.write_at(6 * PAGE as u64, b"beside it").unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| view.write_at(7 * PAGE as u64, b"into it").unwrap());
        eventually("the writer waits", || cache.stats().writers_waiting > before);
        assert!(hold.chunks().flatten().eq(&pattern(64 * PAGE)[7 * PAGE..8 * PAGE]), "a store landed in a held page");
        drop(hold);
        writer.join().unwrap();
    });
}
