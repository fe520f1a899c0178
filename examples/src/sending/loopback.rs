//! The far end of a loopback.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::source::Source;
use crate::station::Datagram;
use crate::transfer::{Kind, RUN_PORTS, Receiver, ReceiverConfig, Sink};
use crate::{Error, Result};

/// The far end when it is in this process: everything comes back through the receive ring.
pub struct Loopback {
    receiver: Receiver,
    /// Nothing overtakes anything on the way: there is one queue.
    in_order: bool,
    /// Those that came with the last look at the queues.
    probes: Vec<Datagram>,
    check: Check,
}

impl Loopback {
    /// A far end that checks what arrives. With `compare` every byte is compared with the file on disk, which this
    /// opens and reads for itself; without, digests alone are checked (somebody is writing to the cached file). They are
    /// also all that is checked from the moment when somebody outside has had `source` and written to it. `queues` is how many
    /// the NIC has of each kind.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn new(path: &Path, source: &Source, compare: bool, queues: usize) -> Result<Self> {
        let file = |source| Error::File { path: path.to_owned(), source };
        let file = compare.then(|| File::open(path)).transpose().map_err(file)?;
        let source = source.clone();
        let in_order = queues == 1;
        let config = ReceiverConfig { window: LOOPBACK_WINDOW, keep: true, in_order, ..ReceiverConfig::default() };
        let check = Check { file, source, path: path.to_owned(), buffer: Vec::new(), compared: 0, differs: None };
        Ok(Self { receiver: Receiver::new(config), in_order, probes: Vec::new(), check })
    }

    /// Takes what has arrived; `answer` sends what is to be said to it.
    ///
    /// # Errors
    /// [`Error::Differs`].
    pub(super) fn take<'a>(
        &mut self,
        now: Duration,
        mut arrived: impl Iterator<Item = &'a Datagram>,
        mut answer: impl FnMut(&[u8]),
    ) -> Result<()> {
        if self.in_order {
            return arrived.try_for_each(|datagram| self.take_one(now, datagram, &mut answer));
        }
        // Out of several receive queues a probe may come before the data that was sent before it. That is there by the next
        // look at the queues: so long the probe waits.
        let before = std::mem::take(&mut self.probes);
        for datagram in arrived {
            match is_probe(datagram) {
                true => self.probes.push(datagram.clone()),
                false => self.take_one(now, datagram, &mut answer)?,
            }
        }
        before.iter().try_for_each(|probe| self.take_one(now, probe, &mut answer))
    }

    fn take_one(&mut self, now: Duration, datagram: &Datagram, answer: &mut impl FnMut(&[u8])) -> Result<()> {
        let from = datagram.from.address.into();
        if let Some(reply) = self.receiver.datagram(now, from, &datagram.payload, &mut self.check) {
            answer(&reply.datagram);
        }
        self.check.differs.take().map_or(Ok(()), Err)
    }

    /// Whether just so many bytes arrived whole, over all transfers, and were compared if they were to be.
    pub(super) fn has(&self, bytes: u64) -> bool {
        self.receiver.stats().bytes == bytes && (self.check.file.is_none() || self.check.compared == bytes)
    }
}

/// Whether it is a question what the receiver has of what was sent before; the first is the beginning of all.
fn is_probe(datagram: &Datagram) -> bool {
    // What comes from the ports of runs has no header.
    let has_header = !RUN_PORTS.contains(&datagram.from.address.port());
    let is_first = datagram.payload.get(OFFSET).is_none_or(|offset| offset == [0; 8]);
    has_header && !is_first && datagram.payload.get(KIND) == Some(&(Kind::Probe as u8))
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

/// What the receive ring and the wire's queue can take.
const LOOPBACK_WINDOW: u32 = 512 * 1024;
/// Where a datagram's header says what it is for, bytes ([table](crate::transfer#on-the-wire)).
const KIND: usize = 5;
/// And how much of the file was sent before it.
const OFFSET: std::ops::Range<usize> = 16..24;
