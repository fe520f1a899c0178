//! Registers and commands of the E810 model: what a driver sees before any frame.

mod common;
mod ice_common;

use std::time::Duration;

use ice_common::*;
use proptest::prelude::*;
use stillwire_dma::Backend;
use stillwire_emulator::ice::{Config, Model};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{Doorbells, Wire};

fn admin(config: Config) -> Rig {
    let mut rig = Rig::new(config);
    rig.master(true);
    rig.start_adminq();
    rig
}

#[test]
fn what_a_driver_sees_after_reset() {
    let rig = Rig::new(config(Doorbells::Messages));
    for (offset, value) in [
        (0xb_8188u64, 0u32),               // GLGEN_RSTAT: active
        (0xb_6008, 0x33b),                 // GLNVM_ULD: all loaded
        (0xb_6108, 1 << 6),                // GLNVM_FLA.LOCKED
        (0xb_6100, 6 << 5),                // GLNVM_GENS: 64 KiB of shadow RAM
        (0x9_e880, 0),                     // PF_FUNC_RID
        (0x1d_2500, 0x803f_0000),          // PFLAN_RX_QALLOC: valid, 0 to 63
        (0x45_d000 + 4 * 22, 0x2a29_2827), // GLFLXP_RXDID_FLAGS(22, 0)
        (0x9_1000, 0),
        (0x9_1004, 0), // nothing there
    ] {
        assert_eq!(rig.read(offset), value, "{offset:#x}");
    }
    let mut id = [0; 4];
    rig.device.config_read(0, &mut id).unwrap();
    assert_eq!(u32::from_le_bytes(id), 0x1592_8086);
    rig.write(0xb_8188, 7);
    assert_eq!(rig.read(0xb_8188), 0, "read only");
}

#[test]
fn versions_capabilities_and_the_address() {
    let mut rig = admin(config(Doorbells::Messages));
    let version = rig.command(1, &[], &[], 0);
    assert_eq!((version.code, version.params[13]), (0, 1), "the interface's major version");
    assert_eq!(rig.command(2, &[1, 0, 0, 0], b"stillwire\0", 0).code, 0);
    assert_eq!(rig.command(2, &[1, 0, 0, 0], b"\0", 0).code, 14);
    for opcode in [0x000a, 0x000b] {
        let listed = rig.command(opcode, &[], &[], 4096);
        let count = listed.params[4] as usize;
        let caps: Vec<_> = (0..count).map(|i| (listed.word(32 * i) & 0xffff, listed.word(32 * i + 4))).collect();
        assert_eq!(listed.reply.len(), 32 * count);
        for wanted in
            [(0x05, 1), (0x17, 64), (0x40, 2048), (0x41, 64), (0x42, 64), (0x43, 64), (0x45, 1024), (0x47, 9728)]
        {
            assert!(caps.contains(&wanted), "{wanted:x?} in {caps:x?}");
        }
        let short = rig.command(opcode, &[], &[], 32);
        assert_eq!((short.code, short.params[4] as usize), (9, count), "ENOMEM, and how many there are");
    }
    let mac = rig.command(0x0107, &[], &[], 24);
    assert_eq!((mac.params[0], mac.params[4], &mac.reply[..]), (1 << 4, 1, &[0, 0, 2, 0x53, 0x57, 0, 2, 1][..]));
    assert_eq!(rig.command(0x0108, &[0, 0, 2, 1, 2, 3, 4, 5], &[], 0).code, 0);
    assert_eq!(rig.command(0x0107, &[], &[], 24).reply[2..], [2, 1, 2, 3, 4, 5]);
    assert_eq!(rig.command(0x0108, &[0, 0, 1, 1, 2, 3, 4, 5], &[], 0).code, 14, "a group's address");
    let switch = rig.command(0x0200, &[0; 4], &[], 512);
    assert_eq!((switch.params[4], &switch.reply[..]), (2, &[0, 0, 1, 0, 0, 0, 1, 0x80, 1, 0, 0, 0][..]));
    assert_eq!(rig.command(0x4242, &[], &[], 0).code, 17, "ENOSYS");
    assert_eq!(rig.device.with_model(|model| model.commands()[&0x4242]), (0, 1));
}

