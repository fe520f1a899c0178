//! Registers and configuration space of the 82599 model, by number.

mod common;

use common::*;
use proptest::prelude::*;
use stillwire_dma::Backend;
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{Config, Doorbells, LocalDevice, Model};

#[test]
fn what_a_driver_sees_after_reset() {
    let rig = Rig::new(config(Doorbells::Messages));
    let check = |rig: &Rig| {
        let values = [
            (0x00008, 0x0008_0000), // STATUS
            (0x10010, 0x0000_3300), // EEC: present, auto-read done, 4096 words
            (0x10148, 0x8000),      // FWSM
            (0x10150, 0),           // FACTPS
            (0x02f00, 1 << 3),      // RDRXCTL: DMA initialisation done
            (0x08d04, 1),           // SECRXSTAT
            (0x08804, 1),           // SECTXSTAT
            (0x03000, 0),           // RXCTRL
            (0x04a80, 0x8100_0000), // DMATXCTL: VLAN ethertype
            (0x0a200, 0x0057_5302), // RAL0, from the EEPROM
            (0x0a204, 0x8000_0100), // RAH0, valid
            (0x05400, 0x0057_5302), // its alias
            (0x15f00, 0),           // HICR
            (0x0100c, 1 << 12),     // DCA_RXCTRL
            (0x06028, 0),           // TXDCTL
        ];
        for (offset, value) in values {
            assert_eq!(rig.read(offset), value, "{offset:#x}");
        }
    };
    check(&rig);
    assert_eq!(rig.read(0x42a4), 0, "no link before the first step");
    rig.step();
    assert_eq!(rig.read(0x42a4), 0x7000_0000);
    // Everything that was changed goes back, the address filter too; the reset bits clear themselves.
    for bit in [1 << 26, 1 << 3] {
        for offset in [0x5400, 0x5404, 0x4a80, 0x3000, 0x1000, 0x6000, 0x5200] {
            rig.write(offset, 0x5a5a_5a00);
        }
        rig.write(0, bit);
        assert_eq!(rig.read(0), 0);
        check(&rig);
        assert_eq!((rig.read(0x1000), rig.read(0x6000), rig.read(0x5200)), (0, 0, 0));
    }
}

#[test]
fn a_reset_stops_queues_and_forgets_frames() {
    let mut rig = Rig::running(config(Doorbells::Mapped));
    rig.device.with_model(|model| model.faults().stall_tx = true);
    let last = rig.post_udp(&[1; 64], true);
    rig.settle();
    assert!(rig.device.with_model(|model| model.dma_pending()));
    rig.write(CTRL, 1 << 26);
    assert!(!rig.device.with_model(|model| model.dma_pending()));
    assert_eq!((rig.read(TXDCTL), rig.read(TDT)), (0, 0));
    rig.device.with_model(|model| model.faults().stall_tx = false);
    let reads = rig.device.with_model(|model| model.counters().dma_reads);
    rig.settle();
    assert_eq!(rig.device.with_model(|model| model.counters().dma_reads), reads);
    assert!(!rig.done(last));
}

#[test]
fn backplane_parts_show_a_partner() {
    let rig = Rig::new(Config { device_id: 0x10f7, ..config(Doorbells::Messages) });
    rig.step();
    assert_eq!(rig.read(0x42a4), 0xf000_0000);
    assert_ne!(rig.read(0x42b0) & 0xf_0000, 0);
    assert_eq!(rig.read(0x42a0) >> 13 & 7, 4);
}

#[test]
fn the_eeprom_sums_to_baba() {
    let rig = Rig::new(config(Doorbells::Messages));
    let word = |at: u32| {
        rig.write(0x10014, at << 2 | 1);
        let answer = rig.read(0x10014);
        assert_eq!(answer & 3, 2, "done, and not busy");
        answer >> 16
    };
    assert_eq!((0..0x40).map(word).sum::<u32>() & 0xffff, 0xbaba);
}

#[test]
fn side_effects_of_single_registers() {
    let rig = Rig::new(config(Doorbells::Messages));
    // SWSM: reading takes the semaphore.
    assert_eq!((rig.read(0x10140) & 1, rig.read(0x10140) & 1), (0, 1));
    rig.write(0x10140, 2);
    assert_eq!((rig.read(0x10140), rig.read(0x10140)), (2, 3));
    rig.write(0x10140, 0);
    // MDIO: at once, and nobody is there.
    rig.write(0x425c, 1 << 30 | 3 << 26);
    assert_eq!((rig.read(0x425c) & 1 << 30, rig.read(0x4260) >> 16), (0, 0xffff));
    // I2C: at rest, the lines read back what was driven.
    for (driven, seen) in [(0xa, 0xf), (0x8, 0xc), (0x2, 0x3), (0, 0)] {
        rig.write(0x28, driven);
        assert_eq!(rig.read(0x28), seen);
    }
    rig.write(0xee00, 0x1);
    assert_ne!(rig.read(0xee00) & 8, 0, "FDIRCTRL.INIT_DONE");
    rig.write(0x20, 0);
    assert_ne!(rig.read(0x20) & 4, 0, "ESDP.SDP2: the cage is occupied");
    // Write-only and read-only.
    rig.write(0x8, 0xffff_ffff);
    assert_eq!(rig.read(0x8), 0x0008_0000);
    rig.write(0x888, 0xffff_ffff);
    assert_eq!(rig.read(0x888), 0);
}

