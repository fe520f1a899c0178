//! The conversation with an E810's firmware: what is asked, and answers that no firmware should give.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;

use common::Token;
use common::firmware::{Command, Firmware, Twist, UP_AT_100G};
use proptest::prelude::*;
use stillwire_driver::{Config, Error, Mac, Nic, Result};

/// All that is asked until the NIC is up, in safe mode, without settings.
const BRING_UP: [u16; 34] = [
    0x0001, 0x0002, 0x02a4, 0x0110, 0x000a, 0x0107, 0x0200, 0x0200, 0x0c43, 0x020d, 0x0412, 0x0400, 0x0210, 0x040f,
    0x040f, 0x040f, 0x040f, 0x040f, 0x040f, 0x040f, 0x0401, 0x0401, 0x0401, 0x0401, 0x0401, 0x0401, 0x02a0, 0x02a0,
    0x0603, 0x0600, 0x0600, 0x0601, 0x0613, 0x0605,
];

fn open(firmware: &Arc<Firmware>, config: Config) -> Result<Nic> {
    Nic::open(firmware.function(), config)
}

fn asked(firmware: &Firmware, opcode: u16) -> Vec<Command> {
    firmware.commands().into_iter().filter(|command| command.opcode == opcode).collect()
}

#[test]
fn a_nic_comes_up_in_safe_mode() {
    let firmware = Firmware::new();
    let nic = open(&firmware, Config::default()).unwrap();
    let opcodes: Vec<u16> = firmware.commands().iter().map(|command| command.opcode).collect();
    assert_eq!(opcodes[..34], BRING_UP);
    assert_eq!(opcodes[34..], [0x0607]);
    assert_eq!(nic.mac(), Mac([2, 0, 0, 0, 0, 8]));
    let link = nic.link().unwrap();
    assert_eq!((link.up, link.megabits), (true, 100_000));
    let able = nic.capabilities();
    assert!(!able.tx_checksum && !able.rx_checksum && !able.tcp_segmentation && !able.vlan);
    assert_eq!((able.max_segmented, able.payload_pieces, able.queues), (0, 7, 1));
    // The rule on the own address, and the one on broadcasts.
    let rules = asked(&firmware, 0x02a0);
    assert_eq!(rules[0].buffer[16..22], [2, 0, 0, 0, 0, 8]);
    assert_eq!(rules[1].buffer[16..22], [0xff; 6]);
}

#[test]
fn settings_reach_the_firmware() {
    let firmware = Firmware::new();
    firmware.package(0, Some([1, 3, 36, 0]));
    let config = Config { queues: 9, promiscuous: true, vlan_strip: true, max_frame: 9014, ..Config::default() };
    let nic = open(&firmware, config).unwrap();
    let able = nic.capabilities();
    assert!(able.tx_checksum && able.tcp_segmentation && able.udp_segmentation && able.sctp_checksum && able.vlan);
    assert_eq!((able.queues, able.max_segmented > 65_000), (9, true));
    assert_eq!(asked(&firmware, 0x0603)[0].params[..2], 9022u16.to_le_bytes());
    let vsi = &asked(&firmware, 0x0210)[0].buffer;
    assert_eq!((vsi[12], &vsi[32..34]), (3, &[9, 0][..]), "tags are taken off, nine queues");
    assert_eq!(asked(&firmware, 0x02a0).len(), 3, "promiscuous");
    assert_eq!(asked(&firmware, 0x0b03)[0].buffer[..11], [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1]);
    // Eight queues to a group, so nine need two; each hangs in its own.
    assert_eq!(asked(&firmware, 0x0401).last().unwrap().buffer[4], 2);
    let queues: Vec<_> = (0..9).map(|_| nic.tx_queue::<Token>().unwrap()).collect();
    assert!(matches!(nic.tx_queue::<Token>(), Err(Error::QueueTaken { .. })));
    let parents: Vec<u8> = asked(&firmware, 0x0c30).iter().map(|command| command.buffer[0]).collect();
    assert_eq!(parents, [106, 106, 106, 106, 106, 106, 106, 106, 107]);
    drop(queues);
    assert_eq!(asked(&firmware, 0x0c31).len(), 9);
}

