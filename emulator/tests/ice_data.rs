//! Frames through the E810 model: rings by hand, checksums by a third party.

mod common;
mod ice_common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{pseudo, udp_payload};
use etherparse::PacketBuilder;
use ice_common::*;
use stillwire_emulator::ice::Config;
use stillwire_emulator::wire::{Cable, Loopback, Sink};
use stillwire_emulator::{Doorbells, Wire};

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + 3) as u8).collect()
}

#[test]
fn a_udp_frame_goes_out_and_comes_back() {
    for doorbells in [Doorbells::Messages, Doorbells::Mapped] {
        let mut rig = Rig::running(config(doorbells));
        for len in [10, 100, 1001] {
            let last = rig.post_udp(&payload(len), true);
            assert!(!rig.done(last));
            rig.settle();
            assert!(rig.done(last), "{doorbells:?} {:?}", rig.halts());
            let (frame, words) = rig.receive().expect("a frame");
            assert_eq!(udp_payload(&frame), Ok(payload(len)));
            // RXDID 2, packet type 24 (IPv4, UDP); DD, EOF, L3L4P; no errors, no hash, no flow.
            assert_eq!((words[0] & 0x3f, words[0] >> 16 & 0x3ff, words[1] & 0xffff), (2, 24, 0xb));
            assert_eq!((words[1] >> 32, words[3] as u32), (0, u32::MAX));
        }
        assert_eq!(rig.read(0xe_0000), 6, "QTX_COMM_HEAD");
        // Three frames to all; statistics stay when they are read.
        for _ in 0..2 {
            assert_eq!((rig.read(0x38_1240), rig.read(0x38_1380)), (3, 3), "GLPRT_BPTC, GLPRT_BPRC");
            assert_eq!((rig.read(0x30_e000 + 8), rig.read(0x3b_6000 + 8)), (3, 3), "GLV_BPTC, GLV_BPRC of interface 1");
        }
        let bytes = 64 + (142 + 4) + (1043 + 4);
        assert_eq!((rig.read(0x38_0b40), rig.read(0x38_0b44), rig.read(0x38_0000)), (bytes, 0, bytes));
        assert_eq!(rig.complaints(), [""; 0]);
    }
}

#[test]
fn only_reported_descriptors_say_done_and_the_others_stay() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let quiet = rig.post_udp(&payload(64), false);
    let loud = rig.post_udp(&payload(64), true);
    rig.settle();
    assert!(!rig.done(quiet) && rig.done(loud));
    let words = |i: u32| [0, 8].map(|at| rig.memory.word64(TX_RING + 16 * i as usize + at).load(Ordering::Relaxed));
    assert_eq!(words(quiet - 1), data(PAYLOAD, 42, IPV4_CSUM | UDP, [14, 20, 8]));
    assert_eq!(words(quiet), data(PAYLOAD + 0x1000, 64, IPV4_CSUM | UDP | EOP, [14, 20, 8]));
    assert_eq!(words(loud), [IOVA + PAYLOAD as u64 + 0x1000, 0xf]);
}

