//! What a sender puts before the bytes of a file, and how a receiver finds it.

use stillwire_driver::Mac;

/// Bytes of Ethernet, IPv4 and UDP headers.
pub const HEADERS: usize = 42;
/// Bytes of a [`Message`].
pub const MESSAGE: usize = 48;
/// UDP port of all receivers.
const TO: u16 = 7000;

/// What the bytes are that follow, and what they were when they were held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// The file's number.
    pub file: u32,
    /// Length, bytes: behind the message in the same datagram, or in the datagrams behind this one if it is a run.
    pub len: u32,
    /// Where they begin in the file, bytes.
    pub offset: u64,
    /// Their digest.
    pub crc32: u32,
    /// Whether the NIC cuts them into datagrams that have no message.
    pub is_run: bool,
    /// Number of the message.
    pub sequence: u64,
}

impl Message {
    /// As it goes over the wire.
    pub fn encode(&self) -> [u8; MESSAGE] {
        let words = [
            MAGIC,
            u64::from(self.file) << 32 | u64::from(self.len),
            self.offset,
            u64::from(self.crc32) << 32 | u64::from(self.is_run),
            self.sequence,
        ];
        let mut bytes = [0; MESSAGE];
        for (at, word) in words.iter().chain([&check(&words)]).enumerate() {
            bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The message at the start of a datagram; `None` if there is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<MESSAGE>()?;
        let word = |at: usize| u64::from_le_bytes(bytes[8 * at..8 * at + 8].try_into().unwrap_or_default());
        let words = [word(0), word(1), word(2), word(3), word(4)];
        (words[0] == MAGIC && word(5) == check(&words)).then_some(Self {
            file: (words[1] >> 32) as u32,
            len: words[1] as u32,
            offset: words[2],
            crc32: (words[3] >> 32) as u32,
            is_run: words[3] & 1 == 1,
            sequence: words[4],
        })
    }
}

fn check(words: &[u64; 5]) -> u64 {
    words.iter().fold(0x5357, |sum, word| (sum ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29))
}

/// Headers of a datagram of `len` bytes from port `from` of a NIC to itself. Checksums are the NIC's work.
pub fn headers(mac: Mac, from: u16, len: usize) -> [u8; HEADERS] {
    let mut bytes = [0; HEADERS];
    bytes[..6].copy_from_slice(&mac.0);
    bytes[6..12].copy_from_slice(&mac.0);
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&(len as u16 + 28).to_be_bytes());
    bytes[20] = 0x40;
    bytes[22..24].copy_from_slice(&[64, 17]);
    bytes[26..34].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    bytes[34..36].copy_from_slice(&from.to_be_bytes());
    bytes[36..38].copy_from_slice(&TO.to_be_bytes());
    bytes[38..40].copy_from_slice(&(len as u16 + 8).to_be_bytes());
    bytes
}

/// The port that a datagram of ours came from, and what is in it.
pub fn datagram(frame: &[u8]) -> Option<(u16, &[u8])> {
    let header = frame.first_chunk::<HEADERS>()?;
    let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let is_ours = number(12) == 0x0800 && header[14] == 0x45 && header[23] == 17 && number(36) == TO;
    let len = usize::from(number(38)).checked_sub(8)?;
    let payload = frame.get(HEADERS..HEADERS + len)?;
    is_ours.then_some((number(34), payload))
}

const MAGIC: u64 = 0x7374_696c_6c77_6972;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back() {
        let message = Message { file: 7, len: 1024, offset: 1 << 40, crc32: 0xdead_beef, is_run: true, sequence: 9 };
        let mut frame = headers(Mac([2, 0, 0, 0, 0, 1]), 4001, MESSAGE).to_vec();
        frame.extend(message.encode());
        frame.extend([0; 4]);
        let (port, bytes) = datagram(&frame).unwrap();
        assert_eq!((port, Message::decode(bytes)), (4001, Some(message)));
        for at in 0..MESSAGE {
            let mut wrong = bytes.to_vec();
            wrong[at] ^= 1;
            assert_eq!(Message::decode(&wrong), None, "byte {at}");
        }
        assert!((0..HEADERS).all(|len| datagram(&frame[..len]).is_none()));
    }
}
