//! Nothing is released before the device is proved quiet.
#![allow(missing_docs)]
#![allow(clippy::single_range_in_vec_init, reason = "one piece of payload")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Memory, Rig, Token, udp_header};
use stillwire_dma::PciFunction;
use stillwire_driver::{Config, Error, Frame, Nic, Offload, Posted, TxQueue};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{Doorbells, Faults, LocalDevice, ixgbe};

/// What was true of the device each time a token was dropped: bus mastering, and master enable in STATUS.
type Seen = Arc<Mutex<Vec<(bool, bool)>>>;

/// A NIC whose transmit is stalled, with five frames in flight; the tokens look at the device when they are dropped.
fn stalled(doorbells: Doorbells, faults: Faults) -> (Rig, TxQueue<Token>, Seen) {
    let rig = Rig::with(ixgbe::Config { doorbells, ..Default::default() }, Config::default());
    let mut tx = rig.live(|nic| nic.tx_queue::<Token>().unwrap());
    rig.device.with_model(|model| *model.faults() = faults);
    let memory = Memory::new(&rig.function, &[5; 4096]);
    let seen = Seen::default();
    for _ in 0..5 {
        let (device, seen) = (rig.device.clone(), seen.clone());
        let mut token = Token::new(&memory, vec![0..1000]);
        token.on_drop = Some(Arc::new(Mutex::new(move || seen.lock().unwrap().push(look(&device)))));
        let header = udp_header(&rig, 1000);
        let posted = tx.post(Frame::new(&header).offload(Offload::UDP_V4).payload(token)).unwrap();
        assert!(matches!(posted, Posted::Queued));
    }
    tx.publish();
    rig.settle();
    assert_eq!(tx.reclaim(drop), 0, "transmit is stalled");
    (rig, tx, seen)
}

fn look(device: &LocalDevice) -> (bool, bool) {
    device.with_model(|model| {
        let mut command = [0; 2];
        model.config_read(4, &mut command);
        let mut status = [0; 4];
        model.bar_read(0, 8, &mut status);
        (command[0] & 4 != 0, u32::from_le_bytes(status) & 1 << 19 != 0)
    })
}

/// After the tokens are gone the device is let off its leash: it must read nothing more.
fn assert_reads_no_more(rig: &Rig) {
    let before = rig.device.with_model(|model| {
        *model.faults() = Faults::default();
        model.counters()
    });
    rig.advance(Duration::from_secs(1));
    let after = rig.device.with_model(|model| model.counters());
    assert_eq!((before.dma_reads, before.frames_sent), (after.dma_reads, after.frames_sent));
}

#[test]
fn dropping_the_queue_with_frames_in_flight_waits_for_the_proof() {
    for doorbells in [Doorbells::Mapped, Doorbells::Messages] {
        let (rig, tx, seen) = stalled(doorbells, Faults { stall_tx: true, ..Faults::default() });
        assert_eq!(look(&rig.device), (true, true));
        drop(tx);
        // The model keeps the requests of a stalled transmit pending, so master disable is not acknowledged either:
        // what is left as proof is the bus.
        assert_eq!(*seen.lock().unwrap(), [(false, true); 5], "{doorbells:?}: bus mastering, master enable");
        assert_reads_no_more(&rig);
    }
}

#[test]
fn dropping_the_nic_first_gives_nothing_back_until_the_queue_goes() {
    let (rig, tx, seen) = stalled(Doorbells::Mapped, Faults { stall_tx: true, ..Faults::default() });
    let Rig { nic, device, .. } = rig;
    drop(nic);
    assert!(seen.lock().unwrap().is_empty(), "the tokens are the queue's");
    assert!(!look(&device).0, "the device is quiet all the same");
    drop(tx);
    assert_eq!(*seen.lock().unwrap(), [(false, true); 5]);
}

#[test]
fn a_device_that_does_not_acknowledge_is_cut_off_from_the_bus() {
    let faults = Faults { stall_tx: true, stuck_tx_disable: true, stuck_master: true, ..Faults::default() };
    for doorbells in [Doorbells::Mapped, Doorbells::Messages] {
        let (rig, tx, seen) = stalled(doorbells, faults.clone());
        drop(tx);
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 5);
        assert!(seen.iter().all(|(bus_master, _)| !bus_master), "{doorbells:?}: {seen:?}");
        drop(seen);
        assert_reads_no_more(&rig);
    }
}

