//! Poll-mode NIC drivers in userspace.
//!
//! - [`Nic`]: a NIC brought to link: MAC, statistics, queues.
//! - [`TxQueue`]: a transmit ring that is generic over the token that travels with a frame. Posting *moves* the token
//!   into the ring; reclaiming a completed descriptor *moves it out*. With a token that keeps memory still (a hold on
//!   file pages, say) "still until the NIC is done" is a matter of types, not of discipline. The driver does not know
//!   what a token is.
//! - [`RxQueue`]: a receive ring.
//! - [`Watchdog`]: tells a transmit queue that hangs from one that has nothing to do or no link; [`Nic::reset`] brings it back.
//! - [`Frame`] and [`Offload`]: what to send, and which checksums the NIC shall compute.
//!
//! Families live side by side ([`ice`], [`ixgbe`], [`virtio`]) and never import each other; what they share is here: ring arithmetic
//! (`ring`), offload planning (`offload`), waiting with deadlines (`registers`).
#![warn(missing_docs)]

mod bells;
mod error;
mod frame;
pub mod ice;
pub mod ixgbe;
mod nic;
mod offload;
mod other;
mod port;
mod queues;
mod registers;
mod ring;
mod values;
pub mod virtio;
mod watchdog;

pub use error::{Error, Result};
pub use frame::{Checksum, ChecksumStatus, Frame, Posted, Returned, RxFrame};
pub use nic::Nic;
pub use offload::{Ip, Offload, Transport};
pub use port::{Filter, Module, QueueStatistics, Socket};
pub use queues::{Run, RxQueue, TxQueue};
pub use values::{Capabilities, Config, Link, Mac, Statistics};
pub use watchdog::{Look, Verdict, Watchdog};
