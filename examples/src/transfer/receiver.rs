//! The far end: puts bytes in their places and says what it misses.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use super::assembly::{Assembly, Taken};
use super::{
    ANNOUNCEMENT_LEN, Header, Insert, Kind, MAX_MISSING, Message, ProtocolError, RUN_PORTS, RangeSet, Reason,
    ReceiverConfig, ReceiverStats, State, Status,
};

/// Where a receiver puts the bytes. Every error ends the transfer: the sender is told, and
/// [`Receiver::take_error`] gives the error to the caller.
pub trait Sink {
    /// A transfer begins, a file of `file_size` bytes. What an earlier transfer wrote and did not finish is void.
    fn begin(&mut self, transfer: u64, file_size: u64) -> io::Result<()> {
        let _ = (transfer, file_size);
        Ok(())
    }

    /// Stores bytes of the file at `offset`, bytes.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Every byte has been written: puts the file in its place. The sender hears `Complete` only after this.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A datagram for the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Where it goes: not always to where the datagram came from that was just handed in.
    pub to: SocketAddr,
    /// What it says.
    pub datagram: Vec<u8>,
}

/// The receiver's end of the conversation: one transfer at a time.
///
/// Its memory is bounded by [`ReceiverConfig::max_ranges`] and [`RUNS`](super::RUNS), whatever arrives.
#[derive(Debug)]
pub struct Receiver {
    config: ReceiverConfig,
    current: Option<Current>,
    /// The transfers that ended last, newest at the back: their late datagrams must not begin them again.
    past: VecDeque<Past>,
    stats: ReceiverStats,
    error: Option<io::Error>,
}

#[derive(Debug)]
struct Current {
    transfer: u64,
    file_size: u64,
    have: RangeSet,
    runs: Assembly,
    status: Status,
    heard: Duration,
    /// Where the last message of it came from.
    peer: SocketAddr,
}

#[derive(Debug)]
struct Past {
    transfer: u64,
    file_size: u64,
    outcome: Result<Status, Reason>,
}

impl Receiver {
    /// A receiver that has heard nothing yet.
    pub fn new(config: ReceiverConfig) -> Receiver {
        Receiver { config, current: None, past: VecDeque::new(), stats: ReceiverStats::default(), error: None }
    }

    /// Takes one datagram that came in at `now` from the address and UDP port `from`.
    pub fn datagram(&mut self, now: Duration, from: SocketAddr, bytes: &[u8], sink: &mut impl Sink) -> Option<Reply> {
        self.stats.datagrams += 1;
        self.end_runs_before(from.port());
        if !RUN_PORTS.contains(&from.port()) {
            return self.message(now, from, bytes, sink).map(|datagram| Reply { to: from, datagram });
        }
        if bytes.len() == ANNOUNCEMENT_LEN {
            self.announcement(now, from, bytes);
            return None;
        }
        let to = self.current.as_ref()?.peer;
        self.segment(now, from, bytes, sink).map(|datagram| Reply { to, datagram })
    }

    fn message(&mut self, now: Duration, from: SocketAddr, bytes: &[u8], sink: &mut impl Sink) -> Option<Vec<u8>> {
        let parsed =
            Header::parse(bytes).and_then(|(header, payload)| Ok((header, payload, Message::parse(&header, payload)?)));
        let Ok((header, payload, message)) = parsed else {
            self.stats.malformed += 1;
            return None;
        };
        let probe = match (header.kind, message) {
            (Kind::Data, _) => None,
            (_, Some(Message::Probe { number, offset })) => Some((number, offset)),
            _ => {
                self.stats.ignored += 1;
                return None;
            }
        };
        if self.past.iter().any(|past| past.transfer == header.transfer) {
            return self.late(&header, probe);
        }
        if self.current.as_ref().is_none_or(|current| current.transfer != header.transfer) {
            match self.begin(now, from, &header, sink) {
                Ok(()) => (),
                Err(Refusal::New(reason)) => return Some(refuse(&header, reason)),
                Err(Refusal::Standing(reason)) => return self.turn_away(&header, probe, reason),
            }
        }
        let current = self.current.as_mut().filter(|current| current.file_size == header.file_size);
        let Some(current) = current else {
            self.stats.malformed += 1;
            return None;
        };
        (current.heard, current.peer) = (now, from);
        match probe {
            Some((number, offset)) => self.probed(number, offset, sink),
            None => self.data(&header, payload, sink),
        }
    }

