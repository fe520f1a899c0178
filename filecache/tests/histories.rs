//! Random histories of everything that can happen to a cached file, against a plain model of what must be seen.
//!
//! The disk is a simulated one, so it can fail and crash at any operation; memory, views and userfaultfd are real. The
//! model is a vector of bytes a file, and of every page the states that it has had since a sync last answered for it:
//! after a crash a page is one of them. `STILLWIRE_HISTORIES=100000` runs that many (`PROPTEST_CASES` works too).

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::*;
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use stillwire_filecache::{Cache, CachedFile, Config, Error, Hold, MemoryStorage, Request, Stamp, Storage, View};

/// A simulated disk that crashes when it is asked for operation number `crash_at`.
struct Disk {
    inner: MemoryStorage,
    crash_at: AtomicU64,
}

impl Disk {
    fn new(bytes: &[u8]) -> Arc<Self> {
        Arc::new(Self { inner: MemoryStorage::new("simulated", bytes), crash_at: AtomicU64::new(u64::MAX) })
    }

    fn before(&self) {
        if self.has_crashed() {
            self.inner.crash();
        }
    }

    fn has_crashed(&self) -> bool {
        self.inner.operations() >= self.crash_at.load(Ordering::Relaxed)
    }
}

impl Storage for Disk {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn writable(&self) -> bool {
        true
    }

    fn stamp(&self) -> io::Result<Stamp> {
        self.before();
        self.inner.stamp()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.before();
        self.inner.set_len(len)
    }

    fn submit(&self, request: Request) {
        self.before();
        self.inner.submit(request);
    }
}

/// How the cache gets to look at what somebody else has done.
#[derive(Clone, Copy, Debug)]
enum Then {
    Recheck,
    Sync,
    SetLen,
    Overwrite,
}

/// Places and lengths are per mille of the file, so that a step keeps its sense while a history shrinks.
#[derive(Clone, Copy, Debug)]
enum Step {
    Hold { file: usize, opening: usize, at: u16, len: u16 },
    Release { which: usize },
    Digest { which: usize, at: u16, len: u16 },
    Store { file: usize, at: u16, len: u16 },
    Sync { file: usize, opening: usize },
    SyncRange { file: usize, opening: usize, at: u16, len: u16 },
    Evict { file: usize, at: u16, len: u16 },
    SetLen { file: usize, len: u16 },
    OutsideWrite { file: usize, at: u16, len: u16, then: Then },
    OutsideLen { file: usize, len: u16, then: Then },
    Discard { file: usize },
    Overwrite { file: usize },
    Fail { nth: u8, full: bool },
    Reopen { file: usize },
    CrashAt { nth: u8, seed: u64 },
}

#[derive(Clone)]
struct History {
    cache_pages: usize,
    folio_pages: usize,
    snapshots: bool,
    /// Lengths of the files, bytes.
    lens: Vec<usize>,
    steps: Vec<Step>,
}

/// A step a line, also where the other tests of proptest have a field a line.
impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cache_pages, folio_pages, snapshots, lens, steps } = self;
        write!(f, "{cache_pages} pages, folios of {folio_pages}, snapshots {snapshots}, files {lens:?}")?;
        steps.iter().try_for_each(|step| write!(f, "\n  {step:?}"))
    }
}

fn then() -> impl Strategy<Value = Then> {
    prop_oneof![3 => Just(Then::Recheck), 2 => Just(Then::Sync), 1 => Just(Then::SetLen), 1 => Just(Then::Overwrite)]
}

fn step() -> impl Strategy<Value = Step> {
    let (place, file, opening) = (0u16..1000, 0usize..2, 0usize..2);
    let range = (place.clone(), prop_oneof![0u16..1001, 0u16..100]);
    prop_oneof![
        8 => (file.clone(), opening.clone(), range.clone())
            .prop_map(|(file, opening, (at, len))| Step::Hold { file, opening, at, len }),
        5 => any::<usize>().prop_map(|which| Step::Release { which }),
        3 => (any::<usize>(), range.clone()).prop_map(|(which, (at, len))| Step::Digest { which, at, len }),
        9 => (file.clone(), place.clone(), 0u16..300).prop_map(|(file, at, len)| Step::Store { file, at, len }),
        4 => (file.clone(), opening.clone()).prop_map(|(file, opening)| Step::Sync { file, opening }),
        2 => (file.clone(), opening.clone(), range.clone())
            .prop_map(|(file, opening, (at, len))| Step::SyncRange { file, opening, at, len }),
        2 => (file.clone(), range.clone()).prop_map(|(file, (at, len))| Step::Evict { file, at, len }),
        2 => (file.clone(), 0u16..1500).prop_map(|(file, len)| Step::SetLen { file, len }),
        2 => (file.clone(), place.clone(), 0u16..300, then())
            .prop_map(|(file, at, len, then)| Step::OutsideWrite { file, at, len, then }),
        1 => (file.clone(), 0u16..1500, then()).prop_map(|(file, len, then)| Step::OutsideLen { file, len, then }),
        1 => file.clone().prop_map(|file| Step::Discard { file }),
        1 => file.clone().prop_map(|file| Step::Overwrite { file }),
        2 => (0u8..6, any::<bool>()).prop_map(|(nth, full)| Step::Fail { nth, full }),
        1 => file.prop_map(|file| Step::Reopen { file }),
        1 => (0u8..12, any::<u64>()).prop_map(|(nth, seed)| Step::CrashAt { nth, seed }),
    ]
}

