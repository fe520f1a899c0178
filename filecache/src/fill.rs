//! Reading files into folios: once for all who want a page, ahead of who reads in sequence.

use crate::sync::atomic::Ordering;
use crate::sync::time::{Duration, Instant};
use crate::sync::{Condvar, Mutex, MutexGuard};
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use crate::arena::Claim;
use crate::core::{Core, lock};
use crate::disk::{Operation, Request};
use crate::file::FileCore;
use crate::folio::Folio;
use crate::page::Phase;
use crate::stats::count;
use crate::table::folio_of;
use crate::{Error, Result};

impl FileCore {
    /// Makes sure that file page `page` is cached, reading its folio in if need be; its arena page. Waits for another
    /// thread that is reading it.
    #[cold]
    pub(crate) fn fill(self: &Arc<Self>, core: &Arc<Core>, page: u64) -> Result<u32> {
        loop {
            let found = self.table.get(page);
            let phase = found.map(|frame| core.arena.word(frame).phase());
            match (found, phase) {
                (None, _) | (_, Some(Phase::Error)) => self.read_in(core, page)?,
                (Some(frame), Some(Phase::Filling | Phase::Taken | Phase::Empty)) => {
                    let busy = || matches!(core.arena.word(frame).phase(), Phase::Filling | Phase::Taken);
                    core.arena.parking.wait_while(frame, busy);
                }
                (Some(frame), _) => return Ok(frame),
            }
        }
    }

    /// Starts to read the folios that `pages` touches and that are not cached, without waiting, as far as there is room
    /// without that of `spared`: where most of the memory is dirty or held, what is read ahead would push out the page that
    /// it was read ahead of, and whoever wants that would read in vain again and again.
    pub(crate) fn prefetch(self: &Arc<Self>, core: &Arc<Core>, pages: Range<u64>, spared: u64) {
        let mut at = pages.start;
        while let Some((first, order)) = self.folio_at(core, at).filter(|_| at < pages.end) {
            if self.table.get(at).is_none() {
                match self.start(core, at, Some(spared)) {
                    Ok(Some(_)) => count(&core.counters.read_ahead, 1),
                    Ok(None) => {}
                    Err(_) => return,
                }
            }
            at = first + (1 << order);
        }
    }

    /// A page was held for the first time since it was read: whoever goes through the file in sequence will want what
    /// follows.
    #[cold]
    pub(crate) fn first_touch(self: &Arc<Self>, core: &Arc<Core>, page: u64) {
        let Some((_, order)) = self.folio_at(core, page) else { return };
        // Once a folio, or every 64 KiB of a large one.
        if page & ((1u64 << order.min(4)) - 1) != 0 || page == 0 {
            return;
        }
        if self.table.get(page - 1).is_some() {
            self.read_ahead(core, page);
        }
    }

    /// The run of pages that a folio for `page` should be of: first page and order. `None` beyond the end.
    fn folio_at(&self, core: &Core, page: u64) -> Option<(u64, u8)> {
        let pages = self.pages();
        (page < pages).then(|| folio_of(page, pages, core.arena.highest_order()))
    }

    /// Reads what follows the folio of `page`.
    fn read_ahead(self: &Arc<Self>, core: &Arc<Core>, page: u64) {
        let Some((first, order)) = self.folio_at(core, page) else { return };
        let next = first + (1 << order);
        let most = (core.config.read_ahead >> core.arena.page_shift()) as u64;
        let window = u64::from(self.window.load(Ordering::Relaxed)).max(1 << order).min(most);
        // Doubled as long as the reader keeps to the sequence.
        self.window.store((window * 2).min(most) as u32, Ordering::Relaxed);
        // Not more than an eighth of the arena: what was read ahead must not push itself out.
        let window = window.min(u64::from(core.arena.pages()) / 8);
        if window > 0 {
            self.prefetch(core, next..next + window, page);
        }
    }

    /// Reads the folio of `page` in and waits for it. Returns at once when another thread does.
    fn read_in(self: &Arc<Self>, core: &Arc<Core>, page: u64) -> Result<()> {
        let Some(ticket) = self.start_with_room(core, page)? else { return Ok(()) };
        count(&core.counters.misses, 1);
        if page > 0 && self.table.get(page - 1).is_some() {
            self.read_ahead(core, page);
        } else {
            self.window.store(0, Ordering::Relaxed);
        }
        ticket.wait()
    }

    /// As [`start`](Self::start); waits for room while there are pages that will become free.
    fn start_with_room(self: &Arc<Self>, core: &Arc<Core>, page: u64) -> Result<Option<Arc<Ticket>>> {
        let begun = Instant::now();
        loop {
            match self.start(core, page, None) {
                Err(Error::ArenaFull { .. }) if core.dirt.will_shrink() && begun.elapsed() < core.config.patience => {
                    core.dirt.wait_for_room(Duration::from_millis(10));
                }
                Err(error @ Error::ArenaFull { .. }) => {
                    // A disk that has refused is not waited for. But it is tried again before long, not only when what is dirty
                    // has become old.
                    core.dirt.clean_soon();
                    return Err(error);
                }
                other => return other,
            }
        }
    }

