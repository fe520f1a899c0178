//! Bring-up: reset, then what is asked of the firmware, in order (Linux `ice_common.c`, `ice_main.c`; iPXE `ice.c`).

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stillwire_dma::{Claim, PciFunction};

use super::adminq::AdminQueue;
use super::commands::LINK_STATUS;
use super::ddp::{Loaded, Package};
use super::link;
use super::regs::*;
use super::stats::{Counters, QueueCounters};
use super::stop::State;
use super::switch::{Match, Port};
use super::talk::link_status;
use super::tx::{HEADER_SLOT, PIECES};
use crate::bells::Bells;
use crate::registers::Registers;
use crate::values::MOST_SEGMENTED;
use crate::{Capabilities, Config, Error, Filter, Link, Mac, Result};

/// PCI device numbers of the E810 (Linux `ice_devids.h`): E810-C and E810-XXV, backplane, QSFP, SFP.
const DEVICES: [u16; 6] = [0x1591, 0x1592, 0x1593, 0x1599, 0x159a, 0x159b];

/// Whether this family's driver drives the function.
pub(crate) fn knows(vendor: u16, device: u16) -> bool {
    vendor == 0x8086 && DEVICES.contains(&device)
}

/// What the queues and the [`Device`] share.
pub(crate) struct Function {
    /// Kept until the last queue is gone: a queue of an earlier life must not ring the doorbells of the next.
    _claim: Claim,
    pub pci: PciFunction,
    pub regs: Registers,
    pub config: Config,
    pub(super) admin: Mutex<AdminQueue>,
    pub(super) state: Mutex<State>,
    /// Number of the function in the device.
    pub(super) number: u8,
    pub(super) port: Port,
    pub(super) vsi: u16,
    /// The switch's rules for this function, and the firmware's numbers for them.
    pub(super) rules: Mutex<Vec<(Match, u16)>>,
    /// Where transmit queues hang: a node for each group, and how many queues to one.
    pub(super) groups: Vec<u32>,
    pub(super) group: u16,
    /// The package in force; without one the device knows no protocols (safe mode).
    pub(super) package: Option<Loaded>,
    /// Tags are put into the first place of a descriptor, and taken from there.
    pub(super) single_vlan: bool,
    /// Queues that were handed out.
    pub(super) tx_taken: AtomicU16,
    pub(super) rx_taken: AtomicU16,
    /// Received frames with a wrong checksum: the device counts none.
    pub(super) checksum_errors: AtomicU64,
    /// What each pair of queues counted.
    pub(super) queues: Box<[QueueCounters]>,
    pub(super) bells: Bells,
    /// Where vector 0 leads when nobody is to wait: the device writes nothing back for who has MSI-X off.
    silent: Bells,
}

/// A port, reset and configured.
pub(crate) struct Device {
    pub function: Arc<Function>,
    pub mac: Mac,
    pub(super) counters: Mutex<Counters>,
    /// The link as last heard of, and when it was asked for.
    link: Mutex<(Link, Duration)>,
}

impl Device {
    pub(crate) fn open(pci: PciFunction, config: Config, package: Option<&[u8]>) -> Result<Self> {
        // A file that makes no sense shall not cost anybody a reset.
        let package = package.map(Package::parse).transpose()?;
        let claim = pci.claim()?;
        pci.enable_memory()?;
        let regs = Registers::new(pci.registers(0, REGISTERS_LEN)?, GLGEN_RSTAT, pci.name());
        regs.alive()?;
        let mut function = Function {
            _claim: claim,
            admin: Mutex::new(AdminQueue::new(&pci, &regs)?),
            queues: (0..config.queues).map(|_| QueueCounters::default()).collect(),
            bells: Bells::default(),
            silent: Bells::default(),
            pci,
            regs,
            config: fit(config),
            state: Mutex::new(State::Running),
            number: 0,
            port: Port { number: 0, switch: 0 },
            vsi: 0,
            rules: Mutex::default(),
            groups: Vec::new(),
            group: 1,
            package: None,
            single_vlan: true,
            tx_taken: AtomicU16::new(0),
            rx_taken: AtomicU16::new(0),
            checksum_errors: AtomicU64::new(0),
        };
        match function.bring_up(package.as_ref()) {
            Ok((mac, link)) => {
                let function = Arc::new(function);
                let counters = Mutex::new(Counters::new(&function));
                let link = Mutex::new((link, function.regs.now()));
                Ok(Self { function, mac, counters, link })
            }
            Err(error) => {
                // It may have its admin queues already; without proof `stop` keeps them.
                let _ = function.stop();
                Err(error)
            }
        }
    }

