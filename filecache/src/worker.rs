//! The workers: threads that lay folios over views when somebody touches them for the first time.
//!
//! They may wait for the disk, for room and for the guard, so that the guard waits for none of it.

use crate::sync::thread::JoinHandle;
use crate::sync::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::core::{Core, lock};
use crate::file::FileCore;
use crate::mapping::ViewMap;
use crate::page::Phase;
use crate::stats::count;
use crate::{Error, Result};

/// First touches that wait for a worker.
#[derive(Default)]
pub(crate) struct Wanted {
    queue: Mutex<Queue>,
    bell: Condvar,
}

#[derive(Default)]
struct Queue {
    touches: VecDeque<(Arc<ViewMap>, u64)>,
    stop: bool,
}

impl Wanted {
    /// Page `index` of `view` was touched and is missing.
    pub(crate) fn ask(&self, view: Arc<ViewMap>, index: u64) {
        lock(&self.queue).touches.push_back((view, index));
        self.bell.notify_one();
    }

    /// Lets the workers end.
    pub(crate) fn stop(&self) {
        lock(&self.queue).stop = true;
        self.bell.notify_all();
    }

    /// Forgets the touches that nobody has served.
    pub(crate) fn clear(&self) {
        let touches = std::mem::take(&mut lock(&self.queue).touches);
        // Without the lock: the last of a view may go with them.
        drop(touches);
    }

    /// The next touch; `None` at the end.
    fn next(&self) -> Option<(Arc<ViewMap>, u64)> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.stop {
                return None;
            }
            if let Some(touch) = queue.touches.pop_front() {
                return Some(touch);
            }
            queue = self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts the workers.
pub(crate) fn start(core: &Arc<Core>) -> Result<Vec<JoinHandle<()>>> {
    let worker = |number| {
        let core = core.clone();
        crate::sync::thread::Builder::new()
            .name(format!("stillwire-lay{number}"))
            .spawn(move || {
                while let Some((view, index)) = core.wanted.next() {
                    serve(&core, &view, index);
                }
            })
            .map_err(|source| Error::Guard { what: "starting a worker", source })
    };
    (0..WORKERS).map(worker).collect()
}

/// Lays what was touched, and wakes who touched it.
fn serve(core: &Arc<Core>, view: &ViewMap, index: u64) {
    match view.file.lay(core, view, index) {
        // Its process has not done yet what it was asked for. When it has, all that waits in it is woken.
        _ if !view.answers() => {}
        Ok(()) => view.wake(index),
        Err(Error::View { source, .. }) if is_unanswered(&source) => view.wake(index),
        // Everything is held or dirty. The writer waits, as for a held page.
        Err(Error::ArenaFull { .. }) if view.live().is_some() => {
            core.dirt.clean_soon();
            crate::sync::thread::sleep(PAUSE);
            view.wake(index);
        }
        // Beyond the file's end, or where the disk fails.
        Err(_) => {
            count(&core.counters.poisoned, 1);
            let layout = lock(&view.file.layout);
            view.refuse(index);
            drop(layout);
            view.wake(index);
        }
    }
}

/// Whether a process may still do what failed, or could not be asked yet.
pub(crate) fn is_unanswered(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

impl FileCore {
    /// Makes sure that page `index` of `view` is laid, and with it as much of its folio as has been read.
    pub(crate) fn lay(self: &Arc<Self>, core: &Arc<Core>, view: &ViewMap, index: u64) -> Result<()> {
        loop {
            if index >= self.pages() {
                let (end, len) = ((index + 1) << core.arena.page_shift(), self.len());
                return Err(Error::OutOfRange { path: self.path().to_path_buf(), start: end - 1, end, len });
            }
            self.fill(core, index)?;
            let _layout = lock(&self.layout);
            if view.is_laid(index) || view.live().is_none() {
                return Ok(());
            }
            // Looked up under the lock, under which a folio stays; it may have gone before.
            if let Some((first, frame, pages)) = self.run_to_lay(core, view, index) {
                let run = first..first + u64::from(pages);
                view.lay(run, frame).map_err(|source| Error::View {
                    path: self.path().to_path_buf(),
                    what: "laying a folio over it",
                    bytes: (pages as usize) << core.arena.page_shift(),
                    source,
                    hint: "; sysctl vm.max_map_count may be too low",
                })?;
                return Ok(());
            }
        }
    }

    /// The run of pages around `index` in its folio that can be laid: first page, its arena page, length.
    fn run_to_lay(&self, core: &Core, view: &ViewMap, index: u64) -> Option<(u64, u32, u32)> {
        let found = self.table.get(index)?;
        // The table may show a copy; the folio knows the page itself.
        let frame = if core.arena.word(found).is_for_holders() { core.original_of(found)? } else { found };
        let folio = core.residents.of(frame).filter(|folio| std::ptr::eq(&*folio.file, self))?;
        let fits = |page: &u64| {
            let frame = folio.frame + (*page - folio.first) as u32;
            let read = !matches!(core.arena.word(frame).phase(), Phase::Filling | Phase::Error | Phase::Empty);
            read && *page < view.capacity && !view.is_laid(*page)
        };
        if !fits(&index) {
            return None;
        }
        let end = folio.first + u64::from(folio.pages());
        let before = (folio.first..index).rev().take_while(&fits).count() as u64;
        let after = (index..end).take_while(&fits).count() as u64;
        let first = index - before;
        Some((first, folio.frame + (first - folio.first) as u32, (before + after) as u32))
    }
}

/// As many first touches as can wait for the disk at the same time.
const WORKERS: usize = 4;
/// How long a touch waits before it is tried again when there is no room.
const PAUSE: Duration = Duration::from_millis(2);
