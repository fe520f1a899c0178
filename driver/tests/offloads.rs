//! What the NIC makes of a frame (checksums, segments, tags), compared byte by byte with frames that an independent library
//! builds, over a loopback.
#![allow(missing_docs)]

mod common;

use std::ops::Range;
use std::time::Duration;

use common::{Memory, Rig, Token, ice, virtio};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, TcpOptionElement, UdpHeader};
use proptest::prelude::*;
use stillwire_driver::{Config, Error, Frame, Ip, Mac, Offload, Posted, RxQueue, Transport};
use stillwire_emulator::{ixgbe, virtio as virtio_model};

/// A frame to send, and what must arrive.
#[derive(Clone, Debug)]
struct Case {
    offload: Offload,
    /// A tag in the header itself.
    in_band: bool,
    options: bool,
    addresses: [u8; 32],
    sequence: u32,
    identification: u16,
    flags: (bool, bool),
}

impl Case {
    /// The frame of `payload`, which begins `at` bytes into the whole, as a stack without any offload would send it.
    fn frame(&self, mac: Mac, payload: &[u8], at: usize, index: u16, last: bool) -> Vec<u8> {
        let mut frame = [mac.0, mac.0].concat();
        if let Some(tag) = self.offload.vlan.or(self.in_band.then_some(0x2005)) {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(if self.offload.ip == Ip::V4 { [8, 0] } else { [0x86, 0xdd] });
        let half = |from: usize| -> [u8; 16] { self.addresses[from..from + 16].try_into().unwrap() };
        let quarter = |from: usize| -> [u8; 4] { self.addresses[from..from + 4].try_into().unwrap() };
        let number = match self.offload.transport.unwrap() {
            Transport::Udp => IpNumber::UDP,
            Transport::Tcp => IpNumber::TCP,
            Transport::Sctp => IpNumber::SCTP,
        };
        let mut v4 = Ipv4Header::new(0, 64, number, quarter(0), quarter(4)).unwrap();
        v4.identification = self.identification.wrapping_add(index);
        let v6 = Ipv6Header {
            next_header: number,
            hop_limit: 64,
            source: half(0),
            destination: half(16),
            ..Default::default()
        };
        let is_v4 = self.offload.ip == Ip::V4;
        let mut transport = Vec::new();
        match self.offload.transport.unwrap() {
            Transport::Udp => {
                let udp = UdpHeader::without_ipv4_checksum(4000, 4001, payload.len()).unwrap();
                let sum = match is_v4 {
                    true => udp.calc_checksum_ipv4(&v4, payload).unwrap(),
                    false => udp.calc_checksum_ipv6(&v6, payload).unwrap(),
                };
                UdpHeader { checksum: sum, ..udp }.write(&mut transport).unwrap();
            }
            Transport::Tcp => {
                let mut tcp = TcpHeader::new(4000, 4001, self.sequence.wrapping_add(at as u32), 1024);
                (tcp.ack, tcp.acknowledgment_number) = (true, 77);
                (tcp.fin, tcp.psh) = (self.flags.0 && last, self.flags.1 && last);
                if self.options {
                    tcp.set_options(&[
                        TcpOptionElement::Noop,
                        TcpOptionElement::Noop,
                        TcpOptionElement::Timestamp(1, 2),
                    ])
                    .unwrap();
                }
                tcp.checksum = match is_v4 {
                    true => tcp.calc_checksum_ipv4(&v4, payload).unwrap(),
                    false => tcp.calc_checksum_ipv6(&v6, payload).unwrap(),
                };
                tcp.write(&mut transport).unwrap();
            }
            Transport::Sctp => {
                transport = vec![0x0f, 0xa0, 0x0f, 0xa1, 1, 2, 3, 4, 0, 0, 0, 0];
                let sum = crc32c::crc32c_append(crc32c::crc32c(&transport), payload);
                transport[8..].copy_from_slice(&sum.to_le_bytes());
            }
        }
        let len = transport.len() + payload.len();
        if is_v4 {
            v4.set_payload_len(len).unwrap();
            v4.write(&mut frame).unwrap(); // with its checksum
        } else {
            Ipv6Header { payload_length: len as u16, ..v6 }.write(&mut frame).unwrap();
        }
        frame.extend(transport);
        frame.extend(payload);
        frame
    }

    /// All frames that `payload` shall become.
    fn expected(&self, mac: Mac, payload: &[u8]) -> Vec<Vec<u8>> {
        let segment = self.offload.segment.map_or(payload.len().max(1), |segment| segment.get().into());
        let count = payload.len().div_ceil(segment).max(1);
        let part = |index: usize| &payload[index * segment..payload.len().min((index + 1) * segment)];
        let frame = |index| self.frame(mac, part(index), index * segment, index as u16, index == count - 1);
        (0..count).map(frame).collect()
    }

    /// The header to post: that of the first frame, with rubbish in all that the driver or the NIC must write.
    fn header(&self, mac: Mac, payload: &[u8]) -> Vec<u8> {
        let segment = self.offload.segment.map_or(payload.len(), |segment| payload.len().min(segment.get().into()));
        let untagged = Self { offload: Offload { vlan: None, ..self.offload }, ..self.clone() };
        // The flags are those of the whole.
        let mut header = untagged.frame(mac, &payload[..segment], 0, 0, true);
        header.truncate(header.len() - segment);
        let (ip_at, l4_at) =
            (usize::from(self.offload.ethernet_len), self.offload.ethernet_len as usize + self.offload.ip_len as usize);
        let mut spoil = |at: usize, len: usize| header[at..at + len].fill(0xa5);
        if self.offload.ip == Ip::V4 {
            spoil(ip_at + 10, 2);
        }
        match self.offload.transport.unwrap() {
            Transport::Udp => spoil(l4_at + 6, 2),
            Transport::Tcp => spoil(l4_at + 16, 2),
            Transport::Sctp => spoil(l4_at + 8, 4),
        }
        if self.offload.segment.is_some() {
            spoil(ip_at + if self.offload.ip == Ip::V4 { 2 } else { 4 }, 2);
            if self.offload.transport == Some(Transport::Udp) {
                spoil(l4_at + 4, 2);
            }
        }
        header
    }
}

fn case(transports: &'static [Transport], vlan: bool) -> impl Strategy<Value = Case> {
    let segment = prop_oneof![Just(None), (64..=9000u16).prop_map(Some)];
    let layers = (any::<bool>(), prop::sample::select(transports), segment, any::<bool>(), any::<bool>());
    let tags = (prop::option::of(any::<u16>()), any::<bool>());
    let rest = (any::<[u8; 32]>(), any::<u32>(), any::<u16>(), any::<(bool, bool)>());
    (layers, tags, rest).prop_map(move |((v6, transport, segment, options, in_band), (tag, tagged), rest)| {
        let segment = segment.filter(|_| transport != Transport::Sctp);
        let tag = tag.filter(|_| vlan && tagged);
        let in_band = in_band && tag.is_none();
        let offload = Offload {
            ethernet_len: if in_band { 18 } else { 14 },
            ip: if v6 { Ip::V6 } else { Ip::V4 },
            ip_len: if v6 { 40 } else { 20 },
            transport: Some(transport),
            segment: None,
            vlan: tag,
        };
        let offload = offload.segmented(segment.unwrap_or(0));
        let (addresses, sequence, identification, flags) = rest;
        Case { offload, in_band, options, addresses, sequence, identification, flags }
    })
}

/// Payload: how long (in 65536ths of what may be), and where it is cut into pieces.
fn cuts() -> impl Strategy<Value = (u16, Vec<prop::sample::Index>)> {
    (any::<u16>(), prop::collection::vec(any::<prop::sample::Index>(), 0..12))
}

fn pieces(len: usize, cuts: &[prop::sample::Index]) -> Vec<Range<usize>> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(len + 1)).chain([0, len]).collect();
    at.sort_unstable();
    at.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

