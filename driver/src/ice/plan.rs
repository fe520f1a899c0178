//! What the device may be shown of a frame. Pure.
//!
//! The E810 takes a queue away from a driver that breaks one of these rules ("malicious driver detection"), so they are
//! checked before a descriptor is written: no empty buffer, at most 16383 bytes in one, at most eight buffers in each frame
//! on the wire. When the device cuts a payload into segments, each of them counts: the header, and every buffer that it has a
//! part in (Linux `ice_txrx.c`, DPDK `ice_rxtx.h`).

use crate::{Error, Result};

/// Buffers of a frame on the wire.
pub(super) const MAX_BUFFERS: usize = 8;
/// Bytes of a buffer.
pub(super) const MAX_BUFFER: u32 = 16_383;
/// Where longer pieces are cut: Linux cuts there, at a multiple of the read requests on the bus.
pub(super) const CUT: u32 = 12 * 1024;
/// Bytes of the shortest frame, without check sequence.
pub(super) const SHORTEST_FRAME: usize = 17;
/// Payload bytes of a segment.
pub(super) const SMALLEST_SEGMENT: u16 = 64;
pub(super) const LARGEST_SEGMENT: u16 = 9728;

/// Errors unless a header in one buffer and `pieces` (bytes each) may be shown to the device; `segment` is the payload bytes of
/// a segment, if the device is to cut.
pub(super) fn check(pieces: impl IntoIterator<Item = u32>, segment: Option<u16>) -> Result<()> {
    if let Some(found) = segment.filter(|bytes| !(SMALLEST_SEGMENT..=LARGEST_SEGMENT).contains(bytes)) {
        let (what, limit) = if found < SMALLEST_SEGMENT {
            ("offload: payload bytes of a segment (at least)", SMALLEST_SEGMENT)
        } else {
            ("offload: payload bytes of a segment", LARGEST_SEGMENT)
        };
        return Err(Error::Frame { what, found: found.into(), limit: limit.into() });
    }
    // Without cutting all of it is one segment.
    let segment = segment.map_or(u32::MAX, u32::from);
    let (mut left, mut buffers) = (segment, 0);
    for len in pieces {
        if !(1..=MAX_BUFFER).contains(&len) {
            return Err(Error::Frame {
                what: "bytes of a payload piece",
                found: len as usize,
                limit: MAX_BUFFER as usize,
            });
        }
        buffers += 1;
        if buffers > MAX_BUFFERS - 1 {
            return Err(Error::Frame {
                what: "buffers of one frame on the wire",
                found: 1 + buffers,
                limit: MAX_BUFFERS,
            });
        }
        if len < left {
            left -= len;
            continue;
        }
        // The segment ends in this piece, others may lie in it whole, and a last one begin.
        let rest = (len - left) % segment;
        (left, buffers) = (segment - rest, usize::from(rest > 0));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule, byte by byte: the most buffers that any segment has a part in, and its header.
    fn most_buffers(pieces: &[u32], segment: Option<u16>) -> usize {
        let owners: Vec<usize> =
            pieces.iter().enumerate().flat_map(|(piece, &len)| std::iter::repeat_n(piece, len as usize)).collect();
        let segment = segment.map_or(usize::MAX, usize::from);
        owners
            .chunks(segment.min(owners.len().max(1)))
            .map(|bytes| 2 + bytes[bytes.len() - 1] - bytes[0])
            .max()
            .unwrap_or(1)
    }

    #[test]
    fn the_limits() {
        let refused = |pieces: &[u32], segment| check(pieces.iter().copied(), segment).unwrap_err().to_string();
        check([100; 7], None).unwrap();
        check([100; 40], Some(750)).unwrap_err();
        check([100; 40], Some(650)).unwrap();
        check([100; 42], Some(500)).unwrap();
        check([12_288, 12_288, 12_288, 4096], Some(1448)).unwrap();
        assert!(refused(&[100; 8], None).contains("buffers of one frame on the wire is 9, the limit is 8"));
        assert!(refused(&[100, 0], None).contains("payload piece is 0"));
        assert!(refused(&[16_384], None).contains("payload piece is 16384, the limit is 16383"));
        assert!(refused(&[100], Some(63)).contains("is 63, the limit is 64"));
        assert!(refused(&[100], Some(9729)).contains("is 9729, the limit is 9728"));
    }

    proptest! {
        /// Nothing that is let through breaks the rule, and nothing that keeps it is refused.
        #[test]
        fn no_segment_has_too_many_buffers(
            pieces in prop::collection::vec(prop_oneof![1u32..40, 1u32..400, 1u32..5000, Just(4096u32)], 0..24),
            segment in prop::option::of(prop_oneof![64u16..200, 64u16..1500, 64u16..=9728]),
        ) {
            let fits = most_buffers(&pieces, segment) <= MAX_BUFFERS;
            prop_assert_eq!(check(pieces.iter().copied(), segment).is_ok(), fits, "{} buffers", most_buffers(&pieces, segment));
        }
    }
}
