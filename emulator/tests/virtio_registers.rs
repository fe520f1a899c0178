//! The virtio model's configuration space and registers.

mod virtio_common;

use std::time::Duration;

use stillwire_dma::Backend;
use stillwire_emulator::Doorbells;
use stillwire_emulator::virtio::{Config, Features};
use virtio_common::*;

fn without(features: Features) -> Features {
    split() - features
}

#[test]
fn both_banks_of_features_are_offered_as_configured() {
    let all = Rig::new(Config::default()).offered();
    // MAC, MTU, STATUS, CSUM, GUEST_CSUM, TSO4, TSO6, MRG_RXBUF, CTRL_VQ, CTRL_RX, MQ, CTRL_MAC_ADDR, indirect, event index.
    let low = 1 << 5 | 1 << 3 | 1 << 16 | 0b11 | 1 << 11 | 1 << 12 | 1 << 15 | 0b11 << 17 | 0b11 << 22 | 0b11 << 28;
    // VERSION_1, ACCESS_PLATFORM, RING_PACKED, IN_ORDER; HOST_USO.
    assert_eq!(all, low | 0xf << 32 | 1 << 56);
    let features = Features::VERSION_1 | Features::MAC;
    let rig = Rig::new(Config { features, ..Config::default() });
    assert_eq!(rig.offered(), 1 << 32 | 1 << 5);
    rig.write(0, 4, 2);
    assert_eq!((rig.read(4, 4), rig.read(18, 2)), (0, 2), "no third bank; one pair, no control queue");
}

#[test]
fn senseless_features_are_refused() {
    let tso = Features::HOST_TSO4 | Features::HOST_TSO6 | Features::HOST_USO;
    let control = Features::MQ | Features::CTRL_RX | Features::CTRL_MAC_ADDR;
    for (features, good) in [
        (split(), true),
        (packed(), true),
        (without(tso | Features::CSUM), true),
        (without(control | Features::CTRL_VQ), true),
        (Features::VERSION_1 | Features::ACCESS_PLATFORM, true),
        (without(Features::CSUM), false),
        (without(Features::CSUM | tso) | Features::HOST_USO, false),
        (without(Features::CTRL_VQ), false),
        (without(control | Features::CTRL_VQ) | Features::MQ, false),
        (without(Features::VERSION_1), false),
        (without(Features::ACCESS_PLATFORM), false),
        (Features::from_bits_retain(split().bits() | 1 << 24), false),
        (Features::from_bits_retain(split().bits() | 1 << 63), false),
    ] {
        let mut rig = Rig::new(Config::default());
        assert_eq!(rig.negotiate(features), good, "{features:?}");
        assert_eq!(rig.complaints().is_empty(), good, "{features:?}");
        assert_eq!(rig.status(), if good { 11 } else { 3 });
        // Without agreement there is no work.
        rig.write(STATUS, 1, 15);
        assert_eq!(rig.status() & 4 != 0, good);
    }
    let features = Features::all() - Features::ACCESS_PLATFORM;
    let mut rig = Rig::new(Config { features, ..Config::default() });
    assert!(rig.negotiate(without(Features::ACCESS_PLATFORM)), "what is not offered need not be accepted");
    assert!(!rig.negotiate(split()));
}

#[test]
fn a_reset_forgets_everything_at_once() {
    for doorbells in [Doorbells::Mapped, Doorbells::Messages] {
        let config = Config { doorbells, transmit_delay: Duration::from_secs(1), ..Config::default() };
        let mut rig = Rig::watched(config, split());
        rig.command(&[1, 1, 2, 3, 4, 5, 6, 7]);
        rig.send(Header::default(), &udp(&[7; 100], (7, 9)));
        rig.settle();
        assert!(rig.device.with_model(|model| model.dma_pending()));
        rig.write(STATUS, 1, 0);
        assert_eq!(rig.status(), 0);
        let reads = rig.counters().dma_reads;
        rig.wait(Duration::from_secs(2));
        assert_eq!((rig.counters().dma_reads, rig.drain().len()), (reads, 0), "no DMA after the answer");
        rig.write(SELECT, 2, 1);
        let queue = [(QUEUE_SIZE, 256), (VECTOR, 0xffff), (ENABLE, 0), (30, 1)];
        queue.iter().for_each(|(offset, value)| assert_eq!(rig.read(*offset, 2), *value, "{offset}"));
        assert_eq!((rig.read(32, 4), rig.read(36, 4), rig.read(0x2000, 4)), (0, 0, 0x0057_5302));
        // And it works again.
        rig.bring_up(packed());
        assert_eq!(rig.status(), 15);
    }
}

