//! Descriptors as they lie in memory: little-endian 64-bit words, two to transmit, four to receive.

use bitfield_struct::bitfield;

/// Bytes in a transmit descriptor.
pub const TX_LEN: u64 = 16;
/// Bytes in a receive descriptor.
pub const RX_LEN: u64 = 32;
/// The second word of a transmit descriptor that is done.
pub const TX_DONE: u64 = 0xf;
/// Bytes of a cache line: descriptors are written back by the line.
pub const LINE: u64 = 64;

const TYPE_DATA: u8 = 0;
const TYPE_CONTEXT: u8 = 1;
const TYPE_FLOW: u8 = 8;

/// A transmit descriptor that was understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TxDescriptor {
    /// What a frame needs beyond its data descriptors.
    Context(Context),
    /// A rule for the flow director; the frame that follows it is a pattern and is not sent.
    Flow,
    /// Bytes of a frame.
    Data(Data),
}

/// The parameters of a frame that is cut, or gets a second tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Context {
    /// Cut it.
    pub segment: bool,
    /// Payload of the whole, bytes.
    pub payload_len: u32,
    /// Payload of a segment, bytes.
    pub mss: u16,
    /// Tag to insert.
    pub tag: Option<u16>,
}

/// A data descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Data {
    /// First byte, device address.
    pub address: u64,
    /// Bytes.
    pub len: u16,
    /// The last of its frame.
    pub end: bool,
    /// Report when done.
    pub report: bool,
    /// A pattern for the flow director, not to be sent.
    pub dummy: bool,
    /// What to do with the frame; counts in the first descriptor of a frame.
    pub command: Command,
}

/// What the first data descriptor asks for its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Command {
    /// Network header: 0 none, 1 IPv6, 2 IPv4, 3 IPv4 whose checksum is to be completed.
    pub ip: u8,
    /// Transport whose checksum is to be completed: 0 none, 1 TCP, 2 SCTP, 3 UDP.
    pub l4: u8,
    /// Length of the link header, bytes.
    pub mac_len: u16,
    /// Length of the network header, bytes.
    pub ip_len: u16,
    /// Length of the transport header, bytes.
    pub l4_len: u16,
    /// Tag to insert.
    pub tag: Option<u16>,
}

/// Second word of a data descriptor.
#[bitfield(u64)]
struct DataWord {
    #[bits(4)]
    kind: u8,
    end: bool,
    report: bool,
    _crc: bool,
    tagged: bool,
    dummy: bool,
    #[bits(2)]
    ip: u8,
    _rsv: bool,
    #[bits(2)]
    l4: u8,
    _re: bool,
    _rsv2: bool,
    #[bits(7)]
    mac_words: u16,
    #[bits(7)]
    ip_dwords: u16,
    #[bits(4)]
    l4_dwords: u16,
    #[bits(14)]
    len: u16,
    #[bits(16)]
    tag: u16,
}

/// First word of a context descriptor.
#[bitfield(u64)]
struct ContextLow {
    #[bits(32)]
    tunnel: u32,
    #[bits(16)]
    tag: u16,
    #[bits(16)]
    _rsv: u16,
}

/// Second word of a context descriptor.
#[bitfield(u64)]
struct ContextHigh {
    #[bits(4)]
    kind: u8,
    segment: bool,
    timestamp: bool,
    tagged: bool,
    _tag_place: bool,
    #[bits(2)]
    to: u8,
    #[bits(20)]
    _rsv: u32,
    #[bits(18)]
    payload_len: u32,
    #[bits(2)]
    _rsv2: u8,
    #[bits(14)]
    mss: u16,
}

/// Understands a transmit descriptor; the error says what the device takes for malicious.
pub fn decode_tx([low, high]: [u64; 2]) -> Result<TxDescriptor, &'static str> {
    let word = DataWord::from(high);
    match word.kind() {
        TYPE_DATA => Ok(TxDescriptor::Data(Data {
            address: low,
            len: word.len(),
            end: word.end(),
            report: word.report(),
            dummy: word.dummy(),
            command: Command {
                ip: word.ip(),
                l4: word.l4(),
                mac_len: 2 * word.mac_words(),
                ip_len: 4 * word.ip_dwords(),
                l4_len: 4 * word.l4_dwords(),
                tag: word.tagged().then_some(word.tag()),
            },
        })),
        TYPE_FLOW => Ok(TxDescriptor::Flow),
        TYPE_CONTEXT => decode_context(ContextLow::from(low), ContextHigh::from(high)),
        _ => Err("a transmit descriptor of a kind that is not modelled (DTYPE)"),
    }
}

