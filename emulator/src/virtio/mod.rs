//! A virtio-net device, modern PCI (virtio 1.x), as the bus sees it.
//!
//! ```text
//!   config space     BAR4: common, ISR, device         doorbell page        wire
//!        |                    |                   (messages, or shared)      |
//!        v                    v                           |                  v
//!   +-------------------------------- Model -------------------------------------+
//!   | pci: capabilities, window    common: negotiation,   kick   tx       ->  Wire
//!   |                              status, queues                rx       <-  Wire
//!   |                                                            control: modes, pairs, address
//!   +---------------- Bus ------------------+------------- RingMemory -----------+
//!                frames, by copies          |     rings: split (virtio-queue), packed
//!                                           v
//!                                     MemoryTable (IOMMU)
//! ```
//!
//! The model is stepped: it has no thread and no clock. [`Model::step`] gets the time from its caller, so that every test
//! is repeatable. It never panics on what a driver or a wire says. A ring that cannot be followed ends it, as the standard
//! says: DEVICE_NEEDS_RESET, a configuration interrupt, and nothing more until the reset ([`Model::halts`]). A frame that
//! makes no sense is dropped and named ([`Model::complaints`]).
//!
//! **A doorbell counts.** The model looks at a ring only after its bell rang, and until it has found it empty and has asked
//! for the bell again: a driver that forgets to ring, or to look whether it has to, stands still here as it would elsewhere.
//!
//! **Two passes.** A frame's bytes are read by DMA when its checksums are computed, and once more, `transmit_delay`
//! later, when it is sent. Only what the device computed is kept from the first pass. A page that is not still between
//! post and completion goes out torn, which any receiver sees.
//!
//! **Not here**: segmented frames towards the driver, RSS, VLAN filters, coalescing, statistics, per-queue reset, INTx.

mod common;
mod config;
mod control;
mod device;
mod filter;
mod hostile;
mod offload;
mod packed;
mod pci;
mod queue;
mod rx;
mod split;
mod tx;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Common, DRIVER_OK, NEEDS_RESET};
use filter::{Filter, Steering};
use queue::{Chain, NO_VECTOR, Problem, Ring, VirtQueue};

use crate::bus::{Interrupts, NoInterrupts};
use crate::config_space::ConfigSpace;
use crate::counters::Counters;
use crate::dma::Bus;
use crate::history::{Event, History};
use crate::memory::{MemoryTable, RingMemory};
use crate::pages::Pages;
use crate::wire::Wire;

pub use config::{Config, Faults, Features, Misuse};
pub use pci::{BAR0_LEN, BAR4_LEN, NOTIFY, NOTIFY_STRIDE, VECTORS};

/// The device.
pub struct Model {
    config: Config,
    pci: ConfigSpace,
    /// BAR0's bytes.
    msix: Vec<u8>,
    doorbells: Pages,
    bus: Bus,
    table: Arc<MemoryTable>,
    wire: Box<dyn Wire>,
    interrupts: Box<dyn Interrupts>,
    faults: Faults,
    /// [`Faults::all_ones`] has been acted on.
    removed: bool,
    common: Common,
    /// What both agreed on.
    features: Features,
    isr: u8,
    queues: Vec<VirtQueue>,
    link_up: bool,
    mac: [u8; 6],
    filter: Filter,
    steering: Steering,
    /// Pairs that are in use.
    active_pairs: u16,
    /// Frames counted for [`Faults::lose_every`] and [`Faults::corrupt_every`].
    sent: u32,
    history: History,
    complaints: BTreeSet<&'static str>,
    halts: Vec<String>,
    scratch: Vec<u8>,
    out: Vec<u8>,
}

/// Most [`Model::halts`] that are kept.
const HALTS: usize = 64;
/// A doorbell that was not rung.
const SILENT: u32 = u32::MAX;

