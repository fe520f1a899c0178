//! Each kind of fault by itself, and a driver that gets over it.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::faulty::{Fate, Rates, Sim};
use stillwire_driver::{Config, Error};
use stillwire_emulator::scripted::Faulty;
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{
    Clock, DmaAccess, DmaFate, Doorbells, InterruptFate, RegisterAccess, RegisterFate, StepFate, ice, ixgbe, virtio,
};

const CONFIG: Config = Config {
    tx_ring: 64,
    rx_ring: 64,
    max_frame: 1514,
    promiscuous: true,
    queues: 1,
    vlan_strip: false,
    interrupts: true,
    flow_control: false,
};

fn ixgbe() -> ixgbe::Model {
    let config = ixgbe::Config { doorbells: Doorbells::Messages, ..ixgbe::Config::default() };
    ixgbe::Model::new(config, Box::new(Loopback::new()))
}

fn ice() -> ice::Model {
    let config = ice::Config { package: true, doorbells: Doorbells::Messages, ..ice::Config::default() };
    ice::Model::new(config, Box::new(Loopback::new())).unwrap()
}

fn virtio() -> virtio::Model {
    let config = virtio::Config { doorbells: Doorbells::Messages, ..virtio::Config::default() };
    virtio::Model::new(config, Box::new(Loopback::new())).unwrap()
}

/// One that is up, with its queues taken.
fn up<M: Faulty>(model: M) -> Sim<M> {
    let mut sim = Sim::new(model, 0, Rates::default());
    sim.open(CONFIG).unwrap();
    sim.nic.as_ref().unwrap().wait_for_link(Duration::from_secs(10)).unwrap();
    sim.take_queues().unwrap();
    sim
}

fn send<M: Faulty>(sim: &mut Sim<M>, frames: usize) {
    (0..frames).for_each(|_| sim.post(0));
    sim.publish();
}

/// Lets the device work for a while.
fn work<M: Faulty>(sim: &mut Sim<M>) {
    for _ in 0..8 {
        sim.function.sleep(Duration::from_micros(100));
        sim.poll();
    }
}

/// After whatever happened: it is reset, and works as on the first day.
fn works_again<M: Faulty>(mut sim: Sim<M>) {
    sim.heal();
    sim.reset().unwrap();
    sim.take_queues().unwrap();
    let before = sim.fates().len();
    send(&mut sim, 5);
    work(&mut sim);
    assert_eq!(sim.fates()[before..], [Fate::Done; 5]);
    sim.finish();
}

/// A report of transmitted frames, or part of one: what the device writes that is no received frame.
fn is_report(access: DmaAccess) -> bool {
    access.write && access.len <= 16
}

fn a_report_that_is_lost_for_good_is_a_hang<M: Faulty>(model: M) {
    let mut sim = up(model);
    sim.on_dma(|access| if access.write { DmaFate::Lose } else { DmaFate::Pass });
    send(&mut sim, 5);
    work(&mut sim);
    assert_eq!(sim.fates(), [Fate::Held; 5], "nothing was said");
    sim.watch();
    assert_eq!(sim.fates(), [Fate::NotSent; 5], "the watchdog found out, and the reset gave all back");
    works_again(sim);
}

#[test]
fn a_report_that_is_lost_for_good_is_a_hang_on_ixgbe() {
    a_report_that_is_lost_for_good_is_a_hang(ixgbe());
}

#[test]
fn a_report_that_is_lost_for_good_is_a_hang_on_virtio() {
    a_report_that_is_lost_for_good_is_a_hang(virtio());
}

/// An E810 that loses all it writes does not answer commands either, until it is better: the reset begins with one.
#[test]
fn a_report_that_is_lost_for_good_is_a_hang_on_ice() {
    let mut sim = up(ice());
    sim.on_dma(|access| if is_report(access) { DmaFate::Lose } else { DmaFate::Pass });
    send(&mut sim, 5);
    work(&mut sim);
    assert_eq!(sim.fates(), [Fate::Held; 5]);
    sim.heal();
    sim.watch();
    assert_eq!(sim.fates(), [Fate::NotSent; 5]);
    works_again(sim);
}

