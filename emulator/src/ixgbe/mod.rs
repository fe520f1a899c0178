//! An Intel 82599, X540 or X550 as the bus sees it.
//!
//! ```text
//!   config space   BAR0 registers      two queue pages        wire
//!        |              |             (messages, or shared)     |
//!        v              v                    |                  v
//!   +---------------------------- Model ----------------------------+
//!   | config_space      bar, regs        poll_queues     tx  ->  link, Wire
//!   |                   eeprom, mdio,    (every step,    rx  <-  pause
//!   |                   i2c, firmware     every message)   offload, rss
//!   |                   interrupts                         write_back
//!   +------------------------------ Bus ----------------------------+
//!                                   | counted, and shut unless COMMAND.BusMaster
//!                                   v
//!                              BusMemory (IOMMU)
//! ```
//!
//! The model is stepped: it has no thread and no clock. [`Model::step`] gets the time from its caller, so that every test
//! is repeatable. It never panics on what a driver or a wire says: whatever hardware could not do stops the queue, is
//! counted ([`Counters::bad_descriptors`]) and named ([`Model::halts`]).
//!
//! **Two passes.** A frame's bytes are read by DMA when its checksums are computed, and once more, `transmit_delay`
//! later, when it is sent. Only what the device computed is kept from the first pass. A page that is not still between
//! post and completion goes out torn, which any receiver sees.
//!
//! **Quiet.** A frame between its passes is pending DMA. TXDCTL.ENABLE reads 1 and STATUS' master bit stays set as long
//! as there is one; a mapped queue page shows only what was written to it, so there the proof is STATUS after
//! CTRL.GIO_DIS. A message is answered only after the pages were looked at.
//!
//! **Parts.** What differs between the parts is asked of [`Part`]: the PHY on MDIO, the SFP+ cage on I2C with a
//! [`Module`] in it, firmware, the size of the redirection table.
//!
//! **Not here**: priority flow control, DCB and virtualization, flow director, RSC, LinkSec, IPsec, header split, the flash;
//! of firmware only what an X550's driver asks of it. Their registers read and write where stock drivers need it.

mod bar;
mod bits;
mod config;
mod config_space;
mod coverage;
mod desc;
mod device;
mod doorbells;
mod eeprom;
mod faults;
mod firmware;
mod i2c;
mod interrupts;
mod link;
mod mdio;
mod offload;
mod part;
mod pause;
mod queues;
mod register_file;
mod regs;
mod rss;
mod rx;
mod sfp;
mod stats;
mod tx;
mod write_back;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use doorbells::QueuePages;
use eeprom::Eeprom;
use i2c::I2c;
use mdio::Phy;
use pause::Pause;
use queues::{Ring, State};
use register_file::Registers;
use rx::RxQueue;
use tx::TxQueue;

use crate::bus::{BusMemory, Interrupts, NoInterrupts, NoMemory};
use crate::config_space::{ConfigSpace, Effect};
use crate::dma::Bus;
use crate::history::History;
use crate::wire::Wire;

pub use crate::counters::Counters;
pub use crate::history::{Event, Touched};
pub use crate::pages::Doorbells;
pub use crate::register_table::Coverage;
pub use config::Config;
pub use config_space::{BAR0_LEN, BAR4_LEN, VECTORS};
pub use coverage::describe;
pub use faults::Faults;
pub use part::{Part, SUPPORTED, supported};
pub use regs::{RX_PAGE, TX_PAGE};
pub use sfp::Module;

