//! Those who use the page word, each step as in the code that it stands for.

use loom::sync::{Condvar, Mutex};

use super::*;

/// A page's bytes, held (`hold.rs`, `snapshot.rs`, `core.rs`).
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
            match self.words[frame].hold() {
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
    fn close(&self, page: usize) -> Option<usize> {
        let frame = self.shown(page)?;
        let word = &self.words[frame];
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
        let word = &self.words[frame];
        if self.variant == Variant::ReleaseBeforeWake {
            let waited = word.now().0 & WAITER != 0;
            let before = Word(word.0.fetch_sub(1, Ordering::AcqRel));
            if waited && before.holds() == 1 {
                self.released(frame, word.release_unusual(before));
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
        self.words[copy].begin_for_holders();
        *copies = Some((frame, copy));
        self.set_shown(page, Some(copy));
        true
    }

    fn end_copy(&self, page: usize, frame: usize) {
        let copy = self.copies.lock().unwrap().take_if(|(original, _)| *original == frame);
        if let Some((_, copy)) = copy {
            self.set_shown(page, Some(frame));
            self.release(copy);
        }
    }
}

/// Reading in, and laying (`fill.rs`, `worker.rs`).
impl World {
    /// Makes sure that a page is cached; `false`: the file does not reach so far.
    pub(super) fn fill(&self, page: usize) -> bool {
        loop {
            let phase = self.shown(page).map(|frame| self.words[frame].phase());
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
        assert!(self.words[frame].begin_fill(), "a free page is empty");
        self.set_shown(page, Some(frame));
        drop(growing);
        let disk = if page == A { self.disk.load(PlainOrdering::Relaxed) } else { OTHER };
        self.set_bytes(frame, disk);
        self.words[frame].filled();
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
                .filter(|&frame| !matches!(self.words[frame].phase(), Phase::Filling | Phase::Error | Phase::Empty));
            if let Some(frame) = frame {
                self.show(frame);
                return true;
            }
        }
    }
}

/// Who decides when a writer may go on (`guard.rs`).
struct Guard<'a> {
    world: &'a World,
    /// Arena pages for which a writer waits.
    noted: Vec<usize>,
    /// Wakes the writers of page `A`.
    wake: &'a dyn Fn(),
}

impl<'a> Guard<'a> {
    fn new(world: &'a World, wake: &'a dyn Fn()) -> Self {
        Self { world, noted: Vec::new(), wake }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Fault => self.store(),
            Event::Opening(frame) => self.open(frame, false),
            Event::Retry(frame) => {
                if self.no_longer_waiting(frame) {
                    (self.wake)();
                }
            }
            Event::Stop => {}
        }
    }

    fn store(&mut self) {
        let world = self.world;
        if world.variant == Variant::UnprotectBeforeCheck {
            world.unprotect();
            (self.wake)();
        }
        let laid = world.laid.lock().unwrap();
        let decision = laid.map(|frame| (frame, world.words[frame].fault()));
        drop(laid);
        match decision {
            Some((frame, Fault::Open)) => self.open(frame, true),
            Some((frame, Fault::Wait | Fault::Queued)) => self.noted.push(frame),
            Some((_, Fault::Stray(_))) | None => (self.wake)(),
        }
    }

    fn open(&mut self, frame: usize, first: bool) {
        let writers = self.no_longer_waiting(frame) || first;
        let world = self.world;
        let late = world.variant == Variant::SnapshotAfterUnprotect;
        if writers {
            if !late {
                world.end_copy(A, frame);
            }
            *world.dirty.lock().unwrap() = true;
            world.readers_have_ended(frame);
            world.unprotect();
            (self.wake)();
        }
        world.words[frame].opened();
        if late {
            world.end_copy(A, frame);
        }
    }

    fn no_longer_waiting(&mut self, frame: usize) -> bool {
        let before = self.noted.len();
        self.noted.retain(|noted| *noted != frame);
        self.noted.len() < before
    }
}

/// A writer with the guard inside: of one writer the guard hears one fault at a time, so the two take turns.
impl World {
    /// Stores into page `A`; `false`: the file does not reach so far.
    pub(super) fn write(&self, value: u64) -> bool {
        let woken = std::cell::Cell::new(false);
        let wake = || woken.set(true);
        let mut guard = Guard::new(self, &wake);
        loop {
            match self.store(value) {
                Found::Stored => return true,
                Found::Missing if self.lay() => {}
                Found::Missing => return false,
                Found::Protected => {
                    woken.set(false);
                    guard.hear(Event::Fault);
                    while !woken.get() {
                        guard.hear(self.next_event());
                    }
                }
            }
        }
    }
}

/// What is between writers and a guard that are threads of their own.
pub(super) struct Kernel {
    /// The wait queue.
    queue: Mutex<()>,
    bell: Condvar,
}

impl Kernel {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { queue: Mutex::new(()), bell: Condvar::new() })
    }

    /// A store of [`NEW`] that sleeps on protection until it is woken, then tries again. As in the kernel, the permission
    /// is looked at under the wait queue's lock, so that no wake-up can pass between the look and the sleep.
    pub(super) fn write(&self, world: &World) {
        let mut queue = self.queue.lock().unwrap();
        while world.store(NEW) != Found::Stored {
            world.tell_guard(Event::Fault);
            queue = self.bell.wait(queue).unwrap();
        }
        drop(queue);
        world.store_returned();
    }

    /// The guard's thread.
    pub(super) fn guard(&self, world: &World) {
        let wake = || {
            let _queue = self.queue.lock().unwrap();
            self.bell.notify_all();
        };
        let mut guard = Guard::new(world, &wake);
        loop {
            match world.next_event() {
                Event::Stop => return,
                event => guard.hear(event),
            }
        }
    }
}

/// Taking pages out of the file (`folio.rs`, `resize.rs`).
impl World {
    /// Takes page `A` out of its file, if it is idle and clean. `unlays`: whether the view can be changed.
    pub(super) fn evict(&self, unlays: bool) -> bool {
        let _layout = self.layout.lock().unwrap();
        // What is evicted is a folio, which is known whatever the table shows.
        let Some(frame) = *self.laid.lock().unwrap() else { return false };
        let word = &self.words[frame];
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
        let released = self.words[frame].detach();
        if self.variant == Variant::FreeAtDetach {
            self.free(frame);
        } else {
            self.released(frame, released);
        }
        if self.variant != Variant::NoRetry {
            self.tell_guard(Event::Retry(frame));
        }
    }

    fn pin(&self, frame: usize) {
        loop {
            match self.words[frame].hold() {
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
        if !self.words[frame].is_for_holders() {
            self.words[frame].written();
            return Some(frame);
        }
        let copies = self.copies.lock().unwrap();
        let found = copies.filter(|(_, copy)| *copy == frame).map(|(original, _)| original);
        let original = if self.variant == Variant::WrittenWithoutCopy { Some(0) } else { found }?;
        self.words[original].written();
        Some(original)
    }

    fn durable(&self, frame: usize) -> bool {
        if self.variant == Variant::DurableWithoutLook {
            self.words[frame].0.fetch_and(!(DIRTY | WRITTEN), Ordering::AcqRel);
            return true;
        }
        self.words[frame].durable()
    }
}
