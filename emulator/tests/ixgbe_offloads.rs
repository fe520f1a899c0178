//! Every frame that the model makes of an offload, beside one that a third party built: etherparse, and crc32c for SCTP.
//!
//! The test plays the driver: it takes the frame that a stack would send, blanks what the NIC is to fill in, scatters the
//! bytes over buffers cut at any place, and compares what comes out of the wire with what etherparse writes.

mod common;

use common::*;
use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader, PacketBuilder, SingleVlanHeader,
    TcpHeader, VlanHeader, VlanPcp,
};
use proptest::prelude::*;
use stillwire_emulator::wire::{Cable, Loopback};
use stillwire_emulator::{Doorbells, Wire};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Vlan {
    None,
    /// The NIC puts it in.
    Inserted,
    /// It stands in the bytes already.
    InBand,
}

/// One frame that is handed to the NIC.
#[derive(Clone, Debug)]
struct Case {
    v6: bool,
    transport: Transport,
    /// Payload of a segment, bytes; `None` for checksums only.
    mss: Option<usize>,
    vlan: Vlan,
    tag: u16,
    payload: usize,
    /// IPv4 options, or an IPv6 extension header: words of 4 bytes.
    more_ip: usize,
    /// TCP options: words of 4 bytes.
    more_tcp: usize,
    identification: u16,
    sequence: u32,
    flags: u8,
    /// Where the bytes are cut, in thousandths of the headers, then of all.
    cuts: (Vec<usize>, Vec<usize>),
    gap: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp), Just(Transport::Sctp)];
    let vlan = prop_oneof![Just(Vlan::None), Just(Vlan::Inserted), Just(Vlan::InBand)];
    let mss = prop_oneof![Just(None), (64usize..=9000).prop_map(Some), (64usize..=200).prop_map(Some)];
    let cuts = (prop::collection::vec(1usize..1000, 0..6), prop::collection::vec(1usize..1000, 2..12));
    let what = (any::<bool>(), transport, mss, vlan, any::<u16>(), 1usize..60_000);
    let fields = (0usize..=10, 0usize..=10, any::<u16>(), any::<u32>(), any::<u8>(), cuts, 0usize..9);
    (what, fields).prop_map(|((v6, transport, mss, vlan, tag, payload), rest)| {
        let (more_ip, more_tcp, identification, sequence, flags, cuts, gap) = rest;
        // SCTP is not segmented by this NIC.
        let mss = mss.filter(|_| transport != Transport::Sctp);
        let payload = if mss.is_some() { payload } else { payload % 9000 + 1 };
        Case { v6, transport, mss, vlan, tag, payload, more_ip, more_tcp, identification, sequence, flags, cuts, gap }
    })
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 256 * 7 + 5) as u8).collect()
}

impl Case {
    fn ip(&self, segment: usize, below: usize) -> IpHeaders {
        let protocol = match self.transport {
            Transport::Tcp => IpNumber::TCP,
            Transport::Udp => IpNumber::UDP,
            Transport::Sctp => IpNumber::SCTP,
        };
        if self.v6 {
            let mut extensions = Ipv6Extensions::default();
            if self.more_ip > 0 {
                // Pad1 options only.
                extensions.hop_by_hop_options = Some(Ipv6RawExtHeader::new_raw(protocol, &[0; 6]).unwrap());
            }
            let header = Ipv6Header { hop_limit: 9, source: [0x20; 16], destination: [0xfe; 16], ..Default::default() };
            return IpHeaders::Ipv6(header, extensions);
        }
        let mut header = Ipv4Header::new(below as u16, 64, protocol, [10, 0, 0, 1], [10, 255, 255, 2]).unwrap();
        header.identification = self.identification.wrapping_add(segment as u16);
        header.options = vec![1; 4 * self.more_ip].as_slice().try_into().unwrap();
        IpHeaders::Ipv4(header, Default::default())
    }

