//! Queue contexts: the bit-packed records that tell the device of a ring (Linux `ice_common.c`, `ice_tlan_ctx_info` and
//! `ice_rlan_ctx_info`). Pure.

/// What the device is told of a transmit ring. The rest of its context stays 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct TxContext {
    /// Where the ring begins, as the device sees it: a multiple of 128.
    pub base: u64,
    /// Port, 3 bits.
    pub port: u8,
    /// Function, 3 bits.
    pub function: u8,
    /// The VSI that frames come from, 10 bits.
    pub vsi: u16,
    /// Descriptors in the ring, 13 bits: 64 to 8160, a multiple of 32.
    pub size: u16,
    /// The queue's number in the function, 11 bits here.
    pub queue: u16,
}

/// What the device is told of a receive ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct RxContext {
    /// Where the ring begins, as the device sees it: a multiple of 128.
    pub base: u64,
    /// Descriptors in the ring, 13 bits: 64 to 8160, a multiple of 32.
    pub size: u16,
    /// Bytes of a buffer: a multiple of 128, below 16 KiB.
    pub buffer: u16,
    /// Bytes of the longest frame, 14 bits: at most five buffers.
    pub max_frame: u16,
}

/// Bytes of a transmit queue context.
pub(super) const TX_CONTEXT: usize = 22;

impl TxContext {
    pub(super) fn encode(self) -> [u8; TX_CONTEXT] {
        let mut bits = [0; TX_CONTEXT];
        put(&mut bits, 0, 57, self.base >> 7);
        put(&mut bits, 57, 3, self.port.into());
        put(&mut bits, 65, 3, self.function.into());
        put(&mut bits, 78, 2, OF_A_FUNCTION);
        put(&mut bits, 80, 10, self.vsi.into());
        put(&mut bits, 135, 13, self.size.into());
        // Segmentation, with the queue's own internal state.
        put(&mut bits, 152, 1, 1);
        put(&mut bits, 153, 11, self.queue.into());
        // A completion is written into the descriptor itself.
        put(&mut bits, 164, 1, 1);
        bits
    }
}

impl RxContext {
    /// As it is written to the queue's eight context registers.
    pub(super) fn encode(self) -> [u32; 8] {
        let mut bits = [0; 32];
        put(&mut bits, 32, 57, self.base >> 7);
        put(&mut bits, 89, 13, self.size.into());
        put(&mut bits, 102, 7, (self.buffer / 128).into());
        // Descriptors of 32 bytes, no check sequence in memory, a stripped tag in the first of two places.
        put(&mut bits, 116, 1, 1);
        put(&mut bits, 117, 1, 1);
        put(&mut bits, 119, 1, 1);
        put(&mut bits, 174, 14, self.max_frame.into());
        // Fetch descriptors when fewer than 64 are at hand, and ahead of need.
        put(&mut bits, 198, 3, 1);
        put(&mut bits, 201, 1, 1);
        let (words, _) = bits.as_chunks::<4>();
        std::array::from_fn(|word| u32::from_le_bytes(words[word]))
    }
}

/// Puts the `width` low bits of `value` at bit `at`, counted from the lowest of the first byte.
fn put(bits: &mut [u8], at: usize, width: usize, value: u64) {
    debug_assert!(width == 64 || value >> width == 0, "{value:#x} does not fit {width} bits");
    for bit in 0..width {
        let (byte, shift) = ((at + bit) / 8, (at + bit) % 8);
        bits[byte] = bits[byte] & !(1 << shift) | ((value >> bit) as u8 & 1) << shift;
    }
}

/// The ring belongs to a physical function, not to a virtual one or a virtual machine's queue.
const OF_A_FUNCTION: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Goldens worked out by hand from the tables of bit positions.
    #[test]
    fn transmit_context_bytes() {
        let context = TxContext { base: 0x12_3456_7880, port: 1, function: 2, vsi: 0x155, size: 1024, queue: 5 };
        let mut expect = [0; TX_CONTEXT];
        // base >> 7 = 0x2468acf1; port in bits 57..60.
        expect[..8].copy_from_slice(&(0x2468_acf1u64 | 1 << 57).to_le_bytes());
        // Byte 8 is bits 64..72: function at 65. Byte 9 is bits 72..80: type at 78.
        (expect[8], expect[9]) = (2 << 1, 2 << 6);
        // VSI at 80: byte 10 and the two low bits of byte 11.
        (expect[10], expect[11]) = (0x55, 0x01);
        // Length 1024 = 2^10 at 135: bit 145, which is bit 1 of byte 18.
        expect[18] = 1 << 1;
        // Segmentation: bit 152, bit 0 of byte 19; its queue at 153; legacy: bit 164, bit 4 of byte 20.
        (expect[19], expect[20]) = (1 | 5 << 1, 1 << 4);
        assert_eq!(context.encode(), expect);
    }

    #[test]
    fn receive_context_words() {
        let context = RxContext { base: 0x12_3456_7880, size: 512, buffer: 2048, max_frame: 1522 };
        let base = 0x2468_acf1u64;
        let mut expect = [0; 8];
        // base at 32: word 1 and the 25 low bits of word 2; length at 89: bit 25 of word 2.
        (expect[1], expect[2]) = (base as u32, 512u32 << 25);
        // The length's upper 6 bits are in word 3 (bits 96..102); 512 = 2^9 goes to bit 98. Buffer (16 units) at 102.
        expect[3] = 1 << 2 | 16 << 6 | 1 << 20 | 1 << 21 | 1 << 23;
        // Frame at 174: bit 14 of word 5.
        expect[5] = 1522 << 14;
        // Threshold at 198 and prefetch at 201: word 6.
        expect[6] = 1 << 6 | 1 << 9;
        assert_eq!(context.encode(), expect);
    }

    proptest! {
        /// Whatever is put can be read back, and nothing else changes.
        #[test]
        fn bits_go_where_they_belong(background: [u8; 32], at in 0usize..200, width in 1usize..=56, value: u64) {
            let value = value & (u64::MAX >> (64 - width));
            let mut bits = background;
            put(&mut bits, at, width, value);
            let bit = |bytes: &[u8; 32], index: usize| bytes[index / 8] >> (index % 8) & 1;
            for index in 0..256 {
                let expect = if (at..at + width).contains(&index) {
                    (value >> (index - at)) as u8 & 1
                } else {
                    bit(&background, index)
                };
                prop_assert_eq!(bit(&bits, index), expect, "bit {}", index);
            }
        }
    }
}
