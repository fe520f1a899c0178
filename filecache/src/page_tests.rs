//! The page word, one thread.

use super::*;

fn protected() -> PageWord {
    let page = PageWord::new();
    assert!(page.begin_fill());
    page.filled();
    page
}

fn open() -> PageWord {
    let page = protected();
    assert_eq!(page.fault(), Fault::Open);
    page.opened();
    page
}

#[test]
fn a_fault_on_an_idle_page_opens_it_and_makes_it_dirty() {
    let page = protected();
    assert!(!page.is_dirty());
    assert_eq!(page.fault(), Fault::Open);
    assert!(page.is_dirty(), "dirty before the store can land");
    assert_eq!(page.phase(), Phase::Opening);
    page.opened();
    assert_eq!(page.phase(), Phase::Open);
}

#[test]
fn a_fault_on_a_held_page_waits_for_the_last_release() {
    let page = protected();
    page.hold().unwrap();
    page.hold().unwrap();
    assert_eq!(page.fault(), Fault::Wait);
    assert_eq!(page.release(), Released::Done);
    assert_eq!(page.phase(), Phase::Protected);
    assert_eq!(page.release(), Released::Opening, "the last release tells the guard");
    assert_eq!(page.phase(), Phase::Opening);
    assert_eq!(page.fault(), Fault::Queued, "another writer on the same page");
}

#[test]
fn a_release_without_a_writer_tells_nobody() {
    let page = protected();
    page.hold().unwrap();
    assert_eq!(page.release(), Released::Done);
    assert_eq!((page.phase(), page.holds()), (Phase::Protected, 0));
}

#[test]
fn a_hold_on_an_open_page_closes_it() {
    let page = open();
    assert_eq!(page.hold(), Err(Refusal::Phase { phase: Phase::Open, released: Released::Done }));
    assert_eq!(page.holds(), 0);
    assert!(page.begin_close());
    assert!(!page.begin_close(), "one holder closes");
    assert_eq!(page.fault(), Fault::Wait, "a writer that comes while the page closes waits for this hold");
    page.closed_and_held();
    assert_eq!((page.phase(), page.holds()), (Phase::Protected, 1));
    assert_eq!(page.release(), Released::Opening);
}

#[test]
fn a_page_that_could_not_be_closed_is_given_back_to_its_writer() {
    let page = open();
    assert!(page.begin_close());
    assert!(!page.not_closed());
    assert_eq!(page.phase(), Phase::Open);
    assert!(page.begin_close());
    assert_eq!(page.fault(), Fault::Wait);
    assert!(page.not_closed());
    assert_eq!(page.phase(), Phase::Opening);
}

#[test]
fn a_new_holder_can_not_step_in_front_of_a_writer_whose_turn_has_come() {
    let page = protected();
    page.hold().unwrap();
    assert_eq!(page.fault(), Fault::Wait);
    // What the last release does, stopped between its two steps.
    assert_eq!(page.let_go(), Left::Unsettled);
    assert_eq!(page.hold(), Err(Refusal::Phase { phase: Phase::Opening, released: Released::Opening }));
    assert_eq!(page.phase(), Phase::Opening);
    assert_eq!(page.settle(), Released::Done, "the guard is told once");
}

#[test]
fn too_many_holds_are_refused_and_leave_the_word_alone() {
    let page = protected();
    page.0.fetch_add(TOO_MANY - 1, Ordering::Relaxed);
    page.hold().unwrap();
    assert_eq!(page.hold(), Err(Refusal::TooMany));
    assert_eq!((page.phase(), page.holds()), (Phase::Protected, TOO_MANY));
    assert_eq!(page.release(), Released::Done);
    page.hold().unwrap();
}

#[test]
fn a_failed_fill_may_be_tried_again() {
    let page = PageWord::new();
    assert!(page.begin_fill());
    assert!(!page.begin_fill(), "one thread fills");
    page.not_filled();
    assert_eq!(page.hold(), Err(Refusal::Phase { phase: Phase::Error, released: Released::Done }));
    assert!(page.begin_fill());
    page.filled();
    page.hold().unwrap();
}

#[test]
fn a_new_holder_is_told_of_the_writer_that_waits() {
    let page = protected();
    page.hold().unwrap();
    assert_eq!(page.fault(), Fault::Wait);
    assert_eq!(page.hold(), Err(Refusal::WriterWaits));
    assert_eq!(page.holds(), 2, "and is counted in all the same");
    assert_eq!(page.release(), Released::Done);
    assert_eq!(page.release(), Released::Opening);
}