/// Payload bytes of a case: a whole datagram, or up to fifty segments and at most `most` bytes.
fn payload(case: &Case, share: u16, most: usize) -> Vec<u8> {
    let most = match case.offload.segment {
        None => 8900,
        Some(segment) => (usize::from(segment.get()) * 50).min(most),
    };
    let least = usize::from(case.offload.segment.is_some());
    let len = (most * usize::from(share) / 65_535).max(least);
    (0..len).map(|i| (i * 7 + i / 256 * 3) as u8).collect()
}

/// Frames on the wire are 60 bytes at least; what came behind the packet is no part of it.
fn without_padding(mut frame: Vec<u8>, expected: &[u8]) -> Vec<u8> {
    if expected.len() < 60 && frame.len() == 60 {
        assert!(frame[expected.len()..].iter().all(|&byte| byte == 0), "padding is zeros");
        frame.truncate(expected.len());
    }
    frame
}

fn assert_same(case: &Case, found: Vec<Vec<u8>>, expected: &[Vec<u8>]) {
    assert_eq!(found.len(), expected.len(), "frames of {case:?}");
    for (index, (found, expected)) in found.into_iter().zip(expected).enumerate() {
        let found = without_padding(found, expected);
        let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
        assert!(found == *expected, "frame {index} of {case:?} differs at {differs:?}\n{found:02x?}\n{expected:02x?}");
    }
}

