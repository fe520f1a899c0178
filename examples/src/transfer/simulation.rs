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
    /// Not sent at all, and the sender is told so.
    unsent: u64,
    /// Longest delay, µs: the delays differ, so datagrams overtake each other.
    delay: u64,
}

struct File(Vec<u8>);

impl Sink for File {
    fn begin(&mut self, _: u64, file_size: u64) -> io::Result<()> {
        self.0 = vec![0; file_size as usize];
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// (time in µs, turn, to the receiver, datagram)
type Flight = Reverse<(u64, u64, bool, Vec<u8>)>;

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

    fn send(&mut self, now: u64, to_receiver: bool, datagram: &[u8]) {
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
            let arrives = now + 1 + self.below(self.weather.delay + 1);
            self.turn += 1;
            self.flights.push(Reverse((arrives, self.turn, to_receiver, datagram)));
        }
    }

    fn arrived(&mut self, now: u64) -> Option<(bool, Vec<u8>)> {
        if self.flights.peek()?.0.0 > now {
            return None;
        }
        self.flights.pop().map(|Reverse((_, _, to_receiver, datagram))| (to_receiver, datagram))
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

/// Sends `file` over `network`; what arrived and how it ended.
fn transfer(
    network: &mut Network,
    receiver: &mut Receiver,
    config: SenderConfig,
    file: &[u8],
) -> (Vec<u8>, Result<Summary, ProtocolError>) {
    let mut sink = File(Vec::new());
    let mut sender = Sender::new(config.clone());
    let mut now = 0;
    for _ in 0..2_000_000 {
        let time = Duration::from_micros(now);
        while let Some((to_receiver, datagram)) = network.arrived(now) {
            if !to_receiver {
                let _ = sender.datagram(time, &datagram);
            } else if let Some(reply) = receiver.datagram(time, &datagram, &mut sink) {
                network.send(now, false, &reply);
            }
        }
        match sender.next_run(time, 8 * u64::from(config.payload)) {
            Next::Data(run) if network.chance(network.weather.unsent) => {
                sender.unsent(run);
                now += 1;
            }
            Next::Data(run) => {
                for start in run.clone().step_by(config.payload as usize) {
                    let end = run.end.min(start + u64::from(config.payload));
                    network.send(now, true, &data(&config, &file[start as usize..end as usize], start));
                    now += 1;
                }
            }
            Next::Probe(datagram) => network.send(now, true, &datagram),
            Next::Wait(until) => {
                assert!(until > time, "a wait that is over");
                let next = network.flights.peek().map_or(u64::MAX, |flight| flight.0.0);
                now = next.min(until.as_micros() as u64 + 1);
            }
            Next::Done(summary) => return (sink.0, Ok(summary)),
            Next::Failed(error) => return (sink.0, Err(error)),
        }
    }
    panic!("the transfer does not end");
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
    let heavy = (0..400u64, 0..300u64, 0..300u64, 0..300u64, 0..20_000u64);
    heavy.prop_map(|(lost, repeated, damaged, unsent, delay)| Weather { lost, repeated, damaged, unsent, delay })
}

proptest! {
    // A transfer that never ends takes minutes to shrink.
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_in_any_weather(
        weather in weather(),
        seed in any::<u64>(),
        len in prop_oneof![0..3usize, 4095..4098usize, 0..150_000usize],
        payload in 64..9000u32,
        window in prop::option::of(0..1u64 << 20),
        announced in prop_oneof![Just(0), 0..1u32 << 20],
        max_ranges in 1..200usize,
    ) {
        let file = contents(len, seed);
        let mut network = Network::new(weather, seed);
        let mut receiver =
            Receiver::new(ReceiverConfig { window: announced, max_ranges, ..ReceiverConfig::default() });
        let config = SenderConfig { window, ..config(1, &file, payload) };
        let (arrived, end) = transfer(&mut network, &mut receiver, config, &file);
        prop_assert!(end.is_ok(), "{:?}", end);
        prop_assert!(arrived == file, "the bytes differ");
        prop_assert_eq!(receiver.stats().bytes, len as u64);
    }

    #[test]
    fn one_transfer_after_the_other(weather in weather(), seed in any::<u64>(), lens in prop::collection::vec(0..9000usize, 1..6)) {
        let mut network = Network::new(weather, seed);
        let mut receiver = Receiver::new(ReceiverConfig { keep: true, ..ReceiverConfig::default() });
        for (transfer_number, len) in lens.iter().enumerate() {
            let file = contents(*len, seed);
            let config = config(transfer_number as u64, &file, 1000);
            let (arrived, end) = transfer(&mut network, &mut receiver, config, &file);
            prop_assert!(end.is_ok(), "{:?}", end);
            prop_assert!(arrived == file, "the bytes differ");
        }
        prop_assert_eq!(receiver.stats().transfers, lens.len() as u64);
    }

    #[test]
    fn hostile_bytes_do_no_harm(
        datagrams in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..120), any::<[u8; 4]>(), 0..7u8), 1..60),
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
            sealed(&mut bytes, small, kind);
            receiver.datagram(now, &bytes, &mut Nowhere);
            let _ = sender.datagram(now, &bytes);
            sender.next_run(now, 700);
        }
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
    let (mut sink, mut socket) = (File(Vec::new()), std::collections::VecDeque::new());
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
            Next::Probe(datagram) => socket.push_back((0, datagram)),
            Next::Wait(_) => {
                now += Duration::from_micros(50);
                let Some((read, datagram)) = socket.pop_front() else { continue };
                weight -= read;
                if let Some(reply) = receiver.datagram(now, &datagram, &mut sink) {
                    sender.datagram(now, &reply).unwrap();
                }
            }
            Next::Done(summary) => break summary,
            Next::Failed(error) => panic!("{error}"),
        }
    };
    assert!(sink.0 == file);
    assert!((32 << 10..=64 << 10).contains(&fullest), "{fullest} bytes waited in a socket that holds 65536");
    assert_eq!(summary.resent, 0);
}