#[test]
fn unknown_registers_read_zero_and_are_noted() {
    let rig = Rig::new(config(Doorbells::Messages));
    rig.write(0x1_9994, 7);
    assert_eq!(rig.read(0x1_9990), 0);
    assert_eq!(rig.read(0x4_0000), 0, "the flash");
    let unknown = rig.device.with_model(|model| model.unknown_registers().clone());
    assert!(unknown.contains(&0x1_9990) && unknown.contains(&0x1_9994) && unknown.contains(&0x4_0000));
}

#[test]
fn masks_vectors_and_causes() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let eventfd = || rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let fds = [eventfd(), eventfd(), eventfd()];
    let borrowed: Vec<_> = fds.iter().map(std::os::fd::AsFd::as_fd).collect();
    rig.device.set_msix(&borrowed).unwrap();
    let fired = |vector: usize| rustix::io::read(&fds[vector], &mut [0; 8]).is_ok();
    // Queue 0: receive on vector 1, transmit on vector 2, both valid.
    rig.write(0x900, 0x81 | 0x82 << 8);
    rig.post_udp(&[0; 64], true);
    rig.settle();
    assert!(!fired(1) && !fired(2), "masked");
    assert_eq!(rig.read(0x800) & 0xffff, 0b110, "EICR");
    assert_eq!(rig.read(0x800), 0, "cleared by reading");
    rig.write(0x880, 0b110);
    rig.post_udp(&[0; 64], true);
    rig.settle();
    assert!(fired(1) && fired(2) && !fired(0));
    // Automatic mask and clear.
    rig.write(0x898, 1 << 30);
    rig.write(0xad0, 0b010);
    rig.write(0x810, 0b010);
    rig.read(0x800);
    rig.post_udp(&[0; 64], true);
    rig.settle();
    assert!(fired(1) && fired(2));
    assert_eq!(rig.read(0x880) & 0xffff, 0b100);
    assert_eq!(rig.read(0x800) & 0xffff, 0b100);
    // By software, by the extended registers, and the link's cause.
    rig.write(0xaa0, 0b001);
    rig.write(0xa90, 0b011);
    assert!(fired(0) && !fired(1));
    rig.write(0xa00, 0x81 << 8);
    rig.write(0x880, 1 << 20);
    rig.device.with_model(|model| model.faults().link_down = true);
    rig.step();
    assert!(fired(1));
    assert_ne!(rig.read(0x800) & 1 << 20, 0);
    rig.write(0x888, 0xffff_ffff);
    assert_eq!(rig.read(0x880), 0);
}

#[test]
fn what_came_while_it_was_masked_fires_when_it_is_unmasked() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let eventfd = || rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let fds = [eventfd(), eventfd()];
    let borrowed: Vec<_> = fds.iter().map(std::os::fd::AsFd::as_fd).collect();
    rig.device.set_msix(&borrowed).unwrap();
    let fired = |vector: usize| rustix::io::read(&fds[vector], &mut [0; 8]).is_ok();
    // Receive on vector 0, everything that is no queue's on vector 1.
    rig.write(0x900, 0x80);
    rig.write(0xa00, 0x81 << 8);
    for unmask in [0x880, 0xaa0] {
        rig.post_udp(&[0; 64], true);
        rig.settle();
        assert!(!fired(0));
        rig.write(unmask, 1);
        assert!(fired(0), "{unmask:#x}");
        rig.write(0x888, 1);
        rig.write(unmask, 1);
        assert!(!fired(0), "once only");
        rig.write(0x888, 1);
    }
    // A cause that was cleared meanwhile has been served.
    rig.post_udp(&[0; 64], true);
    rig.settle();
    rig.read(0x800);
    rig.write(0x880, 1);
    assert!(!fired(0));
    rig.device.with_model(|model| model.faults().link_down = true);
    rig.step();
    assert!(!fired(1));
    rig.write(0x880, 1 << 20);
    assert!(fired(1));
    // EICS shows the causes without clearing them; a write to EICR does.
    assert_eq!((rig.read(0x808) & 1 << 20, rig.read(0x808) & 1 << 20), (1 << 20, 1 << 20));
    rig.write(0x800, 1 << 20);
    assert_eq!(rig.read(0x808) & 1 << 20, 0);
}

