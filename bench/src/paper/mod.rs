//! A NIC on paper: an 82599's registers and descriptors, and nothing behind them.
//!
//! It is what a driver is raced on. [`PaperNic::step`] follows the transmit tail from the head and reads *descriptors*
//! only, never the bytes that they name: so it costs the same few cache lines a frame as the paper NIC on which the peers
//! run, and what lies in the caches between two timed regions is alike. What no 82599 could send is an error, for then
//! the driver is timed at something else than its work. [`PaperNic::receive`] is the other direction.
//!
//! All registers are words of one file as long as the BAR. The driver maps the two pages with the queues' registers, so
//! a doorbell is a plain store; it reaches the others by message. There is no thread: the NIC moves when it is told to.
//!
//! **Not here**: bytes, checksums, a wire, interrupts, EEPROM, statistics. The emulator's model has them.

mod ring;
#[cfg(test)]
mod tests;

use std::ops::{Range, RangeInclusive, Sub};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::MmapOptions;
pub use ring::RECEIVED;
use stillwire_dma::{Access, Backend, BarInfo, Error, HugePages, MappedArea, PciFunction, Result, SharedMemory};

/// What the NIC saw of one of its queues.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Whole frames.
    pub frames: u64,
    /// Bytes in them, without check sequences.
    pub bytes: u64,
    /// Descriptors followed, those of contexts included.
    pub descriptors: u64,
    /// Descriptors written back: on transmit those with RS.
    pub reports: u64,
    /// Tails that had moved when they were looked at.
    pub doorbells: u64,
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            frames: self.frames - before.frames,
            bytes: self.bytes - before.bytes,
            descriptors: self.descriptors - before.descriptors,
            reports: self.reports - before.reports,
            doorbells: self.doorbells - before.doorbells,
        }
    }
}

/// The NIC.
pub struct PaperNic {
    registers: SharedMemory,
    state: Mutex<State>,
}

struct State {
    config: [u8; CONFIG_LEN],
    mappings: Vec<Mapped>,
    sent: Sent,
    rx: Counts,
    /// The receive tail when it was last looked at.
    rx_tail: u32,
}

/// The transmit queue.
#[derive(Default)]
struct Sent {
    counts: Counts,
    /// What was said of headers by each context.
    contexts: [Context; 2],
}

/// What a context says.
#[derive(Clone, Copy, Default)]
struct Context {
    /// Bytes of the headers that it describes; 0 before there was one.
    headers: u32,
    /// Payload bytes of a segment.
    segment: u32,
}

/// Memory that the device reaches.
struct Mapped {
    iova: u64,
    memory: SharedMemory,
    range: Range<usize>,
    access: Access,
}

impl PaperNic {
    /// A NIC after power-on, with link.
    ///
    /// # Errors
    /// When memory for its registers is not to be had.
    pub fn new() -> Result<Arc<Self>> {
        let registers = SharedMemory::new("stillwire-paper", BAR0_LEN, HugePages::Never)?;
        let mut config = [0; CONFIG_LEN];
        config[..4].copy_from_slice(&[0x86, 0x80, 0xfb, 0x10]);
        config[0x0a..0x0c].copy_from_slice(&[0x00, 0x02]);
        let state = State { config, mappings: Vec::new(), sent: Sent::default(), rx: Counts::default(), rx_tail: 0 };
        let nic = Self { registers, state: Mutex::new(state) };
        nic.power_on();
        Ok(Arc::new(nic))
    }

    /// It as a function that a driver opens.
    pub fn function(self: &Arc<Self>) -> PciFunction {
        PciFunction::from_backend(self.clone())
    }

    /// What went through the transmit queue so far.
    pub fn transmitted(&self) -> Counts {
        self.lock().sent.counts
    }

    /// What went through the receive queue so far.
    pub fn received(&self) -> Counts {
        self.lock().rx
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, register: u32) -> u32 {
        u32::from_le(self.registers.word32(register as usize).load(Ordering::Acquire))
    }

    fn set(&self, register: u32, value: u32) {
        self.registers.word32(register as usize).store(value.to_le(), Ordering::Release);
    }

    /// What a driver's bring-up waits for or reads.
    fn power_on(&self) {
        (0..BAR0_LEN as u32).step_by(4).for_each(|register| self.set(register, 0));
        self.set(STATUS, STATUS_GIO);
        self.set(EEC, EEC_PRES | EEC_ARD);
        self.set(RDRXCTL, RDRXCTL_DMAIDONE);
        self.set(SECRXSTAT, SECRXSTAT_RDY);
        self.set(LINKS, LINKS_UP_10G);
        let [a, b, c, d, e, f] = MAC;
        self.set(RAL0, u32::from_le_bytes([a, b, c, d]));
        self.set(RAH0, u32::from_le_bytes([e, f, 0, 0]) | RAH_AV);
    }

    /// Whether it may start DMA.
    fn may_master(&self, state: &State) -> bool {
        state.config[COMMAND] & COMMAND_BUS_MASTER != 0 && self.get(STATUS) & STATUS_GIO != 0
    }
}

impl Backend for PaperNic {
    fn name(&self) -> String {
        "paper 8086:10fb".into()
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        let state = self.lock();
        let range = usize::from(offset)..usize::from(offset) + data.len();
        let bytes = state.config.get(range.clone()).ok_or_else(|| no_config(&range))?;
        data.copy_from_slice(bytes);
        Ok(())
    }

