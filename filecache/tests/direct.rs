//! Direct files: each kind, with the outside writer that it must withstand.
#![allow(unsafe_code)]

mod common;
#[path = "common/bus.rs"]
mod device;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use common::*;
use device::Bus;
use rustix::fs::{IFlags, MemfdFlags, SealFlags};
use stillwire_filecache::{DirectConfig, DirectFile, DirectHold, DirectKind, Error};
use tempfile::NamedTempFile;

fn open(path: &Path) -> stillwire_filecache::Result<DirectFile> {
    DirectFile::open(path, None, DirectConfig::default())
}

fn refusal(path: &Path) -> String {
    open(path).map(|file| file.kind()).unwrap_err().to_string()
}

/// A file on a disk with `bytes`; `None`, with the reason printed, where the build folder has no leases (overlayfs).
fn on_disk(bytes: &[u8]) -> Option<NamedTempFile> {
    let mut file = NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(bytes).unwrap();
    // As a path alone: the open descriptor is a writer.
    let (_, path) = file.into_parts();
    let file = NamedTempFile::from_parts(File::open(&path).unwrap(), path);
    match kind_once_closed(file.path()) {
        Ok(DirectKind::Leased) => Some(file),
        other => {
            skip("leased direct files", &format!("{}: {other:?}", env!("CARGO_TARGET_TMPDIR")));
            None
        }
    }
}

/// The kind of a file that this test has closed. Another test that starts a program may have a copy of the descriptor
/// for the moment between fork and exec.
fn kind_once_closed(path: &Path) -> stillwire_filecache::Result<DirectKind> {
    let mut kind = DirectKind::of(path);
    eventually("no copy of the descriptor is left", || {
        kind = DirectKind::of(path);
        !matches!(&kind, Err(Error::NotDirect { why, .. }) if why.contains("open for writing"))
    });
    kind
}

fn bytes_of(hold: &DirectHold) -> Vec<u8> {
    let mut bytes = vec![0; hold.len()];
    hold.read_at(0, &mut bytes).unwrap();
    bytes
}

fn all(file: &DirectFile) -> Vec<u8> {
    bytes_of(&file.hold(0..file.len()).unwrap())
}

/// A writer in another process: `script` with the file as `$1`.
fn writer(script: &str, path: &Path) -> Child {
    Command::new("sh").args(["-c", script, "sh"]).arg(path).spawn().unwrap()
}

/// Looks at held bytes for a while: long enough for a writer that is not kept waiting to come through.
fn stays_still(hold: &DirectHold, expected: &[u8], writer: &mut Child) {
    for _ in 0..500 {
        assert!(bytes_of(hold) == expected, "held bytes changed");
        assert!(hold.is_still());
        assert!(writer.try_wait().unwrap().is_none(), "the writer did not wait");
        std::thread::yield_now();
    }
}

fn memfd(bytes: &[u8], seals: SealFlags) -> File {
    let mut file = File::from(rustix::fs::memfd_create("direct", MemfdFlags::ALLOW_SEALING).unwrap());
    file.write_all(bytes).unwrap();
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file
}

/// What mmap(2) says to a shared writable mapping of a page; it is gone again on return.
fn map_writable(fd: impl AsFd) -> std::io::Result<()> {
    let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, fd.as_fd().as_raw_fd());
    // SAFETY: a new mapping of one page where the kernel likes it; nothing in it is touched before it is unmapped.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), PAGE, protection, libc::MAP_SHARED, fd, 0);
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        assert_eq!(libc::munmap(at, PAGE), 0);
    }
    Ok(())
}

