//! Faults for whoever has to live with them: flaps, hangs, write-backs that come late or never, a card that is pulled.

mod common;

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use stillwire_dma::Backend;
use stillwire_emulator::{Doorbells, Event, Faults};

fn set(rig: &Rig, faults: Faults) {
    rig.device.with_model(|model| *model.faults() = faults);
}

/// Posts, and steps until the device rests; whether it is done.
fn send(rig: &mut Rig) -> bool {
    let last = rig.post_udp(&[3; 64], true);
    rig.settle();
    rig.done(last)
}

#[test]
fn the_link_flaps_after_a_number_of_frames_once() {
    let down = Duration::from_millis(50);
    for doorbells in [Doorbells::Messages, Doorbells::Mapped] {
        let mut rig = Rig::running(config(doorbells));
        let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        rig.device.set_msix(&[eventfd.as_fd()]).unwrap();
        let fired = || rustix::io::read(&eventfd, &mut [0; 8]).is_ok();
        rig.write(0xa00, 0x80 << 8);
        rig.write(0x880, 1 << 20);
        fired();
        set(&rig, Faults { link_flap: Some((2, down)), ..Faults::default() });
        assert!(send(&mut rig) && !fired());
        assert!(send(&mut rig));
        rig.step();
        assert!(fired(), "LSC");
        assert_eq!((rig.read(0x42a4), rig.read(0x800) >> 20 & 1), (0, 1));
        let last = rig.post_udp(&[3; 64], true);
        rig.settle();
        rig.step_after(down - Duration::from_nanos(1));
        assert!(!rig.done(last), "nothing is sent without link");
        rig.step_after(Duration::from_nanos(1));
        rig.settle();
        assert!(fired() && rig.done(last));
        assert_ne!(rig.read(0x42a4), 0);
        assert!((0..5).all(|_| send(&mut rig)), "once only");
        let events: Vec<_> = rig.device.with_model(|model| model.events().copied().collect());
        assert!(events.contains(&(Event::Fault("link flap"), 1)), "{events:?}");
    }
}

#[test]
fn a_queue_hangs_until_a_reset() {
    for function_level in [false, true] {
        let mut rig = Rig::running(config(Doorbells::Messages));
        set(&rig, Faults { hang_tx: Some((0, 1)), ..Faults::default() });
        assert!(send(&mut rig));
        assert!((0..3).all(|_| !send(&mut rig)));
        assert_eq!(rig.read(TDH), 3, "the head stands still");
        // Neither time nor starting the queue again helps.
        rig.step_after(Duration::from_secs(10));
        rig.write(TXDCTL, 0);
        rig.bring_up();
        assert!(!send(&mut rig));
        if function_level {
            rig.device.config_write(0xa8, &0x8000u16.to_le_bytes()).unwrap();
        } else {
            rig.write(CTRL, 1 << 26);
        }
        rig.bring_up();
        rig.clear_tx();
        assert!((0..3).all(|_| send(&mut rig)));
    }
    // Another queue's hang is not this one's.
    let mut rig = Rig::running(config(Doorbells::Messages));
    set(&rig, Faults { hang_tx: Some((1, 0)), ..Faults::default() });
    assert!((0..3).all(|_| send(&mut rig)));
}

#[test]
fn write_backs_get_lost() {
    let mut rig = Rig::running(config(Doorbells::Messages));
    set(&rig, Faults { lose_write_back_every: 3, ..Faults::default() });
    let done: Vec<bool> = (0..7).map(|_| send(&mut rig)).collect();
    assert_eq!(done, [true, true, false, true, true, false, true]);
    assert_eq!(rig.read(TDH), rig.read(TDT), "they were sent, and TDH says so");
    // The head in memory is lost likewise, and the next one makes up for it.
    let mut rig = Rig::running(config(Doorbells::Messages));
    rig.write(0x600c, 0);
    rig.write(0x6038, (IOVA as u32 + HEAD as u32) | 1);
    set(&rig, Faults { lose_write_back_every: 2, ..Faults::default() });
    let heads: Vec<u32> = (0..4)
        .map(|_| {
            send(&mut rig);
            rig.memory.word32(HEAD).load(Ordering::Acquire)
        })
        .collect();
    assert_eq!(heads, [3, 3, 9, 9]);
}

#[test]
fn write_backs_come_late_and_are_pending_until_then() {
    let delay = Duration::from_millis(3);
    for head in [false, true] {
        let mut rig = Rig::running(config(Doorbells::Messages));
        if head {
            rig.write(0x600c, 0);
            rig.write(0x6038, (IOVA as u32 + HEAD as u32) | 1);
        }
        set(&rig, Faults { write_back_delay: delay, ..Faults::default() });
        let last = rig.post_udp(&[3; 64], true);
        rig.settle();
        let told = |rig: &Rig| match head {
            true => rig.memory.word32(HEAD).load(Ordering::Acquire) == last + 1,
            false => rig.done(last),
        };
        assert!(rig.receive().is_some() && !told(&rig), "it is on the wire");
        // Whoever gives memory back now would have it written to.
        rig.write(TXDCTL, 0);
        rig.write(CTRL, 1 << 2);
        rig.step_after(delay - Duration::from_nanos(1));
        assert!(!told(&rig));
        assert_ne!((rig.read(TXDCTL) & ENABLE, rig.read(STATUS) >> 19 & 1), (0, 0), "not quiet yet");
        rig.step_after(Duration::from_nanos(1));
        assert!(told(&rig));
        rig.step();
        assert_eq!((rig.read(TXDCTL) & ENABLE, rig.read(STATUS) >> 19 & 1), (0, 0));
    }
    // A reset forgets what was not written.
    let mut rig = Rig::running(config(Doorbells::Messages));
    set(&rig, Faults { write_back_delay: delay, ..Faults::default() });
    let last = rig.post_udp(&[3; 64], true);
    rig.settle();
    rig.write(CTRL, 1 << 26);
    rig.step_after(delay);
    assert!(!rig.done(last) && !rig.device.with_model(|model| model.dma_pending()));
}

#[test]
fn a_card_is_pulled_after_a_number_of_frames() {
    let mut rig = Rig::running(config(Doorbells::Mapped));
    set(&rig, Faults { pull_after: Some(2), ..Faults::default() });
    assert!(send(&mut rig) && send(&mut rig));
    rig.step();
    assert_eq!((rig.read(STATUS), rig.read(TDT)), (u32::MAX, u32::MAX));
    rig.device.with_model(|model| model.faults().all_ones = false);
    rig.step();
    assert_eq!(rig.read(STATUS), 0x0008_0000, "put in again");
}

#[test]
fn a_master_disable_is_not_acknowledged() {
    let rig = Rig::running(config(Doorbells::Messages));
    set(&rig, Faults { stuck_master: true, ..Faults::default() });
    rig.write(CTRL, 1 << 2);
    rig.settle();
    assert_ne!(rig.read(STATUS) >> 19 & 1, 0);
    set(&rig, Faults::default());
    assert_eq!(rig.read(STATUS) >> 19 & 1, 0);
}
