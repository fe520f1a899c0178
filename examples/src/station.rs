//! A NIC with an address: sends and receives UDP datagrams, answers ARP.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stillwire_dma::{Payload, Segment};
use stillwire_driver::{
    Checksum, Config, Frame, Look, Nic, Offload, Posted, Returned, RxFrame, RxQueue, TxQueue, Verdict, Watchdog,
};
use stillwire_filecache::{DirectHold, Hold, Unheld};

use crate::capture::Capture;
use crate::device::OpenDevice;
use crate::metrics::{Metrics, StationFigures};
use crate::packet::{self, Endpoint, Received, Sum, UdpTemplate};
use crate::pool::{Buffer, Pool};
use crate::transfer::MAX_RUN;
use crate::{Error, Result};

/// What travels with frames through the transmit ring.
pub enum Cargo {
    /// File pages, still until the NIC is done.
    Held(Hold),
    /// File pages that anybody may write meanwhile.
    Unheld(Unheld),
    /// The kernel's pages of a file, still until the NIC is done.
    Direct(DirectHold),
    /// A buffer of our own.
    Buffer(Buffer),
}

impl Payload for Cargo {
    fn len(&self) -> usize {
        match self {
            Cargo::Held(hold) => hold.len(),
            Cargo::Unheld(unheld) => unheld.len(),
            Cargo::Direct(hold) => hold.len(),
            Cargo::Buffer(buffer) => buffer.len(),
        }
    }

    fn segments(&self, range: Range<usize>, each: impl FnMut(Segment)) {
        match self {
            Cargo::Held(hold) => hold.segments(range, each),
            Cargo::Unheld(unheld) => unheld.segments(range, each),
            Cargo::Direct(hold) => hold.segments(range, each),
            Cargo::Buffer(buffer) => buffer.segments(range, each),
        }
    }

    fn segment(&self, range: Range<usize>) -> Option<Segment> {
        match self {
            Cargo::Held(hold) => hold.segment(range),
            Cargo::Unheld(unheld) => unheld.segment(range),
            Cargo::Direct(hold) => hold.segment(range),
            Cargo::Buffer(buffer) => buffer.segment(range),
        }
    }
}

impl Cargo {
    /// The bytes of a file that it is; `None` for a buffer.
    fn file_range(&self) -> Option<Range<u64>> {
        let start = match self {
            Cargo::Held(hold) => hold.file_offset(),
            Cargo::Unheld(unheld) => unheld.file_offset(),
            Cargo::Direct(hold) => hold.file_offset(),
            Cargo::Buffer(_) => return None,
        };
        Some(start..start + self.len() as u64)
    }

    /// Digest of a part of it, bytes.
    ///
    /// # Errors
    /// When a file that is sent without the cache can not be read.
    pub fn crc32(&self, range: Range<usize>) -> Result<u32> {
        match self {
            Cargo::Held(hold) => Ok(hold.crc32_range(range)),
            Cargo::Unheld(unheld) => Ok(unheld.crc32_range(range)),
            Cargo::Direct(hold) => Ok(hold.crc32_range(range)?),
            Cargo::Buffer(_) => unreachable!("only file pages are digested"),
        }
    }

    /// Sum of a part of it, bytes, for a checksum that the NIC does not compute.
    ///
    /// # Errors
    /// As [`crc32`](Self::crc32).
    pub fn sum(&self, range: Range<usize>) -> Result<Sum> {
        let mut sum = Sum::default();
        match self {
            Cargo::Held(hold) => hold.slices(range).for_each(|bytes| sum.add(bytes)),
            Cargo::Unheld(unheld) => unheld.copies(range, |bytes| sum.add(bytes)),
            Cargo::Direct(hold) => {
                let mut copy = vec![0; range.len()];
                hold.read_at(range.start, &mut copy)?;
                sum.add(&copy);
            }
            Cargo::Buffer(_) => unreachable!("what is in a buffer was summed before"),
        }
        Ok(sum)
    }

    /// Copies bytes out, from byte `at` on.
    ///
    /// # Errors
    /// As [`crc32`](Self::crc32).
    pub fn read_at(&self, at: usize, bytes: &mut [u8]) -> Result<()> {
        match self {
            Cargo::Held(hold) => hold.read_at(at, bytes),
            Cargo::Unheld(unheld) => unheld.read_at(at, bytes),
            Cargo::Direct(hold) => hold.read_at(at, bytes)?,
            Cargo::Buffer(buffer) => buffer.read_at(at, bytes),
        }
        Ok(())
    }
}

