//! The near end: says what to send next, until the receiver has everything.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use super::{
    ANNOUNCEMENT_LEN, DATAGRAM_OVERHEAD, Header, MAX_RUN, Message, ProtocolError, RangeSet, Reason, Status, can_be_cut,
};

/// What a sender is to send, and how patiently.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// The receiver; only for messages.
    pub to: SocketAddr,
    /// A number that no other transfer to this receiver has lately had.
    pub transfer: u64,
    /// Size of the file, bytes.
    pub file_size: u64,
    /// Bytes of the file in each datagram; the last one may be shorter. Not 0.
    pub payload: u32,
    /// Send the file in runs with segments of so many bytes, but for what is sent again; more than
    /// [`ANNOUNCEMENT_LEN`] and at most [`MAX_RUN`].
    pub segment: Option<u32>,
    /// Bytes that may be in flight until the receiver has said what it can take; `None` sends without regard to it.
    pub window: Option<u64>,
    /// Give up when nothing was heard from the receiver for so long.
    pub deadline: Duration,
    /// Give up when it answers for so long, but no further byte arrives whole.
    pub stall: Duration,
    /// Nobody answers at the far end: send everything once and be done.
    pub one_way: bool,
}

impl SenderConfig {
    /// A transfer with a first window of 64 KiB, which the smallest usual socket buffer holds, and a deadline of 10 s.
    pub fn new(to: SocketAddr, transfer: u64, file_size: u64, payload: u32) -> SenderConfig {
        SenderConfig {
            to,
            transfer,
            file_size,
            payload,
            segment: None,
            window: Some(64 << 10),
            deadline: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            one_way: false,
        }
    }
}

/// What a sender does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send these bytes of the file, cut into datagrams of [`SenderConfig::payload`] bytes from its start; never empty.
    Data(Range<u64>),
    /// Send these bytes of the file as a [`Run`](super::Run) with segments of [`SenderConfig::segment`] bytes; or as several
    /// runs, each but the last a multiple of that.
    Run(Range<u64>),
    /// Send this datagram.
    Probe(Vec<u8>),
    /// Nothing, until a datagram comes in or this time has come.
    Wait(Duration),
    /// The receiver has the whole file.
    Done(Summary),
    /// The transfer has failed.
    Failed(ProtocolError),
}

/// The sums of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Data datagrams and segments of runs sent.
    pub datagrams: u64,
    /// Runs that they were sent in, those that the caller split counted once.
    pub runs: u64,
    /// Bytes of the file sent, those sent again included.
    pub bytes: u64,
    /// Data datagrams among them that were sent again.
    pub resent: u64,
    /// Bytes of the file that were handed out and given back as [not sent](Sender::unsent).
    pub unsent: u64,
    /// Probes sent.
    pub probes: u64,
    /// Bytes of the file that the receiver last said it has.
    pub received: u64,
    /// Torn datagrams that the receiver has seen.
    pub torn: u64,
    /// Datagrams that brought the receiver nothing new.
    pub duplicates: u64,
}

/// The sender's end of the conversation.
///
/// Hand in what has arrived with [`datagram`](Sender::datagram) before asking for [`next`](Sender::next): the sender
/// takes what it has not been shown for unanswered.
#[derive(Debug)]
pub struct Sender {
    config: SenderConfig,
    window: Option<u64>,
    /// Everything below has been handed out once.
    first: u64,
    /// What the receiver misses.
    again: RangeSet,
    /// Weight of all data handed out so far (bytes and [`DATAGRAM_OVERHEAD`] a datagram): the clock that probes are
    /// stamped with.
    sent: u64,
    /// What was handed out before this weight has arrived or is known to be missing.
    acknowledged: u64,
    /// Bytes handed out again of which the receiver's answers do not yet speak.
    in_flight_again: VecDeque<Resent>,
    probes: VecDeque<ProbeSent>,
    last_probe: Option<ProbeSent>,
    unanswered_since: Option<Duration>,
    /// How long to wait for an answer before the next probe.
    patience: Duration,
    round_trip: Option<Duration>,
    progress: Progress,
    busy: bool,
    /// To be asked at once what the receiver misses.
    ask: bool,
    summary: Summary,
    end: Option<Result<(), ProtocolError>>,
}

