//! What a user of any NIC sees.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stillwire_dma::{Payload, PciFunction, Segment};

use crate::frame::{Frame, Posted, Returned, RxFrame};
use crate::other::OtherTx;
use crate::{Error, Filter, Offload, Result, ice, ixgbe, virtio};

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
    /// Take the VLAN tag off received frames: see [`RxFrame::vlan`]. Where the device cannot, frames keep it.
    pub vlan_strip: bool,
    /// Have an interrupt for each pair of queues, so that owners with nothing to do can [wait](RxQueue::wait). Nothing else
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
/// Bytes of the longest frame to be cut into segments that any device here takes: an IP packet in tagged Ethernet.
pub(crate) const LONGEST_SEGMENTED: usize = u16::MAX as usize + 22;

/// Bytes of the longest frame that any device here takes, without check sequence.
pub(crate) const LONGEST_FRAME: usize = 9720;

impl Config {
    fn check(&self) -> Result<()> {
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
    /// IPv4 header, UDP and TCP checksums on transmit. Where there are none, a frame with an [`Offload`] that asks for a transport's
    /// is refused: who posts it computes them, for the driver does not look into payload.
    pub tx_checksum: bool,
    /// The same on receive.
    pub rx_checksum: bool,
    /// SCTP's CRC32c on transmit.
    pub sctp_checksum: bool,
    /// Cuts TCP ([`Offload::segment`]).
    pub tcp_segmentation: bool,
    /// Cuts UDP ([`Offload::segment`]).
    pub udp_segmentation: bool,
    /// Puts VLAN tags in ([`Offload::vlan`]) and takes them off ([`Config::vlan_strip`]).
    pub vlan: bool,
    /// Longest frame to be cut into segments, bytes; 0 where none is.
    pub max_segmented: usize,
    /// Queues of each kind.
    pub queues: usize,
    /// Largest frame it was set up for, bytes without check sequence.
    pub max_frame: usize,
    /// Longest [`Frame`] header, bytes.
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
    /// Times that [`Nic::link`] found the link lost that it had found before.
    pub link_losses: u64,
    /// Times that the NIC came up again after [`Nic::reset`].
    pub resets: u64,
    /// Pauses that the port asked the far end for.
    pub pauses_sent: u64,
    /// Pauses that the far end asked for.
    pub pauses_received: u64,
}

impl Statistics {
    /// The sums of two lives of a device.
    fn and(self, other: Self) -> Self {
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

/// A NIC that was reset, set up and started. Dropping it stops the device; queues taken from it are dead then.
pub struct Nic {
    /// `None` after a [reset](Self::reset) that did not bring it up again.
    device: Option<Device>,
    function: PciFunction,
    config: Config,
    /// What the device was to learn protocols from.
    package: Option<Box<[u8]>>,
    name: String,
    mac: Mac,
    capabilities: Capabilities,
    seen: Mutex<Seen>,
}

/// What a NIC knows beside its device.
#[derive(Default)]
struct Seen {
    /// Whether the last look at the link found one; `None` before the first.
    up: Option<bool>,
    /// Whether its end was told of.
    ended: bool,
    /// Of the device's lives before this one, and what no device counts.
    sum: Statistics,
    /// What [`Nic::set_filter`] was told last.
    filter: Option<Filter>,
}

/// One of the families.
pub(crate) enum Device {
    Ixgbe(Box<ixgbe::Device>),
    Ice(Box<ice::Device>),
    Virtio(virtio::Device),
}

impl Device {
    fn open(function: PciFunction, config: Config, package: Option<&[u8]>) -> Result<Self> {
        let identity = function.identity()?;
        let (vendor, device) = (identity.vendor, identity.device);
        if ixgbe::knows(vendor, device) {
            Ok(Self::Ixgbe(Box::new(ixgbe::Device::open(function, config)?)))
        } else if ice::knows(vendor, device) {
            Ok(Self::Ice(Box::new(ice::Device::open(function, config, package)?)))
        } else if virtio::knows(vendor, device) {
            Ok(Self::Virtio(virtio::Device::open(function, config)?))
        } else {
            Err(Error::UnknownDevice { name: function.name(), vendor, device })
        }
    }

    fn mac(&self) -> Mac {
        match self {
            Self::Ixgbe(device) => device.mac,
            Self::Ice(device) => device.mac,
            Self::Virtio(device) => device.mac,
        }
    }

    fn statistics(&self) -> Statistics {
        match self {
            Self::Ixgbe(device) => device.statistics(),
            Self::Ice(device) => device.statistics(),
            Self::Virtio(device) => device.statistics(),
        }
    }

    fn capabilities(&self) -> Capabilities {
        match self {
            Self::Ixgbe(device) => device.capabilities(),
            Self::Ice(device) => device.capabilities(),
            Self::Virtio(device) => device.capabilities(),
        }
    }
}

impl Nic {
    /// Takes a PCI function and brings it up. The link may take seconds more: [`wait_for_link`](Self::wait_for_link).
    ///
    /// # Errors
    /// [`Error::UnknownDevice`], [`Error::Setting`], [`Error::Timeout`], [`Error::NoMac`], [`Error::Feature`],
    /// [`Error::Protocol`], [`Error::Command`], or what the bus says.
    pub fn open(function: PciFunction, config: Config) -> Result<Self> {
        Self::bring_up(function, config, None)
    }

    /// The same with a DDP package, the bytes of an `ice.pkg`: what an Intel E810 learns protocols from. It is loaded unless
    /// the card has one. Without any the card knows no offloads ([`Capabilities`]). Other devices do not look at it.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`Error::Package`].
    pub fn open_with_package(function: PciFunction, config: Config, package: &[u8]) -> Result<Self> {
        Self::bring_up(function, config, Some(package.into()))
    }

    fn bring_up(function: PciFunction, config: Config, package: Option<Box<[u8]>>) -> Result<Self> {
        config.check()?;
        tracing::debug!(device = function.name(), ?config, "opening");
        let device = Device::open(function.clone(), config, package.as_deref())?;
        let (name, mac, capabilities) = (function.name(), device.mac(), device.capabilities());
        tracing::info!(device = name, %mac, "brought up");
        Ok(Self { device: Some(device), function, config, package, name, mac, capabilities, seen: Mutex::default() })
    }

    /// The NIC's own Ethernet address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// State of the port now. A link that was lost and came back between two calls is down at the second where the device
    /// remembers it (the 82599 does, and the E810's events), and up at the third.
    ///
    /// # Errors
    /// [`Error::Gone`]; [`Error::Protocol`] of a device that is not believed any more; [`Error::Stopped`] after a reset that
    /// failed.
    pub fn link(&self) -> Result<Link> {
        let link = match self.device()? {
            Device::Ixgbe(device) => device.link(),
            Device::Ice(device) => device.link(),
            Device::Virtio(device) => device.link(),
        }?;
        let mut seen = self.seen();
        let was_up = seen.up.replace(link.up);
        seen.sum.link_losses += u64::from(was_up == Some(true) && !link.up);
        drop(seen);
        if was_up != Some(link.up) {
            tracing::info!(device = self.name, up = link.up, megabits = link.megabits, "the link has changed");
        }
        Ok(link)
    }

    /// Waits until frames can pass.
    ///
    /// # Errors
    /// [`Error::NoLink`] after `deadline`, [`Error::Gone`].
    pub fn wait_for_link(&self, deadline: Duration) -> Result<Link> {
        let start = Instant::now();
        loop {
            let link = self.link()?;
            if link.up {
                return Ok(link);
            }
            if start.elapsed() >= deadline {
                return Err(Error::NoLink { name: self.name.clone(), waited: start.elapsed() });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Counts since the NIC was opened.
    pub fn statistics(&self) -> Statistics {
        let sum = self.seen().sum;
        self.device.as_ref().map_or(sum, |device| sum.and(device.statistics()))
    }

    /// What it can do.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The next transmit queue that nobody has taken, for frames that carry tokens of type `T`: there are
    /// [`Config::queues`].
    ///
    /// Tokens own what they stand for (`'static`): one that merely borrowed it could be outlived by the device.
    ///
    /// # Errors
    /// [`Error::QueueTaken`], [`Error::Timeout`], or what memory and mappings say.
    pub fn tx_queue<T: 'static>(&self) -> Result<TxQueue<T>> {
        Ok(TxQueue(match self.device()? {
            Device::Ixgbe(device) => AnyTx::Ixgbe(ixgbe::TxQueue::new(device.function.clone())?),
            Device::Ice(device) => AnyTx::Other(OtherTx::Ice(ice::TxQueue::new(device.function.clone())?)),
            Device::Virtio(device) => AnyTx::Other(OtherTx::Virtio(virtio::TxQueue::new(device.function.clone())?)),
        }))
    }

    /// The next receive queue that nobody has taken: there are [`Config::queues`].
    ///
    /// # Errors
    /// As [`tx_queue`](Self::tx_queue).
    pub fn rx_queue(&self) -> Result<RxQueue> {
        Ok(RxQueue(match self.device()? {
            Device::Ixgbe(device) => AnyRx::Ixgbe(ixgbe::RxQueue::new(device.function.clone())?),
            Device::Ice(device) => AnyRx::Ice(ice::RxQueue::new(device.function.clone())?),
            Device::Virtio(device) => AnyRx::Virtio(virtio::RxQueue::new(device.function.clone())?),
        }))
    }

    /// Stops all DMA of the device, with proof. Queues keep their tokens until they are dropped or stopped themselves.
    ///
    /// # Errors
    /// [`Error::NotQuiet`] when there is no proof.
    pub fn stop(&self) -> Result<()> {
        let stopped = match &self.device {
            Some(Device::Ixgbe(device)) => device.function.stop().map(|_quiet| ()),
            Some(Device::Ice(device)) => device.function.stop().map(|_quiet| ()),
            Some(Device::Virtio(device)) => device.function.stop().map(|_quiet| ()),
            None => Ok(()),
        };
        match &stopped {
            _ if std::mem::replace(&mut self.seen().ended, true) => {}
            Ok(()) => tracing::info!(device = self.name, "stopped; it is proved quiet"),
            Err(error) => tracing::error!(%error, "not proved quiet"),
        }
        stopped
    }

    /// Stops the device with proof, gives back what is in its rings, and brings it up again as it was opened: for a device
    /// that hangs ([`Watchdog`](crate::Watchdog)), or one that lost its link with work in its rings. All queues that were
    /// taken must be handed in; new ones are taken afterwards, and the link may take seconds, as after [`open`](Self::open).
    ///
    /// `back` gets every token once, with the number of its queue, in the order in which it was posted there. What the device
    /// had said to be done before it was stopped is [`Returned::Done`]; for that no proof is needed. All others come back
    /// behind the proof, as [`Returned::NotSent`].
    ///
    /// When the device was stopped but does not come up, this may be called again, with no queues.
    ///
    /// # Errors
    /// [`Error::NotQuiet`]: no proof could be had, and the tokens are kept until the program ends. Else as
    /// [`open`](Self::open); while somebody still has one of the queues the function is in use.
    pub fn reset<T>(
        &mut self,
        tx: impl IntoIterator<Item = TxQueue<T>>,
        rx: impl IntoIterator<Item = RxQueue>,
        mut back: impl FnMut(usize, Returned<T>),
    ) -> Result<()> {
        let mut tx: Vec<_> = tx.into_iter().collect();
        for queue in &mut tx {
            let number = queue.index();
            queue.reclaim(|token| back(number, Returned::Done(token)));
        }
        let mut stopped = self.stop();
        for queue in tx {
            let number = queue.index();
            let ended = queue.stop(|token| back(number, Returned::NotSent(token)));
            stopped = with_all_kept(stopped, ended);
        }
        // Without proof they keep their memory.
        rx.into_iter().for_each(drop);
        stopped?;
        self.come_up_again()
    }

    fn come_up_again(&mut self) -> Result<()> {
        let before = self.statistics();
        // The function is free for its next life when the last one of this is gone.
        self.device = None;
        let filter = self.seen().filter.take();
        self.seen = Mutex::new(Seen { up: None, ended: false, sum: before, filter: filter.clone() });
        self.device = Some(Device::open(self.function.clone(), self.config, self.package.as_deref())?);
        self.seen().sum.resets += 1;
        tracing::info!(device = self.name, "reset, and brought up again");
        filter.map_or(Ok(()), |filter| self.set_filter(&filter))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn remember(&self, filter: &Filter) {
        self.seen().filter = Some(filter.clone());
    }

    pub(crate) fn device(&self) -> Result<&Device> {
        self.device.as_ref().ok_or_else(|| Error::Stopped { name: self.name.clone() })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first of two outcomes of stopping that is an error, with what was kept in both.
fn with_all_kept(first: Result<()>, second: Result<()>) -> Result<()> {
    match (first, second) {
        (Err(Error::NotQuiet { name, why, kept }), Err(Error::NotQuiet { kept: more, .. })) => {
            Err(Error::NotQuiet { name, why, kept: kept + more })
        }
        (first, second) => first.and(second),
    }
}

impl Drop for Nic {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// A transmit ring. Owned by one thread at a time; nothing on its path takes a lock.
///
/// ```
/// # use stillwire_driver::{Frame, Posted, TxQueue, Offload, Result};
/// # use stillwire_dma::Payload;
/// # fn send<H: Payload>(tx: &mut TxQueue<H>, headers: &[u8], hold: H) -> Result<()> {
/// match tx.post(Frame::new(headers).offload(Offload::UDP_V4).payload(hold))? { // moved into the ring
///     Posted::Queued => tx.publish(),
///     Posted::Full(frame) => drop(frame), // the ring is full: reclaim, and post it again
/// }
/// tx.reclaim(|hold| drop(hold)); // moved out when the NIC is done
/// # Ok(())
/// # }
/// ```
pub struct TxQueue<T>(AnyTx<T>);

enum AnyTx<T> {
    Ixgbe(ixgbe::TxQueue<T>),
    Other(OtherTx<T>),
}

impl<T: Payload> TxQueue<T> {
    /// Puts a frame into the ring. The device sees it after the next [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`Error::Frame`] for what the device cannot send, [`Error::Protocol`] when it is not believed any more; the payload is
    /// dropped then, for the device never saw it.
    #[inline(always)]
    pub fn post<'a>(&mut self, frame: Frame<'a, T>) -> Result<Posted<'a, T>> {
        // A value for each family: one that both arms pass on would have to lie in memory, with all that is constant in it.
        let Frame { header, offload, payload } = frame;
        match &mut self.0 {
            AnyTx::Ixgbe(queue) => queue.post(Frame { header, offload, payload }),
            AnyTx::Other(queue) => queue.post(Frame { header, offload, payload }),
        }
    }

    /// Begins to cut one payload into several frames. The ring keeps `payload` until the last of them is done:
    /// completions come in ring order, so a hold over a long run costs the same as one over a frame.
    #[inline]
    pub fn run(&mut self, payload: T) -> Run<'_, T> {
        let whole = Some(payload.len()).filter(|&len| len > 0).and_then(|len| payload.segment(0..len));
        Run { queue: &mut self.0, payload: Some(payload), whole, posted: false }
    }
}

impl<T> TxQueue<T> {
    /// Shows the device everything posted so far: one doorbell, however many frames.
    #[inline]
    pub fn publish(&mut self) {
        match &mut self.0 {
            AnyTx::Ixgbe(queue) => queue.publish(),
            AnyTx::Other(queue) => queue.publish(),
        }
    }

    /// Calls `done` with the tokens of frames that the device has read, in the order they were posted. Returns the
    /// number of descriptors that became free.
    #[inline]
    pub fn reclaim(&mut self, done: impl FnMut(T)) -> usize {
        match &mut self.0 {
            AnyTx::Ixgbe(queue) => queue.reclaim(done),
            AnyTx::Other(queue) => queue.reclaim(done),
        }
    }

    /// Descriptors that are free. A frame takes one for its header, one a payload piece, and at times one more.
    #[inline]
    pub fn free(&self) -> usize {
        match &self.0 {
            AnyTx::Ixgbe(queue) => queue.free(),
            AnyTx::Other(queue) => queue.free(),
        }
    }

    /// The queue's number in the device.
    pub fn index(&self) -> usize {
        match &self.0 {
            AnyTx::Ixgbe(queue) => queue.number(),
            AnyTx::Other(queue) => queue.number(),
        }
    }

    /// Tokens in the ring.
    pub fn in_flight(&self) -> usize {
        match &self.0 {
            AnyTx::Ixgbe(queue) => queue.in_flight(),
            AnyTx::Other(queue) => queue.in_flight(),
        }
    }

    /// Stops the whole device, with proof, and calls `back` with every token still in the ring, sent or not. Dropping
    /// the queue does the same and drops the tokens. To go on afterwards: [`Nic::reset`].
    ///
    /// # Errors
    /// [`Error::NotQuiet`]: no proof could be had, and the tokens are kept until the program ends.
    pub fn stop(mut self, back: impl FnMut(T)) -> Result<()> {
        match &mut self.0 {
            AnyTx::Ixgbe(queue) => queue.stop(back),
            AnyTx::Other(queue) => queue.stop(back),
        }
    }
}

/// A payload that is being cut into frames: see [`TxQueue::run`].
///
/// However this value ends, the ring keeps the payload for as long as the device may read any frame posted from it.
pub struct Run<'q, T> {
    queue: &'q mut AnyTx<T>,
    payload: Option<T>,
    /// All of the payload, if it is one segment: frames are cut from this then.
    whole: Option<Segment>,
    /// Whether the device knows of the payload.
    posted: bool,
}

impl<T: Payload> Run<'_, T> {
    /// The payload.
    #[inline]
    pub fn payload(&self) -> &T {
        self.payload.as_ref().expect("there until the run ends")
    }

    /// Posts a frame of `header` and the bytes `range` of the payload. `false` when the ring is full.
    ///
    /// # Errors
    /// As [`TxQueue::post`].
    #[inline(always)]
    pub fn post(&mut self, header: &[u8], offload: Option<Offload>, range: std::ops::Range<usize>) -> Result<bool> {
        let posted = match self.whole.and_then(|whole| whole.part(&range)) {
            Some(part) => match &mut *self.queue {
                AnyTx::Ixgbe(queue) => queue.post_segment(header, offload, part)?,
                AnyTx::Other(queue) => queue.post_segment(header, offload, part)?,
            },
            None => match &mut *self.queue {
                AnyTx::Ixgbe(queue) => queue.post_range(header, offload, self.payload.as_ref(), range)?,
                AnyTx::Other(queue) => queue.post_range(header, offload, self.payload.as_ref(), range)?,
            },
        };
        self.posted |= posted.is_some();
        Ok(posted.is_some())
    }
}

impl<T> Drop for Run<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // With no frame posted the device knows nothing of the payload: it is simply dropped.
        if let Some(payload) = self.payload.take().filter(|_| self.posted) {
            // The queue is borrowed, so the last frame in it is the run's.
            match &mut *self.queue {
                AnyTx::Ixgbe(queue) => queue.keep_with_last(payload),
                AnyTx::Other(queue) => queue.keep_with_last(payload),
            }
        }
    }
}

/// A receive ring with its buffers. Owned by one thread at a time.
pub struct RxQueue(AnyRx);

enum AnyRx {
    Ixgbe(ixgbe::RxQueue),
    Ice(ice::RxQueue),
    Virtio(virtio::RxQueue),
}

impl RxQueue {
    /// Calls `each` with the frames that have arrived, at most `budget`; returns how many there were.
    #[inline]
    pub fn poll(&mut self, budget: usize, each: impl FnMut(&RxFrame<'_>)) -> usize {
        match &mut self.0 {
            AnyRx::Ixgbe(queue) => queue.poll(budget, each),
            AnyRx::Ice(queue) => queue.poll(budget, each),
            AnyRx::Virtio(queue) => queue.poll(budget, each),
        }
    }

    /// The queue's number in the device.
    pub fn index(&self) -> usize {
        match &self.0 {
            AnyRx::Ixgbe(queue) => queue.number(),
            AnyRx::Ice(queue) => queue.number(),
            AnyRx::Virtio(queue) => queue.number(),
        }
    }

    /// Waits until the device has received a frame for this queue, or is done with one of `tx`, of the same pair; at most for
    /// `timeout`. Whether there may be something to do: poll both then. For a queue that was just found to have nothing: a wait
    /// costs system calls and the interrupt's way, some ten microseconds, a poll some nanoseconds.
    ///
    /// # Errors
    /// [`Error::NoInterrupts`] without [`Config::interrupts`]; [`Error::Setting`] for another pair's `tx`.
    pub fn wait<T>(&mut self, tx: &mut TxQueue<T>, timeout: Duration) -> Result<bool> {
        match (&mut self.0, &mut tx.0) {
            (AnyRx::Ixgbe(rx), AnyTx::Ixgbe(tx)) if rx.number() == tx.number() => rx.wait(tx, timeout),
            (AnyRx::Ice(rx), AnyTx::Other(OtherTx::Ice(tx))) if rx.number() == tx.number() => rx.wait(tx, timeout),
            (AnyRx::Virtio(rx), AnyTx::Other(OtherTx::Virtio(tx))) if rx.number() == tx.number() => {
                rx.wait(tx, timeout)
            }
            (_, tx) => {
                let found = match tx {
                    AnyTx::Ixgbe(tx) => tx.number(),
                    AnyTx::Other(tx) => tx.number(),
                };
                let allowed = "the one with the receive queue's number, of the same NIC, would do";
                Err(Error::Setting { setting: "transmit queue to wait for", found: found as u64, allowed })
            }
        }
    }

    /// Frames that the device handed over damaged or in a way that made no sense.
    pub fn dropped(&self) -> u64 {
        match &self.0 {
            AnyRx::Ixgbe(queue) => queue.dropped(),
            AnyRx::Ice(queue) => queue.dropped(),
            AnyRx::Virtio(queue) => queue.dropped(),
        }
    }
}
