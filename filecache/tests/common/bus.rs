//! A bus without a device: it knows what is mapped, and reads it as a device would.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::ops::{Range, RangeInclusive};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use stillwire_dma::{Access, Backend, BarInfo, Error, Iommu, Payload, PciFunction, Result, SharedMemory};

/// What is mapped, and how often something was.
#[derive(Default)]
pub struct Bus {
    mapped: Mutex<Vec<(u64, SharedMemory, Range<usize>)>>,
    maps: Mutex<usize>,
}

impl Bus {
    /// A bus and its address space.
    pub fn new() -> (Arc<Self>, Iommu) {
        let bus = Arc::new(Self::default());
        let iommu = PciFunction::from_backend(bus.clone()).iommu().clone();
        (bus, iommu)
    }

    /// Number of mappings there are.
    pub fn mapped(&self) -> usize {
        self.mapped.lock().unwrap().len()
    }

    /// Number of mappings there have been.
    pub fn maps(&self) -> usize {
        *self.maps.lock().unwrap()
    }

    /// What a device reads.
    pub fn read(&self, payload: &impl Payload, range: Range<usize>) -> Vec<u8> {
        let mut bytes = Vec::new();
        payload.segments(range, |segment| {
            let mapped = self.mapped.lock().unwrap();
            let at = segment.iova.get();
            let (iova, memory, range) =
                mapped.iter().find(|(iova, _, range)| (*iova..iova + range.len() as u64).contains(&at)).unwrap();
            let mut part = vec![0; segment.len as usize];
            memory.read_at(range.start + (at - iova) as usize, &mut part);
            bytes.extend(part);
        });
        bytes
    }
}

impl Backend for Bus {
    fn name(&self) -> String {
        "test bus".into()
    }
    fn config_read(&self, _: u16, _: &mut [u8]) -> Result<()> {
        Err(Error::Model("no configuration".into()))
    }
    fn config_write(&self, _: u16, _: &[u8]) -> Result<()> {
        Err(Error::Model("no configuration".into()))
    }
    fn bar(&self, _: u8) -> Result<BarInfo> {
        Err(Error::Model("no BAR".into()))
    }
    fn bar_read(&self, _: u8, _: u64, _: &mut [u8]) -> Result<()> {
        Err(Error::Model("no BAR".into()))
    }
    fn bar_write(&self, _: u8, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::Model("no BAR".into()))
    }
    fn reset(&self) -> Result<()> {
        Ok(())
    }
    fn msix_vectors(&self) -> u32 {
        0
    }
    fn set_msix(&self, _: &[BorrowedFd<'_>]) -> Result<()> {
        Ok(())
    }
    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        vec![0x1_0000_0000..=0x1_3fff_ffff]
    }
    fn dma_map(&self, iova: u64, memory: &SharedMemory, range: Range<usize>, access: Access) -> Result<()> {
        assert_eq!(access, Access::ReadOnly, "a device could write the file");
        self.mapped.lock().unwrap().push((iova, memory.clone(), range));
        *self.maps.lock().unwrap() += 1;
        Ok(())
    }
    fn dma_unmap(&self, iova: u64, len: usize) -> Result<()> {
        self.mapped.lock().unwrap().retain(|mapped| (mapped.0, mapped.2.len()) != (iova, len));
        Ok(())
    }
}
