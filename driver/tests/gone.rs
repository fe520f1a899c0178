//! A device that is pulled out, or whose emulator is killed, at any access of its bring-up is said to be gone, and nothing else.
#![allow(missing_docs)]

use std::ops::{Range, RangeInclusive};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use stillwire_dma::{Access, Backend, BarInfo, Event, PciFunction, Result, SharedMemory};
use stillwire_driver::{Config, Error, Nic};
use stillwire_emulator::scripted::Faulty;
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{Doorbells, LocalDevice, MemoryTable, VirtualClock, ice, ixgbe, virtio};

/// A device that is there for a number of accesses; then all reads are ones, and writes go nowhere.
struct Pulled {
    inner: Arc<dyn Backend>,
    left: AtomicI64,
}

impl Pulled {
    fn is_there(&self) -> bool {
        self.left.fetch_sub(1, Ordering::Relaxed) > 0
    }
}

impl Backend for Pulled {
    fn name(&self) -> String {
        "pulled".into()
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        if self.is_there() {
            return self.inner.config_read(offset, data);
        }
        data.fill(0xff);
        Ok(())
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Result<()> {
        if self.is_there() { self.inner.config_write(offset, data) } else { Ok(()) }
    }

    fn bar(&self, index: u8) -> Result<BarInfo> {
        self.inner.bar(index)
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        if self.is_there() {
            return self.inner.bar_read(bar, offset, data);
        }
        data.fill(0xff);
        Ok(())
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) -> Result<()> {
        if self.is_there() { self.inner.bar_write(bar, offset, data) } else { Ok(()) }
    }

    fn reset(&self) -> Result<()> {
        if self.is_there() { self.inner.reset() } else { Ok(()) }
    }

    fn msix_vectors(&self) -> u32 {
        self.inner.msix_vectors()
    }

    fn set_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        self.inner.set_msix(eventfds)
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.inner.iova_ranges()
    }

    fn dma_map(&self, iova: u64, memory: &SharedMemory, range: Range<usize>, access: Access) -> Result<()> {
        self.inner.dma_map(iova, memory, range, access)
    }

    fn dma_unmap(&self, iova: u64, len: usize) -> Result<()> {
        self.inner.dma_unmap(iova, len)
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }

    fn sleep(&self, time: Duration) {
        self.inner.sleep(time);
    }

    fn wait(&self, event: &Event, timeout: Duration) -> Result<bool> {
        self.inner.wait(event, timeout)
    }
}

/// Opens a device that is there for `accesses`; how many of them were left.
fn open<M: Faulty>(model: M, accesses: i64) -> (std::result::Result<(), Error>, i64) {
    let device = LocalDevice::stepped(model, MemoryTable::new(), Arc::new(VirtualClock::new()));
    let pulled = Arc::new(Pulled { inner: device, left: AtomicI64::new(accesses) });
    let opened = Nic::open(PciFunction::from_backend(pulled.clone()), Config::default());
    let left = pulled.left.load(Ordering::Relaxed);
    (opened.map(drop), left)
}

/// Pulls the device at each access of its bring-up in turn.
fn at_any_access<M: Faulty>(model: impl Fn() -> M) {
    let plenty = 1 << 40;
    let (opened, left) = open(model(), plenty);
    opened.unwrap();
    let mut found = Vec::new();
    for accesses in 0..plenty - left {
        let Err(error) = open(model(), accesses).0 else { continue };
        // The bus says it in its own words.
        let by_bus = matches!(error, Error::Dma(_)) && error.to_string().contains("was the card pulled out");
        if !by_bus && !matches!(error, Error::Gone { .. } | Error::UnknownDevice { vendor: 0xffff, .. }) {
            found.push(format!("pulled after {accesses} of {} accesses: {error}", plenty - left));
        }
    }
    assert!(found.is_empty(), "{} of them:\n{}", found.len(), found.join("\n"));
}

#[test]
fn an_82599_that_is_pulled_is_gone() {
    let config = ixgbe::Config { doorbells: Doorbells::Messages, ..ixgbe::Config::default() };
    at_any_access(|| ixgbe::Model::new(config.clone(), Box::new(Loopback::new())));
}

#[test]
fn an_e810_that_is_pulled_is_gone() {
    let config = ice::Config { doorbells: Doorbells::Messages, package: true, ..ice::Config::default() };
    at_any_access(|| ice::Model::new(config.clone(), Box::new(Loopback::new())).unwrap());
}

#[test]
fn a_virtio_device_that_is_pulled_is_gone() {
    let config = virtio::Config { doorbells: Doorbells::Messages, ..virtio::Config::default() };
    at_any_access(|| virtio::Model::new(config.clone(), Box::new(Loopback::new())).unwrap());
}
