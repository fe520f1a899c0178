//! Sends a file through a [`Station`], and on a loopback receives and checks it as well.
//!
//! One thread speaks the protocol, and owns the first queue. With more queues it deals out what is to be sent: a run to each
//! owner in turn, itself among them, but for those who have enough to do.

mod loopback;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use loopback::Loopback;

use crate::Result;
use crate::crew::{Mark, Work};
use crate::metrics::SenderFigures;
use crate::packet::{Endpoint, UdpTemplate};
pub use crate::posting::HEADERS;
use crate::posting::{Job, Posting};
use crate::segmented::RunOf;
use crate::source::Source;
use crate::station::{Datagram, Station};
use crate::transfer::{Next, Sender, SenderConfig, Summary};

/// How to send.
#[derive(Clone, Debug)]
pub struct Options {
    /// The receiver.
    pub to: Endpoint,
    /// File bytes in each frame.
    pub payload: u32,
    /// Send runs that the NIC cuts into segments of so many file bytes; what is sent again goes in frames of `payload`.
    pub segment: Option<u16>,
    /// Gigabits a second on the wire, frames only; `None` as fast as it goes.
    pub rate: Option<f64>,
    /// Send the file again and again for so long.
    pub repeat_for: Option<Duration>,
    /// Give up on a receiver that is silent for so long, and on a file that can not be held for so long.
    pub deadline: Duration,
    /// Processors for the owners of queues, in turn; the first one's is for the caller to choose
    /// ([`placement::pin`](crate::placement::pin)). None: the kernel chooses.
    pub cores: Vec<usize>,
}

/// What was done.
#[derive(Clone, Copy, Default, Debug)]
pub struct Totals {
    /// Bytes of file data that arrived whole, over all transfers.
    pub bytes: u64,
    /// Frames with file data, those sent again included.
    pub frames: u64,
    /// Frames among them that were sent again.
    pub resent: u64,
    /// Bytes of file data that the NIC gave back as not sent when it was reset; they were sent again.
    pub not_sent: u64,
    /// Runs that frames were cut from.
    pub runs: u64,
    /// Frames, and runs, whose bytes were not those that were digested.
    pub torn: u64,
    /// Transfers completed.
    pub transfers: u64,
    /// The receiver says that it has every byte of every transfer; a far end in this process has also counted them
    /// and, if it was to, compared each with the file on disk.
    pub verified: bool,
    /// From the first frame to the last answer.
    pub took: Duration,
}

/// Sends `source` to the end, once or for a time. `position` says where in the file the sender is, bytes; `progress` is
/// told how much of the current transfer has gone out.
///
/// # Errors
/// Whatever breaks: the NIC, the cache, a receiver that does not answer, bytes that differ.
pub fn send(
    station: &mut Station,
    source: &Source,
    options: &Options,
    mut loopback: Option<&mut Loopback>,
    position: &AtomicU64,
    progress: &mut dyn FnMut(u64),
) -> Result<Totals> {
    let work = work(station, source, options);
    station.hire(&work)?;
    let sent = send_again_and_again(station, source, options, &work, loopback.as_deref_mut(), position, progress);
    // Also when that failed: the owners' holds are let go with the station's.
    let dismissed = station.dismiss();
    let (mut totals, done) = sent?;
    dismissed?;
    // Frames that changed between the NIC's checksum and its transmission did not even get to the protocol.
    totals.torn += station.bad_checksums;
    totals.verified &= loopback.is_none_or(|far| far.has(totals.bytes));
    if let Some(metrics) = &station.metrics {
        metrics.sender.store(SenderFigures { torn: totals.torn, breaks: source.breaks(), ..done });
        station.leave_figures(metrics);
        metrics.end();
    }
    Ok(totals)
}

/// What every owner of a queue is told.
fn work(station: &Station, source: &Source, options: &Options) -> Work {
    Work {
        source: source.clone(),
        from: station.me(),
        to: options.to,
        payload: options.payload,
        segment: options.segment,
        offload: station.offload(),
        deadline: options.deadline,
        cores: options.cores.clone(),
    }
}

fn send_again_and_again(
    station: &mut Station,
    source: &Source,
    options: &Options,
    work: &Work,
    mut loopback: Option<&mut Loopback>,
    position: &AtomicU64,
    progress: &mut dyn FnMut(u64),
) -> Result<(Totals, SenderFigures)> {
    let start = Instant::now();
    let mut totals = Totals { verified: true, ..Totals::default() };
    let mut id = first_id();
    let len = source.len();
    let mut sending = Sending::new(station, source, options, work, position, start);
    loop {
        let summary = sending.transfer(id, loopback.as_deref_mut(), progress)?;
        sending.done.add(&summary);
        totals.bytes += len;
        totals.frames += summary.datagrams;
        totals.resent += summary.resent;
        totals.not_sent += summary.unsent;
        totals.runs += summary.runs;
        totals.torn += summary.torn;
        totals.transfers += 1;
        totals.verified &= summary.received == len;
        id = id.wrapping_add(1);
        if options.repeat_for.is_none_or(|time| start.elapsed() >= time) {
            break;
        }
    }
    totals.took = start.elapsed();
    Ok((totals, sending.done))
}

