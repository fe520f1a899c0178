//! What any storage promises, asked of real files by both engines.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::{Buffer, DiskFile, Engine, Operation, Request, Storage};

/// Page-aligned memory.
struct Pages {
    memory: Box<[Page]>,
}

#[derive(Clone, Copy)]
#[repr(align(4096))]
struct Page([u8; 4096]);

impl Pages {
    /// At least `len` bytes.
    fn new(len: usize, byte: u8) -> Self {
        Self { memory: vec![Page([byte; 4096]); len.div_ceil(4096).max(1)].into() }
    }

    fn start(&mut self) -> *mut u8 {
        self.memory.as_mut_ptr().cast()
    }

    fn bytes(&self) -> Vec<u8> {
        self.memory.iter().flat_map(|page| page.0).collect()
    }
}

/// A request whose memory comes back with the answer.
fn request(
    operation: fn(Buffer) -> Operation,
    offset: u64,
    mut pages: Pages,
    len: usize,
    done: impl FnOnce(io::Result<usize>, Pages) + Send + 'static,
) -> Request {
    assert!(len <= pages.memory.len() * 4096);
    // SAFETY: the pages are on the heap, initialised, and owned by the closure, which nobody but the request has: they are
    // freed or seen by others only in or after the call of `done`.
    let buffer = unsafe { Buffer::new(pages.start(), len) };
    Request::new(operation(buffer), offset, move |result| done(result, pages))
}

/// Submits and waits.
fn wait(
    storage: &dyn Storage,
    operation: fn(Buffer) -> Operation,
    offset: u64,
    pages: Pages,
    len: usize,
) -> (io::Result<usize>, Pages) {
    let (tell, told) = mpsc::channel();
    storage.submit(request(operation, offset, pages, len, move |result, pages| drop(tell.send((result, pages)))));
    told.recv_timeout(DEADLINE).expect("no answer")
}

/// Reads `len` bytes at `offset`; what was found.
pub(super) fn read(storage: &dyn Storage, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let (result, pages) = wait(storage, Operation::Read, offset, Pages::new(len, 0xee), len);
    let found = result?;
    assert!(found <= len);
    Ok(pages.bytes()[..found].to_vec())
}

/// Writes `bytes` at `offset`.
pub(super) fn write(storage: &dyn Storage, offset: u64, bytes: &[u8]) -> io::Result<usize> {
    let mut pages = Pages::new(bytes.len(), 0);
    for (page, part) in pages.memory.iter_mut().zip(bytes.chunks(4096)) {
        page.0[..part.len()].copy_from_slice(part);
    }
    wait(storage, Operation::Write, offset, pages, bytes.len()).0
}

pub(super) fn sync(storage: &dyn Storage) -> io::Result<usize> {
    wait(storage, |_| Operation::Sync, 0, Pages::new(0, 0), 0).0
}

/// A directory where this program is: the one for temporary files may be a tmpfs, which has no direct calls.
fn on_a_disk() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
}

/// Runs `test` with each engine, buffered and direct.
fn each(test: impl Fn(&Arc<Engine>, &dyn Fn(&Path) -> DiskFile, &Path)) {
    let dir = on_a_disk();
    for direct in [false, true] {
        for (name, engine) in Engine::each() {
            println!("{name}, direct: {direct}");
            let path = dir.path().join(format!("{name} {direct}"));
            File::create(&path).unwrap();
            let open = |path: &Path| DiskFile::open(path, &engine, direct).unwrap();
            if direct && !open(&path).uses_direct() {
                println!("skipped: no O_DIRECT in {}", dir.path().display());
                continue;
            }
            test(&engine, &open, &path);
        }
    }
}

/// Bytes that differ from page to page.
fn pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 4096 * 31 + at * 7 + salt * 101) as u8).collect()
}

