//! A file in memory that stands in for the disk in simulations: it can fail on demand, and show what a crash would leave.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Operation, Request, Stamp, Storage};

/// A file in memory. Requests are carried out within [`submit`](Storage::submit).
#[doc(hidden)]
#[derive(Debug)]
pub struct MemoryStorage {
    path: PathBuf,
    writable: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What a read finds.
    volatile: Vec<u8>,
    /// What has been synced.
    durable: Vec<u8>,
    /// Pages whose durable bytes may be either.
    unsynced: BTreeMap<usize, Unsynced>,
    stamp: Stamp,
    operations: u64,
    /// Errors by operation number.
    failures: BTreeMap<u64, i32>,
    crashed: bool,
}

/// What a sync does for a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unsynced {
    /// The next one makes it durable.
    Written,
    /// Written before a sync that failed: the kernel takes such a page for clean, so no later sync writes it.
    GivenUp,
}

impl MemoryStorage {
    /// A file with these bytes, all durable.
    pub fn new(path: impl Into<PathBuf>, bytes: &[u8]) -> Self {
        let stamp = Stamp { len: bytes.len() as u64, links: 1, ..Stamp::default() };
        let state = State {
            volatile: bytes.to_vec(),
            durable: bytes.to_vec(),
            unsynced: BTreeMap::new(),
            stamp,
            operations: 0,
            failures: BTreeMap::new(),
            crashed: false,
        };
        Self { path: path.into(), writable: true, state: Mutex::new(state) }
    }

    /// The same file for reading only.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { writable: false, ..self }
    }

    /// Lets operation number `nth` from now (0 is the next) fail with `errno`. Counted are requests and
    /// [`set_len`](Storage::set_len). Of a write that fails, the first half of its pages is written; a sync that fails
    /// leaves in doubt for good what it should have synced, until that is written again.
    pub fn fail(&self, nth: u64, errno: i32) {
        let mut state = self.state();
        let number = state.operations + nth;
        state.failures.insert(number, errno);
    }

    /// Lets everything from now on fail with EIO.
    pub fn crash(&self) {
        self.state().crashed = true;
    }

    /// What a disk could show if the machine crashed now: everything that is synced; of every other page, and of the
    /// length, the old or the new, as `seed` has it.
    pub fn durable_after_crash(&self, seed: u64) -> Vec<u8> {
        let state = self.state();
        let new = |what: usize| mixed(seed ^ mixed(what as u64)) & 1 == 1;
        let mut bytes = state.durable.clone();
        bytes.resize(if new(usize::MAX) { state.volatile.len() } else { state.durable.len() }, 0);
        for &page in state.unsynced.keys().filter(|&&page| new(page)) {
            copy_page(page, &state.volatile, &mut bytes);
        }
        bytes
    }

    /// What a read finds now.
    pub fn bytes(&self) -> Vec<u8> {
        self.state().volatile.clone()
    }

    /// Operations so far, those that failed included.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Somebody else writes.
    pub fn outside_write(&self, offset: u64, bytes: &[u8]) {
        self.state().write(offset as usize, bytes);
    }

    /// Somebody else changes the length.
    pub fn outside_set_len(&self, len: u64) {
        self.state().set_len(len as usize);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(&self, request: &mut Request) -> io::Result<usize> {
        let mut state = self.state();
        let failure = state.begin();
        let offset = request.offset() as usize;
        if let Some(target) = request.read_buffer() {
            failure?;
            let found = state.volatile.get(offset..).unwrap_or_default();
            let len = found.len().min(target.len());
            target[..len].copy_from_slice(&found[..len]);
            return Ok(len);
        }
        match request.operation() {
            Operation::Write(_) if !self.writable => Err(io::Error::from_raw_os_error(libc::EBADF)),
            Operation::Write(buffer) => {
                let whole = buffer.bytes();
                let half = whole.len().div_ceil(PAGE) / 2 * PAGE;
                let written = if failure.is_ok() { whole } else { &whole[..half] };
                if !state.crashed {
                    state.write(offset, written);
                }
                failure.map(|()| whole.len())
            }
            Operation::Read(_) | Operation::Sync => {
                if !state.crashed {
                    state.sync(failure.is_ok());
                }
                failure.map(|()| 0)
            }
        }
    }
}

