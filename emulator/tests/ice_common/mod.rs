//! A bare-metal driver of the E810 in miniature: rings and commands written by hand, numbers written once more.
#![allow(dead_code)]

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stillwire_dma::{Access, Backend, HugePages, SharedMemory};
use stillwire_emulator::ice::{Config, Model};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{Doorbells, LocalDevice, Wire};

/// Where the memory lies for the device.
pub const IOVA: u64 = 0x10_0000;
/// Descriptors in each ring of frames, and in each ring of the admin queue.
pub const RING: u32 = 64;
pub const ADMIN_RING: u32 = 16;
pub const ATQ: usize = 0x0000;
pub const ARQ: usize = 0x1000;
pub const ATQ_BUFFER: usize = 0x2000;
pub const ARQ_BUFFERS: usize = 0x4000;
pub const ARQ_BUFFER: usize = 512;
pub const TX_RING: usize = 0x8000;
pub const RX_RING: usize = 0xa000;
pub const PAYLOAD: usize = 0x1_0000;
pub const BUFFERS: usize = 0x8_0000;
pub const BUFFER: usize = 2048;

pub const TX_TAIL: u64 = 0x2c_0000;
pub const RX_TAIL: u64 = 0x29_0000;
pub const RX_CTRL: u64 = 0x12_0000;
pub const TX_CAUSE: u64 = 0x14_0000;
pub const RX_CAUSE: u64 = 0x15_0000;
pub const DYN_CTL: u64 = 0x16_0000;
pub const CAUSE_ENA: u32 = 1 << 30;
pub const WB_ON_ITR: u32 = 1 << 30;
/// The interface that firmware makes.
pub const VSI: u16 = 1;

pub struct Rig {
    pub device: Arc<LocalDevice<Model>>,
    pub memory: SharedMemory,
    pub wire: Loopback,
    pub mapped: bool,
    /// The node that the transmit queue hangs from.
    pub group: u32,
    command_tail: u32,
    event_head: u32,
    tail: u32,
    rx: u32,
    now: Duration,
}

pub fn config(doorbells: Doorbells) -> Config {
    Config { doorbells, package: true, ..Config::default() }
}

/// What became of a command.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub params: [u8; 16],
    pub reply: Vec<u8>,
}

impl Answer {
    pub fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.reply[at..at + 4].try_into().unwrap())
    }
}

impl Rig {
    pub fn new(config: Config) -> Self {
        let wire = Loopback::new();
        Self::over(config, wire.clone(), Box::new(wire))
    }

    pub fn over(config: Config, wire: Loopback, far: Box<dyn Wire>) -> Self {
        let mapped = config.doorbells == Doorbells::Mapped;
        let device = LocalDevice::new(Model::new(config, far).unwrap());
        let memory = SharedMemory::new("rig", 1 << 20, HugePages::Never).unwrap();
        device.dma_map(IOVA, &memory, 0..1 << 20, Access::ReadWrite).unwrap();
        Self {
            device,
            memory,
            wire,
            mapped,
            group: 0,
            command_tail: 0,
            event_head: 0,
            tail: 0,
            rx: 0,
            now: Duration::ZERO,
        }
    }

    /// A device with its first queues running, everything let in, and completions written at once.
    pub fn running(config: Config) -> Self {
        let mut rig = Self::new(config);
        rig.bring_up();
        rig
    }

    pub fn master(&self, on: bool) {
        self.device.config_write(4, &(if on { 6u16 } else { 2 }).to_le_bytes()).unwrap();
    }

    pub fn bring_up(&mut self) {
        self.master(true);
        self.start_adminq();
        self.let_in(5, [0; 6], VSI);
        self.find_group();
        for cause in [TX_CAUSE, RX_CAUSE] {
            self.write(cause, CAUSE_ENA | 1);
        }
        self.write(DYN_CTL + 4, WB_ON_ITR);
        assert_eq!(self.add_tx_queue(0, &tx_context(TX_RING, RING)).code, 0);
        self.tail = 0;
        self.start_rx(&rx_context(RX_RING, RING, BUFFER, 9728), 2);
        self.step();
    }

    pub fn start_adminq(&mut self) {
        (self.command_tail, self.event_head) = (0, 0);
        for (first, ring) in [(0x8_0000u64, ATQ), (0x8_0080, ARQ)] {
            self.write(first + 0x300, 0);
            self.write(first + 0x400, 0);
            self.write(first + 0x200, ADMIN_RING | 1 << 31);
            self.write(first, IOVA as u32 + ring as u32);
            self.write(first + 0x100, 0);
        }
        for i in 0..ADMIN_RING as usize {
            self.arm_event(i);
        }
        self.write(0x8_0480, ADMIN_RING - 1);
    }