impl SenderFigures {
    /// One transfer more, ended or not.
    fn add(&mut self, summary: &Summary) {
        self.transfers += 1;
        self.bytes += summary.received;
        self.frames += summary.datagrams;
        self.resent += summary.resent;
        self.torn += summary.torn;
        self.probes += summary.probes;
        self.runs += summary.runs;
        self.not_sent += summary.unsent;
    }
}

struct Sending<'a> {
    station: &'a mut Station,
    source: &'a Source,
    /// Length of the file when it was begun with, bytes: what was said of it to the receiver.
    len: u64,
    options: &'a Options,
    position: &'a AtomicU64,
    start: Instant,
    /// Our own part of the work: in the first queue.
    posting: Posting,
    forth: UdpTemplate,
    back: UdpTemplate,
    datagrams: Vec<Datagram>,
    /// With a rate: when the next data may go out.
    next_data: Duration,
    /// The queue whose turn it is.
    turn: usize,
    /// Probes that must not overtake the data before them, which is in other queues.
    probes: VecDeque<(Mark, Vec<u8>)>,
    /// Of the transfers that have ended.
    done: SenderFigures,
}

impl<'a> Sending<'a> {
    fn new(
        station: &'a mut Station,
        source: &'a Source,
        options: &'a Options,
        work: &Work,
        position: &'a AtomicU64,
        start: Instant,
    ) -> Self {
        let posting = Posting::new(work, (0, station.queue_count()));
        Self {
            source,
            len: source.len(),
            options,
            position,
            start,
            posting,
            forth: UdpTemplate::new(work.from, work.to),
            back: UdpTemplate::new(work.to, work.from),
            datagrams: Vec::new(),
            next_data: Duration::ZERO,
            turn: 0,
            probes: VecDeque::new(),
            done: SenderFigures::default(),
            station,
        }
    }