#[test]
fn function_level_reset_ends_everything() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.device.with_model(|model| model.faults().stall_tx = true);
    rig.post_udp(&[0; 64], true);
    rig.settle();
    rig.device.config_write(0xa8, &0x8000u16.to_le_bytes()).unwrap();
    let mut command = [0; 2];
    rig.device.config_read(4, &mut command).unwrap();
    assert_eq!((command, rig.read(TXDCTL)), ([0, 0], 0));
    assert!(!rig.device.with_model(|model| model.dma_pending()));
}

#[test]
fn accesses_of_other_sizes() {
    let rig = Rig::new(config(Doorbells::Messages));
    let mut bytes = [0; 8];
    rig.device.bar_read(0, 0xa200, &mut bytes).unwrap();
    assert_eq!(bytes, [0x02, 0x53, 0x57, 0, 0, 1, 0, 0x80]);
    let mut two = [0; 2];
    rig.device.bar_read(0, 0xa206, &mut two).unwrap();
    assert_eq!(two, [0, 0x80]);
    rig.device.bar_write(0, 0xa201, &[1, 2]).unwrap();
    assert_eq!(rig.read(0xa200), 0x0057_5302);
    assert_eq!(rig.device.with_model(|model| model.counters().odd_accesses), 1);
    assert!(rig.device.bar_read(0, (512 << 10) - 2, &mut [0; 4]).is_err());
    assert!(rig.device.bar_read(2, 0, &mut [0; 4]).is_err());
    assert!(rig.device.config_read(254, &mut [0; 4]).is_err());
    rig.device.bar_write(4, 0x10, &[9; 4]).unwrap();
    rig.device.bar_read(4, 0x10, &mut bytes[..4]).unwrap();
    assert_eq!(bytes[..4], [9; 4]);
}

#[test]
fn device_addresses_that_cannot_be_mapped() {
    let rig = Rig::new(config(Doorbells::Messages));
    let map = |iova| rig.device.dma_map(iova, &rig.memory, 0..4096, stillwire_dma::Access::ReadWrite);
    assert!(map(0xfee0_0000).is_err(), "where MSI is");
    assert!(map(0xfedf_f000 + 0x800).is_err());
    assert!(map(1 << 48).is_err());
    assert!(map(u64::MAX - 10).is_err());
    assert!(map(IOVA).is_err(), "there is something");
    assert!(map(0xfedf_f000).is_ok() && map(0xfef0_0000).is_ok() && map((1 << 48) - 4096).is_ok());
    assert!(rig.device.iova_ranges().iter().all(|range| !range.contains(&0xfee0_0000)));
}

