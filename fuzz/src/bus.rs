//! A device that does what its model does, until it is told to lie.
//!
//! It has no thread and a clock of its own: the model moves when its driver touches it or waits, so the same input does the same
//! again, and waiting costs nothing.

use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stillwire_dma::{Access, Backend, BarInfo, Event, PciFunction, Result, SharedMemory};
use stillwire_emulator::{BusMemory, Clock, DeviceModel, LocalDevice, MemoryTable, VirtualClock};

use crate::input::Input;

/// A model behind a bus that can lie.
pub struct Bus<M: DeviceModel> {
    device: Arc<LocalDevice<M>>,
    clock: Arc<VirtualClock>,
    state: Mutex<State<M>>,
}

/// What is done when a register was read and before the driver sees it: offset and value.
pub type Hook<M> = Box<dyn FnMut(&LocalDevice<M>, u32, &mut [u8]) + Send>;

struct State<M: DeviceModel> {
    lies: VecDeque<Lie>,
    maps: Vec<Map>,
    hook: Option<Hook<M>>,
    deeds: u64,
    gone: bool,
}

/// Memory that the device reaches.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    /// First device address.
    pub iova: u64,
    /// Bytes.
    pub len: u64,
    /// The device may write it.
    pub writable: bool,
}

/// What is read instead of what is there.
#[derive(Clone, Copy, Debug)]
struct Lie {
    /// Reads that are answered rightly before.
    after: u8,
    kind: u8,
    value: u32,
}

impl Lie {
    fn tell(self, bytes: &mut [u8]) {
        for (byte, other) in bytes.iter_mut().zip(self.value.to_le_bytes()) {
            match self.kind % 4 {
                0 => *byte = other,
                1 => *byte ^= other,
                2 => *byte |= other,
                _ => *byte = 0xff,
            }
        }
    }
}

impl<M: DeviceModel> Bus<M> {
    /// A bus with a device that tells the truth.
    pub fn new(model: M) -> Arc<Self> {
        let clock = Arc::new(VirtualClock::new());
        clock.sleep(Duration::from_secs(3600));
        let device = LocalDevice::stepped(model, MemoryTable::new(), clock.clone());
        let state = State { lies: VecDeque::new(), maps: Vec::new(), hook: None, deeds: 0, gone: false };
        Arc::new(Self { device, clock, state: Mutex::new(state) })
    }

    /// The function that a driver drives.
    pub fn function(self: &Arc<Self>) -> PciFunction {
        PciFunction::from_backend(self.clone())
    }

    /// The device itself.
    pub fn device(&self) -> &LocalDevice<M> {
        &self.device
    }

    /// Lies that an input tells: at most `most`, as each keeps a driver that waits for a moment longer.
    pub fn lie(&self, input: &mut Input<'_>, most: usize) {
        for _ in 0..most {
            if input.more() {
                let lie = Lie { after: input.u8(), kind: input.u8(), value: input.u32() };
                self.state().lies.push_back(lie);
            }
        }
    }

    /// Nothing but the truth from now on.
    pub fn stop_lying(&self) {
        self.state().lies.clear();
    }

    /// From now on no register answers; configuration space does.
    pub fn pull(&self) {
        self.state().gone = true;
    }

    /// Has something done at every read of BAR 0.
    pub fn hook(&self, hook: Hook<M>) {
        self.state().hook = Some(hook);
    }

    /// Memory that was mapped so far and still is.
    pub fn maps(&self) -> Vec<Map> {
        self.state().maps.clone()
    }

    /// Writes into memory as the device; what it cannot reach it does not write.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.did();
        let _ = self.device.memory().write(address, bytes);
    }

    /// How often the device did something: with memory unchanged since, nothing new was said.
    pub fn deeds(&self) -> u64 {
        self.state().deeds
    }

    /// Reads a word of memory as the device; 0 where there is none.
    pub fn word(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        let _ = self.device.memory().read(address, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Lets time pass, and the model do what it has to do then.
    pub fn pass(&self, time: Duration) {
        self.clock.sleep(time);
        self.device.settle();
        self.did();
    }

    /// The device had an occasion to do something.
    fn did(&self) {
        self.state().deeds += 1;
    }

    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, bytes: &mut [u8]) {
        let mut state = self.state();
        match state.lies.front_mut() {
            Some(lie) if lie.after > 0 => lie.after -= 1,
            Some(_) => {
                if let Some(lie) = state.lies.pop_front() {
                    lie.tell(bytes);
                }
            }
            None => {}
        }
    }
}

impl<M: DeviceModel> Backend for Bus<M> {
    fn name(&self) -> String {
        "a hostile device".into()
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        self.did();
        self.device.config_read(offset, data)?;
        self.tell(data);
        Ok(())
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Result<()> {
        self.did();
        self.device.config_write(offset, data)
    }

    fn bar(&self, index: u8) -> Result<BarInfo> {
        // Without pages: every access comes by here.
        Ok(BarInfo { len: self.device.bar(index)?.len, mapped: Vec::new() })
    }

    fn bar_read(&self, index: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        self.did();
        if self.state().gone {
            data.fill(0xff);
            return Ok(());
        }
        self.device.bar_read(index, offset, data)?;
        let hook = self.state().hook.take();
        if let Some(mut hook) = hook {
            if index == 0 {
                hook(&self.device, offset as u32, data);
            }
            self.state().hook = Some(hook);
        }
        self.tell(data);
        Ok(())
    }

    fn bar_write(&self, index: u8, offset: u64, data: &[u8]) -> Result<()> {
        self.did();
        self.device.bar_write(index, offset, data)
    }

    fn reset(&self) -> Result<()> {
        self.device.reset()
    }

    fn msix_vectors(&self) -> u32 {
        self.device.msix_vectors()
    }

    fn set_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        self.device.set_msix(eventfds)
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.device.iova_ranges()
    }

    fn dma_map(&self, iova: u64, memory: &SharedMemory, range: Range<usize>, access: Access) -> Result<()> {
        let map = Map { iova, len: range.len() as u64, writable: access == Access::ReadWrite };
        self.device.dma_map(iova, memory, range, access)?;
        self.state().maps.push(map);
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, len: usize) -> Result<()> {
        self.state().maps.retain(|map| map.iova != iova);
        self.device.dma_unmap(iova, len)
    }

    fn now(&self) -> Duration {
        self.device.now()
    }

    fn sleep(&self, time: Duration) {
        self.did();
        self.device.sleep(time);
    }

    fn wait(&self, event: &Event, timeout: Duration) -> Result<bool> {
        self.did();
        self.device.wait(event, timeout)
    }
}
