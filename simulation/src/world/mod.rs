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
mod port;
mod sender;
mod shape;
mod wire;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stillwire_dma::{Access, PciFunction};
use stillwire_filecache::simulation::{Eye, on_store};
use stillwire_filecache::{Cache, CachedFile, Config};
use stillwire_scheduler::thread::{Builder, JoinHandle};
use stillwire_scheduler::{abandon, chance, choose, failed, on_step, sleep};

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
            let content = Content::new(number, len);
            let bytes = content.first_bytes(len);
            let disk = Disk::new(&format!("file{number}"), &bytes, shape.disk_fails, shape.disk_slow);
            disks.extend(disk.start());
            let cached = cache.open_storage((1, number as u64), disk.clone());
            let cached = cached.unwrap_or_else(|error| failed(format!("a file can not be opened: {error}")));
            File { cached, content, disk, len }
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
    let (gone, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let ether = wire::Ether::new(shape.harm, !shape.trouble.lies);
    let (device, function) = port::plug_in(shape.family, shape.trouble, ether);
    let steps = {
        let stop = stop.clone();
        task("device", move || {
            let mut idle = 0;
            while !stop.load(Ordering::Relaxed) {
                idle = if device.step() { 0 } else { (idle + 1).min(8) };
                if device.is_out() && chance(50) {
                    device.put_back();
                }
                // One that has nothing to do is looked at less and less, or a run would be of nothing else.
                sleep(Duration::from_nanos(1 + choose([500, 5_000, 20_000][choose(3) as usize] << idle)));
            }
        })
    };
    if shape.pieces > 0 {
        map(&cache, &function);
        let (pieces, own, gone) = (shape.pieces, files.clone(), gone.clone());
        let may_be_lost = shape.trouble.lies || shape.trouble.pulls;
        let send = move || {
            sender::work(&function, &own, pieces, may_be_lost, || gone.store(true, Ordering::Relaxed));
        };
        actors.push(task("sender", send));
    }
    let (chores, own) = (shape.chores, files.clone());
    actors.push(task("chores", move || chores::work(&own, chores)));
    while !actors.iter().all(JoinHandle::is_finished) {
        if gone.load(Ordering::Relaxed) {
            // The device could not be proved quiet, so pages stay held for good, and writers wait for them. That is as promised.
            return abandon();
        }
        sleep(Duration::from_micros(500));
    }
    if gone.load(Ordering::Relaxed) {
        return abandon();
    }
    stop.store(true, Ordering::Relaxed);
    drop(steps.join());

    end(&files);
    all_let_go(&Eye::on(&cache));
    let kept: Vec<_> = files.iter().map(|file| file.disk.clone()).collect();
    drop(files);
    drop(cache);
    kept.iter().for_each(|disk| disk.stop());
    disks.into_iter().for_each(|disk| drop(disk.join()));
}

/// Maps the cache's memory for a device.
#[allow(unsafe_code)]
fn map(cache: &Cache, function: &PciFunction) {
    // SAFETY: it is mapped for reading only.
    let memory = unsafe { cache.memory() };
    let mapped = function.iommu().map(memory, Access::ReadOnly);
    let mapping = mapped.unwrap_or_else(|error| failed(format!("no mapping: {error}")));
    if let Some(whole) = mapping.segment(0..memory.len()) {
        ledger::map(whole.iova.get(), memory.len() as u64);
    }
    if let Err(error) = cache.attach(mapping) {
        failed(format!("not attached: {error}"));
    }
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

/// Nobody of this world holds anything any more: so says the cache, as soon as its own threads have done what they were at.
fn all_let_go(eye: &Eye) {
    let mut answer = Ok(());
    for _ in 0..1000 {
        answer = eye.holds().map_or(Ok(()), |holds| ledger::compare(&holds, true));
        if answer.is_ok() {
            return;
        }
        sleep(Duration::from_micros(100));
    }
    check(answer);
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
    let start = choose(len as u64) as usize;
    let most = match choose(4) {
        // What is held by one word for all.
        3 => return start / GROUP * GROUP..(start / GROUP * GROUP + GROUP).min(len),
        0 => 200,
        1 => ledger::PAGE,
        _ => len,
    };
    let bytes = 1 + choose((len - start).min(most) as u64) as usize;
    start..(start + bytes).min(len)
}

/// Bytes of the pages that are held at once.
const GROUP: usize = stillwire_filecache::simulation::GROUP_PAGES as usize * ledger::PAGE;
