//! Frames through the 82599 model: rings by hand, checksums by a third party.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use etherparse::PacketBuilder;
use stillwire_dma::{Access, Backend, HugePages, SharedMemory};
use stillwire_emulator::wire::{Cable, Loopback, Sink};
use stillwire_emulator::{Config, Doorbells, Wire};

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
            let (frame, low, high) = rig.receive().expect("a frame");
            assert_eq!(udp_payload(&frame), Ok(payload(len)));
            assert_eq!(low >> 4 & 0xfff, 0x21, "IPv4 and UDP");
            // DD, EOP, UDPCS, L4CS, IPCS; no errors.
            assert_eq!(high & 0xffff_ffff, 0x73, "{high:#x}");
        }
        assert_eq!(rig.read(TDH), 9);
        // GPTC counts three frames, once.
        assert_eq!((rig.read(0x4080), rig.read(0x4080)), (3, 0));
        assert_eq!(rig.read(0x4074), 3);
        let bytes = 64 + (142 + 4) + (1043 + 4);
        assert_eq!((rig.read(0x4090), rig.read(0x4094), rig.read(0x4088)), (bytes, 0, bytes));
        let complaints = rig.device.with_model(|model| model.complaints().clone());
        assert!(complaints.is_empty(), "{complaints:?}");
    }
}

#[test]
fn address_words_survive_and_only_reported_descriptors_say_done() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let quiet = rig.post_udp(&payload(64), false);
    let loud = rig.post_udp(&payload(64), true);
    rig.settle();
    assert!(!rig.done(quiet) && rig.done(loud));
    for i in [loud - 2, loud - 1, loud] {
        let address = rig.memory.word64(TX_RING + 16 * i as usize).load(Ordering::Relaxed);
        let second = rig.memory.word64(TX_RING + 16 * i as usize + 8).load(Ordering::Relaxed);
        let wanted = match i {
            _ if i == loud => data(PAYLOAD + 0x1000, 64, EOP | IFCS | RS, 1 << 32, 0),
            _ if i == loud - 1 => data(PAYLOAD, 42, IFCS, IXSM | TXSM, 106),
            _ => context(14, 20, 8, 0, 0, true),
        };
        assert_eq!([address, second], wanted);
    }
}

#[test]
fn wthresh_writes_back_without_rs_and_head_write_back_instead_of_dd() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.write(TXDCTL, ENABLE | 4 << 16 | 1 << 8 | 32);
    let quiet = rig.post_udp(&payload(64), false);
    rig.settle();
    assert!(rig.done(quiet));

    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.write(0x600c, 0); // DCA_TXCTRL: no relaxed ordering
    rig.write(0x6038, (IOVA as u32 + HEAD as u32) | 1);
    let quiet = rig.post_udp(&payload(64), false);
    rig.settle();
    let head = || rig.memory.word32(HEAD).load(Ordering::Acquire);
    assert_eq!((head(), rig.done(quiet)), (0, false));
    let loud = rig.post_udp(&payload(64), true);
    rig.settle();
    assert_eq!(rig.memory.word32(HEAD).load(Ordering::Acquire), loud + 1);
    assert!(!rig.done(loud));
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
        let (frame, _, high) = rig.receive().expect("a frame");
        let wanted = if changed { Err("UDP checksum".to_owned()) } else { Ok(payload(100)) };
        assert_eq!(udp_payload(&frame), wanted);
        // The receiving side says the same: TCPE (L4E).
        assert_eq!(high >> 30 & 1 == 1, changed);
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
fn no_dma_without_bus_mastering() {
    for doorbells in [Doorbells::Messages, Doorbells::Mapped] {
        let mut rig = Rig::running(config(doorbells));
        rig.master(false);
        let before = rig.device.with_model(|model| model.counters());
        let last = rig.post_udp(&payload(64), true);
        rig.wire.clone().transmit(&[0xff; 60]);
        (0..10).for_each(|_| _ = rig.step());
        let after = rig.device.with_model(|model| model.counters());
        assert_eq!((after.dma_reads, after.dma_writes), (before.dma_reads, before.dma_writes));
        assert!(!rig.done(last) && rig.receive().is_none());
        rig.master(true);
        rig.settle();
        assert!(rig.done(last));
    }
}

