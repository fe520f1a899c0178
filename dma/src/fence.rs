//! The orderings of a descriptor ring.
//!
//! A ring is shared with an agent that is no thread of ours. What must be ordered is (1) everything the device will
//! read before the doorbell that tells it to read, and (2) the look at a descriptor's done bit before the look at
//! anything the device wrote earlier. Rust's fences order accesses to memory between threads; the argument why they are
//! enough towards a device is:
//!
//! - Descriptor memory and payload are ordinary cacheable memory that the device snoops (PCIe on x86-64, and on
//!   coherent ports elsewhere). A doorbell is either ordinary memory polled by a device model, for which the rules
//!   between threads hold as they are, or an uncached MMIO page.
//! - x86-64: stores to cacheable memory become visible in order, and an uncached store is not passed by earlier stores;
//!   so a compiler barrier is all that `release_to_device` needs, which is what a `Release` fence compiles to. Loads
//!   are not reordered with loads; so is `acquire_from_device`.
//! - aarch64: `fence(Release)` is `dmb ish`, which covers the inner-shareable domain only. A device outside it needs
//!   `dmb osh`; that is what is emitted there.

use std::sync::atomic::{Ordering, fence};

/// Everything written before is visible to the device before anything written after: call it between filling
/// descriptors (or payload) and storing the doorbell.
#[inline(always)]
pub fn release_to_device() {
    fence(Ordering::Release);
    outer_shareable();
}

/// Nothing read after can be older than what was read before: call it between seeing a done bit and reading what the
/// device wrote before it.
#[inline(always)]
pub fn acquire_from_device() {
    fence(Ordering::Acquire);
    outer_shareable();
}

/// Everything written before is visible to the device before anything read after: call it between storing an index that the
/// device polls and reading whether it wants to be told. A store may be overtaken by a later load even on x86.
#[inline(always)]
pub fn store_before_load() {
    fence(Ordering::SeqCst);
    outer_shareable();
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
#[allow(unsafe_code)]
fn outer_shareable() {
    // SAFETY: a barrier instruction touches no memory, register or flag that the compiler knows of; not declaring
    // `nomem` makes it a compiler barrier as well.
    unsafe { std::arch::asm!("dmb osh", options(nostack, preserves_flags)) };
}

#[cfg(not(target_arch = "aarch64"))]
#[inline(always)]
fn outer_shareable() {}