    fn arm_event(&self, i: usize) {
        let buffer = IOVA as u32 + (ARQ_BUFFERS + i * ARQ_BUFFER) as u32;
        let words = [1u64 << 12 | (ARQ_BUFFER as u64) << 32, 0, 0, u64::from(buffer) << 32];
        for (word, value) in words.into_iter().enumerate() {
            self.memory.word64(ARQ + 32 * i + 8 * word).store(value, Ordering::Release);
        }
    }

    /// The next event: its opcode, and its buffer.
    pub fn event(&mut self) -> Option<(u16, Vec<u8>)> {
        let i = self.event_head;
        if self.read(0x8_0380) == i {
            return None;
        }
        let head = self.memory.word64(ARQ + 32 * i as usize).load(Ordering::Acquire);
        assert_eq!(head & 1, 1, "done");
        let mut bytes = vec![0; (head >> 32) as usize & 0xffff];
        self.memory.read_at(ARQ_BUFFERS + i as usize * ARQ_BUFFER, &mut bytes);
        self.arm_event(i as usize);
        self.write(0x8_0480, i);
        self.event_head = (i + 1) % ADMIN_RING;
        Some(((head >> 16) as u16, bytes))
    }

    /// Puts a command into the ring, and rings.
    pub fn post_command(&mut self, opcode: u16, params: &[u8], data: &[u8], room: usize) -> u32 {
        let at = self.command_tail;
        let len = room.max(data.len());
        let mut flags = 0x2000u64;
        let mut all = [0; 16];
        all[..params.len()].copy_from_slice(params);
        if len > 0 {
            flags |= 1 << 12 | u64::from(!data.is_empty()) << 10 | u64::from(len > 512) << 9;
            all[12..].copy_from_slice(&(IOVA as u32 + ATQ_BUFFER as u32).to_le_bytes());
            self.memory.write_at(ATQ_BUFFER, data);
        }
        let (low, high) = all.split_at(8);
        let quad = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let words =
            [flags | u64::from(opcode) << 16 | (len as u64) << 32, 0x1122_3344_5566_7788, quad(low), quad(high)];
        for (word, value) in words.into_iter().enumerate() {
            self.memory.word64(ATQ + 32 * at as usize + 8 * word).store(value, Ordering::Release);
        }
        self.command_tail = (at + 1) % ADMIN_RING;
        self.write(0x8_0400, self.command_tail);
        at
    }

    /// What the descriptor at `at` says, if it is done.
    pub fn answer(&self, at: u32) -> Option<Answer> {
        let word = |i: usize| self.memory.word64(ATQ + 32 * at as usize + 8 * i).load(Ordering::Acquire);
        let head = word(0);
        if head & 3 != 3 {
            return None;
        }
        assert_eq!(self.read(0x8_0300), (at + 1) % ADMIN_RING, "the head moves after the answer");
        assert_eq!(word(1), 0x1122_3344_5566_7788, "cookies come back");
        let mut params = [0; 16];
        params[..8].copy_from_slice(&word(2).to_le_bytes());
        params[8..].copy_from_slice(&word(3).to_le_bytes());
        let code = (head >> 48) as u16;
        assert_eq!(head >> 2 & 1 == 1, code != 0, "ERR");
        let mut reply = vec![0; if head >> 12 & 1 == 1 { (head >> 32) as usize & 0xffff } else { 0 }];
        self.memory.read_at(ATQ_BUFFER, &mut reply);
        Some(Answer { code, params, reply })
    }

    /// A command that is answered at once.
    pub fn command(&mut self, opcode: u16, params: &[u8], data: &[u8], room: usize) -> Answer {
        let at = self.post_command(opcode, params, data, room);
        self.answer(at).unwrap_or_else(|| panic!("{opcode:#06x} is not answered: {:?}", self.halts()))
    }

    /// A rule for received frames: recipe 1 an address, 3 a kind of address, 5 all that nobody wants.
    pub fn let_in(&mut self, recipe: u16, address: [u8; 6], vsi: u16) -> Answer {
        let action = u32::from(vsi) << 4 | 1 << 17;
        let head = [0u16, 0, recipe, 0, action as u16, (action >> 16) as u16, 0, 16];
        let mut rule: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
        rule.extend([&address[..], &[0; 10]].concat());
        self.command(0x02a0, &[1, 0], &rule, 0)
    }

    /// The lowest node of the branch that firmware made.
    pub fn find_group(&mut self) {
        let topology = self.command(0x0400, &[0], &[], 4096);
        let count = topology.word(4) as usize & 0xffff;
        self.group = topology.word(8 + 24 * (count - 1) + 4);
    }

