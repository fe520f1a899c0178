//! Descriptors of the E810 as values: little-endian 64-bit words (Linux `ice_lan_tx_rx.h`).

use bitfield_struct::bitfield;
use stillwire_dma::Segment;

use crate::frame::{Checksum, ChecksumStatus};
use crate::{Ip, Offload, Transport};

/// Bytes of a transmit and of a receive descriptor.
pub(super) const TX_LEN: usize = 16;
pub(super) const RX_LEN: usize = 32;

/// Second word of a transmit data descriptor. The first is the buffer's address.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(super) struct TxData {
    /// 0: data. The device writes 15: done.
    #[bits(4)]
    pub kind: u8,
    /// Last buffer of the frame.
    pub end_of_packet: bool,
    /// Write the descriptor back when it is done. Only together with the above.
    pub report_status: bool,
    __: bool,
    /// Insert the tag below.
    pub insert_tag: bool,
    __: bool,
    /// 1 IPv6, 2 IPv4, 3 IPv4 with its header checksum.
    #[bits(2)]
    pub ip: u8,
    __: bool,
    /// 1 TCP, 2 SCTP, 3 UDP.
    #[bits(2)]
    pub transport: u8,
    #[bits(2)]
    __: u8,
    /// Length of the Ethernet header, 2 bytes.
    #[bits(7)]
    pub ethernet_len: u8,
    /// Length of the IP header, 4 bytes.
    #[bits(7)]
    pub ip_len: u8,
    /// Length of the transport header, 4 bytes.
    #[bits(4)]
    pub transport_len: u8,
    /// Bytes of this buffer.
    #[bits(14)]
    pub len: u16,
    /// 802.1Q control information.
    pub tag: u16,
}

/// Second word of a transmit context descriptor; the first stays 0. Comes before the data of one frame.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(super) struct TxContext {
    /// 1: context.
    #[bits(4, default = 1)]
    pub kind: u8,
    /// Cut the payload into segments.
    pub segment: bool,
    #[bits(25)]
    __: u32,
    /// Payload bytes in all.
    #[bits(18)]
    pub payload_len: u32,
    #[bits(2)]
    __: u8,
    /// Payload bytes of a segment.
    #[bits(14)]
    pub mss: u16,
}

/// What the data path sets and reads; in constants, for the reasons given in the sister family.
impl TxData {
    const LEN: u32 = Self(0).with_len(1).into_bits().trailing_zeros();
    const END_OF_PACKET: u64 = Self(0).with_end_of_packet(true).into_bits();
    const REPORT_STATUS: u64 = Self(0).with_report_status(true).into_bits();
    const KIND: u64 = Self(0).with_kind(0xf).into_bits();

    /// What the descriptors of a frame without offloads have in common.
    pub(super) const PLAIN: Self = Self(0);

    /// What those of a frame with `header` have in common.
    pub(super) fn of_frame(header: &[u8], offload: Offload) -> Self {
        let (transport, len) = match offload.transport {
            None => (0, 0),
            Some(Transport::Tcp) => (1, tcp_len(header, offload)),
            Some(Transport::Sctp) => (2, 12),
            Some(Transport::Udp) => (3, 8),
        };
        Self::new()
            .with_ip(if offload.ip == Ip::V4 { 3 } else { 1 })
            .with_transport(transport)
            .with_ethernet_len(offload.ethernet_len / 2)
            .with_ip_len((offload.ip_len / 4) as u8)
            .with_transport_len(len / 4)
            .with_insert_tag(offload.vlan.is_some())
            .with_tag(offload.vlan.unwrap_or(0))
    }

    /// The last descriptor of the frame.
    #[inline]
    pub(super) fn last(self) -> Self {
        Self(self.0 | Self::END_OF_PACKET)
    }

    /// Asks for a report, if `report`.
    #[inline]
    pub(super) fn reporting(self, report: bool) -> Self {
        Self(self.0 | if report { Self::REPORT_STATUS } else { 0 })
    }

    /// A second word, with a report asked for.
    #[inline]
    pub(super) fn report(word: u64) -> u64 {
        word | Self::REPORT_STATUS
    }

    /// Words of the descriptor for `segment`, which is at most 14 bits long.
    #[inline]
    pub(super) fn encode(self, segment: Segment) -> [u64; 2] {
        [segment.iova.get(), self.0 | u64::from(segment.len) << Self::LEN]
    }

