//! A NIC and its device in one thread, in a time of their own: no wait takes real time, and the same calls do the same things.
#![allow(missing_docs)]
#![allow(clippy::single_range_in_vec_init, reason = "one piece of payload")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::traced::{Line, Traced};
use common::{Memory, Token};
use stillwire_dma::PciFunction;
use stillwire_driver::{Config, Error, Frame, Nic, Posted};
use stillwire_emulator::scripted::Faulty;
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{Clock, LocalDevice, MemoryTable, VirtualClock, ice, ixgbe, virtio};

/// Who waits for this in real time is found out.
const LONG: Duration = Duration::from_secs(20);
/// Between a frame's passes: its end is waited for.
const DELAY: Duration = Duration::from_micros(300);
const CONFIG: Config = Config {
    tx_ring: 64,
    rx_ring: 64,
    max_frame: 1514,
    promiscuous: true,
    queues: 2,
    vlan_strip: false,
    interrupts: true,
    flow_control: false,
};

fn ixgbe() -> ixgbe::Model {
    ixgbe::Model::new(ixgbe::Config { transmit_delay: DELAY, ..ixgbe::Config::default() }, Box::new(Loopback::new()))
}

fn ice() -> ice::Model {
    ice::Model::new(
        ice::Config { package: true, transmit_delay: DELAY, ..ice::Config::default() },
        Box::new(Loopback::new()),
    )
    .unwrap()
}

fn virtio() -> virtio::Model {
    let config = virtio::Config { transmit_delay: DELAY, ..virtio::Config::default() };
    virtio::Model::new(config, Box::new(Loopback::new())).unwrap()
}

fn stepped<M: Faulty>(model: M) -> (Arc<LocalDevice<M>>, Arc<VirtualClock>) {
    let clock = Arc::new(VirtualClock::new());
    (LocalDevice::stepped(model, MemoryTable::new(), clock.clone()), clock)
}

/// A NIC's life: all that went over its bus, and the frames that came back to it.
fn live<M: Faulty>(model: M) -> (Vec<(Duration, Line)>, Vec<Vec<u8>>) {
    let (device, _) = stepped(model);
    let traced = Traced::new(device);
    let function = PciFunction::from_backend(traced.clone());
    let mut nic = Nic::open(function.clone(), CONFIG).unwrap();
    nic.wait_for_link(LONG).unwrap();
    let memory = Memory::new(&function, &[7; 4096]);
    let (dropped, mut frames) = (Arc::new(AtomicUsize::new(0)), Vec::new());
    for life in 0..2 {
        let mut pairs: Vec<_> = (0..2).map(|_| (nic.tx_queue().unwrap(), nic.rx_queue().unwrap())).collect();
        for number in 0..20 {
            let (tx, _) = &mut pairs[number % 2];
            let token = Token::new(&memory, vec![0..100 + number]).counted(&dropped);
            assert!(matches!(tx.post(Frame::new(&[0xff; 60]).payload(token)).unwrap(), Posted::Queued));
            tx.publish();
        }
        let mut done = 0;
        while done < 20 || frames.len() < 20 * (life + 1) {
            let mut found = 0;
            for (tx, rx) in &mut pairs {
                tx.reclaim(|_| done += 1);
                found += rx.poll(64, |frame| {
                    let mut bytes = Vec::new();
                    frame.copy_to(&mut bytes);
                    frames.push(bytes);
                });
            }
            if found == 0 {
                // Which of the pairs gets the frames is the device's affair.
                let (tx, rx) = &mut pairs[0];
                rx.wait(tx, Duration::from_millis(1)).unwrap();
            }
        }
        let (tx, rx): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        match life {
            0 => nic.reset(tx, rx, |_, _| ()).unwrap(),
            _ => drop((tx, rx)),
        }
    }
    drop(nic);
    assert_eq!(dropped.load(Ordering::SeqCst), 40);
    let lines = std::mem::take(&mut *traced.lines.lock().unwrap());
    (lines, frames)
}

