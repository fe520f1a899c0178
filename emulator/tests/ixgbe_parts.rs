//! What tells the members of the family apart: PHY, cage, firmware, semaphores, by number.

mod common;

use common::*;
use stillwire_emulator::ixgbe::{Module, Part, SUPPORTED};
use stillwire_emulator::{Config, Doorbells};

fn part(device_id: u16) -> Rig {
    Rig::new(Config { device_id, ..config(Doorbells::Messages) })
}

/// A register of the PHY at `address`, clause 45: an address cycle, then a read.
fn phy_read(rig: &Rig, address: u32, mmd: u32, register: u32) -> u32 {
    let place = register | mmd << 16 | address << 21;
    rig.write(0x425c, place | 1 << 30);
    rig.write(0x425c, place | 3 << 26 | 1 << 30);
    assert_eq!(rig.read(0x425c) & 1 << 30, 0, "the command is done");
    rig.read(0x4260) >> 16
}

fn phy_write(rig: &Rig, mmd: u32, register: u32, value: u32) {
    let place = register | mmd << 16;
    rig.write(0x4260, value);
    rig.write(0x425c, place | 1 << 30);
    rig.write(0x425c, place | 1 << 26 | 1 << 30);
}

#[test]
fn every_supported_id_is_its_own() {
    for (id, wanted, name) in SUPPORTED {
        let rig = part(*id);
        let mut word = [0; 4];
        stillwire_dma::Backend::config_read(&*rig.device, 0, &mut word).unwrap();
        assert_eq!(u32::from_le_bytes(word), u32::from(*id) << 16 | 0x8086, "{name}");
        assert_eq!(Part::of(*id), Some(*wanted));
        rig.step();
        assert_eq!(rig.read(0x42a4) & 0x7000_0000, 0x7000_0000, "{name}: 10 Gb/s");
        let packet_buffer = if matches!(wanted, Part::X540 | Part::X550) { 384 } else { 512 };
        assert_eq!(rig.read(0x3c00), packet_buffer << 10, "{name}");
        // What Linux waits for when it restarts the link of a fibre or backplane part.
        assert_ne!(rig.read(0x42b0) & 0xf_0000, 0, "{name}: autonegotiation has left its first state");
        let dca = [rig.read(0x100c), rig.read(0x1fcc)];
        assert_eq!(dca, if *wanted == Part::X550 { [0; 2] } else { [1 << 12; 2] }, "{name}: DCA_RXCTRL");
    }
    assert_eq!(Part::of(0x1572), None);
}

#[test]
fn a_copper_phy_answers_on_mdio() {
    for (id, low) in [(0x1528, 0x0200), (0x1563, 0x0220)] {
        let rig = part(id);
        rig.step();
        assert_eq!((phy_read(&rig, 0, 1, 2), phy_read(&rig, 0, 1, 3)), (0x0154, low));
        assert_eq!(phy_read(&rig, 0, 1, 4), 0x31, "10G, 1G, 100M");
        assert_eq!(phy_read(&rig, 0, 1, 8) >> 14, 0b10, "a device responds");
        assert_eq!(phy_read(&rig, 0, 1, 5) & 0x9a, 0x9a, "PMA, PCS, PHY XS, autonegotiation");
        assert_eq!(phy_read(&rig, 0, 7, 1) & 0x24, 0x24, "negotiated, link");
        assert_eq!(phy_read(&rig, 0, 7, 0xc800), 7);
        // What is written reads back; what starts something clears itself.
        phy_write(&rig, 7, 0x20, 0x0181);
        assert_eq!(phy_read(&rig, 0, 7, 0x20), 0x0181);
        phy_write(&rig, 7, 0, 0x1200);
        assert_eq!(phy_read(&rig, 0, 7, 0), 0x1000);
        phy_write(&rig, 4, 0, 0x8000);
        assert_eq!(phy_read(&rig, 0, 4, 0), 0);
        // Nobody at another address, and in an MMD that is not there.
        assert_eq!((phy_read(&rig, 1, 1, 2), phy_read(&rig, 0, 2, 2)), (0xffff, 0xffff));
        rig.device.with_model(|model| model.faults().link_down = true);
        rig.step();
        assert_eq!((phy_read(&rig, 0, 7, 1) & 0x24, phy_read(&rig, 0, 7, 0xc800)), (0, 0));
    }
    assert_eq!(phy_read(&part(0x10fb), 0, 1, 2), 0xffff, "an 82599 has none");
}

