//! The device's names for held bytes.

mod common;

use std::ops::{Range, RangeInclusive};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use common::*;
use stillwire_dma::{Access, Backend, BarInfo, Error, Payload, PciFunction, Result, Segment, SharedMemory};

/// A bus that remembers what is mapped.
#[derive(Default)]
struct Bus {
    mapped: Mutex<Vec<(u64, usize, Access)>>,
}

const IOVA: u64 = 0x1_0000_0000;

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
        vec![IOVA..=IOVA + (1 << 30) - 1]
    }
    fn dma_map(&self, iova: u64, _: &SharedMemory, range: Range<usize>, access: Access) -> Result<()> {
        self.mapped.lock().unwrap().push((iova, range.len(), access));
        Ok(())
    }
    fn dma_unmap(&self, iova: u64, len: usize) -> Result<()> {
        self.mapped.lock().unwrap().retain(|mapped| (mapped.0, mapped.1) != (iova, len));
        Ok(())
    }
}

fn segments(payload: &impl Payload, range: Range<usize>) -> Vec<Segment> {
    let mut segments = Vec::new();
    payload.segments(range, |segment| segments.push(segment));
    segments
}

#[test]
fn segments_name_the_held_bytes() {
    let bus = Arc::new(Bus::default());
    let function = PciFunction::from_backend(bus.clone());
    let (cache, file, bytes) = cached(700 * PAGE + 5);
    cache.attach_to(function.iommu()).unwrap();
    let (iova, len, access) = bus.mapped.lock().unwrap()[0];
    assert_eq!((len, access), (memory(&cache).len(), Access::ReadOnly));

    let hold = file.hold(100..bytes.len() as u64).unwrap();
    assert_eq!(Payload::len(&hold), bytes.len() - 100);
    for range in [0..hold.len(), 0..1, 3995..3997, 5000..5000, 17..600 * PAGE, hold.len() - 1..hold.len()] {
        let mut found = Vec::new();
        for segment in segments(&hold, range.clone()) {
            let at = (segment.iova.get() - iova) as usize;
            assert!(at + segment.len as usize <= len, "inside the mapping");
            let mut part = vec![0; segment.len as usize];
            memory(&cache).read_at(at, &mut part);
            found.extend(part);
        }
        assert_eq!(found, bytes[100 + range.start..100 + range.end], "{range:?}");
    }
    let whole = segments(&hold, 0..hold.len());
    assert!(whole.len() <= 6, "neighbouring pages are one segment: {}", whole.len());
    let unheld = file.unheld(100..bytes.len() as u64).unwrap();
    assert_eq!(segments(&unheld, 0..unheld.len()), whole);
}

#[test]
fn the_mapping_stays_until_the_last_hold_is_gone() {
    let bus = Arc::new(Bus::default());
    let (cache, file, _) = cached(PAGE);
    cache.attach_to(PciFunction::from_backend(bus.clone()).iommu()).unwrap();
    let hold = file.hold(0..10).unwrap();
    drop((cache, file));
    assert_eq!(bus.mapped.lock().unwrap().len(), 1, "unmapped while a device may read");
    drop(hold);
    assert_eq!(bus.mapped.lock().unwrap().len(), 0);
}

#[test]
fn a_mapping_that_does_not_fit_is_refused() {
    let function = PciFunction::from_backend(Arc::new(Bus::default()));
    let (cache, other) = (cache(64 * PAGE), cache(64 * PAGE));
    let map = |memory: &SharedMemory, access| function.iommu().map(memory, access).unwrap();
    let text = |answer: stillwire_filecache::Result<()>| answer.unwrap_err().to_string();
    assert!(text(cache.attach(map(memory(&other), Access::ReadOnly))).contains("whole"));
    assert!(text(cache.attach(map(memory(&cache), Access::ReadWrite))).contains("read-only"));
    cache.attach(map(memory(&cache), Access::ReadOnly)).unwrap();
    assert!(text(cache.attach(map(memory(&cache), Access::ReadOnly))).contains("already"));
}

#[test]
#[should_panic(expected = "Cache::attach")]
fn segments_need_a_mapping() {
    let (_cache, file, _) = cached(PAGE);
    segments(&file.hold(0..1).unwrap(), 0..1);
}
