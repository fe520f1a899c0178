//! A bare-metal virtio driver in miniature: rings written by hand, numbers written once more.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use etherparse::PacketBuilder;
use stillwire_dma::{Access, Backend, HugePages, SharedMemory};
use stillwire_emulator::virtio::{Config, Features, Model};
use stillwire_emulator::wire::{Cable, Loopback};
use stillwire_emulator::{Counters, Doorbells, LocalDevice, Wire};

/// Where the memory lies for the device.
pub const IOVA: u64 = 0x10_0000;
pub const MEMORY: usize = 8 << 20;
/// Descriptors in each ring.
pub const SIZE: u16 = 32;
const RING: usize = 0x4000;
const DRIVER: usize = 0x1000;
const DEVICE: usize = 0x2000;
pub const TX_BUFFERS: usize = 0x10_0000;
pub const TX_BUFFER: usize = 0x1_2000;
pub const RX_BUFFERS: usize = 0x50_0000;
pub const RX_BUFFER: usize = 2048;

pub const STATUS: u64 = 20;
pub const GENERATION: u64 = 21;
pub const SELECT: u64 = 22;
pub const QUEUE_SIZE: u64 = 24;
pub const VECTOR: u64 = 26;
pub const ENABLE: u64 = 28;
pub const NEEDS_RESET: u32 = 64;

/// All that the model offers, but for the layout of rings.
pub fn split() -> Features {
    Features::all() - Features::RING_PACKED - Features::IN_ORDER
}

pub fn packed() -> Features {
    Features::all() - Features::IN_ORDER
}

/// Every ring that there is.
pub fn layouts() -> Vec<Features> {
    let plain = |features: Features| features - Features::EVENT_IDX;
    let ordered = |features: Features| features | Features::IN_ORDER;
    vec![split(), packed(), plain(split()), plain(packed()), ordered(split()), ordered(packed())]
}

pub struct Rig {
    pub device: Arc<LocalDevice<Model>>,
    pub memory: SharedMemory,
    /// The far end: a clone of the loopback, or the other end of a cable.
    pub wire: Box<dyn Wire>,
    pub features: Features,
    pub rings: Vec<Ring>,
    mapped: bool,
    now: Duration,
    slot: usize,
}

impl Rig {
    pub fn new(config: Config) -> Self {
        let wire = Loopback::new();
        Self::over(config, Box::new(wire.clone()), Box::new(wire))
    }

    /// A device at work on a cable: what it sends does not come back.
    pub fn watched(config: Config, features: Features) -> Self {
        let (near, far) = Cable::pair();
        let mut rig = Self::over(config, Box::new(near), Box::new(far));
        rig.bring_up(features);
        rig
    }

    pub fn over(config: Config, near: Box<dyn Wire>, wire: Box<dyn Wire>) -> Self {
        let mapped = config.doorbells == Doorbells::Mapped;
        let device = LocalDevice::new(Model::new(config, near).unwrap());
        let memory = SharedMemory::new("rig", MEMORY, HugePages::Never).unwrap();
        device.dma_map(IOVA, &memory, 0..MEMORY, Access::ReadWrite).unwrap();
        let features = Features::empty();
        Self { device, memory, wire, features, rings: Vec::new(), mapped, now: Duration::ZERO, slot: 0 }
    }

    /// A device at work, with buffers on its first receive queue.
    pub fn running(config: Config, features: Features) -> Self {
        let mut rig = Self::new(config);
        rig.bring_up(features);
        rig.fill(0, SIZE / 2, RX_BUFFER);
        rig
    }

