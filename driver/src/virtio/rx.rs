//! Receive (virtio 1.2, 2.7.14, 5.1.6.3, 5.1.6.4).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use stillwire_dma::{Access, HugePages, Mapping, SharedMemory};

use super::desc::{self, NET_HEADER, RxHeader, WRITE};
use super::init::{Function, Which};
use super::regs::F_MRG_RXBUF;
use super::split::{Breach, Split};
use super::stats::wire_len;
use crate::Result;
use crate::frame::RxFrame;

/// A receive ring with a buffer that belongs to each descriptor.
pub(crate) struct RxQueue {
    split: Split,
    /// Whether the device has each buffer.
    lent: Box<[bool]>,
    memory: SharedMemory,
    merges: bool,
    /// Buffers that the device gave back, to be lent again at the end of a poll, and not before: one that comes back twice
    /// in between shows.
    buffers: Vec<u16>,
    /// Pieces (buffer offset and length) of the frame in hand.
    pieces: Vec<(usize, usize)>,
    /// The device is not believed any more.
    failed: bool,
    dropped: u64,
    function: Arc<Function>,
    /// Of the buffers. Shared with nobody but a leaked clone, if the device cannot be proved quiet.
    mapping: Arc<Mapping>,
}

impl RxQueue {
    pub(crate) fn new(function: Arc<Function>) -> Result<Self> {
        function.running()?;
        let split = function.take(Which::Receive)?;
        let size = split.size;
        let memory = SharedMemory::new("stillwire-rx", usize::from(size) * BUFFER, HugePages::IfFree)?;
        let mapping = Arc::new(function.pci.iommu().map(&memory, Access::ReadWrite)?);
        let mut queue = Self {
            split,
            lent: vec![false; size.into()].into(),
            memory,
            merges: function.features & F_MRG_RXBUF != 0,
            buffers: Vec::with_capacity(size.into()),
            pieces: Vec::with_capacity(MAX_PIECES),
            failed: false,
            dropped: 0,
            function,
            mapping,
        };
        for id in 0..size {
            let start = usize::from(id) * BUFFER;
            let buffer = queue.mapping.segment(start..start + BUFFER).expect("every buffer is mapped");
            let words = desc::encode(buffer, WRITE, 0);
            for (word, value) in queue.split.descriptors().pair(id.into()).into_iter().zip(words) {
                word.store(value.to_le(), Ordering::Relaxed);
            }
            queue.lend(id);
        }
        queue.split.show();
        Ok(queue)
    }

    /// Hands up to `budget` frames to `each`; returns how many there were.
    #[inline]
    pub(crate) fn poll(&mut self, budget: usize, mut each: impl FnMut(&RxFrame<'_>)) -> usize {
        if self.failed {
            return 0;
        }
        let (mut frames, mut bytes) = (0, 0);
        // What is used after this look is for the next poll: a device that is always ahead cannot keep us.
        let mut fresh = match self.split.fresh() {
            Ok(fresh) => fresh,
            Err(breach) => return self.fail(breach),
        };
        while fresh > 0 && frames < budget {
            let header = match self.take(fresh) {
                Ok(header) => header,
                Err(breach) => {
                    self.fail(breach);
                    break;
                }
            };
            fresh -= self.pieces.len();
            let len = self.pieces.iter().map(|(_, len)| len).sum();
            let frame =
                RxFrame { memory: &self.memory, pieces: &self.pieces, len, checksum: header.checksum(), vlan: None };
            if len < SHORTEST || header.is_large() {
                self.dropped += 1;
                self.function.counters.rx_errors.add(1);
            } else {
                each(&frame);
                frames += 1;
                bytes += wire_len(len);
            }
        }
        while let Some(id) = self.buffers.pop() {
            self.lend(id);
        }
        self.split.show();
        if frames > 0 {
            self.function.counters.rx_frames.add(frames as u64);
            self.function.counters.rx_bytes.add(bytes);
        }
        frames
    }

    pub(crate) fn number(&self) -> usize {
        0
    }

    /// Frames that were dropped because they made no sense.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes the next frame, of `fresh` buffers at most, into `buffers` and `pieces`.
    fn take(&mut self, fresh: usize) -> std::result::Result<RxHeader, Breach> {
        self.pieces.clear();
        let (start, len) = self.next_buffer()?;
        if len < NET_HEADER {
            return Err(Breach::Short { id: (start / BUFFER) as u32, len: len as u32 });
        }
        let mut bytes = [0; NET_HEADER];
        self.memory.read_at(start, &mut bytes);
        let header = RxHeader::decode(bytes);
        self.pieces.push((start + NET_HEADER, len - NET_HEADER));
        if self.merges {
            let count = header.buffers;
            if !(1..=MAX_PIECES.min(fresh)).contains(&count.into()) {
                return Err(Breach::Buffers { count, fresh });
            }
            let mut before = (start, len);
            for _ in 1..count {
                if before.1 < BUFFER {
                    let (id, len) = ((before.0 / BUFFER) as u32, before.1 as u32);
                    return Err(Breach::Hole { id, len, room: BUFFER as u32 });
                }
                before = self.next_buffer()?;
                self.pieces.push(before);
            }
        }
        Ok(header)
    }

    /// The next used buffer: where it begins in memory, and how many bytes of it the device wrote.
    fn next_buffer(&mut self) -> std::result::Result<(usize, usize), Breach> {
        let (id, len) = self.split.next_used()?;
        if !std::mem::take(&mut self.lent[usize::from(id)]) {
            return Err(Breach::NotInFlight { id: id.into() });
        }
        self.buffers.push(id);
        if len as usize > BUFFER {
            return Err(Breach::Len { id: id.into(), len, room: BUFFER as u32 });
        }
        Ok((usize::from(id) * BUFFER, len as usize))
    }

    /// Makes a buffer available to the device.
    #[inline]
    fn lend(&mut self, id: u16) {
        self.lent[usize::from(id)] = true;
        self.split.offer(id);
    }

    #[cold]
    fn fail(&mut self, breach: Breach) -> usize {
        self.failed = true;
        self.function.fail(Which::Receive, breach);
        0
    }
}

impl Drop for RxQueue {
    fn drop(&mut self) {
        if self.function.stop().is_err() {
            // The device may still write here: neither the memory nor its device addresses may become anybody else's.
            std::mem::forget(self.mapping.clone());
        }
    }
}

/// Bytes of a receive buffer.
pub(crate) const BUFFER: usize = 2048;
/// Buffers of one frame: enough for 9.5 KiB.
const MAX_PIECES: usize = 8;
/// Bytes of the shortest frame: an Ethernet header.
const SHORTEST: usize = 14;
