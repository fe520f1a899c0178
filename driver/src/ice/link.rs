//! The PHY and the link (Linux `ice_common.c`, `ice_main.c`). Pure.

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Link;

/// The start of an answer to "get PHY capabilities"; the rest is about modules.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct PhyCaps {
    types: [U64; 2],
    caps: u8,
    low_power: u8,
    eee: U16,
    eee_wait: U16,
    identity: [u8; 12],
    fec: u8,
    compliance: u8,
}

/// The buffer of "set PHY configuration".
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct PhyConfig {
    types: [U64; 2],
    caps: u8,
    low_power: u8,
    eee: U16,
    eee_wait: U16,
    fec: u8,
    compliance: u8,
}

impl PhyCaps {
    /// Reads the answer.
    pub(super) fn parse(buffer: &[u8]) -> Result<Self, String> {
        let caps = Self::read_from_prefix(buffer).map_err(|_| format!("{} bytes of capabilities", buffer.len()))?;
        Ok(caps.0)
    }

    /// Whether there is anything to set up: without a module there is not.
    pub(super) fn has_types(&self) -> bool {
        self.types.iter().any(|types| types.get() != 0)
    }

    /// The configuration to be set, of a port that is set up like `self` and whose medium can do `media`: the link on, all
    /// speeds of the medium, error correction as the PHY finds best.
    pub(super) fn configuration(&self, media: &PhyCaps) -> [u8; PHY_CONFIG] {
        let mut config = PhyConfig::new_zeroed();
        config.types = media.types;
        config.caps = self.caps & CAPS_KEPT | ENABLE_LINK | AUTO_UPDATE | media.caps & AUTO_FEC;
        config.low_power = self.low_power;
        config.eee = self.eee;
        config.eee_wait = self.eee_wait;
        config.fec = media.fec & FEC;
        config.compliance = self.compliance;
        zerocopy::transmute!(config)
    }
}

/// The start of an answer to "get link status", and of a link event.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Status {
    conflict: u8,
    config_error: u8,
    link: u8,
    negotiation: u8,
    more: u8,
    loopback: u8,
    max_frame: U16,
    config: u8,
    power: u8,
    speed: U16,
}

/// Reads a link status.
pub(super) fn status(buffer: &[u8]) -> Result<Link, String> {
    let (status, _) = Status::ref_from_prefix(buffer).map_err(|_| format!("{} bytes of link status", buffer.len()))?;
    let speed = status.speed.get();
    let known = SPEEDS.iter().enumerate().rev().find(|(bit, _)| speed & 1 << bit != 0);
    let up = status.link & LINK_UP != 0;
    Ok(Link { up, megabits: known.filter(|_| up).map_or(0, |(_, megabits)| *megabits) })
}

/// Bytes of an answer about the PHY, of its configuration, and of a link status.
pub(super) const PHY_CAPS_LEN: usize = 560;
pub(super) const PHY_CONFIG: usize = 24;
pub(super) const STATUS_LEN: usize = 32;
/// What is asked of the PHY: what the medium can do, and how it is set up.
pub(super) const REPORT_MEDIA: u16 = 1 << 1;
pub(super) const REPORT_ACTIVE: u16 = 1 << 2;
/// "Get link status" with events from now on.
pub(super) const EVENTS_ON: u16 = 3;
/// Events that are not wanted: all but up and down, and a medium that went.
pub(super) const EVENTS_MASKED: u16 = !(1 << 1 | 1 << 2);
/// "Restart auto-negotiation": restart, and link on.
pub(super) const RESTART_AND_ENABLE: u8 = 1 << 1 | 1 << 2;

/// Pause frames, low power and its management stay as they are.
const CAPS_KEPT: u8 = 0x47;
const ENABLE_LINK: u8 = 1 << 3;
const AUTO_UPDATE: u8 = 1 << 5;
const AUTO_FEC: u8 = 1 << 7;
const FEC: u8 = 0xdf;
const LINK_UP: u8 = 1 << 0;
/// Megabits a second of each bit.
const SPEEDS: [u32; 12] = [10, 100, 1000, 2500, 5000, 10_000, 20_000, 25_000, 40_000, 50_000, 100_000, 200_000];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn link_states() {
        let mut bytes = [0; 32];
        bytes[10..12].copy_from_slice(&(1u16 << 10).to_le_bytes());
        assert_eq!(status(&bytes), Ok(Link { up: false, megabits: 0 }));
        bytes[2] = 1;
        assert_eq!(status(&bytes), Ok(Link { up: true, megabits: 100_000 }));
        bytes[10..12].copy_from_slice(&(1u16 << 15).to_le_bytes());
        assert_eq!(status(&bytes), Ok(Link { up: true, megabits: 0 }), "an unknown speed");
        assert!(status(&bytes[..11]).unwrap_err().contains("11 bytes"));
    }

    /// Goldens worked out by hand from the commands' layouts.
    #[test]
    fn phy_configuration() {
        let mut active = [0; PHY_CAPS_LEN];
        (active[16], active[17], active[18], active[20]) = (0x13, 4, 5, 6);
        (active[34], active[35]) = (0xff, 1);
        let mut media = [0; PHY_CAPS_LEN];
        (media[0], media[15], media[16], media[34]) = (0xaa, 0x55, 0x88, 0xff);
        let [active, media] = [active, media].map(|bytes| PhyCaps::parse(&bytes).unwrap());
        assert!(media.has_types() && !active.has_types());
        let mut expect = [0; PHY_CONFIG];
        (expect[0], expect[15]) = (0xaa, 0x55);
        // Pause both ways kept, negotiation mode not; link, automatic update, automatic error correction.
        expect[16..].copy_from_slice(&[0x03 | 0x08 | 0x20 | 0x80, 4, 5, 0, 6, 0, 0xdf, 1]);
        assert_eq!(active.configuration(&media), expect);
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = (status(&bytes), PhyCaps::parse(&bytes).map(|caps| caps.configuration(&caps)));
        }
    }
}
