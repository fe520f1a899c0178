//! The E810's registers as the device has them: one line each, in address order.
//!
//! Written from the device's side and never shared with a driver, so that a wrong constant shows as a disagreement. Names
//! and places are those of Linux `ice_hw_autogen.h`; there is no public datasheet.

use Mode::{Bell, Count, Ro, Rw, Stored};

use crate::register_table::{many, one};

/// How a register answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Read only: writes change nothing.
    Ro,
    /// Reads what was written, but for side effects.
    Rw,
    /// Reads what was written, and nothing in the model depends on it: `coverage.rs` says why.
    Stored,
    /// A counter that neither reading nor a reset of the function clears.
    Count,
    /// A tail, in a page that a client may map.
    Bell,
}

/// One line of the table.
pub type Register = crate::register_table::Register<Mode>;

/// Queues that the model runs, each way.
pub const QUEUES: u16 = 64;
/// Queues that have registers.
const ALL: u32 = 1024;
/// Virtual interfaces that have counters.
const VSIS: u32 = 768;

pub const PF_FW_ATQ: u32 = 0x08_0000;
pub const PF_FW_ARQ: u32 = 0x08_0080;
pub const PFGEN_CTRL: u32 = 0x09_1000;
pub const GLNVM_ULD: u32 = 0x0B_6008;
pub const GLNVM_GENS: u32 = 0x0B_6100;
pub const GLGEN_RTRIG: u32 = 0x0B_8190;
pub const QTX_COMM_HEAD: u32 = 0x0E_0000;
pub const PF_MDET_TX_TCLAN: u32 = 0x0F_C000;
pub const GL_MDET_TX_TCLAN: u32 = 0x0F_C068;
pub const QRX_CTRL: u32 = 0x12_0000;
pub const QINT_TQCTL: u32 = 0x14_0000;
pub const QINT_RQCTL: u32 = 0x15_0000;
pub const GLINT_DYN_CTL: u32 = 0x16_0000;
pub const PFINT_FW_CTL: u32 = 0x16_C800;
pub const PFINT_OICR_ENA: u32 = 0x16_C900;
pub const PFINT_OICR: u32 = 0x16_CA00;
pub const PFINT_OICR_CTL: u32 = 0x16_CA80;
pub const QRX_CONTEXT: u32 = 0x28_0000;
/// The page of the receive queues' tails.
pub const QRX_TAIL: u32 = 0x29_0000;
pub const PF_MDET_RX: u32 = 0x29_4280;
pub const GL_MDET_RX: u32 = 0x29_4C00;
pub const GLV_RDPC: u32 = 0x29_4C04;
/// The page of the transmit queues' tails.
pub const QTX_COMM_DBELL: u32 = 0x2C_0000;
pub const PF_MDET_TX_PQM: u32 = 0x2D_2C80;
pub const GL_MDET_TX_PQM: u32 = 0x2D_2E00;
pub const GLV_GOTC: u32 = 0x30_0000;
pub const GLV_UPTC: u32 = 0x30_A000;
pub const GLV_MPTC: u32 = 0x30_C000;
pub const GLV_BPTC: u32 = 0x30_E000;
pub const GLV_TEPC: u32 = 0x31_2000;
pub const GLPRT_GORC: u32 = 0x38_0000;
pub const GLPRT_RUC: u32 = 0x38_0200;
pub const GLPRT_ROC: u32 = 0x38_0240;
pub const GLPRT_PRC64: u32 = 0x38_0900;
pub const GLPRT_GOTC: u32 = 0x38_0B40;
pub const GLPRT_PTC64: u32 = 0x38_0B80;
pub const GLPRT_UPTC: u32 = 0x38_11C0;
pub const GLPRT_MPTC: u32 = 0x38_1200;
pub const GLPRT_BPTC: u32 = 0x38_1240;
pub const GLPRT_UPRC: u32 = 0x38_1300;
pub const GLPRT_MPRC: u32 = 0x38_1340;
pub const GLPRT_BPRC: u32 = 0x38_1380;
pub const GLV_GORC: u32 = 0x3B_0000;
pub const GLV_UPRC: u32 = 0x3B_2000;
pub const GLV_MPRC: u32 = 0x3B_4000;
pub const GLV_BPRC: u32 = 0x3B_6000;
pub const QRXFLXP_CNTXT: u32 = 0x48_0000;

