//! Many queues: rings, doorbells, RSS, counters and vectors of each.

mod common;

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use common::*;
use etherparse::PacketBuilder;
use stillwire_dma::Backend;
use stillwire_emulator::wire::{Loopback, Sink};
use stillwire_emulator::{Config, Doorbells, Wire};

const QUEUES: usize = 64;
/// Descriptors in a ring here: as few as a ring can have.
const SHORT: u32 = 8;
const RX_RINGS: usize = 0xa_0000;
const TX_RINGS: usize = 0xa_2000;
const HEADS: usize = 0xa_4000;
/// One a queue, for all its descriptors.
const RX_BUFFERS: usize = 0xb_0000;

/// All queues of a device.
struct Queues {
    rig: Rig,
    tails: Vec<u32>,
    /// Next descriptor to look at.
    seen: Vec<u32>,
}

impl Queues {
    fn new(config: Config, far: Box<dyn Wire>, wire: Loopback) -> Self {
        let rig = Rig::over(config, wire, far);
        rig.master(true);
        rig.write(0x4a80, rig.read(0x4a80) | 1);
        rig.write(0x5080, 1 << 8 | 1 << 9 | 1 << 10);
        rig.write(0x2f00, 1 << 1);
        let queues = Self { rig, tails: vec![0; QUEUES], seen: vec![0; QUEUES] };
        (0..QUEUES).for_each(|q| queues.start(q, true));
        queues.rig.write(0x3000, 1);
        queues.rig.step();
        queues
    }

    fn start(&self, q: usize, drops: bool) {
        let rig = &self.rig;
        let (rx, tx) = (0x1000 + 0x40 * q as u64, 0x6000 + 0x40 * q as u64);
        rig.write(tx, IOVA as u32 + (TX_RINGS + 128 * q) as u32);
        rig.write(tx + 0x08, SHORT * 16);
        rig.write(tx + 0x28, ENABLE | 1 << 8 | 8);
        rig.write(rx, IOVA as u32 + (RX_RINGS + 128 * q) as u32);
        rig.write(rx + 0x08, SHORT * 16);
        rig.write(rx + 0x0c, 0);
        rig.write(rx + 0x14, 2 | 1 << 25 | u32::from(drops) << 28);
        (0..SHORT).for_each(|i| self.refill(q, i));
        rig.write(rx + 0x28, ENABLE);
        assert_ne!((rig.read(tx + 0x28) & ENABLE, rig.read(rx + 0x28) & ENABLE), (0, 0));
        rig.write(rx + 0x18, SHORT - 1);
    }

    fn refill(&self, q: usize, i: u32) {
        let at = RX_RINGS + 128 * q + 16 * i as usize;
        self.rig.memory.word64(at).store(IOVA + (RX_BUFFERS + 2048 * q) as u64, Ordering::Relaxed);
        self.rig.memory.word64(at + 8).store(0, Ordering::Release);
    }

    /// Posts a frame of `len` bytes, which begins with the queue's number after the addresses.
    fn post(&mut self, q: usize, len: usize, report: bool) -> u32 {
        let mut frame = vec![0xff; len];
        frame[14] = q as u8;
        self.rig.memory.write_at(PAYLOAD + 2048 * q, &frame);
        let words = data(PAYLOAD + 2048 * q, len, EOP | IFCS | if report { RS } else { 0 }, 0, len);
        let (at, i) = (TX_RINGS + 128 * q, self.tails[q]);
        self.rig.memory.word64(at + 16 * i as usize).store(words[0], Ordering::Relaxed);
        self.rig.memory.word64(at + 16 * i as usize + 8).store(words[1], Ordering::Release);
        self.tails[q] = (i + 1) % SHORT;
        self.rig.write(0x6018 + 0x40 * q as u64, self.tails[q]);
        i
    }

    fn done(&self, q: usize, i: u32) -> bool {
        let at = TX_RINGS + 128 * q + 16 * i as usize + 12;
        self.rig.memory.word32(at).load(Ordering::Acquire) & 1 == 1
    }

