//! A device that hangs, or loses its link, comes back; what was not sent is known, and released only behind the proof.
#![allow(missing_docs)]
#![allow(clippy::single_range_in_vec_init, reason = "one piece of payload")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Memory, Token};
use stillwire_dma::PciFunction;
use stillwire_driver::{Config, Error, Frame, Look, Nic, Posted, Returned, RxQueue, TxQueue, Verdict, Watchdog};
use stillwire_emulator::scripted::Faulty;
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{DeviceModel, Fault, LocalDevice, Running, Scripted, ice, ixgbe, virtio};

/// A NIC on a model that runs by itself, as a device does.
struct Rig<M: Faulty> {
    nic: Nic,
    function: PciFunction,
    device: Arc<LocalDevice<Scripted<M>>>,
    _running: Running,
}

const CONFIG: Config = Config {
    tx_ring: 128,
    rx_ring: 64,
    max_frame: 1200,
    promiscuous: true,
    queues: 1,
    vlan_strip: false,
    interrupts: false,
    flow_control: false,
};

impl<M: Faulty> Rig<M> {
    fn new(model: M, config: Config) -> Self {
        let device = LocalDevice::new(Scripted::new(model, Vec::new()));
        let function = PciFunction::from_backend(device.clone());
        let running = device.spawn();
        let nic = Nic::open(function.clone(), config).unwrap();
        nic.wait_for_link(Duration::from_secs(5)).unwrap();
        Self { nic, function, device, _running: running }
    }

    fn queues(&self) -> (TxQueue<Token>, RxQueue) {
        (self.nic.tx_queue().unwrap(), self.nic.rx_queue().unwrap())
    }

    fn frames_sent(&self) -> u64 {
        self.device.with_model(|model| model.model().counters().frames_sent)
    }

    /// Whether the device could start to read memory now.
    fn is_bus_master(&self) -> bool {
        is_bus_master(&self.device)
    }

    fn inject(&self, fault: Fault) {
        self.device.with_model(|model| model.add(fault));
        // Not that it is there: a short one may be over by the time that we look.
        wait_for("the fault", || self.device.with_model(|model| model.has_begun()));
    }
}

fn is_bus_master<M: Faulty>(device: &LocalDevice<Scripted<M>>) -> bool {
    let mut command = [0; 2];
    device.with_model(|model| model.config_read(4, &mut command));
    command[0] & 4 != 0
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: not in 20 s");
        std::thread::yield_now();
    }
}

/// Posts frames of which each says its number by its payload's length.
fn post(memory: &Arc<Memory>, tx: &mut TxQueue<Token>, numbers: std::ops::Range<usize>, dropped: &Arc<AtomicUsize>) {
    for number in numbers {
        let token = Token::new(memory, vec![0..100 + number]).counted(dropped);
        assert!(matches!(tx.post(Frame::new(&[0xff; 60]).payload(token)).unwrap(), Posted::Queued));
        tx.publish();
    }
}

fn number(token: &Token) -> usize {
    token.pieces[0].len() - 100
}

