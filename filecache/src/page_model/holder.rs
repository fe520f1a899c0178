//! Holding, releasing, and copies, each step as in `hold.rs`, `core.rs` and `snapshot.rs`.

use super::*;

impl World {
    /// Holds file page `page`: the arena page. `None`: the file does not reach so far.
    pub(super) fn hold(&self, page: usize) -> Option<usize> {
        loop {
            let Some(frame) = self.shown(page) else {
                if !self.fill(page) {
                    return None;
                }
                continue;
            };
            match self.word(frame).hold() {
                Ok(_) if self.variant == Variant::NoRecheck || self.shown(page) == Some(frame) => return Some(frame),
                Ok(_) => self.release(frame),
                Err(Refusal::WriterWaits) => {
                    let stays = self.shown(page) == Some(frame);
                    if stays && !self.copy_for_holders(page, frame) {
                        return Some(frame);
                    }
                    self.release(frame);
                }
                Err(Refusal::TooMany) => unreachable!("a model has few threads"),
                Err(Refusal::Phase { phase, released }) => {
                    self.released(frame, released);
                    match phase {
                        Phase::Empty | Phase::Filling | Phase::Error => _ = self.fill(page),
                        Phase::Open => {
                            if let Some(frame) = self.close(page) {
                                return Some(frame);
                            }
                        }
                        _ => thread::yield_now(),
                    }
                }
            }
        }
    }

    /// Closes and holds an open page.
    pub(super) fn close(&self, page: usize) -> Option<usize> {
        let frame = self.shown(page)?;
        let word = self.word(frame);
        if self.variant == Variant::NoClosing {
            self.protect();
            let held = word.change(|word| {
                let held = Word(word.with(Phase::Protected).0 + 1);
                (word.phase() == Phase::Open).then_some(held)
            });
            return held.is_ok().then_some(frame);
        }
        if !word.begin_close() {
            return None;
        }
        if self.shown(page) != Some(frame) {
            if word.not_closed() {
                self.tell_guard(Event::Opening(frame));
            }
            return None;
        }
        // Only page `A` has a view, and no other page is ever open.
        self.protect();
        word.closed_and_held();
        Some(frame)
    }

    /// Reads twice what was held, and releases it: the bytes.
    pub(super) fn look_and_release(&self, frame: usize) -> u64 {
        let at_start = self.bytes(frame);
        let at_end = self.bytes(frame);
        assert_eq!(at_start, at_end, "a store landed in a held page");
        self.release(frame);
        at_end
    }

    /// Holds page `A`, reads it and releases it: the bytes.
    pub(super) fn hold_and_look(&self) -> Option<u64> {
        self.hold(A).map(|frame| self.look_and_release(frame))
    }

    pub(super) fn release(&self, frame: usize) {
        let word = self.word(frame);
        if self.variant == Variant::ReleaseBeforeWake {
            let waited = word.now().0 & WAITER != 0;
            let before = word.sub(1, Ordering::AcqRel);
            if waited && before.holds() == 1 {
                self.released(frame, word.settle());
            }
            return;
        }
        self.released(frame, word.release());
    }

    pub(super) fn released(&self, frame: usize, released: Released) {
        match released {
            Released::Done => {}
            Released::Opening => self.tell_guard(Event::Opening(frame)),
            Released::Free => self.free(frame),
            Released::Last => unreachable!("the cache does not end here"),
        }
    }

    fn copy_for_holders(&self, page: usize, frame: usize) -> bool {
        if self.variant == Variant::NoCopy {
            return false;
        }
        let Some(copy) = self.allocate() else { return false };
        let mut copies = self.copies.lock().unwrap();
        if self.shown(page) != Some(frame) && self.variant != Variant::CopyOfCopy {
            drop(copies);
            self.free(copy);
            return true;
        }
        self.set_bytes(copy, self.bytes(frame));
        self.word(copy).begin_for_holders();
        *copies = Some((frame, copy));
        self.set_shown(page, Some(copy));
        true
    }

    pub(super) fn end_copy(&self, page: usize, frame: usize) {
        let copy = self.copies.lock().unwrap().take_if(|(original, _)| *original == frame);
        if let Some((_, copy)) = copy {
            self.set_shown(page, Some(frame));
            self.release(copy);
        }
    }
}
