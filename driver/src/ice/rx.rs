//! Receive (Linux `ice_txrx.c`, `ice_base.c`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stillwire_dma::{Access, HugePages, Mapping, Register, RingWords, Segment, SharedMemory, fence};

use super::context::RxContext;
use super::desc::{RX_LEN as DESCRIPTOR, RxStatus};
use super::init::Function;
use super::regs::*;
use crate::Result;
use crate::bells::Pair;
use crate::frame::{Checksum, ChecksumStatus, RxFrame};
use crate::registers::Reg;

/// A receive ring with a buffer that belongs to each descriptor.
pub(crate) struct RxQueue {
    words: RingWords,
    size: u64,
    /// Position of the next descriptor to look at; positions count up for ever.
    next: u64,
    /// Position of the next descriptor to be given back to the device.
    armed: u64,
    /// Position up to which the device has been told of those; a multiple of eight.
    shown: u64,
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
    /// The device knows protocols.
    offloads: bool,
    vlan_strip: bool,
    /// The queue's number.
    queue: u16,
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
        let offloads = function.package.is_some();
        let queue = Self {
            words: RingWords::new(&memory, 0, size * 4),
            size: size as u64,
            next: 0,
            armed: 0,
            shown: 0,
            memory,
            buffers,
            buffer_area: mapping.segment(buffers..end).expect("the whole memory is mapped"),
            tail: function.regs.space().register(QRX_TAIL.at(number.into()).offset),
            pieces: Vec::with_capacity(MAX_PIECES),
            spoilt: false,
            dropped: 0,
            offloads,
            vlan_strip: function.config.vlan_strip && function.single_vlan && offloads,
            queue: number,
            function,
            mapping,
        };
        (0..queue.size).for_each(|position| queue.arm(position));
        queue.start()?;
        Ok(queue)
    }

    fn start(&self) -> Result<()> {
        let (regs, queue) = (&self.function.regs, u32::from(self.queue));
        regs.write(QRX_CTRL.at(queue), 0);
        regs.wait(QRX_CTRL.at(queue), QRX_CTRL_QENA_STAT, 0, QUEUE_ENABLE)?;
        regs.write(QINT_RQCTL.at(queue), self.function.cause(self.queue));
        regs.write(QRXFLXP_CNTXT.at(queue), QRXFLXP_NIC);
        let context = RxContext {
            base: self.mapping.iova_of(0).expect("a mapping has a first byte").get(),
            size: self.size as u16,
            buffer: BUFFER as u16,
            // The check sequence is counted, and tags may come on top.
            max_frame: (self.function.config.max_frame + 4 + 4).min((MAX_PIECES * BUFFER) as u16),
        };
        let first = QRX_CONTEXT0.at(queue);
        for (offset, word) in (first.offset..).step_by(CONTEXT_STRIDE).zip(context.encode()) {
            regs.write(Reg { offset, ..first }, word);
        }
        regs.write(QRX_TAIL.at(queue), 0);
        regs.write(QRX_CTRL.at(queue), QRX_CTRL_QENA_REQ);
        regs.wait(QRX_CTRL.at(queue), QRX_CTRL_QENA_STAT, QRX_CTRL_QENA_STAT, QUEUE_ENABLE)?;
        fence::release_to_device();
        regs.write(QRX_TAIL.at(queue), self.tail_of(0));
        Ok(())
    }

    /// Hands up to `budget` frames to `each`; returns how many there were.
    // Cold only to the compiler: the caller's code is laid out for the sister family, at the price of a jump here.
    #[cold]
    #[inline(never)]
    pub(crate) fn poll(&mut self, budget: usize, mut each: impl FnMut(&RxFrame<'_>)) -> usize {
        let (mut frames, mut bytes) = (0, 0);
        // A device that lies about its progress cannot keep us: one turn of the ring is all we follow.
        for _ in 0..self.size {
            if frames == budget {
                break;
            }
            let at = self.index(self.next) * 4;
            let second = u64::from_le(self.words.at(at + 1).load(Ordering::Acquire));
            if !RxStatus::is_done(second) {
                break;
            }
            fence::acquire_from_device();
            let status = RxStatus::of(u64::from_le(self.words.at(at).load(Ordering::Relaxed)), second);
            let len = status.buffer_len();
            // A frame in one buffer: what nearly all of them are.
            let simple = status.is_whole_and_good() && (1..=BUFFER).contains(&len) && self.is_between_frames();
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
            let vlan = (self.vlan_strip && status.tagged()).then(|| status.tag());
            let checksum = self.checksum(status);
            each(&RxFrame { memory: &self.memory, pieces, len, checksum, vlan });
            frames += 1;
            bytes += len as u64;
            if !simple {
                self.pieces.clear();
            }
        }
        self.give_back();
        if frames > 0 {
            self.function.queues[usize::from(self.queue)].rx.add(frames as u64, bytes);
        }
        frames
    }

    /// Waits for this pair of queues; as [`RxQueue::wait`](crate::RxQueue::wait).
    pub(crate) fn wait<T>(&mut self, tx: &mut super::TxQueue<T>, timeout: Duration) -> Result<bool> {
        let Function { bells, pci, .. } = &*self.function;
        bells.wait(self.number(), pci, Waiting { rx: self, tx }, timeout)
    }

    /// Whether the device has written back what comes next.
    fn is_ready(&self) -> bool {
        let word = self.words.at(self.index(self.next) * 4 + 1).load(Ordering::Acquire);
        RxStatus::is_done(u64::from_le(word))
    }

    pub(crate) fn number(&self) -> usize {
        self.queue.into()
    }

    /// Frames that were dropped because they were damaged or made no sense.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What the device says of checksums, and counts the wrong ones.
    #[inline]
    fn checksum(&self, status: RxStatus) -> ChecksumStatus {
        if !self.offloads {
            return ChecksumStatus { ip: Checksum::Unknown, transport: Checksum::Unknown };
        }
        let checksum = status.checksum();
        if checksum.ip == Checksum::Bad || checksum.transport == Checksum::Bad {
            self.function.checksum_errors.fetch_add(1, Ordering::Relaxed);
        }
        checksum
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

    /// Gives the buffers of finished frames back to the device: one store of the tail a poll, if that shows eight more.
    #[inline]
    fn give_back(&mut self) {
        // Those of a frame that is not complete yet stay, unless it is going to be dropped anyway.
        let kept = if self.spoilt { 0 } else { self.pieces.len() as u64 };
        let through = self.next - kept;
        for position in self.armed..through {
            self.arm(position);
        }
        self.armed = through;
        if through - self.shown >= TAIL_STEP {
            self.shown = through / TAIL_STEP * TAIL_STEP;
            fence::release_to_device();
            self.tail.write(self.tail_of(self.shown));
        }
    }

    /// The tail when all before `shown` has been given back: the first descriptor that the device may not use. It ignores the
    /// three low bits, so eight stay unused.
    #[inline]
    fn tail_of(&self, shown: u64) -> u32 {
        self.index(shown + self.size - TAIL_STEP) as u32
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
        self.words.at(index * 4).store(iova.to_le(), Ordering::Relaxed);
        self.words.at(index * 4 + 1).store(0, Ordering::Relaxed);
    }
}

/// A pair whose owner waits.
struct Waiting<'a, T> {
    rx: &'a RxQueue,
    tx: &'a super::TxQueue<T>,
}

impl<T> Pair for Waiting<'_, T> {
    fn listen(&mut self, on: bool) {
        // What is not written back yet is, with the message, when the interval is over. The message switches itself off.
        let control = if on { GLINT_DYN_CTL_INTENA } else { GLINT_DYN_CTL_WB_ON_ITR };
        self.rx.function.regs.write(GLINT_DYN_CTL.at(self.rx.queue.into()), control);
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
const BUFFER: usize = 2048;
/// Bytes from one buffer to the next: a cache line more, or the lines that a receiver looks at first, 2 KiB apart, would all be
/// in two sets of the first-level cache.
const STRIDE: usize = BUFFER + 64;
/// Buffers of one frame: the device chains no more.
const MAX_PIECES: usize = 5;
/// Bytes from one word of a queue's context to the next.
const CONTEXT_STRIDE: usize = 0x2000;
/// Descriptors that the tail counts.
const TAIL_STEP: u64 = 8;
/// Linux waits 50 times 20 us; a model may be slow.
const QUEUE_ENABLE: Duration = Duration::from_millis(100);
