//! What the NIC shall do with a frame (checksums, segmentation, a tag), and what the header must hold for that. Pure.

use std::num::NonZeroU16;

use crate::{Error, Result};

/// The network layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ip {
    /// IPv4: the header checksum is computed as well, by the NIC or its driver.
    V4,
    /// IPv6.
    V6,
}

/// The transport layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// UDP; a sum of 0 goes out as 0xffff.
    Udp,
    /// TCP.
    Tcp,
    /// SCTP: its CRC32c.
    Sctp,
}

/// What the NIC shall do with a frame.
///
/// The header's checksum fields are written by the driver as the NIC wants them; what they held does not matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offload {
    /// Length of the Ethernet header including VLAN tags, bytes: 14, 18, 22.
    pub ethernet_len: u8,
    /// The network layer.
    pub ip: Ip,
    /// Length of the IP header with options or extension headers, bytes.
    pub ip_len: u16,
    /// The transport layer; `None` for the IPv4 header checksum alone.
    pub transport: Option<Transport>,
    /// Payload bytes of a segment, [`SMALLEST_SEGMENT`](Self::SMALLEST_SEGMENT) at least: the NIC cuts the payload into frames of
    /// so many bytes, the last of the rest, each behind the same header with lengths, checksums, IPv4 identification and TCP
    /// sequence number as they must be (TSO for TCP, USO for UDP). The header must end where the payload begins; the lengths
    /// in it do not matter.
    pub segment: Option<NonZeroU16>,
    /// A VLAN tag (802.1Q: priority, DEI, number) that the NIC puts behind the addresses. `ethernet_len` is without it.
    pub vlan: Option<u16>,
}

impl Offload {
    /// Fewest payload bytes of a segment that every device can do (the E810's limit).
    pub const SMALLEST_SEGMENT: u16 = 64;

    /// All of it but segments in one number, for a quick look whether it changes; never 0.
    #[inline(always)]
    pub(crate) fn key(self) -> u64 {
        let transport = self.transport.map_or(1, |transport| 2 + transport as u64);
        let layers = u64::from(self.ethernet_len) | (self.ip as u64) << 8 | u64::from(self.ip_len) << 16;
        let vlan = self.vlan.map_or(0, |tag| 1 << 16 | u64::from(tag));
        layers | transport << 32 | vlan << 40
    }

    /// The same, and the payload is cut into segments of so many bytes; 0 for one that is not.
    pub const fn segmented(self, segment: u16) -> Self {
        Self { segment: NonZeroU16::new(segment), ..self }
    }

    /// The same, and the NIC puts a VLAN tag in.
    pub const fn tagged(self, vlan: u16) -> Self {
        Self { vlan: Some(vlan), ..self }
    }

    /// UDP in IPv4 without options in untagged Ethernet.
    pub const UDP_V4: Self = Self::plain(Ip::V4, Transport::Udp);
    /// TCP in IPv4 without options in untagged Ethernet.
    pub const TCP_V4: Self = Self::plain(Ip::V4, Transport::Tcp);
    /// UDP in IPv6 without extension headers in untagged Ethernet.
    pub const UDP_V6: Self = Self::plain(Ip::V6, Transport::Udp);
    /// TCP in IPv6 without extension headers in untagged Ethernet.
    pub const TCP_V6: Self = Self::plain(Ip::V6, Transport::Tcp);

    /// A transport in IP without options or extension headers in untagged Ethernet.
    const fn plain(ip: Ip, transport: Transport) -> Self {
        let ip_len = match ip {
            Ip::V4 => 20,
            Ip::V6 => 40,
        };
        Self { ethernet_len: 14, ip, ip_len, transport: Some(transport), segment: None, vlan: None }
    }

    /// Refuses lengths (bytes) of header and payload that do not go with the layers named.
    ///
    /// # Errors
    /// [`Error::Frame`] when the header is too short for the layers named, or the datagram too long for IP.
    #[inline(always)]
    pub(crate) fn check(self, header: usize, payload: usize) -> Result<()> {
        let (ip_at, l4_at) = (usize::from(self.ethernet_len), self.transport_at());
        let needed = l4_at + self.transport.map_or(0, Transport::shortest);
        let even = (self.ethernet_len | self.ip_len as u8) & 1 == 0;
        let layers = ip_at >= 14 && usize::from(self.ip_len) >= self.ip.shortest() && even && !self.is_nothing();
        if layers && header >= needed && header + payload - l4_at <= usize::from(u16::MAX) {
            return Ok(());
        }
        Err(self.refuse(header, (header + payload).saturating_sub(l4_at)))
    }

