//! What a frame costs one core, by size, on a NIC on paper; and what that means on a wire.
//!
//! Criterion times each work by itself, to be compared with its own past. The tables at the end are measured apart, all
//! works in turns, so that they can be compared with each other and subtracted; they are of the least that each took.
#![allow(missing_docs)]

mod pause;
mod table;
mod works;

use std::time::Duration;

use criterion::{Criterion, Throughput};
use works::{BURST, FRAMES, Works};

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(700))
        .configure_from_args();
    let mut works = Works::new();
    frames(&mut criterion, &mut works);
    pause::bench(&mut criterion);
    criterion.final_summary();
    // Without `--bench` this is `cargo test --benches`: whether it works, not how fast.
    let rounds = if std::env::args().any(|argument| argument == "--bench") { 300 } else { 1 };
    print!("{}", table::measure(&mut works, rounds));
}

fn frames(criterion: &mut Criterion, works: &mut Works) {
    for frame in FRAMES {
        let mut group = criterion.benchmark_group(format!("{frame} B"));
        group.throughput(Throughput::Elements(1));
        for work in works::all(frame) {
            group.bench_function(work.name(), |bencher| {
                bencher.iter_custom(|iterations| {
                    let bursts = iterations.div_ceil(BURST as u64);
                    let spent: Duration = (0..bursts).map(|_| works.burst(work, frame)).sum();
                    spent.mul_f64(iterations as f64 / (bursts * BURST as u64) as f64)
                });
            });
        }
        group.finish();
    }
}
