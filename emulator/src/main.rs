//! Serves a device model on a vfio-user socket.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use stillwire_emulator::control::Control;
use stillwire_emulator::ixgbe::{Module, Part};
use stillwire_emulator::scripted::{Faulty, Scripted};
use stillwire_emulator::server::{Server, Stopper};
use stillwire_emulator::virtio::Features;
use stillwire_emulator::{DeviceModel, Doorbells, Wire, ice, ixgbe, virtio, wire};

/// An emulated NIC on a vfio-user socket, for QEMU (-device vfio-user-pci) or a driver in another process.
#[derive(Parser)]
#[command(name = "stillwire-emulator", version)]
struct Arguments {
    /// Which device.
    #[arg(long, value_enum, default_value_t = Device::Ixgbe)]
    model: Device,
    /// Socket to listen on; only its owner may connect.
    #[arg(long)]
    socket: PathBuf,
    /// What the cable leads to: loopback, sink, tap:NAME, pcap:PATH, or vlan:ID:WIRE (a switch's access port before it).
    #[arg(long, default_value = "loopback")]
    wire: String,
    /// Instead of a wire: a second device on this socket, at the other end of the cable.
    #[arg(long, value_name = "SOCKET", conflicts_with = "wire")]
    cable: Option<PathBuf>,
    /// The device's address.
    #[arg(long, value_parser = parse_mac)]
    mac: Option<Mac>,
    /// PCI device ID, hexadecimal: of an 82599 10fb (SFP+, the default), 10f7 (backplane), X540 (1528) or X550 (1563); of an
    /// E810 1592 (QSFP, the default), 1591, 1593.
    #[arg(long, value_parser = parse_id)]
    device_id: Option<u16>,
    /// An E810 has a package (DDP) from the beginning.
    #[arg(long)]
    package: bool,
    /// What is in the cage of an 82599 SFP+: none, sr (optics) or da (direct attach).
    #[arg(long, default_value = "sr")]
    module: Module,
    /// What goes wrong with the first device: once it has sent so many frames link-down@FRAMES:SECONDS, or stuck@FRAMES (it
    /// completes nothing until it is reset); from the start lose-every=100, link-down...; --fault help names all that the model
    /// has.
    #[arg(long, value_name = "FAULT", value_delimiter = ',')]
    fault: Vec<String>,
    /// A socket that takes such faults while it runs, one a line.
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// Features that virtio does not offer, as the standard names them: csum,host_tso4,ring_packed.
    #[arg(long, value_name = "FEATURE", value_delimiter = ',', value_parser = parse_feature)]
    without: Vec<Features>,
    /// Pairs of queues that virtio has.
    #[arg(long, default_value_t = 4)]
    pairs: u16,
    /// MTU that virtio offers, bytes.
    #[arg(long, default_value_t = 1500)]
    mtu: u16,
    /// How queue registers are reached.
    #[arg(long, value_enum, default_value_t = DoorbellKind::Mapped)]
    doorbells: DoorbellKind,
    /// Time between checksum pass and transmit pass, microseconds.
    #[arg(long, default_value_t = 0)]
    transmit_delay_us: u64,
    /// When a client has left, write what the device went through into this file (the second device: FILE.cable).
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Exit after the first client has left.
    #[arg(long)]
    once: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Device {
    /// Intel 82599.
    Ixgbe,
    /// Intel E810.
    Ice,
    /// virtio-net 1.x, modern PCI.
    Virtio,
}

#[derive(Clone, Copy, ValueEnum)]
enum DoorbellKind {
    /// Pages that the client maps.
    Mapped,
    /// Messages only.
    Messages,
}

#[derive(Clone, Copy)]
struct Mac([u8; 6]);

fn parse_mac(text: &str) -> Result<Mac, String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let mac: Option<[u8; 6]> = bytes.and_then(|bytes| bytes.try_into().ok());
    match mac {
        Some(mac) if mac[0] & 1 == 0 && mac != [0; 6] => Ok(Mac(mac)),
        Some(_) => Err("not the address of one card; its first byte must be even, and not all may be 0".into()),
        None => Err("write six hexadecimal bytes, 02:53:57:00:00:01".into()),
    }
}

fn parse_id(text: &str) -> Result<u16, String> {
    let digits = text.trim_start_matches("0x");
    let id = u16::from_str_radix(digits, 16).map_err(|_| "write four hexadecimal digits, 10fb")?;
    if Part::of(id).is_some() || ice::DEVICE_IDS.contains(&id) {
        return Ok(id);
    }
    let of_ice = ice::DEVICE_IDS.map(|id| format!("{id:04x}")).join(", ");
    Err(format!("no such part is modelled; use {}; with --model ice {of_ice}", ixgbe::supported()))
}

fn parse_feature(text: &str) -> Result<Features, String> {
    Features::from_name(&text.to_uppercase()).ok_or_else(|| {
        let names: Vec<_> = Features::all().iter_names().map(|(name, _)| name.to_lowercase()).collect();
        format!("not a feature of this device; it has {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stillwire-emulator: {error}");
            ExitCode::FAILURE
        }
    }
}

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn run(arguments: Arguments) -> Result<()> {
    // Before any thread is started, so that all inherit the mask and only the waiting thread sees the signals.
    let signals = signals::Blocked::new()?;
    if let Some(id) = arguments.device_id
        && ice::DEVICE_IDS.contains(&id) != matches!(arguments.model, Device::Ice)
    {
        return Err(format!("--device-id {id:x}: another --model has parts of this number").into());
    }
    match arguments.model {
        Device::Ixgbe => serve_all(&arguments, signals, |far, wire| {
            arguments.scripted(ixgbe::Model::try_new(ixgbe_config(&arguments, far), wire)?, far)
        }),
        Device::Ice => serve_all(&arguments, signals, |far, wire| {
            arguments.scripted(ice::Model::new(ice_config(&arguments, far), wire)?, far)
        }),
        Device::Virtio => serve_all(&arguments, signals, |far, wire| {
            arguments.scripted(virtio::Model::new(virtio_config(&arguments, far), wire)?, far)
        }),
    }
}