#[test]
fn nobody_can_write_a_sealed_memfd() {
    let bytes = pattern(3 * PAGE + 77);
    let memfd = memfd(&bytes, SealFlags::WRITE | SealFlags::SHRINK);
    let (bus, iommu) = Bus::new();
    let file = DirectFile::of_fd(&memfd, Some(&iommu), DirectConfig::default()).unwrap();
    assert_eq!((file.kind(), file.len()), (DirectKind::Sealed, bytes.len() as u64));
    let hold = file.hold(10..file.len()).unwrap();

    assert_eq!(memfd.write_at(b"x", 0).unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(memfd.set_len(PAGE as u64).unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(map_writable(&memfd).unwrap_err().kind(), ErrorKind::PermissionDenied);
    let other = File::options().write(true).open(format!("/proc/self/fd/{}", memfd.as_raw_fd())).unwrap();
    assert_eq!(other.write_at(b"x", 0).unwrap_err().kind(), ErrorKind::PermissionDenied);

    assert_eq!(hold.as_slice().unwrap(), &bytes[10..]);
    assert_eq!(bytes_of(&hold), bytes[10..]);
    assert_eq!(hold.crc32().unwrap(), crc32fast::hash(&bytes[10..]));
    assert_eq!(hold.crc32_range(5..9000).unwrap(), crc32fast::hash(&bytes[15..9010]));
    assert_eq!(bus.read(&hold, 0..hold.len()), bytes[10..]);
    assert_eq!(bus.read(&hold, 100..5000), bytes[110..5010]);
    assert!(file.hold(0..file.len() + 1).is_err());
    drop((file, memfd));
    assert_eq!(bus.mapped(), 1, "unmapped while a device may read");
    drop(hold);
    assert_eq!(bus.mapped(), 0);
}

#[test]
fn seals_that_leave_a_way_in_are_not_enough() {
    let refusal = |seals| {
        let memfd = memfd(b"bytes", seals);
        DirectFile::of_fd(&memfd, None, DirectConfig::default()).map(|file| file.kind()).unwrap_err().to_string()
    };
    assert!(refusal(SealFlags::WRITE).contains("add F_SEAL_SHRINK"));
    assert!(refusal(SealFlags::FUTURE_WRITE | SealFlags::SHRINK).contains("add F_SEAL_WRITE"));
    for seals in [SealFlags::SHRINK, SealFlags::empty()] {
        let file = memfd(b"x", seals);
        let opened = DirectFile::of_fd(&file, None, DirectConfig::default()).unwrap();
        assert_eq!(opened.kind(), DirectKind::WriteProtect, "{seals:?}: writers may come, as views");
    }
}

#[test]
fn files_in_memory_are_for_write_protection() {
    let Ok(file) = NamedTempFile::new_in("/dev/shm") else {
        skip("direct files on tmpfs", "no tmpfs at /dev/shm");
        return;
    };
    assert_eq!(DirectKind::of(file.path()).unwrap(), DirectKind::WriteProtect);
    let huge = rustix::fs::memfd_create("direct", MemfdFlags::HUGETLB).unwrap();
    let path = format!("/proc/self/fd/{}", huge.as_raw_fd());
    assert_eq!(DirectKind::of(path).unwrap(), DirectKind::WriteProtect);
}

/// A file in memory: a store through a view waits for the hold, and then is in the file itself.
fn writers_of_a_file_in_memory_wait(file: &File, page: usize) {
    let before = pattern(3 * page);
    file.write_all_at(&before, 0).unwrap();
    let (bus, iommu) = Bus::new();
    let direct = DirectFile::of_fd(file, Some(&iommu), DirectConfig::default()).unwrap();
    assert_eq!((direct.kind(), direct.len()), (DirectKind::WriteProtect, before.len() as u64));
    let hold = direct.hold(page as u64 / 2..2 * page as u64).unwrap();
    assert_eq!(bytes_of(&hold), before[page / 2..2 * page]);
    assert_eq!(bus.read(&hold, 0..hold.len()), before[page / 2..2 * page]);

    let view = direct.view().unwrap();
    view.write_at(2 * page as u64, b"free").unwrap();
    let mut found = [0; 4];
    file.read_exact_at(&mut found, 2 * page as u64).unwrap();
    assert_eq!(&found, b"free", "what is not held is not waited for");
    let landed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (view, landed) = (&view, &landed);
        scope.spawn(move || {
            view.write_at(page as u64 - 2, b"late").unwrap();
            landed.store(true, Ordering::Release);
        });
        for _ in 0..500 {
            assert!(!landed.load(Ordering::Acquire), "a store landed in a held page");
            assert_eq!(bytes_of(&hold), before[page / 2..2 * page], "held bytes changed");
            std::thread::yield_now();
        }
        drop(hold);
        eventually("the store", || landed.load(Ordering::Acquire));
    });
    file.read_exact_at(&mut found, page as u64 - 2).unwrap();
    assert_eq!(&found, b"late");
    assert_eq!(direct.hold(0..direct.len()).unwrap().crc32().unwrap(), crc32fast::hash(&read_all(file)));
    drop((view, direct));
    assert_eq!(bus.mapped(), 0);
}

