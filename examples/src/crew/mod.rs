//! More owners of transmit queues: a thread each, that is handed runs of the file and sends them.
//!
//! ```text
//!  Station's thread                              an owner, one for each queue but the first
//!  ────────────────                              ──────────────────────────────────────────
//!  protocol: "these 64 KiB next" ──▶ bounded ──▶ hold ▶ digest ▶ headers ▶ its own ring ▶ reclaim
//!                                    channel        │
//!  how far is it? hangs it? ◀── a line of atomics ──┘    (Gauges: written once a turn, by the owner alone)
//!  a reset, or the end: recall ──▶ the queue comes back by another channel, with what was not posted
//! ```
//!
//! Rings are owned, not shared: nothing on the way from a hold to a descriptor takes a lock that another owner takes.

mod worker;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use stillwire_driver::{Offload, TxQueue};

use worker::Worker;

use crate::packet::Endpoint;
use crate::posting::Job;
use crate::source::Source;
use crate::station::Cargo;
use crate::{Error, Result};

/// What owners need to know.
#[derive(Clone)]
pub struct Work {
    /// Whose pages.
    pub source: Source,
    /// The sender.
    pub from: Endpoint,
    /// The receiver.
    pub to: Endpoint,
    /// File bytes in each frame.
    pub payload: u32,
    /// File bytes in each segment of a run, if the NIC is to cut.
    pub segment: Option<u16>,
    /// Checksums that are the NIC's work.
    pub offload: Option<Offload>,
    /// Give up on pages that can not be held for so long.
    pub deadline: Duration,
    /// Processors, in turn from the first queue's owner on (who is not of the crew); none: the kernel chooses.
    pub cores: Vec<usize>,
}

/// The owners, as the station's thread sees them. Dropping it takes their queues back and drops those.
pub struct Crew {
    /// Of the queues from 1 on.
    members: Vec<Member>,
    /// What went wrong with one of them.
    errors: Receiver<Error>,
}

struct Member {
    queue: usize,
    /// `None` at the end.
    orders: Option<SyncSender<Order>>,
    back: Receiver<Recalled>,
    gauges: Arc<Gauges>,
    /// Jobs that it was ever given.
    given: u64,
    /// Whether it has its queue.
    equipped: bool,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Own(Box<TxQueue<Cargo>>),
    Send(Job),
    /// Look at [`Gauges::recall`].
    Look,
}

/// A queue that comes back, and the bytes of the file that were not posted.
struct Recalled {
    tx: TxQueue<Cargo>,
    not_posted: Vec<Range<u64>>,
}

/// What an owner says of itself. Each has its own cache lines, two because the processor fetches pairs.
#[derive(Default)]
#[repr(align(128))]
struct Gauges {
    /// Jobs all of whose frames are in the ring, or were.
    posted: AtomicU64,
    /// Jobs all of whose frames the NIC has read.
    done: AtomicU64,
    /// Descriptors ever reclaimed, and those in flight.
    completed: AtomicU64,
    in_flight: AtomicUsize,
    /// File runs in the ring.
    tokens: AtomicUsize,
    /// Times that the owner has looked at its ring.
    turns: AtomicU64,
    /// The queue is to come back.
    recall: AtomicBool,
}

/// How full a ring is.
#[derive(Clone, Copy, Default, Debug)]
pub struct Level {
    /// Descriptors in flight.
    pub in_flight: usize,
    /// File runs in it.
    pub tokens: usize,
}

/// What can be seen of an owner.
pub struct Seen {
    /// Its ring.
    pub level: Level,
    /// Descriptors that it ever reclaimed.
    pub completed: u64,
    /// Times that it has looked at its ring.
    pub turns: u64,
}

/// How much each owner had been given at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark(Vec<u64>);

impl Crew {
    /// `count` owners, without queues, of rings with so many `descriptors`.
    pub(crate) fn hire(work: &Work, count: usize, descriptors: usize) -> Result<Self> {
        let (sender, errors) = channel();
        let mut crew = Self { members: Vec::new(), errors };
        for queue in 1..=count {
            crew.members.push(Member::hire(work, queue, 1 + count, descriptors, sender.clone())?);
        }
        Ok(crew)
    }

    /// Gives each its queue.
    pub(crate) fn equip(&mut self, queues: Vec<TxQueue<Cargo>>) -> Result<()> {
        self.members.iter_mut().zip(queues).try_for_each(|(member, tx)| {
            member.equipped = true;
            member.order(Order::Own(Box::new(tx)))
        })
    }

    /// Takes the queues back, with what is in their rings. `not_posted` is told what was given and is not there.
    pub(crate) fn recall(&mut self, mut not_posted: impl FnMut(Range<u64>)) -> Result<Vec<TxQueue<Cargo>>> {
        // All are told before the first is waited for.
        self.members.iter().filter(|member| member.equipped).for_each(Member::call);
        let mut queues = Vec::new();
        let mut lost = None;
        for member in self.members.iter_mut().filter(|member| member.equipped) {
            member.equipped = false;
            match member.back.recv() {
                Ok(recalled) => {
                    queues.push(recalled.tx);
                    recalled.not_posted.into_iter().for_each(&mut not_posted);
                }
                Err(_) => lost = Some(member.gone()),
            }
        }
        lost.map_or(Ok(queues), Err)
    }

