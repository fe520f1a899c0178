//! Pages of registers that a client may map: doorbells.
//!
//! They are always words of atomics. With [`Doorbells::Messages`] they are private; with [`Doorbells::Mapped`] they are
//! pages of a memfd as long as the BAR, so that an offset in the BAR is an offset in the file, and the client's stores
//! land here unseen.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::MemfdFlags;

/// Bytes in a page.
pub const PAGE: usize = 4096;
const WORDS: usize = PAGE / 4;

/// How a client reaches the registers that ring a device's bell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doorbells {
    /// Pages of a BAR are memory that the client maps; the model polls them.
    Mapped,
    /// Every register is a message.
    Messages,
}

/// Pages of one BAR.
pub(crate) struct Pages {
    /// Offset of each page in the BAR, bytes.
    offsets: &'static [u32],
    memory: Memory,
}

enum Memory {
    Private(Box<[AtomicU32]>),
    Shared { file: OwnedFd, pages: Vec<MmapRaw> },
}

impl Pages {
    /// Pages at `offsets` of a BAR of `len` bytes.
    pub(crate) fn new(kind: Doorbells, len: u64, offsets: &'static [u32]) -> io::Result<Self> {
        let memory = match kind {
            Doorbells::Messages => {
                Memory::Private((0..offsets.len() * WORDS).map(|_| AtomicU32::new(0)).collect::<Box<[_]>>())
            }
            Doorbells::Mapped => shared(len, offsets)?,
        };
        Ok(Self { offsets, memory })
    }

    /// The file, where there is one.
    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        match &self.memory {
            Memory::Private(_) => None,
            Memory::Shared { file, .. } => Some(file.as_fd()),
        }
    }

    /// Offset of each page in the BAR, bytes.
    pub(crate) fn offsets(&self) -> &'static [u32] {
        self.offsets
    }

    /// A word of page `page`; `word` counts in words and wraps around at the page's end.
    ///
    /// # Panics
    /// When there is no such page.
    pub(crate) fn word(&self, page: usize, word: usize) -> &AtomicU32 {
        let word = word % WORDS;
        match &self.memory {
            Memory::Private(words) => &words[page * WORDS + word],
            Memory::Shared { pages, .. } => {
                let start = pages[page].as_mut_ptr().cast::<AtomicU32>();
                // SAFETY: the mapping is PAGE bytes long, readable and writable, page aligned, and lives as long as
                // `self`, to which the reference is bound; `word` < PAGE / 4 by the remainder above, so the word is
                // aligned and inside. The file is at least as long as the mapping's end and sealed against shrinking.
                // All of this process' accesses through this mapping are atomic; the client has a mapping of its own.
                unsafe { &*start.add(word) }
            }
        }
    }
}

fn shared(len: u64, offsets: &[u32]) -> io::Result<Memory> {
    let end = offsets.iter().map(|offset| u64::from(*offset) + PAGE as u64).max().unwrap_or(0);
    // Its length is sealed: a client that is handed the file must not be able to cut it off under us (SIGBUS).
    let file = stillwire_dma::memfd("stillwire-doorbells", len.max(end) as usize, MemfdFlags::empty())?;
    let map = |offset: &u32| MmapOptions::new().offset((*offset).into()).len(PAGE).map_raw(file.as_raw_fd());
    let pages = offsets.iter().map(map).collect::<io::Result<_>>()?;
    Ok(Memory::Shared { file, pages })
}