/// More than any header has a number for: 256 KiB, less headers.
const MOST: usize = (1 << 18) - 100;

const JUMBO: Config = Config {
    tx_ring: 1024,
    rx_ring: 1024,
    max_frame: 9200,
    promiscuous: false,
    queues: 1,
    vlan_strip: false,
    interrupts: false,
    flow_control: false,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_82599_makes_the_frames_that_a_stack_would(
        case in case(&[Transport::Udp, Transport::Tcp, Transport::Sctp], true), (share, cuts) in cuts()
    ) {
        let rig = Rig::with(ixgbe::Config::default(), JUMBO);
        let (mut tx, mut rx) = rig.live(|nic| (nic.tx_queue::<Token>().unwrap(), nic.rx_queue().unwrap()));
        let bytes = payload(&case, share, MOST);
        let memory = Memory::new(&rig.function, &bytes);
        let token = Token::new(&memory, pieces(bytes.len(), &cuts));
        let header = case.header(rig.nic.mac(), &bytes);
        let posted = tx.post(Frame::new(&header).offload(case.offload).payload(token)).unwrap();
        assert!(matches!(posted, Posted::Queued));
        tx.publish();
        rig.settle();
        prop_assert!(tx.reclaim(drop) > 0 && tx.in_flight() == 0);
        let found = received(&mut rx, || rig.settle());
        assert_same(&case, found, &case.expected(rig.nic.mac(), &bytes));
        let complaints = rig.device.with_model(|model| model.halts().to_vec());
        prop_assert!(complaints.is_empty(), "{:?}", complaints);
    }

    #[test]
    fn the_e810_makes_the_frames_that_a_stack_would(
        case in case(&[Transport::Udp, Transport::Tcp, Transport::Sctp], true), (share, cuts) in cuts()
    ) {
        let rig = ice::Rig::with(ice::with_package(), JUMBO);
        let (mut tx, mut rx) = rig.queues();
        let bytes = payload(&case, share, MOST);
        let memory = Memory::new(&rig.function, &bytes);
        let pieces = pieces(bytes.len(), &cuts);
        let token = Token::new(&memory, pieces.clone());
        let header = case.header(rig.nic.mac(), &bytes);
        let most = most_buffers(&pieces, case.offload.segment.map_or(usize::MAX, |segment| segment.get().into()));
        match tx.post(Frame::new(&header).offload(case.offload).payload(token)) {
            Ok(posted) => assert!(matches!(posted, Posted::Queued)),
            Err(error) => {
                prop_assert!(most > 8 && error.to_string().contains("buffers of one frame"), "{}: {}", most, error);
                return Ok(());
            }
        }
        prop_assert!(most <= 8, "{} buffers", most);
        tx.publish();
        rig.advance(Duration::from_millis(1));
        prop_assert!(tx.reclaim(drop) > 0 && tx.in_flight() == 0);
        let found = received(&mut rx, || rig.advance(Duration::from_millis(1)));
        assert_same(&case, found, &case.expected(rig.nic.mac(), &bytes));
        let (counted, queue) = (rig.nic.statistics(), rig.nic.queue_statistics()[0]);
        prop_assert_eq!((counted.tx_frames, counted.tx_bytes), (counted.rx_frames, counted.rx_bytes));
        prop_assert_eq!((queue.tx_frames, queue.rx_frames), (counted.tx_frames, counted.rx_frames));
        rig.assert_no_complaints();
    }

    #[test]
    fn virtio_makes_the_frames_that_a_stack_would(
        case in case(&[Transport::Udp, Transport::Tcp], false), (share, cuts) in cuts()
    ) {
        let model = virtio_model::Config { mtu: 9186, ..virtio_model::Config::default() };
        let rig = virtio::Rig::with(model, JUMBO);
        let (mut tx, mut rx) = (rig.nic.tx_queue::<Token>().unwrap(), rig.nic.rx_queue().unwrap());
        let bytes = payload(&case, share, 65_000);
        let memory = Memory::new(&rig.function, &bytes);
        let token = Token::new(&memory, pieces(bytes.len(), &cuts));
        let header = case.header(rig.nic.mac(), &bytes);
        let posted = tx.post(Frame::new(&header).offload(case.offload).payload(token)).unwrap();
        assert!(matches!(posted, Posted::Queued));
        tx.publish();
        rig.settle();
        prop_assert!(tx.reclaim(drop) > 0 && tx.in_flight() == 0);
        let found = received(&mut rx, || rig.settle());
        let expected = case.expected(rig.nic.mac(), &bytes);
        let counted = rig.nic.statistics();
        prop_assert_eq!((counted.tx_frames, counted.tx_bytes), (counted.rx_frames, counted.rx_bytes));
        assert_same(&case, found, &expected);
        rig.assert_no_complaints();
    }
}