#[test]
fn the_link_follows_events() {
    let firmware = Firmware::new();
    let nic = open(&firmware, Config::default()).unwrap();
    for round in 0..40 {
        firmware.event(0x0607, &[0; 32]);
        assert!(!nic.link().unwrap().up, "round {round}");
        firmware.event(0x0607, &UP_AT_100G);
        // Of no interest.
        firmware.event(0x0a00, &[0xff; 500]);
        assert!(nic.link().unwrap().up, "round {round}");
    }
    // Lost and back between two looks.
    firmware.event(0x0607, &[0; 32]);
    firmware.event(0x0607, &UP_AT_100G);
    assert_eq!([0; 3].map(|_| nic.link().unwrap().up), [false, true, true]);
    assert_eq!(nic.statistics().link_losses, 40, "the first look knows of no link before");
}

#[test]
fn a_stop_is_told_and_proved() {
    let firmware = Firmware::new();
    let nic = open(&firmware, Config::default()).unwrap();
    assert!(firmware.bus_master());
    let tx = nic.tx_queue::<Token>().unwrap();
    let _rx = nic.rx_queue().unwrap();
    assert_eq!(firmware.register(0x12_0000), 5);
    drop(tx);
    let opcodes: Vec<u16> = firmware.commands().iter().rev().take(2).map(|command| command.opcode).collect();
    assert_eq!(opcodes, [0x0003, 0x0c31]);
    assert!(!firmware.bus_master());
    assert_eq!((firmware.register(0x12_0000), firmware.register(0x8_0200)), (0, 0));
    assert!(matches!(nic.rx_queue(), Err(Error::Stopped { .. })));
    assert!(!nic.link().unwrap().up);
}

/// Whatever is wrong with an answer, opening is an error that names the command, or goes well; and the device is off the bus
/// then.
#[test]
fn answers_that_make_no_sense_are_told() {
    let twists = [Twist::Opcode, Twist::NotDone, Twist::Code(0x030e)];
    let mut opcodes = BRING_UP.to_vec();
    opcodes.sort();
    opcodes.dedup();
    for opcode in opcodes {
        for twist in twists {
            let firmware = Firmware::new();
            let outcome = open(firmware.twist(opcode, twist), Config::default()).map(drop);
            let may_refuse = [0x0110, 0x020d, 0x040f, 0x0600, 0x0601, 0x0605, 0x0613].contains(&opcode);
            match (outcome, twist) {
                (Ok(()), Twist::Code(_)) => assert!(may_refuse, "{opcode:#06x} may not be refused"),
                (Err(error @ Error::Command { .. }), Twist::Code(_)) => {
                    let text = error.to_string();
                    assert!(text.contains(&format!("{opcode:#06x}")) && text.contains("EINVAL"), "{text}");
                }
                (Err(error @ Error::Protocol { .. }), _) => {
                    assert!(error.to_string().contains(&format!("{opcode:#06x}")), "{error}");
                }
                (outcome, _) => panic!("{opcode:#06x}, {twist:?}: {outcome:?}"),
            }
            assert!(!firmware.bus_master(), "{opcode:#06x}, {twist:?}");
        }
    }
}

#[test]
fn answers_of_wrong_lengths_are_told() {
    for opcode in [0x000a, 0x0107, 0x0200, 0x0400, 0x0401, 0x0412, 0x0607, 0x0c43] {
        for twist in [Twist::Longer, Twist::Empty] {
            let firmware = Firmware::new();
            let error = open(firmware.twist(opcode, twist), Config::default()).map(drop).unwrap_err();
            let told =
                matches!(error, Error::Protocol { .. }) || opcode == 0x0107 && matches!(error, Error::NoMac { .. });
            assert!(told, "{opcode:#06x}, {twist:?}: {error}");
        }
    }
}

#[test]
fn a_command_that_is_not_answered_ends_the_conversation() {
    let firmware = Firmware::new();
    let error = open(firmware.twist(0x0412, Twist::Silence), Config::default()).map(drop).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Command { .. }), "{text}");
    assert!(
        text.contains("was told query scheduler resources and did not answer (0x0412)")
            && text.contains("head 0xa, tail 0xb"),
        "{text}"
    );
    // Nothing more is asked: the firmware may still write into the buffer.
    assert_eq!(firmware.commands().last().unwrap().opcode, 0x0412);
    assert!(!firmware.bus_master());
}

#[test]
fn heads_that_cannot_be_are_told() {
    let firmware = Firmware::new();
    let nic = open(&firmware, Config::default()).unwrap();
    let set = |head: u32| {
        use stillwire_dma::Backend;
        firmware.bar_write(0, 0x8_0380, &head.to_le_bytes()).unwrap();
        nic.link()
    };
    // Descriptors that nobody has written back are no events.
    assert!(set(15).is_ok_and(|link| link.up));
    let text = set(16).map(drop).unwrap_err().to_string();
    assert!(text.contains("head of its events is 16 in a ring of 16"), "{text}");
    assert!(set(3).is_ok(), "and it is not looked at again");
}

