//! A bare-metal driver in miniature: rings written by hand, numbers written once more.
#![allow(dead_code)]

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use etherparse::PacketBuilder;
use stillwire_dma::{Access, Backend, HugePages, SharedMemory};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{Config, Doorbells, LocalDevice, Model, Wire};

/// Where the memory lies for the device.
pub const IOVA: u64 = 0x10_0000;
/// Descriptors in each ring.
pub const RING: u32 = 64;
pub const TX_RING: usize = 0;
pub const RX_RING: usize = 0x4000;
pub const HEAD: usize = 0x8000;
pub const PAYLOAD: usize = 0x1_0000;
pub const BUFFERS: usize = 0x8_0000;
pub const BUFFER: usize = 2048;

pub const CTRL: u64 = 0;
pub const STATUS: u64 = 8;
pub const TDT: u64 = 0x6018;
pub const TDH: u64 = 0x6010;
pub const TXDCTL: u64 = 0x6028;
pub const RDT: u64 = 0x1018;
pub const RXDCTL: u64 = 0x1028;
pub const ENABLE: u32 = 1 << 25;

pub struct Rig {
    pub device: Arc<LocalDevice>,
    pub memory: SharedMemory,
    pub wire: Loopback,
    pub mapped: bool,
    tail: u32,
    rx: u32,
    now: Duration,
}

pub fn config(doorbells: Doorbells) -> Config {
    Config { doorbells, ..Config::default() }
}

impl Rig {
    pub fn new(config: Config) -> Self {
        let wire = Loopback::new();
        Self::over(config, wire.clone(), Box::new(wire))
    }

    pub fn over(config: Config, wire: Loopback, far: Box<dyn Wire>) -> Self {
        let mapped = config.doorbells == Doorbells::Mapped;
        let device = LocalDevice::new(Model::new(config, far));
        let memory = SharedMemory::new("rig", 1 << 20, HugePages::Never).unwrap();
        device.dma_map(IOVA, &memory, 0..1 << 20, Access::ReadWrite).unwrap();
        Self { device, memory, wire, mapped, tail: 0, rx: 0, now: Duration::ZERO }
    }

    /// A device with its first queues running.
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
        (self.tail, self.rx) = (0, 0);
        self.write(0x4a80, self.read(0x4a80) | 1); // DMATXCTL.TE
        self.write(0x5080, 1 << 10); // FCTRL.BAM
        self.write(0x2f00, 1 << 1); // RDRXCTL.CRCSTRIP, as HLREG0 has it
        self.write(0x6000, IOVA as u32 + TX_RING as u32);
        self.write(0x6008, RING * 16);
        self.write(0x6010, 0);
        self.write(TDT, 0);
        self.write(TXDCTL, ENABLE | 1 << 8 | 32);
        self.write(0x1000, IOVA as u32 + RX_RING as u32);
        self.write(0x1008, RING * 16);
        self.write(0x1010, 0);
        self.write(RDT, 0);
        self.write(0x1014, 2 | 1 << 25 | 1 << 28); // 2 KiB, advanced, DROP_EN
        self.write(0x100c, 0);
        for i in 0..RING as usize {
            self.refill(i);
        }
        self.write(RXDCTL, ENABLE);
        assert_ne!(self.read(TXDCTL) & ENABLE, 0);
        assert_ne!(self.read(RXDCTL) & ENABLE, 0);
        self.write(RDT, RING - 1);
        self.write(0x3000, 1); // RXCTRL.RXEN
        self.step();
    }

    fn refill(&self, i: usize) {
        let buffer = IOVA + (BUFFERS + i * BUFFER) as u64;
        self.memory.word64(RX_RING + 16 * i).store(buffer, Ordering::Relaxed);
        self.memory.word64(RX_RING + 16 * i + 8).store(0, Ordering::Release);
    }

    pub fn in_page(&self, offset: u64) -> bool {
        self.mapped && ((0x1000..0x2000).contains(&offset) || (0x6000..0x7000).contains(&offset))
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

    /// No descriptor of the TX ring says done.
    pub fn clear_tx(&self) {
        (0..RING as usize).for_each(|i| self.memory.word64(TX_RING + 16 * i + 8).store(0, Ordering::Release));
    }

    pub fn ring_bell(&self) {
        self.write(TDT, self.tail);
    }

    /// Posts a frame of one buffer with UDP checksum offload, header checksum too; returns the data descriptor's index.
    pub fn post_udp(&mut self, payload: &[u8], report: bool) -> u32 {
        let header = udp_header(payload.len());
        self.memory.write_at(PAYLOAD, &header);
        self.memory.write_at(PAYLOAD + 0x1000, payload);
        self.put(context(14, 20, 8, 0, 0, true));
        let total = header.len() + payload.len();
        self.put(data(PAYLOAD, header.len(), IFCS, IXSM | TXSM, total));
        let cmd = EOP | IFCS | if report { RS } else { 0 };
        let last = self.put(data(PAYLOAD + 0x1000, payload.len(), cmd, 0, 0));
        self.ring_bell();
        last
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
        self.memory.word32(TX_RING + 16 * index as usize + 12).load(Ordering::Acquire) & 1 == 1
    }

    /// The next frame received and its status words, if there is one.
    pub fn receive(&mut self) -> Option<(Vec<u8>, u64, u64)> {
        let mut frame = Vec::new();
        loop {
            let i = self.rx as usize;
            let high = self.memory.word64(RX_RING + 16 * i + 8).load(Ordering::Acquire);
            if high & 1 == 0 {
                return None;
            }
            let low = self.memory.word64(RX_RING + 16 * i).load(Ordering::Relaxed);
            let mut piece = vec![0; (high >> 32) as usize & 0xffff];
            self.memory.read_at(BUFFERS + i * BUFFER, &mut piece);
            frame.extend(piece);
            self.refill(i);
            self.write(RDT, self.rx);
            self.rx = (self.rx + 1) % RING;
            if high & 2 != 0 {
                return Some((frame, low, high));
            }
        }
    }

    pub fn halts(&self) -> Vec<String> {
        self.device.with_model(|model| model.halts().to_vec())
    }
}

