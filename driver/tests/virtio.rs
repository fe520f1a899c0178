//! Frames over the model of virtio-net, written from the same standard by somebody else.
#![allow(missing_docs)]
#![allow(clippy::single_range_in_vec_init, reason = "one piece of payload")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::virtio::{Rig, assert_checksums, header, rings, without};
use common::{Memory, Token};
use proptest::prelude::*;
use stillwire_driver::{Checksum, Config, Error, Frame, Ip, Nic, Offload, Posted, Transport};
use stillwire_emulator::virtio::{self, Features};

const OFFLOADS: [Offload; 4] = [Offload::UDP_V4, Offload::TCP_V4, Offload::UDP_V6, Offload::TCP_V6];

fn queued<T>(posted: Posted<'_, T>) {
    assert!(matches!(posted, Posted::Queued), "the ring was full");
}

#[test]
fn a_frame_arrives_whole_with_right_checksums() {
    let rig = Rig::new();
    let (mut tx, mut rx) = (rig.nic.tx_queue::<Token>().unwrap(), rig.nic.rx_queue().unwrap());
    let bytes: Vec<u8> = (0..1400u32).map(|i| (i * 7) as u8).collect();
    let memory = Memory::new(&rig.function, &bytes);
    let dropped = Arc::new(AtomicUsize::new(0));
    let token = Token::new(&memory, vec![0..1000, 1000..1400]).counted(&dropped);
    let header = header(&rig, Offload::UDP_V4, bytes.len());
    queued(tx.post(Frame::new(&header).offload(Offload::UDP_V4).payload(token)).unwrap());
    rig.settle();
    assert_eq!(rig.device.with_model(|model| model.counters().frames_sent), 0, "nothing goes before the doorbell");
    tx.publish();
    assert_eq!(tx.reclaim(drop), 0);
    rig.settle();
    assert_eq!(dropped.load(Ordering::SeqCst), 0, "the ring keeps the token until it is reclaimed");
    assert_eq!(tx.reclaim(drop), 3, "header and two pieces");
    assert_eq!(dropped.load(Ordering::SeqCst), 1);

    let frames = rig.received(&mut rx);
    assert_eq!(frames.len(), 1);
    let (frame, verdict) = &frames[0];
    assert_eq!(frame.len(), 42 + 1400);
    assert_eq!(frame[42..], bytes);
    assert_checksums(frame);
    assert_eq!(verdict.transport, Checksum::Good);
    let counted = rig.nic.statistics();
    assert_eq!((counted.tx_frames, counted.rx_frames), (1, 1));
    assert_eq!((counted.tx_bytes, counted.rx_bytes), (1446, 1446), "with check sequences");
}

/// All kinds of rings, each with all that changes what is said around a frame.
fn models() -> Vec<virtio::Config> {
    let doorbells = stillwire_emulator::Doorbells::Messages;
    let lacks = |ring: &virtio::Config, features| virtio::Config { features: ring.features - features, ..ring.clone() };
    let each = |ring: virtio::Config| {
        [
            virtio::Config { doorbells, ..ring.clone() },
            virtio::Config { out_of_order: true, ..ring.clone() },
            virtio::Config { partial_checksums: true, ..ring.clone() },
            virtio::Config { queue_size: 16, ..ring.clone() },
            lacks(&ring, Features::EVENT_IDX),
            lacks(&ring, Features::MRG_RXBUF),
            lacks(&ring, Features::GUEST_CSUM | Features::STATUS | Features::MTU | CONTROL),
            ring,
        ]
    };
    rings().into_iter().flat_map(each).collect()
}

/// The control queue and what needs it.
const CONTROL: Features = Features::CTRL_VQ.union(Features::CTRL_RX).union(Features::CTRL_MAC_ADDR).union(Features::MQ);

#[test]
fn frames_of_all_sizes_arrive_in_order_on_every_model() {
    for model in models() {
        let partial = model.partial_checksums;
        let rig = Rig::with(model, Config::default());
        let (mut tx, mut rx) = (rig.nic.tx_queue::<Token>().unwrap(), rig.nic.rx_queue().unwrap());
        let bytes: Vec<u8> = (0..1460u32).map(|i| (i * 13 + i / 256) as u8).collect();
        let memory = Memory::new(&rig.function, &bytes);
        let mut expect = Vec::new();
        for len in 0..=1440 {
            let offload = OFFLOADS[len % 4];
            let header = header(&rig, offload, len);
            let cut = len / 3;
            let token = Token::new(&memory, vec![0..cut, cut..len]);
            queued(tx.post(Frame::new(&header).offload(offload).payload(token)).unwrap());
            expect.push((header, len));
            if expect.len() == 4 || len == 1440 {
                tx.publish();
                rig.settle();
                tx.reclaim(drop);
                assert_eq!(tx.in_flight(), 0);
                let frames = rig.received(&mut rx);
                assert_eq!(frames.len(), expect.len());
                for ((frame, verdict), (header, len)) in frames.iter().zip(expect.drain(..)) {
                    assert_eq!(verdict.transport == Checksum::Partial, partial);
                    assert_eq!(frame.len(), header.len() + len);
                    assert_eq!(frame[header.len()..], bytes[..len]);
                    if !partial {
                        assert_checksums(frame);
                    }
                }
            }
        }
        rig.assert_no_complaints();
    }
}

