//! What the benches share: a NIC on a stepped model, and a cached file.
//!
//! The model is moved by [`Rig::settle`] between timed regions, on the same core: what is timed is the driver, and the
//! figures do not depend on how two virtual CPUs share cache lines.

pub mod paper;

use std::sync::Arc;
use std::time::Duration;

use stillwire_dma::PciFunction;
use stillwire_driver::{Config, Nic, TxQueue};
use stillwire_emulator::wire::Sink;
use stillwire_emulator::{LocalDevice, Model};
use stillwire_filecache::{Cache, CachedFile};

/// Bytes of the benches' file.
pub const FILE: usize = 8 << 20;
/// Every byte of it.
pub const PATTERN: u8 = 0x5a;

/// A cached file with all of it read in, and what keeps it.
pub struct Cached {
    /// The cache.
    pub cache: Cache,
    /// The file.
    pub file: CachedFile,
    _folder: tempfile::TempDir,
}

impl Cached {
    /// A file of [`FILE`] bytes.
    ///
    /// # Panics
    /// When the machine refuses: a bench has nobody to tell.
    pub fn new() -> Self {
        Self::with(stillwire_filecache::Config { bytes: 2 * FILE, ..Default::default() })
    }

    /// The same in a cache made by `config`.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with(config: stillwire_filecache::Config) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        std::fs::write(&path, vec![PATTERN; FILE]).expect("a temporary file");
        let cache = Cache::new(config).expect("a cache");
        let file = cache.open(&path).expect("the file opens");
        drop(file.hold(0..FILE as u64).expect("the file is read in"));
        Self { cache, file, _folder: folder }
    }
}

impl Default for Cached {
    fn default() -> Self {
        Self::new()
    }
}

/// A NIC on a model that moves only when told.
pub struct Rig<T> {
    /// Its transmit queue.
    pub tx: TxQueue<T>,
    _nic: Nic,
    /// The function, for mapping.
    pub function: PciFunction,
    device: Arc<LocalDevice>,
    sink: Sink,
}

impl<T: 'static> Rig<T> {
    /// A NIC with a transmit ring of `ring` descriptors, on a wire that checks and counts what arrives.
    ///
    /// # Panics
    /// When the NIC does not come up.
    pub fn new(ring: u16) -> Self {
        let sink = Sink::new();
        let model = stillwire_emulator::Config { frames_per_step: usize::from(ring), ..Default::default() };
        let device = LocalDevice::new(Model::new(model, Box::new(sink.clone())));
        let function = PciFunction::from_backend(device.clone());
        let running = device.spawn();
        let nic = Nic::open(function.clone(), Config { tx_ring: ring, ..Config::default() }).expect("the NIC opens");
        nic.wait_for_link(Duration::from_secs(5)).expect("link");
        let tx = nic.tx_queue().expect("a transmit queue");
        drop(running);
        Self { tx, _nic: nic, function, device, sink }
    }

    /// Lets the model do all it has to do.
    pub fn settle(&self) {
        while self.device.step(Duration::from_secs(1 << 20)) {}
    }

    /// Frames that reached the wire; all of them had right checksums.
    ///
    /// # Panics
    /// When one had not: then the bench measures a driver that does not work.
    pub fn frames(&self) -> u64 {
        let report = self.sink.report();
        assert_eq!(report.bad, 0, "frames with wrong checksums: {report:?}");
        report.frames
    }
}

/// An Ethernet, IPv4 and UDP header for `payload` bytes.
pub fn udp_header(payload: usize) -> [u8; 42] {
    let mut header = [0; 42];
    header[..12].copy_from_slice(&[2, 0x53, 0x57, 0, 0, 2, 2, 0x53, 0x57, 0, 0, 1]);
    header[12] = 0x08;
    header[14] = 0x45;
    header[16..18].copy_from_slice(&((20 + 8 + payload) as u16).to_be_bytes());
    header[22] = 64;
    header[23] = 17;
    header[26..34].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    header[34..38].copy_from_slice(&[0x0f, 0xa0, 0x0f, 0xa1]);
    header[38..40].copy_from_slice(&((8 + payload) as u16).to_be_bytes());
    header
}
