//! Who writes a file and knows nothing of the cache.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stillwire_filecache::Error;

use super::Scene;
use super::writers::begin;
use crate::counts::count;
use crate::ledger::RECORD;
use crate::random::Random;

/// Writes the file on the disk, and now and then through the view at the same time, until the stack is closed.
pub fn change(scene: &Scene<'_>, mut random: Random) {
    let beating = scene.world.pulse(format!("{} outside", scene.name));
    while !scene.is_over() {
        beating.at("writes from outside");
        let done = if random.chance(700) { alone(scene, &mut random) } else { against_a_store(scene, &mut random) };
        if let Err(why) = done {
            scene.world.violate(format!("{}: changes from outside: {why}", scene.name));
        }
        beating.sleep(random.pause(20..600), || scene.is_over());
    }
}

/// A change of a file with no stores of its own: it is in the cache as soon as the cache has looked.
fn alone(scene: &Scene<'_>, random: &mut Random) -> Result<(), String> {
    let file = &scene.files.outside;
    let record = random.below(file.book.records);
    let version = write(scene, record)?;
    file.file.recheck().map_err(|error| format!("a look at a file that nobody else writes: {error}"))?;
    file.book.returned(record).store(version, Ordering::Release);
    Ok(())
}

/// A change of a file that has a store on its way to the disk: a conflict, or the store was faster.
fn against_a_store(scene: &Scene<'_>, random: &mut Random) -> Result<(), String> {
    let file = &scene.files.outside;
    let record = random.below(file.book.records);
    let mut bytes = [0; RECORD];
    let _kept_or_not = begin(&file.book, record, &mut bytes);
    match file.view.write_at((record * RECORD) as u64, &bytes) {
        Ok(()) => {}
        Err(Error::ArenaFull { .. }) => return Ok(()),
        Err(error) => return Err(error.to_string()),
    }
    write(scene, random.below(file.book.records))?;
    match file.file.sync() {
        Ok(()) => return Ok(()),
        Err(Error::Conflict { .. }) => {}
        Err(error) => return Err(error.to_string()),
    }
    count(&scene.world.counts.conflicts_decided);
    if random.chance(500) {
        file.file.discard()
    } else {
        file.file.overwrite()
    }
    file.file.sync().map_err(|error| format!("after a conflict was decided: {error}"))
}

/// Writes the next version of a record on the disk, so that it can be noticed: at another time than the last change.
fn write(scene: &Scene<'_>, record: usize) -> Result<u64, String> {
    let file = &scene.files.outside;
    let failed = |error: std::io::Error| error.to_string();
    let disk = File::options().read(true).write(true).open(&file.path).map_err(failed)?;
    let time = || disk.metadata().and_then(|meta| meta.modified()).map_err(failed);
    let before = time()?;
    let mut bytes = [0; RECORD];
    let version = begin(&file.book, record, &mut bytes);
    let start = Instant::now();
    loop {
        disk.write_all_at(&bytes, (record * RECORD) as u64).map_err(failed)?;
        if time()? != before {
            break;
        }
        if start.elapsed() > Duration::from_secs(10) {
            return Err("the file system does not note when a file is written".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    count(&scene.world.counts.stores_outside);
    Ok(version)
}