/// Buffers of the frame on the wire that has most of them: its header, and each piece of payload that it has a part in.
fn most_buffers(pieces: &[Range<usize>], segment: usize) -> usize {
    let len = pieces.last().map_or(0, |last| last.end);
    let segments = (0..len.max(1)).step_by(segment.min(len.max(1)));
    let in_one = |start: usize| {
        let end = start.saturating_add(segment).min(len);
        pieces.iter().filter(|piece| piece.start.max(start) < piece.end.min(end)).count()
    };
    1 + segments.map(in_one).max().unwrap_or(0)
}

fn received(rx: &mut RxQueue, settle: impl Fn()) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    loop {
        let found = rx.poll(32, |frame| {
            let mut bytes = Vec::new();
            frame.copy_to(&mut bytes);
            frames.push(bytes);
        });
        settle();
        if found == 0 {
            return frames;
        }
    }
}

#[test]
fn offloads_that_change_from_frame_to_frame_do_not_mix() {
    let rig = Rig::with(ixgbe::Config::default(), JUMBO);
    let (mut tx, mut rx) = rig.live(|nic| (nic.tx_queue::<Token>().unwrap(), nic.rx_queue().unwrap()));
    let bytes: Vec<u8> = (0..5000u32).map(|i| (i * 13) as u8).collect();
    let memory = Memory::new(&rig.function, &bytes);
    let plain = |offload, options| Case {
        offload,
        in_band: false,
        options,
        addresses: [9; 32],
        sequence: u32::MAX - 1000,
        identification: u16::MAX,
        flags: (true, true),
    };
    // The same key, other segments; the same segments, another header length; a tag; and back.
    let cases = [
        plain(Offload::TCP_V4.segmented(1000), false),
        plain(Offload::TCP_V4, false),
        plain(Offload::TCP_V4.segmented(1000), true),
        plain(Offload::TCP_V4.segmented(999), true),
        plain(Offload::TCP_V4, true),
        plain(Offload::UDP_V6.segmented(64).tagged(0xe123), false),
        plain(Offload::UDP_V6.tagged(0xe123), false),
        plain(Offload::UDP_V6, false),
    ];
    let mut expected = Vec::new();
    for case in &cases {
        let header = case.header(rig.nic.mac(), &bytes);
        let token = Token::new(&memory, pieces(bytes.len(), &[]));
        let posted = tx.post(Frame::new(&header).offload(case.offload).payload(token)).unwrap();
        assert!(matches!(posted, Posted::Queued));
        expected.extend(case.expected(rig.nic.mac(), &bytes));
    }
    tx.publish();
    rig.settle();
    assert_same(&cases[0], received(&mut rx, || rig.settle()), &expected);
}

