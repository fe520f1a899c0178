//! Packed rings.
//!
//! One ring of descriptors that both sides write. Each side has a position and a wrap counter, which starts at 1 and flips
//! at the ring's end. A descriptor is available when its AVAIL bit is the wrap counter and its USED bit is not; it is used
//! when both are (virtio 1.x, "Packed Virtqueues").

use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes, GuestAddress};

use super::config::Features;
use super::queue::{Chain, Problem, Setup, Used};
use crate::memory::RingMemory;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Event suppression: always.
const EVENTS_ON: u16 = 0;
/// Event suppression: never.
const EVENTS_OFF: u16 = 1;
/// Event suppression: at one descriptor.
const EVENTS_AT: u16 = 2;

/// A position in the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    slot: u16,
    wrap: bool,
}

impl Place {
    fn advanced(self, slots: u16, size: u16) -> Self {
        match u32::from(self.slot) + u32::from(slots) {
            next if next >= u32::from(size) => Self { slot: (next - u32::from(size)) as u16, wrap: !self.wrap },
            next => Self { slot: next as u16, ..self },
        }
    }

    /// As event suppression structures name it.
    fn encode(self) -> u16 {
        self.slot | u16::from(self.wrap) << 15
    }
}

/// A descriptor as it lies in memory.
struct Descriptor {
    address: u64,
    len: u32,
    id: u16,
    flags: u16,
}

/// A packed ring.
pub struct Packed {
    base: u64,
    driver: u64,
    device: u64,
    size: u16,
    avail: Place,
    used: Place,
    /// Slots used since the driver was last asked whether it wants an interrupt.
    unasked: u32,
    indirect: bool,
    event_idx: bool,
}

impl Packed {
    /// A ring at its beginning.
    pub fn new(setup: &Setup) -> Result<Self, Problem> {
        let aligned =
            setup.descriptors.is_multiple_of(16) && setup.driver.is_multiple_of(4) && setup.device.is_multiple_of(4);
        if !aligned {
            return Err("a ring is not aligned: 16 bytes for descriptors, 4 for event suppression");
        }
        let start = Place { slot: 0, wrap: true };
        Ok(Self {
            base: setup.descriptors,
            driver: setup.driver,
            device: setup.device,
            size: setup.size,
            avail: start,
            used: start,
            unasked: 0,
            indirect: setup.features.contains(Features::INDIRECT_DESC),
            event_idx: setup.features.contains(Features::EVENT_IDX),
        })
    }

    pub fn size(&self) -> u16 {
        self.size
    }

    fn slot(&self, slot: u16) -> u64 {
        self.base.wrapping_add(16 * u64::from(slot))
    }

    fn is_available(&self, memory: &RingMemory<'_>) -> Result<bool, Problem> {
        let at = GuestAddress(self.slot(self.avail.slot).wrapping_add(14));
        // Acquire: the rest of the chain was written before these flags.
        let flags: u16 =
            memory.load(at, Ordering::Acquire).map_err(|_| "bus fault while reading a descriptor's flags")?;
        let flags = u16::from_le(flags);
        Ok((flags & AVAIL != 0) == self.avail.wrap && (flags & USED != 0) != self.avail.wrap)
    }

    pub fn pop(&mut self, memory: &RingMemory<'_>) -> Result<Option<Chain>, Problem> {
        if !self.is_available(memory)? {
            return Ok(None);
        }
        let mut chain = Chain::default();
        loop {
            let place = self.avail.advanced(chain.slots, self.size);
            let descriptor = read(memory, self.slot(place.slot))?;
            chain.slots += 1;
            chain.id = descriptor.id;
            if descriptor.flags & INDIRECT != 0 {
                self.follow(memory, &descriptor, &mut chain)?;
            } else {
                chain.push(descriptor.address, descriptor.len, descriptor.flags & WRITE != 0)?;
            }
            if descriptor.flags & NEXT == 0 {
                break;
            }
            if chain.slots == self.size {
                return Err("a chain of descriptors is longer than the ring");
            }
        }
        self.avail = self.avail.advanced(chain.slots, self.size);
        Ok(Some(chain))
    }

    /// Reads a table of descriptors; in it only the WRITE flag counts.
    fn follow(&self, memory: &RingMemory<'_>, table: &Descriptor, chain: &mut Chain) -> Result<(), Problem> {
        let count = table.len / 16;
        match () {
            () if !self.indirect => return Err("an indirect descriptor, which was not negotiated"),
            () if table.flags & NEXT != 0 || chain.slots > 1 => return Err("an indirect descriptor within a chain"),
            () if count == 0 || !table.len.is_multiple_of(16) || count > u32::from(self.size) => {
                return Err("an indirect table of no valid length");
            }
            () => {}
        }
        for i in 0..u64::from(count) {
            let descriptor = read(memory, table.address.wrapping_add(16 * i))?;
            if descriptor.flags & INDIRECT != 0 {
                return Err("an indirect descriptor within an indirect table");
            }
            chain.push(descriptor.address, descriptor.len, descriptor.flags & WRITE != 0)?;
        }
        Ok(())
    }

    pub fn push(&mut self, memory: &RingMemory<'_>, used: &[Used]) -> Result<(), Problem> {
        let places = used.iter().scan(self.used, |next, used| {
            let place = *next;
            *next = place.advanced(used.slots, self.size);
            Some(place)
        });
        let places: Vec<Place> = places.collect();
        // The first one's flags come last: a driver looks at them first.
        for (used, place) in used.iter().zip(places).rev() {
            self.write(memory, place, used.id, used.len)?;
        }
        self.skip(used);
        Ok(())
    }

