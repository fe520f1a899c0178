//! Folios: runs of arena pages that cache a run of one file; which there are, and which goes when room is needed.

use crate::sync::HashMap;
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;
use std::sync::Arc;

use crate::core::{Core, Mail, lock};
use crate::file::FileCore;
use crate::page::Use;
use crate::policy::{Look, Policy};
use crate::stats::count;

/// A folio: a block of the arena and what it caches.
#[derive(Clone)]
pub(crate) struct Folio {
    pub(crate) file: Arc<FileCore>,
    /// First page in the file.
    pub(crate) first: u64,
    /// First page in the arena.
    pub(crate) frame: u32,
    /// Its length is `2^order` pages.
    pub(crate) order: u8,
}

impl Folio {
    /// Length, pages.
    pub(crate) fn pages(&self) -> u32 {
        1 << self.order
    }

    /// Its arena pages.
    pub(crate) fn frames(&self) -> std::ops::Range<u32> {
        self.frame..self.frame + self.pages()
    }

    fn is(&self, other: &Folio) -> bool {
        self.frame == other.frame && self.first == other.first && Arc::ptr_eq(&self.file, &other.file)
    }
}

/// A page, by the number of its file, whose folio is not to go: somebody is about to use it.
pub(crate) type Spared = Option<(u64, u64)>;

/// Every folio, and the order in which they go.
pub(crate) struct Residents(Mutex<Inner>);

struct Inner {
    folios: HashMap<u32, Folio>,
    policy: Policy,
}

impl Residents {
    /// None, in an arena of `pages`.
    pub(crate) fn new(pages: u32) -> Self {
        Self(Mutex::new(Inner { folios: HashMap::default(), policy: Policy::new(u64::from(pages)) }))
    }

    pub(crate) fn insert(&self, folio: Folio) {
        let mut inner = lock(&self.0);
        inner.policy.insert(folio.frame, (folio.file.id, folio.first), folio.pages());
        folio.file.folios.fetch_add(1, Ordering::Relaxed);
        inner.folios.insert(folio.frame, folio);
    }

    /// Forgets a folio; `false` when it is not there (any more).
    pub(crate) fn remove(&self, folio: &Folio) -> bool {
        let mut inner = lock(&self.0);
        let there = inner.folios.get(&folio.frame).is_some_and(|found| found.is(folio));
        if there {
            inner.folios.remove(&folio.frame);
            inner.policy.remove(folio.frame);
            folio.file.folios.fetch_sub(1, Ordering::Relaxed);
        }
        there
    }

    /// The folio that the arena page `frame` belongs to.
    pub(crate) fn of(&self, frame: u32) -> Option<Folio> {
        let inner = lock(&self.0);
        // A block of order n begins at a multiple of 2^n.
        (0..=crate::buddy::HIGHEST_ORDER)
            .find_map(|order| {
                inner.folios.get(&(frame >> order << order)).filter(|folio| folio.frames().contains(&frame))
            })
            .cloned()
    }

    /// Every folio of `file`.
    pub(crate) fn of_file(&self, file: &Arc<FileCore>) -> Vec<Folio> {
        let inner = lock(&self.0);
        inner.folios.values().filter(|folio| Arc::ptr_eq(&folio.file, file)).cloned().collect()
    }

    fn is_there(&self, folio: &Folio) -> bool {
        lock(&self.0).folios.get(&folio.frame).is_some_and(|found| found.is(folio))
    }

    /// The folio that should go next. It stays here until it has gone.
    fn victim(&self, core: &Core, spared: Spared) -> Option<Folio> {
        let mut inner = lock(&self.0);
        let Inner { folios, policy } = &mut *inner;
        let is_spared = |folio: &Folio| {
            let pages = folio.first..folio.first + u64::from(folio.pages());
            spared.is_some_and(|(file, page)| folio.file.id == file && pages.contains(&page))
        };
        let frame = policy.evict(|frame| match folios.get(&frame) {
            Some(folio) if is_spared(folio) => Look::Pinned,
            Some(folio) => look(core, folio),
            None => Look::Idle,
        })?;
        folios.get(&frame).cloned()
    }