fn read_all(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn writers_of_a_memfd_wait() {
    let file = File::from(rustix::fs::memfd_create("direct", MemfdFlags::ALLOW_SEALING).unwrap());
    writers_of_a_file_in_memory_wait(&file, PAGE);
}

#[test]
fn writers_of_a_file_on_tmpfs_wait() {
    match tempfile::tempfile_in("/dev/shm") {
        Ok(file) => writers_of_a_file_in_memory_wait(&file, PAGE),
        Err(error) => skip("direct files on tmpfs", &format!("no tmpfs at /dev/shm: {error}")),
    }
}

#[test]
fn writers_of_huge_pages_wait() {
    let file = File::from(rustix::fs::memfd_create("direct", MemfdFlags::HUGETLB).unwrap());
    let page = rustix::fs::fstatfs(&file).unwrap().f_bsize as usize;
    // hugetlbfs has no write(2): the length is set, and the pages are written through a view. It takes free huge pages.
    let free = std::fs::read_to_string("/proc/meminfo").unwrap();
    let free = free.lines().find_map(|line| line.strip_prefix("HugePages_Free:")?.trim().parse().ok()).unwrap_or(0);
    if free < 2 {
        skip("writers of a direct file on huge pages", "no free huge pages; echo 2 > /proc/sys/vm/nr_hugepages");
        return;
    }
    file.set_len(2 * page as u64).unwrap();
    let direct = DirectFile::of_fd(&file, None, DirectConfig::default()).unwrap();
    let (view, hold) = (direct.view().unwrap(), direct.hold(0..100).unwrap());
    view.write_at(page as u64, b"the other page").unwrap();
    let landed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (view, landed) = (&view, &landed);
        scope.spawn(move || {
            view.write_at(50, b"late").unwrap();
            landed.store(true, Ordering::Release);
        });
        for _ in 0..500 {
            assert!(!landed.load(Ordering::Acquire), "a store landed in a held page");
            std::thread::yield_now();
        }
        drop(hold);
        eventually("the store", || landed.load(Ordering::Acquire));
    });
}

#[test]
fn files_of_many_odd_lengths_in_memory_keep_their_order() {
    for pages in [0, 1, 3, 511, 512, 513, 1300] {
        let file = File::from(rustix::fs::memfd_create("direct", MemfdFlags::empty()).unwrap());
        let bytes = pattern((pages * PAGE).saturating_sub(7));
        file.write_all_at(&bytes, 0).unwrap();
        let direct = DirectFile::of_fd(&file, None, DirectConfig::default()).unwrap();
        assert_eq!(all(&direct), bytes, "{pages} pages");
    }
}

/// Sets the flag; clears it whatever happens.
struct Flag<'a>(&'a File);

impl<'a> Flag<'a> {
    fn set(file: &'a File) -> Option<Self> {
        let set = rustix::fs::ioctl_getflags(file).and_then(|flags| {
            rustix::fs::ioctl_setflags(file, flags | IFlags::IMMUTABLE)?;
            Ok(Self(file))
        });
        set.map_err(|error| {
            skip("an immutable direct file", &format!("the immutable flag can not be set here: {error}"))
        })
        .ok()
    }
}

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        let flags = rustix::fs::ioctl_getflags(self.0).unwrap();
        rustix::fs::ioctl_setflags(self.0, flags - IFlags::IMMUTABLE).unwrap();
    }
}

