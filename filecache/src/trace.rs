//! What the eviction policy is worth: made-up traces, and the hit ratios of the policy and of LRU on them.
//!
//! Not part of the cache: the policy's tests and the benches use it.

use std::collections::BTreeMap;

use crate::policy::{Look, Policy};

/// A trace: requests for folios by Zipf's law, interrupted by scans that read other files from end to end.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// Number of folios that are requested by Zipf's law. Their weights are 1 to 64 pages.
    pub folios: u32,
    /// Exponent of the law: the folio of rank `r` is requested in proportion to `1 / r^skew`.
    pub skew: f64,
    /// Number of requests by that law.
    pub requests: u32,
    /// Size of the cache, in percent of the weight of those folios.
    pub cache_percent: u32,
    /// After each this many requests a scan begins, which alternates with them; 0: no scans.
    pub scan_every: u32,
    /// Length of a scan, folios of 64 pages. Scans go on where the last ended, over a set of files ten times as large
    /// as a scan.
    pub scan_folios: u32,
    /// Seed of the random numbers; not 0.
    pub seed: u64,
}

/// Hits in all requests of a trace, scans included: 0 to 1.
#[derive(Clone, Copy, Debug)]
pub struct Ratios {
    /// This crate's policy.
    pub policy: f64,
    /// Least recently used goes.
    pub lru: f64,
}

/// Runs a trace through both.
pub fn hit_ratios(trace: &Trace) -> Ratios {
    let weights = trace.weights();
    let requests = trace.requests(&weights);
    let hot: u64 = weights[..trace.folios as usize].iter().map(|&weight| u64::from(weight)).sum();
    // Room for the largest folio in any case.
    let capacity = (hot * u64::from(trace.cache_percent) / 100).max(u64::from(LARGEST));
    let ratio = |hit: &mut dyn FnMut(u32) -> bool| {
        requests.iter().filter(|&&folio| hit(folio)).count() as f64 / requests.len().max(1) as f64
    };
    let mut policy = ByPolicy::new(capacity, &weights);
    let mut lru = Lru::new(capacity, &weights);
    Ratios { policy: ratio(&mut |folio| policy.hit(folio)), lru: ratio(&mut |folio| lru.hit(folio)) }
}

impl Trace {
    /// Pages of each folio: those of Zipf's law, then those of the scanned files.
    fn weights(&self) -> Vec<u32> {
        let mut random = Random(self.seed);
        let hot = (0..self.folios).map(|_| 1 << (random.next() % (u64::from(LARGEST.ilog2()) + 1)));
        hot.chain((0..self.scanned()).map(|_| LARGEST)).collect()
    }

    fn scanned(&self) -> u32 {
        if self.scan_every == 0 { 0 } else { self.scan_folios * 10 }
    }

    /// Folios in the order in which they are requested.
    fn requests(&self, weights: &[u32]) -> Vec<u32> {
        let mut random = Random(self.seed.rotate_left(32) | 1);
        let mut sum = 0.0;
        // Share of the requests that goes to this rank and those before it, not yet divided by the sum of all.
        let up_to: Vec<f64> = (1..=self.folios)
            .map(|rank| {
                sum += f64::from(rank).powf(-self.skew);
                sum
            })
            .collect();
        let mut requests = Vec::with_capacity(self.requests as usize * 2);
        let (mut scan_left, mut scan_at) = (0, 0);
        for at in 1..=self.requests {
            let point = random.fraction() * sum;
            requests.push(up_to.partition_point(|&share| share <= point).min(up_to.len() - 1) as u32);
            if self.scan_every > 0 && at % self.scan_every == 0 {
                scan_left = self.scan_folios;
            }
            if scan_left > 0 {
                scan_left -= 1;
                requests.push(self.folios + scan_at);
                scan_at = (scan_at + 1) % (weights.len() as u32 - self.folios);
            }
        }
        requests
    }
}

/// xorshift64*: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// From 0 to just below 1.
    fn fraction(&mut self) -> f64 {
        self.next() as f64 / (1u64 << 48) as f64
    }
}

/// A cache that evicts by the policy.
struct ByPolicy<'a> {
    policy: Policy,
    capacity: u64,
    weights: &'a [u32],
    /// By folio: not resident; resident; resident and used since the last look.
    uses: Vec<Option<bool>>,
}

impl<'a> ByPolicy<'a> {
    fn new(capacity: u64, weights: &'a [u32]) -> Self {
        Self { policy: Policy::new(capacity), capacity, weights, uses: vec![None; weights.len()] }
    }