    /// Whether the device says that it is done with the descriptor of this second word.
    #[inline]
    pub(super) fn is_done(word: u64) -> bool {
        word & Self::KIND == Self::KIND
    }
}

impl TxContext {
    /// The context of a payload of `len` bytes (at most 18 bits) to be cut into segments of `mss`.
    pub(super) fn segmenting(len: u32, mss: u16) -> Self {
        Self::new().with_segment(true).with_payload_len(len).with_mss(mss)
    }

    pub(super) fn encode(self) -> [u64; 2] {
        [0, self.into_bits()]
    }
}

/// Length of the TCP header, as it says itself, bytes; without options where that makes no sense.
fn tcp_len(header: &[u8], offload: Offload) -> u8 {
    let at = usize::from(offload.ethernet_len) + usize::from(offload.ip_len);
    let said = header.get(at + 12).map_or(0, |byte| byte >> 4) * 4;
    if said >= 20 && at + usize::from(said) <= header.len() { said } else { 20 }
}

/// A receive descriptor that was written back: the two first of its words (flexible descriptor, profile 2).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub(super) struct RxStatus {
    /// The profile.
    pub profile: u8,
    pub source: u8,
    /// What the parser found.
    #[bits(10)]
    pub packet_type: u16,
    #[bits(6)]
    __: u8,
    /// Bytes in this buffer.
    #[bits(14)]
    pub len: u16,
    #[bits(2)]
    __: u8,
    pub header_len: u16,
    /// The device has written this descriptor back.
    pub done: bool,
    /// Last buffer of the frame.
    pub end_of_packet: bool,
    __: bool,
    /// Checksums were looked at.
    pub checked: bool,
    /// The IPv4 header checksum is wrong.
    pub ip_error: bool,
    /// The transport checksum is wrong.
    pub transport_error: bool,
    /// Those of an outer header are wrong.
    pub outer_ip_error: bool,
    pub outer_udp_error: bool,
    __: bool,
    /// IPv6 with extension headers: its transport was not looked at.
    pub ipv6_extension: bool,
    /// Damaged on the wire.
    pub damaged: bool,
    __: bool,
    /// The hash below is one.
    pub hashed: bool,
    /// The tag below was taken out of the frame.
    pub tagged: bool,
    #[bits(2)]
    __: u8,
    pub tag: u16,
    pub hash: u32,
}

impl RxStatus {
    const DONE: u64 = 1;
    const END_OF_PACKET: u64 = 1 << 1;
    const DAMAGED: u64 = 1 << 10;

    /// Whether the device has written back the descriptor of this second word.
    #[inline]
    pub(super) fn is_done(second: u64) -> bool {
        second & Self::DONE != 0
    }

    #[inline]
    pub(super) fn of(first: u64, second: u64) -> Self {
        Self(u128::from(first) | u128::from(second) << 64)
    }

    /// A frame that ends in its first buffer (if it began there) and is not damaged.
    #[inline]
    pub(super) fn is_whole_and_good(self) -> bool {
        (self.0 >> 64) as u64 & (Self::END_OF_PACKET | Self::DAMAGED) == Self::END_OF_PACKET
    }

    /// Bytes in this buffer.
    #[inline]
    pub(super) fn buffer_len(self) -> usize {
        (self.0 >> 32) as usize & 0x3fff
    }

    /// What the device says of checksums. Which layers there are the packet's type says.
    pub(super) fn checksum(self) -> ChecksumStatus {
        let unknown = ChecksumStatus { ip: Checksum::Unknown, transport: Checksum::Unknown };
        let kind = self.packet_type();
        let (v4, v6) = (IPV4_TYPES.contains(&kind), IPV6_TYPES.contains(&kind));
        if !self.checked() || !(v4 || v6) || self.outer_ip_error() || self.outer_udp_error() {
            return unknown;
        }
        let verdict = |looked_at, error| match (looked_at, error) {
            (false, _) => Checksum::Unknown,
            (true, false) => Checksum::Good,
            (true, true) => Checksum::Bad,
        };
        let transport = TRANSPORT_TYPES.contains(&kind) && !self.ipv6_extension();
        ChecksumStatus { ip: verdict(v4, self.ip_error()), transport: verdict(transport, self.transport_error()) }
    }
}

