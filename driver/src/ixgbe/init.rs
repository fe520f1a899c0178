//! Bring-up: reset, global settings, link (82599 datasheet 4.6.3).

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stillwire_dma::{Claim, PciFunction};

use super::part::Part;
use super::regs::*;
use super::stats::Counters;
use super::stop::State;
use super::tx::{HEADER_SLOT, MAX_SEGMENTS};
use crate::bells::Bells;
use crate::registers::Registers;
use crate::values::MOST_SEGMENTED;
use crate::{Capabilities, Config, Error, Link, Mac, Result};

/// Whether this family's driver drives the function.
pub(crate) fn knows(vendor: u16, device: u16) -> bool {
    Part::of(vendor, device).is_some()
}

/// What the queues and the [`Device`] share.
pub(crate) struct Function {
    /// Kept until the last queue is gone: a queue of an earlier life must not ring the doorbells of the next.
    _claim: Claim,
    pub pci: PciFunction,
    pub part: Part,
    pub regs: Registers,
    pub config: Config,
    pub(super) state: Mutex<State>,
    /// Queues that were handed out.
    pub tx_taken: AtomicU16,
    pub rx_taken: AtomicU16,
    /// Held while a queue is started: that changes registers of all queues.
    pub starting: Mutex<()>,
    pub bells: Bells,
}

/// A port, reset and configured.
pub(crate) struct Device {
    pub function: Arc<Function>,
    pub mac: Mac,
    pub counters: Mutex<Counters>,
}

impl Device {
    pub(crate) fn open(pci: PciFunction, config: Config) -> Result<Self> {
        let claim = pci.claim()?;
        let identity = pci.identity()?;
        let (vendor, device) = (identity.vendor, identity.device);
        let unknown = || Error::UnknownDevice { name: pci.name(), vendor, device };
        let part = Part::of(vendor, device).ok_or_else(unknown)?;
        pci.enable_memory()?;
        let regs = Registers::new(pci.registers(0, REGISTERS_LEN)?, STATUS, pci.name());
        regs.alive()?;
        let mut function = Function {
            _claim: claim,
            pci,
            part,
            regs,
            config,
            state: Mutex::new(State::Running),
            tx_taken: AtomicU16::new(0),
            rx_taken: AtomicU16::new(0),
            starting: Mutex::default(),
            bells: Bells::default(),
        };
        function.reset()?;
        if config.interrupts {
            function.bells = Bells::hang(&function.pci, config.queues)?;
            function.configure_interrupts();
        }
        let (name, mac) = (function.pci.name(), function.mac()?);
        tracing::debug!(device = name, %mac, interrupts = config.interrupts, "reset");
        function.clear_filters();
        function.configure_receive();
        function.configure_transmit();
        function.configure_counters();
        tracing::debug!(device = name, "filters cleared, receive and transmit set up");
        function.start_link();
        function.pci.set_bus_master(true)?;
        tracing::debug!(device = name, "link started, bus master on");
        let device = Self { function: Arc::new(function), mac, counters: Mutex::default() };
        // What was counted before belongs to somebody else.
        device.statistics();
        *device.counters.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Counters::default();
        Ok(device)
    }

    pub(crate) fn link(&self) -> Result<Link> {
        self.function.regs.alive()?;
        let links = self.function.regs.read(LINKS);
        let megabits = self.function.part.megabits((links & LINKS_SPEED) >> 28, links & LINKS_OTHER_SPEED != 0);
        Ok(Link { up: links & LINKS_UP != 0, megabits })
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        let config = &self.function.config;
        Capabilities {
            tx_checksum: true,
            rx_checksum: true,
            sctp_checksum: true,
            tcp_segmentation: true,
            udp_segmentation: true,
            vlan: true,
            max_segmented: MOST_SEGMENTED,
            queues: config.queues.into(),
            max_frame: config.max_frame.into(),
            header_len: HEADER_SLOT,
            payload_pieces: MAX_SEGMENTS,
            tx_ring: config.tx_ring.into(),
            rx_ring: config.rx_ring.into(),
        }
    }
}

