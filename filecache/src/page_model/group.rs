//! Both pages of the file held by their group's word, while somebody else wants one of them.

use super::*;
use crate::group::{GroupWord, Pages};

/// How both pages are held.
#[derive(Clone, Copy)]
enum Held {
    ByGroup,
    Each([usize; 2]),
}

/// The steps of `Hold::of_neighbours`, `holding.rs` and `Core::part`.
impl World {
    fn hold_all(&self) -> Held {
        let Some(group) = &self.group else { unreachable!("a model of a group") };
        if self.shown(A) == Some(0) {
            if group.hold() {
                if self.is_run() || self.variant == Variant::GroupWithoutRecheck {
                    return Held::ByGroup;
                }
                self.release_group(group);
            } else if self.pair_of(0).hold().map_err(|half| self.take_back(half)).is_ok() {
                if self.is_run() {
                    return if self.form(group) { Held::ByGroup } else { Held::Each([0, 1]) };
                }
                [0, 1].into_iter().for_each(|frame| self.release(frame));
            }
        }
        Held::Each([A, B].map(|page| self.hold(page).unwrap_or_else(|| unreachable!("the file is not cut"))))
    }

    fn is_run(&self) -> bool {
        self.shown(A) == Some(0) && self.shown(B) == Some(1)
    }

    fn form(&self, group: &GroupWord) -> bool {
        let formed = !self.pair_of(0).is_wanted() && group.form();
        if formed && self.variant != Variant::FormWithoutLook && self.pair_of(0).is_wanted() {
            self.part(0);
        }
        formed
    }

    fn take_back(&self, half: Half) {
        self.released(1, half.upper);
        if half.lower {
            self.release(0);
        }
        let asked = usize::from(half.lower);
        match half.answer {
            Ok(_) | Err(Refusal::WriterWaits) => self.release(asked),
            Err(Refusal::TooMany) => unreachable!("a model has few threads"),
            Err(Refusal::Phase { released, .. }) => self.released(asked, released),
        }
    }

    fn release_all(&self, held: Held) {
        match held {
            Held::ByGroup => self.release_group(self.group.as_ref().unwrap()),
            Held::Each(frames) => frames.into_iter().for_each(|frame| self.release(frame)),
        }
    }

    fn release_group(&self, group: &GroupWord) {
        let pages = group.let_go();
        if self.variant != Variant::LastKeepsPages {
            self.release_pages(pages);
        }
    }

    /// `Core::part`.
    pub(super) fn part(&self, frame: usize) {
        if let Some(group) = self.group.as_ref().filter(|_| frame < 2) {
            let pages = group.part();
            let wrong = self.variant == Variant::PartsWhatIsHeld && group.holds().is_some();
            self.release_pages(if wrong { Pages::Yours } else { pages });
        }
    }

    /// `Core::part_idle`.
    pub(super) fn part_idle(&self, frame: usize) {
        if let Some(group) = self.group.as_ref().filter(|_| frame < 2 && self.variant != Variant::StandsAgainstWriter) {
            self.release_pages(group.part_idle());
        }
    }

    fn release_pages(&self, pages: Pages) {
        if pages == Pages::Yours {
            [0, 1].into_iter().for_each(|frame| self.release(frame));
        }
    }

    /// The pair is held often, and a group formed of it, by who looks up a page of another file in `frame`.
    fn form_elsewhere(&self, frame: usize) {
        for _ in 0..2 {
            match self.word(frame).hold() {
                Ok(_) => self.release(frame),
                Err(refusal) => unreachable!("{refusal:?}, and nobody writes it"),
            }
        }
        let group = self.group.as_ref().unwrap();
        match self.pair_of(0).hold() {
            Ok(()) if self.form(group) => self.release_group(group),
            Ok(()) => [0, 1].into_iter().for_each(|frame| self.release(frame)),
            Err(half) => self.take_back(half),
        }
    }

    /// Holds both pages, reads them twice and releases them: the bytes of page `A`.
    fn look_at_all(&self) -> u64 {
        let held = self.hold_all();
        let seen = self.look_twice(held);
        self.release_all(held);
        seen
    }

    fn look_twice(&self, held: Held) -> u64 {
        let frames = if let Held::Each(frames) = held { frames } else { [0, 1] };
        let bytes = || frames.map(|frame| self.bytes(frame));
        let (at_start, at_end) = (bytes(), bytes());
        assert_eq!(at_start, at_end, "a store landed in a held page");
        assert_eq!(at_end[B], OTHER, "bytes of another page");
        at_end[A]
    }
}

/// Nothing is held but by a group that nobody holds, and nothing is lost.
fn all_is_released(world: &World, stored: u64) {
    assert_eq!(world.look_at_all(), stored, "a store was lost");
    world.part(0);
    assert!(world.nothing_is_held(), "a page is held by nobody");
    assert_eq!(world.free_pages(), world::FRAMES - 2, "a page was not freed");
}

fn spawn_holder(world: &Arc<World>) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || {
        let seen = world.look_at_all();
        assert!(seen == OLD || seen == NEW, "bytes of another page");
    })
}

/// A holder, who finds the group standing or forms it, meets a writer of a page of it.
fn hold_against_writer(world: &Arc<World>) {
    let holder = spawn_holder(world);
    assert!(world.write(NEW));
    holder.join().unwrap();
    all_is_released(world, NEW);
}