/// Packet types without a tunnel (Linux libeth and libie): IPv4 and IPv6 with fragments, UDP, TCP, SCTP, ICMP and others.
const IPV4_TYPES: std::ops::RangeInclusive<u16> = 22..=28;
const IPV6_TYPES: std::ops::RangeInclusive<u16> = 88..=94;
/// UDP, TCP and SCTP over each.
const TRANSPORT_TYPES: [u16; 6] = [24, 26, 27, 90, 92, 93];

#[cfg(test)]
mod tests {
    use super::*;

    /// Goldens worked out by hand from the field tables.
    #[test]
    fn data_descriptor_bits() {
        let udp = TxData::of_frame(&[0; 42], Offload::UDP_V4);
        // Commands begin at bit 4: IPv4 with checksum 0x060, UDP 0x300. Offsets at 16: 14 / 2, 20 / 4 << 7, 8 / 4 << 14.
        let offsets = 7 | 5 << 7 | 2 << 14;
        assert_eq!(udp.into_bits(), 0x360 << 4 | offsets << 16);
        assert_eq!(udp.last().reporting(true).with_len(1460).into_bits(), 0x363 << 4 | offsets << 16 | 1460 << 34);
        let mut header = [0; 74];
        header[14 + 40 + 12] = 0x50;
        let tcp = TxData::of_frame(&header, Offload::TCP_V6);
        assert_eq!(tcp.into_bits(), 0x120 << 4 | (7 | 10 << 7 | 5 << 14) << 16);
        header[14 + 20 + 12] = 0x80;
        let options = TxData::of_frame(&header, Offload::TCP_V4);
        assert_eq!(options.transport_len(), 8, "what the header says");
        assert_eq!(TxData::of_frame(&header[..54], Offload::TCP_V4).transport_len(), 5, "which is not there");
        let tagged = TxData::of_frame(&[0; 42], Offload::UDP_V4.tagged(0x2005));
        assert_eq!(tagged.into_bits(), udp.into_bits() | 8 << 4 | 0x2005 << 48);
        let sctp = Offload { transport: Some(Transport::Sctp), ..Offload::UDP_V4 };
        assert_eq!(TxData::of_frame(&[0; 46], sctp).into_bits(), 0x260 << 4 | (7 | 5 << 7 | 3 << 14) << 16);
        assert!(TxData::is_done(0xf) && !TxData::is_done(0x7) && !TxData::is_done(udp.last().into_bits()));
    }

    #[test]
    fn context_descriptor_bits() {
        assert_eq!(TxContext::segmenting(65_000, 1448).encode(), [0, 1 | 1 << 4 | 65_000 << 30 | 1448 << 50]);
    }

    #[test]
    fn receive_status_bits() {
        let status =
            RxStatus::of(2 | 26 << 16 | 1514 << 32, 0x3 | 1 << 12 | 1 << 13 | 0x2005 << 16 | 0xdead_beef << 32);
        assert_eq!((status.profile(), status.packet_type(), status.buffer_len()), (2, 26, 1514));
        assert_eq!((status.tag(), status.hash(), status.tagged(), status.hashed()), (0x2005, 0xdead_beef, true, true));
        assert!(status.is_whole_and_good() && RxStatus::is_done(1) && !RxStatus::is_done(2));
        assert!(!RxStatus::of(0, 0x3 | 1 << 10).is_whole_and_good());
    }

    #[test]
    fn checksum_verdicts() {
        use Checksum::{Bad, Good, Unknown};
        let (l3l4p, ipe, l4e, eipe, ipv6exadd) = (1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 9);
        // (packet type, status, IP, transport)
        let cases = [
            (26, 0, Unknown, Unknown),
            (26, l3l4p, Good, Good),
            (26, l3l4p | l4e, Good, Bad),
            (24, l3l4p | ipe, Bad, Good),
            (22, l3l4p | l4e, Good, Unknown),
            (28, l3l4p, Good, Unknown),
            (90, l3l4p, Unknown, Good),
            (93, l3l4p | l4e, Unknown, Bad),
            (92, l3l4p | ipv6exadd, Unknown, Unknown),
            (26, l3l4p | eipe, Unknown, Unknown),
            (1, l3l4p, Unknown, Unknown),
        ];
        for (kind, status, ip, transport) in cases {
            let found = RxStatus::of(kind << 16, status).checksum();
            assert_eq!(found, ChecksumStatus { ip, transport }, "type {kind}, {status:#x}");
        }
    }
}
