//! What a frame costs on virtio-net, by layout of the ring, with the model moved between the timed regions.
//!
//! `cargo bench --bench virtio`. Beside the 82599's figures of `cargo bench --bench frames`, taken in the same way.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stillwire_bench::paper::RECEIVED;
use stillwire_bench::{Cached, TCP_HEADERS, tcp_header};
use stillwire_dma::PciFunction;
use stillwire_driver::{Config, Frame, Nic, Offload, Posted, RxQueue, TxQueue};
use stillwire_emulator::LocalDevice;
use stillwire_emulator::virtio::{self, Features};
use stillwire_emulator::wire::{Sink, Wire};
use stillwire_filecache::Hold;

fn main() {
    println!("ns a frame, least of {ROUNDS} rounds of {BURST} frames; bursts end with a doorbell");
    println!("{:24} {:>8} {:>8} {:>8} {:>8}", "ring", "tx60", "tx-page", "cut", "rx60");
    let (packed, in_order) = (Features::RING_PACKED, Features::IN_ORDER);
    let kinds = [
        ("split", packed | in_order),
        ("split, in order", packed),
        ("packed", in_order),
        ("packed, in order", Features::empty()),
    ];
    for (name, without) in kinds {
        // A cache is mapped for one device.
        let cached = Cached::zeros(16 << 20, false).expect("the file is cached");
        let mut port = Port::open(&cached, without);
        let figures = [Port::tx60, Port::tx_page, Port::cut, Port::rx60].map(|work| port.least(&cached, work));
        println!("{name:24} {:8.1} {:8.1} {:8.1} {:8.1}", figures[0], figures[1], figures[2], figures[3]);
    }
    println!(
        "tx-page: {PAYLOAD} held bytes behind a TCP header, checksum by the device, a hold a run; cut: the same, cut by the device"
    );
}

struct Port {
    device: Arc<LocalDevice<virtio::Model>>,
    due: Arc<Mutex<usize>>,
    tx: TxQueue<Hold>,
    rx: RxQueue,
    /// Where in the file the next burst begins.
    at: u64,
    _nic: Nic,
}

/// What is timed: a burst, and how long it took.
type Work = fn(&mut Port, &Cached) -> Duration;

impl Port {
    fn open(cached: &Cached, without: Features) -> Self {
        let due = Arc::new(Mutex::new(0));
        let wire = Far { sink: Sink::new(), due: due.clone() };
        let model = virtio::Config {
            features: Features::all() - without,
            frames_per_step: 1 << 12,
            ..virtio::Config::default()
        };
        let device = LocalDevice::new(virtio::Model::new(model, Box::new(wire)).expect("a model"));
        let function = PciFunction::from_backend(device.clone());
        cached.cache.attach_to(function.iommu()).expect("the cache is mapped");
        let running = device.spawn();
        // The receiver takes what is addressed to others as well.
        let nic = Nic::open(function, Config { promiscuous: true, ..Config::default() }).expect("it opens");
        let (tx, rx) = (nic.tx_queue().expect("a queue"), nic.rx_queue().expect("a queue"));
        drop(running);
        Self { device, due, tx, rx, at: 0, _nic: nic }
    }

    fn least(&mut self, cached: &Cached, work: Work) -> f64 {
        let rounds = (0..ROUNDS).map(|_| {
            let spent = work(self, cached);
            self.settle();
            spent.as_nanos() as f64 / BURST as f64
        });
        rounds.fold(f64::MAX, f64::min)
    }

    fn settle(&self) {
        while self.device.step(Duration::from_secs(1 << 20)) {}
    }

    fn tx60(&mut self, _: &Cached) -> Duration {
        let start = Instant::now();
        self.tx.reclaim(drop);
        for _ in 0..BURST {
            assert!(matches!(self.tx.post(Frame::new(&[0xff; 60])).expect("a good frame"), Posted::Queued));
        }
        self.tx.publish();
        start.elapsed()
    }

    fn tx_page(&mut self, cached: &Cached) -> Duration {
        let (header, begin) = (tcp_header(PAYLOAD), self.next(cached));
        let start = Instant::now();
        self.tx.reclaim(drop);
        let mut run = self.tx.run(cached.file.hold(begin..begin + RUN).expect("it is cached"));
        for frame in 0..BURST {
            let part = frame * PAYLOAD..(frame + 1) * PAYLOAD;
            assert!(run.post(&header, Some(Offload::TCP_V4), part).expect("a good frame"));
        }
        drop(run);
        self.tx.publish();
        start.elapsed()
    }

    fn cut(&mut self, cached: &Cached) -> Duration {
        let (header, begin): ([u8; TCP_HEADERS], _) = (tcp_header(PAYLOAD), self.next(cached));
        let offload = Offload::TCP_V4.segmented(PAYLOAD as u16);
        let start = Instant::now();
        self.tx.reclaim(drop);
        let hold = cached.file.hold(begin..begin + RUN).expect("it is cached");
        let frame = Frame::new(&header).offload(offload).payload(hold);
        assert!(matches!(self.tx.post(frame).expect("a good frame"), Posted::Queued));
        self.tx.publish();
        start.elapsed()
    }

    fn rx60(&mut self, _: &Cached) -> Duration {
        *self.due.lock().expect("the wire") = BURST;
        self.settle();
        let start = Instant::now();
        let mut types = 0u32;
        let taken = self.rx.poll(BURST, |frame| {
            if let Some(ethernet) = frame.first::<14>() {
                types += u32::from(ethernet[12]);
            }
        });
        let spent = start.elapsed();
        assert_eq!((taken, types), (BURST, 8 * BURST as u32), "frames of IPv4");
        spent
    }

    fn next(&mut self, cached: &Cached) -> u64 {
        let begin = self.at;
        self.at = if begin + 2 * RUN > cached.file.len() { 0 } else { begin + RUN };
        begin
    }
}

/// The wire's far end: takes all, and sends what is due.
struct Far {
    sink: Sink,
    due: Arc<Mutex<usize>>,
}

impl Wire for Far {
    fn transmit(&mut self, frame: &[u8]) {
        self.sink.transmit(frame);
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        let mut due = self.due.lock().expect("the bench");
        if *due == 0 {
            return false;
        }
        *due -= 1;
        frame.clear();
        frame.extend_from_slice(&RECEIVED);
        true
    }
}

const BURST: usize = 32;
const PAYLOAD: usize = 1460;
const RUN: u64 = (BURST * PAYLOAD) as u64;
const ROUNDS: usize = 300;
