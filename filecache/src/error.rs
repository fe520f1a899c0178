//! Everything that can go wrong between a file and its held pages.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What was asked, what was found, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The arena's memory could not be had.
    #[error("cache: {0}")]
    Dma(#[from] stillwire_dma::Error),
    /// A cache size that makes no sense.
    #[error(
        "cache: a cache of {bytes} bytes was asked for; it must have at least one page and at most 2^32 - 1 of them"
    )]
    BadSize {
        /// Bytes asked for.
        bytes: usize,
    },
    /// No userfaultfd by any of the three ways.
    #[error(
        "guard: no userfaultfd can be had ({source}); a seccomp filter must allow userfaultfd (SystemCallFilter= of a service, the profile of a container); else give this user /dev/userfaultfd (sudo chown USER /dev/userfaultfd), run with CAP_SYS_PTRACE, or set sysctl vm.unprivileged_userfaultfd=1"
    )]
    NoUserfaultfd {
        /// The kernel's answer to the last way.
        source: io::Error,
    },
    /// The kernel's userfaultfd can not write-protect shared memory.
    #[error(
        "guard: this kernel's userfaultfd cannot write-protect shared memory (features {found:#x}, needed {needed:#x}); Linux 5.19 or newer with CONFIG_PTE_MARKER_UFFD_WP is needed"
    )]
    NoWriteProtect {
        /// Feature bits that the kernel offers.
        found: u64,
        /// Feature bits that the cache needs.
        needed: u64,
    },
    /// The guard could not be started or asked.
    #[error("guard: {what}: {source}")]
    Guard {
        /// Step that failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A second DMA mapping, or one that does not fit.
    #[error("cache: the DMA mapping cannot be attached: {0}")]
    Attach(&'static str),
    /// There is no such file.
    #[error("{path}: there is no such file", path = path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// The file may not be read.
    #[error("{path}: not permitted to read it ({source}); give this user read permission on the file and search permission on its directories", path = path.display())]
    NotPermitted {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Not a regular file.
    #[error("{path}: is a {kind}; only regular files are cached", path = path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
    },
    /// Reading or asking about the file failed.
    #[error("{path}: {what}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Step that failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file has become shorter than it was when it was opened.
    #[error("{path}: was {expected} bytes long and now ends at {found}; somebody has truncated it. Bytes before that can still be held; open the file again for the new length, or restore it and try again", path = path.display())]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// Length that was expected, bytes.
        expected: u64,
        /// Where it ends now, bytes.
        found: u64,
    },
    /// A range that is not inside the file.
    #[error("{path}: bytes {start}..{end} were asked for; the file has {len}", path = path.display())]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// Length of the file, bytes.
        len: u64,
    },
    /// No free pages.
    #[error("{path}: the cache of {arena} bytes is full of pages that are held ({free} bytes free, {needed} needed at byte {offset}); make Config::bytes larger, or hold less at a time", path = path.display())]
    ArenaFull {
        /// The file.
        path: PathBuf,
        /// Where in the file, bytes.
        offset: u64,
        /// Size of the arena, bytes.
        arena: u64,
        /// Free, bytes.
        free: u64,
        /// Needed at the least, bytes.
        needed: u64,
    },
    /// A page has as many holds as can be counted.
    #[error("{path}: the page at byte {offset} is held 2^22 times already; holds are leaking (mem::forget?)", path = path.display())]
    TooManyHolds {
        /// The file.
        path: PathBuf,
        /// Where in the file, bytes.
        offset: u64,
    },
    /// The file may be read but not written, so it can have no view for writers.
    #[error("{path}: may be read but not written, so writers can have no view of it; give this user write permission", path = path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// A view could not be made or its protection not be changed.
    #[error("{path}: {what} for a view of {bytes} bytes: {source}{hint}", path = path.display())]
    View {
        /// The file.
        path: PathBuf,
        /// Step that failed.
        what: &'static str,
        /// Size of the view or of the part, bytes.
        bytes: usize,
        /// The kernel's answer.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The socket between a cache and writers in other processes.
    #[error("{socket}: {what}: {source}{hint}", socket = socket.display())]
    Door {
        /// The socket.
        socket: PathBuf,
        /// Step that failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// What serves at the socket is another user's process.
    #[error("{socket}: {stranger}", socket = socket.display())]
    Stranger {
        /// The socket.
        socket: PathBuf,
        /// Who.
        stranger: stillwire_dma::peer::Stranger,
    },
    /// A cache in another process has refused something, or failed at it.
    #[error("{socket}: the cache there answers: {text}", socket = socket.display())]
    Answered {
        /// The socket.
        socket: PathBuf,
        /// Its error.
        text: String,
        /// The same as the kernel would say it.
        source: io::Error,
    },
    /// The cache in another process is no more.
    #[error("{path}: the cache behind {socket} has ended, or has cut this process off; stores since the last sync may be lost. Start it again, and attach again", path = path.display(), socket = socket.display())]
    CacheGone {
        /// The file.
        path: PathBuf,
        /// The socket.
        socket: PathBuf,
    },
    /// A process that connects to attach, and does not do it as it should.
    #[error("attach: the process that connected {0}")]
    Peer(&'static str),
    /// A length beyond what can be cached.
    #[error("{path}: {len} bytes are asked for; a cached file can have at most {most}", path = path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Length asked for, bytes.
        len: u64,
        /// Longest file, bytes.
        most: u64,
    },
    /// Stores could not be written to the disk. They are still in the cache.
    #[error("{path}: {what} failed: {source}; what was not written stays in the cache{hint}", path = path.display())]
    WriteBack {
        /// The file.
        path: PathBuf,
        /// Step that failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// Somebody else has changed the file, and there are stores that are only in the cache.
    #[error("{path}: was {what} by somebody else while stores of ours were not on the disk yet; nothing is written until CachedFile::discard drops those, or CachedFile::overwrite lets them win", path = path.display())]
    Conflict {
        /// The file.
        path: PathBuf,
        /// What has happened to it.
        what: &'static str,
    },
    /// Nothing keeps the file still without a cache.
    #[error("{path}: cannot be sent directly: it {why}; {instead}", path = path.display())]
    NotDirect {
        /// The file.
        path: PathBuf,
        /// What stands in the way.
        why: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// A writer has a direct file, or waits for its holds.
    #[error("{path}: a writer has the file or waits for it, for {waited:?} already; drop the holds that are left, and try again when the writer has closed it, or make DirectConfig::wait longer", path = path.display())]
    Away {
        /// The file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// A direct file has another length than it was opened with.
    #[error("{path}: was {expected} bytes long when it was opened and is {found} now; open it again", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Length when it was opened, bytes.
        expected: u64,
        /// Length now, bytes.
        found: u64,
    },
    /// A direct file could not be taken up again after a writer had it.
    #[error("{path}: could not be taken up again after a writer had it ({why}); open it again", path = path.display())]
    Lost {
        /// The file.
        path: PathBuf,
        /// What failed.
        why: String,
    },
    /// Bytes were held for longer than the kernel keeps a writer waiting.
    #[error("{path}: the kernel let a writer on while bytes were held, so they may have changed; drop holds sooner after a writer came, or raise /proc/sys/fs/lease-break-time", path = path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
}

impl Error {
    /// Refuses what is not a regular file.
    pub(crate) fn unless_regular(path: &Path, found: &Metadata) -> Result<()> {
        let kind = match found.file_type() {
            found if found.is_file() => return Ok(()),
            found if found.is_dir() => "directory",
            found if found.is_fifo() => "FIFO",
            found if found.is_socket() => "socket",
            found if found.is_char_device() => "character device",
            found if found.is_block_device() => "block device",
            _ => "file of another kind",
        };
        Err(Self::NotRegular { path: path.to_path_buf(), kind })
    }

    /// The kernel's answer to looking at or opening `path`.
    pub(crate) fn opening(path: &Path, what: &'static str, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::PermissionDenied => Self::NotPermitted { path, source },
            io::ErrorKind::IsADirectory => Self::NotRegular { path, kind: "directory" },
            _ => Self::File { path, what, source },
        }
    }

    /// The number of `errno(3)` that comes nearest.
    pub(crate) fn code(&self) -> i32 {
        let source = std::error::Error::source(self).and_then(|source| source.downcast_ref::<io::Error>());
        let kernels = source.and_then(io::Error::raw_os_error);
        kernels.unwrap_or(match self {
            Self::NotFound { .. } => libc::ENOENT,
            Self::NotPermitted { .. } | Self::ReadOnly { .. } | Self::Stranger { .. } => libc::EACCES,
            Self::NotRegular { .. } | Self::OutOfRange { .. } => libc::EINVAL,
            Self::ArenaFull { .. } => libc::ENOMEM,
            Self::Conflict { .. } => libc::EBUSY,
            Self::TooLong { .. } => libc::EFBIG,
            Self::Peer(_) => libc::EPROTO,
            _ => libc::EIO,
        })
    }

    /// The kernel's answer to `what` about a file.
    pub(crate) fn file(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.to_path_buf(), what, source }
    }
}
