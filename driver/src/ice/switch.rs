//! The switch inside of the device: ports, VSIs (what a function's frames go through), and rules (Linux `ice_switch.c`,
//! `ice_lib.c`). Pure.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An element of the switch configuration (0x0200).
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Element {
    /// Number in the ten low bits, kind in the two high ones.
    number: U16,
    switch: U16,
    owner: U16,
}

/// The port that the function belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Port {
    pub number: u8,
    pub switch: u8,
}

/// Looks for a physical port in one answer of the switch configuration with `count` elements.
pub(super) fn find_port(buffer: &[u8], count: u16) -> Result<Option<Port>, String> {
    let (elements, _) = <[Element]>::ref_from_prefix_with_elems(buffer, count.into())
        .map_err(|_| format!("{count} elements in {} bytes", buffer.len()))?;
    let port = elements.iter().find(|element| element.number.get() >> 14 == PHYSICAL_PORT);
    // Eight ports are all there can be: the context of a transmit queue has three bits for one.
    Ok(port.map(|port| Port { number: (port.number.get() & 7) as u8, switch: port.switch.get() as u8 }))
}

/// How a VSI is set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vsi {
    pub switch: u8,
    /// Queues, from the function's first on.
    pub queues: u16,
    /// Take tags out of received frames.
    pub strip_vlan: bool,
}

/// The properties of a VSI (0x0210): sections that say themselves whether they hold.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Properties {
    sections: U16,
    switch: u8,
    switch_flags: u8,
    switch_flags2: u8,
    veb: u8,
    security: [u8; 2],
    port_vlan: U16,
    reserved0: [u8; 2],
    inner_vlan_flags: u8,
    reserved1: [u8; 3],
    ingress_priorities: U32,
    egress_priorities: U32,
    outer_vlan: [u8; 4],
    mapping_flags: U16,
    queues: [U16; 16],
    classes: [U16; 8],
    rss: u8,
    queue_class: u8,
    queue_flags: u8,
    reserved2: [u8; 47],
}

impl Vsi {
    /// The properties, as the firmware takes them.
    pub(super) fn encode(self) -> [u8; VSI_LEN] {
        let mut all = Properties::new_zeroed();
        all.sections = (SECTION_SWITCH
            | SECTION_VLAN
            | SECTION_INGRESS
            | SECTION_EGRESS
            | SECTION_RX_QUEUES
            | SECTION_QUEUE_OPTIONS)
            .into();
        all.switch = self.switch;
        // What it sends does not come back to it, and may go out to the wire.
        all.switch_flags = SOURCE_PRUNING;
        all.switch_flags2 = LAN_ENABLE;
        all.inner_vlan_flags = VLAN_SEND_ALL | if self.strip_vlan { 0 } else { VLAN_LEAVE };
        all.ingress_priorities = SAME_PRIORITIES.into();
        all.egress_priorities = SAME_PRIORITIES.into();
        (all.queues[0], all.queues[1]) = (0.into(), self.queues.into());
        // All queues are of traffic class 0: from the first on, a power of two.
        all.classes[0] = ((self.queues.next_power_of_two().ilog2() as u16) << 11).into();
        zerocopy::transmute!(all)
    }
}

/// Whose frames a rule takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Match {
    /// To this station or group.
    Mac([u8; 6]),
    /// To any group.
    Groups,
    /// Whatever no other rule takes.
    Rest,
}

/// A lookup rule with room for the header that it compares with (0x02A0).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Rule {
    kind: U16,
    status: U16,
    recipe: U16,
    source: U16,
    action: U32,
    index: U16,
    header_len: U16,
    header: [u8; 16],
}

/// A rule that gives frames to a VSI.
pub(super) fn rule(what: Match, vsi: u16, port: Port) -> [u8; RULE_LEN] {
    let mut rule = Rule::new_zeroed();
    rule.header = HEADER;
    rule.header_len = (HEADER.len() as u16).into();
    let forward = ACTION_VALID | u32::from(vsi & 0x3ff) << 4;
    match what {
        // A rule on an address is one of what a VSI sends, and holds for both directions.
        Match::Mac(mac) => {
            rule.header[..6].copy_from_slice(&mac);
            let out_as_well = if mac[0] & 1 == 1 { ACTION_LAN } else { 0 };
            (rule.kind, rule.recipe, rule.source) = (LOOKUP_TX.into(), RECIPE_MAC.into(), vsi.into());
            rule.action = (forward | ACTION_LOOPBACK | out_as_well).into();
        }
        Match::Groups => {
            // Of the address only the group bit counts.
            rule.header[0] |= 1;
            (rule.kind, rule.recipe, rule.source) =
                (LOOKUP_RX.into(), RECIPE_PROMISCUOUS.into(), u16::from(port.number).into());
            rule.action = forward.into();
        }
        Match::Rest => {
            (rule.kind, rule.recipe, rule.source) =
                (LOOKUP_RX.into(), RECIPE_DEFAULT.into(), u16::from(port.number).into());
            rule.action = forward.into();
        }
    }
    zerocopy::transmute!(rule)
}

/// The number that the firmware gave to the rule that was added.
pub(super) fn added_rule(buffer: &[u8]) -> Result<u16, String> {
    let (rule, _) = Rule::ref_from_prefix(buffer).map_err(|_| format!("{} bytes of a rule", buffer.len()))?;
    Ok(rule.index.get())
}

