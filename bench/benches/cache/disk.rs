//! Bandwidth of fill and of write-back beside that of `dd`, on the same file, in turns.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use stillwire_filecache::{Cache, CachedFile, Config};

use crate::Effort;
use crate::clock::Times;
use crate::table::{Goal, Row, Table};

pub fn measure(effort: &Effort, table: &mut Table) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("file");
    make(&path, effort.file);
    fill(effort, &path, false, table);
    fill(effort, &path, true, table);
    write_back(effort, &path, table);
}

/// Reads the file through a cache that has room for a part of it, by sequential holds.
fn fill(effort: &Effort, path: &Path, prepare: bool, table: &mut Table) {
    let cache = Cache::new(Config { bytes: effort.arena, prepare, ..Default::default() }).expect("a cache");
    cache.notices().iter().for_each(|notice| eprintln!("{notice}"));
    let file = cache.open(path).expect("the file opens");
    let (mut here, mut beside) = (Times::default(), Times::default());
    for _ in 0..effort.rounds {
        file.evict(0..file.len());
        let before = cache.stats();
        here.of(|| read(&file));
        let after = cache.stats();
        assert_eq!(after.fill_bytes - before.fill_bytes, file.len(), "bytes read, each once");
        assert_eq!(after.holds - before.holds, file.len() / CHUNK, "holds");
        beside.add(dd(&format!("if={} of=/dev/null iflag=direct", path.display()), file.len()));
    }
    assert!(cache.stats().evictions > 0, "the file does not fit into the cache");
    let what =
        if prepare { "fill, the same into memory that was prepared" } else { "fill, by sequential holds of 64 KiB" };
    table.add(row(what, effort.file, &here, &beside, "dd iflag=direct", 0.9));
}

/// Holds the file piece by piece; every piece is what was written there.
fn read(file: &CachedFile) {
    for start in (0..file.len()).step_by(CHUNK as usize) {
        let hold = file.hold(start..(start + CHUNK).min(file.len())).expect("the file can be read");
        let first = hold.chunks().next().and_then(|chunk| chunk.first_chunk());
        assert_eq!(first, Some(&start.to_le_bytes()), "what was read at {start}");
    }
}

/// Stores into every page of a part of the file, and syncs.
fn write_back(effort: &Effort, path: &Path, table: &mut Table) {
    let len = effort.arena as u64 / 2;
    let late = Duration::from_secs(3600);
    // Nothing is written before it is timed.
    let config = Config { dirty_background: 100, dirty_most: 100, flush_after: late, ..Default::default() };
    let cache = Cache::new(Config { bytes: effort.arena, ..config }).expect("a cache");
    let (mut here, mut beside) = (Times::default(), Times::default());
    for round in 0..effort.rounds {
        let file = cache.open(path).expect("the file opens");
        let view = file.view().expect("a view");
        for page in 0..len / PAGE {
            view.write_at(page * PAGE, &(round as u64 ^ page).to_le_bytes()).expect("a store");
        }
        let before = cache.stats();
        assert_eq!(before.dirty_bytes, len, "all of it is dirty");
        here.of(|| file.sync().expect("the disk takes it"));
        let after = cache.stats();
        assert_eq!((after.written_back - before.written_back) * PAGE, len, "bytes written");
        assert_eq!(after.dirty_bytes, 0);
        drop((view, file));
        let to = format!("if=/dev/zero of={} oflag=direct conv=fdatasync,notrunc", path.display());
        beside.add(dd(&to, len));
    }
    table.add(row("write-back and sync", len, &here, &beside, "dd oflag=direct conv=fdatasync", 0.9));
}

/// A file of which every eight bytes say where they are, so that no two parts of it are alike.
fn make(path: &Path, len: u64) {
    let mut file = std::fs::File::create(path).expect("a temporary file");
    for start in (0..len).step_by(BLOCK as usize) {
        let bytes: Vec<u8> = (start..start + BLOCK).step_by(8).flat_map(u64::to_le_bytes).collect();
        std::io::Write::write_all(&mut file, &bytes).expect("room for a temporary file");
    }
    file.sync_all().expect("the file is on the disk");
}

/// How long `dd` takes for the first `len` bytes.
fn dd(arguments: &str, len: u64) -> Duration {
    let mut command = Command::new("dd");
    command
        .env("LC_ALL", "C")
        .args(arguments.split(' '))
        .args([format!("bs={BLOCK}"), format!("count={}", len / BLOCK)]);
    let start = Instant::now();
    let output = command.output().expect("dd runs");
    let took = start.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("\n{len} bytes")), "dd {arguments}: {said}");
    took
}

fn row(work: &str, len: u64, here: &Times, beside: &Times, name: &str, goal: f64) -> Row {
    let speed = |times: &Times| len as f64 / times.median().as_secs_f64() / 1e6;
    let size = if len < 1 << 30 { format!("{} MiB", len >> 20) } else { format!("{} GiB", len >> 30) };
    Row {
        work: format!("{work}, {size}"),
        here: format!("{:.0} MB/s", speed(here)),
        beside: format!("{:.0} MB/s {name} bs=2M", speed(beside)),
        ratio: Some(speed(here) / speed(beside)),
        goal: Goal::AtLeast(goal),
    }
}

const PAGE: u64 = 4096;
/// Bytes of a hold.
const CHUNK: u64 = 64 << 10;
/// Bytes of a read or write of `dd`.
const BLOCK: u64 = 2 << 20;
