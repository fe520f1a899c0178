//! One queue and two, each with its thread, sending held pages of one file out of one cache: processor time of an owner for each
//! frame. Were there a lock on the way, or a word that both write, two would pay more for each frame than one.
//!
//! `cargo bench --bench queues`. The model needs a processor of its own; so processor time is compared, not time.

use std::sync::Barrier;
use std::time::Duration;

use stillwire_bench::{Cached, TCP_HEADERS, tcp_header};
use stillwire_dma::PciFunction;
use stillwire_driver::{Config, Nic, Offload, TxQueue};
use stillwire_emulator::wire::Sink;
use stillwire_emulator::{LocalDevice, ixgbe};
use stillwire_filecache::Hold;

fn main() {
    let cached = Cached::zeros(64 << 20, false).expect("the file is cached");
    let device = LocalDevice::new(ixgbe::Model::new(ixgbe::Config::default(), Box::new(Sink::new())));
    let _running = device.spawn();
    let function = PciFunction::from_backend(device);
    cached.cache.attach_to(function.iommu()).expect("the cache is mapped");
    let mut figures = Vec::new();
    for round in 0..2 * ROUNDS {
        let queues = 1 + round % 2;
        let nic = Nic::open(function.clone(), Config { queues: queues as u16, ..Config::default() }).expect("it opens");
        let mut owners: Vec<TxQueue<Hold>> = (0..queues).map(|_| nic.tx_queue().expect("a queue")).collect();
        let barrier = Barrier::new(queues);
        let spent: Duration = std::thread::scope(|scope| {
            let threads: Vec<_> = owners
                .iter_mut()
                .map(|tx| {
                    let (cached, barrier) = (&cached, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        send(tx, cached)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("an owner")).sum()
        });
        figures.push((queues, spent.as_nanos() as f64 / (queues * FRAMES) as f64));
    }
    let least = |queues| figures.iter().filter(|(of, _)| *of == queues).map(|(_, ns)| *ns).fold(f64::MAX, f64::min);
    let (one, two) = (least(1), least(2));
    println!(
        "processor time of an owner, ns a frame (least of {ROUNDS} rounds): {one:.1} with one queue, {two:.1} with two"
    );
    println!("ratio {:.2}; two owners on one core's two threads share its units", two / one);
}

/// Sends `FRAMES` frames of file bytes, a hold a run; the processor time of that, without what the ring was waited for.
fn send(tx: &mut TxQueue<Hold>, cached: &Cached) -> Duration {
    let header: [u8; TCP_HEADERS] = tcp_header(PAYLOAD);
    let runs = cached.file.len() / RUN;
    // Each owner has its own part of the file.
    let mut at = tx.index() as u64 * (runs / 2);
    let (mut posted, mut spent) = (0, Duration::ZERO);
    while posted < FRAMES {
        while tx.free() < 2 * PER_RUN + 8 {
            tx.reclaim(drop);
            std::thread::yield_now();
        }
        let start = cpu_time();
        tx.reclaim(drop);
        let mut run = tx.run(cached.file.hold(at * RUN..(at + 1) * RUN).expect("it is cached"));
        for frame in 0..PER_RUN {
            let part = frame * PAYLOAD..(frame + 1) * PAYLOAD;
            assert!(run.post(&header, Some(Offload::TCP_V4), part).expect("a good frame"), "there was room");
        }
        drop(run);
        tx.publish();
        spent += cpu_time() - start;
        posted += PER_RUN;
        at = (at + 1) % runs;
    }
    while tx.in_flight() > 0 {
        tx.reclaim(drop);
        std::thread::yield_now();
    }
    spent
}

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

const PAYLOAD: usize = 1460;
/// Bytes of a hold, and the whole frames in it.
const RUN: u64 = 64 << 10;
const PER_RUN: usize = RUN as usize / PAYLOAD;
const FRAMES: usize = PER_RUN * 2000;
const ROUNDS: usize = 5;
