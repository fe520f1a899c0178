//! What stability costs when nobody writes.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{Criterion, criterion_group, criterion_main};
use stillwire_bench::Cached;

fn hold(criterion: &mut Criterion) {
    let cached = Cached::new();
    let mut group = criterion.benchmark_group("hold");
    // The floor: what one page costs at the least, an addition and a subtraction.
    let word = AtomicU64::new(0);
    group.bench_function("floor: two atomic adds", |bencher| {
        bencher.iter(|| {
            black_box(&word).fetch_add(1, Ordering::Acquire);
            black_box(&word).fetch_sub(1, Ordering::Release);
        });
    });
    for pages in [2, 16] {
        let words: Vec<AtomicU64> = (0..pages).map(|_| AtomicU64::new(0)).collect();
        group.bench_function(format!("floor: two atomic adds in each of {pages} words"), |bencher| {
            bencher.iter(|| {
                for word in black_box(&words) {
                    word.fetch_add(1, Ordering::Acquire);
                }
                for word in black_box(&words) {
                    word.fetch_sub(1, Ordering::Release);
                }
            });
        });
    }
    // (name, bytes): one page, a frame across a page border, a run as the sender takes it.
    for (name, start, len) in [("one page", 0u64, 1448u64), ("across a border", 3000, 1448), ("64 KiB", 0, 65_536)] {
        group.bench_function(format!("hold and release: {name}"), |bencher| {
            bencher.iter(|| drop(black_box(cached.file.hold(black_box(start..start + len)).expect("it is cached"))));
        });
    }
    group.finish();
}

criterion_group!(benches, hold);
criterion_main!(benches);
