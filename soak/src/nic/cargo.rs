//! What is sent: bytes of a file, taken and looked at.

use std::ops::Range;

use stillwire_dma::{Payload, Segment};
use stillwire_filecache::{CachedFile, DirectFile, DirectHold, Error, Hold, Unheld};

use crate::counts::count;
use crate::ledger::{Book, Floor};
use crate::tickets::Ticket;
use crate::world::{Broken, World};

/// Where bytes come from.
#[derive(Clone)]
pub enum Source {
    /// A file in the cache.
    Cached(CachedFile, Book),
    /// A file that is sent without it.
    Direct(DirectFile, Book),
}

/// Bytes of a file, still until they are dropped.
pub enum Cargo {
    /// In the cache.
    Held(Hold),
    /// In the cache, and not still.
    Unheld(Unheld),
    /// Without it.
    Direct(DirectHold),
}

/// What travels with a frame.
pub struct Token {
    /// The bytes.
    pub cargo: Cargo,
    /// That it comes back.
    pub _ticket: Ticket,
}

impl Source {
    /// The account of the file.
    pub fn book(&self) -> &Book {
        match self {
            Self::Cached(_, book) | Self::Direct(_, book) => book,
        }
    }

    /// Length now, bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Cached(file, _) => file.len() as usize,
            Self::Direct(file, _) => file.len() as usize,
        }
    }

    /// Takes `range`, and looks whether it is what it may be; `None` when it can not be had now.
    pub fn take(&self, world: &World, range: Range<usize>) -> Option<Cargo> {
        let floor = self.book().floor(range.start, range.end);
        let bytes = range.start as u64..range.end as u64;
        let taken = match self {
            Self::Cached(file, _) if world.broken == Some(Broken::Unheld) => file.unheld(bytes).map(Cargo::Unheld),
            Self::Cached(file, _) => file.hold(bytes).map(Cargo::Held),
            Self::Direct(file, _) => file.try_hold(bytes).map(Cargo::Direct),
        };
        let cargo = match taken {
            Ok(cargo) => cargo,
            // Full for the moment; cut off by who changes lengths; a writer has it.
            Err(Error::ArenaFull { .. } | Error::OutOfRange { .. } | Error::Shrunk { .. } | Error::Away { .. }) => {
                count(&world.counts.holds_refused);
                return None;
            }
            Err(error) => {
                world.violate(format!("a hold of {range:?} of file {}: {error}", self.book().file));
                return None;
            }
        };
        count(&world.counts.holds);
        self.look(world, &cargo, &floor, range.start);
        Some(cargo)
    }

    fn look(&self, world: &World, cargo: &Cargo, floor: &Floor, start: usize) {
        let book = self.book();
        let looked = match cargo {
            Cargo::Held(hold) => {
                let mut at = start;
                hold.chunks().try_for_each(|piece| {
                    let seen = book.check(floor, start, at, piece);
                    at += piece.len();
                    seen
                })
            }
            Cargo::Unheld(_) => Ok(()),
            Cargo::Direct(hold) => {
                count(&world.counts.direct_holds);
                let mut bytes = vec![0; hold.len()];
                match hold.read_at(0, &mut bytes) {
                    Ok(()) => book.check(floor, start, start, &bytes),
                    Err(error) => Err(format!("file {}, sent directly: {error}", book.file)),
                }
            }
        };
        if let Err(why) = looked {
            world.violate(format!("at a hold: {why}"));
        }
    }
}

impl Cargo {
    /// Digest of a part.
    pub fn crc32(&self, range: Range<usize>) -> u32 {
        match self {
            Self::Held(hold) => hold.crc32_range(range),
            Self::Unheld(bytes) => bytes.crc32_range(range),
            // What cannot be read has been told by `look`.
            Self::Direct(hold) => hold.crc32_range(range).unwrap_or_default(),
        }
    }
}

impl Payload for Token {
    fn len(&self) -> usize {
        match &self.cargo {
            Cargo::Held(hold) => hold.len(),
            Cargo::Unheld(bytes) => bytes.len(),
            Cargo::Direct(hold) => hold.len(),
        }
    }

    fn segments(&self, range: Range<usize>, each: impl FnMut(Segment)) {
        match &self.cargo {
            Cargo::Held(hold) => hold.segments(range, each),
            Cargo::Unheld(bytes) => bytes.segments(range, each),
            Cargo::Direct(hold) => hold.segments(range, each),
        }
    }

    fn segment(&self, range: Range<usize>) -> Option<Segment> {
        match &self.cargo {
            Cargo::Held(hold) => hold.segment(range),
            Cargo::Unheld(bytes) => bytes.segment(range),
            Cargo::Direct(hold) => hold.segment(range),
        }
    }
}
