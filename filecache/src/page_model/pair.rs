//! Both pages of the file held and released at once, while somebody else changes one of them.

use super::*;

/// The steps of `hold_run`, `hold_rest` and `release_pair`. Which of the file's pages has the lower half makes no difference to
/// them.
impl World {
    /// Holds both pages of the file: their arena pages. At once, if they are a pair.
    fn hold_both(&self) -> [usize; 2] {
        let found = [A, B].map(|page| self.shown(page));
        if let [Some(first), Some(second)] = found
            && first.min(second) % 2 == 0
            && first.abs_diff(second) == 1
        {
            let lower = usize::from(second < first);
            let mut held = self.hold_pair([first, second], lower);
            for page in [A, B] {
                held[page] = held[page].filter(|&frame| {
                    // Looked up again.
                    let stays = self.shown(page) == Some(frame);
                    if !stays {
                        self.release(frame);
                    }
                    stays
                });
            }
            return [A, B].map(|page| held[page].unwrap_or_else(|| self.hold_again(page)));
        }
        [A, B].map(|page| self.hold_again(page))
    }

    fn hold_again(&self, page: usize) -> usize {
        self.hold(page).unwrap_or_else(|| unreachable!("the file is not cut"))
    }

    /// Counts in the pair `frames`, of which file page `lower` has the lower half: which of the pages are held by that.
    fn hold_pair(&self, frames: [usize; 2], lower: usize) -> [Option<usize>; 2] {
        let pair = self.pair_of(frames[lower]);
        let upper = 1 - lower;
        let mut held = frames.map(Some);
        if self.variant == Variant::HoldLooksAtOneHalf {
            // Of the lower page, whose file page is `B` where this is tried: nobody else has it.
            assert_eq!(pair.of(0).add(1, Ordering::Acquire).phase(), Phase::Protected);
            pair.of(1).add(1, Ordering::Acquire);
            return held;
        }
        if let Err(half) = pair.hold() {
            let asked = if half.lower { upper } else { lower };
            held[upper] = None;
            if !half.lower {
                held[lower] = None;
                if self.variant != Variant::HalfIsForgotten {
                    self.released(frames[upper], half.upper);
                }
            }
            match half.answer {
                // Touches are for eviction.
                Ok(_) => held[asked] = Some(frames[asked]),
                Err(Refusal::WriterWaits) => self.release(frames[asked]),
                Err(Refusal::TooMany) => unreachable!("a model has few threads"),
                Err(Refusal::Phase { released, .. }) => self.released(frames[asked], released),
            }
        }
        held
    }

    fn release_both(&self, frames: [usize; 2]) {
        let lower = frames[0].min(frames[1]);
        if lower % 2 != 0 || frames[0].abs_diff(frames[1]) != 1 {
            return frames.into_iter().for_each(|frame| self.release(frame));
        }
        let Some(left) = self.pair_of(lower).let_go() else { return };
        let looked_at = if self.variant == Variant::ReleaseLooksAtOneHalf { 1 } else { 2 };
        for (frame, left) in (lower..).zip(left).take(looked_at) {
            if left == Left::Unsettled {
                self.released(frame, self.word(frame).settle());
            }
        }
    }

    /// Holds both pages, reads them and releases them: the bytes of page `A`.
    fn hold_and_look_at_both(&self) -> u64 {
        let held = self.hold_both();
        let bytes = || held.map(|frame| self.bytes(frame));
        let (at_start, at_end) = (bytes(), bytes());
        assert_eq!(at_start, at_end, "a store landed in a held page");
        assert_eq!(at_end[B], OTHER, "bytes of another page");
        self.release_both(held);
        at_end[A]
    }
}

/// Page `A` in the upper half.
fn upper(variant: Variant) -> Arc<World> {
    World::pair(variant, 1)
}

/// Page `A` in the lower half.
fn lower(variant: Variant) -> Arc<World> {
    World::pair(variant, 0)
}

fn all_is_released(world: &World, stored: u64) {
    assert_eq!(world.hold_and_look_at_both(), stored, "a store was lost");
    assert!(world.nothing_is_held());
    assert_eq!(world.free_pages(), world::FRAMES - 2, "a copy was not freed");
}

/// A holder of both meets a writer of one, and the guard's fault on it.
fn hold_both_against_writer(world: &Arc<World>) {
    let holder = {
        let world = world.clone();
        thread::spawn(move || {
            let seen = world.hold_and_look_at_both();
            assert!(seen == OLD || seen == NEW, "bytes of another page");
        })
    };
    assert!(world.write(NEW));
    holder.join().unwrap();
    all_is_released(world, NEW);
}