    /// Ends the transfer in progress; the reply tells its sender.
    pub fn stop(&mut self) -> Option<Reply> {
        let to = self.current.as_ref()?.peer;
        Some(Reply { to, datagram: self.fail(Reason::Stopped) })
    }

    /// Where the receiver stands.
    pub fn state(&self) -> State {
        match (&self.current, self.past.back()) {
            (Some(current), _) => State::Receiving {
                transfer: current.transfer,
                received: current.have.covered(),
                file_size: current.file_size,
            },
            (None, None) => State::Idle,
            (None, Some(&Past { transfer, file_size, outcome: Ok(_) })) => State::Complete { transfer, file_size },
            (None, Some(&Past { transfer, outcome: Err(reason), .. })) => State::Refused { transfer, reason },
        }
    }

    /// What has been seen so far.
    pub fn stats(&self) -> ReceiverStats {
        self.stats
    }

    /// Memory that runs which are not yet whole take, bytes.
    pub fn run_memory(&self) -> usize {
        self.current.as_ref().map_or(0, |current| current.runs.memory())
    }

    /// The sink's error that ended the last transfer, if one did.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// A datagram of a transfer that has ended.
    fn late(&mut self, header: &Header, probe: Option<(u32, u64)>) -> Option<Vec<u8>> {
        let past = self.past.iter().find(|past| past.transfer == header.transfer)?;
        if past.file_size != header.file_size {
            self.stats.malformed += 1;
            return None;
        }
        match (past.outcome, probe) {
            (Ok(status), Some((number, _))) => {
                let status = Status { number, ..status };
                Some(Message::Complete { status }.datagram(header.transfer, header.file_size))
            }
            (Err(reason), _) => self.turn_away(header, probe, reason),
            (Ok(_), None) => {
                self.stats.ignored += 1;
                None
            }
        }
    }

    /// Only probes are answered with a refusal: an answer to each datagram of a burst would make the burst worse.
    fn turn_away(&mut self, header: &Header, probe: Option<(u32, u64)>, reason: Reason) -> Option<Vec<u8>> {
        self.stats.ignored += 1;
        probe.map(|_| refuse(header, reason))
    }

    fn begin(&mut self, now: Duration, peer: SocketAddr, header: &Header, sink: &mut impl Sink) -> Result<(), Refusal> {
        if self.current.as_ref().is_some_and(|current| now.saturating_sub(current.heard) < self.config.abandon_after) {
            return Err(Refusal::Standing(Reason::Busy));
        }
        if !self.config.keep && self.stats.transfers > 0 {
            return Err(Refusal::Standing(Reason::Finished));
        }
        let Header { transfer, file_size, .. } = *header;
        let status = Status { window: self.config.window, ..Status::default() };
        let (have, runs) = (RangeSet::new(self.config.max_ranges), Assembly::default());
        self.current = Some(Current { transfer, file_size, have, runs, status, heard: now, peer });
        sink.begin(transfer, file_size).map_err(|error| {
            let reason = self.keep_error(error);
            self.fail(reason);
            Refusal::New(reason)
        })
    }

    fn probed(&mut self, number: u32, offset: u64, sink: &mut impl Sink) -> Option<Vec<u8>> {
        let current = self.current.as_mut()?;
        current.status.number = current.status.number.max(number);
        if current.have.covered() == current.file_size {
            return self.complete(sink);
        }
        let status = Status { number, received: current.have.covered(), ..current.status };
        let mut ranges: Vec<Range<u64>> = current.have.gaps(0..offset).take(MAX_MISSING + 1).collect();
        let more = ranges.len() > MAX_MISSING;
        ranges.truncate(MAX_MISSING);
        Some(Message::Missing { status, offset, ranges, more }.datagram(current.transfer, current.file_size))
    }

