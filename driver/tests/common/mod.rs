//! A NIC on a stepped model: nothing moves unless the test says so.
#![allow(dead_code, missing_docs)]

pub mod faulty;
pub mod firmware;
pub mod ice;
pub mod traced;
pub mod virtio;

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stillwire_dma::{Access, HugePages, Mapping, Payload, PciFunction, RegisterSpace, Segment, SharedMemory};
use stillwire_driver::{ChecksumStatus, Config, Nic, Result, RxQueue};
use stillwire_emulator::wire::{Loopback, Wire};
use stillwire_emulator::{BusMemory, LocalDevice, Model, ixgbe};

pub struct Rig {
    pub device: Arc<LocalDevice>,
    pub function: PciFunction,
    pub nic: Nic,
    now: Cell<Duration>,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(ixgbe::Config::default(), Config::default())
    }

    pub fn with(model: ixgbe::Config, config: Config) -> Self {
        Self::on_wire(model, config, Box::new(Loopback::new())).unwrap()
    }

    pub fn on_wire(model: ixgbe::Config, config: Config, wire: Box<dyn Wire>) -> Result<Self> {
        let device = LocalDevice::new(Model::new(model, wire));
        let function = PciFunction::from_backend(device.clone());
        // Bring-up waits for registers, so the model runs meanwhile; after that it is stepped.
        let running = device.spawn();
        let nic = Nic::open(function.clone(), config)?;
        nic.wait_for_link(Duration::from_secs(5))?;
        drop(running);
        Ok(Self { device, function, nic, now: Cell::new(Duration::from_secs(3600)) })
    }

    /// One that may never have link.
    pub fn without_link(model: ixgbe::Config, config: Config) -> Result<Self> {
        let device = LocalDevice::new(Model::new(model, Box::new(Loopback::new())));
        let function = PciFunction::from_backend(device.clone());
        let running = device.spawn();
        let nic = Nic::open(function.clone(), config)?;
        drop(running);
        Ok(Self { device, function, nic, now: Cell::new(Duration::from_secs(3600)) })
    }

    /// Creates queues, which also wait for registers.
    pub fn live<R>(&self, work: impl FnOnce(&Nic) -> R) -> R {
        let _running = self.device.spawn();
        work(&self.nic)
    }

    /// Steps the model until it has nothing left to do at this time.
    pub fn settle(&self) {
        for _ in 0..100_000 {
            if !self.device.step(self.now.get()) {
                return;
            }
        }
        panic!("the model never comes to rest");
    }

    pub fn advance(&self, by: Duration) {
        self.now.set(self.now.get() + by);
        self.settle();
    }

    pub fn registers(&self) -> RegisterSpace {
        self.function.registers(0, 0x2_0000).unwrap()
    }

    /// What the device sees in the transmit ring: two words a descriptor.
    pub fn tx_descriptor(&self, index: u64) -> [u64; 2] {
        let registers = self.registers();
        let base = u64::from(registers.read(0x6000)) | u64::from(registers.read(0x6004)) << 32;
        let mut bytes = [0; 16];
        self.device.memory().read(base + index * 16, &mut bytes).unwrap();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        [word(0), word(8)]
    }

    /// Frames that have arrived.
    pub fn received(&self, rx: &mut RxQueue) -> Vec<(Vec<u8>, ChecksumStatus)> {
        let mut frames = Vec::new();
        loop {
            let found = rx.poll(32, |frame| {
                let mut bytes = Vec::new();
                frame.copy_to(&mut bytes);
                frames.push((bytes, frame.checksum()));
            });
            self.settle();
            if found == 0 {
                return frames;
            }
        }
    }
}

/// Payload memory of a test, cut into pieces of its choice.
pub struct Memory {
    pub memory: SharedMemory,
    pub mapping: Mapping,
}

impl Memory {
    pub fn new(function: &PciFunction, bytes: &[u8]) -> Arc<Self> {
        let memory = SharedMemory::new("test-payload", bytes.len().max(1), HugePages::Never).unwrap();
        memory.write_at(0, bytes);
        let mapping = function.iommu().map(&memory, Access::ReadOnly).unwrap();
        Arc::new(Self { memory, mapping })
    }
}

/// A token over pieces of memory. Tells when it is dropped.
pub struct Token {
    pub memory: Arc<Memory>,
    pub pieces: Vec<Range<usize>>,
    pub dropped: Arc<AtomicUsize>,
    pub on_drop: Option<Arc<Mutex<dyn FnMut() + Send>>>,
}

impl Token {
    pub fn new(memory: &Arc<Memory>, pieces: Vec<Range<usize>>) -> Self {
        Self { memory: memory.clone(), pieces, dropped: Arc::default(), on_drop: None }
    }

    pub fn counted(mut self, dropped: &Arc<AtomicUsize>) -> Self {
        self.dropped = dropped.clone();
        self
    }
}

impl Payload for Token {
    fn len(&self) -> usize {
        self.pieces.iter().map(ExactSizeIterator::len).sum()
    }

    fn segments(&self, range: Range<usize>, mut each: impl FnMut(Segment)) {
        let mut at = 0;
        for piece in &self.pieces {
            let start = range.start.clamp(at, at + piece.len());
            let end = range.end.clamp(at, at + piece.len());
            if let Some(segment) = self.memory.mapping.segment(piece.start + start - at..piece.start + end - at) {
                each(segment);
            }
            at += piece.len();
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
        if let Some(look) = &self.on_drop {
            (look.lock().unwrap())();
        }
    }
}

/// An Ethernet, IPv4 and UDP header for `len` bytes, with checksum fields full of rubbish.
pub fn udp_header(rig: &Rig, len: usize) -> Vec<u8> {
    let mac = rig.nic.mac().0;
    let mut header = Vec::new();
    etherparse::PacketBuilder::ethernet2(mac, mac)
        .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        .udp(4000, 4001)
        .write(&mut header, &vec![0; len])
        .unwrap();
    header.truncate(42);
    header[24..26].copy_from_slice(&[0xde, 0xad]);
    header[40..42].copy_from_slice(&[0xbe, 0xef]);
    header
}

/// The same for TCP.
pub fn tcp_header(rig: &Rig, len: usize) -> Vec<u8> {
    let mac = rig.nic.mac().0;
    let mut header = Vec::new();
    etherparse::PacketBuilder::ethernet2(mac, mac)
        .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        .tcp(4000, 4001, 1, 1024)
        .write(&mut header, &vec![0; len])
        .unwrap();
    header.truncate(54);
    header
}
