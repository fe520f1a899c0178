//! What lies in front of a frame, and a ring's entries, as values (virtio 1.2, 2.7.5, 2.7.8, 5.1.6).

use stillwire_dma::Segment;

use crate::frame::{Checksum, ChecksumStatus};
use crate::{Ip, Offload, Transport};

/// Bytes of the net header.
pub(crate) const NET_HEADER: usize = 12;
/// Another descriptor follows in the chain.
pub(crate) const NEXT: u16 = 1;
/// The device writes the buffer.
pub(crate) const WRITE: u16 = 2;

/// A descriptor's two words.
#[inline]
pub(crate) fn encode(segment: Segment, flags: u16, next: u16) -> [u64; 2] {
    [segment.iova.get(), u64::from(segment.len) | u64::from(flags) << 32 | u64::from(next) << 48]
}

/// The net header of a frame whose transport checksum the device shall compute from `start` on (bytes from the frame's start) and
/// write `offset` bytes behind that, as the last twelve of two words.
#[inline]
pub(crate) fn partial_checksum(start: u16, offset: u16) -> [u64; 2] {
    // flags, gso_type, hdr_len in bytes 4..8 of the first word; gso_size, csum_start, csum_offset, num_buffers in the second.
    [u64::from(FLAG_NEEDS_CSUM) << 32, u64::from(start) << 16 | u64::from(offset) << 32]
}

/// What the device shall do with a frame: the words of the net header.
#[inline]
pub(crate) fn net_header(offload: Option<Offload>) -> [u64; 2] {
    match offload {
        Some(Offload { ethernet_len, ip_len, transport: Some(transport), .. }) => {
            let offset = match transport {
                Transport::Udp => 6,
                // No frame with SCTP's checksum gets here.
                Transport::Tcp | Transport::Sctp => 16,
            };
            partial_checksum(u16::from(ethernet_len) + ip_len, offset)
        }
        _ => [0; 2],
    }
}

/// The same for a frame that the device shall cut behind its first `header` bytes.
pub(crate) fn segmenting(offload: Offload, header: usize) -> [u64; 2] {
    let kind = match (offload.transport, offload.ip) {
        (Some(Transport::Tcp), Ip::V4) => GSO_TCPV4,
        (Some(Transport::Tcp), Ip::V6) => GSO_TCPV6,
        _ => GSO_UDP_L4,
    };
    let [low, high] = net_header(Some(offload));
    let segment = offload.segment.map_or(0, std::num::NonZeroU16::get);
    [low | u64::from(kind) << 40 | (header as u64) << 48, high | u64::from(segment)]
}

/// The net header of a received frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RxHeader {
    flags: u8,
    gso_type: u8,
    /// Buffers that the frame lies in.
    pub buffers: u16,
}

impl RxHeader {
    pub(crate) fn decode(bytes: [u8; NET_HEADER]) -> Self {
        Self { flags: bytes[0], gso_type: bytes[1], buffers: u16::from_le_bytes([bytes[10], bytes[11]]) }
    }

    /// Whether the frame is a segment too large for the wire, which was not negotiated.
    pub(crate) fn is_large(self) -> bool {
        self.gso_type != 0
    }

    /// What the device says of checksums; it says nothing of IP's own.
    pub(crate) fn checksum(self) -> ChecksumStatus {
        let transport = match () {
            // Its field holds the pseudo header's sum, and there is nothing to compare.
            () if self.flags & FLAG_NEEDS_CSUM != 0 => Checksum::Partial,
            () if self.flags & FLAG_DATA_VALID != 0 => Checksum::Good,
            () => Checksum::Unknown,
        };
        ChecksumStatus { ip: Checksum::Unknown, transport }
    }
}

const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const FLAG_NEEDS_CSUM: u8 = 1;
const FLAG_DATA_VALID: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// Goldens worked out by hand from the standard's tables.
    #[test]
    fn a_net_header_s_bytes() {
        let bytes = |offload| {
            let words: [u64; 2] = net_header(offload);
            let all: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            all[4..].to_vec()
        };
        assert_eq!(bytes(None), [0; 12]);
        assert_eq!(bytes(Some(Offload::UDP_V4)), [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0]);
        assert_eq!(bytes(Some(Offload::TCP_V6)), [1, 0, 0, 0, 0, 0, 54, 0, 16, 0, 0, 0]);
        let cut = |offload: Offload, header| {
            let all: Vec<u8> = segmenting(offload, header).iter().flat_map(|word| word.to_le_bytes()).collect();
            all[4..].to_vec()
        };
        assert_eq!(cut(Offload::UDP_V4.segmented(0x5c0), 42), [1, 5, 42, 0, 0xc0, 5, 34, 0, 6, 0, 0, 0]);
        assert_eq!(cut(Offload::TCP_V6.segmented(1400), 86), [1, 4, 86, 0, 0x78, 5, 54, 0, 16, 0, 0, 0]);
        assert_eq!(cut(Offload::TCP_V4.segmented(64), 54)[1], 1);
        assert_eq!(bytes(Some(Offload { transport: None, ..Offload::UDP_V4 })), [0; 12]);
    }

    #[test]
    fn a_received_header_s_fields() {
        let header = RxHeader::decode([2, 0, 1, 1, 1, 1, 1, 1, 1, 1, 3, 0]);
        assert_eq!((header.buffers, header.is_large()), (3, false));
        assert!(RxHeader::decode([0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]).is_large());
        for (flags, transport) in [
            (0, Checksum::Unknown),
            (1, Checksum::Partial),
            (2, Checksum::Good),
            (3, Checksum::Partial),
            (4, Checksum::Unknown),
        ] {
            let found = RxHeader::decode([flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]).checksum();
            assert_eq!(found, ChecksumStatus { ip: Checksum::Unknown, transport }, "{flags}");
        }
    }
}
