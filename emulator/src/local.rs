//! A device model in this process, as the carrier of a PCI function.

use std::ops::{Range, RangeInclusive};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use memmap2::MmapOptions;
use stillwire_dma::{Access, Backend, BarInfo, Error, MappedArea, Result, SharedMemory};

use crate::bus::Interrupts;
use crate::config_space::LEN as CONFIG_LEN;
use crate::ixgbe;
use crate::memory::MemoryTable;
use crate::model::DeviceModel;
use crate::pages::PAGE;

/// Device addresses that may be mapped: all but the window where x86 takes MSI writes.
const IOVA_RANGES: [RangeInclusive<u64>; 2] = [0..=0xfedf_ffff, 0xfef0_0000..=0xffff_ffff_ffff];

/// A model with its memory and its interrupts; it moves when somebody calls [`step`](Self::step) or while a
/// [`Running`] lives.
pub struct LocalDevice<M = ixgbe::Model> {
    model: Mutex<M>,
    memory: Arc<MemoryTable>,
    eventfds: EventFds,
    runner: Mutex<Option<Thread>>,
    /// Callers that wait for the model: the stepping thread lets them go first, for the lock alone is not fair.
    waiting: AtomicUsize,
}

/// Where MSI-X vectors go; shared between the device and whoever sets them.
#[derive(Clone, Default)]
pub(crate) struct EventFds(Arc<Mutex<Vec<Option<OwnedFd>>>>);

