//! The conversation between a page cache and a writer in another process, with one honest end.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, recv, sendmsg,
};
use stillwire_filecache::{Cache, Config, attach};

use crate::input::Input;
use crate::process::userfaultfd;

/// A cache with an open door, and somebody who says anything at it. He has no view: what he says with one is
/// `filecache/tests/attach.rs`'s, for that needs a process that ends.
pub fn server(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let folder = tempfile::tempdir().expect("a folder");
    let (path, door_path) = (folder.path().join("file"), folder.path().join("door"));
    std::fs::write(&path, vec![7; 10_000]).expect("a small file");
    let Ok(cache) = Cache::new(Config { bytes: 1 << 20, io_uring: false, ..Config::default() }) else { return };
    let door = cache.serve(&door_path).expect("a socket in a new folder");
    for _ in 0..1 + input.u8() % 3 {
        let Some(socket) = connect(&door_path) else { return };
        for _ in 0..12 {
            if !input.more() {
                break;
            }
            let message = message(&mut input, &path);
            let fds = descriptors(&mut input);
            if send(&socket, &message, &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>()).is_err() {
                break;
            }
            hear(&socket, if input.flag() { 2 } else { 0 });
        }
    }
    drop(door);
    let file = cache.open(&path).expect("the cache is still there");
    assert_eq!(file.hold(0..10_000).expect("and works").len(), 10_000);
}

/// A writer, and a cache that says anything.
pub fn client(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("door");
    let Ok(listener) = listen(&path) else { return };
    std::thread::scope(|scope| {
        let mut input = Input::new(bytes);
        let uses = input.u8();
        scope.spawn(move || {
            if let Ok(socket) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
                drop(listener);
                be_cache(&socket, &mut input);
            }
        });
        if let Ok(file) = attach::attach(&path, folder.path().join("file")) {
            let mut bytes = [0; 3000];
            let _ = file.read_at(u64::from(uses) * 100, &mut bytes);
            let _ = file.write_at(u64::from(uses) * 50, &bytes);
            if uses & 1 == 1 {
                let _ = file.sync();
            }
            let _ = (file.len(), file.capacity());
        }
    });
}

fn be_cache(socket: &OwnedFd, input: &mut Input<'_>) {
    hear(socket, 1000);
    let len = if input.u8() < 200 { 1 << 16 } else { input.u32().into() };
    let (shift, capacity) = if input.u8() < 230 { (12, 32) } else { (input.u8().into(), input.u64()) };
    if input.u8() < 240 {
        let arena = arena(input);
        let _ = send(socket, &plain(2, [len, shift, capacity, 0]), &[arena.as_fd()]);
        hear(socket, 1000);
    }
    if input.u8() < 240 {
        let _ = send(socket, &plain(4, [0; 4]), &[]);
    }
    for _ in 0..24 {
        if !input.more() {
            break;
        }
        let page =
            |input: &mut Input<'_>| if input.u8() < 220 { u64::from(input.u8() % 36) << 12 } else { input.u64() };
        let call = u64::from(input.u8() % 8);
        let message = match input.u8() % 6 {
            0 | 1 => plain(6, [call, page(input), page(input), page(input)]),
            2 => plain(7, [call, page(input), page(input), 0]),
            3 | 4 => plain(11, [call, input.one_of(&[0, 0, 5]), if input.flag() { 1 << 16 } else { input.u64() }, 0]),
            _ => message(input, Path::new("/")),
        };
        if send(socket, &message, &[]).is_err() {
            break;
        }
        hear(socket, if input.flag() { 2 } else { 0 });
    }
    // Time for what was said to be done; then the cache is gone, and everybody who waits goes on.
    hear(socket, 5);
}

/// The arena's descriptor: memory that may be shorter than it is said to be, or something else.
fn arena(input: &mut Input<'_>) -> OwnedFd {
    match input.u8() {
        0..=199 => memory(1 << 18, true),
        200..=229 => memory(u64::from(input.u8()) << 12, input.flag()),
        230..=244 => File::open("/dev/null").expect("it is there").into(),
        _ => File::open("/").expect("it is there").into(),
    }
}

fn memory(len: u64, seal: bool) -> OwnedFd {
    let fd = rustix::fs::memfd_create("hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
    let file = File::from(fd);
    file.set_len(len).expect("which has room");
    if seal {
        let _ = rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
    }
    file.into()
}

/// A message of any kind, or what is none.
fn message(input: &mut Input<'_>, path: &Path) -> Vec<u8> {
    let kind = input.u8();
    if kind >= 224 {
        return input.piece().to_vec();
    }
    let mut numbers = [0; 4];
    for number in &mut numbers {
        *number = match input.u8() {
            small @ 0..=99 => u64::from(small % 4),
            100..=179 => u64::from(input.u8()) << 12,
            180..=199 => 1 << 47,
            _ => input.u64(),
        };
    }
    let text = match input.u8() {
        0..=139 => path.as_os_str().as_encoded_bytes().to_vec(),
        140..=159 => b"/".to_vec(),
        160..=179 => b"/dev/null".to_vec(),
        180..=189 => vec![b'a'; 4096 + usize::from(input.u8() & 1)],
        _ => input.piece().to_vec(),
    };
    [plain(u64::from(kind % 14), numbers), text].concat()
}

fn plain(kind: u64, numbers: [u64; 4]) -> Vec<u8> {
    [kind].iter().chain(&numbers).flat_map(|number| number.to_ne_bytes()).collect()
}

/// What may come along with a message.
fn descriptors(input: &mut Input<'_>) -> Vec<OwnedFd> {
    let count = match input.u8() {
        0..=99 => 0,
        100..=229 => 1,
        many => many % 7,
    };
    (0..count)
        .filter_map(|_| match input.u8() % 4 {
            0 => Some(memory(4096, false)),
            1 => File::open("/dev/null").ok().map(OwnedFd::from),
            flags => userfaultfd(flags == 2),
        })
        .collect()
}

/// Takes in what was said, waiting for it for so many milliseconds.
fn hear(socket: &OwnedFd, milliseconds: i64) {
    let mut ready = [PollFd::new(socket, PollFlags::IN)];
    let patience = Duration::from_millis(milliseconds as u64);
    let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    let _ = poll(&mut ready, Some(&patience));
    let mut bytes = [0; 8192];
    while recv(socket, &mut bytes[..], RecvFlags::DONTWAIT).is_ok_and(|(_, len)| len > 0) {}
}

fn connect(path: &Path) -> Option<OwnedFd> {
    let socket = new_socket().ok()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).ok()?).ok()?;
    Some(socket)
}

fn listen(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = new_socket()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 4)?;
    Ok(socket)
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}