/// A datagram that came in.
#[derive(Debug)]
pub struct Datagram {
    /// Where it came from.
    pub from: Endpoint,
    /// The port of ours that it is for.
    pub port: u16,
    /// What it says.
    pub payload: Vec<u8>,
}

/// How long a NIC is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// With work and link, and without a completion, for so long: it hangs, and is reset.
    pub hang_after: Duration,
    /// Without link for so long it is given up.
    pub link: Duration,
}

/// A NIC, its queues, and an IPv4 address. Fields are dropped in order: the model stops last.
pub struct Station {
    /// `None` when the NIC is down for good.
    queues: Option<(TxQueue<Cargo>, RxQueue)>,
    pool: Pool,
    /// The NIC.
    pub nic: Nic,
    device: OpenDevice,
    name: String,
    me: Endpoint,
    /// Whether our own address can be somebody else's, too: on a loopback everything comes back.
    everything_is_mine: bool,
    /// Checksums that are the NIC's work; `None` where they are ours.
    offload: Option<Offload>,
    /// Frames of our own that wait for room in the ring.
    waiting: VecDeque<(Vec<u8>, Option<Offload>)>,
    scratch: Vec<u8>,
    /// Frames whose checksums were wrong: dropped, as a kernel would.
    pub bad_checksums: u64,
    /// Where frames are captured, if they are.
    pub capture: Option<Box<Capture>>,
    /// Where figures are left for who asks for them, if somebody may.
    pub metrics: Option<Arc<Metrics>>,
    patience: Patience,
    /// Whether a lost link is a failure, not a finding.
    needs_link: bool,
    watchdog: Watchdog,
    start: Instant,
    /// When the device was last looked at.
    asked: Instant,
    /// Descriptors that were ever reclaimed.
    completed: u64,
    /// Resets since the last of them.
    resets_in_vain: u32,
    /// What receive queues before this one handed over damaged.
    dropped: u64,
    /// What a reset gave back as not sent, bytes of the file.
    not_sent: Vec<Range<u64>>,
    away: Duration,
    /// Whether the NIC can interrupt a sleep.
    interrupts: bool,
    /// Since when nothing has happened.
    idle_since: Option<Instant>,
}

impl Station {
    /// Brings the NIC up, with link.
    ///
    /// # Errors
    /// What the driver says.
    pub fn open(
        device: OpenDevice,
        me: std::net::SocketAddrV4,
        config: Config,
        loopback: bool,
        patience: Patience,
    ) -> Result<Self> {
        let mut station = Self::without_link(device, me, config, loopback, patience)?;
        station.nic.wait_for_link(LINK_DEADLINE)?;
        station.needs_link = true;
        Ok(station)
    }

    /// The same, with link or without: one that is lost is not waited for, either.
    ///
    /// # Errors
    /// What the driver says.
    pub fn without_link(
        device: OpenDevice,
        me: std::net::SocketAddrV4,
        config: Config,
        loopback: bool,
        patience: Patience,
    ) -> Result<Self> {
        let name = device.function.name();
        // A device without vectors is polled.
        let interrupts = config.interrupts && device.function.msix_vectors() >= config.queues.into();
        let config = Config { interrupts, ..config };
        let nic = device.nic(config)?;
        let queues = Some((nic.tx_queue()?, nic.rx_queue()?));
        let pool = Pool::new(device.function.iommu(), POOL)?;
        let me = Endpoint { mac: nic.mac(), address: me };
        let offload = nic.capabilities().tx_checksum.then_some(Offload::UDP_V4);
        Ok(Self {
            queues,
            pool,
            nic,
            device,
            name,
            me,
            everything_is_mine: loopback,
            offload,
            waiting: VecDeque::new(),
            scratch: Vec::new(),
            bad_checksums: 0,
            capture: None,
            metrics: None,
            patience,
            needs_link: false,
            watchdog: Watchdog::new(patience.hang_after),
            start: Instant::now(),
            asked: Instant::now(),
            completed: 0,
            resets_in_vain: 0,
            dropped: 0,
            not_sent: Vec::new(),
            away: Duration::ZERO,
            interrupts,
            idle_since: None,
        })
    }

    /// The NIC's function: for mapping memory.
    pub fn function(&self) -> &stillwire_dma::PciFunction {
        &self.device.function
    }