#[test]
fn a_line_that_is_not_full_waits_for_its_vector() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.write(DYN_CTL + 4, 0);
    // Two descriptors a frame: the second frame's last one ends the line of four, and the line is written.
    let first = rig.post_udp(&payload(64), true);
    rig.settle();
    assert!(!rig.done(first) && rig.receive().is_none(), "masked, and no WB_ON_ITR");
    let second = rig.post_udp(&payload(64), true);
    rig.settle();
    assert!(rig.done(first) && rig.done(second));
    assert!(rig.receive().is_some() && rig.receive().is_some(), "two receive descriptors are a line");
    let third = rig.post_udp(&payload(64), true);
    rig.settle();
    assert!(!rig.done(third));
    rig.write(DYN_CTL + 4, WB_ON_ITR);
    rig.settle();
    assert!(rig.done(third) && rig.receive().is_some());
    // With interrupts the line is written before the message goes, and the vector masks itself.
    let fourth = rig.post_udp(&payload(64), true);
    rig.settle();
    assert!(rig.done(fourth) && rig.receive().is_some());
    let interrupts = |rig: &Rig| rig.device.with_model(|model| model.counters().interrupts);
    rig.write(DYN_CTL + 4, 1);
    assert_eq!(interrupts(&rig), 1, "what came while it was masked");
    rig.write(DYN_CTL + 4, 1);
    let fifth = rig.post_udp(&payload(64), true);
    rig.settle();
    assert_eq!((interrupts(&rig), rig.done(fifth)), (2, true));
    assert!(rig.receive().is_none(), "what came after the message waits for the next");
    rig.write(DYN_CTL + 4, 1);
    rig.settle();
    assert_eq!((interrupts(&rig), rig.receive().is_some()), (3, true));
    assert_eq!(rig.complaints(), [""; 0]);
    // Without any vector nobody ever asks for the rest of a line.
    rig.write(TX_CAUSE, 0);
    rig.post_udp(&payload(64), true);
    rig.settle();
    assert!(rig.complaints()[0].contains("a transmit queue has no vector"), "{:?}", rig.complaints());
}

#[test]
fn a_page_that_changes_between_the_passes_goes_out_torn() {
    let delay = Duration::from_millis(1);
    for changed in [false, true] {
        let mut rig = Rig::running(Config { transmit_delay: delay, ..config(Doorbells::Messages) });
        let last = rig.post_udp(&payload(100), true);
        rig.settle();
        assert!(rig.device.with_model(|model| model.dma_pending()) && !rig.done(last));
        if changed {
            rig.memory.write_at(PAYLOAD + 0x1000 + 50, &[0xee]);
        }
        rig.step_after(delay / 2);
        assert!(!rig.done(last));
        rig.step_after(delay);
        rig.settle();
        assert!(rig.done(last));
        let (frame, words) = rig.receive().expect("a frame");
        let wanted = if changed { Err("UDP checksum".to_owned()) } else { Ok(payload(100)) };
        assert_eq!(udp_payload(&frame), wanted);
        assert_eq!(words[1] >> 5 & 1 == 1, changed, "the receiving side says the same: L4E");
    }
}

#[test]
fn a_sink_sees_what_is_torn() {
    let sink = Sink::new();
    let delay = Duration::from_millis(1);
    let config = Config { transmit_delay: delay, ..config(Doorbells::Messages) };
    let mut rig = Rig::over(config, Loopback::new(), Box::new(sink.clone()));
    rig.bring_up();
    rig.post_udp(&payload(100), true);
    rig.step_after(delay);
    rig.step_after(delay);
    rig.post_udp(&payload(100), true);
    rig.step();
    rig.memory.write_at(PAYLOAD + 0x1000, &[0xee]);
    rig.step_after(delay);
    let report = sink.report();
    assert_eq!((report.frames, report.good, report.bad), (2, 1, 1));
}

#[test]
fn a_queue_is_disabled_when_its_last_frame_was_read() {
    for doorbells in [Doorbells::Messages, Doorbells::Mapped] {
        let mut rig = Rig::running(config(doorbells));
        rig.fault(|faults| faults.stall_tx = true);
        let last = rig.post_udp(&payload(64), true);
        rig.settle();
        let asked = rig.disable_tx_queue(0);
        rig.settle();
        assert!(rig.answer(asked).is_none(), "a frame between its passes is pending DMA");
        let mut status = [0; 2];
        stillwire_dma::Backend::config_read(&*rig.device, 0xaa, &mut status).unwrap();
        assert_ne!(status[0] & 1 << 5, 0);
        rig.fault(|faults| faults.stall_tx = false);
        rig.settle();
        assert_eq!(rig.answer(asked).map(|answer| answer.code), Some(0));
        assert!(rig.done(last) && !rig.device.with_model(|model| model.dma_pending()));
        let reads = rig.device.with_model(|model| model.counters().dma_reads);
        rig.post_udp(&payload(64), true);
        rig.settle();
        assert_eq!(rig.device.with_model(|model| model.counters().dma_reads), reads);
        // The number is free again, and starts from nothing.
        assert_eq!(rig.add_tx_queue(0, &tx_context(TX_RING, RING)).code, 0);
        rig.restart_tx();
        let last = rig.post_udp(&payload(64), true);
        rig.settle();
        assert!(rig.done(last));
    }
}

