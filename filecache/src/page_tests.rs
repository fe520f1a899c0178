//! The page word, one thread.

use super::*;
use crate::word::{HOLDS, THREADS};

/// A page whose neighbour is somebody else's, and must be left alone.
struct Page {
    pair: PairWord,
    half: u32,
    neighbour: Word,
}

thread_local! {
    /// Which half the pages of this thread's test have.
    static HALF: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

impl Page {
    fn empty() -> Self {
        let (pair, half) = (PairWord::new(), HALF.get());
        // Holds, flags and a phase that an operation gone astray would change.
        let neighbour = Word::of(Phase::Protected).set(5 | WAITER | DIRTY | REFERENCED | WRITTEN);
        assert!(pair.of(1 - half).change(|_| Some(neighbour)).is_ok());
        Self { pair, half, neighbour }
    }

    fn protected() -> Self {
        let page = Self::empty();
        assert!(page.word().begin_fill());
        page.word().filled();
        page
    }

    fn open() -> Self {
        let page = Self::protected();
        assert_eq!(page.word().fault(), Fault::Open);
        page.word().opened();
        page
    }

    fn word(&self) -> PageWord<'_> {
        self.pair.of(self.half)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.pair.of(1 - self.half).now(), self.neighbour, "the neighbour");
        }
    }
}

/// The pages of `test` are lower ones, then upper ones.
fn both_halves(test: impl Fn()) {
    for half in [0, 1] {
        HALF.set(half);
        test();
    }
}

#[test]
fn a_fault_on_an_idle_page_opens_it_and_makes_it_dirty() {
    both_halves(|| {
        let page = Page::protected();
        let page = page.word();
        assert!(!page.is_dirty());
        assert_eq!(page.fault(), Fault::Open);
        assert!(page.is_dirty(), "dirty before the store can land");
        assert_eq!(page.phase(), Phase::Opening);
        page.opened();
        assert_eq!(page.phase(), Phase::Open);
    });
}

#[test]
fn a_fault_on_a_held_page_waits_for_the_last_release() {
    both_halves(|| {
        let page = Page::protected();
        let page = page.word();
        page.hold().unwrap();
        page.hold().unwrap();
        assert_eq!(page.fault(), Fault::Wait);
        assert_eq!(page.release(), Released::Done);
        assert_eq!(page.phase(), Phase::Protected);
        assert_eq!(page.release(), Released::Opening, "the last release tells the guard");
        assert_eq!(page.phase(), Phase::Opening);
        assert_eq!(page.fault(), Fault::Queued, "another writer on the same page");
    });
}

#[test]
fn a_release_without_a_writer_tells_nobody() {
    both_halves(|| {
        let page = Page::protected();
        let page = page.word();
        page.hold().unwrap();
        assert_eq!(page.release(), Released::Done);
        assert_eq!((page.phase(), page.holds()), (Phase::Protected, 0));
    });
}

#[test]
fn a_hold_on_an_open_page_closes_it() {
    both_halves(|| {
        let page = Page::open();
        let page = page.word();
        assert_eq!(page.hold(), Err(Refusal::Phase { phase: Phase::Open, released: Released::Done }));
        assert_eq!(page.holds(), 0);
        assert!(page.begin_close());
        assert!(!page.begin_close(), "one holder closes");
        assert_eq!(page.fault(), Fault::Wait, "a writer that comes while the page closes waits for this hold");
        page.closed_and_held();
        assert_eq!((page.phase(), page.holds()), (Phase::Protected, 1));
        assert_eq!(page.release(), Released::Opening);
    });
}

#[test]
fn a_page_that_could_not_be_closed_is_given_back_to_its_writer() {
    both_halves(|| {
        let page = Page::open();
        let page = page.word();
        assert!(page.begin_close());
        assert!(!page.not_closed());
        assert_eq!(page.phase(), Phase::Open);
        assert!(page.begin_close());
        assert_eq!(page.fault(), Fault::Wait);
        assert!(page.not_closed());
        assert_eq!(page.phase(), Phase::Opening);
    });
}

#[test]
fn a_new_holder_can_not_step_in_front_of_a_writer_whose_turn_has_come() {
    both_halves(|| {
        let page = Page::protected();
        let page = page.word();
        page.hold().unwrap();
        assert_eq!(page.fault(), Fault::Wait);
        // What the last release does, stopped between its two steps.
        assert_eq!(page.let_go(), Left::Unsettled);
        assert_eq!(page.hold(), Err(Refusal::Phase { phase: Phase::Opening, released: Released::Opening }));
        assert_eq!(page.phase(), Phase::Opening);
        assert_eq!(page.settle(), Released::Done, "the guard is told once");
    });
}

