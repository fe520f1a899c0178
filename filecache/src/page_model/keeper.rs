//! What fills pages, lays them, takes them away and writes them back.

use super::*;

/// Reading in, and laying (`fill.rs`, `worker.rs`).
impl World {
    /// Makes sure that a page is cached; `false`: the file does not reach so far.
    pub(super) fn fill(&self, page: usize) -> bool {
        loop {
            let phase = self.shown(page).map(|frame| self.word(frame).phase());
            match phase {
                None => {
                    if !self.read_in(page) {
                        return false;
                    }
                }
                Some(Phase::Filling | Phase::Taken | Phase::Empty) => thread::yield_now(),
                Some(_) => return true,
            }
        }
    }

    fn read_in(&self, page: usize) -> bool {
        let growing = self.growing.lock().unwrap();
        if self.shown(page).is_some() {
            return true;
        }
        if self.is_cut_off(page) {
            return false;
        }
        let Some(frame) = self.allocate() else { unreachable!("there is room for all that a model caches") };
        assert!(self.word(frame).begin_fill(), "a free page is empty");
        self.set_shown(page, Some(frame));
        drop(growing);
        let disk = if page == A { self.disk.load(PlainOrdering::Relaxed) } else { OTHER };
        self.set_bytes(frame, disk);
        self.word(frame).filled();
        true
    }

    /// Lays page `A` over the view; `false`: the file does not reach so far.
    pub(super) fn lay(&self) -> bool {
        loop {
            if !self.fill(A) {
                return false;
            }
            let _layout = self.layout.lock().unwrap();
            if self.laid.lock().unwrap().is_some() {
                return true;
            }
            // Models lay nothing of which the table shows a copy.
            let frame = self
                .shown(A)
                .filter(|&frame| !matches!(self.word(frame).phase(), Phase::Filling | Phase::Error | Phase::Empty));
            if let Some(frame) = frame {
                self.show(frame);
                return true;
            }
        }
    }
}

/// Taking pages out of the file (`folio.rs`, `resize.rs`).
impl World {
    /// Takes page `A` out of its file, if it is idle and clean. `unlays`: whether the view can be changed.
    pub(super) fn evict(&self, unlays: bool) -> bool {
        let _layout = self.layout.lock().unwrap();
        // Models evict nothing of which the table shows a copy.
        let Some(frame) = self.shown(A) else { return false };
        self.part_idle(frame);
        let word = self.word(frame);
        if !word.take() {
            return false;
        }
        if !unlays {
            if word.put_back() && self.variant != Variant::NoOpening {
                self.tell_guard(Event::Opening(frame));
            }
            return false;
        }
        if self.variant != Variant::NoUnlay {
            self.unlay();
        }
        let late = self.variant == Variant::EmptiedBeforeTable;
        if !late {
            self.set_shown(A, None);
        }
        if word.emptied() && self.variant != Variant::NoRetry {
            self.tell_guard(Event::Retry(frame));
        }
        self.free(frame);
        if late {
            self.set_shown(A, None);
        }
        true
    }

    /// Cuts page `A`, which the arena page `frame` caches, off the file.
    pub(super) fn cut(&self, frame: usize) {
        self.cut_off();
        let _layout = self.layout.lock().unwrap();
        self.pin(frame);
        self.unlay();
        self.end_copy(A, frame);
        self.set_shown(A, None);
        *self.dirty.lock().unwrap() = false;
        let released = self.word(frame).detach();
        if self.variant == Variant::FreeAtDetach {
            self.free(frame);
        } else {
            self.released(frame, released);
        }
        if self.variant != Variant::StandsAtDetach {
            self.part(frame);
        }
        if self.variant != Variant::NoRetry {
            self.tell_guard(Event::Retry(frame));
        }
    }

    fn pin(&self, frame: usize) {
        loop {
            match self.word(frame).hold() {
                Ok(_) | Err(Refusal::WriterWaits) => return,
                Err(Refusal::TooMany) => unreachable!("a model has few threads"),
                Err(Refusal::Phase { phase, released }) => {
                    self.released(frame, released);
                    if phase == Phase::Open && self.close(A).is_some() {
                        return;
                    }
                    thread::yield_now();
                }
            }
        }
    }
}

/// Writing back (`writeback.rs`).
impl World {
    /// Writes page `A`, if it is dirty, and waits until it is durable.
    pub(super) fn write_back(&self) {
        if !*self.dirty.lock().unwrap() {
            return;
        }
        let Some(frame) = self.hold(A) else { return };
        let bytes = self.bytes(frame);
        let early = self.variant == Variant::CleanAfterRelease;
        if early {
            self.release(frame);
        }
        let original = self.written(frame);
        if !early {
            self.release(frame);
        }
        // Handed to the disk and flushed: nobody else looks at the disk meanwhile.
        self.disk.store(bytes, PlainOrdering::Relaxed);
        let mut dirty = self.dirty.lock().unwrap();
        if original.is_some_and(|frame| self.durable(frame)) {
            *dirty = false;
        }
    }

    /// The held `frame` has been written: the page that may be clean now.
    fn written(&self, frame: usize) -> Option<usize> {
        if !self.word(frame).is_for_holders() {
            self.word(frame).written();
            return Some(frame);
        }
        let copies = self.copies.lock().unwrap();
        let found = copies.filter(|(_, copy)| *copy == frame).map(|(original, _)| original);
        let original = if self.variant == Variant::WrittenWithoutCopy { Some(0) } else { found }?;
        self.word(original).written();
        Some(original)
    }

    fn durable(&self, frame: usize) -> bool {
        if self.variant == Variant::DurableWithoutLook {
            self.word(frame).clear(DIRTY | WRITTEN, Ordering::AcqRel);
            return true;
        }
        self.word(frame).durable()
    }
}