    pub fn read(&self, offset: u64, len: usize) -> u32 {
        let mut bytes = [0; 4];
        self.device.bar_read(4, offset, &mut bytes[..len]).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub fn write(&self, offset: u64, len: usize, value: u32) {
        self.device.bar_write(4, offset, &value.to_le_bytes()[..len]).unwrap();
    }

    pub fn status(&self) -> u32 {
        self.read(STATUS, 1)
    }

    pub fn master(&self, on: bool) {
        self.device.config_write(4, &(if on { 6u16 } else { 2 }).to_le_bytes()).unwrap();
    }

    pub fn offered(&self) -> u64 {
        let half = |bank| {
            self.write(0, 4, bank);
            u64::from(self.read(4, 4))
        };
        half(0) | half(1) << 32
    }

    /// Whether FEATURES_OK stays.
    pub fn negotiate(&mut self, features: Features) -> bool {
        self.master(true);
        self.write(STATUS, 1, 0);
        self.write(STATUS, 1, 1);
        self.write(STATUS, 1, 3);
        for (bank, shift) in [(0, 0), (1, 32)] {
            self.write(8, 4, bank);
            self.write(12, 4, (features.bits() >> shift) as u32);
        }
        self.write(STATUS, 1, 11);
        self.features = features;
        self.status() & 8 != 0
    }

    pub fn bring_up(&mut self, features: Features) {
        assert!(self.negotiate(features), "{:?}", self.complaints());
        self.rings.clear();
        for queue in 0..self.read(18, 2) as u16 {
            self.set_up(queue, SIZE);
        }
        self.write(STATUS, 1, 15);
        assert_eq!(self.status(), 15, "{:?}", self.halts());
    }

    pub fn set_up(&mut self, queue: u16, size: u16) {
        self.write(SELECT, 2, queue.into());
        assert!(self.read(QUEUE_SIZE, 2) >= u32::from(size));
        self.write(QUEUE_SIZE, 2, size.into());
        self.write(VECTOR, 2, queue.into());
        assert_eq!(self.read(VECTOR, 2), u32::from(queue));
        let base = RING * usize::from(queue);
        self.memory.write_at(base, &[0; RING]);
        for (offset, part) in [(32, 0), (40, DRIVER), (48, DEVICE)] {
            let address = IOVA + (base + part) as u64;
            self.write(offset, 4, address as u32);
            self.write(offset + 4, 4, (address >> 32) as u32);
        }
        self.write(ENABLE, 2, 1);
        let ring = Ring::new(base, size, self.features);
        if ring.packed && !ring.event_idx {
            self.memory.write_at(base + DRIVER, &[0; 4]);
        }
        self.rings.push(ring);
    }

    /// Rings the bell, if the device wants it.
    pub fn kick(&mut self, queue: usize) {
        if self.rings[queue].wants_bell(&self.memory) {
            self.ring_bell(queue, queue as u16);
        }
    }

    pub fn ring_bell(&self, queue: usize, value: u16) {
        let offset = 0x3000 + 4 * queue as u64;
        if !self.mapped {
            return self.device.bar_write(4, offset, &value.to_le_bytes()).unwrap();
        }
        self.device.with_model(|model| {
            rustix::io::pwrite(model.doorbell_file().unwrap().as_fd(), &value.to_le_bytes(), offset).unwrap()
        });
    }

    pub fn step(&mut self) -> bool {
        self.device.step(self.now)
    }

    pub fn wait(&mut self, time: Duration) {
        self.now += time;
        self.settle();
    }

    pub fn settle(&mut self) {
        for _ in 0..1000 {
            if !self.step() {
                return;
            }
        }
        panic!("the device never comes to rest");
    }

    /// Makes a chain available and rings.
    pub fn post(&mut self, queue: usize, chain: &[(u64, u32, bool)]) -> u16 {
        let id = self.rings[queue].add(&self.memory, chain);
        self.kick(queue);
        id
    }

    pub fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        self.rings[queue].take_used(&self.memory)
    }