#[test]
fn without_a_link_a_queue_can_be_disabled_all_the_same() {
    let delay = Duration::from_millis(1);
    let mut rig = Rig::running(Config { transmit_delay: delay, ..config(Doorbells::Messages) });
    rig.post_udp(&payload(64), true);
    rig.step();
    rig.fault(|faults| faults.link_down = true);
    rig.step_after(delay);
    assert!(rig.device.with_model(|model| model.dma_pending()), "without a link nothing is sent");
    let asked = rig.disable_tx_queue(0);
    rig.settle();
    assert_eq!(rig.answer(asked).map(|answer| answer.code), Some(0));
    assert_eq!(rig.device.with_model(|model| model.counters().frames_sent), 0);
}

#[test]
fn no_dma_without_bus_mastering() {
    for doorbells in [Doorbells::Messages, Doorbells::Mapped] {
        let mut rig = Rig::running(config(doorbells));
        rig.master(false);
        let before = rig.device.with_model(|model| model.counters());
        let last = rig.post_udp(&payload(64), true);
        let asked = rig.post_command(1, &[], &[], 0);
        rig.wire.clone().transmit(&[0xff; 60]);
        (0..10).for_each(|_| _ = rig.step());
        let after = rig.device.with_model(|model| model.counters());
        assert_eq!((after.dma_reads, after.dma_writes), (before.dma_reads, before.dma_writes));
        assert!(!rig.done(last) && rig.receive().is_none() && rig.answer(asked).is_none());
        rig.master(true);
        rig.settle();
        assert!(rig.done(last) && rig.answer(asked).is_some());
    }
}

#[test]
fn faults_on_demand() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.fault(|faults| (faults.lose_every, faults.corrupt_every) = (2, 3));
    (0..4).for_each(|_| _ = rig.post_udp(&payload(64), true));
    rig.settle();
    let counters = rig.device.with_model(|model| model.counters());
    assert_eq!((counters.frames_lost, counters.frames_corrupted, counters.frames_received), (2, 1, 2));
    rig.fault(|faults| *faults = Default::default());
    rig.fault(|faults| faults.completion_delay = Duration::from_secs(1));
    let late = rig.post_udp(&payload(64), true);
    rig.settle();
    assert!(!rig.done(late));
    rig.step_after(Duration::from_secs(2));
    assert!(rig.done(late));
    rig.fault(|faults| faults.stuck_rx = true);
    assert_eq!(rig.read(RX_CTRL) & 4, 0, "QENA_STAT");
    rig.write(RX_CTRL, 0);
    assert_eq!(rig.read(RX_CTRL) & 4, 4);
    rig.fault(|faults| faults.stuck_tx_disable = true);
    let asked = rig.disable_tx_queue(0);
    rig.settle();
    assert!(rig.answer(asked).is_none());
}

