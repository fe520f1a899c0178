//! From a run of the file to frames in a ring, by whoever owns the ring.

use std::ops::Range;
use std::time::Duration;

use stillwire_dma::Payload;
use stillwire_driver::{Offload, TxQueue};

use crate::Result;
use crate::capture::Capture;
use crate::crew::Work;
use crate::packet::{self, UDP_HEADERS, UdpTemplate};
use crate::segmented::{RUN_DESCRIPTORS, RunOf, Runs};
use crate::source::Source;
use crate::station::Cargo;
use crate::transfer::{DATA_HEADER_LEN, Header};

/// Headers in front of the file's bytes in each frame: Ethernet, IPv4, UDP, transfer protocol.
pub const HEADERS: usize = UDP_HEADERS + DATA_HEADER_LEN;

/// Bytes of a file that are to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Job {
    /// The transfer's number, and the length of its file, bytes.
    pub of: RunOf,
    /// Which bytes.
    pub range: Range<u64>,
    /// Whether the NIC is to cut them.
    pub in_runs: bool,
}

/// Posts jobs into one ring, piece by piece if need be.
pub(crate) struct Posting {
    forth: UdpTemplate,
    runs: Option<Runs>,
    payload: u32,
    offload: Option<Offload>,
    deadline: Duration,
    /// What has not been posted yet.
    owed: Option<Job>,
    /// When a part of it could be held last, and how much of it is tried at once, bytes.
    held: Duration,
    at_once: u64,
}

impl Posting {
    /// For the queue `(number, of)`: what the NIC cuts comes from ports that no other queue has.
    pub fn new(work: &Work, (queue, of): (usize, usize)) -> Self {
        Self {
            forth: UdpTemplate::new(work.from, work.to),
            runs: work.segment.map(|segment| Runs::of_queue(work.from, work.to, segment, (queue, of))),
            payload: work.payload,
            offload: work.offload,
            deadline: work.deadline,
            owed: None,
            held: Duration::ZERO,
            at_once: RUN,
        }
    }

    /// Takes a job at `now`; there is no other.
    pub fn owe(&mut self, job: Job, now: Duration) {
        debug_assert!(self.owed.is_none(), "one after the other");
        (self.owed, self.held) = (Some(job), now);
    }

    /// Whether there is something left of it.
    pub fn owes(&self) -> bool {
        self.owed.is_some()
    }

    /// Whether the NIC is to cut it.
    pub fn in_runs(&self) -> bool {
        self.owed.as_ref().is_some_and(|job| job.in_runs)
    }

    /// Takes back what is left of it, bytes of the file.
    pub fn take_owed(&mut self) -> Option<Range<u64>> {
        self.owed.take().map(|job| job.range)
    }

    /// Bytes of the file that the ring has room for, at most [`most`](Self::most).
    pub fn room(&self, tx: &TxQueue<Cargo>) -> u64 {
        let free = tx.free().saturating_sub(SPARE_DESCRIPTORS);
        if self.runs.is_some() && free < RUN_DESCRIPTORS {
            return 0;
        }
        let frames = free / DESCRIPTORS_A_FRAME;
        (frames as u64 * u64::from(self.payload)).min(self.most())
    }

    /// Bytes of the file that one hold covers at most.
    pub fn most(&self) -> u64 {
        RUN.max(self.payload.into())
    }

    /// Bytes of the file in each frame of it.
    fn piece(&self, in_runs: bool) -> u64 {
        let segment = self.runs.as_ref().filter(|_| in_runs).map(Runs::segment);
        segment.map_or(self.payload.into(), u64::from)
    }

    /// Bits on the wire that `len` bytes of the file are.
    pub fn wire_bits(&self, len: u64, in_runs: bool) -> f64 {
        let piece = self.piece(in_runs);
        let headers = if in_runs { UDP_HEADERS } else { HEADERS } as u64;
        // Check sequence, preamble and gap are a frame's, too, and it has 60 bytes at least.
        let bytes = |piece: u64| (headers + piece).max(60) + 4 + 20;
        let rest = len % piece;
        (len / piece * bytes(piece) + if rest > 0 { bytes(rest) } else { 0 }) as f64 * 8.0
    }