#[test]
fn a_function_level_reset_also_shuts_the_bus() {
    let mut rig = Rig::running(Config::default(), split());
    rig.device.config_write(0x54 + 8, &0x8000u16.to_le_bytes()).unwrap();
    let mut command = [0; 2];
    rig.device.config_read(4, &mut command).unwrap();
    assert_eq!((command, rig.status()), ([0; 2], 0));
    let events: Vec<String> =
        rig.device.with_model(|model| model.events().map(|(event, _)| event.to_string()).collect());
    assert!(events.ends_with(&["bus master off, nothing queued".into(), "function-level reset".into()]), "{events:?}");
    rig.ring_bell(1, 1);
    assert!(!rig.step());
}

#[test]
fn without_bus_mastering_nothing_is_read() {
    let mut rig = Rig::running(Config::default(), split());
    rig.settle();
    let reads = rig.counters().dma_reads;
    rig.master(false);
    rig.send(Header::default(), &udp(&[7; 100], (7, 9)));
    rig.settle();
    assert_eq!((rig.counters().dma_reads, rig.counters().gated), (reads, 0));
    rig.master(true);
    rig.settle();
    assert_eq!(rig.used(1).len(), 1);
    rig.at_peace();
}

#[test]
fn the_report_says_whether_work_was_left() {
    for (transmit_delay, event) in
        [(Duration::ZERO, "bus master off, nothing queued"), (Duration::from_secs(1), "bus master off, work queued")]
    {
        let mut rig = Rig::watched(Config { transmit_delay, ..Config::default() }, split());
        rig.fill(0, 4, RX_BUFFER);
        rig.send(Header::default(), &udp(&[7; 100], (7, 9)));
        rig.settle();
        rig.master(false);
        rig.device.with_model(|model| model.note_unmapped(1));
        let report = rig.device.with_model(|model| stillwire_emulator::report(model, rig.device.memory()));
        for line in [
            &format!("event 1 {event}"),
            "event 1 unmapped, bus master off",
            "counter bus_faults 0",
            "register 0x00014 implemented reads 2 writes 5 device_status: ",
        ] {
            assert!(report.lines().any(|found| found == line), "{line} is not in:\n{report}");
        }
    }
}

#[test]
fn queue_registers_take_what_a_ring_can_be() {
    let mut rig = Rig::new(Config::default());
    rig.negotiate(split());
    assert_eq!(rig.read(18, 2), 9);
    rig.write(SELECT, 2, 9);
    assert_eq!((rig.read(QUEUE_SIZE, 2), rig.read(VECTOR, 2)), (0, 0xffff), "no such queue");
    rig.write(SELECT, 2, 3);
    for wrong in [0, 3, 100, 512, 0xffff] {
        rig.write(QUEUE_SIZE, 2, wrong);
        assert_eq!(rig.read(QUEUE_SIZE, 2), 256, "{wrong}");
    }
    rig.write(QUEUE_SIZE, 2, 8);
    assert_eq!(rig.read(QUEUE_SIZE, 2), 8);
    for (vector, answer) in [(63, 63), (64, 0xffff), (5, 5), (0xffff, 0xffff)] {
        rig.write(VECTOR, 2, vector);
        rig.write(16, 2, vector);
        assert_eq!((rig.read(VECTOR, 2), rig.read(16, 2)), (answer, answer));
    }
    for (offset, value) in [(32, 0x1000), (36, 7), (40, 0x2000), (44, 8), (48, 0x3000), (52, 9)] {
        rig.write(offset, 4, value);
        assert_eq!(rig.read(offset, 4), value);
    }
    rig.write(ENABLE, 2, 1);
    rig.write(QUEUE_SIZE, 2, 16);
    rig.write(ENABLE, 2, 0);
    assert_eq!((rig.read(QUEUE_SIZE, 2), rig.read(ENABLE, 2)), (8, 1));
    assert_eq!(rig.complaints().len(), 2, "{:?}", rig.complaints());
    // A packed ring may have any size.
    rig.negotiate(packed());
    rig.write(SELECT, 2, 3);
    rig.write(QUEUE_SIZE, 2, 100);
    assert_eq!(rig.read(QUEUE_SIZE, 2), 100);
}

