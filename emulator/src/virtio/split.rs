//! Split rings, walked by rust-vmm's `virtio-queue`. What it lacks is here: whether a chain came to its end, entries that
//! become visible together, the driver's no-interrupt flag, and what only a hostile device does.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::config::Features;
use super::queue::{Chain, Problem, Setup, Used};
use crate::memory::RingMemory;

/// A descriptor's flag: it names a table of descriptors elsewhere.
const INDIRECT: u16 = 4;
/// The available ring's flag: no interrupts, please.
const NO_INTERRUPT: u16 = 1;

/// A split ring.
pub struct Split {
    queue: Queue,
    indirect: bool,
    event_idx: bool,
    /// The used index when the driver was last asked whether it wants an interrupt.
    asked: u16,
}

impl Split {
    /// A ring at its beginning.
    pub fn new(setup: &Setup) -> Result<Self, Problem> {
        let power = "queue_size of a split ring is no power of two";
        let mut queue = Queue::new(setup.size).map_err(|_| power)?;
        let placed = [
            queue.try_set_desc_table_address(GuestAddress(setup.descriptors)),
            queue.try_set_avail_ring_address(GuestAddress(setup.driver)),
            queue.try_set_used_ring_address(GuestAddress(setup.device)),
        ];
        if placed.iter().any(Result::is_err) {
            return Err(
                "a ring is not aligned: 16 bytes for descriptors, 2 for the available ring, 4 for the used ring",
            );
        }
        if setup.driver == 0 {
            return Err("the available ring is at address 0, which this model takes for none");
        }
        let event_idx = setup.features.contains(Features::EVENT_IDX);
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        let indirect = setup.features.contains(Features::INDIRECT_DESC);
        Ok(Self { queue, indirect, event_idx, asked: 0 })
    }

    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    pub fn pop(&mut self, memory: &RingMemory<'_>) -> Result<Option<Chain>, Problem> {
        // Looked at first: a driver that publishes between two looks would make an empty ring seem to be a broken one.
        match self.queue.avail_idx(memory, Ordering::Acquire) {
            Ok(index) if index.0 == self.queue.next_avail() => return Ok(None),
            Ok(_) => {}
            Err(_) => return Err("bus fault while reading the available index"),
        }
        let found = match self.queue.iter(memory) {
            Ok(mut available) => available.next(),
            Err(Error::InvalidAvailRingIndex) => {
                return Err("the available index is further ahead than the ring is long");
            }
            Err(_) => return Err("bus fault while reading the available index"),
        };
        // There is one, so what keeps the library from it is its entry.
        let Some(walk) = found else {
            return Err("bus fault while reading the available ring");
        };
        let mut chain = Chain { id: walk.head_index(), slots: 1, ..Chain::default() };
        if chain.id >= self.queue.size() {
            return Err("the available ring names a descriptor beyond the table");
        }
        if !self.indirect && self.is_indirect(memory, chain.id)? {
            return Err("an indirect descriptor, which was not negotiated");
        }
        // The library ends a chain that it cannot follow as if it were whole; then its last descriptor names another.
        let mut more = true;
        for descriptor in walk {
            chain.push(descriptor.addr().0, descriptor.len(), descriptor.is_write_only())?;
            more = descriptor.has_next();
        }
        match more {
            true => Err("a chain of descriptors that leads nowhere: bus fault, loop, or index beyond the table"),
            false => Ok(Some(chain)),
        }
    }

    fn is_indirect(&self, memory: &RingMemory<'_>, head: u16) -> Result<bool, Problem> {
        let at = self.queue.desc_table().wrapping_add(16 * u64::from(head) + 12);
        let flags: u16 = memory.load(GuestAddress(at), Ordering::Relaxed).map_err(|_| "bus fault at a descriptor")?;
        Ok(u16::from_le(flags) & INDIRECT != 0)
    }

    pub fn push(&mut self, memory: &RingMemory<'_>, used: &[Used]) -> Result<(), Problem> {
        let Some((last, others)) = used.split_last() else { return Ok(()) };
        let first = self.queue.next_used();
        for (i, used) in (0u16..).zip(others) {
            self.write_element(memory, first.wrapping_add(i), used.id, used.len)?;
        }
        self.publish_after(memory, others.len() as u16, last.id, last.len)
    }

    pub fn push_batch(&mut self, memory: &RingMemory<'_>, used: &[Used]) -> Result<(), Problem> {
        let Some((last, others)) = used.split_last() else { return Ok(()) };
        // The entry that counts is the first of those that the index moves over; the rest says nothing.
        self.write_element(memory, self.queue.next_used(), last.id, last.len)?;
        self.publish_after(memory, others.len() as u16, last.id, last.len)
    }

    pub fn push_raw(&mut self, memory: &RingMemory<'_>, id: u16, len: u32) -> Result<(), Problem> {
        self.write_element(memory, self.queue.next_used(), id, len)?;
        self.jump(memory, 1)
    }

    pub fn jump(&mut self, memory: &RingMemory<'_>, count: u16) -> Result<(), Problem> {
        let index = self.queue.next_used().wrapping_add(count);
        self.queue.set_next_used(index);
        let at = GuestAddress(self.queue.used_ring().wrapping_add(2));
        memory.store(index.to_le(), at, Ordering::Release).map_err(|_| "bus fault while writing the used index")
    }

    fn write_element(&self, memory: &RingMemory<'_>, index: u16, id: u16, len: u32) -> Result<(), Problem> {
        let slot = u64::from(index % self.queue.size());
        let at = GuestAddress(self.queue.used_ring().wrapping_add(4 + 8 * slot));
        memory
            .write_obj((u64::from(id) | u64::from(len) << 32).to_le_bytes(), at)
            .map_err(|_| "bus fault while writing the used ring")
    }

    /// One entry `skip` entries further on, and the index behind it.
    fn publish_after(&mut self, memory: &RingMemory<'_>, skip: u16, id: u16, len: u32) -> Result<(), Problem> {
        self.queue.set_next_used(self.queue.next_used().wrapping_add(skip));
        self.queue.add_used(memory, id, len).map_err(|_| "bus fault while writing the used ring")
    }

    pub fn wants_interrupt(&mut self, memory: &RingMemory<'_>) -> Result<bool, Problem> {
        let new = self.queue.next_used();
        let old = std::mem::replace(&mut self.asked, new);
        // The used index must be visible before the driver's wish is read: the driver does it the other way round.
        fence(Ordering::SeqCst);
        let at = if self.event_idx { 4 + 2 * u64::from(self.queue.size()) } else { 0 };
        let at = GuestAddress(self.queue.avail_ring().wrapping_add(at));
        let wish: u16 = memory.load(at, Ordering::Relaxed).map_err(|_| "bus fault while reading the driver's wish")?;
        let wish = u16::from_le(wish);
        Ok(match self.event_idx {
            true => new.wrapping_sub(wish).wrapping_sub(1) < new.wrapping_sub(old),
            false => new != old && wish & NO_INTERRUPT == 0,
        })
    }

    pub fn arm(&mut self, memory: &RingMemory<'_>) -> Result<bool, Problem> {
        self.queue.enable_notification(memory).map_err(|_| "bus fault while asking for the bell")
    }

    pub fn disarm(&mut self, memory: &RingMemory<'_>) -> Result<(), Problem> {
        self.queue.disable_notification(memory).map_err(|_| "bus fault while asking for silence")
    }
}
