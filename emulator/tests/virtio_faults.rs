//! Rings that make no sense, and a device that does not either.

mod virtio_common;

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use stillwire_dma::Backend;
use stillwire_emulator::virtio::{Config, Faults, Features, Misuse};
use virtio_common::*;

const GONE: u64 = 0x4000_0000;

/// Breaks a ring on queue `queue`; the device must say so, stand still, and be as new after its reset.
fn breaks(features: Features, queue: usize, why: &str, damage: impl FnOnce(&mut Rig)) {
    let mut rig = Rig::running(Config::default(), features);
    rig.write(16, 2, 40);
    rig.settle();
    let interrupts = rig.counters().interrupts;
    damage(&mut rig);
    rig.ring_bell(queue, queue as u16);
    rig.settle();
    assert_eq!(rig.status(), 15 | NEEDS_RESET, "{why}");
    assert_eq!(rig.halts().len(), 1, "{:?}", rig.halts());
    assert!(rig.halts()[0].contains(why), "{why}: {:?}", rig.halts());
    assert!(rig.counters().interrupts > interrupts, "{why}: the configuration interrupt");
    assert_eq!(rig.counters().bad_descriptors, 1, "{why}");
    // Nothing moves any more.
    let before = rig.counters();
    rig.ring_bell(1, 1);
    rig.settle();
    assert_eq!((rig.counters().dma_reads, rig.counters().dma_writes), (before.dma_reads, before.dma_writes), "{why}");
    rig.bring_up(features);
    rig.fill(0, 4, RX_BUFFER);
    rig.send(Header::default(), &udp(&[7; 100], (7, 9)));
    rig.settle();
    assert_eq!(rig.receive().unwrap().1, udp(&[7; 100], (7, 9)), "{why}");
}

#[test]
fn a_split_ring_that_cannot_be_followed_ends_the_device() {
    let at = IOVA + TX_BUFFERS as u64;
    let offer = |rig: &mut Rig, id: u16, address: u64, len: u32, flags: u16, next: u16| {
        let Rig { rings, memory, .. } = rig;
        rings[1].descriptor(memory, id, address, len, flags, next);
        rings[1].offer(memory, id);
    };
    breaks(split(), 1, "further ahead than the ring is long", |rig| rig.rings[1].set_index(&rig.memory, SIZE + 1));
    breaks(split(), 1, "a descriptor beyond the table", |rig| rig.rings[1].offer(&rig.memory, SIZE));
    breaks(split(), 1, "leads nowhere", |rig| offer(rig, 3, at, 100, 1, 3));
    breaks(split(), 1, "leads nowhere", |rig| offer(rig, 3, at, 100, 1, SIZE));
    breaks(split(), 1, "leads nowhere", |rig| offer(rig, 3, GONE, 32, 4, 0));
    breaks(split(), 1, "leads nowhere", |rig| offer(rig, 3, at, 33, 4, 0));
    breaks(split() - Features::INDIRECT_DESC, 1, "not negotiated", |rig| offer(rig, 3, at, 32, 4, 0));
    breaks(split(), 1, "to be written", |rig| offer(rig, 3, at, 100, 2, 0));
    breaks(split(), 1, "has no header", |rig| offer(rig, 3, at, 11, 0, 0));
    breaks(split(), 1, "longer than any frame", |rig| offer(rig, 3, at, 70_000, 0, 0));
    breaks(split(), 1, "bus fault while reading a frame", |rig| offer(rig, 3, GONE, 100, 0, 0));
    breaks(split(), 1, "a readable descriptor after a writable one", |rig| {
        rig.rings[1].add(&rig.memory, &[(at, 100, true), (at, 100, false)]);
    });
}

