//! The Internet checksum and SCTP's CRC, from bytes.

/// Sum of big-endian 16-bit words with the carries folded in; an odd last byte counts as if a zero followed (RFC 1071).
pub fn ones_complement_sum(bytes: &[u8]) -> u16 {
    fold(sum_words(bytes))
}

/// [`ones_complement_sum`] of several pieces that each start at an even offset.
pub fn ones_complement_sum_of(pieces: &[&[u8]]) -> u16 {
    fold(pieces.iter().map(|piece| sum_words(piece)).sum())
}

fn sum_words(bytes: &[u8]) -> u64 {
    // Four bytes at a time: 2^16 = 1 modulo 0xffff, so wider words add up to the same folded sum.
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let (pairs, odd) = rest.as_chunks::<2>();
    sum += pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum::<u64>();
    sum + odd.first().map_or(0, |byte| u64::from(*byte) << 8)
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// CRC-32C (Castagnoli) as SCTP uses it (RFC 9260, appendix A).
pub fn crc32c(pieces: &[&[u8]]) -> u32 {
    let mut crc = !0u32;
    for byte in pieces.iter().flat_map(|piece| piece.iter()) {
        crc = CRC32C[usize::from((crc as u8) ^ byte)] ^ (crc >> 8);
    }
    !crc
}

/// One step of the reflected polynomial 0x1EDC6F41 for every byte value.
const CRC32C: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(ones_complement_sum(&bytes), 0xddf2);
        assert_eq!(ones_complement_sum(&bytes[..7]), 0xdcfb);
        assert_eq!(ones_complement_sum_of(&[&bytes[..2], &bytes[2..]]), 0xddf2);
        assert_eq!(ones_complement_sum(&[]), 0);
    }

    #[test]
    fn crc32c_of_the_digits() {
        assert_eq!(crc32c(&[b"12345", b"6789"]), 0xe306_9283);
    }
}
