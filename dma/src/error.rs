//! Everything that can go wrong between a driver and its memory or its bus.

use std::io;
use std::path::PathBuf;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What was asked, what was found, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shared memory could not be made.
    #[error("memory: {len} bytes of shared memory ({what}): {source}")]
    Memory {
        /// Bytes asked for.
        len: usize,
        /// Step that failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An eventfd could not be made or waited for.
    #[error("eventfd: {what}: {source}")]
    Event {
        /// Step that failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A range outside of the memory it was asked of.
    #[error("memory: bytes {start}..{end} asked of a region of {len} bytes")]
    OutOfRange {
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
        /// Length of the region, bytes.
        len: usize,
    },
    /// The IOMMU's address ranges have no room.
    #[error(
        "iommu: no {len} free bytes of device addresses (largest free run: {largest}); unmap something or use a smaller cache"
    )]
    NoIova {
        /// Bytes asked for.
        len: u64,
        /// Largest free run, bytes.
        largest: u64,
    },
    /// The kernel or the peer refused a mapping.
    #[error("iommu: mapping {len} bytes for {device}: {source}{hint}")]
    Map {
        /// The device.
        device: String,
        /// Bytes.
        len: usize,
        /// The kernel's answer.
        source: io::Error,
        /// What to do.
        hint: String,
    },
    /// A text that is not a PCI address.
    #[error("pci: '{0}' is not a PCI address; write it as lspci -D does, 0000:03:00.0")]
    BadAddress(String),
    /// No such PCI function.
    #[error("pci: there is no device {0}; lspci -D lists what there is")]
    NoDevice(String),
    /// The function is bound to a driver that is not vfio-pci.
    #[error(
        "vfio: {address} is bound to {driver}; unbind it and bind it to vfio-pci: echo vfio-pci > /sys/bus/pci/devices/{address}/driver_override; echo {address} > /sys/bus/pci/devices/{address}/driver/unbind; echo {address} > /sys/bus/pci/drivers_probe; or: cargo xtask bind {address}"
    )]
    OtherDriver {
        /// The function.
        address: String,
        /// The driver that has it.
        driver: String,
    },
    /// The function is bound to no driver.
    #[error(
        "vfio: {address} is bound to no driver; bind it to vfio-pci: echo vfio-pci > /sys/bus/pci/devices/{address}/driver_override; echo {address} > /sys/bus/pci/drivers_probe; or: cargo xtask bind {address}"
    )]
    NoDriver {
        /// The function.
        address: String,
    },
    /// The function is in no IOMMU group.
    #[error(
        "vfio: {address} is in no IOMMU group; switch the IOMMU on in the firmware (VT-d, AMD-Vi) and on the kernel's command line (intel_iommu=on). Without an IOMMU a device could reach all memory, so this is refused"
    )]
    NoGroup {
        /// The function.
        address: String,
    },
    /// Another function of the group is still with a kernel driver.
    #[error(
        "vfio: group {group} is not viable: {other} is still bound to {driver}; bind every function of the group to vfio-pci"
    )]
    NotViable {
        /// IOMMU group number.
        group: String,
        /// The function in the way.
        other: String,
        /// Its driver.
        driver: String,
    },
    /// The VFIO library's answer.
    #[error("vfio: {address}: {text}{hint}")]
    Vfio {
        /// The function.
        address: String,
        /// What the library said.
        text: String,
        /// What to do.
        hint: String,
    },
    /// A vfio-user socket that cannot be used.
    #[error("vfio-user: {path}: {text}", path = path.display())]
    VfioUser {
        /// The socket.
        path: PathBuf,
        /// What went wrong, and what to do.
        text: String,
    },
    /// A base address register that the function does not have.
    #[error("pci: {device} has no BAR{index} of at least {needed} bytes (found {found}); is it the right device?")]
    NoBar {
        /// The device.
        device: String,
        /// BAR number.
        index: u8,
        /// Bytes needed.
        needed: u64,
        /// Bytes found.
        found: u64,
    },
    /// A driver has the function already.
    #[error("pci: {device} is in use by a driver of this program; drop its NIC and queues first")]
    Claimed {
        /// The device.
        device: String,
    },
    /// A device model in this process refused.
    #[error("model: {0}")]
    Model(String),
}
