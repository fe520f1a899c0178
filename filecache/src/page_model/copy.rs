//! Copies for holders that do not wait for a writer.

use loom::thread::JoinHandle;

use super::*;

/// A world of which page `A` is held, the writer that waits for that, and the guard.
fn writer_waits(variant: Variant) -> (Arc<World>, usize, JoinHandle<()>, JoinHandle<()>) {
    let world = World::new(variant);
    let old = world.hold(A).unwrap();
    let kernel = Kernel::new();
    let writer = {
        let (world, kernel) = (world.clone(), kernel.clone());
        thread::spawn(move || kernel.write(&world))
    };
    let guard = {
        let world = world.clone();
        thread::spawn(move || kernel.guard(&world))
    };
    while world.word(old).now().0 & WAITER == 0 {
        thread::yield_now();
    }
    (world, old, writer, guard)
}

/// A hold that begins after a store has returned is of what was stored.
fn hold_what_is_newest(world: &World) {
    let returned = world.has_store_returned();
    let seen = world.hold_and_look();
    assert!(!returned || seen == Some(NEW), "a store has returned, and a later hold has not got it");
}

fn all_is_released(world: &World, guard: JoinHandle<()>) {
    world.tell_guard(Event::Stop);
    guard.join().unwrap();
    assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
    assert_eq!(world.free_pages(), world::FRAMES - 1, "a copy was not freed");
    assert!(world.nothing_is_held());
}

/// A writer waits for an old hold while a new one comes: the writer waits for the old one only.
fn holder_writer_holder(variant: Variant) {
    let (world, old, writer, guard) = writer_waits(variant);
    let new = world.hold(A).unwrap();
    assert_eq!(world.look_and_release(old), OLD, "a store landed in a held page");
    // While `new` is held: it may not be what the writer waits for.
    writer.join().unwrap();
    hold_what_is_newest(&world);
    assert_eq!(world.look_and_release(new), OLD, "a store landed in a held copy");
    all_is_released(&world, guard);
}

/// The same, and two holders may make a copy.
fn two_new_holders(variant: Variant) {
    let (world, old, writer, guard) = writer_waits(variant);
    let holder = {
        let world = world.clone();
        thread::spawn(move || hold_what_is_newest(&world))
    };
    let new = world.hold(A).unwrap();
    assert_eq!(world.look_and_release(old), OLD, "a store landed in a held page");
    writer.join().unwrap();
    assert_eq!(world.look_and_release(new), OLD, "a store landed in a held copy");
    holder.join().unwrap();
    all_is_released(&world, guard);
}

/// Holders come and go at the moment at which the copy ends.
fn hold_against_end_of_copy(variant: Variant) {
    let (world, old, writer, guard) = writer_waits(variant);
    let new = world.hold(A).unwrap();
    world.release(old);
    world.release(new);
    hold_what_is_newest(&world);
    hold_what_is_newest(&world);
    writer.join().unwrap();
    all_is_released(&world, guard);
}

/// The guard is told late that the page has left a file, which was in its former life: it lets go a writer that waits.
fn copy_and_late_retry(variant: Variant) {
    let (world, old, writer, guard) = writer_waits(variant);
    let new = world.hold(A).unwrap();
    world.tell_guard(Event::Retry(old));
    assert_eq!(world.look_and_release(old), OLD, "a store landed in a held page");
    writer.join().unwrap();
    hold_what_is_newest(&world);
    assert_eq!(world.look_and_release(new), OLD, "a store landed in a held copy");
    all_is_released(&world, guard);
}

#[test]
fn loom_copy_and_a_late_retry() {
    explore(Variant::Right, 2, copy_and_late_retry);
}

#[test]
fn loom_copy_for_holder_writer_holder() {
    explore(Variant::Right, 3, holder_writer_holder);
}

#[test]
fn loom_copy_for_two_new_holders() {
    explore(Variant::Right, 1, two_new_holders);
}

#[test]
fn loom_hold_against_the_end_of_a_copy() {
    explore(Variant::Right, 2, hold_against_end_of_copy);
}

#[test]
#[should_panic(expected = "a store has returned, and a later hold has not got it")]
fn loom_finds_a_snapshot_after_the_unprotect() {
    explore(Variant::SnapshotAfterUnprotect, 2, holder_writer_holder);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_finds_a_missing_copy() {
    explore(Variant::NoCopy, 2, holder_writer_holder);
}

#[test]
#[should_panic(expected = "a copy was not freed")]
fn loom_finds_a_second_copy() {
    explore(Variant::CopyOfCopy, 1, two_new_holders);
}
