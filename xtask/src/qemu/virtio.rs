//! What is proved of virtio-net: the stock driver on our model, and our driver on QEMU's own device.
//!
//! ```text
//!   host                                                  guest, behind intel-iommu
//!   receive <-> network stack <-+- wire9, TAP ----- QEMU's virtio-net -- send, our driver
//!                               |  (routes)
//!                               +- wire10, TAP ---- QEMU's virtio-net -- virtio_net.ko, or receive, our driver
//!                               +- wire11, TAP ---- QEMU's virtio-net -- send, our driver
//!   receive <-> loopback <--------- user network - QEMU's virtio-net -- send, our driver
//!                                                  QEMU's virtio-net -- send, our driver
//!                                            hub --+
//!                                                  QEMU's virtio-net -- receive, our driver
//! ```
//!
//! QEMU's device offers checksums only where its peer takes partial ones: TAP does, hubs and the user network do not. And the
//! kernel behind a TAP interface believes a partial checksum. So what our driver asks of QEMU there is looked at on wire10,
//! whose device takes none: the host must complete each on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::NAMESPACE;
use super::host::{self, Host};
use super::machine::Emulator;
use super::qmp;
use super::report::Report;
use super::scenario::{Bench, Devices, NEVER, Results, Stage, boot, complaints, some, wordless};
use crate::run::mortal;

/// Each kind of ring that a virtio device has, and how its model is started for it.
const RINGS: [(&str, &[&str]); 4] = [
    ("split", &["--without", "ring_packed,in_order"]),
    ("packed", &["--without", "in_order", "--mtu", "9000", "--doorbells", "messages"]),
    ("split-in-order", &["--without", "ring_packed", "--mtu", "9000", "--doorbells", "messages"]),
    ("packed-in-order", &[]),
];

/// The guest's own `virtio_net.ko` on a model for each kind of ring, with the host's network stack at the other ends.
///
/// # Errors
/// In words, when it did not come to its end.
pub fn stock(bench: &Bench, results: &mut Results) -> Result<(), String> {
    let mut devices = Vec::new();
    let mut ends = Vec::new();
    for ((name, more), (wire, slot)) in RINGS.into_iter().zip(host::VIRTIO.into_iter().zip(5..)) {
        let (socket, report) = (format!("virtio-{name}.sock"), format!("virtio-{name}.report"));
        let tap = format!("tap:{}", wire.tap);
        let fixed = ["--model", "virtio", "--socket", &socket, "--report", &report, "--wire", &tap, "--once"];
        let args: Vec<&str> = fixed.iter().chain(more).copied().collect();
        let emulator = Emulator::start(&bench.programs.emulator(), &args)?;
        devices.push((PathBuf::from(&socket), slot));
        ends.push((name, report, emulator, Host::set_up(&bench.tree, wire)?));
    }
    let mut stage = Stage::new("stock virtio driver", results);
    let devices = Devices { models: &devices, ..Devices::default() };
    boot(bench, "virtio", include_str!("../../guest/virtio.sh"), &devices, &mut stage, &mut |stage, action| {
        let (ring, action) = action.split_once(' ').unwrap_or((action, ""));
        let end = ends.iter_mut().find(|(name, ..)| *name == ring);
        end.is_some_and(|(.., host)| host.act(stage, action))
    })?;
    stage.judge_warnings();
    for (name, report, emulator, _) in ends {
        emulator.ended()?;
        let report = Report::read(Path::new(&report))?;
        stage.check(&format!("the {name} model saw nothing wrong"), wordless(report.all_zero(&NEVER)));
        stage.check(&format!("the {name} model has no complaint of the driver"), complaints(&report));
        let offloads = report.counter("segmented")?.min(report.counter("checksummed")?);
        let said = some(offloads, "at least so many frames");
        stage.check(&format!("the {name} model segmented and computed checksums"), said);
        stage.results.registers.extend(report.registers);
    }
    Ok(())
}