    pub fn push_batch(&mut self, memory: &RingMemory<'_>, used: &[Used]) -> Result<(), Problem> {
        let Some(last) = used.last() else { return Ok(()) };
        self.write(memory, self.used, last.id, last.len)?;
        self.skip(used);
        Ok(())
    }

    pub fn push_raw(&mut self, memory: &RingMemory<'_>, id: u16, len: u32) -> Result<(), Problem> {
        self.push(memory, &[Used { id, slots: 1, len, capacity: 0 }])
    }

    fn skip(&mut self, used: &[Used]) {
        for used in used {
            self.used = self.used.advanced(used.slots, self.size);
            self.unasked = self.unasked.saturating_add(used.slots.into());
        }
    }

    fn write(&self, memory: &RingMemory<'_>, place: Place, id: u16, len: u32) -> Result<(), Problem> {
        let at = self.slot(place.slot);
        let mut flags = if place.wrap { AVAIL | USED } else { 0 };
        if len > 0 {
            flags |= WRITE;
        }
        let last = u32::from(id) | u32::from(flags) << 16;
        let written = memory
            .store(len.to_le(), GuestAddress(at.wrapping_add(8)), Ordering::Relaxed)
            .and_then(|()| memory.store(last.to_le(), GuestAddress(at.wrapping_add(12)), Ordering::Release));
        written.map_err(|_| "bus fault while writing a used descriptor")
    }

    pub fn wants_interrupt(&mut self, memory: &RingMemory<'_>) -> Result<bool, Problem> {
        let slots = std::mem::take(&mut self.unasked);
        // The used descriptors must be visible before the driver's wish is read: the driver does it the other way round.
        fence(Ordering::SeqCst);
        let wish: u32 = memory
            .load(GuestAddress(self.driver), Ordering::Relaxed)
            .map_err(|_| "bus fault while reading the driver's wish")?;
        let wish = u32::from_le(wish);
        Ok(slots > 0
            && match (wish >> 16) as u16 & 3 {
                EVENTS_ON => true,
                EVENTS_AT if self.event_idx => self.passed(wish as u16, slots),
                _ => false,
            })
    }

    /// Whether the place that `event` names is among the last `slots` before the used position.
    fn passed(&self, event: u16, slots: u32) -> bool {
        let lap = if (event >> 15 != 0) == self.used.wrap { 0 } else { i64::from(self.size) };
        let (event, end) = (i64::from(event & 0x7fff) - lap, i64::from(self.used.slot));
        (end - i64::from(slots)..end).contains(&event)
    }

    pub fn arm(&mut self, memory: &RingMemory<'_>) -> Result<bool, Problem> {
        match self.event_idx {
            true => self.ask(memory, self.avail.encode(), EVENTS_AT)?,
            false => self.ask(memory, 0, EVENTS_ON)?,
        }
        // Now or never: what is made available after this load rings the bell.
        fence(Ordering::SeqCst);
        self.is_available(memory)
    }

    pub fn disarm(&mut self, memory: &RingMemory<'_>) -> Result<(), Problem> {
        self.ask(memory, 0, EVENTS_OFF)
    }

    fn ask(&self, memory: &RingMemory<'_>, place: u16, flags: u16) -> Result<(), Problem> {
        let value = u32::from(place) | u32::from(flags) << 16;
        let stored = memory.store(value.to_le(), GuestAddress(self.device), Ordering::Relaxed);
        stored.map_err(|_| "bus fault while asking for the bell or for silence")
    }
}

fn read(memory: &RingMemory<'_>, at: u64) -> Result<Descriptor, Problem> {
    let bytes: [u8; 16] = memory.read_obj(GuestAddress(at)).map_err(|_| "bus fault while reading a descriptor")?;
    let value = u128::from_le_bytes(bytes);
    Ok(Descriptor {
        address: value as u64,
        len: (value >> 64) as u32,
        id: (value >> 96) as u16,
        flags: (value >> 112) as u16,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(slot: u16, wrap: bool) -> Packed {
        let setup = Setup { size: 6, descriptors: 0, driver: 0, device: 0, features: Features::all() };
        Packed { used: Place { slot, wrap }, ..Packed::new(&setup).unwrap() }
    }

    #[test]
    fn a_place_wraps_at_the_end_of_a_ring_of_any_size() {
        let place = Place { slot: 4, wrap: true };
        assert_eq!(place.advanced(1, 6), Place { slot: 5, wrap: true });
        assert_eq!(place.advanced(2, 6), Place { slot: 0, wrap: false });
        assert_eq!(place.advanced(6, 6), Place { slot: 4, wrap: false });
        assert_eq!(Place { slot: 3, wrap: true }.encode(), 0x8003);
    }

    #[test]
    fn an_event_counts_when_it_is_passed() {
        let on = |event: u16, wrap: bool| event | u16::from(wrap) << 15;
        for (slot, wrap, event, slots, passed) in [
            (3, true, on(2, true), 1, true),
            (3, true, on(1, true), 1, false),
            (3, true, on(3, true), 3, false),
            (1, false, on(5, true), 2, true),
            (1, false, on(5, true), 1, false),
            (1, false, on(0, false), 1, true),
            // The next lap's slot is not reached yet.
            (5, true, on(0, false), 5, false),
            (0, false, on(0, true), 6, true),
        ] {
            assert_eq!(at(slot, wrap).passed(event, slots), passed, "{slot} {wrap} {event:#x} {slots}");
        }
    }
}
