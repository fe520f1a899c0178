//! Both ends joined by a network that loses, reorders, repeats and damages datagrams, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// What the network does to a datagram, in parts of 1000.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    lost: u64,
    repeated: u64,
    damaged: u64,
    truncated: u64,
    /// Not sent at all, and the sender is told so.
    unsent: u64,
    /// Longest delay, µs: the delays differ, so datagrams overtake each other.
    delay: u64,
}

/// Takes no byte that is not of the file that it expects.
struct File<'a> {
    bytes: Vec<u8>,
    expected: &'a [u8],
}

impl<'a> File<'a> {
    fn new(expected: &'a [u8]) -> Self {
        Self { bytes: Vec::new(), expected }
    }
}

impl Sink for File<'_> {
    fn begin(&mut self, _: u64, file_size: u64) -> io::Result<()> {
        self.bytes = vec![0; file_size as usize];
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let range = offset as usize..offset as usize + bytes.len();
        assert!(self.expected[range.clone()] == *bytes, "bytes at {range:?} are not the file's");
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }
}

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// From a sender's UDP port to the receiver.
    Forth(u16),
    /// To the sender with this UDP port.
    Back(u16),
}

/// (time in µs, turn, way, datagram)
type Flight = Reverse<(u64, u64, Way, Vec<u8>)>;

struct Network {
    weather: Weather,
    random: u64,
    flights: BinaryHeap<Flight>,
    turn: u64,
}

impl Network {
    fn new(weather: Weather, seed: u64) -> Network {
        Network { weather, random: seed | 1, flights: BinaryHeap::new(), turn: 0 }
    }

    fn send(&mut self, now: u64, way: Way, datagram: &[u8]) {
        if self.chance(self.weather.lost) {
            return;
        }
        let copies = 1 + u64::from(self.chance(self.weather.repeated));
        for _ in 0..copies {
            let mut datagram = datagram.to_vec();
            if self.chance(self.weather.damaged) {
                let bit = self.below(datagram.len() as u64 * 8) as usize;
                datagram[bit / 8] ^= 1 << (bit % 8);
            }
            if self.chance(self.weather.truncated) {
                let len = self.below(datagram.len() as u64) as usize;
                datagram.truncate(len);
            }
            let arrives = now + 1 + self.below(self.weather.delay + 1);
            self.turn += 1;
            self.flights.push(Reverse((arrives, self.turn, way, datagram)));
        }
    }

    fn arrived(&mut self, now: u64) -> Option<(Way, Vec<u8>)> {
        if self.flights.peek()?.0.0 > now {
            return None;
        }
        self.flights.pop().map(|Reverse((_, _, way, datagram))| (way, datagram))
    }

    fn chance(&mut self, of_1000: u64) -> bool {
        self.below(1000) < of_1000
    }

    /// xorshift64*: the same walk for the same seed on every machine.
    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }
}

/// A sender and what it sends.
struct Sending<'a> {
    sender: Sender,
    port: u16,
    file: &'a [u8],
    /// Runs announced.
    runs: u32,
}

impl<'a> Sending<'a> {
    fn new(config: SenderConfig, port: u16, file: &'a [u8]) -> Self {
        Self { sender: Sender::new(config), port, file, runs: 0 }
    }

    /// One step at `now`, µs. Where it stands after it: an end, or when it wants to be asked next.
    fn step(&mut self, now: &mut u64, network: &mut Network) -> Result<u64, Result<Summary, ProtocolError>> {
        let time = Duration::from_micros(*now);
        let most = 8 * u64::from(self.sender.config().payload.max(self.sender.config().segment.unwrap_or(0)));
        match self.sender.next_run(time, most) {
            Next::Data(run) | Next::Run(run) if network.chance(network.weather.unsent) => {
                self.sender.unsent(run);
                *now += 1;
            }
            Next::Data(run) => self.data(run, now, network),
            Next::Run(run) => self.run(run, now, network),
            Next::Probe(datagram) => network.send(*now, Way::Forth(self.port), &datagram),
            Next::Wait(until) => {
                assert!(until > time, "a wait that is over");
                return Ok(until.as_micros() as u64 + 1);
            }
            Next::Done(summary) => return Err(Ok(summary)),
            Next::Failed(error) => return Err(Err(error)),
        }
        Ok(*now)
    }