#[test]
fn master_disable_is_acknowledged_only_when_nothing_is_pending() {
    for doorbells in [Doorbells::Messages, Doorbells::Mapped] {
        let mut rig = Rig::running(config(doorbells));
        rig.device.with_model(|model| model.faults().stall_tx = true);
        let last = rig.post_udp(&payload(64), true);
        rig.settle();
        rig.write(TXDCTL, 0);
        // A page is memory: it shows what was written. A message shows what is.
        assert_eq!(rig.read(TXDCTL) & ENABLE != 0, doorbells == Doorbells::Messages);
        rig.write(CTRL, 1 << 2);
        rig.settle();
        assert_ne!(rig.read(STATUS) & 1 << 19, 0, "a stalled frame is pending DMA");
        let mut status = [0; 2];
        rig.device.config_read(0xaa, &mut status).unwrap();
        assert_ne!(status[0] & 1 << 5, 0);
        rig.device.with_model(|model| model.faults().stall_tx = false);
        rig.settle();
        assert_eq!(rig.read(STATUS) & 1 << 19, 0);
        assert_eq!(rig.read(TXDCTL) & ENABLE, 0);
        assert!(rig.done(last));
        let reads = rig.device.with_model(|model| model.counters().dma_reads);
        rig.post_udp(&payload(64), true);
        rig.settle();
        assert_eq!(rig.device.with_model(|model| model.counters().dma_reads), reads);
    }
}

#[test]
fn the_pages_are_looked_at_before_a_message_is_answered() {
    let mut rig = Rig::running(config(Doorbells::Mapped));
    rig.post_udp(&payload(64), true);
    rig.settle();
    // Disabled and enabled by stores alone: nobody can tell. With a message between, the queue has started anew, and
    // a new queue has no context yet.
    for (message, halts) in [(false, 0), (true, 1)] {
        rig.write(TXDCTL, 0);
        if message {
            rig.read(STATUS);
        }
        rig.write(TXDCTL, ENABLE);
        rig.put(data(PAYLOAD, 106, EOP | IFCS | RS, TXSM, 106));
        rig.ring_bell();
        rig.settle();
        assert_eq!(rig.halts().len(), halts, "{:?}", rig.halts());
    }
}

#[test]
fn faults_that_never_acknowledge() {
    let rig = Rig::running(config(Doorbells::Messages));
    rig.device.with_model(|model| model.faults().stuck_tx_disable = true);
    rig.write(TXDCTL, 0);
    assert_ne!(rig.read(TXDCTL) & ENABLE, 0);
    rig.device.with_model(|model| model.faults().stuck_tx_disable = false);
    assert_eq!(rig.read(TXDCTL) & ENABLE, 0);
    rig.device.with_model(|model| model.faults().stuck_master = true);
    rig.write(CTRL, 1 << 2);
    assert_ne!(rig.read(STATUS) & 1 << 19, 0);
    rig.device.with_model(|model| model.faults().all_ones = true);
    assert_eq!(rig.read(STATUS), u32::MAX);
}

#[test]
fn a_pulled_card_and_a_lost_link_complete_nothing() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.device.with_model(|model| model.faults().link_down = true);
    rig.step();
    assert_eq!(rig.read(0x42a4) & 1 << 30, 0);
    let last = rig.post_udp(&payload(64), true);
    rig.settle();
    assert!(!rig.done(last));
    rig.device.with_model(|model| model.faults().link_down = false);
    rig.settle();
    assert!(rig.done(last));
    let last = rig.post_udp(&payload(64), true);
    rig.device.with_model(|model| model.faults().all_ones = true);
    assert!(!rig.step() && !rig.done(last));
    rig.device.with_model(|model| model.faults().all_ones = false);
    assert_eq!((rig.read(STATUS), rig.read(TXDCTL)), (0x0008_0000, 0), "it comes back as after power-on");
}

#[test]
fn a_pulled_card_reads_ones_in_the_mapped_pages_too() {
    let mut rig = Rig::running(config(Doorbells::Mapped));
    let last = rig.post_udp(&payload(64), true);
    rig.device.with_model(|model| model.faults().all_ones = true);
    rig.step();
    assert_eq!((rig.read(TDH), rig.read(RDT), rig.read(STATUS)), (u32::MAX, u32::MAX, u32::MAX));
    assert!(!rig.done(last));
}

