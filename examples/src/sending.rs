//! Sends a file through a [`Station`], and on a loopback receives and checks it as well.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stillwire_dma::Payload;

use crate::metrics::SenderFigures;
use crate::packet::{self, Endpoint, UDP_HEADERS, UdpTemplate};
use crate::segmented::{RUN_DESCRIPTORS, RunOf, Runs};
use crate::source::Source;
use crate::station::{Cargo, Datagram, Station};
use crate::transfer::{DATA_HEADER_LEN, Header, Next, Receiver, ReceiverConfig, Sender, SenderConfig, Sink, Summary};
use crate::{Error, Result};

/// Headers in front of the file's bytes in each frame: Ethernet, IPv4, UDP, transfer protocol.
pub const HEADERS: usize = UDP_HEADERS + DATA_HEADER_LEN;

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
}

/// The far end when it is in this process: everything comes back through the receive ring.
pub struct Loopback {
    receiver: Receiver,
    check: Check,
}

impl Loopback {
    /// A far end that checks what arrives. With `compare` every byte is compared with the file on disk, which this
    /// opens and reads for itself; without, digests alone are checked (somebody is writing to the cached file). They are
    /// also all that is checked from the moment when somebody outside has had `source` and written to it.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn new(path: &Path, source: &Source, compare: bool) -> Result<Self> {
        let file = |source| Error::File { path: path.to_owned(), source };
        let file = compare.then(|| File::open(path)).transpose().map_err(file)?;
        let source = source.clone();
        let config =
            ReceiverConfig { window: LOOPBACK_WINDOW, keep: true, in_order: true, ..ReceiverConfig::default() };
        let check = Check { file, source, path: path.to_owned(), buffer: Vec::new(), compared: 0, differs: None };
        Ok(Self { receiver: Receiver::new(config), check })
    }

    /// Whether just so many bytes arrived whole, over all transfers, and were compared if they were to be.
    fn has(&self, bytes: u64) -> bool {
        self.receiver.stats().bytes == bytes && (self.check.file.is_none() || self.check.compared == bytes)
    }
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
    let start = Instant::now();
    let mut totals = Totals { verified: true, ..Totals::default() };
    let mut id = first_id();
    let len = source.len();
    let mut sending = Sending::new(station, source, options, position, start);
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
    let done = sending.done;
    totals.took = start.elapsed();
    // Frames that changed between the NIC's checksum and its transmission did not even get to the protocol.
    totals.torn += station.bad_checksums;
    totals.verified &= loopback.is_none_or(|far| far.has(totals.bytes));
    if let Some(metrics) = &station.metrics {
        metrics.sender.store(SenderFigures { torn: totals.torn, breaks: source.breaks(), ..done });
        metrics.station.store(station.figures());
        metrics.end();
    }
    Ok(totals)
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
    forth: UdpTemplate,
    runs: Option<Runs>,
    back: UdpTemplate,
    datagrams: Vec<Datagram>,
    /// With a rate: when the next data may go out.
    next_data: Duration,
    /// Bytes of the file that the protocol has handed out and that are not in the ring yet.
    owed: Range<u64>,
    /// Whether they go in runs.
    owed_in_runs: bool,
    /// When they could be held last, and how much of them is tried at once, bytes.
    held: Duration,
    at_once: u64,
    /// Of the transfers that have ended.
    done: SenderFigures,
}