fn history() -> impl Strategy<Value = History> {
    let lens = proptest::collection::vec(prop_oneof![1usize..8 * PAGE, 8 * PAGE..28 * PAGE], 1..=2);
    let shape = (8usize..=32, prop_oneof![Just(1usize), Just(2), Just(4), Just(16)], prop::bool::weighted(0.85));
    (shape, lens, proptest::collection::vec(step(), 1..40)).prop_map(
        |((cache_pages, folio_pages, snapshots), lens, steps)| History {
            cache_pages,
            folio_pages,
            snapshots,
            lens,
            steps,
        },
    )
}

/// What must be seen of one file.
struct Model {
    /// What the cache must show.
    bytes: Vec<u8>,
    /// Pages stored into since a sync answered for them.
    dirty: BTreeSet<usize>,
    /// States of each page since one that must survive, which is the first.
    states: BTreeMap<usize, Vec<Vec<u8>>>,
    lens: Vec<usize>,
    /// Pages whose newest state no sync of ours answers for: written by somebody else, say.
    foreign: BTreeSet<usize>,
    foreign_len: bool,
    resized: BTreeSet<usize>,
    conflict: bool,
}

impl Model {
    fn new(bytes: Vec<u8>) -> Self {
        let mut model = Self {
            lens: vec![bytes.len()],
            bytes,
            dirty: BTreeSet::new(),
            states: BTreeMap::new(),
            foreign: BTreeSet::new(),
            foreign_len: false,
            resized: BTreeSet::new(),
            conflict: false,
        };
        model.note(0..model.bytes.len());
        model
    }

    fn page(&self, page: usize) -> Vec<u8> {
        page_of(&self.bytes, page)
    }

    /// The pages of `range` (bytes) may be on the disk as they are now.
    fn note(&mut self, range: Range<usize>) {
        for page in pages(&range) {
            let state = self.page(page);
            self.states.entry(page).or_default().push(state);
        }
    }

    fn store(&mut self, range: Range<usize>, value: u8) {
        self.bytes[range.clone()].fill(value);
        self.note(range.clone());
        self.dirty.extend(pages(&range));
    }

    fn set_len(&mut self, len: usize) {
        let before = self.bytes.len();
        self.bytes.resize(len, 0);
        self.lens.push(len);
        let changed = before.min(len)..before.max(len);
        self.note(changed.start..len.max(changed.start));
        self.resized.extend(pages(&changed));
        let kept = len.div_ceil(PAGE);
        self.dirty.retain(|page| *page < kept);
    }

    /// A sync has answered for `range`.
    fn acknowledge(&mut self, range: Range<usize>, all: bool) {
        for page in pages(&range) {
            if self.dirty.remove(&page) || !self.foreign.contains(&page) {
                self.foreign.remove(&page);
                let state = self.page(page);
                self.states.insert(page, vec![state]);
            }
        }
        if all && !self.foreign_len {
            self.lens = vec![self.bytes.len()];
            self.resized.clear();
        }
    }

    /// What the disk shows is what must be seen, but for pages that are dirty.
    fn take_over(&mut self, disk: &[u8], len: usize) {
        let mut bytes = disk.to_vec();
        bytes.resize(len, 0);
        for &page in &self.dirty {
            let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(len));
            if start < end {
                bytes[start..end].copy_from_slice(&self.page(page)[..end - start]);
            }
        }
        self.bytes = bytes;
        self.lens.push(len);
        self.note(0..len);
    }

    /// Whether a crash may leave this.
    fn check_crash(&self, found: &[u8]) {
        let (least, most) = (self.lens.iter().min().copied(), self.lens.iter().max().copied());
        // With somebody else's length and pages of ours behind it, write-back goes through lengths in between.
        let between = self.foreign_len && (least..=most).contains(&Some(found.len()));
        assert!(
            between || self.lens.contains(&found.len()),
            "a crash left {} bytes; {:?} were possible",
            found.len(),
            self.lens
        );
        let sure = self.lens.iter().min().copied().unwrap_or(0).min(found.len());
        for page in 0..sure.div_ceil(PAGE) {
            let len = (sure - page * PAGE).min(PAGE);
            let found = page_of(found, page);
            let states = self.states.get(&page).map(Vec::as_slice).unwrap_or_default();
            assert!(
                states.iter().any(|state| state[..len] == found[..len]),
                "a crash left page {page} beginning with {:?}; possible were {:?}",
                &found[..8],
                states.iter().map(|state| &state[..8]).collect::<Vec<_>>()
            );
        }
    }
}

/// A page of `bytes`, with zeros behind the end.
fn page_of(bytes: &[u8], page: usize) -> Vec<u8> {
    let mut state = bytes[(page * PAGE).min(bytes.len())..((page + 1) * PAGE).min(bytes.len())].to_vec();
    state.resize(PAGE, 0);
    state
}

