//! The header before a frame, and what the device makes of it: checksums and segments.

use crate::checksum::{ones_complement_sum, ones_complement_sum_of};
use crate::headers::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Transport, Verdict};
use crate::packet::{Fields, Packet};

use super::config::Features;

/// Bytes of the header, with VERSION_1.
pub const HEADER: usize = 12;
/// Longest frame that is cut into segments: a packet of 64 KiB behind an Ethernet header with two tags, bytes.
pub const LONGEST: usize = 65_535 + 22;
/// Most segments of a frame: a device's memory is finite. No TCP asks for less than 48 bytes a segment.
const MOST_SEGMENTS: usize = 2048;
/// Ethernet header, bytes.
const ETHERNET: usize = 14;

/// Header flag: the checksum is to be completed.
const NEEDS_CSUM: u8 = 1;
/// Header flag: the checksum was checked.
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

const TCP_CSUM: usize = 16;
const UDP_CSUM: usize = 6;
const FLAG_FIN_PSH: u16 = 0x09;
const FLAG_CWR: u16 = 0x80;

/// The header before a frame (`struct virtio_net_hdr`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NetHeader {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
    pub num_buffers: u16,
}

impl NetHeader {
    /// From memory.
    pub fn decode(bytes: [u8; HEADER]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            num_buffers: word(10),
        }
    }

    /// Into memory.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset, self.num_buffers];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Whether the device is to cut the frame.
    pub fn segments(&self) -> bool {
        self.gso_type != GSO_NONE
    }

    /// Whether the device is to complete a checksum.
    pub fn completes(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }
}

/// What a driver may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// What was negotiated.
    pub features: Features,
    /// Longest packet without segmentation, bytes.
    pub mtu: usize,
}

/// Decides what goes out for one `frame`; the error says why nothing does.
pub fn plan(header: &NetHeader, frame: &[u8], allowed: Allowed) -> Result<Vec<Packet>, &'static str> {
    if frame.len() < ETHERNET {
        return Err("a frame is shorter than an Ethernet header");
    }
    if header.flags & !NEEDS_CSUM != 0 {
        return Err("flags of a frame to be sent say more than NEEDS_CSUM");
    }
    if header.completes() && !allowed.features.contains(Features::CSUM) {
        return Err("NEEDS_CSUM, and CSUM was not negotiated");
    }
    if header.segments() {
        return segment(header, frame, allowed.features);
    }
    // Two VLAN tags may come on top.
    if frame.len() > ETHERNET + 8 + allowed.mtu {
        return Err("a frame is longer than the MTU, and not to be segmented");
    }
    if !header.completes() {
        return Ok(vec![Packet::whole(frame.len())]);
    }
    let start = usize::from(header.csum_start);
    let at = start + usize::from(header.csum_offset);
    if at + 2 > frame.len() {
        return Err("csum_start and csum_offset lie beyond the frame");
    }
    let sum = !ones_complement_sum(&frame[start..]);
    let mut fields = Fields::new(&frame[..start]);
    // 0 means "none" in UDP (RFC 768).
    fields.put16(at, if sum == 0 && usize::from(header.csum_offset) == UDP_CSUM { 0xffff } else { sum });
    Ok(vec![Packet { header: 0, payload: 0..frame.len(), patches: fields.patches }])
}

/// Where the headers of a frame to be cut are, bytes.
struct Layout {
    v4: bool,
    tcp: bool,
    ip: usize,
    l4: usize,
    end: usize,
}

fn segment(header: &NetHeader, frame: &[u8], features: Features) -> Result<Vec<Packet>, &'static str> {
    let layout = layout(header, frame, features)?;
    let size = usize::from(header.gso_size);
    let count = (frame.len() - layout.end).div_ceil(size);
    if count > MOST_SEGMENTS {
        return Err("a frame would be cut into more than 2048 segments");
    }
    let packets = (0..count).map(|i| {
        let start = layout.end + i * size;
        let payload = start..(start + size).min(frame.len());
        let mut fields = Fields::new(&frame[..layout.end]);
        fields.cut_network(&layout, payload.len(), i);
        fields.cut_transport(&layout, &frame[payload.clone()], i * size, (i == 0, i + 1 == count));
        Packet { header: layout.end, payload, patches: fields.patches }
    });
    Ok(packets.collect())
}