#[test]
fn nobody_can_open_an_immutable_file_for_writing() {
    let bytes = pattern(2 * PAGE);
    let Some(disk) = on_disk(&bytes) else { return };
    let Some(flag) = Flag::set(disk.as_file()) else { return };
    let (bus, iommu) = Bus::new();
    let file = DirectFile::open(disk.path(), Some(&iommu), DirectConfig::default()).unwrap();
    assert_eq!(file.kind(), DirectKind::Immutable);
    let hold = file.hold(0..file.len()).unwrap();
    assert!(!writer("exec 2>&-; printf x >> \"$1\"", disk.path()).wait().unwrap().success());
    assert!(!writer("exec 2>&-; truncate -s 1 \"$1\"", disk.path()).wait().unwrap().success());
    assert_eq!(bytes_of(&hold), bytes);
    assert_eq!(bus.read(&hold, 0..hold.len()), bytes);
    assert!(hold.as_slice().is_none(), "the flag can be cleared");
    drop(flag);
}

#[test]
fn an_immutable_file_with_a_writer_from_before_is_refused() {
    let Some(disk) = on_disk(&pattern(PAGE)) else { return };
    let old = File::options().read(true).write(true).open(disk.path()).unwrap();
    let Some(flag) = Flag::set(disk.as_file()) else { return };
    assert!(refusal(disk.path()).contains("open for writing"));
    drop(old);
    kind_once_closed(disk.path()).unwrap();
    assert_eq!(open(disk.path()).unwrap().kind(), DirectKind::Immutable);
    drop(flag);
}

#[test]
fn a_read_only_superblock_is_enough_and_a_read_only_bind_mount_is_not() {
    // Mounts of this thread and its children alone.
    let mounts = std::thread::spawn(|| {
        // SAFETY: a mount namespace of its own takes nothing from other threads; descriptors stay shared.
        if let Err(error) = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) } {
            skip("direct files of a read-only file system", &format!("mounting needs root: {error}"));
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let script =
            "set -e; cd \"$1\"; mount --make-rprivate /; mkdir a b; mount -t tmpfs none a; printf still > a/file
            mount --bind a b; mount -o remount,bind,ro b";
        if !writer(script, folder.path()).wait().unwrap().success() {
            skip("direct files of a read-only file system", "no mounts can be made here");
            return;
        }
        assert_eq!(DirectKind::of(folder.path().join("b/file")).unwrap(), DirectKind::WriteProtect);
        assert!(writer("mount -o remount,ro \"$1\"/a", folder.path()).wait().unwrap().success());
        let path = folder.path().join("a/file");
        let file = open(&path).unwrap();
        assert_eq!(file.kind(), DirectKind::Immutable);
        assert_eq!(all(&file), b"still");
        assert!(!writer("exec 2>&-; printf x >> \"$1\"", &path).wait().unwrap().success());
        drop(file);
        assert!(writer("umount \"$1\"/b \"$1\"/a", folder.path()).wait().unwrap().success());
    });
    mounts.join().unwrap();
}

#[test]
fn a_writer_in_another_process_waits_and_its_bytes_come_after() {
    let mut bytes = pattern(5 * PAGE + 5);
    let Some(disk) = on_disk(&bytes) else { return };
    let (bus, iommu) = Bus::new();
    let file = DirectFile::open(disk.path(), Some(&iommu), DirectConfig::default()).unwrap();
    assert_eq!((file.kind(), file.len()), (DirectKind::Leased, bytes.len() as u64));
    // More than once: what the kernel forgets with a lease has to be set again.
    for round in 1..=3u8 {
        let holds = [file.hold(0..file.len()).unwrap(), file.hold(0..file.len()).unwrap()];
        let digest = holds[0].crc32().unwrap();
        let script = format!("printf round{round} | dd of=\"$1\" bs=1 seek=4094 conv=notrunc status=none");
        let mut child = writer(&script, disk.path());
        eventually("the writer is heard of", || file.breaks() == u64::from(round));
        let [first, last] = holds;
        drop(first);
        stays_still(&last, &bytes, &mut child);
        assert!(matches!(file.try_hold(0..1), Err(Error::Away { .. })));
        assert_eq!(bus.read(&last, 0..last.len()), bytes);
        assert_eq!(last.crc32().unwrap(), digest);
        assert_eq!(bus.maps(), usize::from(round));
        drop(last);
        assert!(child.wait().unwrap().success());
        bytes[4094..4100].copy_from_slice(format!("round{round}").as_bytes());
        let hold = file.hold(0..file.len()).unwrap();
        assert!(bytes_of(&hold) == bytes, "the new bytes");
        assert!(bus.read(&hold, 0..hold.len()) == bytes, "the new bytes for the device");
        assert_eq!((bus.mapped(), bus.maps()), (1, usize::from(round) + 1), "pages may be others: mapped anew");
    }
    assert_eq!(file.broken(), 0);
}