#[test]
fn a_run_is_cut_as_well() {
    let rig = Rig::with(ixgbe::Config::default(), JUMBO);
    let (mut tx, mut rx) = rig.live(|nic| (nic.tx_queue::<Token>().unwrap(), nic.rx_queue().unwrap()));
    let bytes: Vec<u8> = (0..60_000u32).map(|i| (i * 11) as u8).collect();
    let memory = Memory::new(&rig.function, &bytes);
    let case = Case {
        offload: Offload::UDP_V4.segmented(1472),
        in_band: false,
        options: false,
        addresses: [3; 32],
        sequence: 0,
        identification: 0,
        flags: (false, false),
    };
    let parts = [0..40_000, 40_000..60_000];
    let mut run = tx.run(Token::new(&memory, pieces(bytes.len(), &[])));
    for part in parts.clone() {
        let header = case.header(rig.nic.mac(), &bytes[part.clone()]);
        assert!(run.post(&header, Some(case.offload), part).unwrap());
    }
    drop(run);
    tx.publish();
    rig.settle();
    let expected: Vec<_> = parts.into_iter().flat_map(|part| case.expected(rig.nic.mac(), &bytes[part])).collect();
    assert_same(&case, received(&mut rx, || rig.settle()), &expected);
    assert!(tx.reclaim(drop) > 0 && tx.in_flight() == 0);
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let rig = Rig::new();
    let mut tx = rig.live(|nic| nic.tx_queue::<Token>().unwrap());
    let memory = Memory::new(&rig.function, &[1; 1 << 18]);
    let mut refused = |header: &[u8], offload: Offload, payload: usize| {
        let token = Token::new(&memory, pieces(payload, &[]));
        let frame = Frame::new(header).offload(offload).payload(token);
        let error = tx.post(frame).map(drop).unwrap_err();
        assert!(matches!(error, Error::Frame { .. }), "{error}");
        error.to_string()
    };
    let (udp, tcp) = (common::udp_header(&rig, 100), common::tcp_header(&rig, 100));
    let cases = [
        (&udp, Offload::UDP_V4.segmented(63), 1000, "payload bytes of a segment (at least) is 63, the limit is 64"),
        (&udp, Offload::UDP_V4.segmented(1473), 2000, "bytes of a segment's frame is 1515, the limit is 1514"),
        (
            &udp,
            Offload::UDP_V4.segmented(1000),
            (1 << 18) - 28,
            "bytes of the IP packet to be cut is 262144, the limit is 262143",
        ),
        (&udp, Offload::UDP_V4.segmented(1000), 0, "payload bytes (at least) is 0"),
        (
            &tcp,
            Offload::UDP_V4.segmented(1000),
            2000,
            "header bytes (up to the end of the transport's) is 54, the limit is 42",
        ),
        (&tcp, Offload { transport: None, ..Offload::UDP_V4 }.segmented(1000), 2000, "neither TCP nor UDP"),
        (
            &tcp,
            Offload { transport: Some(Transport::Sctp), ..Offload::UDP_V4 }.segmented(1000),
            2000,
            "neither TCP nor UDP",
        ),
    ];
    for (header, offload, payload, expected) in cases {
        let said = refused(header, offload, payload);
        assert!(said.contains(expected), "{said}\n{expected}");
    }
    let mut short = tcp.clone();
    short[46] = 0x40; // a header of 16 bytes
    assert!(refused(&short, Offload::TCP_V4.segmented(1000), 2000).contains("header bytes (up to"));
    assert_eq!(tx.free(), 1023, "nothing of it is in the ring");
    // A frame shorter than a segment may be as long as any frame.
    let token = Token::new(&memory, pieces(1472, &[]));
    let frame = Frame::new(&udp).offload(Offload::UDP_V4.segmented(9000)).payload(token);
    assert!(matches!(tx.post(frame).unwrap(), Posted::Queued));
}

