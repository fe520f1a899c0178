//! A carrier that writes down what goes over it.

use std::ops::{Range, RangeInclusive};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stillwire_dma::{Access, Backend, BarInfo, Event, Result, SharedMemory};

/// One access or wait, and when it was over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    Config { write: bool, offset: u16, bytes: Vec<u8> },
    Register { write: bool, bar: u8, offset: u64, bytes: Vec<u8> },
    Sleep(Duration),
    Wait { happened: bool },
    Map { iova: u64, len: usize },
    Unmap { iova: u64, len: usize },
}

pub struct Traced {
    pub inner: Arc<dyn Backend>,
    pub lines: Mutex<Vec<(Duration, Line)>>,
}

impl Traced {
    pub fn new(inner: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Self { inner, lines: Mutex::default() })
    }

    fn note(&self, line: Line) {
        let now = self.inner.now();
        self.lines.lock().unwrap().push((now, line));
    }
}

impl Backend for Traced {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        self.inner.config_read(offset, data)?;
        self.note(Line::Config { write: false, offset, bytes: data.to_vec() });
        Ok(())
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Result<()> {
        self.inner.config_write(offset, data)?;
        self.note(Line::Config { write: true, offset, bytes: data.to_vec() });
        Ok(())
    }

    fn bar(&self, index: u8) -> Result<BarInfo> {
        self.inner.bar(index)
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        self.inner.bar_read(bar, offset, data)?;
        self.note(Line::Register { write: false, bar, offset, bytes: data.to_vec() });
        Ok(())
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) -> Result<()> {
        self.inner.bar_write(bar, offset, data)?;
        self.note(Line::Register { write: true, bar, offset, bytes: data.to_vec() });
        Ok(())
    }

    fn reset(&self) -> Result<()> {
        self.inner.reset()
    }

    fn msix_vectors(&self) -> u32 {
        self.inner.msix_vectors()
    }

    fn set_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        self.inner.set_msix(eventfds)
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.inner.iova_ranges()
    }

    fn dma_map(&self, iova: u64, memory: &SharedMemory, range: Range<usize>, access: Access) -> Result<()> {
        self.note(Line::Map { iova, len: range.len() });
        self.inner.dma_map(iova, memory, range, access)
    }

    fn dma_unmap(&self, iova: u64, len: usize) -> Result<()> {
        self.note(Line::Unmap { iova, len });
        self.inner.dma_unmap(iova, len)
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }

    fn sleep(&self, time: Duration) {
        self.inner.sleep(time);
        self.note(Line::Sleep(time));
    }

    fn wait(&self, event: &Event, timeout: Duration) -> Result<bool> {
        let happened = self.inner.wait(event, timeout)?;
        self.note(Line::Wait { happened });
        Ok(happened)
    }
}
