//! Where the bytes come from: a file in the page cache, or one that the NIC reads where the kernel caches it.

use std::ops::Range;
use std::path::Path;

use stillwire_filecache::{CachedFile, DirectFile, Error};

use crate::Result;
use crate::station::Cargo;

/// A file to send.
#[derive(Clone)]
pub enum Source {
    /// Through the cache.
    Cached(CachedFile),
    /// Through the cache, without holds: to see what goes wrong.
    Unheld(CachedFile),
    /// Without the cache.
    Direct(DirectFile),
}

impl Source {
    /// Length, bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Cached(file) | Self::Unheld(file) => file.len(),
            Self::Direct(file) => file.len(),
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        match self {
            Self::Cached(file) | Self::Unheld(file) => file.path(),
            Self::Direct(file) => file.path(),
        }
    }

    /// The bytes of `range`, for the ring; or why not now. What the caller has in its ring may be the reason: there is no
    /// room in the cache beside it, or a writer waits for it.
    ///
    /// # Errors
    /// What will not pass.
    pub fn cargo(&self, range: Range<u64>) -> Result<std::result::Result<Cargo, Error>> {
        let cargo = match self {
            Self::Cached(file) => file.hold(range).map(Cargo::Held),
            Self::Unheld(file) => file.unheld(range).map(Cargo::Unheld),
            // Not the hold that waits: the writer waits for what is in the ring, and nobody else empties that.
            Self::Direct(file) => file.try_hold(range).map(Cargo::Direct),
        };
        match cargo {
            Err(error @ (Error::ArenaFull { .. } | Error::Away { .. })) => Ok(Err(error)),
            other => Ok(Ok(other?)),
        }
    }

    /// Number of times that somebody outside has had the file since it was opened, as far as the sender had to step back.
    pub fn breaks(&self) -> u64 {
        match self {
            Self::Cached(_) | Self::Unheld(_) => 0,
            Self::Direct(file) => file.breaks(),
        }
    }
}