fn pages(range: &Range<usize>) -> Range<usize> {
    if range.is_empty() { 0..0 } else { range.start / PAGE..(range.end - 1) / PAGE + 1 }
}

struct Subject {
    disk: Arc<Disk>,
    openings: Vec<CachedFile>,
    /// By opening: the number of failed write-backs that it knows of.
    told: Vec<u64>,
    view: View,
    model: Model,
}

/// A hold, and what it must show for as long as it lives.
struct Held {
    hold: Hold,
    file: usize,
    bytes: Vec<u8>,
    /// Pages that it holds themselves, and not a copy, or what has left the file.
    stops: BTreeSet<usize>,
}

impl Held {
    fn check(&self) {
        let found: Vec<u8> = self.hold.chunks().flatten().copied().collect();
        assert!(found == self.bytes, "held bytes are others, first at {:?}", differ(&found, &self.bytes));
        assert_eq!(self.hold.crc32(), crc32fast::hash(&self.bytes), "the digest of held bytes");
    }

    fn pages(&self) -> Range<usize> {
        let start = self.hold.file_offset() as usize;
        pages(&(start..start + self.bytes.len()))
    }
}

fn differ(a: &[u8], b: &[u8]) -> Option<usize> {
    (0..a.len().max(b.len())).find(|&at| a.get(at) != b.get(at))
}

/// A store that waits for holds.
struct Pending {
    thread: JoinHandle<Result<(), Error>>,
    file: usize,
    range: Range<usize>,
    value: u8,
}

impl Pending {
    fn page(&self) -> usize {
        self.range.start / PAGE
    }

    fn is_in(&self, file: usize, pages: &BTreeSet<usize>) -> bool {
        self.file == file && pages.contains(&self.page())
    }
}

struct Run<'a> {
    history: &'a History,
    cache: Cache,
    subjects: Vec<Subject>,
    holds: Vec<Held>,
    pending: Vec<Pending>,
    /// Operations of file 0 that are to fail.
    armed: BTreeSet<u64>,
    crash_seed: Option<(u64, usize)>,
    /// There was hardly any room, or the disk has refused, so that not all that was stored must be dirty: the flusher may
    /// have written by itself.
    tight: bool,
    value: u8,
    counts: &'a mut BTreeMap<&'static str, u64>,
}

fn new_cache(history: &History) -> Cache {
    Cache::new(Config {
        bytes: history.cache_pages * PAGE,
        max_folio: history.folio_pages * PAGE,
        snapshots: history.snapshots,
        patience: Duration::from_secs(2),
        ..quiet()
    })
    .unwrap()
}

fn open(cache: &Cache, number: usize, bytes: &[u8]) -> Subject {
    let disk = Disk::new(bytes);
    let openings: Vec<_> =
        (0..2).map(|_| cache.open_storage((1, number as u64), disk.clone() as Arc<dyn Storage>).unwrap()).collect();
    let (told, view) = (vec![cache.stats().write_errors; 2], openings[0].view().unwrap());
    Subject { disk, openings, told, view, model: Model::new(bytes.to_vec()) }
}

