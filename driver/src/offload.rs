//! Which checksums the NIC shall compute, and what the header must hold for that. Pure.

use crate::{Error, Result};

/// The network layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ip {
    /// IPv4: the NIC also computes the header checksum.
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
}

/// Checksums to be computed by the NIC.
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
}

impl Offload {
    /// UDP in IPv4 without options in untagged Ethernet.
    pub const UDP_V4: Self = Self { ethernet_len: 14, ip: Ip::V4, ip_len: 20, transport: Some(Transport::Udp) };
    /// TCP in IPv4 without options in untagged Ethernet.
    pub const TCP_V4: Self = Self { ethernet_len: 14, ip: Ip::V4, ip_len: 20, transport: Some(Transport::Tcp) };
    /// UDP in IPv6 without extension headers in untagged Ethernet.
    pub const UDP_V6: Self = Self { ethernet_len: 14, ip: Ip::V6, ip_len: 40, transport: Some(Transport::Udp) };
    /// TCP in IPv6 without extension headers in untagged Ethernet.
    pub const TCP_V6: Self = Self { ethernet_len: 14, ip: Ip::V6, ip_len: 40, transport: Some(Transport::Tcp) };

    /// What must be written over a header before the NIC may have it.
    ///
    /// The pseudo-header sum goes into the transport checksum field, not inverted, with the transport length in it: the
    /// NIC adds the rest and inverts.
    ///
    /// # Errors
    /// [`Error::Frame`] when the header is too short for the layers named, or the datagram too long for IP.
    pub(crate) fn plan(self, header: &[u8], payload_len: usize) -> Result<Patches> {
        let ip_at = usize::from(self.ethernet_len);
        let l4_at = ip_at + usize::from(self.ip_len);
        let (shortest_ip, l4_len) = (self.ip.shortest(), self.transport.map_or(0, Transport::shortest));
        if usize::from(self.ethernet_len) < 14 || usize::from(self.ip_len) < shortest_ip {
            let (what, found, limit) = match self.ethernet_len {
                0..14 => ("offload: Ethernet header", usize::from(self.ethernet_len), 14),
                _ => ("offload: IP header", usize::from(self.ip_len), shortest_ip),
            };
            return Err(Error::Frame { what, found, limit });
        }
        if header.len() < l4_at + l4_len {
            return Err(Error::Frame { what: "offload: header bytes", found: header.len(), limit: l4_at + l4_len });
        }
        let datagram = header.len() - l4_at + payload_len;
        if datagram > usize::from(u16::MAX) {
            return Err(Error::Frame { what: "offload: transport length", found: datagram, limit: u16::MAX.into() });
        }
        let ip_checksum = (self.ip == Ip::V4).then_some(ip_at + 10);
        let transport = self.transport.map(|transport| {
            let sum = self.ip.pseudo_sum(&header[ip_at..l4_at], transport, datagram as u16);
            (l4_at + transport.checksum_at(), sum)
        });
        Ok(Patches { ip_checksum, transport })
    }
}

impl Ip {
    fn shortest(self) -> usize {
        match self {
            Ip::V4 => 20,
            Ip::V6 => 40,
        }
    }

    /// The folded, not inverted sum of the pseudo header (RFC 768, RFC 9293, RFC 8200 8.1). `ip` is the IP header.
    fn pseudo_sum(self, ip: &[u8], transport: Transport, l4_len: u16) -> u16 {
        let addresses = match self {
            Ip::V4 => &ip[12..20],
            Ip::V6 => &ip[8..40],
        };
        let words = addresses.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum: u32 = words.sum::<u32>() + transport.protocol() + u32::from(l4_len);
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }
}

impl Transport {
    fn shortest(self) -> usize {
        match self {
            Transport::Udp => 8,
            Transport::Tcp => 20,
        }
    }

    /// Offset of the checksum in the transport header, bytes.
    fn checksum_at(self) -> usize {
        match self {
            Transport::Udp => 6,
            Transport::Tcp => 16,
        }
    }

    fn protocol(self) -> u32 {
        match self {
            Transport::Udp => 17,
            Transport::Tcp => 6,
        }
    }
}

/// Bytes to be written over a header: offsets from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Patches {
    /// Where a zero IPv4 header checksum goes.
    pub ip_checksum: Option<usize>,
    /// Where the pseudo-header sum goes, and the sum.
    pub transport: Option<(usize, u16)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    /// What a NIC does: sums from the transport header to the end of the frame and inverts (one's complement).
    fn finish(frame: &mut [u8], offload: Offload) {
        let l4_at = usize::from(offload.ethernet_len) + usize::from(offload.ip_len);
        let (at, _) = offload.plan(frame, 0).unwrap().transport.unwrap();
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
            let patches = offload.plan(&expect[..header_len], expect.len() - header_len).unwrap();
            let mut frame = expect.clone();
            let (at, sum) = patches.transport.unwrap();
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            finish(&mut frame, offload);
            prop_assert_eq!(frame, expect);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |offload: Offload, header: usize, payload: usize| {
            offload.plan(&vec![0; header], payload).map(|_| ()).unwrap_err().to_string()
        };
        assert!(refused(Offload::UDP_V4, 41, 0).contains("header bytes is 41, the limit is 42"));
        assert!(refused(Offload { ethernet_len: 13, ..Offload::UDP_V4 }, 100, 0).contains("Ethernet header"));
        assert!(refused(Offload { ip_len: 19, ..Offload::UDP_V4 }, 100, 0).contains("IP header"));
        assert!(refused(Offload::UDP_V4, 42, 65_528).contains("transport length is 65536"));
        let ip_only = Offload { transport: None, ..Offload::UDP_V4 };
        assert_eq!(ip_only.plan(&[0; 34], 10).unwrap(), Patches { ip_checksum: Some(24), transport: None });
    }
}