#[test]
fn the_register_semaphore_is_taken_by_reading() {
    for (id, takes) in [(0x10fb, false), (0x10f7, false), (0x1528, true), (0x1563, true)] {
        let rig = part(id);
        let seen = [rig.read(0x10160), rig.read(0x10160)];
        assert_eq!(seen, [0, if takes { 1 << 31 } else { 0 }], "{id:#x}");
        rig.write(0x10160, 0x0001);
        assert_eq!(rig.read(0x10160), 1, "{id:#x}: a bit taken, the semaphore given back");
    }
}

/// One command to the firmware, by the rules of the host interface.
fn command(rig: &Rig, words: &[u32]) -> bool {
    if rig.read(0x15f00) & 1 == 0 {
        return false;
    }
    for (i, word) in words.iter().enumerate() {
        rig.write(0x15800 + 4 * i as u64, *word);
    }
    rig.write(0x15f00, 0b11);
    let hicr = rig.read(0x15f00);
    hicr & 0b10 == 0 && hicr & 0b100 != 0
}

#[test]
fn an_x550s_firmware_reads_the_eeprom() {
    let rig = part(0x1563);
    let by_register = |at: u32| {
        rig.write(0x10014, at << 2 | 1);
        rig.read(0x10014) >> 16
    };
    let read = |at: u32, count: u16| {
        let header = 0x31 | 6 << 16 | 0xff << 24;
        assert!(command(&rig, &[header, (2 * at).swap_bytes(), u32::from((2 * count).swap_bytes()), 0]));
        let answer: Vec<u32> = (0..u64::from(count)).step_by(2).map(|i| rig.read(0x1580c + 2 * i)).collect();
        answer.iter().flat_map(|two| [two & 0xffff, two >> 16]).take(count.into()).collect::<Vec<_>>()
    };
    assert_eq!(read(0, 1), [by_register(0)]);
    let all = read(0, 0x42);
    assert_eq!(all, (0..0x42).map(by_register).collect::<Vec<_>>());
    // The X550's rule: words 0 to 0x41 but for the sum itself; no section is there.
    let sum: u32 = all.iter().enumerate().filter(|(at, _)| *at != 0x3f).map(|(_, word)| word).sum();
    assert_eq!((sum + all[0x3f]) & 0xffff, 0xbaba);
    assert!((3..0xf).all(|pointer| all[pointer] == 0xffff));
    assert_eq!(read(4090, 10)[6..], [0xffff; 4], "beyond the end");
}

#[test]
fn other_commands_of_the_firmware() {
    let mut rig = part(0x1563);
    rig.bring_up();
    assert_eq!(rig.read(0x3000) & 1, 1);
    assert!(command(&rig, &[0xde | 1 << 8, 0]));
    assert_eq!((rig.read(0x3000) & 1, rig.read(0x15800) >> 16 & 0x1f), (0, 1), "receiving is off, and it is said");
    assert!(command(&rig, &[0xdd, 0, 0]));
    assert_eq!(rig.read(0x15800), 0xff01_00dd);
    assert!(command(&rig, &[0x77]));
    assert_ne!(rig.read(0x15800) >> 16 & 0x1f, 1, "unknown");
    let complaints = rig.device.with_model(|model| model.complaints().clone());
    assert!(complaints.iter().any(|text| text.contains("does not know")), "{complaints:?}");
    for id in [0x10fb, 0x1528] {
        assert!(!command(&part(id), &[0xdd, 0, 0]), "{id:#x}: nobody listens");
    }
}