#[test]
fn the_admin_queue_is_looked_at_when_its_tail_is_written() {
    let mut rig = admin(config(Doorbells::Messages));
    (0..40).for_each(|_| assert_eq!(rig.command(1, &[], &[], 0).code, 0));
    // The head goes back, as drivers do before they take the queue down: what lies there is no command any more.
    rig.write(0x8_0300, 0);
    rig.settle();
    assert_eq!(rig.device.with_model(|model| model.commands()[&1]), (40, 0));
    // A tail that cannot be.
    rig.write(0x8_0400, 99);
    assert_eq!(rig.read(0x8_0200) >> 30, 3, "CRIT");
    assert_eq!(rig.halts().len(), 1);
    // Setting the queue up again clears it.
    rig.start_adminq();
    assert_eq!(rig.command(1, &[], &[], 0).code, 0);
}

#[test]
fn an_admin_queue_that_does_not_work() {
    let mut rig = admin(config(Doorbells::Messages));
    rig.fault(|faults| faults.silent_adminq = true);
    let asked = rig.post_command(1, &[], &[], 0);
    rig.settle();
    assert!(rig.answer(asked).is_none() && rig.read(0x8_0300) == asked);
    rig.fault(|faults| *faults = Default::default());
    rig.settle();
    assert!(rig.answer(asked).is_some());
    rig.fault(|faults| faults.refuse_command = Some((1, 12)));
    assert_eq!(rig.command(1, &[], &[], 0).code, 12);
    assert_eq!(rig.command(0x0107, &[], &[], 24).code, 0);
    rig.fault(|faults| (faults.refuse_command, faults.garbage_adminq) = (None, true));
    let asked = rig.post_command(0x0107, &[], &[], 24);
    let mut bytes = [0; 32];
    rig.memory.read_at(ATQ + 32 * asked as usize, &mut bytes);
    assert_eq!(bytes, [0xff; 32]);
    rig.memory.read_at(ATQ_BUFFER, &mut bytes[..24]);
    assert_eq!(bytes[..24], [0xff; 24]);
}

#[test]
fn the_link_is_told_and_its_changes_are_events() {
    let mut rig = admin(config(Doorbells::Messages));
    rig.write(0x16_c800, CAUSE_ENA | 3); // PFINT_FW_CTL
    rig.write(DYN_CTL + 4 * 3, 1);
    let interrupts = |rig: &Rig| rig.device.with_model(|model| model.counters().interrupts);
    let status = rig.command(0x0607, &[0, 0, 3, 0], &[], 32);
    assert_eq!((status.reply.len(), status.params[2]), (32, 1), "events are on");
    assert_eq!((status.reply[2] & 1, status.word(8) >> 16), (1, 1 << 10), "up, 100 Gb/s");
    rig.fault(|faults| faults.link_down = true);
    rig.settle();
    let (opcode, event) = rig.event().expect("an event");
    assert_eq!((opcode, event[2] & 1), (0x0607, 0));
    assert_eq!(interrupts(&rig), 1);
    assert_eq!(rig.read(0x16_ca00) & 1, 1, "PFINT_OICR.INTEVENT");
    rig.fault(|faults| faults.link_down = false);
    rig.settle();
    assert_eq!(rig.event().unwrap().1[2] & 1, 1);
    assert_eq!(interrupts(&rig), 1, "the vector masked itself");
    rig.write(DYN_CTL + 4 * 3, 1);
    assert_eq!(interrupts(&rig), 2, "what came meanwhile");
    // A driver takes the link down, and up.
    let mut phy = vec![0; 24];
    phy[16] = 1 << 5;
    assert_eq!(rig.command(0x0601, &[0], &phy, 0).code, 0);
    assert_eq!(rig.event().unwrap().1[2] & 1, 0);
    assert_eq!(rig.command(0x0605, &[0, 0, 6], &[], 0).code, 0);
    assert_eq!(rig.event().unwrap().1[2] & 1, 1);
    // Masked events are not told.
    rig.command(0x0613, &[0, 0, 0, 0, 0, 0, 0, 0, 2, 0], &[], 0);
    rig.command(0x0605, &[0, 0, 2], &[], 0);
    assert!(rig.event().is_none());
    assert_eq!(rig.command(0x0600, &[0, 0, 2, 0], &[], 560).reply.len(), 560);
}