impl Arguments {
    /// The address of a device; two cards on one cable must not have the same.
    fn mac(&self, default: [u8; 6], far: bool) -> [u8; 6] {
        let mut mac = self.mac.map_or(default, |Mac(mac)| mac);
        mac[5] = mac[5].wrapping_add(far.into());
        mac
    }

    fn doorbells(&self) -> Doorbells {
        match self.doorbells {
            DoorbellKind::Mapped => Doorbells::Mapped,
            DoorbellKind::Messages => Doorbells::Messages,
        }
    }

    /// A model with its faults, before anything listens: a wrong one is told at once.
    fn scripted<M: Faulty>(&self, model: M, far: bool) -> Result<Scripted<M>> {
        let mut model = Scripted::new(model, Vec::new());
        for fault in self.fault.iter().filter(|_| !far) {
            model.set_fault(fault).map_err(|why| format!("--fault: {why}"))?;
        }
        Ok(model)
    }

    fn transmit_delay(&self) -> Duration {
        Duration::from_micros(self.transmit_delay_us)
    }
}

fn ixgbe_config(arguments: &Arguments, far: bool) -> ixgbe::Config {
    let defaults = ixgbe::Config::default();
    ixgbe::Config {
        module: arguments.module,
        device_id: arguments.device_id.unwrap_or(defaults.device_id),
        mac: arguments.mac(defaults.mac, far),
        doorbells: arguments.doorbells(),
        transmit_delay: arguments.transmit_delay(),
        ..defaults
    }
}

fn ice_config(arguments: &Arguments, far: bool) -> ice::Config {
    let defaults = ice::Config::default();
    ice::Config {
        device_id: arguments.device_id.unwrap_or(defaults.device_id),
        mac: arguments.mac(defaults.mac, far),
        doorbells: arguments.doorbells(),
        transmit_delay: arguments.transmit_delay(),
        package: arguments.package,
        ..defaults
    }
}

fn virtio_config(arguments: &Arguments, far: bool) -> virtio::Config {
    let defaults = virtio::Config::default();
    virtio::Config {
        mac: arguments.mac(defaults.mac, far),
        mtu: arguments.mtu,
        pairs: arguments.pairs,
        features: arguments.without.iter().fold(defaults.features, |offered, without| offered - *without),
        doorbells: arguments.doorbells(),
        transmit_delay: arguments.transmit_delay(),
        ..defaults
    }
}

/// Serves one device, or both ends of a cable; `make` is told whether it makes the far one.
fn serve_all<M: DeviceModel>(
    arguments: &Arguments,
    signals: signals::Blocked,
    make: impl Fn(bool, Box<dyn Wire>) -> Result<M>,
) -> Result<()> {
    let report = arguments.report.clone();
    let servers = match &arguments.cable {
        None => vec![serve(&arguments.socket, make(false, wire::parse(&arguments.wire)?)?, report)?],
        Some(far_socket) => {
            let (near, far) = wire::Cable::pair();
            let far_report = report.clone().map(|path| {
                let mut path = path.into_os_string();
                path.push(".cable");
                path.into()
            });
            vec![
                serve(&arguments.socket, make(false, Box::new(near))?, report)?,
                serve(far_socket, make(true, Box::new(far))?, far_report)?,
            ]
        }
    };
    let device = servers[0].device();
    let control = arguments.control.as_deref().map(|path| Control::listen(path, device)).transpose();
    let _control = control.map_err(|error| format!("--control: {error}; use a path where nothing is yet"))?;
    stop_at_signal(signals, servers.iter().map(Server::stopper).collect());
    println!("listening on {}", arguments.socket.display());
    let once = arguments.once;
    std::thread::scope(|scope| {
        let threads: Vec<_> = servers.iter().map(|server| scope.spawn(move || server.serve(once))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a server does not panic"))
    })?;
    Ok(())
}

fn serve<M: DeviceModel>(socket: &Path, model: M, report: Option<PathBuf>) -> Result<Server<M>> {
    let mut server = Server::bind(socket, model)?;
    if let Some(path) = report {
        server.report_to(path);
    }
    Ok(server)
}

fn stop_at_signal(signals: signals::Blocked, stoppers: Vec<Stopper>) {
    std::thread::spawn(move || {
        loop {
            signals.wait();
            stoppers.iter().for_each(Stopper::stop);
        }
    });
}

/// SIGINT and SIGTERM, waited for instead of handled.
#[allow(unsafe_code)]
mod signals {
    use std::io;

    pub struct Blocked(libc::sigset_t);

    impl Blocked {
        /// Blocks the signals in this thread and all that it will start.
        pub fn new() -> io::Result<Self> {
            // SAFETY: `sigset_t` is a C array of integers; zeroes are a value of it. The calls write the set, which
            // lives across them, and read it; a null old set is allowed.
            unsafe {
                let mut set: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&mut set);
                libc::sigaddset(&mut set, libc::SIGINT);
                libc::sigaddset(&mut set, libc::SIGTERM);
                match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
                    0 => Ok(Self(set)),
                    code => Err(io::Error::from_raw_os_error(code)),
                }
            }
        }

        /// Waits for one of them.
        pub fn wait(&self) {
            let mut signal = 0;
            // SAFETY: reads the set and writes one integer; both live across the call.
            unsafe { libc::sigwait(&self.0, &mut signal) };
        }
    }
}