    /// Where nothing overtakes anything, what comes from another port than a run says that no more of the run will come.
    /// Without this, a run that lost its end might be filled up by a later one, whose announcement was lost, and look torn.
    fn end_runs_before(&mut self, port: u16) {
        if let Some(current) = self.current.as_mut().filter(|_| self.config.in_order) {
            self.stats.broken += current.runs.give_up_all_but(port);
        }
    }

    fn announcement(&mut self, now: Duration, from: SocketAddr, bytes: &[u8]) {
        let parsed = Header::parse(bytes).and_then(|(header, payload)| Ok((header, Message::parse(&header, payload)?)));
        let Ok((header, Some(Message::Run(run)))) = parsed else {
            self.stats.malformed += 1;
            return;
        };
        let Some(current) = self.current.as_mut().filter(|current| current.transfer == header.transfer) else {
            self.stats.ignored += 1;
            return;
        };
        if current.file_size != header.file_size || run.port() != from.port() {
            self.stats.malformed += 1;
            return;
        }
        current.heard = now;
        self.stats.broken += u64::from(current.runs.announce(run, from.ip()));
    }

    fn segment(&mut self, now: Duration, from: SocketAddr, bytes: &[u8], sink: &mut impl Sink) -> Option<Vec<u8>> {
        let current = self.current.as_mut()?;
        let taken = current.runs.segment(from.port(), from.ip(), bytes);
        if taken == Taken::Stray {
            self.stats.ignored += 1;
            return None;
        }
        current.heard = now;
        match taken {
            Taken::Stray | Taken::Part => (),
            Taken::Broken => self.stats.broken += 1,
            Taken::Mismatched if self.config.in_order => {
                self.stats.torn += 1;
                current.status.torn += 1;
            }
            Taken::Mismatched => self.stats.mismatched += 1,
            Taken::Whole(run, bytes) => {
                self.stats.runs += 1;
                return self.store(run.offset, &bytes, sink);
            }
        }
        None
    }

    fn data(&mut self, header: &Header, payload: &[u8], sink: &mut impl Sink) -> Option<Vec<u8>> {
        let current = self.current.as_mut()?;
        if let Err(ProtocolError::Torn { .. }) = header.verify(payload) {
            self.stats.torn += 1;
            current.status.torn += 1;
            return None;
        }
        self.store(header.offset, payload, sink)
    }

    /// Stores bytes that are those that were digested.
    fn store(&mut self, offset: u64, bytes: &[u8], sink: &mut impl Sink) -> Option<Vec<u8>> {
        let current = self.current.as_mut()?;
        let range = offset..offset + bytes.len() as u64;
        // Into the set first, as it decides whether the bytes are wanted; an error of the sink voids the set anyway.
        match current.have.insert(range) {
            Insert::Known => {
                self.stats.duplicates += 1;
                current.status.duplicates += 1;
                return None;
            }
            Insert::Full => {
                self.stats.left_out += 1;
                return None;
            }
            Insert::New(count) => self.stats.bytes += count,
        }
        let whole = current.have.covered() == current.file_size;
        if let Err(error) = sink.write_at(offset, bytes) {
            let reason = self.keep_error(error);
            return Some(self.fail(reason));
        }
        if whole { self.complete(sink) } else { None }
    }

    fn complete(&mut self, sink: &mut impl Sink) -> Option<Vec<u8>> {
        if let Err(error) = sink.finish() {
            let reason = self.keep_error(error);
            return Some(self.fail(reason));
        }
        let Current { transfer, file_size, status, .. } = self.current.take()?;
        let status = Status { received: file_size, ..status };
        self.stats.transfers += 1;
        self.remember(Past { transfer, file_size, outcome: Ok(status) });
        Some(Message::Complete { status }.datagram(transfer, file_size))
    }

    /// Ends the current transfer for `reason`.
    fn fail(&mut self, reason: Reason) -> Vec<u8> {
        let (transfer, file_size) = self.current.take().map_or((0, 0), |current| (current.transfer, current.file_size));
        self.remember(Past { transfer, file_size, outcome: Err(reason) });
        Message::Refuse { reason }.datagram(transfer, file_size)
    }