#[test]
fn too_many_holds_are_refused_and_leave_the_word_alone() {
    both_halves(|| {
        let page = Page::protected();
        let page = page.word();
        page.add(TOO_MANY - 1, Ordering::Relaxed);
        page.hold().unwrap();
        assert_eq!(page.hold(), Err(Refusal::TooMany));
        assert_eq!((page.phase(), page.holds()), (Phase::Protected, TOO_MANY));
        assert_eq!(page.release(), Released::Done);
        page.hold().unwrap();
    });
}

#[test]
fn a_failed_fill_may_be_tried_again() {
    both_halves(|| {
        let page = Page::empty();
        let page = page.word();
        assert!(page.begin_fill());
        assert!(!page.begin_fill(), "one thread fills");
        page.not_filled();
        assert_eq!(page.hold(), Err(Refusal::Phase { phase: Phase::Error, released: Released::Done }));
        assert!(page.begin_fill());
        page.filled();
        page.hold().unwrap();
    });
}

#[test]
fn a_new_holder_is_told_of_the_writer_that_waits() {
    both_halves(|| {
        let page = Page::protected();
        let page = page.word();
        page.hold().unwrap();
        assert_eq!(page.fault(), Fault::Wait);
        assert_eq!(page.hold(), Err(Refusal::WriterWaits));
        assert_eq!(page.holds(), 2, "and is counted in all the same");
        assert_eq!(page.release(), Released::Done);
        assert_eq!(page.release(), Released::Opening);
    });
}

#[test]
fn only_an_idle_clean_page_is_taken() {
    both_halves(|| {
        let page = Page::protected();
        let page = page.word();
        page.hold().unwrap();
        assert!(!page.take() && !page.may_be_taken());
        assert_eq!(page.release(), Released::Done);
        assert!(page.may_be_taken() && page.take());
        assert!(!page.take(), "by one thread");
        assert_eq!(page.hold(), Err(Refusal::Phase { phase: Phase::Taken, released: Released::Done }));
        assert!(!page.put_back());
        assert!(page.take());
        assert!(!page.emptied());
        assert_eq!(page.phase(), Phase::Empty);
        let dirty = Page::open();
        let dirty = dirty.word();
        assert!(!dirty.take());
        assert!(dirty.begin_close());
        dirty.closed_and_held();
        assert_eq!(dirty.release(), Released::Done);
        assert!(!dirty.take(), "protected, but not on the disk");
        assert!(dirty.take_dirty());
    });
}

#[test]
fn a_writer_that_comes_while_the_page_is_taken_is_remembered() {
    both_halves(|| {
        let page = Page::protected();
        let page = page.word();
        assert!(page.take());
        assert_eq!(page.fault(), Fault::Wait);
        assert!(page.put_back(), "it is let through");
        assert_eq!(page.phase(), Phase::Opening);
        let page = Page::protected();
        let page = page.word();
        assert!(page.take());
        assert_eq!(page.fault(), Fault::Wait);
        assert!(page.emptied(), "it must try again");
        assert!(page.begin_fill());
        page.filled();
        assert!(page.hold().is_ok(), "and is not waited for by the page's next life");
    });
}

#[test]
fn a_page_that_could_not_be_read_is_put_back_as_it_was() {
    both_halves(|| {
        let page = Page::empty();
        let page = page.word();
        assert!(page.begin_fill());
        page.not_filled();
        assert!(page.take());
        assert!(!page.put_back());
        assert_eq!(page.phase(), Phase::Error);
    });
}

#[test]
fn what_was_written_is_clean_when_it_is_durable_unless_a_store_came() {
    both_halves(|| {
        let page = Page::open();
        let page = page.word();
        assert!(page.begin_close());
        page.closed_and_held();
        page.written();
        assert_eq!(page.release(), Released::Done);
        assert!(page.is_dirty(), "not on the disk yet");
        assert!(page.durable());
        assert!(!page.is_dirty());

        page.hold().unwrap();
        page.written();
        assert_eq!(page.release(), Released::Done);
        assert_eq!(page.fault(), Fault::Open);
        page.opened();
        assert!(!page.durable(), "a store came after it was written");
        assert!(page.is_dirty());
        page.written();
        assert!(!page.durable(), "an open page was not written as it is now");
    });
}

#[test]
fn what_is_lost_on_the_way_to_the_disk_stays_dirty() {
    both_halves(|| {
        let page = Page::open();
        let page = page.word();
        assert!(page.begin_close());
        page.closed_and_held();
        page.written();
        page.not_durable();
        assert!(!page.durable());
        assert!(page.is_dirty());
    });
}