    /// Takes the next frame of a queue: its length, its hash, the hash' kind.
    fn receive(&mut self, q: usize) -> Option<(usize, u32, u64)> {
        let i = self.seen[q];
        let at = RX_RINGS + 128 * q + 16 * i as usize;
        let high = self.rig.memory.word64(at + 8).load(Ordering::Acquire);
        if high & 1 == 0 {
            return None;
        }
        let low = self.rig.memory.word64(at).load(Ordering::Relaxed);
        self.refill(q, i);
        self.rig.write(0x1018 + 0x40 * q as u64, i);
        self.seen[q] = (i + 1) % SHORT;
        Some(((high >> 32) as usize & 0xffff, (low >> 32) as u32, low & 0xf))
    }
}

fn over_a_sink(config: Config) -> (Queues, Sink) {
    let sink = Sink::new();
    (Queues::new(config, Box::new(sink.clone()), Loopback::new()), sink)
}

fn over_loopback(config: Config) -> Queues {
    let wire = Loopback::new();
    Queues::new(config, Box::new(wire.clone()), wire)
}

#[test]
fn every_transmit_queue_sends_and_counts_for_itself() {
    for doorbells in [Doorbells::Messages, Doorbells::Mapped] {
        let (mut queues, sink) = over_a_sink(config(doorbells));
        // TQSM: queue q counts in set q / 4.
        (0..QUEUES).step_by(4).for_each(|q| queues.rig.write(0x8600 + q as u64, 0x0101_0101 * (q as u32 / 4)));
        let frames = |q: usize| q % 5 + 1;
        let len = |q: usize| 60 + q;
        for q in 0..QUEUES {
            for _ in 0..frames(q) {
                queues.post(q, len(q), true);
            }
        }
        queues.rig.settle();
        let halts = queues.rig.halts();
        assert!((0..QUEUES).all(|q| (0..frames(q) as u32).all(|i| queues.done(q, i))), "{halts:?}");
        assert!((0..QUEUES).all(|q| !queues.done(q, frames(q) as u32)));
        assert!((0..QUEUES).all(|q| queues.rig.read(0x6010 + 0x40 * q as u64) == frames(q) as u32), "TDH");
        for set in 0..16 {
            let members = 4 * set..4 * set + 4;
            let wanted: usize = members.clone().map(frames).sum();
            let bytes: usize = members.map(|q| frames(q) * (len(q) + 4)).sum();
            assert_eq!(queues.rig.read(0x6030 + 0x40 * set as u64) as usize, wanted, "QPTC {set}");
            assert_eq!(queues.rig.read(0x8700 + 8 * set as u64) as usize, bytes, "QBTC {set}");
            assert_eq!(queues.rig.read(0x8704 + 8 * set as u64), 0);
        }
        let all: usize = (0..QUEUES).map(frames).sum();
        assert_eq!((queues.rig.read(0x4080) as usize, sink.report().frames as usize), (all, all), "GPTC, the wire");
    }
}

#[test]
fn every_queue_has_the_vector_that_ivar_names() {
    let mut queues = over_loopback(config(Doorbells::Mapped));
    let flags = rustix::event::EventfdFlags::NONBLOCK;
    let fds: Vec<_> = (0..QUEUES).map(|_| rustix::event::eventfd(0, flags).unwrap()).collect();
    queues.rig.device.set_msix(&fds.iter().map(AsFd::as_fd).collect::<Vec<_>>()).unwrap();
    let fired = || -> Vec<usize> { (0..QUEUES).filter(|v| rustix::io::read(&fds[*v], &mut [0; 8]).is_ok()).collect() };
    // Transmit queue q on vector 63 - q; what comes in is all for queue 0, on vector 7.
    for pair in 0..QUEUES / 2 {
        let entry = |q: usize| 0x80 | (63 - q) as u32;
        let rx = if pair == 0 { 0x87 } else { 0 };
        queues.rig.write(0x900 + 4 * pair as u64, rx | entry(2 * pair) << 8 | entry(2 * pair + 1) << 24);
    }
    queues.rig.write(0xaa0, u32::MAX);
    queues.rig.write(0xaa4, u32::MAX);
    for q in 0..QUEUES {
        queues.post(q, 60, true);
        queues.rig.settle();
        assert!(queues.receive(0).is_some(), "{:?}", queues.rig.halts());
        let mut wanted = vec![7, 63 - q];
        wanted.sort_unstable();
        wanted.dedup();
        assert_eq!(fired(), wanted, "queue {q}");
    }
    // Without RS nobody is told that a frame was sent.
    queues.post(9, 60, false);
    queues.rig.settle();
    assert_eq!(fired(), [7]);
}

