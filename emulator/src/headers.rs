//! Where the headers of an Ethernet frame are, as a receiving MAC finds them, and whether their checksums hold.

use std::ops::Range;

use crate::checksum::{crc32c, ones_complement_sum, ones_complement_sum_of};

/// A transport protocol that a NIC knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A network protocol that a NIC knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// IPv4; `options` when the header is longer than 20 bytes.
    V4 {
        /// The header carries options.
        options: bool,
    },
    /// IPv6; `extensions` when headers stand between it and the transport.
    V6 {
        /// There are extension headers.
        extensions: bool,
    },
}

/// The parse of one frame: offsets are bytes from the frame's start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Headers {
    /// The network header's protocol.
    pub network: Network,
    /// The network header (with options or extension headers).
    pub ip: Range<usize>,
    /// The transport's header and payload as the network header's length says; absent in a fragment or an unknown protocol.
    pub transport: Option<(Transport, Range<usize>)>,
}

/// What a check of a checksum said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is nothing to check: no such header, a fragment, UDP without checksum.
    Absent,
    /// It holds.
    Good,
    /// It does not.
    Bad,
}

/// IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];

/// Finds the headers; `None` when the frame is no IP packet or is cut short.
pub fn parse(frame: &[u8]) -> Option<Headers> {
    match network(frame)? {
        (ETHERTYPE_IPV4, at) => parse_v4(frame, at),
        (ETHERTYPE_IPV6, at) => parse_v6(frame, at),
        _ => None,
    }
}

/// Ethertype and place of the network header, behind up to two VLAN tags.
pub fn network(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = 12;
    let mut ethertype = be16(frame, at)?;
    at += 2;
    for _ in 0..2 {
        if !ETHERTYPES_VLAN.contains(&ethertype) {
            break;
        }
        ethertype = be16(frame, at + 2)?;
        at += 4;
    }
    Some((ethertype, at))
}

fn parse_v4(frame: &[u8], at: usize) -> Option<Headers> {
    let first = *frame.get(at)?;
    let header = usize::from(first & 0xf) * 4;
    let total = usize::from(be16(frame, at + 2)?);
    if first >> 4 != 4 || header < 20 || total < header || frame.len() < at + total {
        return None;
    }
    let fragment = be16(frame, at + 6)? & 0x3fff != 0;
    let protocol = *frame.get(at + 9)?;
    let body = at + header..at + total;
    let transport = if fragment { None } else { transport(protocol, frame, body) };
    Some(Headers { network: Network::V4 { options: header > 20 }, ip: at..at + header, transport })
}

fn parse_v6(frame: &[u8], at: usize) -> Option<Headers> {
    let length = usize::from(be16(frame, at + 4)?);
    let end = at + 40 + length;
    if frame.get(at)? >> 4 != 6 || frame.len() < end {
        return None;
    }
    let mut next = *frame.get(at + 6)?;
    let mut body = at + 40;
    // Hop-by-hop, routing and destination options; a fragment header ends the search.
    for _ in 0..8 {
        if ![0, 43, 60].contains(&next) || body + 8 > end {
            break;
        }
        next = *frame.get(body)?;
        body += (usize::from(*frame.get(body + 1)?) + 1) * 8;
    }
    if body > end {
        return None;
    }
    let network = Network::V6 { extensions: body > at + 40 };
    Some(Headers { network, ip: at..body, transport: transport(next, frame, body..end) })
}

fn transport(protocol: u8, frame: &[u8], body: Range<usize>) -> Option<(Transport, Range<usize>)> {
    let (kind, least) = match protocol {
        6 => (Transport::Tcp, 20),
        17 => (Transport::Udp, 8),
        132 => (Transport::Sctp, 12),
        _ => return None,
    };
    (body.len() >= least && body.end <= frame.len()).then_some((kind, body))
}

impl Headers {
    /// The IPv4 header checksum.
    pub fn check_ip(&self, frame: &[u8]) -> Verdict {
        match self.network {
            Network::V4 { .. } if ones_complement_sum(&frame[self.ip.clone()]) == 0xffff => Verdict::Good,
            Network::V4 { .. } => Verdict::Bad,
            Network::V6 { .. } => Verdict::Absent,
        }
    }

    /// The transport's checksum.
    pub fn check_transport(&self, frame: &[u8]) -> Verdict {
        let Some((kind, body)) = &self.transport else { return Verdict::Absent };
        let bytes = &frame[body.clone()];
        let good = match kind {
            Transport::Sctp => {
                let found = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
                crc32c(&[&bytes[..8], &[0; 4], &bytes[12..]]) == found
            }
            Transport::Udp if bytes[6..8] == [0, 0] && matches!(self.network, Network::V4 { .. }) => {
                return Verdict::Absent;
            }
            Transport::Udp => self.sum_with_pseudo_header(frame, bytes, 17) == 0xffff,
            Transport::Tcp => self.sum_with_pseudo_header(frame, bytes, 6) == 0xffff,
        };
        if good { Verdict::Good } else { Verdict::Bad }
    }

    fn sum_with_pseudo_header(&self, frame: &[u8], body: &[u8], protocol: u8) -> u16 {
        let pseudo = self.pseudo_header_sum(frame, body.len(), protocol);
        ones_complement_sum_of(&[&pseudo.to_be_bytes(), body])
    }

    /// Sum of addresses, protocol and `len` bytes of transport, as it stands in a partial checksum.
    pub fn pseudo_header_sum(&self, frame: &[u8], len: usize, protocol: u8) -> u16 {
        let addresses = match self.network {
            Network::V4 { .. } => self.ip.start + 12..self.ip.start + 20,
            Network::V6 { .. } => self.ip.start + 8..self.ip.start + 40,
        };
        ones_complement_sum_of(&[&frame[addresses], &(len as u32).to_be_bytes(), &[0, protocol]])
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    fn udp(payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(7, 9);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    #[test]
    fn checksums_of_a_third_party_hold() {
        let mut frame = udp(b"odd");
        let headers = parse(&frame).unwrap();
        assert_eq!(headers.ip, 14..34);
        assert_eq!(headers.transport, Some((Transport::Udp, 34..45)));
        assert_eq!((headers.check_ip(&frame), headers.check_transport(&frame)), (Verdict::Good, Verdict::Good));
        frame[44] ^= 1;
        assert_eq!(headers.check_transport(&frame), Verdict::Bad);
        frame[20] ^= 1;
        assert_eq!(headers.check_ip(&frame), Verdict::Bad);
    }

    #[test]
    fn tcp_over_v6_behind_a_vlan_tag() {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .single_vlan(5.try_into().unwrap())
            .ipv6([1; 16], [2; 16], 3)
            .tcp(1, 2, 3, 4);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[7; 33]).unwrap();
        let headers = parse(&frame).unwrap();
        assert_eq!(headers.ip, 18..58);
        assert_eq!((headers.check_ip(&frame), headers.check_transport(&frame)), (Verdict::Absent, Verdict::Good));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_not(mut frame in proptest::collection::vec(any::<u8>(), 0..200), v6: bool) {
            if frame.len() > 15 {
                frame[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
                frame[14] = if v6 { 0x60 } else { 0x45 };
            }
            if let Some(headers) = parse(&frame) {
                headers.check_ip(&frame);
                headers.check_transport(&frame);
            }
        }
    }
}
