//! Descriptors as they lie in memory: two little-endian 64-bit words.

use bitfield_struct::bitfield;

/// Bytes in a descriptor.
pub const LEN: u64 = 16;
/// Offset of the word with the status bits in a transmit descriptor, bytes.
pub const TX_STATUS: u64 = 12;
/// Descriptor done, in that word.
pub const TX_DD: u32 = 1;

/// A transmit descriptor that was understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TxDescriptor {
    /// Offsets and sizes for the offloads of the frames that follow.
    Context {
        /// Which of the queue's two contexts it replaces.
        index: usize,
        /// The context.
        context: Context,
    },
    /// Bytes of a frame.
    Data(Data),
}

/// The parameters that an offload needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Context {
    /// Length of the link header, bytes.
    pub mac_len: u16,
    /// Length of the network header, bytes.
    pub ip_len: u16,
    /// Length of the transport header, bytes.
    pub l4_len: u16,
    /// Payload of a segment, bytes.
    pub mss: u16,
    /// Tag to insert.
    pub vlan: u16,
    /// The network header is IPv4.
    pub ipv4: bool,
    /// 0 UDP, 1 TCP, 2 SCTP.
    pub l4_type: u8,
}

/// A data descriptor, advanced or legacy.
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
    /// What to do with the frame; counts in the first descriptor of a frame.
    pub command: Command,
    /// Words 3 as found, to be written back with the done bit.
    pub status: u32,
}

/// What the first descriptor asks for its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Command {
    /// Insert the frame check sequence.
    pub insert_fcs: bool,
    /// Insert the VLAN tag.
    pub vlan: bool,
    /// Segment.
    pub segment: bool,
    /// Insert the IPv4 header checksum.
    pub ip_checksum: bool,
    /// Insert the transport's checksum.
    pub l4_checksum: bool,
    /// Which context.
    pub context: u8,
    /// PAYLEN, bytes.
    pub payload_len: u32,
    /// A legacy descriptor's own tag.
    pub legacy_vlan: Option<u16>,
    /// A legacy descriptor's checksum: sum from the first offset on, store at the second, bytes.
    pub legacy_checksum: Option<(u8, u8)>,
    /// It is a legacy descriptor.
    pub legacy: bool,
}

/// Second word of every transmit descriptor: what tells the kinds apart.
#[bitfield(u64)]
struct AnyTx {
    #[bits(20)]
    _low: u32,
    #[bits(4)]
    kind: u8,
    #[bits(5)]
    _mid: u8,
    extended: bool,
    #[bits(34)]
    _high: u64,
}

/// Second word of an advanced data descriptor.
#[bitfield(u64)]
struct AdvancedData {
    #[bits(16)]
    len: u16,
    #[bits(2)]
    _rsv: u8,
    linksec: bool,
    timestamp: bool,
    #[bits(4)]
    kind: u8,
    end: bool,
    insert_fcs: bool,
    _rsv2: bool,
    report: bool,
    _rsv3: bool,
    extended: bool,
    vlan: bool,
    segment: bool,
    #[bits(4)]
    status: u8,
    #[bits(3)]
    context: u8,
    check_context: bool,
    ip_checksum: bool,
    l4_checksum: bool,
    ipsec: bool,
    #[bits(3)]
    _rsv4: u8,
    #[bits(18)]
    payload_len: u32,
}

/// First word of a context descriptor.
#[bitfield(u64)]
struct ContextLow {
    #[bits(9)]
    ip_len: u16,
    #[bits(7)]
    mac_len: u16,
    #[bits(16)]
    vlan: u16,
    #[bits(32)]
    _security: u32,
}

/// Second word of a context descriptor.
#[bitfield(u64)]
struct ContextHigh {
    #[bits(9)]
    _security: u16,
    snap: bool,
    ipv4: bool,
    #[bits(2)]
    l4_type: u8,
    #[bits(7)]
    _rsv: u8,
    #[bits(4)]
    kind: u8,
    #[bits(5)]
    _rsv2: u8,
    extended: bool,
    #[bits(2)]
    _rsv3: u8,
    #[bits(4)]
    _rsv4: u8,
    #[bits(3)]
    index: u8,
    _rsv5: bool,
    #[bits(8)]
    l4_len: u16,
    #[bits(16)]
    mss: u16,
}