#[derive(Clone, Copy, Debug)]
struct ProbeSent {
    number: u32,
    at: Duration,
    /// What had been handed out before it.
    weight: u64,
}

#[derive(Debug)]
struct Resent {
    weight: u64,
    range: Range<u64>,
}

/// The last time that the receiver had more than before.
#[derive(Debug, Default)]
struct Progress {
    at: Duration,
    weight: u64,
}

impl Sender {
    /// A sender that has sent nothing yet.
    ///
    /// # Panics
    ///
    /// When the payload is 0 bytes, or a segment not of a length that runs have.
    pub fn new(config: SenderConfig) -> Sender {
        assert!(config.payload > 0, "a datagram carries at least one byte");
        let segment = config.segment;
        assert!(segment.is_none_or(|segment| can_be_cut(0, segment)), "no run has segments of {segment:?} bytes");
        Sender {
            window: config.window,
            config,
            first: 0,
            again: RangeSet::new(MAX_AGAIN),
            sent: 0,
            acknowledged: 0,
            in_flight_again: VecDeque::new(),
            probes: VecDeque::new(),
            last_probe: None,
            unanswered_since: None,
            patience: FIRST_PATIENCE,
            round_trip: None,
            progress: Progress::default(),
            busy: false,
            ask: false,
            summary: Summary::default(),
            end: None,
        }
    }

    /// What to do at `now`, one datagram at a time.
    pub fn next(&mut self, now: Duration) -> Next {
        self.next_run(now, 0)
    }

    /// What to do at `now`; data as one run of as many datagrams as `max_bytes` and the window allow, at least one.
    pub fn next_run(&mut self, now: Duration, max_bytes: u64) -> Next {
        if self.config.one_way {
            return self.take(max_bytes).unwrap_or(Next::Done(self.summary));
        }
        if self.end.is_none() {
            self.end = self.overdue(now).map(Err);
        }
        match &self.end {
            Some(Ok(())) => return Next::Done(self.summary),
            Some(Err(error)) => return Next::Failed(error.clone()),
            None => (),
        }
        if self.probe_is_due(now) {
            return self.probe(now);
        }
        if let Some(data) = self.take(max_bytes) {
            return data;
        }
        match self.last_probe {
            Some(last) if last.weight == self.sent => Next::Wait(self.wake(last.at)),
            _ => self.probe(now),
        }
    }

    /// Takes a datagram that came from the receiver at `now`. An error means that it was ignored.
    pub fn datagram(&mut self, now: Duration, bytes: &[u8]) -> Result<(), ProtocolError> {
        let (header, payload) = Header::parse(bytes)?;
        let ours = (header.transfer, header.file_size) == (self.config.transfer, self.config.file_size);
        let Some(message) = Message::parse(&header, payload)?.filter(|_| ours && self.end.is_none()) else {
            return Ok(());
        };
        match message {
            Message::Missing { status, ranges, .. } => self.answered(now, status, &ranges),
            // Complete before everything was sent once is somebody else's.
            Message::Complete { status } if self.first == self.config.file_size => {
                self.note(&status);
                self.end = Some(Ok(()));
            }
            // The receiver may just not have noticed yet that the sender before us is gone.
            Message::Refuse { reason: Reason::Busy } => self.busy = true,
            Message::Refuse { reason } => self.end = Some(Err(ProtocolError::Refused { to: self.config.to, reason })),
            Message::Probe { .. } | Message::Complete { .. } | Message::Run(_) => (),
        }
        Ok(())
    }

    /// Bytes that were handed out and are known not to have been sent: they go out again as soon as the window allows, and
    /// the receiver is asked at once what else it misses, for what became of the rest nobody knows.
    pub fn unsent(&mut self, range: Range<u64>) {
        // What was not handed out in this transfer was another's.
        let range = range.start.min(self.first)..range.end.min(self.first);
        self.summary.unsent += range.end.saturating_sub(range.start);
        self.again.insert(range);
        self.ask = true;
    }

    /// What it was made with.
    pub fn config(&self) -> &SenderConfig {
        &self.config
    }

    /// The sums so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Bytes of the file handed out at least once.
    pub fn sent_once(&self) -> u64 {
        self.first
    }

    fn overdue(&self, now: Duration) -> Option<ProtocolError> {
        let to = self.config.to;
        let waited = now.saturating_sub(self.unanswered_since?);
        (waited >= self.config.deadline).then_some(match self.busy {
            true => ProtocolError::Refused { to, reason: Reason::Busy },
            false => ProtocolError::NoAnswer { to, waited },
        })
    }

