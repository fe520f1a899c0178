//! What the tests share.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod counting;

use std::io::Write;
use std::time::{Duration, Instant};

use stillwire_dma::SharedMemory;
use stillwire_filecache::{Cache, CachedFile, Config};
use tempfile::NamedTempFile;

/// Bytes in a page of a cache without huge pages.
pub const PAGE: usize = 4096;

/// A cache of `bytes`, small pages, that writes back when it is told to.
pub fn cache(bytes: usize) -> Cache {
    Cache::new(Config { bytes, ..quiet() }).unwrap()
}

/// A configuration in which nothing is written back by itself, so that counts can be told in advance.
pub fn quiet() -> Config {
    Config { dirty_background: 100, dirty_most: 100, flush_after: Duration::from_secs(3600), ..Config::default() }
}

/// The cache's memory, to look at.
#[allow(unsafe_code)]
pub fn memory(cache: &Cache) -> &SharedMemory {
    // SAFETY: no test writes through it.
    unsafe { cache.memory() }
}

/// Bytes of which every one tells where it should be.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 8) ^ (at >> 16).wrapping_mul(31)) as u8).collect()
}

/// A file on disk with `bytes`.
pub fn file_of(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

/// A cached file of `len` patterned bytes in a cache of its own, and its bytes.
pub fn cached(len: usize) -> (Cache, CachedFile, Vec<u8>) {
    let cache = cache((len + PAGE).next_power_of_two().max(64 * PAGE));
    let bytes = pattern(len);
    let file = cache.open(file_of(&bytes).path()).unwrap();
    (cache, file, bytes)
}

/// Waits until `done`; fails after a while.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "still waiting for: {what}");
        std::thread::yield_now();
    }
}

/// Notes that something was not tested, for `cargo xtask test` to say at its end.
pub fn skip(what: &str, why: &str) {
    let line = format!("SKIPPED: {what}: {why}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("STILLWIRE_SKIPS")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = writeln!(file, "{line}");
    }
}
