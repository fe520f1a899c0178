//! Checksums and segmentation: what the device makes of the bytes that it read.
//!
//! [`plan`] looks at the bytes of the *first* read only and says how to change the bytes of the *second* read before they
//! go out. So a page that changes between the two goes out torn: new bytes under an old checksum.

use super::desc::{Command, Context};
use crate::checksum::{crc32c, ones_complement_sum, ones_complement_sum_of};
use crate::packet::{Fields, Packet};

/// Longest frame without segmentation, bytes (15.5 KiB, datasheet 7.2.3.2.2).
pub const LONGEST_FRAME: usize = 15_872;
/// Most that PAYLEN can say, plus the longest header, bytes.
pub const LONGEST_TSO: usize = (1 << 18) - 1 + 511;
/// Shortest frame, bytes: an Ethernet header.
pub const SHORTEST_FRAME: usize = 14;

const L4_UDP: u8 = 0;
const L4_TCP: u8 = 1;
const L4_SCTP: u8 = 2;

/// What the TCP flags of each segment are masked with (DTXTCPFLGL, DTXTCPFLGH).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlagMasks {
    /// First segment.
    pub first: u16,
    /// Segments between.
    pub middle: u16,
    /// Last segment.
    pub last: u16,
}

/// Decides what goes out for one frame's `bytes`; the error says why hardware would hang.
pub fn plan(
    command: &Command,
    context: Option<&Context>,
    bytes: &[u8],
    masks: FlagMasks,
) -> Result<Vec<Packet>, &'static str> {
    check_command(command, context, bytes.len())?;
    if let Some((from, at)) = command.legacy_checksum {
        return plan_legacy(from.into(), at.into(), bytes);
    }
    match context.filter(|_| command.ip_checksum || command.l4_checksum || command.segment) {
        None => Ok(vec![Packet::whole(bytes.len())]),
        Some(context) if command.segment => segment(command, context, bytes, masks),
        Some(context) => checksums(command, context, bytes),
    }
}

fn check_command(command: &Command, context: Option<&Context>, len: usize) -> Result<(), &'static str> {
    let offload = command.ip_checksum || command.l4_checksum || command.segment || command.vlan;
    if len < SHORTEST_FRAME {
        return Err("frame is shorter than an Ethernet header");
    }
    if !command.segment && len > LONGEST_FRAME {
        return Err("frame is longer than 15.5 KiB");
    }
    if !offload {
        return Ok(());
    }
    if !command.insert_fcs {
        return Err("IFCS must be set with any offload");
    }
    let context = context.ok_or("an offload without a context descriptor before it")?;
    if !(14..=127).contains(&context.mac_len) {
        return Err("MACLEN is not within 14..127");
    }
    if !command.segment && command.payload_len as usize != len {
        return Err("PAYLEN is not the frame's length");
    }
    Ok(())
}

fn plan_legacy(from: usize, at: usize, bytes: &[u8]) -> Result<Vec<Packet>, &'static str> {
    if from >= bytes.len() || at + 2 > bytes.len() {
        return Err("legacy checksum offsets lie beyond the frame");
    }
    let mut fields = Fields::new(bytes);
    fields.put16(at, !ones_complement_sum(&bytes[from..]));
    Ok(vec![Packet { header: 0, payload: 0..bytes.len(), patches: fields.patches }])
}

fn checksums(command: &Command, context: &Context, bytes: &[u8]) -> Result<Vec<Packet>, &'static str> {
    let ip = usize::from(context.mac_len);
    let l4 = ip + usize::from(context.ip_len);
    let mut fields = Fields::new(&bytes[..bytes.len().min(l4)]);
    if command.ip_checksum {
        check_ip_checksum(context, bytes.len())?;
        fields.put16(ip + 10, !ones_complement_sum(&bytes[ip..l4]));
    }
    if command.l4_checksum {
        let (at, least) = match context.l4_type {
            L4_TCP => (16, 20),
            L4_UDP => (6, 8),
            L4_SCTP => (8, 12),
            _ => return Err("L4T says no transport that has a checksum"),
        };
        if l4 + least > bytes.len() {
            return Err("MACLEN + IPLEN leave no room for the transport header");
        }
        if context.l4_type == L4_SCTP {
            fields.put(l4 + at, &crc32c(&[&bytes[l4..]]).to_le_bytes());
        } else {
            let sum = !ones_complement_sum(&bytes[l4..]);
            fields.put16(l4 + at, if context.l4_type == L4_UDP && sum == 0 { 0xffff } else { sum });
        }
    }
    Ok(vec![Packet { header: 0, payload: 0..bytes.len(), patches: fields.patches }])
}

