//! A driver's rings, which its device writes at any time with anything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use stillwire_driver::{Config, Frame, Nic, Posted, Returned, RxFrame, RxQueue, TxQueue};
use stillwire_emulator::scripted::Faulty;
use stillwire_emulator::virtio::Features;
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{Doorbells, ice as e810, ixgbe as i82599, virtio};
use stillwire_examples::packet::Received;

use super::frames::offload;
use crate::bus::{Bus, Map};
use crate::input::Input;
use crate::tokens::{Ledger, Memory, Token};

/// The ixgbe family.
pub fn ixgbe(bytes: &[u8]) {
    let config = i82599::Config { doorbells: Doorbells::Messages, ..i82599::Config::default() };
    let layout = Layout::Intel { receive: 16, done: |word| word >> 32 & 1 == 1 };
    play(i82599::Model::new(config, Box::new(Loopback::new())), layout, bytes);
}

/// The ice family.
pub fn ice(bytes: &[u8]) {
    let package = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let config = e810::Config { doorbells: Doorbells::Messages, package, ..e810::Config::default() };
    let layout = Layout::Intel { receive: 32, done: |word| word & 0xf == 0xf };
    play(e810::Model::new(config, Box::new(Loopback::new())).expect("a device"), layout, bytes);
}

/// The virtio family, split rings.
pub fn virtio_split(bytes: &[u8]) {
    net(bytes, Features::RING_PACKED, Layout::Split);
}

/// The virtio family, packed rings.
pub fn virtio_packed(bytes: &[u8]) {
    net(bytes, Features::empty(), Layout::Packed);
}

fn net(bytes: &[u8], without: Features, layout: Layout) {
    // With one used entry for many chains, or one for each.
    let in_order = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let without = if in_order { without } else { without | Features::IN_ORDER };
    let config = virtio::Config {
        features: Features::all() - without,
        doorbells: Doorbells::Messages,
        pairs: 1,
        mtu: 9000,
        ..virtio::Config::default()
    };
    play(virtio::Model::new(config, Box::new(Loopback::new())).expect("a device"), layout, bytes);
}

/// Where the device reports.
#[derive(Clone, Copy)]
enum Layout {
    /// In the descriptors: of 16 bytes for transmit, so many for receive; whether a second word says done.
    Intel { receive: u64, done: fn(u64) -> bool },
    /// In a used ring.
    Split,
    /// In the descriptors, by marks that change.
    Packed,
}

/// Descriptors of a ring: few, so that it turns often.
const RING: u64 = 64;
/// Receive buffers begin here in an Intel ring's memory, and lie so far apart, bytes.
const BUFFERS: u64 = 4096;
const STRIDE: u64 = 2048 + 64;
/// Decisions of one input.
const MOST: usize = 400;

fn play<M: Faulty>(model: M, layout: Layout, bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let settings = input.u8();
    let config = Config {
        tx_ring: RING as u16,
        rx_ring: RING as u16,
        vlan_strip: settings & 1 == 1,
        max_frame: if settings & 2 == 2 { 9014 } else { 1514 },
        ..Config::default()
    };
    let bus = Bus::new(model);
    let function = bus.function();
    let nic = match Nic::open(function.clone(), config) {
        Ok(nic) => nic,
        Err(why) => panic!("an honest device comes up: {why}"),
    };
    let before = bus.maps().len();
    let (tx, rx) = (nic.tx_queue::<Token>(), nic.rx_queue());
    let (Ok(tx), Ok(rx)) = (tx, rx) else { panic!("an honest device has queues") };
    let maps = bus.maps();
    // One that works completes frames by itself; of one that stands still all that is said is made up.
    if settings & 4 == 4 {
        bus.device().with_model(|model| model.set_stalled(true));
    }
    // Of an Intel NIC the queues' memory is mapped when they are taken; virtio's rings are there before.
    let rings: Vec<Map> = match layout {
        Layout::Intel { .. } => maps[before..].to_vec(),
        Layout::Split | Layout::Packed => maps.into_iter().filter(|map| map.writable).collect(),
    };
    let memory = Memory::new(&function, 1 << 16).expect("memory");
    let deeds = bus.deeds();
    let play = Play {
        bus,
        layout,
        rings,
        nic,
        tx,
        rx,
        memory,
        ledger: Ledger::default(),
        frames: VecDeque::new(),
        next: 0,
        deeds,
    };
    play.run(&mut input);
}

