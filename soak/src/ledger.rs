//! What must be seen of every word of every file.
//!
//! A file is cut into records of 512 bytes, eight in a page. Each record has one writer, a thread or a process, which counts its
//! stores: a store of version `v` fills the record with `v`. Before it begins it says so in `begun`, and when it has returned in
//! `returned`. So whoever looks at a word later knows all that it may be: at least what had returned before the look, at
//! most what had begun after it. Half a record may be of another version than the other half (a writer that waits for a hold
//! has stored a part), but an aligned word is of one. The upper half of a word names its file and place.
//!
//! The ledger is memory that writers in other processes have too, so what a process had stored is known after it was killed.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use stillwire_dma::{Access, HugePages, SharedMemory};

/// The accounts of all files.
#[derive(Clone)]
pub struct Ledger(SharedMemory);

impl Ledger {
    /// One in which nothing was stored.
    pub fn new() -> stillwire_dma::Result<Self> {
        SharedMemory::new("soak-ledger", FILES * ACCOUNT, HugePages::Never).map(Self)
    }

    /// The ledger of the process that calls it `path`.
    pub fn open(path: &str) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        SharedMemory::of_file(file, FILES * ACCOUNT, Access::ReadWrite).map(Self).map_err(io::Error::other)
    }

    /// What another process opens.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.fd().as_raw_fd())
    }

    /// The account of file number `file`, of `records` records, of which those from `solid` on may be cut off.
    pub fn book(&self, file: usize, records: usize, solid: usize) -> Book {
        assert!(file < FILES && solid <= records && records <= MOST_RECORDS);
        Book { memory: self.0.clone(), file, records, solid }
    }

    /// Forgets what was stored in file number `file`, which is made anew.
    pub fn clear(&self, file: usize) {
        for word in self.0.words(file * ACCOUNT, ACCOUNT / 8) {
            word.store(0, Ordering::Release);
        }
    }
}

/// The account of one file.
#[derive(Clone)]
pub struct Book {
    memory: SharedMemory,
    /// Its number.
    pub file: usize,
    /// How many records it may have.
    pub records: usize,
    solid: usize,
}

/// What had returned when somebody was about to look, of each record.
pub struct Floor(Vec<u64>);

impl Book {
    /// The version of the newest store into `record` that had begun.
    pub fn begun(&self, record: usize) -> &AtomicU64 {
        self.memory.word64(self.file * ACCOUNT + record * 16)
    }

    /// The version of the newest store into `record` that had returned.
    pub fn returned(&self, record: usize) -> &AtomicU64 {
        self.memory.word64(self.file * ACCOUNT + record * 16 + 8)
    }

    /// Length of the file, bytes.
    pub fn len(&self) -> usize {
        self.records * RECORD
    }

    /// What must be seen by who looks at bytes from `start` to `end` from now on.
    pub fn floor(&self, start: usize, end: usize) -> Floor {
        let records = start / RECORD..end.div_ceil(RECORD);
        Floor(records.map(|record| self.returned(record).load(Ordering::Acquire)).collect())
    }

    /// The words of `record` in version `version`.
    pub fn fill(&self, record: usize, version: u64, bytes: &mut [u8]) {
        let first = record * RECORD / 8;
        for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&self.word(first + at, version).to_le_bytes());
        }
    }

    /// All of it as it is before the first store.
    pub fn fresh(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.fill(0, 0, &mut bytes);
        bytes
    }

    fn word(&self, at: usize, version: u64) -> u64 {
        u64::from(self.tag(at)) << 32 | version
    }

    fn tag(&self, at: usize) -> u32 {
        let place = (self.file as u64) << 32 | at as u64;
        (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32 | 1
    }

    /// Whether `bytes`, which lie at byte `at`, are words of this file at their places, of whatever version.
    pub fn is_placed(&self, at: usize, bytes: &[u8]) -> bool {
        bytes.chunks_exact(8).enumerate().all(|(number, word)| {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            let place = at / 8 + number;
            (word >> 32) as u32 == self.tag(place) || (place * 8 / RECORD >= self.solid && self.is_cut(place, word))
        })
    }

    /// Whether `word` at `place` is what is left of one when the file was cut off within it, or before it, and grew again.
    fn is_cut(&self, place: usize, word: u64) -> bool {
        let tag = (word >> 32) as u32;
        (0..4).any(|bytes| tag == self.tag(place) & ((1 << (8 * bytes)) - 1))
    }

    /// Whether `bytes` at byte `at` are what may be seen by who took `floor` at byte `from` before it looked.
    ///
    /// # Errors
    /// The first word that may not be there.
    pub fn check(&self, floor: &Floor, from: usize, at: usize, bytes: &[u8]) -> Result<(), String> {
        let mut begun = (usize::MAX, 0);
        for (number, word) in bytes.chunks_exact(8).enumerate() {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            let place = at / 8 + number;
            let record = place * 8 / RECORD;
            if begun.0 != record {
                begun = (record, self.begun(record).load(Ordering::Acquire));
            }
            let version = word & u64::from(u32::MAX);
            let is_placed = (word >> 32) as u32 == self.tag(place);
            let lowest = floor.0[record - from / RECORD];
            let fine = match record < self.solid {
                true => is_placed && (lowest..=begun.1).contains(&version),
                false => version <= begun.1 && (is_placed || self.is_cut(place, word)),
            };
            if !fine {
                let what = if is_placed { "of this place" } else { "NOT of this place" };
                return Err(format!(
                    "file {} byte {}: {word:#018x}, {what}, version {version}; {lowest} had returned, {} had begun",
                    self.file,
                    place * 8,
                    begun.1
                ));
            }
        }
        Ok(())
    }
}