#[test]
fn without_proof_nothing_is_ever_released() {
    let (rig, tx, seen) = stalled(Doorbells::Mapped, Faults { stall_tx: true, all_ones: true, ..Faults::default() });
    match tx.stop(|_| panic!("a token came back")) {
        Err(error @ Error::NotQuiet { kept: 5, .. }) => assert!(error.to_string().contains("5 buffers"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(seen.lock().unwrap().is_empty());
    assert!(matches!(rig.nic.link(), Err(Error::Gone { .. })));
}

#[test]
fn stop_hands_the_tokens_back_in_order() {
    let (_rig, tx, seen) = stalled(Doorbells::Mapped, Faults { stall_tx: true, ..Faults::default() });
    let mut back = Vec::new();
    tx.stop(|token| back.push(token)).unwrap();
    assert_eq!((back.len(), seen.lock().unwrap().len()), (5, 0));
}

#[test]
fn a_panic_on_the_way_releases_nothing_early() {
    let (rig, tx, seen) = stalled(Doorbells::Mapped, Faults { stall_tx: true, ..Faults::default() });
    let thread = std::thread::spawn(move || {
        let _tx = tx;
        panic!("a bug in somebody's program");
    });
    assert!(thread.join().is_err());
    assert_eq!(*seen.lock().unwrap(), [(false, true); 5]);
    assert_reads_no_more(&rig);
}

#[test]
fn a_healthy_device_acknowledges_before_the_bus_is_shut() {
    // Slow rather than stalled: the frames are fetched and wait for their transmit pass.
    let slow = ixgbe::Config { transmit_delay: Duration::from_secs(3), ..Default::default() };
    let rig = Rig::with(slow, Config::default());
    let mut tx = rig.live(|nic| nic.tx_queue::<Token>().unwrap());
    let memory = Memory::new(&rig.function, &[5; 4096]);
    let dropped = Arc::new(AtomicUsize::new(0));
    let token = Token::new(&memory, vec![0..1000]).counted(&dropped);
    let header = udp_header(&rig, 1000);
    assert!(matches!(tx.post(Frame::new(&header).offload(Offload::UDP_V4).payload(token)).unwrap(), Posted::Queued));
    tx.publish();
    rig.settle();
    assert_eq!((tx.reclaim(drop), dropped.load(Ordering::SeqCst)), (0, 0));
    rig.advance(Duration::from_secs(3));
    assert_eq!(tx.reclaim(drop), 3);
    drop(tx);
    assert_eq!(look(&rig.device), (false, false), "bus mastering, master enable");
}

#[test]
fn a_stopped_nic_gives_no_queues_and_can_be_opened_again() {
    let rig = Rig::new();
    rig.live(|nic| {
        nic.stop().unwrap();
        assert!(matches!(nic.tx_queue::<Token>(), Err(Error::Stopped { .. })));
    });
    let Rig { device, function, nic, .. } = rig;
    let _running = device.spawn();
    // Two drivers of one device would ring each other's doorbells.
    let second = Nic::open(function.clone(), Config::default()).map(|_| ()).unwrap_err().to_string();
    assert!(second.contains("in use by a driver"), "{second}");
    drop(nic);
    {
        let again = Nic::open(function, Config::default()).unwrap();
        let mut tx = again.tx_queue::<()>().unwrap();
        assert!(matches!(again.tx_queue::<()>(), Err(Error::QueueTaken { queue: "transmit", .. })));
        assert!(matches!(tx.post(Frame::new(&[0xff; 60])).unwrap(), Posted::Queued));
        tx.publish();
        let start = std::time::Instant::now();
        while tx.reclaim(drop) == 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "the second life of the device sends nothing");
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let open = |model: ixgbe::Config, config: Config, faults: Faults| {
        let device = LocalDevice::new(ixgbe::Model::new(model, Box::new(Loopback::new())));
        device.with_model(|model| *model.faults() = faults);
        let _running = device.spawn();
        let opened = Nic::open(PciFunction::from_backend(device.clone()), config);
        opened.and_then(|nic| nic.wait_for_link(Duration::from_millis(50)).map(|_| ())).unwrap_err().to_string()
    };
    let good = ixgbe::Config::default;
    let fine = Faults::default;
    let other = open(ixgbe::Config { device_id: 0x1572, ..good() }, Config::default(), fine());
    assert!(other.contains("8086:1572"), "{other}");
    let ring = open(good(), Config { tx_ring: 100, ..Config::default() }, fine());
    assert!(ring.contains("transmit ring is 100; a power of two"), "{ring}");
    let frame = open(good(), Config { max_frame: 9800, ..Config::default() }, fine());
    assert!(frame.contains("largest frame is 9800"), "{frame}");
    let gone = open(good(), Config::default(), Faults { all_ones: true, ..fine() });
    assert!(gone.contains("ffff:ffff") || gone.contains("no longer answers"), "{gone}");
    let down = open(good(), Config::default(), Faults { link_down: true, ..fine() });
    assert!(down.contains("no link after"), "{down}");
    let no_mac = open(ixgbe::Config { mac: [0; 6], ..good() }, Config::default(), fine());
    assert!(no_mac.contains("no valid MAC"), "{no_mac}");
}

/// A descriptor that was never shown to the device cannot be done, even if it says so.
#[test]
fn done_before_the_doorbell_is_not_believed() {
    use stillwire_emulator::BusMemory;
    let rig = Rig::new();
    let mut tx = rig.live(|nic| nic.tx_queue::<Token>().unwrap());
    let memory = Memory::new(&rig.function, &[5; 4096]);
    let dropped = Arc::new(AtomicUsize::new(0));
    let header = udp_header(&rig, 100);
    for _ in 0..40 {
        let token = Token::new(&memory, vec![0..100]).counted(&dropped);
        assert!(matches!(tx.post(Frame::new(&header).payload(token)).unwrap(), Posted::Queued));
    }
    let registers = rig.registers();
    let ring = u64::from(registers.read(0x6000)) | u64::from(registers.read(0x6004)) << 32;
    for index in 0..80 {
        let [_, word] = rig.tx_descriptor(index);
        rig.device.memory().store_u64(ring + index * 16 + 8, word | 1 << 32).unwrap();
    }
    assert_eq!((tx.reclaim(drop), dropped.load(Ordering::SeqCst)), (0, 0));
}

/// Whatever is written into the rings, the driver neither panics nor loops.
#[test]
fn rubbish_in_the_rings_is_survived() {
    use stillwire_emulator::BusMemory;
    let rig = Rig::new();
    let (mut tx, mut rx) = rig.live(|nic| (nic.tx_queue::<Token>().unwrap(), nic.rx_queue().unwrap()));
    let memory = Memory::new(&rig.function, &[5; 4096]);
    let dropped = Arc::new(AtomicUsize::new(0));
    let registers = rig.registers();
    let base = |at| u64::from(registers.read(at)) | u64::from(registers.read(at + 4)) << 32;
    let (tx_ring, rx_ring) = (base(0x6000), base(0x1000));
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut frames = 0;
    for round in 0..2000 {
        let token = Token::new(&memory, vec![0..100]).counted(&dropped);
        let _ = tx.post(Frame::new(&udp_header(&rig, 100)).payload(token)).unwrap();
        tx.publish();
        for _ in 0..8 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = ((random >> 20) % (1024 * 16)) & !7;
            let ring = if random & 1 == 0 { tx_ring } else { rx_ring };
            rig.device.memory().store_u64(ring + at, random.rotate_left(round % 64)).unwrap();
        }
        tx.reclaim(drop);
        frames += rx.poll(4096, |frame| assert!(frame.len() <= 8 * 2048));
    }
    assert!(frames + rx.dropped() as usize > 0, "the test wrote nothing that looked like a frame");
    drop(tx);
    assert!(dropped.load(Ordering::SeqCst) <= 2000);
}
