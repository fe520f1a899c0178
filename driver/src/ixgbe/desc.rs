//! Descriptors of the 82599 as values: two little-endian 64-bit words (82599 datasheet 7.1.6, 7.2.3).

use bitfield_struct::bitfield;
use stillwire_dma::Segment;

use crate::frame::{Checksum, ChecksumStatus};
use crate::{Ip, Offload, Transport};

/// Bytes of a descriptor of any kind.
pub(crate) const LEN: usize = 16;

/// Second word of an advanced transmit data descriptor (7.2.3.2.4). The first is the buffer's address.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(crate) struct TxData {
    /// Bytes of this buffer.
    pub len: u16,
    #[bits(4)]
    __: u8,
    /// 3: data.
    #[bits(4, default = 3)]
    pub kind: u8,
    /// Last buffer of the frame.
    pub end_of_packet: bool,
    /// Insert the Ethernet check sequence.
    #[bits(default = true)]
    pub insert_fcs: bool,
    __: bool,
    /// Write the descriptor back when it is done.
    pub report_status: bool,
    __: bool,
    /// Advanced format.
    #[bits(default = true)]
    pub extended: bool,
    /// Insert a VLAN tag.
    pub vlan: bool,
    /// Segment.
    pub segment: bool,
    /// Set by the device: done.
    pub done: bool,
    #[bits(3)]
    __: u8,
    /// Which of two contexts.
    #[bits(3)]
    pub context: u8,
    /// Check the context; only with transmit switching.
    pub check_context: bool,
    /// Insert the IPv4 header checksum.
    pub ip_checksum: bool,
    /// Insert the transport checksum.
    pub transport_checksum: bool,
    #[bits(4)]
    __: u8,
    /// Bytes of the whole frame without check sequence.
    #[bits(18)]
    pub payload_len: u32,
}

/// An advanced transmit context descriptor (7.2.3.2.3): where the headers of the frames after it lie.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub(crate) struct TxContext {
    /// Length of the IP header, bytes.
    #[bits(9)]
    pub ip_len: u16,
    /// Length of the Ethernet header, bytes.
    #[bits(7)]
    pub ethernet_len: u8,
    pub vlan: u16,
    __: u32,
    #[bits(10)]
    __: u16,
    /// IPv4, not IPv6.
    pub ipv4: bool,
    /// 0 UDP, 1 TCP, 2 SCTP.
    #[bits(2)]
    pub transport: u8,
    #[bits(7)]
    __: u8,
    /// 2: context.
    #[bits(4, default = 2)]
    pub kind: u8,
    #[bits(5)]
    __: u8,
    /// Advanced format.
    #[bits(default = true)]
    pub extended: bool,
    #[bits(2)]
    __: u8,
    #[bits(4)]
    __: u8,
    /// Which of two contexts.
    #[bits(3)]
    pub index: u8,
    __: bool,
    /// Length of the transport header, bytes.
    pub transport_len: u8,
    /// Payload bytes of a segment.
    pub mss: u16,
}

/// What the data path sets and reads. The accessors above are functions of this crate, and the data path is generic: it is
/// compiled in the crate of its user, where it would call them one by one. So it works with their bits.
impl TxData {
    const FRAME: u64 = Self::new().into_bits();
    const PAYLOAD_LEN: u32 = Self(0).with_payload_len(1).into_bits().trailing_zeros();
    const VLAN: u64 = Self(0).with_vlan(true).into_bits();
    const SEGMENT: u64 = Self(0).with_segment(true).into_bits();
    const IP_CHECKSUM: u64 = Self(0).with_ip_checksum(true).into_bits();
    const TRANSPORT_CHECKSUM: u64 = Self(0).with_transport_checksum(true).into_bits();
    const END_OF_PACKET: u64 = Self(0).with_end_of_packet(true).into_bits();
    const REPORT_STATUS: u64 = Self(0).with_report_status(true).into_bits();
    const DONE: u64 = Self(0).with_done(true).into_bits();

    /// What the descriptors of a frame of `len` bytes (at most 18 bits) have in common; of one to be cut, `len` is of its payload.
    #[inline]
    pub(crate) fn of_frame(len: u32, offload: Option<Offload>) -> Self {
        let mut bits = Self::FRAME | u64::from(len) << Self::PAYLOAD_LEN;
        if let Some(offload) = offload {
            bits |= if offload.ip == Ip::V4 { Self::IP_CHECKSUM } else { 0 };
            bits |= if offload.transport.is_some() { Self::TRANSPORT_CHECKSUM } else { 0 };
            bits |= if offload.vlan.is_some() { Self::VLAN } else { 0 };
            bits |= if offload.segment.is_some() { Self::SEGMENT } else { 0 };
        }
        Self(bits)
    }

