//! Registers of the 82599 that this driver touches, in datasheet order (82599 datasheet section 8.2; offsets as in
//! Linux `ixgbe_type.h`).

use crate::registers::registers;

registers! {
    // General control (8.2.3.1)
    CTRL      0x00000 Rw "Device control.";
    STATUS    0x00008 Ro "Device status.";
    CTRL_EXT  0x00018 Rw "Extended device control.";
    ESDP      0x00020 Rw "Software-definable pins; pin 3 switches the laser of dual-speed SFP+ boards off.";
    I2CCTL    0x00028 Rw "Two lines to the module in the cage.";
    EEC       0x10010 Rw "EEPROM and flash control.";
    SWSM      0x10140 Rw "Semaphores among drivers, and between them and the firmware.";
    SW_FW_SYNC 0x10160 Rw "What is in use by whom.";
    // PCIe (8.2.3.4)
    GCR_EXT   0x11050 Rw "PCIe control, extended.";
    // Interrupts (8.2.3.5)
    EICR      0x00800 Rc "Interrupt cause.";
    EIAC      0x00810 Rw "Causes that a message clears.";
    EITR[24, 4] 0x00820 Rw "Time between two messages of a vector.";
    EIMS      0x00880 Rw "Interrupt mask set.";
    EIAM_EX[2, 4] 0x00AD0 Rw "Vectors that a message masks.";
    GPIE      0x00898 Rw "Interrupts in general.";
    IVAR[64, 4] 0x00900 Rw "Vectors of two receive and two transmit queues, a byte each.";
    EIMC      0x00888 Wo "Interrupt mask clear.";
    EIMC_EX[2, 4] 0x00AB0 Wo "Interrupt mask clear, vectors 0..63.";
    // Receive (8.2.3.7, 8.2.3.8)
    FCTRL     0x05080 Rw "Receive filter control.";
    RXCSUM    0x05000 Rw "Receive checksum control.";
    MTA[128, 4]  0x05200 Rw "Multicast table, a bit a hash.";
    MCSTCTRL  0x05090 Rw "Whether the multicast table counts.";
    RAL[128, 8]  0x0A200 Rw "Receive address, low: bytes 0..4 of the MAC.";
    RAH[128, 8]  0x0A204 Rw "Receive address, high: bytes 4..6 of the MAC, bit 31 valid.";
    MPSAR[256, 4] 0x0A600 Rw "Pools of a receive address, two words an address.";
    VFTA[128, 4] 0x0A000 Rw "VLAN table.";
    PFUTA[128, 4] 0x0F400 Rw "Unicast hash table.";
    RDBAL[64, 0x40]  0x01000 Rw "Receive ring address, low.";
    RDBAH[64, 0x40]  0x01004 Rw "Receive ring address, high.";
    RDLEN[64, 0x40]  0x01008 Rw "Receive ring length, bytes.";
    DCA_RXCTRL[64, 0x40] 0x0100C Rw "Receive DCA control; bit 12 must be cleared.";
    RDH[64, 0x40]    0x01010 Rw "Receive head.";
    SRRCTL[64, 0x40] 0x01014 Rw "Receive buffers: size, descriptor type, drop.";
    RDT[64, 0x40]    0x01018 Rw "Receive tail.";
    RXDCTL[64, 0x40] 0x01028 Rw "Receive queue control.";
    RSCCTL[64, 0x40] 0x0102C Rw "Receive side coalescing.";
    MRQC      0x05818 Rw "Multiple receive queues: RSS and what is hashed.";
    RSSRK[10, 4] 0x05C80 Rw "Key of the RSS hash, bytes.";
    RETA[32, 4]  0x05C00 Rw "Queue of each of 128 hash values, a byte each.";
    RDRXCTL   0x02F00 Rw "Receive DMA control.";
    RXCTRL    0x03000 Rw "Receive control.";
    RXPBSIZE[8, 4] 0x03C00 Rw "Receive packet buffer size, KiB << 10.";
    FCRTH[8, 4] 0x03260 Rw "Flow control receive threshold, high.";
    // Flow control (8.2.3.3)
    FCTTV[4, 4] 0x03200 Rw "Time that a pause asks for.";
    FCRTL[8, 4] 0x03220 Rw "Flow control receive threshold, low.";
    FCRTV     0x032A0 Rw "When a pause is asked for again.";
    FCCFG     0x03D00 Rw "Which pauses are sent.";
    // Transmit (8.2.3.9)
    DMATXCTL  0x04A80 Rw "Transmit DMA control.";
    DTXMXSZRQ 0x08100 Rw "Bytes of transmit DMA requests in flight.";
    TDBAL[128, 0x40]  0x06000 Rw "Transmit ring address, low.";
    TDBAH[128, 0x40]  0x06004 Rw "Transmit ring address, high.";
    TDLEN[128, 0x40]  0x06008 Rw "Transmit ring length, bytes.";
    TDH[128, 0x40]    0x06010 Rw "Transmit head.";
    TDT[128, 0x40]    0x06018 Rw "Transmit tail: the doorbell.";
    TXDCTL[128, 0x40] 0x06028 Rw "Transmit queue control.";
    TDWBAL[128, 0x40] 0x06038 Rw "Head write-back address, low; bit 0 enables.";
    TXPBSIZE[8, 4]   0x0CC00 Rw "Transmit packet buffer size, KiB << 10.";
    TXPBTHRESH[8, 4] 0x04950 Rw "Transmit packet buffer threshold, KiB.";
    MTQC      0x08120 Rw "Multiple transmit queues.";
    // Transmit scheduler (8.2.3.10)
    RTTDCS    0x04900 Rw "Transmit arbiter control.";
    RTTDQSEL  0x04904 Rw "Which queue the next register speaks of.";
    RTTDT1C   0x04908 Rw "Transmit credits of the queue.";
    RTTBCNRC  0x04984 Rw "Transmit rate limit of the queue.";
    // Security blocks (8.2.3.12)
    SECRXCTRL 0x08D00 Rw "Receive path through the security block.";
    SECRXSTAT 0x08D04 Ro "Whether that path is empty.";
    // MAC and link (8.2.3.22)
    HLREG0    0x04240 Rw "MAC control.";
    MSCA      0x0425C Rw "MDIO command and address.";
    MSRWD     0x04260 Rw "MDIO data.";
    MFLCN     0x04294 Rw "Which pauses are obeyed.";
    MAXFRS    0x04268 Rw "Largest frame, bytes << 16.";
    AUTOC     0x042A0 Rw "Auto-negotiation control.";
    LINKS     0x042A4 Ro "Link status.";
    // Statistics (8.2.3.23)
    CRCERRS   0x04000 Rc "Frames with a bad check sequence.";
    RLEC      0x04040 Rc "Frames with a bad length field.";
    MPC[8, 4] 0x03FA0 Rc "Frames missed for want of packet buffer.";
    GPRC      0x04074 Rc "Good frames received.";
    GPTC      0x04080 Rc "Good frames sent.";
    GORCL     0x04088 Rc "Good bytes received, low.";
    GORCH     0x0408C Rc "Good bytes received, high.";
    GOTCL     0x04090 Rc "Good bytes sent, low.";
    GOTCH     0x04094 Rc "Good bytes sent, high.";
    LXONTXC   0x03F60 Rc "Ends of pauses asked for.";
    LXOFFTXC  0x03F68 Rc "Pauses asked for.";
    LXONRXCNT 0x041A4 Rc "Ends of pauses heard.";
    LXOFFRXCNT 0x041A8 Rc "Pauses heard.";
    RQSMR[32, 4] 0x02300 Rw "Counters of four receive queues, a byte each.";
    TQSM[32, 4] 0x08600 Rw "Counters of four transmit queues, a byte each.";
    QPRC[16, 0x40] 0x01030 Rc "Frames received by queue.";
    QBRC_L[16, 0x40] 0x01034 Rc "Bytes received by queue, low.";
    QBRC_H[16, 0x40] 0x01038 Rc "The same, high.";
    QPTC[16, 0x40] 0x06030 Rc "Frames sent by queue.";
    QBTC_L[16, 8] 0x08700 Rc "Bytes sent by queue, low.";
    QBTC_H[16, 8] 0x08704 Rc "The same, high.";
    QPRDC[16, 0x40] 0x01430 Rc "Frames dropped for want of receive descriptors.";
    XEC       0x04120 Rc "Frames with a bad IP, UDP or TCP checksum.";
}

