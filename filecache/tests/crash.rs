//! What a sync has answered for survives: a process that is killed at any moment, and a disk that is full for a while.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use stillwire_filecache::{Cache, Config, Error};

/// Bytes in a record: its number, again and again. Records cross pages.
const RECORD: usize = 1000;
const RECORDS: u64 = 400;

/// What record `at` has after `number` stores into the file, all of them in a row.
fn record(number: u64) -> Vec<u8> {
    number.to_ne_bytes().repeat(RECORD / 8)
}

/// The child: stores numbered records without end, syncs now and then, and says what was acknowledged.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(path) = std::env::var("STILLWIRE_CRASH_FILE") else { return };
    let direct_io = std::env::var_os("STILLWIRE_CRASH_DIRECT").is_some();
    // Smaller than the file, and written back in the background too.
    let cache = Cache::new(Config {
        bytes: 64 * PAGE,
        max_folio: 4 * PAGE,
        direct_io,
        dirty_background: 20,
        dirty_most: 60,
        flush_after: Duration::from_millis(20),
        ..Config::default()
    });
    let file = cache.unwrap().open(path).unwrap();
    let view = file.view().unwrap();
    let mut out = std::io::stdout();
    for number in 1u64.. {
        view.write_at(number % RECORDS * RECORD as u64, &record(number)).unwrap();
        if number % 37 == 0 {
            file.sync().unwrap();
            writeln!(out, "synced {number}").unwrap();
        }
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(path: &Path, direct_io: bool) -> Killed {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_that_writes_until_it_is_killed", "--include-ignored", "--nocapture"]);
    command.env("STILLWIRE_CRASH_FILE", path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if direct_io {
        command.env("STILLWIRE_CRASH_DIRECT", "1");
    }
    Killed(command.spawn().unwrap())
}

/// Lets a child write until it has synced `syncs` times, and then `delay` more; the last number that it has acknowledged.
fn acknowledged_when_killed(path: &Path, direct_io: bool, syncs: usize, delay: Duration) -> u64 {
    let mut child = start(path, direct_io);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let number = |line: String| line.split("synced ").nth(1)?.trim().parse::<u64>().ok();
    let mut last = lines.by_ref().map_while(Result::ok).filter_map(number).nth(syncs).expect("the child syncs");
    let until = Instant::now() + delay;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    // What is in the pipe was acknowledged before the child died. The last line may be cut off, and is no answer then.
    let mut rest = Vec::new();
    while let Some(Ok(line)) = lines.next() {
        rest.push(line);
    }
    last = rest.into_iter().filter_map(number).rfind(|number| number % 37 == 0).unwrap_or(last).max(last);
    last
}

/// Every record is at least as new as the last acknowledged one that was stored there.
fn check(path: &Path, last: u64) {
    let mut bytes = Vec::new();
    std::fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), RECORDS as usize * RECORD);
    for at in 0..RECORDS {
        // The newest number up to `last` that goes to this place.
        let Some(newest) = last.checked_sub((last + RECORDS - at) % RECORDS).filter(|number| *number > 0) else {
            continue;
        };
        for (word, found) in bytes[at as usize * RECORD..][..RECORD].chunks_exact(8).enumerate() {
            let found = u64::from_ne_bytes(found.try_into().unwrap());
            let right = found >= newest && found % RECORDS == at;
            assert!(right, "word {word} of record {at} is {found}; {newest} was acknowledged, {last} the last of all");
        }
    }
}

fn survives(direct_io: bool) {
    let file = file_of(&vec![0; RECORDS as usize * RECORD]);
    let mut random = 1u64;
    for round in 0..12 {
        std::fs::write(file.path(), vec![0; RECORDS as usize * RECORD]).unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (syncs, delay) = ((random >> 33) % 40, Duration::from_micros((random >> 45) % 3000));
        let last = acknowledged_when_killed(file.path(), direct_io, syncs as usize, delay);
        assert!(last >= 37 * (syncs + 1), "round {round}");
        check(file.path(), last);
    }
}

#[test]
fn what_was_synced_survives_kill_9_past_the_kernels_cache() {
    survives(true);
}

#[test]
fn what_was_synced_survives_kill_9_through_the_kernels_cache() {
    survives(false);
}

/// A file system of its own, small, that is unmounted whatever happens.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(bytes: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "stillwire-test"]).arg(folder.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(folder)),
            other => {
                let why = other.map_or_else(|error| error.to_string(), |output| format!("{output:?}"));
                skip("a disk that is full during write-back", &format!("a tmpfs can not be mounted: {why}"));
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_once_and_loses_nothing() {
    let Some(disk) = SmallDisk::new(32 * PAGE) else { return };
    let (path, ballast) = (disk.0.path().join("file"), disk.0.path().join("ballast"));
    // A hole: blocks are needed when it is written.
    std::fs::File::create(&path).unwrap().set_len(16 * PAGE as u64).unwrap();
    let cache = cache(64 * PAGE);
    let (one, two) = (cache.open(&path).unwrap(), cache.open(&path).unwrap());
    let view = one.view().unwrap();
    let mut full = std::fs::File::create(&ballast).unwrap();
    while full.write_all(&[1; PAGE]).is_ok() {}
    drop(full);
    let bytes = pattern(16 * PAGE);
    view.write_at(0, &bytes).unwrap();
    let is_full = |answer: Result<(), Error>| match answer {
        Err(Error::WriteBack { source, .. }) => assert_eq!(source.raw_os_error(), Some(libc::ENOSPC)),
        other => panic!("the disk is full, and sync says {other:?}"),
    };
    is_full(one.sync());
    assert!(cache.stats().dirty_bytes > 0);
    let hold = two.hold(0..16 * PAGE as u64).unwrap();
    assert_eq!(hold.crc32(), crc32fast::hash(&bytes), "what was not written is still here");
    drop(hold);
    std::fs::remove_file(&ballast).unwrap();
    one.sync().unwrap();
    // The other has not heard of it yet; and hears once, although all is written by now.
    is_full(two.sync());
    two.sync().unwrap();
    assert_eq!(cache.stats().dirty_bytes, 0);
    let mut found = vec![0; bytes.len()];
    std::fs::File::open(&path).unwrap().read_exact_at(&mut found, 0).unwrap();
    assert!(found == bytes, "the file has what was stored");
}