/// The device.
pub struct Model {
    config: Config,
    part: Part,
    pci: ConfigSpace,
    regs: Registers,
    pages: QueuePages,
    eeprom: Eeprom,
    phy: Phy,
    i2c: I2c,
    /// BAR4's bytes.
    msix: Vec<u8>,
    bus: Bus,
    wire: Box<dyn Wire>,
    interrupts: Box<dyn Interrupts>,
    /// Vectors whose cause came while they were masked, a bit each.
    waiting_vectors: u64,
    faults: Faults,
    /// [`Faults::all_ones`] has been acted on.
    removed: bool,
    tx: Vec<TxQueue>,
    rx: Vec<RxQueue>,
    /// Pairs of which a queue is enabled or not at rest, a bit each, as of the last look at all.
    awake: u64,
    /// A queue's registers were written since.
    touched_queues: bool,
    /// When it was last stepped.
    now: Duration,
    link_up: bool,
    /// The link was lost since LINKS was read last.
    link_lost: bool,
    /// The end of a link flap ([`Faults::link_flap`]).
    flap_until: Option<Duration>,
    pause: Pause,
    /// Transmit queues that hang until a reset, a bit each.
    hung: u64,
    /// Frames received and not yet delivered, and their bytes.
    packet_buffer: VecDeque<Vec<u8>>,
    packet_buffer_bytes: usize,
    /// Frames that come back inside the MAC (HLREG0.LPBK).
    looped: VecDeque<Vec<u8>>,
    /// Frames counted for [`Faults::lose_every`] and [`Faults::corrupt_every`].
    sent: u32,
    /// Completions counted for [`Faults::lose_write_back_every`].
    written_back: u32,
    history: History,
    complaints: BTreeSet<&'static str>,
    halts: Vec<String>,
    scratch: Vec<u8>,
    out: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

/// Most [`Model::halts`] that are kept.
const HALTS: usize = 64;

impl Model {
    /// A device after power-on.
    ///
    /// # Panics
    /// With [`Doorbells::Mapped`], when the kernel gives no memfd; see [`Model::try_new`].
    pub fn new(config: Config, wire: Box<dyn Wire>) -> Self {
        Self::try_new(config, wire).expect("a memfd for the doorbell pages")
    }

    /// A device after power-on.
    ///
    /// # Errors
    /// With [`Doorbells::Mapped`], when the kernel gives no memfd.
    pub fn try_new(config: Config, wire: Box<dyn Wire>) -> io::Result<Self> {
        let part = Part::of(config.device_id).unwrap_or(Part::Sfp);
        let pages = QueuePages::new(config.doorbells)?;
        let mut model = Self {
            part,
            pci: config_space::space(config.device_id),
            regs: Registers::new(),
            pages,
            eeprom: Eeprom::new(part, config.mac),
            phy: Phy::default(),
            i2c: I2c::new(),
            msix: vec![0; BAR4_LEN as usize],
            bus: Bus { memory: Arc::new(NoMemory), open: false, counters: Counters::default() },
            wire,
            interrupts: Box::new(NoInterrupts),
            waiting_vectors: 0,
            faults: Faults::default(),
            removed: false,
            tx: (0..regs::QUEUES).map(|_| TxQueue::default()).collect(),
            rx: (0..regs::QUEUES).map(|_| RxQueue::default()).collect(),
            awake: 0,
            touched_queues: true,
            now: Duration::ZERO,
            link_up: false,
            link_lost: false,
            flap_until: None,
            pause: Pause::default(),
            hung: 0,
            packet_buffer: VecDeque::new(),
            packet_buffer_bytes: 0,
            looped: VecDeque::new(),
            sent: 0,
            written_back: 0,
            history: History::default(),
            complaints: BTreeSet::new(),
            halts: Vec::new(),
            scratch: Vec::new(),
            out: Vec::new(),
            spare: Vec::new(),
            config,
        };
        model.load_registers();
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

    /// The file of the queue pages, as long as BAR0, with [`Doorbells::Mapped`].
    pub fn doorbell_file(&self) -> Option<BorrowedFd<'_>> {
        self.pages.file()
    }

    /// The faults in force, to be changed.
    pub fn faults(&mut self) -> &mut Faults {
        &mut self.faults
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.bus.counters
    }

    /// Offsets in BAR0 that were accessed and that the model does not know: they read 0.
    pub fn unknown_registers(&self) -> BTreeSet<u32> {
        self.history.touched.keys().copied().filter(|offset| regs::lookup(*offset).is_none()).collect()
    }