    /// The link as the last event said, or as the firmware says when it has not been asked for a while.
    pub(crate) fn link(&self) -> Result<Link> {
        let function = &self.function;
        function.regs.alive()?;
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if function.running().is_err() {
            return Ok(Link { up: false, megabits: 0 });
        }
        let (mut admin, mut lost) = (function.admin(), false);
        for event in admin.events()?.iter().filter(|event| event.opcode == LINK_STATUS.code) {
            link.0 = link::status(&event.buffer).map_err(|what| admin.senseless(LINK_STATUS, what))?;
            lost |= !link.0.up;
        }
        if lost {
            // It may be back: the next look will tell.
            return Ok(Link { up: false, megabits: 0 });
        }
        if function.regs.now().saturating_sub(link.1) >= ASK_AGAIN {
            *link = (link_status(&mut admin, function.port)?, function.regs.now());
        }
        Ok(link.0)
    }

    /// Changes which frames are taken.
    pub(crate) fn set_filter(&self, filter: &Filter) -> Result<()> {
        self.function.running()?;
        self.function.set_rules(&wanted(self.mac, filter))
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        let Function { config, package, single_vlan, .. } = &*self.function;
        let offloads = package.is_some();
        Capabilities {
            tx_checksum: offloads,
            rx_checksum: offloads,
            sctp_checksum: offloads,
            tcp_segmentation: offloads,
            udp_segmentation: offloads,
            vlan: offloads && *single_vlan,
            max_segmented: if offloads { MOST_SEGMENTED } else { 0 },
            queues: config.queues.into(),
            max_frame: config.max_frame.into(),
            header_len: HEADER_SLOT,
            payload_pieces: PIECES,
            tx_ring: config.tx_ring.into(),
            rx_ring: config.rx_ring.into(),
        }
    }
}

impl Function {
    fn bring_up(&mut self, package: Option<&Package<'_>>) -> Result<(Mac, Link)> {
        self.reset()?;
        self.number = (self.regs.read(PF_FUNC_RID) & PF_FUNC_RID_FUNCTION) as u8;
        self.pci.set_bus_master(true)?;
        self.admin().start()?;
        self.greet()?;
        let caps = self.capabilities()?;
        let mac = self.mac()?;
        self.port = self.find_port()?;
        self.package = self.load(package)?;
        self.single_vlan = self.is_single_vlan()?;
        let plan = self.plan_queues(caps)?;
        self.vsi = self.add_vsi()?;
        self.grow(&plan)?;
        self.set_rules(&wanted(mac, &Filter { promiscuous: self.config.promiscuous, ..Filter::default() }))?;
        self.spread()?;
        self.hang_bells()?;
        Ok((mac, self.start_link()?))
    }

    /// A device that may have been left running by anybody becomes one that is known.
    fn reset(&self) -> Result<()> {
        self.regs.write(PFINT_OICR_ENA, 0);
        let longest = self.regs.read(GLGEN_RSTCTL) & GLGEN_RSTCTL_GRSTDEL;
        // A global reset may be under way: for all functions of the card, so ours need not be added to it.
        let under_way = self.regs.read(GLGEN_RSTAT) & GLGEN_RSTAT_DEVSTATE != 0
            || self.regs.read(GLNVM_ULD) & GLNVM_ULD_DONE != GLNVM_ULD_DONE;
        let deadline = Duration::from_millis(100) * (longest + 10);
        self.regs.wait(GLGEN_RSTAT, GLGEN_RSTAT_DEVSTATE, 0, deadline)?;
        self.regs.wait(GLNVM_ULD, GLNVM_ULD_DONE, GLNVM_ULD_DONE, deadline)?;
        if !under_way {
            self.reset_function()?;
        }
        Ok(())
    }

