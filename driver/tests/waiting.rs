//! Owners that wait for an interrupt instead of polling.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::virtio::rings;
use stillwire_dma::PciFunction;
use stillwire_driver::{Config, Error, Frame, Nic, Posted, RxQueue, TxQueue};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{DeviceModel, LocalDevice, ice, ixgbe, virtio};

const WAITING: Config = Config {
    tx_ring: 64,
    rx_ring: 64,
    max_frame: 1514,
    promiscuous: false,
    queues: 2,
    vlan_strip: false,
    interrupts: true,
    flow_control: false,
};
/// Long enough that whoever waits for it has lost a wake-up.
const FOREVER: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(5);

struct Rig<M> {
    nic: Nic,
    device: Arc<LocalDevice<M>>,
}

impl<M: DeviceModel> Rig<M> {
    fn new(model: M, config: Config) -> Self {
        let device = LocalDevice::new(model);
        let function = PciFunction::from_backend(device.clone());
        let running = device.spawn();
        let nic = Nic::open(function, config).unwrap();
        nic.wait_for_link(Duration::from_secs(5)).unwrap();
        drop(running);
        Self { nic, device }
    }

    fn queues(&self) -> (TxQueue<()>, RxQueue) {
        let _running = self.device.spawn();
        (self.nic.tx_queue().unwrap(), self.nic.rx_queue().unwrap())
    }

    /// Steps the model until it rests.
    fn settle(&self) {
        while self.device.step(Duration::from_secs(3600)) {}
    }
}

/// A frame to ourselves.
fn send(nic: &Nic, tx: &mut TxQueue<()>) {
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&nic.mac().0);
    assert!(matches!(tx.post(Frame::new(&frame)).unwrap(), Posted::Queued));
    tx.publish();
}

fn every_model(each: impl Fn(&dyn Fn(Config) -> Box<dyn Owner>)) {
    each(&|config| Box::new(Rig::new(ixgbe::Model::new(ixgbe::Config::default(), Box::new(Loopback::new())), config)));
    each(&|config| {
        let model = ice::Config { package: true, ..ice::Config::default() };
        Box::new(Rig::new(ice::Model::new(model, Box::new(Loopback::new())).unwrap(), config))
    });
    for ring in rings() {
        for event_index in [false, true] {
            let features = match event_index {
                true => ring.features,
                false => ring.features - virtio::Features::EVENT_IDX,
            };
            each(&|config| {
                let model = virtio::Config { features, ..virtio::Config::default() };
                Box::new(Rig::new(virtio::Model::new(model, Box::new(Loopback::new())).unwrap(), config))
            });
        }
    }
}

/// A rig of any model.
trait Owner: Sync {
    fn nic(&self) -> &Nic;
    fn take(&self) -> (TxQueue<()>, RxQueue);
    fn settle(&self);
    fn run(&self) -> stillwire_emulator::Running;
    fn interrupts(&self) -> u64;
}

impl<M: DeviceModel + Counted> Owner for Rig<M> {
    fn nic(&self) -> &Nic {
        &self.nic
    }

    fn take(&self) -> (TxQueue<()>, RxQueue) {
        self.queues()
    }

    fn settle(&self) {
        self.settle();
    }

    fn run(&self) -> stillwire_emulator::Running {
        self.device.spawn()
    }

    fn interrupts(&self) -> u64 {
        self.device.with_model(|model| model.interrupts())
    }
}

trait Counted {
    fn interrupts(&self) -> u64;
}

impl Counted for ixgbe::Model {
    fn interrupts(&self) -> u64 {
        self.counters().interrupts
    }
}

impl Counted for ice::Model {
    fn interrupts(&self) -> u64 {
        self.counters().interrupts
    }
}

impl Counted for virtio::Model {
    fn interrupts(&self) -> u64 {
        self.counters().interrupts
    }
}

#[test]
fn without_interrupts_nobody_can_wait() {
    every_model(|open| {
        let rig = open(Config { interrupts: false, flow_control: false, ..WAITING });
        let (mut tx, mut rx) = rig.take();
        let error = rx.wait(&mut tx, SHORT).unwrap_err();
        assert!(matches!(error, Error::NoInterrupts { needed: 1, .. }), "{error}");
        assert!(error.to_string().contains("Config::interrupts"), "{error}");
    });
}

#[test]
fn a_wait_ends_with_its_time_or_with_something_to_do() {
    every_model(|open| {
        let rig = open(WAITING);
        let ((mut tx, mut rx), (mut other, _rx)) = (rig.take(), rig.take());
        assert!(!rx.wait(&mut tx, SHORT).unwrap(), "nothing happens on this link");
        let error = rx.wait(&mut other, SHORT).unwrap_err().to_string();
        assert!(error.contains("transmit queue to wait for is 1"), "{error}");

        // What happened before the wait: the device will not ring for it again.
        send(rig.nic(), &mut tx);
        rig.settle();
        assert!(rx.wait(&mut tx, FOREVER).unwrap());
        assert!(rx.wait(&mut tx, FOREVER).unwrap(), "it is still there");
        assert_eq!(rx.poll(64, |_| {}), 1);
        assert!(rx.wait(&mut tx, FOREVER).unwrap(), "and so is what was sent");
        assert_eq!(tx.reclaim(drop), 1);
        // At most one ring is late: that of the frame itself.
        assert!(!(rx.wait(&mut tx, SHORT).unwrap() && rx.wait(&mut tx, SHORT).unwrap()), "all is taken");
    });
}

/// Again and again, so that the frame comes at every moment between the look and the sleep.
#[test]
fn no_wake_up_is_lost() {
    every_model(|open| {
        let rig = open(WAITING);
        let (mut tx, mut rx) = rig.take();
        let running = rig.run();
        for round in 0..300 {
            send(rig.nic(), &mut tx);
            let (mut received, mut sent) = (0, 0);
            while received < 1 || sent < 1 {
                assert!(rx.wait(&mut tx, FOREVER).unwrap(), "round {round}: {received} received, {sent} sent");
                received += rx.poll(64, |_| {});
                sent += tx.reclaim(drop);
            }
            // A burst of another length each time, so that rounds do not all begin alike.
            (0..round % 7 * 50).for_each(|_| std::hint::spin_loop());
        }
        drop(running);
    });
}

#[test]
fn who_polls_is_not_interrupted() {
    every_model(|open| {
        let rig = open(WAITING);
        let (mut tx, mut rx) = rig.take();
        let before = rig.interrupts();
        for _ in 0..200 {
            send(rig.nic(), &mut tx);
            rig.settle();
            assert_eq!((rx.poll(64, |_| {}), tx.reclaim(drop)), (1, 1));
        }
        assert!(rig.interrupts() - before <= 1, "{} interrupts", rig.interrupts() - before);
    });
}
