//! A virtio device that misbehaves: each way ends in a clear error, and what it holds comes back after the stop.
#![allow(missing_docs)]
#![allow(clippy::single_range_in_vec_init, reason = "one piece of payload")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::virtio::{Rig, header, rings, without};
use common::{Memory, Token};
use stillwire_driver::{Config, Error, Frame, Nic, Offload, Posted, RxQueue, TxQueue};
use stillwire_emulator::LocalDevice;
use stillwire_emulator::virtio::{self, Faults, Features, Misuse, Model};

/// Every ring that this driver negotiates.
fn models() -> Vec<virtio::Config> {
    let lacks = |ring: &virtio::Config, features| virtio::Config { features: ring.features - features, ..ring.clone() };
    let each = |ring: virtio::Config| [lacks(&ring, Features::EVENT_IDX), lacks(&ring, Features::MRG_RXBUF), ring];
    rings().into_iter().flat_map(each).collect()
}

fn is_packed(model: &virtio::Config) -> bool {
    model.features.contains(Features::RING_PACKED)
}

/// What the test knows of a NIC: its queues, and how many tokens have been dropped.
struct Busy {
    tx: TxQueue<Token>,
    rx: RxQueue,
    memory: Arc<Memory>,
    dropped: Arc<AtomicUsize>,
    rig: Rig,
}

impl Busy {
    fn new(model: virtio::Config) -> Self {
        let rig = Rig::with(model, Config { tx_ring: 64, rx_ring: 64, ..Config::default() });
        let (tx, rx) = (rig.nic.tx_queue().unwrap(), rig.nic.rx_queue().unwrap());
        let memory = Memory::new(&rig.function, &[5; 2000]);
        Self { tx, rx, memory, dropped: Arc::default(), rig }
    }

    fn post(&mut self) -> Result<(), Error> {
        let token = Token::new(&self.memory, vec![0..1000]).counted(&self.dropped);
        let header = header(&self.rig, Offload::UDP_V4, 1000);
        let posted = self.tx.post(Frame::new(&header).offload(Offload::UDP_V4).payload(token))?;
        assert!(matches!(posted, Posted::Queued));
        Ok(())
    }

    fn post_some(&mut self, count: usize) {
        (0..count).for_each(|_| self.post().unwrap());
        self.tx.publish();
    }

    fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }
}

/// What is done to a split transmit queue after five frames, and what the error says of it.
const SPLIT_TRANSMIT: [(Misuse, &str); 7] = [
    (Misuse::IdOutOfRange, "transmit queue 0: chain 64 was used in a ring of 64"),
    (Misuse::Twice, "transmit queue 0: the used index moved by 10, and the device had 5 chains"),
    (Misuse::LenTooLong, "transmit queue 0: 1 bytes were written into the 0 of chain"),
    (Misuse::Jump(1), "transmit queue 0: the used index moved by 6, and the device had 5 chains"),
    (Misuse::Jump(1000), "transmit queue 0: the used index moved by 1005"),
    (Misuse::Jump(40_000), "transmit queue 0: the used index moved by 40005"),
    (Misuse::Endless, "transmit queue 0: the used index moved by"),
];

/// The same of a packed one. Jumps over an odd number of laps are in `a_packed_ring_in_another_lap_stands_still`.
const PACKED_TRANSMIT: [(Misuse, &str); 7] = [
    (Misuse::IdOutOfRange, "transmit queue 0: chain 64 was used in a ring of 64"),
    (Misuse::Twice, "transmit queue 0: chain 2 was used, which the device did not have"),
    (Misuse::LenTooLong, "transmit queue 0: 1 bytes were written into the 0 of chain"),
    (Misuse::Jump(1), "transmit queue 0: chain 0 was used, which the device did not have"),
    (Misuse::Jump(40), "transmit queue 0: chain 0 was used, which the device did not have"),
    (Misuse::Jump(2 * 64 * 300), "transmit queue 0: chain 0 was used, which the device did not have"),
    (Misuse::Endless, "which the device did not have"),
];

