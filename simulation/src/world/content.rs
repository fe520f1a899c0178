//! What the bytes of a file may be: which versions of it may be seen when.
//!
//! A file is slots of [`SLOT`] bytes. Each has one writer, who stores versions 1, 2, 3, ... of it. Each word of a slot says which
//! file and slot it is of, and which version. So bytes of another place are known, and whoever reads a slot can tell what it must at least be (the newest version whose store had returned
//! before the reading began), and what it can be at most (the newest one that had begun when the reading ended).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The slots of a file; clones are the same. (The lock is never waited for: nobody goes on while it is taken.)
#[derive(Clone)]
pub struct Content {
    file: u64,
    slots: Arc<Mutex<Vec<Slot>>>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    begun: u64,
    done: u64,
}

/// What a slot must at least be.
pub type Floor = Vec<u64>;

impl Content {
    /// Of file number `file`, of so many bytes.
    pub fn new(file: usize, len: usize) -> Self {
        Self { file: file as u64, slots: Arc::new(Mutex::new(vec![Slot::default(); len / SLOT])) }
    }

    /// The bytes of the file at first: version 0 of all slots.
    pub fn first_bytes(&self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len / SLOT).flat_map(|slot| self.word(slot, 0).repeat(SLOT / WORD)).collect();
        bytes.resize(len, 0);
        bytes
    }

    fn word(&self, slot: usize, version: u64) -> [u8; WORD] {
        ((self.file + 1) << 56 | (slot as u64) << 32 | version).to_le_bytes()
    }

    /// A store of the next version begins: its bytes.
    pub fn begin(&self, slot: usize) -> Vec<u8> {
        let mut slots = self.slots();
        slots[slot].begun += 1;
        self.word(slot, slots[slot].begun).repeat(SLOT / WORD)
    }

    /// It has returned.
    pub fn done(&self, slot: usize) {
        let mut slots = self.slots();
        slots[slot].done = slots[slot].begun;
    }

    /// What must be seen from now on.
    pub fn floor(&self) -> Floor {
        self.slots().iter().map(|slot| slot.done).collect()
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `bytes`, which were read from byte `at` on, may be: since `floor`, until now. `mixed`: a store that was under
    /// way when they were read may show in some words and not in others.
    pub fn check(&self, at: usize, bytes: &[u8], floor: &Floor, what: &str) -> Result<(), String> {
        let slots = self.slots();
        let skip = (WORD - at % WORD) % WORD;
        for (number, word) in bytes.get(skip..).unwrap_or_default().chunks_exact(WORD).enumerate() {
            let place = at + skip + number * WORD;
            let Some(slot) = slots.get(place / SLOT) else { break };
            let value = u64::from_le_bytes(word.try_into().unwrap_or_default());
            let version = value & 0xffff_ffff;
            if value - version != u64::from_le_bytes(self.word(place / SLOT, 0)) {
                return Err(format!("{what}: byte {place} shows {value:#x}, which is of another place"));
            }
            let least = floor[place / SLOT];
            if version < least || version > slot.begun {
                return Err(format!(
                    "{what}: byte {place} shows version {version}, but {least} had been stored, and {} was the newest",
                    slot.begun
                ));
            }
        }
        Ok(())
    }
}

/// Bytes of a slot; a page is a multiple.
pub const SLOT: usize = 128;
const WORD: usize = 8;