fn check_ip_checksum(context: &Context, len: usize) -> Result<(), &'static str> {
    if !context.ipv4 {
        return Err("IXSM without TUCMD.IPV4");
    }
    if context.ip_len < 20 || usize::from(context.mac_len + context.ip_len) > len {
        return Err("IPLEN is no IPv4 header inside the frame");
    }
    Ok(())
}

fn segment(command: &Command, context: &Context, bytes: &[u8], masks: FlagMasks) -> Result<Vec<Packet>, &'static str> {
    let header = check_segmentation(command, context, bytes.len())?;
    let mss = usize::from(context.mss);
    let count = (bytes.len() - header).div_ceil(mss);
    Ok((0..count)
        .map(|i| {
            let start = header + i * mss;
            let payload = start..(start + mss).min(bytes.len());
            let mask = match (i, i + 1 == count) {
                (0, true) => masks.first | masks.last,
                (0, false) => masks.first,
                (_, true) => masks.last,
                _ => masks.middle,
            };
            let mut fields = Fields::new(&bytes[..header]);
            fields.network(context, payload.len(), i);
            fields.transport(context, &bytes[payload.clone()], i, mask);
            Packet { header, payload, patches: fields.patches }
        })
        .collect())
}

/// Checks what a segmentation needs; returns the length of all headers, bytes.
fn check_segmentation(command: &Command, context: &Context, len: usize) -> Result<usize, &'static str> {
    let header = usize::from(context.mac_len) + usize::from(context.ip_len) + usize::from(context.l4_len);
    let least = match context.l4_type {
        L4_TCP => 20,
        L4_UDP => 8,
        _ => return Err("L4T says no transport that can be segmented"),
    };
    if context.l4_len < least || header >= 512 || header >= len {
        return Err("TSO header lengths do not fit the frame");
    }
    if context.ip_len < if context.ipv4 { 20 } else { 40 } {
        return Err("IPLEN is shorter than the network header");
    }
    if context.mss == 0 {
        return Err("TSO with an MSS of 0");
    }
    if !command.l4_checksum || command.ip_checksum != context.ipv4 {
        return Err("TSO needs TXSM, and IXSM for IPv4 only");
    }
    if command.payload_len as usize != len - header {
        return Err("PAYLEN is not the payload's length");
    }
    Ok(header)
}

impl Fields {
    /// IP lengths, identification and header checksum of segment `i`.
    fn network(&mut self, context: &Context, payload: usize, i: usize) {
        let ip = usize::from(context.mac_len);
        let len = usize::from(context.ip_len);
        let below = usize::from(context.l4_len) + payload;
        if !context.ipv4 {
            self.put16(ip + 4, (len - 40 + below) as u16);
            return;
        }
        self.put16(ip + 2, (len + below) as u16);
        self.put16(ip + 4, self.get16(ip + 4).wrapping_add(i as u16));
        self.put16(ip + 10, !ones_complement_sum(&self.header[ip..ip + len]));
    }

    /// TCP sequence number and flags or UDP length, and the checksum, of segment `i`.
    fn transport(&mut self, context: &Context, payload: &[u8], i: usize, flags: u16) {
        let l4 = usize::from(context.mac_len + context.ip_len);
        let len = usize::from(context.l4_len) + payload.len();
        let tcp = context.l4_type == L4_TCP;
        if tcp {
            let sequence = u32::from(self.get16(l4 + 4)) << 16 | u32::from(self.get16(l4 + 6));
            let sequence = sequence.wrapping_add(i as u32 * u32::from(context.mss));
            self.put(l4 + 4, &sequence.to_be_bytes());
            self.put16(l4 + 12, self.get16(l4 + 12) & (flags | 0xf000));
        } else {
            self.put16(l4 + 4, len as u16);
        }
        // The checksum field holds the pseudo-header's sum without a length; the length is the device's to add.
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
