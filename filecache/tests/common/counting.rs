//! Writers that notice when a store is lost, and a digest that notices when one lands too early.
#![allow(unsafe_code, reason = "bytes are read as they are now")]

use stillwire_filecache::{Hold, View};

use super::PAGE;

/// A writer that counts up, in a word of its own in every page: what it finds at the end must be what it stored last.
pub struct Counting<'a> {
    view: &'a View,
    slot: u64,
    counts: Vec<u32>,
    random: u64,
}

impl<'a> Counting<'a> {
    /// Writer number `slot`, below 16, of a view whose words are zero.
    pub fn new(view: &'a View, slot: u64) -> Self {
        let pages = view.len() / PAGE;
        Self { view, slot, counts: vec![0; pages], random: slot + 1 }
    }

    /// One store, into a page of its choice.
    pub fn step(&mut self) {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let page = (self.random >> 33) as usize % self.counts.len();
        self.counts[page] += 1;
        self.view.write_at(place(page, self.slot), &self.counts[page].to_ne_bytes()).unwrap();
    }

    /// Finds in the view what was stored.
    pub fn check(&self) {
        for (page, count) in self.counts.iter().enumerate() {
            let mut found = [0; 4];
            self.view.read_at(place(page, self.slot), &mut found).unwrap();
            assert_eq!(u32::from_ne_bytes(found), *count, "a store was lost in page {page}");
        }
    }

    /// Finds it in the bytes of the file.
    pub fn check_file(&self, bytes: &[u8]) {
        for (page, count) in self.counts.iter().enumerate() {
            assert_eq!(
                found_in(bytes, page, self.slot),
                *count,
                "a store was lost on the way to the file, in page {page}"
            );
        }
    }
}

/// Where writer `slot` counts in `page`, bytes of the file.
pub fn place(page: usize, slot: u64) -> u64 {
    (page * PAGE) as u64 + 256 * slot + 1
}

/// What writer `slot` has counted to in `page`, in the bytes of the file.
pub fn found_in(bytes: &[u8], page: usize, slot: u64) -> u32 {
    let at = place(page, slot) as usize;
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// CRC-32 of the bytes in memory as they are now: read one by one, so that neither the compiler nor the cache can answer
/// from what it knows.
pub fn crc_now(hold: &Hold) -> u32 {
    let mut digest = crc32fast::Hasher::new();
    for chunk in hold.chunks() {
        // SAFETY: a byte of a slice.
        let bytes: Vec<u8> = chunk.iter().map(|byte| unsafe { std::ptr::read_volatile(byte) }).collect();
        digest.update(&bytes);
    }
    digest.finalize()
}
