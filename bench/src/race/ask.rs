//! Questions and answers.

use serde::Serialize;

use super::{Error, Result};
use crate::paper::Counts;

/// What can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Frames of 60 bytes, all header.
    Tx60,
    /// A TCP header and held file bytes, with checksums; a hold a run of up to 64 KiB.
    TxPage,
    /// The same with a hold a frame.
    TxPageEach,
    /// Frames of 60 bytes that arrive.
    Rx60,
    /// Hold and release of a clean page.
    Hold,
    /// Hold and release of 64 KiB of clean pages.
    HoldRun,
    /// What a hold is measured by: two atomic additions.
    Atomics,
    /// What a file sender does: a hold a run, and headers built from a template.
    Sender,
    /// The same with one post a run, which the NIC cuts into frames.
    SenderSegmented,
    /// As the first, with the transfer protocol's header, which has a digest of the frame's bytes.
    SenderDigest,
}

/// All of them, with their names.
pub const WORKS: [(&str, Work); 10] = [
    ("tx60", Work::Tx60),
    ("tx-page", Work::TxPage),
    ("tx-page-each", Work::TxPageEach),
    ("rx60", Work::Rx60),
    ("hold", Work::Hold),
    ("hold-run", Work::HoldRun),
    ("atomics", Work::Atomics),
    ("sender", Work::Sender),
    ("sender-segmented", Work::SenderSegmented),
    ("sender-digest", Work::SenderDigest),
];

/// The device that the driver drives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// On paper.
    Paper,
    /// The emulator's model.
    Model,
}

/// A question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// What to do.
    pub work: Work,
    /// Descriptors of each ring.
    pub ring: u16,
    /// Frames; pages where there are no frames.
    pub frames: usize,
    /// Frames between two looks at the clock: those of a doorbell.
    pub burst: usize,
    /// Size of the cached file that is walked through, MiB.
    pub cache_mib: usize,
    /// Whether its pages are of 2 MiB.
    pub huge: bool,
    /// What the driver drives.
    pub device: Kind,
    /// File bytes in each frame.
    pub payload: usize,
}

impl Ask {
    /// Reads `run WORK key=value ...`.
    ///
    /// # Errors
    /// [`Error::Ask`].
    pub fn parse(line: &str) -> Result<Self> {
        Self::read(line).map_err(|why| Error::Ask { line: line.to_owned(), why })
    }

    fn read(line: &str) -> std::result::Result<Self, String> {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("run") {
            return Err("it does not begin with run".into());
        }
        let name = words.next().unwrap_or_default();
        let found = WORKS.iter().find(|(known, _)| *known == name);
        let &(_, work) = found.ok_or_else(|| format!("there is no work '{name}'"))?;
        let mut ask = Self {
            work,
            ring: 512,
            frames: 16384,
            burst: 32,
            cache_mib: 64,
            huge: false,
            device: Kind::Paper,
            payload: 1460,
        };
        for word in words {
            ask.set(word)?;
        }
        ask.check()?;
        Ok(ask)
    }

    fn set(&mut self, word: &str) -> std::result::Result<(), String> {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("'{word}' is not key=value"))?;
        let number = || value.parse::<usize>().map_err(|_| format!("'{word}' has no number"));
        match key {
            "ring" => self.ring = value.parse().map_err(|_| format!("'{word}' is no size of a ring"))?,
            "frames" => self.frames = number()?,
            "burst" => self.burst = number()?,
            "cache_mib" => self.cache_mib = number()?,
            "payload" => self.payload = number()?,
            "pages" => {
                self.huge = match value {
                    "4KiB" => false,
                    "2MiB" => true,
                    _ => return Err(format!("'{word}' is neither pages=4KiB nor pages=2MiB")),
                }
            }
            "device" => {
                self.device = match value {
                    "paper" => Kind::Paper,
                    "model" => Kind::Model,
                    _ => return Err(format!("'{word}' is neither device=paper nor device=model")),
                }
            }
            _ => return Err(format!("there is no key '{key}'")),
        }
        Ok(())
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.burst == 0 || self.frames == 0 || !self.frames.is_multiple_of(self.burst) {
            return Err(format!("{} frames are no bursts of {}", self.frames, self.burst));
        }
        if self.work == Work::HoldRun && !self.frames.is_multiple_of(RUN_PAGES) {
            return Err(format!("{} pages are no runs of {RUN_PAGES}", self.frames));
        }
        if !(1..=MOST_PAYLOAD).contains(&self.payload) {
            return Err(format!("a payload of {} bytes is not within 1 to {MOST_PAYLOAD}", self.payload));
        }
        let bytes = self.cache_mib << 20;
        if bytes < super::timed::RUN.max(self.burst_bytes()) {
            return Err(format!("a file of {} MiB has no burst of {} frames", self.cache_mib, self.burst));
        }
        Ok(())
    }

    /// Bytes of the file in a burst. What the NIC cuts goes in runs of [`RUN`](super::timed::RUN) bytes: so the last frame of each
    /// has what is left.
    pub(super) fn burst_bytes(&self) -> usize {
        if self.work != Work::SenderSegmented {
            return self.burst * self.payload;
        }
        let (run, a_run) = (super::timed::RUN, super::timed::RUN.div_ceil(self.payload));
        self.burst / a_run * run + self.burst % a_run * self.payload
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        WORKS.iter().find(|(_, work)| *work == self.work).map_or("", |(name, _)| name)
    }
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Answer {
    /// The work.
    pub work: &'static str,
    /// All timed regions together.
    pub ns: u64,
    /// What the device counted: whole frames. Pages where there is no device.
    pub frames: u64,
    /// Bytes in them, without check sequences.
    pub bytes: u64,
    /// Descriptors, those of contexts included.
    pub descriptors: u64,
    /// Descriptors written back.
    pub reports: u64,
    /// Doorbells.
    pub doorbells: u64,
    /// Header bytes in each frame.
    pub header: u64,
}

impl Answer {
    /// What was done in `ns`.
    pub(super) fn new(ask: &Ask, ns: u64, counts: Counts, header: usize) -> Self {
        let Counts { frames, bytes, descriptors, reports, doorbells } = counts;
        Self { work: ask.name(), ns, frames, bytes, descriptors, reports, doorbells, header: header as u64 }
    }
}

/// Pages of a run.
pub(super) const RUN_PAGES: usize = super::timed::RUN / 4096;
/// Most file bytes of a frame; the 82599 takes frames of 9.5 KiB.
const MOST_PAYLOAD: usize = 9600;