#[test]
fn jumbo_frames_lie_in_merged_buffers() {
    for model in rings() {
        let rig = Rig::with(
            virtio::Config { mtu: 9000, ..model },
            // Few buffers, so that frames lie around the ring's end.
            Config { max_frame: 9014, rx_ring: 64, ..Config::default() },
        );
        let (mut tx, mut rx) = (rig.nic.tx_queue::<Token>().unwrap(), rig.nic.rx_queue().unwrap());
        let bytes: Vec<u8> = (0..8972u32).map(|i| (i % 251) as u8).collect();
        let memory = Memory::new(&rig.function, &bytes);
        // Around what one, two, and all buffers hold.
        for len in [1990, 1993, 1994, 1995, 2000, 4041, 4042, 4043, 8972].repeat(20) {
            let header = header(&rig, Offload::UDP_V4, len);
            queued(
                tx.post(Frame::new(&header).offload(Offload::UDP_V4).payload(Token::new(&memory, vec![0..len])))
                    .unwrap(),
            );
            tx.publish();
            rig.settle();
            tx.reclaim(drop);
            let frames = rig.received(&mut rx);
            assert_eq!(frames.len(), 1, "{len}");
            assert_eq!(frames[0].0[42..], bytes[..len]);
            assert_checksums(&frames[0].0);
        }
        rig.assert_no_complaints();
    }
}

#[test]
fn frames_around_the_ring_many_times_and_runs_over_one_payload() {
    for model in models() {
        let rig = Rig::with(model, Config { tx_ring: 64, rx_ring: 64, ..Config::default() });
        let (mut tx, mut rx) = (rig.nic.tx_queue::<Token>().unwrap(), rig.nic.rx_queue().unwrap());
        let memory = Memory::new(&rig.function, &[9; 4096]);
        let dropped = Arc::new(AtomicUsize::new(0));
        let (mut sent, mut got) = (0, 0);
        for _ in 0..300 {
            let mut run = tx.run(Token::new(&memory, vec![0..2000, 2000..4096]).counted(&dropped));
            for range in [0..1000, 1000..2000, 1900..2100, 4095..4096] {
                let header = header(&rig, Offload::TCP_V4, range.len());
                sent += usize::from(run.post(&header, Some(Offload::TCP_V4), range).unwrap());
            }
            drop(run);
            tx.publish();
            rig.settle();
            got += rig.received(&mut rx).len();
            tx.reclaim(drop);
        }
        assert_eq!((got, tx.in_flight()), (sent, 0));
        assert_eq!((sent, dropped.load(Ordering::SeqCst)), (1200, 300));
    }
}

/// The rings' indices are 16 bits.
#[test]
fn indices_go_around() {
    let silent = |ring: virtio::Config| virtio::Config { features: ring.features - Features::EVENT_IDX, ..ring };
    for model in rings().into_iter().chain(rings().map(silent)) {
        let rig = Rig::with(model, Config::default());
        let (mut tx, mut rx) = (rig.nic.tx_queue::<()>().unwrap(), rig.nic.rx_queue().unwrap());
        let (mut sent, mut got) = (0, 0);
        while sent < 70_000 {
            // No divisor of the ring's size.
            for _ in 0..97 {
                sent += usize::from(matches!(tx.post(Frame::new(&[0xff; 60])).unwrap(), Posted::Queued));
            }
            tx.publish();
            rig.settle();
            got += rx.poll(1000, |frame| assert_eq!(frame.len(), 60));
            tx.reclaim(drop);
            rig.assert_no_complaints();
        }
        assert_eq!((sent, tx.in_flight()), (got, 0));
    }
}

#[test]
fn a_full_ring_gives_the_frame_back() {
    let rig = Rig::with(virtio::Config::default(), Config { tx_ring: 64, ..Config::default() });
    rig.device.with_model(|model| model.faults().stall_tx = true);
    let mut tx = rig.nic.tx_queue::<Token>().unwrap();
    let memory = Memory::new(&rig.function, &[1; 100]);
    let header = header(&rig, Offload::UDP_V4, 100);
    let mut posted = 0;
    let back = loop {
        let frame = Frame::new(&header).offload(Offload::UDP_V4).payload(Token::new(&memory, vec![0..100]));
        match tx.post(frame).unwrap() {
            Posted::Queued => posted += 1,
            Posted::Full(frame) => break frame.into_payload(),
        }
    };
    assert_eq!((posted, tx.free(), tx.in_flight()), (31, 1, 31));
    assert!(back.is_some());
    tx.publish();
    rig.settle();
    assert_eq!(tx.reclaim(drop), 0, "the device is stalled");
    rig.device.with_model(|model| model.faults().stall_tx = false);
    rig.settle();
    assert_eq!((tx.reclaim(drop), tx.free()), (62, 63));
}

