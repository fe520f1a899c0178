//! How pages come to be held: looked up, counted in, looked up again, and what stands in the way of that.

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use stillwire_dma::seeded;

use crate::core::{Core, Mail};
use crate::file::FileCore;
use crate::frames::Frames;
use crate::group::GroupWord;
use crate::mapping::ViewMap;
use crate::page::{Answer, Half, Phase, Refusal, Touch};
use crate::stats::count;
use crate::table::Entry;
use crate::{Error, Result};

/// What [`hold_run`] has done.
pub(crate) struct Begun {
    /// The first page's arena page.
    pub(crate) first: u32,
    /// Number of pages from it on that are held, and are to be looked up again.
    pub(crate) held: u32,
    /// What the next one's word said, if it was asked.
    pub(crate) answer: Option<Answer>,
}

/// Counts in the pages of `entries`, if they are the arena pages from `first` on, up to the first that is not simply held:
/// pairs of them at once.
#[inline]
pub(crate) fn hold_run(core: &Core, entries: &[Entry], first: u32) -> Begun {
    let mut held = 0;
    while let Some(entry) = entries.get(held as usize) {
        let frame = first + held;
        if entry.get() != Some(frame) {
            break;
        }
        let both =
            frame.is_multiple_of(2) && entries.get(held as usize + 1).is_some_and(|next| next.get() == Some(frame + 1));
        if !both {
            match core.arena.word(frame).hold() {
                Ok(Touch::Again) => held += 1,
                answer => return Begun { first, held, answer: Some(answer) },
            }
        } else if let Err(half) = core.arena.pair(frame).hold() {
            return begin_half(core, first, held, half);
        } else {
            held += 2;
        }
    }
    Begun { first, held, answer: None }
}

/// Holds the group of arena pages from `first` on, if it can be had at once and `entries` are of it.
#[inline]
pub(crate) fn hold_group(core: &Core, entries: &[Entry], first: u32) -> bool {
    let Some(group) = core.arena.group(first).filter(|group| group.hold()) else { return false };
    if is_run(entries, first) || seeded!(NoSecondLook) {
        return true;
    }
    core.let_go_of_group(first, group);
    false
}

/// Makes a group of the pages from `first` on, each of which the caller holds: `true` if the caller now holds the group
/// instead.
#[cold]
pub(crate) fn form_group(core: &Core, first: u32) -> bool {
    let is_wanted = || core.arena.is_wanted(first) && !seeded!(FormWithoutLook);
    let formed = !is_wanted() && core.arena.group(first).is_some_and(GroupWord::form);
    if formed && is_wanted() {
        // Since the first look. Who wants it may have come too early to have the group part.
        core.part(first);
    }
    formed
}

/// What [`hold_run`] has done when it comes to a pair of which not both pages are simply held.
#[cold]
fn begin_half(core: &Core, first: u32, held: u32, Half { lower, answer, upper }: Half) -> Begun {
    core.released(first + held + 1, upper);
    Begun { first, held: held + u32::from(lower), answer: Some(answer) }
}

/// Whether `entries` are of the arena pages from `first` on, as many as there are.
#[inline]
pub(crate) fn is_run(entries: &[Entry], first: u32) -> bool {
    entries.iter().zip(first..).all(|(entry, frame)| entry.get() == Some(frame))
}

/// Holds the file pages of `pages`, or none, where [`hold_run`] was not enough: `begun` is what it has held, and found.
#[cold]
pub(crate) fn hold_rest(
    core: &Arc<Core>,
    file: &Arc<FileCore>,
    pages: Range<u64>,
    Begun { first, held, answer }: Begun,
) -> Result<Frames> {
    let mut frames = Frames::default();
    let mut found = answer.map(|answer| (first + held, answer));
    for (page, frame) in (pages.start..).zip(first..first + held) {
        // Looked up again: a page may have left the file, and then the run ends before it.
        if u64::from(frames.len()) == page - pages.start && file.table.get(page) == Some(frame) {
            frames.push(frame);
        } else {
            core.release(frame);
            found = found.take().and_then(|(frame, answer)| undo(core, frame, answer));
        }
    }
    if found.is_some() {
        let at = pages.start + u64::from(frames.len());
        hold_slowly(core, file, at..pages.end, found, &mut frames)?;
    }
    hold_more(core, file, pages, &mut frames)?;
    Ok(frames)
}

/// Takes back what `answer` has counted in.
fn undo<T>(core: &Core, frame: u32, answer: Answer) -> Option<T> {
    match answer {
        Ok(_) | Err(Refusal::WriterWaits) => core.release(frame),
        Err(Refusal::TooMany) => {}
        Err(Refusal::Phase { released, .. }) => core.released(frame, released),
    }
    None
}

