//! Receive-side scaling: the Toeplitz hash and the redirection table.

use super::register_file::Registers;
use super::{Part, regs};
use crate::headers::{Headers, Network, Transport};

/// A hash and the type that the descriptor names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hash {
    pub(super) value: u32,
    pub(super) kind: u8,
}

const MODE_RSS: u32 = 1;
const TCP_V4: u32 = 1 << 16;
const IP_V4: u32 = 1 << 17;
const IP_V6: u32 = 1 << 20;
const TCP_V6: u32 = 1 << 21;
const UDP_V4: u32 = 1 << 22;
const UDP_V6: u32 = 1 << 23;

/// The hash of a frame, when RSS is on and a hash is enabled for its protocols.
pub(super) fn hash(regs: &Registers, frame: &[u8], headers: Option<&Headers>) -> Option<Hash> {
    let mrqc = regs.get(regs::MRQC);
    let headers = headers.filter(|_| mrqc & 0xf == MODE_RSS)?;
    let v4 = matches!(headers.network, Network::V4 { .. });
    let transport = headers.transport.as_ref();
    let (enable, kind) = match (v4, transport.map(|(kind, _)| *kind)) {
        (true, Some(Transport::Tcp)) if mrqc & TCP_V4 != 0 => (TCP_V4, 1),
        (true, Some(Transport::Udp)) if mrqc & UDP_V4 != 0 => (UDP_V4, 7),
        (false, Some(Transport::Tcp)) if mrqc & TCP_V6 != 0 => (TCP_V6, 3),
        (false, Some(Transport::Udp)) if mrqc & UDP_V6 != 0 => (UDP_V6, 8),
        (true, _) if mrqc & IP_V4 != 0 => (IP_V4, 2),
        (false, _) if mrqc & IP_V6 != 0 => (IP_V6, 5),
        _ => return None,
    };
    let addresses = if v4 { 12..20 } else { 8..40 };
    let mut input = frame[headers.ip.start + addresses.start..headers.ip.start + addresses.end].to_vec();
    if let Some((_, body)) = transport.filter(|_| enable & (IP_V4 | IP_V6) == 0) {
        input.extend_from_slice(&frame[body.start..body.start + 4]);
    }
    Some(Hash { value: toeplitz(&key(regs), &input), kind })
}

/// The queue of a hash, in a table of as many entries as the part has: a byte each, the first 128 in RETA.
pub(super) fn queue(regs: &Registers, part: Part, hash: u32) -> u16 {
    let (entries, mask) = part.redirection();
    let entry = hash & (entries - 1);
    let table = if entry < 128 { regs::RETA } else { regs::ERETA - 128 };
    (regs.get(table + (entry & !3)) >> (8 * (entry & 3)) & mask) as u16
}

fn key(regs: &Registers) -> [u8; 40] {
    let mut key = [0; 40];
    for (i, bytes) in key.chunks_mut(4).enumerate() {
        bytes.copy_from_slice(&regs.get(regs::RSSRK + 4 * i as u32).to_le_bytes());
    }
    key
}

fn toeplitz(key: &[u8; 40], input: &[u8]) -> u32 {
    let mut window = u64::from_be_bytes([key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7]]);
    let mut hash = 0;
    for (i, byte) in input.iter().enumerate() {
        for bit in 0..8 {
            if byte >> (7 - bit) & 1 == 1 {
                hash ^= (window >> 32) as u32;
            }
            window <<= 1;
        }
        window |= u64::from(key.get(i + 8).copied().unwrap_or(0));
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microsofts_published_vectors() {
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
            0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
            0xbe, 0xac, 0x01, 0xfa,
        ];
        // 66.9.149.187:2794 to 161.142.100.80:1766.
        let input = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(toeplitz(&key, &input), 0x51cc_c178);
        assert_eq!(toeplitz(&key, &input[..8]), 0x323e_8fc2);
    }

    #[test]
    fn the_table_has_a_byte_an_entry() {
        let mut regs = Registers::new();
        regs.set(regs::RETA + 4, 0x0403_0201);
        regs.set(regs::ERETA + 380, 0x3e << 24);
        let queue = |part, hash| queue(&regs, part, hash);
        assert_eq!((queue(Part::Sfp, 4), queue(Part::Sfp, 7), queue(Part::X540, 128 + 5)), (1, 4, 2));
        assert_eq!(queue(Part::Sfp, 3), 0);
        // Only an X550 has more entries, and more bits in them.
        assert_eq!((queue(Part::X550, 511), queue(Part::X550, 128), queue(Part::X550, 512 + 4)), (0x3e, 0, 1));
        assert_eq!(queue(Part::Sfp, 511), 0);
    }
}