/// Second word of a legacy transmit descriptor.
#[bitfield(u64)]
struct Legacy {
    #[bits(16)]
    len: u16,
    #[bits(8)]
    checksum_at: u8,
    end: bool,
    insert_fcs: bool,
    insert_checksum: bool,
    report: bool,
    _rsv: bool,
    extended: bool,
    vlan: bool,
    _rsv2: bool,
    #[bits(8)]
    status: u8,
    #[bits(8)]
    checksum_from: u8,
    #[bits(16)]
    tag: u16,
}

const KIND_CONTEXT: u8 = 2;
const KIND_DATA: u8 = 3;

/// Reads a transmit descriptor; the error says what hardware could not do with it.
pub fn decode_tx(words: [u64; 2]) -> Result<TxDescriptor, &'static str> {
    let any = AnyTx::from(words[1]);
    match (any.extended(), any.kind()) {
        (false, _) => Ok(TxDescriptor::Data(decode_legacy(words))),
        (true, KIND_CONTEXT) => decode_context(words),
        (true, KIND_DATA) => decode_data(words),
        (true, _) => Err("descriptor type is neither context nor data"),
    }
}

fn decode_data(words: [u64; 2]) -> Result<TxDescriptor, &'static str> {
    let high = AdvancedData::from(words[1]);
    if high.linksec() || high.ipsec() {
        return Err("LinkSec and IPsec are not modelled");
    }
    Ok(TxDescriptor::Data(Data {
        address: words[0],
        len: high.len(),
        end: high.end(),
        report: high.report(),
        status: (words[1] >> 32) as u32,
        command: Command {
            insert_fcs: high.insert_fcs(),
            vlan: high.vlan(),
            segment: high.segment(),
            ip_checksum: high.ip_checksum(),
            l4_checksum: high.l4_checksum(),
            context: high.context(),
            payload_len: high.payload_len(),
            ..Command::default()
        },
    }))
}

fn decode_context(words: [u64; 2]) -> Result<TxDescriptor, &'static str> {
    let (low, high) = (ContextLow::from(words[0]), ContextHigh::from(words[1]));
    if high.index() > 1 {
        return Err("a queue has two contexts, 0 and 1");
    }
    let context = Context {
        mac_len: low.mac_len(),
        ip_len: low.ip_len(),
        l4_len: high.l4_len(),
        mss: high.mss(),
        vlan: low.vlan(),
        ipv4: high.ipv4(),
        l4_type: high.l4_type(),
    };
    Ok(TxDescriptor::Context { index: high.index().into(), context })
}

fn decode_legacy(words: [u64; 2]) -> Data {
    let high = Legacy::from(words[1]);
    let command = Command {
        insert_fcs: high.insert_fcs(),
        legacy_vlan: high.vlan().then_some(high.tag()),
        legacy_checksum: high.insert_checksum().then_some((high.checksum_from(), high.checksum_at())),
        legacy: true,
        ..Command::default()
    };
    Data {
        address: words[0],
        len: high.len(),
        end: high.end(),
        report: high.report(),
        status: (words[1] >> 32) as u32,
        command,
    }
}

/// What a receive descriptor gets back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RxWriteBack {
    /// Type of the hash, 0 for none.
    pub rss_type: u8,
    /// Protocols found, bits as in the descriptor's bits 15:4.
    pub packet_type: u16,
    /// The hash.
    pub rss_hash: u32,
    /// The last of its frame.
    pub end: bool,
    /// The tag was stripped into the descriptor.
    pub vlan_stripped: Option<u16>,
    /// The IPv4 header was checked, and found...
    pub ip: Option<bool>,
    /// The transport was checked, and found...
    pub l4: Option<bool>,
    /// The transport is UDP with a checksum.
    pub udp: bool,
    /// Bytes in this buffer.
    pub len: u16,
}

/// First word of a receive write-back.
#[bitfield(u64)]
struct RxLow {
    #[bits(4)]
    rss_type: u8,
    #[bits(12)]
    packet_type: u16,
    _rsv: bool,
    #[bits(4)]
    coalesced: u8,
    #[bits(10)]
    header_len: u16,
    split: bool,
    #[bits(32)]
    hash: u32,
}

/// Second word of a receive write-back.
#[bitfield(u64)]
struct RxHigh {
    done: bool,
    end: bool,
    flow_match: bool,
    vlan: bool,
    udp: bool,
    l4_checked: bool,
    ip_checked: bool,
    #[bits(13)]
    _status: u16,
    #[bits(10)]
    _errors: u16,
    l4_error: bool,
    ip_error: bool,
    #[bits(16)]
    len: u16,
    #[bits(16)]
    tag: u16,
}

