//! Frames through the virtio model, from a driver in miniature: split and packed rings, offloads, merged buffers, commands.

mod virtio_common;

use std::time::Duration;

use stillwire_emulator::Doorbells;
use stillwire_emulator::virtio::{Config, Features};
use stillwire_emulator::wire::{Loopback, Sink};
use virtio_common::*;

const NONE: Header =
    Header { flags: 0, gso_type: 0, hdr_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0, num_buffers: 0 };

#[test]
fn frames_come_back_whole_through_rings_that_wrap() {
    for (round, features) in layouts().into_iter().enumerate() {
        let doorbells = if round % 2 == 0 { Doorbells::Mapped } else { Doorbells::Messages };
        let mut rig = Rig::running(Config { doorbells, ..Config::default() }, features);
        for i in 0..200u16 {
            let frame = udp(&vec![i as u8; usize::from(i) * 7 % 1400], (i, 9));
            rig.send(NONE, &frame);
            rig.settle();
            assert_eq!(rig.used(1).len(), 1, "{features:?} {i}");
            let (header, received) = rig.receive().unwrap_or_else(|| panic!("{features:?} {i}: no frame"));
            assert_eq!((header.num_buffers, received), (1, frame));
            rig.fill(0, 1, RX_BUFFER);
        }
        rig.at_peace();
        let counters = rig.counters();
        assert_eq!((counters.frames_sent, counters.frames_received, counters.rx_dropped), (200, 200, 0));
    }
}

#[test]
fn many_at_once_come_back_in_order_and_all() {
    for features in layouts() {
        let mut rig = Rig::new(Config::default());
        rig.bring_up(features);
        let ids: Vec<u16> = (0..12).map(|i| rig.send(NONE, &udp(&[i; 40], (7, 9)))).collect();
        rig.settle();
        let used: Vec<u16> = rig.used(1).into_iter().map(|(id, _)| id).collect();
        assert_eq!(used, ids, "{features:?}");
        // They wait in the device for buffers.
        assert_eq!(rig.receive(), None);
        rig.fill(0, 12, RX_BUFFER);
        rig.settle();
        for i in 0..12 {
            assert_eq!(rig.receive().unwrap().1, udp(&[i; 40], (7, 9)));
        }
        rig.at_peace();
    }
}

#[test]
fn in_order_one_entry_stands_for_all() {
    for (features, one) in [
        (split(), false),
        (packed(), false),
        (split() | Features::IN_ORDER, true),
        (packed() | Features::IN_ORDER, true),
    ] {
        let mut rig = Rig::watched(Config::default(), features);
        let ids: Vec<u16> = (0..5).map(|i| rig.send(NONE, &udp(&[i; 40], (7, 9)))).collect();
        rig.settle();
        let (first, _) = rig.rings[1].raw(&rig.memory).unwrap();
        assert_eq!(first, u32::from(ids[if one { 4 } else { 0 }]), "{features:?}");
        assert_eq!(rig.used(1).len(), 5);
    }
}

#[test]
fn buffers_may_come_back_in_another_order() {
    for (features, reversed) in [(split(), true), (packed(), true), (split() | Features::IN_ORDER, false)] {
        let mut rig = Rig::new(Config { out_of_order: true, ..Config::default() });
        rig.bring_up(features);
        let mut ids: Vec<u16> = (0..5).map(|i| rig.send(NONE, &udp(&[i; 40], (7, 9)))).collect();
        rig.settle();
        let used: Vec<u16> = rig.used(1).into_iter().map(|(id, _)| id).collect();
        if reversed {
            ids.reverse();
        }
        assert_eq!(used, ids);
    }
}