#[test]
fn the_head_of_each_queue_is_written_back_with_rs_only() {
    for doorbells in [Doorbells::Messages, Doorbells::Mapped] {
        let (mut queues, _) = over_a_sink(config(doorbells));
        let place = |q: usize| HEADS + 16 * q;
        for q in 0..QUEUES {
            let page = 0x6000 + 0x40 * q as u64;
            queues.rig.write(page + 0x0c, 0);
            queues.rig.write(page + 0x38, (IOVA as u32 + place(q) as u32) | 1);
        }
        for q in 0..QUEUES {
            (0..=q % 3).for_each(|_| _ = queues.post(q, 60, false));
        }
        queues.rig.settle();
        let head = |queues: &Queues, q| queues.rig.memory.word32(place(q)).load(Ordering::Acquire);
        assert!((0..QUEUES).all(|q| head(&queues, q) == 0), "no RS yet");
        (0..QUEUES).for_each(|q| _ = queues.post(q, 60, true));
        queues.rig.settle();
        for q in 0..QUEUES {
            assert_eq!(head(&queues, q), (q % 3) as u32 + 2, "queue {q}: {:?}", queues.rig.halts());
            assert!((0..SHORT).all(|i| !queues.done(q, i)), "no done bit beside it");
        }
    }
}

/// The hash by its definition: for each bit of the input that is set, the 32 bits of the key from there on.
fn toeplitz(key: &[u8; 40], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
    let window = |at: usize| (0..32).fold(0u32, |word, i| word << 1 | u32::from(bit(key, at + i)));
    (0..input.len() * 8).filter(|at| bit(input, *at)).fold(0, |hash, at| hash ^ window(at))
}

/// A flow: its frame, what is hashed of it, and the hash' kind.
fn flow(number: u16) -> (Vec<u8>, Vec<u8>, u64) {
    let (v6, tcp) = (number % 2 == 1, number % 4 > 1);
    let builder = PacketBuilder::ethernet2([2; 6], [0xff; 6]);
    let [high, low] = number.to_be_bytes();
    let mut input = Vec::new();
    let builder = if v6 {
        let (from, to) = ([high, low, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [0x21; 16]);
        input.extend(from);
        input.extend(to);
        builder.ipv6(from, to, 3)
    } else {
        let (from, to) = ([10, 9, high, low], [10, 0, 0, 2]);
        input.extend(from);
        input.extend(to);
        builder.ipv4(from, to, 3)
    };
    let (source, destination) = (1000 + number, 443u16);
    input.extend(source.to_be_bytes());
    input.extend(destination.to_be_bytes());
    let mut frame = Vec::new();
    let payload = vec![7; 60 + usize::from(number % 300)];
    if tcp {
        builder.tcp(source, destination, 1, 2).write(&mut frame, &payload).unwrap();
    } else {
        builder.udp(source, destination).write(&mut frame, &payload).unwrap();
    }
    let kind = match (v6, tcp) {
        (false, true) => 1,
        (true, true) => 3,
        (false, false) => 7,
        (true, false) => 8,
    };
    (frame, input, kind)
}

/// A table that spreads over `spread` queues, and a key; returns the key.
fn set_up_rss(rig: &Rig, x550: bool, spread: u32) -> [u8; 40] {
    let mut key = [0; 40];
    key.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 89 + 41) as u8);
    for (i, word) in key.chunks(4).enumerate() {
        rig.write(0x5c80 + 4 * i as u64, u32::from_le_bytes(word.try_into().unwrap()));
    }
    for entry in (0..if x550 { 512 } else { 128 }).step_by(4) {
        let word = u32::from_le_bytes([0, 1, 2, 3].map(|i| ((entry + i) * 11 % spread) as u8));
        let table = if entry < 128 { 0x5c00 } else { 0xee80 - 128 };
        rig.write(table + u64::from(entry), word);
    }
    rig.write(0x5818, 1 | 1 << 16 | 1 << 21 | 1 << 22 | 1 << 23);
    rig.write(0x5000, 1 << 13);
    key
}