    /// Refuses a frame that cannot be cut into segments, each at most `longest` bytes with its header; `payload` in bytes, and of
    /// the IP packet at most `most` bytes. Returns the length of the transport's header, bytes.
    ///
    /// # Errors
    /// [`Error::Frame`]: as [`check`](Self::check), or the header does not end with the transport's, or segments too small or
    /// too large.
    pub(crate) fn check_segments(self, header: &[u8], payload: usize, longest: usize, most: usize) -> Result<usize> {
        // Of the header alone: no datagram on the wire has all of the payload.
        self.check(header.len(), 0)?;
        let (l4_at, segment) = (self.transport_at(), self.segment.map_or(0, NonZeroU16::get));
        let transport_len = match self.transport {
            Some(Transport::Udp) => 8,
            Some(Transport::Tcp) => usize::from(header[l4_at + 12] >> 4) * 4,
            Some(Transport::Sctp) | None => {
                let what = "segmentation: neither TCP nor UDP; segmentable transports";
                return Err(Error::Frame { what, found: 0, limit: 1 });
            }
        };
        let packet = header.len() - usize::from(self.ethernet_len) + payload;
        let frame = header.len() + payload.min(segment.into());
        let (what, found, limit) = if header.len() != l4_at + transport_len || transport_len < 8 {
            ("segmentation: header bytes (up to the end of the transport's)", header.len(), l4_at + transport_len)
        } else if segment < Self::SMALLEST_SEGMENT {
            ("segmentation: payload bytes of a segment (at least)", segment.into(), Self::SMALLEST_SEGMENT.into())
        } else if payload == 0 {
            ("segmentation: payload bytes (at least)", 0, 1)
        } else if packet > most {
            ("segmentation: bytes of the IP packet to be cut", packet, most)
        } else if frame > longest {
            ("segmentation: bytes of a segment's frame", frame, longest)
        } else {
            return Ok(transport_len);
        };
        Err(Error::Frame { what, found, limit })
    }

    /// What must be written over `header` before the NIC may have it; both lengths have been [checked](Self::check).
    ///
    /// The pseudo-header sum goes into the transport checksum field, not inverted, with the transport length in it: the
    /// NIC adds the rest and inverts. For segments that length is left out: the NIC adds that of each.
    #[inline(always)]
    pub(crate) fn patches(self, header: &[u8], payload: usize) -> Patches {
        let (ip_at, l4_at) = (usize::from(self.ethernet_len), self.transport_at());
        let ip_checksum = ip_at + 10;
        let Some(transport) = self.transport else {
            return Patches { zero_at: ip_checksum, sum_at: ip_checksum, sum: 0, also_zero_at: None };
        };
        let datagram = header.len() + payload - l4_at;
        let sum_at = l4_at + transport.checksum_at();
        let zero_at = if self.ip == Ip::V4 { ip_checksum } else { sum_at };
        if transport == Transport::Sctp {
            // There is no pseudo header, and the field has four bytes.
            return Patches { zero_at, sum_at, sum: 0, also_zero_at: Some(sum_at + 2) };
        }
        let ip = &header[ip_at..l4_at];
        if self.segment.is_some() {
            let sum = self.ip.pseudo_sum(ip, transport, 0);
            return Patches { zero_at, sum_at, sum, also_zero_at: Some(ip_at + self.ip.length_at()) };
        }
        Patches { zero_at, sum_at, sum: self.ip.pseudo_sum(ip, transport, datagram as u16), also_zero_at: None }
    }

    /// What must be written over a header to be cut by a device that wants it as one for the whole: where, and two bytes. The
    /// pseudo-header sum has the whole's length in it.
    pub(crate) fn whole(self, header: &[u8], payload: usize) -> [(usize, u16); 3] {
        let (ip_at, l4_at) = (usize::from(self.ethernet_len), self.transport_at());
        let (packet, datagram) = (header.len() + payload - ip_at, (header.len() + payload - l4_at) as u16);
        let ip_len = match self.ip {
            Ip::V4 => packet as u16,
            Ip::V6 => (packet - 40) as u16,
        };
        let transport = self.transport.unwrap_or(Transport::Udp);
        let sum = self.ip.pseudo_sum(&header[ip_at..l4_at], transport, datagram);
        let sum = (l4_at + transport.checksum_at(), sum);
        let length = match transport {
            Transport::Udp => (l4_at + 4, datagram),
            // It has none of its own.
            Transport::Tcp | Transport::Sctp => sum,
        };
        [(ip_at + self.ip.length_at(), ip_len), length, sum]
    }

