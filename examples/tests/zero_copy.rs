//! The bytes on the wire are read from the cache's own pages, at the addresses the hold names.

use stillwire_dma::{Payload, PciFunction, Segment};
use stillwire_driver::{Frame, Nic, Offload, Posted};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{BusMemory, Config, LocalDevice, Model};
use stillwire_filecache::{Cache, Hold};

#[test]
fn the_rings_payload_descriptors_are_the_holds_segments() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let bytes: Vec<u8> = (0..300_000u32).map(|i| (i / 7) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();

    let device = LocalDevice::new(Model::new(Config::default(), Box::new(Loopback::new())));
    let function = PciFunction::from_backend(device.clone());
    let running = device.spawn();
    let nic = Nic::open(function.clone(), stillwire_driver::Config::default()).unwrap();
    let mut tx = nic.tx_queue::<Hold>().unwrap();
    drop(running);

    let cache = Cache::new(stillwire_filecache::Config { bytes: 4 << 20, ..Default::default() }).unwrap();
    cache.attach_to(function.iommu()).unwrap();
    let file = cache.open(&path).unwrap();
    let registers = function.registers(0, 0x2_0000).unwrap();
    let ring = u64::from(registers.read(0x6000)) | u64::from(registers.read(0x6004)) << 32;
    let descriptor = |index: u64| -> (u64, u32, bool) {
        let mut words = [0; 16];
        device.memory().read(ring + index * 16, &mut words).unwrap();
        let word = |at: usize| u64::from_le_bytes(words[at..at + 8].try_into().unwrap());
        // The context descriptor has type 2, data has type 3 (bits 20..24 of the second word).
        (word(0), (word(8) & 0xffff) as u32, word(8) >> 20 & 0xf == 3)
    };

    let mut index = 0;
    // Within a page, across a page border, at the file's end, and a single byte.
    for range in [100..1500, 4000..5400, 298_600..300_000, 77_777..77_778] {
        let hold = file.hold(range.clone()).unwrap();
        let mut expect: Vec<Segment> = Vec::new();
        hold.segments(0..hold.len(), |segment| expect.push(segment));
        assert_eq!(expect.iter().map(|segment| u64::from(segment.len)).sum::<u64>(), range.end - range.start);

        let header = [0x45; 42];
        let posted = tx.post(Frame::new(&header).offload(Offload::UDP_V4).payload(hold)).unwrap();
        assert!(matches!(posted, Posted::Queued));
        tx.publish();

        if !descriptor(index).2 {
            index += 1;
        }
        let (_, len, _) = descriptor(index);
        assert_eq!(len, 42, "the header goes first");
        index += 1;
        let mut on_the_wire = Vec::new();
        for segment in expect {
            let (address, len, _) = descriptor(index);
            assert_eq!((address, len), (segment.iova.get(), segment.len), "{range:?}");
            index += 1;
            // And what the device finds there is the file.
            let mut part = vec![0; len as usize];
            device.memory().read(address, &mut part).unwrap();
            on_the_wire.extend(part);
        }
        assert_eq!(on_the_wire, bytes[range.start as usize..range.end as usize]);
    }

    // Those addresses are the cache's pages, not a copy of them: a byte changed there is changed for the device.
    let hold = file.hold(0..1).unwrap();
    let mut first = None;
    hold.segments(0..1, |segment| first = Some(segment.iova.get()));
    drop(hold);
    // The frames were never sent; stopping the device gives their holds back, or the store below would wait for ever.
    drop(tx);
    let view = file.view().unwrap();
    view.write_at(0, &[0xa5]).unwrap();
    let mut byte = [0];
    device.memory().read(first.unwrap(), &mut byte).unwrap();
    assert_eq!(byte, [0xa5]);
}

#[test]
fn the_device_may_not_write_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, [1; 10]).unwrap();
    let device = LocalDevice::new(Model::new(Config::default(), Box::new(Loopback::new())));
    let function = PciFunction::from_backend(device.clone());
    let cache = Cache::new(stillwire_filecache::Config { bytes: 1 << 20, ..Default::default() }).unwrap();
    cache.attach_to(function.iommu()).unwrap();
    let hold = cache.open(&path).unwrap().hold(0..10).unwrap();
    let mut address = 0;
    hold.segments(0..10, |segment| address = segment.iova.get());
    assert!(device.memory().write(address, &[2; 4]).is_err(), "a write to a held page is a bus fault");
    assert_eq!(hold.chunks().next(), Some(&[1; 10][..]));
}
