//! The models as carriers of a PCI function: in this process and over a socket, doorbells by page and by message.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stillwire_dma::{Access, HugePages, PciFunction, SharedMemory};
use stillwire_emulator::server::Server;
use stillwire_emulator::wire::Sink;
use stillwire_emulator::{BusMemory, Config, Doorbells, LocalDevice, Model};

/// Sends one frame from read-only memory and waits until its descriptor says done.
fn send(function: &PciFunction) {
    assert_eq!(function.capability(0x11).unwrap(), Some(0x70));
    assert_eq!(function.msix_vectors(), 64);
    function.enable_memory().unwrap();
    function.set_bus_master(true).unwrap();
    let registers = function.registers(0, 0x2_0000).unwrap();
    let ring = SharedMemory::new("ring", 4096, HugePages::Never).unwrap();
    let page = SharedMemory::new("page", 4096, HugePages::Never).unwrap();
    let ring_map = function.iommu().map(&ring, Access::ReadWrite).unwrap();
    let page_map = function.iommu().map(&page, Access::ReadOnly).unwrap();
    page.write_at(0, &[0xff; 60]);
    let base = ring_map.iova_of(0).unwrap().get();
    registers.write(0x4a80, registers.read(0x4a80) | 1);
    registers.write(0x6000, base as u32);
    registers.write(0x6004, (base >> 32) as u32);
    registers.write(0x6008, 1024);
    registers.write(0x6028, 1 << 25);
    ring.word64(0).store(page_map.iova_of(0).unwrap().get(), Ordering::Relaxed);
    ring.word64(8).store(60 | 3 << 20 | 0b0010_1011 << 24 | 60 << 46, Ordering::Release);
    stillwire_dma::fence::release_to_device();
    registers.register(0x6018).write(1);
    let deadline = Instant::now() + Duration::from_secs(60);
    while ring.word32(12).load(Ordering::Acquire) & 1 == 0 {
        assert!(Instant::now() < deadline, "no completion");
        std::thread::yield_now();
    }
    assert_eq!(registers.register(0x6010).read(), 1);
    // Quiet, by the proof that holds for pages too.
    registers.write(0, 1 << 2);
    while registers.read(8) & 1 << 19 != 0 {
        assert!(Instant::now() < deadline, "the device never comes to rest");
    }
    function.set_bus_master(false).unwrap();
}

/// Lets the device reach a file on a disk, by a descriptor that can only be read.
fn read_a_file(function: &PciFunction, device: &LocalDevice) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [7; 5000]).unwrap();
    let source = std::fs::File::open(file.path()).unwrap();
    let memory = SharedMemory::of_file(source, 5000, Access::ReadOnly).unwrap();
    assert!(function.iommu().map(&memory, Access::ReadWrite).is_err());
    let mapping = function.iommu().map(&memory, Access::ReadOnly).unwrap();
    let at = mapping.iova_of(4998).unwrap().get();
    let mut seen = [9; 4];
    device.memory().read(at, &mut seen).unwrap();
    assert_eq!(seen, [7, 7, 0, 0]);
    assert!(device.memory().write(at, &[1]).is_err());
}

#[test]
fn in_this_process() {
    for doorbells in [Doorbells::Mapped, Doorbells::Messages] {
        let sink = Sink::new();
        let device = LocalDevice::new(Model::new(Config { doorbells, ..Config::default() }, Box::new(sink.clone())));
        let _running = device.spawn();
        let function = PciFunction::from_backend(device.clone() as Arc<dyn stillwire_dma::Backend>);
        send(&function);
        read_a_file(&function, &device);
        assert_eq!(sink.report().frames, 1);
        assert!(device.memory().is_empty(), "unmapped when the mappings were dropped");
        assert_eq!(device.with_model(|model| model.counters().bus_faults), 0);
    }
}

#[test]
fn over_a_socket() {
    for doorbells in [Doorbells::Mapped, Doorbells::Messages] {
        let sink = Sink::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nic");
        let model = Model::new(Config { doorbells, ..Config::default() }, Box::new(sink.clone()));
        let server = Server::bind(&path, model).unwrap();
        let device = server.device().clone();
        let thread = std::thread::spawn(move || server.serve(true).unwrap());
        let function = PciFunction::connect(&path).unwrap();
        send(&function);
        read_a_file(&function, &device);
        drop(function);
        thread.join().unwrap();
        assert_eq!(sink.report().frames, 1);
        assert!(device.memory().is_empty());
    }
}
