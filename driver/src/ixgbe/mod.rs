//! Intel 82599 family.
//!
//! # The device in a page
//!
//! A port is a PCI function whose BAR0 holds all registers. Work goes through rings of 16-byte descriptors in host
//! memory. Software fills descriptors and stores the index behind the last one in a *tail* register (the doorbell); the
//! device fetches from its *head* up to the tail, reads or writes the buffers, and sets the DD ("descriptor done") bit.
//!
//! ```text
//!            TxQueue<T>                                           82599
//!   tokens: T of frame k ─┐            ring (DMA memory)
//!                         │   ┌─────────┬────────┬────────┬────┐
//!   post():  header slot ─┼──▶│ context │ header │ page … │    │──fetch──▶ checksums ──▶ wire
//!            page segments┘   └─────────┴────────┴────────┴────┘
//!   publish(): TDT ────────────────────────────────────────────────────────▶
//!   reclaim():                     ◀──── DD on descriptors with RS ────────── data fetched
//!     moves tokens out
//! ```
//!
//! - A *context* descriptor says where the IP and transport headers lie. It stays in force until replaced, so it is
//!   written only when the offload changes.
//! - The first data descriptor of a frame is the header, copied into a slot that belongs to the descriptor's index. The
//!   others name payload where it lies.
//! - RS ("report status") asks for a DD. It is set on the last descriptor of a batch and after every
//!   32 descriptors within one, not on each frame; one DD completes everything before it.
//! - The device is done with a buffer when its bytes are in the packet buffer: enough to give the memory back, not proof
//!   that they left the port.
//!
//! A frame may be longer than a wire takes: with a segment length in its context the device cuts it, and writes lengths, sums and
//! sequence numbers into a copy of the header for each piece. Such a frame always looks for its context again, for the length of
//! its header is part of that.
//!
//! # Several queues, and sleep
//!
//! Queues are alike and share nothing but registers that are written when one is started, under a lock. Received flows are spread
//! by a hash (RSS) that is the same for both directions of a flow. Each pair of queues has a vector of its own, masked unless its
//! owner waits: a message masks it again, so one wait is one message at most.
//!
//! # Stopping
//!
//! Memory goes back only when the device is *proved* quiet. Queues are disabled and the acknowledgement waited for, then
//! PCIe master disable (STATUS.GIO), then bus mastering is switched off; what counts as proof is one of the last two,
//! for the first may sit in a page that a model merely polls. It is one function, `Function::stop` in `stop.rs`; every
//! path that releases memory goes through it. If no proof can be had (the peer of a vfio-user socket died, say), the tokens
//! are kept until the program ends, and the error says so.
//!
//! # Link loss and hangs
//!
//! Without link the MAC fetches nothing, and what is posted is not completed: no hang, but nothing that ends by itself either.
//! Whether it goes on when the link is back no document says, and Linux does not wait to see: it resets the port when the link
//! goes while work is queued. So nothing here relies on either. A user may wait with what is in the ring, and if that does not
//! move although the link is back, it is a hang like any other; or reset, which lets go of what is held. Requests of a port
//! without link may stay pending for ever: then master disable is not acknowledged, and the proof is the bus.

mod desc;
mod filter;
mod init;
mod part;
mod phy;
mod regs;
mod rx;
mod semaphore;
mod stats;
mod stop;
mod tx;

pub(crate) use init::{Device, knows};
pub(crate) use rx::RxQueue;
pub(crate) use tx::TxQueue;
