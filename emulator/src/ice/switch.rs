//! The switch's rules: which received frames are for which interface.
//!
//! Rules are told apart by recipe: what of a frame is looked at. Drivers give the rules for their own address as rules for
//! frames of their own that come back (LKUP_TX with loopback); they count for what the port receives too.

use std::collections::{BTreeMap, BTreeSet};

use super::command::{Answer, Command, Refusal, read16, read32, write};

/// Rules that there can be.
const MOST: usize = 4096;
/// Bytes before a lookup rule's header.
const RULE: usize = 16;
/// Bytes of a header that are looked at: Ethernet with a tag.
const HEADER: usize = 16;
/// Bytes before the numbers of a list of interfaces.
const LIST: usize = 8;

/// Kinds of rule.
const LOOKUP_RX: u16 = 0;
const LOOKUP_TX: u16 = 1;
const LARGE_ACTION: u16 = 2;
const LIST_SET: u16 = 3;
const LIST_CLEAR: u16 = 4;
const PRUNE_SET: u16 = 5;
const PRUNE_CLEAR: u16 = 6;

/// Recipes.
const ETHERTYPE: u16 = 0;
const MAC: u16 = 1;
const MAC_VLAN: u16 = 2;
const PROMISCUOUS: u16 = 3;
const VLAN: u16 = 4;
const DEFAULT: u16 = 5;
const ETHERTYPE_MAC: u16 = 8;
const PROMISCUOUS_VLAN: u16 = 9;

/// Bits of an action that forwards.
const ACTION_TYPE: u32 = 3;
const ACTION_LIST: u32 = 1 << 14;
const ACTION_VALID: u32 = 1 << 17;
const ACTION_DROP: u32 = 1 << 18;

const ETHERTYPE_VLAN: u16 = 0x8100;

/// A rule that looks something up.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rule {
    transmit: bool,
    recipe: u16,
    action: u32,
    /// At least [`HEADER`] bytes.
    header: Vec<u8>,
}

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    destination: &'a [u8],
    vlan: Option<u16>,
    ethertype: u16,
}

impl<'a> Frame<'a> {
    /// What rules look at; `None` when there is no whole Ethernet header.
    pub fn new(frame: &'a [u8]) -> Option<Self> {
        let at = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let (vlan, ethertype) = match at(12)? {
            ETHERTYPE_VLAN => (at(14), at(16)?),
            ethertype => (None, ethertype),
        };
        Some(Self { destination: &frame[..6], vlan: vlan.map(|tag| tag & 0xfff), ethertype })
    }
}

impl Rule {
    /// The address that a frame is to have; the rest of a header stands where a tagged frame has it.
    fn destination(&self) -> &[u8] {
        &self.header[..6]
    }

    fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.header[12], self.header[13]])
    }

    fn vlan(&self) -> u16 {
        u16::from_be_bytes([self.header[14], self.header[15]]) & 0xfff
    }

    fn matches(&self, frame: &Frame<'_>) -> bool {
        let address = self.destination() == frame.destination;
        let vlan = self.vlan() == frame.vlan.unwrap_or(0);
        let of_kind = kind(self.destination()) == kind(frame.destination);
        match self.recipe {
            ETHERTYPE => self.ethertype() == frame.ethertype,
            MAC => address,
            MAC_VLAN => address && vlan,
            PROMISCUOUS => of_kind,
            PROMISCUOUS_VLAN => of_kind && vlan,
            DEFAULT => true,
            ETHERTYPE_MAC => address && self.ethertype() == frame.ethertype,
            _ => false,
        }
    }
}

/// Unicast, multicast or broadcast: what a rule for "all of a kind" has in place of an address.
fn kind(address: &[u8]) -> u8 {
    match address {
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => 2,
        [first, ..] => first & 1,
        [] => 0,
    }
}

/// All rules and lists.
#[derive(Default)]
pub struct Switch {
    rules: BTreeMap<u16, Rule>,
    lists: BTreeMap<u16, BTreeSet<u16>>,
}

impl Switch {
    /// The interfaces that a received frame is for, lowest first; empty when it is for none or is to be dropped.
    pub fn receivers(&self, frame: &Frame<'_>) -> Vec<u16> {
        let mut found = BTreeSet::new();
        // The default rule is for what no other takes.
        let (last, first): (Vec<_>, Vec<_>) = self.rules.values().partition(|rule| rule.recipe == DEFAULT);
        for rules in [first, last] {
            if !found.is_empty() {
                break;
            }
            for rule in rules.into_iter().filter(|rule| rule.matches(frame)) {
                match rule.action {
                    action if action & ACTION_DROP != 0 && !rule.transmit => return Vec::new(),
                    action if action & ACTION_TYPE != 0 || action & ACTION_DROP != 0 => {}
                    action => found.extend(self.targets(action)),
                }
            }
        }
        found.into_iter().collect()
    }

    /// Whether a frame of the host may not leave.
    pub fn drops(&self, frame: &Frame<'_>) -> bool {
        let mut drops = self.rules.values().filter(|rule| rule.transmit && rule.action & ACTION_DROP != 0);
        drops.any(|rule| rule.action & ACTION_TYPE == 0 && rule.matches(frame))
    }