fn a_stuck_queue_comes_back<M: Faulty>(model: M) {
    let mut rig = Rig::new(model, Config { interrupts: true, ..CONFIG });
    let before = rig.nic.capabilities();
    let (mut tx, rx) = rig.queues();
    let memory = Memory::new(&rig.function, &[5; 4096]);
    let dropped = Arc::new(AtomicUsize::new(0));
    post(&memory, &mut tx, 0..3, &dropped);
    wait_for("three frames to be sent", || rig.frames_sent() == 3);
    rig.inject(Fault::Stuck { frames: 0 });
    post(&memory, &mut tx, 3..10, &dropped);

    // What a user's loop does, on a clock of its own: the device has no say in it.
    let mut watchdog = Watchdog::new(Duration::from_secs(4));
    let verdicts = (0..6).map(|second| {
        let look = Look { in_flight: tx.in_flight(), completed: 0, link_up: rig.nic.link().unwrap().up };
        watchdog.look(Duration::from_secs(second), look)
    });
    assert_eq!(verdicts.collect::<Vec<_>>()[3..5], [Verdict::Fine, Verdict::Hung(Duration::from_secs(4))]);

    let mut back = Vec::new();
    let device = rig.device.clone();
    rig.nic
        .reset([tx], [rx], |queue, returned| {
            let done = matches!(returned, Returned::Done(_));
            let (Returned::Done(token) | Returned::NotSent(token)) = returned;
            back.push((queue, number(&token), done));
            assert!(done || !is_bus_master(&device), "{back:?} came back before the proof");
            assert_eq!(dropped.load(Ordering::SeqCst), back.len() - 1, "a token was dropped and not handed back");
        })
        .unwrap();
    let expect: Vec<_> = (0..10).map(|number| (0, number, number < 3)).collect();
    assert_eq!(back, expect);
    assert_eq!(dropped.load(Ordering::SeqCst), 10);

    // The same NIC again, with empty rings.
    rig.nic.wait_for_link(Duration::from_secs(5)).unwrap();
    assert_eq!(format!("{:?}", rig.nic.capabilities()), format!("{before:?}"));
    let (mut tx, mut rx) = rig.queues();
    assert_eq!((tx.in_flight(), tx.free(), rx.poll(64, |_| ())), (0, before.tx_ring - 1, 0));
    assert!(rx.wait(&mut tx, Duration::ZERO).is_ok(), "its interrupts as well");
    post(&memory, &mut tx, 3..10, &dropped);
    let mut arrived = Vec::new();
    wait_for("what was not sent", || {
        rx.poll(64, |frame| arrived.push(frame.len() - 160));
        tx.reclaim(drop);
        arrived.len() >= 7 && tx.in_flight() == 0
    });
    assert_eq!(arrived, (3..10).collect::<Vec<_>>());
    let statistics = rig.nic.statistics();
    assert_eq!((statistics.tx_frames, statistics.resets, statistics.link_losses), (10, 1, 0), "over both lives");
}

#[test]
fn a_stuck_queue_comes_back_on_ixgbe() {
    a_stuck_queue_comes_back(ixgbe::Model::new(ixgbe::Config::default(), Box::new(Loopback::new())));
}

#[test]
fn a_stuck_queue_comes_back_on_virtio() {
    a_stuck_queue_comes_back(virtio::Model::new(virtio::Config::default(), Box::new(Loopback::new())).unwrap());
}

#[test]
fn a_stuck_queue_comes_back_on_ice() {
    a_stuck_queue_comes_back(e810());
}

fn e810() -> ice::Model {
    let config = ice::Config { package: true, ..ice::Config::default() };
    ice::Model::new(config, Box::new(Loopback::new())).unwrap()
}

fn without_link_nothing_is_done_and_nothing_hangs<M: Faulty>(model: M) {
    let mut rig = Rig::new(model, CONFIG);
    let (mut tx, rx) = rig.queues();
    let memory = Memory::new(&rig.function, &[5; 4096]);
    let dropped = Arc::new(AtomicUsize::new(0));
    rig.inject(Fault::LinkDown { frames: 0, time: Duration::from_secs(3600) });
    post(&memory, &mut tx, 0..5, &dropped);
    let mut watchdog = Watchdog::new(Duration::from_secs(4));
    for second in 0..60 {
        let completed = tx.reclaim(drop) as u64;
        let look = Look { in_flight: tx.in_flight(), completed, link_up: rig.nic.link().unwrap().up };
        assert_eq!(watchdog.look(Duration::from_secs(second), look), Verdict::LinkDown(Duration::from_secs(second)));
    }
    // A reset gives back what waits for the link, so that nobody has to hold it until the cable is in.
    let mut back = Vec::new();
    rig.nic.reset([tx], [rx], |_, returned| back.push(matches!(returned, Returned::NotSent(_)))).unwrap();
    assert_eq!(back, [true; 5]);
    assert_eq!((rig.nic.link().unwrap().up, rig.frames_sent()), (false, 0));
    assert_eq!(rig.nic.statistics().link_losses, 1);
}

#[test]
fn without_link_nothing_hangs_on_ixgbe() {
    without_link_nothing_is_done_and_nothing_hangs(ixgbe::Model::new(
        ixgbe::Config::default(),
        Box::new(Loopback::new()),
    ));
}

#[test]
fn without_link_nothing_hangs_on_ice() {
    without_link_nothing_is_done_and_nothing_hangs(e810());
}

#[test]
fn without_link_nothing_hangs_on_virtio() {
    let model = virtio::Model::new(virtio::Config::default(), Box::new(Loopback::new())).unwrap();
    without_link_nothing_is_done_and_nothing_hangs(model);
}

