//! A bus on which things go wrong, between any model and any driver: what it carries is lost, late, twice, garbled or refused as
//! somebody decides, access by access. With a [stepped](crate::LocalDevice::stepped) device and decisions made from a seed, a run
//! is the same each time.
//!
//! ```text
//!   driver ── registers ──▶ ┌─────────┐ ──▶ model ── DMA ──▶ MemoryTable::interpose ──▶ memory
//!          ◀── interrupts ─ │FaultyBus│ ◀────            Mishaps::dma
//!                           └─────────┘
//!            Mishaps::register, interrupt, step
//! ```
//!
//! What no bus does is not here: a driver's writes keep their order, and an answer to its read comes after what the device wrote
//! before (PCI Express 2.4). So whoever has seen a device quiet may rely on it. Pages that a client maps would go around all this: there
//! are none.

mod mishaps;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::bus::Interrupts;
use crate::memory::{DmaAccess, DmaFate, MemoryTable, garble};
use crate::model::{DeviceModel, DoorbellPages};
use crate::report::Report;

pub use mishaps::{InterruptFate, Mishaps, RegisterAccess, RegisterFate, StepFate};

/// A model behind a bus on which things go wrong.
pub struct FaultyBus<M> {
    model: M,
    shared: Arc<Shared>,
    memory: Option<Arc<MemoryTable>>,
    /// The driver's writes that have not arrived, with the steps until they do.
    posted: VecDeque<(u32, Posted)>,
    /// The time of the last step.
    now: Duration,
}

/// What the model's own side of the bus asks as well.
struct Shared {
    mishaps: Mutex<Box<dyn Mishaps>>,
    /// The card is out.
    removed: AtomicBool,
    interrupts: Mutex<Messages>,
}

/// Interrupts, and those that have not arrived.
#[derive(Default)]
struct Messages {
    to: Option<Box<dyn Interrupts>>,
    late: Vec<(u32, u16)>,
}

/// A write to a register or to configuration space.
struct Posted {
    bar: Option<u8>,
    offset: u64,
    bytes: Box<[u8]>,
}

fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: DeviceModel> FaultyBus<M> {
    /// `model`, with what `mishaps` decides.
    pub fn new(model: M, mishaps: impl Mishaps + 'static) -> Self {
        let shared = Shared {
            mishaps: Mutex::new(Box::new(mishaps)),
            removed: AtomicBool::new(false),
            interrupts: Mutex::default(),
        };
        Self { model, shared: Arc::new(shared), memory: None, posted: VecDeque::new(), now: Duration::ZERO }
    }

    /// The model itself.
    pub fn model(&mut self) -> &mut M {
        &mut self.model
    }

    /// Whether the card is out.
    pub fn is_removed(&self) -> bool {
        self.shared.is_removed()
    }

    /// Pulls the card out: what is on its way is lost.
    pub fn remove(&mut self) {
        self.shared.removed.store(true, Ordering::Relaxed);
        self.forget();
    }

    /// Puts a card that was out back in: it is as after power-on.
    pub fn put_back(&mut self) {
        if self.is_removed() {
            self.shared.removed.store(false, Ordering::Relaxed);
            self.function_reset();
        }
    }

    fn forget(&mut self) {
        self.posted.clear();
        locked(&self.shared.interrupts).late.clear();
        if let Some(memory) = &self.memory {
            memory.forget_late_writes();
        }
    }

    fn register(&mut self, access: RegisterAccess) -> RegisterFate {
        if self.is_removed() {
            return RegisterFate::Remove;
        }
        let fate = locked(&self.shared.mishaps).register(access);
        match fate {
            RegisterFate::Remove => self.remove(),
            RegisterFate::Reset => self.function_reset(),
            _ => {}
        }
        fate
    }

    fn read(&mut self, bar: Option<u8>, offset: u64, data: &mut [u8]) {
        let fate = self.register(RegisterAccess { bar, write: false, offset, len: data.len() });
        if fate == RegisterFate::Remove {
            return data.fill(0xff);
        }
        self.arrive(true);
        if let RegisterFate::Late(steps) = fate {
            for _ in 0..steps.min(MOST_STEPS) {
                self.step(self.now);
            }
        }
        match bar {
            Some(bar) => self.model.bar_read(bar, offset, data),
            // It has 16 bits there.
            None => self.model.config_read(offset as u16, data),
        }
        match fate {
            // The card may be out since.
            _ if self.is_removed() => data.fill(0xff),
            RegisterFate::Lose => data.fill(0xff),
            RegisterFate::Garble(flip) => garble(data, flip),
            _ => {}
        }
        if let Some(memory) = &self.memory {
            memory.push_late_writes();
        }
    }

    fn write(&mut self, bar: Option<u8>, offset: u64, data: &[u8]) {
        let fate = self.register(RegisterAccess { bar, write: true, offset, len: data.len() });
        let mut bytes: Box<[u8]> = data.into();
        let steps = match fate {
            RegisterFate::Remove | RegisterFate::Lose => return,
            RegisterFate::Late(steps) => steps,
            RegisterFate::Garble(flip) => {
                garble(&mut bytes, flip);
                0
            }
            RegisterFate::Pass | RegisterFate::Reset => 0,
        };
        self.posted.push_back((steps, Posted { bar, offset, bytes }));
        self.arrive(false);
    }

    /// Delivers what has come to the head of the line and waited long enough, or all.
    fn arrive(&mut self, all: bool) {
        while self.posted.front().is_some_and(|(steps, _)| all || *steps == 0) {
            let Some((_, write)) = self.posted.pop_front() else { return };
            match write.bar {
                Some(bar) => self.model.bar_write(bar, write.offset, &write.bytes),
                None => self.model.config_write(write.offset as u16, &write.bytes),
            }
        }
    }
}

