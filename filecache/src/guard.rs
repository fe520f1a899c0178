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
//! The guard waits for nobody: it takes short locks that no thread keeps across a wait for the guard, and it never touches
//! a view's memory. So a writer's wait is the wait for holds, and a holder's wait for the guard is one ioctl.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::arena::Arena;
use crate::page::Fault;
use crate::stats::{Counters, count};
use crate::uffd::Uffd;
use crate::view::ViewMap;
use crate::{Error, Result};

/// What the guard shares with holders and views.
pub(crate) struct Core {
    pub(crate) arena: Arena,
    pub(crate) uffd: Uffd,
    pub(crate) counters: Counters,
    /// Every live view, by its first address.
    pub(crate) views: RwLock<BTreeMap<usize, Arc<ViewMap>>>,
    /// Arena pages that a release has moved to `Opening`.
    mailbox: Mutex<Vec<u32>>,
    bell: OwnedFd,
    stop: AtomicBool,
}

impl Core {
    pub(crate) fn new(arena: Arena, uffd: Uffd) -> Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = bell.map_err(|error| Error::Guard { what: "eventfd", source: error.into() })?;
        Ok(Self {
            arena,
            uffd,
            counters: Counters::new(),
            views: RwLock::default(),
            mailbox: Mutex::default(),
            bell,
            stop: AtomicBool::new(false),
        })
    }

    /// Ends one hold of a page. No system call, unless a writer has waited for just this.
    #[inline]
    pub(crate) fn release(&self, page: u32) {
        if self.arena.word(page).release() {
            self.tell_guard(page);
        }
    }

    /// `page` has been moved to `Opening` for a writer that waits.
    #[cold]
    pub(crate) fn tell_guard(&self, page: u32) {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner).push(page);
        self.ring();
    }

    /// Lets the guard thread end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
    }

    fn ring(&self) {
        // The only failure is a counter that is full, and then the guard is being woken anyway.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn mail(&self) -> Vec<u32> {
        std::mem::take(&mut *self.mailbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The view that shows `address`.
    fn view_at(&self, address: usize) -> Option<Arc<ViewMap>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        let (_, view) = views.range(..=address).next_back()?;
        view.index_of(address).map(|_| view.clone())
    }
}

/// Starts the guard thread.
pub(crate) fn start(core: Arc<Core>) -> Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("stillwire-guard".into())
        .spawn(move || Guard { core, waiting: HashMap::new() }.run())
        .map_err(|source| Error::Guard { what: "starting its thread", source })
}

struct Guard {
    core: Arc<Core>,
    /// Writers that wait for an arena page's holds to end.
    waiting: HashMap<u32, Vec<Waiting>>,
}

/// One writer that waits.
struct Waiting {
    view: Arc<ViewMap>,
    /// Page of the view that it stored into.
    index: u64,
    since: Instant,
}

impl Guard {
    fn run(mut self) {
        let mut addresses = Vec::new();
        while !self.core.stop.load(Ordering::Acquire) {
            self.sleep();
            for page in self.core.mail() {
                self.open_for_waiting(page);
            }
            if self.core.uffd.faults(&mut addresses).is_err() {
                // Not seen to happen; a pause keeps it from becoming a busy loop.
                std::thread::sleep(Duration::from_millis(1));
            }
            let now = Instant::now();
            for address in addresses.drain(..) {
                self.fault(address, now);
            }
        }
    }

    /// Until there is mail or a fault.
    fn sleep(&self) {
        let (uffd, bell) = (self.core.uffd.as_fd(), self.core.bell.as_fd());
        let mut ready = [PollFd::from_borrowed_fd(uffd, PollFlags::IN), PollFd::from_borrowed_fd(bell, PollFlags::IN)];
        // EINTR and the like: the caller looks at both sources in any case.
        let _ = poll(&mut ready, None);
        // Read before the mailbox is looked at: mail that comes after that look rings again.
        let _ = rustix::io::read(bell, &mut [0; 8]);
    }

    /// A store hit protection.
    fn fault(&mut self, address: usize, now: Instant) {
        count(&self.core.counters.faults, 1);
        let Some(view) = self.core.view_at(address) else { return self.wake(address) };
        let Some((index, page)) = view.index_of(address) else { return self.wake(address) };
        // Kept over the decision: the page can not leave its file while the view is there. Not longer: after it the phase
        // keeps the page, and a writer that is let through may drop the last view, which must not find this lock taken
        // while the guard asks for it a second time.
        let Some(live) = view.live() else { return self.wake(address) };
        let decision = self.core.arena.word(page).fault();
        drop(live);
        match decision {
            // Writers noted earlier are let through as well: the last release came too late to tell of them.
            Fault::Open => {
                let open = view.live().is_some_and(|_live| view.unprotect(&self.core.uffd, index).is_ok());
                let waiting = self.unprotect_waiting(page);
                self.publish(page, open | waiting);
            }
            Fault::Wait | Fault::Queued => {
                count(&self.core.counters.waiting, 1);
                self.waiting.entry(page).or_default().push(Waiting { view: view.clone(), index, since: now });
            }
            // The view has just gone, and with it the reason to wait.
            Fault::Stray(_) => self.wake(address),
        }
    }

    /// The last release has moved a page to `Opening`.
    fn open_for_waiting(&mut self, page: u32) {
        let open = self.unprotect_waiting(page);
        self.publish(page, open);
    }

    /// Unprotects a page in the views of all writers that wait for it; `false` when it was in none.
    fn unprotect_waiting(&mut self, page: u32) -> bool {
        let waiting = self.waiting.remove(&page).unwrap_or_default();
        // Counted before the writers go on: who sees the store sees the pause.
        for writer in &waiting {
            self.core.counters.paused(writer.since.elapsed());
        }
        self.core.counters.waiting.fetch_sub(waiting.len() as u64, Ordering::Relaxed);
        let mut open = false;
        for Waiting { view, index, .. } in &waiting {
            open |= view.live().is_some_and(|_live| view.unprotect(&self.core.uffd, *index).is_ok());
        }
        open
    }

    /// Ends `Opening`: `open` says whether the page was unprotected in any view.
    fn publish(&self, page: u32, open: bool) {
        let word = self.core.arena.word(page);
        if open {
            word.opened();
            count(&self.core.counters.opens, 1);
        } else {
            word.not_opened();
        }
        self.core.arena.parking.wake(page, 1);
    }

    /// Lets whoever waits at an address that is no view's try again: it is unmapped by now, or mapped as something else.
    fn wake(&self, address: usize) {
        let page_size = self.core.arena.page_size();
        let _: io::Result<()> = self.core.uffd.wake(address & !(page_size - 1), page_size);
    }
}