/// A cut frame: Ethernet, IP and TCP or UDP headers as the device wants them, and payload.
fn to_be_cut(tcp: bool, v6: bool, len: usize) -> (Vec<u8>, [u64; 3]) {
    let builder = PacketBuilder::ethernet2([2, 0x53, 0x57, 0, 0, 1], [0xff; 6]);
    let builder = match v6 {
        true => builder.ipv6([1; 16], [2; 16], 9),
        false => builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9),
    };
    let mut frame = Vec::new();
    match tcp {
        true => builder.tcp(7, 9, 1000, 100).psh().fin().write(&mut frame, &payload(len)).unwrap(),
        false => builder.udp(7, 9).write(&mut frame, &payload(len)).unwrap(),
    }
    let (ip, l4) = (if v6 { 40 } else { 20 }, if tcp { 20 } else { 8 });
    let addresses = if v6 { frame[22..54].to_vec() } else { frame[26..34].to_vec() };
    match v6 {
        true => frame[18..20].fill(0),
        false => (frame[16..18].fill(0), frame[24..26].fill(0)).0,
    }
    let sum = pseudo(&addresses, if tcp { 6 } else { 17 }, 0);
    let at = 14 + ip + if tcp { 16 } else { 6 };
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    (frame, [14, ip as u64, l4])
}

#[test]
fn segments_are_whole_frames() {
    for (tcp, v6) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut rig = Rig::running(config(Doorbells::Messages));
        let (frame, lens) = to_be_cut(tcp, v6, 3001);
        let kinds = if v6 { IPV6 } else { IPV4_CSUM } | if tcp { TCP } else { UDP };
        rig.put(context(3001, 1000));
        let last = rig.post(&frame, kinds, lens);
        rig.settle();
        assert!(rig.done(last), "{:?}", rig.halts());
        let mut joined = Vec::new();
        for i in 0..4u32 {
            let (frame, words) = rig.receive().expect("a segment");
            assert_eq!(words[1] & 0x38, 8, "L3L4P and no errors: {i}, {tcp}, {v6}");
            let parsed = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
            match parsed.transport.unwrap() {
                etherparse::TransportHeader::Tcp(header) => {
                    assert_eq!((header.sequence_number, header.psh, header.fin), (1000 + 1000 * i, i == 3, i == 3));
                }
                etherparse::TransportHeader::Udp(header) => {
                    assert_eq!(header.length, 8 + if i == 3 { 1 } else { 1000 })
                }
                other => panic!("{other:?}"),
            }
            if let Some(etherparse::NetHeaders::Ipv4(ip, _)) = parsed.net {
                assert_eq!(ip.identification, i as u16);
            }
            let wanted = if i == 3 { 1 } else { 1000 };
            joined.extend_from_slice(&parsed.payload.slice()[..wanted]);
        }
        assert_eq!(joined, payload(3001));
        assert!(rig.receive().is_none());
        assert_eq!(rig.complaints(), [""; 0]);
    }
}