/// A byte of the module, bit by bit as a driver moves the lines.
fn module_byte(rig: &Rig, offset: u8) -> Option<u8> {
    let lines = |clock: u32, data: u32| rig.write(0x28, clock << 1 | data << 3);
    let start = || [(0, 1), (1, 1), (1, 0), (0, 0)].into_iter().for_each(|(clock, data)| lines(clock, data));
    let bit = |data: u32| {
        lines(0, data);
        lines(1, data);
        let seen = rig.read(0x28) >> 2 & 1;
        lines(0, data);
        seen
    };
    let put = |byte: u8| {
        (0..8).rev().for_each(|i| _ = bit(u32::from(byte >> i & 1)));
        bit(1) == 0
    };
    start();
    let found = put(0xa0) && put(offset) && {
        start();
        put(0xa1)
    };
    let byte = (0..8).fold(0, |byte, _| byte << 1 | bit(1) as u8);
    bit(1);
    [(0, 0), (1, 0), (1, 1)].into_iter().for_each(|(clock, data)| lines(clock, data));
    found.then_some(byte)
}

#[test]
fn the_cage_has_the_module_that_was_chosen() {
    for (module, compliance, technology) in [(Module::Sr, 0x10, 0), (Module::Da, 0, 4)] {
        let rig = Rig::new(Config { module, ..config(Doorbells::Messages) });
        let read = |at| module_byte(&rig, at).unwrap_or_else(|| panic!("{module:?}: no answer"));
        assert_eq!((read(0), read(3), read(8)), (3, compliance, technology));
        assert_eq!([read(37), read(38), read(39)], [0, 0x1b, 0x21]);
        let sum = (0..63).map(read).fold(0u8, u8::wrapping_add);
        assert_eq!(read(63), sum);
        // The EEPROM has a list for it: a driver looks for 5 (optics) or 3 (direct attach), and follows it.
        let word = |at: u32| {
            rig.write(0x10014, at << 2 | 1);
            rig.read(0x10014) >> 16
        };
        let wanted = if module == Module::Sr { 5 } else { 3 };
        let list = word(0x2b) + 1;
        let found = (list..).step_by(2).find(|at| [wanted, 0xffff].contains(&word(*at))).unwrap();
        assert_eq!(word(found), wanted);
        let writes: Vec<u32> = (word(found + 1) + 1..).map(word).take_while(|value| *value != 0xffff).collect();
        assert!((1..10).contains(&writes.len()), "{writes:x?}");
        let version = word(word(word(0xf) + 4) + 7);
        assert!(version > 5 && version != 0xffff, "firmware version {version:#x}");
    }
}

#[test]
fn an_empty_cage_has_no_link() {
    let rig = Rig::new(Config { module: Module::None, ..config(Doorbells::Messages) });
    rig.step();
    assert_eq!((module_byte(&rig, 0), rig.read(0x42a4), rig.read(0x20) & 4), (None, 0, 0));
    // A part without cage does not care.
    let rig = Rig::new(Config { module: Module::None, device_id: 0x10f7, ..config(Doorbells::Messages) });
    rig.step();
    assert_ne!(rig.read(0x42a4), 0);
}

#[test]
fn an_x550_names_the_queue_that_it_blocked() {
    for (id, on, blocked) in [(0x1563, true, 1), (0x1563, false, 0), (0x1528, true, 0)] {
        let mut rig = Rig::running(Config { device_id: id, ..config(Doorbells::Messages) });
        if on {
            rig.write(0x4a80, rig.read(0x4a80) | 1 << 5 | 1 << 6);
        }
        rig.put(data(PAYLOAD, 0, EOP | IFCS | RS, 0, 0));
        rig.ring_bell();
        rig.settle();
        assert_eq!(rig.halts().len(), 1);
        assert_eq!((rig.read(0x8130), rig.read(0x808) >> 19 & 1), (blocked, blocked), "{id:#x} {on}");
        rig.write(0x8130, 1);
        assert_eq!(rig.read(0x8130), 0);
    }
}

#[test]
fn a_queues_longest_frame_is_an_x540s() {
    for (id, passes) in [(0x10fb, true), (0x1528, false)] {
        let mut rig = Rig::running(Config { device_id: id, ..config(Doorbells::Messages) });
        rig.write(RXDCTL, ENABLE | 1 << 15 | 100);
        for (len, passes) in [(100, true), (101, passes)] {
            stillwire_emulator::Wire::transmit(&mut rig.wire.clone(), &vec![0xff; len]);
            rig.settle();
            assert_eq!(rig.receive().is_some(), passes, "{id:#x} {len}");
        }
    }
}
