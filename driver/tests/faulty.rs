//! Any of the families behind a bus on which anything goes wrong: nothing panics, nothing ends never, and each token comes back
//! once.
#![allow(missing_docs)]

mod common;

use std::time::Duration;

use common::faulty::{Chance, Fate, Random, Rates, Sim};
use proptest::prelude::*;
use stillwire_driver::Config;
use stillwire_emulator::scripted::Faulty;
use stillwire_emulator::virtio::Features;
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{DmaFate, Doorbells, InterruptFate, RegisterFate, StepFate, ice, ixgbe, virtio};

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
const DELAY: Duration = Duration::from_micros(20);

fn ixgbe() -> ixgbe::Model {
    let config = ixgbe::Config { doorbells: Doorbells::Messages, transmit_delay: DELAY, ..ixgbe::Config::default() };
    ixgbe::Model::new(config, Box::new(Loopback::new()))
}

fn ice() -> ice::Model {
    let doorbells = Doorbells::Messages;
    let config = ice::Config { package: true, doorbells, transmit_delay: DELAY, ..ice::Config::default() };
    ice::Model::new(config, Box::new(Loopback::new())).unwrap()
}

/// One of the kinds of rings.
fn virtio(kind: u64) -> virtio::Model {
    let mut features = Features::all();
    features.set(Features::RING_PACKED, kind & 1 != 0);
    features.set(Features::IN_ORDER, kind & 2 != 0);
    features.set(Features::EVENT_IDX, kind & 4 != 0);
    let doorbells = Doorbells::Messages;
    let config = virtio::Config { features, doorbells, transmit_delay: DELAY, ..virtio::Config::default() };
    virtio::Model::new(config, Box::new(Loopback::new())).unwrap()
}

/// How a run goes on beside its mishaps.
#[derive(Clone, Debug)]
struct Life {
    seed: u64,
    /// Things go wrong from the beginning, and not only once the NIC is up.
    from_the_start: bool,
    rounds: u64,
    rates: Rates,
}

fn live<M: Faulty>(model: M, life: &Life) -> Sim<M> {
    let mut random = Random(!life.seed);
    let mut sim = Sim::new(model, life.seed, life.rates.clone());
    sim.arm(life.from_the_start);
    if sim.open(CONFIG).is_err() {
        return sim;
    }
    // A queue that could not be had is done without.
    let _ = sim.take_queues();
    sim.arm(true);
    for _ in 0..life.rounds {
        match random.below(12) {
            0..=4 => {
                (0..random.below(8)).for_each(|_| sim.post(random.below(2) as usize));
                sim.publish();
            }
            5..=7 => drop(sim.poll()),
            8 => sim.wait(Duration::from_micros(random.below(200))),
            9 => sim.function.sleep(Duration::from_micros(random.below(100))),
            10 => drop(sim.nic.as_ref().map(|nic| (nic.link(), nic.statistics()))),
            _ if random.below(8) == 0 => {
                let _ = sim.reset();
                let _ = sim.take_queues();
            }
            _ => drop(sim.device.settle()),
        }
    }
    sim.watch();
    sim
}

/// Honest mishaps: those under which a device still reads only what it was given and says only what is true.
/// A report that is one word may be lost or overtaken besides: it says of a frame that it is done, or does not.
fn honest(one_word: bool) -> impl Strategy<Value = Rates> {
    let late = move |kind, steps| match kind {
        1 if one_word => DmaFate::Lose,
        2 if one_word => DmaFate::Overtaken(steps),
        _ => DmaFate::Late(steps),
    };
    let dma =
        prop::collection::vec((1u16..200, (0..3, 0u32..5).prop_map(move |(kind, steps)| late(kind, steps))), 0..3);
    let refuse = prop_oneof![3 => Just(0u16), 1 => 1u16..20];
    let register = prop::collection::vec(
        (1u16..100, prop_oneof![(0u32..5).prop_map(RegisterFate::Late), Just(RegisterFate::Lose)]),
        0..2,
    );
    (dma, refuse, register, interrupts(), ends()).prop_map(|(mut dma, refuse, mut register, interrupt, (step, end))| {
        dma.push((refuse, DmaFate::Refuse));
        register.push(end);
        Rates { dma, register, interrupt, step, honest: true }
    })
}

/// What can happen to an interrupt.
fn interrupts() -> impl Strategy<Value = Vec<(u16, InterruptFate)>> {
    let fate = prop_oneof![
        Just(InterruptFate::Lose),
        (0u32..5).prop_map(InterruptFate::Late),
        (0u32..5).prop_map(InterruptFate::Twice)
    ];
    prop::collection::vec((1u16..2000, fate), 0..2)
}

/// What ends a device's life, or makes it stand still.
fn ends() -> impl Strategy<Value = (Vec<(u16, StepFate)>, (u16, RegisterFate))> {
    let step = prop_oneof![
        4 => Just((0, StepFate::Pass)),
        1 => (1u16..2000).prop_map(|rate| (rate, StepFate::Skip)),
        1 => (1u16..4).prop_map(|rate| (rate, StepFate::Reset)),
        1 => (1u16..4).prop_map(|rate| (rate, StepFate::Remove)),
    ];
    let register = prop_oneof![
        4 => Just((0, RegisterFate::Pass)),
        1 => (1u16..10).prop_map(|rate| (rate, RegisterFate::Reset)),
        1 => (1u16..10).prop_map(|rate| (rate, RegisterFate::Remove)),
    ];
    (prop::collection::vec(step, 1), register)
}

