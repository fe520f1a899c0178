//! Hit ratios of the cache's eviction policy and of LRU, as a table in markdown. Nothing is timed.
#![allow(missing_docs)]

use stillwire_filecache::trace::{Ratios, Trace, hit_ratios};

fn main() {
    println!("Hits in percent of all requests, policy / LRU; a scan reads 4,000 folios of 64 pages.\n");
    println!("| cache, % of the hot files | skew | Zipf | Zipf and scans |");
    println!("|---|---|---|---|");
    for cache_percent in [1, 2, 5, 10, 20] {
        for skew in [0.8, 1.0, 1.1] {
            let plain = Trace {
                folios: 20_000,
                skew,
                requests: 200_000,
                cache_percent,
                scan_every: 0,
                scan_folios: 4000,
                seed: 1,
            };
            let scanned = Trace { scan_every: 10_000, ..plain };
            println!("| {cache_percent} | {skew:.1} | {} | {} |", cell(&plain), cell(&scanned));
        }
    }
}

fn cell(trace: &Trace) -> String {
    let Ratios { policy, lru } = hit_ratios(trace);
    format!("{:.1} / {:.1}", 100.0 * policy, 100.0 * lru)
}
