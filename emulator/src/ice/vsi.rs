//! Virtual interfaces (VSI): whose frames are whose, and which queues they come on.

use std::collections::BTreeMap;
use std::ops::Range;

use super::command::{Answer, Command, Refusal, read16};

/// Interfaces that there can be.
pub const MOST: u16 = 64;
/// The interface that firmware makes for a driver that makes none.
pub const DEFAULT: u16 = 1;
/// Bytes of an interface's properties.
const LEN: usize = 128;
/// The switch, and the port: there is one of each.
const SWITCH: u16 = 1;

/// Bits of `valid_sections`, each with the bytes that it makes count.
const SECTIONS: [(u16, Range<usize>); 11] = [
    (1 << 0, 2..6),
    (1 << 1, 6..8),
    (1 << 2, 8..16),
    (1 << 4, 16..20),
    (1 << 5, 20..24),
    (1 << 3, 24..28),
    (1 << 6, 28..78),
    (1 << 7, 78..84),
    (1 << 8, 84..88),
    (1 << 11, 90..100),
    (1 << 12, 100..104),
];
const QUEUE_MAP: u16 = 1 << 6;

/// Where properties lie.
const SWITCH_FLAGS2: usize = 4;
const VLAN_FLAGS: usize = 12;
const MAPPING: usize = 28;
const FIRST_QUEUE: usize = 30;
const FIRST_CLASS: usize = 62;
const RSS_OPTIONS: usize = 78;

/// Prune received frames by VLAN.
const VLAN_PRUNE: u8 = 1 << 0;
/// VLAN flags of an interface that firmware makes: all tags may pass, and none is touched.
const VLAN_TRANSPARENT: u8 = 3 | 3 << 3;

/// One interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vsi {
    props: [u8; LEN],
}

/// Which redirection table an interface uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lut {
    /// Its own.
    Own,
    /// The function's.
    Function,
    /// One of the device's.
    Global(u8),
}

impl Vsi {
    fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.props[at], self.props[at + 1]])
    }

    /// Whether received tags go into the descriptor.
    pub fn strips_tags(&self) -> bool {
        self.props[VLAN_FLAGS] >> 3 & 3 != 3
    }

    /// Whether it may send frames with a tag that the device inserts.
    pub fn may_tag(&self) -> bool {
        self.props[VLAN_FLAGS] & 2 != 0
    }

    /// Whether only frames of known VLANs are received.
    pub fn prunes(&self) -> bool {
        self.props[SWITCH_FLAGS2] & VLAN_PRUNE != 0
    }

    /// Its redirection table.
    pub fn lut(&self) -> Lut {
        let options = self.props[RSS_OPTIONS];
        match options & 3 {
            2 => Lut::Function,
            3 => Lut::Global(options >> 2 & 0xf),
            _ => Lut::Own,
        }
    }

    /// Queues of the first traffic class.
    pub fn queues(&self) -> usize {
        1 << (self.get16(FIRST_CLASS) >> 11 & 0xf)
    }

    /// The queue behind place `index` of the first traffic class.
    pub fn queue(&self, index: usize) -> usize {
        let place = usize::from(self.get16(FIRST_CLASS) & 0x7ff) + index % self.queues();
        let listed = self.get16(MAPPING) & 1 == 1;
        match listed {
            true => usize::from(self.get16(FIRST_QUEUE + 2 * (place % 16)) & 0x7ff),
            false => usize::from(self.get16(FIRST_QUEUE) & 0x7ff) + place,
        }
    }
}

/// All interfaces.
pub struct Vsis(BTreeMap<u16, Vsi>);

impl Vsis {
    /// Firmware's own interface.
    pub fn new() -> Self {
        let mut props = [0; LEN];
        props[VLAN_FLAGS] = VLAN_TRANSPARENT;
        props[FIRST_QUEUE + 2] = 1;
        Self(BTreeMap::from([(DEFAULT, Vsi { props })]))
    }

    /// The interface of a number.
    pub fn find(&self, number: u16) -> Option<&Vsi> {
        self.0.get(&number)
    }

    /// 0x0200: the port and firmware's interface.
    pub fn switch_config(&self, command: &mut Command) -> Answer {
        if command.get16(2) != 0 {
            return Err(Refusal::Einval);
        }
        for (kind, number) in [(0u16, 0u16), (2, DEFAULT)] {
            let element = [kind << 14 | number, SWITCH, 0];
            command.reply.extend(element.iter().flat_map(|word| word.to_le_bytes()));
        }
        command.put16(2, 0);
        command.put16(4, 2);
        Ok(())
    }

