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

/// In address order; names are those of Linux `ixgbe_type.h`.
const REASONS: &[Reason] = &[
    reason(
        0x0_0018,
        0x0_0018,
        "CTRL_EXT",
        "memory is coherent and there is no firmware: snooping and the driver-loaded bit change nothing",
    ),
    reason(0x0_004C, 0x0_004C, "TCPTIMER", "TCP timer interrupts"),
    reason(0x0_0200, 0x0_0200, "LEDCTL", "there are no lamps"),
    reason(0x0_0820, 0x0_087C, "EITR", "interrupt throttling: the model has no clock of its own"),
    reason(0x0_0894, 0x0_0894, "EITRSEL", "interrupt throttling of virtual functions"),
    reason(0x0_2000, 0x0_2000, "MSIXPBA of the 82598", "read by the register dump only; the 82599 has it in BAR4"),
    reason(0x0_2140, 0x0_217C, "RTRPT4C, RTRPT4S", "DCB: one traffic class"),
    reason(0x0_2410, 0x0_242C, "FCoE receive", "FCoE"),
    reason(0x0_2430, 0x0_2430, "RTRPCS", "DCB: one traffic class"),
    reason(0x0_2C00, 0x0_2C20, "RDSTAT, RDSTATCTL", "diagnostics, read by the register dump only"),
    reason(0x0_2F08, 0x0_2F34, "RDHMPN, RIC_DW, RDPROBE", "diagnostics, read by the register dump only"),
    reason(0x0_2F90, 0x0_2F90, "B2OGPRC", "counts frames between host and management controller, which is not there"),
    reason(0x0_3008, 0x0_3008, "PFCTOP", "flow control by priority"),
    reason(0x0_3020, 0x0_3020, "RTRUP2TC", "DCB: one traffic class"),
    reason(0x0_3028, 0x0_3028, "RSCDBU", "receive coalescing: a frame is delivered as it came, which RSC allows"),
    reason(0x0_3204, 0x0_320C, "FCTTV[1..]", "DCB: one traffic class"),
    reason(0x0_3224, 0x0_323C, "FCRTL[1..]", "DCB: one traffic class"),
    reason(0x0_3240, 0x0_325C, "PXON2OFFCNT", "flow control by priority"),
    reason(0x0_3264, 0x0_327C, "FCRTH[1..]", "DCB: one traffic class"),
    reason(0x0_32A0, 0x0_32A0, "FCRTV", "PAUSE is repeated when half of its time is over, whatever this says"),
    reason(0x0_3300, 0x0_3300, "PBRXECC", "memory has no bit errors"),
    reason(0x0_3600, 0x0_361C, "RXBUFCTRL, RXBUFDATA", "diagnostics, read by the register dump only"),
    reason(0x0_3D04, 0x0_3D04, "DROPEN", "a register of the 82598; the 82599 has SRRCTL.DROP_EN"),
    reason(0x0_3F00, 0x0_3F3C, "PXONTXC, PXOFFTXC", "flow control by priority"),
    reason(0x0_40B8, 0x0_40B8, "MNGPDC", "counts management frames, of which there are none"),
    reason(0x0_4140, 0x0_417C, "PXONRXCNT, PXOFFRXCNT", "flow control by priority"),
    reason(
        0x0_41C0,
        0x0_41C4,
        "B2OSPC, O2BGPTC",
        "counts frames between host and management controller, which is not there",
    ),
    reason(0x0_4200, 0x0_4224, "PCS1G*", "a 1 Gb/s link's own layer: the model's link is 10 Gb/s"),
    reason(0x0_4248, 0x0_4258, "PAP, MACA, APAE, ARD, AIS", "read by the register dump only"),
    reason(0x0_4264, 0x0_4264, "MLADD", "read by the register dump only"),
    reason(0x0_426C, 0x0_426C, "TREG", "read by the register dump only"),
    reason(0x0_4288, 0x0_4290, "PCSS1, PCSS2, XPCSS", "lanes of the link: LINKS says all that is modelled"),
    reason(0x0_4298, 0x0_429C, "SERDESC, MACS", "lanes of the link: LINKS says all that is modelled"),
    reason(0x0_42A8, 0x0_42A8, "AUTOC2", "the link's mode comes from the device ID"),
    reason(0x0_42AC, 0x0_42AC, "AUTOC3", "the link's mode comes from the device ID"),
    reason(0x0_42B4, 0x0_42B4, "ANLP2", "the link partner has no second page"),
    reason(0x0_42B8, 0x0_42CC, "MDFTC, MDFTFIFO, MDFTS", "diagnostics, read by the register dump only"),
    reason(0x0_4330, 0x0_4330, "MACC", "the link's mode comes from the device ID"),
    reason(0x0_4800, 0x0_4800, "ATLASCTL", "analogue parts of the PHY"),
    reason(
        0x0_4900,
        0x0_494C,
        "RTTDCS, RTTDQSEL, RTTDT*",
        "DCB and rate limits: a queue sends as fast as the wire takes it",
    ),
    reason(0x0_4950, 0x0_496C, "TXPBTHRESH", "a frame is sent when it is whole"),
    reason(0x0_4980, 0x0_498C, "RTTBCN*", "DCB and rate limits: a queue sends as fast as the wire takes it"),
    reason(0x0_4A90, 0x0_4A90, "RTTQCNTG", "DCB: congestion notification"),
    reason(0x0_5008, 0x0_5008, "RFCTL", "switches off what is not modelled (receive coalescing, NFS)"),
    reason(0x0_50A4, 0x0_50A4, "RFVAL", "diagnostics, read by the register dump only"),
    reason(0x0_5118, 0x0_5118, "FCCRC", "FCoE"),
    reason(0x0_5120, 0x0_5120, "RXMTRL", "time stamps are not modelled"),
    reason(0x0_5128, 0x0_5144, "ETQF", "queues by Ethernet type: used for FCoE and for time stamps"),
    reason(0x0_5188, 0x0_5188, "TSYNCRXCTL", "time stamps are not modelled"),
    reason(0x0_51A0, 0x0_51A8, "RXSTMP*", "time stamps are not modelled"),
    reason(0x0_51B0, 0x0_51B0, "VT_CTL", "virtual functions: one pool"),
    reason(0x0_5480, 0x0_54BC, "PSRTYPE", "header split, and queues a pool: neither is modelled"),
    reason(0x0_5800, 0x0_5810, "WUC, WUFC, WUS", "the machine does not sleep"),
    reason(0x0_581C, 0x0_581C, "VMD_CTL", "a register of the 82598"),
    reason(0x0_5838, 0x0_5A7C, "IPAV, IP4AT, IP6AT, WUPL, WUPM", "the machine does not sleep"),
    reason(0x0_5A80, 0x0_5AC0, "IMIR, IMIREXT, IMIRVP", "low-latency interrupts: every interrupt is immediate"),
    reason(0x0_7000, 0x0_7FFC, "TX queues 64..127", "this model runs 64 queues"),
    reason(0x0_8100, 0x0_8100, "DTXMXSZRQ", "the bus takes any number of requests"),
    reason(0x0_8120, 0x0_8120, "MTQC", "one traffic class, one pool"),
    reason(0x0_8220, 0x0_8220, "PFDTXGSWC", "virtual functions: nothing is switched between pools"),
    reason(0x0_82E0, 0x0_82EC, "TXLLQ", "low-latency queues"),
    reason(0x0_8784, 0x0_8788, "FCOEPTC, FCOEDWTC", "FCoE"),
    reason(0x0_87A0, 0x0_87A0, "TXDGPC", "a counter for the diagnosis of hangs; TPT counts the same frames"),
    reason(0x0_87B0, 0x0_87B0, "O2BSPC", "counts frames between host and management controller, which is not there"),
    reason(0x0_8800, 0x0_8800, "SECTXCTRL", "IPsec and LinkSec: the block passes all through"),
    reason(0x0_8808, 0x0_8810, "SECTXBUFFAF, SECTXMINIFG", "IPsec and LinkSec: the block passes all through"),
    reason(0x0_8900, 0x0_8914, "IPSTX*", "IPsec: the driver clears the tables"),
    reason(0x0_8B00, 0x0_8B00, "RTTQCNCR", "DCB: congestion notification"),
    reason(0x0_8C00, 0x0_8C68, "TSYNCTXCTL, SYSTIM, TIMINCA", "time stamps are not modelled"),
    reason(0x0_8D00, 0x0_8D00, "SECRXCTRL", "IPsec and LinkSec: the block passes all through"),
    reason(0x0_8E00, 0x0_8E30, "IPSRX*", "IPsec: the driver clears the tables"),
    reason(0x0_9000, 0x0_9FFC, "FHFT", "the machine does not sleep"),
    reason(0x0_A600, 0x0_A9FC, "MPSAR", "virtual functions: one pool"),
    reason(0x0_C300, 0x0_C300, "PBTXECC", "memory has no bit errors"),
    reason(0x0_C600, 0x0_C61C, "TXBUFCTRL, TXBUFDATA", "diagnostics, read by the register dump only"),
    reason(0x0_C800, 0x0_C800, "RTTUP2TC", "DCB: one traffic class"),
    reason(0x0_CB00, 0x0_CB00, "TIPG", "the wire has no gaps"),
    reason(0x0_CC00, 0x0_CC1C, "TXPBSIZE", "a fixed number of frames is in flight"),
    reason(0x0_CD00, 0x0_CD5C, "RTTPCS, MNGTXMAP, RTTPT2C, RTTPT2S", "DCB: one traffic class"),
    reason(0x0_CE00, 0x0_CE00, "TFCS", "whether it is paused: a driver need not know"),
    reason(0x0_CF90, 0x0_CF90, "MNGPTC", "counts management frames, of which there are none"),
    reason(0x0_D000, 0x0_DFFC, "RX queues 64..127", "this model runs 64 queues"),
    reason(0x0_E600, 0x0_E7FC, "FTQF", "queues by five-tuple"),
    reason(0x0_EC00, 0x0_EC1C, "ETQS", "queues by Ethernet type: used for FCoE and for time stamps"),
    reason(0x0_EE04, 0x0_EE78, "FDIR*", "flow director: frames go where RSS says"),
    reason(0x0_F000, 0x0_F0FC, "VMOLR", "virtual functions: one pool"),
    reason(0x0_F100, 0x0_F1FC, "VLVF", "virtual functions: one pool"),
    reason(0x0_F200, 0x0_F3FC, "VLVFB", "virtual functions: one pool"),
    reason(0x0_F400, 0x0_F5FC, "UTA", "virtual functions: the unicast hash is a pool's"),
    reason(0x1_0018, 0x1_0018, "EEWR", "the EEPROM is read only"),
    reason(0x1_001C, 0x1_001C, "FLA", "there is no flash"),
    reason(0x1_0110, 0x1_013C, "EEMNGCTL, FLMNGCTL, FLOP", "there is no firmware and no flash"),
    reason(0x1_0200, 0x1_0200, "GRC", "there is no firmware"),
    reason(0x1_1000, 0x1_1000, "GCR", "completion timeouts: the bus always answers"),
    reason(0x1_1050, 0x1_1050, "GCR_EXT", "the transaction buffers are always clear"),
    reason(0x1_1068, 0x1_106C, "PBACL", "pending interrupts are QEMU's to keep"),
    reason(0x1_1074, 0x1_1074, "DCA_CTRL", "direct cache access: the memory is the host's"),
    reason(0x1_1090, 0x1_10AC, "PCIE_DIAG", "diagnostics, read by the register dump only"),
    reason(0x1_2300, 0x1_239C, "EITR", "interrupt throttling: the model has no clock of its own"),
    reason(0x1_4F00, 0x1_4F00, "CORECTL", "analogue parts of the PHY"),
    reason(0x1_5F5C, 0x1_5F5C, "I2CCTL of the X550", "a copper part has no module to ask"),
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
