//! The far end of a TCP connection, as little of it as a sender needs: it takes, counts, and acknowledges.
//!
//! It reads headers only; the payload may be cut off. It keeps nothing, so what comes after a gap is sent again.

use etherparse::{IpNumber, Ipv4Header, Ipv4HeaderSlice, TcpHeader, TcpHeaderSlice, TcpOptionElement};

/// One end of at most one connection, with what it has counted.
pub struct FarEnd {
    payload: u16,
    connection: Option<Connection>,
    owed: Owed,
    /// Segments with payload.
    pub segments: u64,
    /// Bytes that came in order, each counted once: what has been acknowledged, or will be by the next answer.
    pub bytes: u64,
    /// Segments that came out of order, or again.
    pub wasted: u64,
}

/// Who is there, and how far.
struct Connection {
    near: ([u8; 4], u16),
    far: ([u8; 4], u16),
    /// The sequence number that is expected.
    next: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    Nothing,
    Welcome,
    Acknowledgement,
}

impl FarEnd {
    /// One that takes segments of `payload` bytes.
    pub fn new(payload: u16) -> Self {
        Self { payload, connection: None, owed: Owed::Nothing, segments: 0, bytes: 0, wasted: 0 }
    }

    /// Takes an IPv4 packet, or the beginning of one with both headers whole. What is not of the connection is left
    /// alone: an interface says things of its own.
    pub fn take(&mut self, packet: &[u8]) {
        let Ok(ip) = Ipv4HeaderSlice::from_slice(packet) else { return };
        if ip.protocol() != IpNumber::TCP {
            return;
        }
        let Ok(tcp) = TcpHeaderSlice::from_slice(&packet[ip.slice().len()..]) else { return };
        let headers = ip.slice().len() + tcp.slice().len();
        let Some(len) = usize::from(ip.total_len()).checked_sub(headers) else { return };
        let near = (ip.source(), tcp.source_port());
        let far = (ip.destination(), tcp.destination_port());
        if tcp.syn() {
            self.connection = Some(Connection { near, far, next: tcp.sequence_number().wrapping_add(1) });
            self.owed = Owed::Welcome;
        } else if let Some(connection) = self.connection.as_mut().filter(|there| there.near == near && there.far == far)
            && len > 0
        {
            let fresh = fresh(connection.next, tcp.sequence_number(), len as u32);
            connection.next = connection.next.wrapping_add(fresh);
            self.segments += 1;
            self.bytes += u64::from(fresh);
            self.wasted += u64::from(fresh == 0);
            self.owed = Owed::Acknowledgement;
        }
    }

    /// Writes the packet that is owed to the sender behind what is in `out`; whether there was one.
    pub fn answer(&mut self, out: &mut Vec<u8>) -> bool {
        let (Some(connection), owed) = (&self.connection, std::mem::replace(&mut self.owed, Owed::Nothing)) else {
            return false;
        };
        match owed {
            Owed::Nothing => return false,
            Owed::Welcome => connection.say(0, out, |tcp| {
                tcp.syn = true;
                let options =
                    [TcpOptionElement::MaximumSegmentSize(self.payload), TcpOptionElement::WindowScale(SCALE)];
                // Seven bytes of the forty that there are.
                tcp.set_options(&options).expect("they fit");
            }),
            Owed::Acknowledgement => connection.say(1, out, |_| {}),
        }
        true
    }
}

impl Connection {
    /// A packet to the sender with an acknowledgement and what `more` sets.
    fn say(&self, sequence: u32, out: &mut Vec<u8>, more: impl FnOnce(&mut TcpHeader)) {
        let mut tcp = TcpHeader::new(self.far.1, self.near.1, sequence, WINDOW);
        tcp.ack = true;
        tcp.acknowledgment_number = self.next;
        more(&mut tcp);
        let mut ip = Ipv4Header::new(tcp.header_len_u16(), 64, IpNumber::TCP, self.far.0, self.near.0)
            .expect("a header is shorter than 64 KiB");
        ip.header_checksum = ip.calc_header_checksum();
        tcp.checksum = tcp.calc_checksum_ipv4(&ip, &[]).expect("there is no payload");
        out.extend_from_slice(&ip.to_bytes());
        out.extend_from_slice(&tcp.to_bytes());
    }
}

/// How many of the `len` bytes from sequence number `first` on are new to who expects `next`: those behind what it has,
/// unless there is a gap before them. Numbers wrap; a distance of less than 2 GiB back is back.
fn fresh(next: u32, first: u32, len: u32) -> u32 {
    let known = next.wrapping_sub(first);
    if known < 1 << 31 { len.saturating_sub(known) } else { 0 }
}

