//! The file that is sent: in the kernel's page cache, mapped, without a name.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;

use memmap2::Mmap;

use super::{Error, sys};

/// A file that is read without touching the disk.
pub struct HotFile {
    /// The file.
    pub file: File,
    /// All of it, mapped for reading.
    pub map: Mmap,
}

impl HotFile {
    /// The file in `kept` if it has `mib` MiB; else a new one, kept there.
    ///
    /// # Errors
    /// No room in the folder for temporary files.
    pub fn of(kept: &mut Option<Self>, mib: u64) -> Result<&Self, Error> {
        if kept.as_ref().is_none_or(|file| file.len() != mib << 20) {
            // The old one goes first: there may not be room for both.
            *kept = None;
            *kept = Some(Self::new(mib)?);
        }
        Ok(kept.as_ref().expect("it was just made"))
    }

    fn new(mib: u64) -> Result<Self, Error> {
        let asked = "a file in the folder for temporary files";
        let mut file = tempfile::tempfile().map_err(Error::system(asked))?;
        let block: Vec<u8> = (0..1 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for _ in 0..mib {
            file.write_all(&block).map_err(Error::system(asked))?;
        }
        // The flusher would otherwise take its share of the cores during the first rounds.
        file.sync_all().map_err(Error::system(asked))?;
        let map = sys::map(&file).map_err(Error::system("a mapping of the file"))?;
        Ok(Self { file, map })
    }

    /// Bytes in it.
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Touches every page, so that none is faulted in later, when time is taken.
    pub fn warm(&self) {
        for page in self.map.chunks(PAGE) {
            black_box(page[0]);
        }
    }
}

/// The smallest page there is on Linux, bytes.
const PAGE: usize = 4096;