fn late_reports_are_waited_for<M: Faulty>(model: M) {
    let mut sim = up(model);
    sim.on_dma(|access| if is_report(access) { DmaFate::Overtaken(6) } else { DmaFate::Pass });
    send(&mut sim, 5);
    let fates: Vec<_> = (0..40)
        .map(|_| {
            sim.device.step(sim.clock.now());
            sim.poll();
            sim.fates()
        })
        .collect();
    assert_eq!(fates[3], [Fate::Held; 5]);
    assert_eq!(fates[39], [Fate::Done; 5]);
    assert!(sim.chance.lock().unwrap().breaches.is_empty());
    works_again(sim);
}

#[test]
fn late_reports_are_waited_for_by_all() {
    late_reports_are_waited_for(ixgbe());
    late_reports_are_waited_for(ice());
    late_reports_are_waited_for(virtio());
}

/// The driver reads a register: all that the device wrote before is there.
#[test]
fn a_read_pushes_what_is_late() {
    let mut sim = up(ixgbe());
    sim.on_dma(|access| if is_report(access) { DmaFate::Overtaken(1_000_000) } else { DmaFate::Pass });
    send(&mut sim, 5);
    work(&mut sim);
    assert_eq!(sim.fates(), [Fate::Held; 5]);
    sim.nic.as_ref().unwrap().link().unwrap();
    sim.poll();
    assert_eq!(sim.fates(), [Fate::Done; 5]);
    works_again(sim);
}

/// Reports at the wrong descriptors, twice, and in another order: lies, but each token comes back once.
#[test]
fn reports_that_lie_are_got_over() {
    fn check<M: Faulty>(model: impl Fn() -> M) {
        for fate in [
            DmaFate::Astray(16),
            DmaFate::Astray(-16),
            DmaFate::Astray(32),
            DmaFate::Twice(3),
            DmaFate::Twice(40),
            DmaFate::Overtaken(3),
            DmaFate::Overtaken(40),
            DmaFate::Garble(1),
            DmaFate::Garble(u32::MAX),
            DmaFate::Garble(0x8000_8000),
        ] {
            let mut sim = up(model());
            let mut reports = 0;
            sim.on_dma(move |access| {
                reports += u64::from(is_report(access));
                if is_report(access) && reports % 3 == 2 { fate } else { DmaFate::Pass }
            });
            for _ in 0..40 {
                send(&mut sim, 3);
                work(&mut sim);
            }
            sim.heal();
            sim.watch();
            if sim.nic.as_ref().is_some_and(|nic| nic.link().is_ok()) {
                works_again(sim);
            } else {
                // It is not believed any more: a reset helps.
                sim.reset().unwrap();
                works_again(sim);
            }
        }
    }
    check(ixgbe);
    check(ice);
    check(virtio);
}

/// The IOMMU says no.
#[test]
fn refused_accesses_stop_a_queue_and_a_reset_helps() {
    fn check<M: Faulty>(model: impl Fn() -> M) {
        for writes in [false, true] {
            let mut sim = up(model());
            let before = sim.device.with_model(|bus| bus.model().counters().bus_faults);
            sim.on_dma(move |access| if access.write == writes { DmaFate::Refuse } else { DmaFate::Pass });
            send(&mut sim, 5);
            work(&mut sim);
            assert!(sim.device.with_model(|bus| bus.model().counters().bus_faults) > before);
            assert_eq!(sim.fates(), [Fate::Held; 5]);
            sim.heal();
            sim.reset().unwrap();
            assert_eq!(sim.fates(), [Fate::NotSent; 5]);
            sim.take_queues().unwrap();
            works_again(sim);
        }
    }
    check(ixgbe);
    check(ice);
    check(virtio);
}

/// The card is pulled with work in its ring: there is no proof that it reads no more, so what it had is kept.
#[test]
fn a_card_that_is_pulled_keeps_what_it_had() {
    fn check<M: Faulty>(model: M) {
        let mut sim = up(model);
        send(&mut sim, 3);
        work(&mut sim);
        sim.on_dma(|_| DmaFate::Refuse);
        send(&mut sim, 4);
        sim.on_register(|_| RegisterFate::Remove);
        assert!(matches!(sim.nic.as_ref().unwrap().link(), Err(Error::Gone { .. } | Error::Protocol { .. })));
        sim.heal();
        let mut bytes = [0; 2];
        sim.device.with_model(|bus| {
            assert!(bus.is_removed());
            stillwire_emulator::DeviceModel::config_read(bus, 4, &mut bytes);
        });
        assert_eq!(bytes, [0xff; 2], "configuration space as well");
        assert!(matches!(sim.reset(), Err(Error::NotQuiet { kept: 4, .. })));
        assert_eq!(sim.fates()[3..], [Fate::Held; 4]);
        // Put in again it is as after power-on, and can be proved quiet.
        sim.device.with_model(|bus| bus.put_back());
        works_again(sim);
    }
    check(ixgbe());
    check(ice());
    check(virtio());
}