#[test]
fn a_writer_that_opens_here_waits_for_the_holds() {
    let Some(disk) = on_disk(&pattern(PAGE)) else { return };
    let file = open(disk.path()).unwrap();
    let hold = file.hold(0..1).unwrap();
    let released = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let other = File::options().write(true).open(disk.path()).unwrap();
            assert!(released.load(Ordering::SeqCst), "open came back while bytes were held");
            other.write_at(b"later", 0).unwrap();
        });
        eventually("the writer is heard of", || file.breaks() == 1);
        for _ in 0..500 {
            assert_eq!(bytes_of(&hold), pattern(1));
        }
        released.store(true, Ordering::SeqCst);
        drop(hold);
        writer.join().unwrap();
    });
    assert_eq!(all(&file)[..5], *b"later");
}

#[test]
fn truncation_waits_and_makes_it_another_file() {
    let bytes = pattern(3 * PAGE);
    for (script, found) in [
        ("dd of=\"$1\" bs=100 seek=1 count=0 status=none", 100),
        ("printf 1234567 > \"$1\"", 7),
        ("printf x >> \"$1\"", bytes.len() as u64 + 1),
    ] {
        let Some(disk) = on_disk(&bytes) else { return };
        let (bus, iommu) = Bus::new();
        let file = DirectFile::open(disk.path(), Some(&iommu), DirectConfig::default()).unwrap();
        let hold = file.hold(0..file.len()).unwrap();
        let mut child = writer(script, disk.path());
        eventually("the writer is heard of", || file.breaks() == 1);
        stays_still(&hold, &bytes, &mut child);
        drop(hold);
        assert!(child.wait().unwrap().success());
        match file.hold(0..1).map(|hold| hold.len()) {
            Err(Error::Changed { expected, found: now, .. }) => assert_eq!((expected, now), (file.len(), found)),
            other => panic!("{other:?}"),
        }
        assert_eq!(bus.mapped(), 0, "the device has no way to it any more");
        let anew = open(disk.path()).unwrap();
        assert_eq!(anew.len(), found);
        assert!(anew.hold(0..found).is_ok());
    }
}

/// truncate(2) itself (`truncate` opens the file), back to the same length: nothing is closed, and pages are others.
#[test]
fn truncation_without_an_open_waits_too() {
    let Some(disk) = on_disk(&pattern(3 * PAGE)) else { return };
    let (bus, iommu) = Bus::new();
    let file = DirectFile::open(disk.path(), Some(&iommu), DirectConfig::default()).unwrap();
    let path = std::ffi::CString::new(disk.path().to_str().unwrap()).unwrap();
    let hold = file.hold(0..file.len()).unwrap();
    let released = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            // SAFETY: a string that ends with a zero, for the length of the call.
            assert_eq!(unsafe { libc::truncate(path.as_ptr(), 3 * PAGE as i64) }, 0);
            assert!(released.load(Ordering::SeqCst), "truncate came back while bytes were held");
        });
        eventually("the writer is heard of", || file.breaks() == 1);
        (0..500).for_each(|_| assert_eq!(bytes_of(&hold).len(), 3 * PAGE));
        released.store(true, Ordering::SeqCst);
        drop(hold);
        writer.join().unwrap();
    });
    assert!(file.hold(0..file.len()).is_ok(), "the same length: taken up again");
    assert_eq!(bus.maps(), 2);
}