/// Finds the headers by looking, as `hdr_len` is but a hint; the error says what does not fit.
fn layout(header: &NetHeader, frame: &[u8], features: Features) -> Result<Layout, &'static str> {
    let (v4, tcp, feature) = match header.gso_type & !GSO_ECN {
        GSO_TCPV4 => (true, true, Features::HOST_TSO4),
        GSO_TCPV6 => (false, true, Features::HOST_TSO6),
        GSO_UDP_L4 => (frame[12..].starts_with(&ETHERTYPE_IPV4.to_be_bytes()), false, Features::HOST_USO),
        _ => return Err("a gso_type that was not negotiated"),
    };
    let (ethertype, ip) = headers::network(frame).ok_or("a frame to be segmented ends in its Ethernet header")?;
    let v4 = if tcp { v4 } else { ethertype == ETHERTYPE_IPV4 };
    let l4 = usize::from(header.csum_start);
    let expected = if v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let csum_offset = if tcp { TCP_CSUM } else { UDP_CSUM };
    match () {
        () if !features.contains(feature) || header.gso_type & GSO_ECN != 0 => {
            return Err("a gso_type that was not negotiated");
        }
        () if !header.completes() => return Err("segmentation without NEEDS_CSUM"),
        () if header.gso_size == 0 => return Err("gso_size is 0"),
        () if frame.len() > LONGEST => return Err("a frame to be segmented is longer than 64 KiB"),
        () if ethertype != expected => return Err("gso_type is not the frame's protocol"),
        () if usize::from(header.csum_offset) != csum_offset => return Err("csum_offset is not the transport's"),
        () => {}
    }
    let known =
        headers_fit(frame, v4, tcp, ip, l4).ok_or("csum_start is not behind an IP header of gso_type's protocol")?;
    if known >= frame.len() {
        return Err("a frame to be segmented has no payload");
    }
    if usize::from(header.hdr_len) != 0 && usize::from(header.hdr_len) < known {
        return Err("hdr_len ends within the headers");
    }
    Ok(Layout { v4, tcp, ip, l4, end: known })
}

/// Where the payload begins, if network and transport header are what they should be.
fn headers_fit(frame: &[u8], v4: bool, tcp: bool, ip: usize, l4: usize) -> Option<usize> {
    let first = *frame.get(ip)?;
    let protocol = if tcp { 6 } else { 17 };
    let fits = match v4 {
        true => first >> 4 == 4 && ip + usize::from(first & 0xf) * 4 == l4 && *frame.get(ip + 9)? == protocol,
        false => first >> 4 == 6 && l4 >= ip + 40 && (l4 > ip + 40 || *frame.get(ip + 6)? == protocol),
    };
    let least = if tcp { 20 } else { 8 };
    let len = if tcp { usize::from(*frame.get(l4 + 12)? >> 4) * 4 } else { least };
    (fits && len >= least && l4 + len <= frame.len()).then_some(l4 + len)
}

impl Fields {
    /// IP lengths, identification and header checksum of segment `i`.
    fn cut_network(&mut self, layout: &Layout, payload: usize, i: usize) {
        let below = layout.end - layout.ip + payload;
        if !layout.v4 {
            return self.put16(layout.ip + 4, (below - 40) as u16);
        }
        self.put16(layout.ip + 2, below as u16);
        self.put16(layout.ip + 4, self.get16(layout.ip + 4).wrapping_add(i as u16));
        self.put16(layout.ip + 10, 0);
        self.put16(layout.ip + 10, !ones_complement_sum(&self.header[layout.ip..layout.l4]));
    }

