//! A PCI function: configuration space, BARs, interrupts, reset.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::{Backend, Event, Iommu, Node, PciAddress, RegisterSpace, Result, vfio, vfio_user};

/// A PCI function that this program owns.
#[derive(Clone)]
pub struct PciFunction {
    backend: Arc<dyn Backend>,
    iommu: Iommu,
    claimed: Arc<AtomicBool>,
}

/// The right to drive a function. There is one; dropping it gives it back.
#[derive(Debug)]
pub struct Claim(Arc<AtomicBool>);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Who a function says it is (PCI configuration header).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Vendor, offset 0x00.
    pub vendor: u16,
    /// Device, offset 0x02.
    pub device: u16,
    /// Revision, offset 0x08.
    pub revision: u8,
    /// Base class, subclass, programming interface: offset 0x09, 24 bits.
    pub class: u32,
    /// Subsystem vendor, offset 0x2c.
    pub subsystem_vendor: u16,
    /// Subsystem, offset 0x2e.
    pub subsystem: u16,
}

impl PciFunction {
    /// Opens a function that is bound to vfio-pci.
    ///
    /// # Errors
    /// Says what stands in the way: no such device, another driver, a group that is not viable, no IOMMU.
    pub fn open(address: PciAddress) -> Result<Self> {
        Ok(Self::from_backend(Arc::new(vfio::Vfio::open(address)?)))
    }

    /// Connects to a device model that listens on a vfio-user socket.
    ///
    /// # Errors
    /// [`Error::VfioUser`](crate::Error::VfioUser).
    pub fn connect(socket: &Path) -> Result<Self> {
        Ok(Self::from_backend(Arc::new(vfio_user::VfioUser::connect(socket)?)))
    }

    /// A function behind any other carrier: a device model in this process.
    pub fn from_backend(backend: Arc<dyn Backend>) -> Self {
        Self { iommu: Iommu::new(backend.clone()), backend, claimed: Arc::default() }
    }

    /// Takes the right to drive the function: two drivers on one device would ring each other's doorbells.
    ///
    /// # Errors
    /// [`Error::Claimed`](crate::Error::Claimed) while somebody has it.
    pub fn claim(&self) -> Result<Claim> {
        if self.claimed.swap(true, Ordering::Acquire) {
            return Err(crate::Error::Claimed { device: self.name() });
        }
        Ok(Claim(self.claimed.clone()))
    }

    /// How a user would name the device.
    pub fn name(&self) -> String {
        self.backend.name()
    }

    /// The memory node that it is on, if that makes a difference: see [`Node::of`].
    pub fn node(&self) -> Option<Node> {
        self.backend.node()
    }

    /// The address space its DMA goes through.
    pub fn iommu(&self) -> &Iommu {
        &self.iommu
    }

    /// Who it is.
    ///
    /// # Errors
    /// When configuration space cannot be read.
    pub fn identity(&self) -> Result<Identity> {
        let class = self.config_read32(0x08)?;
        Ok(Identity {
            vendor: self.config_read16(0x00)?,
            device: self.config_read16(0x02)?,
            revision: class as u8,
            class: class >> 8,
            subsystem_vendor: self.config_read16(0x2c)?,
            subsystem: self.config_read16(0x2e)?,
        })
    }

    /// The registers behind base address register `index`, of which at least `needed` bytes must be there.
    ///
    /// # Errors
    /// [`Error::NoBar`](crate::Error::NoBar) when there are fewer.
    pub fn registers(&self, index: u8, needed: u64) -> Result<RegisterSpace> {
        RegisterSpace::new(self.backend.clone(), index, needed)
    }

    /// Lets the function answer register accesses, and wakes it (power state D0).
    ///
    /// # Errors
    /// When configuration space cannot be written.
    pub fn enable_memory(&self) -> Result<()> {
        if let Some(power) = self.capability(CAP_POWER)? {
            let state = self.config_read16(power + PMCSR)?;
            if state & PMCSR_STATE != 0 {
                self.config_write16(power + PMCSR, state & !PMCSR_STATE)?;
            }
        }
        let command = self.config_read16(COMMAND)?;
        self.config_write16(COMMAND, command | COMMAND_MEMORY | COMMAND_INTX_DISABLE)
    }