impl Function {
    /// A device that may have been left running by anybody becomes one that is known (4.2.1.7, 5.2.5.3.2).
    fn reset(&self) -> Result<()> {
        self.mask_interrupts();
        // DMA of a former owner must not survive into the new one's memory.
        let resets = match self.disable_master() {
            Ok(()) => 1,
            Err(_) => {
                self.flush_pending();
                2
            }
        };
        for _ in 0..resets {
            let reset = || {
                self.regs.set(CTRL, CTRL_RST | CTRL_LNK_RST);
                // No register may be touched for a millisecond (8.2.3.1.1).
                self.regs.sleep(Duration::from_millis(2));
                self.regs.wait(CTRL, CTRL_RST | CTRL_LNK_RST, 0, Duration::from_millis(100))
            };
            // The copper parts' firmware may be busy with the PHY, which is reset as well.
            if self.part.is_copper() { self.with_phy(reset)? } else { reset()? }
        }
        self.regs.sleep(self.part.after_reset());
        self.regs.clear(CTRL, CTRL_GIO_DIS);
        self.mask_interrupts();
        self.regs.wait(EEC, EEC_ARD, EEC_ARD, Duration::from_secs(1))?;
        self.regs.wait(RDRXCTL, RDRXCTL_DMAIDONE, RDRXCTL_DMAIDONE, Duration::from_secs(1))?;
        // Memory is coherent here; and say that a driver is in charge, so that firmware keeps off.
        self.regs.set(CTRL_EXT, CTRL_EXT_NS_DIS | CTRL_EXT_DRV_LOAD);
        Ok(())
    }

    /// The next queue that nobody has taken.
    pub(super) fn take(&self, taken: &AtomicU16, queue: &'static str) -> Result<u32> {
        let next = |taken| (taken < self.config.queues).then_some(taken + 1);
        let index = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        index.map(u32::from).map_err(|_| Error::QueueTaken { name: self.pci.name(), queue })
    }

    fn mask_interrupts(&self) {
        self.regs.write(EIMC, 0x7fff_ffff);
        for index in 0..EIMC_EX.count {
            self.regs.write(EIMC_EX.at(index), u32::MAX);
        }
        let _ = self.regs.read(EICR);
    }

    /// A vector for each pair of queues, masked until somebody waits for it, and again by its message (8.2.3.5, 7.3.1).
    fn configure_interrupts(&self) {
        self.regs.write(GPIE, GPIE_MSIX | GPIE_OCD | GPIE_EIAME | GPIE_PBA);
        self.regs.write(EIAC, 0xffff);
        self.regs.write(EIAM_EX.at(0), u32::MAX);
        for pair in 0..u32::from(self.config.queues) {
            let vectors = (pair | IVAR_VALID) | (pair | IVAR_VALID) << 8;
            let shift = 16 * (pair % 2);
            let others = self.regs.read(IVAR.at(pair / 2)) & !(0xffff << shift);
            self.regs.write(IVAR.at(pair / 2), others | vectors << shift);
            self.regs.write(EITR.at(pair), EITR_10_US);
        }
    }

    /// The EEPROM loads the address into entry 0 at reset (8.2.3.7.9).
    fn mac(&self) -> Result<Mac> {
        let (low, high) = (self.regs.read(RAL.at(0)), self.regs.read(RAH.at(0)));
        let [a, b, c, d] = low.to_le_bytes();
        let [e, f, ..] = high.to_le_bytes();
        let mac = Mac([a, b, c, d, e, f]);
        let present = self.regs.read(EEC) & EEC_PRES != 0;
        if !present || high & RAH_AV == 0 || mac.0 == [0; 6] || a & 1 != 0 {
            return Err(Error::NoMac { name: self.pci.name(), found: mac.to_string() });
        }
        Ok(mac)
    }

    /// Filters hold what was there at power-up or before the reset (4.6.7).
    fn clear_filters(&self) {
        for index in 1..RAL.count {
            self.regs.write(RAL.at(index), 0);
            self.regs.write(RAH.at(index), 0);
        }
        for table in [MTA, VFTA, PFUTA] {
            for index in 0..table.count {
                self.regs.write(table.at(index), 0);
            }
        }
        for index in 0..MPSAR.count {
            self.regs.write(MPSAR.at(index), u32::from(index == 0));
        }
    }

    /// 4.6.7, without what belongs to the queue.
    fn configure_receive(&self) {
        self.regs.clear(RXCTRL, RXCTRL_RXEN);
        let accept = if self.config.promiscuous { FCTRL_UPE | FCTRL_MPE } else { 0 };
        self.regs.write(FCTRL, FCTRL_BAM | accept);
        // The whole receive packet buffer to packet buffer 0.
        self.regs.write(RXPBSIZE.at(0), self.part.rx_buffer_kib() << 10);
        for index in 1..RXPBSIZE.count {
            self.regs.write(RXPBSIZE.at(index), 0);
        }
        self.configure_flow_control();
        let dma = self.regs.read(RDRXCTL) & !RDRXCTL_RSCFRSTSIZE;
        self.regs.write(RDRXCTL, dma | RDRXCTL_CRCSTRIP | RDRXCTL_RSCACKC | RDRXCTL_FCOE_WRFIX);
        self.regs.set(RXCSUM, RXCSUM_PCSD);
        if self.config.queues > 1 {
            self.spread();
        }
        // RXCRCSTRP must equal RDRXCTL.CRCSTRIP.
        let jumbo = if self.config.max_frame > 1514 { HLREG0_JUMBOEN } else { 0 };
        let mac = self.regs.read(HLREG0) & !(HLREG0_JUMBOEN | HLREG0_LPBK);
        self.regs.write(HLREG0, mac | HLREG0_RXCRCSTRP | HLREG0_TXCRCEN | HLREG0_TXPADEN | jumbo);
        // Counts the check sequence, and a tag may come on top.
        self.regs.write(MAXFRS, (u32::from(self.config.max_frame) + 4 + 4) << 16);
    }

