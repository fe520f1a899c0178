//! A page that is cut off its file although it is held, or waited for.

use super::*;

/// Uses all memory that is free, as a later fill does.
fn reuse(world: &World) {
    let other = world.hold(B).unwrap();
    assert_eq!(world.look_and_release(other), OTHER);
}

fn is_gone(world: &World) {
    assert_eq!(world.hold(A), None);
    // Page `B` is cached.
    assert_eq!(world.free_pages(), world::FRAMES - 1, "a page was not freed");
    assert!(world.nothing_is_held());
}

/// Two holders, one of them in vain, meet a truncation; the memory is reused.
fn cut_against_holders(variant: Variant) {
    let world = World::new(variant);
    let held = world.hold(A).unwrap();
    let holder = {
        let world = world.clone();
        thread::spawn(move || {
            let seen = world.hold_and_look();
            assert!(matches!(seen, None | Some(OLD)), "bytes of another page");
        })
    };
    let cutter = {
        let world = world.clone();
        thread::spawn(move || {
            world.cut(0);
            reuse(&world);
        })
    };
    assert_eq!(world.look_and_release(held), OLD, "bytes of another page");
    holder.join().unwrap();
    cutter.join().unwrap();
    is_gone(&world);
}

/// A writer waits for a page that is cut off.
fn cut_against_writer(variant: Variant) {
    let world = World::new(variant);
    let held = world.hold(A).unwrap();
    let writer = {
        let world = world.clone();
        thread::spawn(move || world.write(NEW))
    };
    thread::yield_now();
    world.cut(0);
    reuse(&world);
    // While it is held: the writer does not wait for this any more.
    assert!(!writer.join().unwrap(), "a store beyond the end");
    assert_eq!(world.look_and_release(held), OLD, "bytes of another page");
    is_gone(&world);
}

/// A writer that may be faster meets a truncation.
fn cut_against_open(variant: Variant) {
    let world = World::open(variant, OLD);
    let writer = {
        let world = world.clone();
        thread::spawn(move || world.write(NEW))
    };
    world.cut(0);
    reuse(&world);
    writer.join().unwrap();
    is_gone(&world);
}

#[test]
fn loom_cut_against_holders() {
    explore(Variant::Right, 2, cut_against_holders);
}

#[test]
fn loom_cut_against_a_waiting_writer() {
    explore(Variant::Right, 4, cut_against_writer);
}

#[test]
fn loom_cut_against_a_store() {
    explore(Variant::Right, 3, cut_against_open);
}

#[test]
#[should_panic(expected = "a free page is empty")]
fn loom_finds_a_page_freed_while_held() {
    explore(Variant::FreeAtDetach, 2, cut_against_holders);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_finds_a_writer_that_waits_for_a_page_cut_off() {
    explore(Variant::NoRetry, 2, cut_against_writer);
}