#[test]
fn two_models_on_one_cable() {
    let (one, other) = Cable::pair();
    let mut a = Rig::over(config(Doorbells::Mapped), Loopback::new(), Box::new(one));
    let mac = [2, 0x53, 0x57, 0, 0, 9];
    let mut b = Rig::over(Config { mac, ..config(Doorbells::Messages) }, Loopback::new(), Box::new(other));
    a.bring_up();
    b.bring_up();
    for len in [30, 500] {
        a.post_udp(&payload(len), true);
        a.settle();
        b.settle();
        assert_eq!(b.receive().map(|(frame, ..)| udp_payload(&frame)), Some(Ok(payload(len))));
    }
    drop(b);
    a.step();
    assert_eq!(a.read(0x42a4), 0, "no link without a far end");
}

#[test]
fn frames_are_lost_and_damaged_on_demand() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.device.with_model(|model| (model.faults().lose_every, model.faults().corrupt_every) = (2, 3));
    for _ in 0..4 {
        rig.post_udp(&payload(64), true);
        rig.settle();
    }
    let verdicts: Vec<bool> = std::iter::from_fn(|| rig.receive()).map(|(f, ..)| udp_payload(&f).is_ok()).collect();
    assert_eq!(verdicts, [true, false]);
}

#[test]
fn what_hardware_cannot_do_stops_the_queue_and_is_named() {
    let whole = |command, options, payload_len| data(PAYLOAD, 106, command, options, payload_len);
    let good = context(14, 20, 8, 0, 0, true);
    let cases: Vec<(&str, Vec<[u64; 2]>)> = vec![
        ("length 0", vec![data(PAYLOAD, 0, EOP | IFCS | RS, 0, 0)]),
        ("PAYLEN", vec![good, whole(EOP | IFCS | RS, TXSM, 105)]),
        ("IFCS", vec![good, whole(EOP | RS, TXSM, 106)]),
        ("without a context", vec![whole(EOP | IFCS | RS, TXSM, 106)]),
        ("MACLEN", vec![context(13, 20, 8, 0, 0, true), whole(EOP | IFCS | RS, TXSM, 106)]),
        ("no room", vec![context(90, 10, 8, 0, 0, true), whole(EOP | IFCS | RS, TXSM, 106)]),
        ("L4T", vec![context(14, 20, 8, 0, 3, true), whole(EOP | IFCS | RS, TXSM, 106)]),
        ("IXSM without", vec![context(14, 20, 8, 0, 0, false), whole(EOP | IFCS | RS, IXSM, 106)]),
        ("middle of a frame", vec![whole(IFCS, 0, 200), good]),
        ("40", (0..41).map(|_| data(PAYLOAD, 4, IFCS, 0, 200)).collect()),
        ("neither context nor data", vec![[0, 7 << 20 | 1 << 29]]),
        ("two contexts", vec![[0, 2 << 20 | 1 << 29 | 2 << 36]]),
        ("shorter than", vec![data(PAYLOAD, 13, EOP | IFCS | RS, 0, 13)]),
        ("longer than", vec![data(PAYLOAD, 16000, EOP | IFCS | RS, 0, 16000)]),
        ("bus fault", vec![[0xdead_0000, 60 | 3 << 20 | 1 << 29 | EOP | IFCS | RS | 60 << 46]]),
        ("MSS", vec![context(14, 20, 8, 0, 0, true), whole(EOP | IFCS | RS | TSE, TXSM | IXSM, 64)]),
        ("payload's length", vec![context(14, 20, 8, 16, 0, true), whole(EOP | IFCS | RS | TSE, TXSM | IXSM, 63)]),
        ("TSO needs TXSM", vec![context(14, 20, 8, 16, 0, true), whole(EOP | IFCS | RS | TSE, IXSM, 64)]),
    ];
    for (reason, descriptors) in cases {
        let mut rig = Rig::running(config(Doorbells::Messages));
        for words in descriptors {
            rig.put(words);
        }
        rig.ring_bell();
        rig.settle();
        let halts = rig.halts();
        assert!(halts.len() == 1 && halts[0].contains(reason), "{reason}: {halts:?}");
        assert!(rig.receive().is_none());
        // It stands still until it is set up anew.
        rig.post_udp(&payload(10), true);
        rig.settle();
        assert!(rig.receive().is_none());
        rig.write(TXDCTL, 0);
        rig.bring_up();
        rig.post_udp(&payload(30), true);
        rig.settle();
        assert_eq!(rig.receive().map(|(frame, ..)| udp_payload(&frame)), Some(Ok(payload(30))), "{reason}");
    }
}

