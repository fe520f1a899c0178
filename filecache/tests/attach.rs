//! Writers in other processes.

mod common;
#[path = "common/process.rs"]
mod process;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::counting::{Counting, crc_now};
use common::*;
use process::Process;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};
use rustix::process::Signal;
use stillwire_filecache::attach::attach;
use stillwire_filecache::{Cache, CachedFile, Config, Door, Error};
use tempfile::{NamedTempFile, TempDir};

/// Not a test: what the other processes run.
#[test]
fn another_process() {
    process::child();
}

struct Served {
    cache: Cache,
    file: CachedFile,
    disk: NamedTempFile,
    door: Door,
    _folder: TempDir,
}

impl Served {
    fn new(config: Config, bytes: &[u8]) -> Self {
        let (folder, disk) = (TempDir::new().unwrap(), file_of(bytes));
        let cache = Cache::new(config).unwrap();
        let door = cache.serve(folder.path().join("socket")).unwrap();
        let file = cache.open(disk.path()).unwrap();
        Self { cache, file, disk, door, _folder: folder }
    }

    fn of(bytes: &[u8]) -> Self {
        Self::new(Config { bytes: 512 * PAGE, ..quiet() }, bytes)
    }

    fn attached(&self) -> Process {
        Process::attached(self.door.socket(), self.disk.path())
    }

    fn byte(&self, at: u64) -> u8 {
        self.file.hold(at..at + 1).unwrap().chunks().next().unwrap()[0]
    }

    fn waiting(&self) -> u64 {
        self.cache.stats().writers_waiting
    }
}

#[test]
fn a_store_from_another_process_waits_for_a_hold_and_lands() {
    let served = Served::of(&pattern(4 * PAGE));
    let mut writer = served.attached();
    assert_eq!(writer.ask("len"), (4 * PAGE).to_string());
    let hold = served.file.hold(0..PAGE as u64).unwrap();
    let digest = hold.crc32();
    writer.tell("write 100 7 50");
    eventually("the writer waits", || served.waiting() == 1);
    assert!(writer.is_silent());
    assert_eq!(crc32fast::hash(&hold.chunks().flatten().copied().collect::<Vec<_>>()), digest);
    drop(hold);
    assert_eq!(writer.answer(), "ok");
    assert_eq!((served.byte(99), served.byte(100), served.byte(149)), (pattern(100)[99], 7, 7));
    assert_eq!(served.waiting(), 0);
    assert_eq!(served.cache.stats().writer_pauses, 1);
    assert_eq!(writer.ask("sync"), "ok");
    assert_eq!(std::fs::read(served.disk.path()).unwrap()[100..150], [7; 50]);
    assert_eq!(writer.ask("write 16384 1 1").split(' ').next(), Some("error"), "beyond the end");
    served.file.set_len(5 * PAGE as u64).unwrap();
    assert_eq!(writer.ask("write 16384 1 1"), "ok", "not any more");
    served.file.set_len(PAGE as u64).unwrap();
    assert_eq!(writer.ask("write 16384 1 1").split(' ').next(), Some("error"), "and again");
    assert_eq!(writer.end(), None);
    assert_eq!(writer.answer(), "detached");
    eventually("it has left", || served.door.attached() == 0);
}

