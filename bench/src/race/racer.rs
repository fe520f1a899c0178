//! The contestant: what it keeps between two questions, and how it does a work.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use stillwire_driver::Mac;
use stillwire_examples::packet::{Endpoint, UDP_HEADERS, UdpTemplate};
use stillwire_examples::sending::HEADERS;
use stillwire_filecache::Hold;

use super::ask::RUN_PAGES;
use super::timed::{self, Burst};
use super::{Answer, Ask, Error, Kind, Result, Work};
use crate::paper::{Counts, RECEIVED};
use crate::{Cached, Device, Port, TCP_HEADERS, tcp_header};

/// Does what it is asked. Devices and caches stay for the next question.
#[derive(Default)]
pub struct Racer {
    stages: Vec<Stage>,
}

/// A device that reaches the memory of a cache.
struct Stage {
    /// Of the questions that it answers.
    kind: Kind,
    cache_mib: usize,
    huge: bool,
    /// Dropped first: it stops the device.
    port: Option<(u16, u16, Port<Hold>)>,
    device: Device,
    cached: Cached,
    /// Where in the file the next burst begins, bytes.
    next: u64,
    headers: UdpTemplate,
}

impl Racer {
    /// Does a work.
    ///
    /// # Errors
    /// What stands in the way, or that something else was done than was asked for.
    pub fn run(&mut self, ask: &Ask) -> Result<Answer> {
        let stage = self.stage(ask)?;
        let fills = stage.cached.cache.stats().fills;
        let answer = match ask.work {
            Work::Hold | Work::HoldRun | Work::Atomics => stage.hold(ask),
            Work::Rx60 => stage.receive(ask),
            Work::Tx60 | Work::TxPage | Work::TxPageEach => stage.transmit(ask),
            Work::Sender | Work::SenderSegmented | Work::SenderDigest => stage.transmit(ask),
        };
        if answer.is_err() {
            // What is left in the rings is no part of the next work.
            stage.port = None;
        }
        let answer = answer?;
        let filled = stage.cached.cache.stats().fills - fills;
        expect(ask, "reads of the file while it was timed", filled, 0)?;
        Ok(answer)
    }

    fn stage(&mut self, ask: &Ask) -> Result<&mut Stage> {
        let wanted = (ask.device, ask.cache_mib, ask.huge);
        let found = self.stages.iter().position(|stage| (stage.kind, stage.cache_mib, stage.huge) == wanted);
        let index = match found {
            Some(index) => index,
            None => {
                self.stages.push(Stage::new(ask)?);
                self.stages.len() - 1
            }
        };
        Ok(&mut self.stages[index])
    }
}

