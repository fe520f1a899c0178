//! The 82599's registers as the device has them: one line each, in address order.
//!
//! Written from the device's side and never shared with a driver, so that a wrong constant shows as a disagreement.

use std::sync::LazyLock;

use Mode::{Rc, Ro, Rw, Stored, Wo};

use crate::register_table::{many, one};

pub use super::bits::*;

/// How a register answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Read only: writes change nothing.
    Ro,
    /// Reads what was written, but for side effects.
    Rw,
    /// Reads what was written, and nothing in the model depends on it: `coverage.rs` says why.
    Stored,
    /// Reads 0.
    Wo,
    /// A counter that reading clears.
    Rc,
}

/// One line of the table.
pub type Register = crate::register_table::Register<Mode>;

/// Bytes of register space; every register lies below.
pub const SPACE: u32 = 0x2_0000;
/// Queues that the model runs, each way; the registers of the other 64 are plain storage.
pub const QUEUES: u16 = 64;

pub const CTRL: u32 = 0x0_0000;
pub const STATUS: u32 = 0x0_0008;
pub const ESDP: u32 = 0x0_0020;
pub const I2CCTL: u32 = 0x0_0028;
pub const EICR: u32 = 0x0_0800;
pub const EICS: u32 = 0x0_0808;
pub const EIAC: u32 = 0x0_0810;
pub const EIMS: u32 = 0x0_0880;
pub const EIMC: u32 = 0x0_0888;
pub const EIAM: u32 = 0x0_0890;
pub const GPIE: u32 = 0x0_0898;
pub const IVAR: u32 = 0x0_0900;
pub const IVAR_MISC: u32 = 0x0_0A00;
pub const EICS_EX: u32 = 0x0_0A90;
pub const EIMS_EX: u32 = 0x0_0AA0;
pub const EIMC_EX: u32 = 0x0_0AB0;
/// The page of the first 64 RX queues' registers, 64 bytes each.
pub const RX_PAGE: u32 = 0x0_1000;
pub const QPRC: u32 = 0x0_1030;
pub const QBRC: u32 = 0x0_1034;
pub const QPRDC: u32 = 0x0_1430;
pub const SRRCTL_ALIAS: u32 = 0x0_2100;
pub const DCA_RXCTRL_ALIAS: u32 = 0x0_2200;
pub const RQSMR: u32 = 0x0_2300;
pub const RDRXCTL: u32 = 0x0_2F00;
pub const WQBR_RX: u32 = 0x0_2FB0;
pub const RXCTRL: u32 = 0x0_3000;
pub const FCTTV: u32 = 0x0_3200;
pub const FCRTL: u32 = 0x0_3220;
pub const FCRTH: u32 = 0x0_3260;
pub const RXPBSIZE: u32 = 0x0_3C00;
pub const FCCFG: u32 = 0x0_3D00;
pub const LXONTXC: u32 = 0x0_3F60;
pub const LXOFFTXC: u32 = 0x0_3F68;
pub const MPC: u32 = 0x0_3FA0;
pub const RNBC: u32 = 0x0_3FC0;
pub const PRC: u32 = 0x0_405C;
pub const GPRC: u32 = 0x0_4074;
pub const BPRC: u32 = 0x0_4078;
pub const MPRC: u32 = 0x0_407C;
pub const GPTC: u32 = 0x0_4080;
pub const GORC: u32 = 0x0_4088;
pub const GOTC: u32 = 0x0_4090;
pub const RUC: u32 = 0x0_40A4;
pub const ROC: u32 = 0x0_40AC;
pub const TOR: u32 = 0x0_40C0;
pub const TPR: u32 = 0x0_40D0;
pub const TPT: u32 = 0x0_40D4;
pub const PTC: u32 = 0x0_40D8;
pub const MPTC: u32 = 0x0_40F0;
pub const BPTC: u32 = 0x0_40F4;
pub const LXONRXCNT: u32 = 0x0_41A4;
pub const LXOFFRXCNT: u32 = 0x0_41A8;
pub const HLREG0: u32 = 0x0_4240;
pub const MSCA: u32 = 0x0_425C;
pub const MSRWD: u32 = 0x0_4260;
pub const MAXFRS: u32 = 0x0_4268;
pub const MFLCN: u32 = 0x0_4294;
pub const AUTOC: u32 = 0x0_42A0;
pub const LINKS: u32 = 0x0_42A4;
pub const ANLP1: u32 = 0x0_42B0;
pub const DMATXCTL: u32 = 0x0_4A80;
pub const DTXTCPFLGL: u32 = 0x0_4A88;
pub const DTXTCPFLGH: u32 = 0x0_4A8C;
pub const RXCSUM: u32 = 0x0_5000;
pub const FCTRL: u32 = 0x0_5080;
pub const VLNCTRL: u32 = 0x0_5088;
pub const MCSTCTRL: u32 = 0x0_5090;
pub const MTA: u32 = 0x0_5200;
pub const RAR_ALIAS: u32 = 0x0_5400;
pub const MRQC: u32 = 0x0_5818;
pub const RETA: u32 = 0x0_5C00;
pub const RSSRK: u32 = 0x0_5C80;
/// The page of the first 64 TX queues' registers, 64 bytes each.
pub const TX_PAGE: u32 = 0x0_6000;
pub const QPTC: u32 = 0x0_6030;
pub const WQBR_TX: u32 = 0x0_8130;
pub const TQSM: u32 = 0x0_8600;
pub const QBTC: u32 = 0x0_8700;
pub const SECTXSTAT: u32 = 0x0_8804;
pub const SECRXSTAT: u32 = 0x0_8D04;
pub const VFTA: u32 = 0x0_A000;
pub const RAR: u32 = 0x0_A200;
pub const FDIRCTRL: u32 = 0x0_EE00;
/// The redirection table's entries from 128 on (X550).
pub const ERETA: u32 = 0x0_EE80;
pub const EEC: u32 = 0x1_0010;
pub const EERD: u32 = 0x1_0014;
pub const SWSM: u32 = 0x1_0140;
pub const SW_FW_SYNC: u32 = 0x1_0160;
pub const FLEX_MNG: u32 = 0x1_5800;
pub const HICR: u32 = 0x1_5F00;