    /// Offset of the transport header, bytes.
    #[inline]
    pub(crate) fn transport_at(self) -> usize {
        usize::from(self.ethernet_len) + usize::from(self.ip_len)
    }

    /// IPv6 has no checksum of its own.
    #[inline]
    fn is_nothing(self) -> bool {
        self.ip == Ip::V6 && self.transport.is_none() && self.vlan.is_none()
    }

    /// What is wrong with a header of so many bytes, or with the length of its datagram.
    #[cold]
    fn refuse(self, header: usize, datagram: usize) -> Error {
        let (ethernet, ip) = (usize::from(self.ethernet_len), usize::from(self.ip_len));
        let needed = ethernet + ip + self.transport.map_or(0, Transport::shortest);
        let (what, found, limit) = if ethernet < 14 {
            ("offload: Ethernet header", ethernet, 14)
        } else if ip < self.ip.shortest() {
            ("offload: IP header", ip, self.ip.shortest())
        } else if ethernet % 2 == 1 {
            ("offload: Ethernet header (an even number of bytes)", ethernet, ethernet - 1)
        } else if ip % 2 == 1 {
            ("offload: IP header (an even number of bytes)", ip, ip - 1)
        } else if header < needed {
            ("offload: header bytes", header, needed)
        } else if datagram > usize::from(u16::MAX) {
            ("offload: transport length", datagram, u16::MAX.into())
        } else {
            ("offload: checksums (IPv6 without a transport has none)", 0, 1)
        };
        Error::Frame { what, found, limit }
    }
}

/// The checksum of an IPv4 header of an even number of bytes, 20 at least (RFC 791 3.1), whatever its field for it holds.
#[inline]
pub(crate) fn ipv4_checksum(header: &[u8]) -> u16 {
    let (pairs, _) = header.as_chunks::<2>();
    let all: u32 = pairs.iter().map(|pair| u32::from(u16::from_ne_bytes(*pair))).sum();
    // Bytes 10 and 11 are the field. Folded twice, a sum of at most 2^15 pairs is 16 bits.
    let sum = all - u32::from(u16::from_ne_bytes(pairs[5]));
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::from_be(((sum & 0xffff) + (sum >> 16)) as u16)
}

impl Ip {
    fn shortest(self) -> usize {
        match self {
            Ip::V4 => 20,
            Ip::V6 => 40,
        }
    }

    /// Offset of the length field in the IP header, bytes.
    fn length_at(self) -> usize {
        match self {
            Ip::V4 => 2,
            Ip::V6 => 4,
        }
    }