    /// Posts header and frame, in two pieces, on a pair.
    pub fn send_on(&mut self, pair: usize, header: Header, frame: &[u8]) -> u16 {
        let at = TX_BUFFERS + TX_BUFFER * self.slot;
        self.slot = (self.slot + 1) % 16;
        self.memory.write_at(at, &header.bytes());
        self.memory.write_at(at + 64, frame);
        let at = IOVA + at as u64;
        self.post(2 * pair + 1, &[(at, 12, false), (at + 64, frame.len() as u32, false)])
    }

    pub fn send(&mut self, header: Header, frame: &[u8]) -> u16 {
        self.send_on(0, header, frame)
    }

    /// What a header and a frame become on the wire.
    pub fn on_the_wire(&mut self, header: Header, frame: &[u8]) -> Vec<Vec<u8>> {
        self.send(header, frame);
        self.settle();
        self.drain()
    }

    /// What is on the wire.
    pub fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut frame = Vec::new();
        while self.wire.receive(&mut frame) {
            frames.push(std::mem::take(&mut frame));
        }
        frames
    }

    /// Posts receive buffers on a pair.
    pub fn fill(&mut self, pair: usize, count: u16, len: usize) {
        for i in 0..usize::from(count) {
            let at = IOVA + (RX_BUFFERS + 0x4_0000 * pair + RX_BUFFER * i) as u64;
            self.post(2 * pair, &[(at, len as u32, true)]);
        }
    }

    /// Takes a received frame; the buffers do not go back.
    pub fn receive_on(&mut self, pair: usize) -> Option<(Header, Vec<u8>)> {
        let (_, at, len) = self.rings[2 * pair].take_one(&self.memory)?;
        let mut bytes = self.bytes(at, len);
        let header = Header::parse(&bytes[..12]);
        for _ in 1..header.num_buffers {
            let (_, at, len) = self.rings[2 * pair].take_one(&self.memory).expect("all buffers of a frame together");
            bytes.extend(self.bytes(at, len));
        }
        Some((header, bytes.split_off(12)))
    }

    pub fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        self.receive_on(0)
    }

    fn bytes(&self, at: u64, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.memory.read_at((at - IOVA) as usize, &mut bytes);
        bytes
    }

    /// The answer to a command, if it is answered.
    pub fn command(&mut self, command: &[u8]) -> Option<u8> {
        let queue = self.rings.len() - 1;
        let at = TX_BUFFERS - 0x1000;
        self.memory.write_at(at, command);
        self.memory.write_at(at + 0x800, &[0x55]);
        let iova = IOVA + at as u64;
        self.post(queue, &[(iova, command.len() as u32, false), (iova + 0x800, 1, true)]);
        self.settle();
        let used = self.used(queue);
        used.first().map(|(_, len)| {
            assert_eq!(*len, 1);
            self.bytes(iova + 0x800, 1)[0]
        })
    }

    pub fn counters(&self) -> Counters {
        self.device.with_model(|model| model.counters())
    }

    pub fn complaints(&self) -> Vec<&'static str> {
        self.device.with_model(|model| model.complaints().iter().copied().collect())
    }

    pub fn halts(&self) -> Vec<String> {
        self.device.with_model(|model| model.halts().to_vec())
    }

    pub fn at_peace(&self) {
        assert_eq!((self.complaints(), self.halts()), (vec![], vec![]));
        let counters = self.counters();
        assert_eq!((counters.bus_faults, counters.gated, counters.odd_accesses), (0, 0, 0));
    }
}

/// The header before a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
    pub num_buffers: u16,
}

impl Header {
    pub fn bytes(self) -> [u8; 12] {
        let [a, b] = self.hdr_len.to_le_bytes();
        let [c, d] = self.gso_size.to_le_bytes();
        let [e, f] = self.csum_start.to_le_bytes();
        let [g, h] = self.csum_offset.to_le_bytes();
        let [i, j] = self.num_buffers.to_le_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h, i, j]
    }

    fn parse(bytes: &[u8]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            num_buffers: word(10),
        }
    }
}

