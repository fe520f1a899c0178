//! Copies of pages for which a writer waits.
//!
//! A page that is sent without pause would never be without a hold, and its writer would wait for ever. So when a hold
//! meets a writer that waits, the page is copied, once, and the file's table shows the copy from then on: new holds are
//! of the copy, and what the writer waits for is only what was held before it came. When the page opens, the table shows
//! the page again, *before* the writer can store; the copy belongs to its holders, and the last of them frees it.
//!
//! The copy is exact, since the page is held while it is copied, and it is the file's newest content for as long as the
//! table shows it, since the page is still protected.
#![allow(unsafe_code)]

use crate::sync::HashMap;
use crate::sync::Mutex;

use stillwire_dma::seeded;

use crate::core::{Core, lock};
use crate::file::FileCore;
use crate::stats::count;

/// Arena page that a writer waits for → its copy. The entry is a hold of the copy.
#[derive(Default)]
pub(crate) struct Snapshots(Mutex<HashMap<u32, u32>>);

impl Core {
    /// Lets `file` show a copy of `page`, for which a writer waits and which the caller holds as `frame`. `false`: there
    /// is no memory for one, or none is wanted.
    pub(crate) fn copy_for_holders(&self, file: &FileCore, page: u64, frame: u32) -> bool {
        if !self.config.snapshots {
            return false;
        }
        // Room is made before the lock is taken: eviction waits for the guard, and the guard takes this lock.
        let Some(copy) = self.allocate(0, None) else {
            count(&self.counters.no_snapshot, 1);
            return false;
        };
        let mut snapshots = lock(&self.snapshots.0);
        if file.table.get(page) != Some(frame) {
            // Another holder was faster.
            drop(snapshots);
            self.arena.buddy().free(copy);
            return true;
        }
        // SAFETY: the caller holds `frame`; `copy` is a block that was just allocated, so it is ours, and `Empty`.
        unsafe { self.arena.copy_page(frame, copy) };
        match self.digests.get(frame) {
            Some(digest) => self.digests.set(copy, digest),
            None => self.digests.clear(copy),
        }
        self.arena.word(copy).begin_for_holders();
        snapshots.insert(frame, copy);
        file.table.set(page, Some(copy));
        count(&self.counters.snapshots, 1);
        true
    }

    /// Lets `file` show `shown` as `page`, whose own arena page is `frame`, if it shows a copy; in any case if that is nothing.
    /// Only who may end the writer's wait calls this: the guard with the page `Opening`, or who takes it out of its file.
    pub(crate) fn end_copy(&self, file: &FileCore, page: u64, frame: u32, shown: Option<u32>) {
        let mut snapshots = lock(&self.snapshots.0);
        if seeded!(ForgetSnapshot) && shown.is_some() {
            return;
        }
        let copy = snapshots.remove(&frame);
        if copy.is_some() || shown.is_none() {
            // Under the lock, so that no holder makes a copy of what has just gone.
            file.table.set(page, shown);
        }
        drop(snapshots);
        if let Some(copy) = copy {
            self.release(copy);
        }
    }

    /// The cache ends, and with it every writer's wait.
    pub(crate) fn end_copies(&self) {
        let copies = std::mem::take(&mut *lock(&self.snapshots.0));
        copies.into_values().for_each(|copy| self.release(copy));
    }

    /// The page that `copy` is a copy of, as long as the file shows the copy.
    pub(crate) fn original_of(&self, copy: u32) -> Option<u32> {
        let snapshots = lock(&self.snapshots.0);
        snapshots.iter().find(|(_, found)| **found == copy).map(|(&frame, _)| frame)
    }

    /// `copy`, which the caller holds, has been written to the file: so has its original, if nobody could store since.
    /// The original then.
    pub(crate) fn copy_written(&self, copy: u32) -> Option<u32> {
        // Locked: while the entry is there, the original has not been open since it was copied.
        let snapshots = lock(&self.snapshots.0);
        let (&frame, _) = snapshots.iter().find(|(_, found)| **found == copy)?;
        self.arena.word(frame).written();
        Some(frame)
    }
}