/// What our driver drives: slot, peer, and properties of each of QEMU's own devices.
const ON_HUBS: [(u8, &str, &str); 5] = [
    (0x5, "hubport,hubid=0", "iommu_platform=on"),
    (0x6, "hubport,hubid=0", "iommu_platform=on,packed=on"),
    (0x7, "hubport,hubid=1", "iommu_platform=on,in_order=on"),
    (0x8, "hubport,hubid=1", "iommu_platform=on,in_order=on,packed=on"),
    (0x9, "hubport,hubid=2", "iommu_platform=off"),
];
/// Those that need a network namespace.
const ON_NETWORKS: [(u8, &str, &str); 4] = [
    (0xa, "tap,ifname=wire9,script=no,downscript=no,vhost=off", "iommu_platform=on"),
    (
        0xb,
        "tap,ifname=wire10,script=no,downscript=no,vhost=off",
        "iommu_platform=on,packed=on,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_uso4=off,guest_uso6=off",
    ),
    (
        0xc,
        "tap,ifname=wire11,script=no,downscript=no,vhost=off",
        "iommu_platform=on,csum=off,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,host_uso=off",
    ),
    (0xd, "user", "iommu_platform=on"),
];

/// Two devices on a hub, as arguments of QEMU, for who wants to try.
pub(super) fn two_on_a_hub() -> Vec<String> {
    let two = [(0x9, "hubport,hubid=0", "iommu_platform=on"), (0xa, "hubport,hubid=0", "iommu_platform=on,packed=on")];
    two.into_iter().flat_map(arguments).collect()
}

fn arguments((slot, peer, properties): (u8, &str, &str)) -> [String; 4] {
    let (kind, more) = peer.split_once(',').map_or((peer, String::new()), |(kind, more)| (kind, format!(",{more}")));
    [
        "-netdev".into(),
        format!("{kind},id=peer{slot}{more}"),
        "-device".into(),
        format!(
            "virtio-net-pci,id=nic{slot},addr={slot:02x}.0,netdev=peer{slot},disable-legacy=on,romfile=,{properties}"
        ),
    ]
}

/// QEMU's socket for questions.
const MONITOR: &str = "qemu.sock";

/// Our driver in the guest, on QEMU's own virtio-net.
///
/// # Errors
/// In words, when it did not come to its end.
pub fn ours(bench: &Bench, results: &mut Results) -> Result<(), String> {
    let networks = std::env::var_os(NAMESPACE).is_some();
    let devices = ON_HUBS.into_iter().chain(ON_NETWORKS.into_iter().filter(|_| networks));
    let monitor = ["-qmp".to_owned(), format!("unix:{MONITOR},server=on,wait=off")];
    let own: Vec<String> = devices.flat_map(arguments).chain(monitor).collect();
    let mut stage = Stage::new("our virtio driver", results);
    let mut far = FarEnd { bench, networks, receiver: None, counted: 0 };
    let script = concat!(include_str!("../../guest/sending.sh"), include_str!("../../guest/ours-virtio.sh"));
    let devices = Devices { own: &own, iommu: true, ..Devices::default() };
    boot(bench, "ours-virtio", script, &devices, &mut stage, &mut |stage, action| far.act(stage, action))?;
    stage.judge_warnings();
    Ok(())
}

/// The host's part in it.
struct FarEnd<'a> {
    bench: &'a Bench,
    /// Whether this is a namespace of our own.
    networks: bool,
    receiver: Option<Receiver>,
    /// Wrong checksums when it was looked last.
    counted: u64,
}