/// The one way past a lease, see `lease.rs`: not prevented, but neither a signal nor silence for who reads it here.
#[test]
fn a_file_that_is_cut_short_past_the_lease_is_an_error() {
    let Some(disk) = on_disk(&pattern(3 * PAGE)) else { return };
    let file = open(disk.path()).unwrap();
    let hold = file.hold(0..file.len()).unwrap();
    let past = OpenOptions::new().read(true).custom_flags(libc::O_TRUNC).open(disk.path());
    if past.is_err() || disk.as_file().metadata().unwrap().len() > 0 {
        skip("the gap in leases", "this kernel closed the gap");
        return;
    }
    assert!(matches!(hold.read_at(0, &mut [0; 10]), Err(Error::Changed { found: 0, .. })));
    assert!(matches!(hold.crc32(), Err(Error::Changed { .. })));
}

#[test]
fn a_writer_that_does_not_wait_is_turned_away_and_the_file_goes_on() {
    let Some(disk) = on_disk(&pattern(PAGE)) else { return };
    let file = open(disk.path()).unwrap();
    let hold = file.hold(0..1).unwrap();
    let impatient = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(disk.path());
    assert_eq!(impatient().unwrap_err().kind(), ErrorKind::WouldBlock);
    eventually("the keeper hears of it", || file.breaks() == 1);
    assert!(matches!(file.try_hold(0..1), Err(Error::Away { .. })));
    drop(hold);
    assert_eq!(all(&file), pattern(PAGE));
}

#[test]
fn holds_wait_for_the_writer_to_close() {
    let Some(disk) = on_disk(&pattern(PAGE)) else { return };
    let file = DirectFile::open(disk.path(), None, DirectConfig { wait: Duration::from_secs(60) }).unwrap();
    let short = DirectConfig { wait: Duration::from_millis(1) };
    let impatient = DirectFile::open(disk.path(), None, short).unwrap();
    let other = File::options().write(true).open(disk.path()).unwrap();
    let Err(Error::Away { waited, .. }) = impatient.hold(0..1) else { panic!("held while it is open for writing") };
    assert!(waited >= Duration::from_millis(1));
    let closed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let holders = [(); 3].map(|()| {
            scope.spawn(|| {
                let hold = file.hold(0..5).unwrap();
                assert!(closed.load(Ordering::SeqCst), "held while it is open for writing");
                assert_eq!(bytes_of(&hold), b"later");
            })
        });
        for _ in 0..100 {
            assert!(file.try_hold(0..1).is_err());
            other.write_at(b"later", 0).unwrap();
        }
        closed.store(true, Ordering::SeqCst);
        drop(other);
        holders.into_iter().for_each(|holder| holder.join().unwrap());
    });
}

#[test]
fn a_file_that_is_open_for_writing_is_refused() {
    let Some(disk) = on_disk(&pattern(PAGE)) else { return };
    let other = File::options().read(true).write(true).open(disk.path()).unwrap();
    let text = refusal(disk.path());
    assert!(text.contains("open for writing") && text.contains("Cache::open"), "{text}");
    let text = DirectFile::of_fd(&other, None, DirectConfig::default()).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("open for writing"), "the caller's own descriptor counts: {text}");
    // SAFETY: a new mapping of one page, which nothing touches.
    let at = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), PAGE, protection, libc::MAP_SHARED, other.as_raw_fd(), 0)
    };
    assert_ne!(at, libc::MAP_FAILED);
    drop(other);
    assert!(refusal(disk.path()).contains("shared mapping"), "mapped, though closed");
    // SAFETY: mapped above, not touched since.
    assert_eq!(unsafe { libc::munmap(at, PAGE) }, 0);
    kind_once_closed(disk.path()).unwrap();
    let reader = File::open(disk.path()).unwrap();
    assert_eq!(DirectFile::of_fd(&reader, None, DirectConfig::default()).unwrap().kind(), DirectKind::Leased);
}

