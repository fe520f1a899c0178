//! virtio-net, modern PCI (virtio 1.x).
//!
//! # The device in a page
//!
//! Vendor capabilities in configuration space say where the device's parts lie: *common* (features, status, queues),
//! *notify* (one doorbell a queue), *ISR*, and *device* (MAC, link, MTU). All of them are the device's word and are checked
//! (`pci.rs`). A status byte walks through the negotiation; writing 0 to it is the reset, and the only stop.
//!
//! A queue is a ring of either layout, as was negotiated; *packed* is taken where it is offered. A *split* ring is a table of
//! descriptors, a ring of the chains that the driver makes available, and a ring of those that the device has used. A *packed*
//! ring is one ring of descriptors that both sides write, with two bits in each that say whose it is.
//!
//! ```text
//!            TxQueue<T>                                            device
//!   tokens: T of frame k ─┐        descriptors (DMA memory)
//!                         │   ┌──────────────┬────────┬──────┬────┐
//!   post():  header slot ─┼──▶│ net + header │ page … │ page │    │──fetch──▶ checksum, cut ──▶ wire
//!            page segments┘   └──────────────┴────────┴──────┴────┘
//!   publish(): split:  available ring: head of each chain, index ──▶ notify ──▶
//!              packed: flags of the first descriptor not shown   ──▶ notify ──▶
//!   reclaim(): split:  used ring: id, bytes written               ◀─────────── chain done
//!              packed: a descriptor in its place: id, bytes, flags
//!     moves tokens out
//! ```
//!
//! - The first descriptor of a frame is a slot with the 12-byte net header and the frame's header. The others name payload
//!   where it lies.
//! - Both layouts stand behind one face (`virtqueue.rs`), in which a chain is named by the index of its first descriptor. So
//!   transmit and receive are one code for both, and so is what they know of their chains.
//! - Descriptors are taken in ring order and given back in ring order, although a device may use chains in any: a chain that
//!   is used early waits for those before it. So completions come in the order of the posts, as in the sister families. A
//!   device that says that it uses them in order (IN_ORDER) may write one entry for many chains: it ends with the one it names.
//!   A received buffer that no entry names is full then.
//! - A packed chain is not there for the device before its first descriptor's flags are written. Those of the first chain that
//!   is not shown yet are written by `publish`, and with them the device comes to all that is behind it.
//! - Pairs of queues are numbered as the device has them; the control queue (`control.rs`) is behind all that it could have. It is
//!   used while the device is brought up, to ask for other stations' frames or for none, and for several pairs, and each command
//!   is waited for.
//! - The device computes one checksum, the transport's. The sum of the IPv4 header is the driver's, unless the device cuts.
//! - Nothing that the device writes is followed before it is checked against what the driver knows by itself (`breach.rs`). A
//!   device that breaks the protocol is not believed again: posting is an error, polling gives nothing, and tokens stay where
//!   they are until the stop. A packed ring has one lie that cannot be seen: a mark in a place that the driver then writes over,
//!   or in another lap. The device has only made itself stand still by that.
//!
//! # Stopping
//!
//! As in the sister families memory goes back only when the device is *proved* quiet: its status reads 0 after the reset, or
//! bus mastering reads back as off. It is one function, `Function::stop` in `stop.rs`.
//!
//! # Not here
//!
//! Indirect descriptors, RSS (a device with several pairs returns a flow on the pair that it was sent on), VLAN filters, tables
//! of addresses, the reset of one queue, large frames on receive.

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