#[test]
fn a_detached_page_is_freed_by_its_last_holder() {
    both_halves(|| {
        let page = Page::protected();
        let page = page.word();
        page.hold().unwrap();
        page.hold().unwrap();
        assert_eq!(page.fault(), Fault::Wait);
        assert_eq!(page.detach(), Released::Done);
        assert!(page.is_for_holders() && !page.take());
        assert_eq!(page.release(), Released::Free, "and no writer is let through");
        assert_eq!(page.phase(), Phase::Empty);

        let page = Page::protected();
        let page = page.word();
        page.hold().unwrap();
        assert_eq!(page.detach(), Released::Free, "nobody else holds it");
    });
}

#[test]
fn a_count_in_passing_can_be_the_last_of_a_detached_page() {
    both_halves(|| {
        let page = Page::open();
        let page = page.word();
        // A holder that has counted itself in, and has not looked at the phase yet.
        let before = page.add(1, Ordering::Acquire);
        assert!(page.begin_close());
        page.closed_and_held();
        assert_eq!(page.detach(), Released::Done);
        assert_eq!(page.hold_unusual(before), Err(Refusal::Phase { phase: Phase::Open, released: Released::Free }));
    });
}

#[test]
fn a_copy_lives_as_long_as_its_holders() {
    both_halves(|| {
        let page = Page::empty();
        let page = page.word();
        page.begin_for_holders();
        assert_eq!(page.hold(), Ok(Touch::Again));
        assert_eq!(page.release(), Released::Done);
        assert_eq!(page.release(), Released::Free);
        assert!(page.begin_fill());
    });
}

#[test]
fn the_last_release_of_each_page_tells_that_the_cache_has_ended() {
    both_halves(|| {
        let page = Page::protected();
        let page = page.word();
        assert!(!page.end(), "nobody holds it");
        page.hold().unwrap();
        page.hold().unwrap();
        assert_eq!(page.fault(), Fault::Wait);
        assert!(page.end());
        assert_eq!((page.let_go(), page.let_go()), (Left::Nothing, Left::Ended));
        assert_eq!(page.settle(), Released::Done, "who comes late to a page that has ended leaves it alone");
    });
}

#[test]
fn use_is_counted_to_two() {
    both_halves(|| {
        let page = Page::protected();
        let page = page.word();
        assert_eq!(page.look(), Use::None);
        assert_eq!(page.hold(), Ok(Touch::First));
        assert_eq!(page.look(), Use::Once);
        assert_eq!(page.hold(), Ok(Touch::First));
        assert_eq!(page.hold(), Ok(Touch::Again));
        assert_eq!(page.hold(), Ok(Touch::Again));
        assert_eq!(page.look(), Use::Often);
        assert_eq!((page.look(), page.holds()), (Use::None, 4));
    });
}

/// As many threads as there can be find that there are too many holds, all at once.
#[test]
fn the_number_of_holds_stays_in_its_bits() {
    both_halves(|| {
        let page = Page::protected();
        let page = page.word();
        page.add(TOO_MANY, Ordering::Relaxed);
        let before = page.now();
        // All but the last have added, and not subtracted yet.
        page.add(THREADS - 2, Ordering::Relaxed);
        assert_eq!(page.hold(), Err(Refusal::TooMany));
        page.add(1, Ordering::Relaxed);
        assert_eq!((page.holds(), page.phase()), (HOLDS, Phase::Protected));
        page.sub(THREADS - 1, Ordering::Relaxed);
        assert_eq!(page.now(), before);
    });
}

/// Two pages of a pair, cached and used before.
fn pair() -> PairWord {
    let pair = PairWord::new();
    for page in [0, 1].map(|page| pair.of(page)) {
        assert!(page.begin_fill());
        page.filled();
        (0..2).for_each(|_| assert!(page.hold().is_ok()));
        (0..2).for_each(|_| assert_eq!(page.release(), Released::Done));
    }
    pair
}

fn holds(pair: &PairWord) -> [u32; 2] {
    [0, 1].map(|page| pair.of(page).holds())
}

#[test]
fn a_pair_is_held_and_released_at_once() {
    let pair = pair();
    assert_eq!((pair.hold(), holds(&pair)), (Ok(()), [1, 1]));
    assert_eq!((pair.of(1).hold(), holds(&pair)), (Ok(Touch::Again), [1, 2]));
    assert_eq!((pair.let_go(), holds(&pair)), (None, [0, 1]));
    assert_eq!([0, 1].map(|page| pair.of(page).fault()), [Fault::Open, Fault::Wait], "each page for itself");
}