/// The group is held; a writer waits for it while it is released, and another holder comes.
fn release_against_writer_and_holder(variant: Variant) {
    let world = World::group(variant, true);
    let held = world.hold_all();
    assert!(matches!(held, Held::ByGroup));
    let writer = {
        let world = world.clone();
        thread::spawn(move || assert!(world.write(NEW)))
    };
    let holder = spawn_holder(&world);
    // As in `holds.rs`.
    thread::yield_now();
    assert_eq!(world.look_twice(held), OLD, "a store landed in a held page");
    world.release_all(held);
    writer.join().unwrap();
    holder.join().unwrap();
    all_is_released(&world, NEW);
}

/// A holder meets an eviction of a page, whose memory then caches something else.
fn hold_against_evict(world: &Arc<World>) {
    let holder = {
        let world = world.clone();
        thread::spawn(move || assert_eq!(world.look_at_all(), OLD, "bytes of another page"))
    };
    world.evict(true);
    // The memory has another use, of which holders of the group must not see anything.
    if let Some(frame) = world.allocate() {
        assert!(world.word(frame).begin_fill(), "a free page is empty");
        world.set_bytes(frame, ELSE);
        world.word(frame).filled();
        world.form_elsewhere(frame);
        holder.join().unwrap();
        world.part(frame);
        assert!(world.word(frame).take());
        let _nobody_waits = world.word(frame).emptied();
        world.free(frame);
    } else {
        holder.join().unwrap();
    }
    all_is_released(world, OLD);
}

/// A page of a group that is formed, or stands, is cut off the file.
fn hold_against_cut(world: &Arc<World>) {
    let holder = {
        let world = world.clone();
        thread::spawn(move || {
            let group = world.group.as_ref().unwrap();
            // As far as it goes by the group; what comes after is as for pages.
            if group.hold() {
                world.release_group(group);
            } else if world.shown(A) == Some(0) {
                match world.pair_of(0).hold() {
                    Ok(()) if world.is_run() && world.form(group) => world.release_group(group),
                    Ok(()) => [0, 1].into_iter().for_each(|frame| world.release(frame)),
                    Err(half) => world.take_back(half),
                }
            }
        })
    };
    world.cut(0);
    holder.join().unwrap();
    assert_eq!(world.free_pages(), world::FRAMES - 1, "a page was not freed");
    world.part(0);
    assert!(world.nothing_is_held(), "a page is held by nobody");
}

fn stands(variant: Variant) -> Arc<World> {
    World::group(variant, true)
}

fn falls(variant: Variant) -> Arc<World> {
    World::group(variant, false)
}

#[test]
fn loom_hold_of_a_group_against_a_writer() {
    explore(Variant::Right, 3, |variant| hold_against_writer(&stands(variant)));
}

#[test]
fn loom_forming_of_a_group_against_a_writer() {
    explore(Variant::Right, 3, |variant| hold_against_writer(&falls(variant)));
}

#[test]
fn loom_release_of_a_group_with_a_waiter() {
    explore(Variant::Right, 1, release_against_writer_and_holder);
}

#[test]
fn loom_hold_of_a_group_against_an_eviction() {
    explore(Variant::Right, 3, |variant| hold_against_evict(&stands(variant)));
}

#[test]
fn loom_forming_of_a_group_against_an_eviction() {
    explore(Variant::Right, 3, |variant| hold_against_evict(&falls(variant)));
}

#[test]
fn loom_hold_of_a_group_against_a_cut() {
    explore(Variant::Right, 3, |variant| hold_against_cut(&stands(variant)));
}

#[test]
fn loom_forming_of_a_group_against_a_cut() {
    explore(Variant::Right, 3, |variant| hold_against_cut(&falls(variant)));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_finds_a_group_formed_without_a_look_for_writers() {
    explore(Variant::FormWithoutLook, 3, |variant| hold_against_writer(&falls(variant)));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_finds_a_group_in_the_way_of_a_writer() {
    explore(Variant::StandsAgainstWriter, 3, |variant| hold_against_writer(&stands(variant)));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_finds_a_group_that_parts_before_the_writer_waits() {
    explore(Variant::PartBeforeWaiter, 3, |variant| hold_against_writer(&falls(variant)));
}

#[test]
#[should_panic(expected = "a page was not freed")]
fn loom_finds_a_group_that_keeps_what_has_left_its_file() {
    explore(Variant::StandsAtDetach, 2, |variant| hold_against_cut(&stands(variant)));
}

#[test]
#[should_panic(expected = "bytes of another page")]
fn loom_finds_a_hold_of_a_group_without_a_second_look() {
    explore(Variant::GroupWithoutRecheck, 3, |variant| hold_against_evict(&stands(variant)));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_finds_a_group_that_parts_although_it_is_held() {
    explore(Variant::PartsWhatIsHeld, 2, |variant| hold_against_writer(&stands(variant)));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_finds_a_last_release_that_keeps_the_pages() {
    explore(Variant::LastKeepsPages, 3, |variant| hold_against_writer(&stands(variant)));
}

/// What another file has in the memory of a page that was evicted.
const ELSE: u64 = 9;
