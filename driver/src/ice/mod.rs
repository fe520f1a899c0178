//! Intel E810 family ("ice").
//!
//! # The device in a page
//!
//! A port is a PCI function whose BAR0 holds all registers, but registers do little: a reset, doorbells, receive queues. The
//! rest is asked of the *firmware*, by commands on an *admin queue* (`adminq.rs`): a descriptor of 32 bytes, with a buffer of up
//! to 4 KiB, answered in its own place. Events come on a second one. Nothing that the firmware writes is believed before it is
//! checked against what was asked.
//!
//! Bring-up (`init.rs`, `talk.rs`) is a conversation: who are you, what has the function, which port, what hangs where. It ends with
//!
//! - a *VSI*, what the function's frames go through, and rules of the *switch* that give it frames (`switch.rs`);
//! - a branch of the *scheduler*'s tree for transmit queues (`scheduler.rs`);
//! - a link (`link.rs`).
//!
//! ```text
//!            TxQueue<T>                                             E810
//!   tokens: T of frame k ─┐            ring (DMA memory)
//!                         │   ┌─────────┬────────┬────────┬────┐
//!   post():  header slot ─┼──▶│(context)│ header │ page … │    │──fetch──▶ checksums, segments ──▶ wire
//!            page segments┘   └─────────┴────────┴────────┴────┘
//!   publish(): QTX_COMM_DBELL ─────────────────────────────────────────────▶
//!   reclaim():                     ◀──── kind 15 on descriptors with RS ──── data fetched
//!     moves tokens out
//! ```
//!
//! - Each data descriptor says what is to be done with the frame; a *context* descriptor before it only what is cut into
//!   segments needs.
//! - The first data descriptor of a frame is the header, copied into a slot that belongs to the descriptor's index. The others
//!   name payload where it lies.
//! - RS ("report status") asks for a write-back. It is set on the last descriptor of a batch and after every 32 descriptors
//!   within one; one completes everything before it.
//! - The device takes a queue away from who breaks its rules (no empty buffer, eight buffers a frame on the wire ...). So they
//!   are checked before it sees a descriptor (`plan.rs`).
//! - A ring is told to the device as a bit-packed *context* (`context.rs`): transmit rings by command, receive rings by registers.
//! - The device keeps write-backs until a cache line is full, or until the interval of the queue's vector is over. So queues have
//!   a vector although nobody waits for it.
//!
//! # The package
//!
//! What a protocol is the device learns from a file (DDP, `ddp.rs`), loaded once for the whole card and kept until power-off or a
//! reset of the card. Without one it is in *safe mode*: frames go out and come in as they are. This driver then offers no
//! offloads; drivers disagree which of them the silicon could still do, and no document says (`docs/HARDWARE.md`).
//!
//! # Stopping
//!
//! As in the sister families memory goes back only when the device is *proved* quiet: bus mastering reads back as off, or the
//! firmware has emptied the queues and the function's reset is over. It is one function, `Function::stop` in `stop.rs`.
//!
//! # Not here
//!
//! Receive flows are hashed by profiles that are written into the loaded package's tables. This driver sets key and table of the
//! hash and writes no profiles; without them a device gives all frames to the first queue. Double VLAN mode, flow director, and
//! virtual functions are not here either.

mod adminq;
mod capability;
mod commands;
mod context;
mod ddp;
mod desc;
mod download;
mod init;
mod link;
mod plan;
mod regs;
mod rx;
mod scheduler;
mod stats;
mod stop;
mod switch;
mod talk;
mod tx;

pub(crate) use init::{Device, knows};
pub(crate) use rx::RxQueue;
pub(crate) use tx::TxQueue;