/// What removes a rule: it without its header, by its number.
pub(super) fn rule_to_remove(what: Match, vsi: u16, port: Port, index: u16) -> [u8; RULE_HEAD] {
    let mut bytes = rule(what, vsi, port);
    bytes[8..12].fill(0);
    bytes[12..14].copy_from_slice(&index.to_le_bytes());
    bytes[14..16].fill(0);
    bytes[..RULE_HEAD].try_into().expect("a rule is longer")
}

/// Bytes of a VSI's properties and of a rule.
pub(super) const VSI_LEN: usize = 128;
pub(super) const RULE_LEN: usize = 32;
/// Of a rule without the header.
const RULE_HEAD: usize = 16;
/// VSI flags of the command: it belongs to a physical function.
pub(super) const VSI_OF_FUNCTION: u16 = 2;
/// In a VSI's number in a command: it is there.
pub(super) const VSI_VALID: u16 = 1 << 15;

const PHYSICAL_PORT: u16 = 0;
const SECTION_SWITCH: u16 = 1 << 0;
const SECTION_VLAN: u16 = 1 << 2;
const SECTION_INGRESS: u16 = 1 << 4;
const SECTION_EGRESS: u16 = 1 << 5;
const SECTION_RX_QUEUES: u16 = 1 << 6;
const SECTION_QUEUE_OPTIONS: u16 = 1 << 7;
const SOURCE_PRUNING: u8 = 1 << 7;
const LAN_ENABLE: u8 = 1 << 4;
/// Frames with and without a tag may be sent, and descriptors may ask for one.
const VLAN_SEND_ALL: u8 = 3;
/// Tags of received frames stay where they are.
const VLAN_LEAVE: u8 = 3 << 3;
/// Each of eight priorities is itself: three bits each.
const SAME_PRIORITIES: u32 = 0o76543210;
const LOOKUP_RX: u16 = 0;
const LOOKUP_TX: u16 = 1;
const RECIPE_MAC: u16 = 1;
const RECIPE_PROMISCUOUS: u16 = 3;
const RECIPE_DEFAULT: u16 = 5;
const ACTION_LOOPBACK: u32 = 1 << 2;
const ACTION_LAN: u32 = 1 << 3;
const ACTION_VALID: u32 = 1 << 17;
/// What a rule compares with where it says nothing: two local addresses and a tag.
const HEADER: [u8; 16] = [2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0x81, 0, 0, 0];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports_are_found() {
        // A VSI (kind 2, number 6), then port 1 on switch 3.
        let list = [0x06, 0x80, 3, 0, 0, 0, 0x01, 0x00, 3, 0, 0, 0];
        assert_eq!(find_port(&list, 2), Ok(Some(Port { number: 1, switch: 3 })));
        assert_eq!(find_port(&list, 1), Ok(None));
        assert!(find_port(&list, 3).unwrap_err().contains("3 elements in 12 bytes"));
    }

    /// Goldens worked out by hand from the command's layout.
    #[test]
    fn vsi_bytes() {
        let bytes = Vsi { switch: 9, queues: 5, strip_vlan: false }.encode();
        assert_eq!(bytes[..6], [0xf5, 0x00, 9, 0x80, 0x10, 0]);
        assert_eq!(bytes[12], 3 | 3 << 3, "send all, leave tags");
        assert_eq!(bytes[16..20], [0x88, 0xc6, 0xfa, 0x00], "priorities 0 to 7, three bits each");
        assert_eq!(bytes[30..34], [0, 0, 5, 0], "from queue 0 on, five");
        assert_eq!(bytes[62..64], (3u16 << 11).to_le_bytes(), "class 0 has 2^3");
        assert_eq!(Vsi { switch: 9, queues: 1, strip_vlan: true }.encode()[12], 3);
    }

    #[test]
    fn rule_bytes() {
        let port = Port { number: 2, switch: 0 };
        let mac = rule(Match::Mac([0, 1, 2, 3, 4, 5]), 0x15, port);
        assert_eq!(mac[..16], [1, 0, 0, 0, 1, 0, 0x15, 0, 0x54, 0x01, 2, 0, 0, 0, 16, 0]);
        assert_eq!(mac[16..22], [0, 1, 2, 3, 4, 5]);
        let broadcast = rule(Match::Mac([0xff; 6]), 0x15, port);
        assert_eq!(broadcast[8..12], [0x5c, 0x01, 2, 0], "to the wire as well");
        let rest = rule(Match::Rest, 0x15, port);
        assert_eq!(rest[..12], [0, 0, 0, 0, 5, 0, 2, 0, 0x50, 0x01, 2, 0]);
        let groups = rule(Match::Groups, 0x15, port);
        assert_eq!((&groups[4..6], groups[16] & 1), (&[3, 0][..], 1));
        let gone = rule_to_remove(Match::Mac([0xff; 6]), 0x15, port, 0x0102);
        assert_eq!(gone, [1, 0, 0, 0, 1, 0, 0x15, 0, 0, 0, 0, 0, 2, 1, 0, 0]);
        assert_eq!(added_rule(&[0; 31]), Err("31 bytes of a rule".into()));
    }

    proptest! {
        #[test]
        fn any_configuration_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..64), count: u16) {
            let _ = find_port(&bytes, count);
        }
    }
}