fn decode_context(low: ContextLow, high: ContextHigh) -> Result<TxDescriptor, &'static str> {
    match () {
        () if low.tunnel() != 0 => Err("offloads inside of tunnels are not modelled"),
        () if high.timestamp() => Err("time stamps are not modelled"),
        () => Ok(TxDescriptor::Context(Context {
            segment: high.segment(),
            payload_len: high.payload_len(),
            mss: high.mss(),
            tag: high.tagged().then_some(low.tag()),
        })),
    }
}

/// A transmit descriptor's bytes as words.
pub fn words(bytes: &[u8; TX_LEN as usize]) -> [u64; 2] {
    let (words, _) = bytes.as_chunks::<8>();
    [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
}

/// What is told of a received frame; but for lengths and `end`, in its last descriptor only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RxWriteBack {
    /// Bytes in this buffer.
    pub len: u16,
    /// The last buffer of its frame.
    pub end: bool,
    /// What the parser took the frame for.
    pub packet_type: u16,
    /// Whether network and transport were looked at.
    pub parsed: bool,
    /// The IPv4 header's checksum is wrong.
    pub ip_error: bool,
    /// The transport's checksum is wrong.
    pub l4_error: bool,
    /// There are extension headers.
    pub extensions: bool,
    /// Hash, where there is one.
    pub hash: Option<u32>,
    /// Tag that was taken out of the frame.
    pub tag: Option<u16>,
    /// The tag goes into the first place for one (L2TAG1).
    pub tag_first: bool,
}

/// Layouts of a receive descriptor that the model knows (RXDID).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// 1: as older devices have it, 32 bytes.
    Legacy,
    /// 2: flexible, for a NIC.
    Nic,
    /// 22: flexible, for OVS: hash and flow in each other's places.
    Ovs,
}

impl Profile {
    /// Of QRXFLXP_CNTXT.RXDID.
    pub fn new(rxdid: u32) -> Option<Self> {
        match rxdid {
            1 => Some(Self::Legacy),
            2 => Some(Self::Nic),
            22 => Some(Self::Ovs),
            _ => None,
        }
    }
}

/// Second word of a flexible write-back.
#[bitfield(u64)]
struct FlexHigh {
    done: bool,
    end: bool,
    _hbo: bool,
    parsed: bool,
    ip_error: bool,
    l4_error: bool,
    _outer_ip_error: bool,
    _outer_udp_error: bool,
    _loopback: bool,
    extensions: bool,
    _rx_error: bool,
    crc_present: bool,
    hashed: bool,
    tagged: bool,
    #[bits(2)]
    _rsv: u8,
    #[bits(16)]
    tag: u16,
    #[bits(32)]
    word: u32,
}

/// Second word of a legacy write-back.
#[bitfield(u64)]
struct LegacyHigh {
    done: bool,
    end: bool,
    tagged: bool,
    parsed: bool,
    #[bits(8)]
    _status: u8,
    #[bits(2)]
    hash_kind: u8,
    #[bits(6)]
    _status2: u8,
    #[bits(3)]
    _errors: u8,
    ip_error: bool,
    l4_error: bool,
    #[bits(5)]
    _errors2: u8,
    #[bits(8)]
    packet_type: u8,
    #[bits(14)]
    len: u16,
    #[bits(12)]
    _header: u16,
}

/// No rule of the flow director matched.
const NO_FLOW: u32 = u32::MAX;
/// The hash in a legacy descriptor is RSS's.
const LEGACY_RSS: u8 = 3;

impl RxWriteBack {
    /// The four words, with the done bit set in the second.
    pub fn encode(&self, profile: Profile) -> [u64; 4] {
        match profile {
            Profile::Legacy => self.encode_legacy(),
            Profile::Nic => self.encode_flex(2, self.hash.unwrap_or(0), NO_FLOW),
            Profile::Ovs => self.encode_flex(22, NO_FLOW, self.hash.unwrap_or(0)),
        }
    }

    fn encode_flex(&self, rxdid: u64, third: u32, sixth: u32) -> [u64; 4] {
        let (first, second) = if self.tag_first { (self.tag, None) } else { (None, self.tag) };
        let low = rxdid | u64::from(self.packet_type & 0x3ff) << 16 | u64::from(self.len & 0x3fff) << 32;
        let high = FlexHigh::new()
            .with_done(true)
            .with_end(self.end)
            .with_parsed(self.parsed)
            .with_ip_error(self.ip_error)
            .with_l4_error(self.l4_error)
            .with_extensions(self.extensions)
            .with_hashed(self.hash.is_some())
            .with_tagged(first.is_some())
            .with_tag(first.unwrap_or(0))
            .with_word(third);
        // L2TAG2P in the second status word, the tag in the second of its two places.
        let tags = u64::from(second.is_some()) << 11 | u64::from(second.unwrap_or(0)) << 48;
        [low, high.into(), tags, sixth.into()]
    }

