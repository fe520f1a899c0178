//! Files in memory (memfd, tmpfs, hugetlbfs): a cache whose arena is the file.
//!
//! Holds, views and the guard are those of any cached file; there is nothing to read and nothing to write back, for the
//! file's pages are the arena's, each in its own place. There is no memory for copies either: a writer of such a file waits
//! until nobody holds the page.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stillwire_dma::{Access, Iommu, SharedMemory};

use crate::arena::Arena;
use crate::cache::{Cache, Config};
use crate::disk::{Request, Stamp, Storage};
use crate::file::CachedFile;
use crate::{Error, Result};

/// Makes a cached file of `file`, which is open for reading and writing, where it lies; none of an empty one.
pub(super) fn in_place(path: &Path, file: File, iommu: Option<&Iommu>) -> Result<Option<CachedFile>> {
    let len = file.metadata().map_err(Error::file(path, "fstat"))?.len();
    let bytes = usize::try_from(len).map_err(|_| Error::file(path, "length")(io::ErrorKind::FileTooLarge.into()))?;
    if bytes == 0 {
        return Ok(None);
    }
    let memory = SharedMemory::of_file(file, bytes, Access::ReadWrite)?;
    let config = Config {
        bytes,
        // The largest folios that there are: the allocator hands them out in the order of the file then.
        max_folio: usize::MAX,
        read_ahead: 0,
        snapshots: false,
        // Nothing is ever written back.
        dirty_background: 100,
        dirty_most: 100,
        flush_after: Duration::from_secs(3600),
        ..Config::default()
    };
    let cache = Cache::start(config.clone(), Arena::over(memory, config.max_folio)?)?;
    if let Some(iommu) = iommu {
        cache.attach_to(iommu)?;
    }
    let storage = InPlace { path: path.to_path_buf(), len };
    let file = cache.open_storage((0, 0), Arc::new(storage))?;
    let inner = &file.0.file;
    for page in 0..inner.pages() {
        let found = inner.fill(&file.0.cache.core, page)?;
        assert_eq!(u64::from(found), page, "an arena that is a file has the file's order");
    }
    Ok(Some(file))
}

/// The storage of a file that lies where it is cached.
struct InPlace {
    path: PathBuf,
    len: u64,
}

impl Storage for InPlace {
    fn path(&self) -> &Path {
        &self.path
    }

    fn writable(&self) -> bool {
        true
    }

    fn stamp(&self) -> io::Result<Stamp> {
        Ok(Stamp { len: self.len, links: 1, ..Stamp::default() })
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn submit(&self, request: Request) {
        let end = self.len.saturating_sub(request.offset());
        let len = match request.operation() {
            crate::disk::Operation::Read(buffer) => (buffer.len() as u64).min(end) as usize,
            crate::disk::Operation::Write(buffer) => buffer.len(),
            crate::disk::Operation::Sync => 0,
        };
        request.complete(Ok(len));
    }
}
