//! A file page cache in this process, whose pages can be held still while a device reads them.
//!
//! ```no_run
//! # fn main() -> stillwire_filecache::Result<()> {
//! use stillwire_filecache::{Cache, Config};
//!
//! let cache = Cache::new(Config { bytes: 64 << 20, ..Config::default() })?;
//! let file = cache.open("/srv/movie.mp4")?;
//! let hold = file.hold(0..1448)?; // still from here
//! let digest = hold.crc32();      // what is computed now is what the device reads later
//! drop(hold);                     // a writer that waited goes on
//! # let _ = digest; Ok(())
//! # }
//! ```
//!
//! - [`Cache`]: the memory, and the threads that fill it, write it back and guard it;
//! - [`CachedFile`]: an open file; [`CachedFile::hold`] gives a [`Hold`], [`CachedFile::sync`] brings stores to the disk;
//! - [`Hold`]: bytes that nobody can change while the value lives; a [`Payload`](stillwire_dma::Payload) for a NIC;
//! - [`View`]: where writers write; a store into a held page waits;
//! - [`Cache::serve`] and [`attach`]: the same for writers in other processes;
//! - [`DirectFile`]: files that are sent without a cache, where something else keeps them still.
//!
//! What it costs is in `page.rs`: an atomic addition to hold a page, one to release it, and no system call while nobody
//! writes. How a writer is made to wait is in `guard.rs`, and what a view is in `view.rs`.
//!
//! # What it can not stop
//! Stores by a device; stores by the kernel through pages that were pinned before the hold; processes that map the
//! backing memory without a view; stores through [`Cache::memory`].
#![warn(missing_docs)]
// Writers in other processes, among others, are not simulated.
#![cfg_attr(simulation, allow(dead_code))]

mod arena;
#[cfg(not(simulation))]
pub mod attach;
mod buddy;
mod cache;
mod core;
mod digest;
#[cfg(not(simulation))]
mod direct;
mod disk;
mod error;
mod file;
mod fill;
mod flusher;
mod folio;
mod frames;
mod group;
mod guard;
mod hold;
mod holding;
mod kernel;
mod mapping;
mod outside;
mod page;
mod pair;
mod parking;
mod policy;
mod resize;
#[cfg(simulation)]
#[doc(hidden)]
pub mod simulation;
mod snapshot;
mod stats;
mod sync;
mod table;
#[doc(hidden)]
pub mod trace;
mod unheld;
mod view;
#[cfg(not(simulation))]
mod watch;
mod word;
mod worker;
mod writeback;

#[cfg(not(simulation))]
pub use attach::{AttachedFile, Door};
pub use cache::{Cache, Config};
#[cfg(not(simulation))]
pub use direct::{DirectConfig, DirectFile, DirectHold, DirectKind};
#[doc(hidden)]
pub use disk::{Buffer, MemoryStorage, Operation, Request, Stamp, Storage};
pub use error::{Error, Result};
pub use file::CachedFile;
pub use hold::Hold;
pub use stats::{Held, Pauses, Stats};
pub use unheld::Unheld;
pub use view::View;