#[test]
fn a_packed_ring_that_cannot_be_followed_ends_the_device() {
    let at = IOVA + TX_BUFFERS as u64;
    let flagged = |rig: &mut Rig, address: u64, len: u64, flags: u64| {
        let base = rig.rings[1].base;
        rig.memory.word64(base).store(address, Ordering::Relaxed);
        rig.memory.word64(base + 8).store(len | (flags | 1 << 7) << 48, Ordering::SeqCst);
    };
    breaks(packed(), 1, "longer than the ring", |rig| {
        let chain = vec![(at, 2, false); usize::from(SIZE)];
        rig.rings[1].add(&rig.memory, &chain);
        let last = rig.rings[1].base + 16 * usize::from(SIZE - 1) + 8;
        let word = rig.memory.word64(last);
        word.store(word.load(Ordering::Relaxed) | 1 << 48, Ordering::SeqCst);
    });
    breaks(packed() - Features::INDIRECT_DESC, 1, "not negotiated", |rig| flagged(rig, at, 32, 4));
    breaks(packed(), 1, "no valid length", |rig| flagged(rig, at, 33, 4));
    breaks(packed(), 1, "no valid length", |rig| flagged(rig, at, 0, 4));
    breaks(packed(), 1, "no valid length", |rig| flagged(rig, at, 16 * 33, 4));
    breaks(packed(), 1, "within a chain", |rig| flagged(rig, at, 32, 5));
    breaks(packed(), 1, "within an indirect table", |rig| {
        rig.memory.word64(TX_BUFFERS + 8).store(16 | 4 << 48, Ordering::Relaxed);
        flagged(rig, at, 16, 4);
    });
    breaks(packed(), 1, "bus fault while reading a descriptor", |rig| flagged(rig, GONE, 32, 4));
    breaks(packed(), 1, "to be written", |rig| flagged(rig, at, 100, 2));
}

#[test]
fn receive_buffers_and_commands_that_make_no_sense_end_the_device() {
    let at = IOVA + RX_BUFFERS as u64;
    for features in [split(), packed()] {
        for (chain, why) in [
            ((at, 100, false), "a receive buffer that is to be read"),
            ((at, 11, true), "too short for a header"),
            ((GONE, 2000, true), "bus fault while writing a frame"),
        ] {
            let mut rig = Rig::new(Config::default());
            rig.bring_up(features);
            rig.post(0, &[chain]);
            rig.send(Header::default(), &udp(&[7; 100], (7, 9)));
            rig.settle();
            assert!(rig.halts()[0].contains(why), "{:?}", rig.halts());
            assert_eq!(rig.receive().map(|(_, frame)| frame), None);
        }
        for (chain, why) in [
            (&[(at, 3, false)][..], "without a byte for its answer"),
            (&[(GONE, 3, false), (at, 1, true)], "bus fault while reading a command"),
            (&[(at, 3, false), (GONE, 1, true)], "bus fault while answering a command"),
        ] {
            let mut rig = Rig::new(Config::default());
            rig.bring_up(features);
            rig.post(8, chain);
            rig.settle();
            assert!(rig.halts()[0].contains(why), "{:?}", rig.halts());
        }
    }
}

#[test]
fn a_ring_where_nothing_is_mapped_faults_and_no_more() {
    for features in [split(), packed()] {
        for part in [0, 40 - 32, 48 - 32] {
            let mut rig = Rig::new(Config::default());
            rig.negotiate(features);
            rig.write(SELECT, 2, 1);
            for place in [32, 40, 48] {
                let address = if place == 32 + part { GONE } else { IOVA + 0x1000 * (place - 32) };
                rig.write(place, 4, address as u32);
            }
            rig.write(ENABLE, 2, 1);
            rig.write(STATUS, 1, 15);
            // Available: one frame of zeroes.
            rig.memory.word64(0).store(IOVA + TX_BUFFERS as u64, Ordering::Relaxed);
            rig.memory.word64(8).store(100 | 1 << 55, Ordering::Relaxed);
            rig.memory.word32(0x8000).store(1 << 16, Ordering::Relaxed);
            rig.ring_bell(1, 1);
            rig.settle();
            assert!(rig.counters().bus_faults > 0, "{features:?} {part}");
            assert!(rig.halts().len() == 1 && rig.halts()[0].contains("fault"), "{part} {:?}", rig.halts());
        }
    }
}

fn hostile(features: Features, faults: Faults) -> Rig {
    let mut rig = Rig::running(Config::default(), features);
    rig.settle();
    rig.device.with_model(|model| *model.faults() = faults);
    rig
}

fn misused(features: Features, queue: u16, misuse: Misuse) -> Rig {
    let mut rig = hostile(features, Faults { used: Some((queue, misuse)), ..Faults::default() });
    rig.send(Header::default(), &udp(&[7; 100], (7, 9)));
    rig.step();
    rig
}

