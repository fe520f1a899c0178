//! The guard: the thread that decides when a writer may go on.
//!
//! ```text
//!   writer thread          kernel            guard                      holder thread
//!   store ----------> write-protected
//!   (sleeps)               fault ----------> held? note the writer
//!                                            (asleep in poll)           last release: Opening
//!                                            <------------------------- page in the mailbox, eventfd
//!                          <---------------- unprotect, wake; Open
//!   store again, lands
//! ```
//!
//! The guard waits for nobody: it takes short locks that no thread keeps across a wait for the guard, it reads no file and it
//! never touches a view's memory. So a writer's wait is the wait for holds, and a holder's wait for the guard is one ioctl.
//! (A writer that has waited long is given a moment more, so that it does not find the page held again.) The first touch of
//! a page that no view shows yet is work for others (`worker.rs`).

use crate::sync::HashMap;
use crate::sync::atomic::Ordering;
use crate::sync::time::{Duration, Instant};
use std::collections::VecDeque;
use std::sync::Arc;

use stillwire_dma::seeded;

use crate::core::{Core, Mail, lock};
use crate::kernel::{Heard, Uffd};
use crate::mapping::ViewMap;
use crate::page::Fault;
use crate::stats::count;
use crate::{Error, Result};

/// Starts the guard thread.
pub(crate) fn start(core: Arc<Core>) -> Result<crate::sync::thread::JoinHandle<()>> {
    crate::sync::thread::Builder::new()
        .name("stillwire-guard".into())
        .spawn(move || Guard::new(core).run())
        .map_err(|source| Error::Guard { what: "starting its thread", source })
}

struct Guard {
    core: Arc<Core>,
    /// Writers that wait for an arena page's holds to end.
    waiting: HashMap<u32, Vec<Waiting>>,
    /// Writers that wait because too much is dirty.
    held_back: Vec<Waiting>,
    /// Arena pages whose writers have been let through after a wait, and until when the pages stay `Opening`; in order of
    /// time.
    grace: VecDeque<(u32, Instant)>,
    /// What was heard while a page was unprotected.
    later: Vec<(Arc<Uffd>, Heard)>,
}

/// One writer that waits.
struct Waiting {
    view: Arc<ViewMap>,
    /// Page of the view that it stored into.
    index: u64,
    since: Instant,
    /// Its process has gone. It stays noted, for its page knows that somebody waits; but it is no pause.
    gone: bool,
}

impl Guard {
    fn new(core: Arc<Core>) -> Self {
        let (held_back, later) = (Vec::new(), Vec::new());
        Self { core, waiting: HashMap::default(), held_back, grace: VecDeque::new(), later }
    }

    fn run(mut self) {
        let mut heard = Vec::new();
        while !self.core.stopped() {
            let listening = lock(&self.core.listening).clone();
            self.sleep(&listening);
            self.end_grace();
            if seeded!(UnprotectOnTimeout) {
                let long = |writer: &&Waiting| writer.since.elapsed() > GRACE * 2;
                self.waiting.values().flatten().filter(long).for_each(|writer| unprotect(writer, &mut self.later));
            }
            for mail in self.core.mail() {
                self.read(mail);
            }
            for uffd in &listening {
                if uffd.faults(&mut heard).is_err() {
                    // Not seen to happen; a pause keeps it from becoming a busy loop.
                    crate::sync::thread::sleep(Duration::from_millis(1));
                }
                let now = Instant::now();
                for touch in heard.drain(..) {
                    self.touched(uffd, touch, now);
                }
            }
            // Each of these may add to them.
            while let Some((uffd, touch)) = self.later.pop() {
                self.touched(&uffd, touch, Instant::now());
            }
        }
    }

    /// Until there is mail or a fault.
    fn sleep(&self, listening: &[Arc<Uffd>]) {
        let left = self.grace.front().map(|(_, until)| until.saturating_duration_since(Instant::now()));
        let left = if seeded!(UnprotectOnTimeout) { Some(GRACE) } else { left };
        self.core.bell().wait(listening, left);
    }

    fn read(&mut self, mail: Mail) {
        match mail {
            Mail::Opening(frame) => self.open(frame, None),
            Mail::Retry(frame) => {
                // Decided anew, not only woken: the arena page may cache something else by now, for which others wait.
                for writer in self.no_longer_waiting(frame) {
                    self.store(writer);
                }
            }
            Mail::Cleaned => {
                let held_back = std::mem::take(&mut self.held_back);
                self.core.counters.waiting.fetch_sub(held_back.len() as u64, Ordering::Relaxed);
                for writer in held_back {
                    self.store(writer);
                }
            }
            Mail::Gone(uffd) => self.forget(uffd),
        }
    }

    /// Somebody touched a page of a view.
    fn touched(&mut self, uffd: &Uffd, touch: Heard, since: Instant) {
        let page_size = self.core.arena.page_size();
        let found = self.core.view_at(uffd, touch.address);
        let Some((view, index)) = found.and_then(|view| view.index_of(touch.address).map(|index| (view, index))) else {
            // It is unmapped by now, or mapped as something else.
            let _: std::io::Result<()> = uffd.wake(touch.address & !(page_size - 1), page_size);
            return;
        };
        if touch.missing {
            self.core.wanted.ask(view, index);
        } else {
            count(&self.core.counters.faults, 1);
            self.store(Waiting { view, index, since, gone: false });
        }
    }