/// Whatever can be thought of.
fn any_mishaps() -> impl Strategy<Value = Rates> {
    let dma = prop_oneof![
        Just(DmaFate::Refuse),
        Just(DmaFate::Lose),
        (0u32..5).prop_map(DmaFate::Late),
        (0u32..5).prop_map(DmaFate::Overtaken),
        (0u32..20).prop_map(DmaFate::Twice),
        (-8i64..8).prop_map(|step| DmaFate::Astray(8 * step)),
        any::<u32>().prop_map(DmaFate::Garble),
        (0u32..32).prop_map(|bit| DmaFate::Garble(1 << bit)),
    ];
    let register = prop_oneof![
        Just(RegisterFate::Lose),
        (0u32..5).prop_map(RegisterFate::Late),
        any::<u32>().prop_map(RegisterFate::Garble),
        (0u32..32).prop_map(|bit| RegisterFate::Garble(1 << bit)),
    ];
    let dma = prop::collection::vec((1u16..200, dma), 0..4);
    let register = prop::collection::vec((1u16..60, register), 0..3);
    (dma, register, interrupts(), ends()).prop_map(|(dma, mut register, interrupt, (step, end))| {
        register.push(end);
        Rates { dma, register, interrupt, step, honest: false }
    })
}

fn lives(rates: impl Strategy<Value = Rates>) -> impl Strategy<Value = Life> {
    (any::<u64>(), prop::bool::weighted(0.3), 10u64..120, rates)
        .prop_map(|(seed, from_the_start, rounds, rates)| Life { seed, from_the_start, rounds, rates })
}

fn cases(count: u32) -> ProptestConfig {
    let count = std::env::var("STILLWIRE_MISHAPS").ok().and_then(|count| count.parse().ok()).unwrap_or(count);
    ProptestConfig { cases: count, failure_persistence: None, ..ProptestConfig::default() }
}

fn check_honest<M: Faulty>(model: M, life: &Life) {
    let sim = live(model, life);
    let chance = sim.chance.clone();
    sim.finish();
    assert_eq!(chance.lock().unwrap().breaches, [""; 0]);
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn anything_goes_wrong_with_an_82599(life in lives(any_mishaps())) {
        live(ixgbe(), &life).finish();
    }

    #[test]
    fn anything_goes_wrong_with_an_e810(life in lives(any_mishaps())) {
        live(ice(), &life).finish();
    }

    #[test]
    fn anything_goes_wrong_with_a_virtio_device(life in lives(any_mishaps())) {
        live(virtio(life.seed >> 7), &life).finish();
    }

    /// While a device is honest, it reads nothing that came back to its owner, whatever else goes wrong.
    #[test]
    fn an_honest_82599_reads_what_is_held(life in lives(honest(true))) {
        check_honest(ixgbe(), &life);
    }

    #[test]
    fn an_honest_e810_reads_what_is_held(life in lives(honest(false))) {
        check_honest(ice(), &life);
    }

    #[test]
    fn an_honest_virtio_device_reads_what_is_held(life in lives(honest(false))) {
        check_honest(virtio(life.seed >> 7), &life);
    }
}

/// The same seed is the same run.
#[test]
fn a_run_is_its_seed() {
    fn check<M: Faulty>(model: impl Fn() -> M) {
        let dma = vec![(100, DmaFate::Late(3)), (20, DmaFate::Lose), (20, DmaFate::Astray(16))];
        let register = vec![(50, RegisterFate::Late(2)), (4, RegisterFate::Garble(1))];
        let interrupt = vec![(500, InterruptFate::Lose)];
        let rates = Rates { dma, register, interrupt, step: vec![(2, StepFate::Reset)], honest: false };
        for seed in 0..3 {
            let life = Life { seed, from_the_start: false, rounds: 200, rates: rates.clone() };
            let run = || {
                let sim = live(model(), &life);
                let (fates, time) = (sim.book.borrow().fates.clone(), stillwire_emulator::Clock::now(&*sim.clock));
                let Chance { seen, mishaps, .. } = &mut *sim.chance.lock().unwrap();
                (std::mem::take(seen), *mishaps, fates, time, sim.received)
            };
            let (first, second) = (run(), run());
            assert!(first.1 > 0 && first.2.len() > 20, "seed {seed}: {} mishaps, {} tokens", first.1, first.2.len());
            assert!(first == second, "seed {seed}");
        }
    }
    check(ixgbe);
    check(ice);
    check(|| virtio(0));
    check(|| virtio(3));
}

/// Without mishaps all is sent, and comes back as done.
#[test]
fn nothing_goes_wrong_by_itself() {
    fn check<M: Faulty>(model: M) {
        let life = Life { seed: 5, from_the_start: true, rounds: 100, rates: Rates::default() };
        let sim = live(model, &life);
        assert!(sim.received > 0);
        assert!(sim.book.borrow().fates.iter().all(|fate| matches!(fate, Fate::Done | Fate::NotSent | Fate::Refused)));
        assert_eq!(sim.kept, 0);
        let chance = sim.chance.clone();
        sim.finish();
        assert_eq!(chance.lock().unwrap().breaches, [""; 0]);
    }
    check(ixgbe());
    check(ice());
    (0..8).for_each(|kind| check(virtio(kind)));
}