#[test]
fn a_transmit_ring_that_is_misused_keeps_its_tokens_until_the_stop() {
    for model in models() {
        for (misuse, says) in if is_packed(&model) { PACKED_TRANSMIT } else { SPLIT_TRANSMIT } {
            let mut busy = Busy::new(model.clone());
            busy.post_some(1);
            busy.rig.settle();
            assert_eq!(busy.tx.reclaim(drop), 2);
            busy.rig.device.with_model(|model| model.faults().used = Some((1, misuse)));
            busy.post_some(5);
            busy.rig.steps(50);
            for _ in 0..3 {
                assert_eq!(busy.tx.reclaim(drop), 0, "{misuse:?}");
                // Of an endless packed ring only every second lap can be told from none.
                busy.rig.steps(1);
            }
            assert_eq!((busy.tx.in_flight(), busy.dropped()), (5, 1), "{misuse:?}");
            let error = busy.post().unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, Error::Protocol { .. }) && text.contains(says), "{misuse:?}: {text}");
            assert!(text.contains("stop it"), "{text}");
            let seen = busy.rig.nic.link().unwrap_err().to_string();
            assert_eq!(seen, text, "the link says so, too");
            let mut back = Vec::new();
            busy.tx.stop(|token| back.push(token)).unwrap();
            // The refused frame's token was dropped: the device never saw it.
            assert_eq!((back.len(), busy.dropped.load(Ordering::SeqCst)), (5, 2), "{misuse:?}");
        }
    }
}

/// What was not published is not the device's to give back.
#[test]
fn a_chain_that_was_not_shown_cannot_be_used() {
    use stillwire_emulator::BusMemory;
    for model in rings() {
        let packed = is_packed(&model);
        let mut busy = Busy::new(model);
        busy.rig.device.with_model(|model| model.faults().stall_tx = true);
        busy.post_some(1);
        busy.rig.settle();
        busy.post().unwrap();
        let common = busy.rig.function.registers(4, 0x1000).unwrap();
        common.write16(22, 1);
        let area = |low| u64::from(common.read(low)) | u64::from(common.read(low + 4)) << 32;
        let memory = busy.rig.device.memory();
        if packed {
            memory.store_u64(area(32) + 8, 2 << 32 | 0x8080 << 48).unwrap();
        } else {
            memory.store_u64(area(48) + 4, 2).unwrap();
            memory.store_u64(area(48) - 4, 1 << 48).unwrap();
        }
        assert_eq!((busy.tx.reclaim(drop), busy.tx.in_flight()), (0, 2));
        let text = busy.post().unwrap_err().to_string();
        assert!(text.contains("transmit queue 0: chain 2 was used, which the device did not have"), "{text}");
    }
}

/// With IN_ORDER an entry stands for all chains before it: the index has to move over them.
#[test]
fn a_batch_that_the_index_does_not_move_over_is_none() {
    let mut busy = Busy::new(without(Features::RING_PACKED));
    busy.rig.device.with_model(|model| model.faults().used = Some((1, Misuse::LastOnly)));
    busy.post_some(5);
    busy.rig.steps(50);
    assert_eq!((busy.tx.reclaim(drop), busy.dropped()), (0, 0));
    let text = busy.post().unwrap_err().to_string();
    assert!(text.contains("transmit queue 0: chain 8 ends a batch of 5, and the used index moved by 1"), "{text}");
}

