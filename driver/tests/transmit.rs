//! Frames out of a ring, over a loopback, into a ring.
#![allow(missing_docs)]
#![allow(clippy::single_range_in_vec_init, reason = "one piece of payload")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Memory, Rig, Token, tcp_header, udp_header};
use etherparse::{SlicedPacket, TransportSlice};
use proptest::prelude::*;
use stillwire_driver::{Checksum, Config, Error, Frame, Offload, Posted, TxQueue};
use stillwire_emulator::ixgbe;

const REPORT_STATUS: u64 = 1 << 27;
const END_OF_PACKET: u64 = 1 << 24;

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
    let (mut tx, mut rx) = rig.live(|nic| (nic.tx_queue::<Token>().unwrap(), nic.rx_queue().unwrap()));
    let bytes: Vec<u8> = (0..1400u32).map(|i| (i * 7) as u8).collect();
    let memory = Memory::new(&rig.function, &bytes);
    let header = udp_header(&rig, bytes.len());
    let dropped = Arc::new(AtomicUsize::new(0));
    let token = Token::new(&memory, vec![0..1000, 1000..1400]).counted(&dropped);
    queued(tx.post(Frame::new(&header).offload(Offload::UDP_V4).payload(token)).unwrap());
    rig.settle();
    assert_eq!(rig.device.with_model(|model| model.counters().frames_sent), 0, "nothing goes before the doorbell");
    tx.publish();
    assert_eq!(tx.reclaim(drop), 0);
    rig.settle();
    assert_eq!(dropped.load(Ordering::SeqCst), 0, "the ring keeps the token until it is reclaimed");
    assert_eq!(tx.reclaim(drop), 4, "context, header, two pieces");
    assert_eq!(dropped.load(Ordering::SeqCst), 1);

    let frames = rig.received(&mut rx);
    assert_eq!(frames.len(), 1);
    let (frame, verdict) = &frames[0];
    assert_eq!(frame.len(), 42 + 1400);
    assert_eq!(frame[42..], bytes);
    assert_checksums(frame);
    assert_eq!((verdict.ip, verdict.transport), (Checksum::Good, Checksum::Good));
    let counted = rig.nic.statistics();
    assert_eq!((counted.tx_frames, counted.rx_frames), (1, 1));
    assert_eq!((counted.tx_bytes, counted.rx_bytes), (1446, 1446), "with check sequences");
}

#[test]
fn payload_descriptors_point_into_the_payload() {
    let rig = Rig::new();
    let mut tx = rig.live(|nic| nic.tx_queue::<Token>().unwrap());
    let memory = Memory::new(&rig.function, &[7; 40_000]);
    let token = Token::new(&memory, vec![5..600, 20_000..20_007]);
    queued(tx.post(Frame::new(&udp_header(&rig, 602)).offload(Offload::UDP_V4).payload(token)).unwrap());
    tx.publish();
    let iova = |offset| memory.mapping.iova_of(offset).unwrap().get();
    // 0 context, 1 header, 2 and 3 payload.
    for (index, offset, len) in [(2, 5, 595), (3, 20_000, 7)] {
        let [address, rest] = rig.tx_descriptor(index);
        assert_eq!((address, rest & 0xffff), (iova(offset), len), "descriptor {index}");
    }
}

#[test]
fn a_context_is_written_only_when_the_offload_changes() {
    let rig = Rig::new();
    let mut tx = rig.live(|nic| nic.tx_queue::<Token>().unwrap());
    let header = udp_header(&rig, 0);
    let mut cost = |offload: Option<Offload>| {
        let before = tx.free();
        let frame = Frame::new(&header);
        queued(tx.post(if let Some(offload) = offload { frame.offload(offload) } else { frame }).unwrap());
        before - tx.free()
    };
    let ip_only = Offload { transport: None, ..Offload::UDP_V4 };
    let expect = [
        (None, 1),
        (Some(Offload::UDP_V4), 2),
        (Some(Offload::UDP_V4), 1),
        (None, 1),
        (Some(Offload::UDP_V4), 1),
        // The header checksum alone goes with the context in force, for it differs in nothing that a context says.
        (Some(ip_only), 1),
    ];
    for (index, (offload, descriptors)) in expect.into_iter().enumerate() {
        assert_eq!(cost(offload), descriptors, "frame {index}");
    }
}

