//! What the MAC lets in, what it says of it, and what it counts.

mod common;

use common::*;
use etherparse::PacketBuilder;
use stillwire_emulator::{Doorbells, Wire};

const MINE: [u8; 6] = [2, 0x53, 0x57, 0, 0, 1];

fn passes(rig: &mut Rig, frame: &[u8]) -> bool {
    rig.wire.clone().transmit(frame);
    rig.settle();
    rig.receive().is_some()
}

fn to(address: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame = address.to_vec();
    frame.resize(len, 0x33);
    frame
}

fn tagged(ethertype: u16, tag: u16, len: usize) -> Vec<u8> {
    let mut frame = to(MINE, len);
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
    frame[14..16].copy_from_slice(&tag.to_be_bytes());
    frame
}

#[test]
fn the_vlan_filter_has_a_bit_for_each_id() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    for id in [0, 1, 31, 32, 777, 4094, 4095] {
        rig.write(0x5088, 0x8100);
        assert!(passes(&mut rig, &tagged(0x8100, id, 64)), "the filter is off");
        rig.write(0x5088, 0x8100 | 1 << 30);
        assert!(!passes(&mut rig, &tagged(0x8100, id, 64)));
        rig.write(0xa000 + 4 * u64::from(id / 32), 1 << (id % 32));
        assert!(passes(&mut rig, &tagged(0x8100, id | 0xe000, 64)), "{id}, whatever its priority");
        for other in [id ^ 1, id ^ 32, id ^ 2048] {
            assert!(!passes(&mut rig, &tagged(0x8100, other, 64)), "{other} beside {id}");
        }
        rig.write(0xa000 + 4 * u64::from(id / 32), 0);
    }
    assert!(passes(&mut rig, &to(MINE, 60)), "an untagged frame is not filtered");
    assert!(passes(&mut rig, &tagged(0x88a8, 5, 64)), "nor one with another kind of tag");
    rig.write(0x5088, 0x88a8 | 1 << 30);
    assert!(!passes(&mut rig, &tagged(0x88a8, 5, 64)) && passes(&mut rig, &tagged(0x8100, 5, 64)));
}

#[test]
fn the_vlan_filter_looks_at_the_canonical_form_bit_when_it_is_told() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.write(0xa000, 1 << 5);
    for (control, tag, wanted) in [
        (0, 0x1005, true),
        (1 << 29, 0x0005, true),
        (1 << 29, 0x1005, false),
        (1 << 29 | 1 << 28, 0x1005, true),
        (1 << 29 | 1 << 28, 0x0005, false),
    ] {
        rig.write(0x5088, 0x8100 | 1 << 30 | control);
        assert_eq!(passes(&mut rig, &tagged(0x8100, tag, 64)), wanted, "{control:#x} {tag:#x}");
    }
}

#[test]
fn each_of_128_addresses_counts_when_it_is_valid() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    for i in 0..128u8 {
        let address = [0x02, i, 0x11, 0x22, i ^ 0xff, 0x44];
        let [a, b, c, d, e, f] = address.map(u32::from);
        let rar = 0xa200 + 8 * u64::from(i);
        assert!(!passes(&mut rig, &to(address, 60)));
        rig.write(rar, a | b << 8 | c << 16 | d << 24);
        rig.write(rar + 4, e | f << 8);
        assert!(!passes(&mut rig, &to(address, 60)), "{i}: not valid yet");
        rig.write(rar + 4, e | f << 8 | 1 << 31);
        assert!(passes(&mut rig, &to(address, 60)), "{i}");
        assert!(!passes(&mut rig, &to([0x02, i, 0x11, 0x22, i ^ 0xff, 0x45], 60)));
        if i < 16 {
            assert_eq!(rig.read(0x5400 + 8 * u64::from(i)), rig.read(rar), "the alias");
        }
        rig.write(rar + 4, 0);
    }
}

#[test]
fn the_multicast_table_takes_any_of_four_parts_of_the_address() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.write(0x5080, 0);
    let address = [0x33, 0x33, 0, 0, 0xb7, 0x5c];
    // 12 bits of the last 16, by the datasheet's bit numbers: 47:36, 46:35, 45:34, 43:32.
    for (offset, hash) in [(0u32, 0x5cb), (1, 0xb96), (2, 0x72d), (3, 0xcb7)] {
        rig.write(0x5090, offset | 1 << 2);
        assert!(!passes(&mut rig, &to(address, 60)));
        rig.write(0x5200 + 4 * (hash / 32), 1 << (hash % 32));
        assert!(passes(&mut rig, &to(address, 60)), "offset {offset}");
        rig.write(0x5090, offset);
        assert!(!passes(&mut rig, &to(address, 60)), "MFE is off");
        rig.write(0x5200 + 4 * (hash / 32), 0);
    }
}

#[test]
fn jumbo_frames_up_to_what_maxfrs_says() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let cases = [(false, 9728, 1518), (true, 9728, 9728), (true, 2000, 2000)];
    for (jumbo, maxfrs, longest) in cases {
        rig.write(0x4240, rig.read(0x4240) & !4 | u32::from(jumbo) << 2);
        rig.write(0x4268, maxfrs << 16);
        // Lengths with the check sequence; a tag may come on top.
        for (frame, wanted) in [
            (to(MINE, longest - 4), true),
            (to(MINE, longest - 3), false),
            (tagged(0x8100, 5, longest), true),
            (tagged(0x8100, 5, longest + 1), false),
        ] {
            let before = rig.read(0x40ac);
            assert_eq!(before, 0);
            assert_eq!(passes(&mut rig, &frame), wanted, "{} bytes, longest {longest}", frame.len());
            assert_eq!(rig.read(0x40ac), u32::from(!wanted), "ROC");
        }
    }
}