/// A device that writes used entries faster than they can be read: each call ends all the same.
#[test]
fn a_device_that_goes_on_for_ever_does_not_keep_us() {
    for (queue, model) in [0, 1].into_iter().flat_map(|queue| models().into_iter().map(move |model| (queue, model))) {
        let mut busy = Busy::new(model);
        busy.rig.device.with_model(|model| model.faults().used = Some((queue, Misuse::Endless)));
        let running = busy.rig.device.spawn();
        for _ in 0..30 {
            if busy.post().is_ok() {
                busy.tx.publish();
            }
            busy.tx.reclaim(drop);
            assert!(busy.rx.poll(usize::MAX, |frame| assert!(frame.len() <= 8 * 2048)) <= 64);
        }
        drop(running);
        let dropped = busy.dropped.clone();
        let in_flight = busy.tx.in_flight();
        let before = dropped.load(Ordering::SeqCst);
        drop(busy);
        assert_eq!(dropped.load(Ordering::SeqCst), before + in_flight, "each token once");
    }
}

/// Marks of another lap say nothing, and so does a device that is a lap ahead: tokens stay where they are.
#[test]
fn a_packed_ring_in_another_lap_stands_still() {
    for model in models().into_iter().filter(is_packed) {
        let mut busy = Busy::new(model);
        busy.rig.device.with_model(|model| model.faults().used = Some((1, Misuse::Jump(64 * 15))));
        busy.post_some(5);
        busy.rig.steps(50);
        for _ in 0..3 {
            assert_eq!(busy.tx.reclaim(drop), 0);
        }
        assert_eq!((busy.tx.in_flight(), busy.dropped()), (5, 0));
        let mut back = 0;
        busy.tx.stop(|_| back += 1).unwrap();
        assert_eq!((back, busy.dropped.load(Ordering::SeqCst)), (5, 5));
    }
}

#[test]
fn a_chain_that_was_used_before_is_not_used_again() {
    // In a packed ring the second frame would be written over the lie.
    for model in models().into_iter().filter(|model| !is_packed(model)) {
        let mut busy = Busy::new(model);
        busy.rig.device.with_model(|model| model.faults().used = Some((1, Misuse::Twice)));
        // Two in flight, one used twice: the index is within bounds, the chain is not.
        busy.post_some(1);
        busy.rig.steps(50);
        busy.post_some(1);
        assert_eq!(busy.tx.reclaim(drop), 0);
        let text = busy.post().unwrap_err().to_string();
        assert!(text.contains("chain 0 was used, which the device did not have"), "{text}");
    }
}

const SPLIT_RECEIVE: [(Misuse, &str); 6] = [
    (Misuse::IdOutOfRange, "receive queue 0: chain 64 was used in a ring of 64"),
    (Misuse::Twice, "receive queue 0: chain 0 was used, which the device did not have"),
    (Misuse::LenTooLong, "receive queue 0: 2049 bytes were written into the 2048 of chain"),
    (Misuse::Jump(1000), "receive queue 0: the used index moved by 1001"),
    (Misuse::Jump(40_000), "receive queue 0: the used index moved by 40001"),
    (Misuse::Endless, "receive queue 0: "),
];

const PACKED_RECEIVE: [(Misuse, &str); 6] = [
    (Misuse::IdOutOfRange, "receive queue 0: chain 64 was used in a ring of 64"),
    (Misuse::Twice, "receive queue 0: chain 0 was used, which the device did not have"),
    (Misuse::LenTooLong, "receive queue 0: 2049 bytes were written into the 2048 of chain"),
    (Misuse::Jump(7), "receive queue 0: chain 0 was used, which the device did not have"),
    (Misuse::Jump(2 * 64 * 300), "receive queue 0: a frame of 0 bytes in chain 0 has no net header"),
    (Misuse::Endless, "receive queue 0: "),
];

#[test]
fn a_receive_ring_that_is_misused_gives_nothing_more() {
    for model in models() {
        for (misuse, says) in if is_packed(&model) { PACKED_RECEIVE } else { SPLIT_RECEIVE } {
            let mut busy = Busy::new(model.clone());
            busy.rig.device.with_model(|model| model.faults().used = Some((0, misuse)));
            busy.post_some(1);
            busy.rig.steps(50);
            for _ in 0..5 {
                let frames = busy.rx.poll(4096, |frame| assert!(frame.len() <= 8 * 2048));
                assert!(frames <= 1, "{misuse:?}");
                busy.rig.steps(5);
            }
            let text = busy.rig.nic.link().unwrap_err().to_string();
            assert!(text.contains(says), "{misuse:?}: {text}");
            assert_eq!(busy.rx.poll(4096, |_| panic!("a frame of a device that is not believed")), 0);
            drop(busy.rx);
            drop(busy.tx);
            assert_eq!(busy.dropped.load(Ordering::SeqCst), 1);
        }
    }
}

