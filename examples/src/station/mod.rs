//! A NIC with an address: sends and receives UDP datagrams, answers ARP.
//!
//! Its thread owns the first transmit queue and all receive queues, because the device says which of them an answer comes to.
//! The other transmit queues are a [`Crew`]'s while there is one.

mod cargo;
mod figures;
mod messages;
mod receive;
mod recovery;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stillwire_driver::{Config, Nic, Offload, RxQueue, TxQueue};

pub use cargo::Cargo;
use recovery::Watch;

use crate::capture::Capture;
use crate::crew::{Crew, Work};
use crate::device::OpenDevice;
use crate::metrics::Metrics;
use crate::packet::{self, Endpoint, Received};
use crate::pool::Pool;
use crate::transfer::MAX_RUN;
use crate::{Error, Result};

/// A datagram that came in.
#[derive(Clone, Debug)]
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

/// A NIC, its queues, and an IPv4 address. Fields are dropped in order: the crew's queues first, and the model stops last.
pub struct Station {
    /// Those who own the transmit queues that are not ours.
    crew: Option<Crew>,
    /// `None` when the NIC is down for good.
    queues: Option<Queues>,
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
    /// One for each transmit queue.
    watches: Vec<Watch>,
    start: Instant,
    /// When the device was last looked at.
    asked: Instant,
    /// Descriptors of the first ring that were ever reclaimed.
    completed: u64,
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

/// The queues that are ours.
struct Queues {
    tx: TxQueue<Cargo>,
    /// Those that a crew may have.
    spare: Vec<TxQueue<Cargo>>,
    rx: Vec<RxQueue>,
}

impl Queues {
    /// All that the NIC has.
    fn of(nic: &Nic) -> Result<Self> {
        let count = nic.capabilities().queues;
        let tx = nic.tx_queue()?;
        let spare = (1..count).map(|_| nic.tx_queue()).collect::<std::result::Result<_, _>>()?;
        let rx = (0..count).map(|_| nic.rx_queue()).collect::<std::result::Result<_, _>>()?;
        Ok(Self { tx, spare, rx })
    }
}

impl Station {
    /// Brings the NIC up, with link, and with as many queues as [`Config::queues`] says.
    ///
    /// # Errors
    /// What the driver says; [`Error::Queues`].
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
    /// As [`open`](Self::open).
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
        let (asked, found) = (config.queues, nic.capabilities().queues);
        if found < asked.into() {
            return Err(Error::Queues { device: name, asked, found });
        }
        let queues = Queues::of(&nic)?;
        let watches = (0..found).map(|_| Watch::new(patience)).collect();
        let pool = Pool::new(device.function.iommu(), POOL)?;
        let me = Endpoint { mac: nic.mac(), address: me };
        let offload = nic.capabilities().tx_checksum.then_some(Offload::UDP_V4);
        Ok(Self {
            crew: None,
            queues: Some(queues),
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
            watches,
            start: Instant::now(),
            asked: Instant::now(),
            completed: 0,
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

    /// The first transmit queue.
    ///
    /// # Errors
    /// When the NIC could not be brought up again.
    pub fn tx(&mut self) -> Result<&mut TxQueue<Cargo>> {
        match &mut self.queues {
            Some(queues) => Ok(&mut queues.tx),
            None => Err(stopped(&self.name)),
        }
    }

    /// Pairs of queues.
    pub fn queue_count(&self) -> usize {
        self.watches.len()
    }

    /// Gives each transmit queue but the first to a thread of its own; with one queue there is nobody to be had.
    ///
    /// # Errors
    /// [`Error::Owner`] when there can be no more threads, and what [`Work`] says.
    pub fn hire(&mut self, work: &Work) -> Result<()> {
        let Some(queues) = self.queues.as_mut().filter(|queues| !queues.spare.is_empty()) else { return Ok(()) };
        let mut crew = Crew::hire(work, queues.spare.len(), self.nic.capabilities().tx_ring - 1)?;
        let equipped = crew.equip(std::mem::take(&mut queues.spare));
        self.crew = Some(crew);
        equipped
    }

    /// Those who were hired.
    pub fn crew(&mut self) -> Option<&mut Crew> {
        self.crew.as_mut()
    }

    /// Takes the queues back from those who were hired, and ends their threads. What is in the rings goes on; what the crew
    /// was given and had not posted is not sent ([`take_not_sent`](Self::take_not_sent)).
    ///
    /// # Errors
    /// [`Error::Owner`] when a thread is gone, and with it its queue.
    pub fn dismiss(&mut self) -> Result<()> {
        let Some(mut crew) = self.crew.take() else { return Ok(()) };
        let not_sent = &mut self.not_sent;
        let spare = crew.recall(|range| not_sent.push(range))?;
        if let Some(queues) = &mut self.queues {
            queues.spare = spare;
        }
        Ok(())
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

    /// Whether nothing waits to be sent, in the ring or for it.
    pub fn is_idle(&self) -> bool {
        let empty = |queues: &Queues| queues.tx.in_flight() == 0 && queues.spare.iter().all(|tx| tx.in_flight() == 0);
        let crew_is_idle = self.crew.as_ref().is_none_or(Crew::is_idle);
        self.waiting.is_empty() && crew_is_idle && self.queues.as_ref().is_none_or(empty)
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

    /// After a poll in which nothing happened, for a caller who has nothing to do for `at_most`: for a while it is looked again at
    /// once, and then slept until the NIC interrupts, so that an idle program costs nothing.
    ///
    /// # Errors
    /// What the driver says.
    pub fn rest(&mut self, at_most: Duration) -> Result<()> {
        let idle = self.idle_since.get_or_insert_with(Instant::now).elapsed();
        let nap = at_most.min(ASK_EVERY).min(self.patience.hang_after / 8);
        let Some(queues) = &mut self.queues else { return Err(stopped(&self.name)) };
        if self.interrupts && idle >= AWAKE && nap >= SHORTEST_NAP {
            // Only one pair's interrupt can be waited for, and an answer may come to another.
            let nap = if queues.rx.len() > 1 { nap.min(NAP_OF_SEVERAL) } else { nap };
            queues.rx[0].wait(&mut queues.tx, nap)?;
        } else {
            std::thread::yield_now();
        }
        Ok(())
    }
}

fn stopped(name: &str) -> Error {
    stillwire_driver::Error::Stopped { name: name.to_owned() }.into()
}

const LINK_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at the device, at most.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// A link that is lost for no longer is waited for with what is in the ring. Linux resets at once.
const LINK_GRACE: Duration = Duration::from_millis(500);
/// Resets in a row, without a completion or without coming up, before the NIC is given up.
const MOST_RESETS: u32 = 3;
/// Time without work after which a sleep is worth its system calls, and how short a sleep is not.
const AWAKE: Duration = Duration::from_micros(200);
const SHORTEST_NAP: Duration = Duration::from_micros(100);
/// Longest sleep of who has several receive queues to look at.
const NAP_OF_SEVERAL: Duration = Duration::from_millis(1);
const RX_BUDGET: usize = 256;
const POOL: usize = 64;
const MOST_WAITING: usize = 256;
