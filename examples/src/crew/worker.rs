//! One owner of a transmit queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use stillwire_driver::TxQueue;

use super::{Gauges, Order, Recalled, Work};
use crate::posting::Posting;
use crate::source::Source;
use crate::station::Cargo;
use crate::{Error, placement};

pub(super) struct Worker {
    source: Source,
    posting: Posting,
    core: Option<usize>,
    /// Descriptors of its ring that are free when nothing is in flight.
    descriptors: usize,
    gauges: Arc<Gauges>,
    orders: Receiver<Order>,
    give_back: Sender<Recalled>,
    errors: Sender<Error>,
    start: Instant,
    /// Jobs ever received.
    received: u64,
    /// Tokens ever posted to the queue that it has now; and, for each job whose frames are not all done, how many there were at
    /// its end.
    tokens: u64,
    ends: VecDeque<u64>,
    completed: u64,
    /// It has told of an error: what it has goes on, and nothing comes to it.
    failed: bool,
}

/// Nobody gives orders any more.
struct Over;

impl Worker {
    /// The owner of the queue `(number, of)`.
    pub(super) fn new(
        work: &Work,
        (queue, of): (usize, usize),
        descriptors: usize,
        gauges: Arc<Gauges>,
        orders: Receiver<Order>,
        give_back: Sender<Recalled>,
        errors: Sender<Error>,
    ) -> Self {
        Self {
            source: work.source.clone(),
            posting: Posting::new(work, (queue, of)),
            core: placement::in_turn(&work.cores, queue),
            descriptors,
            gauges,
            orders,
            give_back,
            errors,
            start: Instant::now(),
            received: 0,
            tokens: 0,
            ends: VecDeque::new(),
            completed: 0,
            failed: false,
        }
    }

    /// Its whole life.
    pub(super) fn work(mut self) {
        if let Some(core) = self.core
            && let Err(error) = placement::pin(core)
        {
            self.fail(error);
        }
        loop {
            let over = match self.orders.recv() {
                Ok(Order::Own(tx)) => self.own(*tx).is_err(),
                // Without a queue there are no jobs, and a look that comes late has nothing to see.
                Ok(Order::Send(_) | Order::Look) => false,
                Err(_) => true,
            };
            if over {
                return;
            }
        }
    }

    /// Sends what it is given until its queue is wanted back.
    fn own(&mut self, mut tx: TxQueue<Cargo>) -> Result<(), Over> {
        // What was left in the ring by an earlier owner is of no job here.
        self.tokens = tx.in_flight() as u64;
        let mut idle_since = None;
        loop {
            let reclaimed = tx.reclaim(drop);
            self.note(&tx, reclaimed);
            if self.gauges.recall.load(Ordering::Acquire) {
                return self.hand_in(tx);
            }
            let mut busy = reclaimed > 0;
            if !self.posting.owes() {
                busy |= self.take_order(tx.in_flight() > 0)?;
            }
            if self.posting.owes() {
                busy |= self.post(&mut tx);
            }
            match busy {
                true => idle_since = None,
                false if tx.in_flight() > 0 || self.posting.owes() => {
                    nap(idle_since.get_or_insert_with(Instant::now).elapsed());
                }
                // The next order is waited for.
                false => {}
            }
        }
    }

    /// Takes the next order, if there is one; waits for it unless something is `in_flight`.
    fn take_order(&mut self, in_flight: bool) -> Result<bool, Over> {
        let order = match in_flight {
            false => self.orders.recv().map_err(|_| Over)?,
            true => match self.orders.try_recv() {
                Ok(order) => order,
                Err(TryRecvError::Empty) => return Ok(false),
                Err(TryRecvError::Disconnected) => return Err(Over),
            },
        };
        match order {
            Order::Send(job) => {
                self.received += 1;
                if !self.failed {
                    self.posting.owe(job, self.start.elapsed());
                }
                Ok(true)
            }
            Order::Look | Order::Own(_) => Ok(true),
        }
    }

    /// Posts what it owes, or a part of it. Whether anything was posted.
    fn post(&mut self, tx: &mut TxQueue<Cargo>) -> bool {
        if self.posting.room(tx) == 0 {
            return false;
        }
        match self.posting.step(tx, None, &self.source, self.start.elapsed()) {
            Ok(posted) => {
                self.tokens += u64::from(posted.is_some());
                if !self.posting.owes() {
                    self.ends.push_back(self.tokens);
                    self.gauges.posted.store(self.received, Ordering::Release);
                }
                posted.is_some()
            }
            Err(error) => {
                self.fail(error);
                false
            }
        }
    }

    /// Says how far it is.
    fn note(&mut self, tx: &TxQueue<Cargo>, reclaimed: usize) {
        self.completed += reclaimed as u64;
        let in_ring = tx.in_flight();
        let done = self.tokens - in_ring as u64;
        while self.ends.front().is_some_and(|end| *end <= done) {
            self.ends.pop_front();
        }
        let gauges = &self.gauges;
        // Jobs end in the order in which they were posted.
        let open = self.ends.len() as u64 + u64::from(self.posting.owes());
        gauges.done.store(self.received - open, Ordering::Release);
        gauges.completed.store(self.completed, Ordering::Relaxed);
        gauges.in_flight.store(self.descriptors - tx.free(), Ordering::Relaxed);
        gauges.tokens.store(in_ring, Ordering::Relaxed);
        gauges.turns.fetch_add(1, Ordering::Release);
    }

    /// Gives the queue back, and all that it was given and did not post.
    fn hand_in(&mut self, tx: TxQueue<Cargo>) -> Result<(), Over> {
        let mut not_posted: Vec<_> = self.posting.take_owed().into_iter().collect();
        for order in self.orders.try_iter() {
            if let Order::Send(job) = order {
                self.received += 1;
                not_posted.push(job.range);
            }
        }
        self.ends.clear();
        let gauges = &self.gauges;
        gauges.posted.store(self.received, Ordering::Release);
        gauges.done.store(self.received, Ordering::Release);
        gauges.in_flight.store(0, Ordering::Relaxed);
        gauges.tokens.store(0, Ordering::Relaxed);
        gauges.recall.store(false, Ordering::Release);
        self.give_back.send(Recalled { tx, not_posted }).map_err(|_| Over)
    }

    fn fail(&mut self, error: Error) {
        self.failed = true;
        let _ = self.posting.take_owed();
        // Who would hear it may have gone on an error of its own.
        let _ = self.errors.send(error);
    }
}

/// Lets others work: the longer there was nothing to do, the longer.
fn nap(idle: Duration) {
    if idle < AWAKE {
        std::thread::yield_now();
    } else {
        std::thread::sleep((idle / 4).clamp(SHORTEST_NAP, LONGEST_NAP));
    }
}

/// Without progress for so long a ring is looked at again at once.
const AWAKE: Duration = Duration::from_micros(200);
/// Between two looks at a ring that has something in it: its holds keep writers waiting.
const SHORTEST_NAP: Duration = Duration::from_micros(50);
const LONGEST_NAP: Duration = Duration::from_millis(1);
