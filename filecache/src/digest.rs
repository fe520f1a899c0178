//! Digests of pages that are kept, so that a digest of many pages is put together from theirs.
//!
//! CRC-32 is linear: the CRC of some bytes followed by a page is a linear map of the CRC of those bytes, plus the page's
//! own CRC (addition is exclusive or). The map depends only on the length of a page, so it is made once, and applied by
//! looking up each byte of the CRC: a page costs four loads instead of a pass over its bytes.

#[cfg(not(loom))]
use crate::sync::atomic::{AtomicU64, Ordering};

use crc32fast::Hasher;
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

/// Appends the CRC of a page to the CRC of what comes before it, for pages of one size.
#[derive(Debug)]
pub(crate) struct Combine {
    /// By position of a byte in the CRC, lowest first: what that byte alone becomes when a page follows.
    moved: Box<[[u32; 256]; 4]>,
}

impl Combine {
    /// For pages of `page_size` bytes.
    pub(crate) fn new(page_size: usize) -> Self {
        let zeros = Hasher::new_with_initial_len(0, page_size as u64);
        let bit_moved = |bit: usize| {
            let mut crc = Hasher::new_with_initial(1 << bit);
            crc.combine(&zeros);
            crc.finalize()
        };
        let bits: [u32; 32] = std::array::from_fn(bit_moved);
        let mut moved = Box::new([[0u32; 256]; 4]);
        for (table, bits) in moved.iter_mut().zip(bits.chunks_exact(8)) {
            for value in 1..256usize {
                // A value is its lowest bit and a smaller value, which is in the table already.
                table[value] = table[value & (value - 1)] ^ bits[value.trailing_zeros() as usize];
            }
        }
        Self { moved }
    }

    /// CRC-32 of the bytes of `crc_so_far` followed by one whole page whose own CRC-32 is `crc_of_page`. No bytes yet:
    /// `crc_so_far` is 0.
    #[inline]
    pub(crate) fn append_page(&self, crc_so_far: u32, crc_of_page: u32) -> u32 {
        let bytes = crc_so_far.to_le_bytes();
        self.moved.iter().zip(bytes).fold(crc_of_page, |crc, (table, byte)| crc ^ table[usize::from(byte)])
    }
}

/// The CRC-32 of arena pages, where it is known. It is of a whole page, also where a file ends within the page.
///
/// # Why a digest that is there is that of the page's bytes
/// Rules: [`set`](Self::set) and [`get`](Self::get) are for who holds the page; [`clear`](Self::clear) is for the guard
/// while the page is `Opening`, before it unprotects it in any view, and for a fill while the page is `Filling`, before
/// it writes a byte. Then bytes change only while the word says "unknown":
///
/// - A page can not become `Opening` or `Filling` while it is held, so a `set` and a `clear` of one page never overlap.
///   Several holders may `set` at once: the bytes stand still, so they set the same value.
/// - A `set` comes before the release that ends its hold. Releases are read-modify-writes with release ordering, and so
///   is every other change of a page's word: whoever takes the page out of `Protected` (acquire) sees the last of them,
///   and with it what all holders did before. So the `clear` comes after every `set` of an earlier hold.
/// - A `clear` comes before the guard's or the fill's step to the next phase (release), and a holder counts itself in
///   (acquire) on a later value of the same word. So its `get` finds the `clear`, or what was set after it.
///
/// The page's word orders everything; the words here are relaxed. Each is read and written whole, so there is no digest
/// of which half is old. The test `loom_a_digest_is_that_of_the_bytes` looks at all orders.
#[derive(Debug)]
pub(crate) struct Digests(Box<[AtomicU64]>);

impl Digests {
    /// For an arena of `pages` pages, none known.
    pub(crate) fn new(pages: u32) -> Self {
        Self((0..pages).map(|_| AtomicU64::new(UNKNOWN)).collect())
    }

    /// The CRC-32 of a page. The caller holds it.
    #[inline]
    pub(crate) fn get(&self, page: u32) -> Option<u32> {
        let word = self.0[page as usize].load(Ordering::Relaxed);
        (word & KNOWN != 0).then_some(word as u32)
    }

    /// Keeps the CRC-32 of a page. The caller holds it, and has held it since before it read the bytes.
    #[inline]
    pub(crate) fn set(&self, page: u32, crc: u32) {
        self.0[page as usize].store(KNOWN | u64::from(crc), Ordering::Relaxed);
    }

    /// Forgets the CRC-32 of a page, before its bytes may change.
    #[inline]
    pub(crate) fn clear(&self, page: u32) {
        self.0[page as usize].store(UNKNOWN, Ordering::Relaxed);
    }
}

/// Bits 0..=31 are a CRC.
const KNOWN: u64 = 1 << 32;
const UNKNOWN: u64 = 0;

/// The digest of a page under every interleaving of two holders and a writer.
#[cfg(all(test, loom))]
mod loom_model {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::page::{Fault, PageWord, PairWord, Phase, Refusal, Released};

    struct Model {
        pair: PairWord,
        digests: Digests,
        /// The page's bytes, and their own digest. Relaxed: only the page's word orders them.
        bytes: AtomicU64,
    }

    impl Model {
        fn word(&self) -> PageWord<'_> {
            self.pair.of(1)
        }