impl Model {
    /// A device after power-on.
    ///
    /// # Errors
    /// `InvalidInput` when the configuration makes no device; with [`Doorbells::Mapped`](crate::Doorbells), what the
    /// kernel said when it gave no memfd.
    pub fn new(config: Config, wire: Box<dyn Wire>) -> io::Result<Self> {
        let possible = (1..=16).contains(&config.pairs) && config.queue_size.is_power_of_two();
        if !possible || config.queue_size > 1 << 15 {
            let text = "virtio: 1 to 16 queue pairs, and a queue size that is a power of two up to 32768";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let table = MemoryTable::new();
        let mut model = Self {
            pci: pci::space(),
            msix: vec![0; BAR0_LEN as usize],
            doorbells: Pages::new(config.doorbells, BAR4_LEN, &[NOTIFY])?,
            bus: Bus { memory: table.clone(), open: false, counters: Counters::default() },
            table,
            wire,
            interrupts: Box::new(NoInterrupts),
            faults: Faults::default(),
            removed: false,
            common: Common::new(0),
            features: Features::empty(),
            isr: 0,
            queues: Vec::new(),
            link_up: false,
            mac: config.mac,
            filter: Filter::default(),
            steering: Steering::default(),
            active_pairs: 1,
            sent: 0,
            history: History::default(),
            complaints: BTreeSet::new(),
            halts: Vec::new(),
            scratch: Vec::new(),
            out: Vec::new(),
            config,
        };
        model.device_reset();
        Ok(model)
    }

    /// The memory that the device reaches from now on.
    pub fn attach_memory(&mut self, memory: Arc<MemoryTable>) {
        self.bus.memory = memory.clone();
        self.table = memory;
    }

    /// Where MSI-X messages go from now on.
    pub fn attach_interrupts(&mut self, interrupts: Box<dyn Interrupts>) {
        self.interrupts = interrupts;
    }

    /// What was configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file of the doorbell page, as long as BAR4, with [`Doorbells::Mapped`](crate::Doorbells).
    pub fn doorbell_file(&self) -> Option<BorrowedFd<'_>> {
        self.doorbells.file()
    }

    /// The faults in force, to be changed.
    pub fn faults(&mut self) -> &mut Faults {
        &mut self.faults
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.bus.counters
    }

    /// What was negotiated.
    pub fn features(&self) -> Features {
        self.features
    }

