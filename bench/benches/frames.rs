//! What a frame costs the sender: post, doorbell, reclaim, holds included. The model moves outside of the timed region.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stillwire_bench::{Cached, FILE, Rig, udp_header};
use stillwire_driver::{Frame, Offload, Posted};
use stillwire_filecache::Hold;

/// Frames between two doorbells.
const BURST: usize = 32;
/// File bytes in a frame.
const PAYLOAD: usize = 1448;

/// Times `post` and the reclaim of bursts of frames until `iterations` frames have gone out.
fn bursts(rig: &mut Rig<Hold>, iterations: u64, mut post: impl FnMut(&mut Rig<Hold>, usize)) -> Duration {
    let mut spent = Duration::ZERO;
    let before = rig.frames();
    let count = iterations.div_ceil(BURST as u64);
    for burst in 0..count as usize {
        let start = Instant::now();
        post(rig, burst);
        rig.tx.publish();
        spent += start.elapsed();
        rig.settle();
        let start = Instant::now();
        rig.tx.reclaim(drop);
        spent += start.elapsed();
    }
    // Whatever was timed must have been done.
    assert_eq!(rig.frames() - before, count * BURST as u64, "frames on the wire");
    spent.mul_f64(iterations as f64 / (count * BURST as u64) as f64)
}

fn transmit(criterion: &mut Criterion) {
    let cached = Cached::new();
    let mut rig = Rig::<Hold>::new(512);
    cached.cache.attach_to(rig.function.iommu()).expect("the cache is mapped");
    let mut group = criterion.benchmark_group("transmit");
    group.throughput(Throughput::Elements(1));
    group.bench_function("header alone, 60 B", |bencher| {
        let header = [0xff; 60];
        bencher.iter_custom(|iterations| {
            bursts(&mut rig, iterations, |rig, _| {
                for _ in 0..BURST {
                    assert!(matches!(rig.tx.post(Frame::new(&header)), Ok(Posted::Queued)));
                }
            })
        });
    });
    let header = udp_header(PAYLOAD);
    group.bench_function("header + held page + checksums, a hold a frame", |bencher| {
        bencher.iter_custom(|iterations| {
            bursts(&mut rig, iterations, |rig, burst| {
                for frame in 0..BURST {
                    let start = ((burst * BURST + frame) * PAYLOAD % (FILE - PAYLOAD)) as u64;
                    let hold = cached.file.hold(start..start + PAYLOAD as u64).expect("it is cached");
                    let frame = Frame::new(&header).offload(Offload::UDP_V4).payload(hold);
                    assert!(matches!(rig.tx.post(frame), Ok(Posted::Queued)));
                }
            })
        });
    });
    group.bench_function("header + held page + checksums, a hold a run of 32", |bencher| {
        bencher.iter_custom(|iterations| {
            bursts(&mut rig, iterations, |rig, burst| {
                let len = PAYLOAD;
                let start = (burst * BURST * len % (FILE - BURST * len)) as u64;
                let mut run = rig.tx.run(cached.file.hold(start..start + (BURST * len) as u64).expect("it is cached"));
                for frame in 0..BURST {
                    let range = frame * len..(frame + 1) * len;
                    assert!(matches!(run.post(&header, Some(Offload::UDP_V4), range), Ok(true)));
                }
            })
        });
    });
    group.finish();
}

criterion_group!(benches, transmit);
criterion_main!(benches);