impl Stage {
    fn new(&Ask { device: kind, cache_mib, huge, .. }: &Ask) -> Result<Self> {
        let device = match kind {
            Kind::Paper => Device::paper()?,
            Kind::Model => Device::model()?,
        };
        let cached = Cached::zeros(cache_mib << 20, huge)?;
        if huge && let Some(why) = cached.cache.notices().first() {
            return Err(Error::NoHugePages(why.clone()));
        }
        cached.cache.attach_to(device.function().iommu())?;
        let end = |last, port| Endpoint {
            mac: Mac([0x02, 0x53, 0x57, 0, 0, last]),
            address: SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), port),
        };
        let headers = UdpTemplate::new(end(1, 4000), end(2, 4001));
        Ok(Self { kind, cache_mib, huge, port: None, device, cached, next: 0, headers })
    }

    /// The device brought up for `ask`; as it was, when that will do.
    fn open(&mut self, ask: &Ask) -> Result<()> {
        // A frame of the usual size at least, so that small payloads do not reopen it.
        let max_frame = (HEADERS + ask.payload).max(1514) as u16;
        if self.port.as_ref().is_some_and(|(ring, most, _)| (*ring, *most) == (ask.ring, max_frame)) {
            return Ok(());
        }
        // Not two at once: a device has one driver.
        self.port = None;
        self.port = Some((ask.ring, max_frame, Port::open(&self.device, ask.ring, max_frame)?));
        Ok(())
    }

    fn transmit(&mut self, ask: &Ask) -> Result<Answer> {
        self.open(ask)?;
        let (before, holds) = (self.device.transmitted(), self.cached.cache.stats().holds);
        let mut spent = Duration::ZERO;
        for _ in 0..ask.frames / ask.burst {
            spent += self.burst(ask)?;
            self.device.settle()?;
        }
        let (header, payload) = match ask.work {
            Work::Tx60 => (60, 0),
            Work::Sender | Work::SenderSegmented => (UDP_HEADERS, ask.payload),
            Work::SenderDigest => (HEADERS, ask.payload),
            _ => (TCP_HEADERS, ask.payload),
        };
        let counts = self.device.transmitted() - before;
        let (bursts, a_run) = (ask.frames / ask.burst, (timed::RUN / ask.payload).max(1));
        let file = if payload > 0 { bursts * ask.burst_bytes() } else { 0 };
        counted(ask, counts, ask.frames * header + file)?;
        let asked = match ask.work {
            Work::Tx60 => 0,
            Work::TxPageEach => ask.frames,
            Work::SenderSegmented => bursts * ask.burst_bytes().div_ceil(timed::RUN),
            _ => bursts * ask.burst.div_ceil(a_run),
        };
        expect(ask, "holds", self.cached.cache.stats().holds - holds, asked as u64)?;
        Ok(Answer::new(ask, spent.as_nanos() as u64, counts, header))
    }

    /// Times one burst.
    fn burst(&mut self, ask: &Ask) -> Result<Duration> {
        let (len, payload) = (ask.burst_bytes() as u64, ask.payload);
        if self.next + len > self.cached.file.len() {
            self.next = 0;
        }
        let burst = Burst { bytes: self.next..self.next + len, payload };
        self.next += len;
        let Some((_, _, port)) = &mut self.port else { unreachable!("opened before the first burst") };
        let (tx, file) = (&mut port.tx, &self.cached.file);
        let (header, small) = (tcp_header(payload), [0xff; 60]);
        let start = Instant::now();
        let all = match ask.work {
            Work::Tx60 => timed::timed_tx60(tx, &small, ask.burst)?,
            Work::TxPage => timed::timed_tx_page(tx, file, &header, &burst)?,
            Work::TxPageEach => timed::timed_tx_page_each(tx, file, &header, &burst)?,
            Work::Sender => timed::timed_sender(tx, file, &mut self.headers, &burst)?,
            Work::SenderSegmented => timed::timed_sender_segmented(tx, file, &mut self.headers, &burst)?,
            Work::SenderDigest => timed::timed_sender_digest(tx, file, &mut self.headers, &burst)?,
            Work::Rx60 | Work::Hold | Work::HoldRun | Work::Atomics => unreachable!("they send nothing"),
        };
        let spent = start.elapsed();
        if all { Ok(spent) } else { Err(Error::Full { ring: ask.ring, burst: ask.burst }) }
    }

    fn receive(&mut self, ask: &Ask) -> Result<Answer> {
        self.open(ask)?;
        let Some((_, _, port)) = &mut self.port else { unreachable!("just opened") };
        let before = self.device.received();
        let (mut spent, mut looked_at) = (Duration::ZERO, 0);
        for _ in 0..ask.frames / ask.burst {
            let arrived = self.device.receive(ask.burst, &RECEIVED)?;
            expect(ask, "frames for which there were buffers", arrived as u64, ask.burst as u64)?;
            let start = Instant::now();
            let (taken, bytes) = timed::timed_rx60(&mut port.rx, ask.burst);
            spent += start.elapsed();
            expect(ask, "frames received", taken as u64, ask.burst as u64)?;
            looked_at += bytes;
        }
        expect(ask, "bytes received", looked_at as u64, 60 * ask.frames as u64)?;
        let counts = self.device.received() - before;
        counted(ask, counts, ask.frames * 60)?;
        Ok(Answer::new(ask, spent.as_nanos() as u64, counts, 60))
    }

    /// The works without a device: one timed region, as a look at the clock takes as long as a hold.
    fn hold(&mut self, ask: &Ask) -> Result<Answer> {
        let (file, word) = (&self.cached.file, AtomicU64::new(0));
        let holds = self.cached.cache.stats().holds;
        let start = Instant::now();
        let asked = match ask.work {
            Work::Hold => timed::timed_hold(file, ask.frames).map(|()| ask.frames)?,
            Work::HoldRun => timed::timed_hold_run(file, ask.frames / RUN_PAGES).map(|()| ask.frames / RUN_PAGES)?,
            _ => {
                timed::timed_atomics(&word, ask.frames);
                0
            }
        };
        let spent = start.elapsed();
        expect(ask, "holds", self.cached.cache.stats().holds - holds, asked as u64)?;
        let counts = Counts { frames: ask.frames as u64, ..Counts::default() };
        Ok(Answer::new(ask, spent.as_nanos() as u64, counts, 0))
    }
}

/// That the device did what was asked for: `bytes` in all frames.
fn counted(ask: &Ask, counts: Counts, bytes: usize) -> Result<()> {
    let frames = ask.frames as u64;
    expect(ask, "frames", counts.frames, frames)?;
    expect(ask, "bytes", counts.bytes, bytes as u64)?;
    expect(ask, "doorbells", counts.doorbells, frames / ask.burst as u64)
}

fn expect(ask: &Ask, what: &'static str, found: u64, asked: u64) -> Result<()> {
    if found == asked { Ok(()) } else { Err(Error::Counts { work: ask.name(), what, found, asked }) }
}
