//! The page word under every interleaving.
//!
//! The bytes of a page and the write permission of its view are one modelled word, because the hardware makes them one:
//! a store happens with the permission it was checked against, and an ioctl that takes the permission away returns after
//! every processor has dropped the old one. A writer stores if it may, and otherwise tells the guard and sleeps.
//!
//! Found here: a store that lands in a held page (the holder reads two different values), and a writer that is never
//! woken (loom reports the deadlock).

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::*;

/// Permission bit of the modelled page; the rest is its bytes.
const WRITE_PROTECTED: u64 = 1 << 63;

struct Model {
    word: PageWord,
    page: AtomicU64,
    /// Openings that the guard was told of.
    told: Mutex<u32>,
    tell: Condvar,
    /// Wake-ups of the writers' wait queue.
    woken: Mutex<u32>,
    wake: Condvar,
}

impl Model {
    fn protected() -> Arc<Self> {
        let model = Self {
            word: PageWord::new(),
            page: AtomicU64::new(WRITE_PROTECTED),
            told: Mutex::new(0),
            tell: Condvar::new(),
            woken: Mutex::new(0),
            wake: Condvar::new(),
        };
        assert!(model.word.begin_fill());
        model.word.filled();
        Arc::new(model)
    }

    fn open() -> Arc<Self> {
        let model = Self::protected();
        assert_eq!(model.word.fault(), Fault::Open);
        model.unprotect();
        model.word.opened();
        model
    }

    fn protect(&self) {
        self.page.fetch_or(WRITE_PROTECTED, Ordering::AcqRel);
    }

    fn unprotect(&self) {
        self.page.fetch_and(!WRITE_PROTECTED, Ordering::AcqRel);
    }

    fn bytes(&self) -> u64 {
        self.page.load(Ordering::Acquire) & !WRITE_PROTECTED
    }

    /// One store instruction; `false` when it faulted.
    fn store(&self, value: u64) -> bool {
        let mut seen = self.page.load(Ordering::Acquire);
        loop {
            // The failing case is confirmed by an atomic operation too: a processor faults on the page table's newest
            // entry, not on an old copy of it.
            let new = if seen & WRITE_PROTECTED == 0 { value } else { seen };
            match self.page.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return seen & WRITE_PROTECTED == 0,
                Err(now) => seen = now,
            }
        }
    }

    fn tell_guard(&self) {
        *self.told.lock().unwrap() += 1;
        self.tell.notify_one();
    }

    /// What the guard does with a page that is `Opening`.
    fn guard_opens(&self) {
        assert_eq!(self.word.phase(), Phase::Opening);
        self.unprotect();
        self.word.opened();
    }

    /// Holds, looks twice, releases.
    fn hold_and_look(&self) {
        loop {
            match self.word.hold() {
                Ok(()) => break,
                Err(Refusal::Phase { phase, opening }) => {
                    if opening {
                        self.tell_guard();
                    }
                    if phase == Phase::Open && self.word.begin_close() {
                        self.protect();
                        self.word.closed_and_held();
                        break;
                    }
                    thread::yield_now();
                }
                Err(Refusal::TooMany) => unreachable!(),
            }
        }
        let at_start = self.bytes();
        let at_end = self.bytes();
        assert_eq!(at_start, at_end, "a store landed in a held page");
        if self.word.release() {
            self.tell_guard();
        }
    }

    /// A writer with the guard inside: of one writer the guard sees one fault at a time, so the two take turns.
    fn write_guarded(&self, value: u64) {
        while !self.store(value) {
            match self.word.fault() {
                Fault::Open => self.guard_opens(),
                Fault::Wait | Fault::Queued => {
                    let mut told = self.told.lock().unwrap();
                    while *told == 0 {
                        told = self.tell.wait(told).unwrap();
                    }
                    *told -= 1;
                    drop(told);
                    self.guard_opens();
                }
                Fault::Stray(phase) => panic!("the view shows a page that is {phase:?}"),
            }
        }
    }
}

fn check(threads: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(threads);
}