/// The same where page `B`, in the lower half, is held for the first time since eviction looked: so the upper half is let go,
/// and held again.
fn hold_of_what_was_not_used(variant: Variant) {
    let world = upper(variant);
    let lower = world.shown(B).unwrap();
    assert_eq!(world.word(lower).look(), Use::Often);
    hold_both_against_writer(&world);
}

/// Both are held; a writer waits for one of them while they are released, and another holder comes for both.
fn release_both_against_writer_and_holder(world: &Arc<World>) {
    let held = world.hold_both();
    let writer = {
        let world = world.clone();
        thread::spawn(move || assert!(world.write(NEW)))
    };
    let holder = {
        let world = world.clone();
        thread::spawn(move || _ = world.hold_and_look_at_both())
    };
    // As in `holds.rs`.
    thread::yield_now();
    assert_eq!(held.map(|frame| world.bytes(frame)), [OLD, OTHER], "a store landed in a held page");
    world.release_both(held);
    writer.join().unwrap();
    holder.join().unwrap();
    all_is_released(world, NEW);
}

/// A holder of both meets an eviction of one.
fn hold_both_against_evict(world: &Arc<World>) {
    let holder = {
        let world = world.clone();
        thread::spawn(move || assert_eq!(world.hold_and_look_at_both(), OLD, "bytes of another page"))
    };
    world.evict(true);
    // What is free caches something again.
    world.hold_and_look();
    holder.join().unwrap();
    all_is_released(world, OLD);
}

/// The same, and the hold comes to nothing: so it does not wait for the writer.
fn failing_hold_of_what_was_not_used(variant: Variant) {
    let world = upper(variant);
    let frames = [A, B].map(|page| world.shown(page).unwrap());
    assert_eq!(world.word(frames[B]).look(), Use::Often);
    let holder = {
        let world = world.clone();
        thread::spawn(move || {
            let held = world.hold_pair(frames, B);
            held.into_iter().flatten().for_each(|frame| world.release(frame));
        })
    };
    assert!(world.write(NEW));
    holder.join().unwrap();
    all_is_released(&world, NEW);
}

/// One page is written, and the other held, and neither hears of the other.
fn strangers(world: &Arc<World>) {
    let held = world.hold(B).unwrap();
    let writer = {
        let world = world.clone();
        thread::spawn(move || assert!(world.write(NEW)))
    };
    assert_eq!(world.look_and_release(held), OTHER);
    let held = world.hold(B).unwrap();
    assert_eq!(world.look_and_release(held), OTHER);
    writer.join().unwrap();
    all_is_released(world, NEW);
}

#[test]
fn loom_hold_of_a_pair_against_a_writer_of_its_lower_half() {
    explore(Variant::Right, 3, |variant| hold_both_against_writer(&lower(variant)));
}

#[test]
fn loom_hold_of_a_pair_against_a_writer_of_its_upper_half() {
    explore(Variant::Right, 3, |variant| hold_both_against_writer(&upper(variant)));
}

#[test]
fn loom_release_of_a_pair_with_a_waiter_on_its_lower_half() {
    explore(Variant::Right, 1, |variant| release_both_against_writer_and_holder(&lower(variant)));
}

#[test]
fn loom_release_of_a_pair_with_a_waiter_on_its_upper_half() {
    explore(Variant::Right, 1, |variant| release_both_against_writer_and_holder(&upper(variant)));
}

#[test]
fn loom_hold_of_a_pair_against_an_eviction_of_its_lower_half() {
    explore(Variant::Right, 2, |variant| hold_both_against_evict(&lower(variant)));
}

#[test]
fn loom_hold_of_a_pair_against_an_eviction_of_its_upper_half() {
    explore(Variant::Right, 2, |variant| hold_both_against_evict(&upper(variant)));
}

#[test]
fn loom_hold_of_a_pair_that_was_not_used() {
    explore(Variant::Right, 3, hold_of_what_was_not_used);
}

#[test]
fn loom_failing_hold_of_a_pair_that_was_not_used() {
    explore(Variant::Right, 3, failing_hold_of_what_was_not_used);
}

#[test]
fn loom_strangers_in_a_pair() {
    explore(Variant::Right, 3, |variant| strangers(&lower(variant)));
}

#[test]
#[should_panic(expected = "a store landed in a held page")]
fn loom_finds_a_hold_that_looks_at_one_half() {
    explore(Variant::HoldLooksAtOneHalf, 3, |variant| hold_both_against_writer(&upper(variant)));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_finds_a_release_that_looks_at_one_half() {
    explore(Variant::ReleaseLooksAtOneHalf, 2, |variant| hold_both_against_writer(&upper(variant)));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_finds_a_half_that_is_let_go_without_a_look() {
    explore(Variant::HalfIsForgotten, 3, failing_hold_of_what_was_not_used);
}
