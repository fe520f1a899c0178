//! Ring arithmetic. Pure: positions count up for ever as `u64` and are reduced only to index memory, so there is no
//! wrap-around to get wrong.

use std::sync::Arc;

use stillwire_dma::{HugeArray, Mapping};

use crate::{Error, Result};

/// Positions of a descriptor ring: `clean <= published <= next <= clean + size - 1`.
///
/// A ring is empty when head equals tail, so one descriptor always stays unused.
#[derive(Debug)]
pub(crate) struct Ring {
    size: u64,
    next: u64,
    published: u64,
    clean: u64,
}

impl Ring {
    /// `size` is a power of two.
    pub(crate) fn new(size: u16) -> Self {
        assert!(size.is_power_of_two() && size > 1, "ring of {size} descriptors");
        Self { size: size.into(), next: 0, published: 0, clean: 0 }
    }

    /// Descriptors that may be filled now.
    #[inline]
    pub(crate) fn free(&self) -> usize {
        (self.size - 1 - (self.next - self.clean)) as usize
    }

    /// Descriptors filled and not yet reclaimed.
    #[inline]
    pub(crate) fn used(&self) -> usize {
        (self.next - self.clean) as usize
    }

    /// Where in ring memory a position lies.
    #[inline]
    pub(crate) fn index(&self, position: u64) -> usize {
        (position & (self.size - 1)) as usize
    }

    /// The position to fill next, if there is a free one.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The descriptors up to `end` are filled; as many were free.
    #[inline]
    pub(crate) fn take_until(&mut self, end: u64) {
        debug_assert!(self.next <= end && end < self.clean + self.size, "the ring has no room up to {end}");
        self.next = end;
    }

    /// Everything taken so far shall be seen by the device. Returns the tail index to store, or `None` when it already
    /// is.
    #[inline]
    pub(crate) fn publish(&mut self) -> Option<u32> {
        if self.published == self.next {
            return None;
        }
        self.published = self.next;
        Some(self.index(self.next) as u32)
    }

    /// Whether the device has been shown the descriptor at `position`.
    #[inline]
    pub(crate) fn is_published(&self, position: u64) -> bool {
        position < self.published
    }

    /// Everything up to and including `position` is done.
    #[inline]
    pub(crate) fn reclaim_through(&mut self, position: u64) {
        debug_assert!((self.clean..self.published).contains(&position), "{position} is not in flight");
        self.clean = position + 1;
    }
}

/// A queue of values that belong to ring positions, in ring order, with room made once.
pub(crate) struct Fifo<V> {
    slots: HugeArray<Option<(u64, V)>>,
    head: u64,
    tail: u64,
}

impl<V> Fifo<V> {
    /// Room for `size` values (a power of two).
    pub(crate) fn new(size: u16) -> Self {
        assert!(size.is_power_of_two());
        Self { slots: HugeArray::from_fn(size.into(), |_| None), head: 0, tail: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        (self.tail - self.head) as usize
    }

    /// Appends a value of `position`, which is not before any position in the queue.
    #[inline]
    pub(crate) fn push(&mut self, position: u64, value: V) {
        assert!(self.len() < self.slots.len(), "more values than ring positions");
        let index = self.tail as usize & (self.slots.len() - 1);
        self.slots[index] = Some((position, value));
        self.tail += 1;
    }

    /// Position of the first value.
    #[inline]
    pub(crate) fn first(&self) -> Option<u64> {
        if self.head == self.tail {
            return None;
        }
        let index = self.head as usize & (self.slots.len() - 1);
        self.slots[index].as_ref().map(|(position, _)| *position)
    }

    /// Takes the first value out if its position is at or before `through`.
    #[inline]
    pub(crate) fn pop_through(&mut self, through: u64) -> Option<V> {
        if self.first()? > through {
            return None;
        }
        let index = self.head as usize & (self.slots.len() - 1);
        self.head += 1;
        self.slots[index].take().map(|(_, value)| value)
    }
}

impl<T> Fifo<T> {
    /// Ends a queue whose device was to be stopped: hands out every token that is left, in ring order, behind the proof that
    /// `stopped` is. Without it the device may still read their bytes, and the queue's own memory: then neither they nor their
    /// device addresses are ever given back, and the error says how many there were.
    pub(crate) fn end<Quiet>(
        &mut self,
        stopped: Result<Quiet>,
        mapping: &Arc<Mapping>,
        mut back: impl FnMut(T),
    ) -> Result<()> {
        let Err(error) = stopped else {
            while let Some(token) = self.pop_through(u64::MAX) {
                back(token);
            }
            return Ok(());
        };
        std::mem::forget(mapping.clone());
        let mut kept = 0;
        while let Some(token) = self.pop_through(u64::MAX) {
            std::mem::forget(token);
            kept += 1;
        }
        match error {
            Error::NotQuiet { name, why, .. } => Err(Error::NotQuiet { name, why, kept }),
            other => Err(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_ring_holds_one_less_than_its_size() {
        let mut ring = Ring::new(8);
        assert_eq!(ring.free(), 7);
        assert_eq!((ring.next(), ring.free()), (0, 7));
        ring.take_until(7);
        assert_eq!((ring.free(), ring.used()), (0, 7));
        assert_eq!(ring.publish(), Some(7));
        assert_eq!(ring.publish(), None, "a second doorbell would say nothing new");
        ring.reclaim_through(2);
        assert_eq!(ring.free(), 3);
        assert_eq!((ring.next(), ring.free()), (7, 3));
        ring.take_until(9);
        assert_eq!(ring.index(8), 0);
        assert_eq!(ring.publish(), Some(1));
    }

    proptest! {
        /// Against a plain list: what goes in comes out once, in order, and never before its position is done.
        #[test]
        fn fifo_and_ring_agree_with_a_list(steps in prop::collection::vec((0u8..4, 1u64..5), 1..400)) {
            let mut ring = Ring::new(16);
            let mut fifo = Fifo::new(16);
            let mut list = std::collections::VecDeque::new();
            let mut next_value = 0;
            for (what, amount) in steps {
                if what < 2 && ring.free() as u64 >= amount {
                    let end = ring.next() + amount;
                    ring.take_until(end);
                    let last = end - 1;
                    if what == 0 {
                        fifo.push(last, next_value);
                        list.push_back((last, next_value));
                        next_value += 1;
                    }
                } else if what == 2 {
                    ring.publish();
                } else if ring.published > ring.clean {
                    let through = (ring.clean + amount - 1).min(ring.published - 1);
                    ring.reclaim_through(through);
                    while let Some(value) = fifo.pop_through(through) {
                        prop_assert_eq!(list.pop_front().map(|(position, value)| (position <= through, value)), Some((true, value)));
                    }
                    prop_assert!(list.front().is_none_or(|(position, _)| *position > through));
                }
                prop_assert_eq!(fifo.len(), list.len());
                prop_assert!(ring.used() < 16);
            }
        }
    }
}