    /// One transfer, to its end.
    fn transfer(
        &mut self,
        id: u64,
        mut loopback: Option<&mut Loopback>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Summary> {
        let config = SenderConfig {
            deadline: self.options.deadline,
            segment: self.options.segment.map(u32::from),
            ..SenderConfig::new(self.options.to.address.into(), id, self.len, self.options.payload)
        };
        let of = RunOf { transfer: id, file_size: self.len };
        let mut sender = Sender::new(config);
        loop {
            let mut busy = self.receive(&mut sender, loopback.as_deref_mut())?;
            busy |= self.send_due_probes();
            self.station.answer(|metrics| metrics.sender.store(self.figures(&sender.summary())));
            let now = self.now();
            let room = self.posting.room(self.station.tx()?);
            // What is left of our own job comes first, and needs our own ring.
            let queue = if self.posting.owes() { (room > 0).then_some(0) } else { self.whose_turn(room) };
            // Until when there is nothing to do, unless the NIC says otherwise.
            let mut until = if queue.is_some() { self.next_data } else { now + FOR_ROOM };
            match queue.filter(|_| now >= self.next_data) {
                Some(_) if self.posting.owes() => busy |= self.post_owed(now)?,
                Some(queue) => {
                    // A run must fit into our ring whole, so that it can be handed out only once.
                    let most = if queue == 0 { room } else { self.posting.most() };
                    let next = sender.next_run(now, most);
                    let in_runs = matches!(next, Next::Run(_));
                    match next {
                        Next::Data(range) | Next::Run(range) => {
                            busy |= self.deal(queue, Job { of, range, in_runs }, now)?;
                            progress(sender.sent_once());
                        }
                        Next::Probe(bytes) => {
                            self.probe(bytes);
                            busy = true;
                        }
                        Next::Wait(time) => until = time,
                        Next::Done(summary) => return self.end_transfer().map(|()| summary),
                        Next::Failed(error) => return Err(error.into()),
                    }
                }
                None => {}
            }
            if !busy {
                self.station.rest(until.saturating_sub(now))?;
            }
        }
    }

    /// The next queue in turn whose owner has room; we have `room` in ours.
    fn whose_turn(&mut self, room: u64) -> Option<usize> {
        let (count, turn) = (self.station.queue_count(), self.turn);
        let crew = self.station.crew();
        let takes = |queue: usize| match (&crew, queue) {
            (_, 0) => room > 0,
            (Some(crew), queue) => crew.takes(queue),
            (None, _) => false,
        };
        (0..count).map(|step| (turn + step) % count).find(|queue| takes(*queue))
    }

    /// Gives a job to the owner of `queue`. Whether that was something: what cannot be held yet is not.
    fn deal(&mut self, queue: usize, job: Job, now: Duration) -> Result<bool> {
        self.turn = (queue + 1) % self.station.queue_count();
        match self.station.crew().filter(|_| queue > 0) {
            None => {
                self.posting.owe(job, now);
                self.post_owed(now)
            }
            Some(crew) => {
                let (start, bytes, in_runs) = (job.range.start, job.range.end - job.range.start, job.in_runs);
                crew.give(queue, job)?;
                self.went(start, bytes, in_runs, now);
                Ok(true)
            }
        }
    }

    /// Posts what is owed in the first queue, or the first part of it; `false` when nothing of it can be held yet.
    fn post_owed(&mut self, now: Duration) -> Result<bool> {
        let in_runs = self.posting.in_runs();
        let mut capture = self.station.capture.take();
        let posted = self.station.tx().and_then(|tx| self.posting.step(tx, capture.as_deref_mut(), self.source, now));
        self.station.capture = capture;
        let Some(run) = posted? else { return Ok(false) };
        self.went(run.start, run.end - run.start, in_runs, now);
        Ok(true)
    }

    /// Notes that bytes of the file go out.
    fn went(&mut self, start: u64, bytes: u64, in_runs: bool, now: Duration) {
        self.position.store(start, Ordering::Relaxed);
        if let Some(gigabits) = self.options.rate {
            // Time not used is not saved up, so a pause does not end in a burst.
            let spent = Duration::from_secs_f64(self.posting.wire_bits(bytes, in_runs) / (gigabits * 1e9));
            self.next_data = self.next_data.max(now.saturating_sub(RATE_SLACK)) + spent;
        }
    }

    /// Sends a probe behind all data that was dealt out. In the first queue it is by itself; what is in others must have left,
    /// or the receiver would be asked for what it can not have, and we would send that twice.
    fn probe(&mut self, bytes: Vec<u8>) {
        match self.station.crew().map(|crew| crew.mark()) {
            None => self.station.send(&mut self.forth, &bytes),
            Some(mark) => self.probes.push_back((mark, bytes)),
        }
    }

    /// Sends the probes whose data has left. Whether there were any.
    fn send_due_probes(&mut self) -> bool {
        let mut sent = false;
        while let Some((mark, bytes)) = self.probes.front()
            && self.station.crew().is_none_or(|crew| crew.has_passed(mark))
        {
            self.station.send(&mut self.forth, bytes);
            self.probes.pop_front();
            sent = true;
        }
        sent
    }

    /// The receiver has everything: what somebody still has to send was asked for twice.
    fn end_transfer(&mut self) -> Result<()> {
        self.probes.clear();
        self.station.crew().map_or(Ok(()), |crew| crew.forget())
    }

    /// What is told to who looks on, in the middle of a transfer.
    fn figures(&self, current: &Summary) -> SenderFigures {
        let mut figures = self.done;
        figures.add(current);
        let torn = figures.torn + self.station.bad_checksums;
        SenderFigures { transfers: self.done.transfers, torn, breaks: self.source.breaks(), ..figures }
    }

    /// Takes in what has arrived.
    fn receive(&mut self, sender: &mut Sender, loopback: Option<&mut Loopback>) -> Result<bool> {
        let mut datagrams = std::mem::take(&mut self.datagrams);
        let busy = self.station.poll(&mut datagrams)?;
        self.station.crew().map_or(Ok(()), |crew| crew.check())?;
        let now = self.now();
        for range in self.station.take_not_sent() {
            sender.unsent(range);
        }
        if let Some(far) = loopback {
            let ours = datagrams.iter().filter(|datagram| datagram.port == self.options.to.address.port());
            far.take(now, ours, |reply| self.station.send(&mut self.back, reply))?;
        }
        for datagram in datagrams.drain(..) {
            if datagram.port == self.station.me().address.port() {
                // What is not of this transfer is nobody's: the protocol says so in its error, and the wire may say
                // anything.
                let _ = sender.datagram(now, &datagram.payload);
            }
        }
        self.datagrams = datagrams;
        Ok(busy)
    }

    /// Time since the start, but for that in which nobody could have been heard: a receiver is not silent then.
    fn now(&self) -> Duration {
        self.start.elapsed().saturating_sub(self.station.away())
    }
}

/// Transfers are told apart by their numbers, also from those of an earlier run to the same receiver.
fn first_id() -> u64 {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    clock.as_nanos() as u64 ^ u64::from(std::process::id()) << 48
}

/// A full ring is looked at again after so long, if no interrupt comes.
const FOR_ROOM: Duration = Duration::from_millis(10);
/// How far behind its rate the sender may catch up.
const RATE_SLACK: Duration = Duration::from_millis(1);