    fn tcp(&self, segment: usize, of: usize) -> TcpHeader {
        let done = segment as u32 * self.mss.unwrap_or(0) as u32;
        let mut tcp = TcpHeader::new(0x1234, 443, self.sequence.wrapping_add(done), 0x4567);
        let [fin, psh, ack, urg, ece, cwr, ns, syn] = std::array::from_fn(|bit| self.flags >> bit & 1 == 1);
        let (first, last) = (segment == 0, segment + 1 == of);
        // The reset values of the masks: FIN and PSH in the last only, CWR not in the last of several (82599).
        (tcp.fin, tcp.psh) = (fin && last, psh && last);
        tcp.cwr = cwr && (!last || first);
        (tcp.ack, tcp.urg, tcp.ece, tcp.ns, tcp.syn) = (ack, urg, ece, ns, syn);
        (tcp.acknowledgment_number, tcp.urgent_pointer) = (0x0102_0304, 9);
        tcp.set_options_raw(&vec![1; 4 * self.more_tcp]).unwrap();
        tcp
    }

    /// Segment `segment` of `of`, as a stack would send it whole.
    fn frame(&self, segment: usize, of: usize, payload: &[u8], tagged: bool) -> Vec<u8> {
        let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let below = payload.len()
            + match self.transport {
                Transport::Tcp => 20 + 4 * self.more_tcp,
                Transport::Udp => 8,
                Transport::Sctp => 12,
            };
        let ip = self.ip(segment, below);
        let link = if tagged {
            let tag = SingleVlanHeader {
                pcp: VlanPcp::try_new((self.tag >> 13) as u8).unwrap(),
                drop_eligible_indicator: self.tag >> 12 & 1 == 1,
                vlan_id: (self.tag & 0xfff).try_into().unwrap(),
                ether_type: etherparse::EtherType(0),
            };
            link.vlan(VlanHeader::Single(tag)).ip(ip)
        } else {
            link.ip(ip)
        };
        let mut frame = Vec::new();
        match self.transport {
            Transport::Tcp => link.tcp_header(self.tcp(segment, of)).write(&mut frame, payload).unwrap(),
            Transport::Udp => link.udp(0x1234, 53).write(&mut frame, payload).unwrap(),
            Transport::Sctp => {
                let mut packet = [&[0x12, 0x34, 0, 80, 9, 9, 9, 9, 0, 0, 0, 0][..], payload].concat();
                let crc = crc32c::crc32c(&packet).to_le_bytes();
                packet[8..12].copy_from_slice(&crc);
                link.write(&mut frame, IpNumber::SCTP, &packet).unwrap();
            }
        }
        frame
    }

    /// What goes out.
    fn wanted(&self) -> Vec<Vec<u8>> {
        let payload = bytes(self.payload);
        let pieces: Vec<&[u8]> = payload.chunks(self.mss.unwrap_or(self.payload)).collect();
        let of = pieces.len();
        let frame = |(i, piece): (usize, &&[u8])| self.frame(i, of, piece, self.vlan != Vlan::None);
        let mut frames: Vec<Vec<u8>> = pieces.iter().enumerate().map(frame).collect();
        frames.iter_mut().for_each(|frame| frame.resize(frame.len().max(60), 0));
        frames
    }

    /// Lengths of link, network and transport header.
    fn lengths(&self) -> [usize; 3] {
        let link = if self.vlan == Vlan::InBand { 18 } else { 14 };
        let network = match self.v6 {
            true => 40 + if self.more_ip > 0 { 8 } else { 0 },
            false => 20 + 4 * self.more_ip,
        };
        let transport = match self.transport {
            Transport::Tcp => 20 + 4 * self.more_tcp,
            Transport::Udp => 8,
            Transport::Sctp => 12,
        };
        [link, network, transport]
    }