/// Somebody resets the function: the device forgets all, and says nothing of it.
#[test]
fn a_function_that_is_reset_under_its_driver_is_a_hang() {
    fn check<M: Faulty>(model: M) {
        let mut sim = up(model);
        send(&mut sim, 3);
        work(&mut sim);
        let mut once = false;
        sim.on_register(move |access| {
            let fate = if access.write && !once { RegisterFate::Reset } else { RegisterFate::Pass };
            once |= access.write;
            fate
        });
        send(&mut sim, 4);
        work(&mut sim);
        assert_eq!(sim.fates()[3..], [Fate::Held; 4]);
        sim.heal();
        // Whether it hangs or has no link depends on the device.
        sim.watch();
        let back = sim.fates()[3..].to_vec();
        if back == [Fate::Held; 4] {
            sim.reset().unwrap();
            sim.take_queues().unwrap();
        }
        assert_eq!(sim.fates()[3..], [Fate::NotSent; 4]);
        works_again(sim);
    }
    check(ixgbe());
    check(ice());
    check(virtio());
}

/// Interrupts are hints: without them a wait ends with its time, and too many do no harm.
#[test]
fn interrupts_are_lost_late_and_twice() {
    fn check<M: Faulty>(model: impl Fn() -> M, fate: InterruptFate, comes: bool) {
        let rates = Rates { interrupt: vec![(4096, fate)], ..Rates::default() };
        let mut sim = Sim::new(model(), 0, rates);
        sim.open(CONFIG).unwrap();
        sim.nic.as_ref().unwrap().wait_for_link(Duration::from_secs(10)).unwrap();
        sim.take_queues().unwrap();
        sim.arm(true);
        for round in 1..=3 {
            // The ring knows nothing yet when it is waited for: frames are late.
            sim.on_dma(|access| if access.write { DmaFate::Late(3) } else { DmaFate::Pass });
            send(&mut sim, 1);
            let before = sim.clock.now();
            let (tx, rx) = (&mut sim.tx[0], &mut sim.rx[0]);
            let found = rx.wait(tx, Duration::from_secs(1)).unwrap();
            let waited = sim.clock.now() - before;
            assert!(found == comes || found && waited < Duration::from_secs(1), "{fate:?}: {found} after {waited:?}");
            work(&mut sim);
            assert_eq!(sim.fates(), vec![Fate::Done; round], "{fate:?}");
        }
        works_again(sim);
    }
    for (fate, comes) in [
        (InterruptFate::Lose, false),
        (InterruptFate::Late(4), true),
        (InterruptFate::Twice(2), true),
        (InterruptFate::Pass, true),
    ] {
        check(ixgbe, fate, comes);
        check(ice, fate, comes);
        check(virtio, fate, comes);
    }
}

/// A device that stands still for a while is none the worse for it.
#[test]
fn a_device_that_does_nothing_for_a_while_goes_on() {
    fn check<M: Faulty>(model: M) {
        let rates = Rates { step: vec![(4096, StepFate::Skip)], ..Rates::default() };
        let mut sim = Sim::new(model, 0, rates);
        sim.open(CONFIG).unwrap();
        sim.nic.as_ref().unwrap().wait_for_link(Duration::from_secs(10)).unwrap();
        sim.take_queues().unwrap();
        sim.arm(true);
        send(&mut sim, 5);
        for _ in 0..50 {
            sim.device.step(sim.clock.now());
        }
        sim.poll();
        assert_eq!(sim.fates(), [Fate::Held; 5]);
        sim.arm(false);
        work(&mut sim);
        assert_eq!(sim.fates(), [Fate::Done; 5]);
        works_again(sim);
    }
    check(ixgbe());
    check(ice());
    check(virtio());
}