/// The registers of a control queue, by distance from its first, bytes.
pub mod control_queue {
    pub const BAL: u32 = 0x000;
    pub const BAH: u32 = 0x100;
    pub const LEN: u32 = 0x200;
    pub const HEAD: u32 = 0x300;
    pub const TAIL: u32 = 0x400;
}

pub const CQ_COUNT: u32 = 0x3ff;
pub const CQ_CRITICAL: u32 = 1 << 30;
pub const CQ_ENABLE: u32 = 1 << 31;
pub const PFGEN_CTRL_PFSWR: u32 = 1 << 0;
/// CORER, GLOBR, EMPFWR.
pub const GLGEN_RTRIG_ANY: u32 = 7;
/// All parts of the device have loaded what they take from the NVM; RDMA is not among them.
pub const GLNVM_ULD_DONE: u32 = 0x33B;
pub const GLNVM_FLA_LOCKED: u32 = 1 << 6;
pub const QRX_CTRL_REQ: u32 = 1 << 0;
pub const QRX_CTRL_STAT: u32 = 1 << 2;
pub const INT_CTL_VECTOR: u32 = 0x7ff;
pub const INT_CTL_CAUSE_ENA: u32 = 1 << 30;
pub const INT_CTL_INTEVENT: u32 = 1 << 31;
pub const DYN_CTL_INTENA: u32 = 1 << 0;
pub const DYN_CTL_CLEARPBA: u32 = 1 << 1;
pub const DYN_CTL_SWINT_TRIG: u32 = 1 << 2;
pub const DYN_CTL_WB_ON_ITR: u32 = 1 << 30;
pub const DYN_CTL_INTENA_MSK: u32 = 1 << 31;
pub const OICR_INTEVENT: u32 = 1 << 0;
pub const OICR_MAL_DETECT: u32 = 1 << 19;
pub const OICR_GRST: u32 = 1 << 20;
pub const MDET_VALID: u32 = 1 << 31;