#[test]
fn reports_are_sparse_and_complete_everything_before_them() {
    let rig = Rig::new();
    let mut tx = rig.live(|nic| nic.tx_queue::<Token>().unwrap());
    let memory = Memory::new(&rig.function, &[1; 4096]);
    let dropped = Arc::new(AtomicUsize::new(0));
    for _ in 0..40 {
        let token = Token::new(&memory, vec![0..64, 64..100]).counted(&dropped);
        queued(tx.post(Frame::new(&udp_header(&rig, 100)).payload(token)).unwrap());
    }
    tx.publish();
    // 120 descriptors, three a frame: a report at the first frame end at or after each 32, and one at the end.
    let reports: Vec<u64> = (0..120).filter(|&index| rig.tx_descriptor(index)[1] & REPORT_STATUS != 0).collect();
    assert_eq!(reports, [32, 65, 98, 119]);
    let ends = (0..120).filter(|&index| rig.tx_descriptor(index)[1] & END_OF_PACKET != 0).count();
    assert_eq!(ends, 40);
    rig.settle();
    assert_eq!(tx.reclaim(drop), 120);
    assert_eq!((dropped.load(Ordering::SeqCst), tx.free()), (40, 1023));
}

#[test]
fn a_full_ring_gives_the_frame_back() {
    let rig = Rig::with(ixgbe::Config::default(), Config { tx_ring: 64, ..Config::default() });
    let mut tx = rig.live(|nic| nic.tx_queue::<Token>().unwrap());
    let memory = Memory::new(&rig.function, &[1; 4096]);
    let dropped = Arc::new(AtomicUsize::new(0));
    let header = udp_header(&rig, 100);
    let mut posted = 0;
    let frame = loop {
        let token = Token::new(&memory, vec![0..100]).counted(&dropped);
        match tx.post(Frame::new(&header).payload(token)).unwrap() {
            Posted::Queued => posted += 1,
            Posted::Full(frame) => break frame,
        }
    };
    assert_eq!((posted, tx.free(), dropped.load(Ordering::SeqCst)), (31, 1, 0));
    tx.publish();
    rig.settle();
    assert_eq!(tx.reclaim(drop), 62);
    queued(tx.post(frame).unwrap());
    assert_eq!(dropped.load(Ordering::SeqCst), 31, "the frame that came back kept its token");
}

#[test]
fn a_run_is_kept_until_its_last_frame_is_done() {
    let rig = Rig::new();
    let mut tx = rig.live(|nic| nic.tx_queue::<Token>().unwrap());
    let memory = Memory::new(&rig.function, &[9; 8192]);
    let dropped = Arc::new(AtomicUsize::new(0));
    let post = |tx: &mut TxQueue<Token>, frames: usize| {
        let mut run = tx.run(Token::new(&memory, vec![0..5000]).counted(&dropped));
        for frame in 0..frames {
            let range = frame * 1000..frame * 1000 + 1000;
            assert!(run.post(&udp_header(&rig, 1000), Some(Offload::UDP_V4), range).unwrap());
        }
    };
    post(&mut tx, 5);
    assert_eq!(tx.in_flight(), 1);
    tx.publish();
    rig.settle();
    tx.reclaim(drop);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    // Given up in the middle: what was posted is still covered.
    post(&mut tx, 2);
    assert_eq!((dropped.load(Ordering::SeqCst), tx.in_flight()), (1, 1));
    // Nothing posted: nothing to wait for.
    post(&mut tx, 0);
    assert_eq!((dropped.load(Ordering::SeqCst), tx.in_flight()), (2, 1));
    tx.publish();
    rig.settle();
    tx.reclaim(drop);
    assert_eq!(dropped.load(Ordering::SeqCst), 3);
}