#[test]
fn events_wait_for_descriptors() {
    let mut rig = admin(config(Doorbells::Messages));
    rig.command(0x0607, &[0, 0, 3, 0], &[], 32);
    for i in 0..40 {
        rig.fault(|faults| faults.link_down = i % 2 == 0);
        rig.settle();
    }
    // 15 descriptors, and 16 events that firmware keeps.
    let told = std::iter::from_fn(|| rig.event()).count();
    rig.settle();
    assert_eq!(told + std::iter::from_fn(|| rig.event()).count(), 31);
    assert!(rig.complaints().iter().any(|text| text.contains("events were lost")));
}

#[test]
fn the_nvm_is_read_through_commands() {
    let mut rig = admin(config(Doorbells::Messages));
    let mut read = |offset: u32, flags: u8, len: u16| {
        let [a, b, c, _] = offset.to_le_bytes();
        let answer = rig.command(0x0701, &[a, b, c, flags, 0, 0, len as u8, (len >> 8) as u8], &[], len.into());
        (answer.code, answer.reply)
    };
    assert_eq!(read(0, 1, 2), (0, vec![0x40, 0]), "a valid image");
    assert_eq!(read(0x1_0000, 1, 1).0, 14, "beyond the shadow RAM");
    assert_eq!(read(0x1_0000, 0x81, 1).0, 0, "and not beyond the flash");
    assert_eq!(read(0x10_0000, 0x81, 1).0, 14);
    let locked = rig.command(8, &[1, 0, 1, 0], &[], 0);
    assert_eq!((locked.code, locked.params[4..8].iter().any(|byte| *byte != 0)), (0, true), "for how long");
    assert_eq!(rig.command(8, &[1, 0, 1, 0], &[], 0).code, 12, "EBUSY");
    assert_eq!(rig.command(9, &[1, 0], &[], 0).code, 0);
}

/// A buffer of a package with one section.
fn package_buffer(kind: u32, section: &[u8]) -> Vec<u8> {
    let mut data = [&[1, 0][..], &(12 + section.len() as u16).to_le_bytes(), &kind.to_le_bytes(), &[12, 0]].concat();
    data.extend((section.len() as u16).to_le_bytes());
    data.extend_from_slice(section);
    data.resize(4096, 0);
    data
}

#[test]
fn a_package_is_brought_and_stays_over_a_reset_of_the_function() {
    let mut rig = admin(Config { package: false, ..config(Doorbells::Messages) });
    let listed = |rig: &mut Rig| rig.command(0x0c43, &[], &[], 512);
    assert_eq!(listed(&mut rig).reply, [0; 4]);
    let mut identity = [1, 3, 36, 0].to_vec();
    identity.extend(*b"a package");
    identity.resize(36, 0);
    let first = package_buffer(1, &identity);
    assert_eq!(rig.command(0x0c40, &[0], &first, 0).code, 1, "EPERM: nobody has the lock");
    let lock = rig.command(8, &[4, 0, 2, 0], &[], 0);
    assert_eq!((lock.code, lock.params[12]), (0, 0));
    assert_eq!(rig.command(0x0c40, &[0], &first, 0).code, 0);
    assert_eq!(rig.command(0x0c40, &[0], &[9; 4096], 0).code, 28, "EBADBUF");
    assert_eq!(rig.command(0x0c40, &[1], &package_buffer(10, &[5; 99]), 0).code, 0);
    assert_eq!(rig.command(9, &[4, 0], &[], 0).code, 0);
    let all = listed(&mut rig).reply;
    assert_eq!((all.len(), all[0], &all[4..17], all[41]), (44, 1, &b"\x01\x03\x24\0a package"[..], 1));
    rig.write(0x9_1000, 1); // PFGEN_CTRL.PFSWR
    assert_eq!(rig.read(0x9_1000), 0);
    rig.start_adminq();
    assert_eq!(listed(&mut rig).reply, all);
    assert_eq!(rig.command(8, &[4, 0, 2, 0], &[], 0).params[12], 2, "done");
    rig.device.config_write(0xa8, &0x8000u16.to_le_bytes()).unwrap(); // function-level reset
    rig.master(true);
    rig.start_adminq();
    assert_eq!(listed(&mut rig).reply, all);
    rig.write(0xb_8190, 1); // GLGEN_RTRIG.CORER
    rig.start_adminq();
    assert_eq!(listed(&mut rig).reply, [0; 4]);
}

