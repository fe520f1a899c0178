//! Transmit and receive queues of any family.

use std::time::Duration;

use stillwire_dma::{Payload, Segment};

use crate::frame::{Frame, Posted, RxFrame};
use crate::other::OtherTx;
use crate::{Error, Offload, Result, ice, ixgbe, virtio};

/// A transmit ring. Owned by one thread at a time; nothing on its path takes a lock.
///
/// ```
/// # use stillwire_driver::{Frame, Posted, TxQueue, Offload, Result};
/// # use stillwire_dma::Payload;
/// # fn send<H: Payload>(tx: &mut TxQueue<H>, headers: &[u8], hold: H) -> Result<()> {
/// match tx.post(Frame::new(headers).offload(Offload::UDP_V4).payload(hold))? { // moved into the ring
///     Posted::Queued => tx.publish(),
///     Posted::Full(frame) => drop(frame), // the ring is full: reclaim, and post it again
/// }
/// tx.reclaim(|hold| drop(hold)); // moved out when the NIC is done
/// # Ok(())
/// # }
/// ```
pub struct TxQueue<T>(pub(crate) AnyTx<T>);

pub(crate) enum AnyTx<T> {
    Ixgbe(ixgbe::TxQueue<T>),
    Other(OtherTx<T>),
}

impl<T: Payload> TxQueue<T> {
    /// Puts a frame into the ring. The device sees it after the next [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`Error::Frame`] for what the device cannot send, [`Error::Protocol`] when it is not believed any more; the payload is
    /// dropped then, for the device never saw it.
    #[inline(always)]
    pub fn post<'a>(&mut self, frame: Frame<'a, T>) -> Result<Posted<'a, T>> {
        // A value for each family: one that both arms pass on would have to lie in memory, with all that is constant in it.
        let Frame { header, offload, payload } = frame;
        match &mut self.0 {
            AnyTx::Ixgbe(queue) => queue.post(Frame { header, offload, payload }),
            AnyTx::Other(queue) => queue.post(Frame { header, offload, payload }),
        }
    }

    /// Begins to cut one payload into several frames. The ring keeps `payload` until the last of them is done:
    /// completions come in ring order, so a hold over a long run costs the same as one over a frame.
    #[inline]
    pub fn run(&mut self, payload: T) -> Run<'_, T> {
        let whole = Some(payload.len()).filter(|&len| len > 0).and_then(|len| payload.segment(0..len));
        Run { queue: &mut self.0, payload: Some(payload), whole, posted: false }
    }
}

impl<T> TxQueue<T> {
    /// Shows the device everything posted so far: one doorbell, however many frames.
    #[inline]
    pub fn publish(&mut self) {
        match &mut self.0 {
            AnyTx::Ixgbe(queue) => queue.publish(),
            AnyTx::Other(queue) => queue.publish(),
        }
    }

    /// Calls `done` with the tokens of frames that the device has read, in the order they were posted. Returns the
    /// number of descriptors that became free.
    #[inline]
    pub fn reclaim(&mut self, done: impl FnMut(T)) -> usize {
        match &mut self.0 {
            AnyTx::Ixgbe(queue) => queue.reclaim(done),
            AnyTx::Other(queue) => queue.reclaim(done),
        }
    }

    /// Descriptors that are free. A frame takes one for its header, one a payload piece, and at times one more.
    #[inline]
    pub fn free(&self) -> usize {
        match &self.0 {
            AnyTx::Ixgbe(queue) => queue.free(),
            AnyTx::Other(queue) => queue.free(),
        }
    }

    /// The queue's number in the device.
    pub fn index(&self) -> usize {
        match &self.0 {
            AnyTx::Ixgbe(queue) => queue.number(),
            AnyTx::Other(queue) => queue.number(),
        }
    }

    /// Tokens in the ring.
    pub fn in_flight(&self) -> usize {
        match &self.0 {
            AnyTx::Ixgbe(queue) => queue.in_flight(),
            AnyTx::Other(queue) => queue.in_flight(),
        }
    }

    /// Stops the whole device, with proof, and calls `back` with every token still in the ring, sent or not. Dropping
    /// the queue does the same and drops the tokens. To go on afterwards: [`Nic::reset`](crate::Nic::reset).
    ///
    /// # Errors
    /// [`Error::NotQuiet`]: no proof could be had, and the tokens are kept until the program ends.
    pub fn stop(mut self, back: impl FnMut(T)) -> Result<()> {
        match &mut self.0 {
            AnyTx::Ixgbe(queue) => queue.stop(back),
            AnyTx::Other(queue) => queue.stop(back),
        }
    }
}

