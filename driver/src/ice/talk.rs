//! What is said to the firmware to bring a function up, and what is made of the answers (Linux `ice_common.c`, `ice_switch.c`,
//! `ice_sched.c`).

use std::sync::PoisonError;

use super::adminq::{AdminQueue, BUFFER, Request};
use super::capability::FunctionCaps;
use super::commands::*;
use super::init::Function;
use super::link::{self, PhyCaps};
use super::regs::GLV_RDPC;
use super::scheduler::{self, Limits, Plan};
use super::switch::{self, Match, Port, Vsi};
use crate::{Config, Error, Link, Mac, Result};

impl Function {
    /// Says who we are, and has what is left of others cleared away.
    pub(super) fn greet(&self) -> Result<()> {
        let mut admin = self.admin();
        let version = admin.ask(Request::new(GET_VERSION))?;
        // Branch, major, minor, patch of the interface.
        let [_, major, minor, _] = [12, 13, 14, 15].map(|at| version.params[at]);
        if major > INTERFACE {
            let what = format!("the firmware's interface is {major}.{minor}, known is {INTERFACE}");
            return Err(admin.senseless(GET_VERSION, what));
        }
        let name = concat!("stillwire ", env!("CARGO_PKG_VERSION"), "\0\0\0\0").as_bytes();
        // Whole words.
        let name = &name[..name.len() / 4 * 4];
        admin.ask(Request::new(DRIVER_VERSION).with(1, &[1]).giving(name))?;
        admin.ask(Request::new(CLEAR_PF))?;
        // Refused where it was done before, which is as good.
        admin.send(Request::new(CLEAR_PXE).with(0, &[PXE_RX_DESCRIPTORS]))?;
        Ok(())
    }

    pub(super) fn capabilities(&self) -> Result<FunctionCaps> {
        let mut admin = self.admin();
        let answer = admin.ask(Request::new(FUNCTION_CAPS).asking(BUFFER))?;
        let caps = FunctionCaps::parse(&answer.buffer, answer.u32(4));
        caps.map_err(|what| admin.senseless(FUNCTION_CAPS, what))
    }

    pub(super) fn mac(&self) -> Result<Mac> {
        let mut admin = self.admin();
        let answer = admin.ask(Request::new(MAC_READ).asking(8 * MOST_MACS))?;
        let (addresses, _) = answer.buffer.as_chunks::<8>();
        let count = usize::from(answer.params[4]);
        // Port, kind (0: for frames), address.
        let lan = addresses.iter().take(count).find(|address| address[1] == 0);
        let mac = lan.map_or(Mac([0; 6]), |&[_, _, a, b, c, d, e, f]| Mac([a, b, c, d, e, f]));
        let valid = answer.u16(0) & MAC_VALID != 0 && mac.0 != [0; 6] && mac.0[0] & 1 == 0;
        valid.then_some(mac).ok_or_else(|| Error::NoMac { name: self.pci.name(), found: mac.to_string() })
    }

    pub(super) fn find_port(&self) -> Result<Port> {
        let mut admin = self.admin();
        let mut next = [0; 2];
        for _ in 0..MOST_ELEMENTS {
            let request = Request::new(SWITCH_CONFIG).with(2, &next).asking(BUFFER);
            let answer = admin.ask(request)?;
            let port = switch::find_port(&answer.buffer, answer.u16(4));
            if let Some(port) = port.map_err(|what| admin.senseless(SWITCH_CONFIG, what))? {
                return Ok(port);
            }
            next = answer.u16(2).to_le_bytes();
            if next == [0; 2] {
                break;
            }
        }
        Err(admin.senseless(SWITCH_CONFIG, "no physical port"))
    }

    /// In double VLAN mode, which only firmware and package together can do, tags go elsewhere.
    pub(super) fn is_single_vlan(&self) -> Result<bool> {
        let answer = self.admin().send(Request::new(GET_VLAN_MODE).asking(VLAN_MODE_LEN))?;
        // Firmware that does not know the question knows one mode.
        Ok(answer.code != 0 || answer.buffer.first().is_none_or(|mode| mode & DOUBLE_VLAN == 0))
    }