    fn probe_is_due(&self, now: Duration) -> bool {
        self.ask
            || self
                .last_probe
                .is_none_or(|last| self.sent - last.weight >= self.quarter() || now >= last.at + self.patience)
    }

    fn wake(&self, probed: Duration) -> Duration {
        let give_up = self.unanswered_since.map(|since| since + self.config.deadline);
        give_up.map_or(probed + self.patience, |give_up| give_up.min(probed + self.patience))
    }

    fn probe(&mut self, now: Duration) -> Next {
        // Nobody spoke since the last probe although there was time: the next one waits longer.
        if self.last_probe.is_some_and(|last| now >= last.at + self.patience) && self.unanswered_since.is_some() {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        let number = self.last_probe.map_or(1, |last| last.number.wrapping_add(1));
        let probe = ProbeSent { number, at: now, weight: self.sent };
        if self.probes.len() == MAX_PROBES {
            self.probes.pop_front();
        }
        self.probes.push_back(probe);
        self.last_probe = Some(probe);
        self.ask = false;
        self.unanswered_since.get_or_insert(now);
        if self.summary.probes == 0 {
            self.progress.at = now;
        }
        self.summary.probes += 1;
        let message = Message::Probe { number, offset: self.first };
        Next::Probe(message.datagram(self.config.transfer, self.config.file_size))
    }

    /// The next bytes of the file: what is missing first. `None` when there is none, or no room in the window.
    fn take(&mut self, max_bytes: u64) -> Option<Next> {
        let payload = u64::from(self.config.payload);
        let max = self.allowed(payload, 0).min((max_bytes / payload).max(1)).saturating_mul(payload);
        if max == 0 {
            return None;
        }
        if let Some(run) = self.again.take_first(max) {
            if self.in_flight_again.len() == MAX_AGAIN {
                self.in_flight_again.pop_front();
            }
            self.in_flight_again.push_back(Resent { weight: self.sent, range: run.clone() });
            self.summary.resent += (run.end - run.start).div_ceil(payload);
            self.count(&run, payload);
            return Some(Next::Data(run));
        }
        if let Some(run) = self.take_segmented(max_bytes) {
            return Some(Next::Run(run));
        }
        let run = self.first..self.first.saturating_add(max).min(self.config.file_size);
        if run.is_empty() {
            return None;
        }
        self.first = run.end;
        self.count(&run, payload);
        Some(Next::Data(run))
    }

    /// A run of bytes not yet sent; `None` when fewer than two segments would go, for which no announcement is worth it.
    fn take_segmented(&mut self, max_bytes: u64) -> Option<Range<u64>> {
        let segment = u64::from(self.config.segment?);
        let announcement = ANNOUNCEMENT_LEN as u64 + DATAGRAM_OVERHEAD;
        let segments = self.allowed(segment, announcement).min(max_bytes.min(u64::from(MAX_RUN)) / segment);
        let mut len = (segments * segment).min(self.config.file_size - self.first);
        if !can_be_cut(len, self.config.segment?) {
            len -= len % segment;
        }
        if len < 2 * segment {
            return None;
        }
        let run = self.first..self.first + len;
        self.first = run.end;
        self.count(&run, segment);
        self.sent += announcement;
        self.summary.runs += 1;
        Some(run)
    }

    /// Counts bytes that go out in datagrams of `piece` bytes.
    fn count(&mut self, run: &Range<u64>, piece: u64) {
        let bytes = run.end - run.start;
        let datagrams = bytes.div_ceil(piece);
        self.summary.datagrams += datagrams;
        self.summary.bytes += bytes;
        self.sent += bytes + datagrams * DATAGRAM_OVERHEAD;
    }

    /// Datagrams of `piece` bytes that may go out now beside something of weight `beside`: what the window has room for, and
    /// not much more than a quarter of it at once, so that a probe is never far away.
    fn allowed(&self, piece: u64, beside: u64) -> u64 {
        let Some(window) = self.window.filter(|_| !self.config.one_way) else { return u64::MAX };
        let datagram = piece + DATAGRAM_OVERHEAD;
        let outstanding = self.sent - self.acknowledged;
        let room = window.saturating_sub(outstanding).saturating_sub(beside) / datagram;
        // A window smaller than one datagram must not stop everything.
        let room = if outstanding == 0 { room.max(1) } else { room };
        room.min((self.quarter() / datagram).max(1))
    }

    /// Weight between two probes.
    fn quarter(&self) -> u64 {
        self.window.map_or(UNPROBED, |window| (window / 4).max(1))
    }

    fn answered(&mut self, now: Duration, status: Status, ranges: &[Range<u64>]) {
        // Not found: an answer that a later one has overtaken, or to a probe that was never sent.
        let Some(position) = self.probes.iter().position(|probe| probe.number == status.number) else { return };
        let Some(probe) = self.probes.drain(..=position).next_back() else { return };
        if status.received != self.summary.received {
            self.progress = Progress { at: now, weight: probe.weight };
        }
        self.note(&status);
        self.busy = false;
        self.unanswered_since = self.probes.front().map(|oldest| oldest.at);
        self.time_round_trip(now.saturating_sub(probe.at));
        self.acknowledged = self.acknowledged.max(probe.weight);
        self.in_flight_again.retain(|resent| resent.weight >= probe.weight);
        if self.window.is_some() {
            self.window = Some(u64::from(status.window));
        }
        self.send_again(ranges);
        if probe.weight > self.progress.weight && now.saturating_sub(self.progress.at) >= self.config.stall {
            let waited = now.saturating_sub(self.progress.at);
            let error = ProtocolError::NoProgress { to: self.config.to, waited, torn: status.torn };
            self.end = Some(Err(error));
        }
    }

    fn note(&mut self, status: &Status) {
        self.summary.received = status.received;
        self.summary.torn = status.torn;
        self.summary.duplicates = status.duplicates;
    }

    fn time_round_trip(&mut self, measured: Duration) {
        let smooth = self.round_trip.map_or(measured, |before| (before * 7 + measured) / 8);
        self.round_trip = Some(smooth);
        self.patience = (smooth * 2 + LEAST_PATIENCE).min(MOST_PATIENCE);
    }

    /// Notes what is missing, but for what went out again after the probe: the receiver could not know of that yet.
    fn send_again(&mut self, ranges: &[Range<u64>]) {
        let mut flying = RangeSet::new(MAX_AGAIN);
        for resent in &self.in_flight_again {
            flying.insert(resent.range.clone());
        }
        for range in ranges {
            // A receiver can miss only what was sent.
            let range = range.start.min(self.first)..range.end.min(self.first);
            for gap in flying.gaps(range) {
                self.again.insert(gap);
            }
        }
    }
}

/// Patience before the first answer has shown how long an answer takes.
const FIRST_PATIENCE: Duration = Duration::from_millis(50);
const LEAST_PATIENCE: Duration = Duration::from_millis(10);
/// Short beside the time that a receiver lingers after its last datagram (1 s).
const MOST_PATIENCE: Duration = Duration::from_millis(250);
/// Weight between two probes when no window sets it.
const UNPROBED: u64 = 4 << 20;
/// Ranges to be sent again that are remembered; what does not fit is in the receiver's next answer.
const MAX_AGAIN: usize = 1024;
/// Unanswered probes that are remembered.
const MAX_PROBES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 100_000;