/// In the page of an RX queue; the ring's geometry is where [`tx`] has it.
pub mod rx {
    pub const DCA_RXCTRL: u32 = 0x0C;
    pub const RDH: u32 = 0x10;
    pub const SRRCTL: u32 = 0x14;
    pub const RDT: u32 = 0x18;
    pub const RXDCTL: u32 = 0x28;
    pub const RSCCTL: u32 = 0x2C;
}

/// In the page of a TX queue (64 bytes each).
pub mod tx {
    pub const TDBAL: u32 = 0x00;
    pub const TDBAH: u32 = 0x04;
    pub const TDLEN: u32 = 0x08;
    pub const DCA_TXCTRL: u32 = 0x0C;
    pub const TDH: u32 = 0x10;
    pub const TDT: u32 = 0x18;
    pub const TXDCTL: u32 = 0x28;
    pub const TDWBAL: u32 = 0x38;
    pub const TDWBAH: u32 = 0x3C;
}

/// Every register of the model, in address order (the queue pages' insides first, as 64-byte records).
pub const TABLE: &[Register] = &[
    one("CTRL", CTRL, Rw, 0),
    one("STATUS", STATUS, Ro, STATUS_MASTER),
    one("CTRL_EXT", 0x0_0018, Stored, 0),
    one("ESDP", ESDP, Rw, ESDP_SDP2),
    one("I2CCTL", I2CCTL, Rw, 0xA),
    one("FRTIMER", 0x0_0048, Ro, 0),
    one("TCPTIMER", 0x0_004C, Stored, 0),
    one("LEDCTL", 0x0_0200, Stored, 0),
    one("EICR", EICR, Rw, 0),
    one("EICS", EICS, Rw, 0),
    one("EIAC", EIAC, Rw, 0),
    many("EITR (low)", 0x0_0820, 24, 4, Stored, 0),
    one("EIMS", EIMS, Rw, 0),
    one("EIMC", EIMC, Wo, 0),
    one("EIAM", EIAM, Rw, 0),
    one("EITRSEL", 0x0_0894, Stored, 0),
    one("GPIE", GPIE, Rw, 0),
    many("IVAR", IVAR, 64, 4, Rw, 0),
    one("IVAR_MISC", IVAR_MISC, Rw, 0),
    many("EICS_EX", EICS_EX, 2, 4, Wo, 0),
    many("EIMS_EX", EIMS_EX, 2, 4, Rw, 0),
    many("EIMC_EX", EIMC_EX, 2, 4, Wo, 0),
    many("EIAM_EX", 0x0_0AD0, 2, 4, Rw, 0),
    many("RDBAL", 0x0_1000, 64, 0x40, Rw, 0),
    many("RDBAH", 0x0_1004, 64, 0x40, Rw, 0),
    many("RDLEN", 0x0_1008, 64, 0x40, Rw, 0),
    many("DCA_RXCTRL", 0x0_100C, 64, 0x40, Rw, DCA_RXCTRL_RESERVED),
    many("RDH", 0x0_1010, 64, 0x40, Rw, 0),
    many("SRRCTL", 0x0_1014, 64, 0x40, Rw, 0),
    many("RDT", 0x0_1018, 64, 0x40, Rw, 0),
    many("RXDCTL", 0x0_1028, 64, 0x40, Rw, 0),
    many("RSCCTL", 0x0_102C, 64, 0x40, Rw, 0),
    many("QPRC", QPRC, 16, 0x40, Rc, 0),
    many("QBRC_L", QBRC, 16, 0x40, Rc, 0),
    many("QBRC_H", QBRC + 4, 16, 0x40, Rc, 0),
    many("QPRDC", QPRDC, 16, 0x40, Rc, 0),
    many("RQSMR", RQSMR, 32, 4, Rw, 0),
    one("RDRXCTL", RDRXCTL, Rw, RDRXCTL_DMAIDONE),
    many("WQBR_RX", WQBR_RX, 4, 4, Rw, 0),
    one("RXCTRL", RXCTRL, Rw, 0),
    one("FCTTV[0]", FCTTV, Rw, 0),
    many("FCTTV[1..]", FCTTV + 4, 3, 4, Stored, 0),
    one("FCRTL[0]", FCRTL, Rw, 0),
    many("FCRTL[1..]", FCRTL + 4, 7, 4, Stored, 0),
    one("FCRTH[0]", FCRTH, Rw, 0),
    many("FCRTH[1..]", FCRTH + 4, 7, 4, Stored, 0),
    one("FCRTV", 0x0_32A0, Stored, 0),
    one("RXPBSIZE[0]", RXPBSIZE, Rw, 512 << 10),
    many("RXPBSIZE[1..]", RXPBSIZE + 4, 7, 4, Rw, 0),
    one("FCCFG", FCCFG, Rw, 0),
    one("LXONTXC", LXONTXC, Rc, 0),
    one("LXOFFTXC", LXOFFTXC, Rc, 0),
    many("MPC", MPC, 8, 4, Rc, 0),
    many("RNBC", RNBC, 8, 4, Rc, 0),
    one("CRCERRS", 0x0_4000, Rc, 0),
    one("ILLERRC", 0x0_4004, Rc, 0),
    one("ERRBC", 0x0_4008, Rc, 0),
    one("MSPDC", 0x0_4010, Rc, 0),
    one("MLFC", 0x0_4034, Rc, 0),
    one("MRFC", 0x0_4038, Rc, 0),
    one("RLEC", 0x0_4040, Rc, 0),
    many("PRC64..PRC1522", PRC, 6, 4, Rc, 0),
    one("GPRC", GPRC, Rc, 0),
    one("BPRC", BPRC, Rc, 0),
    one("MPRC", MPRC, Rc, 0),
    one("GPTC", GPTC, Rc, 0),
    many("GORCL, GORCH", GORC, 2, 4, Rc, 0),
    many("GOTCL, GOTCH", GOTC, 2, 4, Rc, 0),
    one("RUC", RUC, Rc, 0),
    one("RFC", 0x0_40A8, Rc, 0),
    one("ROC", ROC, Rc, 0),
    one("RJC", 0x0_40B0, Rc, 0),
    one("MNGPRC", 0x0_40B4, Rc, 0),
    many("TORL, TORH", TOR, 2, 4, Rc, 0),
    one("TPR", TPR, Rc, 0),
    one("TPT", TPT, Rc, 0),
    many("PTC64..PTC1522", PTC, 6, 4, Rc, 0),
    one("MPTC", MPTC, Rc, 0),
    one("BPTC", BPTC, Rc, 0),
    one("XEC", 0x0_4120, Rc, 0),
    one("LXONRXCNT", LXONRXCNT, Rc, 0),
    one("LXOFFRXCNT", LXOFFRXCNT, Rc, 0),
    one("HLREG0", HLREG0, Rw, HLREG0_TXCRCEN | HLREG0_RXCRCSTRP | HLREG0_TXPADEN),
    one("HLREG1", 0x0_4244, Ro, 0),
    one("MSCA", MSCA, Rw, 0),
    one("MSRWD", MSRWD, Rw, 0),
    one("MAXFRS", MAXFRS, Rw, 1518 << 16),
    one("MFLCN", MFLCN, Rw, 0),
    one("AUTOC", AUTOC, Rw, 0),
    one("LINKS", LINKS, Ro, 0),
    one("AUTOC2", 0x0_42A8, Stored, 2 << 16),
    one("ANLP1", ANLP1, Ro, 0),
    one("MMNGC", 0x0_42D0, Ro, 0),
    one("LINKS2", 0x0_4324, Ro, 0),
    one("MACC", 0x0_4330, Stored, 0),
    one("RTTDCS", 0x0_4900, Stored, 0),
    one("RTTDQSEL", 0x0_4904, Stored, 0),
    one("RTTDT1C", 0x0_4908, Stored, 0),
    many("TXPBTHRESH", 0x0_4950, 8, 4, Stored, 0),
    one("RTTBCNRC", 0x0_4984, Stored, 0),
    one("DMATXCTL", DMATXCTL, Rw, 0x8100 << 16),
    one("DTXTCPFLGL", DTXTCPFLGL, Rw, 0x0FF6_0FF6),
    one("DTXTCPFLGH", DTXTCPFLGH, Rw, 0x0000_0F7F),
    one("RXCSUM", RXCSUM, Rw, 0),
    one("RFCTL", 0x0_5008, Stored, 0),
    one("FCTRL", FCTRL, Rw, 0),
    one("VLNCTRL", VLNCTRL, Rw, 0x8100),
    one("MCSTCTRL", MCSTCTRL, Rw, 0),
    many("MTA", MTA, 128, 4, Rw, 0),
    many("PSRTYPE", 0x0_5480, 16, 4, Stored, 0),
    one("WUC", 0x0_5800, Stored, 0),
    one("WUFC", 0x0_5808, Stored, 0),
    one("WUS", 0x0_5810, Stored, 0),
    one("MRQC", MRQC, Rw, 0),
    one("MANC", 0x0_5820, Ro, 0),
    many("RETA", RETA, 32, 4, Rw, 0),
    many("RSSRK", RSSRK, 10, 4, Rw, 0),
    many("TDBAL", 0x0_6000, 64, 0x40, Rw, 0),
    many("TDBAH", 0x0_6004, 64, 0x40, Rw, 0),
    many("TDLEN", 0x0_6008, 64, 0x40, Rw, 0),
    many("DCA_TXCTRL", 0x0_600C, 64, 0x40, Rw, DCA_TXCTRL_WB_RELAXED),
    many("TDH", 0x0_6010, 64, 0x40, Rw, 0),
    many("TDT", 0x0_6018, 64, 0x40, Rw, 0),
    many("TXDCTL", 0x0_6028, 64, 0x40, Rw, 0),
    many("QPTC", QPTC, 16, 0x40, Rc, 0),
    many("TDWBAL", 0x0_6038, 64, 0x40, Rw, 0),
    many("TDWBAH", 0x0_603C, 64, 0x40, Rw, 0),
    many("TX queues 64.. (storage)", 0x0_7000, 1024, 4, Stored, 0),
    one("DTXMXSZRQ", 0x0_8100, Stored, 0x10),
    one("MTQC", 0x0_8120, Stored, 0),
    many("WQBR_TX", WQBR_TX, 4, 4, Rw, 0),
    one("PFDTXGSWC", 0x0_8220, Stored, 0),
    many("TQSM", TQSM, 32, 4, Rw, 0),
    many("QBTC", QBTC, 32, 4, Rc, 0),
    one("SSVPC", 0x0_8780, Rc, 0),
    one("SECTXCTRL", 0x0_8800, Stored, 0),
    one("SECTXSTAT", SECTXSTAT, Ro, 1),
    one("SECRXCTRL", 0x0_8D00, Stored, 0),
    one("SECRXSTAT", SECRXSTAT, Ro, 1),
    many("VFTA", VFTA, 128, 4, Rw, 0),
    many("RAL, RAH", RAR, 256, 4, Rw, 0),
    many("MPSAR", 0x0_A600, 256, 4, Stored, 0),
    many("TXPBSIZE", 0x0_CC00, 8, 4, Stored, 0),
    many("RX queues 64.. (storage)", 0x0_D000, 1024, 4, Stored, 0),
    many("FTQF", 0x0_E600, 128, 4, Stored, 0),
    one("FDIRCTRL", FDIRCTRL, Rw, 0),
    many("ERETA", ERETA, 96, 4, Rw, 0),
    many("VLVF", 0x0_F100, 64, 4, Stored, 0),
    many("VLVFB", 0x0_F200, 128, 4, Stored, 0),
    many("UTA", 0x0_F400, 128, 4, Stored, 0),
    one("EEC", EEC, Rw, EEC_READY),
    one("EERD", EERD, Rw, EERD_DONE),
    one("EEWR", 0x1_0018, Stored, 0),
    one("FLA", 0x1_001C, Stored, 0),
    one("SWSM", SWSM, Rw, 0),
    one("FWSM", 0x1_0148, Ro, 0x8000),
    one("FACTPS", 0x1_0150, Ro, 0),
    one("SW_FW_SYNC", SW_FW_SYNC, Rw, 0),
    one("GRC", 0x1_0200, Stored, 0),
    one("GCR", 0x1_1000, Stored, 0),
    one("GCR_EXT", 0x1_1050, Stored, 0),
    many("EITR (high)", 0x1_2300, 40, 4, Stored, 0),
    one("CORECTL", 0x1_4F00, Stored, 0),
    many("FLEX_MNG", FLEX_MNG, 448, 4, Rw, 0),
    one("HICR", HICR, Rw, 0),
    one("FWSTS", 0x1_5F0C, Rw, 0),
];