    /// Where transmit queues are to hang. Fewer queues than asked for are given where there is no room for all.
    pub(super) fn plan_queues(&mut self, caps: FunctionCaps) -> Result<Plan> {
        let asked = u32::from(self.config.queues).min(caps.rx_queues).min(caps.tx_queues) as u16;
        let mut admin = self.admin();
        let answer = admin.ask(Request::new(SCHEDULER_LIMITS).asking(BUFFER))?;
        let limits = Limits::parse(&answer.buffer).map_err(|what| admin.senseless(SCHEDULER_LIMITS, what))?;
        let topology = Request::new(DEFAULT_TOPOLOGY).with(0, &[self.port.number]).asking(BUFFER);
        let answer = admin.ask(topology)?;
        let plan = scheduler::default_branch(&answer.buffer, answer.params[1])
            .and_then(|branch| scheduler::plan(&limits, &branch, asked))
            .map_err(|what| admin.senseless(DEFAULT_TOPOLOGY, what))?;
        drop(admin);
        self.config.queues = asked.min(plan.queues());
        self.group = plan.group;
        Ok(plan)
    }

    pub(super) fn add_vsi(&self) -> Result<u16> {
        let Config { queues, vlan_strip, .. } = self.config;
        let strip_vlan = vlan_strip && self.single_vlan && self.package.is_some();
        let properties = Vsi { switch: self.port.switch, queues, strip_vlan }.encode();
        let request = Request::new(ADD_VSI).with(6, &switch::VSI_OF_FUNCTION.to_le_bytes()).giving(&properties);
        let mut admin = self.admin();
        let vsi = admin.ask(request)?.u16(0) & VSI_NUMBER;
        let there = u32::from(vsi) < GLV_RDPC.count;
        there.then_some(vsi).ok_or_else(|| admin.senseless(ADD_VSI, format!("VSI {vsi} of {}", GLV_RDPC.count)))
    }

    /// Puts the planned branch in the place of the default one.
    pub(super) fn grow(&mut self, plan: &Plan) -> Result<()> {
        let mut admin = self.admin();
        for node in &plan.delete {
            // Firmware keeps some of them to itself; the branch is added beside what is left then.
            admin.send(Request::new(DELETE_NODES).with(0, &[1]).giving(&scheduler::delete_node(*node)))?;
        }
        let mut parent = plan.under;
        let mut added = Vec::new();
        for &count in &plan.layers {
            let nodes = scheduler::add_nodes(parent, count);
            let answer = admin.ask(Request::new(ADD_NODES).with(0, &[1]).giving(&nodes))?;
            let ids = scheduler::added_nodes(&answer.buffer, count);
            added = ids.map_err(|what| admin.senseless(ADD_NODES, what))?;
            parent = added[0];
        }
        drop(admin);
        self.groups = added;
        Ok(())
    }

