//! Several pairs of queues, commands, and rings of all kinds at their edges, over the model of virtio-net.
#![allow(missing_docs)]

mod common;

use std::collections::VecDeque;

use common::virtio::{Rig, header, rings, without};
use common::{Memory, Token};
use proptest::prelude::*;
use stillwire_driver::{Config, Error, Frame, Nic, Offload, Posted, RxQueue};
use stillwire_emulator::virtio::{self, Faults, Features, Misuse, NOTIFY, NOTIFY_STRIDE};

fn queued<T>(posted: Posted<'_, T>) {
    assert!(matches!(posted, Posted::Queued), "the ring was full");
}

fn several(queues: u16) -> Config {
    Config { queues, tx_ring: 64, rx_ring: 64, ..Config::default() }
}

#[test]
fn a_flow_comes_back_on_the_pair_that_it_left_on() {
    for model in rings() {
        let rig = Rig::with(model, several(3));
        assert_eq!(rig.nic.capabilities().queues, 3);
        let mut pairs: Vec<_> =
            (0..3).map(|_| (rig.nic.tx_queue::<()>().unwrap(), rig.nic.rx_queue().unwrap())).collect();
        assert!(matches!(rig.nic.tx_queue::<()>(), Err(Error::QueueTaken { queue: "transmit", .. })));
        assert!(matches!(rig.nic.rx_queue(), Err(Error::QueueTaken { queue: "receive", .. })));
        let mut header = header(&rig, Offload::UDP_V4, 0);
        for round in 0..200 {
            for (pair, (tx, _)) in pairs.iter_mut().enumerate() {
                assert_eq!(tx.index(), pair);
                // The flow's port, and as many frames as the pair's number says.
                header[35] = pair as u8;
                (0..=pair).for_each(|_| queued(tx.post(Frame::new(&header).offload(Offload::UDP_V4)).unwrap()));
                tx.publish();
            }
            rig.settle();
            for (pair, (tx, rx)) in pairs.iter_mut().enumerate() {
                assert_eq!(rx.index(), pair);
                assert_eq!(tx.reclaim(drop), pair + 1);
                let frames = rig.received(rx);
                assert_eq!(frames.len(), pair + 1, "round {round}");
                assert!(frames.iter().all(|(frame, _)| usize::from(frame[35]) == pair), "another pair's");
            }
        }
        let counted = rig.nic.statistics();
        assert_eq!((counted.tx_frames, counted.rx_frames), (1200, 1200), "of all queues");
        rig.assert_no_complaints();
    }
}

#[test]
fn a_device_that_has_fewer_pairs_gives_fewer() {
    for (model, asked, given) in [
        (virtio::Config::default(), 16, 4),
        (virtio::Config { pairs: 16, ..virtio::Config::default() }, 16, 16),
        (virtio::Config { pairs: 1, ..virtio::Config::default() }, 2, 1),
        (without(Features::MQ), 4, 1),
        (without(Features::CTRL_VQ | Features::CTRL_RX | Features::CTRL_MAC_ADDR | Features::MQ), 4, 1),
        (virtio::Config::default(), 1, 1),
    ] {
        let rig = Rig::with(model, several(asked));
        assert_eq!(rig.nic.capabilities().queues, given);
        let queues: Vec<_> = std::iter::from_fn(|| rig.nic.rx_queue().ok()).collect();
        assert_eq!(queues.len(), given);
        rig.assert_no_complaints();
    }
}

#[test]
fn pairs_that_cannot_be_are_refused() {
    for (pairs, says) in [
        (0, "it has 0 pairs of queues"),
        (40_000, "it has 40000 pairs of queues"),
        (100, "it has 9 queues, for 100 pairs and a control queue there must be 201"),
    ] {
        let faults = Faults { max_pairs: Some(pairs), ..Faults::default() };
        let text = Rig::open(virtio::Config::default(), several(2), faults).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains(says), "{text}");
    }
}

/// Frames for another station, and for all, that arrive.
fn overheard(rig: &Rig, rx: &mut RxQueue) -> (usize, usize) {
    let mut tx = rig.nic.tx_queue::<()>().unwrap();
    let mut frame = header(rig, Offload::UDP_V4, 0);
    let mut arrive = |to: [u8; 6]| {
        frame[..6].copy_from_slice(&to);
        queued(tx.post(Frame::new(&frame)).unwrap());
        tx.publish();
        rig.settle();
        rig.received(rx).len()
    };
    (arrive([2, 9, 9, 9, 9, 9]), arrive([0xff; 6]))
}

#[test]
fn frames_for_others_are_received_when_they_are_asked_for() {
    for queues in [1, 2] {
        for promiscuous in [false, true] {
            for model in rings() {
                let rig = Rig::with(model, Config { promiscuous, ..several(queues) });
                let mut rx = rig.nic.rx_queue().unwrap();
                assert_eq!(overheard(&rig, &mut rx), (promiscuous.into(), 1));
            }
        }
        // This device takes all by itself, and cannot be asked.
        let rig = Rig::with(without(Features::CTRL_RX), several(queues));
        let mut rx = rig.nic.rx_queue().unwrap();
        assert_eq!(overheard(&rig, &mut rx), (1, 1));
    }
}