    /// The bytes in memory: everything that the NIC fills in is blank, the pseudo-header's sum stands where it wants it.
    fn prototype(&self) -> Vec<u8> {
        let [link, network, transport] = self.lengths();
        let segmented = self.mss.is_some();
        // A prototype longer than a packet may be has no length at all.
        let shown = if segmented { 1 } else { self.payload };
        let mut frame = self.frame(0, 1, &bytes(shown), self.vlan == Vlan::InBand);
        frame.truncate(link + network + transport);
        frame.extend(bytes(self.payload));
        if segmented && self.v6 {
            frame[link + 4..link + 6].fill(0);
        } else if segmented {
            frame[link + 2..link + 4].fill(0);
        }
        if !self.v6 {
            frame[link + 10..link + 12].fill(0);
        }
        let l4 = link + network;
        let len = if segmented { 0 } else { transport + self.payload };
        let addresses = if self.v6 { link + 8..link + 40 } else { link + 12..link + 20 };
        let sum = |protocol| pseudo(&frame[addresses], protocol, len).to_be_bytes();
        match self.transport {
            Transport::Tcp => {
                let sum = sum(6);
                frame[l4 + 16..l4 + 18].copy_from_slice(&sum);
            }
            Transport::Udp => {
                let sum = sum(17);
                frame[l4 + 6..l4 + 8].copy_from_slice(&sum);
            }
            Transport::Sctp => frame[l4 + 8..l4 + 12].fill(0),
        }
        frame
    }