#[test]
fn what_hardware_takes_for_malicious_stops_the_queue_and_is_shown() {
    let (cut, lens) = to_be_cut(true, false, 3000);
    let whole = [14, 20, 8];
    let kinds = IPV4_CSUM | TCP;
    type Case<'a> = (&'a str, Vec<[u64; 2]>);
    let cut_data = |len: usize| data(PAYLOAD, len, kinds | EOP | RS, lens);
    let nine = |last: u64| (0..9).map(|i| data(PAYLOAD + 64 * i, 64, if i == 8 { last } else { 0 }, [0; 3])).collect();
    let cases: Vec<Case<'_>> = vec![
        ("length 0", vec![data(PAYLOAD, 0, EOP | RS, [0; 3])]),
        ("more than eight buffers", nine(EOP | RS)),
        ("shorter than 17", vec![data(PAYLOAD, 16, EOP | RS, [0; 3])]),
        ("longer than 9728", vec![data(PAYLOAD, 9729, EOP | RS, [0; 3])]),
        ("MSS is not within", vec![context(3000, 63), cut_data(cut.len())]),
        ("MSS is not within", vec![context(3000, 9729), cut_data(cut.len())]),
        ("TSO_LEN", vec![context(2999, 1000), cut_data(cut.len())]),
        ("headers of a frame to be cut", vec![context(0, 1000), cut_data(54)]),
        ("more than eight buffers, its headers'", {
            let pieces = (0..9).map(|i| data(PAYLOAD + 54 + 100 * i, 100, if i == 8 { EOP | RS } else { 0 }, lens));
            [context(900, 900), data(PAYLOAD, 54, kinds, lens)].into_iter().chain(pieces).collect()
        }),
        ("RS without EOP", vec![data(PAYLOAD, 64, RS, [0; 3])]),
        ("middle of a frame", vec![data(PAYLOAD, 64, 0, [0; 3]), context(100, 100)]),
        ("two context", vec![context(100, 100), context(100, 100)]),
        ("DTYPE", vec![[0, 7]]),
        ("tunnels", vec![[1, 1]]),
        ("L4T without IIPT", vec![data(PAYLOAD, 106, UDP | EOP | RS, whole)]),
        ("MACLEN and IPLEN", vec![data(PAYLOAD, 106, IPV4_CSUM | UDP | EOP | RS, [12, 20, 8])]),
        ("MACLEN and IPLEN", vec![data(PAYLOAD, 106, IPV4_CSUM | UDP | EOP | RS, [14, 16, 8])]),
        ("L4LEN", vec![data(PAYLOAD, 106, IPV4_CSUM | TCP | EOP | RS, [14, 20, 8])]),
        ("IPv4 checksum", vec![context(3000, 1000), data(PAYLOAD, cut.len(), IPV4 | TCP | EOP | RS, lens)]),
        ("bus fault", vec![[0x1000, EOP | RS | 64 << 34]]),
    ];
    for (why, descriptors) in cases {
        let mut rig = Rig::running(config(Doorbells::Messages));
        rig.memory.write_at(PAYLOAD, &cut);
        rig.write(0x16_c900, 1 << 19); // PFINT_OICR_ENA.MAL_DETECT
        descriptors.into_iter().for_each(|words| _ = rig.put(words));
        rig.ring_bell();
        rig.settle();
        let halts = rig.halts();
        assert!(halts.len() == 1 && halts[0].contains(why) && halts[0].contains("TX queue 0"), "{why}: {halts:?}");
        if why != "bus fault" {
            assert_eq!((rig.read(0xf_c068) >> 31, rig.read(0xf_c068) & 0x7fff, rig.read(0xf_c000)), (1, 0, 1), "{why}");
            assert_eq!(rig.read(0x16_ca00) & 1 << 19, 1 << 19, "PFINT_OICR.MAL_DETECT");
            assert_eq!(rig.read(0x16_ca00), 0, "read, and cleared");
            rig.write(0xf_c068, u32::MAX);
            assert_eq!(rig.read(0xf_c068), 0);
        }
        // It stands still until it is disabled, and then it can be added again.
        let last = rig.post_udp(&payload(64), true);
        rig.settle();
        assert!(!rig.done(last));
        let asked = rig.disable_tx_queue(0);
        assert_eq!(rig.answer(asked).map(|answer| answer.code), Some(0));
        rig.restart_tx();
        assert_eq!(rig.add_tx_queue(0, &tx_context(TX_RING, RING)).code, 0);
        let last = rig.post_udp(&payload(64), true);
        rig.settle();
        assert!(rig.done(last), "{why}: {:?}", rig.halts());
    }
}

#[test]
fn a_tail_beyond_the_ring_is_malicious() {
    let rig = Rig::running(config(Doorbells::Mapped));
    rig.write(TX_TAIL, RING);
    rig.settle();
    assert_eq!((rig.read(0x2d_2e00) >> 31, rig.read(0x2d_2c80)), (1, 1), "GL_MDET_TX_PQM");
    rig.write(RX_TAIL, RING + 8);
    rig.wire.clone().transmit(&[0xff; 60]);
    rig.settle();
    assert_eq!((rig.read(0x29_4c00) >> 31, rig.read(0x29_4280)), (1, 1), "GL_MDET_RX");
    assert_eq!(rig.halts().len(), 2);
}

