//! Syncs, evictions, and whatever else is done to a file meanwhile.

use std::time::Duration;

use stillwire_scheduler::{choose, log, sleep};

use super::{File, check, ledger, place};

/// Does so many of them.
pub fn work(files: &[File], chores: u32) {
    for _ in 0..chores {
        let file = &files[choose(files.len() as u64) as usize];
        let range = place(file.len);
        let range = range.start as u64..range.end as u64;
        match choose(6) {
            0..3 => sync(file),
            3 => drop(file.cached.sync_range(range)),
            4 => file.cached.evict(range),
            _ => drop(file.cached.recheck()),
        }
        sleep(Duration::from_nanos(choose(200_000)));
    }
}

/// Syncs: what had been stored before is on the disk.
fn sync(file: &File) {
    let floor = file.content.floor();
    let answer = file.cached.sync();
    log(|| format!("sync of {}: {answer:?}", file.cached.path().display()));
    if answer.is_ok() {
        ledger::count(|counts| counts.syncs += 1);
        let durable = file.disk.inner.durable_after_crash(choose(1 << 32));
        check(file.content.check(0, &durable, &floor, "after a sync, the disk"));
    }
}