    /// Lets the function start DMA, or forbids it. On return of `set_bus_master(false)` the function starts no more.
    ///
    /// # Errors
    /// When configuration space cannot be written, or does not read back as written.
    pub fn set_bus_master(&self, on: bool) -> Result<()> {
        let command = self.config_read16(COMMAND)?;
        let wanted = if on { command | COMMAND_BUS_MASTER } else { command & !COMMAND_BUS_MASTER };
        self.config_write16(COMMAND, wanted)?;
        // A read pushes the write out and shows whether it was taken; all ones is a device that is gone.
        let found = self.config_read16(COMMAND)?;
        if found == wanted {
            return Ok(());
        }
        Err(crate::Error::Vfio {
            address: self.name(),
            text: format!("PCI command register reads {found:#06x} after {wanted:#06x} was written"),
            hint: "; was the card pulled out, or is it in a low-power state?".into(),
        })
    }

    /// Function-level reset, where the carrier has one.
    ///
    /// # Errors
    /// When the carrier refuses.
    pub fn reset(&self) -> Result<()> {
        self.backend.reset()
    }

    /// The device's time ([`Backend::now`]).
    pub fn now(&self) -> Duration {
        self.backend.now()
    }

    /// Lets time pass for the device ([`Backend::sleep`]).
    pub fn sleep(&self, time: Duration) {
        self.backend.sleep(time);
    }

    /// Waits for an event in the device's time ([`Backend::wait`]).
    ///
    /// # Errors
    /// As [`Event::wait`].
    pub fn wait(&self, event: &Event, timeout: Duration) -> Result<bool> {
        self.backend.wait(event, timeout)
    }

    /// Number of MSI-X vectors.
    pub fn msix_vectors(&self) -> u32 {
        self.backend.msix_vectors()
    }

    /// Routes MSI-X vector `i` to `eventfds[i]`; an empty slice turns MSI-X off.
    ///
    /// # Errors
    /// When there are fewer vectors, or the carrier refuses.
    pub fn set_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        self.backend.set_msix(eventfds)
    }

    /// Offset of the first capability `id` in configuration space.
    ///
    /// # Errors
    /// When configuration space cannot be read.
    pub fn capability(&self, id: u8) -> Result<Option<u16>> {
        Ok(self.capabilities(id)?.first().copied())
    }

    /// Offsets of all capabilities `id` in configuration space, in the order of the device's list.
    ///
    /// # Errors
    /// When configuration space cannot be read.
    pub fn capabilities(&self, id: u8) -> Result<Vec<u16>> {
        let mut found = Vec::new();
        if self.config_read16(STATUS)? & STATUS_CAPABILITIES == 0 {
            return Ok(found);
        }
        let mut at = self.config_read16(CAPABILITIES)? & 0xfc;
        // The list is the device's word: 48 entries is all that fit behind the header, so more is a loop.
        for _ in 0..48 {
            if at < 0x40 {
                break;
            }
            let entry = self.config_read16(at)?;
            if entry as u8 == id {
                found.push(at);
            }
            at = (entry >> 8) & 0xfc;
        }
        Ok(found)
    }

    /// Reads 16 bits of configuration space.
    ///
    /// # Errors
    /// When the carrier fails.
    pub fn config_read16(&self, offset: u16) -> Result<u16> {
        let mut bytes = [0; 2];
        self.backend.config_read(offset, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// Reads 32 bits of configuration space.
    ///
    /// # Errors
    /// When the carrier fails.
    pub fn config_read32(&self, offset: u16) -> Result<u32> {
        let mut bytes = [0; 4];
        self.backend.config_read(offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes 16 bits of configuration space.
    ///
    /// # Errors
    /// When the carrier fails.
    pub fn config_write16(&self, offset: u16, value: u16) -> Result<()> {
        self.backend.config_write(offset, &value.to_le_bytes())
    }
}

const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS: u16 = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const CAPABILITIES: u16 = 0x34;
const CAP_POWER: u8 = 0x01;
/// Power management control and status, from the capability's start; the state is its two low bits.
const PMCSR: u16 = 4;
const PMCSR_STATE: u16 = 0x3;