#[test]
fn verdicts_on_checksums() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let link = || PacketBuilder::ethernet2([1; 6], MINE);
    let build = |v6: bool, kind: u8| {
        let mut frame = Vec::new();
        let step = if v6 { link().ipv6([1; 16], [2; 16], 3) } else { link().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 3) };
        match kind {
            0 => step.udp(5, 6).write(&mut frame, &[7; 61]).unwrap(),
            1 => step.tcp(5, 6, 7, 8).write(&mut frame, &[7; 61]).unwrap(),
            _ => {
                let mut packet = [&[0, 5, 0, 6, 1, 2, 3, 4, 0, 0, 0, 0][..], &[7; 61]].concat();
                let crc = crc32c::crc32c(&packet).to_le_bytes();
                packet[8..12].copy_from_slice(&crc);
                step.write(&mut frame, etherparse::IpNumber::SCTP, &packet).unwrap();
            }
        }
        frame
    };
    let mut seen = |frame: &[u8]| {
        rig.wire.clone().transmit(frame);
        rig.settle();
        let (_, low, high) = rig.receive().expect("a frame");
        // Packet type; IPCS, L4CS, UDPCS; IPE, TCPE.
        (low >> 4 & 0xfff, high >> 6 & 1, high >> 5 & 1, high >> 4 & 1, high >> 31 & 1, high >> 30 & 1)
    };
    for v6 in [false, true] {
        for kind in 0..3u8 {
            let ip = u64::from(!v6);
            let kinds = if v6 { 1 << 2 } else { 1 } | [1 << 5, 1 << 4, 1 << 6][usize::from(kind)];
            let udp = u64::from(kind == 0);
            let good = build(v6, kind);
            assert_eq!(seen(&good), (kinds, ip, 1, udp, 0, 0), "v6 {v6} {kind}");
            let mut bad = good.clone();
            *bad.last_mut().unwrap() ^= 1;
            assert_eq!(seen(&bad), (kinds, ip, 1, udp, 0, 1), "v6 {v6} {kind}: payload");
            if !v6 {
                let mut bad = good.clone();
                bad[22] ^= 1;
                assert_eq!(seen(&bad), (kinds, 1, 1, udp, 1, 0), "{kind}: a time to live");
            }
        }
    }
    // UDP without a checksum, and what is no IP packet: nothing was checked.
    let mut frame = build(false, 0);
    frame[40..42].fill(0);
    assert_eq!(seen(&frame), (0x21, 1, 0, 0, 0, 0));
    assert_eq!(seen(&to(MINE, 60)), (0, 0, 0, 0, 0, 0));
}

#[test]
fn every_frame_is_counted_in_its_place() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.write(0x5080, 1 << 8 | 1 << 10);
    rig.write(0x4240, rig.read(0x4240) | 4);
    rig.write(0x4268, 9728 << 16);
    // Lengths with the check sequence: one and two at the edges of each class.
    let lengths = [64, 64, 65, 127, 128, 255, 255, 256, 511, 512, 1023, 1024, 1518, 9000];
    let classes = [2, 2, 3, 2, 2, 3];
    let group = [0x01, 0, 0x5e, 0, 0, 1];
    for (i, len) in lengths.into_iter().enumerate() {
        let address = [MINE, group, [0xff; 6]][i % 3];
        rig.memory.write_at(PAYLOAD, &to(address, len - 4));
        rig.put(data(PAYLOAD, len - 4, EOP | IFCS | RS, 0, len - 4));
        rig.ring_bell();
        rig.settle();
        assert!(rig.receive().is_some(), "{:?}", rig.halts());
    }
    // Three more that come in and are not received: too short, too long, for somebody else.
    for frame in [to(MINE, 59), to(MINE, 9800), to([2; 6], 96)] {
        assert!(!passes(&mut rig, &frame));
    }
    let bytes = lengths.iter().sum::<usize>() as u32;
    let all = lengths.len() as u32;
    let counters = [
        ("GPTC", 0x4080, all),
        ("TPT", 0x40d4, all),
        ("GOTCL", 0x4090, bytes),
        ("GOTCH", 0x4094, 0),
        ("MPTC", 0x40f0, 5),
        ("BPTC", 0x40f4, 4),
        ("GPRC", 0x4074, all),
        ("TPR", 0x40d0, all + 3),
        ("GORCL", 0x4088, bytes),
        ("GORCH", 0x408c, 0),
        ("TORL", 0x40c0, bytes + 63 + 9804 + 100),
        ("TORH", 0x40c4, 0),
        ("MPRC", 0x407c, 5),
        ("BPRC", 0x4078, 4),
        ("RUC", 0x40a4, 1),
        ("ROC", 0x40ac, 1),
        ("QPRC", 0x1030, all),
        ("QBRC", 0x1034, bytes),
        ("QPTC", 0x6030, all),
        ("QBTC", 0x8700, bytes),
        ("MPC", 0x3fa0, 0),
        ("RNBC", 0x3fc0, 0),
    ];
    for (name, offset, wanted) in counters {
        assert_eq!(rig.read(offset), wanted, "{name}");
        assert_eq!(rig.read(offset), 0, "{name} is cleared by reading");
    }
    for (class, wanted) in classes.into_iter().enumerate() {
        let at = 4 * class as u64;
        assert_eq!((rig.read(0x405c + at), rig.read(0x40d8 + at)), (wanted, wanted), "class {class}");
    }
    // A disabled queue has no room.
    rig.write(RXDCTL, 0);
    assert!(!passes(&mut rig, &to(MINE, 60)));
    assert_eq!((rig.read(0x3fc0), rig.read(0x1430), rig.read(0x1030)), (1, 1, 0), "RNBC, QPRDC, QPRC");
}