/// A payload that is being cut into frames: see [`TxQueue::run`].
///
/// However this value ends, the ring keeps the payload for as long as the device may read any frame posted from it.
pub struct Run<'q, T> {
    queue: &'q mut AnyTx<T>,
    payload: Option<T>,
    /// All of the payload, if it is one segment: frames are cut from this then.
    whole: Option<Segment>,
    /// Whether the device knows of the payload.
    posted: bool,
}

impl<T: Payload> Run<'_, T> {
    /// The payload.
    #[inline]
    pub fn payload(&self) -> &T {
        self.payload.as_ref().expect("there until the run ends")
    }

    /// Posts a frame of `header` and the bytes `range` of the payload. `false` when the ring is full.
    ///
    /// # Errors
    /// As [`TxQueue::post`].
    #[inline(always)]
    pub fn post(&mut self, header: &[u8], offload: Option<Offload>, range: std::ops::Range<usize>) -> Result<bool> {
        let posted = match self.whole.and_then(|whole| whole.part(&range)) {
            Some(part) => match &mut *self.queue {
                AnyTx::Ixgbe(queue) => queue.post_segment(header, offload, part)?,
                AnyTx::Other(queue) => queue.post_segment(header, offload, part)?,
            },
            None => match &mut *self.queue {
                AnyTx::Ixgbe(queue) => queue.post_range(header, offload, self.payload.as_ref(), range)?,
                AnyTx::Other(queue) => queue.post_range(header, offload, self.payload.as_ref(), range)?,
            },
        };
        self.posted |= posted.is_some();
        Ok(posted.is_some())
    }
}

impl<T> Drop for Run<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // With no frame posted the device knows nothing of the payload: it is simply dropped.
        if let Some(payload) = self.payload.take().filter(|_| self.posted) {
            // The queue is borrowed, so the last frame in it is the run's.
            match &mut *self.queue {
                AnyTx::Ixgbe(queue) => queue.keep_with_last(payload),
                AnyTx::Other(queue) => queue.keep_with_last(payload),
            }
        }
    }
}

/// A receive ring with its buffers. Owned by one thread at a time.
pub struct RxQueue(pub(crate) AnyRx);

pub(crate) enum AnyRx {
    Ixgbe(ixgbe::RxQueue),
    Ice(ice::RxQueue),
    Virtio(virtio::RxQueue),
}

impl RxQueue {
    /// Calls `each` with the frames that have arrived, at most `budget`; returns how many there were.
    #[inline]
    pub fn poll(&mut self, budget: usize, each: impl FnMut(&RxFrame<'_>)) -> usize {
        match &mut self.0 {
            AnyRx::Ixgbe(queue) => queue.poll(budget, each),
            AnyRx::Ice(queue) => queue.poll(budget, each),
            AnyRx::Virtio(queue) => queue.poll(budget, each),
        }
    }

    /// The queue's number in the device.
    pub fn index(&self) -> usize {
        match &self.0 {
            AnyRx::Ixgbe(queue) => queue.number(),
            AnyRx::Ice(queue) => queue.number(),
            AnyRx::Virtio(queue) => queue.number(),
        }
    }

    /// Waits until the device has received a frame for this queue, or is done with one of `tx`, of the same pair; at most for
    /// `timeout`. Whether there may be something to do: poll both then. For a queue that was just found to have nothing: a wait
    /// costs system calls and the interrupt's way, some ten microseconds, a poll some nanoseconds.
    ///
    /// # Errors
    /// [`Error::NoInterrupts`] without [`Config::interrupts`](crate::Config::interrupts); [`Error::Setting`] for another pair's `tx`.
    pub fn wait<T>(&mut self, tx: &mut TxQueue<T>, timeout: Duration) -> Result<bool> {
        match (&mut self.0, &mut tx.0) {
            (AnyRx::Ixgbe(rx), AnyTx::Ixgbe(tx)) if rx.number() == tx.number() => rx.wait(tx, timeout),
            (AnyRx::Ice(rx), AnyTx::Other(OtherTx::Ice(tx))) if rx.number() == tx.number() => rx.wait(tx, timeout),
            (AnyRx::Virtio(rx), AnyTx::Other(OtherTx::Virtio(tx))) if rx.number() == tx.number() => {
                rx.wait(tx, timeout)
            }
            (_, tx) => {
                let found = match tx {
                    AnyTx::Ixgbe(tx) => tx.number(),
                    AnyTx::Other(tx) => tx.number(),
                };
                let allowed = "the one with the receive queue's number, of the same NIC, would do";
                Err(Error::Setting { setting: "transmit queue to wait for", found: found as u64, allowed })
            }
        }
    }

    /// Frames that the device handed over damaged or in a way that made no sense.
    pub fn dropped(&self) -> u64 {
        match &self.0 {
            AnyRx::Ixgbe(queue) => queue.dropped(),
            AnyRx::Ice(queue) => queue.dropped(),
            AnyRx::Virtio(queue) => queue.dropped(),
        }
    }
}
