//! Several queues of one port, each with its owner.
#![allow(missing_docs)]
#![allow(clippy::single_range_in_vec_init, reason = "one piece of payload")]

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Memory, Rig, Token};
use etherparse::PacketBuilder;
use stillwire_driver::{Config, Error, Frame, Offload, Posted, RxQueue, TxQueue};
use stillwire_emulator::ixgbe;

const FOUR: Config = Config {
    tx_ring: 64,
    rx_ring: 512,
    max_frame: 1514,
    promiscuous: false,
    queues: 4,
    vlan_strip: false,
    interrupts: false,
    flow_control: false,
};

fn queues(rig: &Rig) -> (Vec<TxQueue<Token>>, Vec<RxQueue>) {
    rig.live(|nic| {
        let tx = (0..4).map(|_| nic.tx_queue().unwrap()).collect();
        (tx, (0..4).map(|_| nic.rx_queue().unwrap()).collect())
    })
}

/// A header to ourselves; `back`: from the flow's other end.
fn header(rig: &Rig, flow: u16, back: bool) -> Vec<u8> {
    let mac = rig.nic.mac().0;
    let mut ends = [([192, 0, 2, 1], 4000 + flow), ([198, 51, 100, 2], 5000)];
    if back {
        ends.reverse();
    }
    let mut header = Vec::new();
    let ip = PacketBuilder::ethernet2(mac, mac).ipv4(ends[0].0, ends[1].0, 64);
    ip.udp(ends[0].1, ends[1].1).write(&mut header, &[0; 2]).unwrap();
    header.truncate(42);
    header
}

