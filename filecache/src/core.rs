//! What holders, views, the guard and the other threads of a cache share.

use crate::sync::HashMap;
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, RwLock};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock, PoisonError, Weak};

use stillwire_dma::{Mapping, seeded};

use crate::arena::Arena;
use crate::digest::{Combine, Digests};
use crate::disk::Engine;
use crate::file::{FileCore, FileKey};
use crate::flusher::Dirt;
use crate::folio::Residents;
use crate::group::{self, GroupWord, Pages};
use crate::kernel::{Bell, Uffd};
use crate::mapping::ViewMap;
use crate::page::Released;
use crate::snapshot::Snapshots;
use crate::stats::Counters;
use crate::worker::Wanted;
use crate::{Config, Result};

/// The shared part of a cache.
///
/// Locks, in the order in which a thread may take them; the guard takes only those marked *short*, which nobody keeps
/// while waiting for the guard:
///
/// 1. a file's `io` (write-back, change of length, invalidation);
/// 2. a file's `growing` (new folios);
/// 3. a file's `layout` (what its views show);
/// 4. short: `residents`, a file's `dirty`, `snapshots`, the buddy allocator, `views`, a view's own locks, the mailbox.
pub(crate) struct Core {
    pub(crate) config: Config,
    // Declared before the arena, so dropped before it: the device loses its mapping before the memory goes.
    pub(crate) mapping: OnceLock<Mapping>,
    pub(crate) arena: Arena,
    pub(crate) digests: Digests,
    pub(crate) combine: Combine,
    pub(crate) counters: Counters,
    /// This process's.
    pub(crate) uffd: Arc<Uffd>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) residents: Residents,
    pub(crate) snapshots: Snapshots,
    pub(crate) dirt: Dirt,
    pub(crate) wanted: Wanted,
    /// Every file that is open or has pages here.
    pub(crate) files: Mutex<HashMap<FileKey, Arc<FileCore>>>,
    /// Every live view, by its userfaultfd and its first address.
    pub(crate) views: RwLock<BTreeMap<(u64, usize), Arc<ViewMap>>>,
    /// Every userfaultfd that the guard listens to.
    pub(crate) listening: Mutex<Vec<Arc<Uffd>>>,
    mailbox: Mutex<Vec<Mail>>,
    bell: Bell,
    stop: AtomicBool,
    next_id: AtomicU64,
    /// When the cache has ended: held pages, and one while they are counted.
    ending: AtomicU64,
    /// And the share of the core that they have together.
    share: AtomicPtr<Core>,
}

/// What the guard is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mail {
    /// A release has moved this arena page to `Opening`.
    Opening(u32),
    /// Writers that wait for this arena page must try again: it has left its file.
    Retry(u32),
    /// Pages have become clean: writers that waited for that may go on.
    Cleaned,
    /// The process behind the userfaultfd of this number has gone, and with it its writers.
    Gone(u64),
}

impl Core {
    pub(crate) fn new(config: Config, arena: Arena, uffd: Uffd, engine: Engine) -> Result<Arc<Self>> {
        let (uffd, pages) = (Arc::new(uffd), arena.pages());
        let core = Arc::new(Self {
            digests: Digests::new(pages),
            combine: Combine::new(arena.page_size()),
            counters: Counters::new(),
            listening: Mutex::new(vec![uffd.clone()]),
            uffd,
            engine: Arc::new(engine),
            residents: Residents::new(pages),
            snapshots: Snapshots::default(),
            dirt: Dirt::new(&config, pages),
            wanted: Wanted::default(),
            files: Mutex::default(),
            views: RwLock::default(),
            mailbox: Mutex::default(),
            bell: Bell::new()?,
            stop: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
            ending: AtomicU64::new(0),
            share: AtomicPtr::default(),
            mapping: OnceLock::new(),
            arena,
            config,
        });
        cores().push(Arc::downgrade(&core));
        Ok(core)
    }

    /// A share of the core at `address`, if there is one. Not necessarily the one that was there before.
    pub(crate) fn find(address: *const Self) -> Option<Arc<Self>> {
        cores().iter().find(|core| std::ptr::eq(core.as_ptr(), address))?.upgrade()
    }

    /// Ends one hold of a page. No system call, unless a writer has waited for just this.
    #[inline]
    pub(crate) fn release(&self, page: u32) {
        match self.arena.word(page).release() {
            Released::Done => {}
            other => self.released(page, other),
        }
    }

    /// Does what a release has left to do.
    #[cold]
    pub(crate) fn released(&self, page: u32, released: Released) {
        match released {
            Released::Done => {}
            Released::Opening if seeded!(LostWake) => {}
            Released::Opening => self.tell_guard(Mail::Opening(page)),
            Released::Free => self.arena.buddy().free(page),
            Released::Last => self.last(),
        }
    }

