//! Ethernet, ARP, IPv4 and UDP around the transfer protocol, by `etherparse`.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{
    ArpEthIpv4Packet, ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice,
};
pub use stillwire_driver::Mac;

/// Bytes of Ethernet, IPv4 and UDP headers.
pub const UDP_HEADERS: usize = 14 + 20 + 8;

/// Everybody on the link.
pub const BROADCAST: Mac = Mac([0xff; 6]);

/// One end of the conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Ethernet address.
    pub mac: Mac,
    /// IPv4 address and UDP port.
    pub address: SocketAddrV4,
}

/// Headers of UDP datagrams from one end to the other. Checksums are the NIC's work, or [`write_checksums`]'.
#[derive(Clone, Copy, Debug)]
pub struct UdpTemplate {
    bytes: [u8; UDP_HEADERS],
    /// Bytes behind the headers.
    len: usize,
}

impl UdpTemplate {
    /// Headers for datagrams `from` → `to`.
    pub fn new(from: Endpoint, to: Endpoint) -> Self {
        let mut bytes = Vec::with_capacity(UDP_HEADERS);
        PacketBuilder::ethernet2(from.mac.0, to.mac.0)
            .ipv4(from.address.ip().octets(), to.address.ip().octets(), 64)
            .udp(from.address.port(), to.address.port())
            .write(&mut bytes, &[])
            .expect("an empty datagram always fits");
        Self { bytes: bytes.try_into().expect("no options, no tags"), len: 0 }
    }

    /// The headers of a datagram that has `len` bytes behind them. They are the same for all of a length: who must not be
    /// fragmented needs no identification (RFC 6864, 4.1). So they are written when the length changes only; a field written
    /// and read at once as part of a word would cost as much as all the rest.
    ///
    /// # Panics
    /// When `len` does not fit into IPv4.
    #[inline]
    pub fn next(&mut self, len: usize) -> &[u8; UDP_HEADERS] {
        if len != self.len {
            self.set_len(len);
        }
        &self.bytes
    }

    fn set_len(&mut self, len: usize) {
        let udp = u16::try_from(len + 8).expect("fits into a datagram");
        let ip = udp.checked_add(20).expect("fits into a packet");
        self.bytes[16..18].copy_from_slice(&ip.to_be_bytes());
        self.bytes[38..40].copy_from_slice(&udp.to_be_bytes());
        self.len = len;
    }
}

/// A one's complement sum of 16-bit words (RFC 1071), over pieces of any length one after the other.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum {
    total: u64,
    /// The next byte is the second of its word.
    odd: bool,
}

impl Sum {
    /// Appends `bytes`.
    pub fn add(&mut self, bytes: &[u8]) {
        // In wider words, folded later, and in this machine's order (RFC 1071, 2).
        let (quads, rest) = bytes.as_chunks::<4>();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        let sum = quads.iter().chain([&last]).map(|quad| u64::from(u32::from_ne_bytes(*quad))).sum();
        self.append(Self { total: sum, odd: bytes.len() % 2 == 1 });
    }

    /// Appends what `other` is the sum of.
    fn append(&mut self, other: Self) {
        let sum = fold(other.total);
        self.total += u64::from(if self.odd { sum.swap_bytes() } else { sum });
        self.odd ^= other.odd;
    }

    /// What a checksum field must hold for this to be all that is summed, as it lies in memory.
    fn checksum(self) -> [u8; 2] {
        (!fold(self.total)).to_ne_bytes()
    }
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Writes both checksums of a datagram into the headers of a [`UdpTemplate`]. They begin `frame`; `rest` is the sum of what
/// comes behind it. For NICs that do not compute checksums.
///
/// # Panics
/// When `frame` is shorter than the headers.
pub fn write_checksums(frame: &mut [u8], rest: Sum) {
    frame[24..26].fill(0);
    let mut header = Sum::default();
    header.add(&frame[14..34]);
    frame[24..26].copy_from_slice(&header.checksum());
    frame[40..42].fill(0);
    let mut sum = udp_sum(frame);
    sum.append(rest);
    let checksum = sum.checksum();
    // 0 would say that there is none (RFC 768).
    frame[40..42].copy_from_slice(if checksum == [0; 2] { &[0xff; 2] } else { &checksum });
}

/// Whether the checksums of a received frame are right, if it is a UDP datagram in IPv4 and has any. For what the NIC has no
/// word on.
pub fn checksums_hold(frame: &[u8]) -> bool {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return true };
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport) else {
        return true;
    };
    let header = ip.header().to_header();
    if header.header_checksum != header.calc_header_checksum() {
        return false;
    }
    let found = udp.checksum();
    let expected = udp.to_header().calc_checksum_ipv4(&header, udp.payload());
    found == 0 || ip.payload().fragmented || expected.is_ok_and(|expected| expected == found)
}

