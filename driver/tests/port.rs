//! The port beside its queues, on all parts of the family.
#![allow(missing_docs)]

mod common;

use common::Rig;
use stillwire_driver::{Config, Filter, Frame, Mac, Posted, RxQueue, Socket, TxQueue};
use stillwire_emulator::ixgbe;
use stillwire_emulator::ixgbe::Module;

fn part(device_id: u16) -> ixgbe::Config {
    ixgbe::Config { device_id, ..ixgbe::Config::default() }
}

fn queues(rig: &Rig) -> (TxQueue<()>, RxQueue) {
    rig.live(|nic| (nic.tx_queue().unwrap(), nic.rx_queue().unwrap()))
}

/// Sends a frame to `mac`, and says whether it came back.
fn arrives(rig: &Rig, (tx, rx): (&mut TxQueue<()>, &mut RxQueue), mac: Mac) -> bool {
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&mac.0);
    assert!(matches!(tx.post(Frame::new(&frame)).unwrap(), Posted::Queued));
    tx.publish();
    rig.settle();
    tx.reclaim(drop);
    rx.poll(64, |_| {}) > 0
}

#[test]
fn every_part_has_link_and_carries_frames() {
    for (id, socket) in [(0x10f7, "backplane"), (0x10fb, "10GBASE-SR"), (0x1528, "PHY"), (0x1563, "PHY")] {
        let rig = Rig::with(part(id), Config::default());
        assert_eq!(rig.nic.link().unwrap().megabits, 10_000, "{id:#x}");
        let (mut tx, mut rx) = queues(&rig);
        let mac = rig.nic.mac();
        for _ in 0..100 {
            assert!(arrives(&rig, (&mut tx, &mut rx), mac), "{id:#x}");
        }
        let found = rig.live(|nic| nic.socket().unwrap());
        assert!(found.to_string().contains(socket), "{id:#x}: {found}");
        // Asking changed nothing for the data path.
        assert!(arrives(&rig, (&mut tx, &mut rx), mac), "{id:#x}");
    }
}

#[test]
fn what_is_in_the_cage_is_read_from_it() {
    let socket = |module| {
        let model = ixgbe::Config { module, ..part(0x10fb) };
        let rig = Rig::without_link(model, Config::default()).unwrap();
        rig.live(|nic| nic.socket().unwrap())
    };
    assert_eq!(socket(Module::None), Socket::Cage(None));
    let Socket::Cage(Some(sr)) = socket(Module::Sr) else { panic!("no module") };
    assert_eq!((sr.ethernet, sr.cable, sr.vendor.as_str(), sr.part.as_str()), (0x10, 0, "stillwire", "MODEL-SR"));
    let Socket::Cage(Some(da)) = socket(Module::Da) else { panic!("no module") };
    assert_eq!((da.ethernet, da.cable, da.to_string().as_str()), (0, 4, "passive copper cable, stillwire MODEL-DA"));
}