#[test]
fn rss_spreads_over_the_queues_of_the_table() {
    for (device_id, spread, doorbells) in
        [(0x10fb, 16, Doorbells::Mapped), (0x1528, 5, Doorbells::Messages), (0x1563, 63, Doorbells::Mapped)]
    {
        let mut queues = over_loopback(Config { device_id, ..config(doorbells) });
        let key = set_up_rss(&queues.rig, device_id == 0x1563, spread);
        // RQSMR: queue q counts in set q % 16.
        for q in (0..QUEUES as u32).step_by(4) {
            queues.rig.write(0x2300 + u64::from(q), u32::from_le_bytes([0, 1, 2, 3].map(|i| ((q + i) % 16) as u8)));
        }
        let (mut frames, mut bytes) = ([0u32; 16], [0u32; 16]);
        let mut used = std::collections::BTreeSet::new();
        for number in 0..400 {
            let (frame, input, kind) = flow(number);
            let hash = toeplitz(&key, &input);
            let q = hash % if device_id == 0x1563 { 512 } else { 128 } * 11 % spread;
            queues.rig.wire.clone().transmit(&frame);
            queues.rig.settle();
            let found = queues.receive(q as usize);
            assert_eq!(found, Some((frame.len(), hash, kind)), "{device_id:#x} flow {number} on queue {q}");
            frames[q as usize % 16] += 1;
            bytes[q as usize % 16] += frame.len() as u32 + 4;
            used.insert(q);
        }
        assert_eq!(used.len() as u32, spread, "every queue got some");
        let counted: Vec<u32> = (0..16).map(|set| queues.rig.read(0x1030 + 0x40 * set)).collect();
        assert_eq!(counted, frames, "QPRC");
        assert_eq!((0..16).map(|set| queues.rig.read(0x1034 + 0x40 * set)).collect::<Vec<_>>(), bytes, "QBRC");
        assert_eq!(queues.rig.read(0x4074), 400, "GPRC is their sum");
    }
}

#[test]
fn a_full_queue_drops_for_itself_or_blocks_all() {
    for drops in [true, false] {
        let mut queues = over_loopback(config(Doorbells::Messages));
        let key = set_up_rss(&queues.rig, false, 2);
        queues.rig.write(0x2300, 0x0302_0100);
        // Queue 1 drops or not; queue 0 does always.
        queues.rig.write(0x1068, 0);
        queues.start(1, drops);
        queues.seen[1] = 0;
        let of_queue =
            |q: u32| (0..).filter(move |n| toeplitz(&key, &flow(*n).1) % 128 * 11 % 2 == q).map(|n| flow(n).0);
        of_queue(1).take(9).for_each(|frame| queues.rig.wire.clone().transmit(&frame));
        of_queue(0).take(3).for_each(|frame| queues.rig.wire.clone().transmit(&frame));
        queues.rig.settle();
        let arrived = std::iter::from_fn(|| queues.receive(0)).count();
        assert_eq!(arrived, if drops { 3 } else { 0 }, "head of line");
        let arrived = std::iter::from_fn(|| queues.receive(1)).count();
        assert_eq!(arrived, 7);
        queues.rig.settle();
        let more = (std::iter::from_fn(|| queues.receive(1)).count(), std::iter::from_fn(|| queues.receive(0)).count());
        assert_eq!(more, if drops { (0, 0) } else { (2, 3) });
        let counted = [0, 1].map(|set| queues.rig.read(0x1430 + 0x40 * set));
        assert_eq!(counted, if drops { [0, 2] } else { [0, 0] }, "QPRDC");
    }
}