    /// Only the command register can be written.
    fn config_write(&self, offset: u16, data: &[u8]) -> Result<()> {
        let mut state = self.lock();
        let range = usize::from(offset)..usize::from(offset) + data.len();
        let bytes = state.config.get_mut(range.clone()).ok_or_else(|| no_config(&range))?;
        if range.start == COMMAND {
            bytes.copy_from_slice(data);
        }
        Ok(())
    }

    fn bar(&self, index: u8) -> Result<BarInfo> {
        if index != 0 {
            return Ok(BarInfo { len: 0, mapped: Vec::new() });
        }
        let area = |offset: u32| {
            let fd = self.registers.fd();
            let pages = MmapOptions::new().offset(offset.into()).len(PAGE).map_raw(fd.as_raw_fd());
            let pages = pages.map_err(|error| Error::Model(format!("mapping a page of queue registers: {error}")))?;
            Ok(MappedArea { offset: offset.into(), pages })
        };
        Ok(BarInfo { len: BAR0_LEN as u64, mapped: vec![area(ring::RX)?, area(ring::TX)?] })
    }

    fn bar_read(&self, index: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        let register = register(index, offset, data.len())?;
        data.copy_from_slice(&self.get(register).to_le_bytes());
        Ok(())
    }

    fn bar_write(&self, index: u8, offset: u64, data: &[u8]) -> Result<()> {
        let register = register(index, offset, data.len())?;
        let value = data.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        match register {
            // A reset is over before it can be looked at, and leaves what the driver itself is about to write.
            CTRL => {
                self.set(CTRL, value & !(CTRL_RST | CTRL_LNK_RST));
                // Nothing is pending between two steps, so a request to be quiet is granted at once.
                self.set(STATUS, if value & CTRL_GIO_DIS == 0 { STATUS_GIO } else { 0 });
            }
            STATUS | LINKS | SECRXSTAT => {}
            _ => self.set(register, value),
        }
        Ok(())
    }

    fn reset(&self) -> Result<()> {
        let mut state = self.lock();
        state.config[COMMAND] = 0;
        self.power_on();
        Ok(())
    }

    fn msix_vectors(&self) -> u32 {
        0
    }

    fn set_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        match eventfds.len() {
            0 => Ok(()),
            count => Err(Error::Model(format!("{count} MSI-X vectors asked for; the paper NIC has none: poll it"))),
        }
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        vec![IOVA_FIRST..=(1 << 47) - 1]
    }

    fn dma_map(&self, iova: u64, memory: &SharedMemory, range: Range<usize>, access: Access) -> Result<()> {
        self.lock().mappings.push(Mapped { iova, memory: memory.clone(), range, access });
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, _len: usize) -> Result<()> {
        self.lock().mappings.retain(|mapped| mapped.iova != iova);
        Ok(())
    }
}

fn no_config(range: &Range<usize>) -> Error {
    Error::Model(format!("bytes {range:?} of configuration space, which has {CONFIG_LEN}"))
}

/// The register that an access of `len` bytes means.
fn register(index: u8, offset: u64, len: usize) -> Result<u32> {
    let whole = index == 0 && len == 4 && offset.is_multiple_of(4) && offset < BAR0_LEN as u64;
    let wrong = || Error::Model(format!("{len} bytes at {offset:#x} of BAR{index}; it has 32-bit registers in BAR0"));
    u32::try_from(offset).ok().filter(|_| whole).ok_or_else(wrong)
}

const CONFIG_LEN: usize = 256;
const PAGE: usize = 4096;
/// All registers lie below (82599 datasheet 8.2).
const BAR0_LEN: usize = 0x2_0000;
const COMMAND: usize = 0x04;
const COMMAND_BUS_MASTER: u8 = 1 << 2;
/// Zero is no address, so that a descriptor that was forgotten is found.
const IOVA_FIRST: u64 = 1 << 20;
const MAC: [u8; 6] = [0x02, 0x53, 0x57, 0, 0, 1];

// Registers and bits, as in Linux `ixgbe_type.h`.
const CTRL: u32 = 0x00000;
const CTRL_GIO_DIS: u32 = 1 << 2;
const CTRL_LNK_RST: u32 = 1 << 3;
const CTRL_RST: u32 = 1 << 26;
const STATUS: u32 = 0x00008;
const STATUS_GIO: u32 = 1 << 19;
const EEC: u32 = 0x10010;
const EEC_PRES: u32 = 1 << 8;
const EEC_ARD: u32 = 1 << 9;
const RDRXCTL: u32 = 0x02f00;
const RDRXCTL_DMAIDONE: u32 = 1 << 3;
const RXCTRL: u32 = 0x03000;
const RXCTRL_RXEN: u32 = 1 << 0;
const LINKS: u32 = 0x042a4;
const LINKS_UP_10G: u32 = 7 << 28;
const DMATXCTL: u32 = 0x04a80;
const DMATXCTL_TE: u32 = 1 << 0;
const SECRXSTAT: u32 = 0x08d04;
const SECRXSTAT_RDY: u32 = 1 << 0;
const RAL0: u32 = 0x0a200;
const RAH0: u32 = 0x0a204;
const RAH_AV: u32 = 1 << 31;
