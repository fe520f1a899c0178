//! Registers of the E810 that this driver touches, in the order of their offsets (Linux `ice_hw_autogen.h`; no datasheet is
//! public). Queue and vector numbers count from the function's first.

use crate::registers::registers;

registers! {
    // Control queues: firmware's admin queues, to it (ATQ) and from it (ARQ)
    PF_FW_ATQBAL 0x080000 Rw "Send ring address, low.";
    PF_FW_ARQBAL 0x080080 Rw "Receive ring address, low.";
    PF_FW_ATQBAH 0x080100 Rw "Send ring address, high.";
    PF_FW_ARQBAH 0x080180 Rw "Receive ring address, high.";
    PF_FW_ATQLEN 0x080200 Rw "Send ring: descriptors, errors, enable.";
    PF_FW_ARQLEN 0x080280 Rw "Receive ring: descriptors, errors, enable.";
    PF_FW_ATQH   0x080300 Rw "Send ring: the firmware's index.";
    PF_FW_ARQH   0x080380 Rw "Receive ring: the firmware's index.";
    PF_FW_ATQT   0x080400 Rw "Send ring: our index, a doorbell.";
    PF_FW_ARQT   0x080480 Rw "Receive ring: our index.";
    // Reset and identity
    PFGEN_CTRL   0x091000 Rw "Reset of the function.";
    PF_FUNC_RID  0x09E880 Ro "Bus, device and function number.";
    GLNVM_ULD    0x0B6008 Ro "What has been loaded from the NVM since the last resets.";
    GLGEN_RSTCTL 0x0B8180 Ro "Time that a global reset takes, 100 ms.";
    GLGEN_RSTAT  0x0B8188 Ro "State of the device: 0 is active.";
    // Queues and interrupts
    QRX_CTRL[2048, 4] 0x120000 Rw "Receive queue: enable.";
    QINT_TQCTL[2048, 4] 0x140000 Rw "Transmit queue: its vector.";
    QINT_RQCTL[2048, 4] 0x150000 Rw "Receive queue: its vector.";
    GLINT_ITR[2048, 4] 0x154000 Rw "Interval 0 of a vector, 2 us.";
    GLINT_DYN_CTL[2048, 4] 0x160000 Rw "Vector: enable, write-back.";
    PFINT_OICR_ENA 0x16C900 Rw "Other causes: enable.";
    QRX_CONTEXT0[2048, 4] 0x280000 Rw "Receive queue context; seven more words follow, 0x2000 apart.";
    QRX_TAIL[2048, 4] 0x290000 Rw "Receive tail; its three low bits are ignored.";
    GLV_RDPC[768, 4] 0x294C04 Ro "Frames of a VSI dropped for want of descriptors.";
    QTX_COMM_DBELL[16384, 4] 0x2C0000 Wo "Transmit tail: the doorbell.";
    // Port statistics: low words, the high ones 4 bytes on; not cleared by reading, nor by a reset of the function
    GLPRT_GORCL[8, 8] 0x380000 Ro "Good bytes received.";
    GLPRT_CRCERRS[8, 8] 0x380100 Ro "Frames with a bad check sequence.";
    GLPRT_RLEC[8, 8]  0x380140 Ro "Frames with a bad length field.";
    GLPRT_GOTCL[8, 8] 0x380B40 Ro "Good bytes sent.";
    GLPRT_UPTCL[8, 8] 0x3811C0 Ro "Unicast frames sent.";
    GLPRT_MPTCL[8, 8] 0x381200 Ro "Multicast frames sent.";
    GLPRT_BPTCL[8, 8] 0x381240 Ro "Broadcast frames sent.";
    GLPRT_UPRCL[8, 8] 0x381300 Ro "Unicast frames received.";
    GLPRT_MPRCL[8, 8] 0x381340 Ro "Multicast frames received.";
    GLPRT_BPRCL[8, 8] 0x381380 Ro "Broadcast frames received.";
    // Flexible descriptors
    QRXFLXP_CNTXT[2048, 4] 0x480000 Rw "Receive queue: descriptor profile. Keeps its value over resets.";
}

/// All registers lie below.
pub(super) const REGISTERS_LEN: u64 = 0x48_2000;

pub(super) const ATQLEN_ENABLE: u32 = 1 << 31;
/// The firmware gave up: a command it could not read, overflow, a critical error.
pub(super) const ATQLEN_ERRORS: u32 = 7 << 28;
/// Head and tail indices.
pub(super) const INDEX: u32 = 0x3ff;
pub(super) const PFGEN_CTRL_PFSWR: u32 = 1 << 0;
pub(super) const PF_FUNC_RID_FUNCTION: u32 = 7;
/// All of the resets are over: PCIe (three bits), core, global, power-on (two bits).
pub(super) const GLNVM_ULD_DONE: u32 = 0x33b;
pub(super) const GLGEN_RSTCTL_GRSTDEL: u32 = 0x3f;
pub(super) const GLGEN_RSTAT_DEVSTATE: u32 = 3;
pub(super) const QRX_CTRL_QENA_REQ: u32 = 1 << 0;
pub(super) const QRX_CTRL_QENA_STAT: u32 = 1 << 2;
pub(super) const QINT_CAUSE_ENA: u32 = 1 << 30;
/// Write descriptors back when the interval is over, although no interrupt is wanted. Intervals stay as they are.
pub(super) const GLINT_DYN_CTL_WB_ON_ITR: u32 = 1 << 30 | GLINT_DYN_CTL_ITR_NONE;
/// Interrupt once, when something is written back. Intervals stay as they are.
pub(super) const GLINT_DYN_CTL_INTENA: u32 = 1 << 0 | 1 << 1 | GLINT_DYN_CTL_ITR_NONE;
const GLINT_DYN_CTL_ITR_NONE: u32 = 3 << 3;
/// Profile 2: the NIC's flexible descriptor. Priority 3, so that it wins over what the register held.
pub(super) const QRXFLXP_NIC: u32 = 2 | 3 << 8;