    /// 4.6.3.2. The threshold must be right even with flow control off.
    fn configure_flow_control(&self) {
        let high = self.part.rx_buffer_kib() * 1024 - HEADROOM;
        let on = |bits| if self.config.flow_control { bits } else { 0 };
        (0..FCTTV.count).for_each(|pair| self.regs.write(FCTTV.at(pair), PAUSE | PAUSE << 16));
        self.regs.write(FCRTV, PAUSE / 2);
        self.regs.write(FCRTL.at(0), on((high / 2) & !31 | FCRTL_XONE));
        self.regs.write(FCRTH.at(0), high & !31 | on(FCRTH_FCEN));
        self.regs.write(FCCFG, on(FCCFG_TFCE));
        let others = self.regs.read(MFLCN) & !(MFLCN_RFCE | MFLCN_DPF);
        self.regs.write(MFLCN, others | on(MFLCN_RFCE | MFLCN_DPF));
    }

    /// A set of counters for each queue.
    fn configure_counters(&self) {
        for index in 0..RQSMR.count {
            let sets = [0, 1, 2, 3].map(|queue| ((index * 4 + queue) % QPRC.count) as u8);
            self.regs.write(RQSMR.at(index), u32::from_le_bytes(sets));
            self.regs.write(TQSM.at(index), u32::from_le_bytes(sets));
        }
    }

    /// Spreads received flows over all queues (7.1.2.8).
    fn spread(&self) {
        for (index, word) in RSS_KEY.as_chunks::<4>().0.iter().enumerate() {
            self.regs.write(RSSRK.at(index as u32), u32::from_le_bytes(*word));
        }
        for index in 0..RETA.count {
            let queues = [0, 1, 2, 3].map(|entry| ((index * 4 + entry) % u32::from(self.config.queues)) as u8);
            self.regs.write(RETA.at(index), u32::from_le_bytes(queues));
        }
        self.regs.write(MRQC, MRQC_RSS);
    }

    /// 4.6.8, without what belongs to the queue.
    fn configure_transmit(&self) {
        self.regs.set(RTTDCS, RTTDCS_ARBDIS);
        self.regs.write(DTXMXSZRQ, 0xfff);
        self.regs.write(TXPBSIZE.at(0), TX_BUFFER_KIB << 10);
        let frame_kib = u32::from(self.config.max_frame).div_ceil(1024);
        self.regs.write(TXPBTHRESH.at(0), TX_BUFFER_KIB - frame_kib);
        for index in 1..TXPBSIZE.count {
            self.regs.write(TXPBSIZE.at(index), 0);
            self.regs.write(TXPBTHRESH.at(index), 0);
        }
        self.regs.write(MTQC, 0);
        self.regs.clear(RTTDCS, RTTDCS_ARBDIS);
        for queue in 0..TDT.count {
            self.regs.write(RTTDQSEL, queue);
            self.regs.write(RTTDT1C, 0);
            self.regs.write(RTTBCNRC, 0);
        }
        self.regs.write(RTTDQSEL, 0);
    }

    /// The EEPROM has set the link mode up; all that is left is to light the laser and start.
    fn start_link(&self) {
        // A copper PHY comes up by itself, and its parts have no AUTOC.
        if !self.part.is_copper() {
            let pins = self.regs.read(ESDP);
            self.regs.write(ESDP, (pins & !ESDP_SDP3) | ESDP_SDP3_DIR);
            self.regs.set(AUTOC, AUTOC_AN_RESTART);
        }
        self.regs.flush();
    }
}

/// All registers lie below.
const REGISTERS_LEN: u64 = 0x2_0000;
/// Key of the RSS hash: two bytes again and again, with which both directions of a flow have the same hash (Woo and Park,
/// "Scalable TCP session monitoring with symmetric receive-side scaling", 2012).
const RSS_KEY: [u8; 40] = {
    let mut key = [0x6d; 40];
    let mut at = 1;
    while at < 40 {
        key[at] = 0x5a;
        at += 2;
    }
    key
};
/// A pause asks for as much as it can, in units of 512 bits, and is repeated at half of that.
const PAUSE: u32 = 0xffff;
/// Bytes of receive buffer left when a pause is asked for: what arrives until it is heard.
const HEADROOM: u32 = 0x6000;
/// The whole transmit packet buffer, KiB, to packet buffer 0.
const TX_BUFFER_KIB: u32 = 160;