#[test]
fn what_the_device_cannot_send_is_refused() {
    let rig = Rig::new();
    let mut tx = rig.live(|nic| nic.tx_queue::<Token>().unwrap());
    let memory = Memory::new(&rig.function, &[0; 65536]);
    let mut refused = |header: &[u8], pieces: Vec<std::ops::Range<usize>>| {
        let frame = Frame::new(header).payload(Token::new(&memory, pieces));
        match tx.post(frame) {
            Err(error @ Error::Frame { .. }) => error.to_string(),
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    assert!(refused(&[0; 13], vec![]).contains("at least an Ethernet header"));
    assert!(refused(&[0; 257], vec![]).contains("header bytes is 257, the limit is 256"));
    assert!(refused(&[0; 42], vec![0..1473]).contains("frame bytes is 1515, the limit is 1514"));
    assert!(refused(&[0; 42], (0..40).map(|piece| piece..piece + 1).collect()).contains("payload pieces is 40"));
    assert_eq!(tx.free(), 1023, "a refused frame leaves no descriptor behind");
}

#[test]
fn jumbo_frames_take_several_buffers() {
    let rig = Rig::with(ixgbe::Config::default(), Config { max_frame: 9014, ..Config::default() });
    let (mut tx, mut rx) = rig.live(|nic| (nic.tx_queue::<Token>().unwrap(), nic.rx_queue().unwrap()));
    let bytes: Vec<u8> = (0..8972u32).map(|i| (i / 3) as u8).collect();
    let memory = Memory::new(&rig.function, &bytes);
    for _ in 0..3000 {
        let token = Token::new(&memory, vec![0..8972]);
        queued(tx.post(Frame::new(&udp_header(&rig, 8972)).offload(Offload::UDP_V4).payload(token)).unwrap());
        tx.publish();
        rig.settle();
        tx.reclaim(drop);
        let frames = rig.received(&mut rx);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].0[42..], bytes);
        assert_eq!(frames[0].1.transport, Checksum::Good);
    }
}

#[test]
fn a_frame_damaged_on_the_wire_is_told_by_its_checksum() {
    let rig = Rig::new();
    let (mut tx, mut rx) = rig.live(|nic| (nic.tx_queue::<Token>().unwrap(), nic.rx_queue().unwrap()));
    rig.device.with_model(|model| model.faults().corrupt_every = 2);
    let memory = Memory::new(&rig.function, &[3; 500]);
    // The 82599's bad verdicts on UDP are not to be trusted (erratum), so they come out as no verdict.
    let cases = [
        (tcp_header(&rig, 500), Offload::TCP_V4, Checksum::Bad),
        (udp_header(&rig, 500), Offload::UDP_V4, Checksum::Unknown),
    ];
    for (header, offload, expect) in cases {
        for _ in 0..4 {
            let token = Token::new(&memory, vec![0..500]);
            queued(tx.post(Frame::new(&header).offload(offload).payload(token)).unwrap());
        }
        tx.publish();
        rig.settle();
        let verdicts: Vec<_> = rig.received(&mut rx).iter().map(|(_, verdict)| verdict.transport).collect();
        let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
        assert_eq!((count(Checksum::Good), count(expect)), (2, 2), "{offload:?}: {verdicts:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// However header and payload are cut, the same frame goes out, with the checksums an independent library finds.
    #[test]
    fn any_cut_of_a_frame_is_the_same_frame(
        bytes in prop::collection::vec(any::<u8>(), 0..1472),
        extra in 0..214usize,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..38),
    ) {
        let rig = Rig::new();
        let (mut tx, mut rx) = rig.live(|nic| (nic.tx_queue::<Token>().unwrap(), nic.rx_queue().unwrap()));
        // Some of the payload travels with the header.
        let (copied, paged) = bytes.split_at(extra.min(bytes.len()));
        let memory = Memory::new(&rig.function, paged);
        let mut borders: Vec<usize> = cuts.iter().map(|cut| cut.index(paged.len() + 1)).collect();
        borders.extend([0, paged.len()]);
        borders.sort_unstable();
        borders.dedup();
        let pieces = borders.windows(2).map(|pair| pair[0]..pair[1]).collect();
        let mut header = udp_header(&rig, bytes.len());
        header.extend_from_slice(copied);
        queued(tx.post(Frame::new(&header).offload(Offload::UDP_V4).payload(Token::new(&memory, pieces))).unwrap());
        tx.publish();
        rig.settle();
        tx.reclaim(drop);
        let frames = rig.received(&mut rx);
        prop_assert_eq!(frames.len(), 1);
        let (frame, verdict) = &frames[0];
        prop_assert_eq!(frame.len(), (42 + bytes.len()).max(60));
        prop_assert_eq!(&frame[42..42 + bytes.len()], &bytes[..]);
        assert_checksums(frame);
        prop_assert_eq!(verdict.transport, Checksum::Good);
    }
}
