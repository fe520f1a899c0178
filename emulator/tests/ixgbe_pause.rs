//! Flow control: PAUSE obeyed, PAUSE sent, and nothing lost between two that agree on it.

mod common;

use std::time::Duration;

use common::*;
use stillwire_emulator::wire::{Cable, Loopback};
use stillwire_emulator::{Config, Doorbells, Wire};

fn pause_frame(quanta: u16) -> Vec<u8> {
    let mut frame = vec![0x01, 0x80, 0xc2, 0, 0, 1, 2, 3, 4, 5, 6, 7, 0x88, 0x08, 0, 1];
    frame.extend(quanta.to_be_bytes());
    frame.resize(60, 0);
    frame
}

#[test]
fn pause_stops_the_transmitter_until_its_time_is_over() {
    // 1000 quanta of 512 bit times at 10 Gb/s.
    let time = Duration::from_nanos(51_200);
    for (obeys, ends_early) in [(false, false), (true, false), (true, true)] {
        let (one, mut far) = Cable::pair();
        let mut rig = Rig::over(config(Doorbells::Messages), Loopback::new(), Box::new(one));
        rig.bring_up();
        rig.write(0x4294, if obeys { 1 << 3 } else { 0 });
        far.transmit(&pause_frame(1000));
        rig.settle();
        let last = rig.post_udp(&[1; 64], true);
        rig.settle();
        assert_eq!(rig.done(last), !obeys, "MFLCN.RFCE decides");
        let mut frame = Vec::new();
        assert_eq!(far.receive(&mut frame), !obeys);
        if obeys && ends_early {
            far.transmit(&pause_frame(0));
            rig.step();
        } else if obeys {
            rig.step_after(time - Duration::from_nanos(1));
            assert!(!rig.done(last), "not a moment before");
            rig.step_after(Duration::from_nanos(1));
        }
        rig.settle();
        assert!(rig.done(last));
        let wanted = if obeys { (1, u32::from(ends_early)) } else { (0, 0) };
        assert_eq!((rig.read(0x41a8), rig.read(0x41a4)), wanted, "LXOFFRXCNT, LXONRXCNT");
        assert_eq!(rig.read(0x4074), 0, "no PAUSE frame is a received one");
        assert!(rig.receive().is_none());
    }
}

#[test]
fn control_frames_reach_the_host_when_they_are_let_through() {
    for (mflcn, passes) in [(0, false), (1, true), (0b11, false)] {
        let mut rig = Rig::running(config(Doorbells::Messages));
        rig.write(0x5080, 1 << 8);
        rig.write(0x4294, mflcn);
        rig.wire.clone().transmit(&pause_frame(9));
        rig.settle();
        assert_eq!(rig.receive().is_some(), passes, "MFLCN {mflcn:#b}");
    }
}

#[test]
fn a_pause_ends_with_the_link_and_with_a_reset() {
    for reset in [false, true] {
        let (one, mut far) = Cable::pair();
        let mut rig = Rig::over(config(Doorbells::Messages), Loopback::new(), Box::new(one));
        rig.bring_up();
        rig.write(0x4294, 1 << 3);
        far.transmit(&pause_frame(u16::MAX));
        rig.settle();
        if reset {
            rig.write(CTRL, 1 << 26);
            rig.bring_up();
        } else {
            for down in [true, false] {
                rig.device.with_model(|model| model.faults().link_down = down);
                rig.step();
            }
        }
        let last = rig.post_udp(&[1; 64], true);
        rig.settle();
        assert!(rig.done(last), "reset: {reset}");
    }
}

#[test]
fn a_receiver_that_fills_asks_for_a_pause_and_loses_nothing() {
    for agreed in [true, false] {
        let (one, other) = Cable::pair();
        let mut sender = Rig::over(config(Doorbells::Messages), Loopback::new(), Box::new(one));
        let mac = [2, 0x53, 0x57, 0, 0, 9];
        let mut receiver = Rig::over(Config { mac, ..config(Doorbells::Messages) }, Loopback::new(), Box::new(other));
        sender.bring_up();
        receiver.bring_up();
        // The receiver does not drop: 16 KiB of packet memory, marks at 8 and 2 KiB.
        receiver.write(0x1014, 2 | 1 << 25);
        receiver.write(0x3c00, 16 << 10);
        receiver.write(0x3200, 0xffff);
        receiver.write(0x3220, 1 << 31 | 2 << 10);
        receiver.write(0x3260, 1 << 31 | 8 << 10);
        receiver.write(0x3d00, if agreed { 1 << 3 } else { 0 });
        sender.write(0x4294, 1 << 3);
        let mut arrived = Vec::new();
        let mut posted = 0u8;
        for _ in 0..30 {
            for _ in 0..10 {
                let free = (sender.read(TDH) + RING - sender.read(TDT) - 1) % RING;
                if free >= 3 && posted < 200 {
                    // Headers and payload lie at one place, so each frame is sent, or held, before the next is written.
                    sender.settle();
                    if sender.read(TDH) == sender.read(TDT) {
                        sender.post_udp(&[posted; 1000], true);
                        posted += 1;
                    }
                }
                sender.step();
                receiver.step();
            }
            if posted > 120 {
                arrived.extend(std::iter::from_fn(|| receiver.receive()).map(|(frame, ..)| frame[100]));
            }
        }
        for _ in 0..100 {
            sender.step();
            receiver.step();
            arrived.extend(std::iter::from_fn(|| receiver.receive()).map(|(frame, ..)| frame[100]));
        }
        let missed = receiver.read(0x3fa0);
        let counted = (sender.read(0x41a8), sender.read(0x41a4), receiver.read(0x3f68), receiver.read(0x3f60));
        if agreed {
            assert!(counted.0 > 0 && counted.1 > 0, "the sender was stopped and let go: {counted:?}");
            assert_eq!((counted.0, counted.1), (counted.2, counted.3), "what one sent the other got");
            assert_eq!(missed, 0, "MPC");
            assert_eq!(arrived, (0..posted).collect::<Vec<_>>());
            assert_eq!(receiver.read(0x4080), counted.2 + counted.3, "GPTC counts PAUSE frames, as hardware does");
        } else {
            assert_eq!(counted, (0, 0, 0, 0));
            assert_eq!(arrived.len() + missed as usize, usize::from(posted), "without agreement some are lost");
            assert!(missed > 0);
        }
    }
}
