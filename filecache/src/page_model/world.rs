//! What lies around the page word.

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU64;
use loom::sync::{Condvar, Mutex};

use super::*;
use crate::group::GroupWord;

/// A file of two pages, an arena of three, and a view of the file's first page.
pub(super) struct World {
    pub(super) variant: Variant,
    /// The first two arena pages are a pair.
    words: [PairWord; FRAMES.div_ceil(2)],
    /// And a group, where it is looked at.
    pub(super) group: Option<GroupWord>,
    /// Memory and page tables of the machine. One word, because the hardware makes them one: a store happens with the
    /// permission it was checked against, and an ioctl that takes it away returns after every processor has dropped the
    /// old one. Relaxed: what order there is between holders, fills and copies must come from the page words.
    machine: AtomicU64,
    /// Arena pages' bytes again, for loom to find accesses that nothing orders.
    cells: [UnsafeCell<()>; FRAMES],
    /// File page to arena page plus one, as `table.rs`.
    table: [AtomicU64; 2],
    /// The file's length, pages, as far as page `A` is concerned.
    len: AtomicU64,
    /// Free arena pages.
    free: Mutex<[bool; FRAMES]>,
    /// The arena page that the view is known to show.
    pub(super) laid: Mutex<Option<usize>>,
    pub(super) layout: Mutex<()>,
    pub(super) growing: Mutex<()>,
    /// Arena page and its copy.
    pub(super) copies: Mutex<Option<(usize, usize)>>,
    /// Whether page `A` is in the file's set of dirty pages.
    pub(super) dirty: Mutex<bool>,
    /// What the disk keeps of page `A`. The writer-back alone changes it.
    pub(super) disk: Plain,
    /// Whether a store has returned.
    returned: AtomicU64,
    mailbox: Mutex<Vec<Event>>,
    bell: Condvar,
}

/// What the guard hears of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// A store into page `A` hit protection.
    Fault,
    /// A release has moved this arena page to `Opening`.
    Opening(usize),
    /// This arena page has left its file.
    Retry(usize),
    /// There is no more to do.
    Stop,
}

/// What a store instruction found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Stored,
    Protected,
    Missing,
}

impl World {
    /// Page `A` cached in the first arena page, protected, and laid over the view.
    #[expect(clippy::arc_with_non_send_sync, reason = "loom's threads take turns on one, and its cells are not Sync")]
    pub(super) fn new(variant: Variant) -> Arc<Self> {
        let world = Self::empty(variant);
        assert!(world.lay());
        Arc::new(world)
    }

    /// The same, and page `B` in the other half of the same word. `half`: page `A`'s. Both are used.
    #[expect(clippy::arc_with_non_send_sync, reason = "as above")]
    pub(super) fn pair(variant: Variant, half: usize) -> Arc<Self> {
        let world = Self::empty(variant);
        assert!(half == 0 || world.fill(B));
        assert!(world.lay() && world.fill(B));
        for page in [A, B, A, B] {
            world.hold(page).into_iter().for_each(|frame| world.release(frame));
        }
        Arc::new(world)
    }

    /// The same, with page `A` in the lower half, and a group. `stands`: it does already, and nobody holds it.
    #[expect(clippy::arc_with_non_send_sync, reason = "as above")]
    pub(super) fn group(variant: Variant, stands: bool) -> Arc<Self> {
        let mut world = Self::pair(variant, 0);
        let inside = Arc::get_mut(&mut world).unwrap();
        let group = GroupWord::new();
        if stands {
            assert!(inside.pair_of(0).hold().is_ok() && group.form());
            assert_eq!(group.let_go(), crate::group::Pages::NotYours);
        }
        inside.group = Some(group);
        world
    }

    fn empty(variant: Variant) -> Self {
        Self {
            variant,
            words: [PairWord::new(), PairWord::new()],
            group: None,
            machine: AtomicU64::new(0),
            cells: [UnsafeCell::new(()), UnsafeCell::new(()), UnsafeCell::new(())],
            table: [AtomicU64::new(0), AtomicU64::new(0)],
            len: AtomicU64::new(1),
            free: Mutex::new([true; FRAMES]),
            laid: Mutex::new(None),
            layout: Mutex::new(()),
            growing: Mutex::new(()),
            copies: Mutex::new(None),
            dirty: Mutex::new(false),
            disk: Plain::new(OLD),
            returned: AtomicU64::new(0),
            mailbox: Mutex::new(Vec::new()),
            bell: Condvar::new(),
        }
    }

    /// The same with a store in it, and open.
    pub(super) fn open(variant: Variant, stored: u64) -> Arc<Self> {
        let world = Self::new(variant);
        assert!(world.write(stored));
        world
    }

    /// The same with a store in it, dirty, and protected.
    pub(super) fn dirty(variant: Variant, stored: u64) -> Arc<Self> {
        let world = Self::open(variant, stored);
        assert_eq!(world.hold_and_look(), Some(stored));
        world
    }

    /// One store instruction into the view.
    pub(super) fn store(&self, value: u64) -> Found {
        loop {
            // Read by an addition of nothing: a processor faults on the page table's newest entry, not on an old one.
            let seen = self.machine.fetch_add(0, Ordering::Relaxed);
            let Some(frame) = entry(seen) else { return Found::Missing };
            if seen & WRITABLE == 0 {
                return Found::Protected;
            }
            let new = with_bytes(seen, frame, value);
            if self.machine.compare_exchange(seen, new, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Found::Stored;
            }
        }
    }