    fn data(&mut self, run: std::ops::Range<u64>, now: &mut u64, network: &mut Network) {
        let config = self.sender.config();
        for start in run.clone().step_by(config.payload as usize) {
            let end = run.end.min(start + u64::from(config.payload));
            let datagram = data(config, &self.file[start as usize..end as usize], start);
            network.send(*now, Way::Forth(self.port), &datagram);
            *now += 1;
        }
    }

    /// What a NIC does: datagrams of equal length from the same port.
    fn run(&mut self, run: std::ops::Range<u64>, now: &mut u64, network: &mut Network) {
        let config = self.sender.config();
        let (bytes, segment) = (&self.file[run.start as usize..run.end as usize], config.segment.unwrap());
        let (number, len, crc32) = (self.runs, bytes.len() as u32, crc32fast::hash(bytes));
        let run = Run { number, offset: run.start, len, segment, crc32 };
        self.runs = self.runs.wrapping_add(1);
        network.send(*now, Way::Forth(run.port()), &run.announcement(config.transfer, config.file_size));
        for segment in bytes.chunks(segment as usize) {
            network.send(*now, Way::Forth(run.port()), segment);
            *now += 1;
        }
    }
}

/// The address of all senders; on it, each has a port.
fn address(port: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::new([192, 0, 2, 9].into(), port)
}

/// Lets `sendings` send, each until its end, over `network`; how they ended.
fn converse(
    network: &mut Network,
    receiver: &mut Receiver,
    sink: &mut impl Sink,
    sendings: &mut [Sending<'_>],
) -> Vec<Result<Summary, ProtocolError>> {
    let mut ends: Vec<_> = sendings.iter().map(|_| None).collect();
    let mut now = 0;
    for _ in 0..2_000_000 {
        let time = Duration::from_micros(now);
        while let Some((way, datagram)) = network.arrived(now) {
            match way {
                Way::Forth(port) => {
                    if let Some(reply) = receiver.datagram(time, address(port), &datagram, sink) {
                        assert_eq!(reply.to.ip(), address(0).ip());
                        network.send(now, Way::Back(reply.to.port()), &reply.datagram);
                    }
                    assert!(receiver.run_memory() <= RUNS * MAX_RUN as usize);
                }
                Way::Back(port) => {
                    for sending in sendings.iter_mut().filter(|sending| sending.port == port) {
                        let _ = sending.sender.datagram(time, &datagram);
                    }
                }
            }
        }
        let mut wake = network.flights.peek().map_or(u64::MAX, |flight| flight.0.0);
        for (sending, end) in sendings.iter_mut().zip(&mut ends).filter(|(_, end)| end.is_none()) {
            match sending.step(&mut now, network) {
                Ok(until) => wake = wake.min(until),
                Err(ended) => *end = Some(ended),
            }
        }
        if ends.iter().all(Option::is_some) {
            return ends.into_iter().flatten().collect();
        }
        now = now.max(wake);
    }
    panic!("the transfer does not end");
}

/// Sends `file` over `network`; what arrived and how it ended.
fn transfer(
    network: &mut Network,
    receiver: &mut Receiver,
    config: SenderConfig,
    file: &[u8],
) -> (Vec<u8>, Result<Summary, ProtocolError>) {
    let mut sink = File::new(file);
    let end = converse(network, receiver, &mut sink, &mut [Sending::new(config, 4000, file)]).remove(0);
    (sink.bytes, end)
}

fn data(config: &SenderConfig, payload: &[u8], offset: u64) -> Vec<u8> {
    let mut datagram = vec![0; DATA_HEADER_LEN];
    let crc32 = crc32fast::hash(payload);
    Header::data(config.transfer, config.file_size, offset, payload.len() as u32, crc32).emit(&mut datagram);
    datagram.extend_from_slice(payload);
    datagram
}

fn config(transfer: u64, file: &[u8], payload: u32) -> SenderConfig {
    SenderConfig::new("192.0.2.1:4000".parse().unwrap(), transfer, file.len() as u64, payload)
}

fn contents(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(seed | 1) >> 7) as u8).collect()
}

