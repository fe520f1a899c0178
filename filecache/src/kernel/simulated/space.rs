use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stillwire_dma::copy::{copy_in, copy_out};

use super::bell::Ring;
use crate::kernel::Heard;
use crate::simulation;

/// An address space.
#[derive(Debug, Default)]
pub(crate) struct Space {
    // The standard library's: nobody goes on while it is taken.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Reserve, first address and length.
    reserves: BTreeMap<usize, usize>,
    /// By address of the page: what is in the reserve.
    entries: BTreeMap<usize, Entry>,
    sleepers: Vec<Sleeper>,
    /// Moves that have begun and of which the guard has not read.
    moving: usize,
    /// Those of them that are done.
    moves: Vec<Arc<Move>>,
    tells: Option<Arc<Ring>>,
    /// Reserve that was given out.
    given: usize,
}

/// A page.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    /// It shows memory.
    Laid { memory: usize, writable: bool },
    /// A touch is a SIGBUS.
    Poison,
    /// It reads as zeros; what is stored is nobody's.
    Zeros,
}

#[derive(Debug)]
struct Sleeper {
    place: Arc<u64>,
    heard: Heard,
    is_read: bool,
}

#[derive(Debug, Default)]
struct Move {
    _place: u64,
}

/// What a touch that is let through touches.
pub(super) enum Touched {
    Memory(usize),
    Zeros,
}

impl Touched {
    /// # Safety
    /// The memory is there.
    pub(super) unsafe fn store(self, bytes: &[u8]) {
        if let Self::Memory(memory) = self {
            simulation::stored(memory, bytes.len());
            // SAFETY: the caller's.
            unsafe { copy_in(bytes, memory as *mut u8) };
        }
    }

    /// # Safety
    /// The memory is there.
    pub(super) unsafe fn load(self, bytes: &mut [u8]) {
        match self {
            // SAFETY: the caller's.
            Self::Memory(memory) => unsafe { copy_out(memory as *const u8, bytes) },
            Self::Zeros => bytes.fill(0),
        }
    }
}

impl Space {
    pub(super) fn reserve(&self, len: usize) -> usize {
        let mut state = self.state();
        let base = BASE + state.given;
        // A hole after each, so that what reaches too far is seen.
        state.given += len + PAGE;
        state.reserves.insert(base, len);
        base
    }

    pub(super) fn unmap(&self, base: usize, len: usize) {
        let mut state = self.state();
        state.reserves.remove(&base);
        state.entries.retain(|at, _| !(base..base + len).contains(at));
    }

    /// The bytes at `at..at + len` are changed by `change`, in one step, and the guard is told and waited for.
    pub(super) fn moved(&self, at: usize, len: usize, change: impl FnOnce(&Self)) {
        assert!(at.is_multiple_of(PAGE) && len.is_multiple_of(PAGE), "{at:#x} and {len:#x} are no pages");
        let told = Arc::new(Move::default());
        stillwire_scheduler::step();
        self.state().moving += 1;
        stillwire_scheduler::step();
        change(self);
        stillwire_scheduler::step();
        let mut state = self.state();
        state.moves.push(told.clone());
        let ring = state.tells.clone();
        drop(state);
        if let Some(ring) = ring {
            ring.ring();
        }
        // Not yet read by the guard.
        while self.state().moves.iter().any(|other| Arc::ptr_eq(other, &told)) {
            stillwire_scheduler::wait_for(Arc::as_ptr(&told).addr(), None, "the guard to read of a move");
        }
    }

    pub(super) fn lay(&self, at: usize, len: usize, memory: usize) {
        let mut state = self.state();
        for page in (0..len).step_by(PAGE) {
            state.entries.insert(at + page, Entry::Laid { memory: memory + page, writable: false });
        }
    }

    pub(super) fn clear(&self, at: usize, len: usize) {
        self.state().entries.retain(|page, _| !(at..at + len).contains(page));
    }

    pub(super) fn is_moving(&self) -> bool {
        self.state().moving > 0
    }

