//! A device model in this process, as the carrier of a PCI function.

use std::ops::{Range, RangeInclusive};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use memmap2::MmapOptions;
use stillwire_dma::{Access, Backend, BarInfo, Error, Event, MappedArea, Result, SharedMemory};

use crate::bus::Interrupts;
use crate::clock::Clock;
use crate::config_space::LEN as CONFIG_LEN;
use crate::ixgbe;
use crate::memory::MemoryTable;
use crate::model::DeviceModel;
use crate::pages::PAGE;

/// Device addresses that may be mapped: all but the window where x86 takes MSI writes.
const IOVA_RANGES: [RangeInclusive<u64>; 2] = [0..=0xfedf_ffff, 0xfef0_0000..=0xffff_ffff_ffff];

/// A model with its memory and its interrupts; it moves when somebody calls [`step`](Self::step), while a [`Running`] lives, or,
/// if it was made [`stepped`](Self::stepped), with every call of its driver.
pub struct LocalDevice<M = ixgbe::Model> {
    model: Mutex<M>,
    memory: Arc<MemoryTable>,
    eventfds: EventFds,
    runner: Mutex<Option<Thread>>,
    /// Callers that wait for the model: the stepping thread lets them go first, for the lock alone is not fair.
    waiting: AtomicUsize,
    /// The time it lives in, if not the machine's.
    clock: Option<Arc<dyn Clock>>,
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
    pub fn new(model: M) -> Arc<Self> {
        Self::with(model, MemoryTable::new(), None)
    }

    /// One that its driver steps, in `clock`'s time and in the driver's thread: with every access to a register or to
    /// configuration space, and before and after every wait. No page is mapped, so a doorbell is an access like others. The same
    /// calls do the same things in the same order.
    pub fn stepped(model: M, memory: Arc<MemoryTable>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::with(model, memory, Some(clock))
    }

    fn with(mut model: M, memory: Arc<MemoryTable>, clock: Option<Arc<dyn Clock>>) -> Arc<Self> {
        let eventfds = EventFds::default();
        model.attach_memory(memory.clone());
        model.attach_interrupts(Box::new(eventfds.clone()));
        Arc::new(Self {
            model: Mutex::new(model),
            memory,
            eventfds,
            runner: Mutex::new(None),
            waiting: AtomicUsize::new(0),
            clock,
        })
    }

    /// Steps the model at `now` (since any epoch); false when there was nothing to do.
    pub fn step(&self, now: Duration) -> bool {
        self.model.lock().unwrap_or_else(PoisonError::into_inner).step(now)
    }

    /// Steps a [stepped](Self::stepped) one until it has nothing to do at its clock's time, or has had enough steps for the clock
    /// to go on. Whether it did anything.
    pub fn settle(&self) -> bool {
        let Some(clock) = &self.clock else { return false };
        let now = clock.now();
        (0..STEPS).take_while(|_| self.step(now)).count() > 0
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

    /// After an access: a stepped model steps, of any other the thread is told that there may be work.
    fn moved(&self, mut model: MutexGuard<'_, M>) {
        match &self.clock {
            Some(clock) => drop(model.step(clock.now())),
            None => {
                drop(model);
                self.wake();
            }
        }
    }

    /// As [`moved`](Self::moved), after one that gives a thread nothing to do.
    fn looked(&self, mut model: MutexGuard<'_, M>) {
        if let Some(clock) = &self.clock {
            model.step(clock.now());
        }
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

/// Most steps of a [`LocalDevice::stepped`] one at one time: wires may go round in circles.
const STEPS: usize = 64;
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
        let mut model = self.lock();
        model.config_read(offset, data);
        self.looked(model);
        Ok(())
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Result<()> {
        in_config(offset, data.len())?;
        let mut model = self.lock();
        model.config_write(offset, data);
        self.moved(model);
        Ok(())
    }

    fn bar(&self, index: u8) -> Result<BarInfo> {
        let model = self.lock();
        let len = model.bar_len(index);
        let Some(doorbells) = model.doorbells().filter(|pages| pages.bar == index && self.clock.is_none()) else {
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
        self.looked(model);
        Ok(())
    }

    fn bar_write(&self, index: u8, offset: u64, data: &[u8]) -> Result<()> {
        let mut model = self.lock();
        in_bar(index, model.bar_len(index), offset, data.len())?;
        model.bar_write(index, offset, data);
        self.moved(model);
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
        let refuse = |source| Error::Map { device: self.name(), len, source, hint: String::new() };
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

    fn now(&self) -> Duration {
        self.clock.as_ref().map_or_else(machine_time, |clock| clock.now())
    }

    fn sleep(&self, time: Duration) {
        let Some(clock) = &self.clock else { return std::thread::sleep(time) };
        self.settle();
        clock.sleep(time);
        self.settle();
    }

    fn wait(&self, event: &Event, timeout: Duration) -> Result<bool> {
        let Some(clock) = &self.clock else { return event.wait(timeout) };
        let start = clock.now();
        let mut nap = FIRST_NAP;
        loop {
            self.settle();
            if event.wait(Duration::ZERO)? {
                return Ok(true);
            }
            let left = timeout.saturating_sub(clock.now().saturating_sub(start));
            if left.is_zero() {
                return Ok(false);
            }
            clock.sleep(nap.min(left));
            nap = nap.saturating_mul(2);
        }
    }
}

fn machine_time() -> Duration {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    EPOCH.get_or_init(Instant::now).elapsed()
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
