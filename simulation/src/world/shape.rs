//! What there is in a run, and how much of it is done: drawn from its seed, and made smaller when it fails.

use stillwire_scheduler::choose;

use super::port::{Family, Trouble};

/// How a run begins. Everything else is decided by the scheduler's die.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Memory of the cache, pages.
    pub cache_pages: usize,
    /// Largest folio, pages.
    pub folio_pages: usize,
    /// Whether pages for which a writer waits are copied for holders.
    pub snapshots: bool,
    /// Length of each file, bytes.
    pub files: Vec<usize>,
    /// Stores of each writer.
    pub writers: Vec<u32>,
    /// Holds of each of those that only look.
    pub holders: Vec<u32>,
    /// Pieces of files to send through a NIC, of this family.
    pub pieces: u32,
    pub family: Family,
    pub trouble: Trouble,
    /// Of a thousand frames, how many come to harm on the wire.
    pub harm: u64,
    /// Syncs, evictions and the like.
    pub chores: u32,
    /// Of a thousand requests to the disk, how many fail.
    pub disk_fails: u64,
    /// Most time that the disk takes, ns.
    pub disk_slow: u64,
    /// Most time that a hold is kept, ns.
    pub hold_time: u64,
    /// Time after which stores are written back, ns.
    pub flush_after: u64,
    /// Percent of the memory that may be dirty.
    pub dirty_most: u8,
}

impl Shape {
    /// The one of this run.
    pub fn draw() -> Self {
        let between = |least: u64, most: u64| least + choose(most - least + 1);
        let one_of = |of: &[u64]| of[choose(of.len() as u64) as usize];
        let files = (0..between(1, 2)).map(|_| between(1, 20) as usize * PAGE - choose(2) as usize * 1000).collect();
        Self {
            cache_pages: between(8, 24) as usize,
            folio_pages: one_of(&[1, 2, 4, 16]) as usize,
            snapshots: choose(8) > 0,
            files,
            writers: (0..between(1, 3)).map(|_| between(1, 12) as u32).collect(),
            holders: (0..between(1, 3)).map(|_| between(1, 12) as u32).collect(),
            pieces: between(0, 10) as u32,
            family: [Family::Ixgbe, Family::Ice, Family::Virtio][choose(3) as usize],
            trouble: {
                let lies = choose(4) == 0;
                let rate = one_of(if lies { &[200, 2000] } else { &[0, 20, 200, 2000] });
                Trouble { rate, most: between(1, 6) as u32, lies, pulls: choose(50) == 0 }
            },
            harm: one_of(&[0, 10, 200]),
            chores: between(0, 8) as u32,
            disk_fails: one_of(&[0, 0, 20, 200]),
            disk_slow: one_of(&[0, 1_000, 100_000, 5_000_000]),
            hold_time: one_of(&[0, 1_000, 50_000, 2_000_000]),
            flush_after: one_of(&[10_000, 1_000_000, 5_000_000_000]),
            dirty_most: one_of(&[5, 40, 100]) as u8,
        }
    }

    /// The same with less in it, in all ways that are worth a try.
    pub fn smaller(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut with = |change: &dyn Fn(&mut Self)| {
            let mut shape = self.clone();
            change(&mut shape);
            if shape != *self {
                all.push(shape);
            }
        };
        for number in 0..self.writers.len() {
            with(&|shape| shape.writers[number] = 0);
            with(&|shape| shape.writers[number] /= 2);
            with(&|shape| shape.writers[number] = shape.writers[number].saturating_sub(1));
        }
        for number in 0..self.holders.len() {
            with(&|shape| shape.holders[number] = 0);
            with(&|shape| shape.holders[number] /= 2);
            with(&|shape| shape.holders[number] = shape.holders[number].saturating_sub(1));
        }
        with(&|shape| shape.pieces = 0);
        with(&|shape| shape.pieces /= 2);
        with(&|shape| shape.trouble.rate = 0);
        with(&|shape| shape.trouble.most = 1);
        with(&|shape| shape.harm = 0);
        with(&|shape| shape.chores = 0);
        with(&|shape| shape.chores /= 2);
        with(&|shape| shape.disk_fails = 0);
        with(&|shape| shape.disk_slow = 0);
        with(&|shape| shape.files.truncate(1));
        all
    }
}

const PAGE: usize = super::ledger::PAGE;
