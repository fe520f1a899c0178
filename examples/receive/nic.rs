//! A NIC driven from here instead of a kernel socket.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use stillwire_driver::Config;
use stillwire_examples::capture::Capture;
use stillwire_examples::device::{DeviceName, Emulated};
use stillwire_examples::metrics::Metrics;
use stillwire_examples::packet::{Endpoint, UdpTemplate};
use stillwire_examples::station::{Datagram, Patience, Station};
use stillwire_examples::transfer::DATAGRAM_OVERHEAD;
use stillwire_examples::{Error, Result};

use crate::failure::Failure;
use crate::port::Port;

/// The NIC, with an address.
pub struct Nic {
    station: Station,
    window: u32,
    /// Taken from the ring and not handed out yet.
    arrived: VecDeque<Datagram>,
    /// Room for what a poll gives.
    fresh: Vec<Datagram>,
    /// Where the last one came from.
    from: Option<Endpoint>,
    /// Who was answered last, and how.
    answered: Option<(Endpoint, UdpTemplate)>,
}

/// Gives the NIC `device` the address `listen`. `wire` is an emulated one's. Frames go to `capture` if there is one.
pub fn open(device: &str, wire: Option<&str>, mtu: u16, listen: SocketAddr, capture: Option<Capture>) -> Result<Nic> {
    let device: DeviceName = device.parse()?;
    let usage = |text: String| Err(Error::Usage(text));
    let listen = match listen {
        SocketAddr::V4(listen) if listen.port() != 0 && !listen.ip().is_unspecified() => listen,
        _ => {
            return usage(format!(
                "--listen {listen}: with --device it gives the NIC its address, an IPv4 address that no host has, and a port"
            ));
        }
    };
    if !(1280..=9700).contains(&mtu) {
        return usage(format!("--mtu {mtu}: 1280 to 9700 bytes would do"));
    }
    let emulated = matches!(device, DeviceName::Emulated(_));
    let wire = match wire {
        Some(_) if !emulated => {
            return usage(format!("--wire goes with an emulated device; {device} has a wire of its own"));
        }
        None if emulated => return usage(format!("{device} needs --wire tap:NAME: nobody else is on a loopback")),
        wire => wire.unwrap_or_default().to_owned(),
    };
    let device = device.open(&Emulated { wire, mtu, ..Emulated::default() })?;
    let mut station = Station::open(
        device,
        listen,
        Config { max_frame: mtu + 14, interrupts: true, ..Config::default() },
        false,
        PATIENCE,
    )?;
    station.capture = capture.map(Box::new);
    // Even the smallest datagrams, which take a buffer each, must find one.
    let window = u64::from(u16::try_from(station.nic.capabilities().rx_ring).unwrap_or(u16::MAX)) * DATAGRAM_OVERHEAD;
    let (arrived, fresh) = (VecDeque::new(), Vec::new());
    Ok(Nic { station, window: window as u32, arrived, fresh, from: None, answered: None })
}

impl Nic {
    fn poll(&mut self) -> Result<bool> {
        let busy = self.station.poll(&mut self.fresh)?;
        let port = self.station.me().address.port();
        self.arrived.extend(self.fresh.drain(..).filter(|datagram| datagram.port == port));
        Ok(busy)
    }
}

impl Port for Nic {
    fn address(&self) -> SocketAddr {
        self.station.me().address.into()
    }

    fn window(&self) -> u32 {
        self.window
    }

    fn receive(&mut self, buffer: &mut [u8]) -> std::result::Result<Option<(usize, SocketAddr)>, Failure> {
        if self.arrived.is_empty() && !self.poll()? {
            self.station.rest(NAP)?;
        }
        let Some(Datagram { from, payload, .. }) = self.arrived.pop_front() else { return Ok(None) };
        self.from = Some(from);
        buffer[..payload.len()].copy_from_slice(&payload);
        Ok(Some((payload.len(), from.address.into())))
    }

    fn wrong_checksums(&self) -> u64 {
        self.station.bad_checksums
    }

    fn figures(&self, metrics: &Metrics) {
        self.station.leave_figures(metrics);
    }

    fn reply(&mut self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        // A host has one Ethernet address for all its ports.
        let to = match (to, self.from) {
            (SocketAddr::V4(address), Some(from)) if from.address.ip() == address.ip() => Endpoint { address, ..from },
            _ => return Err(io::ErrorKind::NotConnected.into()),
        };
        let answered = self.answered.take().filter(|(peer, _)| *peer == to);
        let (_, template) =
            self.answered.insert(answered.unwrap_or_else(|| (to, UdpTemplate::new(self.station.me(), to))));
        self.station.send(template, bytes);
        Ok(())
    }
}

impl Drop for Nic {
    fn drop(&mut self) {
        // The last reply goes out before the NIC is stopped, if it can.
        let start = Instant::now();
        while start.elapsed() < LAST_WORDS && self.poll().is_ok() && !self.station.is_idle() {
            std::thread::yield_now();
        }
        if let Some(capture) = &self.station.capture {
            capture.tell().iter().for_each(|line| eprintln!("receive: {line}"));
        }
    }
}

/// Whoever receives looks at the time so often.
const NAP: Duration = Duration::from_millis(20);
/// As `send` has by default.
const PATIENCE: Patience = Patience { hang_after: Duration::from_secs(5), link: Duration::from_secs(10) };
/// For a reply to leave.
const LAST_WORDS: Duration = Duration::from_millis(100);
