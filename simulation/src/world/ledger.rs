//! Who holds what, as the world itself has counted it, beside what the cache says.

use std::cell::RefCell;

/// The books of a run.
#[derive(Default)]
pub struct Ledger {
    /// Where the cache's memory begins.
    base: usize,
    /// By page of that memory: holds that were given out and not dropped.
    holds: Vec<u32>,
    counts: Counts,
}

/// What was done.
#[derive(Clone, Copy, Default, Debug, serde::Serialize)]
pub struct Counts {
    pub holds: u64,
    pub stores: u64,
    pub syncs: u64,
    pub disk_errors: u64,
    pub frames: u64,
    pub device_reads: u64,
    pub delivered: u64,
    pub resets: u64,
    pub tokens_sent: u64,
    pub tokens_unsent: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.holds += more.holds;
        self.stores += more.stores;
        self.syncs += more.syncs;
        self.disk_errors += more.disk_errors;
        self.frames += more.frames;
        self.device_reads += more.device_reads;
        self.delivered += more.delivered;
        self.resets += more.resets;
        self.tokens_sent += more.tokens_sent;
        self.tokens_unsent += more.tokens_unsent;
    }
}

/// New books, for memory at `base` of so many pages.
pub fn open(base: usize, pages: usize) {
    LEDGER.set(Ledger { base, holds: vec![0; pages], counts: Counts::default() });
}

/// What was counted.
pub fn counts() -> Counts {
    LEDGER.with_borrow(|ledger| ledger.counts)
}

/// Counts something.
pub fn count(what: impl FnOnce(&mut Counts)) {
    LEDGER.with_borrow_mut(|ledger| what(&mut ledger.counts));
}

/// The pages of `addresses` (in this process) are held from now on.
pub fn held(addresses: &[(usize, usize)]) {
    change(addresses, |holds| *holds += 1);
}

/// They are about to be let go.
pub fn let_go(addresses: &[(usize, usize)]) {
    change(addresses, |holds| *holds -= 1);
}

fn change(addresses: &[(usize, usize)], change: impl Fn(&mut u32)) {
    LEDGER.with_borrow_mut(|ledger| {
        let mut last = None;
        for &(address, len) in addresses {
            let first = (address - ledger.base) / PAGE;
            for page in first..(address - ledger.base + len).div_ceil(PAGE) {
                // A page counts once a hold, though the pieces of it may be several.
                if last != Some(page) {
                    change(&mut ledger.holds[page]);
                    last = Some(page);
                }
            }
        }
    });
}

/// Whether anybody holds a page of `len` bytes at `address`: which.
pub fn held_at(address: usize, len: usize) -> Option<usize> {
    LEDGER.with_borrow(|ledger| {
        let first = (address - ledger.base) / PAGE;
        (first..(address - ledger.base + len).div_ceil(PAGE)).find(|&page| ledger.holds[page] > 0)
    })
}

/// Holds of each page.
pub fn compare(cache: &[u32], exactly: bool) -> Result<(), String> {
    LEDGER.with_borrow(|ledger| {
        for (page, (&says, &holds)) in cache.iter().zip(&ledger.holds).enumerate() {
            if says < holds || exactly && says != holds {
                return Err(format!("page {page} has {holds} holds, and the cache says {says}"));
            }
        }
        Ok(())
    })
}

/// Bytes of a page.
pub const PAGE: usize = 4096;

thread_local! {
    static LEDGER: RefCell<Ledger> = RefCell::default();
}