/// Window in units of 2^[`SCALE`] bytes: 2 MiB, which is less than the queue of the interface takes in frames.
const WINDOW: u16 = 1 << 14;
/// Shift of the window; the first window, in the welcome, is not shifted.
const SCALE: u8 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: [u8; 4] = [192, 0, 2, 1];
    const FAR: [u8; 4] = [192, 0, 2, 2];

    /// A packet of the sender's, cut off behind the headers.
    fn packet(sequence: u32, payload: u16, syn: bool) -> Vec<u8> {
        let mut tcp = TcpHeader::new(4000, 9, sequence, 1000);
        (tcp.syn, tcp.ack) = (syn, !syn);
        let ip = Ipv4Header::new(20 + payload, 64, IpNumber::TCP, NEAR, FAR).unwrap();
        [&ip.to_bytes()[..], &tcp.to_bytes()[..]].concat()
    }

    fn connected(first: u32) -> FarEnd {
        let mut far = FarEnd::new(1460);
        far.take(&packet(first, 0, true));
        assert!(far.answer(&mut Vec::new()));
        far
    }

    fn acknowledged(far: &mut FarEnd) -> u32 {
        let mut out = Vec::new();
        assert!(far.answer(&mut out), "an answer is owed");
        TcpHeaderSlice::from_slice(&out[20..]).unwrap().acknowledgment_number()
    }

    #[test]
    fn bytes_are_new_behind_what_is_known_and_not_behind_a_gap() {
        for next in [0, 1, 1000, 0x7fff_ffff, 0x8000_0000, u32::MAX - 5, u32::MAX] {
            let at = |offset: i32| next.wrapping_add_signed(offset);
            assert_eq!(fresh(next, at(0), 100), 100, "the next");
            assert_eq!(fresh(next, at(-40), 100), 60, "half known");
            assert_eq!(fresh(next, at(-100), 100), 0, "known");
            assert_eq!(fresh(next, at(-1_000_000), 100), 0, "long known");
            assert_eq!(fresh(next, at(1), 100), 0, "behind a gap of one");
            assert_eq!(fresh(next, at(1 << 20), 100), 0, "behind a gap");
        }
    }

    #[test]
    fn the_welcome_has_sizes_and_right_checksums() {
        let mut far = FarEnd::new(1460);
        far.take(&packet(u32::MAX, 0, true));
        let mut out = Vec::new();
        assert!(far.answer(&mut out) && !far.answer(&mut out), "once");
        let expected: &[u8] = &[
            // IPv4: 48 bytes, TTL 64, TCP; its checksum and the next one were computed by hand (RFC 1071).
            0x45, 0, 0, 48, 0, 0, 0x40, 0, 64, 6, 0xb6, 0xc4, 192, 0, 2, 2, 192, 0, 2, 1, //
            // Port 9 to 4000, sequence number 0, acknowledges 2^32 - 1, which is followed by 0: SYN and ACK.
            0, 9, 0x0f, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 0x70, 0x12, 0x40, 0, 0, 0, 0, 0, //
            // Maximum segment size 1460, window scale 7, end.
            2, 4, 0x05, 0xb4, 3, 3, 7, 0,
        ];
        let mut expected = expected.to_vec();
        let checksum = rfc_1071(&[&expected[12..20], &[0, 6, 0, 28], &expected[20..]].concat());
        expected[36..38].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(out, expected);
        assert_eq!(rfc_1071(&out[..20]), 0, "of the IPv4 header");
    }

    /// The internet checksum, plainly, to hold against the library's.
    fn rfc_1071(bytes: &[u8]) -> u16 {
        let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        !((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn payload_is_acknowledged_across_the_wrap_and_counted_once() {
        let mut far = connected(u32::MAX - 1000);
        far.take(&packet(u32::MAX - 999, 1460, false));
        assert_eq!(acknowledged(&mut far), 460);
        far.take(&packet(u32::MAX - 999, 1460, false));
        assert_eq!((acknowledged(&mut far), far.bytes, far.segments, far.wasted), (460, 1460, 2, 1), "again");
        far.take(&packet(1920, 1460, false));
        assert_eq!((acknowledged(&mut far), far.bytes, far.segments, far.wasted), (460, 1460, 3, 2), "after a gap");
        far.take(&packet(460, 1460, false));
        far.take(&packet(1920, 60_000, false));
        assert_eq!((acknowledged(&mut far), far.bytes), (61_920, 62_920), "one answer for two");
        assert!(!far.answer(&mut Vec::new()), "nothing is owed");
    }

    #[test]
    fn what_is_not_of_the_connection_is_left_alone() {
        let mut far = connected(7);
        let mut other = packet(8, 100, false);
        other[21] ^= 1;
        let mut datagram = packet(8, 100, false);
        datagram[9] = 17;
        let mut short = packet(8, 100, false);
        (short[2], short[3]) = (0, 21);
        let whole = packet(8, 100, false);
        for noise in [&other[..], &datagram, &short, &packet(8, 0, false), &whole[..39], &[], &[0x60; 60]] {
            far.take(noise);
            assert!(!far.answer(&mut Vec::new()), "{noise:?}");
        }
        assert_eq!((far.bytes, far.segments), (0, 0));
        let mut nobody = FarEnd::new(1460);
        nobody.take(&whole);
        assert!(!nobody.answer(&mut Vec::new()) && nobody.bytes == 0);
    }
}
