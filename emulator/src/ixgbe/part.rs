//! The members of the family, and what tells them apart.

/// A member of the family, as far as the model tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// An 82599 on a backplane (KX4, KR, XAUI): no module, no PHY.
    Backplane,
    /// An 82599 with an SFP+ cage.
    Sfp,
    /// An X540: copper, with its PHY inside.
    X540,
    /// An X550: like it, with firmware that reads the EEPROM, and more queues for RSS.
    X550,
}

/// Device IDs, the part of each, and its name.
pub const SUPPORTED: &[(u16, Part, &str)] = &[
    (0x10f7, Part::Backplane, "82599 KX4"),
    (0x10f8, Part::Backplane, "82599 combined backplane"),
    (0x10fc, Part::Backplane, "82599 XAUI"),
    (0x1514, Part::Backplane, "82599 KX4 mezzanine"),
    (0x1517, Part::Backplane, "82599 KR"),
    (0x10fb, Part::Sfp, "82599 SFP+"),
    (0x1507, Part::Sfp, "82599 SFP+ EM"),
    (0x154d, Part::Sfp, "82599 SFP+ SF2"),
    (0x1557, Part::Sfp, "82599EN SFP+"),
    (0x1528, Part::X540, "X540-T2"),
    (0x1560, Part::X540, "X540-T1"),
    (0x1563, Part::X550, "X550-T2"),
    (0x15d1, Part::X550, "X550-T1"),
];

impl Part {
    /// The part that has this device ID, if it is one of [`SUPPORTED`].
    pub fn of(device_id: u16) -> Option<Self> {
        SUPPORTED.iter().find(|(id, ..)| *id == device_id).map(|(_, part, _)| *part)
    }

    /// Whether it has a copper PHY inside, and what came with it: the register semaphore, a longest frame a queue.
    pub(super) fn is_copper(self) -> bool {
        matches!(self, Part::X540 | Part::X550)
    }

    /// Packet memory for receiving, bytes.
    pub(super) fn packet_buffer(self) -> u32 {
        if self.is_copper() { 384 << 10 } else { 512 << 10 }
    }

    /// Entries of the redirection table, and what an entry is masked with.
    pub(super) fn redirection(self) -> (u32, u32) {
        if self == Part::X550 { (512, 0x3f) } else { (128, 0xf) }
    }
}

/// The supported IDs as a user reads them.
pub fn supported() -> String {
    SUPPORTED.iter().map(|(id, _, name)| format!("{id:04x} ({name})")).collect::<Vec<_>>().join(", ")
}