    pub fn add_tx_queue(&mut self, q: u16, context: &[u8; 22]) -> Answer {
        let info = [0, 7, 0, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0];
        let group = self.group.to_le_bytes();
        let queue = [&q.to_le_bytes()[..], &[0; 6], context, &[0; 2], &info].concat();
        self.command(0x0c30, &[1], &[&group[..], &[1, 0, 0, 0], &queue].concat(), 0)
    }

    pub fn disable_tx_queue(&mut self, q: u16) -> u32 {
        let group = self.group.to_le_bytes();
        let data = [&group[..], &[1, 0], &q.to_le_bytes()].concat();
        self.post_command(0x0c31, &[1 << 3, 1], &data, 0)
    }

    pub fn start_rx(&mut self, context: &[u32; 8], rxdid: u32) {
        self.write(0x48_0000, rxdid | 3 << 8);
        for (i, dword) in context.iter().enumerate() {
            self.write(0x28_0000 + 0x2000 * i as u64, *dword);
        }
        self.write(RX_TAIL, 0);
        self.rx = 0;
        for i in 0..RING as usize {
            self.refill(i);
        }
        self.write(RX_CTRL, 1);
        self.write(RX_TAIL, RING - 8);
    }

    fn refill(&self, i: usize) {
        let buffer = IOVA + (BUFFERS + i * BUFFER) as u64;
        for (word, value) in [buffer, 0, 0, 0].into_iter().enumerate() {
            self.memory.word64(RX_RING + 32 * i + 8 * word).store(value, Ordering::Release);
        }
    }

    pub fn in_page(&self, offset: u64) -> bool {
        self.mapped && [RX_TAIL, TX_TAIL].iter().any(|page| (*page..*page + 0x1000).contains(&offset))
    }

    pub fn write(&self, offset: u64, value: u32) {
        if !self.in_page(offset) {
            return self.device.bar_write(0, offset, &value.to_le_bytes()).unwrap();
        }
        self.device.with_model(|model| {
            rustix::io::pwrite(model.doorbell_file().unwrap().as_fd(), &value.to_le_bytes(), offset).unwrap()
        });
    }

    pub fn read(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        if self.in_page(offset) {
            self.device.with_model(|model| {
                rustix::io::pread(model.doorbell_file().unwrap().as_fd(), &mut bytes, offset).unwrap()
            });
        } else {
            self.device.bar_read(0, offset, &mut bytes).unwrap();
        }
        u32::from_le_bytes(bytes)
    }

    /// Puts one descriptor into the TX ring, not yet announced.
    pub fn put(&mut self, words: [u64; 2]) -> u32 {
        let at = self.tail;
        self.memory.word64(TX_RING + 16 * at as usize).store(words[0], Ordering::Relaxed);
        self.memory.word64(TX_RING + 16 * at as usize + 8).store(words[1], Ordering::Release);
        self.tail = (at + 1) % RING;
        at
    }

    /// The next descriptor goes to the ring's start.
    pub fn restart_tx(&mut self) {
        self.tail = 0;
    }

    pub fn ring_bell(&self) {
        self.write(TX_TAIL, self.tail);
    }

    /// Posts a frame of two buffers with UDP and header checksum; returns the last descriptor's index.
    pub fn post_udp(&mut self, payload: &[u8], report: bool) -> u32 {
        let header = crate::common::udp_header(payload.len());
        self.memory.write_at(PAYLOAD, &header);
        self.memory.write_at(PAYLOAD + 0x1000, payload);
        self.put(data(PAYLOAD, header.len(), IPV4_CSUM | UDP, [14, 20, 8]));
        let last = EOP | if report { RS } else { 0 };
        let at = self.put(data(PAYLOAD + 0x1000, payload.len(), IPV4_CSUM | UDP | last, [14, 20, 8]));
        self.ring_bell();
        at
    }

    /// Posts a whole frame that lies at [`PAYLOAD`], with the lengths of its headers.
    pub fn post(&mut self, frame: &[u8], command: u64, lens: [u64; 3]) -> u32 {
        self.memory.write_at(PAYLOAD, frame);
        let at = self.put(data(PAYLOAD, frame.len(), command | EOP | RS, lens));
        self.ring_bell();
        at
    }

    pub fn step(&self) -> bool {
        self.device.step(self.now)
    }

    pub fn step_after(&mut self, time: Duration) -> bool {
        self.now += time;
        self.step()
    }