#[test]
fn each_queue_has_one_owner() {
    let rig = Rig::with(ixgbe::Config::default(), FOUR);
    let (tx, rx) = queues(&rig);
    assert_eq!(tx.iter().map(TxQueue::index).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(rx.iter().map(RxQueue::index).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(matches!(rig.nic.tx_queue::<()>(), Err(Error::QueueTaken { queue: "transmit", .. })));
    assert!(matches!(rig.nic.rx_queue(), Err(Error::QueueTaken { queue: "receive", .. })));
    assert_eq!(rig.nic.capabilities().queues, 4);
    for queues in [0, 17] {
        let error = Config { queues, ..FOUR };
        let said = Rig::on_wire(ixgbe::Config::default(), error, Box::new(stillwire_emulator::wire::Loopback::new()));
        let said = said.map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("queues") && said.contains("1 to 16 would do"), "{said}");
    }
}

/// Every frame of every queue arrives once; a flow always on the same queue, and its answers on that one too.
#[test]
fn flows_are_spread_and_stay_where_they_are() {
    let rig = Rig::with(ixgbe::Config::default(), FOUR);
    let (mut tx, mut rx) = queues(&rig);
    let memory = Memory::new(&rig.function, &[7; 64]);
    let mut found: HashMap<u16, Vec<usize>> = HashMap::new();
    for round in 0..8 {
        for flow in 0..64u16 {
            let queue = &mut tx[usize::from(flow + round) % 4];
            let header = header(&rig, flow, round % 2 == 1);
            let frame = Frame::new(&header).offload(Offload::UDP_V4).payload(Token::new(&memory, vec![0..2]));
            assert!(matches!(queue.post(frame).unwrap(), Posted::Queued));
            queue.publish();
            rig.settle();
            queue.reclaim(drop);
        }
        for queue in &mut rx {
            let index = queue.index();
            queue.poll(1000, |frame| {
                let mut ports = [0; 4];
                frame.read_at(34, &mut ports);
                let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
                found.entry(port(0).min(port(2)) - 4000).or_default().push(index);
            });
        }
    }
    assert_eq!(found.len(), 64);
    let mut used = [0; 4];
    for (flow, queues) in found {
        assert_eq!(queues, [queues[0]; 8], "flow {flow}");
        used[queues[0]] += 1;
    }
    assert!(used.iter().all(|&flows| flows > 3), "flows of each queue: {used:?}");
    let counted = rig.nic.statistics();
    assert_eq!((counted.tx_frames, counted.rx_frames, counted.rx_missed), (512, 512, 0));
}

/// Four threads, a queue each, at once; nothing of one is seen by another.
#[test]
fn owners_send_at_the_same_time() {
    let rig = Rig::with(ixgbe::Config::default(), FOUR);
    let (tx, rx) = queues(&rig);
    let memory = Memory::new(&rig.function, &[7; 64]);
    let (dropped, headers) = (Arc::new(AtomicUsize::new(0)), (0..4).map(|flow| header(&rig, flow, false)));
    const FRAMES: usize = 3000;
    let (sent, received) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let on_the_way = || sent.load(Ordering::SeqCst) - received.load(Ordering::SeqCst).min(sent.load(Ordering::SeqCst));
    let running = rig.device.spawn();
    let queues = std::thread::scope(|scope| {
        let owners: Vec<_> = tx
            .into_iter()
            .zip(rx)
            .zip(headers)
            .map(|((mut tx, mut rx), header)| {
                let (memory, dropped, sent, received) = (&memory, &dropped, &sent, &received);
                scope.spawn(move || {
                    let (mut posted, mut back) = (0, 0);
                    let start = std::time::Instant::now();
                    while back < FRAMES || received.load(Ordering::SeqCst) < 4 * FRAMES {
                        assert!(start.elapsed().as_secs() < 120, "{back} of {FRAMES} came back");
                        // No more on the way than the smallest receive ring holds: a frame that is lost never comes.
                        while posted < FRAMES && posted - back < 16 && on_the_way() < 400 {
                            let token = Token::new(memory, vec![0..2]).counted(dropped);
                            let frame = Frame::new(&header).offload(Offload::UDP_V4).payload(token);
                            assert!(matches!(tx.post(frame).unwrap(), Posted::Queued));
                            posted += 1;
                            sent.fetch_add(1, Ordering::SeqCst);
                        }
                        tx.publish();
                        tx.reclaim(|_| back += 1);
                        received.fetch_add(rx.poll(64, |_| {}), Ordering::SeqCst);
                        std::thread::yield_now();
                    }
                    (tx, rx)
                })
            })
            .collect();
        // A queue that is dropped stops the device: all are kept until all are done.
        owners.into_iter().map(|owner| owner.join().unwrap()).collect::<Vec<_>>()
    });
    drop(running);
    assert_eq!(dropped.load(Ordering::SeqCst), 4 * FRAMES);
    assert!(queues.iter().all(|(tx, _)| tx.in_flight() == 0));
}

/// One queue's end is the whole device's: the others keep their tokens until they are stopped themselves.
#[test]
fn stopping_one_queue_gives_back_its_tokens_only() {
    let rig = Rig::with(ixgbe::Config::default(), FOUR);
    let (mut tx, _rx) = queues(&rig);
    let memory = Memory::new(&rig.function, &[7; 64]);
    let counts: Vec<Arc<AtomicUsize>> = (0..4).map(|_| Arc::default()).collect();
    for (queue, dropped) in tx.iter_mut().zip(&counts) {
        let header = header(&rig, 0, false);
        let frame = Frame::new(&header).payload(Token::new(&memory, vec![0..2]).counted(dropped));
        assert!(matches!(queue.post(frame).unwrap(), Posted::Queued));
        queue.publish();
    }
    let dropped = || counts.iter().map(|count| count.load(Ordering::SeqCst)).collect::<Vec<_>>();
    let mut back = 0;
    rig.live(|_| tx.remove(1).stop(|_| back += 1)).unwrap();
    assert_eq!((back, dropped()), (1, vec![0, 1, 0, 0]));
    assert!(matches!(rig.nic.tx_queue::<()>(), Err(Error::Stopped { .. })));
    drop(tx);
    assert_eq!(dropped(), [1; 4]);
}