    fn keep_error(&mut self, error: io::Error) -> Reason {
        let reason = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::StorageFull,
            _ => Reason::Storage,
        };
        self.error = Some(error);
        reason
    }

    fn remember(&mut self, past: Past) {
        if self.past.len() == REMEMBERED {
            self.past.pop_front();
        }
        self.past.push_back(past);
    }
}

/// Why a transfer cannot begin.
enum Refusal {
    /// Because of what just happened: worth an answer to whatever datagram it was.
    New(Reason),
    /// As before: worth an answer to a probe.
    Standing(Reason),
}

fn refuse(header: &Header, reason: Reason) -> Vec<u8> {
    Message::Refuse { reason }.datagram(header.transfer, header.file_size)
}

/// Transfers whose late datagrams are known: `send --seconds` of a tiny file makes many in the time of one late datagram.
const REMEMBERED: usize = 64;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::super::Run;
    use super::*;

    /// A file in memory that can be told to fail.
    #[derive(Default)]
    struct Memory {
        bytes: Vec<u8>,
        writes: usize,
        fail: Option<io::ErrorKind>,
        finished: usize,
    }

    impl Sink for Memory {
        fn begin(&mut self, _: u64, file_size: u64) -> io::Result<()> {
            self.bytes = vec![0; file_size as usize];
            Ok(())
        }

        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            if let Some(kind) = self.fail {
                return Err(kind.into());
            }
            self.bytes[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
            self.writes += 1;
            Ok(())
        }

        fn finish(&mut self) -> io::Result<()> {
            self.finished += 1;
            Ok(())
        }
    }

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4000);

    /// A receiver, its sink and a clock, spoken to in short sentences.
    struct Bench {
        receiver: Receiver,
        sink: Memory,
        now: Duration,
    }

    impl Bench {
        fn new(keep: bool) -> Bench {
            let config = ReceiverConfig { window: 5000, keep, ..ReceiverConfig::default() };
            Bench { receiver: Receiver::new(config), sink: Memory::default(), now: Duration::ZERO }
        }

        fn raw(&mut self, bytes: &[u8]) -> Option<Message> {
            self.raw_from(PEER, bytes)
        }

        fn raw_from(&mut self, from: SocketAddr, bytes: &[u8]) -> Option<Message> {
            let reply = self.receiver.datagram(self.now, from, bytes, &mut self.sink)?;
            assert_eq!(reply.to, PEER);
            let (header, payload) = Header::parse(&reply.datagram).unwrap();
            Message::parse(&header, payload).unwrap()
        }

        /// Announces a run of `bytes` in segments of 100, for the crc32 of `digested`, and sends `segments` of it.
        fn run(
            &mut self,
            number: u32,
            (bytes, digested): (&[u8], &[u8]),
            offset: u64,
            segments: &[usize],
        ) -> Option<Message> {
            let (len, crc32) = (bytes.len() as u32, crc32fast::hash(digested));
            let run = Run { number, offset, len, segment: 100, crc32 };
            let from = SocketAddr::new(PEER.ip(), run.port());
            assert_eq!(self.raw_from(from, &run.announcement(1, 1000)), None);
            let replies: Vec<_> =
                segments.iter().map(|&at| self.raw_from(from, bytes.chunks(100).nth(at).unwrap())).collect();
            replies.into_iter().next_back().flatten()
        }

        fn data(&mut self, transfer: u64, file_size: u64, offset: u64, payload: &[u8]) -> Option<Message> {
            self.raw(&data(transfer, file_size, offset, payload))
        }

        fn probe(&mut self, transfer: u64, file_size: u64, number: u32, offset: u64) -> Option<Message> {
            self.raw(&Message::Probe { number, offset }.datagram(transfer, file_size))
        }
    }

    fn data(transfer: u64, file_size: u64, offset: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; super::super::DATA_HEADER_LEN];
        Header::data(transfer, file_size, offset, payload.len() as u32, crc32fast::hash(payload)).emit(&mut bytes);
        bytes.extend_from_slice(payload);
        bytes
    }

    fn missing(number: u32, received: u64, offset: u64, ranges: &[Range<u64>]) -> Option<Message> {
        let status = Status { number, window: 5000, received, ..Status::default() };
        Some(Message::Missing { status, offset, ranges: ranges.to_vec(), more: false })
    }

    /// The same after `duplicates` runs that brought nothing new.
    fn missing_after(
        duplicates: u64,
        number: u32,
        received: u64,
        offset: u64,
        ranges: &[Range<u64>],
    ) -> Option<Message> {
        let status = Status { number, window: 5000, received, torn: 0, duplicates };
        Some(Message::Missing { status, offset, ranges: ranges.to_vec(), more: false })
    }

    fn complete(number: u32, received: u64) -> Option<Message> {
        let status = Status { number, window: 5000, received, ..Status::default() };
        Some(Message::Complete { status })
    }

    fn refused(reason: Reason) -> Option<Message> {
        Some(Message::Refuse { reason })
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one missing range")]
    fn one_file() {
        let mut bench = Bench::new(false);
        assert_eq!(bench.receiver.state(), State::Idle);
        assert_eq!(bench.probe(1, 9, 1, 0), missing(1, 0, 0, &[]));
        assert_eq!(bench.data(1, 9, 6, b"ghi"), None);
        assert_eq!(bench.probe(1, 9, 2, 9), missing(2, 3, 9, &[0..6]));
        assert_eq!(bench.data(1, 9, 0, b"abc"), None);
        assert_eq!(bench.receiver.state(), State::Receiving { transfer: 1, received: 6, file_size: 9 });
        assert_eq!(bench.data(1, 9, 3, b"def"), complete(2, 9));
        assert_eq!((&bench.sink.bytes[..], bench.sink.finished), (&b"abcdefghi"[..], 1));
        assert_eq!(bench.data(1, 9, 3, b"def"), None, "late data");
        assert_eq!(bench.probe(1, 9, 3, 9), complete(3, 9), "a Complete was lost");
        assert_eq!(bench.sink.finished, 1);
        assert_eq!(bench.probe(2, 9, 1, 0), refused(Reason::Finished));
        assert_eq!(bench.receiver.state(), State::Complete { transfer: 1, file_size: 9 });
    }

    #[test]
    fn an_empty_file_is_complete_at_once() {
        let mut bench = Bench::new(true);
        assert_eq!(bench.probe(1, 0, 1, 0), complete(1, 0));
        assert_eq!(bench.probe(1, 0, 2, 0), complete(2, 0));
        assert_eq!(bench.probe(2, 0, 1, 0), complete(1, 0));
        assert_eq!((bench.sink.finished, bench.receiver.stats().transfers), (2, 2));
    }

    #[test]
    fn torn_data_is_counted_and_not_stored() {
        let mut bench = Bench::new(false);
        let mut torn = data(1, 3, 0, b"abc");
        *torn.last_mut().unwrap() = b'X';
        assert_eq!(bench.raw(&torn), None);
        assert_eq!((bench.sink.writes, bench.receiver.stats().torn), (0, 1));
        let status = Status { number: 0, window: 5000, received: 3, torn: 1, duplicates: 0 };
        assert_eq!(bench.data(1, 3, 0, b"abc"), Some(Message::Complete { status }));
    }

    #[test]
    fn successive_transfers() {
        let mut bench = Bench::new(true);
        assert_eq!(bench.data(1, 3, 0, b"abc"), complete(0, 3));
        assert_eq!(bench.data(2, 4, 0, b"ab"), None);
        assert_eq!(bench.data(1, 3, 0, b"abc"), None, "late data of the first");
        assert_eq!(bench.probe(1, 3, 8, 3), complete(8, 3), "a late probe of the first");
        assert_eq!(bench.probe(3, 3, 1, 0), refused(Reason::Busy));
        assert_eq!(bench.data(3, 3, 0, b"abc"), None, "data is not answered with a refusal");
        assert_eq!(bench.data(2, 4, 2, b"cd"), complete(0, 4));
        assert_eq!(bench.sink.bytes, b"abcd");
        assert_eq!(bench.data(3, 3, 0, b"xyz"), complete(0, 3));
    }

    #[test]
    fn a_silent_transfer_gives_way() {
        let mut bench = Bench::new(false);
        bench.data(1, 4, 0, b"a");
        bench.now += Duration::from_millis(2000);
        bench.data(1, 4, 1, b"b");
        bench.now += Duration::from_millis(2999);
        assert_eq!(bench.probe(2, 3, 1, 0), refused(Reason::Busy));
        bench.now += Duration::from_millis(1);
        assert_eq!(bench.probe(2, 3, 1, 0), missing(1, 0, 0, &[]));
        assert_eq!(bench.data(2, 3, 0, b"abc"), complete(1, 3));
    }

    #[test]
    fn a_full_disk_is_told() {
        let mut bench = Bench::new(true);
        bench.data(1, 6, 0, b"abc");
        bench.sink.fail = Some(io::ErrorKind::StorageFull);
        assert_eq!(bench.data(1, 6, 3, b"def"), refused(Reason::StorageFull));
        assert_eq!(bench.probe(1, 6, 1, 6), refused(Reason::StorageFull), "the first refusal was lost");
        assert_eq!(bench.data(1, 6, 3, b"def"), None);
        assert_eq!(bench.receiver.state(), State::Refused { transfer: 1, reason: Reason::StorageFull });
        assert_eq!(bench.receiver.take_error().unwrap().kind(), io::ErrorKind::StorageFull);
        bench.sink.fail = Some(io::ErrorKind::Other);
        assert_eq!(bench.data(2, 6, 0, b"abc"), refused(Reason::Storage));
    }

    #[test]
    fn stopping_tells_the_sender() {
        let mut bench = Bench::new(true);
        assert_eq!(bench.receiver.stop(), None);
        bench.data(1, 6, 0, b"abc");
        let datagram = Message::Refuse { reason: Reason::Stopped }.datagram(1, 6);
        assert_eq!(bench.receiver.stop(), Some(Reply { to: PEER, datagram }));
        assert_eq!(bench.probe(1, 6, 1, 6), refused(Reason::Stopped));
    }

    #[test]
    fn a_transfer_that_contradicts_itself_is_malformed() {
        let mut bench = Bench::new(true);
        bench.data(1, 6, 0, b"abc");
        assert_eq!(bench.data(1, 7, 3, b"def"), None);
        assert_eq!(bench.raw(b"hello"), None);
        assert_eq!(bench.receiver.stats().malformed, 2);
        assert_eq!(bench.raw(&Message::Refuse { reason: Reason::Busy }.datagram(1, 6)), None);
        assert_eq!(bench.receiver.stats().ignored, 1);
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one missing range")]
    fn runs() {
        let (mut bench, file) = (Bench::new(true), (0..1000).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
        let whole = |range: Range<usize>| (&file[range.clone()], &file[range]);
        assert_eq!(bench.run(0, whole(0..250), 0, &[0, 1, 2]), None);
        assert_eq!(bench.receiver.state(), State::Idle, "a run does not begin a transfer");
        bench.probe(1, 1000, 1, 0);
        assert_eq!(bench.run(0, whole(0..250), 0, &[0, 1, 2]), None);
        assert_eq!(bench.run(1, whole(250..500), 250, &[0, 2]), None);
        assert_eq!(bench.run(2, (&file[500..750], &file[501..751]), 500, &[0, 1, 2]), None);
        assert_eq!(bench.run(3, whole(500..750), 500, &[1, 0, 2]), None);
        assert_eq!(bench.run(4, whole(750..1000), 750, &[0]), None);
        assert_eq!(bench.run(4 + 16, whole(750..1000), 750, &[0, 1, 2]), None);
        assert_eq!(bench.run(5, whole(750..1000), 750, &[0, 1, 2]), None, "once more");
        assert_eq!(bench.probe(1, 1000, 2, 1000), missing_after(1, 2, 500, 1000, &[250..750]));
        assert_eq!(bench.run(6, whole(250..500), 250, &[0, 1, 2]), None);
        let status = Status { number: 2, window: 5000, received: 1000, torn: 0, duplicates: 1 };
        assert_eq!(bench.run(7, whole(500..750), 500, &[0, 1, 2]), Some(Message::Complete { status }));
        assert!(bench.sink.bytes == file && bench.sink.writes == 4);
        let stats = bench.receiver.stats();
        assert_eq!((stats.runs, stats.mismatched, stats.broken, stats.torn), (5, 2, 2, 0));
        assert_eq!(bench.receiver.run_memory(), 0);
    }

    #[test]
    fn in_order_a_run_that_does_not_match_is_torn() {
        let (mut bench, file) = (Bench::new(true), [7; 1000]);
        bench.receiver.config.in_order = true;
        bench.probe(1, 1000, 1, 0);
        bench.run(0, (&file[..250], &file[..251]), 0, &[0, 1, 2]);
        assert_eq!((bench.receiver.stats().torn, bench.receiver.stats().mismatched), (1, 0));
        // Its last segment is lost, and the announcement of the one that comes from the same port after it.
        bench.run(0, (&file[..200], &file[..200]), 0, &[0]);
        bench.run(1, (&file[..250], &file[..250]), 0, &[0, 1, 2]);
        let from = SocketAddr::new(PEER.ip(), RUN_PORTS.start);
        assert_eq!(bench.raw_from(from, &[8; 100]), None);
        let stats = bench.receiver.stats();
        assert_eq!((stats.torn, stats.broken, stats.runs), (1, 1, 1));
    }

    #[test]
    fn a_run_of_another_transfer_is_not_ours() {
        let (mut bench, bytes) = (Bench::new(true), [7; 100]);
        bench.probe(2, 1000, 1, 0);
        bench.run(0, (&bytes, &bytes), 0, &[0]);
        let stats = bench.receiver.stats();
        assert_eq!((bench.sink.writes, stats.runs, stats.ignored), (0, 0, 2), "an announcement and a segment");
    }

    /// The bytes of a file may be those of a message; a run's port makes them what they are.
    #[test]
    fn what_a_run_carries_is_not_obeyed() {
        let mut bench = Bench::new(true);
        bench.probe(1, 1000, 1, 0);
        let evil = data(1, 1000, 0, b"abc");
        for port in RUN_PORTS {
            assert_eq!(bench.raw_from(SocketAddr::new(PEER.ip(), port), &evil), None);
        }
        assert_eq!((bench.sink.writes, bench.receiver.stats().ignored), (0, 16));
        let announcement = Run { number: 0, offset: 0, len: 100, segment: 100, crc32: 0 }.announcement(1, 1000);
        assert_eq!(bench.raw(&announcement), None, "nor is what is announced from another port");
        let elsewhere = SocketAddr::new(PEER.ip(), RUN_PORTS.start + 1);
        assert_eq!(bench.raw_from(elsewhere, &announcement), None);
        assert_eq!(bench.raw_from(elsewhere, &[0; ANNOUNCEMENT_LEN]), None);
        assert_eq!((bench.receiver.stats().malformed, bench.receiver.stats().ignored), (2, 17));
        assert_eq!(bench.receiver.run_memory(), 0);
    }

    #[test]
    fn scattered_data_is_remembered_up_to_a_limit() {
        let mut bench = Bench::new(true);
        bench.receiver.config.max_ranges = 100;
        for piece in 0..1000 {
            bench.data(1, 10_000, piece * 10, b"abc");
        }
        assert_eq!(bench.receiver.stats().left_out, 900);
        assert_eq!(bench.receiver.current.as_ref().unwrap().have.len(), 100);
        let Some(Message::Missing { ranges, more: true, .. }) = bench.probe(1, 10_000, 1, 10_000) else {
            panic!("expected a long list");
        };
        assert_eq!((ranges.len(), &ranges[63]), (MAX_MISSING, &(633..640)));
    }
}