    /// Steps until nothing happens; panics when that does not come.
    pub fn settle(&self) {
        for _ in 0..1000 {
            if !self.step() {
                return;
            }
        }
        panic!("the device never comes to rest");
    }

    pub fn done(&self, index: u32) -> bool {
        self.memory.word64(TX_RING + 16 * index as usize + 8).load(Ordering::Acquire) == 0xf
    }

    /// The next frame received and the words of its last descriptor, if there is one.
    pub fn receive(&mut self) -> Option<(Vec<u8>, [u64; 4])> {
        let mut frame = Vec::new();
        loop {
            let i = self.rx as usize;
            let word = |at: usize| self.memory.word64(RX_RING + 32 * i + 8 * at).load(Ordering::Acquire);
            let words = [word(0), word(1), word(2), word(3)];
            if words[1] & 1 == 0 {
                return None;
            }
            let len = if words[0] & 0x3f == 2 || words[0] & 0x3f == 22 { words[0] >> 32 } else { words[1] >> 38 };
            let mut piece = vec![0; len as usize & 0x3fff];
            self.memory.read_at(BUFFERS + i * BUFFER, &mut piece);
            frame.extend(piece);
            self.refill(i);
            self.rx = (self.rx + 1) % RING;
            // One line of eight stays empty, so that a full ring is none.
            self.write(RX_TAIL, (self.rx + RING - 8) % RING);
            if words[1] & 2 != 0 {
                return Some((frame, words));
            }
        }
    }

    pub fn halts(&self) -> Vec<String> {
        self.device.with_model(|model| model.halts().to_vec())
    }

    pub fn complaints(&self) -> Vec<&'static str> {
        self.device.with_model(|model| model.complaints().iter().copied().collect())
    }

    pub fn fault(&self, change: impl FnOnce(&mut stillwire_emulator::ice::Faults)) {
        self.device.with_model(|model| change(model.faults()));
    }
}

pub const EOP: u64 = 0x001 << 4;
pub const RS: u64 = 0x002 << 4;
pub const TAG: u64 = 0x008 << 4;
pub const DUMMY: u64 = 0x010 << 4;
pub const IPV6: u64 = 0x020 << 4;
pub const IPV4: u64 = 0x040 << 4;
pub const IPV4_CSUM: u64 = 0x060 << 4;
pub const TCP: u64 = 0x100 << 4;
pub const SCTP: u64 = 0x200 << 4;
pub const UDP: u64 = 0x300 << 4;

/// A data descriptor; `command` as it lies in the second word, and the lengths of link, network and transport header.
pub fn data(offset: usize, len: usize, command: u64, [mac, ip, l4]: [u64; 3]) -> [u64; 2] {
    [IOVA + offset as u64, command | (mac / 2) << 16 | (ip / 4) << 23 | (l4 / 4) << 30 | (len as u64) << 34]
}

/// A context descriptor that asks for segments.
pub fn context(payload: u64, mss: u64) -> [u64; 2] {
    [0, 1 | 1 << 4 | payload << 30 | mss << 50]
}

/// Puts a value of `width` bits at bit `lsb`.
pub fn put_bits(bytes: &mut [u8], lsb: usize, width: usize, value: u64) {
    for i in 0..width {
        let bit = ((value >> i & 1) as u8) << ((lsb + i) % 8);
        bytes[(lsb + i) / 8] = bytes[(lsb + i) / 8] & !(1 << ((lsb + i) % 8)) | bit;
    }
}

/// Of a transmit queue of the PF, on firmware's interface.
pub fn tx_context(ring: usize, count: u32) -> [u8; 22] {
    let mut bytes = [0; 22];
    for (lsb, width, value) in [
        (0, 57, (IOVA + ring as u64) >> 7),
        (78, 2, 2),
        (80, 10, VSI.into()),
        (135, 13, count.into()),
        (152, 1, 1),
        (164, 1, 1),
    ] {
        put_bits(&mut bytes, lsb, width, value);
    }
    bytes
}

/// Of a receive queue with buffers of `buffer` bytes and frames of at most `longest`.
pub fn rx_context(ring: usize, count: u32, buffer: usize, longest: u64) -> [u32; 8] {
    let mut bytes = [0; 32];
    for (lsb, width, value) in [
        (32, 57, (IOVA + ring as u64) >> 7),
        (89, 13, count.into()),
        (102, 7, buffer as u64 / 128),
        (116, 1, 1),
        (117, 1, 1),
        (119, 1, 1),
        (174, 14, longest),
        (198, 3, 1),
        (201, 1, 1),
    ] {
        put_bits(&mut bytes, lsb, width, value);
    }
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|i| u32::from_le_bytes(words[i]))
}
