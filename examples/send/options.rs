//! The command line, and whether it makes sense.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use stillwire_driver::Offload;
use stillwire_examples::capture::Spec;
use stillwire_examples::device::{DeviceName, Emulated};
use stillwire_examples::log::Log;
use stillwire_examples::metrics::MOST_QUEUES;
use stillwire_examples::packet::Mac;
use stillwire_examples::placement::Cores;
use stillwire_examples::sending::HEADERS;
use stillwire_examples::transfer::RUN_PORTS;
use stillwire_examples::{Error, Result};

/// Sends a file's pages through an Intel NIC without a copy; nobody can change them until the NIC is done.
#[derive(Parser, Debug)]
#[command(name = "send", version)]
pub struct Arguments {
    /// The file; without it, this program's own executable.
    file: Option<PathBuf>,
    /// emulated:ixgbe, emulated:ice or emulated:virtio (a model of an 82599, an E810 or virtio-net in this process),
    /// vfio-user:SOCKET (a model in another process), or the PCI address of a card that is bound to vfio-pci: 0000:03:00.0.
    #[arg(long, default_value = "emulated:ixgbe")]
    device: String,
    /// DDP package of an Intel E810 (ice.pkg), to be loaded if the card has none yet: without one it computes no checksums.
    #[arg(long, value_name = "FILE")]
    ddp: Option<PathBuf>,
    /// What the emulated NIC is connected to: loopback, tap:NAME, or pcap:PATH (a loopback that is recorded).
    #[arg(long)]
    wire: Option<String>,
    /// The sender's address.
    #[arg(long, value_name = "IP:PORT")]
    from: Option<SocketAddrV4>,
    /// The receiver's address: where `receive --listen IP:PORT` runs.
    #[arg(long, value_name = "IP:PORT")]
    to: Option<SocketAddrV4>,
    /// The next hop's Ethernet address; without it, it is asked for by ARP.
    #[arg(long, value_name = "MAC")]
    to_mac: Option<String>,
    /// File bytes in each frame.
    #[arg(long, value_name = "BYTES")]
    payload: Option<u32>,
    /// Let the NIC cut runs of up to 64 KiB into frames with so many file bytes, 64 at least; without a number, as many as
    /// the MTU has room for (1472 for 1500). What is lost is sent again in frames of --payload. Written --segment=BYTES.
    #[arg(long, value_name = "BYTES", num_args = 0..=1, require_equals = true)]
    segment: Option<Option<u16>>,
    /// Largest IP packet, bytes.
    #[arg(long, default_value_t = 1500, value_name = "BYTES")]
    mtu: u16,
    /// Gigabits a second on the wire; without it, as fast as it goes.
    #[arg(long, value_name = "GBITS")]
    rate: Option<f64>,
    /// Send the file again and again for so long.
    #[arg(long, value_name = "N")]
    seconds: Option<f64>,
    /// Give up on a receiver that is silent for so long.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    give_up: f64,
    /// Reset a NIC that has work and link and has completed nothing for so long [default: 5]
    #[arg(long, value_name = "SECONDS")]
    hang_after: Option<f64>,
    /// Spread the file over so many transmit queues of the NIC, 1 to 16, each with a thread of its own.
    #[arg(long, default_value_t = 1, value_name = "N")]
    queues: u16,
    /// Keep the owners of queues on these processors, in turn: 2,4-6. Without it, the kernel chooses.
    #[arg(long, value_name = "LIST")]
    cores: Option<Cores>,
    /// Never sleep: look at the NIC without pause, also when there is nothing to do. A wake-up by interrupt takes some ten
    /// microseconds; this takes a whole processor.
    #[arg(long)]
    poll: bool,
    /// Let something go wrong with the emulated NIC, once it has sent so many frames: link-down@FRAMES:SECONDS, or
    /// stuck@FRAMES (it completes nothing until it is reset). May be given several times.
    #[arg(long, value_name = "FAULT")]
    fault: Vec<String>,
    /// Let writers store into the pages all the while: those of a private copy of the file, in the folder for temporary
    /// files (TMPDIR). The file itself is never written.
    #[arg(long)]
    scribble: bool,
    /// Let writers in other processes attach at this socket meanwhile (`write --attach SOCKET FILE`). Whoever may connect
    /// (it is made for this user only) can write every byte of what is cached.
    #[arg(long, value_name = "SOCKET")]
    serve: Option<PathBuf>,
    /// Send without holds, to see what goes wrong.
    #[arg(long)]
    unheld: bool,
    /// Send the file from where the kernel caches it, without a cache here, if something keeps it still: seals, or a lease
    /// that keeps writers waiting meanwhile.
    #[arg(long)]
    direct: bool,
    /// Memory for file pages, MiB. The file may be larger. Without it, enough for the whole file, but at most 256 MiB and
    /// a quarter of the machine's memory.
    #[arg(long, value_name = "MIB")]
    cache: Option<u64>,
    /// Take huge pages for the file if there are free ones. A writer then waits for 2 MiB at a time.
    #[arg(long)]
    huge: bool,
    /// How the cache reaches the disk: io_uring, where that can be had, or threads, for tools that can not follow io_uring (valgrind).
    #[arg(long, value_enum, default_value_t = Disk::IoUring)]
    disk: Disk,
    /// Capture the frames that are sent and received into a pcap file; with port=N only UDP datagrams from or to that port.
    /// Every byte is copied for it, so the sender is slower.
    #[arg(long, value_name = "FILE[,port=N]")]
    capture: Option<Spec>,
    /// Serve figures for Prometheus at http://ADDR/metrics meanwhile; port 0 lets the system choose.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Time between the emulated NIC's checksum pass and its transmit pass, microseconds.
    #[arg(long, value_name = "MICROSECONDS")]
    emulated_delay: Option<u64>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub log: Log,
}

