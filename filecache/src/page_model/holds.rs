//! Holders against writers.

use super::*;

/// A holder and a writer meet on a protected page.
fn hold_against_open(variant: Variant) {
    let world = World::new(variant);
    let holder = {
        let world = world.clone();
        thread::spawn(move || world.hold_and_look())
    };
    assert!(world.write(NEW));
    holder.join().unwrap();
    assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
    assert!(world.word(0).is_dirty());
}

/// A writer waits for a hold that ends; another holder comes at that moment.
fn release_against_new_holder(variant: Variant) {
    let world = World::new(variant);
    let first = world.hold(A).unwrap();
    let writer = {
        let world = world.clone();
        thread::spawn(move || assert!(world.write(NEW)))
    };
    let holder = {
        let world = world.clone();
        thread::spawn(move || world.hold_and_look())
    };
    // Lets the others come first: loom does not go back to wake a thread that slept on a condition variable when this
    // thread went on, so without the yield it only looks at holds that end before anybody stores.
    thread::yield_now();
    assert_eq!(world.look_and_release(first), OLD, "a store landed in a held page");
    writer.join().unwrap();
    holder.join().unwrap();
    assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
}

/// The last hold ends, for which a writer waits, and two holders come at that moment: one of them may find the other's
/// passing count.
fn last_release_against_two_holders(variant: Variant) {
    let world = World::new(variant);
    let last = world.hold(A).unwrap();
    assert_eq!(world.word(last).fault(), Fault::Wait);
    let holders = [(); 2].map(|()| {
        let world = world.clone();
        thread::spawn(move || world.hold_and_look())
    });
    world.release(last);
    assert!(world.write(NEW));
    holders.into_iter().for_each(|holder| _ = holder.join().unwrap());
    assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
    assert_eq!(world.free_pages(), world::FRAMES - 1, "a copy was not freed");
}

/// Two holders find the page open while a writer stores.
fn two_holders_close(variant: Variant) {
    let world = World::open(variant, OLD);
    let holders = [(); 2].map(|()| {
        let world = world.clone();
        thread::spawn(move || world.hold_and_look())
    });
    assert!(world.write(NEW));
    holders.into_iter().for_each(|holder| _ = holder.join().unwrap());
    assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
    assert_eq!(world.word(0).holds(), 0);
}

/// The guard as a thread of its own, with the kernel's wait queue between it and two writers.
fn two_writers_one_guard(variant: Variant) {
    let world = World::new(variant);
    let first = world.hold(A).unwrap();
    let kernel = Kernel::new();
    let writers = [(); 2].map(|()| {
        let (world, kernel) = (world.clone(), kernel.clone());
        thread::spawn(move || kernel.write(&world))
    });
    let guard = {
        let world = world.clone();
        thread::spawn(move || kernel.guard(&world))
    };
    // As above.
    thread::yield_now();
    assert_eq!(world.look_and_release(first), OLD, "a store landed in a held page");
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    world.tell_guard(Event::Stop);
    guard.join().unwrap();
    assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
}

/// The guard as a thread of its own; a holder comes while a writer is let through.
fn hold_against_writer_and_guard(variant: Variant) {
    let world = World::new(variant);
    let kernel = Kernel::new();
    let writer = {
        let (world, kernel) = (world.clone(), kernel.clone());
        thread::spawn(move || kernel.write(&world))
    };
    let guard = {
        let world = world.clone();
        thread::spawn(move || kernel.guard(&world))
    };
    world.hold_and_look();
    writer.join().unwrap();
    world.tell_guard(Event::Stop);
    guard.join().unwrap();
    assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
}

#[test]
fn loom_hold_against_open() {
    explore(Variant::Right, 4, hold_against_open);
}

#[test]
fn loom_release_against_new_holder() {
    explore(Variant::Right, 2, release_against_new_holder);
}

#[test]
fn loom_last_release_against_two_holders() {
    explore(Variant::Right, 1, last_release_against_two_holders);
}

/// The same where no copies are wanted.
#[test]
fn loom_last_release_against_two_holders_without_copies() {
    explore(Variant::NoCopy, 1, last_release_against_two_holders);
}

#[test]
fn loom_two_holders_close() {
    explore(Variant::Right, 2, two_holders_close);
}

#[test]
fn loom_two_writers_one_guard() {
    explore(Variant::Right, 1, two_writers_one_guard);
}

#[test]
fn loom_hold_against_writer_and_guard() {
    explore(Variant::Right, 3, hold_against_writer_and_guard);
}

#[test]
#[should_panic(expected = "a store landed in a held page")]
fn loom_finds_a_missing_closing_phase() {
    explore(Variant::NoClosing, 3, two_holders_close);
}

#[test]
#[should_panic(expected = "a store landed in a held page")]
fn loom_finds_an_unprotect_before_the_check() {
    explore(Variant::UnprotectBeforeCheck, 2, hold_against_writer_and_guard);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_finds_a_release_before_the_wake() {
    explore(Variant::ReleaseBeforeWake, 3, hold_against_open);
}
