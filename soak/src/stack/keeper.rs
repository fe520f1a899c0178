//! Holds that are kept for long and dropped in another thread.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use stillwire_filecache::Hold;

use super::Scene;
use crate::counts::count;
use crate::random::Random;

/// Keeps what comes, each for a time of its own, and looks whether it is still when it lets go.
pub fn keep(scene: &Scene<'_>, mut random: Random, kept: &Receiver<Hold>) {
    let beating = scene.world.pulse(format!("{} keeper", scene.name));
    let mut holds: Vec<(Instant, u32, Hold)> = Vec::new();
    loop {
        beating.at("keeps");
        match kept.recv_timeout(Duration::from_millis(20)) {
            Ok(hold) if holds.len() < MOST => {
                count(&scene.world.counts.holds_kept);
                holds.push((Instant::now() + random.pause(10..4000), hold.crc32(), hold));
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let now = Instant::now();
        for (_, digest, hold) in holds.extract_if(.., |(until, _, _)| *until <= now) {
            look(scene, digest, &hold);
        }
    }
    for (_, digest, hold) in holds {
        look(scene, digest, &hold);
    }
}

fn look(scene: &Scene<'_>, digest: u32, hold: &Hold) {
    // Byte for byte: a digest of a whole page is kept by the cache.
    let mut now = crc32fast::Hasher::new();
    hold.chunks().for_each(|piece| now.update(piece));
    if now.finalize() != digest {
        let (offset, len) = (hold.file_offset(), hold.len());
        scene.world.violate(format!("{}: a hold of {len} bytes at {offset} was not still", scene.name));
    }
}

/// Holds kept at the same time.
pub const MOST: usize = 12;
