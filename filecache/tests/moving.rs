//! Folios are laid over views and taken away while writers store elsewhere. The guard must read of the one while it does
//! the other.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;

#[test]
fn stores_and_moving_mappings_do_not_wait_for_each_other() {
    const PAGES: u64 = 64;
    let cache = cache(512 * PAGE);
    let (moved, stored) = (file_of(&pattern(PAGE)), file_of(&pattern(PAGES as usize * PAGE)));
    let (moved, stored) = (cache.open(moved.path()).unwrap(), cache.open(stored.path()).unwrap());
    let counts: Arc<[AtomicU64; 2]> = Arc::default();
    // Not joined when the test fails: they may wait for ever then.
    let spawn = |which: usize, step: Box<dyn Fn() + Send>| {
        let counts = counts.clone();
        std::thread::spawn(move || {
            while counts[0].load(Ordering::Relaxed) < 800 || counts[1].load(Ordering::Relaxed) < 5_000 {
                step();
                counts[which].fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let mut threads = Vec::new();
    for _ in 0..2 {
        let (stored, view) = (stored.clone(), stored.view().unwrap());
        threads.push(spawn(
            0,
            Box::new(move || {
                (0..PAGES).for_each(|page| view.write_at(page * PAGE as u64, b"x").unwrap());
                drop(stored.hold(0..PAGES * PAGE as u64).unwrap());
            }),
        ));
    }
    let view = moved.view().unwrap();
    threads.push(spawn(
        1,
        Box::new(move || {
            view.read_at(0, &mut [0]).unwrap();
            moved.evict(0..PAGE as u64);
        }),
    ));
    eventually("stores and moves", || threads.iter().all(std::thread::JoinHandle::is_finished));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