#[test]
fn buffers_are_merged_only_as_far_as_they_make_sense() {
    for (count, model) in [0, 2, 9, 65_535].into_iter().flat_map(|count| rings().map(|ring| (count, ring))) {
        let mut busy = Busy::new(model);
        busy.rig.device.with_model(|model| model.faults().num_buffers = Some(count));
        busy.post_some(3);
        busy.rig.settle();
        assert_eq!(busy.rx.poll(4096, |_| panic!("{count}")), 0);
        let text = busy.rig.nic.link().unwrap_err().to_string();
        let says = match count {
            2 => "which is not the last of its frame".to_owned(),
            _ => format!("num_buffers of a frame is {count}"),
        };
        assert!(text.contains(&says), "{text}");
    }
}

#[test]
fn a_device_that_cannot_be_brought_up_says_why() {
    let open = |faults: Faults| {
        Rig::open(virtio::Config::default(), Config::default(), faults).map(|_| ()).unwrap_err().to_string()
    };
    let cases = [
        (Faults { refuse_features: true, ..Faults::default() }, "refuses"),
        (Faults { restless_config: true, ..Faults::default() }, "changed under each of 16 readings"),
        (Faults { queue_size: Some(0), ..Faults::default() }, "queue 0 has 0 descriptors"),
        (Faults { queue_size: Some(15), ..Faults::default() }, "queue 0 has 15 descriptors"),
        (Faults { queue_size: Some(0xffff), ..Faults::default() }, "queue 0 has 65535 descriptors"),
        (Faults { notify_off: Some(0xffff), ..Faults::default() }, "queue_notify_off 65535 is behind its"),
        (Faults { all_ones: true, ..Faults::default() }, "ffff:ffff"),
    ];
    for (faults, says) in cases {
        let text = open(faults.clone());
        assert!(text.contains(says), "{faults:?}: {text}");
    }
    let odd = Faults { queue_size: Some(100), ..Faults::default() };
    let text = Rig::open(without(Features::RING_PACKED), Config::default(), odd.clone()).map(|_| ()).unwrap_err();
    assert!(text.to_string().contains("queue 0 has 100 descriptors, not a power of two"), "{text}");
    let rig = Rig::open(virtio::Config::default(), Config::default(), odd).unwrap();
    assert_eq!(rig.nic.capabilities().tx_ring, 64, "a packed ring takes what a power of two is of it");
    // One that has no vectors is as good as another to a driver that polls.
    let none = Faults { refuse_vectors: true, ..Faults::default() };
    Rig::open(virtio::Config::default(), Config::default(), none).unwrap();
}

/// Each byte of each capability, wrong in several ways: an error, or a device that works; never a panic.
#[test]
fn any_capability_is_survived() {
    let rig = Rig::new();
    let vendor = rig.function.capabilities(9).unwrap();
    assert!(vendor.len() >= 4, "{vendor:?}");
    let mut said = std::collections::BTreeSet::new();
    for at in 0x34..=0xff {
        for value in [0, 1, 3, 6, 0x40, 0x7f, 0x80, 0xfe, 0xff] {
            let faults = Faults { config_space: vec![(at, value)], ..Faults::default() };
            // Commands would be waited for where doorbells are in the wrong place.
            let model = without(Features::CTRL_VQ | Features::CTRL_RX | Features::CTRL_MAC_ADDR | Features::MQ);
            let opened = Rig::open(model, Config::default(), faults);
            if let Err(error) = opened {
                said.insert(error.to_string());
            }
        }
    }
    for kind in ["no common configuration capability", "reaches behind", "notify_off_multiplier is", "at least"] {
        assert!(said.iter().any(|text| text.contains(kind)), "{kind}: {said:#?}");
    }
}

