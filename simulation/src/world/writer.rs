//! Who stores through a view.

use std::time::Duration;

use stillwire_scheduler::{chance, choose, log, sleep};

use super::File;
use super::content::SLOT;

/// Makes so many stores, into slots that are this writer's: every so-many-th.
pub fn work(files: &[File], (number, writers): (usize, usize), stores: u32) {
    let mut views = vec![None; files.len()];
    for _ in 0..stores {
        let which = choose(files.len() as u64) as usize;
        let file = &files[which];
        let own = (file.len / SLOT).saturating_sub(number).div_ceil(writers);
        if own == 0 {
            continue;
        }
        // Often the same few: where they meet holders.
        let slot = number + writers * choose(if chance(500) { own.min(3) } else { own } as u64) as usize;
        let view = match &views[which] {
            Some(view) => view,
            None => match file.cached.view() {
                Ok(view) => views[which].insert(view),
                Err(_) => continue,
            },
        };
        let bytes = file.content.begin(slot);
        log(|| format!("stores version {} at byte {} of {}", bytes[0], slot * SLOT, file.cached.path().display()));
        match view.write_at((slot * SLOT) as u64, &bytes) {
            Ok(()) => {
                file.content.done(slot);
                log(|| format!("has stored at byte {} of {}", slot * SLOT, file.cached.path().display()));
            }
            Err(error) => log(|| format!("could not: {error}")),
        }
        if chance(100) {
            views[which] = None;
        }
        sleep(Duration::from_nanos(choose([1, 1_000, 100_000][choose(3) as usize])));
    }
}
