//! A cache ends while its pages are held: `Core::end`, `Core::last` and `Core::find`.
#![allow(unsafe_code)]

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::super::*;
use crate::group::{GroupWord, Pages};

/// A held page, its neighbour, and the core that they are of.
struct Ending {
    /// A mistake: who comes late to a page takes its core to be there.
    trusting: bool,
    pages: PairWord,
    /// Theirs, if it is looked at.
    group: Option<GroupWord>,
    /// A mistake: the cache ends, and the group goes on standing.
    standing: bool,
    ending: AtomicU64,
    /// Shares of the core: `Core::find` takes one as long as there is one.
    shares: Mutex<u64>,
    /// Whether it is there; goes with the core.
    memory: UnsafeCell<bool>,
    /// How often the guard was told of a writer, and how often the page became free.
    told: AtomicU64,
    freed: AtomicU64,
}

impl Ending {
    /// A page held `holds` times, of a core with a handle and the share of its holds.
    fn held(holds: u64, trusting: bool) -> Arc<Self> {
        let pages = PairWord::new();
        let page = pages.of(UPPER);
        assert!(page.begin_fill());
        page.filled();
        (0..holds).for_each(|_| assert!(page.hold().is_ok()));
        Arc::new(Self {
            trusting,
            pages,
            group: None,
            standing: false,
            ending: AtomicU64::new(0),
            shares: Mutex::new(1),
            memory: UnsafeCell::new(true),
            told: AtomicU64::new(0),
            freed: AtomicU64::new(0),
        })
    }

    /// Both pages held `holds` times by their group, which stands also if that is never.
    fn held_by_group(holds: u64, standing: bool) -> Arc<Self> {
        let mut ending = Self::held(1, false);
        let inside = Arc::get_mut(&mut ending).unwrap();
        let lower = inside.pages.of(1 - UPPER);
        assert!(lower.begin_fill());
        lower.filled();
        assert!(lower.hold().is_ok());
        let group = GroupWord::new();
        assert!(group.form());
        (0..holds).for_each(|_| assert!(group.hold()));
        assert_eq!(group.let_go(), Pages::NotYours);
        (inside.group, inside.standing) = (Some(group), standing);
        ending
    }

    fn page(&self) -> PageWord<'_> {
        self.pages.of(UPPER)
    }

    /// The last handle goes.
    fn end(&self) {
        *self.shares.lock().unwrap() += 1;
        self.ending.store(1, Ordering::Relaxed);
        if let Some(group) = self.group.as_ref().filter(|_| !self.standing)
            && group.part() == Pages::Yours
        {
            [0, 1].into_iter().for_each(|page| self.released(self.pages.of(page).release()));
        }
        for page in 0..2 {
            self.ending.fetch_add(1, Ordering::Relaxed);
            if !self.pages.of(page).end() {
                self.ending.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.last();
        self.give_share_back();
    }

    fn last(&self) {
        self.is_there();
        if self.ending.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Relaxed: what is looked for here must not be what puts things in order.
            let holds = [0, 1].map(|page| self.pages.of(page).load(Ordering::Relaxed).holds());
            assert_eq!(holds, [0, 0], "the memory goes while a page is held");
            self.give_share_back();
        }
    }

    fn is_there(&self) {
        // SAFETY: a word of loom's cell, which reports who reads while another writes.
        self.memory.with(|there| assert!(unsafe { *there }, "the memory has gone"));
    }

    fn give_share_back(&self) {
        let mut shares = self.shares.lock().unwrap();
        *shares -= 1;
        if *shares == 0 {
            // SAFETY: as in `is_there`.
            self.memory.with_mut(|there| unsafe { *there = false });
        }
    }

    /// `Core::find`.
    fn find(&self) -> bool {
        let mut shares = self.shares.lock().unwrap();
        let found = *shares > 0 || self.trusting;
        *shares += u64::from(found);
        found
    }

    /// As `Hold::drop`: it has no share.
    fn release(&self) {
        self.is_there();
        self.finish(self.page(), self.page().let_go());
    }

    /// The same, of both pages.
    fn release_both(&self) {
        self.is_there();
        for (page, left) in (0..).zip(self.pages.let_go().into_iter().flatten()) {
            self.finish(self.pages.of(page), left);
        }
    }

    /// The same, of the group.
    fn release_group(&self) {
        self.is_there();
        if self.group.as_ref().is_some_and(|group| group.let_go() == Pages::Yours) {
            self.release_both();
        }
    }

    /// As `finish` in `hold.rs`.
    fn finish(&self, page: PageWord<'_>, left: Left) {
        match left {
            Left::Nothing => {}
            Left::Unsettled => {
                if self.find() {
                    self.released(page.settle());
                    self.give_share_back();
                }
            }
            Left::Ended => self.last(),
        }
    }

    /// As `Core::released`, by who has a share.
    fn released(&self, released: Released) {
        self.is_there();
        match released {
            Released::Done => {}
            Released::Opening => drop(self.told.fetch_add(1, Ordering::Relaxed)),
            Released::Free => drop(self.freed.fetch_add(1, Ordering::Relaxed)),
            Released::Last => self.last(),
        }
    }

    /// A holder that finds a writer waiting, by a handle; then the handle goes, and it was the last.
    fn pass_and_end(&self) {
        match self.page().hold() {
            // The writer's turn comes first, or a copy is made: neither is of this page.
            Ok(_) | Err(Refusal::WriterWaits) => self.released(self.page().release()),
            Err(Refusal::Phase { released, .. }) => self.released(released),
            Err(Refusal::TooMany) => unreachable!(),
        }
        self.end();
    }
}

