//! Memory that a device may reach, and the device's registers.
//!
//! This crate knows no NIC and no file. It gives a driver:
//!
//! - [`SharedMemory`]: memory with a file descriptor, so that it can be mapped for DMA by the kernel's VFIO (by
//!   address) and by a vfio-user peer (by descriptor);
//! - [`Iommu`] and [`Mapping`]: device addresses ([`Iova`]) that exist only while the mapping does;
//! - [`PciFunction`] and [`RegisterSpace`]: configuration space and BARs, over kernel VFIO, a vfio-user socket, or a
//!   device model in the same process ([`Backend`]);
//! - [`Node`]: memory near the device, where a machine has several memory nodes;
//! - [`fence`]: the orderings that a descriptor ring needs, with the reasons;
//! - [`HugeArray`]: plain private memory on huge pages for what only the CPU touches.
#![warn(missing_docs)]

/// Whether a simulation has put this mistake in, to see that it is found. Never, elsewhere.
#[doc(hidden)]
#[macro_export]
macro_rules! seeded {
    ($bug:ident) => {{
        #[cfg(simulation)]
        let seeded = $crate::is_seeded($crate::Bug::$bug);
        #[cfg(not(simulation))]
        let seeded = false;
        seeded
    }};
}
#[cfg(simulation)]
#[doc(hidden)]
pub use stillwire_scheduler::seeded::{Bug, is as is_seeded};

mod address;
mod backend;
pub mod copy;
mod error;
mod event;
pub mod fence;
mod function;
mod hugepage;
mod iommu;
mod iova;
mod meminfo;
mod memlock;
mod memory;
mod numa;
pub mod peer;
mod registers;
mod ring_memory;
mod sysfs;
mod vfio;
mod vfio_ioctl;
mod vfio_user;

pub use address::{Iova, Payload, Segment};
pub use backend::{Backend, BarInfo, MappedArea};
pub use error::{Error, Result};
pub use event::Event;
pub use function::{Claim, Identity, PciFunction};
pub use hugepage::HugeArray;
pub use iommu::{Access, Iommu, Mapping};
pub use iova::IovaAllocator;
pub use memory::{Backing, HugePages, SharedMemory, memfd};
pub use numa::Node;
pub use registers::{Register, Register16, RegisterSpace};
pub use ring_memory::{RingSlot, RingSlots, RingView, RingWords};
pub use sysfs::{PciAddress, numbers};