    /// What `page` is held for by its group alone ends: somebody wants it, and has said so in its word. If the group is held
    /// too, its last release does this.
    #[cold]
    pub(crate) fn part(&self, page: u32) {
        if let Some(group) = self.arena.group(page).filter(|_| !seeded!(StandingGroup)) {
            self.release_group(page, group.part());
        }
    }

    /// The same for the groups of `pages` that nobody holds.
    pub(crate) fn part_idle(&self, pages: Range<u32>) {
        let mut page = pages.start;
        while page < pages.end {
            if let Some(group) = self.arena.group(page) {
                self.release_group(page, group.part_idle());
            }
            page = (page / group::PAGES + 1) * group::PAGES;
        }
    }

    /// Ends one hold of `group`, which is that of `page`.
    #[cold]
    pub(crate) fn let_go_of_group(&self, page: u32, group: &GroupWord) {
        self.release_group(page, group.let_go());
    }

    /// Releases the pages of the group of `page`, if they are to be.
    fn release_group(&self, page: u32, pages: Pages) {
        if pages == Pages::Yours {
            let first = page / group::PAGES * group::PAGES;
            (first..first + group::PAGES).for_each(|page| self.release(page));
        }
    }

    /// The cache ends: the last handle is gone, so no hold can begin. The core stays until the last hold is released.
    #[allow(unsafe_code)]
    pub(crate) fn end(self: &Arc<Self>) {
        // The share that the holds have, together. Nothing can count down to zero before the last line.
        self.share.store(Arc::into_raw(self.clone()).cast_mut(), Ordering::Relaxed);
        self.ending.store(1, Ordering::Relaxed);
        (0..self.arena.pages()).step_by(group::PAGES as usize).for_each(|page| self.part(page));
        for page in 0..self.arena.pages() {
            // Counted before the page can tell.
            self.ending.fetch_add(1, Ordering::Relaxed);
            if !self.arena.word(page).end() {
                self.ending.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.last();
    }

    /// One of those that `end` counted is done. The caller has a share of the core.
    #[allow(unsafe_code)]
    pub(crate) fn last(&self) {
        // AcqRel: everything that other holders did comes before the end.
        if self.ending.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: the pointer is that of `Arc::into_raw` in `end`, of the share that it gave away for this (seen: it was
            // stored before the count was). This comes once, as the count goes to zero once. The caller has a share of its
            // own, so `self` outlives this line.
            unsafe { Arc::decrement_strong_count(self.share.load(Ordering::Relaxed)) };
        }
    }

    #[cold]
    pub(crate) fn tell_guard(&self, mail: Mail) {
        lock(&self.mailbox).push(mail);
        self.bell.ring();
    }

    /// Lets the guard thread end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// What wakes the guard besides faults.
    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    pub(crate) fn mail(&self) -> Vec<Mail> {
        std::mem::take(&mut *lock(&self.mailbox))
    }

    /// The view that shows `address` to the process behind `uffd`.
    pub(crate) fn view_at(&self, uffd: &Uffd, address: usize) -> Option<Arc<ViewMap>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        let (_, view) = views.range((uffd.id(), 0)..=(uffd.id(), address)).next_back()?;
        view.index_of(address).map(|_| view.clone())
    }

    /// A number that nothing else in this cache has.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Every file, at this moment.
    pub(crate) fn all_files(&self) -> Vec<Arc<FileCore>> {
        lock(&self.files).values().cloned().collect()
    }

    /// The guard listens to `uffd` too from now on.
    pub(crate) fn listen(&self, uffd: &Arc<Uffd>) {
        lock(&self.listening).push(uffd.clone());
        self.bell.ring();
    }

    /// Nobody touches anything behind `uffd` any more.
    pub(crate) fn unlisten(&self, uffd: &Uffd) {
        lock(&self.listening).retain(|other| other.id() != uffd.id());
        self.tell_guard(Mail::Gone(uffd.id()));
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        cores().retain(|core| !std::ptr::eq(core.as_ptr(), self));
    }
}

/// Every core that there is: for holds, which have no share in theirs.
/// (Not of a simulation: those run side by side, and this is of all of them.)
static CORES: std::sync::Mutex<Vec<Weak<Core>>> = std::sync::Mutex::new(Vec::new());

fn cores() -> std::sync::MutexGuard<'static, Vec<Weak<Core>>> {
    CORES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks; a thread that panicked with the lock left the data as consistent as every single step leaves it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