fn explore(meeting: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(meeting);
}

fn release_in_threads(ending: &Arc<Ending>, holds: usize) -> Vec<thread::JoinHandle<()>> {
    let release = |ending: Arc<Ending>| thread::spawn(move || ending.release());
    (0..holds).map(|_| release(ending.clone())).collect()
}

fn join(holders: Vec<thread::JoinHandle<()>>) {
    holders.into_iter().for_each(|holder| holder.join().unwrap());
}

/// Whatever comes first, the memory goes once, and after the last release.
#[test]
fn loom_end_against_two_releases() {
    explore(|| {
        let ending = Ending::held(2, false);
        let holders = release_in_threads(&ending, 2);
        ending.end();
        join(holders);
        assert_eq!(*ending.shares.lock().unwrap(), 0, "the memory goes");
    });
}

/// A page for which a writer waits: its last release still has something to do when somebody else may have done it and
/// ended the cache.
fn end_with_a_writer(trusting: bool) {
    let ending = Ending::held(2, trusting);
    assert_eq!(ending.page().fault(), Fault::Wait);
    let holders = release_in_threads(&ending, 2);
    ending.pass_and_end();
    join(holders);
    assert_eq!(*ending.shares.lock().unwrap(), 0, "the memory goes");
    assert!(ending.told.load(Ordering::Relaxed) <= 1, "the guard is told once");
}

#[test]
fn loom_end_against_two_releases_with_a_writer() {
    explore(|| end_with_a_writer(false));
}

#[test]
#[should_panic(expected = "the memory has gone")]
fn loom_finds_who_comes_late_without_a_share() {
    explore(|| end_with_a_writer(true));
}

/// Two pages that are released at once, one of them with a writer that waits.
#[test]
fn loom_end_against_the_release_of_a_pair() {
    explore(|| {
        let ending = Ending::held(1, false);
        let lower = ending.pages.of(1 - UPPER);
        assert!(lower.begin_fill());
        lower.filled();
        assert!(lower.hold().is_ok());
        assert_eq!(lower.fault(), Fault::Wait);
        let holder = {
            let ending = ending.clone();
            thread::spawn(move || ending.release_both())
        };
        ending.end();
        holder.join().unwrap();
        assert_eq!(*ending.shares.lock().unwrap(), 0, "the memory goes");
    });
}

/// Pages that are held by their group, `holds` times.
fn end_with_a_group(holds: u64, standing: bool) {
    let ending = Ending::held_by_group(holds, standing);
    let release = |ending: Arc<Ending>| thread::spawn(move || ending.release_group());
    let holders = (0..holds).map(|_| release(ending.clone())).collect();
    ending.end();
    join(holders);
    assert_eq!(*ending.shares.lock().unwrap(), 0, "the memory goes");
}

#[test]
fn loom_end_against_two_releases_of_a_group() {
    explore(|| end_with_a_group(2, false));
}

#[test]
fn loom_end_with_a_group_that_nobody_holds() {
    explore(|| end_with_a_group(0, false));
}

#[test]
#[should_panic(expected = "the memory goes")]
fn loom_finds_a_group_that_outlives_its_cache() {
    explore(|| end_with_a_group(1, true));
}

/// A page that belongs to its holders.
#[test]
fn loom_end_against_the_releases_of_a_copy() {
    explore(|| {
        let ending = Ending::held(0, false);
        assert!(ending.page().take());
        let _ = ending.page().emptied();
        ending.page().begin_for_holders();
        let holders = release_in_threads(&ending, 1);
        ending.pass_and_end();
        join(holders);
        assert_eq!(*ending.shares.lock().unwrap(), 0, "the memory goes");
        assert!(ending.freed.load(Ordering::Relaxed) <= 1, "the page is free once");
    });
}

/// The half that the page has.
const UPPER: u32 = 1;