#[test]
fn filters_let_in_what_they_name() {
    let mut rig = Rig::with(part(0x10fb), Config::default());
    let (mut tx, mut rx) = queues(&rig);
    let (other, group) = (Mac([2, 1, 2, 3, 4, 5]), Mac([1, 0, 0x5e, 0, 0, 0xfb]));
    let broadcast = Mac([0xff; 6]);
    let own = rig.nic.mac();
    let none = Filter::default();
    let cases = [
        (none.clone(), [true, false, false, true]),
        (Filter { addresses: vec![Mac([2, 9, 9, 9, 9, 9]), other], ..none.clone() }, [true, true, false, true]),
        (Filter { groups: vec![group], ..none.clone() }, [true, false, true, true]),
        (Filter { all_groups: true, ..none.clone() }, [true, false, true, true]),
        (Filter { promiscuous: true, ..none.clone() }, [true, true, true, true]),
        (none.clone(), [true, false, false, true]),
    ];
    for (filter, expect) in cases {
        rig.live(|nic| nic.set_filter(&filter)).unwrap();
        let found = [own, other, group, broadcast].map(|mac| arrives(&rig, (&mut tx, &mut rx), mac));
        assert_eq!(found, expect, "{filter:?}");
    }
    let many = Filter { addresses: vec![other; 128], ..none.clone() };
    let said = rig.live(|nic| nic.set_filter(&many)).unwrap_err().to_string();
    assert!(said.contains("addresses to receive is 128") && said.contains("127"), "{said}");

    // A filter outlives a reset.
    let filter = Filter { addresses: vec![other; 127], ..none };
    rig.live(|nic| nic.set_filter(&filter)).unwrap();
    let running = rig.device.spawn();
    rig.nic.reset([tx], [rx], |_, _| ()).unwrap();
    rig.nic.wait_for_link(std::time::Duration::from_secs(5)).unwrap();
    drop(running);
    let (mut tx, mut rx) = queues(&rig);
    assert!(arrives(&rig, (&mut tx, &mut rx), other));
    assert!(!arrives(&rig, (&mut tx, &mut rx), group));
}

#[test]
fn each_queue_is_counted() {
    let rig = Rig::with(part(0x10fb), Config { queues: 3, ..Config::default() });
    let (mut queues, _rx): (Vec<TxQueue<()>>, Vec<RxQueue>) = rig.live(|nic| {
        ((0..3).map(|_| nic.tx_queue().unwrap()).collect(), (0..3).map(|_| nic.rx_queue().unwrap()).collect())
    });
    let mut frame = [0; 80];
    frame[..6].copy_from_slice(&rig.nic.mac().0);
    for (count, tx) in queues.iter_mut().enumerate() {
        for _ in 0..=count {
            assert!(matches!(tx.post(Frame::new(&frame)).unwrap(), Posted::Queued));
        }
        tx.publish();
        rig.settle();
    }
    let counted = rig.nic.queue_statistics();
    assert_eq!(counted.iter().map(|queue| queue.tx_frames).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(counted.iter().all(|queue| queue.tx_bytes / queue.tx_frames >= 80), "{counted:?}");
    // What is no IP is received by the first.
    assert_eq!(counted.iter().map(|queue| queue.rx_frames).collect::<Vec<_>>(), [6, 0, 0]);
    assert_eq!(rig.nic.queue_statistics(), counted, "sums, not differences");
    assert_eq!(rig.nic.statistics().tx_frames, 6);
}

/// More than the receive buffers and the port's memory hold, and nobody takes them. On a loopback the far end is the port itself,
/// so that it pauses.
#[test]
fn a_port_asks_for_a_pause_when_it_is_told_to() {
    for flow_control in [false, true] {
        let config = Config { flow_control, rx_ring: 64, tx_ring: 1024, max_frame: 9200, ..Config::default() };
        let rig = Rig::with(part(0x10fb), config);
        let (mut tx, mut rx) = queues(&rig);
        let mut frame = [0; 200];
        frame[..6].copy_from_slice(&rig.nic.mac().0);
        for _ in 0..8 {
            for _ in 0..500 {
                if let Posted::Full(_) = tx.post(Frame::new(&frame)).unwrap() {
                    assert!(flow_control, "only a pause stops the port");
                }
            }
            tx.publish();
            rig.settle();
            tx.reclaim(drop);
        }
        let counted = rig.nic.statistics();
        if flow_control {
            assert!(counted.pauses_sent > 0 && counted.pauses_received > 0, "{counted:?}");
            assert_eq!(counted.rx_missed, 0, "that is what pauses are for");
        } else {
            assert!(counted.rx_missed > 0, "{counted:?}");
            assert_eq!((counted.pauses_sent, counted.pauses_received), (0, 0), "{counted:?}");
        }
        while rx.poll(64, |_| {}) > 0 {
            rig.settle();
        }
    }
}