    pub(super) fn set_writable(&self, at: usize, len: usize, to: bool) -> io::Result<()> {
        let mut state = self.state();
        for page in (at..at + len).step_by(PAGE) {
            match state.entries.get_mut(&page) {
                Some(Entry::Laid { writable, .. }) => *writable = to,
                _ => return Err(io::Error::from_raw_os_error(libc::ENOENT)),
            }
        }
        Ok(())
    }

    pub(super) fn fill(&self, at: usize, len: usize, entry: impl Fn() -> Entry) -> io::Result<()> {
        let mut state = self.state();
        for page in (at..at + len).step_by(PAGE) {
            if !state.is_reserved(page) {
                return Err(io::Error::from_raw_os_error(libc::ENOENT));
            }
            // Somebody was faster: what is there stays.
            state.entries.entry(page).or_insert_with(&entry);
        }
        drop(state);
        self.wake(at, len);
        Ok(())
    }

    pub(super) fn wake(&self, at: usize, len: usize) {
        let mut state = self.state();
        let woken: Vec<_> =
            state.sleepers.extract_if(.., |sleeper| (at..at + len).contains(&sleeper.heard.address)).collect();
        drop(state);
        for sleeper in woken {
            stillwire_scheduler::wake(Arc::as_ptr(&sleeper.place).addr());
        }
    }

    /// What the guard has not read yet.
    pub(super) fn read(&self, heard: &mut Vec<Heard>) {
        let mut state = self.state();
        for sleeper in state.sleepers.iter_mut().filter(|sleeper| !sleeper.is_read) {
            sleeper.is_read = true;
            heard.push(sleeper.heard);
        }
        let moves = std::mem::take(&mut state.moves);
        state.moving -= moves.len();
        drop(state);
        for told in moves {
            stillwire_scheduler::wake(Arc::as_ptr(&told).addr());
        }
    }

    pub(super) fn has_news(&self) -> bool {
        let state = self.state();
        !state.moves.is_empty() || state.sleepers.iter().any(|sleeper| !sleeper.is_read)
    }

    pub(super) fn tells(&self, ring: &Arc<Ring>) {
        self.state().tells = Some(ring.clone());
    }

    /// A touch of a few bytes at `at` by the thread that calls.
    pub(super) fn access(&self, at: usize, is_store: bool, mut act: impl FnMut(Touched)) {
        let page = at & !(PAGE - 1);
        loop {
            stillwire_scheduler::step();
            let mut state = self.state();
            let missing = match state.entries.get(&page) {
                Some(Entry::Laid { memory, writable }) if *writable || !is_store => {
                    let memory = memory + (at - page);
                    drop(state);
                    return act(Touched::Memory(memory));
                }
                Some(Entry::Zeros) => return act(Touched::Zeros),
                Some(Entry::Poison) => {
                    drop(state);
                    stillwire_scheduler::failed(format!("SIGBUS at {at:#x}"));
                }
                Some(Entry::Laid { .. }) => false,
                None if state.is_reserved(page) => true,
                None => {
                    drop(state);
                    stillwire_scheduler::failed(format!("SIGSEGV at {at:#x}"));
                }
            };
            let place = Arc::new(0);
            let heard = Heard { address: at, missing };
            state.sleepers.push(Sleeper { place: place.clone(), heard, is_read: false });
            let ring = state.tells.clone();
            drop(state);
            if let Some(ring) = ring {
                ring.ring();
            }
            while self.state().sleepers.iter().any(|sleeper| Arc::ptr_eq(&sleeper.place, &place)) {
                let what = if missing { "a page that is missing" } else { "a page that is protected" };
                stillwire_scheduler::wait_for(Arc::as_ptr(&place).addr(), None, what);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_reserved(&self, page: usize) -> bool {
        self.reserves.range(..=page).next_back().is_some_and(|(base, len)| page < base + len)
    }
}

/// Where address space is given out.
const BASE: usize = 0x7000_0000_0000;
/// Simulations have small pages only.
const PAGE: usize = 4096;