#[test]
fn a_reset_stops_queues_and_forgets_frames_and_rules_but_not_statistics() {
    let mut rig = Rig::running(config(Doorbells::Mapped));
    rig.post_udp(&[1; 64], true);
    rig.settle();
    assert!(rig.receive().is_some());
    rig.fault(|faults| faults.stall_tx = true);
    rig.post_udp(&[1; 64], true);
    rig.settle();
    assert!(rig.device.with_model(|model| model.dma_pending()));
    rig.write(0x9_1000, 1);
    assert!(!rig.device.with_model(|model| model.dma_pending()));
    rig.fault(|faults| *faults = Default::default());
    let reads = rig.device.with_model(|model| model.counters().dma_reads);
    rig.wire.clone().transmit(&[0xff; 60]);
    rig.write(TX_TAIL, 5);
    rig.settle();
    assert_eq!(rig.device.with_model(|model| model.counters().dma_reads), reads);
    assert_eq!((rig.read(RX_CTRL), rig.read(0x8_0200), rig.read(TX_CAUSE)), (0, 0, 0));
    assert_eq!(rig.read(0x38_1240), 1, "GLPRT_BPTC");
    rig.bring_up();
    let last = rig.post_udp(&[2; 64], true);
    rig.settle();
    assert!(rig.done(last));
    rig.fault(|faults| faults.stuck_reset = true);
    rig.write(0x9_1000, 1);
    assert_eq!(rig.read(0x9_1000), 1);
}

#[test]
fn function_level_reset_ends_everything() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.fault(|faults| faults.stall_tx = true);
    rig.post_udp(&[0; 64], true);
    rig.settle();
    rig.device.config_write(0xa8, &0x8000u16.to_le_bytes()).unwrap();
    let mut command = [0; 2];
    rig.device.config_read(4, &mut command).unwrap();
    assert_eq!((command, rig.read(0x8_0200)), ([0, 0], 0));
    assert!(!rig.device.with_model(|model| model.dma_pending()));
}

#[test]
fn a_pulled_card_reads_ones_and_does_nothing() {
    for doorbells in [Doorbells::Messages, Doorbells::Mapped] {
        let mut rig = Rig::running(config(doorbells));
        rig.fault(|faults| faults.all_ones = true);
        let before = rig.device.with_model(|model| model.counters());
        rig.post_udp(&[1; 64], true);
        rig.step();
        assert_eq!((rig.read(0xb_8188), rig.read(RX_CTRL), rig.read(TX_TAIL)), (u32::MAX, u32::MAX, u32::MAX));
        let mut id = [0; 4];
        rig.device.config_read(0, &mut id).unwrap();
        assert_eq!(id, [0xff; 4]);
        let after = rig.device.with_model(|model| model.counters());
        assert_eq!((after.dma_reads, after.dma_writes), (before.dma_reads, before.dma_writes));
        rig.fault(|faults| faults.all_ones = false);
        rig.step();
        assert_eq!((rig.read(0xb_8188), rig.read(0x8_0200)), (0, 0), "as after power-on");
    }
}

#[test]
fn queues_that_cannot_be() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    let good = tx_context(TX_RING, RING);
    assert_eq!(rig.add_tx_queue(0, &good).code, 14, "it is there");
    assert_eq!(rig.add_tx_queue(64, &good).code, 14, "no such number");
    for (lsb, width, value) in [(78, 2, 0), (80, 10, 77), (135, 13, 33), (135, 13, 32), (164, 1, 0)] {
        let mut context = good;
        put_bits(&mut context, lsb, width, value);
        assert_eq!(rig.add_tx_queue(1, &context).code, 14, "{lsb}");
    }
    let group = std::mem::replace(&mut rig.group, 0x11);
    assert_eq!(rig.add_tx_queue(1, &good).code, 14, "its parent is no group");
    let asked = rig.disable_tx_queue(0);
    assert_eq!(rig.answer(asked).unwrap().code, 14, "it is another group's");
    rig.group = group;
    for q in 1..8 {
        assert_eq!(rig.add_tx_queue(q, &good).code, 0);
    }
    assert_eq!(rig.add_tx_queue(8, &good).code, 14, "a group has eight");
    let asked = rig.disable_tx_queue(9);
    assert_eq!(rig.answer(asked).unwrap().code, 2, "ENOENT");
    // A receive queue whose context makes no sense is enabled, and takes nothing.
    rig.write(RX_CTRL, 0);
    let mut context = rx_context(RX_RING, RING, BUFFER, 9728);
    context[6] &= !(1 << 9); // PREFENA
    rig.start_rx(&context, 2);
    assert!(rig.halts().last().unwrap().contains("PREFENA"), "{:?}", rig.halts());
}

