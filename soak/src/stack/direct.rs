//! Writers of files that are sent without the cache.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::thread::Scope;

use super::Scene;
use super::writers::begin;
use crate::counts::count;
use crate::ledger::RECORD;
use crate::random::Random;

/// Starts them.
pub fn spawn<'s>(scope: &'s Scope<'s, '_>, scene: &'s Scene<'_>, mut random: Random) {
    let other = Random::new(random.next(), "leased");
    scope.spawn(move || in_memory(scene, random));
    if scene.files.direct.leased.is_some() {
        scope.spawn(move || on_disk(scene, other));
    }
}

/// Stores through the view of a memfd.
fn in_memory(scene: &Scene<'_>, mut random: Random) {
    let beating = scene.world.pulse(format!("{} writer of a memfd", scene.name));
    let direct = &scene.files.direct;
    while !scene.is_over() {
        beating.at("stores");
        let record = random.below(direct.memory_book.records);
        let mut bytes = [0; RECORD];
        let version = begin(&direct.memory_book, record, &mut bytes);
        match direct.memory_view.write_at((record * RECORD) as u64, &bytes) {
            Ok(()) => direct.memory_book.returned(record).store(version, Ordering::Release),
            Err(error) => scene.world.violate(format!("{}: a store into a memfd: {error}", scene.name)),
        }
        count(&scene.world.counts.stores);
        beating.sleep(random.pause(1..20), || scene.is_over());
    }
}

/// Opens the leased file for writing: the kernel keeps it waiting until all holds are gone.
fn on_disk(scene: &Scene<'_>, mut random: Random) {
    let beating = scene.world.pulse(format!("{} writer of a leased file", scene.name));
    let Some((file, book, path)) = &scene.files.direct.leased else { return };
    while !scene.is_over() {
        beating.sleep(random.pause(100..2000), || scene.is_over());
        beating.at("opens the leased file for writing");
        let stored = File::options().write(true).open(path).and_then(|disk| {
            beating.at("writes the leased file");
            for _ in 0..random.within(1..20) {
                let record = random.below(book.records);
                let mut bytes = [0; RECORD];
                let version = begin(book, record, &mut bytes);
                disk.write_all_at(&bytes, (record * RECORD) as u64)?;
                book.returned(record).store(version, Ordering::Release);
                count(&scene.world.counts.stores_outside);
            }
            Ok(())
        });
        if let Err(error) = stored {
            scene.world.violate(format!("{}: writing the leased file: {error}", scene.name));
        }
        if file.broken() > 0 {
            scene.world.violate(format!("{}: the lease was outlasted by holds", scene.name));
        }
    }
}
