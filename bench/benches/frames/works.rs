//! The works: one burst of each. The device moves behind the timed region, and must have counted the burst.

use std::ops::Range;
use std::time::{Duration, Instant};

use stillwire_bench::line::FCS;
use stillwire_bench::race::timed::{Burst, timed_rx60, timed_tx_page, timed_tx_page_each};
use stillwire_bench::{Cached, Device, Port, TCP_HEADERS, tcp_header};
use stillwire_dma::{Access, HugePages, Mapping, Payload, Segment, SharedMemory};
use stillwire_driver::{Frame, Offload, Posted, TxQueue};
use stillwire_filecache::Hold;

/// Lengths of frames with their check sequences, bytes.
pub const FRAMES: [usize; 7] = [64, 128, 256, 512, 1024, 1518, 9018];
/// Frames to a doorbell.
pub const BURST: usize = 32;

/// What a burst is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Frames that are all header, and are copied.
    HeaderOnly,
    /// A TCP header and held file bytes, checksums; a hold a run of up to 64 KiB.
    HoldARun,
    /// The same with a hold a frame.
    HoldAFrame,
    /// The same with bytes of a buffer that nobody can take away: no holds.
    Unheld,
    /// An Ethernet header and such bytes, and nothing to compute: what is left are descriptors.
    Bare,
    /// The same, shown to the device frame by frame: a doorbell and a report each.
    Doorbells,
    /// Frames that arrive.
    Receive,
    // Here come frames that the NIC cuts itself (segmentation), when the driver can ask for it.
}

impl Work {
    pub fn name(self) -> &'static str {
        match self {
            Self::HeaderOnly => "header alone",
            Self::HoldARun => "header + page, a hold a run",
            Self::HoldAFrame => "header + page, a hold a frame",
            Self::Unheld => "header + page, no holds",
            Self::Bare => "header + page, no holds, no checksums",
            Self::Doorbells => "header + page, no holds, no checksums, a doorbell a frame",
            Self::Receive => "receive",
        }
    }
}

/// The works that there are for frames of that length.
pub fn all(frame: usize) -> impl Iterator<Item = Work> {
    let small = frame - FCS <= HEADER_MOST;
    let header_only = small.then_some(Work::HeaderOnly);
    header_only.into_iter().chain([
        Work::HoldARun,
        Work::HoldAFrame,
        Work::Unheld,
        Work::Bare,
        Work::Doorbells,
        Work::Receive,
    ])
}

/// Two NICs, as a transmit queue is for payloads of one type.
pub struct Works {
    held: Side<Hold>,
    pooled: Side<Pooled>,
    cached: Cached,
    buffer: &'static Mapping,
    /// Where in the file, or the buffer, the next burst begins, bytes.
    next: usize,
    /// Frames as they arrive.
    arriving: Vec<u8>,
}

/// A NIC with the device behind it.
struct Side<T> {
    /// Dropped first: it stops the device.
    port: Port<T>,
    device: Device,
}

/// Bytes of a buffer that is there for ever.
#[derive(Clone)]
struct Pooled {
    buffer: &'static Mapping,
    bytes: Range<usize>,
}

impl Payload for Pooled {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn segments(&self, range: Range<usize>, mut each: impl FnMut(Segment)) {
        let start = self.bytes.start;
        each(self.buffer.segment(start + range.start..start + range.end).expect("the buffer is mapped"));
    }
}

impl<T: Payload + 'static> Side<T> {
    fn new() -> Self {
        let device = Device::paper().expect("a NIC on paper");
        let port = Port::open(&device, RING, (FRAMES[FRAMES.len() - 1] - FCS) as u16).expect("the NIC opens");
        Self { port, device }
    }

    /// Times `post`, and lets the device send the burst.
    fn burst(&mut self, frame: usize, post: impl FnOnce(&mut TxQueue<T>) -> bool) -> Duration {
        let before = self.device.transmitted();
        let start = Instant::now();
        let all = post(&mut self.port.tx);
        let spent = start.elapsed();
        self.device.settle().expect("frames that a NIC can send");
        let sent = self.device.transmitted() - before;
        assert!(all, "the ring is full");
        assert_eq!((sent.frames, sent.bytes), (BURST as u64, (BURST * (frame - FCS)) as u64), "what was timed");
        spent
    }
}

