//! The owner of a pair of queues: sends what it holds, receives what comes back.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stillwire_dma::Payload;
use stillwire_driver::{Capabilities, Error, Frame, Look, Mac, Offload, Posted, RxQueue, TxQueue, Verdict, Watchdog};
use stillwire_filecache::Hold;

use super::cargo::{Cargo, Source, Token};
use super::message::{HEADERS, MESSAGE, Message, headers};
use super::receiver::Receiver;
use crate::counts::{add, count};
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

/// How bytes are sent.
#[derive(Clone, Copy)]
enum Way {
    /// In a frame.
    Frame,
    /// In frames that share a hold.
    Run,
    /// In datagrams that the NIC cuts, from one of [`RUN_PORTS`].
    Cut { port: usize },
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
    keep: &'a (dyn Fn(Hold) + Sync),
    /// Descriptors that came back.
    completed: u64,
    bytes: Vec<u8>,
}

impl<'a> Worker<'a> {
    /// The owner of pair number `queue`; `keep` takes holds that are kept for long.
    pub fn new(
        world: &'a World,
        life: &'a Life,
        beating: Beating,
        random: Random,
        queue: usize,
        keep: &'a (dyn Fn(Hold) + Sync),
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

    /// Takes bytes of a file and posts them, in one of three ways.
    fn post(&mut self, tx: &mut TxQueue<Token>) {
        let life = self.life;
        let source = &life.sources[self.random.below(life.sources.len())];
        let way = match self.random.below(20) {
            0..3 if life.can.udp_segmentation => Way::Cut { port: self.random.below(RUN_PORTS) },
            0..6 => Way::Run,
            _ => Way::Frame,
        };
        let Some(range) = self.choose(source, way) else { return };
        let Some(ticket) = life.tickets.take() else { return };
        let Some(cargo) = source.take(self.world, range.clone()) else { return };
        if self.random.chance(8)
            && let Some(Cargo::Held(twin)) = source.take(self.world, range.clone())
        {
            // For who keeps holds for long.
            (self.keep)(twin);
        }
        self.sequence += 1;
        let message = Message {
            file: source.book().file as u32,
            len: range.len() as u32,
            offset: range.start as u64,
            crc32: cargo.crc32(0..range.len()),
            is_run: matches!(way, Way::Cut { .. }),
            sequence: self.sequence,
        };
        let token = Token { cargo, _ticket: ticket };
        if self.world.broken == Some(Broken::LeakHold) && self.random.chance(3) {
            return std::mem::forget(token);
        }
        let posted = match way {
            Way::Frame => self.post_frame(tx, &message, token),
            Way::Run => self.post_run(tx, &message, token),
            Way::Cut { port } => self.post_cut(tx, &message, port, token),
        };
        match posted {
            Ok(frames) => add(&self.world.counts.frames_posted, frames),
            // The device has gone: whoever has the NIC finds out, and says whether it may.
            Err(Error::Stopped { .. } | Error::Gone { .. } | Error::Protocol { .. } | Error::Dma(_)) => {
                life.ill.store(true, Ordering::Release)
            }
            Err(error) => self.world.violate(format!("posting {message:?}: {error}")),
        }
    }

    /// Whole words of `source`, and whole segments where the NIC cuts.
    fn choose(&mut self, source: &Source, way: Way) -> Option<Range<usize>> {
        let (unit, most) = match way {
            Way::Frame => (8, self.frame_bytes()),
            Way::Run => (8, 32 << 10),
            Way::Cut { .. } => (SEGMENT, 40 * SEGMENT),
        };
        let len = (self.random.within(1..most / unit + 1) * unit).min(source.len() / unit * unit);
        let start = self.random.below((source.len() - len) / 8 + 1) * 8;
        if let Way::Cut { port } = way {
            let place = (source.book().file, start);
            // See `Receiver::append`.
            if std::mem::replace(&mut self.last_runs[port], place) == place {
                return None;
            }
        }
        (len > 0).then_some(start..start + len)
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
