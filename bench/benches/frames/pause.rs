//! How long a writer waits for a page that is in the transmit ring: from the completion to the store's end.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use stillwire_bench::{Cached, Device, Port, tcp_header};
use stillwire_driver::{Frame, Offload, Posted};
use stillwire_filecache::Hold;

pub fn bench(criterion: &mut Criterion) {
    let cached = Cached::new();
    let device = Device::paper().expect("a NIC on paper");
    let mut port = Port::<Hold>::open(&device, 64, 1514).expect("the NIC opens");
    cached.cache.attach_to(device.function().iommu()).expect("the cache is mapped");
    let view = cached.file.view().expect("a view");
    let (order, orders) = mpsc::channel::<u64>();
    let (tell, ended) = mpsc::channel();
    let writer = std::thread::spawn(move || {
        for round in orders {
            view.write_at(0, &round.to_ne_bytes()).expect("a store");
            let _ = tell.send(Instant::now());
        }
    });
    let header = tcp_header(1460);
    criterion.bench_function("write pause: store into a page in the ring, reclaim to resume", |bencher| {
        bencher.iter_custom(|iterations| {
            let pauses = cached.cache.stats().writer_pauses;
            let mut spent = Duration::ZERO;
            for round in 0..iterations {
                let hold = cached.file.hold(0..1460).expect("it is cached");
                let frame = Frame::new(&header).offload(Offload::TCP_V4).payload(hold);
                assert!(matches!(port.tx.post(frame), Ok(Posted::Queued)));
                port.tx.publish();
                order.send(round).expect("the writer lives");
                until_a_writer_waits(&cached);
                device.settle().expect("a frame that a NIC can send");
                let start = Instant::now();
                port.tx.reclaim(drop);
                spent += ended.recv().expect("the store ends").duration_since(start);
            }
            assert_eq!(cached.cache.stats().writer_pauses - pauses, iterations, "stores that waited");
            spent
        });
    });
    drop(order);
    writer.join().expect("the writer ends");
}

fn until_a_writer_waits(cached: &Cached) {
    let start = Instant::now();
    while cached.cache.stats().writers_waiting == 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "no writer waits");
        std::thread::yield_now();
    }
}
