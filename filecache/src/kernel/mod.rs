//! All that the cache asks of the kernel besides the disk: to hear of touches, to keep stores out, to lay memory over
//! address space, to sleep until one of these has something to tell.
//!
//! - `uffd.rs`: the userfaultfd;
//! - `address_space.rs`: reserve, and folios laid over it;
//! - `bell.rs`: what wakes the guard.
//!
//! In a simulation (`--cfg simulation`) `simulated/` is there instead: page table entries in a map, and faults that are
//! messages. What it does at each call is what the kernel was seen to do.

#[cfg(not(simulation))]
mod address_space;
#[cfg(not(simulation))]
mod bell;
#[cfg(simulation)]
mod simulated;
#[cfg(not(simulation))]
mod uffd;

#[cfg(not(simulation))]
pub(crate) use address_space::{Reserve, collapse, lay, lay_file, load, store, unlay};
#[cfg(not(simulation))]
pub(crate) use bell::Bell;
#[cfg(simulation)]
pub(crate) use simulated::{Bell, Reserve, Uffd, collapse, lay, load, store, unlay};
#[cfg(not(simulation))]
pub(crate) use uffd::Uffd;

/// What a range is registered for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Listen {
    /// The first touch of each page.
    Missing,
    /// Stores into protected pages.
    WriteProtect,
}

/// What was heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Heard {
    pub(crate) address: usize,
    /// The page was missing; otherwise it was protected.
    pub(crate) missing: bool,
}
