//! Which promise fits a file, if any.
//!
//! | kind | what keeps writers off | who could still break it |
//! |---|---|---|
//! | [`Sealed`](DirectKind::Sealed) | seals, which nobody can take off | nobody |
//! | [`Immutable`](DirectKind::Immutable) | fs-verity; the immutable flag; a read-only superblock | verity: nobody; else who may clear the flag or mount anew |
//! | [`WriteProtect`](DirectKind::WriteProtect) | userfaultfd, in the views of a cache | who maps or writes it without a view |
//! | [`Leased`](DirectKind::Leased) | a read lease: the kernel keeps `open` waiting | `open(O_RDONLY \| O_TRUNC)`; a hold that outlasts the lease-break time |
//!
//! All of them: whoever writes the disk below the file system.
//!
//! A mapped file that is cut short takes its pages away (SIGBUS). Under a seal, verity, the flag or a read-only superblock
//! that can not happen: `F_SEAL_SHRINK`, and the same check that refuses to open for writing refuses to truncate.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, SealFlags, StatxAttributes, StatxFlags};

use super::lease::Lease;
use crate::{Error, Result};

/// What keeps a file still that is sent without a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirectKind {
    /// A memfd that nobody can write or cut short any more (`F_SEAL_WRITE` and `F_SEAL_SHRINK`).
    Sealed,
    /// Nobody can open it for writing, and nobody has it open: fs-verity, the immutable flag, or a file system whose
    /// superblock is read-only (a bind mount for reading is not enough).
    Immutable,
    /// A memfd, or a file on tmpfs or hugetlbfs: writers are write-protected views of it.
    WriteProtect,
    /// A regular file on a local disk: a read lease keeps those waiting who open it for writing or truncate it (who opens
    /// with `O_NONBLOCK` gets `EWOULDBLOCK` instead). Linux has one way past it, `open` with `O_RDONLY | O_TRUNC`: a
    /// device then goes on with the pages that its IOMMU has pinned, reads through the hold are
    /// [`Error::Changed`](crate::Error::Changed), and a device *model*, which maps the file, gets SIGBUS.
    Leased,
}

impl DirectKind {
    /// Which kind the file at `path` is now.
    ///
    /// # Errors
    /// [`Error::NotDirect`] with the reason when it is none; [`Error::NotRegular`] and as for opening a file.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        classify(path, &open(path)?)
    }
}

/// Opens for reading what is a regular file, and nothing else: opening a device or a FIFO can have effects.
pub(super) fn open(path: &Path) -> Result<File> {
    let found = std::fs::metadata(path).map_err(|source| Error::opening(path, "stat", source))?;
    Error::unless_regular(path, &found)?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|source| Error::opening(path, "open", source))?;
    Error::unless_regular(path, &file.metadata().map_err(|source| Error::opening(path, "fstat", source))?)?;
    Ok(file)
}

/// The same file by a description of its own, for reading only. (A duplicate would share a lease, and could be one for
/// writing.)
pub(super) fn open_again(file: &File) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The same for reading and writing.
pub(super) fn open_to_write(file: &File) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The kind of a regular file that is open for reading.
pub(super) fn classify(path: &Path, file: &File) -> Result<DirectKind> {
    let failed = |what| move |error: rustix::io::Errno| Error::file(path, what)(error.into());
    let magic = rustix::fs::fstatfs(file).map_err(failed("fstatfs"))?.f_type as u32;
    // EINVAL: a file that can have no seals.
    let seals = rustix::fs::fcntl_get_seals(file).unwrap_or(SealFlags::empty());
    if seals.contains(SealFlags::WRITE | SealFlags::SHRINK) {
        return Ok(DirectKind::Sealed);
    }
    if seals.contains(SealFlags::FUTURE_WRITE) && !seals.contains(SealFlags::WRITE) {
        return Err(refused(
            path,
            "is sealed against later writers only, and who has it mapped can still write",
            ADD_SEAL,
        ));
    }
    if seals.contains(SealFlags::WRITE) {
        return Err(refused(path, "is sealed against writing but can be cut short", "add F_SEAL_SHRINK"));
    }
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let found = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted).map_err(failed("statx"))?;
    if found.stx_attributes.contains(StatxAttributes::VERITY) || read_only_superblock(found.stx_mnt_id) {
        return Ok(DirectKind::Immutable);
    }
    if found.stx_attributes.contains(StatxAttributes::IMMUTABLE) {
        // The flag refuses new writers. Whether there are old ones, only a lease can tell; it goes at once.
        try_lease(path, file)?;
        return Ok(DirectKind::Immutable);
    }
    match magic {
        TMPFS_MAGIC | HUGETLBFS_MAGIC => Ok(DirectKind::WriteProtect),
        EXT_MAGIC | XFS_MAGIC | BTRFS_MAGIC | F2FS_MAGIC => try_lease(path, file).map(|()| DirectKind::Leased),
        OVERLAYFS_MAGIC => Err(refused(
            path,
            "is on overlayfs, whose writers can change another file than the one that is mapped",
            CACHE,
        )),
        _ => {
            Err(refused(path, "is on a file system that is not known to tell of every writer before it writes", CACHE))
        }
    }
}