    /// A victim that could not go.
    fn put_back(&self, folio: &Folio) {
        let mut inner = lock(&self.0);
        if inner.folios.get(&folio.frame).is_some_and(|found| found.is(folio)) {
            inner.policy.put_back(folio.frame, (folio.file.id, folio.first), folio.pages());
        }
    }
}

/// Whether a folio was used again since the last look. A sequential reader touches each page once, or twice where its
/// ranges meet inside a page: that is one use. Used again is a folio of which a quarter of the touched pages was held more
/// than once.
fn look(core: &Core, folio: &Folio) -> Look {
    core.part_idle(folio.frames());
    if !folio.frames().all(|frame| core.arena.word(frame).may_be_taken()) {
        return Look::Pinned;
    }
    let pages = folio.first..folio.first + u64::from(folio.pages());
    // Not waited for: who closes a page keeps it while the guard is waited for.
    let Ok(views) = folio.file.views.try_read() else { return Look::Pinned };
    // Of a process that does not answer. It would only be in the way of others that could go.
    if views.iter().any(|view| view.is_stuck(&pages)) {
        return Look::Pinned;
    }
    drop(views);
    let (mut touched, mut often) = (0, 0);
    for frame in folio.frames() {
        let used = core.arena.word(frame).look();
        touched += u32::from(used > Use::None);
        often += u32::from(used == Use::Often);
    }
    if often > 0 && often * 4 >= touched { Look::Used } else { Look::Idle }
}

impl Core {
    /// A block of `2^order` pages, for which idle folios are evicted if need be: but not more than twice its size, as
    /// memory in small pieces would empty the cache for one large block.
    pub(crate) fn allocate(&self, order: u8, spared: Spared) -> Option<u32> {
        let mut budget = 2u64 << order;
        loop {
            if let Some(block) = self.arena.buddy().allocate(order) {
                return Some(block);
            }
            let evicted = u64::from(self.evict(spared)?);
            // A single page is always worth another try.
            budget = if order == 0 { budget } else { budget.checked_sub(evicted)? };
        }
    }

    /// Evicts one folio; the number of pages that are free now. `None`: every folio is held, dirty, or in use.
    fn evict(&self, spared: Spared) -> Option<u32> {
        for _ in 0..TRIES {
            let folio = self.residents.victim(self, spared)?;
            if self.evict_folio(&folio) {
                count(&self.counters.evictions, u64::from(folio.pages()));
                return Some(folio.pages());
            }
            self.residents.put_back(&folio);
        }
        None
    }

    /// Takes an idle, clean folio out of its file and frees it; `false` when it is not idle or not clean.
    pub(crate) fn evict_folio(&self, folio: &Folio) -> bool {
        let _layout = lock(&folio.file.layout);
        if !self.residents.is_there(folio) {
            return false;
        }
        self.part_idle(folio.frames());
        let taken = folio.frames().take_while(|&frame| self.arena.word(frame).take()).count() as u32;
        // From here to the end nobody holds, opens or closes a page of it; who comes waits.
        let all = taken == folio.pages();
        if !all || folio.file.unlay(folio.first..folio.first + u64::from(taken)).is_err() {
            for frame in folio.frame..folio.frame + taken {
                if self.arena.word(frame).put_back() {
                    self.tell_guard(Mail::Opening(frame));
                }
            }
            self.arena.parking.wake(folio.frame, taken);
            return false;
        }
        for (page, frame) in (folio.first..).zip(folio.frames()) {
            // In this order: who still finds the page in the table finds it taken, waits, and looks it up again.
            folio.file.table.set(page, None);
            self.digests.clear(frame);
            if self.arena.word(frame).emptied() {
                self.tell_guard(Mail::Retry(frame));
            }
        }
        self.arena.parking.wake(folio.frame, taken);
        self.residents.remove(folio);
        self.arena.buddy().free(folio.frame);
        true
    }
}

/// Victims that may be lost to a race before eviction gives up.
const TRIES: u32 = 16;