#[test]
fn what_is_written_is_read_and_is_as_long() {
    each(|_, open, path| {
        let file = open(path);
        for len in [1, 511, 512, 513, 4095, 4096, 4097, 8192, 12_288 + 77, (2 << 20) - 1, 2 << 20, (2 << 20) + 4096 + 9]
        {
            file.set_len(0).unwrap();
            for offset in [0, 3 * 4096] {
                let bytes = pattern(len, offset);
                assert_eq!(write(&file, offset as u64, &bytes).unwrap(), len);
                assert_eq!(sync(&file).unwrap(), 0);
                // By another descriptor of the kernel's page cache, and by the storage itself, beyond the end too.
                let found = std::fs::read(path).unwrap();
                assert_eq!(found.len(), offset.max(file.stamp().unwrap().len as usize - len) + len);
                assert!(found[offset..offset + len] == bytes, "{len} at {offset}");
                let found = read(&file, offset as u64, (len / 4096 + 3) * 4096).unwrap();
                assert!(found[..len] == bytes, "{len} at {offset}");
                assert_eq!(offset + found.len(), file.stamp().unwrap().len as usize, "a short read says where it ends");
            }
        }
        assert!(
            file.uses_direct() == path.to_str().unwrap().ends_with("true"),
            "the file system has refused after all"
        );
    });
}

#[test]
fn a_tail_leaves_the_length_and_what_is_behind_it() {
    each(|_, open, path| {
        let before = pattern(20_000, 1);
        std::fs::write(path, &before).unwrap();
        let file = open(path);
        let after = pattern(5000, 2);
        write(&file, 4096, &after).unwrap();
        let found = std::fs::read(path).unwrap();
        assert!(found == [&before[..4096], &after, &before[4096 + 5000..]].concat());
        // The last page: exactly to the odd end.
        write(&file, 16_384, &after[..20_000 - 16_384]).unwrap();
        assert_eq!(std::fs::metadata(path).unwrap().len(), 20_000);
        // An outside change is seen by the next read.
        File::options().write(true).open(path).unwrap().write_all_at(b"outside", 8192).unwrap();
        assert_eq!(&read(&file, 8192, 4096).unwrap()[..7], b"outside");
    });
}

#[test]
fn a_read_at_or_past_the_end_finds_nothing() {
    each(|_, open, path| {
        let file = open(path);
        assert_eq!(read(&file, 0, 4096).unwrap(), b"");
        file.set_len(8192).unwrap();
        assert_eq!(read(&file, 4096, 1 << 20).unwrap(), [0; 4096]);
        assert_eq!(read(&file, 8192, 4096).unwrap(), b"");
        assert_eq!(read(&file, 1 << 30, 4096).unwrap(), b"");
    });
}

#[test]
fn many_threads_have_more_in_flight_than_fits() {
    each(|_, open, path| {
        let file = Arc::new(open(path));
        file.set_len(THREADS * EACH * 4096).unwrap();
        let go = |operation: fn(Buffer) -> Operation| {
            let (tell, told) = mpsc::channel();
            std::thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (file, tell) = (&file, tell.clone());
                    scope.spawn(move || {
                        for number in (0..EACH).map(|each| each * THREADS + thread) {
                            let tell = tell.clone();
                            let done = move |result: io::Result<usize>, pages: Pages| {
                                drop(tell.send((number, result.unwrap(), pages.bytes())));
                            };
                            let pages = Pages::new(4096, number as u8);
                            file.submit(request(operation, number * 4096, pages, 4096, done));
                        }
                    });
                }
            });
            drop(tell);
            let mut seen = vec![false; (THREADS * EACH) as usize];
            while let Ok((number, len, bytes)) = told.recv_timeout(DEADLINE) {
                assert_eq!((len, bytes), (4096, vec![number as u8; 4096]));
                assert!(!std::mem::replace(&mut seen[number as usize], true), "{number} ended twice");
            }
            assert!(seen.iter().all(|&seen| seen), "one has not ended");
        };
        go(Operation::Write);
        go(Operation::Read);
    });
    const THREADS: u64 = 4;
    const EACH: u64 = 200;
}