/// Holds every page of a run of file pages, or none.
#[inline]
pub(crate) fn hold_pages(core: &Arc<Core>, file: &Arc<FileCore>, pages: Range<u64>) -> Result<Frames> {
    let mut frames = Frames::default();
    hold_more(core, file, pages, &mut frames)?;
    Ok(frames)
}

/// Holds the pages of `pages` that `frames` has not yet; none when it fails.
#[inline]
fn hold_more(core: &Arc<Core>, file: &Arc<FileCore>, pages: Range<u64>, frames: &mut Frames) -> Result<()> {
    let mut at = pages.start + u64::from(frames.len());
    while at < pages.end {
        // What the first page that is not simply held was found to be.
        let mut found = None;
        for entry in file.table.entries(at).iter().take((pages.end - at) as usize) {
            let Some(frame) = entry.get() else { break };
            match core.arena.word(frame).hold() {
                // Looked up again: it may have left the file between the look and the hold.
                Ok(touch) if entry.get() == Some(frame) || seeded!(NoSecondLook) => {
                    frames.push(frame);
                    if touch == Touch::First {
                        file.first_touch(core, at);
                    }
                    at += 1;
                }
                answer => {
                    found = Some((frame, answer));
                    break;
                }
            }
        }
        if at < pages.end {
            hold_slowly(core, file, at..pages.end, found, frames)?;
            at = pages.start + u64::from(frames.len());
        }
    }
    Ok(())
}

/// Does what stands in the way of holding the first page of `pages`, and adds what is held by that to `frames`; releases
/// all of `frames` when it fails. Keeps nothing locked or half done while it waits, so holders and the guard can not wait
/// for each other.
#[cold]
fn hold_slowly(
    core: &Arc<Core>,
    file: &Arc<FileCore>,
    pages: Range<u64>,
    found: Option<(u32, Answer)>,
    frames: &mut Frames,
) -> Result<()> {
    let done = match found {
        None => fill(core, file, &pages, frames),
        Some((frame, answer)) => step(core, file, pages, frame, answer, frames),
    };
    if done.is_err() {
        std::mem::take(frames).each(|frame| core.release(frame));
    }
    done
}

/// Reads the first page of `pages` in, and asks for the others meanwhile.
fn fill(core: &Arc<Core>, file: &Arc<FileCore>, pages: &Range<u64>, frames: &mut Frames) -> Result<()> {
    frames.note_read();
    let most = (AT_ONCE >> core.arena.page_shift()).max(1).min(u64::from(core.arena.pages()) / 8);
    let end = pages.end.min(pages.start.saturating_add(most));
    if end - pages.start > 1 {
        file.prefetch(core, pages.start..end, pages.start);
    }
    file.fill(core, pages.start).map(drop)
}

/// One step towards holding the first page of `pages`, of which the look-up and the word said `frame` and `answer`.
fn step(
    core: &Arc<Core>,
    file: &Arc<FileCore>,
    pages: Range<u64>,
    frame: u32,
    answer: Answer,
    frames: &mut Frames,
) -> Result<()> {
    let word = core.arena.word(frame);
    let phase = match answer {
        Ok(_) | Err(Refusal::WriterWaits) => {
            // Counted in, but it has left the file; or it has a writer that must not wait for this hold too.
            let stays = file.table.get(pages.start) == Some(frame);
            if stays && answer == Ok(Touch::First) {
                file.first_touch(core, pages.start);
            }
            if stays && (answer.is_ok() || !core.copy_for_holders(file, pages.start, frame)) {
                frames.push(frame);
            } else {
                core.release(frame);
            }
            return Ok(());
        }
        Err(Refusal::TooMany) => {
            let offset = pages.start << core.arena.page_shift();
            return Err(Error::TooManyHolds { path: file.path().to_path_buf(), offset });
        }
        Err(Refusal::Phase { phase, released }) => {
            core.released(frame, released);
            phase
        }
    };
    match phase {
        Phase::Empty | Phase::Filling | Phase::Error => {
            frames.note_read();
            file.fill(core, pages.start).map(drop)
        }
        Phase::Open => close(core, file, pages, frames),
        Phase::Protected | Phase::Opening | Phase::Closing | Phase::Taken => {
            let moving = || matches!(word.phase(), Phase::Opening | Phase::Closing | Phase::Taken);
            core.arena.parking.wait_while(frame, moving);
            Ok(())
        }
    }
}