/// For each word of the space, its line in [`TABLE`] plus one; 0 where there is no register.
static INDEX: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let mut index = vec![0; SPACE as usize / 4];
    for (line, register) in TABLE.iter().enumerate() {
        for i in 0..register.count {
            index[(register.offset + i * register.stride) as usize / 4] = line as u16 + 1;
        }
    }
    index
});

/// The register at `offset`; `None` where there is none.
pub fn lookup(offset: u32) -> Option<&'static Register> {
    let line = *INDEX.get(offset as usize / 4)?;
    TABLE.get(usize::from(line.checked_sub(1)?))
}

/// Several registers answer at two addresses; this is the one where the value is kept.
pub fn canonical(offset: u32) -> u32 {
    match offset {
        RAR_ALIAS..0x0_5480 => offset - RAR_ALIAS + RAR,
        SRRCTL_ALIAS..0x0_2140 => RX_PAGE + (offset - SRRCTL_ALIAS) / 4 * 0x40 + rx::SRRCTL,
        DCA_RXCTRL_ALIAS..0x0_2240 => RX_PAGE + (offset - DCA_RXCTRL_ALIAS) / 4 * 0x40 + rx::DCA_RXCTRL,
        _ => offset,
    }
}

/// Whether it is one of the registers that name the queues which were blocked for their driver's malice (X550).
pub fn is_blocked_queues(offset: u32) -> bool {
    matches!(offset, WQBR_RX..0x0_2FC0 | WQBR_TX..0x0_8140)
}

/// Whether the register lies in one of the two pages that a client may map.
pub fn in_queue_pages(offset: u32) -> bool {
    matches!(offset, RX_PAGE..0x0_2000 | TX_PAGE..0x0_7000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_lines_claim_one_word() {
        let mut owner = std::collections::HashMap::new();
        for register in TABLE {
            for i in 0..register.count {
                let offset = register.offset + i * register.stride;
                assert!(offset < SPACE && offset % 4 == 0, "{} at {offset:#x}", register.name);
                assert_eq!(owner.insert(offset, register.name), None, "{} at {offset:#x}", register.name);
            }
        }
    }

    #[test]
    fn aliases_land_on_known_registers() {
        assert_eq!(canonical(0x5400), 0xA200);
        assert_eq!(canonical(0x547C), 0xA27C);
        assert_eq!(canonical(0x2100 + 4 * 3), 0x1000 + 0x40 * 3 + 0x14);
        assert_eq!(canonical(0x2200 + 4 * 15), 0x1000 + 0x40 * 15 + 0xC);
        assert_eq!(lookup(canonical(0x543C)).unwrap().name, "RAL, RAH");
    }
}