#[test]
fn accesses_of_other_sizes() {
    let rig = Rig::new(config(Doorbells::Messages));
    let mut bytes = [0; 8];
    rig.device.bar_read(0, 0xb_6008, &mut bytes).unwrap();
    assert_eq!(bytes, [0x3b, 3, 0, 0, 0, 0, 0, 0]);
    let mut two = [0; 2];
    rig.device.bar_read(0, 0xb_6009, &mut two).unwrap();
    assert_eq!(two, [3, 0]);
    rig.device.bar_write(0, 0x16_4001, &[1, 2]).unwrap();
    assert_eq!(rig.device.with_model(|model| model.counters().odd_accesses), 1);
    assert!(rig.device.bar_read(0, (32 << 20) - 2, &mut [0; 4]).is_err());
    rig.device.bar_write(3, 0x10, &[9; 4]).unwrap();
    rig.device.bar_read(3, 0x10, &mut bytes[..4]).unwrap();
    assert_eq!(bytes[..4], [9; 4]);
}

#[test]
fn causes_masks_and_software_interrupts() {
    let rig = Rig::new(config(Doorbells::Messages));
    let interrupts = || rig.device.with_model(|model| model.counters().interrupts);
    rig.write(DYN_CTL + 8, 1 << 2); // SWINT_TRIG, masked
    assert_eq!(interrupts(), 0);
    rig.write(DYN_CTL + 8, 1 | 1 << 1); // CLEARPBA takes no cause away
    assert_eq!((interrupts(), rig.read(DYN_CTL + 8) & 1), (1, 0));
    rig.write(DYN_CTL + 8, 1);
    rig.write(DYN_CTL + 8, 1 << 31 | 1 << 2); // INTENA_MSK: the mask stays open
    assert_eq!(interrupts(), 2);
    rig.write(0x16_ca80, CAUSE_ENA | 2); // PFINT_OICR_CTL
    rig.write(DYN_CTL + 8, 1);
    rig.write(0x16_ca00, 1 << 19);
    assert_eq!(interrupts(), 2, "not enabled");
    rig.write(0x16_c900, 1 << 19);
    assert_eq!(interrupts(), 3, "enabled with the cause set");
    assert_eq!((rig.read(0x16_ca00), rig.read(0x16_ca00)), (1 << 19 | 1, 0));
}