impl Storage for MemoryStorage {
    fn path(&self) -> &Path {
        &self.path
    }

    fn writable(&self) -> bool {
        self.writable
    }

    fn stamp(&self) -> io::Result<Stamp> {
        let state = self.state();
        if state.crashed { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(state.stamp) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        if !self.writable {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        state.set_len(len as usize);
        Ok(())
    }

    fn submit(&self, mut request: Request) {
        let result = self.carry_out(&mut request);
        // Without the lock: `done` may submit again.
        request.complete(result);
    }
}

impl State {
    /// Counts an operation; the error that it is to end with.
    fn begin(&mut self) -> io::Result<()> {
        let errno = self.failures.remove(&self.operations);
        self.operations += 1;
        match errno {
            _ if self.crashed => Err(io::Error::from_raw_os_error(libc::EIO)),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if end > self.volatile.len() {
            self.set_len(end);
        }
        self.volatile[offset..end].copy_from_slice(bytes);
        self.written(offset, end);
    }

    fn set_len(&mut self, len: usize) {
        let before = self.volatile.len();
        self.volatile.resize(len, 0);
        self.written(len.min(before), len.max(before));
    }

    /// The bytes between `from` and `to` are others now.
    fn written(&mut self, from: usize, to: usize) {
        self.unsynced.extend((from / PAGE..to.div_ceil(PAGE)).map(|page| (page, Unsynced::Written)));
        let (seconds, nanoseconds) = self.stamp.modified;
        let carry = nanoseconds == 999_999_999;
        let now = if carry { (seconds + 1, 0) } else { (seconds, nanoseconds + 1) };
        self.stamp = Stamp { len: self.volatile.len() as u64, modified: now, changed: now, ..self.stamp };
    }

    fn sync(&mut self, succeeds: bool) {
        if !succeeds {
            self.unsynced.values_mut().for_each(|page| *page = Unsynced::GivenUp);
            return;
        }
        self.durable.resize(self.volatile.len(), 0);
        let Self { volatile, durable, unsynced, .. } = self;
        unsynced.retain(|&page, unsynced| {
            if *unsynced == Unsynced::Written {
                copy_page(page, volatile, durable);
            }
            *unsynced == Unsynced::GivenUp
        });
    }
}

/// Copies as much of a page as both have.
fn copy_page(page: usize, from: &[u8], to: &mut [u8]) {
    let start = page * PAGE;
    let end = (start + PAGE).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

/// SplitMix64's finish: every bit of the result depends on every bit of `value`.
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What a disk writes whole or not at all.
const PAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::super::tests::{read, sync, write};
    use super::*;
    use std::collections::BTreeSet;

    /// Everything that a crash could leave, as first byte of each page.
    fn outcomes(storage: &MemoryStorage) -> BTreeSet<Vec<u8>> {
        let first = |seed| storage.durable_after_crash(seed).chunks(PAGE).map(|page| page[0]).collect();
        (0..200).map(first).collect()
    }

    fn set<const N: usize>(of: [&[u8]; N]) -> BTreeSet<Vec<u8>> {
        of.into_iter().map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn what_is_synced_survives_and_the_rest_is_old_or_new_by_page() {
        let storage = MemoryStorage::new("file", &[b'a'; 2 * PAGE]);
        assert_eq!(outcomes(&storage), set([b"aa"]));
        write(&storage, 0, &[b'b'; PAGE]).unwrap();
        sync(&storage).unwrap();
        assert_eq!(outcomes(&storage), set([b"ba"]));
        write(&storage, 0, &[b'c'; 2 * PAGE]).unwrap();
        assert_eq!(outcomes(&storage), set([b"ba", b"bc", b"ca", b"cc"]));
        assert_eq!(storage.bytes(), [b'c'; 2 * PAGE]);
        storage.crash();
        assert_eq!(outcomes(&storage).len(), 4);
        assert_eq!(storage.durable_after_crash(7), storage.durable_after_crash(7));
        let failed = |error: io::Error| error.raw_os_error() == Some(libc::EIO);
        assert!(read(&storage, 0, PAGE).is_err_and(failed));
        assert!(write(&storage, 0, b"d").is_err_and(failed));
        assert!(sync(&storage).is_err_and(failed) && storage.stamp().is_err_and(failed));
        assert!(storage.set_len(0).is_err_and(failed));
        assert_eq!(outcomes(&storage).len(), 4, "nothing has changed since");
    }

    #[test]
    fn the_length_is_old_or_new_until_it_is_synced() {
        let storage = MemoryStorage::new("file", &[b'a'; 2 * PAGE]);
        storage.set_len(PAGE as u64).unwrap();
        assert_eq!(outcomes(&storage), set([b"a", b"aa"]));
        write(&storage, PAGE as u64, &[b'b'; PAGE + 1]).unwrap();
        assert_eq!(outcomes(&storage), set([b"aa", b"ab", b"aa\0", b"ab\0", b"aab", b"abb"]));
        sync(&storage).unwrap();
        assert_eq!(storage.durable_after_crash(1), storage.bytes());
        assert_eq!(storage.bytes().len(), 2 * PAGE + 1);
    }

    #[test]
    fn the_nth_operation_fails_and_leaves_what_a_disk_would() {
        let storage = MemoryStorage::new("file", &[b'a'; 2 * PAGE]);
        storage.fail(1, libc::ENOSPC);
        storage.fail(2, libc::EIO);
        assert_eq!(read(&storage, 0, 3 * PAGE).unwrap(), [b'a'; 2 * PAGE]);
        let error = write(&storage, 0, &[b'b'; 2 * PAGE]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        assert_eq!((storage.bytes()[0], storage.bytes()[PAGE]), (b'b', b'a'), "a part is written");
        assert_eq!(sync(&storage).unwrap_err().raw_os_error(), Some(libc::EIO));
        sync(&storage).unwrap();
        assert_eq!(outcomes(&storage), set([b"aa", b"ba"]), "a sync that failed does not come back");
        write(&storage, 0, &[b'b'; PAGE]).unwrap();
        sync(&storage).unwrap();
        assert_eq!((outcomes(&storage), storage.operations()), (set([b"ba"]), 6));
    }

    #[test]
    fn a_stamp_changes_with_every_change() {
        let storage = MemoryStorage::new("file", b"abc");
        let mut stamps = vec![storage.stamp().unwrap()];
        read(&storage, 0, PAGE).unwrap();
        assert_eq!(storage.stamp().unwrap(), stamps[0]);
        let mut step = |change: &dyn Fn()| {
            change();
            stamps.push(storage.stamp().unwrap());
        };
        step(&|| storage.outside_write(1, b"x"));
        step(&|| storage.outside_set_len(2));
        step(&|| assert_eq!(write(&storage, 0, b"axy").unwrap(), 3));
        step(&|| storage.set_len(3).unwrap());
        assert_eq!((stamps[3].len, storage.bytes()), (3, b"axy".to_vec()));
        assert!(stamps.windows(2).all(|pair| pair[0].modified < pair[1].modified && pair[0].changed < pair[1].changed));
    }

    #[test]
    fn a_file_for_reading_only_is_not_written() {
        let storage = MemoryStorage::new("file", b"abc").read_only();
        assert!(!storage.writable() && write(&storage, 0, b"x").is_err() && storage.set_len(0).is_err());
        assert_eq!(storage.bytes(), b"abc");
    }
}