/// What is to be done, with everything decided.
pub struct Plan {
    /// As the user calls it.
    pub name: PathBuf,
    /// What is sent: it, or a copy.
    pub file: PathBuf,
    pub device: DeviceName,
    pub emulated: Emulated,
    pub ddp: Option<PathBuf>,
    /// Whether what is sent comes back to this NIC.
    pub loopback: bool,
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub to_mac: Option<Mac>,
    pub payload: u32,
    /// File bytes in each segment, if the NIC is to cut.
    pub segment: Option<u16>,
    pub max_frame: u16,
    pub rate: Option<f64>,
    pub seconds: Option<f64>,
    pub give_up: Duration,
    pub hang_after: Duration,
    pub queues: u16,
    /// Processors of their owners; none: the kernel chooses.
    pub cores: Vec<usize>,
    /// Never sleep.
    pub poll: bool,
    pub scribble: bool,
    pub serve: Option<PathBuf>,
    pub unheld: bool,
    pub direct: bool,
    pub cache: Option<u64>,
    pub huge: bool,
    pub disk: Disk,
    pub capture: Option<Spec>,
    pub metrics: Option<SocketAddr>,
    pub json: bool,
}

/// How the cache reaches the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Disk {
    #[value(name = "io_uring")]
    IoUring,
    Threads,
}

impl Plan {
    /// Whether somebody may write to the file while it is sent.
    pub fn written(&self) -> bool {
        self.scribble || self.serve.is_some()
    }
}

