//! Inputs from a seed: fresh ones, and committed ones that were changed. The same seed gives the same inputs.

/// Makes inputs for one target.
pub struct Generator<'a> {
    corpus: &'a [Vec<u8>],
    longest: usize,
    state: u64,
}

impl<'a> Generator<'a> {
    /// One that changes what is in `corpus`, and makes none longer than `longest` bytes.
    pub fn new(seed: u64, corpus: &'a [Vec<u8>], longest: usize) -> Self {
        // No seed leads to the state that xorshift never leaves.
        Self { corpus, longest, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut bytes = match self.corpus.len() {
            0 => self.fresh(),
            _ if self.below(4) == 0 => self.fresh(),
            count => {
                let chosen = self.below(count);
                let mut bytes = self.corpus[chosen].clone();
                for _ in 0..1 + self.below(8) {
                    self.change(&mut bytes);
                }
                bytes
            }
        };
        bytes.truncate(self.longest);
        bytes
    }

    fn fresh(&mut self) -> Vec<u8> {
        // Short ones more often: they end sooner.
        let most = 1 << self.below(self.longest.max(2).ilog2() as usize + 1);
        let len = self.below(most.min(self.longest) + 1);
        (0..len).map(|_| self.byte()).collect()
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let len = self.below(16).min(bytes.len() - at);
        match self.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.byte(),
            2 => drop(bytes.drain(at..at + len)),
            3 => {
                let again = bytes[at..at + len].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let new: Vec<u8> = (0..self.below(16)).map(|_| self.byte()).collect();
                bytes.splice(at..at, new);
            }
            5 => {
                // A number as people write it.
                const WORDS: [&str; 8] =
                    ["0", "-1", "1e300", "NaN", "65536", "4294967296", "18446744073709551616", "0.5"];
                let word = WORDS[self.below(WORDS.len())];
                bytes.splice(at..at + len.min(2), word.bytes());
            }
            6 => {
                // A number, in either byte order, over what is there.
                let number = self.number();
                let number = if self.below(2) == 0 { number.to_le_bytes() } else { number.to_be_bytes() };
                let width = (1 << self.below(4)).min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            _ => {
                let other = &self.corpus[self.below(self.corpus.len())];
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }

    fn number(&mut self) -> u64 {
        const EDGES: [u64; 10] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX >> 1, u64::MAX];
        let edge = EDGES[self.below(EDGES.len())];
        edge.wrapping_add(self.below(5) as u64).wrapping_sub(2)
    }

    /// Any byte; small ones and the largest more often.
    fn byte(&mut self) -> u8 {
        match self.below(8) {
            0 => 0,
            1 => 0xff,
            2 | 3 => self.below(16) as u8,
            _ => self.random() as u8,
        }
    }

    fn below(&mut self, end: usize) -> usize {
        (self.random() % end.max(1) as u64) as usize
    }

    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_inputs_again_and_none_is_too_long() {
        let corpus = [vec![1; 40], Vec::new(), vec![7; 90]];
        let some = |seed| {
            let mut generator = Generator::new(seed, &corpus, 64);
            (0..2000).map(|_| generator.next_input()).collect::<Vec<_>>()
        };
        assert_eq!(some(1), some(1));
        assert_ne!(some(1), some(2));
        assert!(some(3).iter().all(|input| input.len() <= 64));
        assert!(some(3).iter().any(|input| input.len() == 64));
        assert!(some(3).iter().any(Vec::is_empty));
    }

    #[test]
    fn without_a_corpus_all_inputs_are_fresh() {
        let mut generator = Generator::new(5, &[], 16);
        assert!((0..100).any(|_| generator.next_input().len() > 8));
    }
}
