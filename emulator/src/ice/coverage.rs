//! How much of the register space is modelled, and why the rest is not.
//!
//! Stock drivers touch registers that this model only stores, or does not have. Each of them has its reason here, so that
//! one without a reason shows in the report of `cargo xtask qemu`.

use super::regs::{self, Mode};
use crate::register_table::{Coverage, Reason, reason};

/// What the model makes of the register at `offset` in BAR0.
pub fn describe(offset: u32) -> Coverage {
    Coverage::of(REASONS, offset, regs::lookup(offset), &Mode::Stored)
}

/// In address order; names are those of Linux `ice_hw_autogen.h`.
const REASONS: &[Reason] = &[
    reason(0x04_9348, 0x04_9348, "GL_MDCK_TX_TDPU", "which checks of malice are made: all that are modelled"),
    reason(0x09_DB80, 0x09_DC00, "PFPM_WUS, PFPM_WUFC", "the machine does not sleep"),
    reason(
        0x0A_C260,
        0x0A_C260,
        "PRTRPB_RDPC",
        "drops of the packet buffer are counted in GLV_RDPC, which says for whom",
    ),
    reason(0x0B_612C, 0x0B_612C, "GLGEN_STAT", "read to let earlier writes reach the device"),
    reason(0x0B_8080, 0x0B_8080, "PFPM_APM", "the machine does not sleep"),
    reason(0x15_4000, 0x15_AFFC, "GLINT_ITR, GLINT_RATE", "interrupt throttling: the model has no clock of its own"),
    reason(0x16_2000, 0x16_2FFC, "GLINT_VECT2FUNC", "one function: every vector is its own"),
    reason(0x16_B280, 0x16_B280, "PFINT_MBX_CTL", "virtual functions: nobody writes to the mailbox"),
    reason(0x16_B600, 0x16_B600, "PFINT_SB_CTL", "the sideband queue is other parts' (E822)"),
    reason(0x16_CC54, 0x16_CC54, "GLINT_CTL", "interrupt throttling: the model has no clock of its own"),
    reason(0x1E_36E0, 0x1E_3900, "PRTMAC_HSEC_CTL_TX_PAUSE_*", "flow control: this MAC neither sends nor obeys PAUSE"),
    reason(0x20_F0FC, 0x20_F113, "GL_PREEXT_L2_PMASK*", "how tags are parsed is fixed: one tag, 0x8100"),
    reason(0x22_E100, 0x22_E580, "PF_MBX_*", "virtual functions: nobody writes to the mailbox"),
    reason(0x29_2000, 0x29_2FFC, "QRX_ITR", "interrupt throttling: the model has no clock of its own"),
    reason(0x2D_2D40, 0x2D_2DC8, "GLCOMM_QTX_CNTX_*", "diagnostics: the context as hardware keeps it"),
    reason(
        0x38_0300,
        0x38_08FC,
        "GLPRT_PXONRXC, PXOFFRXC, RXON2OFFCNT",
        "counts PAUSE frames, of which there are none",
    ),
    reason(0x38_0D40, 0x38_113C, "GLPRT_PXONTXC, PXOFFTXC", "counts PAUSE frames, of which there are none"),
    reason(0x3A_0000, 0x3A_3FFC, "GLSTAT_FD_CNT0", "flow director: its rules never match"),
    reason(0x40_D000, 0x40_DBFC, "VSIQF_HASH_CTL", "the hash is always Toeplitz's"),
    reason(0x40_F000, 0x40_FBFC, "GLQF_HSYMM", "what is hashed is fixed"),
    reason(0x40_FC00, 0x40_FC7C, "GLQF_HMASK", "what is hashed is fixed"),
    reason(0x41_0000, 0x41_01FC, "GLQF_HMASK_SEL", "what is hashed is fixed"),
    reason(0x41_0400, 0x41_05FC, "GLQF_FDMASK_SEL", "flow director: its rules never match"),
    reason(0x41_0800, 0x41_087C, "GLQF_FDMASK", "flow director: its rules never match"),
    reason(0x41_2000, 0x41_2BFC, "GLQF_FDINSET", "flow director: its rules never match"),
    reason(0x41_3000, 0x41_3BFC, "GLQF_FDSWAP", "flow director: its rules never match"),
    reason(0x43_A000, 0x43_A000, "PFQF_FD_ENA", "flow director: its rules never match"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_register_has_its_reason() {
        for register in regs::TABLE.iter().filter(|register| register.mode == Mode::Stored) {
            assert_ne!(describe(register.offset).why, "", "{} at {:#x}", register.name, register.offset);
        }
    }

    #[test]
    fn reasons_are_in_order_and_do_not_overlap() {
        assert!(REASONS.windows(2).all(|pair| pair[0].last < pair[1].first));
        assert!(REASONS.iter().all(|reason| reason.first <= reason.last));
    }
}