    /// What the driver did that makes no sense and was passed over.
    pub fn complaints(&self) -> &BTreeSet<&'static str> {
        &self.complaints
    }

    /// Why the device needed a reset, oldest first; the first few only.
    pub fn halts(&self) -> &[String] {
        &self.halts
    }

    /// What happened to the device, oldest first, with how often it came in a row; the last few hundred only.
    pub fn events(&self) -> impl Iterator<Item = &(Event, u64)> {
        self.history.events.iter()
    }

    /// Notes that `ranges` of device addresses were taken away by whoever has the memory table.
    pub fn note_unmapped(&mut self, ranges: usize) {
        for _ in 0..ranges {
            self.history.note(Event::Unmapped { master: self.bus.open });
        }
    }

    /// Whether a frame is between its passes: the device will read host memory again.
    pub fn dma_pending(&self) -> bool {
        self.queues.iter().any(|queue| !queue.in_flight.is_empty())
    }

    /// Does what can be done at `now` (since any epoch that does not change); false when there was nothing to do.
    pub fn step(&mut self, now: Duration) -> bool {
        if self.is_removed() {
            return false;
        }
        self.look_at_link();
        self.poll_doorbells();
        if !self.may_work() {
            return self.drop_frames();
        }
        let controlled = self.step_control();
        let sent = self.step_tx(now);
        self.step_hostile();
        self.step_rx() || sent || controlled
    }

    /// Function-level reset: everything as after power-on, bus mastering off.
    pub fn function_reset(&mut self) {
        self.pci.reset();
        self.set_master(false);
        self.history.note(Event::FunctionReset);
        self.msix.fill(0);
        self.device_reset();
    }

    fn set_master(&mut self, on: bool) {
        if on != self.bus.open {
            // Receive buffers wait without end; that is no work.
            let posted = self.queues.iter().skip(1).step_by(2).any(|queue| queue.kicked);
            let work_left = self.dma_pending() || posted;
            self.history.note(if on { Event::MasterOn } else { Event::MasterOff { work_left } });
        }
        self.bus.open = on;
    }

    /// Whether the card is out. What it did is forgotten when it goes; it comes back as after power-on.
    fn is_removed(&mut self) -> bool {
        if self.faults.all_ones != self.removed {
            self.function_reset();
            self.removed = self.faults.all_ones;
        }
        self.removed
    }

    /// The reset of the status register: everything of virtio; configuration space stays.
    fn device_reset(&mut self) {
        self.bus.counters.resets += 1;
        self.common = Common::new(self.common.generation);
        self.features = Features::empty();
        self.isr = 0;
        let control = self.config.features.contains(Features::CTRL_VQ);
        let count = 2 * self.most_pairs() + u16::from(control);
        self.queues = (0..count).map(|_| VirtQueue::new(self.config.queue_size)).collect();
        self.mac = self.config.mac;
        self.filter = Filter::default();
        self.steering = Steering::default();
        self.active_pairs = 1;
        for queue in 0..usize::from(count) {
            self.doorbells.word(0, queue).store(SILENT, Ordering::Release);
        }
    }

    /// Pairs of queues that there are.
    fn most_pairs(&self) -> u16 {
        if self.config.features.contains(Features::MQ) { self.config.pairs } else { 1 }
    }

    /// The control queue's index: behind all pairs that could be, if several could be.
    fn control_queue(&self) -> Option<usize> {
        let pairs = if self.features.contains(Features::MQ) { self.config.pairs } else { 1 };
        self.features.contains(Features::CTRL_VQ).then_some(2 * usize::from(pairs))
    }

    /// Whether the driver is set up, the device not at its end, and the bus open.
    fn may_work(&self) -> bool {
        let status = self.common.status;
        status & DRIVER_OK != 0 && status & NEEDS_RESET == 0 && self.bus.open
    }

    fn look_at_link(&mut self) {
        let link = self.config.link_up && !self.faults.link_down && self.wire.is_up();
        if link != self.link_up {
            self.link_up = link;
            self.config_changed();
        }
    }

    /// The generation moves, and whoever wants to know is told.
    fn config_changed(&mut self) {
        self.common.generation = self.common.generation.wrapping_add(1);
        if self.common.status & DRIVER_OK != 0 {
            self.isr |= 2;
            self.raise(self.common.config_vector);
        }
    }

    fn raise(&mut self, vector: u16) {
        if vector != NO_VECTOR {
            self.bus.counters.interrupts += 1;
            self.interrupts.raise(vector);
        }
    }

    /// Looks at the doorbells that a client may have rung unseen.
    fn poll_doorbells(&mut self) {
        if self.doorbells.file().is_none() {
            return;
        }
        for queue in 0..self.queues.len() {
            let word = self.doorbells.word(0, queue);
            // A load first: most bells are silent, and a swap takes the line from the client.
            if word.load(Ordering::Relaxed) != SILENT {
                let rung = word.swap(SILENT, Ordering::AcqRel);
                self.kick(queue, rung as u16);
            }
        }
    }

    /// The bell of `queue` rang with `value` written to it.
    fn kick(&mut self, queue: usize, value: u16) {
        if usize::from(value) != queue {
            self.complain("a doorbell was rung with the index of another queue");
        }
        if self.common.status & DRIVER_OK == 0 {
            return self.complain("a doorbell was rung before DRIVER_OK");
        }
        match self.queues.get_mut(queue).filter(|queue| queue.ring.is_some()) {
            None => self.complain("a doorbell was rung of a queue that is not enabled"),
            Some(found) if !found.kicked => {
                found.kicked = true;
                let _ = self.with_ring(queue, Ring::disarm);
            }
            Some(_) => {}
        }
    }

    /// Does something with a queue's ring; what it did on the bus is counted, and a problem ends the device.
    fn with_ring<T>(
        &mut self,
        queue: usize,
        act: impl FnOnce(&mut Ring, &RingMemory<'_>) -> Result<T, Problem>,
    ) -> Option<T> {
        let ring = self.queues.get_mut(queue)?.ring.as_mut()?;
        let memory = self.table.lock(self.bus.open);
        let outcome = act(ring, &memory);
        let tally = memory.tally();
        drop(memory);
        self.bus.count(tally);
        outcome.map_err(|why| self.fail(queue, why)).ok()
    }

    /// The next chain of a queue whose bell rang; asks for the bell when there is none.
    fn next_chain(&mut self, queue: usize) -> Option<Chain> {
        while self.queues[queue].kicked && self.may_work() {
            if let Some(chain) = self.with_ring(queue, Ring::pop)? {
                return Some(chain);
            }
            let more = self.with_ring(queue, Ring::arm)?;
            self.queues[queue].kicked = more;
        }
        None
    }

    /// Tells the driver what was used, if it wants to know.
    fn signal(&mut self, queue: usize) {
        if self.with_ring(queue, Ring::wants_interrupt) == Some(true) {
            self.isr |= 1;
            self.raise(self.queues[queue].vector);
        }
    }

    fn complain(&mut self, what: &'static str) {
        self.complaints.insert(what);
    }

    /// The device cannot go on: it says so, and waits for its reset.
    fn fail(&mut self, queue: usize, why: &'static str) {
        self.bus.counters.bad_descriptors += 1;
        self.complaints.insert(why);
        if self.halts.len() < HALTS {
            self.halts.push(format!("queue {queue}: {why}"));
        }
        if self.common.status & NEEDS_RESET == 0 {
            self.common.status |= NEEDS_RESET;
            self.config_changed();
        }
    }
}

fn is_nth(count: u32, every: u32) -> bool {
    every != 0 && count.is_multiple_of(every)
}