/// The sum of the pseudo header and of all that is behind the IPv4 header.
fn udp_sum(frame: &[u8]) -> Sum {
    let mut sum = Sum::default();
    sum.add(&frame[26..34]);
    sum.add(&[0, 17, frame[38], frame[39]]);
    sum.add(&frame[34..]);
    sum
}

/// What a received frame is to us.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A UDP datagram.
    Udp {
        /// Where it came from.
        from: Endpoint,
        /// Where it goes.
        to: SocketAddrV4,
        /// What it says.
        payload: &'a [u8],
    },
    /// Somebody asks who has an address.
    ArpRequest {
        /// Who asks.
        asker: Mac,
        /// The asker's address.
        asker_ip: Ipv4Addr,
        /// The address asked for.
        wanted: Ipv4Addr,
    },
    /// Somebody has an address.
    ArpReply {
        /// Who.
        mac: Mac,
        /// The address.
        ip: Ipv4Addr,
    },
    /// Anything else.
    Other,
}

impl<'a> Received<'a> {
    /// Looks into a frame; whatever it is, there is an answer.
    pub fn parse(frame: &'a [u8]) -> Self {
        Self::try_parse(frame).unwrap_or(Received::Other)
    }

    fn try_parse(frame: &'a [u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        match (packet.net?, packet.transport) {
            (NetSlice::Arp(arp), _) => {
                let arp = arp.to_packet().try_eth_ipv4().ok()?;
                let (mac, ip) = (Mac(arp.sender_mac), Ipv4Addr::from(arp.sender_ipv4));
                match arp.operation {
                    ArpOperation::REQUEST => {
                        Some(Received::ArpRequest { asker: mac, asker_ip: ip, wanted: arp.target_ipv4.into() })
                    }
                    ArpOperation::REPLY => Some(Received::ArpReply { mac, ip }),
                    _ => None,
                }
            }
            (NetSlice::Ipv4(ip), Some(TransportSlice::Udp(udp))) if !ip.payload().fragmented => {
                let header = ip.header();
                let mac = Mac(frame.get(6..12)?.try_into().ok()?);
                Some(Received::Udp {
                    from: Endpoint { mac, address: SocketAddrV4::new(header.source_addr(), udp.source_port()) },
                    to: SocketAddrV4::new(header.destination_addr(), udp.destination_port()),
                    payload: udp.payload(),
                })
            }
            _ => None,
        }
    }
}

/// A whole frame that asks who has `wanted`.
pub fn arp_request(from: Mac, from_ip: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    arp(ArpOperation::REQUEST, from, from_ip, BROADCAST, Mac([0; 6]), wanted)
}

/// A whole frame that answers such a question.
pub fn arp_reply(from: Mac, from_ip: Ipv4Addr, to: Mac, to_ip: Ipv4Addr) -> Vec<u8> {
    arp(ArpOperation::REPLY, from, from_ip, to, to, to_ip)
}