/// Bytes of a record.
pub const RECORD: usize = 512;
/// Records of the longest file.
pub const MOST_RECORDS: usize = 4096;
/// Files in a ledger.
pub const FILES: usize = 64;
/// Bytes of an account.
const ACCOUNT: usize = MOST_RECORDS * 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        Ledger::new().unwrap().book(3, 16, 12)
    }

    fn check(book: &Book, at: usize, bytes: &[u8]) -> Result<(), String> {
        book.check(&book.floor(at, at + bytes.len()), at, at, bytes)
    }

    #[test]
    fn what_may_be_seen_lies_between_what_returned_and_what_began() {
        let book = book();
        book.begun(2).store(5, Ordering::Relaxed);
        book.returned(2).store(4, Ordering::Relaxed);
        let mut record = [0; RECORD];
        for (version, fine) in [(3, false), (4, true), (5, true), (6, false)] {
            book.fill(2, version, &mut record);
            assert_eq!(check(&book, 2 * RECORD, &record).is_ok(), fine, "{version}");
        }
        // Half of one, half of the other.
        book.fill(2, 4, &mut record[..80]);
        book.fill(2, 5, &mut record);
        assert!(check(&book, 2 * RECORD, &record).is_ok());
    }

    #[test]
    fn bytes_of_another_place_or_file_are_none() {
        let book = book();
        let bytes = book.fresh();
        assert!(check(&book, 0, &bytes).is_ok() && book.is_placed(0, &bytes));
        assert!(check(&book, 8, &bytes[..80]).is_err() && !book.is_placed(8, &bytes[..80]));
        let other = Ledger::new().unwrap().book(4, 16, 12);
        assert!(!other.is_placed(0, &bytes[..8]));
        let zeros = [0; 8];
        assert!(check(&book, 0, &zeros).is_err() && check(&book, 12 * RECORD, &zeros).is_ok());
    }

    #[test]
    fn a_word_that_was_cut_in_the_middle_is_one_where_files_are_cut() {
        let book = book();
        let bytes = book.fresh();
        for kept in 0..8 {
            for (record, fine) in [(3, kept < 5 && bytes[3 * RECORD + 4..][..4] == [0; 4]), (12, true)] {
                let mut word: [u8; 8] = bytes[record * RECORD..][..8].try_into().unwrap();
                word[kept..].fill(0);
                assert_eq!(check(&book, record * RECORD, &word).is_ok(), fine, "{kept} bytes of record {record}");
            }
        }
        let mut word: [u8; 8] = bytes[12 * RECORD..][..8].try_into().unwrap();
        word[4] ^= 1;
        assert!(check(&book, 12 * RECORD, &word).is_err());
    }

    #[test]
    fn another_process_opens_it_by_its_path() {
        let ledger = Ledger::new().unwrap();
        let again = Ledger::open(&ledger.path()).unwrap();
        ledger.book(1, 8, 8).begun(7).store(9, Ordering::Relaxed);
        assert_eq!(again.book(1, 8, 8).begun(7).load(Ordering::Relaxed), 9);
        ledger.clear(1);
        assert_eq!(again.book(1, 8, 8).begun(7).load(Ordering::Relaxed), 0);
    }
}