    fn hit(&mut self, folio: u32) -> bool {
        if let Some(used) = &mut self.uses[folio as usize] {
            *used = true;
            return true;
        }
        let weight = self.weights[folio as usize];
        while self.policy.resident() + u64::from(weight) > self.capacity {
            let uses = &mut self.uses;
            let victim = self.policy.evict(|id| match uses[id as usize].replace(false) {
                Some(true) => Look::Used,
                _ => Look::Idle,
            });
            let Some(victim) = victim else { unreachable!("nothing is pinned, and the largest folio fits") };
            self.uses[victim as usize] = None;
        }
        self.policy.insert(folio, (0, u64::from(folio)), weight);
        self.uses[folio as usize] = Some(false);
        false
    }
}

/// A cache that evicts what was not used for longest.
struct Lru<'a> {
    by_age: BTreeMap<u64, u32>,
    /// By folio.
    age_of: Vec<Option<u64>>,
    next_age: u64,
    resident: u64,
    capacity: u64,
    weights: &'a [u32],
}

impl<'a> Lru<'a> {
    fn new(capacity: u64, weights: &'a [u32]) -> Self {
        let age_of = vec![None; weights.len()];
        Self { by_age: BTreeMap::new(), age_of, next_age: 0, resident: 0, capacity, weights }
    }

    fn hit(&mut self, folio: u32) -> bool {
        let before = self.age_of[folio as usize].replace(self.next_age);
        self.by_age.insert(self.next_age, folio);
        self.next_age += 1;
        if let Some(age) = before {
            self.by_age.remove(&age);
            return true;
        }
        self.resident += u64::from(self.weights[folio as usize]);
        while self.resident > self.capacity
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.age_of[oldest as usize] = None;
            self.resident -= u64::from(self.weights[oldest as usize]);
        }
        false
    }
}

/// Weight of the largest folio of a trace, pages.
const LARGEST: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: Trace = Trace {
        folios: 3000,
        skew: 0.9,
        requests: 30_000,
        cache_percent: 10,
        scan_every: 3000,
        scan_folios: 1200,
        seed: 1,
    };

    #[test]
    fn lru_by_hand() {
        let mut lru = Lru::new(4, &[1, 1, 2, 4]);
        let hits = [0, 1, 2, 0, 3, 0, 1, 0].map(|folio| lru.hit(folio));
        assert_eq!(hits, [false, false, false, true, false, false, false, true]);
        let mut lru = Lru::new(4, &[1, 1, 2, 2]);
        let hits = [0, 1, 2, 0, 3, 0, 1, 2].map(|folio| lru.hit(folio));
        assert_eq!(hits, [false, false, false, true, false, true, false, false]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "tens of thousands of requests")]
    fn a_trace_is_as_described() {
        let weights = TRACE.weights();
        let requests = TRACE.requests(&weights);
        let scanned = requests.iter().filter(|&&folio| folio >= TRACE.folios).count();
        // The last scan begins with the last request.
        assert_eq!(scanned, 9 * 1200 + 1);
        assert_eq!(requests.len(), 30_000 + scanned);
        // Rank 1 against rank 10, of thousands of requests: 10^0.9, about 7.9.
        let of_rank = |rank: u32| requests.iter().filter(|&&folio| folio + 1 == rank).count() as f64;
        let ratio = of_rank(1) / of_rank(10);
        assert!((6.5..9.5).contains(&ratio), "{ratio}");
        assert_eq!(requests, TRACE.requests(&weights), "the same each time");
        assert!((1..=7).all(|bit| weights[..3000].iter().filter(|w| w.ilog2() + 1 == bit).count() > 300));
    }

    fn sizes_and_skews() -> impl Iterator<Item = Trace> {
        let seeds = [1, 0x5711, 977];
        let sized = [1, 2, 5, 10, 20].into_iter().map(|cache_percent| Trace { cache_percent, ..TRACE });
        let skewed = sized.flat_map(|trace| [0.8, 0.9, 1.0, 1.1].map(|skew| Trace { skew, ..trace }));
        skewed.flat_map(move |trace| seeds.map(|seed| Trace { seed, ..trace }))
    }

    #[test]
    #[cfg_attr(miri, ignore = "millions of requests")]
    fn scans_hurt_the_policy_less_than_lru() {
        for trace in sizes_and_skews() {
            let Ratios { policy, lru } = hit_ratios(&trace);
            // Second chances without a queue for newcomers are a point better than LRU; five take scan resistance.
            assert!(policy > lru + 0.05, "{policy:.3} against {lru:.3}: {trace:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "millions of requests")]
    fn without_scans_the_policy_is_not_much_worse_than_lru() {
        for trace in sizes_and_skews().map(|trace| Trace { scan_every: 0, ..trace }) {
            let Ratios { policy, lru } = hit_ratios(&trace);
            assert!(policy > lru - 0.02, "{policy:.3} against {lru:.3}: {trace:?}");
        }
    }
}