#[test]
fn what_virtio_did_not_offer_is_refused() {
    use stillwire_emulator::virtio::Features;
    let refused = |without: Features, offload: Offload| {
        let offered = Features::all() - without;
        let model = virtio_model::Config { features: offered, ..virtio_model::Config::default() };
        let rig = virtio::Rig::with(model, Config::default());
        let mut tx = rig.nic.tx_queue::<Token>().unwrap();
        let memory = Memory::new(&rig.function, &[1; 3000]);
        let header = virtio::header(&rig, offload, 0);
        let frame = Frame::new(&header).offload(offload).payload(Token::new(&memory, pieces(3000, &[])));
        (rig.nic.capabilities(), tx.post(frame).map(drop).unwrap_err().to_string())
    };
    let (can, said) = refused(Features::HOST_TSO4, Offload::TCP_V4.segmented(1000));
    assert!(said.contains("HOST_TSO4") && !can.tcp_segmentation && can.udp_segmentation, "{said}");
    let (_, said) = refused(Features::HOST_TSO6, Offload::TCP_V6.segmented(1000));
    assert!(said.contains("HOST_TSO6"), "{said}");
    let (can, said) = refused(Features::HOST_USO, Offload::UDP_V4.segmented(1000));
    assert!(said.contains("HOST_USO") && can.tcp_segmentation && !can.udp_segmentation, "{said}");
    let (can, said) = refused(Features::CSUM, Offload::UDP_V4.segmented(1000));
    assert!(said.contains("HOST_USO") && !can.tx_checksum && can.max_segmented == 0, "{said}");
    let (_, said) = refused(Features::empty(), Offload { transport: Some(Transport::Sctp), ..Offload::UDP_V4 });
    assert!(said.contains("SCTP"), "{said}");
    let (_, said) = refused(Features::empty(), Offload::UDP_V4.tagged(1));
    assert!(said.contains("VLAN"), "{said}");
}

#[test]
fn a_tag_that_was_put_in_is_taken_off() {
    for strip in [false, true] {
        let rig = Rig::with(ixgbe::Config::default(), Config { vlan_strip: strip, ..Config::default() });
        let (mut tx, mut rx) = rig.live(|nic| (nic.tx_queue::<Token>().unwrap(), nic.rx_queue().unwrap()));
        let header = common::udp_header(&rig, 0);
        for offload in [Offload::UDP_V4.tagged(0x6007), Offload::UDP_V4] {
            assert!(matches!(tx.post(Frame::new(&header).offload(offload)).unwrap(), Posted::Queued));
        }
        tx.publish();
        rig.settle();
        let mut found = Vec::new();
        rx.poll(32, |frame| {
            let mut kind = [0; 2];
            frame.read_at(12, &mut kind);
            found.push((frame.vlan(), kind));
        });
        let ip = [8, 0];
        let expected = if strip { [(Some(0x6007), ip), (None, ip)] } else { [(None, [0x81, 0]), (None, ip)] };
        assert_eq!(found, expected);
    }
}
