//! What goes into a transmit queue and what comes out of a receive queue.

use stillwire_dma::{Payload, SharedMemory};

use crate::Offload;

/// A frame to send: a header, which is copied, and a payload, which is not.
///
/// The payload value is the token: it moves into the ring with the frame and comes back from
/// [`TxQueue::reclaim`](crate::TxQueue::reclaim) when the device has read the bytes.
#[derive(Debug)]
pub struct Frame<'a, T> {
    pub(crate) header: &'a [u8],
    pub(crate) offload: Option<Offload>,
    pub(crate) payload: Option<T>,
}

impl<'a, T: Payload> Frame<'a, T> {
    /// A frame that is `header` and nothing more: at least an Ethernet header, at most
    /// [`Capabilities::header_len`](crate::Capabilities::header_len) bytes.
    #[inline]
    pub fn new(header: &'a [u8]) -> Self {
        Self { header, offload: None, payload: None }
    }

    /// Lets the NIC compute checksums.
    #[inline]
    pub fn offload(mut self, offload: Offload) -> Self {
        self.offload = Some(offload);
        self
    }

    /// Appends all bytes of `payload`.
    #[inline]
    pub fn payload(mut self, payload: T) -> Self {
        self.payload = Some(payload);
        self
    }

    /// Takes the frame apart: a frame that came back because the ring was full.
    #[inline]
    pub fn into_payload(self) -> Option<T> {
        self.payload
    }
}

/// What became of a frame.
#[derive(Debug)]
#[must_use = "a frame that came back was not sent"]
pub enum Posted<'a, T> {
    /// It is in the ring; the device sees it after the next publish.
    Queued,
    /// The ring is full; here it is again. Reclaim and try again.
    Full(Frame<'a, T>),
}

/// What comes back from a ring whose device was stopped: see [`Nic::reset`](crate::Nic::reset).
///
/// Neither kind says what the far end has. A device is done with a frame when it has read it, and a reset drops what it has
/// read and not sent yet; of a [run](crate::TxQueue::run) that was not sent, all frames but the last may have been.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Returned<T> {
    /// The device had said that it is done with it.
    Done(T),
    /// The device had not, and now never will: it is to be sent again.
    NotSent(T),
}

/// What the NIC says of one checksum of a received frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// Not looked at, or not to be trusted.
    Unknown,
    /// Right.
    Good,
    /// Wrong.
    Bad,
    /// Not there yet: the frame comes from this host and never was on a wire, and who sent it left its checksum to a NIC. Its bytes are
    /// as sent; before it goes out on a wire somebody has to complete it.
    Partial,
}

/// What the NIC says of the checksums of a received frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChecksumStatus {
    /// IPv4 header.
    pub ip: Checksum,
    /// UDP, TCP or SCTP.
    pub transport: Checksum,
}

/// A received frame, in buffers that go back to the device when the callback returns.
///
/// The device could still write these bytes if it misbehaves, so they are not lent as a slice: copy them out.
pub struct RxFrame<'a> {
    pub(crate) memory: &'a SharedMemory,
    /// Offset in `memory` and length of each piece, bytes.
    pub(crate) pieces: &'a [(usize, usize)],
    /// Length of all of them.
    pub(crate) len: usize,
    pub(crate) checksum: ChecksumStatus,
    pub(crate) vlan: Option<u16>,
}

impl RxFrame<'_> {
    /// Length without the frame check sequence, bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the NIC says of the checksums.
    #[inline]
    pub fn checksum(&self) -> ChecksumStatus {
        self.checksum
    }

    /// The VLAN tag (priority, DEI, number) that the NIC took off ([`Config::vlan_strip`](crate::Config::vlan_strip)).
    #[inline]
    pub fn vlan(&self) -> Option<u16> {
        self.vlan
    }

    /// Copies the frame's bytes from `offset` on into `bytes`; returns how many there were, fewer than asked at its end.
    #[inline]
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) -> usize {
        let (mut skip, mut done) = (offset, 0);
        for &(start, len) in self.pieces {
            let part = len.saturating_sub(skip).min(bytes.len() - done);
            if part > 0 {
                self.memory.read_at(start + skip, &mut bytes[done..done + part]);
                done += part;
            }
            skip = skip.saturating_sub(len);
        }
        done
    }

    /// The frame's first `N` bytes; `None` when it has fewer, or they do not lie together. A look at the headers: cheap when `N`
    /// is a multiple of 8.
    #[inline]
    pub fn first<const N: usize>(&self) -> Option<[u8; N]> {
        let &(start, len) = self.pieces.first()?;
        (N <= len).then(|| self.memory.read_array(start))
    }

    /// Replaces `bytes` by the frame.
    pub fn copy_to(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.resize(self.len(), 0);
        self.read_at(0, bytes);
    }
}
