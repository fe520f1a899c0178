//! Receive (82599 datasheet 7.1, 4.6.7).

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use stillwire_dma::{Access, HugePages, Mapping, Register, RingWords, Segment, SharedMemory, fence, seeded};

use super::desc::{LEN as DESCRIPTOR, RxStatus};
use super::init::Function;
use super::regs::*;
use crate::Result;
use crate::bells::Pair;
use crate::frame::RxFrame;

/// A receive ring with a buffer that belongs to each descriptor.
pub(crate) struct RxQueue {
    words: RingWords,
    size: u64,
    /// Position of the next descriptor to look at; positions count up for ever.
    next: u64,
    /// Position of the next descriptor to be given back to the device.
    armed: u64,
    memory: SharedMemory,
    /// Where buffers begin in `memory`, bytes, and the device's name for all of them.
    buffers: usize,
    buffer_area: Segment,
    tail: Register,
    /// Pieces of the frame that is being put together: buffer offset and length.
    pieces: Vec<(usize, usize)>,
    /// The frame that is being put together is to be dropped.
    spoilt: bool,
    dropped: u64,
    vlan_strip: bool,
    /// The queue's number.
    queue: u32,
    function: Arc<Function>,
    /// Shared with nobody but a leaked clone, if the device cannot be proved quiet.
    mapping: Arc<Mapping>,
}

impl RxQueue {
    pub(crate) fn new(function: Arc<Function>) -> Result<Self> {
        function.running()?;
        let number = function.take(&function.rx_taken, "receive")?;
        let size = usize::from(function.config.rx_ring);
        let buffers = (size * DESCRIPTOR).next_multiple_of(4096);
        let end = buffers + size * STRIDE;
        let memory = function.pci.iommu().memory("stillwire-rx", end, HugePages::IfFree)?;
        let mapping = Arc::new(function.pci.iommu().map(&memory, Access::ReadWrite)?);
        let queue = Self {
            words: RingWords::new(&memory, 0, size * 2),
            size: size as u64,
            next: 0,
            armed: 0,
            memory,
            buffers,
            buffer_area: mapping.segment(buffers..end).expect("the whole memory is mapped"),
            tail: function.regs.space().register(RDT.at(number).offset),
            pieces: Vec::with_capacity(MAX_PIECES),
            spoilt: false,
            dropped: 0,
            vlan_strip: function.config.vlan_strip,
            queue: number,
            function,
            mapping,
        };
        (0..queue.size).for_each(|position| queue.arm(position));
        queue.start()?;
        Ok(queue)
    }

    fn start(&self) -> Result<()> {
        let (regs, queue) = (&self.function.regs, self.queue);
        let _others = self.function.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let base = self.mapping.iova_of(0).expect("a mapping has a first byte").get();
        regs.clear(RXDCTL.at(queue), DCTL_ENABLE);
        regs.write(RDBAL.at(queue), base as u32);
        regs.write(RDBAH.at(queue), (base >> 32) as u32);
        regs.write(RDLEN.at(queue), (self.size as usize * DESCRIPTOR) as u32);
        regs.write(RDH.at(queue), 0);
        regs.write(RDT.at(queue), 0);
        // A queue without buffers drops its frames, or they would stand in the way of the others'; unless the far end is to
        // be asked for a pause, which it is when they fill the port's own memory.
        let drop = if self.function.config.flow_control { 0 } else { SRRCTL_DROP_EN };
        regs.write(SRRCTL.at(queue), (BUFFER / 1024) as u32 | SRRCTL_ADVANCED | drop);
        regs.write(RSCCTL.at(queue), 0);
        // On by default, reserved, and with it set received data is garbage (8.2.3.11.1).
        regs.clear(DCA_RXCTRL.at(queue), DCA_RXCTRL_RESERVED);
        let strip = if self.vlan_strip { RXDCTL_VME } else { 0 };
        regs.set(RXDCTL.at(queue), DCTL_ENABLE | strip);
        regs.wait(RXDCTL.at(queue), DCTL_ENABLE, DCTL_ENABLE, Duration::from_millis(100))?;
        fence::release_to_device();
        regs.write(RDT.at(queue), (self.size - 1) as u32);
        self.function.set_receive(RXCTRL_RXEN, || ())
    }