fn arp(operation: ArpOperation, from: Mac, from_ip: Ipv4Addr, to: Mac, target: Mac, target_ip: Ipv4Addr) -> Vec<u8> {
    let ethernet = Ethernet2Header { source: from.0, destination: to.0, ether_type: EtherType::ARP };
    let arp = ArpEthIpv4Packet {
        operation,
        sender_mac: from.0,
        sender_ipv4: from_ip.octets(),
        target_mac: target.0,
        target_ipv4: target_ip.octets(),
    };
    let mut frame = ethernet.to_bytes().to_vec();
    let packet = ArpPacket::from(arp);
    debug_assert_eq!(packet.hw_addr_type, ArpHardwareId::ETHERNET);
    frame.extend_from_slice(&packet.to_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ends() -> (Endpoint, Endpoint) {
        let end = |last, port| Endpoint {
            mac: Mac([2, 0, 0, 0, 0, last]),
            address: SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), port),
        };
        (end(1, 1000), end(2, 2000))
    }

    #[test]
    fn datagrams_are_read_back() {
        let (from, to) = ends();
        let mut template = UdpTemplate::new(from, to);
        let _ = template.next(0);
        let mut frame = template.next(5).to_vec();
        assert_eq!(frame[18..22], [0, 0, 0x40, 0], "not to be fragmented, so it needs no identification");
        frame.extend_from_slice(b"hello");
        frame.extend_from_slice(&[0; 13]); // padding to 60 bytes is not payload
        assert_eq!(Received::parse(&frame), Received::Udp { from, to: to.address, payload: b"hello" });
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_ones() {
        let (from, to) = ends();
        let headers = *UdpTemplate::new(from, to).next(2);
        let zero = (0..=u16::MAX).map(u16::to_be_bytes).find(|payload| {
            let mut frame = [&headers[..], payload].concat();
            frame[40..42].fill(0);
            udp_sum(&frame).checksum() == [0; 2]
        });
        let mut frame = [&headers[..], &zero.expect("some payload sums to it")].concat();
        write_checksums(&mut frame, Sum::default());
        assert_eq!(frame[40..42], [0xff; 2]);
        assert!(checksums_hold(&frame));
    }

    #[test]
    fn arp_is_read_back() {
        let (a, b) = ends();
        let (ip_a, ip_b) = (*a.address.ip(), *b.address.ip());
        let request = arp_request(a.mac, ip_a, ip_b);
        assert_eq!(request[..6], BROADCAST.0);
        assert_eq!(Received::parse(&request), Received::ArpRequest { asker: a.mac, asker_ip: ip_a, wanted: ip_b });
        let reply = arp_reply(b.mac, ip_b, a.mac, ip_a);
        assert_eq!(Received::parse(&reply), Received::ArpReply { mac: b.mac, ip: ip_b });
        assert_eq!(reply.len(), 42);
    }

    proptest! {
        /// However a payload is cut, the checksums are those that an independent library computes.
        #[test]
        fn checksums_of_pieces(
            payload in prop::collection::vec(any::<u8>(), 0..300), cuts in prop::collection::vec(0..300usize, 0..4),
            front in 0..5usize, byte: prop::sample::Index, bit in 0..8u8,
        ) {
            let (from, to) = ends();
            let mut expect = Vec::new();
            PacketBuilder::ethernet2(from.mac.0, to.mac.0)
                .ipv4(from.address.ip().octets(), to.address.ip().octets(), 64)
                .udp(from.address.port(), to.address.port())
                .write(&mut expect, &payload)
                .unwrap();
            let (front, behind) = payload.split_at(front.min(payload.len()));
            let mut frame = UdpTemplate::new(from, to).next(payload.len()).to_vec();
            frame.extend_from_slice(front);
            let (mut rest, mut at) = (Sum::default(), 0);
            let mut cuts = cuts;
            cuts.sort_unstable();
            for cut in cuts.into_iter().chain([300]) {
                let end = cut.min(behind.len()).max(at);
                rest.add(&behind[at..end]);
                at = end;
            }
            write_checksums(&mut frame, rest);
            frame.extend_from_slice(behind);
            prop_assert_eq!(&frame, &expect);
            prop_assert!(checksums_hold(&frame));
            // Every single bit counts that either checksum covers, but for lengths, where the frame is another one then.
            let at = 26 + byte.index(frame.len() - 26);
            if !(38..40).contains(&at) {
                frame[at] ^= 1 << bit;
                prop_assert!(!checksums_hold(&frame) || frame[40..42] == [0; 2]);
            }
        }

        #[test]
        fn no_frame_panics(frame in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3usize) {
            let mut frame = frame;
            if frame.len() > 13 {
                frame[12..14].copy_from_slice([[8, 0], [8, 6], [0x86, 0xdd]][kind].as_slice());
            }
            let _ = Received::parse(&frame);
        }
    }
}