impl<'a> Run<'a> {
    fn new(history: &'a History, counts: &'a mut BTreeMap<&'static str, u64>) -> Self {
        let cache = new_cache(history);
        let subjects =
            history.lens.iter().enumerate().map(|(number, len)| open(&cache, number, &pattern(*len))).collect();
        Self {
            history,
            cache,
            subjects,
            holds: Vec::new(),
            pending: Vec::new(),
            armed: BTreeSet::new(),
            crash_seed: None,
            tight: false,
            value: 0,
            counts,
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn run(mut self) {
        for (number, step) in self.history.steps.iter().enumerate() {
            AT.store(number, Ordering::Relaxed);
            self.step(*step);
            self.settle();
        }
        self.end();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Hold { file, opening, at, len } => self.hold(file, opening, at, len),
            Step::Release { which } if !self.holds.is_empty() => {
                let held = self.holds.swap_remove(which % self.holds.len());
                held.check();
                drop(held);
                self.count("release");
            }
            Step::Digest { which, at, len } if !self.holds.is_empty() => {
                let held = &self.holds[which % self.holds.len()];
                held.check();
                let range = part(held.bytes.len(), at, len);
                assert_eq!(held.hold.crc32_range(range.clone()), crc32fast::hash(&held.bytes[range]));
                self.count("digest");
            }
            Step::Release { .. } | Step::Digest { .. } => {}
            Step::Store { file, at, len } => self.store(file, at, len),
            Step::Sync { file, opening } => self.sync(file, opening, None),
            Step::SyncRange { file, opening, at, len } => {
                let range = part(self.subject(file).model.bytes.len(), at, len);
                self.sync(file, opening, Some(range));
            }
            Step::Evict { file, at, len } => {
                let subject = self.subject(file);
                let range = part(subject.model.bytes.len(), at, len);
                subject.openings[0].evict(range.start as u64..range.end as u64);
                self.count("evict");
            }
            Step::SetLen { file, len } => self.set_len(file, len),
            Step::OutsideWrite { file, at, len, then } => self.outside_write(file, at, len, then),
            Step::OutsideLen { file, len, then } => self.outside_len(file, len, then),
            Step::Discard { file } => self.discard(file),
            Step::Overwrite { file } => {
                self.overwrite(file, false);
            }
            Step::Fail { nth, full } => {
                let disk = &self.subjects[0].disk.inner;
                disk.fail(nth.into(), if full { libc::ENOSPC } else { libc::EIO });
                self.armed.insert(disk.operations() + u64::from(nth));
                self.count("fail");
            }
            Step::Reopen { file } => self.reopen(file),
            Step::CrashAt { nth, seed } => {
                let number = self.crash_file();
                let disk = &self.subjects[number].disk;
                disk.crash_at.store(disk.inner.operations() + u64::from(nth), Ordering::Relaxed);
                self.crash_seed.get_or_insert((seed, 6));
            }
        }
    }

    fn subject(&mut self, file: usize) -> &mut Subject {
        let files = self.subjects.len();
        &mut self.subjects[file % files]
    }

    fn crash_file(&self) -> usize {
        self.subjects.len() - 1
    }

    /// Operations of the file so far.
    fn operations(&self, file: usize) -> u64 {
        self.subjects[file % self.subjects.len()].disk.inner.operations()
    }

    /// Whether the disk has refused something since the file had had `before` operations.
    fn refused(&self, file: usize, before: u64) -> bool {
        let file = file % self.subjects.len();
        let failed = file == 0 && self.armed.range(before..self.operations(0)).next().is_some();
        failed || self.subjects[file].disk.has_crashed()
    }

    /// Whether there can be no room for `more` pages: a folio stays as long as one of its pages is needed.
    fn may_be_full(&self, more: usize) -> bool {
        let held: usize = self.holds.iter().map(|held| held.pages().len()).sum();
        let dirty: usize = self.subjects.iter().map(|subject| subject.model.dirty.len()).sum();
        (held + dirty + more + self.pending.len()) * self.history.folio_pages + 1 >= self.history.cache_pages
    }

    /// Whether the file on the disk is shorter than it must be seen, so that clean pages of `range` can not be read.
    fn may_be_short(&self, file: usize, range: &Range<usize>) -> bool {
        let subject = &self.subjects[file % self.subjects.len()];
        let len = subject.disk.inner.bytes().len();
        let missing = |page: usize| ((page + 1) * PAGE).min(subject.model.bytes.len()) > len;
        pages(range).any(|page| missing(page) && (self.tight || !subject.model.dirty.contains(&page)))
    }

    /// Whether an error in getting at `range` is one that the history explains.
    fn explain(&mut self, error: &Error, file: usize, range: &Range<usize>, before: u64) {
        let what = match error {
            Error::ArenaFull { .. } if self.may_be_full(pages(range).len()) => "arena full",
            Error::File { .. } if self.refused(file, before) => "read error",
            Error::Shrunk { .. } if self.may_be_short(file, range) => "shrunk",
            _ => panic!("nothing explains: {error}"),
        };
        self.count(what);
    }

    fn hold(&mut self, file: usize, opening: usize, at: u16, len: u16) {
        let (before, no_copies) = (self.operations(file), self.cache.stats().no_snapshot);
        let number = file % self.subjects.len();
        let subject = self.subject(file);
        let range = part(subject.model.bytes.len(), at, len);
        match subject.openings[opening].hold(range.start as u64..range.end as u64) {
            Ok(hold) => {
                let bytes = subject.model.bytes[range].to_vec();
                let mut held = Held { hold, file: number, bytes, stops: BTreeSet::new() };
                held.check();
                held.stops = held.pages().collect();
                let no_copies = self.cache.stats().no_snapshot - no_copies;
                let met: Vec<_> = self.pending.iter().filter(|pending| pending.is_in(number, &held.stops)).collect();
                if no_copies > 0 && met.len() > 1 {
                    // Which of those stores waits for it now is not known.
                    return;
                }
                if no_copies == 0 && self.history.snapshots {
                    // It has copies of the pages for which a store waits.
                    let copied: BTreeSet<_> = met.iter().map(|pending| pending.page()).collect();
                    held.stops.retain(|page| !copied.contains(page));
                }
                self.holds.push(held);
                self.count("hold");
            }
            Err(error) => self.explain(&error, file, &range, before),
        }
    }

    fn store(&mut self, file: usize, at: u16, len: u16) {
        let before = self.operations(file);
        let file = file % self.subjects.len();
        self.value = self.value.wrapping_add(1);
        let value = self.value;
        let mut range = part(self.subjects[file].model.bytes.len(), at, len);
        let held = |page: usize| self.holds.iter().any(|held| held.file == file && held.pages().contains(&page));
        let waits = pages(&range).any(held);
        if self.pending.iter().any(|pending| pending.file == file && overlap(&pages(&pending.range), &pages(&range))) {
            return;
        }
        let may_fail = self.tight || !self.armed.is_empty() || self.crash_seed.is_some();
        let may_fail = may_fail || self.subjects[file].model.conflict;
        if waits || may_fail || self.may_be_full(pages(&range).len()) {
            // Of a store into several pages a part would land.
            range.end = range.end.min((range.start / PAGE + 1) * PAGE);
        }
        let view = self.subjects[file].view.clone();
        let (offset, bytes) = (range.start as u64, vec![value; range.len()]);
        if !waits {
            match view.write_at(offset, &bytes) {
                Ok(()) => self.subjects[file].model.store(range, value),
                Err(error) => self.explain(&error, file, &range, before),
            }
            self.count("store");
            return;
        }
        let thread = std::thread::spawn(move || view.write_at(offset, &bytes));
        let waiting = self.pending.len() as u64 + 1;
        let waits = || self.cache.stats().writers_waiting == waiting;
        eventually("a store lands or waits", || thread.is_finished() || waits());
        let pending = Pending { thread, file, range, value };
        if pending.thread.is_finished() {
            self.landed(pending, before);
        } else {
            self.pending.push(pending);
            self.count("store that waits");
        }
    }

    fn landed(&mut self, pending: Pending, before: u64) {
        match pending.thread.join().unwrap() {
            Ok(()) => self.subjects[pending.file].model.store(pending.range, pending.value),
            Err(error) => self.explain(&error, pending.file, &pending.range, before),
        }
    }

    fn sync(&mut self, file: usize, opening: usize, range: Option<Range<usize>>) {
        let (before, errors_before) = (self.operations(file), self.cache.stats().write_errors);
        let number = file % self.subjects.len();
        let opened = self.subject(file).openings[opening].clone();
        let answer = match &range {
            Some(range) => opened.sync_range(range.start as u64..range.end as u64),
            None => opened.sync(),
        };
        // Only file 0 has failures, unless there is a crash.
        let errors = if number == 0 { self.cache.stats().write_errors } else { errors_before };
        let refused = self.refused(file, before);
        if refused {
            // Some of it has been written, and the flusher tries the rest.
            self.tight = true;
            let model = &mut self.subjects[number].model;
            let resized = std::mem::take(&mut model.resized);
            model.foreign.extend(resized);
        }
        let crashed = self.subjects[number].disk.has_crashed();
        let subject = &mut self.subjects[number];
        let news = number == 0 && subject.told[opening] < errors;
        let pages_of = range.clone().map_or(0..subject.model.bytes.len(), |range| {
            if range.is_empty() { range } else { range.start / PAGE * PAGE..range.end }
        });
        let what = match answer {
            Ok(()) => {
                assert!(!news || crashed, "a failed write-back was not told");
                assert!(!subject.model.conflict, "a conflict was not told");
                subject.model.acknowledge(pages_of, range.is_none());
                "sync"
            }
            Err(Error::WriteBack { .. }) => {
                assert!(news || crashed, "a failed write-back was told twice");
                subject.told[opening] = errors;
                if errors == errors_before && !crashed && !subject.model.conflict {
                    // It is an older failure that was told.
                    subject.model.acknowledge(pages_of, range.is_none());
                }
                "sync that failed"
            }
            Err(Error::Conflict { .. }) => {
                assert!(subject.model.conflict, "there is no conflict");
                "sync in a conflict"
            }
            Err(error) => {
                assert!(crashed, "{error}");
                "sync of a crashed disk"
            }
        };
        self.count(what);
    }

    fn set_len(&mut self, file: usize, len: u16) {
        let before = self.operations(file);
        let number = file % self.subjects.len();
        let model = &self.subjects[number].model;
        let (old, len) = (model.bytes.len(), self.history.lens[number] * usize::from(len) / 1000);
        let held = self.holds.iter().any(|held| held.file == number && held.pages().contains(&(old / PAGE)));
        let cut = |pending: &Pending| pending.file == number && pages(&pending.range).end > len / PAGE;
        // It would wait for our holds; or cut off the place of a store that waits.
        if model.conflict || len > old && held || self.pending.iter().any(cut) {
            return;
        }
        match self.subjects[number].openings[0].set_len(len as u64) {
            Ok(()) => {
                self.subjects[number].model.set_len(len);
                self.leave(number, len.div_ceil(PAGE));
                self.count(if len < old { "shrink" } else { "grow" });
            }
            Err(error) => {
                assert!(matches!(error, Error::File { .. }) && self.refused(file, before), "{error}");
                self.count("set_len that failed");
            }
        }
        let subject = &self.subjects[number];
        assert_eq!(subject.openings[0].len(), subject.model.bytes.len() as u64);
        if subject.view.capacity() < subject.model.bytes.len() {
            self.subjects[number].view = self.subjects[number].openings[0].view().unwrap();
        }
    }

    /// Whether somebody else's doings would have consequences that this model does not tell apart.
    fn too_much_at_once(&self, number: usize) -> bool {
        let pending = self.pending.iter().any(|pending| pending.file == number);
        let dirty = !self.subjects[number].model.dirty.is_empty();
        pending && (self.tight || !self.armed.is_empty() || self.crash_seed.is_some())
            || dirty && self.tight
            || self.subjects[number].disk.has_crashed()
    }

    fn outside_write(&mut self, file: usize, at: u16, len: u16, then: Then) {
        let number = file % self.subjects.len();
        if self.too_much_at_once(number) {
            return;
        }
        self.value = self.value.wrapping_add(1);
        let subject = &mut self.subjects[number];
        let range = part(subject.disk.inner.bytes().len(), at, len);
        if range.is_empty() {
            return;
        }
        subject.disk.inner.outside_write(range.start as u64, &vec![self.value | 0x80; range.len()]);
        self.changed_outside(number, pages(&range), then);
        self.count("outside write");
    }

    fn outside_len(&mut self, file: usize, len: u16, then: Then) {
        let number = file % self.subjects.len();
        if self.too_much_at_once(number) || self.pending.iter().any(|pending| pending.file == number) {
            return;
        }
        let (old, len) =
            (self.subjects[number].disk.inner.bytes().len(), self.history.lens[number] * usize::from(len) / 1000);
        if old == len {
            return;
        }
        self.subjects[number].disk.inner.outside_set_len(len as u64);
        self.subjects[number].model.foreign_len = true;
        self.changed_outside(number, pages(&(old.min(len)..old.max(len))), then);
        self.count("outside length");
    }

    fn changed_outside(&mut self, number: usize, changed: Range<usize>, then: Then) {
        let tight = self.tight;
        let subject = &mut self.subjects[number];
        let disk = subject.disk.inner.bytes();
        subject.model.lens.push(disk.len());
        for page in changed {
            subject.model.states.entry(page).or_default().push(page_of(&disk, page));
            subject.model.foreign.insert(page);
        }
        let dirty_bytes = self.cache.stats().dirty_bytes;
        let (clean, conflict) = (subject.model.dirty.is_empty(), subject.model.conflict);
        if matches!(then, Then::Overwrite) && conflict && self.overwrite(number, true) {
            return;
        }
        let subject = &mut self.subjects[number];
        match then {
            // An end that is not whole pages would be zeroed, which waits for our holds.
            Then::SetLen if clean && !conflict && !tight && self.holds.is_empty() && self.pending.is_empty() => {
                let (before, len) = (subject.disk.inner.operations(), disk.len() + PAGE);
                match subject.openings[0].set_len(len as u64) {
                    Ok(()) => {
                        subject.model.take_over(&disk, disk.len());
                        subject.model.set_len(len);
                        if subject.view.capacity() < len {
                            subject.view = subject.openings[0].view().unwrap();
                        }
                        self.count("set_len after an outside change");
                    }
                    Err(error) => {
                        subject.model.take_over(&disk, disk.len());
                        assert!(self.refused(number, before), "{error}");
                    }
                }
                self.look_again(number, true);
                return;
            }
            Then::Sync if !clean && !conflict => {
                let answer = subject.openings[0].sync();
                if !tight {
                    let told = matches!(answer, Err(Error::Conflict { .. }));
                    assert!(told, "somebody else wrote, {dirty_bytes} bytes are dirty, and sync says {answer:?}");
                } else if matches!(answer, Err(Error::WriteBack { .. })) {
                    subject.told[0] = self.cache.stats().write_errors;
                }
            }
            _ => {}
        }
        self.look_again(number, false);
    }

    /// The cache looks at the file, and the model takes over what it must see.
    fn look_again(&mut self, number: usize, done: bool) {
        let tight = self.tight;
        let subject = &mut self.subjects[number];
        let answer = subject.openings[1].recheck();
        let disk = subject.disk.inner.bytes();
        let clean = subject.model.dirty.is_empty();
        let kind = match answer {
            _ if subject.disk.has_crashed() => return,
            Ok(()) => {
                assert!((tight || clean) && !subject.model.conflict, "no conflict is told");
                subject.model.dirty.clear();
                if !done {
                    subject.model.take_over(&disk, disk.len());
                }
                "outside change of a clean file"
            }
            Err(Error::Conflict { .. }) => {
                assert!(!clean, "a conflict without a store");
                subject.model.conflict = true;
                // Ours, until somebody decides.
                let len = subject.model.bytes.len();
                self.see_what_is_left(number, &disk);
                self.subjects[number].model.take_over(&disk, len);
                "conflict"
            }
            Err(error) => panic!("{error}"),
        };
        self.count(kind);
        let subject = &mut self.subjects[number];
        assert_eq!(subject.openings[0].len(), subject.model.bytes.len() as u64);
        if subject.view.capacity() < subject.model.bytes.len() {
            subject.view = subject.openings[0].view().unwrap();
        }
        self.clean_pages_leave(number);
    }

    /// In a conflict, where the flusher may have been at work: which of the dirty pages are.
    fn see_what_is_left(&mut self, number: usize, disk: &[u8]) {
        if !self.tight {
            return;
        }
        let subject = &mut self.subjects[number];
        let model = &mut subject.model;
        let ours = |page: usize| {
            let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(model.bytes.len()));
            let mut found = vec![0; end - start];
            if subject.view.read_at(start as u64, &mut found).is_err() {
                return false;
            }
            let is_ours = found == model.bytes[start..end];
            assert!(is_ours || found[..] == page_of(disk, page)[..end - start], "page {page} is neither's");
            is_ours && found[..] != page_of(disk, page)[..end - start]
        };
        let left: BTreeSet<usize> = model.dirty.iter().copied().filter(|page| ours(*page)).collect();
        model.dirty = left;
    }

