//! The files of a stack.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use rustix::fs::{MemfdFlags, SealFlags};
use stillwire_dma::PciFunction;
use stillwire_filecache::{Cache, CachedFile, DirectConfig, DirectFile, DirectKind, Error, View};

use crate::ledger::{Book, MOST_RECORDS};
use crate::nic::Source;
use crate::world::World;

/// A file in the cache.
pub struct Cached {
    /// It.
    pub file: CachedFile,
    /// Where threads write it.
    pub view: View,
    /// What must be seen in it.
    pub book: Book,
    /// Where it is.
    pub path: PathBuf,
}

/// The files of a stack, from its opening to its closing.
pub struct Files {
    /// Those that threads and other processes write.
    pub plain: Vec<Cached>,
    /// One whose length changes. Who reads it from the disk must not be in the middle of that.
    pub changing: Cached,
    /// Taken for writing by who changes the length.
    pub length: RwLock<()>,
    /// One that is also written by who knows nothing of the cache.
    pub outside: Cached,
    /// Files that are sent without the cache.
    pub direct: Direct,
}

/// Files that are sent without the cache.
pub struct Direct {
    /// A memfd, written through a view.
    pub memory: DirectFile,
    /// Its view.
    pub memory_view: View,
    /// Its account.
    pub memory_book: Book,
    /// A sealed memfd.
    pub sealed: DirectFile,
    sealed_book: Book,
    /// A file on the disk behind a lease, where the file system has any; writers open it.
    pub leased: Option<(DirectFile, Book, PathBuf)>,
}

impl Files {
    /// Opens the files of the stack called `name`, and makes those that are not there.
    pub fn open(
        world: &World,
        cache: &Cache,
        name: &str,
        first: usize,
        function: &PciFunction,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let open = |number: usize, what: &str, records, solid| -> Result<Cached, Box<dyn std::error::Error>> {
            let book = world.ledger.book(first + number, records, solid);
            let path = made(&world.folder.join(format!("{name}-{what}-{number}")), &book)?;
            let file = cache.open(&path)?;
            Ok(Cached { view: file.view()?, file, book, path })
        };
        let plain = (0..PLAIN).map(|number| open(number, "plain", MOST_RECORDS, MOST_RECORDS));
        Ok(Self {
            plain: plain.collect::<Result<_, _>>()?,
            changing: open(PLAIN, "changing", MOST_RECORDS, SOLID)?,
            length: RwLock::default(),
            outside: open(PLAIN + 1, "outside", 1024, 1024)?,
            direct: Direct::open(world, name, first + PLAIN + 2, function)?,
        })
    }

    /// What there is to send.
    pub fn sources(&self) -> Vec<Source> {
        let cached = self.plain.iter().chain([&self.changing, &self.outside]);
        let cached = cached.map(|file| Source::Cached(file.file.clone(), file.book.clone()));
        let direct = &self.direct;
        let mut sources: Vec<_> = cached.collect();
        sources.push(Source::Direct(direct.memory.clone(), direct.memory_book.clone()));
        sources.push(Source::Direct(direct.sealed.clone(), direct.sealed_book.clone()));
        if let Some((file, book, _)) = &direct.leased {
            sources.push(Source::Direct(file.clone(), book.clone()));
        }
        sources
    }
}

impl Direct {
    fn open(
        world: &World,
        name: &str,
        first: usize,
        function: &PciFunction,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let books: Vec<Book> = (first..first + 3).map(|number| world.ledger.book(number, 256, 256)).collect();
        let [memory_book, sealed_book, leased_book] = books.try_into().unwrap_or_else(|_| unreachable!("three"));
        let open = |file: &File| DirectFile::of_fd(file, Some(function.iommu()), DirectConfig::default());
        // Made anew each time, so its account begins anew as well.
        world.ledger.clear(first);
        let memory = open(&memfd(&memory_book, SealFlags::empty())?)?;
        let sealed = open(&memfd(&sealed_book, SealFlags::WRITE | SealFlags::SHRINK)?)?;
        let path = made(&world.folder.join(format!("{name}-leased")), &leased_book)?;
        let leased = match DirectFile::open(&path, Some(function.iommu()), DirectConfig::default()) {
            Ok(file) if file.kind() == DirectKind::Leased => Some((file, leased_book, path)),
            // On tmpfs there are no leases; the memfd is of that kind already.
            Ok(_) | Err(Error::NotDirect { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { memory_view: memory.view()?, memory, memory_book, sealed, sealed_book, leased })
    }
}

/// The path, behind which there is a file.
fn made(path: &Path, book: &Book) -> std::io::Result<PathBuf> {
    if !path.exists() {
        std::fs::write(path, book.fresh())?;
    }
    Ok(path.to_owned())
}

fn memfd(book: &Book, seals: SealFlags) -> std::io::Result<File> {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("soak-direct", flags)?);
    file.write_all(&book.fresh())?;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// Files that nothing but stores happens to.
pub const PLAIN: usize = 4;
/// Threads that write.
pub const WRITERS: usize = 2;
/// Processes that write.
pub const PROCESSES: usize = 2;
/// Who a record belongs to: record number modulo this; threads first, then processes.
pub const OWNERS: usize = WRITERS + PROCESSES;
/// Records of the file with changing length that are never cut off.
pub const SOLID: usize = 1500;