    fn encode_legacy(&self) -> [u64; 4] {
        let (first, second) = if self.tag_first { (self.tag, None) } else { (None, self.tag) };
        let low = u64::from(first.unwrap_or(0)) << 16 | u64::from(self.hash.unwrap_or(0)) << 32;
        let high = LegacyHigh::new()
            .with_done(true)
            .with_end(self.end)
            .with_tagged(first.is_some())
            .with_parsed(self.parsed)
            .with_ip_error(self.ip_error)
            .with_l4_error(self.l4_error)
            .with_hash_kind(if self.hash.is_some() { LEGACY_RSS } else { 0 })
            .with_packet_type(self.packet_type as u8)
            .with_len(self.len);
        [low, high.into(), u64::from(second.is_some()) | u64::from(second.unwrap_or(0)) << 48, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_from_bytes() {
        // 1500 bytes at 0x1_2345_6780; EOP | RS | IL2TAG1, IPv4 with checksum, TCP; MACLEN 7 words, IPLEN 5, L4LEN 5; tag 0x64.
        let high: u64 = 0x01 << 4
            | 0x02 << 4
            | 0x08 << 4
            | 0x60 << 4
            | 0x100 << 4
            | 7 << 16
            | 5 << 23
            | 5 << 30
            | 1500 << 34
            | 0x64 << 48;
        let mut bytes = [0x80, 0x67, 0x45, 0x23, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        assert_eq!(bytes[8..], [0xb0, 0x16, 0x87, 0x42, 0x71, 0x17, 0x64, 0x00]);
        let Ok(TxDescriptor::Data(data)) = decode_tx(words(&bytes)) else { panic!("a data descriptor") };
        assert_eq!((data.address, data.len, data.end, data.report), (0x1_2345_6780, 1500, true, true));
        let wanted = Command { ip: 3, l4: 1, mac_len: 14, ip_len: 20, l4_len: 20, tag: Some(0x64) };
        assert_eq!(data.command, wanted);
    }

    #[test]
    fn context_from_bytes() {
        // TSO | IL2TAG2, TSO_LEN 65000, MSS 1448, tag 5.
        let low: u64 = 5 << 32;
        let high: u64 = 1 | 1 << 4 | 4 << 4 | 65_000 << 30 | 1448 << 50;
        let wanted = Context { segment: true, payload_len: 65_000, mss: 1448, tag: Some(5) };
        assert_eq!(decode_tx([low, high]), Ok(TxDescriptor::Context(wanted)));
        assert!(decode_tx([1, high]).is_err() && decode_tx([0, 1 | 2 << 4]).is_err());
        assert!(decode_tx([0, 7]).is_err() && decode_tx([0, 0xf]).is_err());
    }

    #[test]
    fn receive_write_backs_to_bytes() {
        let back = RxWriteBack {
            len: 60,
            end: true,
            packet_type: 24,
            parsed: true,
            l4_error: true,
            hash: Some(0x1122_3344),
            tag: Some(5),
            tag_first: true,
            ..RxWriteBack::default()
        };
        let [low, high, tags, flow] = back.encode(Profile::Nic);
        assert_eq!(low.to_le_bytes(), [2, 0, 24, 0, 60, 0, 0, 0]);
        // DD | EOF | L3L4P | L4E | RSS_VALID | L2TAG1P; the tag; the hash.
        assert_eq!(high.to_le_bytes(), [0x2b, 0x30, 5, 0, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!((tags, flow), (0, 0xffff_ffff));
        let [low, high, _, hash] = back.encode(Profile::Ovs);
        assert_eq!((low as u8, high >> 32, hash), (22, 0xffff_ffff, 0x1122_3344));
        let second = RxWriteBack { tag_first: false, ..back }.encode(Profile::Nic);
        assert_eq!((second[1] >> 13 & 1, second[2].to_le_bytes()), (0, [0, 8, 0, 0, 0, 0, 5, 0]));
        let [low, high, ..] = back.encode(Profile::Legacy);
        assert_eq!((low >> 16 & 0xffff, high & 0xf, high >> 38 & 0x3fff), (5, 0xf, 60));
    }
}