pub const EOP: u64 = 1 << 24;
pub const IFCS: u64 = 1 << 25;
pub const RS: u64 = 1 << 27;
pub const VLE: u64 = 1 << 30;
pub const TSE: u64 = 1 << 31;
pub const IXSM: u64 = 1 << 40;
pub const TXSM: u64 = 1 << 41;

/// An advanced data descriptor; `command` and `options` as they lie in the second word.
pub fn data(offset: usize, len: usize, command: u64, options: u64, payload_len: usize) -> [u64; 2] {
    [IOVA + offset as u64, len as u64 | 3 << 20 | 1 << 29 | command | options | (payload_len as u64) << 46]
}

/// An advanced context descriptor; `l4` 0 UDP, 1 TCP, 2 SCTP.
pub fn context(mac: u64, ip: u64, l4_len: u64, mss: u64, l4: u64, v4: bool) -> [u64; 2] {
    [ip | mac << 9, u64::from(v4) << 10 | l4 << 11 | 2 << 20 | 1 << 29 | l4_len << 40 | mss << 48]
}

/// Ethernet, IPv4 (checksum 0) and UDP (pseudo-header sum) headers for the device's offload.
pub fn udp_header(payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0x53, 0x57, 0, 0, 1], [0xff; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(7, 9)
        .write(&mut frame, &vec![0; payload])
        .unwrap();
    frame.truncate(42);
    frame[24..26].fill(0);
    let sum = pseudo(&frame[26..34], 17, 8 + payload);
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The pseudo-header's folded sum, not inverted.
pub fn pseudo(addresses: &[u8], protocol: u32, len: usize) -> u16 {
    let words = addresses.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum = words.sum::<u32>() + protocol + len as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Checks a frame with a third party's code; panics when a checksum is wrong.
pub fn udp_payload(frame: &[u8]) -> Result<Vec<u8>, String> {
    let packet = etherparse::PacketHeaders::from_ethernet_slice(frame).map_err(|error| error.to_string())?;
    let Some(etherparse::NetHeaders::Ipv4(ip, _)) = &packet.net else { return Err("no IPv4".into()) };
    if ip.header_checksum != ip.calc_header_checksum() {
        return Err("IPv4 header checksum".into());
    }
    let Some(etherparse::TransportHeader::Udp(udp)) = &packet.transport else { return Err("no UDP".into()) };
    let payload = &packet.payload.slice()[..usize::from(udp.length) - 8];
    let wanted = udp.calc_checksum_ipv4(ip, payload).unwrap();
    if udp.checksum != wanted { Err("UDP checksum".into()) } else { Ok(payload.to_vec()) }
}