impl Shared {
    fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    fn dma(&self, access: DmaAccess) -> DmaFate {
        if self.is_removed() { DmaFate::Refuse } else { locked(&self.mishaps).dma(access) }
    }
}

/// The model's vectors.
struct Wires(Arc<Shared>);

impl Interrupts for Wires {
    fn raise(&mut self, vector: u16) {
        if self.0.is_removed() {
            return;
        }
        let fate = locked(&self.0.mishaps).interrupt(vector);
        let mut messages = locked(&self.0.interrupts);
        match fate {
            InterruptFate::Pass => messages.raise(vector),
            InterruptFate::Lose => {}
            InterruptFate::Late(steps) => messages.late.push((steps, vector)),
            InterruptFate::Twice(steps) => {
                messages.raise(vector);
                messages.late.push((steps, vector));
            }
        }
    }
}

impl Messages {
    fn raise(&mut self, vector: u16) {
        if let Some(to) = &mut self.to {
            to.raise(vector);
        }
    }

    /// A step has passed.
    fn step(&mut self) {
        for (steps, _) in &mut self.late {
            *steps = steps.saturating_sub(1);
        }
        let due: Vec<_> = self.late.extract_if(.., |(steps, _)| *steps == 0).collect();
        due.into_iter().for_each(|(_, vector)| self.raise(vector));
    }
}

impl<M: DeviceModel> DeviceModel for FaultyBus<M> {
    fn ids(&self) -> String {
        self.model.ids()
    }

    fn attach_memory(&mut self, memory: Arc<MemoryTable>) {
        let shared = self.shared.clone();
        memory.interpose(Box::new(move |access| shared.dma(access)));
        self.memory = Some(memory.clone());
        self.model.attach_memory(memory);
    }

    fn attach_interrupts(&mut self, interrupts: Box<dyn Interrupts>) {
        locked(&self.shared.interrupts).to = Some(interrupts);
        self.model.attach_interrupts(Box::new(Wires(self.shared.clone())));
    }

    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.read(None, offset.into(), data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.write(None, offset.into(), data);
    }

    fn bar_len(&self, bar: u8) -> u64 {
        self.model.bar_len(bar)
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        self.read(Some(bar), offset, data);
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        self.write(Some(bar), offset, data);
    }

    fn doorbells(&self) -> Option<DoorbellPages<'_>> {
        None
    }

    fn vectors(&self) -> u16 {
        self.model.vectors()
    }

    fn step(&mut self, now: Duration) -> bool {
        self.now = now;
        if self.is_removed() {
            return false;
        }
        let fate = locked(&self.shared.mishaps).step();
        match fate {
            StepFate::Remove => {
                self.remove();
                return true;
            }
            StepFate::Reset => self.function_reset(),
            StepFate::Fault(text) => drop(self.model.set_fault(text)),
            StepFate::Pass | StepFate::Skip => {}
        }
        for (steps, _) in &mut self.posted {
            *steps = steps.saturating_sub(1);
        }
        self.arrive(false);
        locked(&self.shared.interrupts).step();
        if let Some(memory) = &self.memory {
            memory.step_late_writes();
        }
        let busy = fate != StepFate::Skip && self.model.step(now);
        busy || self.is_late()
    }

    fn function_reset(&mut self) {
        self.forget();
        self.model.function_reset();
    }

    fn note_unmapped(&mut self, ranges: usize) {
        self.model.note_unmapped(ranges);
    }

    fn set_fault(&mut self, text: &str) -> Result<(), String> {
        self.model.set_fault(text)
    }

    fn report(&self, report: &mut Report) {
        self.model.report(report);
    }
}

impl<M> FaultyBus<M> {
    /// Whether something is on its way.
    fn is_late(&self) -> bool {
        let memory = self.memory.as_ref().is_some_and(|memory| memory.has_late_writes());
        memory || !self.posted.is_empty() || !locked(&self.shared.interrupts).late.is_empty()
    }
}

/// Steps that an answer waits for at most.
const MOST_STEPS: u32 = 1000;