#[test]
fn rings_and_tails_that_cannot_be() {
    for (register, value, reason) in
        [(0x6008, 0, "length"), (0x6008, 100, "length"), (0x6000, 0x10_0040, "aligned"), (0x6010, 64, "head")]
    {
        let rig = Rig::running(config(Doorbells::Messages));
        rig.write(TXDCTL, 0);
        rig.write(register, value);
        rig.write(TXDCTL, ENABLE);
        rig.settle();
        assert!(rig.halts().len() == 1 && rig.halts()[0].contains(reason), "{reason}: {:?}", rig.halts());
    }
    let rig = Rig::running(config(Doorbells::Messages));
    rig.write(TDT, RING);
    rig.settle();
    assert!(rig.halts()[0].contains("TDT"), "{:?}", rig.halts());
}

#[test]
fn a_read_only_mapping_takes_no_write() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let file = SharedMemory::new("file", 4096, HugePages::Never).unwrap();
    rig.device.dma_map(0x800_0000, &file, 0..4096, Access::ReadOnly).unwrap();
    // Sending from it works...
    rig.put([0x800_0000, 60 | 3 << 20 | 1 << 29 | EOP | IFCS | RS | 60 << 46]);
    rig.ring_bell();
    rig.settle();
    assert!(rig.done(0));
    // ...receiving into it is a bus fault.
    rig.memory.word64(RX_RING).store(0x800_0000, Ordering::Release);
    rig.wire.clone().transmit(&[0xff; 60]);
    rig.settle();
    let counters = rig.device.with_model(|model| model.counters());
    assert_eq!(counters.bus_faults, 1);
    assert!(rig.halts()[0].contains("writing a frame"), "{:?}", rig.halts());
    let mut byte = [9];
    file.read_at(0, &mut byte);
    assert_eq!(byte, [0]);
    rig.device.dma_unmap(0x800_0000, 4096).unwrap();
    rig.put([0x800_0000, 60 | 3 << 20 | 1 << 29 | EOP | IFCS | RS | 60 << 46]);
    rig.ring_bell();
    rig.settle();
    assert_eq!(rig.device.with_model(|model| model.counters().bus_faults), 2);
}

#[test]
fn tcp_segmentation_makes_whole_frames() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let mut header = Vec::new();
    PacketBuilder::ethernet2([2, 0x53, 0x57, 0, 0, 1], [0xff; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(5, 6, u32::MAX - 99, 512)
        .ack(3)
        .psh()
        .fin()
        .write(&mut header, &[])
        .unwrap();
    header[16..18].fill(0);
    header[18..20].copy_from_slice(&0xffffu16.to_be_bytes());
    header[24..26].fill(0);
    let sum = pseudo(&header[26..34], 6, 0);
    header[50..52].copy_from_slice(&sum.to_be_bytes());
    rig.memory.write_at(PAYLOAD, &header);
    rig.memory.write_at(PAYLOAD + 0x1000, &payload(2500));
    rig.put(context(14, 20, 20, 1000, 1, true));
    rig.put(data(PAYLOAD, 54, IFCS | TSE, IXSM | TXSM, 2500));
    let last = rig.put(data(PAYLOAD + 0x1000, 2500, EOP | IFCS | RS | TSE, 0, 0));
    rig.ring_bell();
    rig.settle();
    assert!(rig.done(last), "{:?}", rig.halts());
    let mut joined = Vec::new();
    for (i, len) in [1000, 1000, 500].into_iter().enumerate() {
        let (frame, _, high) = rig.receive().expect("a segment");
        let packet = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let (Some(etherparse::NetHeaders::Ipv4(ip, _)), Some(etherparse::TransportHeader::Tcp(tcp))) =
            (&packet.net, &packet.transport)
        else {
            panic!("TCP over IPv4")
        };
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(ip, packet.payload.slice()).unwrap());
        assert_eq!((ip.total_len, ip.identification), (40 + len, 0xffffu16.wrapping_add(i as u16)));
        assert_eq!(tcp.sequence_number, (u32::MAX - 99).wrapping_add(1000 * i as u32));
        assert_eq!((tcp.ack, tcp.psh, tcp.fin), (true, i == 2, i == 2));
        assert_eq!(high & 0x6000_0000, 0);
        joined.extend_from_slice(packet.payload.slice());
    }
    assert_eq!(joined, payload(2500));
}

