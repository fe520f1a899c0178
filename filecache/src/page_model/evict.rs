//! A page that leaves its file, and whose memory becomes another page's.

use super::*;

/// Evicts page `A` and reads page `B` into what has become free.
fn evict_and_reuse(world: &World) {
    world.evict(true);
    let other = world.hold(B).unwrap();
    assert_eq!(world.look_and_release(other), OTHER);
}

/// A holder meets an eviction.
fn hold_against_evict(variant: Variant) {
    let world = World::new(variant);
    let holder = {
        let world = world.clone();
        thread::spawn(move || assert_eq!(world.hold_and_look(), Some(OLD), "bytes of another page"))
    };
    evict_and_reuse(&world);
    holder.join().unwrap();
    assert!(world.nothing_is_held());
}

/// A holder meets an eviction, and a third thread reads another page in.
fn hold_against_evict_and_fill(variant: Variant) {
    let world = World::new(variant);
    let holder = {
        let world = world.clone();
        thread::spawn(move || assert_eq!(world.hold_and_look(), Some(OLD), "bytes of another page"))
    };
    let other = {
        let world = world.clone();
        thread::spawn(move || {
            let other = world.hold(B).unwrap();
            assert_eq!(world.look_and_release(other), OTHER, "bytes of another page");
        })
    };
    world.evict(true);
    holder.join().unwrap();
    other.join().unwrap();
}

/// A writer meets an eviction.
fn write_against_evict(variant: Variant) {
    let world = World::new(variant);
    let writer = {
        let world = world.clone();
        thread::spawn(move || assert!(world.write(NEW)))
    };
    evict_and_reuse(&world);
    writer.join().unwrap();
    assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
    let other = world.hold(B).unwrap();
    assert_eq!(world.look_and_release(other), OTHER, "a store landed in another page");
}

/// A writer that holds what it has stored meets two evictions.
fn write_and_hold_against_evict(variant: Variant) {
    let world = World::new(variant);
    let writer = {
        let world = world.clone();
        thread::spawn(move || {
            assert!(world.write(NEW));
            assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
        })
    };
    world.evict(true);
    world.evict(true);
    writer.join().unwrap();
    assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
}

/// A writer meets an eviction that fails half-way.
fn write_against_failed_evict(variant: Variant) {
    let world = World::new(variant);
    let writer = {
        let world = world.clone();
        thread::spawn(move || assert!(world.write(NEW)))
    };
    assert!(!world.evict(false));
    writer.join().unwrap();
    assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
    assert!(world.word(0).is_dirty());
}

/// A writer and a holder meet one.
fn write_and_hold_against_failed_evict(variant: Variant) {
    let world = World::new(variant);
    let writer = {
        let world = world.clone();
        thread::spawn(move || assert!(world.write(NEW)))
    };
    let holder = {
        let world = world.clone();
        thread::spawn(move || world.hold_and_look())
    };
    assert!(!world.evict(false));
    writer.join().unwrap();
    holder.join().unwrap();
    assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
    assert!(world.word(0).is_dirty());
}

#[test]
fn loom_hold_against_evict_and_reuse() {
    explore(Variant::Right, 3, hold_against_evict);
}

#[test]
fn loom_hold_against_evict_and_fill() {
    explore(Variant::Right, 2, hold_against_evict_and_fill);
}

#[test]
fn loom_write_fault_against_evict() {
    explore(Variant::Right, 3, write_against_evict);
}

#[test]
fn loom_write_and_hold_against_evict() {
    explore(Variant::Right, 2, write_and_hold_against_evict);
}

#[test]
fn loom_write_fault_against_a_failed_evict() {
    explore(Variant::Right, 4, write_against_failed_evict);
}

#[test]
fn loom_write_and_hold_against_a_failed_evict() {
    explore(Variant::Right, 2, write_and_hold_against_failed_evict);
}

#[test]
#[should_panic(expected = "bytes of another page")]
fn loom_finds_a_missing_second_look() {
    explore(Variant::NoRecheck, 3, hold_against_evict);
}

#[test]
#[should_panic(expected = "bytes of another page")]
fn loom_finds_a_page_that_is_free_before_the_table_forgets_it() {
    explore(Variant::EmptiedBeforeTable, 2, hold_against_evict_and_fill);
}

#[test]
#[should_panic(expected = "a store was lost")]
fn loom_finds_a_page_that_stays_in_the_view() {
    explore(Variant::NoUnlay, 2, write_against_evict);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_finds_a_writer_that_is_not_told_to_retry() {
    explore(Variant::NoRetry, 3, write_against_evict);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_finds_a_writer_that_is_not_told_of_a_page_put_back() {
    explore(Variant::NoOpening, 3, write_against_failed_evict);
}