#[test]
fn dropping_the_engine_waits_for_what_is_in_flight() {
    for (name, engine) in Engine::each() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let disk = DiskFile::open(file.path(), &engine, false).unwrap();
        let ended = Arc::new(AtomicUsize::new(0));
        for number in 0..64 {
            let ended = ended.clone();
            let done = move |result: io::Result<usize>, _: Pages| {
                assert_eq!(result.unwrap(), 1 << 20);
                ended.fetch_add(1, Ordering::Relaxed);
            };
            disk.submit(request(Operation::Read, number << 20, Pages::new(1 << 20, 0), 1 << 20, done));
        }
        let trace = engine.trace();
        drop(disk);
        drop(engine);
        assert_eq!(ended.load(Ordering::Relaxed), 64, "{name}");
        assert!(trace.upgrade().is_none(), "{name}: its threads have ended");
    }
}

#[test]
fn a_closed_engine_refuses_and_tells_so() {
    for (name, engine) in Engine::each() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = DiskFile::open(file.path(), &engine, true).unwrap();
        sync(&disk).unwrap();
        engine.close();
        let error = sync(&disk).unwrap_err().to_string();
        assert!(error.contains("closed"), "{name}: {error}");
    }
}

#[test]
fn nothing_to_write_is_written_and_nothing_to_read_is_read() {
    each(|_, open, path| {
        let file = open(path);
        assert_eq!((write(&file, 4096, b"").unwrap(), read(&file, 4096, 0).unwrap()), (0, vec![]));
        assert_eq!(file.stamp().unwrap().len, 0);
    });
}

/// A sync that did nothing would end as well as one that wrote; only the kernel's refusal shows that it was asked.
#[test]
fn a_sync_asks_the_kernel_and_tells_its_answer() {
    for (name, engine) in Engine::each() {
        let (tell, told) = mpsc::channel();
        let request = Request::new(Operation::Sync, 0, move |result| drop(tell.send(result)));
        engine.submit(request, &super::file::tests::of_a_pipe());
        let error = told.recv_timeout(DEADLINE).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{name}");
    }
}

/// A `done` that submits the next request, from more chains than the queue has places for.
#[test]
fn a_done_that_submits_again_never_waits_for_room() {
    fn chain(file: &Arc<DiskFile>, left: usize, end: mpsc::Sender<()>) {
        let next = file.clone();
        let done = move |result: io::Result<usize>, _: Pages| {
            assert_eq!(result.unwrap(), 4096);
            if left == 0 { end.send(()).unwrap() } else { chain(&next, left - 1, end) }
        };
        file.submit(request(Operation::Read, 0, Pages::new(4096, 0), 4096, done));
    }
    each(|_, open, path| {
        let file = Arc::new(open(path));
        file.set_len(4096).unwrap();
        let (end, ends) = mpsc::channel();
        (0..50).for_each(|_| chain(&file, 20, end.clone()));
        drop(end);
        (0..50).for_each(|_| ends.recv_timeout(DEADLINE).expect("a chain has stopped"));
    });
}