    /// Registers that were reached by message, by offset in BAR0; those of the same value at another address are one.
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

    /// Whether a driver posted what is not completed yet.
    fn work_left(&self) -> bool {
        self.dma_pending() || self.tx.iter().any(TxQueue::has_work)
    }

    /// What the driver did that hardware forgives or answers with garbage.
    pub fn complaints(&self) -> &BTreeSet<&'static str> {
        &self.complaints
    }

    /// Why queues stopped, oldest first; the first few only.
    pub fn halts(&self) -> &[String] {
        &self.halts
    }

    /// Whether a frame is between its passes, or a write-back is late: the device will reach host memory again.
    pub fn dma_pending(&self) -> bool {
        self.tx.iter().any(TxQueue::is_pending)
    }

    /// Does what can be done at `now` (since any epoch that does not change); false when there was nothing to do.
    pub fn step(&mut self, now: Duration) -> bool {
        if self.is_removed() {
            return false;
        }
        self.now = now;
        self.step_link();
        self.poll_queues();
        let sent = self.step_tx(now);
        // A queue that stopped may have had its last frame sent just now.
        self.poll_queues();
        self.step_rx() || sent
    }

    /// Reads configuration space.
    pub fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        if self.is_removed() {
            return data.fill(0xff);
        }
        self.poll_queues();
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
            let event = if on { Event::MasterOn } else { Event::MasterOff { work_left: self.work_left() } };
            self.history.note(event);
        }
        self.bus.open = on;
    }

    /// Whether the card is out. What it did is forgotten when it goes; it comes back as after power-on.
    fn is_removed(&mut self) -> bool {
        if self.faults.all_ones != self.removed {
            self.function_reset();
            self.removed = self.faults.all_ones;
        }
        if self.removed {
            self.pages.fill(u32::MAX);
            self.touched_queues = true;
        }
        self.removed
    }

    /// CTRL.RST: registers, queues and packet memory; configuration space stays.
    fn device_reset(&mut self) {
        self.bus.counters.resets += 1;
        self.waiting_vectors = 0;
        self.hung = 0;
        self.pause.forget();
        self.i2c = I2c::new();
        self.tx.iter_mut().for_each(TxQueue::reset);
        self.rx.iter_mut().for_each(|queue| *queue = RxQueue::default());
        self.packet_buffer.clear();
        self.packet_buffer_bytes = 0;
        self.looped.clear();
        self.load_registers();
    }

    /// Reset values, and what hardware loads from the EEPROM.
    fn load_registers(&mut self) {
        self.regs.reset();
        self.pages.reset();
        self.touched_queues = true;
        let [a, b, c, d, e, f] = self.config.mac;
        self.regs.set(regs::RAR, u32::from_le_bytes([a, b, c, d]));
        self.regs.set(regs::RAR + 4, u32::from(u16::from_le_bytes([e, f])) | regs::RAH_AV);
        self.regs.set(regs::RXPBSIZE, self.part.packet_buffer());
        if self.part == Part::X550 {
            self.regs.set(regs::HICR, regs::HICR_ENABLED);
            // It has no direct cache access, and its driver leaves these alone.
            (0..regs::QUEUES.into()).for_each(|q| self.pages.set(regs::RX_PAGE + 0x40 * q + regs::rx::DCA_RXCTRL, 0));
        }
        // Autonegotiation has left its first state.
        self.regs.set(regs::ANLP1, 1 << 16);
        if self.part == Part::Backplane {
            // KX4 with autonegotiation, and a partner that is seen.
            self.regs.set(regs::AUTOC, 4 << 13 | 1 << 31);
        } else {
            self.regs.set(regs::AUTOC, 3 << 13);
        }
    }

    /// Whether new DMA may start.
    fn may_start_dma(&self) -> bool {
        self.bus.open && self.link_up && !self.regs.has(regs::CTRL, regs::CTRL_GIO_DIS)
    }

    /// Whether frames between their passes may finish.
    fn may_finish_tx(&self) -> bool {
        self.bus.open && self.link_up && !self.faults.stall_tx
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
