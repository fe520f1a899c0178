//! The same on a model of virtio-net.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use stillwire_dma::PciFunction;
use stillwire_driver::{ChecksumStatus, Config, Ip, Nic, Offload, Result, RxQueue, Transport};
use stillwire_emulator::LocalDevice;
use stillwire_emulator::virtio::{self, Faults, Features, Model};
use stillwire_emulator::wire::Loopback;

/// A device that lacks something.
pub fn without(features: Features) -> virtio::Config {
    virtio::Config { features: Features::all() - features, ..virtio::Config::default() }
}

/// Devices of all kinds of rings: packed or split, with one used entry for many chains or one for each.
pub fn rings() -> [virtio::Config; 4] {
    let (packed, in_order) = (Features::RING_PACKED, Features::IN_ORDER);
    [Features::empty(), packed, in_order, packed | in_order].map(without)
}

pub struct Rig {
    pub nic: Nic,
    pub function: PciFunction,
    pub device: Arc<LocalDevice<Model>>,
    now: Cell<Duration>,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(virtio::Config::default(), Config::default())
    }

    pub fn with(model: virtio::Config, config: Config) -> Self {
        Self::open(model, config, Faults::default()).unwrap()
    }

    pub fn open(model: virtio::Config, config: Config, faults: Faults) -> Result<Self> {
        let device = LocalDevice::new(Model::new(model, Box::new(Loopback::new())).unwrap());
        device.with_model(|model| *model.faults() = faults);
        let function = PciFunction::from_backend(device.clone());
        // Commands are answered by a device that runs; after that it is stepped.
        let running = device.spawn();
        let nic = Nic::open(function.clone(), config)?;
        drop(running);
        Ok(Self { nic, function, device, now: Cell::new(Duration::from_secs(3600)) })
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

    /// A few steps of a model that never comes to rest.
    pub fn steps(&self, count: usize) {
        (0..count).for_each(|_| _ = self.device.step(self.now.get()));
    }

    pub fn advance(&self, by: Duration) {
        self.now.set(self.now.get() + by);
        self.settle();
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

    /// The device found nothing wrong with what the driver did.
    pub fn assert_no_complaints(&self) {
        self.device.with_model(|model| {
            assert!(model.complaints().is_empty(), "{:?}", model.complaints());
            assert!(model.halts().is_empty(), "{:?}", model.halts());
        });
    }
}

/// The headers that `offload` speaks of, for `len` bytes, with checksum fields full of rubbish.
pub fn header(rig: &Rig, offload: Offload, len: usize) -> Vec<u8> {
    let mac = rig.nic.mac().0;
    let (payload, mut header) = (vec![0; len], Vec::new());
    let start = PacketBuilder::ethernet2(mac, mac);
    let ip = match offload.ip {
        Ip::V4 => start.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64),
        Ip::V6 => start.ipv6([0xfd; 16], [0xfe; 16], 64),
    };
    let at = usize::from(offload.ethernet_len) + usize::from(offload.ip_len);
    let sum = match offload.transport {
        Some(Transport::Tcp) => {
            ip.tcp(4000, 4001, 1, 1024).write(&mut header, &payload).unwrap();
            at + 16
        }
        _ => {
            ip.udp(4000, 4001).write(&mut header, &payload).unwrap();
            at + 6
        }
    };
    header.truncate(header.len() - len);
    header[sum..sum + 2].copy_from_slice(&[0xbe, 0xef]);
    if offload.ip == Ip::V4 {
        header[24..26].copy_from_slice(&[0xde, 0xad]);
    }
    header
}

/// An independent check of all checksums.
pub fn assert_checksums(frame: &[u8]) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let expect = match (packet.net.unwrap(), packet.transport.as_ref().unwrap()) {
        (NetSlice::Ipv4(ip), transport) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum, "IPv4 header checksum");
            match transport {
                TransportSlice::Udp(udp) => udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap(),
                TransportSlice::Tcp(tcp) => tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        (NetSlice::Ipv6(ip), transport) => {
            let header = ip.header().to_header();
            match transport {
                TransportSlice::Udp(udp) => udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap(),
                TransportSlice::Tcp(tcp) => tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        (other, _) => panic!("{other:?}"),
    };
    let found = match packet.transport.unwrap() {
        TransportSlice::Udp(udp) => udp.checksum(),
        TransportSlice::Tcp(tcp) => tcp.checksum(),
        other => panic!("{other:?}"),
    };
    assert_eq!(found, expect, "transport checksum");
}
