//! Writers in threads of this process, through views.

use std::sync::atomic::Ordering;

use stillwire_filecache::Error;

use super::files::{Cached, OWNERS};
use super::{Scene, files};
use crate::counts::count;
use crate::ledger::{Book, RECORD};
use crate::random::Random;
use crate::world::Broken;

/// Stores into the records of writer `number` until the stack is closed.
pub fn write(scene: &Scene<'_>, number: usize, mut random: Random) {
    let beating = scene.world.pulse(format!("{} writer {number}", scene.name));
    while !scene.is_over() {
        beating.at("stores");
        let at = random.below(files::PLAIN + 1);
        let file = scene.files.plain.get(at).unwrap_or(&scene.files.changing);
        // A few pages are wanted by everybody.
        let hot = random.chance(300);
        let turns = file.book.records / OWNERS;
        let record = random.below(if hot { 16 } else { turns }) * OWNERS + number;
        if let Err(why) = store(scene, file, record) {
            scene.world.violate(format!("{}: a store into record {record} of {:?}: {why}", scene.name, file.path));
        }
        if scene.world.broken == Some(Broken::Stall) && number == 0 && random.chance(5) {
            std::thread::sleep(scene.world.patience * 4);
        }
        assert!(scene.world.broken != Some(Broken::Panic) || !random.chance(5), "on purpose");
        if random.chance(30) {
            beating.at("reads");
            read(scene, file, &mut random);
        }
        beating.at("rests");
        std::thread::sleep(std::time::Duration::from_micros(random.within(200..3000) as u64));
    }
}

/// Stores the next version into a record.
fn store(scene: &Scene<'_>, file: &Cached, record: usize) -> Result<(), String> {
    let mut bytes = [0; RECORD];
    let version = begin(&file.book, record, &mut bytes);
    if scene.world.broken == Some(Broken::LostStore) && version % 16 == 3 {
        file.book.returned(record).store(version, Ordering::Release);
        return Ok(());
    }
    match file.view.write_at((record * RECORD) as u64, &bytes) {
        Ok(()) => {
            file.book.returned(record).store(version, Ordering::Release);
            count(&scene.world.counts.stores);
            Ok(())
        }
        // For the moment: holds keep whole folios, and the cache is small.
        Err(Error::ArenaFull { .. }) => {
            count(&scene.world.counts.holds_refused);
            Ok(())
        }
        // Beyond the end of the file whose length changes.
        Err(_) if file.book.file == scene.files.changing.book.file && record >= files::SOLID => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// The next version of a record, and its bytes; from now on it may be seen.
pub fn begin(book: &Book, record: usize, bytes: &mut [u8]) -> u64 {
    let version = book.begun(record).load(Ordering::Acquire) + 1;
    book.fill(record, version, bytes);
    book.begun(record).store(version, Ordering::Release);
    version
}

/// Reads through the view, where everybody's stores must be seen.
fn read(scene: &Scene<'_>, file: &Cached, random: &mut Random) {
    let len = random.within(1..64) * 8;
    let start = random.below((files::SOLID * RECORD - len) / 8) * 8;
    let floor = file.book.floor(start, start + len);
    let mut bytes = vec![0; len];
    let looked = match file.view.read_at(start as u64, &mut bytes) {
        Ok(()) => file.book.check(&floor, start, start, &bytes),
        Err(Error::ArenaFull { .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(why) = looked {
        scene.world.violate(format!("{}: read through a view: {why}", scene.name));
    }
}