#[test]
fn vlan_tags_go_in_and_are_stripped() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.memory.write_at(PAYLOAD, &[0xff; 60]);
    let mut words = context(14, 0, 0, 0, 0, false);
    words[0] |= 0x0123 << 16;
    rig.put(words);
    rig.put(data(PAYLOAD, 60, EOP | IFCS | RS | VLE, 0, 60));
    rig.ring_bell();
    rig.settle();
    let (frame, _, high) = rig.receive().unwrap();
    assert_eq!((frame.len(), &frame[12..16], high >> 3 & 1), (64, &[0x81, 0, 0x01, 0x23][..], 0));
    rig.write(RXDCTL, ENABLE | 1 << 30);
    rig.wire.clone().transmit(&frame);
    rig.settle();
    let (stripped, _, high) = rig.receive().unwrap();
    assert_eq!((stripped, high >> 3 & 1, high >> 48), (vec![0xff; 60], 1, 0x0123));
}

#[test]
fn big_frames_span_buffers_and_limits_hold() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let mut frame = vec![0x11; 9000];
    frame[..6].fill(0xff);
    rig.wire.clone().transmit(&frame);
    rig.settle();
    assert!(rig.receive().is_none());
    assert_eq!(rig.read(0x40ac), 1, "ROC");
    rig.write(0x4240, rig.read(0x4240) | 1 << 2);
    rig.write(0x4268, 9728 << 16);
    rig.wire.clone().transmit(&frame);
    rig.settle();
    assert_eq!(rig.receive().map(|(got, ..)| got == frame), Some(true));
}

#[test]
fn filters_let_in_what_they_should() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let mine = [2, 0x53, 0x57, 0, 0, 1];
    let other = [2, 0x53, 0x57, 0, 0, 2];
    let group = [1, 0, 0x5e, 0, 0, 5];
    let passes = |rig: &mut Rig, to: [u8; 6]| {
        let frame = [&to[..], &[0; 54]].concat();
        rig.wire.clone().transmit(&frame);
        rig.settle();
        rig.receive().is_some()
    };
    assert!(passes(&mut rig, mine) && passes(&mut rig, [0xff; 6]));
    assert!(!passes(&mut rig, other) && !passes(&mut rig, group));
    rig.write(0x5080, 1 << 9);
    assert!(passes(&mut rig, other) && !passes(&mut rig, group) && !passes(&mut rig, [0xff; 6]));
    rig.write(0x5080, 1 << 8);
    assert!(passes(&mut rig, group) && passes(&mut rig, [0xff; 6]) && !passes(&mut rig, other));
    // The hash of 01:00:5e:00:00:05 is its upper 12 bits: 0x050.
    rig.write(0x5080, 0);
    rig.write(0x5090, 1 << 2);
    assert!(!passes(&mut rig, group));
    rig.write(0x5200 + 4 * (0x050 / 32), 1 << (0x050 % 32));
    assert!(passes(&mut rig, group));
}

