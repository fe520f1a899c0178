//! The E810's driver on its model: frames out of a ring, over a loopback, into a ring; safe mode; the stop, and devices that
//! misbehave.
#![allow(missing_docs)]
#![allow(clippy::single_range_in_vec_init, reason = "one piece of payload")]

mod common;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::ice::{Rig, with_package};
use common::{Memory, Token};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use stillwire_driver::{Checksum, Config, Error, Filter, Frame, Mac, Nic, Offload, Posted, RxQueue, TxQueue};
use stillwire_emulator::ice::{self, Faults, Model};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{BusMemory, Doorbells, LocalDevice};

fn header_to(rig: &Rig, mac: [u8; 6], len: usize) -> Vec<u8> {
    let mut header = Vec::new();
    PacketBuilder::ethernet2(rig.nic.mac().0, mac)
        .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        .udp(4000, 4001)
        .write(&mut header, &vec![0; len])
        .unwrap();
    header.truncate(42);
    header[24..26].copy_from_slice(&[0xde, 0xad]);
    header[40..42].copy_from_slice(&[0xbe, 0xef]);
    header
}

/// Headers to ourselves for `len` bytes, with checksum fields full of rubbish.
fn header(rig: &Rig, len: usize) -> Vec<u8> {
    header_to(rig, rig.nic.mac().0, len)
}

fn queued<T>(posted: Posted<'_, T>) {
    assert!(matches!(posted, Posted::Queued), "the ring was full");
}

/// An independent check of all checksums.
fn assert_checksums(frame: &[u8]) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.calc_header_checksum(), header.header_checksum, "IPv4 header checksum");
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("not UDP") };
    let expect = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
    assert_eq!(udp.checksum(), expect, "UDP checksum");
}

#[test]
fn a_frame_arrives_whole_with_right_checksums() {
    let rig = Rig::new();
    let (mut tx, mut rx) = rig.queues();
    let bytes: Vec<u8> = (0..1400u32).map(|i| (i * 7) as u8).collect();
    let memory = Memory::new(&rig.function, &bytes);
    let dropped = Arc::new(AtomicUsize::new(0));
    let token = Token::new(&memory, vec![0..1000, 1000..1400]).counted(&dropped);
    queued(tx.post(Frame::new(&header(&rig, 1400)).offload(Offload::UDP_V4).payload(token)).unwrap());
    rig.settle();
    assert_eq!(rig.device.with_model(|model| model.counters().frames_sent), 0, "nothing goes before the doorbell");
    tx.publish();
    assert_eq!(tx.reclaim(drop), 0);
    rig.advance(Duration::from_millis(1));
    assert_eq!(dropped.load(Ordering::SeqCst), 0, "the ring keeps the token until it is reclaimed");
    assert_eq!(tx.reclaim(drop), 3, "header, two pieces");
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    let frames = rig.received(&mut rx);
    let [(frame, verdict)] = &frames[..] else { panic!("{} frames", frames.len()) };
    assert_eq!((frame.len(), &frame[42..]), (42 + 1400, &bytes[..]));
    assert_checksums(frame);
    assert_eq!((verdict.ip, verdict.transport), (Checksum::Good, Checksum::Good));
    let counted = rig.nic.statistics();
    assert_eq!((counted.tx_frames, counted.rx_frames), (1, 1));
    assert_eq!((counted.tx_bytes, counted.rx_bytes), (1446, 1446), "with check sequences");
    let queue = rig.nic.queue_statistics()[0];
    assert_eq!((queue.tx_frames, queue.tx_bytes, queue.rx_frames, queue.rx_bytes), (1, 1442, 1, 1442));
    rig.assert_no_complaints();
}