#[test]
fn what_stands_in_the_way_of_one_page_of_a_pair_leaves_the_other_one_alone() {
    let refused = |phase| Err(Refusal::Phase { phase, released: Released::Done });
    let (lower, upper) = (pair(), pair());
    assert_eq!((lower.of(0).fault(), upper.of(1).fault()), (Fault::Open, Fault::Open));
    let opening = refused(Phase::Opening);
    assert_eq!(lower.hold(), Err(Half { lower: false, answer: opening, upper: Released::Done }));
    assert_eq!(upper.hold(), Err(Half { lower: true, answer: opening, upper: Released::Done }));
    assert_eq!((holds(&lower), holds(&upper)), ([0, 0], [1, 0]));

    let full = pair();
    full.of(1).add(TOO_MANY, Ordering::Relaxed);
    assert_eq!(full.hold(), Err(Half { lower: true, answer: Err(Refusal::TooMany), upper: Released::Done }));
    assert_eq!(holds(&full), [1, TOO_MANY]);

    let new = pair();
    assert_eq!(new.of(1).look(), Use::Often);
    assert_eq!(new.hold(), Err(Half { lower: true, answer: Ok(Touch::First), upper: Released::Done }));
    assert_eq!(
        (new.of(0).look(), new.hold()),
        (Use::Often, Err(Half { lower: false, answer: Ok(Touch::First), upper: Released::Done }))
    );
    assert_eq!(holds(&new), [2, 1], "the upper one was let go");
}

/// The upper page was let go, and a writer had begun to wait for this hold of it.
#[test]
fn the_half_of_a_pair_that_is_let_go_lets_its_writer_go_on() {
    let pair = pair();
    assert_eq!(pair.of(0).fault(), Fault::Open);
    // A hold of both, stopped between its two steps.
    assert_eq!((pair.of(0).add(1, Ordering::Acquire).holds(), pair.of(1).hold()), (0, Ok(Touch::Again)));
    let before = u64::from(pair.of(0).now().0 - 1) | u64::from(pair.of(1).now().0 - 1) << 32;
    assert_eq!(pair.of(1).fault(), Fault::Wait);
    let answer = Err(Refusal::Phase { phase: Phase::Opening, released: Released::Done });
    assert_eq!(pair.hold_unusual(before), Half { lower: false, answer, upper: Released::Opening });
    assert_eq!((pair.of(1).phase(), holds(&pair)), (Phase::Opening, [0, 0]));
}

#[test]
fn the_release_of_a_pair_looks_at_both_halves() {
    for waited in [0, 1] {
        let pair = pair();
        assert_eq!(pair.hold(), Ok(()));
        assert_eq!(pair.of(waited).fault(), Fault::Wait);
        let mut left = [Left::Nothing; 2];
        left[waited as usize] = Left::Unsettled;
        assert_eq!(pair.let_go(), Some(left));
        assert_eq!([0, 1].map(|page| pair.of(page).settle() == Released::Opening), [waited == 0, waited == 1]);
    }
    let pair = pair();
    assert_eq!(pair.hold(), Ok(()));
    assert!(pair.of(0).end() && pair.of(1).end());
    assert_eq!(pair.let_go(), Some([Left::Ended; 2]));
}

#[test]
fn a_writer_that_waits_for_a_page_of_its_holders_is_no_end_of_the_cache() {
    both_halves(|| {
        let page = Page::protected();
        let page = page.word();
        page.hold().unwrap();
        page.hold().unwrap();
        assert_eq!(page.detach(), Released::Done);
        assert_eq!(page.fault(), Fault::Wait, "by a view that could not be changed");
        assert!(!page.now().has_ended());
        assert_eq!(page.release(), Released::Free);
    });
}

#[test]
fn a_page_taken_unread_is_not_for_holders() {
    both_halves(|| {
        let page = Page::empty();
        let page = page.word();
        assert!(page.begin_fill());
        page.not_filled();
        assert!(page.take() && !page.is_for_holders());
        assert_eq!(page.fault(), Fault::Wait);
        assert!(!page.now().has_ended());
        assert!(!page.put_back() && !page.is_for_holders());
    });
}

#[test]
fn a_page_is_found_by_where_its_word_is() {
    let pairs = [PairWord::new(), PairWord::new(), PairWord::new()];
    for page in 0..6 {
        let at = At::of(&pairs, page);
        assert_eq!((at.page_of(&pairs), at.is_upper()), (page, page % 2 == 1));
        assert_eq!(at.pair(), &raw const pairs[page as usize / 2]);
    }
    assert!(At::of(&pairs[1..], 0).page_of(&pairs) == 2 && At::of(&pairs, 0).page_of(&pairs[1..]) >= 6);
}