/// A `done` that has the last share in the file and its engine: the engine's thread must not wait for itself.
#[test]
fn the_last_share_may_go_on_the_engines_own_thread() {
    for (name, engine) in Engine::each() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = Arc::new(DiskFile::open(file.path(), &engine, false).unwrap());
        let (go, wait) = mpsc::channel();
        let (gone, is_gone) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let own = disk.clone();
        let first = Request::new(Operation::Sync, 0, move |_| {
            wait.recv_timeout(DEADLINE).unwrap();
            drop(own);
            gone.send(()).unwrap();
        });
        disk.submit(first);
        for _ in 0..20 {
            let tell = tell.clone();
            disk.submit(Request::new(Operation::Sync, 0, move |result| tell.send(result.unwrap()).unwrap()));
        }
        drop(tell);
        let trace = engine.trace();
        drop((disk, engine));
        go.send(()).unwrap();
        is_gone.recv_timeout(DEADLINE).expect("dropping it there has not ended well");
        assert_eq!(told.iter().count(), 20, "{name}: what was in flight has ended well");
        let start = Instant::now();
        while trace.upgrade().is_some() {
            assert!(start.elapsed() < DEADLINE, "{name}: its threads go on");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_done_that_panics_stops_nobody_else() {
    for (_, engine) in Engine::each() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = DiskFile::open(file.path(), &engine, false).unwrap();
        (0..10).for_each(|_| disk.submit(Request::new(Operation::Sync, 0, |_| panic!("for this test"))));
        sync(&disk).unwrap();
    }
}

#[test]
fn a_request_that_is_dropped_tells_so_once() {
    let (tell, told) = mpsc::channel();
    drop(Request::new(Operation::Sync, 0, move |result| drop(tell.send(result))));
    assert!(told.recv().unwrap().is_err());
    assert!(told.recv().is_err());
}

#[test]
fn a_file_system_that_refuses_direct_calls_is_read_and_written_all_the_same() {
    let dir = on_a_disk();
    for (name, engine) in Engine::each() {
        let path = dir.path().join(name);
        std::fs::write(&path, pattern(8192, 0)).unwrap();
        let disk = DiskFile::open(&path, &engine, true).unwrap();
        if !disk.uses_direct() {
            return println!("skipped: no O_DIRECT in {}", dir.path().display());
        }
        let disk = disk.with_alignment_of_one();
        // An odd address: the kernel refuses with EINVAL.
        let (tell, told) = mpsc::channel();
        let mut pages = Pages::new(8192, 0);
        // SAFETY: as in `request`; one byte from the start there are 4096 of the 8192 bytes left.
        let buffer = unsafe { Buffer::new(pages.start().add(1), 4096) };
        disk.submit(Request::new(Operation::Read(buffer), 0, move |result| {
            drop(tell.send(result.map(|len| pages.bytes()[1..=len].to_vec())));
        }));
        let found = told.recv_timeout(DEADLINE).unwrap().unwrap();
        assert!(found == pattern(4096, 0));
        assert!(!disk.uses_direct(), "{name}: it is remembered");
        assert_eq!(write(&disk, 4096, &pattern(4096, 5)).unwrap(), 4096);
    }
}

#[test]
fn a_disk_that_is_full_says_so() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: a small tmpfs can be mounted by root only");
    }
    for (name, engine) in Engine::each() {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(dir.path()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            return println!("skipped: no tmpfs can be mounted");
        }
        let path = dir.path().join("file");
        let disk = File::create(&path).map(|_| DiskFile::open(&path, &engine, true));
        // At once and lazily: the mount lasts for as long as the file is open, and nothing is left behind.
        assert!(Command::new("umount").arg("-l").arg(dir.path()).status().unwrap().success());
        let disk = disk.unwrap().unwrap();
        assert_eq!(write(&disk, 0, &pattern(40_000, 3)).unwrap(), 40_000);
        let error = write(&disk, 0, &pattern(200_000, 4)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{name}");
        assert!(read(&disk, 0, 40_960).unwrap()[..40_000] == pattern(200_000, 4)[..40_000], "a part was written");
    }
}

#[test]
fn a_file_that_may_not_grow_says_so_and_a_file_for_reading_is_not_written() {
    use rustix::fs::{MemfdFlags, SealFlags};
    for (name, engine) in Engine::each() {
        let sealed = rustix::fs::memfd_create(c"sealed", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&sealed, 4096).unwrap();
        rustix::fs::fcntl_add_seals(&sealed, SealFlags::GROW).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&sealed));
        let disk = DiskFile::open(Path::new(&path), &engine, false).unwrap();
        assert_eq!(write(&disk, 0, &[1; 4096]).unwrap(), 4096);
        let error = write(&disk, 4096, &[1; 4096]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{name}");
        // A program that runs may not be written, by nobody: ETXTBSY.
        let disk = DiskFile::open(&std::env::current_exe().unwrap(), &engine, true).unwrap();
        assert!(!disk.writable());
        assert_eq!(write(&disk, 0, &[1; 4096]).unwrap_err().raw_os_error(), Some(libc::EBADF), "{name}");
        assert_eq!(&read(&disk, 0, 4096).unwrap()[..4], b"\x7fELF");
    }
}

const DEADLINE: Duration = Duration::from_secs(30);