    /// Whether an interface that prunes takes this frame: one of its rules names the VLAN; 0 stands for no tag.
    pub fn admits(&self, vsi: u16, frame: &Frame<'_>) -> bool {
        let mut rules = self.rules.values().filter(|rule| rule.recipe == VLAN);
        rules.any(|rule| rule.vlan() == frame.vlan.unwrap_or(0) && self.targets(rule.action).contains(&vsi))
    }

    fn targets(&self, action: u32) -> Vec<u16> {
        let target = (action >> 4 & 0x3ff) as u16;
        match action {
            _ if action & ACTION_VALID == 0 && action & ACTION_LIST == 0 => Vec::new(),
            _ if action & ACTION_LIST != 0 => self.lists.get(&target).into_iter().flatten().copied().collect(),
            _ => vec![target],
        }
    }

    /// An interface is gone, and so is what led to it alone.
    pub fn forget(&mut self, vsi: u16) {
        self.lists.values_mut().for_each(|list| _ = list.remove(&vsi));
        self.rules.retain(|_, rule| rule.action & ACTION_LIST != 0 || (rule.action >> 4 & 0x3ff) as u16 != vsi);
    }

    /// 0x02A0: rules are added; the answer says what became of each.
    pub fn add(&mut self, command: &mut Command) -> Answer {
        self.each(command, |switch, kind, element| match kind {
            LOOKUP_RX | LOOKUP_TX => {
                let rule = lookup(kind, element)?;
                let same =
                    |old: &Rule| (old.recipe, &old.header, old.transmit) == (rule.recipe, &rule.header, rule.transmit);
                if switch.rules.values().any(same) {
                    return Err(Refusal::Eexist);
                }
                let free = (0..u16::MAX).find(|index| !switch.rules.contains_key(index));
                let index = free.filter(|_| switch.rules.len() < MOST).ok_or(Refusal::Enospc)?;
                switch.rules.insert(index, rule);
                write(element, 12, &index.to_le_bytes());
                Ok(())
            }
            _ => switch.change_list(kind, element),
        })
    }

    /// 0x02A1: actions of rules, or lists, are changed.
    pub fn update(&mut self, command: &mut Command) -> Answer {
        self.each(command, |switch, kind, element| match kind {
            LOOKUP_RX | LOOKUP_TX => {
                let index = read16(element, 12)?;
                switch.rules.get_mut(&index).ok_or(Refusal::Enoent)?.action = read32(element, 8)?;
                Ok(())
            }
            _ => switch.change_list(kind, element),
        })
    }

    /// 0x02A2: rules go.
    pub fn remove(&mut self, command: &mut Command) -> Answer {
        self.each(command, |switch, kind, element| match kind {
            LOOKUP_RX | LOOKUP_TX => {
                let index = read16(element, 12)?;
                switch.rules.remove(&index).map(|_| ()).ok_or(Refusal::Enoent)
            }
            LIST_CLEAR | PRUNE_CLEAR => switch.lists.remove(&read16(element, 4)?).map(|_| ()).ok_or(Refusal::Enoent),
            _ => switch.change_list(kind, element),
        })
    }

    fn change_list(&mut self, kind: u16, element: &[u8]) -> Answer {
        if kind == LARGE_ACTION {
            return Err(Refusal::Enosys);
        }
        let (index, count) = (read16(element, 4)?, usize::from(read16(element, 6)?));
        for i in 0..count {
            let vsi = read16(element, LIST + 2 * i)?;
            let list = self.lists.entry(index).or_default();
            match kind {
                LIST_SET | PRUNE_SET => list.insert(vsi),
                LIST_CLEAR | PRUNE_CLEAR => list.remove(&vsi),
                _ => return Err(Refusal::Einval),
            };
        }
        Ok(())
    }

    /// Walks the rules of a buffer, leaves a status in each, and refuses with the first refusal.
    fn each(&mut self, command: &mut Command, mut act: impl FnMut(&mut Self, u16, &mut [u8]) -> Answer) -> Answer {
        let mut data = std::mem::take(&mut command.data);
        let mut rest = &mut data[..];
        let mut outcome = Ok(());
        for _ in 0..command.get16(0) {
            let kind = read16(rest, 0)?;
            let len = match kind {
                LOOKUP_RX | LOOKUP_TX => RULE + usize::from(read16(rest, 14)?),
                LARGE_ACTION => LIST + 4 * usize::from(read16(rest, 6)?),
                _ => LIST + 2 * usize::from(read16(rest, 6)?),
            };
            let (element, behind) = rest.split_at_mut_checked(len).ok_or(Refusal::Einval)?;
            let answer = act(self, kind, element);
            write(element, 2, &answer.map_or_else(|refusal| refusal as u16, |()| 0).to_le_bytes());
            outcome = outcome.and(answer);
            rest = behind;
        }
        command.reply = data;
        outcome
    }
}

