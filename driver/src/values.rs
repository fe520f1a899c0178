//! What a NIC is told and what it tells: settings, abilities, counts.

use std::fmt;

use crate::{Error, Result};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// State of the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Whether frames can pass.
    pub up: bool,
    /// Speed, megabits a second; 0 when not known.
    pub megabits: u32,
}

/// How a NIC is set up.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Descriptors of the transmit ring: a power of two, 64 to 8192. A device that can do only less gets less.
    pub tx_ring: u16,
    /// Descriptors of the receive ring, likewise.
    pub rx_ring: u16,
    /// Largest frame without check sequence, bytes: 1514 for an MTU of 1500; at most 9720.
    pub max_frame: u16,
    /// Receive frames for other stations as well. A virtio device without CTRL_RX is not asked: it filters as it does by itself.
    pub promiscuous: bool,
    /// Transmit and receive queues, of each so many: 1 to 16. With more than one the device spreads received flows over the
    /// receive queues (RSS, or for virtio the queue on which the flow was sent); all of them must be taken and polled then. A device
    /// that has fewer gives fewer: see [`Capabilities::queues`].
    pub queues: u16,
    /// Take the VLAN tag off received frames: see [`RxFrame::vlan`](crate::RxFrame::vlan). Where the device cannot, frames keep it.
    pub vlan_strip: bool,
    /// Have an interrupt for each pair of queues, so that owners with nothing to do can [wait](crate::RxQueue::wait). Nothing else
    /// changes: queues are polled.
    pub interrupts: bool,
    /// Ask the far end to pause when receive buffers run out, and pause when it asks (IEEE 802.3x). Virtio has none.
    pub flow_control: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tx_ring: 1024,
            rx_ring: 1024,
            max_frame: 1514,
            promiscuous: false,
            queues: 1,
            vlan_strip: false,
            interrupts: false,
            flow_control: false,
        }
    }
}

/// What RSS of the 82599 spreads over.
const MOST_QUEUES: u16 = 16;
/// Most bytes of an IP packet to be cut into segments, where the device itself writes all lengths. Its descriptor counts the payload
/// in 18 bits (82599 datasheet 7.2.3.2.4, PAYLEN; E810 datasheet 10.5.3, TSO length), and this counts headers too.
pub(crate) const MOST_SEGMENTED: usize = (1 << 18) - 1;
/// The same where it is told the lengths by the packet's header, which has 16 bits for them.
pub(crate) const MOST_SEGMENTED_BY_HEADER: usize = u16::MAX as usize;
/// Ethernet header and a tag, bytes.
pub(crate) const TAGGED_ETHERNET: usize = 22;

/// Bytes of the longest frame that any device here takes, without check sequence.
pub(crate) const LONGEST_FRAME: usize = 9720;

impl Config {
    pub(crate) fn check(&self) -> Result<()> {
        for (setting, size) in [("transmit ring", self.tx_ring), ("receive ring", self.rx_ring)] {
            if !size.is_power_of_two() || !(64..=8192).contains(&size) {
                let allowed = "a power of two from 64 to 8192 descriptors would do";
                return Err(Error::Setting { setting, found: size.into(), allowed });
            }
        }
        if !(64..=LONGEST_FRAME as u16).contains(&self.max_frame) {
            let allowed = "64 to 9720 bytes would do";
            return Err(Error::Setting { setting: "largest frame", found: self.max_frame.into(), allowed });
        }
        if !(1..=MOST_QUEUES).contains(&self.queues) {
            let allowed = "1 to 16 would do";
            return Err(Error::Setting { setting: "queues", found: self.queues.into(), allowed });
        }
        Ok(())
    }
}

/// What the device can do.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// IPv4 header, UDP and TCP checksums on transmit. Where there are none, a frame with an [`Offload`](crate::Offload) that asks for a transport's
    /// is refused: who posts it computes them, for the driver does not look into payload.
    pub tx_checksum: bool,
    /// The same on receive.
    pub rx_checksum: bool,
    /// SCTP's CRC32c on transmit.
    pub sctp_checksum: bool,
    /// Cuts TCP ([`Offload::segment`](crate::Offload::segment)).
    pub tcp_segmentation: bool,
    /// Cuts UDP ([`Offload::segment`](crate::Offload::segment)).
    pub udp_segmentation: bool,
    /// Puts VLAN tags in ([`Offload::vlan`](crate::Offload::vlan)) and takes them off ([`Config::vlan_strip`]).
    pub vlan: bool,
    /// Longest frame to be cut into segments, bytes; 0 where none is.
    pub max_segmented: usize,
    /// Queues of each kind.
    pub queues: usize,
    /// Largest frame it was set up for, bytes without check sequence.
    pub max_frame: usize,
    /// Longest [`Frame`](crate::Frame) header, bytes.
    pub header_len: usize,
    /// Payload pieces of one frame.
    pub payload_pieces: usize,
    /// Descriptors in the transmit ring.
    pub tx_ring: usize,
    /// Descriptors in the receive ring.
    pub rx_ring: usize,
}

/// What the port counted since it was opened, over all resets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Statistics {
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes sent, with check sequences.
    pub tx_bytes: u64,
    /// Good frames received.
    pub rx_frames: u64,
    /// Bytes in them, with check sequences.
    pub rx_bytes: u64,
    /// Frames lost for want of buffers.
    pub rx_missed: u64,
    /// Damaged frames.
    pub rx_errors: u64,
    /// Frames with a wrong IP, UDP or TCP checksum.
    pub rx_checksum_errors: u64,
    /// Times that [`Nic::link`](crate::Nic::link) found the link lost that it had found before.
    pub link_losses: u64,
    /// Times that the NIC came up again after [`Nic::reset`](crate::Nic::reset).
    pub resets: u64,
    /// Pauses that the port asked the far end for.
    pub pauses_sent: u64,
    /// Pauses that the far end asked for.
    pub pauses_received: u64,
}

impl Statistics {
    /// The sums of two lives of a device.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            tx_frames: self.tx_frames + other.tx_frames,
            tx_bytes: self.tx_bytes + other.tx_bytes,
            rx_frames: self.rx_frames + other.rx_frames,
            rx_bytes: self.rx_bytes + other.rx_bytes,
            rx_missed: self.rx_missed + other.rx_missed,
            rx_errors: self.rx_errors + other.rx_errors,
            rx_checksum_errors: self.rx_checksum_errors + other.rx_checksum_errors,
            link_losses: self.link_losses + other.link_losses,
            resets: self.resets + other.resets,
            pauses_sent: self.pauses_sent + other.pauses_sent,
            pauses_received: self.pauses_received + other.pauses_received,
        }
    }
}
