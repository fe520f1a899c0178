//! The disk: where the bytes of cached files come from and go to.
//!
//! ```text
//!  cache ── Request ──▶ Storage ─┬─ DiskFile ──▶ Engine ──▶ io_uring, or threads where there is none
//!    ▲                           └─ MemoryStorage: a simulation, inline
//!    └────────── done(bytes or error), exactly once ◀──────────┘
//! ```
//!
//! A [`Request`] owns its answer: however it ends (completed, refused, dropped), `done` is called, once. How a request is
//! cut into calls of the kernel and what a short or interrupted call means is in `transfer.rs`, pure; `ring.rs` and
//! `pool.rs` only carry the calls out.

mod buffer;
mod engine;
mod file;
mod memory;
mod pool;
mod request;
mod ring;
mod transfer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

pub use buffer::Buffer;
pub(crate) use engine::Engine;
pub(crate) use file::DiskFile;
pub use memory::MemoryStorage;
pub use request::{Operation, Request};

/// Where a cached file's bytes come from and go to. The cache calls nothing else of a file: a simulation can stand in for
/// the disk.
pub trait Storage: Send + Sync + 'static {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// Whether it may be written.
    fn writable(&self) -> bool;

    /// What tells an outside change from none.
    ///
    /// # Errors
    /// The kernel's answer.
    fn stamp(&self) -> io::Result<Stamp>;

    /// Makes the file `len` bytes long.
    ///
    /// # Errors
    /// The kernel's answer.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Starts `request`; returns at once if it can. Exactly one call of the request's `done` follows, on any thread (may
    /// be within this call).
    ///
    /// - A read ends with the bytes read; fewer than asked for only if the file ends there. What the buffer has after them
    ///   is anything: a device reads whole sectors.
    /// - A write ends with its length, or an error, and then any part of it may have been written. It makes the file no
    ///   longer than its own end.
    /// - A sync ends with 0: every write that had ended before it was submitted is durable.
    fn submit(&self, request: Request);
}

/// What changes when somebody changes the file; somebody else, or the cache itself.
///
/// Times are as fine as the file system keeps them: before Linux 6.13 a clock tick (some milliseconds), so two changes
/// within one tick look like one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stamp {
    /// Length, bytes.
    pub len: u64,
    /// When its bytes were last modified: seconds and nanoseconds since 1970.
    pub modified: (i64, u32),
    /// When anything of it was last changed; nobody can set this one back.
    pub changed: (i64, u32),
    /// Names that it has. None: it is deleted, and goes when it is closed.
    pub links: u32,
}
