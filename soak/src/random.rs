//! Choices from one seed. What threads do with them depends on the kernel's scheduling all the same: a seed repeats what is
//! tried, not when.

use std::time::Duration;

/// A stream of choices (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of `seed` for who is called `name`.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut random = Self(seed ^ u64::from(crc32fast::hash(name.as_bytes())) << 17);
        random.next();
        random
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// In `range`.
    pub fn within(&mut self, range: std::ops::Range<usize>) -> usize {
        range.start + self.below(range.len())
    }

    /// Yes in `per_mille` of thousand cases.
    pub fn chance(&mut self, per_mille: usize) -> bool {
        self.below(1000) < per_mille
    }

    /// Milliseconds in `range`.
    pub fn pause(&mut self, range: std::ops::Range<usize>) -> Duration {
        Duration::from_millis(self.within(range) as u64)
    }
}