    /// The last descriptor of the frame.
    #[inline]
    pub(crate) fn last(self) -> Self {
        Self(self.0 | Self::END_OF_PACKET)
    }

    /// Asks for a report, if `report`.
    #[inline]
    pub(crate) fn reporting(self, report: bool) -> Self {
        Self(self.0 | if report { Self::REPORT_STATUS } else { 0 })
    }

    /// A second word, with a report asked for.
    #[inline]
    pub(crate) fn report(word: u64) -> u64 {
        word | Self::REPORT_STATUS
    }

    /// Words of the descriptor for `segment`, which is at most 16 bits long.
    #[inline]
    pub(crate) fn encode(self, segment: Segment) -> [u64; 2] {
        [segment.iova.get(), self.0 | u64::from(segment.len as u16)]
    }

    /// Whether the device says that it is done with the descriptor of this second word.
    #[inline]
    pub(crate) fn is_done(word: u64) -> bool {
        word & Self::DONE != 0
    }
}

impl TxContext {
    /// The context that `offload` needs.
    pub(crate) fn of(offload: Offload) -> Self {
        let (transport, transport_len) = match offload.transport {
            Some(Transport::Udp) | None => (0, 8),
            Some(Transport::Tcp) => (1, 20),
            Some(Transport::Sctp) => (2, 12),
        };
        Self::new()
            .with_ethernet_len(offload.ethernet_len)
            .with_ip_len(offload.ip_len)
            .with_ipv4(offload.ip == Ip::V4)
            .with_transport(transport)
            .with_transport_len(transport_len)
            .with_vlan(offload.vlan.unwrap_or(0))
    }

    /// The same for a frame to be cut, whose transport header has `transport_len` bytes.
    pub(crate) fn segmenting(offload: Offload, transport_len: usize) -> Self {
        let segment = offload.segment.map_or(0, std::num::NonZeroU16::get);
        Self::of(offload).with_transport_len(transport_len as u8).with_mss(segment)
    }

    pub(crate) fn encode(self) -> [u64; 2] {
        let bits = self.into_bits();
        [bits as u64, (bits >> 64) as u64]
    }
}

/// The second word of a receive descriptor that was written back (7.1.6.2): status and errors, length, VLAN tag.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(crate) struct RxStatus {
    /// The device has written this descriptor back.
    pub done: bool,
    /// Last buffer of the frame.
    pub end_of_packet: bool,
    __: bool,
    /// The frame had a VLAN tag, which is in `vlan`.
    pub tagged: bool,
    __: bool,
    /// The transport checksum was looked at.
    pub transport_checked: bool,
    /// The IPv4 header checksum was looked at.
    pub ip_checked: bool,
    #[bits(13)]
    __: u16,
    #[bits(4)]
    __: u8,
    /// Check sequence or symbol error.
    pub crc_error: bool,
    /// Length error.
    pub length_error: bool,
    #[bits(1)]
    __: u8,
    /// Packet error.
    pub packet_error: bool,
    /// Oversize.
    pub oversize: bool,
    /// Undersize.
    pub undersize: bool,
    /// The transport checksum is wrong.
    pub transport_error: bool,
    /// The IPv4 header checksum is wrong.
    pub ip_error: bool,
    /// Bytes in this buffer.
    pub len: u16,
    pub vlan: u16,
}

/// In the first word of a written-back receive descriptor: the packet is UDP (packet type bit 5 of bits 15:4).
const RX_TYPE_UDP: u64 = 1 << 9;

impl RxStatus {
    const DONE: u64 = Self(0).with_done(true).into_bits();
    const END_OF_PACKET: u64 = Self(0).with_end_of_packet(true).into_bits();
    const DAMAGED: u64 = Self(0)
        .with_crc_error(true)
        .with_length_error(true)
        .with_packet_error(true)
        .with_oversize(true)
        .with_undersize(true)
        .into_bits();

    /// Whether the device has written this descriptor back.
    #[inline]
    pub(crate) fn is_done(self) -> bool {
        self.0 & Self::DONE != 0
    }

    /// A frame that ends in its first buffer (if it began there) and is not damaged.
    #[inline]
    pub(crate) fn is_whole_and_good(self) -> bool {
        self.0 & (Self::END_OF_PACKET | Self::DAMAGED) == Self::END_OF_PACKET
    }