#[test]
fn without_descriptors_a_queue_drops_or_waits() {
    for drop in [true, false] {
        let mut rig = Rig::running(config(Doorbells::Messages));
        rig.write(0x1014, 2 | 1 << 25 | if drop { 1 << 28 } else { 0 });
        for i in 0..RING + 4 {
            let mut frame = [0xff; 60];
            frame[20] = i as u8;
            rig.wire.clone().transmit(&frame);
        }
        rig.settle();
        let mut seen = Vec::new();
        for _ in 0..2 {
            while let Some((frame, ..)) = rig.receive() {
                seen.push(frame[20]);
            }
            rig.settle();
        }
        let wanted = if drop { RING - 1 } else { RING + 4 };
        assert_eq!(seen, (0..wanted as u8).collect::<Vec<_>>(), "drop {drop}");
        assert_eq!(rig.read(0x1430), if drop { 5 } else { 0 }, "QPRDC");
    }
}

#[test]
fn what_stands_in_a_refilled_descriptors_header_word_does_not_matter() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    for i in 0..RING as usize {
        // As Linux refills: the buffer's address is new, the rest of the last write-back but the length stays.
        rig.memory.word64(RX_RING + 16 * i + 8).store(1, Ordering::Release);
    }
    rig.post_udp(&payload(100), true);
    rig.settle();
    let (frame, ..) = rig.receive().expect("a frame");
    assert_eq!(udp_payload(&frame), Ok(payload(100)));
    assert!(rig.halts().is_empty());
}

#[test]
fn rss_spreads_and_reports_the_hash() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let key = [0x6d5a_56da_u32, 0x255b_0ec2, 0x4167_253d, 0x43a3_8fb0, 0xd0ca_2bcb, 0xae7b_30b4, 0x77cb_2da3];
    for (i, word) in key.into_iter().enumerate() {
        rig.write(0x5c80 + 4 * i as u64, word.swap_bytes());
    }
    rig.write(0x5818, 1 | 1 << 22);
    rig.write(0x5000, 1 << 13);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([1; 6], [0xff; 6])
        .ipv4([66, 9, 149, 187], [161, 142, 100, 80], 64)
        .udp(2794, 1766)
        .write(&mut frame, &[0; 40])
        .unwrap();
    rig.wire.clone().transmit(&frame);
    rig.settle();
    let (_, low, _) = rig.receive().expect("a frame on queue 0");
    assert_eq!((low >> 32, low & 0xf), (0x51cc_c178, 7));
    // The entry of the hash's low 7 bits (0x78) names queue 1, which is not there: dropped.
    rig.write(0x5c00 + 0x78, 1);
    rig.wire.clone().transmit(&frame);
    rig.settle();
    assert!(rig.receive().is_none());
    assert_eq!(rig.device.with_model(|model| model.counters().rx_dropped), 1);
}

#[test]
fn legacy_descriptors_are_taken() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let header = udp_header(64);
    rig.memory.write_at(PAYLOAD, &header);
    rig.memory.write_at(PAYLOAD + header.len(), &payload(64));
    // The IPv4 header's checksum, by generic sum: from 14... over the header only it cannot be, so it is set in software.
    let ip = etherparse::Ipv4Header::from_slice(&header[14..]).unwrap().0.calc_header_checksum();
    rig.memory.write_at(PAYLOAD + 24, &ip.to_be_bytes());
    // CSO 40, EOP | IFCS | IC | RS, CSS 34.
    let last = rig.put([IOVA + PAYLOAD as u64, 106 | 40 << 16 | EOP | IFCS | 1 << 26 | RS | 34 << 40]);
    rig.ring_bell();
    rig.settle();
    assert!(rig.done(last), "{:?}", rig.halts());
    assert_eq!(rig.receive().map(|(frame, ..)| udp_payload(&frame)), Some(Ok(payload(64))));
}

#[test]
fn sctp_gets_its_crc() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let sink = Sink::new();
    let mut frame = udp_header(40);
    frame.extend(payload(40));
    frame[23] = 132;
    frame[42..46].fill(0);
    rig.memory.write_at(PAYLOAD, &frame);
    rig.put(context(14, 20, 0, 0, 2, true));
    rig.put(data(PAYLOAD, frame.len(), EOP | IFCS | RS, IXSM | TXSM, frame.len()));
    rig.ring_bell();
    rig.settle();
    let (got, low, high) = rig.receive().expect("a frame");
    assert_eq!((low >> 10 & 1, high >> 5 & 1, high >> 30 & 3), (1, 1, 0));
    sink.clone().transmit(&got);
    assert_eq!(sink.report().good, 1);
}

