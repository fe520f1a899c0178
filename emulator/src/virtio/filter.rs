//! Which received frames are the driver's, and which queue they come on.

use crate::checksum::ones_complement_sum;
use crate::headers::{self, Network};

/// Addresses in each table.
pub const TABLE: usize = 64;
/// Flows that are told apart.
const FLOWS: usize = 256;

/// Receive modes. A device takes everything until it is told otherwise.
pub struct Filter {
    /// Every frame.
    pub promiscuous: bool,
    /// Every multicast frame.
    pub all_multicast: bool,
    addresses: Vec<[u8; 6]>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { promiscuous: true, all_multicast: false, addresses: Vec::new() }
    }
}

impl Filter {
    /// Sets both tables, unicast and multicast, from a command; `None` when it is no such command.
    pub fn set_tables(&mut self, mut bytes: &[u8]) -> Option<()> {
        let mut addresses = Vec::new();
        for _ in 0..2 {
            let (count, rest) = bytes.split_first_chunk()?;
            let count = usize::try_from(u32::from_le_bytes(*count)).ok().filter(|count| *count <= TABLE)?;
            let (table, rest) = rest.split_at_checked(6 * count)?;
            addresses.extend_from_slice(table.as_chunks().0);
            bytes = rest;
        }
        self.addresses = addresses;
        Some(())
    }

    /// Whether a frame is for a driver whose address is `mac`.
    pub fn accepts(&self, frame: &[u8], mac: &[u8; 6]) -> bool {
        let Some(destination) = frame.first_chunk::<6>() else { return false };
        self.promiscuous
            || destination == mac
            || *destination == [0xff; 6]
            || destination[0] & 1 == 1 && self.all_multicast
            || self.addresses.contains(destination)
    }
}

/// A flow comes back on the pair that it was sent on.
pub struct Steering {
    pairs: [u8; FLOWS],
}

impl Default for Steering {
    fn default() -> Self {
        Self { pairs: [0; FLOWS] }
    }
}

impl Steering {
    /// A frame of its flow was sent on `pair`.
    pub fn learn(&mut self, frame: &[u8], pair: usize) {
        self.pairs[flow(frame)] = pair as u8;
    }

    /// The pair that a received frame belongs to, of the first `active`.
    pub fn pair(&self, frame: &[u8], active: u16) -> usize {
        usize::from(self.pairs[flow(frame)]) % usize::from(active.max(1))
    }
}

/// A number that both directions of a flow share: a sum does not mind which address comes first.
fn flow(frame: &[u8]) -> usize {
    let Some(parsed) = headers::parse(frame) else { return 0 };
    let addresses = match parsed.network {
        Network::V4 { .. } => parsed.ip.start + 12..parsed.ip.start + 20,
        Network::V6 { .. } => parsed.ip.start + 8..parsed.ip.start + 40,
    };
    let ports = parsed.transport.map_or(0..0, |(_, body)| body.start..body.start + 4);
    let sum = u32::from(ones_complement_sum(&frame[addresses])) + u32::from(ones_complement_sum(&frame[ports]));
    ((sum ^ sum >> 8) & 0xff) as usize
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn udp(from: u8, to: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([from; 6], [to; 6]).ipv4([10, 0, 0, from], [10, 0, 0, to], 9);
        builder.udp(from.into(), to.into()).write(&mut frame, &[7; 9]).unwrap();
        frame
    }

    #[test]
    fn a_flow_comes_back_where_it_left() {
        let mut steering = Steering::default();
        steering.learn(&udp(2, 4), 3);
        assert_eq!(steering.pair(&udp(4, 2), 4), 3);
        assert_eq!(steering.pair(&udp(4, 3), 4), 0);
        assert_eq!(steering.pair(&udp(4, 2), 2), 1, "a pair that is in use");
    }

    #[test]
    fn modes_and_tables() {
        let mut filter = Filter::default();
        let mac = [2; 6];
        let all = [[2; 6], [0xff; 6], [3; 6], [4; 6], [5; 6]];
        let accepted = |filter: &Filter| all.map(|to| filter.accepts(&[to, [9; 6]].concat(), &mac));
        assert_eq!(accepted(&filter), [true; 5]);
        filter.promiscuous = false;
        assert_eq!(accepted(&filter), [true, true, false, false, false]);
        filter.set_tables(&[&[1, 0, 0, 0, 4, 4, 4, 4, 4, 4][..], &[1, 0, 0, 0, 3, 3, 3, 3, 3, 3]].concat()).unwrap();
        assert_eq!(accepted(&filter), [true, true, true, true, false]);
        for short in [&[][..], &[1, 0, 0, 0], &[0, 0, 0, 0], &[255, 255, 255, 255, 0, 0, 0, 0]] {
            assert_eq!(filter.set_tables(short), None);
        }
        filter.set_tables(&[0; 8]).unwrap();
        filter.all_multicast = true;
        assert_eq!(accepted(&filter), [true, true, true, false, true]);
    }
}