/// Eight writers here and two in other processes, for `time`, against a sender of the same pages.
fn ten_writers_and_a_sender(time: Duration) {
    const PAGES: usize = 16;
    let served = Served::of(&[0; PAGES * PAGE]);
    let mut others = [served.attached(), served.attached()];
    for (slot, other) in (8..).zip(&mut others) {
        other.tell(&format!("count {slot} {}", time.as_millis()));
    }
    let view = served.file.view().unwrap();
    let stop = AtomicBool::new(false);
    let (torn, sent, writers) = std::thread::scope(|scope| {
        let writer = |slot| {
            let (view, stop) = (&view, &stop);
            scope.spawn(move || {
                let mut writer = Counting::new(view, slot);
                while !stop.load(Ordering::Relaxed) {
                    writer.step();
                }
                writer
            })
        };
        let writers: Vec<_> = (0..8).map(writer).collect();
        let (begun, mut torn, mut sent) = (Instant::now(), 0, 0u64);
        while begun.elapsed() < time {
            let first = sent as usize % PAGES;
            let hold = served.file.hold((first * PAGE) as u64..(PAGES * PAGE) as u64).unwrap();
            let digest = hold.crc32();
            std::thread::yield_now();
            torn += u64::from(crc_now(&hold) != digest);
            sent += 1;
        }
        stop.store(true, Ordering::Relaxed);
        (torn, sent, writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>())
    });
    assert_eq!(torn, 0, "of {sent}");
    for other in &others {
        let answer = other.answer();
        assert!(answer.starts_with("stored "), "{answer}");
    }
    served.file.sync().unwrap();
    let found = std::fs::read(served.disk.path()).unwrap();
    writers.iter().for_each(|writer| writer.check_file(&found));
    let stats = served.cache.stats();
    assert!(sent > 0 && stats.writer_pauses > 0 && stats.closes > 0, "nothing met: {sent} sent, {stats:?}");
    assert_eq!(stats.writers_waiting, 0);
}

#[test]
fn writers_here_and_in_other_processes_tear_nothing_and_lose_nothing() {
    ten_writers_and_a_sender(Duration::from_secs(2));
}

#[test]
#[ignore = "takes 10 s; cargo xtask test runs it"]
fn writers_here_and_in_other_processes_tear_nothing_and_lose_nothing_in_ten_seconds() {
    ten_writers_and_a_sender(Duration::from_secs(10));
}

#[test]
fn a_file_that_is_larger_than_the_cache() {
    const PAGES: usize = 256;
    let config = Config { bytes: 64 * PAGE, max_folio: 4 * PAGE, ..Config::default() };
    let served = Served::new(config, &[0; PAGES * PAGE]);
    let mut writer = served.attached();
    for round in 1..=2 {
        for page in 0..PAGES {
            assert_eq!(writer.ask(&format!("write {} {round} {PAGE}", page * PAGE)), "ok");
        }
    }
    assert_eq!(writer.ask("read 5"), "2");
    assert_eq!(writer.ask("sync"), "ok");
    assert!(served.cache.stats().evictions > PAGES as u64, "{:?}", served.cache.stats());
    assert!(std::fs::read(served.disk.path()).unwrap().iter().all(|byte| *byte == 2));
    // All at once, through a raw pointer.
    for page in 0..PAGES {
        assert_eq!(writer.ask(&format!("raw {} 3", page * PAGE)), "ok");
    }
    assert_eq!((served.byte(0), served.byte(1), served.byte((PAGES - 1) as u64 * PAGE as u64)), (3, 2, 3));
}

/// A process that is stopped delays nobody, and its pages stay its own until it goes on.
#[test]
fn a_stopped_process_is_in_nobodys_way() {
    const PAGES: u64 = 64;
    let served = Served::new(Config { bytes: 128 * PAGE, max_folio: 4 * PAGE, ..quiet() }, &vec![1; 64 * PAGE]);
    let other = file_of(&vec![9; 256 * PAGE]);
    let other = served.cache.open(other.path()).unwrap();
    let mut writer = served.attached();
    for page in 0..32 {
        assert_eq!(writer.ask(&format!("write {} 2 1", page * PAGE)), "ok");
    }
    writer.signal(Signal::STOP);
    // Pages that it has open are closed without it.
    let hold = served.file.hold(0..PAGES * PAGE as u64).unwrap();
    let digest = hold.crc32();
    assert!(served.cache.stats().closes >= 32);
    drop(hold);
    served.file.sync().unwrap();
    // What it shows can not be taken from it; and all others can go, over and over.
    served.file.evict(0..u64::MAX);
    for _ in 0..2 {
        for page in 0..256 {
            drop(other.hold(page * PAGE as u64..(page + 1) * PAGE as u64).unwrap());
        }
    }
    let start = Instant::now();
    assert_eq!(served.file.hold(0..PAGES * PAGE as u64).unwrap().crc32(), digest);
    served.file.evict(0..u64::MAX);
    assert!(start.elapsed() < Duration::from_secs(2), "it was waited for again");
    // Pages that it shows are cut off. Nobody else gets them.
    served.file.set_len(8 * PAGE as u64).unwrap();
    assert!(served.cache.stats().stuck > 0);
    served.file.set_len(64 * PAGE as u64).unwrap();
    for page in 0..256 {
        drop(other.hold(page * PAGE as u64..(page + 1) * PAGE as u64).unwrap());
    }
    writer.tell("write 0 3 1");
    writer.tell(&format!("write {} 4 1", 20 * PAGE));
    writer.signal(Signal::CONT);
    assert_eq!((writer.answer(), writer.answer()), ("ok".into(), "ok".into()));
    assert_eq!((served.byte(0), served.byte(1), served.byte(20 * PAGE as u64)), (3, 1, 4));
    assert_eq!(served.byte(20 * PAGE as u64 + 1), 0, "cut off, and grown again");
    assert_eq!(served.byte(30 * PAGE as u64), 0);
    for page in 0..256 {
        assert_eq!(other.hold(page * PAGE as u64..page * PAGE as u64 + 1).unwrap().chunks().next(), Some(&[9][..]));
    }
    // What was kept for it comes back when all is evicted.
    drop(writer);
    served.file.sync().unwrap();
    eventually("all is free again", || {
        served.file.evict(0..u64::MAX);
        other.evict(0..u64::MAX);
        served.cache.stats().free_bytes == 128 * PAGE as u64
    });
}

