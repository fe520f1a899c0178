//! Transmit queues of the families for which the data path is not laid out: one arm beside the 82599's, whatever is behind it.
//!
//! A caller's code has the 82599's path inlined. Each further arm there costs it instructions although it is never taken (ten
//! percent of a frame for the third), so the others are one, behind functions that are cold to the compiler.

use std::ops::Range;

use stillwire_dma::{Payload, Segment};

use crate::frame::{Frame, Posted};
use crate::{Offload, Result, ice, virtio};

/// A queue of one of them.
pub(crate) enum OtherTx<T> {
    Ice(ice::TxQueue<T>),
    Virtio(virtio::TxQueue<T>),
}

/// Passes a call on to the family's queue.
macro_rules! family {
    ($self:ident, $queue:ident => $call:expr) => {
        match $self {
            Self::Ice($queue) => $call,
            Self::Virtio($queue) => $call,
        }
    };
}

impl<T: Payload> OtherTx<T> {
    // Not a call: its frame would have to lie in memory, and with it all that is constant in the caller's.
    #[inline(always)]
    pub(crate) fn post<'a>(&mut self, frame: Frame<'a, T>) -> Result<Posted<'a, T>> {
        family!(self, queue => queue.post(frame))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn post_segment(
        &mut self,
        header: &[u8],
        offload: Option<Offload>,
        segment: Segment,
    ) -> Result<Option<u64>> {
        family!(self, queue => queue.post_segment(header, offload, segment))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn post_range(
        &mut self,
        header: &[u8],
        offload: Option<Offload>,
        payload: Option<&T>,
        range: Range<usize>,
    ) -> Result<Option<u64>> {
        family!(self, queue => queue.post_range(header, offload, payload, range))
    }
}

impl<T> OtherTx<T> {
    #[cold]
    #[inline(never)]
    pub(crate) fn publish(&mut self) {
        family!(self, queue => queue.publish());
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn reclaim(&mut self, done: impl FnMut(T)) -> usize {
        family!(self, queue => queue.reclaim(done))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn keep_with_last(&mut self, token: T) {
        family!(self, queue => queue.keep_with_last(token));
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn free(&self) -> usize {
        family!(self, queue => queue.free())
    }

    pub(crate) fn number(&self) -> usize {
        family!(self, queue => queue.number())
    }

    pub(crate) fn in_flight(&self) -> usize {
        family!(self, queue => queue.in_flight())
    }

    pub(crate) fn stop(&mut self, back: impl FnMut(T)) -> Result<()> {
        family!(self, queue => queue.stop(back))
    }
}