fn try_lease(path: &Path, file: &File) -> Result<()> {
    let lease = Lease::on(file).map_err(Error::file(path, "opening it again"))?;
    lease.probe().map_err(|source| not_leased(path, source))
}

/// Why a lease was refused, and what to do.
pub(super) fn not_leased(path: &Path, source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::EAGAIN) => refused(
            path,
            "is open for writing (by this process or another, by a descriptor or a shared mapping)",
            "close it there (fuser -v names who has it open), or use Cache::open",
        ),
        Some(libc::EACCES) => refused(
            path,
            "belongs to another user, and a lease on it needs CAP_LEASE",
            "run as its owner or with CAP_LEASE, or use Cache::open",
        ),
        Some(libc::EINVAL) => refused(path, "is on a file system without leases", CACHE),
        _ => Error::file(path, "F_SETLEASE")(source),
    }
}

pub(super) fn refused(path: &Path, why: &'static str, instead: &'static str) -> Error {
    Error::NotDirect { path: path.into(), why, instead }
}

/// Whether the file system itself is read-only, not only the mount that the file was opened through.
fn read_only_superblock(mount: u64) -> bool {
    // The thread's own: another thread may be in another mount namespace.
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    superblock_is_read_only(&mounts, mount)
}

/// Finds mount `id` in the text of mountinfo (proc_pid_mountinfo(5)): its superblock's options are the last field.
fn superblock_is_read_only(mounts: &str, id: u64) -> bool {
    let line = mounts.lines().find(|line| line.split(' ').next().and_then(|first| first.parse().ok()) == Some(id));
    let options = line.and_then(|line| line.split_once(" - ")?.1.split(' ').nth(2));
    options.is_some_and(|options| options.split(',').any(|option| option == "ro"))
}

const CACHE: &str = "use Cache::open";
const ADD_SEAL: &str = "add F_SEAL_WRITE too, which the kernel refuses while there is a writable mapping";

// linux/magic.h. bcachefs, zfs, FUSE and the network's file systems are left out on purpose: not tried, or with writers
// that the local kernel does not see.
const TMPFS_MAGIC: u32 = 0x0102_1994;
const HUGETLBFS_MAGIC: u32 = 0x9584_58f6;
const EXT_MAGIC: u32 = 0xef53;
const XFS_MAGIC: u32 = 0x5846_5342;
const BTRFS_MAGIC: u32 = 0x9123_683e;
const F2FS_MAGIC: u32 = 0xf2f5_2010;
const OVERLAYFS_MAGIC: u32 = 0x794c_7630;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_mount_for_reading_is_no_read_only_superblock() {
        let mounts = "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                      40 21 254:0 /a /b ro,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro\n\
                      41 21 7:0 / /c\\040d ro,relatime master:1 shared:2 - squashfs /dev/loop0 ro,errors=continue\n";
        let found: Vec<_> = [21, 40, 41, 42, 4].map(|id| superblock_is_read_only(mounts, id)).into();
        assert_eq!(found, [false, false, true, false, false]);
        assert!(!superblock_is_read_only("41 nonsense - x", 41));
    }
}
