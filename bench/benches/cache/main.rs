//! What the cache costs, beside what it is measured by: one table in markdown.
//!
//! Criterion times the shortest paths (`hold.rs`). Here is what it does not fit: waits between threads, and bandwidth of
//! a disk that others use too, for which the two sides take turns in one run. The disk is that of `TMPDIR`.
#![allow(missing_docs)]

mod clock;
mod disk;
mod hold;
mod table;
mod touch;
mod writers;

use stillwire_filecache::trace::{Ratios, Trace, hit_ratios};
use table::{Goal, Row, Table};

/// How much of everything is done.
pub struct Effort {
    /// Times that each thing is done in turn with what it is measured by.
    pub rounds: usize,
    /// Size of the file that is read, bytes.
    pub file: u64,
    /// Memory of the cache that it is read through, bytes: so much of it is still there from the round before.
    pub arena: usize,
}

fn main() {
    // Without `--bench` this is `cargo test --benches`: whether it works, not how fast.
    let effort = match std::env::args().any(|argument| argument == "--bench") {
        true => Effort { rounds: 9, file: 1 << 30, arena: 256 << 20 },
        false => Effort { rounds: 1, file: 16 << 20, arena: 4 << 20 },
    };
    let mut table = Table::default();
    hold::measure(&effort, &mut table);
    writers::measure(&effort, &mut table);
    touch::measure(&effort, &mut table);
    disk::measure(&effort, &mut table);
    hits(&mut table);
    print!("{table}");
}

/// Whether scans wash out what is asked for again and again.
fn hits(table: &mut Table) {
    let trace = Trace {
        folios: 20_000,
        skew: 1.0,
        requests: 200_000,
        cache_percent: 10,
        scan_every: 10_000,
        scan_folios: 4000,
        seed: 1,
    };
    let Ratios { policy, lru } = hit_ratios(&trace);
    table.add(Row {
        work: "hits, Zipf's law and scans, a cache of a tenth".into(),
        here: format!("{:.1} %", 100.0 * policy),
        beside: format!("{:.1} % LRU", 100.0 * lru),
        ratio: Some(policy / lru),
        goal: Goal::Above(1.0),
    });
}