    /// Keeps stores out of the view.
    pub(super) fn protect(&self) {
        self.machine.fetch_and(!WRITABLE, Ordering::Relaxed);
    }

    /// Lets stores into the view.
    pub(super) fn unprotect(&self) {
        // What is not laid can not be unprotected.
        if self.laid.lock().unwrap().is_some() {
            self.machine.fetch_or(WRITABLE, Ordering::Relaxed);
        }
    }

    /// Whoever held the arena page has read it before this.
    pub(super) fn readers_have_ended(&self, frame: usize) {
        self.cells[frame].with_mut(|_| ());
    }

    /// Lays an arena page over the view, protected. The caller has the layout locked.
    pub(super) fn show(&self, frame: usize) {
        self.machine.fetch_or(frame as u64 + 1, Ordering::Relaxed);
        *self.laid.lock().unwrap() = Some(frame);
    }

    /// Takes away what is laid over the view. The caller has the layout locked.
    pub(super) fn unlay(&self) {
        let mut seen = self.machine.fetch_add(0, Ordering::Relaxed);
        while let Err(other) =
            self.machine.compare_exchange(seen, seen & !(ENTRY | WRITABLE), Ordering::Relaxed, Ordering::Relaxed)
        {
            seen = other;
        }
        *self.laid.lock().unwrap() = None;
    }

    pub(super) fn word(&self, frame: usize) -> PageWord<'_> {
        self.pair_of(frame).of(frame as u32)
    }

    /// The word of an arena page and its neighbour.
    pub(super) fn pair_of(&self, frame: usize) -> &PairWord {
        &self.words[frame / 2]
    }

    pub(super) fn nothing_is_held(&self) -> bool {
        (0..FRAMES).all(|frame| self.word(frame).holds() == 0)
    }

    /// The bytes of an arena page that the caller holds.
    pub(super) fn bytes(&self, frame: usize) -> u64 {
        self.cells[frame].with(|_| bytes(self.machine.load(Ordering::Relaxed), frame))
    }

    /// Writes an arena page that is the caller's alone.
    pub(super) fn set_bytes(&self, frame: usize, value: u64) {
        self.readers_have_ended(frame);
        let mut seen = self.machine.fetch_add(0, Ordering::Relaxed);
        while let Err(other) =
            self.machine.compare_exchange(seen, with_bytes(seen, frame, value), Ordering::Relaxed, Ordering::Relaxed)
        {
            seen = other;
        }
    }

    pub(super) fn shown(&self, page: usize) -> Option<usize> {
        self.table[page].load(Ordering::Acquire).checked_sub(1).map(|frame| frame as usize)
    }

    pub(super) fn set_shown(&self, page: usize, frame: Option<usize>) {
        self.table[page].store(frame.map_or(0, |frame| frame as u64 + 1), Ordering::Release);
    }

    pub(super) fn is_cut_off(&self, page: usize) -> bool {
        page == A && self.len.load(Ordering::Acquire) == 0
    }

    pub(super) fn cut_off(&self) {
        self.len.store(0, Ordering::Release);
    }

    pub(super) fn allocate(&self) -> Option<usize> {
        let mut free = self.free.lock().unwrap();
        let frame = free.iter().position(|free| *free)?;
        free[frame] = false;
        Some(frame)
    }

    pub(super) fn free(&self, frame: usize) {
        let was_free = std::mem::replace(&mut self.free.lock().unwrap()[frame], true);
        assert!(!was_free, "a page was freed twice");
    }

    pub(super) fn free_pages(&self) -> usize {
        self.free.lock().unwrap().iter().filter(|free| **free).count()
    }

    /// A store has returned: every later hold must see it.
    pub(super) fn store_returned(&self) {
        self.returned.store(1, Ordering::Release);
    }

    pub(super) fn has_store_returned(&self) -> bool {
        self.returned.load(Ordering::Acquire) == 1
    }

    pub(super) fn tell_guard(&self, event: Event) {
        self.mailbox.lock().unwrap().push(event);
        self.bell.notify_one();
    }

    /// Sleeps until there is something for the guard.
    pub(super) fn next_event(&self) -> Event {
        let mut mailbox = self.mailbox.lock().unwrap();
        while mailbox.is_empty() {
            mailbox = self.bell.wait(mailbox).unwrap();
        }
        mailbox.remove(0)
    }
}

/// The arena page that the view's page table entry names.
fn entry(machine: u64) -> Option<usize> {
    (machine & ENTRY).checked_sub(1).map(|frame| frame as usize)
}

fn bytes(machine: u64, frame: usize) -> u64 {
    machine >> (8 * (frame + 1)) & 0xff
}

fn with_bytes(machine: u64, frame: usize, value: u64) -> u64 {
    let shift = 8 * (frame + 1);
    machine & !(0xff << shift) | value << shift
}

/// Arena pages: one that is cached, and room for two more.
pub(super) const FRAMES: usize = 3;
/// Bits 0..=3 of the machine: arena page that the view shows, plus one. A byte an arena page from bit 8 on.
const ENTRY: u64 = 15;
/// The view lets stores through.
const WRITABLE: u64 = 1 << 4;