    /// Posts what is owed, or the first part of it, and returns what that was; `None` when nothing of it can be held at `now`.
    /// What stands in the way may be what is in the ring, and only the caller reclaims that: so this does not wait, and tries
    /// less the next time. There must be [room](Self::room).
    ///
    /// # Errors
    /// What the driver and the file say.
    pub fn step(
        &mut self,
        tx: &mut TxQueue<Cargo>,
        capture: Option<&mut Capture>,
        source: &Source,
        now: Duration,
    ) -> Result<Option<Range<u64>>> {
        let room = self.room(tx);
        let Some(job) = self.owed.take() else { return Ok(None) };
        let (found, expected) = (source.len(), job.of.file_size);
        if found < expected {
            // Also when these bytes are before its end: the receiver will never have the rest.
            let path = source.path().to_owned();
            return Err(stillwire_filecache::Error::Shrunk { path, expected, found }.into());
        }
        let piece = self.piece(job.in_runs);
        // Whole frames, or the receiver would get two where it reckons with one.
        let most = (room.min(self.at_once) / piece).max(1) * piece;
        let run = job.range.start..job.range.end.min(job.range.start + most);
        match source.cargo(run.clone())? {
            Ok(cargo) => {
                (self.held, self.at_once) = (now, (self.at_once * 2).min(RUN));
                match job.in_runs {
                    true => self.post_segments(tx, capture, job.of, run.start, cargo)?,
                    false => self.post_run(tx, capture, job.of, run.clone(), cargo)?,
                }
                tx.publish();
                let rest = run.end..job.range.end;
                self.owed = (!rest.is_empty()).then_some(Job { range: rest, ..job });
                Ok(Some(run))
            }
            Err(error) => {
                self.at_once = (self.at_once / 2).max(1);
                self.owed = Some(job);
                let since = now.saturating_sub(self.held);
                if since >= self.deadline { Err(error.into()) } else { Ok(None) }
            }
        }
    }

    /// Posts the bytes at `offset` for the NIC to cut.
    fn post_segments(
        &mut self,
        tx: &mut TxQueue<Cargo>,
        capture: Option<&mut Capture>,
        of: RunOf,
        offset: u64,
        cargo: Cargo,
    ) -> Result<()> {
        let Some(runs) = &mut self.runs else { return Ok(()) };
        let len = cargo.len();
        let crc32 = cargo.crc32(0..len)?;
        let back = match capture {
            None => runs.post(tx, of, offset, crc32, cargo)?,
            Some(capture) => {
                let posted = runs.post_seen(tx, of, offset, crc32, cargo, |header, offload, cargo| {
                    capture.posted(header, Some(offload), cargo.map(|cargo| (cargo, 0..len)));
                });
                capture.end_batch();
                posted?
            }
        };
        debug_assert!(back.is_none(), "room() left enough descriptors");
        Ok(())
    }

    /// Posts `run` (bytes of the file) as frames that share one hold.
    fn post_run(
        &mut self,
        tx: &mut TxQueue<Cargo>,
        capture: Option<&mut Capture>,
        of: RunOf,
        run: Range<u64>,
        cargo: Cargo,
    ) -> Result<()> {
        let Some(capture) = capture else { return self.post_frames(tx, of, run, cargo, |_, _, _| {}) };
        let offload = self.offload;
        let posted = self.post_frames(tx, of, run, cargo, |header, cargo, part| {
            capture.posted(header, offload, Some((cargo, part)));
        });
        capture.end_batch();
        posted
    }

    /// The same; `seen` is shown the header of each frame, and its part of the hold.
    #[inline]
    fn post_frames(
        &mut self,
        tx: &mut TxQueue<Cargo>,
        of: RunOf,
        run: Range<u64>,
        cargo: Cargo,
        mut seen: impl FnMut(&[u8], &Cargo, Range<usize>),
    ) -> Result<()> {
        let len = (run.end - run.start) as usize;
        let (payload, offload) = (self.payload as usize, self.offload);
        let mut posting = tx.run(cargo);
        for start in (0..len).step_by(payload) {
            let part = start..len.min(start + payload);
            let offset = run.start + start as u64;
            let crc32 = posting.payload().crc32(part.clone())?;
            let header = Header::data(of.transfer, of.file_size, offset, part.len() as u32, crc32);
            let mut bytes = [0; HEADERS];
            bytes[..UDP_HEADERS].copy_from_slice(self.forth.next(DATA_HEADER_LEN + part.len()));
            header.emit(&mut bytes[UDP_HEADERS..]);
            if offload.is_none() {
                packet::write_checksums(&mut bytes, posting.payload().sum(part.clone())?);
            }
            seen(&bytes, posting.payload(), part.clone());
            let posted = posting.post(&bytes, offload, part)?;
            debug_assert!(posted, "room() left enough descriptors");
        }
        Ok(())
    }
}

/// One hold covers so much of the file, bytes.
const RUN: u64 = 64 * 1024;
/// Header, two pieces of payload (a frame can straddle two folios), and the odd context descriptor.
const DESCRIPTORS_A_FRAME: usize = 4;
/// Kept free for answers and probes.
const SPARE_DESCRIPTORS: usize = 32;
