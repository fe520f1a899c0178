//! Who makes a file longer and shorter.

use super::Scene;
use super::files::SOLID;
use crate::counts::count;
use crate::ledger::RECORD;
use crate::random::Random;

/// Changes the length of the file that is there for it, until the stack is closed.
pub fn change(scene: &Scene<'_>, mut random: Random) {
    let beating = scene.world.pulse(format!("{} lengths", scene.name));
    let file = &scene.files.changing;
    while !scene.is_over() {
        beating.at("changes the length");
        // To any byte; behind the end of what is never cut off.
        let len = random.within(SOLID * RECORD..file.book.len());
        let one_at_a_time = scene.files.length.write();
        match file.file.set_len(len as u64) {
            Ok(()) => count(&scene.world.counts.resizes),
            Err(error) => scene.world.violate(format!("{}: set_len({len}): {error}", scene.name)),
        }
        drop(one_at_a_time);
        beating.sleep(random.pause(30..700), || scene.is_over());
    }
}
