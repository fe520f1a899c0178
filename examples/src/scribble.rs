//! Writers over the file that is being sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use stillwire_filecache::View;

/// Threads that store into the cached file's pages, most of all where the sender is. Stopped by
/// [`stop`](Self::stop).
pub struct Scribblers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Scribblers {
    /// Starts `count` writers; `position` says where the sender is, bytes.
    pub fn start(view: &View, position: Arc<AtomicU64>, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count as u64)
            .map(|seed| {
                let (view, position, stop) = (view.clone(), position.clone(), stop.clone());
                std::thread::spawn(move || scribble(&view, &position, &stop, seed))
            })
            .collect();
        Self { stop, threads }
    }

    /// Ends the writers; returns the number of stores that landed. Whatever they wait for must have been released, or
    /// be released by another thread.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    }
}

fn scribble(view: &View, position: &AtomicU64, stop: &AtomicBool, seed: u64) -> u64 {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut stores = 0;
    let last = (view.len() as u64).saturating_sub(WORD.len() as u64);
    while !stop.load(Ordering::Relaxed) {
        // Xorshift (Marsaglia 2003): any sequence would do.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Most stores aim at what is in the ring now: from a little ahead of the sender to a window behind it.
        let ahead = position.load(Ordering::Relaxed) + AHEAD;
        let target = if random & 7 == 0 { random >> 8 } else { ahead.saturating_sub((random >> 8) % BEHIND) };
        let offset = target % (last + 1);
        let word = random.to_ne_bytes();
        let len = WORD.len().min(view.len());
        if view.write_at(offset, &word[..len]).is_ok() {
            stores += 1;
        }
        std::thread::yield_now();
    }
    stores
}

/// Bytes of a store.
const WORD: [u8; 8] = [0; 8];
/// Reach of the aim around the sender's position, bytes.
const AHEAD: u64 = 64 * 1024;
const BEHIND: u64 = 320 * 1024;