#[test]
fn used_entries_lie_as_they_are_told() {
    for features in [split(), packed(), split() | Features::IN_ORDER, packed() | Features::IN_ORDER] {
        for queue in [0, 1] {
            let rig = misused(features, queue, Misuse::IdOutOfRange);
            let raw = rig.rings[usize::from(queue)].raw(&rig.memory).unwrap();
            assert_eq!(raw.0, u32::from(SIZE), "{features:?}");
            let rig = misused(features, queue, Misuse::LenTooLong);
            let raw = rig.rings[usize::from(queue)].raw(&rig.memory).unwrap();
            assert_eq!(raw.1, if queue == 0 { RX_BUFFER as u32 + 1 } else { 1 });
        }
        let mut rig = misused(features, 1, Misuse::Twice);
        let first = rig.rings[1].raw(&rig.memory).unwrap();
        let slots = if rig.rings[1].packed { 2 } else { 1 };
        rig.rings[1].advance(slots);
        assert_eq!(rig.rings[1].raw(&rig.memory), Some(first));
    }
}

#[test]
fn the_used_ring_jumps_or_never_ends() {
    for count in [1, SIZE, 1000] {
        let rig = misused(split(), 1, Misuse::Jump(count));
        assert_eq!(rig.rings[1].used_index(&rig.memory), 1 + count);
    }
    let mut rig = misused(packed(), 1, Misuse::Jump(5));
    rig.rings[1].advance(2);
    for _ in 0..5 {
        assert!(rig.rings[1].raw(&rig.memory).is_some());
        rig.rings[1].advance(1);
    }
    assert_eq!(rig.rings[1].raw(&rig.memory), None);
    for features in [split(), packed()] {
        let faults = Faults { used: Some((1, Misuse::Endless)), ..Faults::default() };
        let mut rig = hostile(features, faults);
        for _ in 0..5 {
            rig.step();
            for _ in 0..SIZE {
                assert!(rig.rings[1].raw(&rig.memory).is_some(), "{features:?}");
                rig.rings[1].advance(1);
            }
            assert_eq!(rig.rings[1].raw(&rig.memory), None);
        }
    }
}

#[test]
fn a_reset_that_is_never_answered_leaves_the_bus_to_be_shut() {
    let mut rig = hostile(split(), Faults { stuck_reset: true, ..Faults::default() });
    rig.write(STATUS, 1, 0);
    assert_eq!(rig.status(), 15);
    rig.send(Header::default(), &udp(&[7; 100], (7, 9)));
    rig.settle();
    assert_eq!(rig.used(1).len(), 1, "it works on");
    rig.master(false);
    let reads = rig.counters().dma_reads;
    rig.send(Header::default(), &udp(&[7; 100], (7, 9)));
    rig.settle();
    assert_eq!((rig.counters().dma_reads, rig.used(1).len()), (reads, 0));
    rig.device.reset().unwrap();
    assert_eq!(rig.status(), 0, "a function-level reset is not the device's to refuse");
}

#[test]
fn a_pulled_card_reads_ones_and_does_nothing() {
    let mut rig = hostile(split(), Faults { all_ones: true, ..Faults::default() });
    rig.step();
    let mut identity = [0; 4];
    rig.device.config_read(0, &mut identity).unwrap();
    assert_eq!((u32::from_le_bytes(identity), rig.status(), rig.read(18, 2)), (u32::MAX, 0xff, 0xffff));
    let counters = rig.counters();
    rig.send(Header::default(), &udp(&[7; 100], (7, 9)));
    rig.settle();
    assert_eq!((rig.counters().dma_reads, rig.used(1).len()), (counters.dma_reads, 0));
    rig.device.with_model(|model| model.faults().all_ones = false);
    rig.step();
    assert_eq!((rig.status(), rig.read(18, 2)), (0, 9));
    rig.bring_up(split());
}