#[test]
fn a_queue_without_tso_ena_does_not_cut() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let asked = rig.disable_tx_queue(0);
    assert_eq!(rig.answer(asked).unwrap().code, 0);
    let mut context_bytes = tx_context(TX_RING, RING);
    put_bits(&mut context_bytes, 152, 1, 0);
    rig.add_tx_queue(0, &context_bytes);
    let (frame, lens) = to_be_cut(true, false, 3000);
    rig.put(context(3000, 1000));
    rig.post(&frame, IPV4_CSUM | TCP, lens);
    rig.settle();
    assert!(rig.halts()[0].contains("TSO_ENA"), "{:?}", rig.halts());
}

#[test]
fn sctp_gets_its_crc_and_the_receiver_checks_it() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [0xff; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .write(&mut frame, etherparse::IpNumber::SCTP, &[0; 40])
        .unwrap();
    frame[34..38].copy_from_slice(&[0, 7, 0, 9]);
    let last = rig.post(&frame, IPV4 | SCTP, [14, 20, 12]);
    rig.settle();
    assert!(rig.done(last), "{:?}", rig.halts());
    let (received, words) = rig.receive().unwrap();
    assert_ne!(received[42..46], [0; 4]);
    assert_eq!((words[0] >> 16 & 0x3ff, words[1] & 0x38), (27, 8));
    frame[42..46].copy_from_slice(&[1, 2, 3, 4]);
    rig.post(&frame, IPV4, [14, 20, 0]);
    rig.settle();
    assert_eq!(rig.receive().unwrap().1[1] & 0x38, 0x28, "L4E");
}

#[test]
fn tags_go_in_and_are_stripped() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let mut frame = vec![0xff; 64];
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    let tagged = |rig: &mut Rig| {
        rig.memory.write_at(PAYLOAD, &frame);
        rig.put([IOVA + PAYLOAD as u64, TAG | EOP | RS | 64 << 34 | 0x2064 << 48]);
        rig.ring_bell();
        rig.settle();
        rig.receive().unwrap()
    };
    let (received, words) = tagged(&mut rig);
    assert_eq!((received.len(), &received[12..18]), (68, &[0x81, 0, 0x20, 0x64, 0x88, 0xb5][..]));
    assert_eq!(words[1] >> 13 & 1, 0, "the interface of firmware leaves tags alone");
    // EMODE 0: tags go into the descriptor.
    let mut props = vec![0; 128];
    (props[0], props[12]) = (1 << 2, 3);
    assert_eq!(rig.command(0x0211, &[1, 0x80], &props, 0).code, 0);
    let (received, words) = tagged(&mut rig);
    assert_eq!(received, frame);
    assert_eq!((words[1] >> 13 & 1, words[1] >> 16 & 0xffff), (1, 0x2064));
    // Mode 1: untagged frames only may be sent.
    props[12] = 1;
    rig.command(0x0211, &[1, 0x80], &props, 0);
    rig.put([IOVA + PAYLOAD as u64, TAG | EOP | RS | 64 << 34 | 0x2064 << 48]);
    rig.ring_bell();
    rig.settle();
    assert!(rig.receive().is_none());
    assert_eq!(rig.read(0x31_2000 + 4), 1, "GLV_TEPC");
}

#[test]
fn big_frames_span_buffers_and_limits_hold() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let mut frame = payload(9000);
    frame[..6].fill(0xff);
    rig.wire.clone().transmit(&frame);
    rig.settle();
    let (received, words) = rig.receive().unwrap();
    assert_eq!((received, words[0] >> 32 & 0x3fff), (frame, 9000 - 4 * 2048));
    rig.wire.clone().transmit(&[0xff; 59]);
    rig.wire.clone().transmit(&[0xff; 9728]);
    rig.settle();
    assert!(rig.receive().is_none());
    assert_eq!((rig.read(0x38_0200), rig.read(0x38_0240)), (1, 1), "GLPRT_RUC, GLPRT_ROC");
    // RXMAX is the queue's own limit.
    rig.write(RX_CTRL, 0);
    rig.start_rx(&rx_context(RX_RING, RING, BUFFER, 1522), 2);
    rig.wire.clone().transmit(&[0xff; 1523]);
    rig.wire.clone().transmit(&[0xff; 1522]);
    rig.settle();
    assert_eq!(rig.receive().unwrap().0.len(), 1522);
    assert!(rig.receive().is_none());
    assert_eq!(rig.read(0x29_4c04 + 4), 1, "GLV_RDPC");
    // A queue without buffers may be enabled, and may not receive.
    rig.write(RX_CTRL, 0);
    rig.start_rx(&rx_context(RX_RING, RING, 0, 1522), 2);
    assert_eq!(rig.halts(), [""; 0]);
    rig.wire.clone().transmit(&[0xff; 60]);
    rig.settle();
    assert!(rig.halts()[0].contains("DBUF"), "{:?}", rig.halts());
}

