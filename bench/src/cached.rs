//! A file that is all in a cache.

use stillwire_filecache::{Cache, CachedFile, Config, Result};

/// Bytes of the benches' file.
pub const FILE: usize = 8 << 20;
/// Every byte of it.
pub const PATTERN: u8 = 0x5a;

/// A cached file with all of it read in, and what keeps it.
pub struct Cached {
    /// The cache.
    pub cache: Cache,
    /// The file.
    pub file: CachedFile,
    _folder: tempfile::TempDir,
}

impl Cached {
    /// A file of [`FILE`] bytes.
    ///
    /// # Panics
    /// When the machine refuses: a bench has nobody to tell.
    pub fn new() -> Self {
        Self::with(Config { bytes: 2 * FILE, ..Default::default() })
    }

    /// The same in a cache made by `config`.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with(config: Config) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("file"), vec![PATTERN; FILE]).expect("a temporary file");
        Self::of(folder, config).expect("the file is read in")
    }

    /// A file of `len` zeros that takes no room on the disk, in a cache that has room for all of it, with `huge` in huge pages. It is read without
    /// io_uring, so that valgrind can count instructions.
    ///
    /// # Errors
    /// When the cache cannot be made or filled.
    ///
    /// # Panics
    /// Without a temporary folder.
    pub fn zeros(len: usize, huge: bool) -> Result<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = std::fs::File::create(folder.path().join("file")).expect("a temporary file");
        file.set_len(len as u64).expect("a sparse file");
        Self::of(folder, Config { bytes: len + len / 16 + SPARE, huge, io_uring: false, ..Default::default() })
    }

    fn of(folder: tempfile::TempDir, config: Config) -> Result<Self> {
        let cache = Cache::new(config)?;
        let file = cache.open(folder.path().join("file"))?;
        let len = file.len();
        // Read in, and held twice more: as pages are that are sent often. A page's first holds note that it is in use.
        for _ in 0..3 {
            for start in (0..len).step_by(AT_ONCE as usize) {
                drop(file.hold(start..len.min(start + AT_ONCE))?);
            }
        }
        Ok(Self { cache, file, _folder: folder })
    }
}

impl Default for Cached {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes that are held together to be read in.
const AT_ONCE: u64 = 16 << 20;
/// Room beside the file, bytes: for what is rounded up.
const SPARE: usize = 16 << 20;