impl<'a> Sending<'a> {
    fn new(
        station: &'a mut Station,
        source: &'a Source,
        options: &'a Options,
        position: &'a AtomicU64,
        start: Instant,
    ) -> Self {
        let me = station.me();
        let (forth, back) = (UdpTemplate::new(me, options.to), UdpTemplate::new(options.to, me));
        Self {
            station,
            source,
            len: source.len(),
            options,
            position,
            start,
            forth,
            runs: options.segment.map(|segment| Runs::new(me, options.to, segment)),
            back,
            datagrams: Vec::new(),
            next_data: Duration::ZERO,
            owed: 0..0,
            owed_in_runs: false,
            held: Duration::ZERO,
            at_once: RUN,
            done: SenderFigures::default(),
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
        let mut sender = Sender::new(config);
        loop {
            let mut busy = self.receive(&mut sender, loopback.as_deref_mut())?;
            self.station.answer(|metrics| metrics.sender.store(self.figures(&sender.summary())));
            let now = self.now();
            // A run must fit into the ring whole, so that it can be handed out only once.
            let room = self.room()?;
            let data_may_go = room > 0 && now >= self.next_data;
            // Until when there is nothing to do, unless the NIC says otherwise.
            let mut until = if room > 0 { self.next_data } else { now + FOR_ROOM };
            if data_may_go && !self.owed.is_empty() {
                busy |= self.post_owed(id, room, now)?;
            } else if data_may_go {
                let next = sender.next_run(now, room);
                self.owed_in_runs = matches!(next, Next::Run(_));
                match next {
                    Next::Data(run) | Next::Run(run) => {
                        (self.owed, self.held) = (run, now);
                        busy |= self.post_owed(id, room, now)?;
                        progress(sender.sent_once());
                    }
                    Next::Probe(bytes) => {
                        self.station.send(&mut self.forth, &bytes);
                        busy = true;
                    }
                    Next::Wait(time) => until = time,
                    Next::Done(summary) => return Ok(summary),
                    Next::Failed(error) => return Err(error.into()),
                }
            }
            if !busy {
                self.station.rest(until.saturating_sub(now))?;
            }
        }
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
        let now = self.now();
        for range in self.station.take_not_sent() {
            sender.unsent(range);
        }
        if let Some(far) = loopback {
            for datagram in datagrams.iter().filter(|datagram| datagram.port == self.options.to.address.port()) {
                let from = datagram.from.address.into();
                if let Some(reply) = far.receiver.datagram(now, from, &datagram.payload, &mut far.check) {
                    self.station.send(&mut self.back, &reply.datagram);
                }
                if let Some(error) = far.check.differs.take() {
                    return Err(error);
                }
            }
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

    /// Bytes of the file that the ring has room for, at most a run.
    fn room(&mut self) -> Result<u64> {
        let payload = u64::from(self.options.payload);
        let free = self.station.tx()?.free().saturating_sub(SPARE_DESCRIPTORS);
        if self.runs.is_some() && free < RUN_DESCRIPTORS {
            return Ok(0);
        }
        let frames = free / DESCRIPTORS_A_FRAME;
        Ok((frames as u64 * payload).min(RUN.max(payload)))
    }

    /// Posts what is owed, or the first part of it; `false` when nothing of it can be held yet. What stands in the way may
    /// be what is in the ring, and only this thread reclaims that: so it does not wait here, and tries less the next time.
    fn post_owed(&mut self, id: u64, room: u64, now: Duration) -> Result<bool> {
        let found = self.source.len();
        if found < self.len {
            // Also when these bytes are before its end: the receiver will never have the rest.
            let (path, expected) = (self.source.path().to_owned(), self.len);
            return Err(stillwire_filecache::Error::Shrunk { path, expected, found }.into());
        }
        let segment = self.runs.as_ref().filter(|_| self.owed_in_runs).map(Runs::segment);
        let piece = segment.map_or(self.options.payload.into(), u64::from);
        // Whole frames, or the receiver would get two where it reckons with one.
        let most = (room.min(self.at_once) / piece).max(1) * piece;
        let run = self.owed.start..self.owed.end.min(self.owed.start + most);
        self.position.store(run.start, Ordering::Relaxed);
        match self.source.cargo(run.clone())? {
            Ok(cargo) => {
                self.owed.start = run.end;
                (self.held, self.at_once) = (now, (self.at_once * 2).min(RUN));
                let wire_bits = match segment {
                    Some(segment) => self.post_segments(id, run, segment, cargo)?,
                    None => self.post_run(id, run, cargo)?,
                };
                self.station.tx()?.publish();
                if let Some(gigabits) = self.options.rate {
                    // Time not used is not saved up, so a pause does not end in a burst.
                    let spent = Duration::from_secs_f64(wire_bits / (gigabits * 1e9));
                    self.next_data = self.next_data.max(now.saturating_sub(RATE_SLACK)) + spent;
                }
                Ok(true)
            }
            Err(error) => {
                self.at_once = (self.at_once / 2).max(1);
                let since = now.saturating_sub(self.held);
                if since >= self.options.deadline { Err(error.into()) } else { Ok(false) }
            }
        }
    }

    /// Posts `run` (bytes of the file) for the NIC to cut; its bits on the wire.
    fn post_segments(&mut self, id: u64, run: Range<u64>, segment: u16, cargo: Cargo) -> Result<f64> {
        let Some(runs) = &mut self.runs else { return Ok(0.0) };
        let len = cargo.len();
        let crc32 = cargo.crc32(0..len)?;
        let of = RunOf { transfer: id, file_size: self.len };
        let mut capture = self.station.capture.take();
        let tx = self.station.tx()?;
        let posted = match &mut capture {
            None => runs.post(tx, of, run.start, crc32, cargo),
            Some(capture) => {
                let posted = runs.post_seen(tx, of, run.start, crc32, cargo, |header, offload, cargo| {
                    capture.posted(header, Some(offload), cargo.map(|cargo| (cargo, 0..len)));
                });
                capture.end_batch();
                posted
            }
        };
        self.station.capture = capture;
        let back = posted?;
        debug_assert!(back.is_none(), "room() left enough descriptors");
        let frames = len.div_ceil(segment.into());
        Ok((len + frames * (UDP_HEADERS + 4 + 20)) as f64 * 8.0)
    }

    /// Posts `run` (bytes of the file) as frames that share one hold; their bits on the wire.
    fn post_run(&mut self, id: u64, run: Range<u64>, cargo: Cargo) -> Result<f64> {
        let Some(mut capture) = self.station.capture.take() else {
            return self.post_frames(id, run, cargo, |_, _, _| {});
        };
        let offload = self.station.offload();
        let posted = self.post_frames(id, run, cargo, |header, cargo, part| {
            capture.posted(header, offload, Some((cargo, part)));
        });
        capture.end_batch();
        self.station.capture = Some(capture);
        posted
    }

    /// The same; `seen` is shown the header of each frame, and its part of the hold.
    #[inline]
    fn post_frames(
        &mut self,
        id: u64,
        run: Range<u64>,
        cargo: Cargo,
        mut seen: impl FnMut(&[u8], &Cargo, Range<usize>),
    ) -> Result<f64> {
        let len = (run.end - run.start) as usize;
        let payload = self.options.payload as usize;
        let offload = self.station.offload();
        let mut posting = self.station.tx()?.run(cargo);
        let mut wire_bits = 0.0;
        for start in (0..len).step_by(payload) {
            let part = start..len.min(start + payload);
            let offset = run.start + start as u64;
            let crc32 = posting.payload().crc32(part.clone())?;
            let header = Header::data(id, self.len, offset, part.len() as u32, crc32);
            let mut bytes = [0; HEADERS];
            bytes[..UDP_HEADERS].copy_from_slice(self.forth.next(DATA_HEADER_LEN + part.len()));
            header.emit(&mut bytes[UDP_HEADERS..]);
            wire_bits += ((HEADERS + part.len()).max(60) + 4 + 20) as f64 * 8.0;
            if offload.is_none() {
                packet::write_checksums(&mut bytes, posting.payload().sum(part.clone())?);
            }
            seen(&bytes, posting.payload(), part.clone());
            let posted = posting.post(&bytes, offload, part)?;
            debug_assert!(posted, "room() left enough descriptors");
        }
        Ok(wire_bits)
    }
}

/// The loopback's far end: compares instead of storing.
struct Check {
    file: Option<File>,
    source: Source,
    path: PathBuf,
    buffer: Vec<u8>,
    /// Bytes found equal.
    compared: u64,
    differs: Option<Error>,
}

impl Sink for Check {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        self.buffer.resize(bytes.len(), 0);
        let read = file.read_exact_at(&mut self.buffer, offset);
        if read.is_ok() && self.buffer == bytes {
            self.compared += bytes.len() as u64;
            return Ok(());
        }
        if self.source.breaks() > 0 {
            // Counted before the writer could write: the disk may have newer bytes than were sent, and rightly so.
            self.file = None;
            return Ok(());
        }
        self.differs = Some(Error::Differs { path: self.path.clone(), offset, bytes: bytes.len() });
        Err(io::Error::from(io::ErrorKind::InvalidData))
    }
}

/// Transfers are told apart by their numbers, also from those of an earlier run to the same receiver.
fn first_id() -> u64 {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    clock.as_nanos() as u64 ^ u64::from(std::process::id()) << 48
}

/// One hold covers so much of the file, bytes.
const RUN: u64 = 64 * 1024;
/// Header, two pieces of payload (a frame can straddle two folios), and the odd context descriptor.
const DESCRIPTORS_A_FRAME: usize = 4;
/// Kept free for answers and probes.
const SPARE_DESCRIPTORS: usize = 32;
/// What the receive ring and the wire's queue can take.
const LOOPBACK_WINDOW: u32 = 512 * 1024;
/// A full ring is looked at again after so long, if no interrupt comes.
const FOR_ROOM: Duration = Duration::from_millis(10);
/// How far behind its rate the sender may catch up.
const RATE_SLACK: Duration = Duration::from_millis(1);
