//! `receive`: the far end of `send`, on an ordinary kernel UDP socket of any machine, or on a NIC that it drives itself.

mod failure;
mod nic;
mod place;
mod port;
mod report;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use stillwire_examples::Error;
use stillwire_examples::capture::{Capture, Spec};
use stillwire_examples::log::Log;
use stillwire_examples::metrics::{Exposed, Metrics, ReceiverFigures, Server};
use stillwire_examples::transfer::{Receiver, ReceiverConfig, Reply, State};

use crate::failure::Failure;
use crate::place::Place;
use crate::port::Port;
use crate::report::Report;

/// Receives a file that `send` sends, over UDP.
///
/// FILE is written beside its place, without a name or under another, and gets its own when every byte has arrived and
/// matched its crc32, so FILE is at all times either what it was before or the whole new file.
#[derive(Parser)]
#[command(name = "receive", version)]
struct Args {
    /// Address and UDP port to listen on; 0.0.0.0 listens on all addresses, port 0 lets the system choose.
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Instead of a kernel socket, a NIC driven by this program, which gets the address: the PCI address of a card that is
    /// bound to vfio-pci, vfio-user:SOCKET, emulated:ixgbe, or emulated:virtio.
    #[arg(long)]
    device: Option<String>,
    /// What an emulated NIC is connected to: tap:NAME.
    #[arg(long, requires = "device")]
    wire: Option<String>,
    /// Largest IP packet that the NIC takes, bytes.
    #[arg(long, default_value_t = 1500, value_name = "BYTES", requires = "device")]
    mtu: u16,
    /// Capture the frames that the NIC sends and receives into a pcap file; with port=N only UDP datagrams from or to that
    /// port. A kernel socket's are captured by tcpdump.
    #[arg(long, value_name = "FILE[,port=N]", requires = "device")]
    capture: Option<Spec>,
    /// Where the file goes. An existing file is replaced when the new one is complete.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Go on after a complete file: each further one replaces FILE (for `send --seconds`). Ends with Ctrl-C or --idle-seconds.
    #[arg(long)]
    keep: bool,
    /// End when nothing has come in for so long; without it, wait for ever.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    idle_seconds: Option<Duration>,
    /// Serve figures for Prometheus at http://ADDR/metrics meanwhile; port 0 lets the system choose.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Print one JSON object as the last line of the standard output.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    log: Log,
}

fn main() -> ExitCode {
    let args = Args::parse();
    args.log.start("receive");
    let mut report = Report::default();
    let result = run(&args, &mut report);
    report.print(args.json, &args.out, result.as_ref().err());
    result.map_or_else(|failure| failure.status().into(), |()| ExitCode::SUCCESS)
}

fn run(args: &Args, report: &mut Report) -> Result<(), Failure> {
    let stop = stop_on_signal().map_err(Failure::Signal)?;
    let place = Place::new(&args.out)?;
    let port: Box<dyn Port> = match &args.device {
        Some(device) => {
            // Before the NIC: a file that is not to be had costs no reset.
            let capture = args.capture.clone().map(Capture::create).transpose()?;
            Box::new(nic::open(device, args.wire.as_deref(), args.mtu, args.listen, capture)?)
        }
        None => Box::new(socket::listen(args.listen)?),
    };
    let metrics = args.metrics.map(|address| serve_metrics(address, port.address())).transpose()?;
    eprintln!("receive: listening on {}", port.address());
    let config = ReceiverConfig { window: port.window(), keep: args.keep, ..ReceiverConfig::default() };
    let mut session = Session::new(args, port, Receiver::new(config), place);
    session.metrics = metrics.as_ref().map(|(metrics, _)| metrics.clone());
    let result = session.talk(&stop);
    session.bar.finish_and_clear();
    report.stats = session.receiver.stats();
    report.wrong_checksums = session.port.wrong_checksums();
    report.seconds = session.seconds();
    report.crc32 = session.place.digest()?;
    result
}

/// Serves figures while files are received.
fn serve_metrics(address: SocketAddr, listen: SocketAddr) -> Result<(Arc<Metrics>, Server), Error> {
    let metrics = Arc::<Metrics>::default();
    metrics.receiver.store(ReceiverFigures::default());
    let exposed = Exposed { metrics: metrics.clone(), cache: None, program: "receive", on: listen.to_string() };
    let server = Server::start(address, exposed)?;
    eprintln!("receive: metrics at http://{}/metrics", server.address());
    Ok((metrics, server))
}