fn every_queue_gives_back_in_its_own_order<M: Faulty>(model: M) {
    let mut rig = Rig::new(model, Config { queues: 3, ..CONFIG });
    let memory = Memory::new(&rig.function, &[5; 4096]);
    let dropped = Arc::new(AtomicUsize::new(0));
    let (mut tx, mut rx) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        tx.push(rig.nic.tx_queue::<Token>().unwrap());
        rx.push(rig.nic.rx_queue().unwrap());
    }
    rig.inject(Fault::Stuck { frames: 0 });
    for (queue, tx) in tx.iter_mut().enumerate() {
        post(&memory, tx, queue * 10..queue * 10 + 4, &dropped);
    }
    // In any order: they come from threads of their own.
    tx.rotate_left(1);
    let mut back = Vec::new();
    rig.nic
        .reset(tx, rx, |queue, returned| match returned {
            Returned::NotSent(token) => back.push((queue, number(&token))),
            Returned::Done(token) => panic!("{} was never done", number(&token)),
        })
        .unwrap();
    let expect: Vec<_> = [1, 2, 0].iter().flat_map(|queue| (0..4).map(move |n| (*queue, queue * 10 + n))).collect();
    assert_eq!(back, expect);
    let taken: Vec<_> = (0..3).map(|_| rig.nic.tx_queue::<Token>().unwrap()).collect();
    assert_eq!(taken.iter().map(TxQueue::index).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn every_queue_gives_back_in_its_own_order_on_ixgbe() {
    every_queue_gives_back_in_its_own_order(ixgbe::Model::new(ixgbe::Config::default(), Box::new(Loopback::new())));
}

#[test]
fn every_queue_gives_back_in_its_own_order_on_virtio() {
    let model = virtio::Model::new(virtio::Config::default(), Box::new(Loopback::new())).unwrap();
    every_queue_gives_back_in_its_own_order(model);
}

#[test]
fn without_proof_nothing_comes_back_and_the_nic_stays_down() {
    let model = ixgbe::Model::new(ixgbe::Config::default(), Box::new(Loopback::new()));
    let mut rig = Rig::new(model, CONFIG);
    let (mut tx, rx) = rig.queues();
    let memory = Memory::new(&rig.function, &[5; 4096]);
    let dropped = Arc::new(AtomicUsize::new(0));
    rig.inject(Fault::Stuck { frames: 0 });
    post(&memory, &mut tx, 0..4, &dropped);
    rig.device.with_model(|model| model.model().faults().all_ones = true);
    match rig.nic.reset([tx], [rx], |_, _| panic!("a token came back")) {
        Err(Error::NotQuiet { kept: 4, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    assert!(rig.nic.link().is_err() && rig.nic.tx_queue::<()>().is_err());
}

#[test]
fn a_nic_that_does_not_come_up_can_be_reset_again() {
    let model = ixgbe::Model::new(ixgbe::Config::default(), Box::new(Loopback::new()));
    let mut rig = Rig::new(model, CONFIG);
    let (tx, rx) = rig.queues();
    // Somebody still has a queue: it could ring the doorbells of the next life.
    let in_use = rig.nic.reset([tx], [], |_, _: Returned<Token>| ()).unwrap_err().to_string();
    assert!(in_use.contains("in use by a driver"), "{in_use}");
    assert!(!rig.is_bus_master());
    for error in [rig.nic.link().map(drop), rig.nic.rx_queue().map(drop)] {
        assert!(matches!(error, Err(Error::Stopped { .. })), "{error:?}");
    }
    rig.nic.reset::<Token>([], [rx], |_, _| ()).unwrap();
    rig.nic.wait_for_link(Duration::from_secs(5)).unwrap();
    assert_eq!(rig.nic.statistics().resets, 1);
}

/// A flap that is over before anybody looks.
#[test]
fn a_short_loss_of_link_is_noticed() {
    let model = ixgbe::Model::new(ixgbe::Config::default(), Box::new(Loopback::new()));
    let rig = Rig::new(model, CONFIG);
    rig.inject(Fault::LinkDown { frames: 0, time: Duration::from_millis(1) });
    wait_for("the link", || !rig.device.with_model(|model| model.is_faulty()));
    assert_eq!((rig.nic.link().unwrap().up, rig.nic.link().unwrap().up), (false, true));
    assert_eq!(rig.nic.statistics().link_losses, 1);
}
