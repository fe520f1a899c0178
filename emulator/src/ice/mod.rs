//! An Intel E810 ("ice") as the bus sees it.
//!
//! ```text
//!   config space   BAR0 registers      two pages of tails      wire
//!        |              |             (messages, or shared)     |
//!        v              v                    |                  v
//!   +---------------------------- Model ----------------------------+
//!   | config_space      bar, regs           doorbells    tx  ->  Wire
//!   |                   interrupts                       rx  <-  Wire
//!   |                   adminq -> commands -> firmware:  offload, stats
//!   |                     caps, vsi, switch, sched, link, nvm, resources, rss, package, queues
//!   +------------------------------ Bus ----------------------------+
//!                                   | counted, and shut unless COMMAND.BusMaster
//!                                   v
//!                              BusMemory (IOMMU)
//! ```
//!
//! Nearly all that a driver wants of this device it asks of firmware, by descriptors on a queue of their own
//! ([`adminq`]): interfaces, rules, the scheduler's tree, transmit queues. Registers are left for receive queues,
//! interrupts, tails and statistics. There is no public datasheet: what is here is what drivers do (Linux `ice`, DPDK,
//! FreeBSD, iPXE), and where they leave it open the model does what a driver would have to expect.
//!
//! The model is stepped: it has no thread and no clock. [`Model::step`] gets the time from its caller, so that every test
//! is repeatable. It never panics on what a driver or a wire says. What hardware takes for malicious stops the queue, is
//! shown in GL_MDET_*, is counted ([`Counters::bad_descriptors`]) and named ([`Model::halts`]).
//!
//! **Two passes.** A frame's bytes are read by DMA when its checksums are computed, and once more, `transmit_delay`
//! later, when it is sent. Only what the device computed is kept from the first pass. A page that is not still between
//! post and completion goes out torn, which any receiver sees.
//!
//! **Quiet.** A frame between its passes is pending DMA. The command that disables a queue is answered when the queue has
//! none left, and no sooner; in the mapped pages there is nothing but tails, so nothing there can be mistaken for an answer.
//!
//! **Not here**: virtual functions and the mailbox, DCB and rates, RDMA, time stamps, tunnels, header split, double VLAN tags
//! by firmware, flash updates. A package (DDP) is taken and teaches nothing, for the parser is fixed; rules of the flow
//! director are taken and never match.

mod adminq;
mod bar;
mod caps;
mod command;
mod commands;
mod config;
mod config_space;
mod context;
mod coverage;
mod desc;
mod device;
mod doorbells;
mod firmware;
mod interrupts;
mod link;
mod nvm;
mod offload;
mod package;
mod queues;
mod register_file;
mod regs;
mod resources;
mod rss;
mod rx;
mod sched;
mod stats;
mod switch;
mod tx;
mod vsi;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use adminq::Event as FirmwareEvent;
use doorbells::Tails;
use firmware::Firmware;
use queues::State;
use register_file::Registers;
use rx::RxQueue;
use stats::Stats;
use tx::TxQueue;

use crate::bus::{BusMemory, Interrupts, NoInterrupts, NoMemory};
use crate::config_space::{ConfigSpace, Effect};
use crate::counters::Counters;
use crate::dma::Bus;
use crate::history::{Event, History, Touched};
use crate::wire::Wire;

pub use crate::register_table::Coverage;
pub use config::{Config, DEVICE_IDS, Faults};
pub use config_space::{BAR0_LEN, BAR3_LEN, VECTORS};
pub use coverage::describe;
pub use regs::{QRX_TAIL, QTX_COMM_DBELL};