fn weather() -> impl Strategy<Value = Weather> {
    let heavy = (0..400u64, 0..300u64, 0..300u64, 0..100u64, 0..300u64, 0..20_000u64);
    let weather = |(lost, repeated, damaged, truncated, unsent, delay)| Weather {
        lost,
        repeated,
        damaged,
        truncated,
        unsent,
        delay,
    };
    heavy.prop_map(weather)
}

/// Drizzle, in which runs arrive; a storm leaves none whole.
fn drizzle() -> impl Strategy<Value = Weather> {
    let light = (0..30u64, 0..30u64, 0..30u64, 0..30u64, 0..30u64, 0..30u64);
    let weather = |(lost, repeated, damaged, truncated, unsent, delay)| Weather {
        lost,
        repeated,
        damaged,
        truncated,
        unsent,
        delay,
    };
    light.prop_map(weather)
}

fn segment() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(prop_oneof![Just(ANNOUNCEMENT_LEN as u32 + 1), Just(1472), 64..9000u32])
}

proptest! {
    // A transfer that never ends takes minutes to shrink.
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_in_any_weather(
        weather in prop_oneof![weather(), drizzle()],
        seed in any::<u64>(),
        len in prop_oneof![0..3usize, 4095..4098usize, 0..150_000usize],
        payload in 64..9000u32,
        segment in segment(),
        window in prop::option::of(0..1u64 << 20),
        announced in prop_oneof![Just(0), 0..1u32 << 20],
        max_ranges in 1..200usize,
    ) {
        let file = contents(len, seed);
        let mut network = Network::new(weather, seed);
        let mut receiver =
            Receiver::new(ReceiverConfig { window: announced, max_ranges, ..ReceiverConfig::default() });
        let config = SenderConfig { window, segment, ..config(1, &file, payload) };
        let (arrived, end) = transfer(&mut network, &mut receiver, config, &file);
        prop_assert!(end.is_ok(), "{:?}", end);
        prop_assert!(arrived == file, "the bytes differ");
        prop_assert_eq!(receiver.stats().bytes, len as u64);
    }

    #[test]
    fn one_transfer_after_the_other(
        weather in prop_oneof![weather(), drizzle()],
        seed in any::<u64>(),
        lens in prop::collection::vec(0..9000usize, 1..6),
        segment in segment(),
    ) {
        let mut network = Network::new(weather, seed);
        let mut receiver = Receiver::new(ReceiverConfig { keep: true, ..ReceiverConfig::default() });
        for (transfer_number, len) in lens.iter().enumerate() {
            let file = contents(*len, seed);
            let config = SenderConfig { segment, ..config(transfer_number as u64, &file, 1000) };
            let (arrived, end) = transfer(&mut network, &mut receiver, config, &file);
            prop_assert!(end.is_ok(), "{:?}", end);
            prop_assert!(arrived == file, "the bytes differ");
        }
        prop_assert_eq!(receiver.stats().transfers, lens.len() as u64);
    }

    /// The same host, the same ports for their runs: only the numbers of their transfers are different.
    #[test]
    fn several_senders_at_once(
        weather in prop_oneof![weather(), drizzle()],
        seed in any::<u64>(),
        lens in prop::collection::vec(prop_oneof![Just(30_000), 0..60_000usize], 2..4),
        segment in segment(),
    ) {
        let files: Vec<_> = lens.iter().enumerate().map(|(number, len)| contents(*len, seed ^ number as u64)).collect();
        let mut receiver = Receiver::new(ReceiverConfig { keep: true, ..ReceiverConfig::default() });
        let mut network = Network::new(weather, seed);
        let mut sendings: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(number, file)| {
                let config = SenderConfig { segment, ..config(number as u64, file, 1000) };
                Sending::new(config, 4000 + number as u16, file)
            })
            .collect();
        let mut sink = Several { files: &files, current: None, bytes: Vec::new(), whole: Vec::new() };
        let ends = converse(&mut network, &mut receiver, &mut sink, &mut sendings);
        for (number, end) in ends.iter().enumerate() {
            let whole = sink.whole.contains(&number);
            let refused = matches!(end, Err(ProtocolError::Refused { reason: Reason::Busy, .. }));
            prop_assert!(if end.is_ok() { whole } else { refused }, "{}: {:?}", number, end);
        }
        prop_assert!(!sink.whole.is_empty());
    }

    #[test]
    fn hostile_bytes_do_no_harm(
        datagrams in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..120), any::<[u8; 4]>(), 0..8u8), 1..60),
    ) {
        let mut receiver = Receiver::new(ReceiverConfig { max_ranges: 8, keep: true, ..ReceiverConfig::default() });
        let mut sender = Sender::new(config(0, &[0; 2000], 100));
        struct Nowhere;
        impl Sink for Nowhere {
            fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
                Ok(())
            }
        }
        for (at, (mut bytes, small, kind)) in datagrams.into_iter().enumerate() {
            let now = Duration::from_millis(at as u64 * 100);
            let port = if small[1] & 1 == 0 { 4000 } else { RUN_PORTS.start + u16::from(small[2] % 4) };
            if kind == 6 && small[1] & 3 == 1 {
                let (number, segment) = (u32::from(port - RUN_PORTS.start), 61 + u32::from(small[1] / 16));
                let run = Run { number, offset: u64::from(small[1]), len: u32::from(small[2]) * 4, segment, crc32: 0 };
                bytes = run.announcement(u64::from(small[0] % 3), 2000).to_vec();
            } else {
                sealed(&mut bytes, small, kind);
            }
            receiver.datagram(now, address(port), &bytes, &mut Nowhere);
            prop_assert!(receiver.run_memory() <= RUNS * 4 * 255);
            let _ = sender.datagram(now, &bytes);
            sender.next_run(now, 700);
        }
    }
}