/// One ring, from the driver's side.
pub struct Ring {
    pub base: usize,
    pub size: u16,
    pub packed: bool,
    pub event_idx: bool,
    in_order: bool,
    /// Split: free-running index. Packed: slot.
    next: u16,
    wrap: bool,
    used: u16,
    used_wrap: bool,
    /// `next` when the device was last asked whether it wants the bell; packed: slots made available since.
    asked: u16,
    free: VecDeque<u16>,
    /// ID, descriptors, first address, and bytes to be written of each chain under way, oldest first.
    under_way: VecDeque<(u16, Vec<u16>, u64, u32)>,
    /// Used in a batch, with the last of which they came.
    batched: VecDeque<(u16, u64, u32)>,
}

impl Ring {
    fn new(base: usize, size: u16, features: Features) -> Self {
        Self {
            base,
            size,
            packed: features.contains(Features::RING_PACKED),
            event_idx: features.contains(Features::EVENT_IDX),
            in_order: features.contains(Features::IN_ORDER),
            next: 0,
            wrap: true,
            used: 0,
            used_wrap: true,
            asked: 0,
            free: (0..size).collect(),
            under_way: VecDeque::new(),
            batched: VecDeque::new(),
        }
    }

    /// Makes a chain available: address, length, whether the device writes.
    pub fn add(&mut self, memory: &SharedMemory, chain: &[(u64, u32, bool)]) -> u16 {
        let entries = if self.packed { 1 } else { chain.len() };
        let ids: Vec<u16> = (0..entries).map(|_| self.free.pop_front().expect("room")).collect();
        let id = ids[0];
        let first = chain[0].0;
        if self.packed {
            self.add_packed(memory, id, chain)
        } else {
            self.add_split(memory, &ids, chain)
        }
        let slots = if self.packed { vec![id; chain.len()] } else { ids };
        let room = chain.iter().filter(|(.., write)| *write).map(|(_, len, _)| len).sum();
        self.under_way.push_back((id, slots, first, room));
        id
    }

    fn add_split(&mut self, memory: &SharedMemory, ids: &[u16], chain: &[(u64, u32, bool)]) {
        for (i, (address, len, write)) in chain.iter().enumerate() {
            let next = ids.get(i + 1);
            let flags = u16::from(next.is_some()) | u16::from(*write) << 1;
            self.descriptor(memory, ids[i], *address, *len, flags, next.copied().unwrap_or(0));
        }
        self.offer(memory, ids[0]);
    }

    /// Writes a split descriptor as it is told.
    pub fn descriptor(&self, memory: &SharedMemory, id: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = self.base + 16 * usize::from(id);
        memory.word64(at).store(address, Ordering::Relaxed);
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        memory.word64(at + 8).store(rest, Ordering::Relaxed);
    }

    /// Puts a head into the available ring.
    pub fn offer(&mut self, memory: &SharedMemory, head: u16) {
        let slot = usize::from(self.next % self.size);
        memory.write_at(self.base + DRIVER + 4 + 2 * slot, &head.to_le_bytes());
        self.next = self.next.wrapping_add(1);
        self.set_index(memory, self.next);
    }

    /// Writes flags and index of the available ring.
    pub fn set_index(&self, memory: &SharedMemory, index: u16) {
        let flags = memory.word32(self.base + DRIVER).load(Ordering::Relaxed) & 0xffff;
        memory.word32(self.base + DRIVER).store(flags | u32::from(index) << 16, Ordering::SeqCst);
    }

    fn add_packed(&mut self, memory: &SharedMemory, id: u16, chain: &[(u64, u32, bool)]) {
        let mut first = None;
        for (i, (address, len, write)) in chain.iter().enumerate() {
            let at = self.base + 16 * usize::from(self.next);
            let marks = if self.wrap { 1 << 7 } else { 1 << 15 };
            let flags: u16 = u16::from(i + 1 < chain.len()) | u16::from(*write) << 1 | marks;
            let rest = u64::from(*len) | u64::from(id) << 32 | u64::from(flags) << 48;
            memory.word64(at).store(*address, Ordering::Relaxed);
            match first {
                None => first = Some((at + 8, rest)),
                Some(_) => memory.word64(at + 8).store(rest, Ordering::Relaxed),
            }
            self.next += 1;
            self.asked += 1;
            if self.next == self.size {
                (self.next, self.wrap) = (0, !self.wrap);
            }
        }
        let (at, rest) = first.unwrap();
        memory.word64(at).store(rest, Ordering::SeqCst);
    }