/// The device.
pub struct Model {
    config: Config,
    pci: ConfigSpace,
    regs: Registers,
    tails: Tails,
    /// BAR3's bytes.
    msix: Vec<u8>,
    bus: Bus,
    wire: Box<dyn Wire>,
    interrupts: Box<dyn Interrupts>,
    /// Vectors whose cause came while they were masked, a bit each.
    waiting_vectors: u64,
    faults: Faults,
    /// [`Faults::all_ones`] has been acted on.
    removed: bool,
    firmware: Firmware,
    /// The tail of the admin send queue was written, and the queue was not found empty since.
    adminq_rung: bool,
    /// What firmware has to tell, and no descriptor for.
    events: VecDeque<FirmwareEvent>,
    /// How often each command was granted and refused.
    commands: BTreeMap<u16, (u64, u64)>,
    tx: Vec<TxQueue>,
    rx: Vec<RxQueue>,
    stats: Stats,
    link_up: bool,
    /// Frames received and not yet delivered, each with its interface; and their bytes.
    packet_buffer: VecDeque<(u16, Vec<u8>)>,
    packet_buffer_bytes: usize,
    /// The time of the step.
    now: Duration,
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

impl Model {
    /// A device after power-on.
    ///
    /// # Errors
    /// `InvalidInput` when the device ID is no E810's; with [`Doorbells::Mapped`](crate::Doorbells), what the kernel said
    /// when it gave no memfd.
    pub fn new(config: Config, wire: Box<dyn Wire>) -> io::Result<Self> {
        if !DEVICE_IDS.contains(&config.device_id) {
            let text =
                format!("ice: {:04x} is no E810; use 1591 (backplane), 1592 (QSFP) or 1593 (SFP)", config.device_id);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let queues = usize::from(regs::QUEUES);
        let mut model = Self {
            pci: config_space::space(config.device_id),
            regs: Registers::default(),
            tails: Tails::new(config.doorbells)?,
            msix: vec![0; BAR3_LEN as usize],
            bus: Bus { memory: Arc::new(NoMemory), open: false, counters: Counters::default() },
            wire,
            interrupts: Box::new(NoInterrupts),
            waiting_vectors: 0,
            faults: Faults::default(),
            removed: false,
            firmware: Firmware::new(&config),
            adminq_rung: false,
            events: VecDeque::new(),
            commands: BTreeMap::new(),
            tx: (0..queues).map(|_| TxQueue::default()).collect(),
            rx: (0..queues).map(|_| RxQueue::default()).collect(),
            stats: Stats::default(),
            link_up: false,
            packet_buffer: VecDeque::new(),
            packet_buffer_bytes: 0,
            now: Duration::ZERO,
            sent: 0,
            history: History::default(),
            complaints: BTreeSet::new(),
            halts: Vec::new(),
            scratch: Vec::new(),
            out: Vec::new(),
            config,
        };
        model.look_at_link();
        Ok(model)
    }

    /// The memory that the device reaches from now on.
    pub fn attach_memory(&mut self, memory: Arc<dyn BusMemory>) {
        self.bus.memory = memory;
    }

    /// Where MSI-X messages go from now on.
    pub fn attach_interrupts(&mut self, interrupts: Box<dyn Interrupts>) {
        self.interrupts = interrupts;
    }

    /// What was configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file of the pages of tails, as long as BAR0, with [`Doorbells::Mapped`](crate::Doorbells).
    pub fn doorbell_file(&self) -> Option<BorrowedFd<'_>> {
        self.tails.file()
    }

    /// The faults in force, to be changed.
    pub fn faults(&mut self) -> &mut Faults {
        &mut self.faults
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.bus.counters
    }

    /// How often each command of the admin queue was granted, and how often refused.
    pub fn commands(&self) -> &BTreeMap<u16, (u64, u64)> {
        &self.commands
    }

    /// Registers that were reached by message, by offset in BAR0.
    pub fn touched(&self) -> &BTreeMap<u32, Touched> {
        &self.history.touched
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

    /// What the driver did that hardware forgives or answers with garbage.
    pub fn complaints(&self) -> &BTreeSet<&'static str> {
        &self.complaints
    }

    /// Why queues stopped, oldest first; the first few only.
    pub fn halts(&self) -> &[String] {
        &self.halts
    }

    /// Whether a frame is between its passes: the device will read host memory again.
    pub fn dma_pending(&self) -> bool {
        self.tx.iter().any(|queue| !queue.in_flight.is_empty())
    }