fn two_lives_are_one<M: Faulty>(model: impl Fn() -> M) {
    let (first, second) = (live(model()), live(model()));
    assert!(first.0.iter().any(|(_, line)| matches!(line, Line::Wait { happened: true })), "an interrupt came");
    for (at, (first, second)) in first.0.iter().zip(&second.0).enumerate() {
        assert_eq!(first, second, "line {at}");
    }
    assert_eq!(first.0.len(), second.0.len());
    assert_eq!(first.1, second.1);
}

#[test]
fn two_lives_of_an_82599_are_one() {
    two_lives_are_one(ixgbe);
}

#[test]
fn two_lives_of_an_e810_are_one() {
    two_lives_are_one(ice);
}

#[test]
fn two_lives_of_a_virtio_device_are_one() {
    two_lives_are_one(virtio);
}

fn a_link_that_never_comes_takes_no_time<M: Faulty>(mut model: M) {
    model.set_link_down(true);
    let (device, clock) = stepped(model);
    let nic = Nic::open(PciFunction::from_backend(device), CONFIG).unwrap();
    let before = clock.now();
    match nic.wait_for_link(LONG) {
        Err(Error::NoLink { waited, .. }) => {
            assert!(waited >= LONG && waited < LONG + Duration::from_secs(1), "{waited:?}");
            assert_eq!(clock.now() - before, waited);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nobody_waits_for_a_link_in_real_time() {
    a_link_that_never_comes_takes_no_time(ixgbe());
    a_link_that_never_comes_takes_no_time(ice());
    a_link_that_never_comes_takes_no_time(virtio());
}

#[test]
fn an_interrupt_that_never_comes_takes_no_time() {
    fn check<M: Faulty>(model: M) {
        let (device, clock) = stepped(model);
        let nic = Nic::open(PciFunction::from_backend(device), CONFIG).unwrap();
        let (mut tx, mut rx) = (nic.tx_queue::<()>().unwrap(), nic.rx_queue().unwrap());
        let before = clock.now();
        assert!(!rx.wait(&mut tx, LONG).unwrap());
        assert_eq!(clock.now() - before, LONG);
    }
    check(ixgbe());
    check(ice());
    check(virtio());
}

/// Each wait with a deadline, at a device that does not do what is waited for.
#[test]
fn deadlines_are_in_the_devices_time() {
    let (device, clock) = stepped(ice());
    device.with_model(|model| model.faults().silent_adminq = true);
    let error = Nic::open(PciFunction::from_backend(device), CONFIG).err().unwrap();
    assert!(matches!(error, Error::Command { .. }), "{error}");
    assert!(clock.now() >= Duration::from_secs(2), "{:?}", clock.now());

    let (device, clock) = stepped(virtio());
    device.with_model(|model| model.faults().silent_control = true);
    let error = Nic::open(PciFunction::from_backend(device), CONFIG).err().unwrap();
    assert!(matches!(error, Error::Command { .. }), "{error}");
    assert!(clock.now() >= Duration::from_secs(1), "{:?}", clock.now());

    let (device, clock) = stepped(virtio());
    let nic = Nic::open(PciFunction::from_backend(device.clone()), CONFIG).unwrap();
    device.with_model(|model| model.faults().stuck_reset = true);
    nic.stop().unwrap();
    assert!(clock.now() >= Duration::from_millis(550), "{:?}", clock.now());

    let (device, clock) = stepped(ixgbe());
    device.with_model(|model| model.faults().stuck_master = true);
    let nic = Nic::open(PciFunction::from_backend(device), CONFIG).unwrap();
    assert!(clock.now() >= Duration::from_millis(80), "{:?}", clock.now());
    nic.stop().unwrap();
    assert!(clock.now() >= Duration::from_millis(160), "{:?}", clock.now());
}