#[test]
fn negotiation_and_configuration_fail_as_they_are_told() {
    let rig = |faults| {
        let rig = Rig::new(Config::default());
        rig.device.with_model(|model| *model.faults() = faults);
        rig
    };
    assert!(!rig(Faults { refuse_features: true, ..Faults::default() }).negotiate(split()));
    let restless = rig(Faults { restless_config: true, ..Faults::default() });
    assert_ne!(restless.read(GENERATION, 1), restless.read(GENERATION, 1));
    let refusing = rig(Faults { refuse_vectors: true, ..Faults::default() });
    refusing.write(16, 2, 1);
    refusing.write(VECTOR, 2, 1);
    assert_eq!((refusing.read(16, 2), refusing.read(VECTOR, 2)), (0xffff, 0xffff));
    let odd = rig(Faults { queue_size: Some(77), notify_off: Some(0xfff0), ..Faults::default() });
    assert_eq!((odd.read(QUEUE_SIZE, 2), odd.read(30, 2)), (77, 0xfff0));
    let bent = rig(Faults { config_space: vec![(0x91, 0x90), (0x34, 0x92)], ..Faults::default() });
    let mut link = [0; 4];
    bent.device.config_read(0x90, &mut link).unwrap();
    assert_eq!(link[1], 0x90);
    bent.device.config_read(0x34, &mut link[..1]).unwrap();
    assert_eq!(link[0], 0x92);
}

#[test]
fn commands_and_frames_fail_as_they_are_told() {
    for features in [split(), packed()] {
        let mut rig = hostile(features, Faults { silent_control: true, ..Faults::default() });
        assert_eq!(rig.command(&[0, 0, 1]), None);
        let mut rig = hostile(features, Faults { refuse_control: true, ..Faults::default() });
        assert_eq!(rig.command(&[0, 0, 1]), Some(1));
        let mut rig = hostile(features, Faults { num_buffers: Some(0), ..Faults::default() });
        rig.send(Header::default(), &udp(&[7; 100], (7, 9)));
        rig.settle();
        let at = RX_BUFFERS + 10;
        let mut count = [9; 2];
        rig.memory.read_at(at, &mut count);
        assert_eq!(count, [0; 2]);
        let mut rig = hostile(features, Faults { stall_tx: true, ..Faults::default() });
        rig.send(Header::default(), &udp(&[7; 100], (7, 9)));
        rig.settle();
        assert_eq!((rig.used(1).len(), rig.device.with_model(|model| model.dma_pending())), (0, true));
        rig.device.with_model(|model| model.faults().stall_tx = false);
        rig.settle();
        assert_eq!(rig.used(1).len(), 1);
    }
    let mut rig = Rig::watched(Config::default(), split());
    rig.device.with_model(|model| *model.faults() = Faults { lose_every: 2, corrupt_every: 3, ..Faults::default() });
    for _ in 0..6 {
        rig.send(Header::default(), &udp(&[7; 100], (7, 9)));
    }
    rig.settle();
    let good: Vec<bool> = rig.drain().iter().map(|frame| checksums_hold(frame)).collect();
    assert_eq!(good, [true, false, true]);
    assert_eq!((rig.counters().frames_lost, rig.counters().frames_corrupted), (3, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever lies in the rings and whatever is written to the registers, the device goes on or says that it cannot.
    #[test]
    fn rubbish_in_rings_and_registers(
        packed_ring: bool,
        words in proptest::collection::vec((0..0x1_0000usize / 8, any::<u64>(), 0..4u8), 0..60),
        writes in proptest::collection::vec((0..0x40u64, 0..3u32, any::<u32>()), 0..40),
        bells in proptest::collection::vec(0..12u16, 1..12),
    ) {
        let mut rig = Rig::running(Config::default(), if packed_ring { packed() } else { split() });
        for (word, value, kind) in words {
            // Often addresses that are mapped, with lengths and flags that could be.
            let value = match kind {
                0 => IOVA + value % 0x80_0000,
                1 => value & 0x8087_001f_0000_ffff,
                2 => value & 0x001f_001f_001f_001f,
                _ => value,
            };
            rig.memory.word64(8 * word).store(value, Ordering::Relaxed);
        }
        for bell in &bells {
            rig.ring_bell(usize::from(*bell), *bell);
            (0..8).for_each(|_| { rig.step(); });
        }
        for (offset, width, value) in writes {
            rig.device.bar_write(4, offset, &value.to_le_bytes()[..1 << width]).unwrap();
            rig.device.bar_read(4, offset, &mut [0; 4][..1 << width]).unwrap();
            rig.ring_bell(1, 1);
            rig.step();
        }
        rig.bring_up(split());
    }
}
