//! The copper PHY inside an X540 or X550, by MDIO (clause 45), which MSCA and MSRWD drive.
//!
//! It negotiates 10 Gb/s with whoever is there, at once. Registers that a driver writes read back; those with a bit that
//! starts something clear it.

use std::collections::BTreeMap;

use super::{Model, Part, regs};

/// Its address on the bus.
const ADDRESS: u32 = 0;
/// MMDs: PMA, PCS, PHY XS, autonegotiation, vendor's own.
const PMA: u32 = 1;
const PHY_XS: u32 = 4;
const AUTONEGOTIATION: u32 = 7;
const MMDS: [u32; 5] = [PMA, 3, PHY_XS, AUTONEGOTIATION, 30];

/// Operations in MSCA.
const OP_WRITE: u32 = 1;
const OP_READ: u32 = 3;

/// What was written to the PHY, by MMD and register.
#[derive(Default)]
pub(super) struct Phy(BTreeMap<(u32, u16), u16>);

impl Phy {
    fn write(&mut self, mmd: u32, register: u16, value: u16) {
        // Control registers: reset; the negotiation's restart as well.
        let starts = match (mmd, register) {
            (AUTONEGOTIATION, 0) => 1 << 15 | 1 << 9,
            (_, 0) => 1 << 15,
            _ => 0,
        };
        self.0.insert((mmd, register), value & !starts);
    }

    fn read(&self, part: Part, link: bool, mmd: u32, register: u16) -> u16 {
        match (mmd, register) {
            (mmd, _) if !MMDS.contains(&mmd) => 0xffff,
            // Status: the link is up; for autonegotiation that it is complete and able, too.
            (AUTONEGOTIATION, 1) => 1 << 3 | if link { 1 << 5 | 1 << 2 } else { 0 },
            (_, 1) => {
                if link {
                    1 << 2
                } else {
                    0
                }
            }
            (_, 2) => 0x0154,
            (_, 3) => {
                if part == Part::X550 {
                    0x0220
                } else {
                    0x0200
                }
            }
            // 10G, 1G, 100M.
            (PMA, 4) => 0x0031,
            (_, 5) => MMDS.iter().filter(|mmd| **mmd < 16).fold(0, |all, mmd| all | 1 << mmd),
            (_, 6) => 1 << 14,
            // Status 2: it responds here.
            (_, 8) => 1 << 15,
            // 10GBASE-T, 1000BASE-T, 100BASE-TX.
            (PMA, 11) => 0x00a4,
            // Vendor status: 10 Gb/s, full duplex.
            (AUTONEGOTIATION, 0xc800) if link => 7,
            _ => self.0.get(&(mmd, register)).copied().unwrap_or(self.power_on(mmd, register)),
        }
    }

    /// What a register reads before it was written: all speeds are advertised.
    fn power_on(&self, mmd: u32, register: u16) -> u16 {
        match (mmd, register) {
            (AUTONEGOTIATION, 0) => 1 << 12,
            (AUTONEGOTIATION, 0x10) => 0x0101,
            (AUTONEGOTIATION, 0x20) => 0x1000,
            (AUTONEGOTIATION, 0xc400) => 0x8000,
            _ => 0,
        }
    }
}

impl Model {
    /// A command in MSCA is done at once; where no PHY answers, a read finds the line pulled up.
    pub(super) fn mdio(&mut self, command: u32) {
        self.regs.set(regs::MSCA, command & !regs::MSCA_COMMAND);
        if command & regs::MSCA_COMMAND == 0 {
            return;
        }
        let (register, mmd) = (command as u16, command >> 16 & 0x1f);
        let there = self.part.is_copper() && command >> 21 & 0x1f == ADDRESS;
        let written = self.regs.get(regs::MSRWD) & 0xffff;
        match command >> 26 & 3 {
            OP_WRITE if there => self.phy.write(mmd, register, written as u16),
            OP_READ => {
                let value = if there { self.phy.read(self.part, self.link_up, mmd, register) } else { 0xffff };
                self.regs.set(regs::MSRWD, written | u32::from(value) << 16);
            }
            _ => {}
        }
    }
}