/// Brings a NIC up and down once for each access there is, or each few, with `fate` at that one.
fn at_each_access<M: Faulty>(
    model: impl Fn() -> M,
    stride: u64,
    fate: impl Fn(RegisterAccess) -> RegisterFate + Copy + Send + 'static,
) {
    let accesses = Arc::new(AtomicU64::new(0));
    let live = |at: u64| {
        let mut sim = Sim::new(model(), 0, Rates::default());
        let count = accesses.clone();
        count.store(0, Ordering::Relaxed);
        sim.on_register(move |access| {
            let this = count.fetch_add(1, Ordering::Relaxed);
            if this == at { fate(access) } else { RegisterFate::Pass }
        });
        if sim.open(CONFIG).is_ok() && sim.take_queues().is_ok() {
            send(&mut sim, 3);
            work(&mut sim);
        }
        let breaches = sim.chance.clone();
        sim.finish();
        let breaches = std::mem::take(&mut breaches.lock().unwrap().breaches);
        (accesses.load(Ordering::Relaxed), breaches)
    };
    let (all, breaches) = live(u64::MAX);
    assert!(all > 50 && breaches.is_empty(), "{all} accesses, {breaches:?}");
    (0..all).step_by(stride as usize).for_each(|at| drop(live(at)));
}

#[test]
fn a_card_may_go_at_any_access() {
    at_each_access(ixgbe, 17, |_| RegisterFate::Remove);
    at_each_access(ice, 3, |_| RegisterFate::Remove);
    at_each_access(virtio, 1, |_| RegisterFate::Remove);
}

#[test]
fn a_reset_may_come_at_any_access() {
    at_each_access(ixgbe, 29, |_| RegisterFate::Reset);
    at_each_access(ice, 11, |_| RegisterFate::Reset);
    at_each_access(virtio, 3, |_| RegisterFate::Reset);
}

#[test]
fn any_access_may_be_lost_late_or_rubbish() {
    for fate in [
        RegisterFate::Lose,
        RegisterFate::Late(3),
        RegisterFate::Garble(u32::MAX),
        RegisterFate::Garble(1),
        RegisterFate::Garble(0x8000_0000),
        RegisterFate::Garble(0x00ff_00f0),
    ] {
        at_each_access(ixgbe, 61, move |_| fate);
        at_each_access(ice, 11, move |_| fate);
        at_each_access(virtio, 3, move |_| fate);
    }
}

/// Firmware that does not answer, or answers rubbish, at each of its accesses while a NIC comes up.
#[test]
fn firmwares_accesses_may_fail_one_by_one() {
    for fate in
        [DmaFate::Lose, DmaFate::Refuse, DmaFate::Garble(u32::MAX), DmaFate::Garble(4), DmaFate::Late(1_000_000)]
    {
        let live = |at: u64| {
            let mut sim = Sim::new(ice(), 0, Rates::default());
            let count = Arc::new(AtomicU64::new(0));
            let counted = count.clone();
            sim.on_dma(move |_| if counted.fetch_add(1, Ordering::Relaxed) == at { fate } else { DmaFate::Pass });
            let opened = sim.open(CONFIG);
            sim.finish();
            (count.load(Ordering::Relaxed), opened.is_ok())
        };
        let (all, opened) = live(u64::MAX);
        assert!(all > 50 && opened);
        let failed = (0..all).step_by(7).filter(|&at| !live(at).1).count();
        // What is late is there when the driver reads that the command is done: the read pushes it.
        assert_eq!(failed > 0, !matches!(fate, DmaFate::Late(_)), "{fate:?}: {failed} of {all}");
    }
}

/// One of the model's own faults, at a step.
#[test]
fn a_models_own_faults_come_by_name() {
    let rates = Rates { step: vec![(4096, StepFate::Fault("stall-tx"))], ..Rates::default() };
    let mut sim = Sim::new(ixgbe(), 0, rates);
    sim.open(CONFIG).unwrap();
    sim.take_queues().unwrap();
    sim.arm(true);
    send(&mut sim, 2);
    work(&mut sim);
    assert_eq!(sim.fates(), [Fate::Held; 2]);
    sim.device.with_model(|bus| assert!(bus.model().faults().stall_tx));
    sim.heal();
    sim.device.with_model(|bus| bus.model().faults().stall_tx = false);
    works_again(sim);
}
