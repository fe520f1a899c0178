//! `--watch`: a line an interval, of a device of this program's own or of a program that serves metrics.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use stillwire_driver::Config;
use stillwire_examples::device::{DeviceName, Emulated};
use stillwire_examples::station::{Patience, Station};
use stillwire_examples::watch::{HEADER, Line, Reading};
use stillwire_examples::{Error, Result, metrics};

use crate::Arguments;

/// Prints lines until there were enough of them, or what is watched has ended.
pub fn run(arguments: &Arguments, interval: Duration) -> Result<()> {
    let most = arguments.count.unwrap_or(u64::MAX);
    let mut from = From::open(arguments)?;
    let (mut before, mut at) = (from.read()?, Instant::now());
    let mut out = std::io::stdout().lock();
    for number in 0..most {
        from.pass(at + interval)?;
        let after = match from.read() {
            // A sender that was there, and is gone, has ended: that is no failure of the one who looks on.
            Err(Error::NoMetrics { address, why }) if number > 0 => {
                eprintln!("info: what was watched at {address} has ended ({why})");
                return Ok(());
            }
            other => other?,
        };
        let now = Instant::now();
        let header = if number % LINES_A_HEADER == 0 { format!("{HEADER}\n") } else { String::new() };
        let line = Line::between(&before, &after, now - at);
        if writeln!(out, "{header}{line}").and_then(|()| out.flush()).is_err() {
            // Nobody reads any more (`info --watch | head`).
            return Ok(());
        }
        (before, at) = (after, now);
    }
    Ok(())
}

/// What is watched.
enum From {
    Device(Box<Station>),
    Program(SocketAddr),
}

impl From {
    fn open(arguments: &Arguments) -> Result<Self> {
        if let Some(address) = arguments.from {
            return Ok(Self::Program(address));
        }
        let name: DeviceName = arguments.device.parse()?;
        let device = name.open(&Emulated::default())?;
        // Without an address it answers nobody.
        let nobody = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        // No link is a finding, not a failure.
        let station = Station::without_link(device, nobody, Config::default(), false, PATIENCE)?;
        Ok(Self::Device(Box::new(station)))
    }

    fn read(&self) -> Result<Reading> {
        match self {
            Self::Device(station) => Ok(Reading::of_station(&station.figures(), &[])),
            Self::Program(address) => Reading::of_text(&metrics::fetch(*address)?).ok_or_else(|| Error::NoMetrics {
                address: *address,
                why: "it serves none of those that are shown here".into(),
            }),
        }
    }

    /// Lets time go by until `end`. What a device of our own receives is taken from it, or it would run out of buffers.
    fn pass(&mut self, end: Instant) -> Result<()> {
        let mut datagrams = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            match self {
                Self::Program(_) => std::thread::sleep(left),
                Self::Device(station) => {
                    if !station.poll(&mut datagrams)? {
                        std::thread::sleep(left.min(PAUSE));
                    }
                    datagrams.clear();
                }
            }
        }
    }
}

/// As many lines as a small terminal has.
const LINES_A_HEADER: u64 = 20;
/// As `send` has by default; but nothing is sent that could hang.
const PATIENCE: Patience = Patience { hang_after: Duration::from_secs(5), link: Duration::from_secs(10) };
/// Between two looks at the receive ring of 1024 descriptors.
const PAUSE: Duration = Duration::from_millis(1);