    /// Drops what was given and is not posted.
    pub(crate) fn forget(&mut self) -> Result<()> {
        if self.members.iter().all(|member| member.gauges.posted.load(Ordering::Acquire) == member.given) {
            return Ok(());
        }
        let queues = self.recall(drop)?;
        self.equip(queues)
    }

    /// Number of owners.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether the owner of `queue` takes another job.
    pub(crate) fn takes(&self, queue: usize) -> bool {
        self.member(queue).is_some_and(|member| {
            member.equipped && member.given - member.gauges.posted.load(Ordering::Acquire) < JOBS as u64
        })
    }

    /// Gives a job to the owner of `queue`, who [takes](Self::takes) it.
    pub(crate) fn give(&mut self, queue: usize, job: Job) -> Result<()> {
        let Some(member) = self.members.get_mut(queue.wrapping_sub(1)) else { return Ok(()) };
        member.given += 1;
        member.order(Order::Send(job))
    }

    /// What went wrong with one of them since the last time.
    pub(crate) fn check(&self) -> Result<()> {
        self.errors.try_recv().map_or(Ok(()), Err)
    }

    /// What has been given up to now.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.members.iter().map(|member| member.given).collect())
    }

    /// Whether the NIC has read everything that was given up to then.
    pub(crate) fn has_passed(&self, mark: &Mark) -> bool {
        self.members.iter().zip(&mark.0).all(|(member, given)| member.gauges.done.load(Ordering::Acquire) >= *given)
    }

    /// Whether nothing is to be done, and nothing in the rings.
    pub fn is_idle(&self) -> bool {
        self.has_passed(&self.mark())
    }

    /// How full their rings are, by number.
    pub fn levels(&self) -> impl Iterator<Item = Level> {
        self.members.iter().map(|member| member.gauges.seen().level)
    }

    /// What can be seen of the owner of `queue`.
    pub(crate) fn seen(&self, queue: usize) -> Seen {
        let idle = Seen { level: Level::default(), completed: 0, turns: 0 };
        self.member(queue).map_or(idle, |member| member.gauges.seen())
    }

    fn member(&self, queue: usize) -> Option<&Member> {
        self.members.get(queue.wrapping_sub(1))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // A ring that is dropped proves that the device is quiet, and lets its holds go.
        drop(self.recall(drop));
        for member in &mut self.members {
            member.orders = None;
            if let Some(thread) = member.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

impl Member {
    fn hire(work: &Work, queue: usize, of: usize, descriptors: usize, errors: Sender<Error>) -> Result<Self> {
        let (orders, taken) = sync_channel(JOBS + SPARE_ORDERS);
        let (give_back, back) = channel();
        let gauges = Arc::<Gauges>::default();
        let worker = Worker::new(work, (queue, of), descriptors, gauges.clone(), taken, give_back, errors);
        let thread = std::thread::Builder::new().name(format!("stillwire-tx{queue}")).spawn(move || worker.work());
        let thread = thread.map_err(|error| Error::Owner { queue, why: error.to_string() })?;
        let (orders, thread) = (Some(orders), Some(thread));
        Ok(Self { queue, orders, back, gauges, given: 0, equipped: false, thread })
    }

    fn order(&self, order: Order) -> Result<()> {
        let sent = self.orders.as_ref().map(|orders| orders.send(order));
        sent.is_some_and(|sent| sent.is_ok()).then_some(()).ok_or_else(|| self.gone())
    }

    /// Has it give its queue back.
    fn call(&self) {
        // Release: it sees, after this, what was given before.
        self.gauges.recall.store(true, Ordering::Release);
        // It may sleep until an order comes. When the channel is full it does not.
        let _ = self.orders.as_ref().map(|orders| orders.try_send(Order::Look));
    }

    fn gone(&self) -> Error {
        Error::Owner { queue: self.queue, why: "it has ended too early, and its ring with it".into() }
    }
}

impl Gauges {
    fn seen(&self) -> Seen {
        Seen {
            // Acquire: the rest is not older than this turn.
            turns: self.turns.load(Ordering::Acquire),
            level: Level {
                in_flight: self.in_flight.load(Ordering::Relaxed),
                tokens: self.tokens.load(Ordering::Relaxed),
            },
            completed: self.completed.load(Ordering::Relaxed),
        }
    }
}

/// Jobs that an owner has at once: one to post, and the next.
const JOBS: usize = 2;
/// Room for orders that are no jobs: a queue, and looks that were not needed.
const SPARE_ORDERS: usize = 4;

#[cfg(test)]
mod tests;