/// Registers that a driver writes, so that random writes hit something often.
fn offsets() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0u64..32).prop_map(|i| 0x6000 + 4 * i),
        (0u64..32).prop_map(|i| 0x1000 + 4 * i),
        prop::sample::select(vec![
            0u64, 0x18, 0x800, 0x808, 0x880, 0x900, 0x2f00, 0x3000, 0x4240, 0x4268, 0x4a80, 0x5080, 0x5088, 0x5818,
            0x10014, 0x10140, 0x8600, 0x2300, 0x3c00, 0x5c00, 0x28, 0x425c, 0x4260, 0x4294, 0x3d00, 0x3200, 0x3220,
            0x3260, 0x10160, 0x15800, 0x15804, 0x15808, 0x15f00, 0xee80, 0x8130, 0x2fb0
        ]),
        0u64..0x2_0000,
        0u64..0x8_0000,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn hostile_register_writes(
        writes in prop::collection::vec((offsets(), any::<u32>(), any::<bool>()), 1..60),
        mapped: bool,
        device_id in prop::sample::select(vec![0x10fb_u16, 0x10f7, 0x1528, 0x1563]),
    ) {
        let doorbells = if mapped { Doorbells::Mapped } else { Doorbells::Messages };
        let mut rig = Rig::running(Config { device_id, ..config(doorbells) });
        rig.post_udp(&[5; 64], true);
        for (offset, value, step) in writes {
            if rig.in_page(offset & !3) {
                rig.write(offset & !3, value);
            } else {
                let _ = rig.device.bar_write(0, offset, &value.to_le_bytes());
                let _ = rig.device.bar_read(0, offset, &mut [0; 4]);
            }
            if step {
                rig.step();
            }
        }
        // A reset brings it back, whatever was done.
        rig.write(CTRL, 1 << 26);
        rig.bring_up();
        rig.post_udp(&[6; 64], true);
        rig.settle();
        prop_assert!(rig.done(2), "{:?}", rig.halts());
    }

    #[test]
    fn hostile_config_writes(writes in prop::collection::vec((any::<u16>(), any::<[u8; 4]>()), 1..60)) {
        let mut model = Model::new(Config::default(), Box::new(Loopback::new()));
        for (offset, bytes) in writes {
            model.config_write(offset % 300, &bytes);
            model.config_read(offset, &mut [0; 4]);
            model.bar_read((offset % 8) as u8, u64::MAX - u64::from(offset % 16), &mut [0; 8]);
            model.bar_write((offset % 8) as u8, u64::from(offset), &bytes);
        }
        let mut id = [0; 4];
        model.config_read(0, &mut id);
        prop_assert_eq!(u32::from_le_bytes(id), 0x10fb_8086);
    }

    #[test]
    fn garbage_from_the_wire(
        frames in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), 0u8..4), 1..40),
        device_id in prop::sample::select(vec![0x10fb_u16, 0x1563]),
        controls: [u32; 5],
    ) {
        let mut rig = Rig::running(Config { device_id, ..config(Doorbells::Messages) });
        // Everything is let in, RSS is on, flow control both ways, tags are looked at and stripped.
        for (offset, value) in [0x5818, 0x5088, 0x4294, 0x3d00, 0x3260].into_iter().zip(controls) {
            rig.write(offset, value);
        }
        rig.write(0x5080, 1 << 8 | 1 << 9 | 1 << 10);
        rig.write(RXDCTL, ENABLE | 1 << 30);
        for (mut frame, kind) in frames {
            // Some of it almost right, so that it gets further than the first look.
            let header: &[u8] = match kind {
                0 => &[],
                1 => &[0x01, 0x80, 0xc2, 0, 0, 1, 2, 2, 2, 2, 2, 2, 0x88, 0x08, 0, 1],
                2 => &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 2, 2, 2, 2, 2, 0x81, 0, 0, 5, 8, 0, 0x45],
                _ => &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 2, 2, 2, 2, 2, 0x86, 0xdd, 0x60],
            };
            frame.splice(..header.len().min(frame.len()), header.iter().copied());
            stillwire_emulator::Wire::transmit(&mut rig.wire.clone(), &frame);
            rig.settle();
            while rig.receive().is_some() {}
        }
        prop_assert!(rig.halts().is_empty(), "{:?}", rig.halts());
    }

    #[test]
    fn garbage_in_the_rings(
        tx in prop::collection::vec(any::<[u64; 2]>(), 63),
        rx in prop::collection::vec(any::<[u64; 2]>(), 63),
        shape in prop::collection::vec(0u8..4, 63),
        addresses in prop::collection::vec(0u64..0x11_0000, 63),
    ) {
        use std::sync::atomic::Ordering;
        let mut rig = Rig::running(config(Doorbells::Messages));
        for (i, ((words, kind), address)) in tx.into_iter().zip(shape).zip(addresses).enumerate() {
            // Some of it almost right, so that it gets further than the first look.
            let [_, high] = words;
            let almost = high & !(0x2f_0000_u64 << 4) & !(0xf << 20) | 1 << 29;
            rig.put(match kind {
                0 => words,
                1 => [words[0], almost | 2 << 20],
                2 => [IOVA + address, almost & !0x8_f000 | 3 << 20 | EOP | IFCS],
                _ => [IOVA + address, high & 0xff0f_00ff | 3 << 20 | 1 << 29],
            });
            rig.memory.word64(RX_RING + 16 * i).store(rx[i][0], Ordering::Relaxed);
            rig.memory.word64(RX_RING + 16 * i + 8).store(rx[i][1], Ordering::Relaxed);
        }
        rig.ring_bell();
        for _ in 0..4 {
            let mut wire = rig.wire.clone();
            stillwire_emulator::Wire::transmit(&mut wire, &[0xff; 60]);
        }
        rig.settle();
        rig.write(TXDCTL, 0);
        rig.write(RXDCTL, 0);
        rig.settle();
        prop_assert_eq!(rig.read(TXDCTL) & ENABLE, 0);
    }
}

#[test]
fn a_thread_steps_it_and_stops_when_dropped() {
    let mut rig = Rig::running(config(Doorbells::Mapped));
    let running = rig.device.spawn();
    let last = rig.post_udp(&[1; 100], true);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !rig.done(last) && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(rig.done(last));
    let device: std::sync::Weak<LocalDevice> = std::sync::Arc::downgrade(&rig.device);
    drop(running);
    drop(rig);
    assert!(device.upgrade().is_none(), "the thread held the device and is gone");
}