#[test]
fn safe_mode_sends_and_receives_and_offers_nothing() {
    let rig = Rig::with(ice::Config::default(), Config::default());
    let (mut tx, mut rx) = rig.queues();
    let able = rig.nic.capabilities();
    assert!(!able.tx_checksum && !able.rx_checksum && !able.vlan && able.max_segmented == 0);
    let bytes = header(&rig, 0);
    let frame = Frame::new(&bytes).offload(Offload::UDP_V4);
    let refused = tx.post(frame).map(drop).unwrap_err().to_string();
    assert!(refused.contains("none in safe mode, without a DDP package"), "{refused}");
    queued(tx.post(Frame::new(&bytes)).unwrap());
    tx.publish();
    rig.advance(Duration::from_millis(1));
    assert_eq!(tx.reclaim(drop), 1);
    let frames = rig.received(&mut rx);
    assert_eq!(frames[0].0[..42], bytes);
    assert_eq!(frames[0].1.transport, Checksum::Unknown);
    rig.assert_no_complaints();
}

#[test]
fn frames_of_every_length_go_round_both_rings() {
    let rig = Rig::with(with_package(), Config { tx_ring: 64, rx_ring: 64, max_frame: 9014, ..Config::default() });
    let (mut tx, mut rx) = rig.queues();
    let bytes: Vec<u8> = (0..8972u32).map(|i| (i / 3) as u8).collect();
    let memory = Memory::new(&rig.function, &bytes);
    // Round and round both rings, several buffers a frame, and never the whole receive ring lost.
    for round in 0..300 {
        let len = [1, 100, 2006, 2007, 5000, 8972][round % 6];
        let token = Token::new(&memory, vec![0..len]);
        queued(tx.post(Frame::new(&header(&rig, len)).offload(Offload::UDP_V4).payload(token)).unwrap());
        tx.publish();
        rig.advance(Duration::from_millis(1));
        assert!(tx.reclaim(drop) > 0, "round {round}");
        let frames = rig.received(&mut rx);
        assert_eq!(frames.len(), 1, "round {round}");
        assert_eq!(frames[0].0[42..42 + len], bytes[..len], "round {round}");
    }
    assert_eq!(rig.nic.statistics().rx_missed, 0);
    rig.assert_no_complaints();
}