pub(crate) const CTRL_GIO_DIS: u32 = 1 << 2;
pub(crate) const CTRL_LNK_RST: u32 = 1 << 3;
pub(crate) const CTRL_RST: u32 = 1 << 26;
pub(crate) const STATUS_LAN_ID: u32 = 3 << 2;
pub(crate) const I2C_CLOCK_OUT: u32 = 1 << 1;
pub(crate) const I2C_DATA_IN: u32 = 1 << 2;
pub(crate) const I2C_DATA_OUT: u32 = 1 << 3;
pub(crate) const SWSM_SMBI: u32 = 1 << 0;
pub(crate) const SWSM_SWESMBI: u32 = 1 << 1;
pub(crate) const SW_FW_SYNC_PHY0: u32 = 1 << 1;
pub(crate) const SW_FW_SYNC_PHY1: u32 = 1 << 2;
/// The copper parts' semaphore of the register itself: reading takes it.
pub(crate) const SW_FW_SYNC_REGSMP: u32 = 1 << 31;
pub(crate) const MSCA_ADDRESS: u32 = 0;
pub(crate) const MSCA_READ: u32 = 3 << 26;
pub(crate) const MSCA_COMMAND: u32 = 1 << 30;
pub(crate) const MCSTCTRL_MFE: u32 = 1 << 2;
pub(crate) const FCRTL_XONE: u32 = 1 << 31;
pub(crate) const FCRTH_FCEN: u32 = 1 << 31;
/// Of the link as a whole, not of a priority.
pub(crate) const FCCFG_TFCE: u32 = 1 << 3;
/// Obeyed pauses are not received.
pub(crate) const MFLCN_DPF: u32 = 1 << 1;
pub(crate) const MFLCN_RFCE: u32 = 1 << 3;
pub(crate) const STATUS_GIO: u32 = 1 << 19;
pub(crate) const CTRL_EXT_NS_DIS: u32 = 1 << 16;
pub(crate) const CTRL_EXT_DRV_LOAD: u32 = 1 << 28;
pub(crate) const ESDP_SDP3: u32 = 1 << 3;
pub(crate) const ESDP_SDP3_DIR: u32 = 1 << 11;
pub(crate) const EEC_PRES: u32 = 1 << 8;
pub(crate) const EEC_ARD: u32 = 1 << 9;
pub(crate) const GCR_EXT_BUFFERS_CLEAR: u32 = 1 << 30;
pub(crate) const GPIE_MSIX: u32 = 1 << 4;
pub(crate) const GPIE_OCD: u32 = 1 << 5;
pub(crate) const GPIE_EIAME: u32 = 1 << 30;
/// Must stay set (specification update, erratum 1).
pub(crate) const GPIE_PBA: u32 = 1 << 31;
/// 10 us, in units of 2 us.
pub(crate) const EITR_10_US: u32 = 5 << 3;
pub(crate) const IVAR_VALID: u32 = 1 << 7;
pub(crate) const FCTRL_MPE: u32 = 1 << 8;
pub(crate) const FCTRL_UPE: u32 = 1 << 9;
pub(crate) const FCTRL_BAM: u32 = 1 << 10;
pub(crate) const RXCSUM_PCSD: u32 = 1 << 13;
pub(crate) const RAH_AV: u32 = 1 << 31;
/// Header-split is not used; one advanced descriptor a buffer.
pub(crate) const SRRCTL_ADVANCED: u32 = 1 << 25;
pub(crate) const SRRCTL_DROP_EN: u32 = 1 << 28;
pub(crate) const DCTL_ENABLE: u32 = 1 << 25;
pub(crate) const DCA_RXCTRL_RESERVED: u32 = 1 << 12;
pub(crate) const RXDCTL_VME: u32 = 1 << 30;
/// RSS over addresses and ports of TCP and UDP, over addresses of other packets.
pub(crate) const MRQC_RSS: u32 = 1 | 1 << 16 | 1 << 17 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23;
pub(crate) const RDRXCTL_CRCSTRIP: u32 = 1 << 1;
pub(crate) const RDRXCTL_DMAIDONE: u32 = 1 << 3;
pub(crate) const RDRXCTL_RSCFRSTSIZE: u32 = 0x1f << 17;
pub(crate) const RDRXCTL_RSCACKC: u32 = 1 << 25;
pub(crate) const RDRXCTL_FCOE_WRFIX: u32 = 1 << 26;
pub(crate) const RXCTRL_RXEN: u32 = 1 << 0;
pub(crate) const DMATXCTL_TE: u32 = 1 << 0;
pub(crate) const RTTDCS_ARBDIS: u32 = 1 << 6;
pub(crate) const SECRXCTRL_RX_DIS: u32 = 1 << 1;
pub(crate) const SECRXSTAT_RDY: u32 = 1 << 0;
pub(crate) const HLREG0_TXCRCEN: u32 = 1 << 0;
pub(crate) const HLREG0_RXCRCSTRP: u32 = 1 << 1;
pub(crate) const HLREG0_JUMBOEN: u32 = 1 << 2;
pub(crate) const HLREG0_TXPADEN: u32 = 1 << 10;
pub(crate) const HLREG0_LPBK: u32 = 1 << 15;
pub(crate) const AUTOC_AN_RESTART: u32 = 1 << 12;
pub(crate) const LINKS_UP: u32 = 1 << 30;
pub(crate) const LINKS_OTHER_SPEED: u32 = 1 << 27;
pub(crate) const LINKS_SPEED: u32 = 3 << 28;
