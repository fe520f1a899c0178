//! Receive-side scaling: what is hashed, and the redirection table.

use super::register_file::Registers;
use super::{Part, regs};
use crate::headers::{Headers, Network, Transport};
use crate::toeplitz;

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
    let input = toeplitz::input(frame, headers, enable & (IP_V4 | IP_V6) == 0);
    Some(Hash { value: toeplitz::hash(&key(regs), &input), kind })
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

#[cfg(test)]
mod tests {
    use super::*;

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
