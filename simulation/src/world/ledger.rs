//! Who holds what, as the world itself has counted it, beside what the cache says.

use std::cell::RefCell;
use std::collections::BTreeMap;

use stillwire_emulator::DmaAccess;
use stillwire_scheduler::failed;

/// The books of a run.
#[derive(Default)]
pub struct Ledger {
    /// Where the cache's memory begins.
    base: usize,
    /// By page of that memory: holds that were given out and not dropped.
    holds: Vec<u32>,
    /// What device addresses the memory has: first one, length.
    mapped: (u64, u64),
    /// Tokens in rings: what they let a device read.
    rings: BTreeMap<u64, Vec<(u64, u32)>>,
    next_token: u64,
    faults: BTreeMap<&'static str, u64>,
    troubled: bool,
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
    LEDGER.set(Ledger { base, holds: vec![0; pages], ..Ledger::default() });
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

/// The memory has these device addresses.
pub fn map(first: u64, len: u64) {
    LEDGER.with_borrow_mut(|ledger| ledger.mapped = (first, len));
}

/// A device may read these addresses from now on; the number of that.
pub fn posted(segments: Vec<(u64, u32)>) -> u64 {
    LEDGER.with_borrow_mut(|ledger| {
        ledger.next_token += 1;
        ledger.rings.insert(ledger.next_token, segments);
        ledger.next_token
    })
}

/// It has come back.
pub fn returned(number: u64) {
    let there = LEDGER.with_borrow_mut(|ledger| ledger.rings.remove(&number).is_some());
    if !there {
        failed(format!("token {number} came back twice"));
    }
}

/// Tokens that have not come back.
pub fn in_rings() -> usize {
    LEDGER.with_borrow(|ledger| ledger.rings.len())
}

/// A device reaches memory: the cache's only where it was told to, and only to read.
pub fn device_reaches(access: DmaAccess) {
    let wrong = LEDGER.with_borrow_mut(|ledger| {
        let (first, len) = ledger.mapped;
        let end = access.address + access.len as u64;
        if end <= first || access.address >= first + len {
            return None;
        }
        ledger.counts.device_reads += 1;
        let inside = |&(at, len): &(u64, u32)| at <= access.address && end <= at + u64::from(len);
        match access.write {
            true => Some("writes into the cache's memory"),
            false if !ledger.rings.values().flatten().any(inside) => Some("reads what nobody keeps for it any more"),
            false => None,
        }
    });
    if let Some(wrong) = wrong {
        failed(format!("the device {wrong}: {access:?}"));
    }
}

/// Something goes wrong with the device on purpose.
pub fn fault(name: &'static str) {
    LEDGER.with_borrow_mut(|ledger| ledger.troubled = true);
    harm(name);
}

/// Something goes wrong that everybody must get over without help.
pub fn harm(name: &'static str) {
    LEDGER.with_borrow_mut(|ledger| *ledger.faults.entry(name).or_default() += 1);
}

/// Whether anything went wrong with the device.
pub fn is_troubled() -> bool {
    LEDGER.with_borrow(|ledger| ledger.troubled)
}

/// How often each thing did.
pub fn faults() -> BTreeMap<&'static str, u64> {
    LEDGER.with_borrow(|ledger| ledger.faults.clone())
}

/// Bytes of a page.
pub const PAGE: usize = 4096;

thread_local! {
    static LEDGER: RefCell<Ledger> = RefCell::default();
}
