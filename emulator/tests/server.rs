//! The model behind a vfio-user socket, with the protocol crate's own client.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use stillwire_dma::{HugePages, SharedMemory};
use stillwire_emulator::server::{Error, Server, Stopper};
use stillwire_emulator::wire::Sink;
use stillwire_emulator::{Config, Doorbells, LocalDevice, Model};
use vfio_user::Client;

const CONFIG: u32 = 7;

struct Rig {
    folder: tempfile::TempDir,
    device: std::sync::Arc<LocalDevice>,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
    sink: Sink,
}

impl Rig {
    fn new(doorbells: Doorbells, once: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sink = Sink::new();
        let model = Model::new(Config { doorbells, ..Config::default() }, Box::new(sink.clone()));
        let server = Server::bind(&folder.path().join("nic"), model).unwrap();
        let (device, stopper) = (server.device().clone(), server.stopper());
        let thread = Some(std::thread::spawn(move || server.serve(once).unwrap()));
        Self { folder, device, stopper, thread, sink }
    }

    fn client(&self) -> Client {
        Client::new(&self.folder.path().join("nic")).unwrap()
    }

    fn join(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn read(client: &mut Client, region: u32, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    client.region_read(region, offset, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn write(client: &mut Client, region: u32, offset: u64, value: u32) {
    client.region_write(region, offset, &value.to_le_bytes()).unwrap();
}

/// Waits for what must come; the deadline is only for when it does not.
fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !happened() {
        assert!(Instant::now() < deadline, "{what} does not happen");
        std::thread::yield_now();
    }
}

#[test]
fn identity_registers_regions_and_interrupts() {
    let rig = Rig::new(Doorbells::Mapped, false);
    let mut client = rig.client();
    assert_eq!(read(&mut client, CONFIG, 0), 0x10fb_8086);
    assert_eq!(read(&mut client, 0, 8), 0x0008_0000);
    assert_eq!(read(&mut client, 5, 8), 0);
    let bar0 = client.region(0).unwrap();
    assert_eq!(bar0.size, 512 << 10);
    let areas: Vec<_> = bar0.sparse_areas.iter().map(|area| (area.offset, area.size)).collect();
    assert_eq!(areas, [(0x1000, 4096), (0x6000, 4096)]);
    let file = bar0.file_offset.as_ref().expect("a file for the doorbells");
    assert_eq!(file.start(), 0);
    assert_eq!(client.region(4).unwrap().size, 16 << 10);
    assert_eq!((client.region(CONFIG).unwrap().size, client.region(8).unwrap().size), (256, 0));
    assert_eq!(client.get_irq_info(2).unwrap().count, 64);
    // D3 reads back; the way back to D0 resets.
    write(&mut client, CONFIG, 0x44, 3);
    assert_eq!(read(&mut client, CONFIG, 0x44) & 3, 3);
    write(&mut client, CONFIG, 0x44, 0);
    assert_eq!(read(&mut client, CONFIG, 0x44) & 3, 0);
    // A vector set over the socket fires.
    let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    client.set_irqs(2, 4 | 32, 3, 1, &[eventfd.as_raw_fd()]).unwrap();
    write(&mut client, 0, 0xaa0, 1 << 3);
    write(&mut client, 0, 0xa90, 1 << 3);
    until("the interrupt", || rustix::io::read(&eventfd, &mut [0; 8]).is_ok());
    client.set_irqs(2, 1 | 32, 0, 0, &[]).unwrap();
    write(&mut client, 0, 0xa90, 1 << 3);
    read(&mut client, 0, 8);
    assert!(rustix::io::read(&eventfd, &mut [0; 8]).is_err());
}

#[test]
fn maps_unmaps_and_what_was_never_mapped() {
    let rig = Rig::new(Doorbells::Messages, false);
    let mut client = rig.client();
    let memory = SharedMemory::new("test", 1 << 16, HugePages::Never).unwrap();
    let fd = memory.fd().as_raw_fd();
    client.dma_map(0, 0x10000, 0x8000, fd).unwrap();
    client.dma_map(0x8000, 0x18000, 0x8000, fd).unwrap();
    assert_eq!(rig.device.memory().len(), 2);
    client.dma_unmap(0x90_0000, 0x1000).unwrap();
    assert_eq!(rig.device.memory().len(), 2);
    // Over both, and over nothing on either side.
    client.dma_unmap(0x8000, 0x1_0000_0000).unwrap();
    assert!(rig.device.memory().is_empty());
    client.dma_map(0, 0x10000, 0x1000, fd).unwrap();
    client.dma_unmap(0x10000, 0u64.wrapping_sub(0x10000)).unwrap();
    assert!(rig.device.memory().is_empty());
    // A map that cannot be made is no error that QEMU would see, and no map.
    client.dma_map(0x10000, 0x10000, 0x1000, fd).unwrap();
    client.dma_map(u64::MAX, 0x10000, 0x1000, fd).unwrap();
    client.dma_map(0, u64::MAX, 0x1000, fd).unwrap();
    assert!(rig.device.memory().is_empty());
    // The client always asks for writing; the descriptor decides.
    let read_only = memory.read_only_fd().unwrap();
    client.dma_map(0, 0x10000, 0x1000, read_only.as_raw_fd()).unwrap();
    use stillwire_emulator::BusMemory;
    assert!(rig.device.memory().read(0x10000, &mut [0; 4]).is_ok());
    assert!(rig.device.memory().write(0x10000, &[0; 4]).is_err());
    // The same place again: the new map counts.
    client.dma_map(0, 0x10000, 0x1000, fd).unwrap();
    assert!(rig.device.memory().write(0x10000, &[7; 4]).is_ok());
    assert_eq!(memory.word32(0).load(Ordering::Acquire), 0x0707_0707);
}

#[test]
fn a_thousand_maps_of_one_file_take_one_map() {
    let rig = Rig::new(Doorbells::Messages, false);
    let mut client = rig.client();
    let memory = SharedMemory::new("test", 1000 << 12, HugePages::Never).unwrap();
    let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
    for page in 0..1000u64 {
        client.dma_map(page << 12, page << 13, 4096, memory.fd().as_raw_fd()).unwrap();
    }
    assert_eq!(rig.device.memory().len(), 1000);
    // Other tests run in this process: allow for theirs.
    assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() < before + 500);
}

fn send_a_frame(client: &mut Client, memory: &SharedMemory, store: impl Fn(&mut Client, u64, u32)) {
    client.dma_map(0, 0x10_0000, memory.len() as u64, memory.fd().as_raw_fd()).unwrap();
    client.region_write(CONFIG, 4, &6u16.to_le_bytes()).unwrap();
    write(client, 0, 0x4a80, 1);
    memory.write_at(0x1000, &[0xff; 60]);
    memory.word64(0).store(0x10_1000, Ordering::Relaxed);
    memory.word64(8).store(60 | 3 << 20 | 0b0010_1011 << 24 | 60 << 46, Ordering::Release);
    store(client, 0x6000, 0x10_0000);
    store(client, 0x6004, 0);
    store(client, 0x6008, 1024);
    store(client, 0x6010, 0);
    store(client, 0x6028, 1 << 25);
    store(client, 0x6018, 1);
    until("the descriptor's completion", || memory.word32(12).load(Ordering::Acquire) & 1 == 1);
}

#[test]
fn frames_go_out_by_message_and_by_page() {
    for doorbells in [Doorbells::Messages, Doorbells::Mapped] {
        let rig = Rig::new(doorbells, false);
        let mut client = rig.client();
        let memory = SharedMemory::new("test", 1 << 16, HugePages::Never).unwrap();
        if doorbells == Doorbells::Messages {
            send_a_frame(&mut client, &memory, |client, offset, value| write(client, 0, offset, value));
        } else {
            let file = client.region(0).unwrap().file_offset.as_ref().unwrap().file().try_clone().unwrap();
            send_a_frame(&mut client, &memory, |_, offset, value| {
                rustix::io::pwrite(file.as_fd(), &value.to_le_bytes(), offset).unwrap();
            });
        }
        assert_eq!(rig.sink.report().frames, 1);
    }
}

#[test]
fn the_next_client_finds_a_fresh_device() {
    let rig = Rig::new(Doorbells::Messages, false);
    let memory = SharedMemory::new("test", 1 << 16, HugePages::Never).unwrap();
    for round in 1..=2 {
        let mut client = rig.client();
        assert_eq!(read(&mut client, CONFIG, 4) & 0xffff, 0, "bus mastering is off");
        assert!(rig.device.memory().is_empty());
        assert_eq!((read(&mut client, 0, 0x4a80) & 1, read(&mut client, 0, 0x6028)), (0, 0));
        memory.word64(8).store(0, Ordering::Relaxed);
        send_a_frame(&mut client, &memory, |client, offset, value| write(client, 0, offset, value));
        assert_eq!(rig.sink.report().frames, round);
        if round == 2 {
            client.reset().unwrap();
            assert_eq!((read(&mut client, 0, 0x6028), read(&mut client, CONFIG, 4) & 4), (0, 0));
        }
    }
    until("the device is let go", || rig.device.memory().is_empty());
}

#[test]
fn a_client_that_speaks_nonsense_harms_only_itself() {
    use std::io::Write;
    let rig = Rig::new(Doorbells::Messages, false);
    for garbage in [&[0xff; 64][..], &[0, 0, 1, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[1]] {
        let mut stream = std::os::unix::net::UnixStream::connect(rig.folder.path().join("nic")).unwrap();
        let _ = stream.write_all(garbage);
    }
    assert_eq!(read(&mut rig.client(), CONFIG, 0), 0x10fb_8086);
}

/// What is asked for is not written: a reply of 1 GiB would be memory, and time with the model locked.
#[test]
fn a_read_that_is_too_long_is_an_error_and_no_reply_of_that_length() {
    use std::io::{Read, Write};
    let rig = Rig::new(Doorbells::Messages, false);
    let mut stream = std::os::unix::net::UnixStream::connect(rig.folder.path().join("nic")).unwrap();
    for (region, count) in [(0u32, 1u32 << 30), (CONFIG, (1 << 20) + 1), (6, 1 << 21)] {
        // "Region read" of 32 bytes, a command; then offset, region and count.
        let head = [9 << 16, 32, 0, 0].map(u32::to_le_bytes).concat();
        let access = [0, 0, region, count].map(u32::to_le_bytes).concat();
        stream.write_all(&[head, access].concat()).unwrap();
        let mut answer = [0; 16];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..12], [0, 0, 9, 0, 16, 0, 0, 0, 0x21, 0, 0, 0], "region {region}: an error, and no more");
    }
}

#[test]
fn stopping_cuts_the_client_off_and_removes_the_socket() {
    let mut rig = Rig::new(Doorbells::Mapped, false);
    let mut client = rig.client();
    assert_eq!(read(&mut client, CONFIG, 0), 0x10fb_8086);
    rig.stopper.stop();
    rig.join();
    assert!(client.region_read(CONFIG, 0, &mut [0; 4]).is_err());
    assert!(!rig.folder.path().join("nic").exists());
}

#[test]
fn once_means_one_client() {
    let mut rig = Rig::new(Doorbells::Messages, true);
    drop(rig.client());
    rig.join();
    assert!(!rig.folder.path().join("nic").exists());
}

#[test]
fn the_socket_is_ours_alone_and_only_a_dead_one_is_replaced() {
    let rig = Rig::new(Doorbells::Messages, false);
    let path = rig.folder.path().join("nic");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let model = || Model::new(Config::default(), Box::new(Sink::new()));
    assert!(matches!(Server::bind(&path, model()), Err(Error::InUse(_))));
    let file = rig.folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(Server::bind(&file, model()), Err(Error::NotASocket(_))));
    assert!(file.exists());
    let stale = rig.folder.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    drop(Server::bind(&stale, model()).unwrap());
    assert!(!stale.exists());
    let nowhere = Server::bind(std::path::Path::new("/nowhere/nic"), model()).err().unwrap().to_string();
    assert!(nowhere.contains("/nowhere/nic"), "{nowhere}");
}