#[test]
fn what_is_no_regular_file_or_on_no_known_disk_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (path, expected) in [
        (folder.path(), "is a directory"),
        (&fifo, "is a FIFO"),
        (Path::new("/dev/null"), "is a character device"),
        (Path::new("/proc/version"), "use Cache::open"),
        (&folder.path().join("none"), "no such file"),
    ] {
        let text = refusal(path);
        assert!(text.contains(expected), "expected '{expected}' in: {text}");
    }
    let folder = File::open(folder.path()).unwrap();
    let text = DirectFile::of_fd(&folder, None, DirectConfig::default()).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("is a directory"));
}

#[test]
fn an_empty_file_is_held_and_has_no_segments() {
    let Some(disk) = on_disk(b"") else { return };
    let (bus, iommu) = Bus::new();
    let file = DirectFile::open(disk.path(), Some(&iommu), DirectConfig::default()).unwrap();
    let hold = file.hold(0..0).unwrap();
    assert_eq!(bus.read(&hold, 0..0), b"");
    assert_eq!(hold.crc32().unwrap(), 0);
}

#[test]
#[should_panic(expected = "without an Iommu")]
fn segments_need_an_iommu() {
    let memfd = memfd(b"bytes", SealFlags::WRITE | SealFlags::SHRINK);
    let file = DirectFile::of_fd(&memfd, None, DirectConfig::default()).unwrap();
    Bus::default().read(&file.hold(0..1).unwrap(), 0..1);
}

#[test]
fn the_lease_stays_with_the_last_hold_and_ends_with_it() {
    let Some(disk) = on_disk(&pattern(PAGE)) else { return };
    let (bus, iommu) = Bus::new();
    let file = DirectFile::open(disk.path(), Some(&iommu), DirectConfig::default()).unwrap();
    let hold = file.hold(0..file.len()).unwrap();
    drop((file, iommu));
    let mut child = writer("printf x | dd of=\"$1\" conv=notrunc status=none", disk.path());
    stays_still(&hold, &pattern(PAGE), &mut child);
    assert_eq!(bus.mapped(), 1);
    drop(hold);
    assert!(child.wait().unwrap().success());
    assert_eq!(bus.mapped(), 0);
    // Away, and given up while away: its thread ends though the writer does not.
    let file = open(disk.path()).unwrap();
    let _other = File::options().write(true).open(disk.path()).unwrap();
    eventually("the file is away", || file.breaks() == 1);
    let gone = std::thread::spawn(move || drop(file));
    eventually("it is given up", || gone.is_finished());
}

#[test]
fn many_holders_and_a_writer() {
    const LEN: usize = 3 * PAGE;
    let Some(disk) = on_disk(&[0; LEN]) else { return };
    let file = DirectFile::open(disk.path(), None, DirectConfig { wait: Duration::from_secs(60) }).unwrap();
    let (done, held) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut last = 0u32;
    std::thread::scope(|scope| {
        let holders = [(); 3].map(|()| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let hold = file.hold(0..LEN as u64).unwrap();
                    let digest = hold.crc32().unwrap();
                    let bytes = bytes_of(&hold);
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "torn");
                    assert_eq!(crc32fast::hash(&bytes), digest, "held bytes changed");
                    held.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        eventually("holders and writer have met often", || {
            let round = last + 1;
            let other = File::options().write(true).open(disk.path()).unwrap();
            // In pieces, so that a reader between them would see it.
            for at in (0..LEN).step_by(512) {
                other.write_all_at(&[round as u8; 512], at as u64).unwrap();
            }
            last = round;
            held.load(Ordering::Relaxed) > 30 && file.breaks() > 30
        });
        done.store(true, Ordering::Relaxed);
        holders.into_iter().for_each(|holder| holder.join().unwrap());
    });
    assert_eq!(all(&file), [last as u8; LEN]);
    assert_eq!(file.broken(), 0);
}