/// A package of one buffer for the device, and one that says which package it is.
fn package(version: [u8; 4], format: [u8; 4]) -> Vec<u8> {
    let buffer = |kind: u32, body: &[u8]| {
        let mut bytes =
            [&[1, 0, 0, 16][..], &kind.to_le_bytes(), &[12, 0], &(body.len() as u16).to_le_bytes(), body].concat();
        bytes.resize(4096, 0);
        bytes
    };
    let metadata = [&version[..], &[b'x'; 28], &[0; 4]].concat();
    let buffers = [buffer(2, &[9; 64]), buffer(3, &[8; 64]), buffer(1, &metadata)].concat();
    let size = 44 + 12 + buffers.len() as u32;
    let head =
        [&[1, 0, 0, 0, 1, 0, 0, 0, 12, 0, 0, 0][..], &[0x10, 0, 0, 0], &format, &size.to_le_bytes(), &[0; 32]].concat();
    [&head[..], &[0; 8], &[3, 0, 0, 0], &buffers].concat()
}

#[test]
fn a_package_is_loaded_once() {
    let good = package([1, 3, 59, 0], [1, 3, 0, 0]);
    let firmware = Firmware::new();
    let nic = Nic::open_with_package(firmware.function(), Config::default(), &good).unwrap();
    assert!(nic.capabilities().tx_checksum);
    let sent: Vec<_> = asked(&firmware, 0x0c40).iter().map(|command| (command.params[0], command.buffer[4])).collect();
    assert_eq!(sent, [(0, 2), (0, 3), (1, 1)], "all buffers, and the last is said to be it");
    assert_eq!(asked(&firmware, 0x0009).len(), 1, "the lock is given back");
    drop(nic);
    // Another function of the card has done it.
    let firmware = Firmware::new();
    firmware.package(2, Some([1, 3, 30, 0]));
    let nic = Nic::open_with_package(firmware.function(), Config::default(), &good).unwrap();
    assert!(nic.capabilities().tx_checksum && asked(&firmware, 0x0c40).is_empty());
}

#[test]
fn a_package_that_cannot_be_used_is_told() {
    let open = |firmware: &Arc<Firmware>, file: &[u8]| {
        Nic::open_with_package(firmware.function(), Config::default(), file).map(drop).unwrap_err().to_string()
    };
    let good = package([1, 3, 59, 0], [1, 3, 0, 0]);
    assert!(open(&Firmware::new(), b"no package").contains("ddp package: the file"));
    assert!(open(&Firmware::new(), &package([1, 4, 0, 0], [1, 3, 0, 0])).contains("version 1.4.0.0, known is 1.3"));
    let newer = package([1, 3, 59, 0], [1, 4, 0, 0]);
    assert!(open(&Firmware::new(), &newer).contains("made for 1.4.0.0, the firmware has 1.3.0.0"));
    // The signature is the firmware's business; refused again and again, it is told, and the lock given back.
    let firmware = Firmware::new();
    let text = open(firmware.twist(0x0c40, Twist::Code(25)), &good);
    assert!(text.contains("EBADSIG"), "{text}");
    assert_eq!((asked(&firmware, 0x0c40).len(), asked(&firmware, 0x0009).len()), (6, 1));
    // One that is in force and not known leaves the device in safe mode.
    let firmware = Firmware::new();
    firmware.package(0, Some([1, 2, 0, 0]));
    assert!(!Nic::open(firmware.function(), Config::default()).unwrap().capabilities().tx_checksum);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]
    /// Rubbish in any answer ends in an error or a NIC, and never in a panic or a loop.
    #[test]
    fn rubbish_is_survived(command in 0usize..BRING_UP.len(), seed: u64, queues in 1u16..=16) {
        let firmware = Firmware::new();
        let config = Config { queues, ..Config::default() };
        let nic = open(firmware.twist(BRING_UP[command], Twist::Rubbish(seed)), config);
        if let Ok(nic) = nic {
            let _ = (nic.tx_queue::<Token>().map(drop), nic.link(), nic.statistics(), nic.capabilities());
        }
        prop_assert!(!firmware.bus_master());
    }
}