    /// Clean pages have left the file, with those who hold them.
    fn clean_pages_leave(&mut self, number: usize) {
        let dirty = &self.subjects[number].model.dirty;
        let held = self.holds.iter_mut().filter(|held| held.file == number);
        held.for_each(|held| held.stops.retain(|page| dirty.contains(page)));
    }

    /// Pages from `page` on have left the file, with those who hold them.
    fn leave(&mut self, number: usize, page: usize) {
        self.holds
            .iter_mut()
            .filter(|held| held.file == number)
            .for_each(|held| held.stops.retain(|held| *held < page));
    }

    fn discard(&mut self, file: usize) {
        let number = file % self.subjects.len();
        if self.pending.iter().any(|pending| pending.file == number) || self.subjects[number].disk.has_crashed() {
            return;
        }
        let subject = &mut self.subjects[number];
        subject.openings[0].discard();
        let disk = subject.disk.inner.bytes();
        subject.model.dirty.clear();
        subject.model.conflict = false;
        subject.model.foreign.extend(0..disk.len().div_ceil(PAGE));
        subject.model.take_over(&disk, disk.len());
        self.leave(number, 0);
        self.count("discard");
    }

    fn overwrite(&mut self, file: usize, changed: bool) -> bool {
        let number = file % self.subjects.len();
        let end = self.subjects[number].model.bytes.len() / PAGE;
        let held = self.holds.iter().any(|held| held.file == number && held.pages().contains(&end));
        let subject = &mut self.subjects[number];
        // It would wait for our holds.
        if !subject.model.conflict || held || subject.disk.has_crashed() {
            return false;
        }
        let before = subject.model.bytes.len();
        subject.openings[0].overwrite();
        subject.model.conflict = false;
        let disk = subject.disk.inner.bytes();
        let len = subject.openings[0].len() as usize;
        let stored = subject.model.dirty.last().map_or(0, |page| (page + 1) * PAGE).min(subject.model.bytes.len());
        if !self.tight {
            assert_eq!(len, stored.max(disk.len()), "the file ends where the last store does, or on the disk");
        }
        subject.model.take_over(&disk, len);
        subject.model.foreign_len = true;
        if changed || len > before {
            self.clean_pages_leave(number);
        }
        self.count("overwrite");
        true
    }

