//! A writer, and the guard that decides when it may go on, each step as in `guard.rs`.

use loom::sync::{Condvar, Mutex};

use super::*;

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

/// The guard.
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
                    self.store();
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
        let decision = laid.map(|frame| {
            world.part_idle(frame);
            if world.variant == Variant::PartBeforeWaiter {
                world.part(frame);
            }
            let fault = world.word(frame).fault();
            if fault == Fault::Wait
                && !matches!(world.variant, Variant::PartBeforeWaiter | Variant::StandsAgainstWriter)
            {
                world.part(frame);
            }
            (frame, fault)
        });
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
        world.word(frame).opened();
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