    /// Resets this function: its queues, rules and nodes are gone afterwards.
    pub(super) fn reset_function(&self) -> Result<()> {
        self.regs.set(PFGEN_CTRL, PFGEN_CTRL_PFSWR);
        self.regs.wait(PFGEN_CTRL, PFGEN_CTRL_PFSWR, 0, FUNCTION_RESET)
    }

    pub(super) fn admin(&self) -> MutexGuard<'_, AdminQueue> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues have vectors although they are polled: the device writes descriptors back when the interval of their vector is
    /// over; without one it waits until a cache line is full. There is one for each pair of queues, or one for all.
    fn hang_bells(&mut self) -> Result<()> {
        let pairs = if self.config.interrupts { self.config.queues } else { 1 };
        if self.config.interrupts {
            self.bells = Bells::hang(&self.pci, pairs)?;
        } else if self.pci.msix_vectors() > 0 {
            self.silent = Bells::hang(&self.pci, pairs)?;
        }
        for vector in 0..u32::from(pairs) {
            self.regs.write(GLINT_ITR.at(vector), INTERVAL);
            self.regs.write(GLINT_DYN_CTL.at(vector), GLINT_DYN_CTL_WB_ON_ITR);
        }
        Ok(())
    }

    /// All vectors are off, and lead nowhere any more.
    pub(super) fn take_down_bells(&self) {
        for vector in 0..u32::from(self.config.queues) {
            self.regs.write(GLINT_DYN_CTL.at(vector), 0);
        }
        self.bells.take_down(&self.pci);
        self.silent.take_down(&self.pci);
    }

    /// What QINT_TQCTL and QINT_RQCTL say of a queue: its vector, and that it is a cause of it.
    pub(super) fn cause(&self, queue: u16) -> u32 {
        QINT_CAUSE_ENA | if self.bells.are_hung() { queue.into() } else { 0 }
    }

    /// The next queue that nobody has taken.
    pub(super) fn take(&self, taken: &AtomicU16, queue: &'static str) -> Result<u16> {
        let next = |taken| (taken < self.config.queues).then_some(taken + 1);
        let index = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        index.map_err(|_| Error::QueueTaken { name: self.pci.name(), queue })
    }

    /// The node that a transmit queue hangs under.
    pub(super) fn parent(&self, queue: u16) -> u32 {
        self.groups[usize::from(queue / self.group)]
    }
}

/// The rules for a filter.
fn wanted(mac: Mac, filter: &Filter) -> Vec<Match> {
    let addresses = [mac, BROADCAST].into_iter().chain(filter.addresses.iter().chain(&filter.groups).copied());
    let mut rules: Vec<Match> = addresses.map(|mac| Match::Mac(mac.0)).collect();
    rules.extend(filter.all_groups.then_some(Match::Groups));
    rules.extend(filter.promiscuous.then_some(Match::Rest));
    rules
}

const BROADCAST: Mac = Mac([0xff; 6]);

/// Rings that the device can do: at most 8160 descriptors, and a power of two here.
fn fit(config: Config) -> Config {
    let (tx_ring, rx_ring) = (config.tx_ring.min(MOST_DESCRIPTORS), config.rx_ring.min(MOST_DESCRIPTORS));
    Config { tx_ring, rx_ring, ..config }
}

const MOST_DESCRIPTORS: u16 = 4096;
/// 2 us: what waits for a cache line to be full is written back then.
const INTERVAL: u32 = 1;
/// A link that changed without an event is noticed after this long.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Linux allows 300 ms, and 3 s for a package that is being loaded.
const FUNCTION_RESET: Duration = Duration::from_millis(3300);