#[test]
fn bytes_of_the_rings_are_survived() {
    use stillwire_emulator::BusMemory;
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for model in rings() {
        let packed = is_packed(&model);
        let (mut failures, mut frames) = (0, 0);
        for _ in 0..200 {
            let mut busy = Busy::new(model.clone());
            let common = busy.rig.function.registers(4, 0x1000).unwrap();
            for _ in 0..20 {
                if busy.post().is_err() {
                    failures += 1;
                    break;
                }
                busy.tx.publish();
                common.write16(22, (next() & 1) as u16);
                let area = |low| u64::from(common.read(low)) | u64::from(common.read(low + 4)) << 32;
                // A word with marks of either lap, any marks, an entry of sense, or rubbish.
                let entry = ((next() % 64) << 32) | (next() % 3000);
                let (at, word) = match (packed, next() & 3) {
                    (true, 0) => (area(32) + next() % 64 * 16 + 8, entry | 0x8080 << 48),
                    (true, 1) => (area(32) + next() % 64 * 16 + 8, entry),
                    (true, 2) => (area(32) + next() % 64 * 16 + 8, entry | next() << 48),
                    // Aligned words of the used ring: 4 bytes in.
                    (false, 0 | 1) => (area(48) - 4 + next() % 65 * 8, entry.rotate_left(16) & 0xffff_ffff_0000_ffff),
                    _ => (area(if packed { 32 } else { 48 }) / 8 * 8 + next() % 65 * 8, next()),
                };
                // Behind what the device wrote itself.
                busy.rig.steps(20);
                busy.rig.device.memory().store_u64(at, word).unwrap();
                busy.tx.reclaim(drop);
                frames += busy.rx.poll(4096, |frame| assert!(frame.len() <= 8 * 2048));
            }
            drop(busy.tx);
            assert!(busy.dropped.load(Ordering::SeqCst) > 0);
        }
        assert!(failures > 0 && frames > 0, "{failures} failures, {frames} frames");
    }
}

/// What was true of the device each time a token was dropped: bus mastering, and its status.
type Seen = Arc<Mutex<Vec<(bool, u8)>>>;

fn look(device: &LocalDevice<Model>) -> (bool, u8) {
    use stillwire_emulator::DeviceModel;
    device.with_model(|model| {
        let (mut command, mut status) = ([0; 2], [0]);
        DeviceModel::config_read(model, 4, &mut command);
        DeviceModel::bar_read(model, 4, 20, &mut status);
        (command[0] & 4 != 0, status[0])
    })
}

/// A NIC whose transmit is stalled, with five frames in flight; the tokens look at the device when they are dropped.
fn stalled(faults: Faults) -> (Rig, TxQueue<Token>, Seen) {
    stalled_on(virtio::Config::default(), faults)
}

fn stalled_on(model: virtio::Config, faults: Faults) -> (Rig, TxQueue<Token>, Seen) {
    let rig = Rig::with(model, Config::default());
    let mut tx = rig.nic.tx_queue::<Token>().unwrap();
    rig.device.with_model(|model| *model.faults() = Faults { stall_tx: true, ..faults });
    let memory = Memory::new(&rig.function, &[5; 4096]);
    let seen = Seen::default();
    for _ in 0..5 {
        let (device, seen) = (rig.device.clone(), seen.clone());
        let mut token = Token::new(&memory, vec![0..1000]);
        token.on_drop = Some(Arc::new(Mutex::new(move || seen.lock().unwrap().push(look(&device)))));
        let header = header(&rig, Offload::UDP_V4, 1000);
        let posted = tx.post(Frame::new(&header).offload(Offload::UDP_V4).payload(token)).unwrap();
        assert!(matches!(posted, Posted::Queued));
    }
    tx.publish();
    rig.settle();
    assert_eq!(tx.reclaim(drop), 0, "transmit is stalled");
    (rig, tx, seen)
}