#[test]
fn a_queue_set_up_again_between_two_looks_starts_anew() {
    let mut rig = Rig::running(config(Doorbells::Mapped));
    rig.post_udp(&payload(64), true);
    rig.settle();
    assert!(rig.receive().is_some());
    // Disabled, reprogrammed and enabled by plain stores, with no step and no message between.
    rig.write(TXDCTL, 0);
    rig.write(TDT, 0);
    rig.write(TDH, 0);
    rig.write(TXDCTL, ENABLE);
    rig.restart_tx();
    let last = rig.post_udp(&payload(33), true);
    assert_eq!(last, 2);
    rig.settle();
    assert_eq!(rig.receive().map(|(frame, ..)| udp_payload(&frame)), Some(Ok(payload(33))));
}

#[test]
fn udp_segmentation_over_v6() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let mut header = Vec::new();
    PacketBuilder::ethernet2([2, 0x53, 0x57, 0, 0, 1], [0xff; 6])
        .ipv6([0x20; 16], [0x21; 16], 3)
        .udp(5, 6)
        .write(&mut header, &[])
        .unwrap();
    header[18..20].fill(0);
    let sum = pseudo(&header[22..54], 17, 0);
    header[60..62].copy_from_slice(&sum.to_be_bytes());
    rig.memory.write_at(PAYLOAD, &header);
    rig.memory.write_at(PAYLOAD + 62, &payload(700));
    rig.put(context(14, 40, 8, 333, 0, false));
    let last = rig.put(data(PAYLOAD, 762, EOP | IFCS | RS | TSE, TXSM, 700));
    rig.ring_bell();
    rig.settle();
    assert!(rig.done(last), "{:?}", rig.halts());
    let mut joined = Vec::new();
    for len in [333, 333, 34] {
        let (frame, low, high) = rig.receive().expect("a segment");
        assert_eq!((low >> 4 & 0xfff, high & 0xffff_ffff), (0x24, 0x33), "IPv6, UDP; DD, EOP, UDPCS, L4CS");
        let packet = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let (Some(etherparse::NetHeaders::Ipv6(ip, _)), Some(etherparse::TransportHeader::Udp(udp))) =
            (&packet.net, &packet.transport)
        else {
            panic!("UDP over IPv6")
        };
        assert_eq!((ip.payload_length, udp.length), (8 + len, 8 + len));
        assert_eq!(udp.checksum, udp.calc_checksum_ipv6(ip, packet.payload.slice()).unwrap());
        joined.extend_from_slice(packet.payload.slice());
    }
    assert_eq!(joined, payload(700));
}

#[test]
fn misuse_that_hardware_forgives_is_named() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.write(TXDCTL, 0);
    rig.write(TDT, 5);
    rig.write(TDT, 0);
    rig.write(TXDCTL, ENABLE | 32);
    rig.write(0x6008, 4096);
    rig.write(0x100c, 1 << 12);
    rig.write(0x2f00, 0);
    rig.wire.clone().transmit(&[0xff; 60]);
    rig.settle();
    assert!(rig.receive().is_some());
    let complaints = rig.device.with_model(|model| model.complaints().clone());
    for wanted in ["tail was written before", "HTHRESH", "while the queue is enabled", "bit 12", "CRCSTRIP differ"] {
        assert!(complaints.iter().any(|text| text.contains(wanted)), "{wanted}: {complaints:?}");
    }
}

#[test]
fn a_frame_of_an_earlier_life_reports_into_no_later_ring() {
    for doorbells in [Doorbells::Mapped, Doorbells::Messages] {
        let mut rig = Rig::running(config(doorbells));
        rig.device.with_model(|model| model.faults().stall_tx = true);
        let last = rig.post_udp(&payload(64), true);
        rig.settle();
        rig.write(TXDCTL, 0);
        rig.write(TDT, 0);
        rig.step();
        rig.write(TXDCTL, ENABLE);
        rig.step();
        rig.device.with_model(|model| model.faults().stall_tx = false);
        rig.settle();
        assert!(rig.receive().is_some(), "its bytes are read all the same: it was pending DMA");
        assert_eq!((rig.done(last), rig.read(TDH)), (false, 0));
    }
}
