//! Receive (virtio 1.2, 2.7.14, 5.1.6.3, 5.1.6.4).

use std::sync::Arc;
use std::time::Duration;

use stillwire_dma::{Access, HugePages, Mapping, Segment, SharedMemory};

use super::breach::Breach;
use super::desc::{NET_HEADER, RxHeader};
use super::init::{Function, Which};
use super::regs::{F_IN_ORDER, F_MRG_RXBUF};
use super::stats::wire_len;
use super::virtqueue::{Used, Virtqueue};
use crate::Result;
use crate::bells::Pair;
use crate::frame::RxFrame;

/// A receive ring with as many buffers as descriptors.
///
/// Buffers are lent again in the order in which they came back. A device that uses them in order (IN_ORDER) so has them
/// round and round, and a used entry says by its buffer for how many it stands.
pub(crate) struct RxQueue {
    queue: Virtqueue,
    /// Which of the pairs it is of.
    pair: usize,
    /// Whether the device has each buffer.
    lent: Box<[bool]>,
    memory: SharedMemory,
    /// The device's name for all buffers.
    name: Segment,
    merges: bool,
    in_order: bool,
    /// Buffers lent, and those of them that came back, ever.
    lent_ever: u64,
    back_ever: u64,
    /// The used entry in hand, and how many more buffers it stands for.
    entry: (Used, u16),
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
        let (pair, queue) = function.take(Which::Receive)?;
        let size = queue.size();
        let memory = function.pci.iommu().memory("stillwire-rx", usize::from(size) * BUFFER, HugePages::IfFree)?;
        let mapping = Arc::new(function.pci.iommu().map(&memory, Access::ReadWrite)?);
        let mut queue = Self {
            queue,
            pair,
            lent: vec![false; size.into()].into(),
            memory,
            name: mapping.segment(0..usize::from(size) * BUFFER).expect("all of it is mapped"),
            merges: function.features & F_MRG_RXBUF != 0,
            in_order: function.features & F_IN_ORDER != 0,
            lent_ever: 0,
            back_ever: 0,
            entry: Default::default(),
            buffers: Vec::with_capacity(size.into()),
            pieces: Vec::with_capacity(MAX_PIECES),
            failed: false,
            dropped: 0,
            function,
            mapping,
        };
        for id in 0..size {
            queue.queue.lay(id, queue.buffer(id));
            queue.lend(id);
        }
        queue.queue.show();
        Ok(queue)
    }

    /// Hands up to `budget` frames to `each`; returns how many there were.
    #[inline]
    pub(crate) fn poll(&mut self, budget: usize, mut each: impl FnMut(&RxFrame<'_>)) -> usize {
        if self.failed {
            return 0;
        }
        let (mut frames, mut bytes) = (0, 0);
        if let Err(breach) = self.queue.look() {
            return self.fail(breach);
        }
        // No buffer is lent again meanwhile: a device that is always ahead comes to one that it does not have.
        while frames < budget {
            let header = match self.take() {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(breach) => {
                    self.fail(breach);
                    break;
                }
            };
            let len = self.pieces.iter().map(|(_, len)| len).sum();
            let frame =
                RxFrame { memory: &self.memory, pieces: &self.pieces, len, checksum: header.checksum(), vlan: None };
            if len < SHORTEST || header.is_large() {
                self.dropped += 1;
                self.function.counters(Which::Receive, self.pair).errors.add(1);
            } else {
                each(&frame);
                frames += 1;
                bytes += wire_len(len);
            }
        }
        for at in 0..self.buffers.len() {
            self.lend(self.buffers[at]);
        }
        self.buffers.clear();
        self.queue.show();
        if frames > 0 {
            let counters = self.function.counters(Which::Receive, self.pair);
            counters.frames.add(frames as u64);
            counters.bytes.add(bytes);
        }
        frames
    }

    /// Waits for this pair of queues; as [`RxQueue::wait`](crate::RxQueue::wait).
    pub(crate) fn wait<T>(&mut self, tx: &mut super::TxQueue<T>, timeout: Duration) -> Result<bool> {
        let pair = Waiting { rx: &mut self.queue, tx: tx.virtqueue() };
        self.function.bells.wait(self.pair, &self.function.pci, pair, timeout)
    }

    pub(crate) fn number(&self) -> usize {
        self.pair
    }

    /// Frames that were dropped because they made no sense.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes the next frame, if there is one, into `buffers` and `pieces`.
    fn take(&mut self) -> std::result::Result<Option<RxHeader>, Breach> {
        self.pieces.clear();
        let Some((start, len)) = self.next_buffer()? else { return Ok(None) };
        if len < NET_HEADER {
            return Err(Breach::Short { id: (start / BUFFER) as u32, len: len as u32 });
        }
        let mut bytes = [0; NET_HEADER];
        self.memory.read_at(start, &mut bytes);
        let header = RxHeader::decode(bytes);
        self.pieces.push((start + NET_HEADER, len - NET_HEADER));
        if self.merges {
            let count = header.buffers;
            if !(1..=MAX_PIECES).contains(&count.into()) {
                return Err(Breach::Buffers { count, most: MAX_PIECES });
            }
            let mut before = (start, len);
            for found in 1..count {
                if before.1 < BUFFER {
                    let (id, len) = ((before.0 / BUFFER) as u32, before.1 as u32);
                    return Err(Breach::Hole { id, len, room: BUFFER as u32 });
                }
                // All buffers of a frame become visible together.
                before = self.next_buffer()?.ok_or(Breach::Missing { count, found })?;
                self.pieces.push(before);
            }
        }
        Ok(Some(header))
    }

    /// The next used buffer, if there is one: where it begins in memory, and how many bytes of it the device wrote.
    #[inline]
    fn next_buffer(&mut self) -> std::result::Result<Option<(usize, usize)>, Breach> {
        let Some((id, len)) = self.next_used()? else { return Ok(None) };
        if !std::mem::take(&mut self.lent[usize::from(id)]) {
            return Err(Breach::NotInFlight { id: id.into() });
        }
        self.back_ever += 1;
        self.buffers.push(id);
        if len as usize > BUFFER {
            return Err(Breach::Len { id: id.into(), len, room: BUFFER as u32 });
        }
        Ok(Some((usize::from(id) * BUFFER, len as usize)))
    }

    /// The next buffer that an entry stands for, and the bytes written.
    #[inline]
    fn next_used(&mut self) -> std::result::Result<Option<(u16, u32)>, Breach> {
        let (used, more) = &mut self.entry;
        if *more > 0 {
            *more -= 1;
        } else {
            let Some(next) = self.queue.peek()? else { return Ok(None) };
            let mask = self.lent.len() as u64 - 1;
            let before = if self.in_order { u64::from(next.id).wrapping_sub(self.back_ever) & mask } else { 0 };
            if self.lent_ever - self.back_ever <= before {
                return Err(Breach::NotInFlight { id: next.id.into() });
            }
            (*used, *more) = (next, before as u16);
            self.queue.pass(next.id, *more + 1, *more + 1)?;
        }
        // A buffer that the entry does not name is one before the last, and full.
        let id = used.id.wrapping_sub(*more) & (self.queue.size() - 1);
        Ok(Some((id, if *more > 0 { BUFFER as u32 } else { used.len })))
    }

    /// Makes a buffer available to the device.
    #[inline]
    fn lend(&mut self, id: u16) {
        self.lent[usize::from(id)] = true;
        self.lent_ever += 1;
        self.queue.lend(id, self.buffer(id));
    }

    /// Where a buffer lies.
    #[inline]
    fn buffer(&self, id: u16) -> Segment {
        self.name.slice(u32::from(id) * BUFFER as u32, BUFFER as u32).expect("below the ring's size")
    }

    #[cold]
    fn fail(&mut self, breach: Breach) -> usize {
        self.failed = true;
        self.function.fail(Which::Receive, self.pair, breach);
        0
    }
}

/// A pair whose owner waits.
struct Waiting<'a> {
    rx: &'a mut Virtqueue,
    tx: &'a mut Virtqueue,
}

impl Pair for Waiting<'_> {
    fn listen(&mut self, on: bool) {
        self.rx.listen(on);
        self.tx.listen(on);
    }

    fn is_ready(&mut self) -> bool {
        self.rx.is_ready() || self.tx.is_ready()
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