/// Files of several transfers, numbered as these are.
struct Several<'a> {
    files: &'a [Vec<u8>],
    current: Option<usize>,
    bytes: Vec<u8>,
    whole: Vec<usize>,
}

impl Sink for Several<'_> {
    fn begin(&mut self, transfer: u64, file_size: u64) -> io::Result<()> {
        (self.current, self.bytes) = (Some(transfer as usize), vec![0; file_size as usize]);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (range, file) = (offset as usize..offset as usize + bytes.len(), &self.files[self.current.unwrap()]);
        assert!(file[range.clone()] == *bytes, "bytes at {range:?} are not the file's");
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        let current = self.current.unwrap();
        assert!(self.bytes == self.files[current], "the file is not whole");
        self.whole.push(current);
        Ok(())
    }
}

/// Makes noise look like a datagram of a transfer that may exist, so that it gets past the first checks.
fn sealed(bytes: &mut [u8], small: [u8; 4], kind: u8) {
    if bytes.len() < DATA_HEADER_LEN || small[3] == 0 {
        return;
    }
    bytes[..8].copy_from_slice(&[0x53, 0x74, 0x57, 0x72, 1, kind, 0, u8::from(small[3] == 1)]);
    bytes[8..16].copy_from_slice(&u64::from(small[0] % 3).to_be_bytes());
    if small[3] > 60 {
        bytes[16..24].copy_from_slice(&(u64::from(small[1]) * 8).to_be_bytes());
        bytes[24..32].copy_from_slice(&2000u64.to_be_bytes());
        // The number of a probe that was sent, where a status begins with it.
        if let Some(number) = bytes.get_mut(44..48) {
            number.copy_from_slice(&u32::from(small[2] % 16).to_be_bytes());
        }
        // One listed range.
        if bytes.len() >= 92 && kind == 3 {
            bytes[76..84].copy_from_slice(&u64::from(small[0]).to_be_bytes());
            bytes[84..92].copy_from_slice(&(u64::from(small[1]) * 9).to_be_bytes());
        }
    }
    let length = (bytes.len() - DATA_HEADER_LEN) as u32;
    bytes[32..36].copy_from_slice(&length.to_be_bytes());
    let payload = crc32fast::hash(&bytes[DATA_HEADER_LEN..]);
    bytes[36..40].copy_from_slice(&payload.to_be_bytes());
    let check = crc32fast::hash(&bytes[..40]);
    bytes[40..44].copy_from_slice(&check.to_be_bytes());
}

#[test]
fn when_everything_is_lost_the_deadline_ends_it() {
    let file = contents(50_000, 1);
    let mut network = Network::new(Weather { lost: 1000, ..Weather::default() }, 1);
    let mut receiver = Receiver::new(ReceiverConfig::default());
    let (_, end) = transfer(&mut network, &mut receiver, config(1, &file, 1400), &file);
    assert!(matches!(end, Err(ProtocolError::NoAnswer { waited, .. }) if waited.as_secs() == 10), "{end:?}");
}