    /// Starts to read the folio of `page`, or what is missing of it. `None`: it is there, or another thread reads it.
    fn start(self: &Arc<Self>, core: &Arc<Core>, page: u64, spared: Option<u64>) -> Result<Option<Arc<Ticket>>> {
        // Locked, so that two threads do not claim a part of a folio each: it is read in one go.
        let growing = lock(&self.growing);
        let claimed = match self.table.get(page) {
            None => Some(self.grow(core, page, spared, &growing)?),
            Some(frame) => self.claim_again(core, page, frame),
        };
        drop(growing);
        let Some((first, claim)) = claimed else { return Ok(None) };
        let ticket = Arc::new(Ticket::default());
        self.submit(core, first, claim, page, ticket.clone());
        Ok(Some(ticket))
    }

    /// A new folio for `page`, all of it claimed: first page in the file.
    fn grow(
        self: &Arc<Self>,
        core: &Arc<Core>,
        page: u64,
        spared: Option<u64>,
        _growing: &MutexGuard<'_, ()>,
    ) -> Result<(u64, Claim)> {
        let arena = &core.arena;
        let Some((_, best)) = self.folio_at(core, page) else {
            // Cut off between the caller's look and now.
            let (path, len, found) = (self.path().to_path_buf(), (page + 1) << arena.page_shift(), self.len());
            return Err(Error::Shrunk { path, expected: len, found });
        };
        // From the size that fits the file best down to a single page: the arena may have no run that long, and after
        // that has happened, a part of the run may be cached.
        for order in (0..=best).rev() {
            let first = page >> order << order;
            if (first..first + (1 << order)).any(|page| self.table.get(page).is_some()) {
                continue;
            }
            let Some(frame) = core.allocate(order, spared.map(|page| (self.id, page))) else { continue };
            let Some(claim) = Claim::new(core, frame, 1 << order) else { unreachable!("a free block is empty") };
            // Pages are `Filling` before the table shows them.
            (first..).zip(frame..frame + (1 << order)).for_each(|(page, frame)| self.table.set(page, Some(frame)));
            core.residents.insert(Folio { file: self.clone(), first, frame, order });
            return Ok((first, claim));
        }
        Err(Error::ArenaFull {
            path: self.path().to_path_buf(),
            offset: page << arena.page_shift(),
            arena: arena.memory().len() as u64,
            free: u64::from(arena.buddy().free_pages()) << arena.page_shift(),
            needed: arena.page_size() as u64,
        })
    }

    /// The run of pages around `page` that could not be read before: its first page in the file.
    fn claim_again(&self, core: &Arc<Core>, page: u64, frame: u32) -> Option<(u64, Claim)> {
        // Locked, so that the folio stays; it may have gone before.
        let _layout = lock(&self.layout);
        let folio = core.residents.of(frame).filter(|_| self.table.get(page) == Some(frame))?;
        let missing = |frame: &u32| core.arena.word(*frame).phase() == Phase::Error;
        let before = (folio.frame..frame).rev().take_while(missing).count() as u32;
        let claim = Claim::new(core, frame - before, folio.frame + folio.pages() - (frame - before))?;
        Some((page - u64::from(before), claim))
    }

    /// Has the disk read `claim`, of which the first page is file page `first`.
    fn submit(self: &Arc<Self>, core: &Arc<Core>, first: u64, mut claim: Claim, page: u64, ticket: Arc<Ticket>) {
        // Of two lengths the shorter is what must come: what the file has grown by meanwhile is zeros.
        let (offset, len) = (first << core.arena.page_shift(), self.len());
        let buffer = claim.buffer();
        let (file, counting) = (self.clone(), core.clone());
        count(&core.counters.fills, 1);
        let done = move |answer| {
            ticket.done(file.read(&counting, (first, len), claim, page, answer));
        };
        self.storage.submit(Request::new(Operation::Read(buffer), offset, done));
    }

    /// The disk has read `claim`, or failed to.
    fn read(
        &self,
        core: &Core,
        (first, len): (u64, u64),
        mut claim: Claim,
        page: u64,
        answer: std::io::Result<usize>,
    ) -> Result<()> {
        let shift = core.arena.page_shift();
        let path = || self.path().to_path_buf();
        let read = answer.map_err(|source| Error::File { path: path(), what: "reading", source })?;
        count(&core.counters.fill_bytes, read as u64);
        let (start, pages) = (first << shift, claim.pages());
        let wanted = (u64::from(pages) << shift).min(self.len().min(len).saturating_sub(start)) as usize;
        if read >= wanted {
            // A longer answer than the file's length here: somebody has made it longer, and that is looked into
            // elsewhere. Beyond the end there are zeros.
            claim.zero_from(wanted);
            claim.filled(pages);
            // Cut off meanwhile, and the cache knows already: zeros are not what was asked for.
            let found = self.len();
            return match page < self.pages() {
                true => Ok(()),
                false => Err(Error::Shrunk { path: path(), expected: len.max((page + 1) << shift), found }),
            };
        }
        // The pages before the new end are whole; the others fail, for this caller only if its page is one of them.
        let whole = (read >> shift) as u32;
        claim.filled(whole);
        if page < first + u64::from(whole) {
            return Ok(());
        }
        Err(Error::Shrunk { path: path(), expected: self.len(), found: start + read as u64 })
    }
}

/// Where the thread that started a read waits for it.
#[derive(Default)]
pub(crate) struct Ticket {
    answer: Mutex<Option<Result<()>>>,
    bell: Condvar,
}

impl Ticket {
    pub(crate) fn done(&self, answer: Result<()>) {
        *lock(&self.answer) = Some(answer);
        self.bell.notify_all();
    }

    pub(crate) fn wait(&self) -> Result<()> {
        let mut answer = lock(&self.answer);
        loop {
            match answer.take() {
                Some(answer) => return answer,
                None => answer = self.bell.wait(answer).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}
