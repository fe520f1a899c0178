//! The owner of a pair of queues: sends what it holds, receives what comes back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stillwire_dma::Payload;
use stillwire_driver::{Capabilities, Error, Frame, Look, Mac, Offload, Posted, RxQueue, TxQueue, Verdict, Watchdog};
use stillwire_filecache::Hold;

use super::cargo::{Cargo, Source, Token};
use super::message::{HEADERS, MESSAGE, Message, headers};
use super::receiver::Receiver;
use crate::counts::count;
use crate::random::Random;
use crate::tickets::Tickets;
use crate::world::{Beating, Broken, World};

/// What the workers of a NIC share, from its start to its end or reset.
pub struct Life {
    /// What there is to send.
    pub sources: Vec<Source>,
    /// Who looks at what arrives.
    pub receiver: Receiver,
    /// Of all tokens.
    pub tickets: Arc<Tickets>,
    /// All end.
    pub over: AtomicBool,
    /// A queue hangs, or the link stays away.
    pub ill: AtomicBool,
    /// Whether there is link, as was last seen.
    pub link_up: AtomicBool,
    /// Whether rings are emptied before the end.
    pub drains: bool,
    /// Whether the owners sleep until the NIC interrupts.
    pub interrupts: bool,
    /// The NIC's address.
    pub mac: Mac,
    /// What it can do.
    pub can: Capabilities,
}

/// A pair of queues and their owner.
pub struct Worker<'a> {
    world: &'a World,
    life: &'a Life,
    beating: Beating,
    random: Random,
    queue: usize,
    sequence: u64,
    /// Where the last run on each port was.
    last_runs: [(usize, usize); RUN_PORTS],
    keep: &'a dyn Fn(Hold),
    /// Descriptors that came back.
    completed: u64,
    bytes: Vec<u8>,
    /// What was found to be full, to be posted again.
    waiting: VecDeque<(Message, Token)>,
}

