//! The vfio-user protocol, with one honest end.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use stillwire_dma::{Access, Event, HugePages, PciFunction, SharedMemory};
use stillwire_emulator::ixgbe::{Config, Model};
use stillwire_emulator::server::Server;
use stillwire_emulator::wire::Loopback;

use crate::input::Input;

/// A server of a model, and a client that says anything.
pub fn server(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let model = Model::new(Config::default(), Box::new(Loopback::new()));
    let server = Server::bind(&path, model).expect("a socket in a new folder");
    std::thread::scope(|scope| {
        let serving = std::thread::Builder::new().name("server".into());
        let serving = serving.spawn_scoped(scope, || server.serve(true)).expect("a thread");
        if let Ok(stream) = UnixStream::connect(&path) {
            be_client(stream, &mut Input::new(bytes));
        }
        serving.join().expect("a server does not panic").expect("and its socket stays");
    });
}

fn be_client(mut stream: UnixStream, input: &mut Input<'_>) {
    let memory = memfd(1 << 16);
    // A server that does not answer is cut off; that it is alive is seen when its thread is joined.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    for _ in 0..64 {
        if !input.more() {
            break;
        }
        let (kind, fds) = (input.u8(), input.u8());
        let bytes = if kind < 16 { input.piece().to_vec() } else { request(kind, input) };
        let fds = vec![memory.as_fd(); if fds < 200 { usize::from(fds % 2) } else { usize::from(fds % 18) }];
        if send(&stream, &bytes, &fds).is_err() {
            break;
        }
        // What is answered so far.
        let _ = stream.set_nonblocking(true);
        let mut answer = [0; 1 << 16];
        while stream.read(&mut answer).is_ok_and(|count| count > 0) {}
        let _ = stream.set_nonblocking(false);
    }
    let _ = stream.shutdown(Shutdown::Write);
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

/// A request that could be one, its length with it.
fn request(kind: u8, input: &mut Input<'_>) -> Vec<u8> {
    let command = u16::from(kind) % 18;
    let body: Vec<u8> = match command {
        1 => [&[0, 0, 1, 0][..], if input.flag() { b"{\"capabilities\":{}}\0".as_slice() } else { input.piece() }]
            .concat(),
        // Maps and unmaps: lengths of whole pages get further.
        2 | 3 => {
            let mut body = [32u32.to_le_bytes(), u32::from(input.u8() & 7).to_le_bytes()].concat();
            for _ in 0..4 - command {
                let value = if input.flag() { u64::from(input.u8()) << 12 } else { input.u64() };
                body.extend(value.to_le_bytes());
            }
            body
        }
        5 => [[32, 0, 0, 0], [0; 4], u32::from(input.u8() % 12).to_le_bytes()]
            .concat()
            .into_iter()
            .chain([0; 20])
            .collect(),
        7 => [16, 0, u32::from(input.u8() % 7), 0].map(u32::to_le_bytes).concat(),
        8 => {
            let flags = input.one_of(&[0x24, 0x21, 0x22, 0x04, 0x20]);
            let (index, start) = (u32::from(input.u8() % 6), input.u32());
            let count = if input.flag() { u32::from(input.u8() % 20) } else { input.u32() };
            [20, flags, index, start, count].map(u32::to_le_bytes).concat()
        }
        9 | 10 => {
            let offset = if input.flag() { u64::from(input.u16()) } else { input.u64() };
            let (region, data) = (u32::from(input.u8() % 10), input.piece());
            let count = if input.flag() { data.len() as u32 } else { input.u32() };
            let head =
                [offset.to_le_bytes().to_vec(), region.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat();
            [head, data.to_vec()].concat()
        }
        _ => input.piece().to_vec(),
    };
    let len = if input.u8() < 240 { body.len() as u32 + 16 } else { input.u32() };
    let flags = if input.u8() < 200 { 0 } else { input.u32() };
    let head = [[1, 0], command.to_le_bytes()].concat();
    [head, [len, flags, 0].map(u32::to_le_bytes).concat(), body].concat()
}

/// A client of the driver's, and a server that answers as it should but for what the input changes.
pub fn client(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).expect("a socket in a new folder");
    std::thread::scope(|scope| {
        let mut input = Input::new(bytes);
        let uses = input.u8();
        scope.spawn(move || {
            if let Ok((stream, _)) = listener.accept() {
                be_server(stream, &mut input);
            }
        });
        if let Ok(function) = PciFunction::connect(&path) {
            use_function(&function, uses);
        }
    });
}

