//! Other people's doings with a cached file: noticed, and never mixed up with ours in silence.
//!
//! What tells a change is the file's length, its time of modification and its number of names. The cache's own writes change
//! them too; so it notes them after each write-back, and looks before each whether they are still what it noted. A change
//! that falls between a write-back and the note is taken for our own: that is what a file system without change
//! cookies for user space can tell.

use crate::sync::MutexGuard;
use std::sync::Arc;

use crate::core::{Core, lock};
use crate::disk::Stamp;
use crate::file::FileCore;
use crate::stats::count;
use crate::{Error, Result};

impl FileCore {
    /// Looks whether somebody has changed the file, and drops what is out of date.
    pub(crate) fn recheck(self: &Arc<Self>, core: &Arc<Core>) -> Result<()> {
        let io = lock(&self.io);
        self.look_outside(core, &io)
    }

    /// The same, for who writes back.
    pub(crate) fn look_outside(self: &Arc<Self>, core: &Arc<Core>, _io: &MutexGuard<'_, ()>) -> Result<()> {
        let now = self.storage.stamp();
        let now = now.map_err(|source| Error::File { path: self.path().to_path_buf(), what: "statx", source })?;
        let before = std::mem::replace(&mut lock(&self.outside).stamp, now);
        if let Some(what) = Change::of(&before, &now) {
            count(&core.counters.outside_changes, 1);
            self.changed(core, what, &now);
        }
        self.conflict()
    }

    /// Somebody has changed the file.
    fn changed(self: &Arc<Self>, core: &Arc<Core>, what: Change, now: &Stamp) {
        let (mut clean, before) = (self.is_clean(), self.len());
        // Who has a deleted file open still has its bytes.
        if what != Change::Deleted {
            // With stores that are only here, the length stays too until somebody decides.
            // (A store that came before its page was dropped has kept it. One that came after is in what is new.)
            clean &= !self.drop_all_but(core, if clean { now.len } else { before }, |_, dirty| !dirty);
            if now.len > before {
                self.unpoison(core, before >> core.arena.page_shift());
            }
        }
        if !clean {
            lock(&self.outside).conflict = Some(what.name());
            count(&core.counters.conflicts, 1);
            tracing::warn!(
                file = %self.path().display(), change = what.name(),
                "somebody else has changed a file that has stores of its own here; nothing is written back until somebody decides"
            );
        }
    }

    /// The conflict that nobody has ended yet.
    pub(crate) fn conflict(&self) -> Result<()> {
        match lock(&self.outside).conflict {
            Some(what) => Err(Error::Conflict { path: self.path().to_path_buf(), what }),
            None => Ok(()),
        }
    }

    /// Ends a conflict by dropping what was stored here.
    pub(crate) fn discard_stores(self: &Arc<Self>, core: &Arc<Core>) {
        let io = lock(&self.io);
        self.note_stamp(&io);
        let len = lock(&self.outside).stamp.len;
        self.drop_all_but(core, len, |_, _| true);
        lock(&self.outside).conflict = None;
    }

    /// Drops the pages of which `gone(page, dirty)`, and the file has `len` bytes from then on. What is read in must not be
    /// of one length and shown with another: a last page ends in zeros. Whether a dirty page was left.
    fn drop_all_but(self: &Arc<Self>, core: &Arc<Core>, len: u64, gone: impl Fn(u64, bool) -> bool) -> bool {
        if len <= self.len() {
            self.has_len(len);
            return self.drop_pages(core, gone);
        }
        // Reads that are under way are waited for, and new ones begin with the new length.
        let _growing = lock(&self.growing);
        let left = self.drop_pages(core, gone);
        self.has_len(len);
        left
    }

    /// Ends a conflict by letting the next write-back win.
    pub(crate) fn accept_conflict(self: &Arc<Self>, core: &Arc<Core>) {
        loop {
            let io = lock(&self.io);
            // What has changed since the conflict was noticed is out of date too.
            let _known: Result<()> = self.look_outside(core, &io);
            // Write-back makes the file as long as the last store needs, not longer.
            let stored = lock(&self.dirty).last().map_or(0, |page| (page + 1) << core.arena.page_shift());
            let before = self.len();
            let len = lock(&self.outside).stamp.len.max(stored.min(before));
            if len <= before || self.zero_the_end(core, before) {
                if len > before {
                    // A last page that is not dirty was read in as if the file ended there.
                    self.drop_all_but(core, len, |_, dirty| !dirty);
                } else {
                    self.has_len(len);
                }
                lock(&self.outside).conflict = None;
                return;
            }
            // Without the lock: others write back meanwhile.
            drop(io);
            crate::sync::thread::sleep(std::time::Duration::from_micros(100));
        }
    }
}

/// What has happened to a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Deleted,
    Truncated,
    Written,
}

impl Change {
    fn of(before: &Stamp, now: &Stamp) -> Option<Self> {
        if now.len < before.len {
            Some(Self::Truncated)
        } else if (now.len, now.modified) != (before.len, before.modified) {
            Some(Self::Written)
        } else if now.links == 0 && before.links > 0 {
            Some(Self::Deleted)
        } else {
            // A new name or new permissions: the bytes are the same.
            None
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Deleted => "deleted, or replaced by another of its name,",
            Self::Truncated => "truncated",
            Self::Written => "written",
        }
    }
}
