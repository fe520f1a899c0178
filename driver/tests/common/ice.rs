//! The same on a model of the E810.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use stillwire_dma::PciFunction;
use stillwire_driver::{ChecksumStatus, Config, Nic, Result, RxQueue, TxQueue};
use stillwire_emulator::ice::{self, Model};
use stillwire_emulator::wire::{Loopback, Wire};
use stillwire_emulator::{BusMemory, LocalDevice};

use super::Token;

pub struct Rig {
    pub nic: Nic,
    pub function: PciFunction,
    pub device: Arc<LocalDevice<Model>>,
    now: Cell<Duration>,
}

/// A model that has a package from the beginning.
pub fn with_package() -> ice::Config {
    ice::Config { package: true, ..ice::Config::default() }
}

impl Rig {
    pub fn new() -> Self {
        Self::with(with_package(), Config::default())
    }

    pub fn with(model: ice::Config, config: Config) -> Self {
        Self::on_wire(model, config, Box::new(Loopback::new())).unwrap()
    }

    pub fn on_wire(model: ice::Config, config: Config, wire: Box<dyn Wire>) -> Result<Self> {
        let device = LocalDevice::new(Model::new(model, wire).unwrap());
        let function = PciFunction::from_backend(device.clone());
        // Firmware answers when the model is stepped, so it runs meanwhile.
        let running = device.spawn();
        let nic = Nic::open(function.clone(), config)?;
        nic.wait_for_link(Duration::from_secs(5))?;
        drop(running);
        Ok(Self { nic, function, device, now: Cell::new(Duration::from_secs(3600)) })
    }

    /// Does what waits for firmware or registers.
    pub fn live<R>(&self, work: impl FnOnce(&Nic) -> R) -> R {
        let _running = self.device.spawn();
        work(&self.nic)
    }

    pub fn queues(&self) -> (TxQueue<Token>, RxQueue) {
        self.live(|nic| (nic.tx_queue().unwrap(), nic.rx_queue().unwrap()))
    }

    /// Steps the model until it has nothing left to do at this time, and then what waits for an interval.
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

    /// Words of the device's memory.
    pub fn word(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.device.memory().read(address, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
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
            self.advance(Duration::from_millis(1));
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