/// Every register of the model, in address order.
pub const TABLE: &[Register] = &[
    one("PF_FW_ATQBAL", PF_FW_ATQ, Rw, 0),
    one("PF_FW_ARQBAL", PF_FW_ARQ, Rw, 0),
    one("PF_FW_ATQBAH", PF_FW_ATQ + control_queue::BAH, Rw, 0),
    one("PF_FW_ARQBAH", PF_FW_ARQ + control_queue::BAH, Rw, 0),
    one("PF_FW_ATQLEN", PF_FW_ATQ + control_queue::LEN, Rw, 0),
    one("PF_FW_ARQLEN", PF_FW_ARQ + control_queue::LEN, Rw, 0),
    one("PF_FW_ATQH", PF_FW_ATQ + control_queue::HEAD, Rw, 0),
    one("PF_FW_ARQH", PF_FW_ARQ + control_queue::HEAD, Rw, 0),
    one("PF_FW_ATQT", PF_FW_ATQ + control_queue::TAIL, Rw, 0),
    one("PF_FW_ARQT", PF_FW_ARQ + control_queue::TAIL, Rw, 0),
    one("PFGEN_CTRL", PFGEN_CTRL, Rw, 0),
    one("PF_FUNC_RID", 0x09_E880, Ro, 0),
    one("GLNVM_ULD", GLNVM_ULD, Ro, GLNVM_ULD_DONE),
    // A shadow RAM of 2^6 KiB.
    one("GLNVM_GENS", GLNVM_GENS, Ro, 6 << 5),
    one("GLNVM_FLA", 0x0B_6108, Ro, GLNVM_FLA_LOCKED),
    one("GL_MNG_FWSM", 0x0B_6134, Ro, 0),
    // 400 ms, in units of 100.
    one("GLGEN_RSTCTL", 0x0B_8180, Ro, 4),
    one("GLGEN_RSTAT", 0x0B_8188, Ro, 0),
    one("GLGEN_RTRIG", GLGEN_RTRIG, Rw, 0),
    one("GL_PWR_MODE_CTL", 0x0B_820C, Ro, 0),
    one("GLGEN_CLKSTAT_SRC", 0x0B_826C, Ro, 0),
    one("GLPCI_CNF2", 0x0B_E004, Ro, 0),
    many("QTX_COMM_HEAD", QTX_COMM_HEAD, ALL, 4, Ro, 0),
    one("PF_MDET_TX_TCLAN", PF_MDET_TX_TCLAN, Rw, 0),
    one("GL_MDET_TX_TCLAN", GL_MDET_TX_TCLAN, Rw, 0),
    many("QRX_CTRL", QRX_CTRL, ALL, 4, Rw, 0),
    many("QINT_TQCTL", QINT_TQCTL, ALL, 4, Rw, 0),
    many("QINT_RQCTL", QINT_RQCTL, ALL, 4, Rw, 0),
    many("GLINT_ITR(0)", 0x15_4000, ALL, 4, Stored, 0),
    many("GLINT_ITR(1)", 0x15_6000, ALL, 4, Stored, 0),
    many("GLINT_ITR(2)", 0x15_8000, ALL, 4, Stored, 0),
    many("GLINT_RATE", 0x15_A000, ALL, 4, Stored, 0),
    many("GLINT_DYN_CTL", GLINT_DYN_CTL, ALL, 4, Rw, 0),
    many("GLINT_VECT2FUNC", 0x16_2000, ALL, 4, Stored, 0),
    one("PFINT_MBX_CTL", 0x16_B280, Stored, 0),
    one("PFINT_SB_CTL", 0x16_B600, Stored, 0),
    one("PFINT_FW_CTL", PFINT_FW_CTL, Rw, 0),
    one("PFINT_OICR_ENA", PFINT_OICR_ENA, Rw, 0),
    one("PFINT_OICR", PFINT_OICR, Rw, 0),
    one("PFINT_OICR_CTL", PFINT_OICR_CTL, Rw, 0),
    one("GLINT_CTL", 0x16_CC54, Stored, 0),
    one("PFGEN_PORTNUM", 0x1D_2400, Ro, 0),
    one("PFLAN_RX_QALLOC", 0x1D_2500, Ro, 1 << 31 | (QUEUES as u32 - 1) << 16),
    one("PFINT_ALLOC", 0x1D_2600, Ro, 1 << 31 | (super::VECTORS as u32 - 1) << 12),
    one("PF_MBX_ATQBAL", 0x22_E100, Stored, 0),
    one("PF_MBX_ATQBAH", 0x22_E180, Stored, 0),
    one("PF_MBX_ATQLEN", 0x22_E200, Stored, 0),
    one("PF_MBX_ATQH", 0x22_E280, Stored, 0),
    one("PF_MBX_ATQT", 0x22_E300, Stored, 0),
    one("PF_MBX_ARQBAL", 0x22_E380, Stored, 0),
    one("PF_MBX_ARQBAH", 0x22_E400, Stored, 0),
    one("PF_MBX_ARQLEN", 0x22_E480, Stored, 0),
    one("PF_MBX_ARQH", 0x22_E500, Stored, 0),
    one("PF_MBX_ARQT", 0x22_E580, Stored, 0),
    many("QRX_CONTEXT(0)", QRX_CONTEXT, ALL, 4, Rw, 0),
    many("QRX_CONTEXT(1)", QRX_CONTEXT + 0x2000, ALL, 4, Rw, 0),
    many("QRX_CONTEXT(2)", QRX_CONTEXT + 0x4000, ALL, 4, Rw, 0),
    many("QRX_CONTEXT(3)", QRX_CONTEXT + 0x6000, ALL, 4, Rw, 0),
    many("QRX_CONTEXT(4)", QRX_CONTEXT + 0x8000, ALL, 4, Rw, 0),
    many("QRX_CONTEXT(5)", QRX_CONTEXT + 0xA000, ALL, 4, Rw, 0),
    many("QRX_CONTEXT(6)", QRX_CONTEXT + 0xC000, ALL, 4, Rw, 0),
    many("QRX_CONTEXT(7)", QRX_CONTEXT + 0xE000, ALL, 4, Rw, 0),
    many("QRX_TAIL", QRX_TAIL, ALL, 4, Bell, 0),
    many("QRX_ITR", 0x29_2000, ALL, 4, Stored, 0),
    one("PF_MDET_RX", PF_MDET_RX, Rw, 0),
    one("GL_MDET_RX", GL_MDET_RX, Rw, 0),
    many("GLV_RDPC", GLV_RDPC, VSIS, 4, Count, 0),
    many("QTX_COMM_DBELL", QTX_COMM_DBELL, ALL, 4, Bell, 0),
    one("PF_MDET_TX_PQM", PF_MDET_TX_PQM, Rw, 0),
    many("GLCOMM_QTX_CNTX_DATA", 0x2D_2D40, 10, 4, Stored, 0),
    one("GLCOMM_QTX_CNTX_CTL", 0x2D_2DC8, Stored, 0),
    one("GLCOMM_QTX_CNTX_STAT", 0x2D_2DCC, Ro, 0),
    one("GL_MDET_TX_PQM", GL_MDET_TX_PQM, Rw, 0),
    many("GLV_GOTC", GLV_GOTC, 2 * VSIS, 4, Count, 0),
    many("GLV_UPTC", GLV_UPTC, 2 * VSIS, 4, Count, 0),
    many("GLV_MPTC", GLV_MPTC, 2 * VSIS, 4, Count, 0),
    many("GLV_BPTC", GLV_BPTC, 2 * VSIS, 4, Count, 0),
    many("GLV_TEPC", GLV_TEPC, VSIS, 4, Count, 0),
    many("GLPRT_GORC", GLPRT_GORC, 2, 4, Count, 0),
    many("GLPRT_MLFC", 0x38_0040, 2, 4, Count, 0),
    many("GLPRT_MRFC", 0x38_0080, 2, 4, Count, 0),
    many("GLPRT_CRCERRS", 0x38_0100, 2, 4, Count, 0),
    many("GLPRT_RLEC", 0x38_0140, 2, 4, Count, 0),
    many("GLPRT_ILLERRC", 0x38_01C0, 2, 4, Count, 0),
    many("GLPRT_RUC", GLPRT_RUC, 2, 4, Count, 0),
    many("GLPRT_ROC", GLPRT_ROC, 2, 4, Count, 0),
    many("GLPRT_LXONRXC", 0x38_0280, 2, 4, Count, 0),
    many("GLPRT_LXOFFRXC", 0x38_02C0, 2, 4, Count, 0),
    many("GLPRT_PRC64", GLPRT_PRC64, 2, 4, Count, 0),
    many("GLPRT_PRC127", GLPRT_PRC64 + 0x40, 2, 4, Count, 0),
    many("GLPRT_PRC255", GLPRT_PRC64 + 0x80, 2, 4, Count, 0),
    many("GLPRT_PRC511", GLPRT_PRC64 + 0xC0, 2, 4, Count, 0),
    many("GLPRT_PRC1023", GLPRT_PRC64 + 0x100, 2, 4, Count, 0),
    many("GLPRT_PRC1522", GLPRT_PRC64 + 0x140, 2, 4, Count, 0),
    many("GLPRT_PRC9522", GLPRT_PRC64 + 0x180, 2, 4, Count, 0),
    many("GLPRT_RFC", 0x38_0AC0, 2, 4, Count, 0),
    many("GLPRT_RJC", 0x38_0B00, 2, 4, Count, 0),
    many("GLPRT_GOTC", GLPRT_GOTC, 2, 4, Count, 0),
    many("GLPRT_PTC64", GLPRT_PTC64, 2, 4, Count, 0),
    many("GLPRT_PTC127", GLPRT_PTC64 + 0x40, 2, 4, Count, 0),
    many("GLPRT_PTC255", GLPRT_PTC64 + 0x80, 2, 4, Count, 0),
    many("GLPRT_PTC511", GLPRT_PTC64 + 0xC0, 2, 4, Count, 0),
    many("GLPRT_PTC1023", GLPRT_PTC64 + 0x100, 2, 4, Count, 0),
    many("GLPRT_PTC1522", GLPRT_PTC64 + 0x140, 2, 4, Count, 0),
    many("GLPRT_PTC9522", GLPRT_PTC64 + 0x180, 2, 4, Count, 0),
    many("GLPRT_LXONTXC", 0x38_1140, 2, 4, Count, 0),
    many("GLPRT_LXOFFTXC", 0x38_1180, 2, 4, Count, 0),
    many("GLPRT_UPTC", GLPRT_UPTC, 2, 4, Count, 0),
    many("GLPRT_MPTC", GLPRT_MPTC, 2, 4, Count, 0),
    many("GLPRT_BPTC", GLPRT_BPTC, 2, 4, Count, 0),
    many("GLPRT_TDOLD", 0x38_1280, 2, 4, Count, 0),
    many("GLPRT_UPRC", GLPRT_UPRC, 2, 4, Count, 0),
    many("GLPRT_MPRC", GLPRT_MPRC, 2, 4, Count, 0),
    many("GLPRT_BPRC", GLPRT_BPRC, 2, 4, Count, 0),
    many("GLV_GORC", GLV_GORC, 2 * VSIS, 4, Count, 0),
    many("GLV_UPRC", GLV_UPRC, 2 * VSIS, 4, Count, 0),
    many("GLV_MPRC", GLV_MPRC, 2 * VSIS, 4, Count, 0),
    many("GLV_BPRC", GLV_BPRC, 2 * VSIS, 4, Count, 0),
    many("VSIQF_HASH_CTL", 0x40_D000, VSIS, 4, Stored, 0),
    one("PFQF_FD_ENA", 0x43_A000, Stored, 0),
    many("GLFLXP_RXDID_FLAGS[..22]", 0x45_D000, 22, 4, Ro, 0),
    // This profile of the receive descriptors has flags, which is how its users know that it is there.
    one("GLFLXP_RXDID_FLAGS[22]", 0x45_D058, Ro, 0x2A29_2827),
    many("GLFLXP_RXDID_FLAGS[23..]", 0x45_D05C, 41, 4, Ro, 0),
    // Rules of the flow director that the function has to itself, and those that it shares.
    one("GLQF_FD_SIZE", 0x46_0010, Ro, 512 | 512 << 16),
    many("QRXFLXP_CNTXT", QRXFLXP_CNTXT, ALL, 4, Rw, 0),
];