/// A frame in the ring.
struct Sent {
    /// The token that travels with it.
    token: usize,
    /// Positions of its descriptors.
    first: u64,
    end: u64,
    published: bool,
}

struct Play<M: Faulty> {
    bus: Arc<Bus<M>>,
    layout: Layout,
    rings: Vec<Map>,
    nic: Nic,
    tx: TxQueue<Token>,
    rx: RxQueue,
    memory: Arc<Memory>,
    ledger: Ledger,
    /// Those whose tokens are not back, in order.
    frames: VecDeque<Sent>,
    /// Position of the next descriptor.
    next: u64,
    /// What the device had done when the last look found that all was done.
    deeds: u64,
}

impl<M: Faulty> Play<M> {
    fn run(mut self, input: &mut Input<'_>) {
        for _ in 0..MOST {
            if !input.more() {
                break;
            }
            match input.u8() % 14 {
                0 | 1 => self.post(input),
                2 => self.cut(input),
                3 => self.publish(),
                4 => self.reclaim(),
                5 => self.poll(input),
                6 => self.scribble(input),
                7 => self.report_transmit(input),
                8 => self.report_receive(input),
                9 => self.fill(input),
                10 => self.bus.pass(Duration::from_micros(input.u16().into())),
                11 => self.bus.lie(input, 2),
                12 => self.look(),
                _ => {
                    // What a working device goes through most of the time.
                    self.publish();
                    self.bus.pass(Duration::from_millis(1));
                    self.reclaim();
                    self.poll(input);
                }
            }
            self.ledger.check();
            assert_eq!(self.tx.in_flight(), self.ledger.lent(), "tokens in the ring");
        }
        self.end(input);
    }

    fn token(&self, input: &mut Input<'_>) -> Token {
        let count = match input.u8() {
            few @ 0..=199 => few % 4,
            many => many % 48,
        };
        let pieces = (0..count).map(|_| {
            let (start, len) = (input.below(1 << 16), input.below(3000));
            start..(start + len).min(1 << 16)
        });
        let pieces = pieces.collect();
        self.ledger.token(&self.memory, pieces)
    }

    fn post(&mut self, input: &mut Input<'_>) {
        let (offload, mut header) = (offload(input), input.piece().to_vec());
        if input.flag() {
            header.resize(header.len().max(60), 0);
        }
        let token = self.token(input);
        let (number, free) = (token.number(), self.tx.free());
        let frame = Frame::new(&header).payload(token);
        let frame = offload.into_iter().fold(frame, Frame::offload);
        self.ledger.may_drop(true);
        let posted = self.tx.post(frame);
        match posted {
            Ok(Posted::Queued) => self.sent(number, free),
            Ok(Posted::Full(frame)) => {
                let token = frame.into_payload().expect("it had one");
                self.ledger.back(token, false);
                // A context may have been written all the same.
                self.next += (free - self.tx.free()) as u64;
            }
            Err(_) => self.next += (free - self.tx.free()) as u64,
        }
        self.ledger.may_drop(false);
    }

