//! Which frames are received (82599 datasheet 7.1.1).

use std::sync::PoisonError;
use std::time::Duration;

use super::init::{Device, Function};
use super::regs::*;
use crate::port::Filter;
use crate::{Error, Mac, Result};

impl Device {
    pub(crate) fn set_filter(&self, filter: &Filter) -> Result<()> {
        self.function.set_filter(filter)
    }
}

impl Function {
    fn set_filter(&self, filter: &Filter) -> Result<()> {
        // The first is our own.
        let room = RAL.count as usize - 1;
        if filter.addresses.len() > room {
            let (found, allowed) = (filter.addresses.len() as u64, "127 at most would do, or Filter::promiscuous");
            return Err(Error::Setting { setting: "addresses to receive", found, allowed });
        }
        let _others = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        for index in 1..RAL.count {
            let (low, high) = filter.addresses.get(index as usize - 1).map_or((0, 0), |mac| {
                let [a, b, c, d, e, f] = mac.0;
                (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, 0, 0]) | RAH_AV)
            });
            // Not valid while its halves are of two addresses.
            self.regs.write(RAH.at(index), 0);
            self.regs.write(RAL.at(index), low);
            self.regs.write(RAH.at(index), high);
            self.regs.write(MPSAR.at(2 * index), u32::from(high != 0));
        }
        let mut table = [0u32; 128];
        for hash in filter.groups.iter().map(|mac| group_hash(*mac)) {
            table[usize::from(hash >> 5)] |= 1 << (hash & 31);
        }
        for (index, word) in (0..).zip(table) {
            self.regs.write(MTA.at(index), word);
        }
        self.regs.write(MCSTCTRL, if filter.groups.is_empty() { 0 } else { MCSTCTRL_MFE });
        let unicast = if filter.promiscuous { FCTRL_UPE } else { 0 };
        let groups = if filter.promiscuous || filter.all_groups { FCTRL_MPE } else { 0 };
        // Receive may not be on when FCTRL is written (8.2.3.7.1).
        let on = self.regs.read(RXCTRL) & RXCTRL_RXEN;
        self.set_receive(on, || self.regs.write(FCTRL, FCTRL_BAM | unicast | groups))
    }

    /// Turns receive off for `change`, and on after it if `on` says so, while no frame comes in: enabling it into arriving
    /// traffic can hang the 82599.
    pub(super) fn set_receive(&self, on: u32, change: impl FnOnce()) -> Result<()> {
        self.regs.set(SECRXCTRL, SECRXCTRL_RX_DIS);
        let empty = self.regs.wait(SECRXSTAT, SECRXSTAT_RDY, SECRXSTAT_RDY, Duration::from_millis(40));
        self.regs.clear(RXCTRL, RXCTRL_RXEN);
        change();
        self.regs.set(RXCTRL, on);
        self.regs.clear(SECRXCTRL, SECRXCTRL_RX_DIS);
        empty
    }
}

/// The 12 bits of a group's address that choose its bit in the table: the upper ones (MCSTCTRL.MO 0).
fn group_hash(mac: Mac) -> u16 {
    (u16::from(mac.0[4]) >> 4 | u16::from(mac.0[5]) << 4) & 0xfff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_bits_choose() {
        assert_eq!(group_hash(Mac([1, 0, 0x5e, 0, 0xab, 0xcd])), 0xcda);
        assert_eq!(group_hash(Mac([0x33, 0x33, 0, 0, 0x0f, 0xff])), 0xff0);
    }
}