    /// Whether the device asked for the bell since it was last asked.
    pub fn wants_bell(&mut self, memory: &SharedMemory) -> bool {
        if self.packed {
            let since = std::mem::take(&mut self.asked);
            let wish = memory.word32(self.base + DEVICE).load(Ordering::SeqCst);
            let (event, wrap) = (wish & 0x7fff, wish >> 15 & 1 == 1);
            return match wish >> 16 {
                0 => since > 0,
                2 => {
                    let lap = if wrap == self.wrap { 0 } else { i64::from(self.size) };
                    let (event, end) = (i64::from(event) - lap, i64::from(self.next));
                    (end - i64::from(since)..end).contains(&event)
                }
                _ => false,
            };
        }
        let old = std::mem::replace(&mut self.asked, self.next);
        if self.event_idx {
            let at = self.base + DEVICE + 4 + 8 * usize::from(self.size);
            let event = memory.word32(at & !3).load(Ordering::SeqCst) as u16;
            return self.next.wrapping_sub(event).wrapping_sub(1) < self.next.wrapping_sub(old);
        }
        memory.word32(self.base + DEVICE).load(Ordering::SeqCst) & 1 == 0
    }

    pub fn used_index(&self, memory: &SharedMemory) -> u16 {
        (memory.word32(self.base + DEVICE).load(Ordering::Acquire) >> 16) as u16
    }

    /// The next entry as the device wrote it: ID, length.
    pub fn raw(&self, memory: &SharedMemory) -> Option<(u32, u32)> {
        if self.packed {
            let at = self.base + 16 * usize::from(self.used);
            let rest = memory.word64(at + 8).load(Ordering::Acquire);
            let marks = (rest >> 55 & 1 == 1, rest >> 63 & 1 == 1);
            return (marks == (self.used_wrap, self.used_wrap)).then_some(((rest >> 32) as u32 & 0xffff, rest as u32));
        }
        if self.used_index(memory) == self.used {
            return None;
        }
        let at = self.base + DEVICE + 4 + 8 * usize::from(self.used % self.size);
        Some((memory.word32(at).load(Ordering::Relaxed), memory.word32(at + 4).load(Ordering::Relaxed)))
    }

    /// The next chain that is used: ID, its first address, bytes written.
    pub fn take_one(&mut self, memory: &SharedMemory) -> Option<(u16, u64, u32)> {
        if let Some(found) = self.batched.pop_front() {
            return Some(found);
        }
        let (id, len) = self.raw(memory)?;
        let id = u16::try_from(id).unwrap();
        let place = self.under_way.iter().position(|(known, ..)| *known == id).expect("an ID under way");
        let count = if self.in_order { place + 1 } else { 1 };
        let place = if self.in_order { 0 } else { place };
        for left in (0..count).rev() {
            let (id, slots, address, room) = self.under_way.remove(place).unwrap();
            self.advance(if self.packed { slots.len() as u16 } else { 1 });
            self.free.extend(if self.packed { &slots[..1] } else { &slots[..] });
            // What the entry does not name is used completely.
            self.batched.push_back((id, address, if left > 0 { room } else { len }));
        }
        self.batched.pop_front()
    }

    /// Moves on without a look.
    pub fn advance(&mut self, count: u16) {
        if !self.packed {
            self.used = self.used.wrapping_add(count);
            return;
        }
        self.used += count;
        if self.used >= self.size {
            (self.used, self.used_wrap) = (self.used - self.size, !self.used_wrap);
        }
    }