/// After the tokens are gone the device is let off its leash: it must read nothing more.
fn assert_reads_no_more(rig: &Rig) {
    let before = rig.device.with_model(|model| {
        *model.faults() = Faults::default();
        model.counters()
    });
    rig.advance(Duration::from_secs(1));
    let after = rig.device.with_model(|model| model.counters());
    assert_eq!((before.dma_reads, before.frames_sent), (after.dma_reads, after.frames_sent));
}

#[test]
fn dropping_the_queue_with_frames_in_flight_waits_for_the_proof() {
    for model in rings() {
        let (rig, tx, seen) = stalled_on(model, Faults::default());
        let (bus_master, status) = look(&rig.device);
        assert!(bus_master && status == 15, "{status}");
        drop(tx);
        assert_eq!(*seen.lock().unwrap(), [(false, 0); 5], "bus mastering, status");
        assert_reads_no_more(&rig);
    }
}

#[test]
fn dropping_the_nic_first_gives_nothing_back_until_the_queue_goes() {
    let (rig, tx, seen) = stalled(Faults::default());
    let Rig { nic, device, function, .. } = rig;
    drop(nic);
    assert!(seen.lock().unwrap().is_empty(), "the tokens are the queue's");
    assert_eq!(look(&device), (false, 0), "the device is quiet all the same");
    drop(tx);
    assert_eq!(*seen.lock().unwrap(), [(false, 0); 5]);
    let _running = device.spawn();
    Nic::open(function, Config::default()).unwrap();
}

#[test]
fn a_device_that_does_not_reset_is_cut_off_from_the_bus() {
    let (rig, tx, seen) = stalled(Faults { stuck_reset: true, ..Faults::default() });
    drop(tx);
    let seen = seen.lock().unwrap();
    assert!(seen.len() == 5 && seen.iter().all(|(bus_master, status)| !bus_master && *status != 0), "{seen:?}");
    drop(seen);
    let Rig { nic, function, .. } = &rig;
    assert!(nic.stop().is_ok(), "asked again, the answer is the same");
    assert!(matches!(Nic::open(function.clone(), Config::default()), Err(Error::Dma(_))), "it is in use");
    assert_reads_no_more(&rig);
    let Rig { nic, function, device, .. } = rig;
    drop(nic);
    device.with_model(|model| model.faults().stuck_reset = true);
    // Left by its last driver in a state that it does not leave: not to be used.
    let again = Nic::open(function, Config::default()).map(|_| ()).unwrap_err().to_string();
    assert!(again.contains("DEVICE_STATUS") && again.contains("waited for 0x0"), "{again}");
}

#[test]
fn without_proof_nothing_is_ever_released() {
    for model in rings() {
        let (rig, tx, seen) = stalled_on(model, Faults { all_ones: true, ..Faults::default() });
        match tx.stop(|_| panic!("a token came back")) {
            Err(error @ Error::NotQuiet { kept: 5, .. }) => assert!(error.to_string().contains("5 buffers"), "{error}"),
            other => panic!("{other:?}"),
        }
        assert!(seen.lock().unwrap().is_empty());
        assert!(matches!(rig.nic.link(), Err(Error::Gone { .. })));
    }
}

#[test]
fn stop_hands_the_tokens_back_in_order_and_a_stopped_nic_gives_no_queues() {
    for model in rings() {
        let (rig, tx, seen) = stalled_on(model, Faults::default());
        let mut back = Vec::new();
        tx.stop(|token| back.push(token)).unwrap();
        assert_eq!((back.len(), seen.lock().unwrap().len()), (5, 0));
        assert!(matches!(rig.nic.rx_queue(), Err(Error::Stopped { .. })));
    }
}
