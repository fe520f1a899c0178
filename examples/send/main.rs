//! Sends a file's pages through an 82599 without a copy, and keeps them still until the NIC is done.
//!
//! `cargo run --release --example send` needs no hardware, no root and no QEMU: it starts the emulated NIC in this
//! process, sends its own executable over a loopback, receives it through the NIC's receive ring and checks every byte.

mod options;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use clap::Parser;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use stillwire_driver::Config;
use stillwire_examples::packet::Endpoint;
use stillwire_examples::report::{Pauses, Report};
use stillwire_examples::scribble::Scribblers;
use stillwire_examples::sending::{Loopback, Options, Totals, send};
use stillwire_examples::station::Station;
use stillwire_examples::{Error, Result};
use stillwire_filecache::{Cache, CachedFile};

use options::{Arguments, Plan};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
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
    let cache = cache_for(&plan)?;
    let file = cache.open(&plan.file)?;
    let device = plan.device.open(&plan.emulated)?;
    let config = Config { max_frame: plan.max_frame, promiscuous: plan.loopback, ..Config::default() };
    let mut station = Station::open(device, plan.from, config, plan.loopback)?;
    cache.attach_to(station.function().iommu())?;
    announce(&plan, &station, &file);

    let to_mac = match plan.to_mac {
        Some(mac) => mac,
        None if plan.loopback => station.me().mac,
        None => station.resolve(*plan.to.ip())?,
    };
    let options = Options {
        to: Endpoint { mac: to_mac, address: plan.to },
        payload: plan.payload,
        rate: plan.rate,
        repeat_for: plan.seconds.map(Duration::from_secs_f64),
        unheld: plan.unheld,
        deadline: plan.give_up,
    };
    let mut far = plan.loopback.then(|| Loopback::new(&plan.file, !plan.scribble)).transpose()?;
    let position = Arc::new(AtomicU64::new(0));
    let scribblers = match plan.scribble && !file.is_empty() {
        true => Some(Scribblers::start(&file.view()?, position.clone(), WRITERS)),
        false => None,
    };
    let bar = progress_bar(file.len());
    let sent = send(&mut station, &file, &options, far.as_mut(), &position, &mut |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    let frames = station.nic.statistics();
    // The ring lets go of its holds before the writers are waited for: they may wait for them. When the send failed, the
    // device may not have been proved quiet, its holds are kept for good, and the writers end with the process.
    drop(station);
    let sent = sent?;
    let stores = scribblers.map(Scribblers::stop);
    let report = report(&plan, sent, &cache);
    summarize(&plan, &report, stores, frames.rx_missed);
    Ok(report)
}

/// A cache that holds the whole file, with room to spare for folio rounding.
fn cache_for(plan: &Plan) -> Result<Cache> {
    let source = |source| Error::File { path: plan.file.clone(), source };
    let len = std::fs::metadata(&plan.file).map(|meta| meta.len());
    // What is wrong with the path is better said by `Cache::open`.
    let len = len.unwrap_or(0);
    let bytes = plan.cache.unwrap_or(len + (len / 64) + (4 << 20));
    let bytes = usize::try_from(bytes).map_err(|_| source(std::io::Error::from(std::io::ErrorKind::OutOfMemory)))?;
    let cache = Cache::new(stillwire_filecache::Config { bytes, huge: plan.huge, ..Default::default() })?;
    for notice in cache.notices() {
        eprintln!("send: note: {notice}");
    }
    Ok(cache)
}

fn announce(plan: &Plan, station: &Station, file: &CachedFile) {
    if plan.json {
        return;
    }
    let held = if plan.unheld { "WITHOUT holds" } else { "held still" };
    println!(
        "{} ({}) from {} to {}: {} in frames of {} bytes, {held}",
        plan.device,
        station.nic.mac(),
        plan.from,
        plan.to,
        HumanBytes(file.len()),
        plan.payload
    );
    if file.is_empty() {
        println!("the file is empty: zero bytes are sent");
    }
}

fn report(plan: &Plan, totals: Totals, cache: &Cache) -> Report {
    let stats = cache.stats();
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    Report {
        device: plan.device.to_string(),
        bytes: totals.bytes,
        frames: totals.frames,
        seconds: totals.took.as_secs_f64(),
        torn: totals.torn,
        resent: totals.resent,
        holds: stats.holds,
        writer_pauses: stats.writer_pauses,
        writer_pause_us: Pauses { p50: us(stats.pause_p50), p99: us(stats.pause_p99), max: us(stats.pause_max) },
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
    if let Some(stores) = stores {
        let pause = report.writer_pause_us;
        println!(
            "{stores} stores into the file meanwhile; {} waited for the NIC: median {:.0} us, 99 % {:.0} us, longest {:.0} us",
            report.writer_pauses, pause.p50, pause.p99, pause.max
        );
    }
    println!("{}", verdict(plan, report.verified));
}

fn verdict(plan: &Plan, verified: bool) -> &'static str {
    match (plan.loopback, plan.scribble) {
        _ if !verified => "NOT verified: the far end does not have every byte",
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

/// Writers over the file with `--scribble`.
const WRITERS: usize = 2;