#[test]
fn a_command_that_is_not_carried_out_is_named() {
    let silent = Faults { silent_control: true, ..Faults::default() };
    let refusing = Faults { refuse_control: true, ..Faults::default() };
    for model in rings() {
        let pairs_only = virtio::Config { features: model.features - Features::CTRL_RX, ..model.clone() };
        for (model, faults, command, says) in [
            (&model, &refusing, "VIRTIO_NET_CTRL_RX_PROMISC", "answered 1, not 0"),
            (&pairs_only, &refusing, "VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET", "answered 1, not 0"),
            (&pairs_only, &silent, "VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET", "said nothing for"),
        ] {
            let error = Rig::open(model.clone(), several(2), faults.clone()).map(|_| ()).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, Error::Command { .. }) && text.contains(command) && text.contains(says), "{text}");
        }
    }
}

#[test]
fn an_answer_that_cannot_be_is_a_breach() {
    for model in rings() {
        // The control queue is behind the four pairs that the device has, or behind the one that is used.
        for (queues, number) in [(2, 8), (1, 2)] {
            for (misuse, says) in [
                (Misuse::IdOutOfRange, "control queue: chain 16 was used in a ring of 16"),
                (Misuse::LenTooLong, "control queue: 2 bytes were written into the 1 of chain 0"),
            ] {
                let faults = Faults { used: Some((number, misuse)), ..Faults::default() };
                let text = Rig::open(model.clone(), several(queues), faults).map(|_| ()).unwrap_err().to_string();
                assert!(text.contains(says), "{misuse:?}: {text}");
            }
        }
    }
}

/// A device whose control queue failed was stopped, and is good for another try.
#[test]
fn a_device_that_could_not_be_told_is_left_quiet() {
    let model = virtio::Config::default();
    let rig = Rig::with(model, Config::default());
    let Rig { nic, function, device, .. } = rig;
    drop(nic);
    let _running = device.spawn();
    device.with_model(|model| model.faults().refuse_control = true);
    assert!(matches!(Nic::open(function.clone(), Config::default()), Err(Error::Command { .. })));
    device.with_model(|model| {
        assert!(!model.dma_pending());
        *model.faults() = Faults::default();
    });
    Nic::open(function, Config::default()).unwrap();
}

/// A doorbell is a write to the device: none while it says that it looks by itself.
#[test]
fn doorbells_are_rung_only_when_they_are_asked_for() {
    let lacks = |ring: virtio::Config| virtio::Config { features: ring.features - Features::EVENT_IDX, ..ring };
    for ring in rings().into_iter().chain(rings().map(lacks)) {
        let rig = Rig::with(virtio::Config { frames_per_step: 1, ..ring }, several(1));
        let bells = rig.function.registers(4, 0x4000).unwrap();
        let rung = || bells.read(NOTIFY + NOTIFY_STRIDE) != u32::MAX;
        let mut tx = rig.nic.tx_queue::<()>().unwrap();
        let mut post = |count| {
            (0..count).for_each(|_| queued(tx.post(Frame::new(&[0xff; 60])).unwrap()));
            tx.publish();
            tx.reclaim(drop)
        };
        // Often enough to come around the ring many times.
        for round in 0..200 {
            post(3);
            assert!(rung(), "round {round}: the device sleeps");
            rig.steps(1);
            assert!(!rung(), "the device took it");
            post(2);
            assert!(!rung(), "round {round}: the device is at work");
            rig.settle();
        }
        rig.assert_no_complaints();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Frames in any number of pieces, shown, sent and reclaimed at any time: each arrives once, in order, and its token comes back
    /// once, in order, whatever the ring and the order in which the device uses it.
    #[test]
    fn any_history_of_a_ring(
        kind in 0usize..4,
        disorder: bool,
        events: bool,
        steps in prop::collection::vec((0u8..6, 0usize..7), 200..400),
    ) {
        let mut model = virtio::Config { out_of_order: disorder, frames_per_step: 5, ..rings()[kind].clone() };
        model.features.set(Features::EVENT_IDX, events);
        let rig = Rig::with(model, several(1));
        let (mut tx, mut rx) = (rig.nic.tx_queue::<Token>().unwrap(), rig.nic.rx_queue().unwrap());
        let memory = Memory::new(&rig.function, &(0..=255).collect::<Vec<u8>>());
        let (mut next, mut back, mut arrived) = (0usize, 0, 0);
        let mut posted = VecDeque::new();
        for (what, amount) in steps {
            match what {
                0..3 => {
                    let mut header = [0xff; 60];
                    header[52..].copy_from_slice(&(next as u64).to_le_bytes());
                    let token = Token::new(&memory, (0..amount).map(|i| (next + i) % 250..(next + i) % 250 + 2).collect());
                    if let Posted::Queued = tx.post(Frame::new(&header).payload(token)).unwrap() {
                        posted.push_back(amount);
                        next += 1;
                    }
                }
                3 => tx.publish(),
                4 => rig.steps(amount),
                _ => _ = tx.reclaim(|token| {
                    assert_eq!(token.pieces.len(), posted.pop_front().unwrap());
                    back += 1;
                }),
            }
            rx.poll(amount, |frame| {
                assert_eq!(frame.first::<60>().unwrap()[52..], (arrived as u64).to_le_bytes());
                arrived += 1;
            });
        }
        tx.publish();
        rig.settle();
        arrived += rig.received(&mut rx).len();
        tx.reclaim(|_| back += 1);
        prop_assert_eq!((next, back, tx.in_flight()), (arrived, arrived, 0));
        rig.assert_no_complaints();
    }
}
