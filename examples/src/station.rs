//! A NIC with an address: sends and receives UDP datagrams, answers ARP.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::{Duration, Instant};

use stillwire_dma::{Payload, Segment};
use stillwire_driver::{Checksum, Config, Frame, Nic, Offload, Posted, RxQueue, TxQueue};
use stillwire_filecache::{DirectHold, Hold, Unheld};

use crate::device::OpenDevice;
use crate::packet::{self, Endpoint, Received, UdpTemplate};
use crate::pool::{Buffer, Pool};
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

/// A NIC, its queues, and an IPv4 address. Fields are dropped in order: the model stops last.
pub struct Station {
    /// Transmit queue.
    pub tx: TxQueue<Cargo>,
    rx: RxQueue,
    pool: Pool,
    /// The NIC.
    pub nic: Nic,
    device: OpenDevice,
    name: String,
    me: Endpoint,
    /// Whether our own address can be somebody else's, too: on a loopback everything comes back.
    everything_is_mine: bool,
    /// Frames of our own that wait for room in the ring.
    waiting: VecDeque<(Vec<u8>, Option<Offload>)>,
    scratch: Vec<u8>,
    /// Frames whose checksums were wrong: dropped, as a kernel would.
    pub bad_checksums: u64,
    /// When the ring last moved, and when the device was last asked whether it is there.
    progress: Instant,
    asked: Instant,
}

impl Station {
    /// Brings the NIC up, with link.
    ///
    /// # Errors
    /// What the driver says.
    pub fn open(device: OpenDevice, me: std::net::SocketAddrV4, config: Config, loopback: bool) -> Result<Self> {
        let name = device.function.name();
        let nic = Nic::open(device.function.clone(), config)?;
        nic.wait_for_link(LINK_DEADLINE)?;
        let (tx, rx) = (nic.tx_queue()?, nic.rx_queue()?);
        let pool = Pool::new(device.function.iommu(), POOL)?;
        let me = Endpoint { mac: nic.mac(), address: me };
        Ok(Self {
            tx,
            rx,
            pool,
            nic,
            device,
            name,
            me,
            everything_is_mine: loopback,
            waiting: VecDeque::new(),
            scratch: Vec::new(),
            bad_checksums: 0,
            progress: Instant::now(),
            asked: Instant::now(),
        })
    }

    /// The NIC's function: for mapping memory.
    pub fn function(&self) -> &stillwire_dma::PciFunction {
        &self.device.function
    }

    /// Who we are.
    pub fn me(&self) -> Endpoint {
        self.me
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
            std::thread::yield_now();
        }
        Ok(found.expect("the loop ends with it"))
    }

    /// Queues a datagram of our own bytes; it goes out when there is room.
    pub fn send(&mut self, template: &mut UdpTemplate, payload: &[u8]) {
        let mut frame = template.next(payload.len()).to_vec();
        frame.extend_from_slice(payload);
        // What waits is repeated by its sender when it is lost: a bound costs nothing but keeps memory bounded.
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push_back((frame, Some(Offload::UDP_V4)));
        }
    }

    /// Takes what has arrived, gives back what was sent, sends what waits. Returns whether anything happened.
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
        let reclaimed = self.tx.reclaim(drop);
        self.watch(reclaimed)?;
        let (scratch, bad) = (&mut self.scratch, &mut self.bad_checksums);
        let (me, waiting) = (self.me, &mut self.waiting);
        let received = self.rx.poll(RX_BUDGET, |frame| {
            let verdict = frame.checksum();
            if verdict.ip == Checksum::Bad || verdict.transport == Checksum::Bad {
                *bad += 1;
                return;
            }
            frame.copy_to(scratch);
            let received = Received::parse(scratch);
            if let Received::ArpRequest { asker, asker_ip, wanted } = received
                && wanted == *me.address.ip()
                && waiting.len() < MOST_WAITING
            {
                waiting.push_back((packet::arp_reply(me.mac, wanted, asker, asker_ip), None));
            }
            each(&received);
        });
        let posted = self.post_waiting()?;
        Ok(reclaimed > 0 || received > 0 || posted)
    }

    fn post_waiting(&mut self) -> Result<bool> {
        let mut posted = false;
        while let Some((frame, offload)) = self.waiting.front() {
            // Headers travel by copy, the rest through the pool.
            let header = if offload.is_some() { packet::UDP_HEADERS } else { frame.len() };
            let (header, rest) = frame.split_at(header);
            let mut out = Frame::new(header);
            out = if let Some(offload) = offload { out.offload(*offload) } else { out };
            if !rest.is_empty() {
                let Some(buffer) = self.pool.fill(rest) else { break };
                out = out.payload(Cargo::Buffer(buffer));
            }
            match self.tx.post(out)? {
                Posted::Full(_) => break,
                Posted::Queued => {}
            }
            posted = true;
            self.waiting.pop_front();
        }
        if posted {
            self.tx.publish();
        }
        Ok(posted)
    }

    /// Notices a NIC that is gone or hangs.
    fn watch(&mut self, reclaimed: usize) -> Result<()> {
        if reclaimed > 0 {
            self.progress = Instant::now();
            return Ok(());
        }
        if self.asked.elapsed() < ASK_EVERY {
            return Ok(());
        }
        // A thread that was away (a slow disk, a stopped process) says nothing about the device.
        let was_away = self.asked.elapsed() >= HANG_AFTER / 2;
        self.asked = Instant::now();
        self.nic.link()?;
        if self.tx.in_flight() == 0 || was_away {
            self.progress = self.asked;
        }
        let waited = self.progress.elapsed();
        if waited >= HANG_AFTER {
            let tokens = self.tx.in_flight();
            return Err(Error::Hang { device: self.name.clone(), seconds: waited.as_secs(), tokens });
        }
        Ok(())
    }
}

const LINK_DEADLINE: Duration = Duration::from_secs(10);
const ARP_DEADLINE: Duration = Duration::from_secs(3);
const ARP_AGAIN: Duration = Duration::from_millis(200);
/// Between two questions whether the device is still there.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Time without a completion after which a device with work hangs.
const HANG_AFTER: Duration = Duration::from_secs(5);
const RX_BUDGET: usize = 256;
const POOL: usize = 64;
const MOST_WAITING: usize = 256;