    /// Sequence number `offset` bytes on, flags of a first and a last segment, or UDP length; and the checksum, from nothing:
    /// what the driver prepared is the sum for the whole.
    fn cut_transport(&mut self, layout: &Layout, payload: &[u8], offset: usize, (first, last): (bool, bool)) {
        let l4 = layout.l4;
        let len = layout.end - l4 + payload.len();
        if layout.tcp {
            let sequence = u32::from(self.get16(l4 + 4)) << 16 | u32::from(self.get16(l4 + 6));
            self.put(l4 + 4, &sequence.wrapping_add(offset as u32).to_be_bytes());
            let gone = if first { 0 } else { FLAG_CWR } | if last { 0 } else { FLAG_FIN_PSH };
            self.put16(l4 + 12, self.get16(l4 + 12) & !gone);
        } else {
            self.put16(l4 + 4, len as u16);
        }
        let at = l4 + if layout.tcp { TCP_CSUM } else { UDP_CSUM };
        self.put16(at, 0);
        let addresses = if layout.v4 { layout.ip + 12..layout.ip + 20 } else { layout.ip + 8..layout.ip + 40 };
        let protocol = if layout.tcp { 6 } else { 17 };
        // Transport headers have an even length, so the payload starts at an even place.
        let sum = !ones_complement_sum_of(&[
            &self.header[addresses],
            &(len as u32).to_be_bytes(),
            &[0, protocol],
            &self.header[l4..],
            payload,
        ]);
        self.put16(at, if sum == 0 && !layout.tcp { 0xffff } else { sum });
    }
}

/// Whether what the driver prepared in the checksum field is the pseudo-header's sum; `None` when there is no such field.
pub fn is_prepared(header: &NetHeader, frame: &[u8]) -> Option<bool> {
    let parsed = headers::parse(frame)?;
    let (kind, body) = parsed.transport.as_ref()?;
    let (protocol, offset) = match kind {
        Transport::Tcp => (6, TCP_CSUM),
        Transport::Udp => (17, UDP_CSUM),
        Transport::Sctp => return None,
    };
    if body.start != usize::from(header.csum_start) || offset != usize::from(header.csum_offset) {
        return None;
    }
    let at = body.start + offset;
    let found = u16::from_be_bytes([frame[at], frame[at + 1]]);
    // 0 and 0xffff are the same number here.
    Some(found % 0xffff == parsed.pseudo_header_sum(frame, body.len(), protocol) % 0xffff)
}

