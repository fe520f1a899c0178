//! A world from a seed: a page cache with its guard, workers and flusher, files on a disk that fails, writers, holders.
//!
//! What must hold at every step:
//!
//! - no store lands in a page that somebody holds, and what is held does not change (`ledger.rs`, `holder.rs`);
//! - the cache counts as many holds of a page as there are, at least (others pass by), and in the end exactly;
//! - a store that returned is seen by all who look later, and after a sync it is on the disk (`content.rs`);
//! - everybody gets on: a run ends, and its tasks with it.

mod chores;
mod content;
mod disk;
mod holder;
pub mod ledger;
mod shape;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use stillwire_filecache::simulation::{Eye, on_store};
use stillwire_filecache::{Cache, CachedFile, Config};
use stillwire_scheduler::thread::{Builder, JoinHandle};
use stillwire_scheduler::{failed, on_step};

use content::Content;
use disk::Disk;
pub use shape::Shape;

/// A file, and what is known of it.
#[derive(Clone)]
pub struct File {
    pub cached: CachedFile,
    pub content: Content,
    pub disk: Arc<Disk>,
    pub len: usize,
}

/// Lives a world of this shape to its end. To be called in a run.
pub fn live(shape: &Shape) {
    let cache = Cache::new(Config {
        bytes: shape.cache_pages * ledger::PAGE,
        max_folio: shape.folio_pages * ledger::PAGE,
        snapshots: shape.snapshots,
        io_uring: false,
        direct_io: false,
        flush_after: Duration::from_nanos(shape.flush_after),
        dirty_most: shape.dirty_most,
        dirty_background: shape.dirty_most / 2,
        patience: Duration::from_millis(5),
        ..Config::default()
    });
    let cache = cache.unwrap_or_else(|error| failed(format!("no cache: {error}")));
    watch(&cache);

    let mut disks = Vec::new();
    let files: Vec<_> = shape
        .files
        .iter()
        .enumerate()
        .map(|(number, &len)| {
            let disk = Disk::new(&format!("file{number}"), &vec![0; len], shape.disk_fails, shape.disk_slow);
            disks.extend(disk.start());
            let cached = cache.open_storage((1, number as u64), disk.clone());
            let cached = cached.unwrap_or_else(|error| failed(format!("a file can not be opened: {error}")));
            File { cached, content: Content::new(len), disk, len }
        })
        .collect();

    let mut actors = Vec::new();
    for (number, &stores) in shape.writers.iter().enumerate() {
        let (files, writers) = (files.clone(), shape.writers.len());
        actors.push(task("writer", move || writer::work(&files, (number, writers), stores)));
    }
    for &holds in &shape.holders {
        let (files, time) = (files.clone(), shape.hold_time);
        actors.push(task("holder", move || holder::work(&files, holds, time)));
    }
    let (chores, own) = (shape.chores, files.clone());
    actors.push(task("chores", move || chores::work(&own, chores)));
    actors.into_iter().for_each(|actor| drop(actor.join()));

    end(&files);
    let kept: Vec<_> = files.iter().map(|file| file.disk.clone()).collect();
    drop(files);
    drop(cache);
    kept.iter().for_each(|disk| disk.stop());
    disks.into_iter().for_each(|disk| drop(disk.join()));
}

/// Everybody has gone: what is there must be what was stored, here and on the disk.
fn end(files: &[File]) {
    files.iter().for_each(|file| file.disk.heal());
    for file in files {
        // Each opening is told once of what failed before.
        let _ = file.cached.sync();
        if let Err(error) = file.cached.sync() {
            failed(format!("a disk that works, and a sync that fails: {error}"));
        }
        let floor = file.content.floor();
        match file.cached.hold(0..file.len as u64) {
            Ok(hold) => {
                let mut bytes = vec![0; file.len];
                hold.read_at(0, &mut bytes);
                check(file.content.check(0, &bytes, &floor, "in the end, the cache"));
            }
            // Longer than the cache.
            Err(stillwire_filecache::Error::ArenaFull { .. }) => {}
            Err(error) => failed(format!("a disk that works, and a hold that fails: {error}")),
        }
        check(file.content.check(0, &file.disk.inner.durable_after_crash(1), &floor, "in the end, the disk"));
    }
}

/// Has everything looked at, all the time.
fn watch(cache: &Cache) {
    let eye = Eye::on(cache);
    let Some((base, pages)) = eye.memory() else { return };
    ledger::open(base, pages);
    on_store(|address, len| {
        ledger::count(|counts| counts.stores += 1);
        if let Some(page) = ledger::held_at(address, len) {
            failed(format!("a store landed in page {page}, which is held"));
        }
    });
    on_step(move || eye.holds().map_or(Ok(()), |holds| ledger::compare(&holds, false)));
}

fn task(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    Builder::new().name(name.into()).spawn(work).unwrap_or_else(|_| unreachable!("tasks start"))
}

/// Ends the run if something is wrong.
pub fn check(answer: Result<(), String>) {
    if let Err(what) = answer {
        failed(what);
    }
}

/// A place in a file: first byte and length, at least one.
pub fn place(len: usize) -> std::ops::Range<usize> {
    use stillwire_scheduler::choose;
    let start = choose(len as u64) as usize;
    let most = match choose(3) {
        0 => 200,
        1 => ledger::PAGE,
        _ => len,
    };
    let bytes = 1 + choose((len - start).min(most) as u64) as usize;
    start..(start + bytes).min(len)
}
