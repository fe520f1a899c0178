//! Syncs: what had returned before is on the disk after.

use std::path::Path;

use stillwire_filecache::Error;

use super::Scene;
use super::files::{Cached, SOLID};
use crate::counts::count;
use crate::ledger::RECORD;
use crate::random::Random;
use crate::world::World;

/// Syncs files, reads them from the disk, and evicts, until the stack is closed.
pub fn sync(scene: &Scene<'_>, mut random: Random) {
    let beating = scene.world.pulse(format!("{} syncs", scene.name));
    while !scene.is_over() {
        let plain = &scene.files.plain;
        let at = random.below(plain.len() + 1);
        match plain.get(at) {
            Some(file) if random.chance(200) => {
                beating.at("syncs a part");
                let start = random.below(file.book.records) * RECORD;
                let end = (start + random.within(1..64) * RECORD).min(file.book.len());
                check(scene.world, file, start..end, |file| file.file.sync_range(start as u64..end as u64));
            }
            Some(file) => {
                beating.at("syncs");
                check(scene.world, file, 0..file.book.len(), |file| file.file.sync());
            }
            None => {
                beating.at("syncs the file whose length changes");
                let _same_length = scene.files.length.read();
                check(scene.world, &scene.files.changing, 0..SOLID * RECORD, |file| file.file.sync());
            }
        }
        if random.chance(300) {
            beating.at("evicts");
            let file = &plain[random.below(plain.len())];
            let start = random.below(file.book.len()) as u64;
            file.file.evict(start..start + random.below(1 << 20) as u64);
        }
        beating.sleep(random.pause(50..900), || scene.is_over());
    }
}

/// The last sync of all files, when nobody writes any more.
pub fn check_all(scene: &Scene<'_>) {
    for file in &scene.files.plain {
        check(scene.world, file, 0..file.book.len(), |file| file.file.sync());
    }
    check(scene.world, &scene.files.changing, 0..SOLID * RECORD, |file| file.file.sync());
}

/// Syncs, and compares the bytes of `range` on the disk with what had returned before.
fn check(world: &World, file: &Cached, range: std::ops::Range<usize>, sync: impl Fn(&Cached) -> Result<(), Error>) {
    let floor = file.book.floor(range.start, range.end);
    let looked = match sync(file) {
        Ok(()) => read(&file.path, &range).and_then(|disk| file.book.check(&floor, range.start, range.start, &disk)),
        Err(error) => Err(error.to_string()),
    };
    count(&world.counts.syncs_checked);
    if let Err(why) = looked {
        world.violate(format!("on the disk after a sync: {why} ({})", file.path.display()));
    }
}

fn read(path: &Path, range: &std::ops::Range<usize>) -> Result<Vec<u8>, String> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; range.len()];
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.read_exact_at(&mut bytes, range.start as u64).map_err(|error| format!("reading {range:?}: {error}"))?;
    Ok(bytes)
}