#[test]
fn in_good_weather_nothing_is_sent_twice() {
    let file = contents(3_000_000, 3);
    let mut network = Network::new(Weather::default(), 1);
    let mut receiver = Receiver::new(ReceiverConfig::default());
    let (arrived, end) = transfer(&mut network, &mut receiver, config(1, &file, 1400), &file);
    let summary = end.unwrap();
    assert!(arrived == file);
    assert_eq!((summary.datagrams, summary.resent, summary.bytes), (2143, 0, 3_000_000));
    assert_eq!((summary.received, summary.torn, summary.duplicates), (3_000_000, 0, 0));
}

/// A receiver that reads one datagram each 50 µs from a socket that holds 64 KiB, which is what it announces.
#[test]
fn a_slow_receiver_is_not_swamped() {
    let file = contents(1_000_000, 5);
    let config = config(1, &file, 1400);
    let (mut sender, mut receiver) = (Sender::new(config.clone()), Receiver::new(ReceiverConfig::default()));
    let (mut sink, mut socket) = (File::new(&file), std::collections::VecDeque::new());
    let (mut now, mut weight, mut fullest) = (Duration::ZERO, 0, 0);
    let summary = loop {
        match sender.next_run(now, 65536) {
            Next::Data(run) => {
                for start in run.clone().step_by(1400) {
                    let end = run.end.min(start + 1400);
                    weight += end - start + DATAGRAM_OVERHEAD;
                    socket.push_back((
                        end - start + DATAGRAM_OVERHEAD,
                        data(&config, &file[start as usize..end as usize], start),
                    ));
                }
                fullest = fullest.max(weight);
            }
            Next::Run(_) => unreachable!("no segments were asked for"),
            Next::Probe(datagram) => socket.push_back((0, datagram)),
            Next::Wait(_) => {
                now += Duration::from_micros(50);
                let Some((read, datagram)) = socket.pop_front() else { continue };
                weight -= read;
                if let Some(reply) = receiver.datagram(now, address(4000), &datagram, &mut sink) {
                    sender.datagram(now, &reply.datagram).unwrap();
                }
            }
            Next::Done(summary) => break summary,
            Next::Failed(error) => panic!("{error}"),
        }
    };
    assert!(sink.bytes == file);
    assert!((32 << 10..=64 << 10).contains(&fullest), "{fullest} bytes waited in a socket that holds 65536");
    assert_eq!(summary.resent, 0);
}

#[test]
fn in_good_weather_runs_bring_everything() {
    let file = contents(3_000_000, 3);
    let mut network = Network::new(Weather::default(), 1);
    let mut receiver = Receiver::new(ReceiverConfig { in_order: true, ..ReceiverConfig::default() });
    let config = SenderConfig { segment: Some(1472), ..config(1, &file, 1400) };
    let (arrived, end) = transfer(&mut network, &mut receiver, config, &file);
    let summary = end.unwrap();
    assert!(arrived == file);
    assert_eq!((summary.resent, summary.torn, summary.duplicates), (0, 0, 0));
    let stats = receiver.stats();
    assert!(stats.runs == summary.runs && stats.runs > 200, "{stats:?}");
    assert_eq!((stats.mismatched, stats.broken, stats.ignored, stats.malformed), (0, 0, 0, 0));
}

/// Most runs lose nothing, and what those lose that do comes as data.
#[test]
fn in_drizzle_most_runs_arrive() {
    let file = contents(3_000_000, 3);
    let mut network = Network::new(Weather { lost: 10, ..Weather::default() }, 1);
    let mut receiver = Receiver::new(ReceiverConfig::default());
    let config = SenderConfig { segment: Some(1472), ..config(1, &file, 1400) };
    let (arrived, end) = transfer(&mut network, &mut receiver, config, &file);
    let (summary, stats) = (end.unwrap(), receiver.stats());
    assert!(arrived == file);
    assert!(summary.resent > 0 && stats.broken > 0, "nothing was lost: {stats:?}");
    assert!(stats.runs > summary.runs * 8 / 10, "{} of {} runs", stats.runs, summary.runs);
}