    /// The folded, not inverted sum of the pseudo header (RFC 768, RFC 9293, RFC 8200 8.1). `ip` is the IP header.
    #[inline(always)]
    fn pseudo_sum(self, ip: &[u8], transport: Transport, l4_len: u16) -> u16 {
        // A one's complement sum may be taken in wider words and folded later, and in either byte order (RFC 1071, 2).
        let quads = |bytes: &[u8]| -> u64 {
            let (quads, _) = bytes.as_chunks::<4>();
            quads.iter().map(|quad| u64::from(u32::from_ne_bytes(*quad))).sum()
        };
        let addresses = match self {
            Ip::V4 => quads(&ip[12..20]),
            Ip::V6 => quads(&ip[8..40]),
        };
        let sum = addresses + u64::from(transport.protocol().to_be()) + u64::from(l4_len.to_be());
        let (low, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
        let sum = low + u32::from(carry);
        // Both halves added, with the carry of that: in the upper half of this.
        u16::from_be((sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16)
    }
}

impl Transport {
    fn shortest(self) -> usize {
        match self {
            Transport::Udp => 8,
            Transport::Tcp => 20,
            Transport::Sctp => 12,
        }
    }

    /// Offset of the checksum in the transport header, bytes.
    fn checksum_at(self) -> usize {
        match self {
            Transport::Udp => 6,
            Transport::Tcp => 16,
            Transport::Sctp => 8,
        }
    }

    fn protocol(self) -> u16 {
        match self {
            Transport::Udp => 17,
            Transport::Tcp => 6,
            Transport::Sctp => 132,
        }
    }
}

/// What is to be written over a header: offsets from its start, even. Each is always written, so that the data path does not
/// ask; where there is one field only, both name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Patches {
    /// Two bytes of zero: the IPv4 header checksum.
    pub zero_at: usize,
    /// After that, a big-endian sum: the pseudo-header's in the transport checksum.
    pub sum_at: usize,
    /// The sum.
    pub sum: u16,
    /// Two bytes of zero more: the IP length of what is to be cut, or the rest of SCTP's checksum.
    pub also_zero_at: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    /// What a NIC does: sums from the transport header to the end of the frame and inverts (one's complement).
    fn finish(frame: &mut [u8], offload: Offload) {
        let l4_at = usize::from(offload.ethernet_len) + usize::from(offload.ip_len);
        offload.check(frame.len(), 0).unwrap();
        let at = offload.patches(frame, 0).sum_at;
        let sum = !ones_sum(&frame[l4_at..]);
        let sum = if sum == 0 && offload.transport == Some(Transport::Udp) { 0xffff } else { sum };
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    fn ones_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        /// The pseudo sum, finished as a NIC would, is the checksum that an independent library computes.
        #[test]
        fn pseudo_sums_lead_to_the_right_checksums(
            v6: bool, tcp: bool, addresses: [u8; 32], ports: (u16, u16),
            payload in prop::collection::vec(any::<u8>(), 0..300), split: prop::sample::Index,
        ) {
            let start = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let half = |at: usize| -> [u8; 16] { addresses[at..at + 16].try_into().unwrap() };
            let quarter = |at: usize| -> [u8; 4] { addresses[at..at + 4].try_into().unwrap() };
            let ip = if v6 { start.ipv6(half(0), half(16), 64) } else { start.ipv4(quarter(0), quarter(4), 64) };
            let mut expect = Vec::new();
            let offload = match (v6, tcp) {
                (false, false) => Offload::UDP_V4, (false, true) => Offload::TCP_V4,
                (true, false) => Offload::UDP_V6, (true, true) => Offload::TCP_V6,
            };
            if tcp {
                ip.tcp(ports.0, ports.1, 1, 1024).write(&mut expect, &payload).unwrap();
            } else {
                ip.udp(ports.0, ports.1).write(&mut expect, &payload).unwrap();
            }
            let header_len = expect.len() - split.index(payload.len() + 1);
            offload.check(header_len, expect.len() - header_len).unwrap();
            let patches = offload.patches(&expect[..header_len], expect.len() - header_len);
            let mut frame = expect.clone();
            frame[patches.zero_at..patches.zero_at + 2].fill(0);
            frame[patches.sum_at..patches.sum_at + 2].copy_from_slice(&patches.sum.to_be_bytes());
            if !v6 {
                // The sum that a NIC puts there; etherparse has done it.
                frame[24..26].copy_from_slice(&expect[24..26]);
                let mut rubbish = expect[14..34].to_vec();
                rubbish[10..12].fill(0xa5);
                prop_assert_eq!(ipv4_checksum(&rubbish).to_be_bytes(), [expect[24], expect[25]]);
            }
            finish(&mut frame, offload);
            prop_assert_eq!(frame, expect);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused =
            |offload: Offload, header: usize, payload: usize| offload.check(header, payload).unwrap_err().to_string();
        assert!(refused(Offload::UDP_V4, 41, 0).contains("header bytes is 41, the limit is 42"));
        assert!(refused(Offload { ethernet_len: 13, ..Offload::UDP_V4 }, 100, 0).contains("Ethernet header"));
        assert!(refused(Offload { ip_len: 19, ..Offload::UDP_V4 }, 100, 0).contains("IP header"));
        assert!(refused(Offload::UDP_V4, 42, 65_528).contains("transport length is 65536"));
        let ip_only = Offload { transport: None, ..Offload::UDP_V4 };
        ip_only.check(34, 10).unwrap();
        assert_eq!(ip_only.patches(&[0; 34], 10), Patches { zero_at: 24, sum_at: 24, sum: 0, also_zero_at: None });
        assert!(refused(Offload { ethernet_len: 15, ..Offload::UDP_V4 }, 100, 0).contains("even"));
        assert!(refused(Offload { ip_len: 21, ..Offload::UDP_V4 }, 100, 0).contains("even"));
        assert!(refused(Offload { transport: None, ..Offload::UDP_V6 }, 100, 0).contains("has none"));
    }

    #[test]
    fn different_offloads_have_different_keys() {
        let (mut keys, mut count) = (std::collections::HashSet::from([0]), 1);
        for ethernet_len in [14, 18] {
            for (ip, ip_len) in [(Ip::V4, 20), (Ip::V4, 24), (Ip::V6, 40), (Ip::V6, 296)] {
                for transport in [None, Some(Transport::Udp), Some(Transport::Tcp), Some(Transport::Sctp)] {
                    for vlan in [None, Some(0), Some(7)] {
                        keys.insert(Offload { ethernet_len, ip, ip_len, transport, segment: None, vlan }.key());
                        count += 1;
                    }
                }
            }
        }
        assert_eq!(keys.len(), count);
    }
}