    fn reopen(&mut self, file: usize) {
        let number = file % self.subjects.len();
        if self.pending.iter().any(|pending| pending.file == number) || self.subjects[number].disk.has_crashed() {
            return;
        }
        let errors = self.cache.stats().write_errors;
        let subject = &mut self.subjects[number];
        let disk = subject.disk.clone();
        // All of them at once, so that for a moment nobody has it open (but for holds).
        let placeholder = Disk::new(b"");
        let other = self.cache.open_storage((2, number as u64), placeholder as Arc<dyn Storage>).unwrap();
        subject.view = other.view().unwrap();
        subject.openings.clear();
        subject.openings = (0..2).map(|_| self.cache.open_storage((1, number as u64), disk.clone()).unwrap()).collect();
        subject.view = subject.openings[0].view().unwrap();
        subject.told = vec![errors; 2];
        self.count("reopen");
    }

    /// Stores whose last hold has gone land; a disk that has crashed comes back.
    fn settle(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            if self.holds.iter().any(|held| pending.is_in(held.file, &held.stops)) {
                assert!(!pending.thread.is_finished(), "a store has landed in a held page");
                self.pending.push(pending);
            } else {
                eventually("a store lands when the last hold has gone", || pending.thread.is_finished());
                self.landed(pending, 0);
                self.count("store that has waited");
            }
        }
        let stats = self.cache.stats();
        self.tight |= stats.free_bytes <= 4 * PAGE as u64;
        if let Some((seed, left)) = self.crash_seed.take() {
            let crashed = self.subjects[self.crash_file()].disk.has_crashed();
            if crashed || left == 0 { self.crash(seed) } else { self.crash_seed = Some((seed, left - 1)) }
        }
    }

    fn let_go(&mut self) {
        self.holds.drain(..).for_each(|held| held.check());
        for pending in std::mem::take(&mut self.pending) {
            eventually("a store lands at the end", || pending.thread.is_finished());
            self.landed(pending, 0);
        }
    }

    /// The machine goes down, and comes up with what a disk can show then.
    fn crash(&mut self, seed: u64) {
        let stats = self.cache.stats();
        self.subjects.iter().for_each(|subject| subject.disk.inner.crash());
        self.let_go();
        let left: Vec<_> = self
            .subjects
            .drain(..)
            .map(|Subject { disk, model, .. }| {
                let found = disk.inner.durable_after_crash(seed);
                model.check_crash(&found);
                found
            })
            .collect();
        self.cache = new_cache(self.history);
        self.subjects = left.iter().enumerate().map(|(number, bytes)| open(&self.cache, number, bytes)).collect();
        self.armed.clear();
        self.tight = false;
        self.add_up(&stats);
        self.count("crash");
    }

    fn add_up(&mut self, stats: &stillwire_filecache::Stats) {
        let counted = [
            ("snapshots", stats.snapshots),
            ("evictions", stats.evictions),
            ("write errors", stats.write_errors),
            ("written back", stats.written_back),
            ("no snapshot", stats.no_snapshot),
        ];
        for (what, count) in counted {
            *self.counts.entry(what).or_default() += count;
        }
    }

    /// At the end everything is seen and, when it has been synced, on the disk.
    fn end(mut self) {
        self.let_go();
        let stats = self.cache.stats();
        self.add_up(&stats);
        if self.subjects.iter().any(|subject| subject.disk.has_crashed()) {
            return;
        }
        self.subjects.iter().for_each(|subject| subject.disk.crash_at.store(u64::MAX, Ordering::Relaxed));
        for number in 0..self.subjects.len() {
            if self.subjects[number].model.conflict {
                self.overwrite(number, false);
            }
            let subject = &self.subjects[number];
            let mut tries = 0;
            while let Err(error) = subject.openings[0].sync() {
                assert!(matches!(error, Error::WriteBack { .. }), "{error}");
                tries += 1;
                assert!(tries < 16, "{error}");
            }
            let found = subject.disk.inner.bytes();
            let model = &subject.model;
            assert!(found == model.bytes, "the disk has other bytes, first at {:?}", differ(&found, &model.bytes));
            let mut seen = Vec::new();
            for start in (0..model.bytes.len()).step_by(PAGE) {
                let range = start as u64..model.bytes.len().min(start + PAGE) as u64;
                // Failures that are still to come are met now.
                let hold = (0..16).find_map(|_| subject.openings[1].hold(range.clone()).ok());
                seen.extend(hold.expect("it can be read").chunks().flatten());
            }
            assert!(seen == model.bytes, "other bytes are seen, first at {:?}", differ(&seen, &model.bytes));
        }
        let stats = self.cache.stats();
        assert_eq!((stats.dirty_bytes, stats.writers_waiting), (0, 0));
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// A part of `len` bytes: both in per mille.
fn part(len: usize, at: u16, part: u16) -> Range<usize> {
    let start = len * usize::from(at) / 1000;
    start..(start + len * usize::from(part) / 1000 + usize::from(part > 0)).min(len)
}

/// The step under way, counted from 0.
static AT: AtomicUsize = AtomicUsize::new(0);

/// Ends the process, with the history, when one takes too long: a cache that waits for ever can not be shrunk.
fn watch_over(current: Arc<Mutex<Option<(Instant, String)>>>) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            if let Some((begun, history)) = &*current.lock().unwrap()
                && begun.elapsed() > Duration::from_secs(40)
            {
                eprintln!("this history does not get past step {}: {history}", AT.load(Ordering::Relaxed));
                std::process::abort();
            }
        }
    });
}