fn use_function(function: &PciFunction, uses: u8) {
    let _ = (function.identity(), function.capabilities(0x10), function.msix_vectors());
    for bar in 0..6 {
        if let Ok(registers) = function.registers(bar, 0x100) {
            let end = registers.len().min(u64::from(u32::MAX)) as u32 & !3;
            for at in [0, 0x40, 0x1000, 0x6000, end.wrapping_sub(4)] {
                if u64::from(at) + 4 <= registers.len() {
                    let _ = registers.read(at);
                    registers.write(at, 7);
                }
            }
        }
    }
    let events: Vec<_> = (0..uses % 20).filter_map(|_| Event::new().ok()).collect();
    let _ = function.set_msix(&events.iter().map(AsFd::as_fd).collect::<Vec<_>>());
    if let Ok(memory) = SharedMemory::new("hostile-client", 8192, HugePages::Never) {
        let access = if uses & 0x20 == 0 { Access::ReadOnly } else { Access::ReadWrite };
        drop(function.iommu().map(&memory, access));
    }
    let _ = (function.set_bus_master(true), function.reset(), function.set_bus_master(false));
}

/// All answers at once: a client reads them as it asks.
fn be_server(mut stream: UnixStream, input: &mut Input<'_>) {
    let memory = memfd(0x8000);
    let mut answers = Vec::new();
    let head = |command: u16, len: usize| {
        [[0, 0], command.to_le_bytes()].concat().into_iter().chain([len as u32, 1, 0].map(u32::to_le_bytes).concat())
    };
    let version = [&[0, 0, 1, 0], b"{\"capabilities\":{}}\0".as_slice()].concat();
    answers.push((head(1, 16 + version.len()).chain(version).collect::<Vec<u8>>(), false));
    answers.push((head(4, 32).chain([16, 3, 9, 5].map(u32::to_le_bytes).concat()).collect(), false));
    for index in 0..9u32 {
        // BAR 0 has two pages to be mapped.
        let (argsz, size, caps) = if index == 0 { (72, 0x8000u64, true) } else { (32, 0x1000, false) };
        let info = |argsz: u32, caps: bool| {
            let words = [argsz, if caps { 0xf } else { 3 }, index, if caps { 32 } else { 0 }];
            [words.map(u32::to_le_bytes).concat(), size.to_le_bytes().to_vec(), vec![0; 8]].concat()
        };
        answers.push((head(5, 48).chain(info(argsz, caps)).collect(), false));
        if caps {
            let areas = [0x1000u64, 0x1000, 0x6000, 0x1000].map(u64::to_le_bytes).concat();
            let list = [vec![1, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], areas].concat();
            answers.push((head(5, 48 + list.len()).chain(info(argsz, caps)).chain(list).collect(), true));
        }
    }
    // Whatever is asked afterwards is answered in the same way, which sometimes fits.
    for command in 0..input.u8() % 48 {
        let body: Vec<u8> = input.take(usize::from(input.clone().u8() % 24)).to_vec();
        answers.push((head(u16::from(command), 16 + body.len()).chain(body).collect(), false));
    }
    for _ in 0..input.u8() % 8 {
        let which = input.below(answers.len());
        let (answer, _) = &mut answers[which];
        let at = input.below(answer.len());
        answer[at] = input.u8();
    }
    let without = input.u8();
    for (answer, with_memory) in answers {
        let fds = vec![memory.as_fd(); usize::from(with_memory != (without == 0xff))];
        if send(&stream, &answer, &fds).is_err() {
            return;
        }
    }
    let _ = stream.write_all(input.rest());
    // Closed at both ends: a client must not wait for more.
}

fn send(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(20))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}

fn memfd(len: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
    let file = File::from(fd);
    file.set_len(len).expect("which has room");
    let _ = rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK);
    file.into()
}
