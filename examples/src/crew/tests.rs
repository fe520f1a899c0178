//! An owner on a device that stands still.

use std::time::Instant;

use stillwire_dma::PciFunction;
use stillwire_driver::{Config, Nic};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{LocalDevice, ixgbe};
use stillwire_filecache::Cache;

use super::*;
use crate::segmented::RunOf;

const RUN: u64 = 64 << 10;
const LEN: u64 = 8 * RUN;

struct Bench {
    device: Arc<LocalDevice<ixgbe::Model>>,
    crew: Crew,
    cache: Cache,
    _first: TxQueue<Cargo>,
    nic: Nic,
    _running: stillwire_emulator::Running,
    _folder: tempfile::TempDir,
}

/// One owner, on the second of two queues; frames of so many bytes of the file.
fn bench(payload: u32) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, vec![7; LEN as usize]).unwrap();
    let cache = Cache::new(stillwire_filecache::Config { bytes: 4 << 20, ..Default::default() }).unwrap();
    let device = LocalDevice::new(ixgbe::Model::new(ixgbe::Config::default(), Box::new(Loopback::new())));
    let function = PciFunction::from_backend(device.clone());
    let running = device.spawn();
    cache.attach_to(function.iommu()).unwrap();
    let nic = Nic::open(function, Config { queues: 2, ..Config::default() }).unwrap();
    let end = Endpoint { mac: nic.mac(), address: "192.0.2.1:1".parse().unwrap() };
    let work = Work {
        source: Source::Cached(cache.open(&path).unwrap()),
        from: end,
        to: end,
        payload,
        segment: None,
        offload: Some(Offload::UDP_V4),
        deadline: DEADLINE,
        cores: Vec::new(),
    };
    let mut crew = Crew::hire(&work, 1, 1023).unwrap();
    let first = nic.tx_queue().unwrap();
    crew.equip(vec![nic.tx_queue().unwrap()]).unwrap();
    nic.wait_for_link(DEADLINE).unwrap();
    Bench { device, crew, cache, _first: first, nic, _running: running, _folder: folder }
}

fn job(number: u64) -> Job {
    let of = RunOf { transfer: 1, file_size: LEN };
    Job { of, range: number * RUN..(number + 1) * RUN, in_runs: false }
}

fn wait_for(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < DEADLINE, "{what}: not in time");
        std::thread::yield_now();
    }
}

const DEADLINE: Duration = Duration::from_secs(60);

/// Every byte that was given is in the ring or comes back, and none is twice.
#[test]
fn what_was_given_is_in_the_ring_or_comes_back() {
    // So small frames that no ring has room for a run: the first job is posted in part, the second not at all.
    let mut bench = bench(17);
    let Bench { device, crew, cache, nic, .. } = &mut bench;
    device.with_model(|model| model.faults().stall_tx = true);
    assert!(crew.takes(1) && crew.is_idle());
    crew.give(1, job(0)).unwrap();
    crew.give(1, job(1)).unwrap();
    assert!(!crew.takes(1), "two are enough");
    let mark = crew.mark();
    wait_for("a full ring", || crew.seen(1).level.in_flight > 900);
    assert!(!crew.has_passed(&mark) && !crew.is_idle());
    let mut parts = Vec::new();
    let queues = crew.recall(|range| parts.push(range)).unwrap();
    assert_eq!(parts.len(), 2, "the rest of the first, and the second: {parts:?}");
    assert!(crew.has_passed(&mark), "nobody waits for what came back");
    assert!(!crew.takes(1), "without a queue");
    let mut in_ring = 0;
    nic.stop().unwrap();
    for queue in queues {
        queue
            .stop(|cargo| {
                in_ring += 1;
                parts.extend(cargo.file_range());
            })
            .unwrap();
    }
    assert!(in_ring > 0);
    parts.sort_by_key(|part| part.start);
    let ends = parts.iter().fold(0, |end, part| {
        assert_eq!(part.start, end, "{parts:?}");
        part.end
    });
    assert_eq!((ends, cache.held().pages), (2 * RUN, 0));
}

/// A mark is passed when the NIC has read what was given before it, and not earlier.
#[test]
fn a_mark_is_passed_behind_the_nic() {
    let mut bench = bench(1428);
    let Bench { device, crew, .. } = &mut bench;
    device.with_model(|model| model.faults().stall_tx = true);
    crew.give(1, job(0)).unwrap();
    let mark = crew.mark();
    wait_for("the job to be posted", || crew.members[0].gauges.posted.load(Ordering::Acquire) == 1);
    let turns = crew.seen(1).turns;
    wait_for("the owner to look again", || crew.seen(1).turns > turns + 2);
    assert!(!crew.has_passed(&mark));
    device.with_model(|model| model.faults().stall_tx = false);
    wait_for("the NIC to read it", || crew.has_passed(&mark));
    assert!(crew.seen(1).level.in_flight == 0 && crew.seen(1).completed > 0);
}

/// What an owner finds is heard, and ends nothing but its work: its queue comes back.
#[test]
fn an_owner_that_fails_says_so() {
    let mut bench = bench(1428);
    let crew = &mut bench.crew;
    crew.check().unwrap();
    // The file is not that long any more.
    let of = RunOf { transfer: 1, file_size: LEN + 1 };
    crew.give(1, Job { of, ..job(0) }).unwrap();
    let mut found = None;
    wait_for("the error", || {
        found = crew.check().err();
        found.is_some()
    });
    assert!(matches!(found, Some(Error::Cache(stillwire_filecache::Error::Shrunk { .. }))), "{found:?}");
    assert_eq!(crew.recall(drop).unwrap().len(), 1);
}

/// An owner that is gone is told of, and nobody waits for it.
#[test]
fn an_owner_that_is_gone_is_an_error() {
    let mut bench = bench(1428);
    let mut queues = bench.crew.recall(drop).unwrap();
    let (orders, _) = sync_channel(1);
    let old = bench.crew.members[0].orders.replace(orders);
    drop(old);
    bench.crew.members[0].thread.take().unwrap().join().unwrap();
    assert!(matches!(bench.crew.equip(queues.split_off(0)), Err(Error::Owner { queue: 1, .. })));
    assert!(matches!(bench.crew.recall(drop), Err(Error::Owner { queue: 1, .. })));
}