impl Works {
    pub fn new() -> Self {
        let (held, pooled) = (Side::new(), Side::<Pooled>::new());
        let cached = Cached::zeros(WALK, false).expect("the file is cached");
        cached.cache.attach_to(held.device.function().iommu()).expect("the cache is mapped");
        let memory = SharedMemory::new("stillwire-pool", WALK, HugePages::Never).expect("memory");
        // All of it is there before it is timed.
        (0..WALK).step_by(4096).for_each(|at| memory.write_at(at, &[1]));
        let mapping = pooled.device.function().iommu().map(&memory, Access::ReadOnly).expect("the buffer is mapped");
        // For ever: the token that names it then costs nothing to make or to drop.
        let buffer = Box::leak(Box::new(mapping));
        Self { held, pooled, cached, buffer, next: 0, arriving: Vec::new() }
    }

    /// One burst of [`BURST`] frames of `frame` bytes; returns what it took.
    pub fn burst(&mut self, work: Work, frame: usize) -> Duration {
        let header = if matches!(work, Work::Bare | Work::Doorbells) { ETHERNET } else { TCP_HEADERS };
        let payload = (frame - FCS).saturating_sub(header);
        let start = if self.next + BURST * payload > WALK { 0 } else { self.next };
        self.next = start + BURST * payload;
        let burst = Burst { bytes: start as u64..self.next as u64, payload };
        let (file, header) = (&self.cached.file, tcp_header(payload));
        let ethernet: [u8; ETHERNET] = *header.first_chunk().expect("it begins with that");
        let pooled = Pooled { buffer: self.buffer, bytes: start..self.next };
        match work {
            Work::HeaderOnly => self.held.burst(frame, |tx| timed_header_only(tx, &[0xff; HEADER_MOST][..frame - FCS])),
            Work::HoldARun => {
                self.held.burst(frame, |tx| timed_tx_page(tx, file, &header, &burst).expect("frames are posted"))
            }
            Work::HoldAFrame => {
                self.held.burst(frame, |tx| timed_tx_page_each(tx, file, &header, &burst).expect("frames are posted"))
            }
            Work::Unheld => {
                self.pooled.burst(frame, |tx| timed_pooled(tx, &header, Some(Offload::TCP_V4), pooled, payload))
            }
            Work::Bare => self.pooled.burst(frame, |tx| timed_pooled(tx, &ethernet, None, pooled, payload)),
            Work::Doorbells => self.pooled.burst(frame, |tx| timed_doorbells(tx, &ethernet, &pooled, payload)),
            Work::Receive => self.receive(frame - FCS),
        }
    }

    fn receive(&mut self, len: usize) -> Duration {
        self.arriving.resize(len, 0xff);
        let Side { port, device } = &mut self.held;
        assert_eq!(device.receive(BURST, &self.arriving).expect("buffers"), BURST);
        let start = Instant::now();
        let taken = timed_rx60(&mut port.rx, BURST);
        let spent = start.elapsed();
        assert_eq!(taken, (BURST, BURST * len));
        spent
    }
}

#[inline(never)]
fn timed_header_only(tx: &mut TxQueue<Hold>, frame: &[u8]) -> bool {
    tx.reclaim(drop);
    let all = (0..BURST).all(|_| matches!(tx.post(Frame::new(frame)), Ok(Posted::Queued)));
    tx.publish();
    all
}

#[inline(never)]
fn timed_pooled<const HEADER: usize>(
    tx: &mut TxQueue<Pooled>,
    header: &[u8; HEADER],
    offload: Option<Offload>,
    burst: Pooled,
    payload: usize,
) -> bool {
    tx.reclaim(drop);
    let mut run = tx.run(burst);
    let all =
        (0..BURST).all(|frame| matches!(run.post(header, offload, frame * payload..(frame + 1) * payload), Ok(true)));
    drop(run);
    tx.publish();
    all
}

/// The same without checksums, and with a run and a doorbell a frame.
#[inline(never)]
fn timed_doorbells(tx: &mut TxQueue<Pooled>, header: &[u8; ETHERNET], burst: &Pooled, payload: usize) -> bool {
    tx.reclaim(drop);
    (0..BURST).all(|frame| {
        let start = burst.bytes.start + frame * payload;
        let posted = tx.run(Pooled { bytes: start..start + payload, ..*burst }).post(header, None, 0..payload);
        tx.publish();
        matches!(posted, Ok(true))
    })
}

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
const RING: u16 = 512;
/// Bytes of file and buffer that are walked through: far more than a cache of the processor.
const WALK: usize = 64 << 20;
/// Most bytes that the driver copies as a header.
const HEADER_MOST: usize = 256;
