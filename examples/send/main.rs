//! Sends a file's pages through an 82599 without a copy, and keeps them still until the NIC is done.
//!
//! `cargo run --release --example send` needs no hardware, no root and no QEMU: it starts the emulated NIC in this
//! process, sends its own executable over a loopback, receives it through the NIC's receive ring and checks every byte.

mod options;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use clap::Parser;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use stillwire_driver::{Config, Statistics};
use stillwire_examples::capture::Capture;
use stillwire_examples::metrics::{Exposed, Metrics, Server};
use stillwire_examples::packet::Endpoint;
use stillwire_examples::placement;
use stillwire_examples::report::{Pauses, Report};
use stillwire_examples::scribble::Scribblers;
use stillwire_examples::sending::{Loopback, Options, Totals, send};
use stillwire_examples::source::Source;
use stillwire_examples::station::{Patience, Station};
use stillwire_examples::{Error, Result};
use stillwire_filecache::{Cache, DirectConfig, DirectFile, Stats};

use options::{Arguments, Disk, Plan};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    arguments.log.start("send");
    match run(arguments) {
        Ok(report) => {
            if json {
                println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
            }
            if report.verified { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("send: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<Report> {
    let plan = arguments.plan()?;
    place(&plan)?;
    let cache = if plan.direct { None } else { Some(cache_for(&plan)?) };
    let cached = cache.as_ref().map(|cache| cache.open(&plan.file)).transpose()?;
    // Dropped after the station: writers in other processes may wait for its holds.
    let door = cache.as_ref().zip(plan.serve.as_ref()).map(|(cache, socket)| cache.serve(socket));
    let _door = door.transpose()?;
    // Before the NIC: a file or an address that is not to be had costs no reset.
    let capture = plan.capture.clone().map(Capture::create).transpose()?;
    let metrics = plan.metrics.map(|address| serve_metrics(&plan, address, cache.as_ref())).transpose()?;
    let device = plan.device.open(&plan.emulated)?.with_package(plan.ddp.as_deref())?;
    let config = Config {
        max_frame: plan.max_frame,
        promiscuous: plan.loopback,
        interrupts: !plan.poll,
        queues: plan.queues,
        ..Config::default()
    };
    let patience = Patience { hang_after: plan.hang_after, link: plan.give_up };
    let mut station = Station::open(device, plan.from, config, plan.loopback, patience)?;
    if plan.segment.is_some() {
        station.must_segment()?;
    }
    station.capture = capture.map(Box::new);
    station.metrics = metrics.as_ref().map(|(metrics, _)| metrics.clone());
    if let Some(cache) = &cache {
        cache.attach_to(station.function().iommu())?;
    }
    let source = match cached.clone() {
        Some(file) if plan.unheld => Source::Unheld(file),
        Some(file) => Source::Cached(file),
        None => {
            Source::Direct(DirectFile::open(&plan.file, Some(station.function().iommu()), DirectConfig::default())?)
        }
    };
    announce(&plan, &station, &source);

    let to_mac = match plan.to_mac {
        Some(mac) => mac,
        None if plan.loopback => station.me().mac,
        None => station.resolve(*plan.to.ip())?,
    };
    let options = Options {
        to: Endpoint { mac: to_mac, address: plan.to },
        payload: plan.payload,
        segment: plan.segment,
        rate: plan.rate,
        repeat_for: plan.seconds.map(Duration::from_secs_f64),
        deadline: plan.give_up,
        cores: plan.cores.clone(),
    };
    let compare = !plan.written();
    let far = plan.loopback.then(|| Loopback::new(&plan.file, &source, compare, station.queue_count()));
    let mut far = far.transpose()?;
    let position = Arc::new(AtomicU64::new(0));
    let scribblers = match cached.filter(|file| plan.scribble && !file.is_empty()) {
        Some(file) => Some(Scribblers::start(&file.view()?, position.clone(), WRITERS)),
        None => None,
    };
    let bar = progress_bar(source.len());
    // The last of all: threads that were started before go where they like.
    placement::in_turn(&plan.cores, 0).map_or(Ok(()), placement::pin)?;
    let sent = send(&mut station, &source, &options, far.as_mut(), &position, &mut |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    let frames = station.nic.statistics();
    let queue_frames = station.nic.queue_statistics().iter().map(|queue| queue.tx_frames).collect();
    let captured = station.capture.take();
    // The ring lets go of its holds before the writers are waited for: they may wait for them. When the send failed, the
    // device may not have been proved quiet, its holds are kept for good, and the writers end with the process.
    drop(station);
    let sent = sent?;
    let stores = scribblers.map(Scribblers::stop);
    let stats = cache.as_ref().map(Cache::stats).unwrap_or_default();
    let report = Report { queue_frames, ..report(&plan, sent, &stats, source.breaks(), frames) };
    summarize(&plan, &report, stores, frames.rx_missed);
    if let Some(capture) = captured {
        // The standard output is for the report.
        capture.tell().iter().for_each(|line| eprintln!("send: {line}"));
    }
    Ok(report)
}

/// Sees whether the owners of queues have where to run.
fn place(plan: &Plan) -> Result<()> {
    placement::check(&plan.cores)?;
    let mut named = plan.cores.clone();
    named.sort_unstable();
    named.dedup();
    let places = if named.is_empty() { placement::available() } else { named.len() };
    if usize::from(plan.queues) > places {
        eprintln!("send: note: {} queues have owners on {places} processors: some share one", plan.queues);
    }
    Ok(())
}

/// Serves figures while the file is sent.
fn serve_metrics(plan: &Plan, address: SocketAddr, cache: Option<&Cache>) -> Result<(Arc<Metrics>, Server)> {
    let metrics = Arc::<Metrics>::default();
    let exposed =
        Exposed { metrics: metrics.clone(), cache: cache.cloned(), program: "send", on: plan.device.to_string() };
    let server = Server::start(address, exposed)?;
    eprintln!("send: metrics at http://{}/metrics", server.address());
    Ok((metrics, server))
}

/// A cache that holds the whole file, with room to spare for folio rounding, if that is not too much.
fn cache_for(plan: &Plan) -> Result<Cache> {
    let source = |source| Error::File { path: plan.name.clone(), source };
    let len = std::fs::metadata(&plan.file).map(|meta| meta.len());
    // What is wrong with the path is better said by `Cache::open`.
    let len = len.unwrap_or(0);
    let bytes = plan.cache.unwrap_or((len + (len / 64) + (4 << 20)).min(MOST_CACHE).min(memory() / 4));
    let bytes = usize::try_from(bytes).map_err(|_| source(std::io::Error::from(std::io::ErrorKind::OutOfMemory)))?;
    let node = plan.device.node();
    let io_uring = plan.disk == Disk::IoUring;
    let config = stillwire_filecache::Config {
        bytes,
        huge: plan.huge,
        node,
        io_uring,
        patience: PATIENCE,
        ..Default::default()
    };
    let cache = Cache::new(config)?;
    for notice in cache.notices() {
        eprintln!("send: note: {notice}");
    }
    Ok(cache)
}

/// Memory of this machine, bytes; where it can not be said, enough for every cache.
fn memory() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    total.map_or(u64::MAX, |kib: u64| kib << 10)
}

fn announce(plan: &Plan, station: &Station, source: &Source) {
    if plan.json {
        return;
    }
    let held = match source {
        Source::Cached(_) => "held still".to_owned(),
        Source::Unheld(_) => "WITHOUT holds".to_owned(),
        Source::Direct(file) => format!("held still without a cache ({:?})", file.kind()),
    };
    let (pieces, bytes) = match plan.segment {
        Some(segment) => ("segments, cut by the NIC,", segment.into()),
        None => ("frames", plan.payload),
    };
    println!(
        "{} ({}) from {} to {}: {} in {pieces} of {bytes} bytes, {held}",
        plan.device,
        station.nic.mac(),
        plan.from,
        plan.to,
        HumanBytes(source.len()),
    );
    if let Some(node) = plan.device.node() {
        println!("{node}: where {} is, and so the rings and the cache", plan.device);
    }
    if plan.scribble {
        println!("writers store into a private copy; {} itself is not written", plan.name.display());
    }
    if let Some(socket) = &plan.serve {
        println!("writers in other processes: write --attach {} {}", socket.display(), plan.file.display());
    }
    if source.is_empty() {
        println!("the file is empty: zero bytes are sent");
    }
}

fn report(plan: &Plan, totals: Totals, stats: &Stats, breaks: u64, nic: Statistics) -> Report {
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    Report {
        device: plan.device.to_string(),
        bytes: totals.bytes,
        frames: totals.frames,
        runs: totals.runs,
        seconds: totals.took.as_secs_f64(),
        torn: totals.torn,
        resent: totals.resent,
        holds: stats.holds,
        fills: stats.fills,
        evictions: stats.evictions,
        snapshots: stats.snapshots,
        breaks,
        writer_pauses: stats.writer_pauses,
        writer_pause_us: Pauses { p50: us(stats.pause_p50), p99: us(stats.pause_p99), max: us(stats.pause_max) },
        resets: nic.resets,
        link_losses: nic.link_losses,
        not_sent: totals.not_sent,
        queue_frames: Vec::new(),
        verified: totals.verified,
    }
}

fn summarize(plan: &Plan, report: &Report, stores: Option<u64>, missed: u64) {
    if plan.json {
        return;
    }
    let rate = report.bytes as f64 * 8.0 / report.seconds.max(1e-9) / 1e9;
    println!(
        "{} in {} frames, {:.2} s, {rate:.2} Gb/s; {} torn, {} sent again, {missed} missed for want of buffers",
        HumanBytes(report.bytes),
        report.frames,
        report.seconds,
        report.torn,
        report.resent,
    );
    if report.resets + report.link_losses > 0 {
        println!(
            "the link was lost {} times, and the NIC reset {} times; {} came back from it and went out again",
            report.link_losses,
            report.resets,
            HumanBytes(report.not_sent)
        );
    }
    if plan.segment.is_some() {
        println!("{} runs, cut by the NIC", report.runs);
    }
    if report.queue_frames.len() > 1 {
        println!("frames by queue: {:?}", report.queue_frames);
    }
    match plan.direct {
        true => println!("a writer came {} times, and the sender stepped back", report.breaks),
        false => println!(
            "{} holds; {} reads into the cache, {} pages evicted, {} copied for the sender as a writer waited",
            report.holds, report.fills, report.evictions, report.snapshots
        ),
    }
    if let Some(stores) = stores {
        let pause = report.writer_pause_us;
        println!(
            "{stores} stores into the file meanwhile; {} waited for the NIC or for write-back: median {:.0} us, 99 % {:.0} us, longest {:.0} us",
            report.writer_pauses, pause.p50, pause.p99, pause.max
        );
    }
    println!("{}", verdict(plan, report));
}

fn verdict(plan: &Plan, report: &Report) -> &'static str {
    match (plan.loopback, plan.written() || report.breaks > 0) {
        _ if !report.verified => "NOT verified: the far end does not have every byte",
        (true, false) => "verified: every byte came back as it is on disk",
        (true, true) => "verified: every frame matches the digest taken when it was held",
        (false, _) => "verified: the receiver has every byte, by its digests",
    }
}

fn progress_bar(len: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
    ProgressBar::new(len).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Most memory that is taken for the cache unless more is asked for, bytes.
const MOST_CACHE: u64 = 256 << 20;
/// How long a hold waits for room. Not long: the sender's own ring may have it, and a sender that waits does not reclaim.
const PATIENCE: Duration = Duration::from_millis(5);
/// Writers over the file with `--scribble`.
const WRITERS: usize = 2;