/// Whatever the cache has told it: as long as a process may have something mapped, it is guarded.
#[test]
fn a_stopped_process_is_guarded_when_the_door_has_closed() {
    let served = Served::of(&pattern(4 * PAGE));
    let mut writer = served.attached();
    assert_eq!(writer.ask("write 0 1 1"), "ok");
    writer.signal(Signal::STOP);
    let Served { door, cache, file, disk: _disk, _folder } = served;
    drop(door);
    let before = cache.stats().closes;
    let hold = file.hold(0..PAGE as u64).unwrap();
    assert_eq!(cache.stats().closes, before + 1, "it may still store, and nobody keeps it from it");
    let digest = hold.crc32();
    writer.tell("write 0 2 1");
    writer.signal(Signal::CONT);
    assert!(writer.answer().contains("attach again"));
    drop(hold);
    assert_eq!(file.hold(0..PAGE as u64).unwrap().crc32(), digest);
    assert_eq!(cache.stats().writers_waiting, 0);
}

#[test]
fn a_process_that_runs_another_program_has_left() {
    let served = Served::of(&pattern(4 * PAGE));
    let mut writer = served.attached();
    assert_eq!(writer.ask("write 0 1 1"), "ok");
    writer.tell("exec");
    eventually("it has left", || served.door.attached() == 0);
    assert_eq!(served.byte(0), 1);
}

