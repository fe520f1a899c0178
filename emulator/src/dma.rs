//! A device's own side of the bus.

use std::sync::Arc;

use crate::bus::{BusFault, BusMemory};
use crate::counters::Counters;
use crate::memory::Tally;

/// A device's side of the bus: every access goes through here, is counted, and is refused while `open` is false.
pub(crate) struct Bus {
    pub(crate) memory: Arc<dyn BusMemory>,
    pub(crate) open: bool,
    pub(crate) counters: Counters,
}

impl Bus {
    pub(crate) fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), BusFault> {
        self.access(address, bytes.len(), false)?;
        let outcome = self.memory.read(address, bytes);
        self.note(outcome)
    }

    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), BusFault> {
        self.access(address, bytes.len(), true)?;
        let outcome = self.memory.write(address, bytes);
        self.note(outcome)
    }

    pub(crate) fn store_u32(&mut self, address: u64, value: u32) -> Result<(), BusFault> {
        self.access(address, 4, true)?;
        let outcome = self.memory.store_u32(address, value);
        self.note(outcome)
    }

    pub(crate) fn store_u64(&mut self, address: u64, value: u64) -> Result<(), BusFault> {
        self.access(address, 8, true)?;
        let outcome = self.memory.store_u64(address, value);
        self.note(outcome)
    }

    /// Reads several pieces, one after the other, into `bytes`.
    pub(crate) fn gather(&mut self, segments: &[(u64, usize)], bytes: &mut Vec<u8>) -> Result<(), BusFault> {
        let total = segments.iter().map(|(_, len)| len).sum();
        bytes.resize(total, 0);
        let mut at = 0;
        for (address, len) in segments {
            self.read(*address, &mut bytes[at..at + len])?;
            at += len;
        }
        Ok(())
    }

    /// Counts what was done past this type, with a library on rings.
    pub(crate) fn count(&mut self, tally: Tally) {
        let counters = &mut self.counters;
        counters.dma_reads += tally.reads;
        counters.dma_writes += tally.writes;
        counters.dma_read_bytes += tally.read_bytes;
        counters.dma_write_bytes += tally.write_bytes;
        counters.bus_faults += tally.faults;
        counters.gated += tally.gated;
    }

    fn access(&mut self, address: u64, len: usize, write: bool) -> Result<(), BusFault> {
        if !self.open {
            self.counters.gated += 1;
            return Err(BusFault { address, len, write });
        }
        let (count, bytes) = match write {
            true => (&mut self.counters.dma_writes, &mut self.counters.dma_write_bytes),
            false => (&mut self.counters.dma_reads, &mut self.counters.dma_read_bytes),
        };
        *count += 1;
        *bytes += len as u64;
        Ok(())
    }

    fn note(&mut self, outcome: Result<(), BusFault>) -> Result<(), BusFault> {
        self.counters.bus_faults += u64::from(outcome.is_err());
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Memory that takes everything and remembers how often.
    #[derive(Default)]
    struct Counted(Mutex<u64>);

    impl BusMemory for Counted {
        fn read(&self, _address: u64, bytes: &mut [u8]) -> Result<(), BusFault> {
            *self.0.lock().unwrap() += 1;
            bytes.fill(7);
            Ok(())
        }

        fn write(&self, _address: u64, _bytes: &[u8]) -> Result<(), BusFault> {
            *self.0.lock().unwrap() += 1;
            Ok(())
        }

        fn store_u32(&self, _address: u64, _value: u32) -> Result<(), BusFault> {
            *self.0.lock().unwrap() += 1;
            Ok(())
        }

        fn store_u64(&self, _address: u64, _value: u64) -> Result<(), BusFault> {
            *self.0.lock().unwrap() += 1;
            Ok(())
        }
    }

    #[test]
    fn a_shut_bus_lets_nothing_through() {
        let memory = Arc::new(Counted::default());
        let mut bus = Bus { memory: memory.clone(), open: false, counters: Counters::default() };
        let mut bytes = [0; 4];
        for open in [false, true] {
            bus.open = open;
            assert_eq!(bus.read(0, &mut bytes).is_ok(), open);
            assert_eq!(bus.write(0, &bytes).is_ok(), open);
            assert_eq!(bus.store_u32(0, 1).is_ok(), open);
            assert_eq!(bus.store_u64(0, 1).is_ok(), open);
            assert_eq!(bus.gather(&[(0, 2), (8, 1)], &mut Vec::new()).is_ok(), open);
            assert_eq!(*memory.0.lock().unwrap(), if open { 6 } else { 0 });
        }
        let counters = bus.counters;
        assert_eq!((counters.gated, counters.dma_reads, counters.dma_writes), (5, 3, 3));
        assert_eq!((counters.dma_read_bytes, counters.dma_write_bytes), (7, 16));
        bus.count(Tally { reads: 1, writes: 2, read_bytes: 3, write_bytes: 4, faults: 5, gated: 6 });
        let counters = bus.counters;
        assert_eq!((counters.dma_reads, counters.dma_writes), (4, 5));
        assert_eq!((counters.dma_read_bytes, counters.dma_write_bytes), (10, 20));
        assert_eq!((counters.bus_faults, counters.gated), (5, 11));
    }
}