/// One run of the program.
struct Session<'a> {
    args: &'a Args,
    port: Box<dyn Port>,
    receiver: Receiver,
    place: Place,
    bar: ProgressBar,
    start: Instant,
    /// When the last datagram came in, and the first one, and when the last transfer ended.
    heard: Instant,
    began: Option<Instant>,
    ended: Option<Instant>,
    /// Complete transfers at the last datagram.
    transfers: u64,
    /// Where figures are left for who asks for them.
    metrics: Option<Arc<Metrics>>,
}

impl<'a> Session<'a> {
    fn new(args: &'a Args, port: Box<dyn Port>, receiver: Receiver, place: Place) -> Session<'a> {
        let start = Instant::now();
        Session {
            args,
            port,
            receiver,
            place,
            bar: ProgressBar::no_length(),
            start,
            heard: start,
            began: None,
            ended: None,
            transfers: 0,
            metrics: None,
        }
    }

    fn talk(&mut self, stop: &AtomicBool) -> Result<(), Failure> {
        let mut buffer = vec![0; 1 << 16];
        while !stop.load(Ordering::Relaxed) {
            if let Some((len, from)) = self.port.receive(&mut buffer)? {
                self.datagram(&buffer[..len], from);
            }
            if let Some(metrics) = &self.metrics
                && let Some(question) = metrics.question()
            {
                self.port.figures(metrics);
                metrics.receiver.store(ReceiverFigures::of(&self.receiver.stats()));
                metrics.answer(question);
            }
            if let Some(result) = self.over() {
                return result;
            }
        }
        self.stopped()
    }

    fn datagram(&mut self, bytes: &[u8], from: SocketAddr) {
        self.heard = Instant::now();
        self.began.get_or_insert(self.heard);
        let now = self.heard - self.start;
        if let Some(reply) = self.receiver.datagram(now, from, bytes, &mut self.place) {
            self.reply(&reply);
        }
        self.show();
    }

    fn show(&mut self) {
        let transfers = self.receiver.stats().transfers;
        match self.receiver.state() {
            State::Idle => (),
            State::Receiving { received, file_size, .. } => {
                if self.ended.take().is_some() || self.bar.length().is_none() {
                    self.bar = progress_bar(file_size);
                }
                self.bar.set_position(received);
            }
            // A transfer of one datagram goes from one end to the next.
            State::Complete { .. } | State::Refused { .. } if self.ended.is_none() || transfers > self.transfers => {
                self.ended = Some(self.heard);
            }
            State::Complete { .. } | State::Refused { .. } => (),
        }
        self.transfers = transfers;
    }

    /// A lost reply is asked for again, so an error here is only worth a word.
    fn reply(&mut self, reply: &Reply) {
        if let Err(error) = self.port.reply(&reply.datagram, reply.to) {
            self.bar.suspend(|| eprintln!("receive: cannot answer {}: {error}", reply.to));
        }
    }

    /// Whether the program's work is done, and how.
    fn over(&mut self) -> Option<Result<(), Failure>> {
        let silent = self.heard.elapsed();
        if let Some(waited) = self.args.idle_seconds.filter(|idle| silent >= *idle) {
            return Some(match self.receiver.state() {
                State::Complete { .. } => Ok(()),
                _ => Err(Failure::Idle { listen: self.port.address(), waited }),
            });
        }
        // The sender may not have heard that this was the end; but nobody may keep us here for ever.
        let lingered = silent >= LINGER || self.ended?.elapsed() >= LONGEST_LINGER;
        match self.receiver.state() {
            State::Complete { .. } if lingered && !self.args.keep => Some(Ok(())),
            State::Refused { .. } if lingered => {
                let source = self.receiver.take_error().unwrap_or_else(|| io::ErrorKind::Other.into());
                Some(Err(Failure::Storage { out: self.place.out().to_path_buf(), source }))
            }
            _ => None,
        }
    }

    fn stopped(&mut self) -> Result<(), Failure> {
        if let Some(reply) = self.receiver.stop() {
            self.reply(&reply);
        }
        match self.receiver.state() {
            State::Complete { .. } => Ok(()),
            _ => Err(Failure::Stopped { out: self.place.out().to_path_buf() }),
        }
    }

    /// From the first datagram to the end of the last transfer.
    fn seconds(&self) -> f64 {
        self.began.map_or(0.0, |began| (self.ended.unwrap_or(self.heard) - began).as_secs_f64())
    }
}

/// Raised by SIGINT or SIGTERM. A second one changes nothing: `timeout` and some shells send two at once, and dying of the
/// other would leave the temporary file behind.
fn stop_on_signal() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn progress_bar(file_size: u64) -> ProgressBar {
    let bar = ProgressBar::new(file_size);
    let template = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant that parses"));
    bar
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Four times the longest pause between two probes of a sender.
const LINGER: Duration = Duration::from_secs(1);
const LONGEST_LINGER: Duration = Duration::from_secs(10);