    /// 0x0210: a new interface.
    pub fn add(&mut self, command: &mut Command) -> Answer {
        let data: [u8; LEN] = command.data.first_chunk().copied().ok_or(Refusal::Einval)?;
        let wished = command.get16(0);
        let number = if wished & VALID != 0 {
            Some(wished & NUMBER)
        } else {
            (DEFAULT + 1..MOST).find(|n| !self.0.contains_key(n))
        };
        let number = number.ok_or(Refusal::Enospc)?;
        if self.0.contains_key(&number) {
            return Err(Refusal::Eexist);
        }
        let mut vsi = Vsi { props: [0; LEN] };
        vsi.props[VLAN_FLAGS] = VLAN_TRANSPARENT;
        vsi.change(&data);
        self.0.insert(number, vsi);
        self.tell(command, number);
        Ok(())
    }

    /// 0x0211: the sections that are valid replace what an interface has.
    pub fn update(&mut self, command: &mut Command) -> Answer {
        let data: [u8; LEN] = command.data.first_chunk().copied().ok_or(Refusal::Einval)?;
        let number = command.get16(0) & NUMBER;
        self.0.get_mut(&number).ok_or(Refusal::Enoent)?.change(&data);
        self.tell(command, number);
        Ok(())
    }

    /// 0x0212: what an interface has.
    pub fn get(&self, command: &mut Command) -> Answer {
        let number = command.get16(0) & NUMBER;
        command.reply = self.0.get(&number).ok_or(Refusal::Enoent)?.props.to_vec();
        self.tell(command, number);
        Ok(())
    }

    /// 0x0213: an interface goes. Its number.
    pub fn free(&mut self, command: &mut Command) -> Result<u16, Refusal> {
        let number = command.get16(0) & NUMBER;
        self.0.remove(&number).ok_or(Refusal::Enoent)?;
        self.tell(command, number);
        Ok(number)
    }

    fn tell(&self, command: &mut Command, number: u16) {
        let used = self.0.len() as u16;
        command.put16(0, number);
        command.put16(2, 0);
        command.put16(4, used);
        command.put16(6, MOST.saturating_sub(used));
    }
}

impl Vsi {
    fn change(&mut self, data: &[u8; LEN]) {
        let valid = read16(data, 0).unwrap_or(0);
        for (bit, section) in SECTIONS {
            if valid & bit != 0 {
                self.props[section.clone()].copy_from_slice(&data[section]);
            }
        }
        let had = self.get16(0) | valid & (u16::MAX >> 3 | QUEUE_MAP);
        self.props[..2].copy_from_slice(&had.to_le_bytes());
    }
}

/// A number in a command, and that there is one.
const NUMBER: u16 = 0x3ff;
const VALID: u16 = 1 << 15;

#[cfg(test)]
mod tests {
    use super::*;

    fn props(sections: u16, fields: &[(usize, u16)]) -> Vec<u8> {
        let mut props = vec![0; LEN];
        props[..2].copy_from_slice(&sections.to_le_bytes());
        for (at, value) in fields {
            props[*at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        props
    }

    #[test]
    fn sections_that_are_not_valid_stay() {
        let mut vsis = Vsis::new();
        let data = props(
            1 << 2 | QUEUE_MAP,
            &[(VLAN_FLAGS, 3), (FIRST_QUEUE, 8), (FIRST_QUEUE + 2, 4), (FIRST_CLASS, 2 << 11)],
        );
        let mut command = Command { data, ..Command::default() };
        assert_eq!((vsis.add(&mut command), command.get16(0), command.get16(4)), (Ok(()), 2, 2));
        let vsi = vsis.find(2).unwrap();
        assert_eq!((vsi.queues(), vsi.queue(0), vsi.queue(3), vsi.queue(5)), (4, 8, 11, 9));
        assert!(vsi.strips_tags() && vsi.may_tag() && !vsi.prunes());
        let mut command = Command { data: props(1, &[(SWITCH_FLAGS2, 1)]), ..Command::default() };
        command.put16(0, VALID | 2);
        assert_eq!(vsis.update(&mut command), Ok(()));
        assert!(vsis.find(2).unwrap().prunes());
        assert_eq!(vsis.find(2).unwrap().queues(), 4);
        assert_eq!((vsis.free(&mut command), vsis.free(&mut command)), (Ok(2), Err(Refusal::Enoent)));
    }

    #[test]
    fn queues_may_be_listed() {
        let mut vsis = Vsis::new();
        let data = props(QUEUE_MAP, &[(MAPPING, 1), (FIRST_QUEUE, 5), (FIRST_QUEUE + 2, 1), (FIRST_CLASS, 1 << 11)]);
        vsis.add(&mut Command { data, ..Command::default() }).unwrap();
        let vsi = vsis.find(2).unwrap();
        assert_eq!((vsi.queue(0), vsi.queue(1), vsi.queue(2)), (5, 1, 5));
        assert_eq!(vsis.add(&mut Command { data: vec![0; 127], ..Command::default() }), Err(Refusal::Einval));
    }
}