impl FarEnd<'_> {
    fn act(&mut self, stage: &mut Stage<'_>, action: &str) -> bool {
        match action.split_once(' ').unwrap_or((action, "")) {
            ("networks", _) if !self.networks => return false,
            ("networks", _) => stage.check("the host joins its wires", wordless(self.join())),
            ("ring", what) => {
                let (slot, kind) = what.split_once(' ').unwrap_or((what, ""));
                stage.check(&format!("QEMU says that the ring in slot {slot} is {kind}"), wordless(ring(slot, kind)));
            }
            ("receive", address) => match Receiver::start(self.bench, address) {
                Ok(receiver) => self.receiver = Some(receiver),
                Err(why) => stage.check("the host listens", Err(why)),
            },
            ("received", _) => {
                let outcome = self.received().and_then(|()| compare(stage.fact("file_sha256")?));
                stage.check("it arrived byte-identical", wordless(outcome));
            }
            ("scribbled", _) => stage.check("it arrived", wordless(self.received())),
            ("sums-right", _) => {
                let outcome = self.sums().and_then(|wrong| if wrong == 0 { Ok(()) } else { Err(format!("{wrong}")) });
                stage.check("the host's kernel counts no wrong checksum", wordless(outcome));
            }
            ("sums-wrong", _) => {
                let outcome = self.sums().and_then(|wrong| some(wrong, "wrong checksums"));
                stage.check("the host's kernel does look", outcome);
            }
            _ => stage.check(action, Err("the host knows no such action".into())),
        }
        true
    }

    /// The interfaces are there since QEMU runs.
    fn join(&mut self) -> Result<(), String> {
        let busybox = self.bench.tree.join("usr/bin/busybox");
        for (number, wire) in (9..).zip(host::OURS) {
            host::ip(&busybox, &["link", "set", wire.tap, "address", &format!("02:53:57:00:00:{number:02}")])?;
            host::join(&busybox, wire)?;
        }
        let forward = "/proc/sys/net/ipv4/ip_forward";
        fs::write(forward, "1").map_err(|error| format!("{forward}: {error}"))?;
        self.counted = host::wrong_checksums()?;
        Ok(())
    }

    fn received(&mut self) -> Result<(), String> {
        self.receiver.take().ok_or("nobody listened")?.ended()
    }

    /// Wrong checksums that the host's kernel has seen since it was asked last.
    fn sums(&mut self) -> Result<u64, String> {
        let now = host::wrong_checksums()?;
        Ok(now - std::mem::replace(&mut self.counted, now))
    }
}

/// `receive` on the host, ended when dropped.
struct Receiver(Child);

/// What it received, and what it said.
const RECEIVED: &str = "received";
const SAID: &str = "received.log";

impl Receiver {
    fn start(bench: &Bench, address: &str) -> Result<Self, String> {
        let error = |error: std::io::Error| format!("receive: {error}");
        // What an earlier one received must not be taken for what this one does.
        let _ = fs::remove_file(RECEIVED);
        let said = fs::File::create(SAID).map_err(error)?;
        let mut command = mortal(&bench.programs.receive());
        command.args(["--listen", &format!("{address}:9000"), "--out", RECEIVED, "--idle-seconds", "60"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn().map_err(error)?;
        let mut receiver = Self(child);
        receiver.until(|_, said| said.contains("listening"))?;
        Ok(receiver)
    }

    fn ended(mut self) -> Result<(), String> {
        self.until(|child, _| child.try_wait().is_ok_and(|status| status.is_some_and(|status| status.success())))
    }

    fn until(&mut self, mut done: impl FnMut(&mut Child, &str) -> bool) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let said = fs::read_to_string(SAID).unwrap_or_default();
            if done(&mut self.0, &said) {
                return Ok(());
            }
            let failed = self.0.try_wait().is_ok_and(|status| status.is_some_and(|status| !status.success()));
            if failed || start.elapsed() > Duration::from_secs(60) {
                return Err(format!("receive, on the host: {}", said.trim()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether the rings of the device in `slot` (hexadecimal) are of this kind.
fn ring(slot: &str, kind: &str) -> Result<(), String> {
    let number = u8::from_str_radix(slot, 16).map_err(|_| format!("{slot} is no slot"))?;
    let found = if qmp::is_packed(Path::new(MONITOR), &format!("nic{number}"))? { "packed" } else { "split" };
    if found == kind { Ok(()) } else { Err(format!("it is {found}")) }
}

/// Whether what was received is what the guest sent, by the sum that the guest told.
fn compare(expected: &str) -> Result<(), String> {
    let bytes = fs::read(RECEIVED).map_err(|error| format!("{RECEIVED}: {error}"))?;
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if found == expected { Ok(()) } else { Err(format!("SHA-256 {found} was received, {expected} sent")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_qemu() {
        assert_eq!(
            arguments((0xa, "hubport,hubid=1", "packed=on")),
            [
                "-netdev",
                "hubport,id=peer10,hubid=1",
                "-device",
                "virtio-net-pci,id=nic10,addr=0a.0,netdev=peer10,disable-legacy=on,romfile=,packed=on"
            ]
        );
        assert_eq!(arguments((5, "user", ""))[1], "user,id=peer5");
    }
}