#[test]
fn rules_let_in_what_they_should() {
    let mut rig = Rig::new(config(Doorbells::Messages));
    rig.master(true);
    rig.start_adminq();
    rig.find_group();
    rig.write(RX_CAUSE, CAUSE_ENA | 1);
    rig.write(DYN_CTL + 4, WB_ON_ITR);
    rig.start_rx(&rx_context(RX_RING, RING, BUFFER, 9728), 2);
    let (mine, other, group, all) = ([2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 8], [1, 0, 0x5e, 0, 0, 1], [0xff; 6]);
    let let_in = |rig: &mut Rig| {
        for to in [mine, other, group, all] {
            rig.wire.clone().transmit(&[&to[..], &[9; 54]].concat());
        }
        rig.settle();
        std::iter::from_fn(|| rig.receive()).map(|(frame, _)| frame[..6].to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(let_in(&mut rig), [[0; 0]; 0]);
    assert_eq!(rig.let_in(1, mine, VSI).code, 0);
    assert_eq!(let_in(&mut rig), [mine]);
    rig.let_in(3, [0xff; 6], VSI);
    assert_eq!(let_in(&mut rig), [mine, all]);
    rig.let_in(3, [3, 0, 0, 0, 0, 0], VSI);
    assert_eq!(let_in(&mut rig), [mine, group, all]);
    rig.let_in(3, [2, 0, 0, 0, 0, 0], VSI);
    assert_eq!(let_in(&mut rig), [mine, other, group, all]);
    assert_eq!(rig.let_in(1, mine, VSI).code, 13, "EEXIST");
    assert_eq!(rig.command(0x02a4, &[], &[], 0).code, 0);
    assert_eq!(let_in(&mut rig), [[0; 0]; 0]);
}

#[test]
fn without_descriptors_frames_wait_and_then_are_dropped() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let sent = 1000;
    for i in 0..sent {
        let mut frame = payload(1500);
        frame[..6].fill(0xff);
        frame[20] = i as u8;
        rig.wire.clone().transmit(&frame);
    }
    rig.settle();
    let dropped = rig.read(0x29_4c04 + 4) as usize;
    assert!(dropped > 0 && dropped < sent, "{dropped}");
    let mut received = 0;
    while let Some((frame, _)) = rig.receive() {
        assert_eq!(frame[20], received as u8, "in order");
        received += 1;
        rig.settle();
    }
    assert_eq!(received + dropped, sent);
}

#[test]
fn rss_spreads_and_reports_the_hash() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let key = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(rig.command(0x0b02, &[1, 0x80], &key, 0).code, 0);
    // Two queues, of which the second is not there; the table sends this hash (0x51ccc178) to the first.
    let mut props = vec![0; 128];
    (props[0], props[32], props[62], props[63]) = (1 << 6, 2, 0, 1 << 3);
    assert_eq!(rig.command(0x0211, &[1, 0x80], &props, 0).code, 0);
    let table: Vec<u8> = (0..64).map(|i| u8::from(i != 0x78 % 64)).collect();
    assert_eq!(rig.command(0x0b03, &[1, 0x80], &table, 0).code, 0);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [0xff; 6])
        .ipv4([66, 9, 149, 187], [161, 142, 100, 80], 64)
        .tcp(2794, 1766, 0, 0)
        .write(&mut frame, &[0; 10])
        .unwrap();
    rig.wire.clone().transmit(&frame);
    frame[34] ^= 1;
    rig.wire.clone().transmit(&frame);
    rig.settle();
    let (_, words) = rig.receive().expect("the frame of the known hash");
    assert_eq!((words[1] >> 32, words[1] >> 12 & 1), (0x51cc_c178, 1));
    assert!(rig.receive().is_none());
    assert_eq!(rig.read(0x29_4c04 + 4), 1, "the other went to a queue that is not there");
}