/// Registers that a driver writes, so that random writes hit something often.
fn offsets() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0u64..5).prop_map(|i| 0x8_0000 + 0x100 * i),
        (0u64..5).prop_map(|i| 0x8_0080 + 0x100 * i),
        (0u64..8).prop_map(|i| 0x28_0000 + 0x2000 * i),
        prop::sample::select(vec![
            TX_TAIL,
            RX_TAIL,
            RX_CTRL,
            TX_CAUSE,
            RX_CAUSE,
            DYN_CTL,
            DYN_CTL + 4,
            0x48_0000,
            0x9_1000,
            0xb_8190,
            0x16_c800,
            0x16_c900,
            0x16_ca00,
            0x16_ca80,
            0xf_c068,
        ]),
        0u64..0x200_0000,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn hostile_register_writes(
        writes in prop::collection::vec((offsets(), any::<u32>(), any::<bool>()), 1..60),
        mapped: bool,
    ) {
        let mut rig = Rig::running(config(if mapped { Doorbells::Mapped } else { Doorbells::Messages }));
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
        rig.write(0x9_1000, 1);
        rig.bring_up();
        let last = rig.post_udp(&[6; 64], true);
        rig.settle();
        prop_assert!(rig.done(last), "{:?}", rig.halts());
    }

    #[test]
    fn hostile_commands(
        commands in prop::collection::vec((any::<u16>(), 0usize..40, any::<[u8; 12]>(), prop::collection::vec(any::<u8>(), 0..600)), 1..40),
    ) {
        const KNOWN: [u16; 40] = [
            1, 2, 3, 8, 9, 10, 11, 0x107, 0x108, 0x110, 0x200, 0x203, 0x208, 0x209, 0x20a, 0x210, 0x211, 0x212, 0x213, 0x2a0,
            0x2a1, 0x2a2, 0x2a4, 0x400, 0x401, 0x403, 0x404, 0x408, 0x40f, 0x410, 0x412, 0x600, 0x601, 0x607, 0x701, 0xb02,
            0xb03, 0xb05, 0xc30, 0xc41,
        ];
        let mut rig = Rig::running(config(Doorbells::Messages));
        for (other, known, params, data) in commands {
            // Counts that are small get further than the first look.
            let params = [params[0] & 3, 0, params[2], params[3], params[4], params[5], params[6], params[7]];
            for opcode in [KNOWN[known], other] {
                let asked = rig.post_command(opcode, &params, &data, 600);
                prop_assert!(opcode == 0x0c31 || rig.answer(asked).is_some(), "{:#x} is not answered", opcode);
            }
        }
        rig.post_udp(&[1; 64], true);
        rig.wire.clone().transmit(&[0xff; 60]);
        rig.settle();
        rig.write(0x9_1000, 1);
        rig.bring_up();
    }

    #[test]
    fn garbage_in_the_rings(
        tx in prop::collection::vec(any::<[u64; 2]>(), 63),
        shape in prop::collection::vec(0u8..4, 63),
        addresses in prop::collection::vec(0u64..0x11_0000, 63),
    ) {
        use std::sync::atomic::Ordering;
        let mut rig = Rig::running(config(Doorbells::Messages));
        for (i, ((words, kind), address)) in tx.into_iter().zip(shape).zip(addresses).enumerate() {
            // Some of it almost right, so that it gets further than the first look.
            let [low, high] = words;
            rig.put(match kind {
                0 => words,
                1 => [low & !0xffff_ffff, high & !0x3f_ffff | 1 | 1 << 4],
                2 => [IOVA + address, high & !0xf & !(0x3800 << 34) | EOP],
                _ => [IOVA + address, high & !0xf],
            });
            rig.memory.word64(RX_RING + 32 * i).store(low, Ordering::Relaxed);
        }
        rig.ring_bell();
        for _ in 0..4 {
            rig.wire.clone().transmit(&[0xff; 60]);
        }
        rig.settle();
        let asked = rig.disable_tx_queue(0);
        rig.write(RX_CTRL, 0);
        rig.settle();
        prop_assert_eq!(rig.answer(asked).map(|answer| answer.code), Some(0));
        prop_assert_eq!(rig.read(RX_CTRL), 0);
    }

    #[test]
    fn hostile_config_writes(writes in prop::collection::vec((any::<u16>(), any::<[u8; 4]>()), 1..60)) {
        let mut model = Model::new(Config::default(), Box::new(Loopback::new())).unwrap();
        for (offset, bytes) in writes {
            model.config_write(offset % 300, &bytes);
            model.config_read(offset, &mut [0; 4]);
            model.bar_read((offset % 8) as u8, u64::MAX - u64::from(offset % 16), &mut [0; 8]);
            model.bar_write((offset % 8) as u8, u64::from(offset), &bytes);
            model.bar_write((offset % 8) as u8, u64::MAX - u64::from(offset % 16), &bytes);
        }
        let mut id = [0; 4];
        model.config_read(0, &mut id);
        prop_assert_eq!(u32::from_le_bytes(id), 0x1592_8086);
    }
}

#[test]
fn a_thread_steps_it_and_stops_when_dropped() {
    let mut rig = Rig::running(config(Doorbells::Mapped));
    let running = rig.device.spawn();
    let last = rig.post_udp(&[1; 100], true);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !rig.done(last) && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(rig.done(last));
    let device = std::sync::Arc::downgrade(&rig.device);
    drop(running);
    drop(rig);
    assert!(device.upgrade().is_none(), "the thread held the device and is gone");
}