    /// A store hit protection.
    fn store(&mut self, writer: Waiting) {
        let core = &self.core;
        // The page can not leave its file while this looks at it. Not longer: after the decision the phase keeps the page.
        let decision = writer.view.with_laid(writer.index, |frame| {
            let word = core.arena.word(frame);
            if !word.is_dirty() && core.dirt.is_too_much() {
                return (frame, None);
            }
            // Held by nobody: no wait.
            core.part_idle(frame..frame + 1);
            let fault = word.fault();
            if fault == Fault::Wait {
                core.part(frame);
            }
            (frame, Some(fault))
        });
        match decision {
            // Writers noted earlier are let through as well: the last release came too late to tell of them.
            Some((frame, Some(Fault::Open))) => self.open(frame, Some(writer)),
            // `Opening` for others already, and unprotected for them.
            Some((frame, Some(Fault::Queued))) if self.grace.iter().any(|(other, _)| *other == frame) => {
                unprotect(&writer, &mut self.later);
            }
            Some((frame, Some(Fault::Wait | Fault::Queued))) => {
                count(&self.core.counters.waiting, 1);
                self.waiting.entry(frame).or_default().push(writer);
            }
            Some((_, None)) => {
                count(&self.core.counters.waiting, 1);
                count(&self.core.counters.held_back, 1);
                self.held_back.push(writer);
                // After it is noted: cleaning that ends after this look tells of it.
                self.core.dirt.clean_soon();
            }
            // The page has just left the view, and is missing now.
            Some((_, Some(Fault::Stray(_)))) | None => writer.view.wake(writer.index),
        }
    }

    /// Lets all writers of a page that is `Opening` through: those who wait, and `first`.
    fn open(&mut self, frame: u32, first: Option<Waiting>) {
        let waiting = self.no_longer_waiting(frame);
        let core = self.core.clone();
        core.digests.clear(frame);
        // The newest of them waits for what the page caches now: that one names it.
        if let Some(writer) = first.as_ref().or(waiting.last()) {
            let file = &writer.view.file;
            // Before any of them can store: what is new must be found by holders, and by who writes back.
            core.end_copy(file, writer.index, frame, Some(frame));
            file.is_dirty_now(&core, writer.index);
        }
        // Others may have come for what it cached before, and not been told yet that it has left its file.
        let here = |writer: &Waiting| writer.view.with_laid(writer.index, |laid| laid == frame) == Some(true);
        let (mine, others): (Vec<_>, Vec<_>) = waiting.into_iter().partition(here);
        // Counted before the writers go on: who sees the store sees the pause.
        let paused = mine.iter().filter(|writer| !writer.gone);
        paused.for_each(|writer| core.counters.paused(writer.since.elapsed()));
        for writer in mine.iter().chain(&first) {
            unprotect(writer, &mut self.later);
        }
        if mine.is_empty() {
            self.opened(frame);
        } else {
            // Who has waited and is just being woken would find the page closed again by the next holder.
            self.grace.push_back((frame, Instant::now() + GRACE));
        }
        others.into_iter().for_each(|writer| self.store(writer));
    }

    /// Ends `Opening`. Also when no view was left to unprotect: `Open` only says that one may be.
    fn opened(&self, frame: u32) {
        self.core.arena.word(frame).opened();
        count(&self.core.counters.opens, 1);
        self.core.arena.parking.wake(frame, 1);
    }

    /// Holders may close again what has been open for long enough.
    fn end_grace(&mut self) {
        let now = Instant::now();
        while let Some(&(frame, until)) = self.grace.front()
            && until <= now
        {
            self.grace.pop_front();
            self.opened(frame);
        }
    }

    fn no_longer_waiting(&mut self, frame: u32) -> Vec<Waiting> {
        let waiting = self.waiting.remove(&frame).unwrap_or_default();
        let still_there = waiting.iter().filter(|writer| !writer.gone).count();
        self.core.counters.waiting.fetch_sub(still_there as u64, Ordering::Relaxed);
        waiting
    }

    /// The writers of a process that has gone wait no more.
    fn forget(&mut self, uffd: u64) {
        let of_it = |writer: &Waiting| writer.view.uffd.id() == uffd;
        let held_back = self.held_back.len();
        self.held_back.retain(|writer| !of_it(writer));
        let mut gone = held_back - self.held_back.len();
        for writer in self.waiting.values_mut().flatten().filter(|writer| of_it(writer) && !writer.gone) {
            writer.gone = true;
            gone += 1;
        }
        self.core.counters.waiting.fetch_sub(gone as u64, Ordering::Relaxed);
    }
}

/// Lets a writer through. What is heard meanwhile comes `later`.
fn unprotect(writer: &Waiting, later: &mut Vec<(Arc<Uffd>, Heard)>) {
    let mut heard = Vec::new();
    writer.view.unprotect(writer.index, &mut heard);
    later.extend(heard.into_iter().map(|touch| (writer.view.uffd.clone(), touch)));
}

/// Time in which a writer that has waited can store before its page may be closed again.
const GRACE: Duration = Duration::from_micros(100);