impl RxWriteBack {
    /// The two words, with the done bit set.
    pub fn encode(&self) -> [u64; 2] {
        let low = RxLow::new().with_rss_type(self.rss_type).with_packet_type(self.packet_type).with_hash(self.rss_hash);
        let high = RxHigh::new()
            .with_done(true)
            .with_end(self.end)
            .with_vlan(self.vlan_stripped.is_some())
            .with_tag(self.vlan_stripped.unwrap_or(0))
            .with_udp(self.udp)
            .with_ip_checked(self.ip.is_some())
            .with_ip_error(self.ip == Some(false))
            .with_l4_checked(self.l4.is_some())
            .with_l4_error(self.l4 == Some(false))
            .with_len(self.len);
        [low.into(), high.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(bytes: [u8; 16]) -> [u64; 2] {
        let (low, high) = bytes.split_at(8);
        [u64::from_le_bytes(low.try_into().unwrap()), u64::from_le_bytes(high.try_into().unwrap())]
    }

    #[test]
    fn advanced_data_from_bytes() {
        // 1500 bytes at 0x1_2345_6780; EOP | IFCS | RS | DEXT; TXSM; context 1; PAYLEN 1500 = 0x5dc << 14.
        let bytes = [0x80, 0x67, 0x45, 0x23, 1, 0, 0, 0, 0xdc, 0x05, 0x30, 0x2b, 0x10, 0x02, 0x77, 0x01];
        let Ok(TxDescriptor::Data(data)) = decode_tx(words(bytes)) else { panic!("a data descriptor") };
        assert_eq!((data.address, data.len, data.end, data.report), (0x1_2345_6780, 1500, true, true));
        assert_eq!(data.status, 0x0177_0210);
        let command = data.command;
        assert_eq!((command.payload_len, command.context, command.insert_fcs), (1500, 1, true));
        assert_eq!(
            (command.ip_checksum, command.l4_checksum, command.segment, command.vlan),
            (false, true, false, false)
        );
    }

    #[test]
    fn context_from_bytes() {
        // IPLEN 20, MACLEN 14 (14 << 9 = 0x1c00), VLAN 0x0064; IPV4 | L4T = TCP (0x0c00); DTYP 2; DEXT; IDX 1; L4LEN 20; MSS 1460.
        let bytes = [0x14, 0x1c, 0x64, 0, 0, 0, 0, 0, 0, 0x0c, 0x20, 0x20, 0x10, 0x14, 0xb4, 0x05];
        let Ok(TxDescriptor::Context { index, context }) = decode_tx(words(bytes)) else { panic!("a context") };
        assert_eq!(index, 1);
        let wanted = Context { mac_len: 14, ip_len: 20, l4_len: 20, mss: 1460, vlan: 0x64, ipv4: true, l4_type: 1 };
        assert_eq!(context, wanted);
    }

    #[test]
    fn legacy_from_bytes() {
        // 64 bytes; CSO 50; EOP | IC | RS; CSS 34; tag unused.
        let bytes = [0, 0x10, 0, 0, 0, 0, 0, 0, 64, 0, 50, 0x0d, 0, 34, 0, 0];
        let Ok(TxDescriptor::Data(data)) = decode_tx(words(bytes)) else { panic!("a legacy descriptor") };
        assert_eq!((data.address, data.len, data.end, data.report), (0x1000, 64, true, true));
        assert!(data.command.legacy && data.command.legacy_vlan.is_none());
        assert_eq!(data.command.legacy_checksum, Some((34, 50)));
    }

    #[test]
    fn receive_write_back_to_bytes() {
        let back = RxWriteBack {
            rss_type: 7,
            packet_type: 0x21,
            rss_hash: 0x1122_3344,
            end: true,
            vlan_stripped: Some(0x0005),
            ip: Some(true),
            l4: Some(false),
            udp: true,
            len: 60,
        };
        let [low, high] = back.encode();
        assert_eq!(low.to_le_bytes(), [0x17, 0x02, 0, 0, 0x44, 0x33, 0x22, 0x11]);
        // DD | EOP | VP | UDPCS | L4CS | IPCS, TCPE (b30); 60 bytes; tag 5.
        assert_eq!(high.to_le_bytes(), [0x7b, 0, 0, 0x40, 60, 0, 5, 0]);
    }
}