    /// The frame is damaged below IP.
    #[inline]
    pub(crate) fn damaged(self) -> bool {
        self.0 & Self::DAMAGED != 0
    }

    /// Bytes in this buffer.
    #[inline]
    pub(crate) fn buffer_len(self) -> usize {
        usize::from((self.0 >> Self::LEN) as u16)
    }

    const LEN: u32 = Self(0).with_len(1).into_bits().trailing_zeros();
    const TAGGED: u64 = Self(0).with_tagged(true).into_bits();

    /// The VLAN tag that was taken off.
    #[inline]
    pub(crate) fn vlan_tag(self) -> Option<u16> {
        (self.0 & Self::TAGGED != 0).then_some((self.0 >> 48) as u16)
    }

    /// What the device says of checksums; `first` is the descriptor's first word.
    pub(crate) fn checksum(self, first: u64) -> ChecksumStatus {
        let verdict = |checked, error| match (checked, error) {
            (false, _) => Checksum::Unknown,
            (true, false) => Checksum::Good,
            (true, true) => Checksum::Bad,
        };
        // The 82599 flags some UDP datagrams without a checksum as bad (erratum), so a bad verdict on UDP means nothing;
        // Linux and DPDK ignore it as well.
        let no_verdict = first & RX_TYPE_UDP != 0 && self.transport_error();
        ChecksumStatus {
            ip: verdict(self.ip_checked(), self.ip_error()),
            transport: verdict(self.transport_checked() && !no_verdict, self.transport_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goldens worked out by hand from the field tables.
    #[test]
    fn data_descriptor_bits() {
        let data =
            TxData::new().with_len(1460).with_end_of_packet(true).with_report_status(true).with_payload_len(1514);
        // len | kind 3 << 20 | EOP 24 | IFCS 25 | RS 27 | DEXT 29, PAYLEN << 46
        assert_eq!(data.into_bits(), 0x05b4 | 3 << 20 | 1 << 24 | 1 << 25 | 1 << 27 | 1 << 29 | 1514 << 46);
        let first = TxData::of_frame(1514, Some(Offload::TCP_V4));
        assert_eq!(first.into_bits() >> 32, 1 << 8 | 1 << 9 | 1514 << 14);
        assert_eq!(TxData::of_frame(0, Some(Offload::UDP_V6)).into_bits() >> 32, 1 << 9);
        assert_eq!(TxData::of_frame(1514, None).last().reporting(true), data.with_len(0));
    }

    #[test]
    fn context_descriptor_bits() {
        let [low, high] = TxContext::of(Offload::UDP_V4).encode();
        assert_eq!(low, 20 | 14 << 9);
        assert_eq!(high, 1 << 10 | 2 << 20 | 1 << 29 | 8 << 40);
        let [low, high] = TxContext::of(Offload { ethernet_len: 18, ..Offload::TCP_V6 }).encode();
        assert_eq!(low, 40 | 18 << 9);
        assert_eq!(high, 1 << 11 | 2 << 20 | 1 << 29 | 20 << 40);
    }

    #[test]
    fn checksum_verdicts() {
        use Checksum::{Bad, Good, Unknown};
        let (ipcs, l4cs, udpcs, tcpe, ipe) = (1 << 6, 1 << 5, 1 << 4, 1 << 30, 1 << 31);
        let udp = RX_TYPE_UDP;
        // (status word, first word, IP, transport)
        let cases = [
            (0, 0, Unknown, Unknown),
            (ipcs | l4cs, 0, Good, Good),
            (ipcs | ipe, 0, Bad, Unknown),
            (ipcs | l4cs | tcpe, 0, Good, Bad),
            (ipcs | l4cs | udpcs | tcpe, udp, Good, Unknown),
            (ipcs | l4cs | udpcs, udp, Good, Good),
            (ipcs | l4cs | tcpe, udp, Good, Unknown),
            (tcpe | ipe, 0, Unknown, Unknown),
        ];
        for (status, first, ip, transport) in cases {
            let found = RxStatus::from_bits(status).checksum(first);
            assert_eq!(found, ChecksumStatus { ip, transport }, "{status:#x}");
        }
        assert_eq!(RxStatus::from_bits(3 | 1514 << 32).len(), 1514);
        assert!(RxStatus::from_bits(1 << 24).damaged() && RxStatus::from_bits(1 << 29).damaged());
        assert!(!RxStatus::from_bits(3 | 1 << 30).damaged());
    }
}