#[test]
fn descriptors_of_each_profile() {
    for (rxdid, hash_at) in [(2, 1), (22, 3)] {
        let mut rig = Rig::running(config(Doorbells::Messages));
        rig.write(RX_CTRL, 0);
        rig.start_rx(&rx_context(RX_RING, RING, BUFFER, 9728), rxdid);
        rig.command(0x0b02, &[1, 0x80], &[7; 52], 0);
        rig.post_udp(&payload(64), true);
        rig.settle();
        let (frame, words) = rig.receive().unwrap();
        assert_eq!((frame.len(), words[0] & 0x3f), (106, rxdid.into()));
        let hash = if hash_at == 1 { words[1] >> 32 } else { words[3] & 0xffff_ffff };
        let flow = if hash_at == 1 { words[3] & 0xffff_ffff } else { words[1] >> 32 };
        assert!(hash != 0 && flow == 0xffff_ffff);
    }
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.write(RX_CTRL, 0);
    rig.start_rx(&rx_context(RX_RING, RING, BUFFER, 9728), 1);
    rig.post_udp(&payload(64), true);
    rig.settle();
    let (frame, words) = rig.receive().unwrap();
    assert_eq!((frame.len(), words[1] & 0xb), (106, 0xb));
    rig.write(RX_CTRL, 0);
    rig.start_rx(&rx_context(RX_RING, RING, BUFFER, 9728), 3);
    assert!(rig.halts()[0].contains("RXDID"), "{:?}", rig.halts());
}

#[test]
fn without_a_package_nothing_is_said_of_checksums() {
    let mut rig = Rig::running(Config { package: false, ..config(Doorbells::Messages) });
    rig.command(0x0b02, &[1, 0x80], &[7; 52], 0);
    rig.post_udp(&payload(64), true);
    rig.settle();
    let (frame, words) = rig.receive().unwrap();
    assert_eq!(udp_payload(&frame), Ok(payload(64)), "what is sent is completed all the same");
    assert_eq!((words[0] >> 16 & 0x3ff, words[1] & 0x1038), (1, 0), "no more than an Ethernet header, no hash");
}

#[test]
fn two_models_on_one_cable() {
    let (near, far) = Cable::pair();
    let mut a = Rig::over(config(Doorbells::Messages), Loopback::new(), Box::new(near));
    let mut b = Rig::over(config(Doorbells::Mapped), Loopback::new(), Box::new(far));
    a.bring_up();
    b.bring_up();
    let last = a.post_udp(&payload(300), true);
    a.settle();
    b.settle();
    assert!(a.done(last) && a.receive().is_none());
    assert_eq!(udp_payload(&b.receive().unwrap().0), Ok(payload(300)));
}

#[test]
fn a_pattern_for_the_flow_director_is_not_sent() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.put([0x1234_5678, 8]);
    let last = rig.post(&[0; 64], DUMMY, [0; 3]);
    let sent = rig.post_udp(&payload(64), true);
    rig.settle();
    assert!(rig.done(last) && rig.done(sent), "{:?}", rig.halts());
    assert_eq!(udp_payload(&rig.receive().unwrap().0), Ok(payload(64)));
    assert!(rig.receive().is_none());
}
