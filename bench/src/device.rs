//! Devices that move only when told: the NIC on paper, and the emulator's whole model.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stillwire_dma::{Error, PciFunction, Register, Result};
use stillwire_emulator::wire::{Sink, Wire};
use stillwire_emulator::{Config, LocalDevice, Model, Running};

use crate::paper::{Counts, PaperNic};

/// A device, and what it counted.
pub struct Device {
    kind: Kind,
    function: PciFunction,
}

enum Kind {
    Paper(Arc<PaperNic>),
    Model(Modelled),
}

/// Frames that shall arrive: how many, and which.
type Due = Arc<Mutex<(usize, Vec<u8>)>>;

/// The emulator's model with a wire that checks what it gets.
struct Modelled {
    device: Arc<LocalDevice>,
    sink: Sink,
    due: Due,
    head: Register,
    tail: Register,
    len: Register,
    transmitted: Cell<Counts>,
    received: Cell<Counts>,
}

impl Device {
    /// A NIC on paper: descriptors are followed, bytes are not read.
    ///
    /// # Errors
    /// When there is no memory for its registers.
    pub fn paper() -> Result<Self> {
        let paper = PaperNic::new()?;
        Ok(Self { function: paper.function(), kind: Kind::Paper(paper) })
    }

    /// The emulator's model: bytes are read, checksums computed, and checked by the wire.
    ///
    /// # Errors
    /// When its registers cannot be reached.
    pub fn model() -> Result<Self> {
        let (sink, due) = (Sink::new(), Due::default());
        let wire = Far { sink: sink.clone(), due: due.clone() };
        let config = Config { frames_per_step: 1 << 13, ..Default::default() };
        let device = LocalDevice::new(Model::new(config, Box::new(wire)));
        let function = PciFunction::from_backend(device.clone());
        let registers = function.registers(0, 1 << 17)?;
        let model = Modelled {
            device,
            sink,
            due,
            head: registers.register(TDH),
            tail: registers.register(TDT),
            len: registers.register(TDLEN),
            transmitted: Cell::default(),
            received: Cell::default(),
        };
        Ok(Self { kind: Kind::Model(model), function })
    }

    /// It as a driver opens it.
    pub fn function(&self) -> &PciFunction {
        &self.function
    }

    /// Moves the device by itself while the value returned lives: for bring-up, where the driver waits for it.
    pub fn run(&self) -> Option<Running> {
        match &self.kind {
            Kind::Paper(_) => None,
            Kind::Model(model) => Some(model.device.spawn()),
        }
    }

    /// Sends all that was published.
    ///
    /// # Errors
    /// What could not be sent.
    pub fn settle(&self) -> Result<()> {
        match &self.kind {
            Kind::Paper(paper) => paper.step(),
            Kind::Model(model) => model.settle(),
        }
    }

    /// Lets up to `count` copies of `frame` arrive; returns for how many there were buffers.
    ///
    /// # Errors
    /// Buffers that are not there.
    pub fn receive(&self, count: usize, frame: &[u8]) -> Result<usize> {
        match &self.kind {
            Kind::Paper(paper) => paper.receive(count, frame),
            Kind::Model(model) => model.receive(count, frame),
        }
    }

    /// What it sent so far.
    pub fn transmitted(&self) -> Counts {
        match &self.kind {
            Kind::Paper(paper) => paper.transmitted(),
            Kind::Model(model) => model.transmitted.get(),
        }
    }

    /// What it received so far.
    pub fn received(&self) -> Counts {
        match &self.kind {
            Kind::Paper(paper) => paper.received(),
            Kind::Model(model) => model.received.get(),
        }
    }
}

impl Modelled {
    fn settle(&self) -> Result<()> {
        let descriptors = self.tail.read().wrapping_sub(self.head.read()) & (self.len.read() / 16).wrapping_sub(1);
        let (wire, counters) = (self.sink.report(), self.step()?);
        let sent = self.sink.report();
        if sent.bad > 0 {
            return Err(Error::Model(format!("{} frames with wrong checksums reached the wire", sent.bad)));
        }
        let mut counts = self.transmitted.get();
        counts.frames += sent.frames - wire.frames;
        counts.bytes += sent.bytes - wire.bytes;
        counts.descriptors += u64::from(descriptors);
        counts.doorbells += u64::from(descriptors > 0);
        // Nothing else is written while frames are sent.
        counts.reports += counters.0;
        self.transmitted.set(counts);
        Ok(())
    }

    fn receive(&self, count: usize, frame: &[u8]) -> Result<usize> {
        *lock(&self.due) = (count, frame.to_vec());
        let (_, arrived) = self.step()?;
        lock(&self.due).0 = 0;
        let descriptors = arrived * frame.len().div_ceil(BUFFER) as u64;
        let mut counts = self.received.get();
        counts.frames += arrived;
        counts.bytes += arrived * frame.len() as u64;
        counts.descriptors += descriptors;
        counts.reports += descriptors;
        // Buffers are given back once a poll, and frames arrive between two of them.
        counts.doorbells += u64::from(arrived > 0);
        self.received.set(counts);
        Ok(arrived as usize)
    }

    /// Steps until there is nothing to do; returns the writes to host memory and the frames received meanwhile.
    fn step(&self) -> Result<(u64, u64)> {
        let before = self.device.with_model(|model| model.counters());
        while self.device.step(LATE) {}
        self.device.with_model(|model| {
            let after = model.counters();
            match model.halts().last() {
                Some(halt) => Err(Error::Model(halt.clone())),
                None => Ok((after.dma_writes - before.dma_writes, after.frames_received - before.frames_received)),
            }
        })
    }
}

/// The wire's far end: checks and counts what comes, and sends what is due.
struct Far {
    sink: Sink,
    due: Due,
}

impl Wire for Far {
    fn transmit(&mut self, frame: &[u8]) {
        self.sink.transmit(frame);
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        let mut due = lock(&self.due);
        if due.0 == 0 {
            return false;
        }
        due.0 -= 1;
        frame.clone_from(&due.1);
        true
    }
}

fn lock(due: &Due) -> MutexGuard<'_, (usize, Vec<u8>)> {
    due.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of the driver's receive buffers.
const BUFFER: usize = 2048;
/// After everything that the model delays.
const LATE: Duration = Duration::from_secs(1 << 20);
/// Transmit queue 0: length, head and tail (82599 datasheet 8.2.3.9).
const TDLEN: u32 = 0x6008;
const TDH: u32 = 0x6010;
const TDT: u32 = 0x6018;
