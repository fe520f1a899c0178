//! Write-back against writers: nothing that was stored is lost, and what counts as clean is on the disk.

use super::*;

/// What must be true of page `A`, in the first arena page, when everybody has ended, and after another write-back.
fn nothing_is_lost(world: &World, stored: u64) {
    assert_eq!(world.hold_and_look(), Some(stored), "a store was lost");
    let on_disk = || world.disk.load(PlainOrdering::Relaxed) == stored;
    assert!(world.word(0).is_dirty() || on_disk(), "clean, and not on the disk");
    assert!(!world.word(0).is_dirty() || *world.dirty.lock().unwrap(), "dirty, and nobody will write it");
    world.write_back();
    assert!(on_disk() && !world.word(0).is_dirty(), "written back, and not clean");
}

/// A store comes while its page is written back.
fn write_back_against_store(variant: Variant) {
    let world = World::dirty(variant, OLD + 1);
    let writer = {
        let world = world.clone();
        thread::spawn(move || {
            assert!(world.write(NEW));
            assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
        })
    };
    world.write_back();
    writer.join().unwrap();
    nothing_is_lost(&world, NEW);
}

/// The page is written back from a copy, while a writer waits for it.
fn write_back_of_copy(variant: Variant) {
    let world = World::dirty(variant, OLD + 1);
    let old = world.hold(A).unwrap();
    let writer = {
        let world = world.clone();
        thread::spawn(move || {
            assert!(world.write(NEW));
            assert_eq!(world.hold_and_look(), Some(NEW), "a store was lost");
        })
    };
    let back = {
        let world = world.clone();
        thread::spawn(move || world.write_back())
    };
    thread::yield_now();
    world.release(old);
    writer.join().unwrap();
    back.join().unwrap();
    nothing_is_lost(&world, NEW);
    assert_eq!(world.free_pages(), world::FRAMES - 1, "a copy was not freed");
}

#[test]
fn loom_write_back_against_store() {
    explore(Variant::Right, 3, write_back_against_store);
}

#[test]
fn loom_write_back_of_a_copy() {
    explore(Variant::Right, 2, write_back_of_copy);
}

#[test]
#[should_panic(expected = "clean, and not on the disk")]
fn loom_finds_what_counts_as_written_after_its_release() {
    explore(Variant::CleanAfterRelease, 3, write_back_against_store);
}

#[test]
#[should_panic(expected = "clean, and not on the disk")]
fn loom_finds_what_is_durable_without_a_look() {
    explore(Variant::DurableWithoutLook, 3, write_back_against_store);
}

#[test]
#[should_panic(expected = "clean, and not on the disk")]
fn loom_finds_an_original_that_was_written_after_its_copy() {
    explore(Variant::WrittenWithoutCopy, 2, write_back_of_copy);
}