    /// Does what can be done at `now` (since any epoch that does not change); false when there was nothing to do.
    pub fn step(&mut self, now: Duration) -> bool {
        if self.is_removed() {
            return false;
        }
        self.now = now;
        self.look_at_link();
        let sent = self.step_tx();
        // What waits for the last frame of a queue can be answered now.
        let served = self.serve_adminq();
        self.step_rx() || sent || served
    }

    /// Reads configuration space.
    pub fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        if self.is_removed() {
            return data.fill(0xff);
        }
        // Without bus mastering nothing more is asked for, so nothing is outstanding: what is left is dropped by a reset.
        self.pci.read(offset, data, self.dma_pending() && self.bus.open);
    }

    /// Writes configuration space.
    pub fn config_write(&mut self, offset: u16, data: &[u8]) {
        if self.is_removed() {
            return;
        }
        match self.pci.write(offset, data) {
            Effect::None => self.set_master(self.pci.may_master()),
            Effect::Reset => self.function_reset(),
        }
    }

    /// Function-level reset: the function as after power-on, bus mastering off. The package stays, for it is the device's.
    pub fn function_reset(&mut self) {
        self.pci.reset();
        self.set_master(false);
        self.history.note(Event::FunctionReset);
        self.msix.fill(0);
        self.reset();
    }

    fn set_master(&mut self, on: bool) {
        if on != self.bus.open {
            let work_left = self.dma_pending() || self.tx.iter().any(TxQueue::has_work);
            self.history.note(if on { Event::MasterOn } else { Event::MasterOff { work_left } });
        }
        self.bus.open = on;
    }

    /// Whether the card is out. What it did is forgotten when it goes; it comes back as after power-on.
    fn is_removed(&mut self) -> bool {
        if self.faults.all_ones != self.removed {
            self.function_reset();
            self.core_reset();
            self.removed = self.faults.all_ones;
        }
        if self.removed {
            self.tails.fill(u32::MAX);
        }
        self.removed
    }

    /// Reset of the function (PFR): its registers, queues, interfaces and rules. Package and statistics stay.
    fn reset(&mut self) {
        self.bus.counters.resets += 1;
        self.regs.reset();
        self.tails.fill(0);
        self.waiting_vectors = 0;
        self.events.clear();
        self.adminq_rung = false;
        self.firmware.reset(&self.config);
        self.tx.iter_mut().for_each(TxQueue::reset);
        self.rx.iter_mut().for_each(RxQueue::reset);
        self.packet_buffer.clear();
        self.packet_buffer_bytes = 0;
        self.look_at_link();
    }

    /// Reset of the device (CORER and worse): the package and the counters go too.
    fn core_reset(&mut self) {
        self.reset();
        self.regs = Registers::default();
        self.stats = Stats::default();
        self.firmware = Firmware::new(&Config { package: false, ..self.config.clone() });
    }

    /// Whether new DMA may start.
    fn may_start_dma(&self) -> bool {
        self.bus.open && self.link_up
    }

    /// A driver did what hardware takes for malicious: the first such event is kept until it is cleared.
    fn malicious(&mut self, global: u32, function: u32, queue: u32) {
        /// Which mistake it was, in hardware's numbers, which are not public.
        const MAL_TYPE: u32 = 1 << 26;
        if self.regs.get(global) & regs::MDET_VALID == 0 {
            self.regs.set(global, regs::MDET_VALID | MAL_TYPE | queue);
        }
        self.regs.set(function, 1);
        self.other_cause(regs::OICR_MAL_DETECT);
    }

    fn complain(&mut self, what: &'static str) {
        self.complaints.insert(what);
    }

    fn note_halt(&mut self, text: String, reason: &'static str) {
        self.bus.counters.bad_descriptors += 1;
        self.complaints.insert(reason);
        if self.halts.len() < HALTS {
            self.halts.push(text);
        }
    }
}

fn is_nth(count: u32, every: u32) -> bool {
    every != 0 && count.is_multiple_of(every)
}
