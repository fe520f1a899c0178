//! Writers in processes of their own, which come, are killed at any moment, and come again.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::Scene;
use super::files::{Cached, OWNERS, WRITERS};
use crate::counts::{add, count};
use crate::processes::{Child, Ending};
use crate::random::Random;

/// Starts writer process `number` again and again until the stack is closed, and ends it: by SIGKILL, by closing its standard input,
/// or not at all, so that it finds out that the cache has ended.
pub fn attach(scene: &Scene<'_>, number: usize, socket: &Path, mut random: Random) {
    let world = scene.world;
    let beating = world.pulse(format!("{} process {number}", scene.name));
    while !scene.is_over() {
        beating.at("starts a writer");
        let file = &scene.files.plain[random.below(scene.files.plain.len())];
        let owner = WRITERS + number;
        let before = returned(file, owner);
        let arguments = [
            "writer".to_owned(),
            socket.display().to_string(),
            file.path.display().to_string(),
            world.ledger.path(),
            file.book.file.to_string(),
            owner.to_string(),
            random.next().to_string(),
        ];
        let mut child = match Child::start(&arguments) {
            Ok(child) => child,
            Err(error) => return world.violate(format!("{}: starting a writer: {error}", scene.name)),
        };
        beating.sleep(random.pause(30..3000), || scene.is_over());
        beating.at("ends a writer");
        let ending = if random.chance(650) { child.kill() } else { child.let_end() };
        match ending {
            Ending::Killed => count(&world.counts.killed_writers),
            // 3: it was cut off, or was about to attach when the cache ended.
            Ending::Exited(0 | 3) => count(&world.counts.processes_ended),
            other => world.violate(format!("{}: a writer process ended by {other:?}: {}", scene.name, child.said())),
        }
        add(&world.counts.stores_attached, returned(file, owner) - before);
    }
}

/// Stores of an owner that have returned.
fn returned(file: &Cached, owner: usize) -> u64 {
    let records = (owner..file.book.records).step_by(OWNERS);
    records.map(|record| file.book.returned(record).load(Ordering::Acquire)).sum()
}