/// Closes and holds the open pages that `pages` begins with: one ioctl for all of them.
pub(crate) fn close(core: &Core, file: &FileCore, pages: Range<u64>, frames: &mut Frames) -> Result<()> {
    let claim = |page: u64| {
        let frame = file.table.get(page).filter(|&frame| core.arena.word(frame).begin_close())?;
        if file.table.get(page) == Some(frame) {
            return Some(frame);
        }
        // It has left the file, and is open in another.
        not_closed(core, frame);
        None
    };
    let closing: Vec<u32> = pages.clone().map_while(claim).collect();
    if closing.is_empty() {
        return Ok(());
    }
    let count_of = closing.len() as u64;
    // Locked over the ioctls: the mappings stay where they are. Without a view there is nothing to protect.
    let views = file.views.read().unwrap_or_else(PoisonError::into_inner);
    let run = pages.start..pages.start + count_of;
    let protect = |calls, view: &Arc<ViewMap>| Ok(calls + if seeded!(HoldOpen) { 0 } else { view.protect(&run)? });
    let answer = views.iter().try_fold(0, protect);
    drop(views);
    for &frame in &closing {
        match &answer {
            Ok(_) => {
                core.arena.word(frame).closed_and_held();
                frames.push(frame);
                core.arena.parking.wake(frame, 1);
            }
            Err(_) => not_closed(core, frame),
        }
    }
    let calls = answer.map_err(|source| Error::View {
        path: file.path().to_path_buf(),
        what: "UFFDIO_WRITEPROTECT",
        bytes: closing.len() << core.arena.page_shift(),
        source,
        hint: "",
    })?;
    count(&core.counters.closes, if calls > 0 { count_of } else { 0 });
    count(&core.counters.close_calls, calls);
    Ok(())
}

fn not_closed(core: &Core, frame: u32) {
    if core.arena.word(frame).not_closed() {
        core.tell_guard(Mail::Opening(frame));
    }
    core.arena.parking.wake(frame, 1);
}

/// Bytes of one hold that are read at the same time.
const AT_ONCE: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word::TOO_MANY;
    use crate::{Cache, Config};

    /// A holder that was slow between its look-up and its count: the pages that it has counted in are none of the file's
    /// by then.
    #[test]
    fn a_run_that_has_left_the_file_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 4 * 4096]).unwrap();
        let cache = Cache::new(Config { bytes: 1 << 20, ..Default::default() }).unwrap();
        let opened = cache.open(&path).unwrap().0;
        let (core, file) = (&opened.cache.core, &opened.file);
        (0..2).for_each(|_| hold_pages(core, file, 0..4).unwrap().each(|frame| core.release(frame)));
        let frame = |page| file.table.get(page).unwrap();
        let holds = || [0, 1, 2, 3].map(|page| core.arena.word(frame(page)).holds());
        assert_eq!(holds(), [0; 4]);

        let mut begun = hold_run(core, &file.table.entries(1)[..2], frame(1));
        begun.answer = Some(core.arena.word(frame(3)).hold());
        assert_eq!((begun.held, holds()), (2, [0, 1, 1, 1]));
        assert!(
            !is_run(file.table.entries(0), begun.first) && is_run(file.table.entries(1).get(..3).unwrap(), frame(1))
        );
        let frames = hold_rest(core, file, 0..3, begun).unwrap();
        assert_eq!((frames.len(), holds()), (3, [1, 1, 1, 0]));

        // The first page is still the file's, and the next has been asked; it is taken as it was found.
        let first = frame(0);
        let begun = Begun { first, held: 1, answer: Some(core.arena.word(frame(1)).hold()) };
        assert!(core.arena.word(first).hold().is_ok());
        hold_rest(core, file, 0..2, begun).unwrap().each(|frame| core.release(frame));
        frames.each(|frame| core.release(frame));
        assert_eq!(holds(), [0; 4]);
    }

    /// More holds than a page's word counts: the run's other pages are let go, and what has been held stays.
    #[test]
    fn too_many_holds_of_a_page_are_an_error_and_leave_its_neighbours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 4 * 4096]).unwrap();
        let cache = Cache::new(Config { bytes: 1 << 20, ..Default::default() }).unwrap();
        let file = cache.open(&path).unwrap();
        let (opened, all) = (&file.0, 0..4 * 4096);
        (0..2).for_each(|_| drop(file.hold(all.clone()).unwrap()));
        let core = &opened.cache.core;
        let frames = [0, 1, 2, 3].map(|page| opened.file.table.get(page).unwrap());
        let holds = || frames.map(|frame| core.arena.word(frame).holds());
        for (page, frame) in (0..).zip(frames) {
            (0..TOO_MANY).for_each(|_| assert!(core.arena.word(frame).hold().is_ok()));
            let refused =
                |range| matches!(file.hold(range), Err(Error::TooManyHolds { offset, .. }) if offset == page * 4096);
            assert!(refused(all.clone()) && refused(page * 4096..page * 4096 + 1));
            let mut expected = [0; 4];
            expected[page as usize] = TOO_MANY;
            assert_eq!(holds(), expected);
            core.release(frame);
            drop(file.hold(all.clone()).unwrap());
            (1..TOO_MANY).for_each(|_| core.release(frame));
        }
        assert_eq!(holds(), [0; 4]);
    }
}