/// The header of a received frame. With `partial`, a checksum that holds is taken back to what a local sender prepares.
pub fn receive(frame: &mut [u8], guest_csum: bool, partial: bool) -> NetHeader {
    let parsed = headers::parse(frame).filter(|parsed| guest_csum && parsed.check_transport(frame) == Verdict::Good);
    let Some(parsed) = parsed else { return NetHeader::default() };
    let (protocol, offset, body) = match &parsed.transport {
        Some((Transport::Tcp, body)) => (6, TCP_CSUM, body),
        Some((Transport::Udp, body)) => (17, UDP_CSUM, body),
        _ => return NetHeader::default(),
    };
    if !partial {
        return NetHeader { flags: DATA_VALID, ..NetHeader::default() };
    }
    let sum = parsed.pseudo_header_sum(frame, body.len(), protocol);
    frame[body.start + offset..][..2].copy_from_slice(&sum.to_be_bytes());
    let (csum_start, csum_offset) = (body.start as u16, offset as u16);
    NetHeader { flags: NEEDS_CSUM, csum_start, csum_offset, ..NetHeader::default() }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    const ALLOWED: Allowed = Allowed { features: Features::all(), mtu: 1500 };

    fn build(packet: &Packet, frame: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        packet.build(frame, &mut out);
        out
    }

    #[test]
    fn a_header_is_twelve_bytes_little_endian() {
        let bytes = [1, 4, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        let header = NetHeader::decode(bytes);
        assert_eq!((header.hdr_len, header.num_buffers), (0x0302, 0x0b0a));
        assert_eq!(header.encode(), bytes);
    }

    #[test]
    fn tcp_segments_are_what_a_sender_would_have_sent() {
        for (v6, len) in [(false, 3001usize), (true, 3000), (false, 1), (true, 4001)] {
            let builder = PacketBuilder::ethernet2([1; 6], [2; 6]);
            let builder = match v6 {
                true => builder.ipv6([1; 16], [2; 16], 9),
                false => builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9),
            };
            let builder = builder.tcp(7, 9, u32::MAX - 1000, 100).psh().fin().cwr().ack(5);
            let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let mut frame = Vec::new();
            builder.write(&mut frame, &payload).unwrap();
            let l4 = if v6 { 54 } else { 34 };
            let (gso_type, csum_start) = (if v6 { GSO_TCPV6 } else { GSO_TCPV4 }, l4 as u16);
            let header =
                NetHeader { flags: 1, gso_type, gso_size: 1000, csum_start, csum_offset: 16, ..NetHeader::default() };
            let packets = plan(&header, &frame, ALLOWED).unwrap();
            assert_eq!(packets.len(), len.div_ceil(1000));
            let mut joined = Vec::new();
            for (i, packet) in packets.iter().enumerate() {
                let out = build(packet, &frame);
                let parsed = headers::parse(&out).unwrap();
                assert_eq!(parsed.check_transport(&out), Verdict::Good);
                assert_eq!(parsed.check_ip(&out), if v6 { Verdict::Absent } else { Verdict::Good });
                let sliced = SlicedPacket::from_ethernet(&out).unwrap();
                let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
                let expected = (u32::MAX - 1000).wrapping_add(i as u32 * 1000);
                let ends = (i == 0, i + 1 == packets.len());
                assert_eq!(
                    (tcp.sequence_number(), tcp.cwr(), tcp.psh(), tcp.fin()),
                    (expected, ends.0, ends.1, ends.1)
                );
                joined.extend_from_slice(tcp.payload());
            }
            assert_eq!(joined, payload);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).udp(7, 9);
        builder.write(&mut frame, &[7; 3000]).unwrap();
        let good =
            NetHeader { flags: 1, gso_type: 5, gso_size: 1000, csum_start: 34, csum_offset: 6, ..NetHeader::default() };
        assert_eq!(plan(&good, &frame, ALLOWED).unwrap().len(), 3);
        for (header, why) in [
            (NetHeader { gso_size: 0, ..good }, "gso_size is 0"),
            (NetHeader { gso_size: 1, ..good }, "more than 2048 segments"),
            (NetHeader { flags: 0, ..good }, "without NEEDS_CSUM"),
            (NetHeader { gso_type: 1, ..good }, "csum_offset is not"),
            (NetHeader { gso_type: 1, csum_offset: 16, ..good }, "not behind an IP header"),
            (NetHeader { gso_type: 4, csum_offset: 16, ..good }, "not the frame's protocol"),
            (NetHeader { gso_type: 3, ..good }, "was not negotiated"),
            (NetHeader { gso_type: 0x85, ..good }, "was not negotiated"),
            (NetHeader { csum_start: 35, ..good }, "not behind an IP header"),
            (NetHeader { csum_start: u16::MAX, ..good }, "not behind an IP header"),
            (NetHeader { hdr_len: 40, ..good }, "ends within the headers"),
            (NetHeader { gso_type: 0, ..good }, "longer than the MTU"),
            (NetHeader { flags: 2, ..good }, "more than NEEDS_CSUM"),
        ] {
            let error = plan(&header, &frame, ALLOWED).unwrap_err();
            assert!(error.contains(why), "{header:?}: {error}");
        }
        let few = Allowed { features: Features::VERSION_1, ..ALLOWED };
        assert!(plan(&good, &frame, few).unwrap_err().contains("CSUM was not negotiated"));
        let short = NetHeader { gso_type: 0, csum_start: 59, csum_offset: 0, ..good };
        assert!(plan(&short, &frame[..60], ALLOWED).unwrap_err().contains("beyond the frame"));
    }

    proptest! {
        #[test]
        fn any_header_before_any_bytes(head: [u8; HEADER], mut frame in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut header = NetHeader::decode(head);
            header.csum_start %= 320;
            header.flags &= 1;
            if frame.len() > 15 {
                frame[12..14].copy_from_slice(if head[11] & 1 == 0 { &[8, 0] } else { &[0x86, 0xdd] });
                frame[14] = if head[11] & 1 == 0 { 0x45 } else { 0x60 };
            }
            for packet in plan(&header, &frame, ALLOWED).unwrap_or_default() {
                build(&packet, &frame);
            }
            is_prepared(&header, &frame);
            receive(&mut frame, true, head[11] & 2 == 0);
        }
    }
}