impl<'a> Worker<'a> {
    /// The owner of pair number `queue`; `keep` takes holds that are kept for long.
    pub fn new(
        world: &'a World,
        life: &'a Life,
        beating: Beating,
        random: Random,
        queue: usize,
        keep: &'a dyn Fn(Hold),
    ) -> Self {
        Self {
            world,
            life,
            beating,
            random,
            queue,
            sequence: 0,
            last_runs: [(usize::MAX, 0); RUN_PORTS],
            keep,
            completed: 0,
            bytes: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Sends and receives until the life is over.
    pub fn run(&mut self, tx: &mut TxQueue<Token>, rx: &mut RxQueue) {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(HANG_AFTER);
        let mut looked = start;
        while !self.life.over.load(Ordering::Acquire) {
            self.turn(tx, rx);
            if looked.elapsed() >= HANG_AFTER / 20 {
                looked = Instant::now();
                let link_up = self.life.link_up.load(Ordering::Relaxed);
                let look = Look { in_flight: tx.in_flight(), completed: self.completed, link_up };
                match watchdog.look(start.elapsed(), look) {
                    Verdict::Fine => {}
                    Verdict::LinkDown(time) if time < LINK_AWAY => {}
                    Verdict::LinkDown(_) => self.life.ill.store(true, Ordering::Release),
                    Verdict::Hung(_) => {
                        count(&self.world.counts.hangs_found);
                        self.life.ill.store(true, Ordering::Release);
                        break;
                    }
                }
            }
            self.rest(tx, rx);
        }
        self.waiting.clear();
        let end = Instant::now() + DRAIN;
        while self.life.drains && tx.in_flight() > 0 && Instant::now() < end && !self.life.ill.load(Ordering::Acquire) {
            self.beating.at("drains its ring");
            self.reclaim(tx);
            rx.poll(64, |frame| self.life.receiver.take(self.world, frame, &mut self.bytes));
            std::thread::yield_now();
        }
    }

    fn turn(&mut self, tx: &mut TxQueue<Token>, rx: &mut RxQueue) {
        self.beating.at("receives");
        rx.poll(128, |frame| self.life.receiver.take(self.world, frame, &mut self.bytes));
        self.beating.at("reclaims");
        self.reclaim(tx);
        if tx.in_flight() < MOST_TOKENS && tx.free() > MOST_DESCRIPTORS {
            self.beating.at("holds and posts");
            for _ in 0..self.random.within(1..5) {
                self.post(tx);
            }
            tx.publish();
        }
    }

    fn reclaim(&mut self, tx: &mut TxQueue<Token>) {
        self.completed += tx.reclaim(drop) as u64;
    }

    /// Not all of the machine is for us.
    fn rest(&mut self, tx: &mut TxQueue<Token>, rx: &mut RxQueue) {
        self.beating.at("rests");
        let time = Duration::from_micros(self.random.within(1000..6000) as u64);
        if self.life.interrupts {
            if let Err(error) = rx.wait(tx, time) {
                self.world.violate(format!("waiting for an interrupt: {error}"));
            }
        } else {
            std::thread::sleep(time);
        }
    }

    fn post(&mut self, tx: &mut TxQueue<Token>) {
        let source = &self.life.sources[self.random.below(self.life.sources.len())];
        let is_run = self.random.chance(300);
        let is_cut = is_run && self.life.can.udp_segmentation && self.random.chance(500);
        let most = match (is_run, is_cut) {
            (false, _) => self.frame_bytes(),
            (true, true) => 40 * SEGMENT,
            (true, false) => 32 << 10,
        };
        let unit = if is_cut { SEGMENT } else { 8 };
        let len = (self.random.within(1..most / unit + 1) * unit).min(source.len() / unit * unit);
        if len == 0 {
            return;
        }
        let port = self.random.below(RUN_PORTS);
        let start = self.random.below((source.len() - len) / 8 + 1) * 8;
        if is_cut
            && std::mem::replace(&mut self.last_runs[port], (source.book().file, start)) == (source.book().file, start)
        {
            return;
        }
        // Neither too few words nor too many: of some files nearly all are short.
        let Some(ticket) = self.life.tickets.take() else { return };
        let Some(cargo) = source.take(self.world, start..start + len) else { return };
        let crc32 = cargo.crc32(0..len);
        let file = source.book().file as u32;
        if let Cargo::Held(hold) = &cargo
            && self.random.chance(8)
        {
            self.keep_twin(source, hold, start..start + len);
        }
        let token = Token { cargo, _ticket: ticket };
        if self.world.broken == Some(Broken::LeakHold) && self.random.chance(3) {
            return std::mem::forget(token);
        }
        self.sequence += 1;
        let message =
            Message { file, len: len as u32, offset: start as u64, crc32, is_run: is_cut, sequence: self.sequence };
        let posted = match (is_run, is_cut) {
            (false, _) => self.post_frame(tx, &message, token),
            (true, false) => self.post_run(tx, &message, token),
            (true, true) => self.post_cut(tx, &message, port, token),
        };
        match posted {
            Ok(frames) => drop(self.world.counts.frames_posted.fetch_add(frames, Ordering::Relaxed)),
            // The device has gone in another way than by a fault of ours: whoever has the NIC finds out.
            Err(Error::Stopped { .. } | Error::Gone { .. } | Error::Dma(_)) => {
                self.life.ill.store(true, Ordering::Release)
            }
            Err(error) => self.world.violate(format!("posting {message:?}: {error}")),
        }
    }

    /// Another hold of the same bytes, for the one who keeps them for long.
    fn keep_twin(&self, source: &Source, _hold: &Hold, range: std::ops::Range<usize>) {
        if let Some(Cargo::Held(twin)) = source.take(self.world, range) {
            (self.keep)(twin);
        }
    }

    /// Payload bytes of a frame with a message, at most.
    fn frame_bytes(&self) -> usize {
        (self.life.can.max_frame - HEADERS - MESSAGE) / 8 * 8
    }

    fn header(&self, port: usize, len: usize) -> [u8; HEADERS] {
        headers(self.life.mac, (4000 + 100 * self.queue + port) as u16, len)
    }

    fn post_frame(&mut self, tx: &mut TxQueue<Token>, message: &Message, token: Token) -> Result<u64, Error> {
        let header = self.header(RUN_PORTS, MESSAGE + token.len());
        let header = [&header[..], &message.encode()].concat();
        match tx.post(Frame::new(&header).offload(Offload::UDP_V4).payload(token))? {
            Posted::Queued => Ok(1),
            Posted::Full(_) => Ok(0),
        }
    }

    /// A hold that rides on the last of the frames that are cut from it.
    fn post_run(&mut self, tx: &mut TxQueue<Token>, message: &Message, token: Token) -> Result<u64, Error> {
        let (len, step) = (token.len(), self.random.within(64..self.frame_bytes() / 8) * 8);
        let mut run = tx.run(token);
        let mut frames = 0;
        for start in (0..len).step_by(step) {
            let range = start..len.min(start + step);
            let crc32 = run.payload().cargo.crc32(range.clone());
            let part = Message { len: range.len() as u32, offset: message.offset + start as u64, crc32, ..*message };
            let header = [&self.header(RUN_PORTS, MESSAGE + range.len())[..], &part.encode()].concat();
            if !run.post(&header, Some(Offload::UDP_V4), range)? {
                break;
            }
            frames += 1;
        }
        Ok(frames)
    }

    /// A run that the NIC cuts, behind a datagram that announces it.
    fn post_cut(
        &mut self,
        tx: &mut TxQueue<Token>,
        message: &Message,
        port: usize,
        token: Token,
    ) -> Result<u64, Error> {
        let header = self.header(port, MESSAGE);
        let announcement = [&header[..], &message.encode()].concat();
        if let Posted::Full(_) = tx.post(Frame::new(&announcement).offload(Offload::UDP_V4))? {
            return Ok(0);
        }
        let offload = Offload::UDP_V4.segmented(SEGMENT as u16);
        match tx.post(Frame::new(&header).offload(offload).payload(token))? {
            Posted::Queued => Ok(2),
            Posted::Full(_) => Ok(1),
        }
    }
}

/// UDP ports of the runs of a queue that the NIC cuts; the next one is all other frames'.
const RUN_PORTS: usize = 8;
/// Payload bytes of a segment.
const SEGMENT: usize = 1024;
/// Tokens in a ring, at most: with more, holds would leave nothing of a small cache for others.
const MOST_TOKENS: usize = 14;
/// Descriptors of what is posted in a turn.
const MOST_DESCRIPTORS: usize = 200;
/// With work and link and without a completion, for so long: it hangs. The machine is shared, and the model is a thread.
const HANG_AFTER: Duration = Duration::from_millis(1000);
/// Without link for so long the NIC is reset, so that nobody waits for what it has.
const LINK_AWAY: Duration = Duration::from_millis(800);
/// How long a ring may take to become empty.
const DRAIN: Duration = Duration::from_millis(500);
