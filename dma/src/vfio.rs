//! The kernel's VFIO: type1 container and group, by `vfio-ioctls`.
//!
//! Exercised by `cargo xtask qemu`, in a guest with an IOMMU; what can be checked without (sysfs, parsing of the kernel's
//! answers) is pure and has tests in its own modules.
#![allow(unsafe_code)]

use std::io;
use std::ops::{Range, RangeInclusive};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapOptions;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_REGION_INFO_FLAG_MMAP,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError, VfioRegionInfoCap};
use vmm_sys_util::eventfd::EventFd;

use crate::sysfs::{self, PciAddress};
use crate::{Access, Backend, BarInfo, Error, MappedArea, Node, Result, SharedMemory, memlock, vfio_ioctl};

pub(crate) struct Vfio {
    address: PciAddress,
    // Dropped before the container, which owns the group.
    device: VfioDevice,
    container: Arc<VfioContainer>,
    eventfds: Mutex<Vec<EventFd>>,
}

impl Vfio {
    pub(crate) fn open(address: PciAddress) -> Result<Self> {
        let path = sysfs::viable(Path::new("/sys/bus/pci/devices"), address)?;
        let error = |error: VfioError| {
            let hint = hint(&error, address);
            Error::Vfio { address: address.to_string(), text: error.to_string(), hint }
        };
        let container = Arc::new(VfioContainer::new(None).map_err(error)?);
        let device = VfioDevice::new(&path, container.clone(), false).map_err(error)?;
        Ok(Self { address, device, container, eventfds: Mutex::default() })
    }

    fn error(&self, text: String) -> Error {
        Error::Vfio { address: self.address.to_string(), text, hint: String::new() }
    }

    /// Offsets and lengths of the parts of a region that may be mapped.
    fn mappable(&self, region: u32) -> Vec<(u64, u64)> {
        if self.device.get_region_flags(region) & VFIO_REGION_INFO_FLAG_MMAP == 0 {
            return Vec::new();
        }
        let sparse = self.device.get_region_caps(region).into_iter().find_map(|cap| match cap {
            VfioRegionInfoCap::SparseMmap(sparse) => Some(sparse.areas),
            _ => None,
        });
        match sparse {
            Some(areas) => areas.iter().map(|area| (area.offset, area.size)).collect(),
            None => vec![(0, self.device.get_region_size(region))],
        }
    }
}

impl Backend for Vfio {
    fn name(&self) -> String {
        self.address.to_string()
    }

    fn node(&self) -> Option<Node> {
        Node::of(self.address)
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        // `region_read` only logs a failure; what it leaves then must look like a device that does not answer.
        data.fill(0xff);
        self.device.region_read(VFIO_PCI_CONFIG_REGION_INDEX, data, offset.into());
        Ok(())
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Result<()> {
        self.device.region_write(VFIO_PCI_CONFIG_REGION_INDEX, data, offset.into());
        Ok(())
    }

    fn bar(&self, index: u8) -> Result<BarInfo> {
        let region = VFIO_PCI_BAR0_REGION_INDEX + u32::from(index);
        let len = self.device.get_region_size(region);
        let base = self.device.get_region_offset(region);
        let mut mapped = Vec::new();
        for (offset, size) in self.mappable(region) {
            let (Ok(size), Some(at)) = (usize::try_from(size), base.checked_add(offset)) else { continue };
            if size == 0 {
                continue;
            }
            // Not being able to map is no error: registers are then reached by system calls.
            if let Ok(pages) = MmapOptions::new().offset(at).len(size).map_raw(self.device.as_raw_fd()) {
                mapped.push(MappedArea { offset, pages });
            }
        }
        Ok(BarInfo { len, mapped })
    }

    fn bar_read(&self, index: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        data.fill(0xff);
        self.device.region_read(VFIO_PCI_BAR0_REGION_INDEX + u32::from(index), data, offset);
        Ok(())
    }

    fn bar_write(&self, index: u8, offset: u64, data: &[u8]) -> Result<()> {
        self.device.region_write(VFIO_PCI_BAR0_REGION_INDEX + u32::from(index), data, offset);
        Ok(())
    }

    fn reset(&self) -> Result<()> {
        self.device.reset();
        Ok(())
    }

    fn msix_vectors(&self) -> u32 {
        self.device.get_irq_info(VFIO_PCI_MSIX_IRQ_INDEX).map_or(0, |irq| irq.count)
    }

    fn set_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut kept = self.eventfds.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.is_empty() {
            self.device.disable_msix().map_err(|error| self.error(error.to_string()))?;
            kept.clear();
        }
        if eventfds.is_empty() {
            return Ok(());
        }
        let fds = eventfds.iter().map(|fd| {
            let own = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
            // SAFETY: the descriptor was duplicated just now and given up by `into_raw_fd`: `EventFd` is its only owner.
            Ok(unsafe { EventFd::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(own)) })
        });
        *kept = fds.collect::<io::Result<_>>().map_err(|error| self.error(format!("MSI-X eventfds: {error}")))?;
        self.device.enable_msix(kept.iter().collect()).map_err(|error| self.error(error.to_string()))
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        let ranges = vfio_ioctl::iova_ranges(self.container()).unwrap_or_default();
        if ranges.is_empty() { OLD_KERNEL.to_vec() } else { ranges }
    }

    fn dma_map(&self, iova: u64, memory: &SharedMemory, range: Range<usize>, access: Access) -> Result<()> {
        vfio_ioctl::map(self.container(), iova, memory, range.start, range.len(), access).map_err(|source| {
            let hint = match source.raw_os_error() {
                Some(libc::ENOMEM) => memlock::hint(range.len()),
                Some(libc::ENOSPC) => {
                    "; too many mappings in the container: raise dma_entry_limit of vfio_iommu_type1".into()
                }
                _ => String::new(),
            };
            Error::Map { device: self.name(), len: range.len(), source, hint }
        })
    }

    fn dma_unmap(&self, iova: u64, len: usize) -> Result<()> {
        self.container.vfio_dma_unmap(iova, len).map_err(|error| self.error(error.to_string()))
    }
}

impl Vfio {
    fn container(&self) -> BorrowedFd<'_> {
        // SAFETY: the container owns the descriptor and lives as long as `self`, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.container.as_raw_fd()) }
    }
}

fn hint(error: &VfioError, address: PciAddress) -> String {
    let user = rustix::process::geteuid().as_raw();
    match error {
        VfioError::OpenContainer(source) if source.kind() == io::ErrorKind::NotFound => {
            "; load the driver: modprobe vfio-pci".into()
        }
        VfioError::OpenContainer(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            "; everybody may have that file, it gives nothing by itself: sudo chmod 666 /dev/vfio/vfio".into()
        }
        VfioError::OpenGroup(source, group) if source.kind() == io::ErrorKind::PermissionDenied => format!(
            "; give this user the group's file: sudo chown {user} /dev/vfio/{group}, or sudo stillwire-xtask bind --user {user} \
             {address}"
        ),
        VfioError::OpenGroup(source, _) if source.kind() == io::ErrorKind::ResourceBusy => {
            "; another program has the group open".into()
        }
        VfioError::ContainerSetIOMMU(_) => "; the IOMMU is off or has no interrupt remapping: intel_iommu=on".into(),
        _ => String::new(),
    }
}

/// What a kernel before 5.4 can be trusted to have: 39 bits, the smallest IOMMU sold, without x86's MSI window.
const OLD_KERNEL: [RangeInclusive<u64>; 2] = [0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff];