#[test]
fn what_a_malicious_driver_would_do_is_refused() {
    let rig = Rig::new();
    let (mut tx, _rx) = rig.queues();
    let memory = Memory::new(&rig.function, &[1; 66_000]);
    let header = header(&rig, 0);
    let mut refused = |header: &[u8], offload: Option<Offload>, pieces: Vec<std::ops::Range<usize>>| {
        let frame = Frame::new(header).payload(Token::new(&memory, pieces));
        let frame = if let Some(offload) = offload { frame.offload(offload) } else { frame };
        match tx.post(frame) {
            Err(error @ Error::Frame { .. }) => error.to_string(),
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    let ones = |count: usize| (0..count).map(|at| at..at + 1).collect::<Vec<_>>();
    assert!(refused(&[0; 13], None, vec![]).contains("at least an Ethernet header"));
    assert!(refused(&[0; 16], None, vec![]).contains("frame bytes (at least) is 16, the limit is 17"));
    assert!(refused(&[0; 257], None, vec![]).contains("header bytes is 257"));
    assert!(refused(&[0; 42], None, vec![0..1473]).contains("frame bytes is 1515, the limit is 1514"));
    assert!(refused(&header, None, ones(8)).contains("buffers of one frame on the wire is 9, the limit is 8"));
    let cut = Offload::UDP_V4.segmented(100);
    let narrow: Vec<_> = (0..50).map(|at| at * 13..at * 13 + 13).collect();
    assert!(refused(&header, Some(cut), narrow).contains("buffers of one frame on the wire is 9"));
    assert!(refused(&header, Some(cut), ones(61)).contains("payload pieces is 61, the limit is 60"));
    let odd = Offload { ip_len: 22, ..Offload::UDP_V4 };
    assert!(refused(&[0; 60], Some(odd), vec![]).contains("IP header (a multiple of 4 bytes) is 22"));
    assert_eq!(tx.free(), 1023, "a refused frame leaves no descriptor behind");
    // The most that may be.
    let token = Token::new(&memory, ones(7));
    queued(tx.post(Frame::new(&header).offload(Offload::UDP_V4).payload(token)).unwrap());
    let token = Token::new(&memory, vec![0..65_000]);
    queued(tx.post(Frame::new(&header).offload(Offload::UDP_V4.segmented(1472)).payload(token)).unwrap());
    tx.publish();
    rig.advance(Duration::from_millis(1));
    assert!(tx.reclaim(drop) > 0 && tx.in_flight() == 0);
    rig.assert_no_complaints();
}

#[test]
fn filters_change_what_arrives() {
    let rig = Rig::new();
    let (mut tx, mut rx) = rig.queues();
    let (other, group, stranger) = ([2, 0, 0, 0, 0, 9], [1, 0, 0x5e, 0, 0, 9], [2, 0, 0, 0, 0, 10]);
    let mut arrive = |filter: Filter| {
        rig.live(|nic| nic.set_filter(&filter)).unwrap();
        [rig.nic.mac().0, [0xff; 6], other, group, stranger].map(|mac| {
            queued(tx.post(Frame::new(&header_to(&rig, mac, 0))).unwrap());
            tx.publish();
            rig.advance(Duration::from_millis(1));
            tx.reclaim(drop);
            rig.received(&mut rx).len()
        })
    };
    assert_eq!(arrive(Filter::default()), [1, 1, 0, 0, 0]);
    let named = Filter { addresses: vec![Mac(other)], groups: vec![Mac(group)], ..Filter::default() };
    assert_eq!(arrive(named), [1, 1, 1, 1, 0]);
    assert_eq!(arrive(Filter { all_groups: true, ..Filter::default() }), [1, 1, 0, 1, 0]);
    assert_eq!(arrive(Filter { promiscuous: true, ..Filter::default() }), [1; 5]);
    assert_eq!(arrive(Filter::default()), [1, 1, 0, 0, 0]);
}

#[test]
fn links_come_and_go() {
    let rig = Rig::new();
    let link = || rig.live(|nic| nic.link()).unwrap();
    assert_eq!((link().up, link().megabits), (true, 100_000));
    rig.device.with_model(|model| model.faults().link_down = true);
    rig.settle();
    assert!(!link().up);
    rig.device.with_model(|model| model.faults().link_down = false);
    rig.settle();
    assert!(link().up);
}

#[test]
fn tags_are_put_in_and_taken_off() {
    for strip in [false, true] {
        let rig = Rig::with(with_package(), Config { vlan_strip: strip, ..Config::default() });
        let (mut tx, mut rx) = rig.queues();
        let header = header(&rig, 0);
        for offload in [Offload::UDP_V4.tagged(0x6007), Offload::UDP_V4] {
            queued(tx.post(Frame::new(&header).offload(offload)).unwrap());
        }
        tx.publish();
        rig.advance(Duration::from_millis(1));
        let mut found = Vec::new();
        rx.poll(32, |frame| {
            let mut kind = [0; 2];
            frame.read_at(12, &mut kind);
            found.push((frame.vlan(), kind));
        });
        let ip = [8, 0];
        let expected = if strip { [(Some(0x6007), ip), (None, ip)] } else { [(None, [0x81, 0]), (None, ip)] };
        assert_eq!(found, expected);
        rig.assert_no_complaints();
    }
}

/// Every frame of every queue arrives once, and a flow always on the same queue.
#[test]
fn flows_are_spread_and_stay_where_they_are() {
    let rig = Rig::with(with_package(), Config { queues: 10, tx_ring: 64, ..Config::default() });
    let (mut tx, mut rx) = rig.live(|nic| -> (Vec<TxQueue<Token>>, Vec<RxQueue>) {
        let tx = (0..10).map(|_| nic.tx_queue().unwrap()).collect();
        (tx, (0..10).map(|_| nic.rx_queue().unwrap()).collect())
    });
    let mut found: HashMap<u16, Vec<usize>> = HashMap::new();
    for round in 0..4 {
        for flow in 0..100u16 {
            let queue = &mut tx[usize::from(flow + round) % 10];
            let mut header = header(&rig, 0);
            header[34..36].copy_from_slice(&flow.to_be_bytes());
            queued(queue.post(Frame::new(&header).offload(Offload::UDP_V4)).unwrap());
            queue.publish();
            rig.advance(Duration::from_millis(1));
            assert_eq!(queue.reclaim(drop), 1);
        }
        for queue in &mut rx {
            let index = queue.index();
            queue.poll(1000, |frame| {
                let mut port = [0; 2];
                frame.read_at(34, &mut port);
                found.entry(u16::from_be_bytes(port)).or_default().push(index);
            });
        }
    }
    assert_eq!(found.len(), 100);
    assert!(found.values().all(|queues| *queues == [queues[0]; 4]), "{found:?}");
    let used: HashSet<usize> = found.values().map(|queues| queues[0]).collect();
    assert!(used.len() > 5, "queues used: {used:?}");
    let sums = rig.nic.queue_statistics();
    assert_eq!(
        sums.iter().map(|queue| (queue.tx_frames, queue.rx_frames)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1)),
        (400, 400)
    );
    assert!(sums.iter().all(|queue| queue.tx_frames == 40), "{sums:?}");
    rig.assert_no_complaints();
}

/// What the model shows when a token comes back: whether the bus is open, and how much it has read.
type Seen = Arc<Mutex<Vec<bool>>>;

/// Five frames that the device has fetched and cannot send.
fn stalled(doorbells: Doorbells, faults: Faults) -> (Rig, TxQueue<Token>, Seen) {
    let rig = Rig::with(ice::Config { doorbells, ..with_package() }, Config { tx_ring: 64, ..Config::default() });
    let (mut tx, rx) = rig.queues();
    // Dropping a queue stops the device; this one stays.
    std::mem::forget(rx);
    rig.device.with_model(|model| *model.faults() = Faults { stall_tx: true, ..faults });
    let memory = Memory::new(&rig.function, &[5; 4096]);
    let seen: Seen = Arc::default();
    for _ in 0..5 {
        let mut token = Token::new(&memory, vec![0..1000]);
        let (device, seen) = (rig.device.clone(), seen.clone());
        token.on_drop = Some(Arc::new(Mutex::new(move || {
            let mut command = [0; 2];
            device.with_model(|model| model.config_read(4, &mut command));
            seen.lock().unwrap().push(command[0] & 4 != 0);
        })));
        queued(tx.post(Frame::new(&header(&rig, 1000)).offload(Offload::UDP_V4).payload(token)).unwrap());
    }
    tx.publish();
    rig.settle();
    assert_eq!(tx.reclaim(drop), 0);
    (rig, tx, seen)
}

#[test]
fn tokens_come_back_behind_the_proof() {
    for (doorbells, cases) in [(Doorbells::Mapped, 5), (Doorbells::Messages, 2)] {
        let faults = [
            Faults::default(),
            Faults { stuck_tx_disable: true, ..Faults::default() },
            Faults { silent_adminq: true, ..Faults::default() },
            Faults { garbage_adminq: true, ..Faults::default() },
            Faults { stuck_tx_disable: true, stuck_reset: true, stuck_rx: true, ..Faults::default() },
        ];
        for faults in faults.into_iter().take(cases) {
            let (rig, tx, seen) = stalled(doorbells, faults.clone());
            let running = rig.device.spawn();
            let mut back = Vec::new();
            tx.stop(|token| back.push(token)).unwrap();
            drop(running);
            assert_eq!((back.len(), seen.lock().unwrap().len()), (5, 0), "{faults:?}");
            drop(back);
            assert_eq!(*seen.lock().unwrap(), [false; 5], "{doorbells:?}, {faults:?}: bus mastering");
            // Off its leash, the device reads nothing more.
            let before = rig.device.with_model(|model| {
                *model.faults() = Faults::default();
                model.counters()
            });
            rig.advance(Duration::from_secs(1));
            let after = rig.device.with_model(|model| model.counters());
            assert_eq!((before.dma_reads, before.frames_sent), (after.dma_reads, after.frames_sent));
        }
    }
}

#[test]
fn without_proof_nothing_is_ever_released() {
    let (rig, tx, seen) = stalled(Doorbells::Mapped, Faults { all_ones: true, ..Faults::default() });
    match rig.live(|_| tx.stop(|_| panic!("a token came back"))) {
        Err(error @ Error::NotQuiet { kept: 5, .. }) => assert!(error.to_string().contains("5 buffers"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(seen.lock().unwrap().is_empty());
    assert!(matches!(rig.nic.link(), Err(Error::Gone { .. })));
}

#[test]
fn what_cannot_be_opened_says_why() {
    let open = |model: ice::Config, faults: Faults| {
        let device = LocalDevice::new(Model::new(model, Box::new(Loopback::new())).unwrap());
        device.with_model(|model| *model.faults() = faults);
        let _running = device.spawn();
        let function = stillwire_dma::PciFunction::from_backend(device.clone());
        let opened = Nic::open(function, Config::default());
        opened.and_then(|nic| nic.wait_for_link(Duration::from_millis(50)).map(|_| ())).unwrap_err().to_string()
    };
    let fine = Faults::default;
    let gone = open(with_package(), Faults { all_ones: true, ..fine() });
    assert!(gone.contains("ffff:ffff") || gone.contains("no longer answers"), "{gone}");
    let down = open(with_package(), Faults { link_down: true, ..fine() });
    assert!(down.contains("no link after"), "{down}");
    let stuck = open(with_package(), Faults { stuck_reset: true, ..fine() });
    assert!(stuck.contains("PFGEN_CTRL"), "{stuck}");
    let silent = open(with_package(), Faults { silent_adminq: true, ..fine() });
    assert!(silent.contains("was told get version and did not answer"), "{silent}");
    let garbage = open(with_package(), Faults { garbage_adminq: true, ..fine() });
    assert!(garbage.contains("answer to get version (0x0001)"), "{garbage}");
    let refused = open(with_package(), Faults { refuse_command: Some((0x0210, 16)), ..fine() });
    assert!(refused.contains("was told add VSI and refused it (0x0210) with code 16: ENOSPC"), "{refused}");
    let no_mac = open(ice::Config { mac: [0; 6], ..with_package() }, fine());
    assert!(no_mac.contains("no valid MAC"), "{no_mac}");
}

/// Whatever is written into the rings, the driver neither panics nor loops.
#[test]
fn rubbish_in_the_rings_is_survived() {
    let rig = Rig::new();
    let (mut tx, mut rx) = rig.queues();
    let memory = Memory::new(&rig.function, &[5; 4096]);
    let dropped = Arc::new(AtomicUsize::new(0));
    // The receive ring's place is in its context; the transmit ring's is where the device reads, found by its first frame.
    let registers = rig.function.registers(0, 0x48_2000).unwrap();
    let context = |word: u32| u64::from(registers.read(0x28_0000 + 0x2000 * word));
    let rx_ring = (context(1) | (context(2) & 0x1ff_ffff) << 32) << 7;
    assert_ne!(rig.word(rx_ring), 0, "a buffer is named there");
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut frames = 0;
    for round in 0..2000 {
        let token = Token::new(&memory, vec![0..100]).counted(&dropped);
        let _ = tx.post(Frame::new(&header(&rig, 100)).payload(token)).unwrap();
        tx.publish();
        for _ in 0..8 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = ((random >> 20) % (1024 * 32)) & !7;
            rig.device.memory().store_u64(rx_ring + at, random.rotate_left(round % 64)).unwrap();
        }
        tx.reclaim(drop);
        frames += rx.poll(4096, |frame| assert!(frame.len() <= 5 * 2048));
    }
    assert!(frames + rx.dropped() as usize > 0, "the test wrote nothing that looked like a frame");
    rig.live(|_| drop(tx));
    assert!(dropped.load(Ordering::SeqCst) <= 2000);
}
