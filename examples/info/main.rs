//! Says what a NIC is, whether it has link, what it can do, and what it has counted; or, again and again, what changes.

mod watching;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use stillwire_driver::Config;
use stillwire_examples::device::{DeviceName, Emulated};
use stillwire_examples::log::Log;
use stillwire_examples::{Error, Result};

/// Says what a NIC is: identity, MAC, link, capabilities, statistics. It resets the NIC to find out.
#[derive(Parser, Debug)]
#[command(name = "info", version)]
struct Arguments {
    /// emulated:ixgbe, emulated:ice, emulated:virtio, vfio-user:SOCKET, or the PCI address of a card that is bound to vfio-pci: 0000:03:00.0.
    #[arg(long, default_value = "emulated:ixgbe")]
    device: String,
    /// DDP package of an Intel E810 (ice.pkg), to be loaded if the card has none yet.
    #[arg(long, value_name = "FILE")]
    ddp: Option<PathBuf>,
    /// How long to wait for link, seconds.
    #[arg(long, default_value_t = 5.0, value_name = "N")]
    wait: f64,
    /// Print one JSON object instead.
    #[arg(long)]
    json: bool,
    /// Print what changes instead, a line an interval of so many seconds (1 without a number), until it is interrupted. What
    /// comes in meanwhile is counted, and dropped.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", conflicts_with = "json")]
    watch: Option<f64>,
    /// Watch a running `send --metrics ADDR` or `receive --metrics ADDR`, not a device.
    #[arg(long, value_name = "ADDR", requires = "watch", conflicts_with = "device")]
    from: Option<SocketAddr>,
    /// End after so many lines.
    #[arg(long, value_name = "LINES", requires = "watch")]
    count: Option<u64>,
    #[command(flatten)]
    log: Log,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    arguments.log.start("info");
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("info: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(seconds) = arguments.watch {
        let interval = Duration::try_from_secs_f64(seconds).ok().filter(|interval| *interval >= SHORTEST);
        let interval = interval
            .ok_or_else(|| Error::Usage(format!("--watch {seconds}: a number of seconds from 0.01 on would do")))?;
        return watching::run(arguments, interval);
    }
    let name: DeviceName = arguments.device.parse()?;
    let emulated = Emulated { bare: arguments.ddp.is_some(), ..Emulated::default() };
    let device = name.open(&emulated)?.with_package(arguments.ddp.as_deref())?;
    let identity = device.function.identity()?;
    let nic = device.nic(Config::default())?;
    let deadline = Duration::try_from_secs_f64(arguments.wait).unwrap_or_default();
    // No link is a finding, not a failure.
    let link = nic.wait_for_link(deadline).or_else(|_| nic.link())?;
    let (able, counted) = (nic.capabilities(), nic.statistics());
    if arguments.json {
        let object = serde_json::json!({
            "device": name.to_string(),
            "identity": {
                "vendor": identity.vendor, "device": identity.device, "revision": identity.revision,
                "class": identity.class, "subsystem_vendor": identity.subsystem_vendor,
                "subsystem": identity.subsystem,
            },
            "mac": nic.mac().to_string(),
            "link": { "up": link.up, "megabits": link.megabits },
            "capabilities": {
                "tx_checksum": able.tx_checksum, "rx_checksum": able.rx_checksum,
                "sctp_checksum": able.sctp_checksum, "tcp_segmentation": able.tcp_segmentation,
                "udp_segmentation": able.udp_segmentation, "vlan": able.vlan, "queues": able.queues,
                "max_segmented": able.max_segmented, "max_frame": able.max_frame,
                "header_len": able.header_len, "payload_pieces": able.payload_pieces,
                "tx_ring": able.tx_ring, "rx_ring": able.rx_ring,
            },
            "statistics": {
                "tx_frames": counted.tx_frames, "tx_bytes": counted.tx_bytes, "rx_frames": counted.rx_frames,
                "rx_bytes": counted.rx_bytes, "rx_missed": counted.rx_missed, "rx_errors": counted.rx_errors,
                "rx_checksum_errors": counted.rx_checksum_errors,
            },
        });
        println!("{object}");
        return Ok(());
    }
    println!(
        "device        {name}\nidentity      {:04x}:{:04x} revision {:02x}, class {:06x}, subsystem {:04x}:{:04x}",
        identity.vendor,
        identity.device,
        identity.revision,
        identity.class,
        identity.subsystem_vendor,
        identity.subsystem
    );
    println!("MAC           {}", nic.mac());
    match link.up {
        true => println!("link          up, {} Mb/s", link.megabits),
        false => println!("link          down after {:.1} s", deadline.as_secs_f64()),
    }
    println!(
        "checksums     IPv4 header, UDP, TCP by the NIC: transmit {}, receive {}",
        able.tx_checksum, able.rx_checksum
    );
    println!(
        "more          SCTP checksum {}; TCP cut {}, UDP cut {}; VLAN tags {}",
        able.sctp_checksum, able.tcp_segmentation, able.udp_segmentation, able.vlan
    );
    println!(
        "frames        up to {} bytes; header up to {}, then up to {} pieces",
        able.max_frame, able.header_len, able.payload_pieces
    );
    println!("rings         {} transmit, {} receive descriptors", able.tx_ring, able.rx_ring);
    if let Some(node) = name.node() {
        println!("memory        {node}");
    }
    println!("sent          {} frames, {} bytes", counted.tx_frames, counted.tx_bytes);
    println!(
        "received      {} frames, {} bytes; {} missed, {} damaged, {} with bad checksums",
        counted.rx_frames, counted.rx_bytes, counted.rx_missed, counted.rx_errors, counted.rx_checksum_errors
    );
    Ok(())
}

/// Shortest interval.
const SHORTEST: Duration = Duration::from_millis(10);