    /// A payload in several frames.
    fn cut(&mut self, input: &mut Input<'_>) {
        let (header, token) = (input.piece().to_vec(), self.token(input));
        let (number, free) = (token.number(), self.tx.free());
        let len = stillwire_dma::Payload::len(&token);
        self.ledger.may_drop(true);
        let mut run = self.tx.run(token);
        let mut posted = false;
        for _ in 0..input.u8() % 8 {
            let start = input.below(len + 1);
            let end = start + input.below(len - start + 1);
            posted |= run.post(&header, offload(input), start..end).unwrap_or(false);
        }
        drop(run);
        self.ledger.may_drop(false);
        if posted {
            self.sent(number, free);
        } else {
            self.next += (free - self.tx.free()) as u64;
        }
    }

    fn sent(&mut self, token: usize, free: usize) {
        let first = self.next;
        self.next += (free - self.tx.free()) as u64;
        self.frames.push_back(Sent { token, first, end: self.next, published: false });
    }

    fn publish(&mut self) {
        self.tx.publish();
        self.frames.iter_mut().for_each(|frame| frame.published = true);
    }

    fn reclaim(&mut self) {
        let allowed = self.allowed();
        let mut back = Vec::new();
        let ledger = self.ledger.clone();
        self.tx.reclaim(|token| back.push(ledger.back(token, true)));
        for number in back {
            assert!(
                allowed.is_some_and(|last| number <= last),
                "token {number} is back; the device said no more than {allowed:?}"
            );
            while self.frames.front().is_some_and(|frame| frame.token <= number) {
                self.frames.pop_front();
            }
        }
        if self.frames.is_empty() && matches!(self.layout, Layout::Split | Layout::Packed) {
            self.deeds = self.bus.deeds();
        }
    }

    /// The last token that the device has said anything of which could mean that it is done with it.
    fn allowed(&self) -> Option<usize> {
        let published = self.frames.iter().rev().filter(|frame| frame.published);
        match self.layout {
            Layout::Intel { done, .. } => {
                let ring = self.rings[0].iova;
                let is_done =
                    |frame: &&Sent| (frame.first..frame.end).any(|at| done(self.bus.word(ring + at % RING * 16 + 8)));
                published.into_iter().find(is_done).map(|frame| frame.token)
            }
            Layout::Split | Layout::Packed => {
                published.into_iter().next().filter(|_| self.bus.deeds() != self.deeds).map(|frame| frame.token)
            }
        }
    }

    fn poll(&mut self, input: &mut Input<'_>) {
        let budget = input.u8().into();
        let found = self.rx.poll(budget, look_at);
        assert!(found <= budget);
    }

    /// Anything, anywhere that the device may write.
    fn scribble(&mut self, input: &mut Input<'_>) {
        let ring = self.rings[usize::from(input.u8()) % self.rings.len()];
        let at = (u64::from(input.u32()) * 8) % ring.len;
        self.bus.write(ring.iova + at, input.take(8));
    }

    /// Something that looks like a report on a frame.
    fn report_transmit(&mut self, input: &mut Input<'_>) {
        match self.layout {
            Layout::Intel { .. } => {
                let slot = self.slot(input, self.frames.front().map_or(self.next, |frame| frame.first));
                let at = self.rings[0].iova + slot * 16 + 8;
                let word = if input.flag() { self.bus.word(at) | 1 << 32 | 0xf } else { input.u64() };
                self.bus.write(at, &word.to_le_bytes());
            }
            Layout::Split => self.use_split(1, input),
            Layout::Packed => self.use_packed(1, input),
        }
    }

    /// Something that looks like a received frame.
    fn report_receive(&mut self, input: &mut Input<'_>) {
        match self.layout {
            Layout::Intel { receive, .. } => {
                let ring = self.rings[1].iova;
                let at = ring + u64::from(input.u8()) % RING * receive;
                self.bus.write(at + 8, &input.u64().to_le_bytes());
                if input.flag() {
                    self.bus.write(at, &input.u64().to_le_bytes());
                    self.bus.write(at + receive - 16, input.take(16));
                }
            }
            Layout::Split => self.use_split(0, input),
            Layout::Packed => self.use_packed(0, input),
        }
    }