    /// Makes the rules those of `wanted`: what is new is added before what is not wanted any more goes.
    pub(super) fn set_rules(&self, wanted: &[Match]) -> Result<()> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut admin = self.admin();
        for &what in wanted {
            if rules.iter().any(|(there, _)| *there == what) {
                continue;
            }
            let rule = switch::rule(what, self.vsi, self.port);
            let answer = admin.ask(Request::new(ADD_RULES).with(0, &[1]).giving(&rule))?;
            let index = switch::added_rule(&answer.buffer).map_err(|what| admin.senseless(ADD_RULES, what))?;
            rules.push((what, index));
        }
        while let Some(at) = rules.iter().position(|(what, _)| !wanted.contains(what)) {
            let (what, index) = rules[at];
            let rule = switch::rule_to_remove(what, self.vsi, self.port, index);
            admin.ask(Request::new(REMOVE_RULES).with(0, &[1]).giving(&rule))?;
            rules.swap_remove(at);
        }
        Ok(())
    }

    /// Lets the device spread received flows over all queues, as far as it can: which fields are hashed is a matter of the
    /// package.
    pub(super) fn spread(&self) -> Result<()> {
        if self.config.queues == 1 || self.package.is_none() {
            return Ok(());
        }
        let vsi = (self.vsi | switch::VSI_VALID).to_le_bytes();
        let table: [u8; RSS_TABLE] = std::array::from_fn(|entry| (entry % usize::from(self.config.queues)) as u8);
        let mut admin = self.admin();
        admin.ask(Request::new(SET_RSS_KEY).with(0, &vsi).giving(&RSS_KEY))?;
        admin.ask(Request::new(SET_RSS_TABLE).with(0, &vsi).giving(&table))?;
        Ok(())
    }

    /// Sets up MAC and PHY, and asks for events. A port without a module has nothing to set up; that shows as no link.
    pub(super) fn start_link(&self) -> Result<Link> {
        let port = [self.port.number];
        let mut admin = self.admin();
        // Counts the check sequence, and tags may come on top.
        let max_frame = (self.config.max_frame + 4 + 4).to_le_bytes();
        admin.ask(Request::new(SET_MAC).with(0, &max_frame))?;
        let mut phy = |report: u16| -> Result<Option<PhyCaps>> {
            let request = Request::new(PHY_CAPS).with(0, &port).with(2, &report.to_le_bytes());
            let answer = admin.send(request.asking(link::PHY_CAPS_LEN))?;
            let caps = (answer.code == 0).then(|| PhyCaps::parse(&answer.buffer)).transpose();
            caps.map_err(|what| admin.senseless(PHY_CAPS, what))
        };
        if let (Some(media), Some(active)) = (phy(link::REPORT_MEDIA)?, phy(link::REPORT_ACTIVE)?)
            && media.has_types()
        {
            let config = active.configuration(&media);
            admin.send(Request::new(SET_PHY).with(0, &port).giving(&config))?;
        }
        let mask = link::EVENTS_MASKED.to_le_bytes();
        admin.send(Request::new(EVENT_MASK).with(0, &port).with(8, &mask))?;
        admin.send(Request::new(RESTART_AN).with(0, &port).with(2, &[link::RESTART_AND_ENABLE]))?;
        link_status(&mut admin, self.port)
    }
}

/// Asks for the link's state, and for an event when it changes.
pub(super) fn link_status(admin: &mut AdminQueue, port: Port) -> Result<Link> {
    let request = Request::new(LINK_STATUS).with(0, &[port.number]).with(2, &link::EVENTS_ON.to_le_bytes());
    let answer = admin.ask(request.asking(link::STATUS_LEN))?;
    link::status(&answer.buffer).map_err(|what| admin.senseless(LINK_STATUS, what))
}

/// The interface's version that this driver speaks; a newer one may mean anything.
const INTERFACE: u8 = 1;
/// "Clear PXE mode": receive descriptors a cache line, as Linux has it.
const PXE_RX_DESCRIPTORS: u8 = 2;
/// Addresses that "manage MAC" may tell.
const MOST_MACS: usize = 4;
const MAC_VALID: u16 = 1 << 4;
/// Answers in which all of the switch's elements must be told.
const MOST_ELEMENTS: usize = 64;
const VLAN_MODE_LEN: usize = 100;
const DOUBLE_VLAN: u8 = 1;
const VSI_NUMBER: u16 = 0x3ff;
/// Entries of a VSI's own table.
const RSS_TABLE: usize = 64;
/// Key of the RSS hash, with its 12 bytes more: two bytes again and again, with which both directions of a flow have the same
/// hash (Woo and Park, "Scalable TCP session monitoring with symmetric receive-side scaling", 2012).
const RSS_KEY: [u8; 52] = {
    let mut key = [0x6d; 52];
    let mut at = 1;
    while at < 52 {
        key[at] = 0x5a;
        at += 2;
    }
    key
};
