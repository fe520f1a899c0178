//! virtio-net, modern PCI (virtio 1.x).
//!
//! # The device in a page
//!
//! Vendor capabilities in configuration space say where the device's parts lie: *common* (features, status, queues),
//! *notify* (one doorbell a queue), *ISR*, and *device* (MAC, link, MTU). All of them are the device's word and are checked
//! (`pci.rs`). A status byte walks through the negotiation; writing 0 to it is the reset, and the only stop.
//!
//! A queue is a *split* ring: a table of descriptors, a ring of the chains that the driver makes available, and a ring of
//! those that the device has used.
//!
//! ```text
//!            TxQueue<T>                                            device
//!   tokens: T of frame k ─┐        descriptor table (DMA memory)
//!                         │   ┌──────────────┬────────┬──────┬────┐
//!   post():  header slot ─┼──▶│ net + header │ page … │ page │    │──fetch──▶ checksum ──▶ wire
//!            page segments┘   └──────────────┴────────┴──────┴────┘
//!   publish(): available ring: head of each chain, index ──▶ notify ─────────▶
//!   reclaim():                        used ring: id, bytes written ◀───────── chain done
//!     moves tokens out
//! ```
//!
//! - The first descriptor of a frame is a slot with the 12-byte net header and the frame's header. The others name payload
//!   where it lies.
//! - Descriptors are taken in ring order and given back in ring order, although a device may use chains in any: a chain that
//!   is used early waits for those before it. So completions come in the order of the posts, as in the sister families.
//! - The device computes one checksum, the transport's. The sum of the IPv4 header is the driver's.
//! - Nothing that the device writes is followed before it is checked against what the driver knows by itself (`split.rs`). A
//!   device that breaks the protocol is not believed again: posting is an error, polling gives nothing, and tokens stay where
//!   they are until the stop.
//!
//! # Stopping
//!
//! As in the sister families memory goes back only when the device is *proved* quiet: its status reads 0 after the reset, or
//! bus mastering reads back as off. It is one function, `Function::stop` in `stop.rs`.
//!
//! # Not here
//!
//! Packed rings, segmentation, several queue pairs, and the control queue: the device filters addresses as it does by itself.

mod breach;
mod control;
mod desc;
mod init;
mod packed;
mod pci;
mod regs;
mod rx;
mod split;
mod stats;
mod stop;
mod tx;
mod virtqueue;

pub(crate) use init::{Device, knows};
pub(crate) use rx::RxQueue;
pub(crate) use tx::TxQueue;