    fn slot(&self, input: &mut Input<'_>, near: u64) -> u64 {
        let far = u64::from(input.u8());
        (near + if far < 128 { far % 4 } else { far }) % RING
    }

    /// A used entry in queue `queue`, and the index moved.
    fn use_split(&self, queue: usize, input: &mut Input<'_>) {
        let used = self.rings[queue % self.rings.len()].iova + RING * 20;
        let index = self.bus.word(used) >> 48;
        let slot = if input.flag() { index } else { input.u8().into() } % RING;
        let (id, len) = (u32::from(input.u8()) % 80, if input.flag() { input.u16().into() } else { input.u32() });
        self.bus.write(used + 8 + slot * 8, &(u64::from(id) | u64::from(len) << 32).to_le_bytes());
        let step = input.one_of(&[1, 1, 1, 0, 2, 64, 65, 0xffff]);
        self.bus.write(used + 6, &(index as u16).wrapping_add(step).to_le_bytes());
    }

    /// A descriptor of queue `queue` that is marked.
    fn use_packed(&self, queue: usize, input: &mut Input<'_>) {
        let at = self.rings[queue % self.rings.len()].iova + u64::from(input.u8()) % RING * 16 + 8;
        let flags = input.one_of(&[0x8080, 0x0000, 0x8082, 0x0002, 0x0080, 0x8000]);
        let (id, len) = (u64::from(input.u8()) % 80, if input.flag() { input.u16().into() } else { input.u32() });
        let word = u64::from(len) | id << 32 | u64::from(flags as u16) << 48;
        self.bus.write(at, &word.to_le_bytes());
    }

    /// Bytes of a frame into a receive buffer.
    fn fill(&mut self, input: &mut Input<'_>) {
        let ring = self.rings[self.rings.len().saturating_sub(1)];
        let at = BUFFERS + u64::from(input.u8()) % RING * STRIDE + u64::from(input.u8() % 16);
        self.bus.write(ring.iova + at, input.piece());
    }

    fn look(&self) {
        let _ =
            (self.nic.link(), self.nic.statistics(), self.nic.queue_statistics(), self.rx.dropped(), self.tx.free());
    }

    /// By one of three ways, all of which give every token back at most once.
    fn end(self, input: &mut Input<'_>) {
        let Self { bus, mut nic, tx, rx, ledger, .. } = self;
        let lent = ledger.lent();
        let mut back = 0;
        let quiet = match input.u8() % 4 {
            0 => {
                let ended = tx.stop(|token| {
                    back += 1;
                    ledger.back(token, true);
                });
                ended.is_ok().then_some(true)
            }
            1 => {
                bus.stop_lying();
                let ended = nic.reset([tx], [rx], |_, returned| {
                    back += 1;
                    let (Returned::Done(token) | Returned::NotSent(token)) = returned;
                    ledger.back(token, true);
                });
                ended.is_ok().then_some(true)
            }
            2 => {
                bus.stop_lying();
                drop(nic);
                ledger.may_drop(true);
                drop((tx, rx));
                None
            }
            _ => {
                bus.stop_lying();
                ledger.may_drop(true);
                drop((tx, rx));
                None
            }
        };
        ledger.check();
        if quiet.is_some() {
            assert_eq!((back, ledger.lent()), (lent, 0), "all tokens are back");
        }
    }
}

/// A frame as a receiver looks at it.
fn look_at(frame: &RxFrame<'_>) {
    let mut bytes = vec![0xaa; 3];
    frame.copy_to(&mut bytes);
    assert_eq!(bytes.len(), frame.len());
    let mut part = [0; 64];
    let read = frame.read_at(5, &mut part);
    assert_eq!(read, frame.len().saturating_sub(5).min(64));
    assert!(frame.first::<64>().is_none() || frame.len() >= 64);
    let _ = (frame.checksum(), frame.vlan(), Received::parse(&bytes));
}