#[test]
fn a_ring_that_is_not_aligned_ends_the_device() {
    for (features, offset, address) in
        [(split(), 32, 8), (split(), 40, 1), (split(), 48, 2), (packed(), 32, 8), (packed(), 40, 2), (packed(), 48, 2)]
    {
        let mut rig = Rig::new(Config::default());
        rig.negotiate(features);
        rig.write(SELECT, 2, 0);
        for place in [32, 40, 48] {
            rig.write(place, 4, 0x10_0000 + if place == offset { address } else { 0 });
        }
        rig.write(ENABLE, 2, 1);
        assert_eq!((rig.read(ENABLE, 2), rig.status() & NEEDS_RESET), (0, NEEDS_RESET), "{offset}");
        assert_eq!(rig.halts().len(), 1);
    }
}

#[test]
fn only_a_fields_own_width_is_answered() {
    let rig = Rig::new(Config::default());
    let before = rig.counters().odd_accesses;
    let odd = [(0, 2), (16, 4), (20, 4), (20, 2), (21, 4), (24, 4), (32, 2), (33, 1), (19, 1), (56, 4), (0x1001, 1)];
    for (i, (offset, len)) in (1..).zip(odd) {
        assert_eq!(rig.read(offset, len), 0, "{offset} {len}");
        assert_eq!(rig.counters().odd_accesses, before + i, "{offset} {len}");
    }
    let mut eight = [9; 8];
    rig.device.bar_read(4, 32, &mut eight).unwrap();
    assert_eq!(eight, [0; 8]);
    rig.write(STATUS, 2, 1);
    rig.write(18, 2, 1);
    rig.write(0x2000, 1, 1);
    assert_eq!((rig.status(), rig.read(18, 2), rig.counters().odd_accesses), (0, 9, before + 15));
    // The device's own configuration answers any width.
    assert_eq!((rig.read(0x2000, 1), rig.read(0x2004, 2), rig.read(0x2008, 4)), (2, 0x0101, 1500 << 16 | 4));
}

#[test]
fn the_status_machine_lets_nobody_skip() {
    let mut rig = Rig::new(Config::default());
    rig.write(STATUS, 1, 7);
    assert_eq!(rig.status(), 3);
    rig.negotiate(split());
    rig.write(12, 4, 0);
    rig.write(STATUS, 1, 8);
    assert_eq!(rig.status(), 11, "bits do not go away");
    rig.ring_bell(1, 1);
    rig.step();
    let complaints = rig.complaints();
    for part in ["DRIVER_OK without", "changed after", "cleared without", "before DRIVER_OK"] {
        assert!(complaints.iter().any(|text| text.contains(part)), "{part}: {complaints:?}");
    }
}

#[test]
fn link_changes_are_told() {
    let mut rig = Rig::running(Config::default(), split());
    rig.write(16, 2, 9);
    rig.settle();
    assert_eq!(rig.read(0x2006, 2), 1);
    let (generation, interrupts) = (rig.read(GENERATION, 1), rig.counters().interrupts);
    rig.read(0x1000, 1);
    rig.device.with_model(|model| model.faults().link_down = true);
    rig.settle();
    assert_eq!(rig.read(0x2006, 2), 0);
    assert_eq!((rig.read(GENERATION, 1), rig.counters().interrupts), (generation + 1, interrupts + 1));
    assert_eq!((rig.read(0x1000, 1), rig.read(0x1000, 1)), (2, 0), "reading clears");
    // Nothing is sent, and what was posted is kept.
    rig.send(Header::default(), &udp(&[7; 100], (7, 9)));
    rig.settle();
    assert_eq!(rig.used(1).len(), 0);
    rig.device.with_model(|model| model.faults().link_down = false);
    rig.settle();
    assert_eq!(rig.used(1).len(), 1);
}

#[test]
fn a_doorbell_says_its_own_queue() {
    for doorbells in [Doorbells::Mapped, Doorbells::Messages] {
        let mut rig = Rig::running(Config { doorbells, ..Config::default() }, split());
        rig.settle();
        assert!(rig.complaints().is_empty());
        rig.ring_bell(1, 0);
        rig.step();
        assert_eq!(rig.complaints(), ["a doorbell was rung with the index of another queue"]);
    }
}