        /// Holds, uses the digest that is there or keeps one, releases. Comes back without when the page is in other hands.
        fn hold(&self) {
            match self.word().hold() {
                Ok(_) | Err(Refusal::WriterWaits) => {}
                Err(Refusal::TooMany) => unreachable!(),
                Err(Refusal::Phase { phase, released }) => {
                    self.released(released);
                    if phase != Phase::Open || !self.word().begin_close() {
                        return;
                    }
                    self.word().closed_and_held();
                }
            }
            let bytes = self.bytes.load(Ordering::Relaxed) as u32;
            match self.digests.get(0) {
                Some(digest) => assert_eq!(digest, bytes, "the digest of bytes that are gone"),
                None => self.digests.set(0, bytes),
            }
            self.released(self.word().release());
        }

        fn released(&self, released: Released) {
            if released == Released::Opening {
                self.guard_opens();
            }
        }

        /// What the guard does with a page that is `Opening`. The writer's store is here too: it is ordered as a store
        /// into an `Open` page is, after the guard unprotects and before a closing holder has protected.
        fn guard_opens(&self) {
            self.digests.clear(0);
            self.bytes.store(7, Ordering::Relaxed);
            self.word().opened();
        }
    }

    #[test]
    fn loom_a_digest_is_that_of_the_bytes() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let model = Model { pair: PairWord::new(), digests: Digests::new(1), bytes: AtomicU64::new(0) };
            assert!(model.word().begin_fill());
            model.word().filled();
            let model = Arc::new(model);
            let holders = [(); 2].map(|()| {
                let model = model.clone();
                thread::spawn(move || model.hold())
            });
            // A writer that has to wait is let through by the last release.
            if model.word().fault() == Fault::Open {
                model.guard_opens();
            }
            for holder in holders {
                holder.join().unwrap();
            }
            model.hold();
            assert_eq!(model.digests.get(0), Some(7), "the store came, and its digest was kept");
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZES: [usize; 2] = [4096, 2 << 20];

    /// What crc32fast makes of it.
    fn combined(so_far: u32, of_page: u32, page_size: usize) -> u32 {
        let mut crc = Hasher::new_with_initial(so_far);
        crc.combine(&Hasher::new_with_initial_len(of_page, page_size as u64));
        crc.finalize()
    }

    #[test]
    fn every_entry_of_the_tables_is_what_crc32fast_says() {
        for size in SIZES {
            let combine = Combine::new(size);
            for (position, table) in combine.moved.iter().enumerate() {
                for (value, &moved) in table.iter().enumerate() {
                    assert_eq!(moved, combined((value as u32) << (8 * position), 0, size), "{size} {position} {value}");
                }
            }
        }
    }

    #[test]
    fn a_zero_page_moves_a_crc_like_its_bytes_do() {
        for size in SIZES.map(|size| if cfg!(miri) { size.min(4096) } else { size }) {
            let page = vec![0; size];
            let mut whole = Hasher::new();
            whole.update(b"123456789");
            let before = whole.clone().finalize();
            assert_eq!(before, 0xcbf4_3926, "the check value of CRC-32");
            whole.update(&page);
            assert_eq!(Combine::new(size).append_page(before, crc32fast::hash(&page)), whole.finalize());
        }
    }

    #[test]
    fn a_digest_is_known_from_set_to_clear() {
        let digests = Digests::new(3);
        assert_eq!(digests.get(1), None);
        // 0 is a CRC like any other.
        for crc in [0, 1, u32::MAX] {
            digests.set(1, crc);
            assert_eq!((digests.get(0), digests.get(1), digests.get(2)), (None, Some(crc), None));
        }
        digests.clear(1);
        assert_eq!(digests.get(1), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, ..ProptestConfig::default() })]

        #[test]
        fn appending_is_what_crc32fast_combines(so_far in any::<u32>(), of_page in any::<u32>()) {
            for size in SIZES {
                prop_assert_eq!(Combine::new(size).append_page(so_far, of_page), combined(so_far, of_page, size));
            }
        }

        /// Bytes before the first page, then pages: the same as one pass over all of it.
        #[test]
        fn pages_after_a_piece_are_one_crc(
            piece in proptest::collection::vec(any::<u8>(), 0..5000),
            seeds in proptest::collection::vec(any::<u64>(), 0..6),
        ) {
            let combine = Combine::new(SIZES[0]);
            let mut whole = Hasher::new();
            whole.update(&piece);
            let mut crc = crc32fast::hash(&piece);
            for seed in seeds {
                let page = page_of(seed, SIZES[0]);
                whole.update(&page);
                crc = combine.append_page(crc, crc32fast::hash(&page));
            }
            prop_assert_eq!(crc, whole.finalize());
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "passes over megabytes")]
    fn huge_pages_after_a_piece_are_one_crc() {
        let combine = Combine::new(SIZES[1]);
        let mut whole = Hasher::new();
        whole.update(b"a piece");
        let mut crc = crc32fast::hash(b"a piece");
        for seed in 1..4 {
            let page = page_of(seed, SIZES[1]);
            whole.update(&page);
            crc = combine.append_page(crc, crc32fast::hash(&page));
        }
        assert_eq!(crc, whole.finalize());
    }

    /// Bytes that differ from place to place.
    fn page_of(seed: u64, size: usize) -> Vec<u8> {
        (0..size as u64).map(|at| ((at ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }
}