    /// Posts it in pieces, cut within the headers and behind them.
    fn post(&self, rig: &mut Rig) -> u32 {
        let frame = self.prototype();
        let [link, network, transport] = self.lengths();
        let headers = link + network + transport;
        let (small, large) = &self.cuts;
        let mut cuts: Vec<usize> = small.iter().map(|cut| cut * headers / 1000).collect();
        cuts.extend(large.iter().map(|cut| cut * frame.len() / 1000));
        cuts.extend([0, frame.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let l4 = match self.transport {
            Transport::Udp => 0,
            Transport::Tcp => 1,
            Transport::Sctp => 2,
        };
        let mss = self.mss.unwrap_or(0) as u64;
        let mut words = context(link as u64, network as u64, transport as u64, mss, l4, !self.v6);
        words[0] |= u64::from(self.tag) << 16;
        rig.put(words);
        let mut command = IFCS | if self.mss.is_some() { TSE } else { 0 };
        command |= if self.vlan == Vlan::Inserted { VLE } else { 0 };
        let options = TXSM | if self.v6 { 0 } else { IXSM };
        let payload_len = if self.mss.is_some() { self.payload } else { frame.len() };
        let (mut at, mut last) = (PAYLOAD, 0);
        for cut in cuts.windows(2) {
            let piece = &frame[cut[0]..cut[1]];
            rig.memory.write_at(at, piece);
            let end = if cut[1] == frame.len() { EOP | RS } else { 0 };
            last = rig.put(data(at, piece.len(), command | end, options, payload_len));
            at += piece.len() + self.gap;
        }
        rig.ring_bell();
        last
    }
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let (near, mut far) = Cable::pair();
    let mut rig = Rig::over(config(Doorbells::Messages), Loopback::new(), Box::new(near));
    rig.bring_up();
    let last = case.post(&mut rig);
    rig.settle();
    prop_assert!(rig.done(last), "{:?}", rig.halts());
    let mut frame = Vec::new();
    for (i, wanted) in case.wanted().iter().enumerate() {
        prop_assert!(far.receive(&mut frame), "frame {} is missing", i);
        prop_assert_eq!(&frame, wanted, "frame {}", i);
    }
    prop_assert!(!far.receive(&mut frame), "more than asked for");
    let counters = rig.device.with_model(|model| model.counters());
    prop_assert_eq!((counters.checksummed, counters.segmented), (1, u64::from(case.mss.is_some())));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_offload_makes_what_a_third_party_makes(case in case()) {
        check(&case)?;
    }
}

#[test]
fn all_combinations_once() {
    for v6 in [false, true] {
        for transport in [Transport::Tcp, Transport::Udp, Transport::Sctp] {
            for vlan in [Vlan::None, Vlan::Inserted, Vlan::InBand] {
                for mss in [None, Some(64), Some(1448), Some(8948), Some(9000)] {
                    if transport == Transport::Sctp && mss.is_some() {
                        continue;
                    }
                    // Exact multiples, one byte more, one byte in all.
                    for payload in [1, mss.unwrap_or(1400), mss.unwrap_or(700) * 2 + 1] {
                        let case = Case {
                            v6,
                            transport,
                            mss,
                            vlan,
                            tag: 0xb123,
                            payload,
                            more_ip: 1,
                            more_tcp: 3,
                            identification: 0xffff,
                            sequence: u32::MAX - 70,
                            flags: 0xff,
                            cuts: (vec![100, 501], vec![700]),
                            gap: 1,
                        };
                        check(&case).unwrap_or_else(|error| panic!("{case:?}: {error}"));
                    }
                }
            }
        }
    }
}

#[test]
fn a_sum_of_zero_is_sent_as_all_ones_in_udp() {
    // Some payload of two bytes makes the sum 0; etherparse, too, writes 0xffff then.
    for (mss, v6) in [(None, false), (Some(64), true)] {
        let case = |payload| Case {
            v6,
            transport: Transport::Udp,
            mss,
            vlan: Vlan::None,
            tag: 0,
            payload,
            more_ip: 0,
            more_tcp: 0,
            identification: 1,
            sequence: 0,
            flags: 0,
            cuts: (vec![], vec![]),
            gap: 0,
        };
        let udp_sum = |frame: &[u8]| {
            let at = if v6 { 60 } else { 40 };
            [frame[at], frame[at + 1]]
        };
        let mut found = false;
        for first in 0..=u16::MAX {
            // Only one value of the two bytes does it: look for it with a third party first.
            let case = case(2);
            let mut wanted = case.frame(0, 1, &first.to_be_bytes(), false);
            if udp_sum(&wanted) != [0xff, 0xff] {
                continue;
            }
            let (near, mut far) = Cable::pair();
            let mut rig = Rig::over(config(Doorbells::Messages), Loopback::new(), Box::new(near));
            rig.bring_up();
            let mut prototype = case.prototype();
            let at = prototype.len() - 2;
            prototype[at..].copy_from_slice(&first.to_be_bytes());
            rig.memory.write_at(PAYLOAD, &prototype);
            let [link, network, transport] = case.lengths().map(|len| len as u64);
            rig.put(context(link, network, transport, mss.unwrap_or(0) as u64, 0, !v6));
            let (tse, ixsm) = (if mss.is_some() { TSE } else { 0 }, if v6 { 0 } else { IXSM });
            let payload_len = if mss.is_some() { 2 } else { prototype.len() };
            rig.put(data(PAYLOAD, prototype.len(), EOP | IFCS | RS | tse, TXSM | ixsm, payload_len));
            rig.ring_bell();
            rig.settle();
            wanted.resize(wanted.len().max(60), 0);
            let mut frame = Vec::new();
            assert!(far.receive(&mut frame) && frame == wanted, "{:?}", rig.halts());
            found = true;
            break;
        }
        assert!(found, "no payload makes the sum 0");
    }
}

#[test]
fn a_header_of_odd_length_is_repeated_in_each_segment() {
    // Five bytes of an application's header count as the transport's: L4LEN 13.
    let (near, mut far) = Cable::pair();
    let mut rig = Rig::over(config(Doorbells::Messages), Loopback::new(), Box::new(near));
    rig.bring_up();
    let (repeated, payload) = ([9, 8, 7, 6, 5], bytes(1000));
    let mut prototype = udp_header(0);
    prototype[16..18].fill(0);
    let sum = pseudo(&prototype[26..34], 17, 0);
    prototype[40..42].copy_from_slice(&sum.to_be_bytes());
    prototype.extend(repeated);
    prototype.extend(&payload);
    rig.memory.write_at(PAYLOAD, &prototype);
    rig.put(context(14, 20, 13, 333, 0, true));
    rig.put(data(PAYLOAD, prototype.len(), EOP | IFCS | RS | TSE, TXSM | IXSM, 1000));
    rig.ring_bell();
    rig.settle();
    for piece in payload.chunks(333) {
        let mut frame = Vec::new();
        assert!(far.receive(&mut frame), "{:?}", rig.halts());
        let wanted = [&repeated[..], piece].concat();
        let found = udp_payload(&frame);
        assert_eq!(found, Ok(wanted));
    }
}