    fn config() -> SenderConfig {
        SenderConfig::new("192.0.2.1:4000".parse().unwrap(), 1, SIZE, 1000)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn probe(number: u32, offset: u64) -> Next {
        Next::Probe(Message::Probe { number, offset }.datagram(1, SIZE))
    }

    fn missing(sender: &mut Sender, now: Duration, number: u32, received: u64, ranges: &[Range<u64>]) {
        let status = Status { number, window: 8 << 20, received, torn: 0, duplicates: 0 };
        let message = Message::Missing { status, offset: SIZE, ranges: ranges.to_vec(), more: false };
        sender.datagram(now, &message.datagram(1, SIZE)).unwrap();
    }

    #[test]
    fn what_was_not_sent_goes_out_again_at_once_and_the_receiver_is_asked() {
        let mut sender = Sender::new(config());
        assert_eq!(sender.next(ms(0)), probe(1, 0));
        missing(&mut sender, ms(1), 1, 0, &[]);
        assert_eq!(sender.next_run(ms(1), 5000), Next::Data(0..5000));
        // Also what another transfer handed out: nothing of that is this one's.
        sender.unsent(2000..9000);
        assert_eq!(sender.next_run(ms(2), 5000), probe(2, 5000));
        assert_eq!(sender.next_run(ms(2), 5000), Next::Data(2000..5000));
        assert_eq!(sender.next_run(ms(2), 5000), Next::Data(5000..10_000));
        // The receiver could not know that they are on their way.
        missing(&mut sender, ms(3), 2, 1000, std::slice::from_ref(&(1000..5000)));
        assert_eq!(sender.next_run(ms(3), 5000), Next::Data(1000..2000));
        let Summary { unsent, resent, probes, .. } = sender.summary();
        assert_eq!((unsent, resent, probes), (3000, 4, 2));
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one missing range")]
    fn what_is_missing_goes_out_again_once() {
        let mut sender = Sender::new(config());
        assert_eq!(sender.next(ms(0)), probe(1, 0));
        missing(&mut sender, ms(1), 1, 0, &[]);
        assert_eq!(sender.next_run(ms(1), u64::MAX), Next::Data(0..SIZE), "in the window of 8 MiB just heard of");
        assert_eq!(sender.next(ms(1)), probe(2, SIZE));
        assert_eq!(sender.next(ms(1)), Next::Wait(ms(13)));
        assert_eq!(sender.next(ms(13)), probe(3, SIZE));
        missing(&mut sender, ms(14), 2, 97_000, &[1000..3000, 99_000..SIZE]);
        assert_eq!(sender.next_run(ms(14), 65536), Next::Data(1000..3000));
        assert_eq!(sender.next_run(ms(14), 65536), Next::Data(99_000..SIZE));
        missing(&mut sender, ms(15), 3, 97_000, &[1000..3000, 99_000..SIZE]);
        assert_eq!(sender.next(ms(15)), probe(4, SIZE), "nothing of it was lost after probe 3");
        missing(&mut sender, ms(16), 4, 99_000, &[1000..2000]);
        assert_eq!(sender.next(ms(16)), Next::Data(1000..2000));
        missing(&mut sender, ms(16), 2, 97_000, &[0..SIZE]);
        assert_eq!(sender.next(ms(16)), probe(5, SIZE), "an overtaken answer is ignored");
        let status = Status { number: 5, received: SIZE, torn: 4, duplicates: 1, window: 0 };
        sender.datagram(ms(17), &Message::Complete { status }.datagram(1, SIZE)).unwrap();
        let Next::Done(summary) = sender.next(ms(17)) else { panic!("not done") };
        assert_eq!((summary.datagrams, summary.resent, summary.torn, summary.probes), (104, 4, 4, 5));
        assert_eq!(sender.next(ms(18)), Next::Done(summary));
    }

    #[test]
    fn the_window_bounds_what_is_in_flight() {
        let weight = 1000 + DATAGRAM_OVERHEAD;
        let mut sender = Sender::new(SenderConfig { window: Some(8 * weight), ..config() });
        let mut steps = Vec::new();
        loop {
            match sender.next_run(ms(0), 65536) {
                Next::Data(run) => steps.push(run),
                Next::Probe(_) => steps.push(0..0),
                Next::Wait(_) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(steps, [0..0, 0..2000, 0..0, 2000..4000, 0..0, 4000..6000, 0..0, 6000..8000, 0..0]);
        // Half of it is acknowledged; then the timer's probes go out and no data.
        let status = Status { number: 3, window: (8 * weight) as u32, received: 4000, ..Status::default() };
        let message = Message::Missing { status, offset: 4000, ranges: vec![], more: false };
        sender.datagram(ms(0), &message.datagram(1, SIZE)).unwrap();
        assert_eq!(sender.next_run(ms(0), 65536), Next::Data(8000..10_000));
        assert_eq!(sender.next_run(ms(0), 65536), probe(6, 10_000));
        assert_eq!(sender.next_run(ms(0), 65536), Next::Data(10_000..12_000));
        assert_eq!(sender.next_run(ms(0), 65536), probe(7, 12_000));
        assert_eq!(sender.next_run(ms(0), 65536), Next::Wait(ms(10)));
        assert_eq!(sender.next_run(ms(10), 65536), probe(8, 12_000));
    }

    #[test]
    fn a_window_smaller_than_a_datagram_lets_one_through() {
        let mut sender = Sender::new(SenderConfig { window: Some(1), ..config() });
        assert_eq!(sender.next(ms(0)), probe(1, 0));
        assert_eq!(sender.next(ms(0)), Next::Data(0..1000));
        assert_eq!(sender.next(ms(0)), probe(2, 1000));
        assert_eq!(sender.next(ms(0)), Next::Wait(ms(50)));
    }

    #[test]
    fn without_answers_probes_thin_out_until_the_deadline() {
        let mut sender = Sender::new(config());
        let (mut now, mut probes) = (ms(0), 0);
        let error = loop {
            match sender.next_run(now, u64::MAX) {
                Next::Wait(until) => {
                    assert!(until > now);
                    now = until;
                }
                Next::Probe(_) => probes += 1,
                Next::Data(_) => (),
                Next::Failed(error) => break error,
                Next::Run(_) | Next::Done(_) => panic!("a run, or done without an answer"),
            }
        };
        assert_eq!(error, ProtocolError::NoAnswer { to: config().to, waited: ms(10_000) });
        assert!(error.to_string().contains("`receive --listen 192.0.2.1:4000`"), "{error}");
        assert!((40..60).contains(&probes), "{probes} probes in 10 s");
    }

    #[test]
    fn answers_without_progress_end_it_too() {
        let mut sender = Sender::new(config());
        let (mut now, mut number) = (ms(0), 0);
        let error = loop {
            match sender.next_run(now, u64::MAX) {
                Next::Wait(until) => {
                    now = until;
                    missing(&mut sender, now, number, 0, std::slice::from_ref(&(0..SIZE)));
                }
                Next::Probe(_) => number += 1,
                Next::Data(_) => (),
                Next::Failed(error) => break error,
                Next::Run(_) | Next::Done(_) => panic!("a run, or done"),
            }
        };
        assert!(matches!(error, ProtocolError::NoProgress { .. }), "{error}");
        assert!((ms(30_000)..ms(31_000)).contains(&now), "{now:?}");
    }

    #[test]
    fn refusals() {
        let refuse = |sender: &mut Sender, reason| {
            sender.datagram(ms(1), &Message::Refuse { reason }.datagram(1, SIZE)).unwrap();
        };
        let mut sender = Sender::new(config());
        sender.next(ms(0));
        refuse(&mut sender, Reason::Busy);
        assert!(matches!(sender.next(ms(1)), Next::Data(_)), "busy passes");
        let busy = ProtocolError::Refused { to: config().to, reason: Reason::Busy };
        assert_eq!(sender.next(ms(10_000)), Next::Failed(busy));
        let mut sender = Sender::new(config());
        refuse(&mut sender, Reason::StorageFull);
        let full = ProtocolError::Refused { to: config().to, reason: Reason::StorageFull };
        assert_eq!(sender.next(ms(1)), Next::Failed(full));
    }

    #[test]
    fn a_busy_receiver_that_then_answers_is_not_busy() {
        let mut sender = Sender::new(config());
        sender.next(ms(0));
        sender.datagram(ms(1), &Message::Refuse { reason: Reason::Busy }.datagram(1, SIZE)).unwrap();
        missing(&mut sender, ms(2), 1, 0, &[]);
        assert_eq!(sender.next(ms(100)), probe(2, 0));
        let error = ProtocolError::NoAnswer { to: config().to, waited: ms(10_000) };
        assert_eq!(sender.next(ms(10_100)), Next::Failed(error));
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one missing range")]
    fn what_was_never_sent_is_not_sent_again() {
        let mut sender = Sender::new(config());
        sender.next(ms(0));
        assert_eq!(sender.next(ms(0)), Next::Data(0..1000));
        missing(&mut sender, ms(0), 1, 0, &[500..SIZE - 1]);
        assert_eq!(sender.next_run(ms(0), u64::MAX), Next::Data(500..1000));
    }

    #[test]
    fn a_clock_that_has_long_been_running_is_no_stall() {
        let late = ms(100_000);
        let mut sender = Sender::new(config());
        sender.next(late);
        assert_eq!(sender.next(late), Next::Data(0..1000));
        assert_eq!(sender.next(late + ms(50)), probe(2, 1000));
        missing(&mut sender, late + ms(51), 2, 0, std::slice::from_ref(&(0..1000)));
        assert_eq!(sender.next(late + ms(51)), Next::Data(0..1000));
    }

    #[test]
    fn an_early_complete_is_not_ours() {
        let mut sender = Sender::new(config());
        let complete = Message::Complete { status: Status::default() };
        sender.datagram(ms(0), &complete.datagram(1, SIZE)).unwrap();
        sender.datagram(ms(0), &complete.datagram(2, SIZE)).unwrap();
        assert!(matches!(sender.next(ms(0)), Next::Probe(_)));
    }

    #[test]
    fn what_goes_in_runs() {
        let check = |file_size, expected: &[Next]| {
            let config = SenderConfig { file_size, segment: Some(1000), window: None, ..config() };
            let mut sender = Sender::new(SenderConfig { payload: 900, one_way: true, ..config });
            let found = std::iter::from_fn(|| match sender.next_run(ms(0), 65_536) {
                Next::Done(_) => None,
                next => Some(next),
            });
            assert_eq!(found.collect::<Vec<_>>(), expected, "{file_size} bytes");
        };
        check(0, &[]);
        check(1, &[Next::Data(0..1)]);
        check(1999, &[Next::Data(0..1999)]);
        check(2000, &[Next::Run(0..2000)]);
        check(2059, &[Next::Run(0..2059)]);
        // No segment has 60 bytes.
        check(2060, &[Next::Run(0..2000), Next::Data(2000..2060)]);
        check(2061, &[Next::Run(0..2061)]);
        check(65_000, &[Next::Run(0..65_000)]);
        check(65_001, &[Next::Run(0..65_000), Next::Data(65_000..65_001)]);
        check(67_000, &[Next::Run(0..65_000), Next::Run(65_000..67_000)]);
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one missing range")]
    fn what_a_run_did_not_bring_comes_again_as_data() {
        let mut sender = Sender::new(SenderConfig { segment: Some(1100), ..config() });
        assert_eq!(sender.next(ms(0)), probe(1, 0));
        missing(&mut sender, ms(1), 1, 0, &[]);
        assert_eq!(sender.next_run(ms(1), 65_536), Next::Run(0..64_900));
        assert_eq!(sender.next_run(ms(1), 65_536), Next::Run(64_900..SIZE));
        assert_eq!(sender.next_run(ms(1), 65_536), probe(2, SIZE));
        missing(&mut sender, ms(2), 2, 35_100, &[0..64_900]);
        assert_eq!(sender.next_run(ms(2), 65_536), Next::Data(0..64_900));
        let Summary { datagrams, runs, resent, bytes, .. } = sender.summary();
        assert_eq!((datagrams, runs, resent, bytes), (59 + 32 + 65, 2, 65, SIZE + 64_900));
    }

    /// Weights: a run's datagrams and its announcement.
    #[test]
    fn runs_keep_to_the_window() {
        let window = 64 << 10;
        let mut sender = Sender::new(SenderConfig { segment: Some(1000), window: Some(window), ..config() });
        let mut weight = 0;
        loop {
            match sender.next_run(ms(0), 65_536) {
                Next::Run(run) => {
                    let len = run.end - run.start;
                    weight += len + (len / 1000 + 1) * DATAGRAM_OVERHEAD + ANNOUNCEMENT_LEN as u64;
                }
                Next::Data(run) => weight += run.end - run.start + DATAGRAM_OVERHEAD,
                Next::Probe(_) => (),
                Next::Wait(_) => break,
                other => panic!("{other:?}"),
            }
            assert!(weight <= window, "{weight} in a window of {window}");
        }
        assert!(weight > window - 3000, "{weight} in a window of {window}");
        assert!(sender.summary().runs >= 4);
    }

    #[test]
    fn one_way_sends_everything_once() {
        let mut sender = Sender::new(SenderConfig { one_way: true, ..config() });
        assert_eq!(sender.next_run(ms(0), 65536), Next::Data(0..65_000));
        assert_eq!(sender.next_run(ms(0), 65536), Next::Data(65_000..SIZE));
        assert!(matches!(sender.next_run(ms(0), 65536), Next::Done(Summary { datagrams: 100, probes: 0, .. })));
        let mut empty = Sender::new(SenderConfig { one_way: true, file_size: 0, ..config() });
        assert!(matches!(empty.next(ms(0)), Next::Done(_)));
    }
}
