//! One file over two queues, each with its thread, out of one cache.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use stillwire_dma::PciFunction;
use stillwire_driver::{Checksum, Config, Mac, Nic, Offload, RxQueue, TxQueue};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{LocalDevice, ixgbe};
use stillwire_filecache::{Cache, CachedFile, Hold};

const PAYLOAD: usize = 1400;
/// Bytes of one hold.
const RUN: usize = 40 * PAYLOAD;
/// Frames on the way at most: what the smallest receive ring holds for sure.
const ON_THE_WAY: usize = 300;

/// What two owners do together.
struct Work<'a> {
    file: &'a CachedFile,
    mac: Mac,
    /// Runs that somebody has taken, frames that were posted and that arrived.
    taken: AtomicUsize,
    posted: AtomicUsize,
    arrived: AtomicUsize,
}

impl Work<'_> {
    fn len(&self) -> usize {
        self.file.len() as usize
    }

    /// Sends runs as long as there are some, and returns what arrived on this queue: where in the file, and the bytes.
    fn own(&self, tx: &mut TxQueue<Hold>, rx: &mut RxQueue) -> Vec<(usize, Vec<u8>)> {
        let (mut parts, mut runs) = (Vec::new(), 0);
        let (frames, start) = (self.len().div_ceil(PAYLOAD), Instant::now());
        while self.arrived.load(Ordering::SeqCst) < frames {
            assert!(
                start.elapsed() < Duration::from_secs(120),
                "{} of {frames} frames",
                self.arrived.load(Ordering::SeqCst)
            );
            let on_the_way = self.posted.load(Ordering::SeqCst).saturating_sub(self.arrived.load(Ordering::SeqCst));
            if tx.free() > 200 && on_the_way + RUN / PAYLOAD <= ON_THE_WAY {
                let begin = self.taken.fetch_add(1, Ordering::SeqCst) * RUN;
                if begin < self.len() {
                    self.send(tx, begin);
                    runs += 1;
                }
            }
            tx.reclaim(drop);
            let found = rx.poll(64, |frame| {
                assert_eq!((frame.checksum().ip, frame.checksum().transport), (Checksum::Good, Checksum::Good));
                let mut bytes = vec![0; frame.len() - 50];
                let mut offset = [0; 8];
                frame.read_at(42, &mut offset);
                frame.read_at(50, &mut bytes);
                parts.push((u64::from_be_bytes(offset) as usize, bytes));
            });
            self.arrived.fetch_add(found, Ordering::SeqCst);
            std::thread::yield_now();
        }
        while tx.in_flight() > 0 {
            tx.reclaim(drop);
            std::thread::yield_now();
        }
        assert!(runs > 0, "queue {} sent nothing", tx.index());
        parts
    }

    /// Posts one run, each frame with its place in the file.
    fn send(&self, tx: &mut TxQueue<Hold>, begin: usize) {
        let end = self.len().min(begin + RUN);
        let hold = self.file.hold(begin as u64..end as u64).unwrap();
        let mut run = tx.run(hold);
        for (number, start) in (begin..end).step_by(PAYLOAD).enumerate() {
            let part = start - begin..end.min(start + PAYLOAD) - begin;
            // Flows of many ports, so that both receive queues have some.
            let ip = PacketBuilder::ethernet2(self.mac.0, self.mac.0).ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64);
            let mut header = Vec::new();
            ip.udp(4000 + number as u16, 5000).write(&mut header, &vec![0; 8 + part.len()]).unwrap();
            header.truncate(42);
            header.extend((start as u64).to_be_bytes());
            // Counted before it can arrive.
            self.posted.fetch_add(1, Ordering::SeqCst);
            assert!(run.post(&header, Some(Offload::UDP_V4), part).unwrap());
        }
        drop(run);
        tx.publish();
    }
}

#[test]
fn one_file_over_two_queues() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let contents: Vec<u8> = (0..5_000_001u32).map(|at| (at ^ at >> 9).wrapping_mul(37) as u8).collect();
    std::fs::write(&path, &contents).unwrap();
    let cache = Cache::new(stillwire_filecache::Config { bytes: 16 << 20, ..Default::default() }).unwrap();
    let file = cache.open(&path).unwrap();

    let device = LocalDevice::new(ixgbe::Model::new(ixgbe::Config::default(), Box::new(Loopback::new())));
    let function = PciFunction::from_backend(device.clone());
    let _running = device.spawn();
    cache.attach_to(function.iommu()).unwrap();
    let nic = Nic::open(function, Config { queues: 2, rx_ring: 512, ..Config::default() }).unwrap();
    nic.wait_for_link(Duration::from_secs(5)).unwrap();
    let mut owners: Vec<_> = (0..2).map(|_| (nic.tx_queue::<Hold>().unwrap(), nic.rx_queue().unwrap())).collect();
    let (taken, posted, arrived) = Default::default();
    let work = Work { file: &file, mac: nic.mac(), taken, posted, arrived };
    let parts: Vec<Vec<(usize, Vec<u8>)>> = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = owners.iter_mut().map(|(tx, rx)| scope.spawn(move || work.own(tx, rx))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    assert!(parts.iter().all(|parts| !parts.is_empty()), "both queues received some");
    let mut found = vec![0; contents.len()];
    let mut bytes = 0;
    for (offset, part) in parts.into_iter().flatten() {
        found[offset..offset + part.len()].copy_from_slice(&part);
        bytes += part.len();
    }
    assert_eq!(bytes, contents.len(), "each byte once");
    assert!(found == contents, "the file differs");
    let counted = nic.queue_statistics();
    assert!(counted.iter().all(|queue| queue.tx_frames > 0 && queue.rx_frames > 0), "{counted:?}");
}