impl Arguments {
    /// Checks the flags against each other.
    pub fn plan(self) -> Result<Plan> {
        let usage = |text: String| Err(Error::Usage(text));
        if self.serve.is_some() && self.file.is_none() {
            return usage("--serve needs a FILE, which those who attach name as well".into());
        }
        let file = self.file.unwrap_or_else(own_executable);
        let device: DeviceName = self.device.parse()?;
        let emulated = matches!(device, DeviceName::Emulated(_));
        if self.wire.is_some() && !emulated {
            return usage(format!("--wire goes with an emulated device; {device} has a wire of its own"));
        }
        if !self.fault.is_empty() && !emulated {
            return usage(format!("--fault goes with an emulated device; {device} has faults of its own"));
        }
        let faults = self.fault.iter().map(|fault| Ok(fault.parse()?)).collect::<Result<_>>()?;
        let wire = self.wire.unwrap_or_else(|| "loopback".to_owned());
        // Without a receiver named, the far end is this NIC itself.
        let comes_back = wire == "loopback" || wire.starts_with("pcap:");
        let loopback = if emulated { comes_back } else { self.to.is_none() };
        let (from, to) = match (self.from, self.to) {
            (Some(from), Some(to)) => (from, to),
            (from, to) if loopback => (from.unwrap_or(LOOPBACK_FROM), to.unwrap_or(LOOPBACK_TO)),
            (_, None) => return usage("say who receives: --to IP:PORT, where `receive --listen IP:PORT` runs".into()),
            (None, _) => {
                return usage(
                    "say who sends: --from IP:PORT, an address on the receiver's network that no host has".into(),
                );
            }
        };
        if from.port() == to.port() && loopback {
            return usage("--from and --to must differ in their ports on a loopback".into());
        }
        if from.port() == 0 || to.port() == 0 || to.ip().is_unspecified() {
            return usage(format!("{from} to {to}: neither port may be 0, nor the receiver's address unspecified"));
        }
        if RUN_PORTS.contains(&from.port()) {
            let (first, last) = (RUN_PORTS.start, RUN_PORTS.end - 1);
            return usage(format!("--from {from}: ports {first} to {last} are for what --segment sends; take another"));
        }
        // The receiver's answers are up to 1280 bytes long.
        if !(1280..=9700).contains(&self.mtu) {
            return usage(format!("--mtu {}: 1280 to 9700 bytes would do", self.mtu));
        }
        let most = u32::from(self.mtu) + 14 - HEADERS as u32;
        let payload = self.payload.unwrap_or(most);
        if payload == 0 || payload > most {
            return usage(format!(
                "--payload {payload}: with an MTU of {} a frame has room for 1 to {most} bytes of the file ({HEADERS} bytes are headers)",
                self.mtu
            ));
        }
        let segment = self.segment.map(|segment| segment_length(segment, self.mtu)).transpose()?;
        let times = [("--seconds", self.seconds), ("--give-up", Some(self.give_up)), ("--hang-after", self.hang_after)];
        for (flag, value) in [("--rate", self.rate)].into_iter().chain(times) {
            if value.is_some_and(|value| !(value.is_finite() && value > 0.0 && value < 1e6)) {
                return usage(format!("{flag} {}: a number above 0 would do", value.unwrap_or_default()));
            }
        }
        if self.hang_after.is_some_and(|hang| hang >= self.give_up) {
            return usage("--hang-after must be below --give-up, or the receiver is given up first".into());
        }
        if !(1..=MOST_QUEUES as u16).contains(&self.queues) {
            return usage(format!("--queues {}: 1 to {MOST_QUEUES} would do", self.queues));
        }
        if self.queues > 1 && self.capture.is_some() {
            return usage(
                "--capture sees the frames of one queue: leave out --queues, or record what an emulated NIC sends \
                 (--wire pcap:PATH)"
                    .into(),
            );
        }
        let cached = self.scribble || self.unheld || self.huge || self.cache.is_some() || self.serve.is_some();
        if self.direct && cached {
            return usage(
                "--direct goes without the cache, and so without --scribble, --unheld, --cache, --huge and --serve"
                    .into(),
            );
        }
        // With writers about, the passes lie apart, so that a page that is not still is sure to show.
        let delay = self.emulated_delay.unwrap_or(if self.scribble || self.serve.is_some() { 50 } else { 0 });
        Ok(Plan {
            file: if self.scribble { private_copy(&file)? } else { file.clone() },
            name: file,
            device,
            emulated: Emulated {
                wire,
                transmit_delay: Duration::from_micros(delay),
                mtu: self.mtu,
                faults,
                bare: self.ddp.is_some(),
            },
            ddp: self.ddp,
            loopback,
            from,
            to,
            to_mac: self.to_mac.as_deref().map(parse_mac).transpose()?,
            payload,
            segment,
            max_frame: self.mtu + 14,
            rate: self.rate,
            seconds: self.seconds,
            give_up: Duration::from_secs_f64(self.give_up),
            queues: self.queues,
            cores: self.cores.map(|cores| cores.0).unwrap_or_default(),
            poll: self.poll,
            hang_after: self.hang_after.map_or(HANG_AFTER, Duration::from_secs_f64),
            scribble: self.scribble,
            serve: self.serve,
            unheld: self.unheld,
            direct: self.direct,
            cache: self.cache.map(|mib| mib << 20),
            huge: self.huge,
            disk: self.disk,
            capture: self.capture,
            metrics: self.metrics,
            json: self.json,
        })
    }
}

/// File bytes in each segment: `asked`, or as many as the MTU has room for.
fn segment_length(asked: Option<u16>, mtu: u16) -> Result<u16> {
    let (shortest, longest) = (Offload::SMALLEST_SEGMENT, mtu - IP_UDP_HEADERS);
    let segment = asked.unwrap_or(longest);
    if (shortest..=longest).contains(&segment) {
        return Ok(segment);
    }
    Err(Error::Usage(format!(
        "--segment={segment}: with an MTU of {mtu}, {shortest} to {longest} bytes of the file would do"
    )))
}

/// The sender's own program, for want of a better file.
fn own_executable() -> PathBuf {
    let running = PathBuf::from("/proc/self/exe");
    std::fs::read_link(&running).unwrap_or(running)
}

/// A copy for writers, as stores are written back: a file without a name, which is gone with the process. It shares the
/// blocks of the file until they are written, where the file system can do that (the copy is made by `copy_file_range(2)`).
fn private_copy(path: &Path) -> Result<PathBuf> {
    // What is wrong with the path, or with what it names, is better said by `Cache::open`.
    if !std::fs::metadata(path).is_ok_and(|found| found.is_file()) {
        return Ok(path.to_owned());
    }
    let copy = || {
        let mut copy = tempfile::tempfile()?;
        std::io::copy(&mut File::open(path)?, &mut copy)?;
        Ok(PathBuf::from(format!("/proc/self/fd/{}", copy.into_raw_fd())))
    };
    copy().map_err(|source| Error::Copy { path: path.to_owned(), folder: std::env::temp_dir(), source })
}

fn parse_mac(text: &str) -> Result<Mac> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() <= 2 && !part.starts_with('+')))
        .collect();
    let mac = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    mac.map(Mac).ok_or_else(|| Error::Usage(format!("--to-mac {text}: write it as 52:54:00:12:34:56")))
}

/// Time without a completion after which a NIC with work hangs, unless another is given.
const HANG_AFTER: Duration = Duration::from_secs(5);
const LOOPBACK_FROM: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 4000);
const LOOPBACK_TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 4001);
const IP_UDP_HEADERS: u16 = 20 + 8;
