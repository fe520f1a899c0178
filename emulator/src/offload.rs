//! Checksums and segments as Intel's NICs make them: a driver's descriptors say where the headers are.
//!
//! What a device asks of the descriptors, and what it calls a mistake, is its own affair; the arithmetic is one.

use crate::checksum::{crc32c, ones_complement_sum, ones_complement_sum_of};
use crate::headers::Transport;
use crate::packet::{Fields, Packet};

/// Where the headers of a frame are, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Length of the link header.
    pub mac: usize,
    /// Length of the network header, with what stands between it and the transport.
    pub ip: usize,
    /// Length of the transport header.
    pub l4: usize,
    /// The network header is IPv4.
    pub ipv4: bool,
}

/// What the TCP flags of each segment are masked with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlagMasks {
    /// First segment.
    pub first: u16,
    /// Segments between.
    pub middle: u16,
    /// Last segment.
    pub last: u16,
}

impl Layout {
    /// Where the transport header begins.
    pub fn transport(&self) -> usize {
        self.mac + self.ip
    }

    /// Length of all headers.
    pub fn headers(&self) -> usize {
        self.mac + self.ip + self.l4
    }
}

/// Completes the checksums of a frame that goes out whole; the network header lies within `bytes` if `ip` is asked for.
pub fn checksums(layout: &Layout, ip: bool, l4: Option<Transport>, bytes: &[u8]) -> Result<Packet, &'static str> {
    let at = layout.transport();
    let mut fields = Fields::new(&bytes[..bytes.len().min(at)]);
    if ip {
        fields.put16(layout.mac + 10, !ones_complement_sum(&bytes[layout.mac..at]));
    }
    if let Some(transport) = l4 {
        let (field, least) = match transport {
            Transport::Tcp => (16, 20),
            Transport::Udp => (6, 8),
            Transport::Sctp => (8, 12),
        };
        if at + least > bytes.len() {
            return Err("MACLEN + IPLEN leave no room for the transport header");
        }
        if transport == Transport::Sctp {
            fields.put(at + field, &crc32c(&[&bytes[at..]]).to_le_bytes());
        } else {
            let sum = !ones_complement_sum(&bytes[at..]);
            fields.put16(at + field, if transport == Transport::Udp && sum == 0 { 0xffff } else { sum });
        }
    }
    Ok(Packet { header: 0, payload: 0..bytes.len(), patches: fields.patches })
}

/// Cuts a frame into segments of `mss` bytes of payload; all headers lie within `bytes`, and `mss` is not 0.
///
/// The checksum field holds the pseudo-header's sum without a length; the length is the device's to add.
pub fn segment(layout: &Layout, tcp: bool, mss: usize, bytes: &[u8], masks: FlagMasks) -> Vec<Packet> {
    let header = layout.headers();
    let count = (bytes.len() - header).div_ceil(mss);
    let packets = (0..count).map(|i| {
        let start = header + i * mss;
        let payload = start..(start + mss).min(bytes.len());
        let mask = match (i, i + 1 == count) {
            (0, true) => masks.first | masks.last,
            (0, false) => masks.first,
            (_, true) => masks.last,
            _ => masks.middle,
        };
        let mut fields = Fields::new(&bytes[..header]);
        fields.network(layout, payload.len(), i);
        if tcp {
            fields.tcp(layout, i * mss, mask);
        }
        fields.transport(layout, tcp, &bytes[payload.clone()]);
        Packet { header, payload, patches: fields.patches }
    });
    packets.collect()
}

impl Fields {
    /// IP lengths, identification and header checksum of segment `i`.
    fn network(&mut self, layout: &Layout, payload: usize, i: usize) {
        let ip = layout.mac;
        let below = layout.l4 + payload;
        if !layout.ipv4 {
            return self.put16(ip + 4, (layout.ip - 40 + below) as u16);
        }
        self.put16(ip + 2, (layout.ip + below) as u16);
        self.put16(ip + 4, self.get16(ip + 4).wrapping_add(i as u16));
        self.put16(ip + 10, !ones_complement_sum(&self.header[ip..ip + layout.ip]));
    }

    /// Sequence number `offset` bytes on, and the flags that this segment keeps.
    fn tcp(&mut self, layout: &Layout, offset: usize, flags: u16) {
        let l4 = layout.transport();
        let sequence = u32::from(self.get16(l4 + 4)) << 16 | u32::from(self.get16(l4 + 6));
        self.put(l4 + 4, &sequence.wrapping_add(offset as u32).to_be_bytes());
        self.put16(l4 + 12, self.get16(l4 + 12) & (flags | 0xf000));
    }

    /// UDP's length, and the checksum.
    fn transport(&mut self, layout: &Layout, tcp: bool, payload: &[u8]) {
        let l4 = layout.transport();
        let len = layout.l4 + payload.len();
        if !tcp {
            self.put16(l4 + 4, len as u16);
        }
        let header = &self.header[l4..];
        let length = (len as u32).to_be_bytes();
        let sum = if header.len().is_multiple_of(2) {
            !ones_complement_sum_of(&[header, payload, &length])
        } else {
            !ones_complement_sum_of(&[&[header, payload].concat(), &length])
        };
        self.put16(l4 + if tcp { 16 } else { 6 }, if !tcp && sum == 0 { 0xffff } else { sum });
    }
}