#[test]
fn what_the_device_cannot_send_is_refused() {
    let rig = Rig::with(
        without(Features::CSUM | Features::HOST_TSO4 | Features::HOST_TSO6 | Features::HOST_USO),
        Config::default(),
    );
    assert!(!rig.nic.capabilities().tx_checksum);
    let (mut tx, mut rx) = (rig.nic.tx_queue::<()>().unwrap(), rig.nic.rx_queue().unwrap());
    let header = header(&rig, Offload::UDP_V4, 0);
    let error = tx.post(Frame::new(&header).offload(Offload::UDP_V4)).unwrap_err().to_string();
    assert!(error.contains("no CSUM"), "{error}");
    for (len, why) in [(13, "at least an Ethernet header"), (241, "the limit is 240")] {
        let error = tx.post(Frame::new(&vec![0; len])).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    // The sum of the IPv4 header is the driver's own.
    queued(tx.post(Frame::new(&header).offload(Offload { transport: None, ..Offload::UDP_V4 })).unwrap());
    tx.publish();
    rig.settle();
    let (frame, _) = rig.received(&mut rx).remove(0);
    let ip = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
    assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
}

#[test]
fn what_cannot_be_opened_says_why() {
    let open = |model: virtio::Config, config: Config| -> Result<(), Error> {
        Rig::open(model, config, virtio::Faults::default()).map(|_| ())
    };
    let refused = |model, config| open(model, config).unwrap_err().to_string();
    let said = refused(without(Features::ACCESS_PLATFORM), Config::default());
    assert!(said.contains("does not offer ACCESS_PLATFORM") && said.contains("iommu_platform=on"), "{said}");
    let said = refused(virtio::Config::default(), Config { max_frame: 1515, ..Config::default() });
    assert!(said.contains("largest frame is 1515; no more than the device's MTU"), "{said}");
    let said = refused(without(Features::MRG_RXBUF | Features::MTU), Config { max_frame: 2037, ..Config::default() });
    assert!(said.contains("cannot merge receive buffers"), "{said}");
    let said = refused(without(Features::MAC), Config::default());
    assert!(said.contains("no valid MAC"), "{said}");
    open(without(Features::MRG_RXBUF | Features::MTU), Config { max_frame: 2036, ..Config::default() }).unwrap();
}

#[test]
fn a_ring_is_no_larger_than_the_device_can() {
    let rig = Rig::with(virtio::Config { queue_size: 128, ..virtio::Config::default() }, Config::default());
    let capabilities = rig.nic.capabilities();
    assert_eq!((capabilities.tx_ring, capabilities.rx_ring), (128, 128));
    let tx = rig.nic.tx_queue::<()>().unwrap();
    assert_eq!(tx.free(), 127);
    assert!(matches!(rig.nic.tx_queue::<()>(), Err(Error::QueueTaken { queue: "transmit", .. })));
    let second = Nic::open(rig.function.clone(), Config::default()).map(|_| ()).unwrap_err().to_string();
    assert!(second.contains("in use by a driver"), "{second}");
    // The link is the device's word.
    rig.settle();
    assert!(rig.nic.link().unwrap().up);
    rig.device.with_model(|model| model.faults().link_down = true);
    rig.settle();
    assert!(!rig.nic.link().unwrap().up);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any header and payload, with options and tags, arrive as they were but for the sums, which are right.
    #[test]
    fn any_frame_arrives(v6: bool, tcp: bool, bytes in prop::collection::vec(any::<u8>(), 0..1400), cut: prop::sample::Index) {
        let rig = Rig::new();
        let (mut tx, mut rx) = (rig.nic.tx_queue::<Token>().unwrap(), rig.nic.rx_queue().unwrap());
        let offload = Offload {
            ip: if v6 { Ip::V6 } else { Ip::V4 },
            ip_len: if v6 { 40 } else { 20 },
            transport: Some(if tcp { Transport::Tcp } else { Transport::Udp }),
            ethernet_len: 14,
            segment: None,
            vlan: None,
        };
        let memory = Memory::new(&rig.function, &bytes);
        let header = header(&rig, offload, bytes.len());
        let cut = cut.index(bytes.len() + 1);
        let token = Token::new(&memory, vec![0..cut, cut..bytes.len()]);
        queued(tx.post(Frame::new(&header).offload(offload).payload(token)).unwrap());
        tx.publish();
        rig.settle();
        let frames = rig.received(&mut rx);
        prop_assert_eq!(frames.len(), 1);
        prop_assert_eq!(&frames[0].0[header.len()..], &bytes[..]);
        assert_checksums(&frames[0].0);
    }
}