fn run(history: &History, counts: &mut BTreeMap<&'static str, u64>) {
    Run::new(history, counts).run();
}

#[test]
fn what_is_seen_is_what_was_stored_and_what_is_synced_survives() {
    let cases = std::env::var("STILLWIRE_HISTORIES").ok().and_then(|cases| cases.parse().ok());
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let standard = Runs::default();
    let cases = cases.unwrap_or(if asked { standard.cases } else { 1000 });
    let current = Arc::new(Mutex::new(None::<(Instant, String)>));
    watch_over(current.clone());
    let counts = Mutex::new(BTreeMap::<&str, u64>::new());
    let runs = Runs { cases, failure_persistence: None, max_shrink_iters: 4000, ..standard };
    let answer = TestRunner::new(runs).run(&history(), |history| {
        *current.lock().unwrap() = Some((Instant::now(), format!("{history:?}")));
        let mut own = BTreeMap::new();
        let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&history, &mut own)));
        *current.lock().unwrap() = None;
        if let Err(why) = answer {
            let text = why.downcast_ref::<String>().cloned();
            let text = text.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            return Err(TestCaseError::fail(text.unwrap_or_default()));
        }
        let mut counts = counts.lock().unwrap();
        own.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
        Ok(())
    });
    if let Err(error) = answer {
        panic!("{error}");
    }
    let counts = counts.into_inner().unwrap();
    println!("{cases} histories: {counts:#?}");
    if cases >= 1000 {
        for what in INTERESTING {
            assert!(counts.get(what).is_some_and(|count| *count > 0), "never happened: {what}: {counts:?}");
        }
    }
}

/// What a run of many histories must have met, or it shows little. (A copy for which there is no room is too rare for that: none to ten
/// in a thousand.)
const INTERESTING: [&str; 22] = [
    "arena full",
    "conflict",
    "crash",
    "digest",
    "discard",
    "evictions",
    "grow",
    "hold",
    "outside change of a clean file",
    "outside length",
    "overwrite",
    "read error",
    "reopen",
    "set_len after an outside change",
    "set_len that failed",
    "shrink",
    "snapshots",
    "store that has waited",
    "sync",
    "sync in a conflict",
    "sync that failed",
    "write errors",
];