    pub fn take_used(&mut self, memory: &SharedMemory) -> Vec<(u16, u32)> {
        std::iter::from_fn(|| self.take_one(memory)).map(|(id, _, len)| (id, len)).collect()
    }

    /// Says when the driver wants an interrupt: never, or at its next used place.
    pub fn ask(&self, memory: &SharedMemory, interrupts: bool) {
        let driver = self.base + DRIVER;
        match (self.packed, self.event_idx) {
            (true, false) => memory.word32(driver).store(u32::from(!interrupts) << 16, Ordering::SeqCst),
            (true, true) if interrupts => {
                let place = u32::from(self.used) | u32::from(self.used_wrap) << 15;
                memory.word32(driver).store(place | 2 << 16, Ordering::SeqCst);
            }
            (true, true) => memory.word32(driver).store(1 << 16, Ordering::SeqCst),
            (false, true) => {
                let event = if interrupts { self.used } else { self.used.wrapping_sub(1) };
                memory.write_at(driver + 4 + 2 * usize::from(self.size), &event.to_le_bytes());
            }
            (false, false) => {
                let index = memory.word32(driver).load(Ordering::Relaxed) & !0xffff;
                memory.word32(driver).store(index | u32::from(!interrupts), Ordering::SeqCst);
            }
        }
    }
}

/// A UDP frame with right checksums.
pub fn udp(payload: &[u8], ports: (u16, u16)) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [0x02, 0x53, 0x57, 0, 1, 1]);
    let builder = builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(ports.0, ports.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// A TCP frame with right checksums, over IPv4 or IPv6.
pub fn tcp(payload: &[u8], v6: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [0x02, 0x53, 0x57, 0, 1, 1]);
    let builder = match v6 {
        true => builder.ipv6([1; 16], [2; 16], 64),
        false => builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
    };
    let mut frame = Vec::new();
    builder.tcp(7, 9, 1000, 4096).psh().ack(5).write(&mut frame, payload).unwrap();
    frame
}

/// Replaces a frame's transport checksum by the sum of the pseudo-header, as a driver must; from its text (RFC 1071).
pub fn prepare(frame: &mut [u8], csum_start: usize, csum_offset: usize) {
    let v6 = frame[12..14] == [0x86, 0xdd];
    let protocol = if v6 { frame[20] } else { frame[23] };
    let addresses = if v6 { 22..54 } else { 26..34 };
    let len = (frame.len() - csum_start) as u32;
    let mut sum = u32::from(protocol) + (len >> 16) + (len & 0xffff);
    sum += frame[addresses].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[csum_start + csum_offset..][..2].copy_from_slice(&(sum as u16).to_be_bytes());
}

/// Whether etherparse finds both checksums right.
pub fn checksums_hold(frame: &[u8]) -> bool {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    match (packet.net, packet.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(transport)) => {
            let header = ip.header();
            let ip_holds = header.to_header().calc_header_checksum() == header.header_checksum();
            let l4_holds = match transport {
                TransportSlice::Tcp(tcp) => {
                    tcp.calc_checksum_ipv4(header.source(), header.destination()).unwrap() == tcp.checksum()
                }
                TransportSlice::Udp(udp) => {
                    let calculated =
                        udp.to_header().calc_checksum_ipv4_raw(header.source(), header.destination(), udp.payload());
                    calculated.unwrap() == udp.checksum()
                }
                _ => false,
            };
            ip_holds && l4_holds
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(tcp))) => {
            let header = ip.header();
            tcp.calc_checksum_ipv6(header.source(), header.destination()).unwrap() == tcp.checksum()
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) => {
            let header = ip.header();
            let to_sum = udp.to_header();
            to_sum.calc_checksum_ipv6_raw(header.source(), header.destination(), udp.payload()).unwrap()
                == udp.checksum()
        }
        _ => false,
    }
}