#[test]
fn only_an_idle_clean_page_is_taken() {
    let page = protected();
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
    let dirty = open();
    assert!(!dirty.take());
    assert!(dirty.begin_close());
    dirty.closed_and_held();
    assert_eq!(dirty.release(), Released::Done);
    assert!(!dirty.take(), "protected, but not on the disk");
    assert!(dirty.take_dirty());
}

#[test]
fn a_writer_that_comes_while_the_page_is_taken_is_remembered() {
    let page = protected();
    assert!(page.take());
    assert_eq!(page.fault(), Fault::Wait);
    assert!(page.put_back(), "it is let through");
    assert_eq!(page.phase(), Phase::Opening);
    let page = protected();
    assert!(page.take());
    assert_eq!(page.fault(), Fault::Wait);
    assert!(page.emptied(), "it must try again");
    assert!(page.begin_fill());
    page.filled();
    assert!(page.hold().is_ok(), "and is not waited for by the page's next life");
}

#[test]
fn a_page_that_could_not_be_read_is_put_back_as_it_was() {
    let page = PageWord::new();
    assert!(page.begin_fill());
    page.not_filled();
    assert!(page.take());
    assert!(!page.put_back());
    assert_eq!(page.phase(), Phase::Error);
}

#[test]
fn what_was_written_is_clean_when_it_is_durable_unless_a_store_came() {
    let page = open();
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
}

#[test]
fn what_is_lost_on_the_way_to_the_disk_stays_dirty() {
    let page = open();
    assert!(page.begin_close());
    page.closed_and_held();
    page.written();
    page.not_durable();
    assert!(!page.durable());
    assert!(page.is_dirty());
}

#[test]
fn a_detached_page_is_freed_by_its_last_holder() {
    let page = protected();
    page.hold().unwrap();
    page.hold().unwrap();
    assert_eq!(page.fault(), Fault::Wait);
    assert_eq!(page.detach(), Released::Done);
    assert!(page.is_for_holders() && !page.take());
    assert_eq!(page.release(), Released::Free, "and no writer is let through");
    assert_eq!(page.phase(), Phase::Empty);

    let page = protected();
    page.hold().unwrap();
    assert_eq!(page.detach(), Released::Free, "nobody else holds it");
}

#[test]
fn a_count_in_passing_can_be_the_last_of_a_detached_page() {
    let page = open();
    // A holder that has counted itself in, and has not looked at the phase yet.
    let before = Word(page.0.fetch_add(1, Ordering::Acquire));
    assert!(page.begin_close());
    page.closed_and_held();
    assert_eq!(page.detach(), Released::Done);
    assert_eq!(page.hold_unusual(before), Err(Refusal::Phase { phase: Phase::Open, released: Released::Free }));
}

#[test]
fn a_copy_lives_as_long_as_its_holders() {
    let page = PageWord::new();
    page.begin_for_holders();
    assert_eq!(page.hold(), Ok(Touch::Again));
    assert_eq!(page.release(), Released::Done);
    assert_eq!(page.release(), Released::Free);
    assert!(page.begin_fill());
}

#[test]
fn the_last_release_of_each_page_tells_that_the_cache_has_ended() {
    let page = protected();
    assert!(!page.end(), "nobody holds it");
    page.hold().unwrap();
    page.hold().unwrap();
    assert_eq!(page.fault(), Fault::Wait);
    assert!(page.end());
    assert_eq!((page.let_go(), page.let_go()), (Left::Nothing, Left::Ended));
    assert_eq!(page.settle(), Released::Done, "who comes late to a page that has ended leaves it alone");
}

#[test]
fn use_is_counted_to_two() {
    let page = protected();
    assert_eq!(page.look(), Use::None);
    assert_eq!(page.hold(), Ok(Touch::First));
    assert_eq!(page.look(), Use::Once);
    assert_eq!(page.hold(), Ok(Touch::First));
    assert_eq!(page.hold(), Ok(Touch::Again));
    assert_eq!(page.hold(), Ok(Touch::Again));
    assert_eq!(page.look(), Use::Often);
    assert_eq!((page.look(), page.holds()), (Use::None, 4));
}