fn lookup(kind: u16, element: &[u8]) -> Result<Rule, Refusal> {
    let (recipe, action) = (read16(element, 4)?, read32(element, 8)?);
    let header = element[RULE..].to_vec();
    if header.len() < HEADER {
        return Err(Refusal::Einval);
    }
    Ok(Rule { transmit: kind == LOOKUP_TX, recipe, action, header })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: u16, recipe: u16, action: u32, header: [u8; 16]) -> Vec<u8> {
        let words = [kind, 0, recipe, 0, action as u16, (action >> 16) as u16, 0, 16];
        [&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>()[..], &header].concat()
    }

    fn command(count: u16, data: Vec<u8>) -> Command {
        let mut command = Command { data, ..Command::default() };
        command.put16(0, count);
        command
    }

    fn forward(vsi: u32) -> u32 {
        vsi << 4 | ACTION_VALID
    }

    fn header(to: [u8; 6], tail: [u8; 4]) -> [u8; 16] {
        let mut header = [0; 16];
        header[..6].copy_from_slice(&to);
        header[12..].copy_from_slice(&tail);
        header
    }

    fn frame(to: [u8; 6], ethertype: [u8; 2]) -> Vec<u8> {
        [&to[..], &[9; 6], &ethertype, &[0, 5, 8, 0], &[0; 44]].concat()
    }

    fn receivers(switch: &Switch, to: [u8; 6]) -> Vec<u16> {
        switch.receivers(&Frame::new(&frame(to, [8, 0])).unwrap())
    }

    #[test]
    fn addresses_kinds_and_the_default() {
        let mut switch = Switch::default();
        let (mine, other) = ([2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 8]);
        let rules = [
            // As stock drivers write it: the ethertype is a tag's, though no tag is looked at.
            rule(LOOKUP_TX, MAC, forward(3), header(mine, [0x81, 0, 0, 0])),
            rule(LOOKUP_RX, PROMISCUOUS, forward(4), header([0xff; 6], [0; 4])),
        ];
        let mut added = command(2, rules.concat());
        assert_eq!(switch.add(&mut added), Ok(()));
        assert_eq!((read16(&added.reply, 12), read16(&added.reply, 32 + 12)), (Ok(0), Ok(1)));
        assert_eq!(switch.add(&mut command(1, rules[0].clone())), Err(Refusal::Eexist));
        assert_eq!((receivers(&switch, mine), receivers(&switch, [0xff; 6])), (vec![3], vec![4]));
        assert!(receivers(&switch, other).is_empty() && receivers(&switch, [1, 0, 0, 0, 0, 1]).is_empty());
        switch.add(&mut command(1, rule(LOOKUP_RX, DEFAULT, forward(5), header([0; 6], [0; 4])))).unwrap();
        assert_eq!((receivers(&switch, mine), receivers(&switch, other)), (vec![3], vec![5]));
        assert_eq!(switch.remove(&mut command(1, added.reply[..32].to_vec())), Ok(()));
        assert_eq!(switch.remove(&mut command(1, added.reply[..32].to_vec())), Err(Refusal::Enoent));
        switch.forget(5);
        assert!(receivers(&switch, mine).is_empty());
    }

    #[test]
    fn lists_drops_and_vlans() {
        let mut switch = Switch::default();
        let list =
            |kind: u16, vsi: u16| [kind, 0, 7, 1, vsi].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        switch.add(&mut command(2, [list(LIST_SET, 3), list(LIST_SET, 4)].concat())).unwrap();
        let to_list = 7 << 4 | ACTION_LIST | ACTION_VALID;
        switch.add(&mut command(1, rule(LOOKUP_RX, VLAN, to_list, header([0; 6], [0x81, 0, 0, 5])))).unwrap();
        let (tagged, plain) = (frame([2; 6], [0x81, 0]), frame([2; 6], [8, 0]));
        let tagged = Frame::new(&tagged).unwrap();
        assert!(switch.admits(3, &tagged) && switch.admits(4, &tagged) && !switch.admits(5, &tagged));
        assert!(!switch.admits(3, &Frame::new(&plain).unwrap()));
        switch.update(&mut command(1, list(LIST_CLEAR, 4))).unwrap();
        assert!(!switch.admits(4, &tagged));
        let drop = rule(LOOKUP_TX, ETHERTYPE, ACTION_DROP | ACTION_VALID, header([0; 6], [0x88, 0x08, 0, 0]));
        switch.add(&mut command(1, drop)).unwrap();
        assert!(switch.drops(&Frame::new(&frame([2; 6], [0x88, 0x08])).unwrap()) && !switch.drops(&tagged));
    }

    #[test]
    fn a_buffer_that_ends_early_is_refused() {
        let whole = rule(LOOKUP_RX, MAC, forward(1), [2; 16]);
        for len in 0..whole.len() {
            assert_eq!(Switch::default().add(&mut command(1, whole[..len].to_vec())), Err(Refusal::Einval), "{len}");
        }
        assert_eq!(Switch::default().add(&mut command(2, whole)), Err(Refusal::Einval));
        assert_eq!(Frame::new(&[0; 13]), None);
    }
}