/// A holder and a writer meet on a protected page.
#[test]
fn loom_hold_against_open() {
    check(|| {
        let model = Model::protected();
        let holder = {
            let model = model.clone();
            thread::spawn(move || model.hold_and_look())
        };
        model.write_guarded(7);
        holder.join().unwrap();
        assert_eq!(model.bytes(), 7, "a store was lost");
        assert!(model.word.is_dirty());
    });
}

/// A writer waits for a hold that ends; another holder comes at that moment.
#[test]
fn loom_release_against_new_holder() {
    check(|| {
        let model = Model::protected();
        model.word.hold().unwrap();
        let writer = {
            let model = model.clone();
            thread::spawn(move || model.write_guarded(7))
        };
        let holder = {
            let model = model.clone();
            thread::spawn(move || model.hold_and_look())
        };
        if model.word.release() {
            model.tell_guard();
        }
        writer.join().unwrap();
        holder.join().unwrap();
        assert_eq!(model.bytes(), 7, "a store was lost");
    });
}

/// Two holders find the page open while a writer stores.
#[test]
fn loom_two_holders_close() {
    check(|| {
        let model = Model::open();
        let holders = [(); 2].map(|()| {
            let model = model.clone();
            thread::spawn(move || model.hold_and_look())
        });
        model.write_guarded(7);
        for holder in holders {
            holder.join().unwrap();
        }
        assert_eq!(model.bytes(), 7, "a store was lost");
        assert_eq!(model.word.holds(), 0);
    });
}

/// The guard as a thread of its own, with the kernel's fault queue and wait queue between it and two writers.
#[test]
fn loom_two_writers_one_guard() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(1);
    builder.check(|| {
        let model = Model::protected();
        model.word.hold().unwrap();
        let kernel = Arc::new(Kernel { events: Mutex::new(Vec::new()), arrived: Condvar::new() });
        let writers = [(); 2].map(|()| {
            let (model, kernel) = (model.clone(), kernel.clone());
            thread::spawn(move || {
                kernel.write(&model, 7);
                kernel.send(Event::Done);
            })
        });
        let guard = {
            let (model, kernel) = (model.clone(), kernel.clone());
            thread::spawn(move || kernel.guard(&model, 2))
        };
        // Lets the others come first: loom does not go back to wake a thread that slept on a condition variable when
        // this thread went on, so without the yield it only looks at holds that end before anybody stores.
        thread::yield_now();
        assert_eq!(model.bytes(), 0, "a store landed in a held page");
        if model.word.release() {
            kernel.send(Event::Told);
        }
        for thread in writers.into_iter().chain([guard]) {
            thread.join().unwrap();
        }
        assert_eq!(model.bytes(), 7, "a store was lost");
    });
}

#[derive(Clone, Copy)]
enum Event {
    Fault,
    Told,
    Done,
}

struct Kernel {
    events: Mutex<Vec<Event>>,
    arrived: Condvar,
}

impl Kernel {
    fn send(&self, event: Event) {
        self.events.lock().unwrap().push(event);
        self.arrived.notify_one();
    }

    /// A store that sleeps on protection until it is woken, then tries again. As in the kernel, the permission is looked
    /// at once more under the wait queue's lock, so that a wake-up can not pass between the look and the sleep.
    fn write(&self, model: &Model, value: u64) {
        let mut woken = model.woken.lock().unwrap();
        while !model.store(value) {
            self.send(Event::Fault);
            woken = model.wake.wait(woken).unwrap();
        }
        drop(woken);
    }

    fn guard(&self, model: &Model, writers: u32) {
        let mut done = 0;
        while done < writers {
            let event = {
                let mut events = self.events.lock().unwrap();
                while events.is_empty() {
                    events = self.arrived.wait(events).unwrap();
                }
                events.remove(0)
            };
            let open = match event {
                Event::Done => {
                    done += 1;
                    false
                }
                Event::Told => true,
                Event::Fault => match model.word.fault() {
                    Fault::Open => true,
                    Fault::Wait | Fault::Queued => false,
                    Fault::Stray(phase) => panic!("the view shows a page that is {phase:?}"),
                },
            };
            if open {
                let mut woken = model.woken.lock().unwrap();
                model.guard_opens();
                *woken += 1;
                drop(woken);
                model.wake.notify_all();
            }
        }
    }
}