#[test]
fn checksums_are_completed() {
    for features in [split(), packed()] {
        let mut rig = Rig::watched(Config::default(), features);
        for (mut frame, csum_start, csum_offset) in [
            (udp(&[7; 100], (7, 9)), 34, 6),
            (udp(&[7; 99], (7, 9)), 34, 6),
            (tcp(&[7; 1000], false), 34, 16),
            (tcp(&[7; 33], true), 54, 16),
        ] {
            let whole = frame.clone();
            prepare(&mut frame, csum_start, csum_offset);
            assert!(!checksums_hold(&frame));
            let (csum_start, csum_offset) = (csum_start as u16, csum_offset as u16);
            let header = Header { flags: 1, csum_start, csum_offset, ..NONE };
            assert_eq!(rig.on_the_wire(header, &frame), [whole]);
            assert_eq!(rig.on_the_wire(NONE, &frame), [frame], "untouched without the flag");
        }
        rig.at_peace();
        assert_eq!(rig.counters().checksummed, 4);
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    let mut rig = Rig::watched(Config::default(), split());
    // The word that makes the sum all ones.
    let mut frame = udp(&[0, 0], (7, 9));
    let sum = u16::from_be_bytes([frame[40], frame[41]]);
    frame[42..44].copy_from_slice(&sum.to_be_bytes());
    prepare(&mut frame, 34, 6);
    let sent = rig.on_the_wire(Header { flags: 1, csum_start: 34, csum_offset: 6, ..NONE }, &frame);
    assert_eq!(sent[0][40..42], [0xff, 0xff]);
    assert!(checksums_hold(&sent[0]));
}

#[test]
fn a_checksum_that_was_prepared_wrongly_is_told() {
    let mut rig = Rig::watched(Config::default(), split());
    let mut frame = udp(&[7; 100], (7, 9));
    frame[40..42].fill(0);
    let sent = rig.on_the_wire(Header { flags: 1, csum_start: 34, csum_offset: 6, ..NONE }, &frame);
    assert!(!checksums_hold(&sent[0]));
    assert_eq!(rig.complaints(), ["the checksum field does not hold the sum of the pseudo-header"]);
}

#[test]
fn segments_are_cut_and_their_checksums_hold() {
    for features in [split(), packed()] {
        let mut rig = Rig::watched(Config::default(), features);
        let payload: Vec<u8> = (0..60_001u32).map(|i| (i * 31) as u8).collect();
        for (mut frame, gso_type, csum_start, csum_offset, l4) in [
            (tcp(&payload, false), 1, 34, 16, 20),
            (tcp(&payload[..3000], true), 4, 54, 16, 20),
            (udp(&payload, (7, 9)), 5, 34, 6, 8),
        ] {
            let end = csum_start + l4;
            let body = frame[end..].to_vec();
            prepare(&mut frame, csum_start, csum_offset);
            let (hdr_len, csum_start, csum_offset) = (end as u16, csum_start as u16, csum_offset as u16);
            let header =
                Header { flags: 1, gso_type, gso_size: 1448, hdr_len, csum_start, csum_offset, num_buffers: 0 };
            let sent = rig.on_the_wire(header, &frame);
            assert_eq!(sent.len(), body.len().div_ceil(1448), "{gso_type}");
            assert!(sent.iter().all(|frame| checksums_hold(frame)), "{gso_type}");
            assert_eq!(sent.iter().flat_map(|frame| frame[end..].to_vec()).collect::<Vec<u8>>(), body);
            if gso_type == 1 {
                let identities = sent.iter().map(|frame| u16::from_be_bytes([frame[18], frame[19]]));
                assert!(identities.enumerate().all(|(i, identity)| usize::from(identity) == i));
            }
        }
        rig.at_peace();
        assert_eq!(rig.counters().segmented, 3);
    }
}

#[test]
fn what_was_not_negotiated_or_makes_no_sense_is_dropped_and_named() {
    let mut frame = udp(&[7; 3000], (7, 9));
    prepare(&mut frame, 34, 6);
    let cut = Header { flags: 1, gso_type: 5, gso_size: 1000, csum_start: 34, csum_offset: 6, ..NONE };
    for (features, header, why) in [
        (split() - Features::HOST_USO, cut, "a gso_type that was not negotiated"),
        (
            split() - Features::CSUM - Features::HOST_USO - Features::HOST_TSO4 - Features::HOST_TSO6,
            cut,
            "NEEDS_CSUM, and CSUM was not negotiated",
        ),
        (split(), NONE, "a frame is longer than the MTU, and not to be segmented"),
        (split(), Header { gso_size: 0, ..cut }, "gso_size is 0"),
    ] {
        let mut rig = Rig::watched(Config::default(), features);
        assert!(rig.on_the_wire(header, &frame).is_empty());
        assert_eq!(rig.used(1).len(), 1, "the buffer comes back");
        assert_eq!((rig.complaints(), rig.halts().len()), (vec![why], 0));
        assert_eq!(rig.counters().bad_descriptors, 1);
    }
}

#[test]
fn a_page_that_is_not_still_goes_out_torn() {
    for torn in [false, true] {
        let mut rig = Rig::watched(Config { transmit_delay: Duration::from_millis(1), ..Config::default() }, packed());
        let mut frame = udp(&[7; 1000], (7, 9));
        prepare(&mut frame, 34, 6);
        rig.send(Header { flags: 1, csum_start: 34, csum_offset: 6, ..NONE }, &frame);
        rig.settle();
        assert!(rig.device.with_model(|model| model.dma_pending()));
        assert_eq!((rig.drain().len(), rig.used(1).len()), (0, 0), "not before it is due");
        if torn {
            rig.memory.write_at(TX_BUFFERS + 64 + 500, &[8]);
        }
        rig.wait(Duration::from_millis(1));
        let sent = rig.drain();
        assert_eq!(checksums_hold(&sent[0]), !torn);
        assert_eq!(rig.used(1).len(), 1);
    }
}

#[test]
fn frames_are_merged_from_as_many_buffers_as_they_need() {
    for features in layouts() {
        let mut rig = Rig::running(Config { mtu: 9000, ..Config::default() }, features);
        for (len, buffers) in [(8000, 4), (100, 1), (2048 - 12 - 42, 1), (2048 - 12 - 41, 2)] {
            let frame = udp(&vec![len as u8; len], (7, 9));
            rig.send(NONE, &frame);
            rig.settle();
            let (header, received) = rig.receive().unwrap();
            assert_eq!((usize::from(header.num_buffers), received), (buffers, frame), "{features:?}");
            rig.used(1);
            rig.fill(0, buffers as u16, RX_BUFFER);
        }
        rig.at_peace();
    }
}

#[test]
fn without_merging_a_frame_has_one_buffer_or_is_lost() {
    let mut rig = Rig::new(Config::default());
    rig.bring_up(split() - Features::MRG_RXBUF);
    // Header and frame in pieces of one chain.
    let at = IOVA + RX_BUFFERS as u64;
    rig.post(0, &[(at, 12, true), (at + 12, 30, true), (at + 42, 470, true)]);
    rig.send(NONE, &udp(&[7; 1000], (7, 9)));
    rig.send(NONE, &udp(&[8; 100], (7, 9)));
    rig.settle();
    let (header, frame) = rig.receive().unwrap();
    assert_eq!((header.num_buffers, frame), (1, udp(&[8; 100], (7, 9))));
    assert_eq!(rig.counters().rx_dropped, 1);
    assert_eq!(rig.complaints(), ["receive buffers are too short for a frame"]);
}

#[test]
fn the_receive_header_says_what_was_checked() {
    let good = udp(&[7; 100], (7, 9));
    let mut bad = good.clone();
    bad[60] ^= 1;
    let mut partial = good.clone();
    prepare(&mut partial, 34, 6);
    for (features, partial_checksums, sent, received, flags) in [
        (split(), false, &good, &good, (2, 0, 0)),
        (split(), false, &bad, &bad, (0, 0, 0)),
        (split(), true, &good, &partial, (1, 34, 6)),
        (split(), true, &bad, &bad, (0, 0, 0)),
        (split() - Features::GUEST_CSUM, true, &good, &good, (0, 0, 0)),
    ] {
        let mut rig = Rig::running(Config { partial_checksums, ..Config::default() }, features);
        rig.send(NONE, sent);
        rig.settle();
        let (header, frame) = rig.receive().unwrap();
        assert_eq!((header.flags, header.csum_start, header.csum_offset), flags);
        assert_eq!(&frame, received);
    }
}

#[test]
fn a_frame_in_many_pieces_or_behind_an_indirect_descriptor() {
    for features in [split(), packed()] {
        let mut rig = Rig::running(Config::default(), features);
        let frame = udp(&[7; 600], (7, 9));
        rig.memory.write_at(TX_BUFFERS + 12, &frame);
        rig.memory.write_at(TX_BUFFERS, &NONE.bytes());
        let at = IOVA + TX_BUFFERS as u64;
        let rest = (12 + frame.len() - 100) as u32;
        rig.post(1, &[(at, 5, false), (at + 5, 20, false), (at + 25, 75, false), (at + 100, rest, false)]);
        rig.settle();
        assert_eq!(rig.receive().unwrap().1, frame);
        assert_eq!(rig.used(1).len(), 1);
        // The same as a table of two; IDs and NEXT count in split tables only.
        let table = TX_BUFFERS + 0x8000;
        rig.memory.word64(table).store(at, std::sync::atomic::Ordering::Relaxed);
        rig.memory.word64(table + 8).store(100 | 1 << 32 | 1 << 48, std::sync::atomic::Ordering::Relaxed);
        rig.memory.word64(table + 16).store(at + 100, std::sync::atomic::Ordering::Relaxed);
        rig.memory.word64(table + 24).store(u64::from(rest), std::sync::atomic::Ordering::Relaxed);
        indirect(&mut rig, IOVA + table as u64, 32);
        rig.settle();
        assert_eq!(rig.receive().unwrap().1, frame);
        rig.at_peace();
    }
}

/// Posts a chain that is one indirect descriptor.
fn indirect(rig: &mut Rig, table: u64, len: u32) {
    let packed = rig.rings[1].packed;
    let before = rig.rings[1].size;
    assert_eq!(before, SIZE);
    // As a plain chain that is not announced yet, then with the flag.
    let memory = &rig.memory;
    let ring = &mut rig.rings[1];
    if packed {
        let id = ring.add(memory, &[(table, len, false)]);
        let slot = (0..usize::from(SIZE))
            .map(|slot| ring.base + 16 * slot)
            .find(|at| memory.word64(*at).load(std::sync::atomic::Ordering::Relaxed) == table)
            .unwrap();
        let rest = memory.word64(slot + 8).load(std::sync::atomic::Ordering::Relaxed);
        memory.word64(slot + 8).store(rest | 4 << 48, std::sync::atomic::Ordering::SeqCst);
        let _ = id;
    } else {
        let id = ring.add(memory, &[(table, len, false)]);
        ring.descriptor(memory, id, table, len, 4, 0);
    }
    rig.kick(1);
}

#[test]
fn interrupts_come_when_they_are_wanted() {
    for features in layouts() {
        let mut rig = Rig::running(Config::default(), features);
        for wanted in [false, true, false, true] {
            rig.rings.iter().for_each(|ring| ring.ask(&rig.memory, wanted));
            let before = rig.counters().interrupts;
            rig.send(NONE, &udp(&[7; 100], (7, 9)));
            rig.settle();
            let interrupts = rig.counters().interrupts - before;
            assert_eq!(interrupts, if wanted { 2 } else { 0 }, "{features:?}");
            assert_eq!((rig.used(1).len(), rig.receive().is_some()), (1, true));
        }
        rig.at_peace();
    }
}

#[test]
fn a_vector_fires_its_eventfd() {
    use stillwire_dma::Backend;
    let mut rig = Rig::running(Config::default(), split());
    let fds: Vec<_> =
        (0..2).map(|_| rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap()).collect();
    let borrowed: Vec<_> = fds.iter().map(std::os::fd::AsFd::as_fd).collect();
    rig.device.set_msix(&borrowed).unwrap();
    let far = Config::default().mac;
    assert_eq!(far[0] & 1, 0);
    rig.rings.iter().for_each(|ring| ring.ask(&rig.memory, true));
    rig.send(NONE, &udp(&[7; 100], (7, 9)));
    rig.settle();
    for fd in &fds {
        let mut count = [0; 8];
        rustix::io::read(fd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
}

#[test]
fn nothing_moves_without_its_bell() {
    for features in layouts() {
        let mut rig = Rig::running(Config::default(), features);
        rig.settle();
        let at = IOVA + TX_BUFFERS as u64;
        rig.rings[1].add(&rig.memory, &[(at, 100, false)]);
        rig.settle();
        assert_eq!(rig.used(1).len(), 0, "{features:?}");
        rig.kick(1);
        rig.settle();
        assert_eq!(rig.used(1).len(), 1, "{features:?}");
    }
}

#[test]
fn a_sink_finds_every_checksum_right() {
    let sink = Sink::new();
    let mut rig = Rig::over(Config::default(), Box::new(sink.clone()), Box::new(Loopback::new()));
    rig.bring_up(packed() | Features::IN_ORDER);
    for i in 0..100 {
        let mut frame = tcp(&[i; 1400], i % 2 == 0);
        let csum_start = if i % 2 == 0 { 54 } else { 34 };
        prepare(&mut frame, csum_start.into(), 16);
        rig.send(Header { flags: 1, csum_start, csum_offset: 16, ..NONE }, &frame);
        rig.settle();
        assert_eq!(rig.used(1).len(), 1);
    }
    let report = sink.report();
    assert_eq!((report.frames, report.good, report.bad), (100, 100, 0));
}

#[test]
fn pairs_are_used_after_the_command_and_flows_come_back_on_theirs() {
    for features in [split(), packed()] {
        let mut rig = Rig::running(Config::default(), features);
        for pair in 1..4 {
            rig.fill(pair, 8, RX_BUFFER);
        }
        rig.send_on(2, NONE, &udp(&[2; 50], (20, 30)));
        rig.settle();
        assert_eq!(rig.used(5).len(), 0, "not in use yet");
        for (command, answer) in [(&[4, 0, 0, 0][..], 1), (&[4, 0, 5, 0], 1), (&[4, 0, 4], 1), (&[4, 0, 4, 0], 0)] {
            assert_eq!(rig.command(command), Some(answer), "{command:?}");
        }
        rig.settle();
        assert_eq!(rig.used(5).len(), 1);
        assert_eq!(rig.receive_on(2).unwrap().1, udp(&[2; 50], (20, 30)));
        // The other direction of the same flow.
        rig.wire.transmit(&udp(&[9; 50], (30, 20)));
        rig.settle();
        assert_eq!(rig.receive_on(2).unwrap().1, udp(&[9; 50], (30, 20)));
        rig.at_peace();
    }
}

#[test]
fn commands_are_all_answered() {
    for features in layouts() {
        let mut rig = Rig::running(Config::default(), features);
        for (command, answer) in [
            (&[0, 0, 1][..], 0),
            (&[0, 1, 1], 0),
            (&[0, 2, 1], 1),
            (&[0, 0], 1),
            (&[1, 1, 2, 3, 4, 5, 6, 7], 0),
            (&[1, 1, 2], 1),
            (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0),
            (&[1, 0, 9, 0, 0, 0, 0, 0, 0, 0], 1),
            (&[2, 0, 1, 0], 1),
            (&[7, 7, 7], 1),
            (&[9], 1),
        ] {
            assert_eq!(rig.command(command), Some(answer), "{features:?} {command:?}");
        }
        assert_eq!(rig.read(0x2000, 4), u32::from_le_bytes([2, 3, 4, 5]), "the address that was set");
        rig.at_peace();
    }
    let mut rig = Rig::running(Config::default(), split() - Features::CTRL_RX - Features::MQ);
    rig.rings.truncate(3);
    assert_eq!(rig.command(&[0, 0, 1]), Some(1), "not negotiated");
}

#[test]
fn receive_modes_filter() {
    let mut rig = Rig::running(Config::default(), split());
    let to = |address: [u8; 6]| {
        let mut frame = udp(&[7; 60], (7, 9));
        frame[..6].copy_from_slice(&address);
        frame
    };
    let frames = [to([2, 0, 0, 0, 0, 7]), to([1, 0, 0x5e, 0, 0, 1]), to([0xff; 6]), udp(&[7; 60], (7, 9))];
    let received = |rig: &mut Rig| {
        frames.iter().for_each(|frame| rig.wire.transmit(frame));
        rig.settle();
        let got: Vec<_> = std::iter::from_fn(|| rig.receive().map(|(_, frame)| frame)).collect();
        rig.fill(0, got.len() as u16, RX_BUFFER);
        frames.iter().map(|frame| got.contains(frame)).collect::<Vec<_>>()
    };
    assert_eq!(received(&mut rig), [true; 4]);
    assert_eq!(rig.command(&[0, 0, 0]), Some(0));
    assert_eq!(received(&mut rig), [false, false, true, true]);
    assert_eq!(rig.command(&[0, 1, 1]), Some(0));
    assert_eq!(received(&mut rig), [false, true, true, true]);
}
