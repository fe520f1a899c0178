//! The first touch of a lazy view: from the fault to the byte.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use stillwire_bench::{Cached, FILE, PATTERN};
use stillwire_dma::{HugePages, SharedMemory};
use stillwire_filecache::{Config, View};

use crate::Effort;
use crate::clock::{Times, ratio, text};
use crate::table::{Goal, Row, Table};

pub fn measure(effort: &Effort, table: &mut Table) {
    for folio in [2 << 20, 64 << 10] {
        let name = format!("stillwire-touch-{folio}");
        let config = Config { bytes: 2 * FILE, max_folio: folio, name: name.clone(), ..Default::default() };
        let cached = Cached::with(config);
        let (mut there, mut read) = (Times::default(), Times::default());
        for _ in 0..effort.rounds {
            drop(cached.file.hold(0..FILE as u64).expect("the file is read in"));
            let fills = cached.cache.stats().fills;
            touch(&cached, folio, &name, &mut there);
            assert_eq!(cached.cache.stats().fills, fills, "all of it was cached");
            cached.file.evict(0..FILE as u64);
            touch(&cached, folio, &name, &mut read);
            assert_eq!(cached.cache.stats().fills - fills, (FILE / folio) as u64, "none of it was cached");
        }
        let disk = disk(effort, cached.file.path(), folio);
        let size = if folio < 1 << 20 { format!("{} KiB", folio >> 10) } else { format!("{} MiB", folio >> 20) };
        table.add(Row {
            work: format!("first touch of a view, {size} folio, cached"),
            here: there.spread(),
            beside: String::new(),
            ratio: None,
            goal: Goal::None,
        });
        let beside = disk.as_ref().map(|disk| format!("{} pread, O_DIRECT", text(disk.median())));
        table.add(Row {
            work: format!("first touch of a view, {size} folio, not cached"),
            here: read.spread(),
            beside: beside.unwrap_or_default(),
            ratio: disk.and_then(|disk| ratio(read.median(), disk.median())),
            goal: Goal::None,
        });
    }
}

/// Touches every folio of the file once, from the last to the first: that is no sequence to read ahead of.
fn touch(cached: &Cached, folio: usize, name: &str, times: &mut Times) {
    let view = cached.file.view().expect("a view");
    let before = mapped(name);
    for at in (0..FILE).step_by(folio).rev() {
        assert_eq!(times.of(|| byte(&view, at)), PATTERN, "byte {at}");
    }
    assert_eq!(mapped(name) - before, FILE, "bytes of the file that were laid over the view");
}

/// A byte of the view, by the load that faults. ([`View::read_at`] would lay what is missing without a fault.)
fn byte(view: &View, at: usize) -> u8 {
    assert!(at < view.len());
    // SAFETY: inside the view (checked), which is mapped and readable for as long as it is borrowed here; nobody writes.
    unsafe { view.as_ptr().add(at).read_volatile() }
}

/// Bytes of this process's address space that show the memory of that name.
fn mapped(name: &str) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    let ranges = maps.lines().filter(|line| line.contains(name)).filter_map(|line| line.split(' ').next());
    let address = |text: &str| usize::from_str_radix(text, 16).expect("an address");
    ranges.filter_map(|range| range.split_once('-')).map(|(start, end)| address(end) - address(start)).sum()
}

/// What the disk alone takes for a folio; `None` where the file system has no direct reads.
fn disk(effort: &Effort, path: &Path, folio: usize) -> Option<Times> {
    let file: File = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).ok()?;
    // For its alignment.
    let memory = SharedMemory::new("stillwire-bench", folio, HugePages::Never).expect("memory");
    // SAFETY: all of the mapping, initialised as all shared memory is, and nobody else's: it was just made.
    let buffer = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), folio) };
    let mut times = Times::default();
    for at in (0..FILE).step_by(folio).rev().cycle().take(effort.rounds * FILE / folio) {
        times.of(|| file.read_exact_at(buffer, at as u64).expect("a read"));
    }
    Some(times)
}