#[test]
fn configuration_space_reaches_the_bars() {
    let rig = Rig::new(Config::default());
    let set = |at: u16, value: u32| rig.device.config_write(0xD4 + at, &value.to_le_bytes()).unwrap();
    let window = |len: usize| {
        let mut bytes = [0; 4];
        rig.device.config_read(0xD4 + 16, &mut bytes[..len]).unwrap();
        u32::from_le_bytes(bytes)
    };
    set(4, 4);
    set(8, 18);
    set(12, 2);
    assert_eq!(window(2), 9);
    set(8, 20);
    set(12, 1);
    rig.device.config_write(0xD4 + 16, &[1]).unwrap();
    assert_eq!((window(1), rig.status()), (1, 1));
    // No such BAR, or no such length: nothing happens.
    set(4, 2);
    rig.device.config_write(0xD4 + 16, &[3]).unwrap();
    set(4, 4);
    for width in [3, 8] {
        set(12, width);
        rig.device.config_write(0xD4 + 16, &[3, 0, 0, 0]).unwrap();
        window(4);
    }
    assert_eq!((rig.status(), rig.counters().odd_accesses), (1, 0));
}

#[test]
fn what_cannot_be_modelled_is_refused() {
    for config in [
        Config { pairs: 0, ..Config::default() },
        Config { pairs: 17, ..Config::default() },
        Config { queue_size: 100, ..Config::default() },
        Config { queue_size: 0, ..Config::default() },
    ] {
        let wire = Box::new(stillwire_emulator::wire::Loopback::new());
        let error = stillwire_emulator::virtio::Model::new(config, wire).err().unwrap();
        assert!(error.to_string().contains("1 to 16 queue pairs"), "{error}");
    }
}

#[test]
fn over_a_socket_the_doorbells_are_a_page() {
    use std::os::fd::AsRawFd;
    use stillwire_dma::{HugePages, SharedMemory};
    use stillwire_emulator::server::Server;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nic");
    let wire = Box::new(stillwire_emulator::wire::Sink::new());
    let model = stillwire_emulator::virtio::Model::new(Config::default(), wire).unwrap();
    let server = Server::bind(&path, model).unwrap();
    let thread = std::thread::spawn(move || server.serve(true).unwrap());
    let mut client = vfio_user::Client::new(&path).unwrap();
    let bar = client.region(4).unwrap();
    let areas: Vec<_> = bar.sparse_areas.iter().map(|area| (area.offset, area.size)).collect();
    assert_eq!((bar.size, areas), (16 << 10, vec![(0x3000, 4096)]));
    let doorbells = bar.file_offset.as_ref().unwrap().file().try_clone().unwrap();
    assert_eq!((client.region(0).unwrap().size, client.get_irq_info(2).unwrap().count), (16 << 10, 64));
    // One command, from the page's bell to its answer.
    let memory = SharedMemory::new("test", 1 << 16, HugePages::Never).unwrap();
    client.dma_map(0, 0x10_0000, 1 << 16, memory.fd().as_raw_fd()).unwrap();
    client.region_write(7, 4, &6u16.to_le_bytes()).unwrap();
    let mut write = |offset: u64, bytes: &[u8]| client.region_write(4, offset, bytes).unwrap();
    let features = Features::VERSION_1 | Features::ACCESS_PLATFORM | Features::CTRL_VQ | Features::CTRL_RX;
    for bank in [0u32, 1] {
        write(8, &bank.to_le_bytes());
        write(12, &((features.bits() >> (32 * bank)) as u32).to_le_bytes());
    }
    write(20, &[11]);
    write(22, &2u16.to_le_bytes());
    write(24, &8u16.to_le_bytes());
    for (offset, address) in [(32, 0x10_0000u32), (40, 0x10_1000), (48, 0x10_2000)] {
        write(offset, &address.to_le_bytes());
    }
    write(28, &1u16.to_le_bytes());
    write(20, &[15]);
    memory.write_at(0x3000, &[0, 0, 1]);
    memory.write_at(0x4000, &[9]);
    for (at, value) in [(0, 0x10_3000u64), (8, 3 | 1 << 32 | 1 << 48), (16, 0x10_4000), (24, 1 | 2 << 32)] {
        memory.word64(at).store(value, std::sync::atomic::Ordering::Relaxed);
    }
    memory.word32(0x1000).store(1 << 16, std::sync::atomic::Ordering::SeqCst);
    rustix::io::pwrite(&doorbells, &2u16.to_le_bytes(), 0x3008).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while memory.word32(0x2000).load(std::sync::atomic::Ordering::Acquire) >> 16 == 0 {
        assert!(std::time::Instant::now() < deadline, "no answer");
        std::thread::yield_now();
    }
    let mut answer = [9];
    memory.read_at(0x4000, &mut answer);
    assert_eq!(answer, [0]);
    drop(client);
    thread.join().unwrap();
}