#[test]
fn the_door_closes() {
    let served = Served::of(&pattern(4 * PAGE));
    let mut writer = served.attached();
    assert_eq!(writer.ask("write 0 1 1"), "ok");
    let path = served.door.socket().to_path_buf();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(served.cache.serve(&path), Err(Error::Door { .. })), "somebody serves there already");
    let Served { door, cache, file, disk, _folder } = served;
    let start = Instant::now();
    drop(door);
    assert!(start.elapsed() < Duration::from_secs(2), "it unmapped only when it was hung up on");
    assert!(!path.exists());
    assert!(writer.ask("write 0 2 1").contains("attach again"));
    assert_eq!(file.hold(0..1).unwrap().chunks().next(), Some(&[1][..]));
    // What a dead process has left behind is replaced; what is no socket is not.
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    rustix::net::bind(socket.unwrap(), &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    assert!(path.exists());
    let door = cache.serve(&path).unwrap();
    assert_eq!(Process::attached(&path, disk.path()).ask("read 0"), "1");
    drop(door);
    std::fs::write(&path, "mine").unwrap();
    assert!(matches!(cache.serve(&path), Err(Error::Door { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn what_can_not_be_attached_to_says_why() {
    let served = Served::of(&pattern(PAGE));
    let error = |socket: &Path, path: &Path| attach(socket, path).err().unwrap().to_string();
    let missing = PathBuf::from("/nonexistent/file");
    assert!(error(served.door.socket(), &missing).contains("there is no such file"));
    assert!(error(&missing, served.disk.path()).contains("start what serves"));
    assert!(error(served.door.socket(), Path::new("/")).contains("directory"));
    let running = std::env::current_exe().unwrap();
    assert!(error(served.door.socket(), &running).contains("read but not written"));
}

/// The cache's process is killed: calls say so, and who waits at a pointer gets SIGBUS.
#[test]
fn the_cache_goes_away() {
    let (folder, disk) = (TempDir::new().unwrap(), file_of(&pattern(4 * PAGE)));
    let socket = folder.path().join("socket");
    let mut server = Process::server(&socket, disk.path());
    let mut calls = Process::attached(&socket, disk.path());
    let mut inside = Process::attached(&socket, disk.path());
    let mut raw = Process::attached(&socket, disk.path());
    assert_eq!(calls.ask("write 5000 1 1"), "ok");
    assert_eq!(server.ask("hold"), "ok");
    inside.tell("write 0 1 1");
    raw.tell("raw 0 1");
    assert!(inside.is_silent() && raw.is_silent(), "both wait for the hold");
    server.signal(Signal::KILL);
    assert!(inside.answer().contains("attach again"));
    // Until it has noticed, its stores are as good as those just before the end.
    for call in ["write 5000 1 1", "read 5000", "sync"] {
        eventually(call, || calls.ask(call).contains("attach again"));
    }
    // The store that waited may have been let through, and lost. Later ones are not.
    eventually("a touch that fails", || raw.answers_or_dies("raw 5000 1").is_none());
    assert_eq!(raw.end(), Some(libc::SIGBUS));
    // A new server takes the place, and the name of the socket.
    let _server = Process::server(&socket, disk.path());
    assert_eq!(Process::attached(&socket, disk.path()).ask("write 0 1 1"), "ok");
}

fn connect(door: &Door) -> OwnedFd {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let socket = socket.unwrap();
    rustix::net::connect(&socket, &rustix::net::SocketAddrUnix::new(door.socket()).unwrap()).unwrap();
    socket
}

fn say(socket: &OwnedFd, numbers: &[u64], text: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
    bytes.extend(text);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(fds));
    // It may have been cut off already.
    let _ = rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
}

/// Peers that do not keep to the protocol are cut off, and the cache lives.
#[test]
fn rubbish_is_refused() {
    let served = Served::of(&pattern(4 * PAGE));
    let path = served.disk.path().to_str().unwrap().as_bytes();
    let (null, capacity) = (std::fs::File::open("/dev/zero").unwrap(), 1u64 << 18);
    let base = 0x7000_0000_0000;
    let ready: [(&[u64], usize); 9] = [
        (&[3, base, capacity, 1, 0], 0),
        (&[3, base, capacity, 1, 0], 1),
        (&[3, base, capacity, 1, 0], 3),
        (&[3, base, u64::MAX, 1, 0], 1),
        (&[3, u64::MAX, capacity, 1, 0], 1),
        (&[3, base + 1, capacity, 1, 0], 1),
        (&[3, 0, 0, 0, 0], 1),
        (&[3], 1),
        (&[99, 1, 2, 3, 4], 7),
    ];
    for (words, fds) in ready {
        let socket = connect(&served.door);
        say(&socket, &[1, 1, 0, 0, 0], path, &[]);
        say(&socket, words, b"", &vec![null.as_fd(); fds]);
        drop(socket);
    }
    for (words, text) in [(&[1u64, 77, 0, 0, 0][..], path), (&[1, 1], b""), (&[], b"x"), (&[12, 0, 0, 0, 0], b"")] {
        say(&connect(&served.door), words, text, &[null.as_fd()]);
    }
    say(&connect(&served.door), &[1, 1, 0, 0, 0], b"\0\xff/../", &[]);
    say(&connect(&served.door), &[1, 1, 0, 0, 0], &[b'/'; 5000], &[]);
    eventually("all are cut off", || served.door.attached() == 0);
    let mut writer = served.attached();
    assert_eq!(writer.ask("write 0 1 1"), "ok");
    assert_eq!(served.byte(0), 1);
}