impl EventFds {
    /// Sets the vectors from `start` on, of `count` that there are.
    pub(crate) fn set(&self, count: u16, start: usize, fds: impl IntoIterator<Item = Option<OwnedFd>>) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (vector, fd) in (start..usize::from(count)).zip(fds) {
            if slots.len() <= vector {
                slots.resize_with(vector + 1, || None);
            }
            slots[vector] = fd;
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Interrupts for EventFds {
    fn raise(&mut self, vector: u16) {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(fd)) = slots.get(usize::from(vector)) {
            // An eventfd whose counter is full has been signalled already.
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
    }
}

impl<M: DeviceModel> LocalDevice<M> {
    /// Gives the model an empty memory table and its interrupts.
    pub fn new(mut model: M) -> Arc<Self> {
        let memory = MemoryTable::new();
        let eventfds = EventFds::default();
        model.attach_memory(memory.clone());
        model.attach_interrupts(Box::new(eventfds.clone()));
        Arc::new(Self {
            model: Mutex::new(model),
            memory,
            eventfds,
            runner: Mutex::new(None),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Steps the model at `now` (since any epoch); false when there was nothing to do.
    pub fn step(&self, now: Duration) -> bool {
        self.model.lock().unwrap_or_else(PoisonError::into_inner).step(now)
    }

    /// Looks at the model, or changes it, between two steps.
    pub fn with_model<R>(&self, look: impl FnOnce(&mut M) -> R) -> R {
        look(&mut self.lock())
    }

    /// The device addresses mapped now.
    pub fn memory(&self) -> &Arc<MemoryTable> {
        &self.memory
    }

    /// Starts a thread that steps the model with real time until the value returned is dropped.
    pub fn spawn(self: &Arc<Self>) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let (device, stopped) = (self.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("stillwire-model".into())
            .spawn(move || device.run(&stopped))
            .expect("a thread for the device model");
        *self.runner.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.thread().clone());
        Running { stop, thread: Some(thread) }
    }

    fn run(&self, stop: &AtomicBool) {
        let epoch = Instant::now();
        let mut idle = 0u32;
        while !stop.load(Ordering::Acquire) {
            while self.waiting.load(Ordering::Relaxed) > 0 {
                std::thread::yield_now();
            }
            idle = if self.step(epoch.elapsed()) { 0 } else { idle.saturating_add(1) };
            match idle {
                0 => {}
                1..=SPINS => std::thread::yield_now(),
                // A doorbell that is a store wakes nobody, so the sleep stays short.
                _ => std::thread::park_timeout(FIRST_NAP.saturating_mul(idle - SPINS).min(LAST_NAP)),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, M> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        model
    }

    /// Tells the thread that there may be work.
    pub(crate) fn wake(&self) {
        if let Some(thread) = &*self.runner.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }

    pub(crate) fn eventfds(&self) -> &EventFds {
        &self.eventfds
    }
}

/// Idle steps before the thread sleeps.
const SPINS: u32 = 200;
/// The first sleep, and how much longer each one is.
const FIRST_NAP: Duration = Duration::from_micros(5);
/// The longest sleep.
const LAST_NAP: Duration = Duration::from_micros(200);

/// The thread that steps a [`LocalDevice`]; dropping it stops the thread and waits for it.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl<M: DeviceModel> Backend for LocalDevice<M> {
    fn name(&self) -> String {
        format!("emulated {}", self.lock().ids())
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        in_config(offset, data.len())?;
        self.lock().config_read(offset, data);
        Ok(())
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Result<()> {
        in_config(offset, data.len())?;
        self.lock().config_write(offset, data);
        self.wake();
        Ok(())
    }

    fn bar(&self, index: u8) -> Result<BarInfo> {
        let model = self.lock();
        let len = model.bar_len(index);
        let Some(doorbells) = model.doorbells().filter(|pages| pages.bar == index) else {
            return Ok(BarInfo { len, mapped: Vec::new() });
        };
        let area = |offset: &u32| {
            let offset = u64::from(*offset);
            let pages = MmapOptions::new().offset(offset).len(PAGE).map_raw(doorbells.file.as_raw_fd());
            let pages = pages.map_err(|error| Error::Model(format!("mapping a doorbell page: {error}")))?;
            Ok(MappedArea { offset, pages })
        };
        Ok(BarInfo { len, mapped: doorbells.offsets.iter().map(area).collect::<Result<_>>()? })
    }

    fn bar_read(&self, index: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        let mut model = self.lock();
        in_bar(index, model.bar_len(index), offset, data.len())?;
        model.bar_read(index, offset, data);
        Ok(())
    }

    fn bar_write(&self, index: u8, offset: u64, data: &[u8]) -> Result<()> {
        let mut model = self.lock();
        in_bar(index, model.bar_len(index), offset, data.len())?;
        model.bar_write(index, offset, data);
        drop(model);
        self.wake();
        Ok(())
    }

    /// As after power-on: bus mastering is off, and the driver must turn it on again.
    fn reset(&self) -> Result<()> {
        self.lock().function_reset();
        Ok(())
    }

    fn msix_vectors(&self) -> u32 {
        self.lock().vectors().into()
    }

    fn set_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        let owned: std::io::Result<Vec<_>> = eventfds.iter().map(|fd| fd.try_clone_to_owned().map(Some)).collect();
        let owned = owned.map_err(|error| Error::Model(format!("keeping the eventfds: {error}")))?;
        let vectors = self.lock().vectors();
        if owned.len() > usize::from(vectors) {
            return Err(Error::Model(format!("{} MSI-X vectors asked for, there are {vectors}", owned.len())));
        }
        self.eventfds.clear();
        self.eventfds.set(vectors, 0, owned);
        Ok(())
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        IOVA_RANGES.to_vec()
    }

    fn dma_map(&self, iova: u64, memory: &SharedMemory, range: Range<usize>, access: Access) -> Result<()> {
        let len = range.len();
        let refuse = |source| Error::Map { device: self.name(), len, source, hint: "" };
        let last = iova.saturating_add((len as u64).saturating_sub(1));
        if !IOVA_RANGES.iter().any(|allowed| allowed.contains(&iova) && allowed.contains(&last)) {
            return Err(refuse(std::io::ErrorKind::InvalidInput.into()));
        }
        let writable = access == Access::ReadWrite;
        self.memory.map(iova, memory.fd(), range.start as u64, len as u64, writable).map_err(refuse)
    }

    fn dma_unmap(&self, iova: u64, len: usize) -> Result<()> {
        self.memory.unmap(iova, len as u64);
        Ok(())
    }
}

fn in_config(offset: u16, len: usize) -> Result<()> {
    if usize::from(offset) + len <= CONFIG_LEN {
        return Ok(());
    }
    Err(Error::Model(format!("{len} bytes at {offset:#x} of configuration space, which has {CONFIG_LEN}")))
}

fn in_bar(index: u8, bar_len: u64, offset: u64, len: usize) -> Result<()> {
    if offset.checked_add(len as u64).is_some_and(|end| end <= bar_len) {
        return Ok(());
    }
    Err(Error::Model(format!("{len} bytes at {offset:#x} of BAR{index}, which has {bar_len}")))
}