    /// Refuses a device that does not cut UDP into segments.
    ///
    /// # Errors
    /// [`Error::NoSegments`].
    pub fn must_segment(&self) -> Result<()> {
        let can = self.nic.capabilities();
        let does = can.udp_segmentation && can.max_segmented >= packet::UDP_HEADERS + MAX_RUN as usize;
        if does { Ok(()) } else { Err(Error::NoSegments { device: self.name.clone() }) }
    }

    /// Who we are.
    pub fn me(&self) -> Endpoint {
        self.me
    }

    /// What the NIC computes of a datagram's checksums; `None` when [`packet::write_checksums`] must.
    pub fn offload(&self) -> Option<Offload> {
        self.offload
    }

    /// The transmit queue.
    ///
    /// # Errors
    /// When the NIC could not be brought up again.
    pub fn tx(&mut self) -> Result<&mut TxQueue<Cargo>> {
        self.queues().map(|(tx, _)| tx)
    }

    /// What was in the ring when the NIC was reset, and the device had not said to be done with: bytes of the file. It is to be
    /// sent again.
    pub fn take_not_sent(&mut self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.not_sent)
    }

    /// Time that was spent on resets and without link: nobody could have been heard then.
    pub fn away(&self) -> Duration {
        self.away
    }

    /// Finds the Ethernet address of a neighbour.
    ///
    /// # Errors
    /// [`Error::NoNeighbour`].
    pub fn resolve(&mut self, address: Ipv4Addr) -> Result<packet::Mac> {
        let start = Instant::now();
        let mut asked = None::<Instant>;
        let mut found = None;
        while found.is_none() {
            if start.elapsed() >= ARP_DEADLINE {
                return Err(Error::NoNeighbour { address, seconds: ARP_DEADLINE.as_secs() });
            }
            if asked.is_none_or(|asked| asked.elapsed() >= ARP_AGAIN) {
                let request = packet::arp_request(self.me.mac, *self.me.address.ip(), address);
                self.waiting.push_back((request, None));
                asked = Some(Instant::now());
            }
            self.poll_with(&mut |received| match received {
                Received::ArpReply { mac, ip } if *ip == address => found = Some(*mac),
                _ => {}
            })?;
            self.rest(ARP_AGAIN)?;
        }
        Ok(found.expect("the loop ends with it"))
    }

    /// Queues a datagram of our own bytes; it goes out when there is room.
    pub fn send(&mut self, template: &mut UdpTemplate, payload: &[u8]) {
        let mut frame = template.next(payload.len()).to_vec();
        frame.extend_from_slice(payload);
        // What waits is repeated by its sender when it is lost: a bound costs nothing but keeps memory bounded.
        if self.waiting.len() < MOST_WAITING {
            if self.offload.is_none() {
                packet::write_checksums(&mut frame, Sum::default());
            }
            self.waiting.push_back((frame, self.offload));
        }
    }

    /// Whether nothing waits to be sent, in the ring or for it.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.queues.as_ref().is_none_or(|(tx, _)| tx.in_flight() == 0)
    }

    /// Takes what has arrived, gives back what was sent, sends what waits. Returns whether anything happened. A NIC that hangs
    /// is reset, and one that has lost its link is waited for, in here.
    ///
    /// # Errors
    /// What the driver says; [`Error::Hang`].
    pub fn poll(&mut self, datagrams: &mut Vec<Datagram>) -> Result<bool> {
        let (mine, everything) = (self.me.address, self.everything_is_mine);
        self.poll_with(&mut |received| {
            if let Received::Udp { from, to, payload } = received
                && (everything || to.ip() == mine.ip())
            {
                datagrams.push(Datagram { from: *from, port: to.port(), payload: payload.to_vec() });
            }
        })
    }

    fn poll_with(&mut self, each: &mut dyn FnMut(&Received<'_>)) -> Result<bool> {
        let reclaimed = self.tx()?.reclaim(drop);
        self.watch(reclaimed)?;
        let Some((_, rx)) = &mut self.queues else { return Err(stopped(&self.name)) };
        let (scratch, bad) = (&mut self.scratch, &mut self.bad_checksums);
        let (me, waiting) = (self.me, &mut self.waiting);
        let mut take = |frame: &RxFrame<'_>, scratch: &mut Vec<u8>| {
            let verdict = frame.checksum();
            if verdict.ip == Checksum::Bad || verdict.transport == Checksum::Bad {
                *bad += 1;
                return;
            }
            frame.copy_to(scratch);
            if verdict.transport == Checksum::Unknown && !packet::checksums_hold(scratch) {
                *bad += 1;
                return;
            }
            let received = Received::parse(scratch);
            if let Received::ArpRequest { asker, asker_ip, wanted } = received
                && wanted == *me.address.ip()
                && waiting.len() < MOST_WAITING
            {
                waiting.push_back((packet::arp_reply(me.mac, wanted, asker, asker_ip), None));
            }
            each(&received);
        };
        let received = match &mut self.capture {
            None => rx.poll(RX_BUDGET, |frame| take(frame, scratch)),
            Some(capture) => {
                let received = rx.poll(RX_BUDGET, |frame| {
                    frame.copy_to(scratch);
                    capture.received(scratch);
                    take(frame, scratch);
                });
                capture.end_batch();
                received
            }
        };
        let posted = self.post_waiting()?;
        let busy = reclaimed > 0 || received > 0 || posted;
        if busy {
            self.idle_since = None;
        }
        Ok(busy)
    }

    /// After a poll in which nothing happened, for a caller who has nothing to do for `at_most`: for a while it is looked again at
    /// once, and then slept until the NIC interrupts, so that an idle program costs nothing.
    ///
    /// # Errors
    /// What the driver says.
    pub fn rest(&mut self, at_most: Duration) -> Result<()> {
        let idle = self.idle_since.get_or_insert_with(Instant::now).elapsed();
        let nap = at_most.min(ASK_EVERY).min(self.patience.hang_after / 8);
        let Some((tx, rx)) = &mut self.queues else { return Err(stopped(&self.name)) };
        if self.interrupts && idle >= AWAKE && nap >= SHORTEST_NAP {
            rx.wait(tx, nap)?;
        } else {
            std::thread::yield_now();
        }
        Ok(())
    }

    fn post_waiting(&mut self) -> Result<bool> {
        let mut posted = false;
        while let Some((frame, offload)) = self.waiting.front() {
            // Headers travel by copy, the rest through the pool.
            let (header, rest) = frame.split_at(frame.len().min(packet::UDP_HEADERS));
            let mut out = Frame::new(header);
            out = if let Some(offload) = offload { out.offload(*offload) } else { out };
            if !rest.is_empty() {
                let Some(buffer) = self.pool.fill(rest) else { break };
                out = out.payload(Cargo::Buffer(buffer));
            }
            let Some((tx, _)) = &mut self.queues else { return Err(stopped(&self.name)) };
            match tx.post(out)? {
                Posted::Full(_) => break,
                Posted::Queued => {}
            }
            posted = true;
            if let Some((frame, offload)) = self.waiting.pop_front()
                && let Some(capture) = &mut self.capture
            {
                capture.posted(&frame, offload, None);
            }
        }
        if posted {
            self.tx()?.publish();
            if let Some(capture) = &mut self.capture {
                capture.end_batch();
            }
        }
        Ok(posted)
    }

    /// Leaves figures for who has asked for them; `more` adds those of the caller. One look at a counter when nobody has.
    #[inline]
    pub fn answer(&self, more: impl FnOnce(&Metrics)) {
        if let Some(metrics) = &self.metrics
            && let Some(question) = metrics.question()
        {
            more(metrics);
            metrics.station.store(self.figures());
            metrics.answer(question);
        }
    }

    /// The NIC's counts, its ring, its link, now. It reads registers: not for every batch.
    #[cold]
    pub fn figures(&self) -> StationFigures {
        // The look at the link is what counts losses.
        let (link, counted) = (self.nic.link().ok(), self.nic.statistics());
        let captured = self.capture.as_ref().map(|capture| capture.counts()).unwrap_or_default();
        // A NIC that is down has no rings.
        let ring = self.queues.as_ref().map(|(tx, _)| (tx.free(), self.descriptors() - tx.free(), tx.in_flight()));
        let (free, used, tokens) = ring.unwrap_or_default();
        StationFigures {
            tx_frames: counted.tx_frames,
            tx_bytes: counted.tx_bytes,
            rx_frames: counted.rx_frames,
            rx_bytes: counted.rx_bytes,
            rx_missed: counted.rx_missed,
            rx_errors: counted.rx_errors,
            rx_checksum_errors: counted.rx_checksum_errors,
            rx_dropped: self.dropped + self.queues.as_ref().map_or(0, |(_, rx)| rx.dropped()),
            bad_checksums: self.bad_checksums,
            tx_ring_free: free as u64,
            tx_ring_used: used as u64,
            holds_in_ring: tokens.saturating_sub(self.pool.in_use()) as u64,
            link_up: link.is_some_and(|link| link.up).into(),
            link_speed: link.map_or(0, |link| u64::from(link.megabits) * 1_000_000),
            link_losses: counted.link_losses,
            resets: counted.resets,
            pauses_sent: counted.pauses_sent,
            pauses_received: counted.pauses_received,
            captured: captured.frames,
            capture_lost: captured.lost,
        }
    }

    /// Descriptors that are free when nothing is in flight.
    fn descriptors(&self) -> usize {
        self.nic.capabilities().tx_ring - 1
    }

    /// Notices a NIC that is gone, hangs, or has no link.
    fn watch(&mut self, reclaimed: usize) -> Result<()> {
        if reclaimed > 0 {
            self.completed += reclaimed as u64;
            self.resets_in_vain = 0;
        }
        if self.asked.elapsed() < ASK_EVERY.min(self.patience.hang_after / 8) {
            return Ok(());
        }
        self.asked = Instant::now();
        let link_up = self.nic.link()?.up;
        let (now, completed) = (self.start.elapsed(), self.completed);
        let descriptors = self.descriptors();
        let tx = self.tx()?;
        let (in_flight, tokens) = (descriptors - tx.free(), tx.in_flight());
        match self.watchdog.look(now, Look { in_flight, completed, link_up }) {
            Verdict::Fine => Ok(()),
            Verdict::LinkDown(time) if time < LINK_GRACE || !self.needs_link => Ok(()),
            Verdict::Hung(waited) if self.resets_in_vain >= MOST_RESETS => {
                let (device, seconds, resets) = (self.name.clone(), waited.as_secs_f64(), self.resets_in_vain);
                Err(Error::Hang { device, seconds, tokens, resets })
            }
            Verdict::Hung(_) => {
                self.resets_in_vain += 1;
                self.recover()
            }
            // Writers must not wait for a cable.
            Verdict::LinkDown(_) => self.recover(),
        }
    }

    /// Resets the NIC and waits for its link. Holds are released behind the proof that the device is quiet.
    fn recover(&mut self) -> Result<()> {
        let start = Instant::now();
        let Some((tx, rx)) = self.queues.take() else { return Err(stopped(&self.name)) };
        self.dropped += rx.dropped();
        let not_sent = &mut self.not_sent;
        let mut outcome = self.nic.reset([tx], [rx], |_, returned| {
            if let Returned::NotSent(cargo) = returned {
                not_sent.extend(cargo.file_range());
            }
        });
        for _ in 1..MOST_RESETS {
            match outcome {
                Ok(()) | Err(stillwire_driver::Error::NotQuiet { .. }) => break,
                Err(_) => outcome = self.nic.reset::<Cargo>([], [], |_, _| ()),
            }
        }
        outcome?;
        self.nic.wait_for_link(self.patience.link)?;
        self.queues = Some((self.nic.tx_queue()?, self.nic.rx_queue()?));
        self.watchdog = Watchdog::new(self.patience.hang_after);
        self.away += start.elapsed();
        Ok(())
    }

    fn queues(&mut self) -> Result<&mut (TxQueue<Cargo>, RxQueue)> {
        self.queues.as_mut().ok_or_else(|| stopped(&self.name))
    }
}

fn stopped(name: &str) -> Error {
    stillwire_driver::Error::Stopped { name: name.to_owned() }.into()
}

const LINK_DEADLINE: Duration = Duration::from_secs(10);
const ARP_DEADLINE: Duration = Duration::from_secs(3);
const ARP_AGAIN: Duration = Duration::from_millis(200);
/// Between two looks at the device, at most.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// A link that is lost for no longer is waited for with what is in the ring. Linux resets at once.
const LINK_GRACE: Duration = Duration::from_millis(500);
/// Resets in a row, without a completion or without coming up, before the NIC is given up.
const MOST_RESETS: u32 = 3;
/// Time without work after which a sleep is worth its system calls, and how short a sleep is not.
const AWAKE: Duration = Duration::from_micros(200);
const SHORTEST_NAP: Duration = Duration::from_micros(100);
const RX_BUDGET: usize = 256;
const POOL: usize = 64;
const MOST_WAITING: usize = 256;