/// The register at `offset`; `None` where there is none.
pub fn lookup(offset: u32) -> Option<&'static Register> {
    let line = TABLE.partition_point(|register| register.offset <= offset);
    // Arrays do not overlap, so only the last one that begins before can hold it.
    let register = &TABLE[line.checked_sub(1)?];
    let at = offset - register.offset;
    (at.is_multiple_of(register.stride) && at / register.stride < register.count).then_some(register)
}

/// Which of the registers of an array an offset is; `None` when it is none of the model's queues' or vectors'.
pub fn index(offset: u32, first: u32) -> Option<usize> {
    let at = offset.checked_sub(first)? / 4;
    (at < ALL).then_some(at as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_in_order_and_do_not_overlap() {
        for pair in TABLE.windows(2) {
            let end = pair[0].offset + (pair[0].count - 1) * pair[0].stride;
            assert!(end < pair[1].offset, "{} and {}", pair[0].name, pair[1].name);
        }
        let last = TABLE.last().unwrap();
        assert!(u64::from(last.offset + last.count * last.stride) <= super::super::BAR0_LEN);
    }

    #[test]
    fn every_offset_finds_its_line() {
        for register in TABLE {
            assert_eq!(lookup(register.offset + (register.count - 1) * register.stride), Some(register));
        }
        assert_eq!(lookup(0), None);
        assert_eq!(lookup(0x09_1004), None);
        assert_eq!(lookup(0x50_0000), None);
    }
}