    /// Hands up to `budget` frames to `each`; returns how many there were.
    #[inline]
    pub(crate) fn poll(&mut self, budget: usize, mut each: impl FnMut(&RxFrame<'_>)) -> usize {
        let mut frames = 0;
        // A device that lies about its progress cannot keep us: one turn of the ring is all we follow.
        for _ in 0..self.size {
            if frames == budget {
                break;
            }
            let at = self.index(self.next) * 2;
            let status = RxStatus::from_bits(u64::from_le(self.words.at(at + 1).load(Ordering::Acquire)));
            if !status.is_done() {
                break;
            }
            fence::acquire_from_device();
            let first = u64::from_le(self.words.at(at).load(Ordering::Relaxed));
            let len = status.buffer_len();
            // A frame in one buffer: what nearly all of them are.
            let simple = status.is_whole_and_good()
                && ((1..=BUFFER).contains(&len) || seeded!(TrustDeviceLength))
                && self.is_between_frames();
            let piece = [(self.buffer(self.next), len)];
            if simple {
                self.next += 1;
            } else if !self.collect(status) {
                continue;
            }
            // Called in one place, so that it becomes part of this.
            let (pieces, len) = if simple {
                (&piece[..], len)
            } else {
                (&self.pieces[..], self.pieces.iter().map(|(_, len)| len).sum())
            };
            let vlan = if self.vlan_strip { status.vlan_tag() } else { None };
            each(&RxFrame { memory: &self.memory, pieces, len, checksum: status.checksum(first), vlan });
            frames += 1;
            if !simple {
                self.pieces.clear();
            }
        }
        self.give_back();
        frames
    }

    /// Waits for this pair of queues; as [`RxQueue::wait`](crate::RxQueue::wait).
    pub(crate) fn wait<T>(&mut self, tx: &mut super::TxQueue<T>, timeout: Duration) -> Result<bool> {
        let Function { bells, pci, .. } = &*self.function;
        bells.wait(self.number(), pci, Waiting { rx: self, tx }, timeout)
    }

    /// Whether the device has written back what comes next.
    fn is_ready(&self) -> bool {
        let word = self.words.at(self.index(self.next) * 2 + 1).load(Ordering::Acquire);
        RxStatus::from_bits(u64::from_le(word)).is_done()
    }

    pub(crate) fn number(&self) -> usize {
        self.queue as usize
    }

    /// Frames that were dropped because they were damaged or made no sense.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    #[inline]
    fn is_between_frames(&self) -> bool {
        self.pieces.is_empty() && !self.spoilt
    }

    /// One written-back descriptor of any kind; returns whether it ended a good frame, which is in `pieces` then.
    #[inline(never)]
    fn collect(&mut self, status: RxStatus) -> bool {
        let len = status.buffer_len();
        if (1..=BUFFER).contains(&len) && self.pieces.len() < MAX_PIECES {
            self.pieces.push((self.buffer(self.next), len));
        } else {
            self.spoilt = true;
        }
        self.next += 1;
        if !status.end_of_packet() {
            return false;
        }
        let good = !self.spoilt && !status.damaged();
        if !good {
            self.dropped += 1;
            self.pieces.clear();
        }
        self.spoilt = false;
        good
    }

    /// Gives the buffers of finished frames back to the device: one store of the tail a poll.
    #[inline]
    fn give_back(&mut self) {
        // Those of a frame that is not complete yet stay, unless it is going to be dropped anyway.
        let kept = if self.spoilt { 0 } else { self.pieces.len() as u64 };
        let through = self.next - kept;
        if self.armed == through {
            return;
        }
        for position in self.armed..through {
            self.arm(position);
        }
        self.armed = through;
        fence::release_to_device();
        // The tail names the first descriptor that the device may not use.
        self.tail.write(self.index(self.armed + self.size - 1) as u32);
    }

    #[inline]
    fn index(&self, position: u64) -> usize {
        (position & (self.size - 1)) as usize
    }

    /// Where the buffer of a descriptor begins in memory, bytes.
    #[inline]
    fn buffer(&self, position: u64) -> usize {
        self.buffers + self.index(position) * STRIDE
    }

    #[inline]
    fn arm(&self, position: u64) {
        let index = self.index(position);
        let buffer = self.buffer_area.slice((index * STRIDE) as u32, BUFFER as u32);
        let iova = buffer.unwrap_or_else(|| unreachable!("every buffer is mapped")).iova.get();
        self.words.at(index * 2).store(iova.to_le(), Ordering::Relaxed);
        self.words.at(index * 2 + 1).store(0, Ordering::Relaxed);
    }
}

/// A pair whose owner waits.
struct Waiting<'a, T> {
    rx: &'a RxQueue,
    tx: &'a super::TxQueue<T>,
}

impl<T> Pair for Waiting<'_, T> {
    fn listen(&mut self, on: bool) {
        // A cause that came while it was masked is sent as soon as it is not; the message masks it again.
        self.rx.function.regs.write(if on { EIMS } else { EIMC }, 1 << self.rx.queue);
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

/// Bytes of a receive buffer: SRRCTL counts in KiB, and two of them hold a full-size frame.
const BUFFER: usize = 2048;
/// Bytes from one buffer to the next: a cache line more, or the lines that a receiver looks at first, 2 KiB apart, would all be
/// in two sets of the first-level cache.
const STRIDE: usize = BUFFER + 64;
/// Buffers of one frame: enough for 9.5 KiB.
const MAX_PIECES: usize = 8;
