//! The host's end of a stock driver's wire: a TAP interface, the kernel's stack behind it, and what they count.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::scenario::Stage;
use super::traffic;

/// A wire between a guest and this network namespace.
#[derive(Clone, Copy)]
pub(super) struct Wire {
    /// Its end here.
    pub(super) tap: &'static str,
    here: Ipv4Addr,
    guest: Ipv4Addr,
    /// Bytes of each frame that the NIC counts and this end does not see: check sequence, tag.
    unseen: u64,
}

/// Wire `number`: the host is 10.77.NUMBER.1, the guest 10.77.NUMBER.2.
const fn wire(tap: &'static str, number: u8) -> Wire {
    Wire { tap, here: Ipv4Addr::new(10, 77, number, 1), guest: Ipv4Addr::new(10, 77, number, 2), unseen: 4 }
}

/// The wire of `ixgbe.ko`.
pub(super) const IXGBE: Wire = wire("wire0", 0);
/// The wires of `ixgbe.ko` on the parts of the family: X540, X550, 82599 SFP+, and one whose frames are tagged.
pub(super) const FAMILY: [Wire; 4] =
    [wire("wire5", 5), wire("wire6", 6), wire("wire7", 7), Wire { unseen: 8, ..wire("wire8", 8) }];
/// The wires of `virtio_net.ko`, one for each kind of ring.
pub(super) const VIRTIO: [Wire; 4] = [wire("wire1", 1), wire("wire2", 2), wire("wire3", 3), wire("wire4", 4)];

/// The wires of QEMU's own virtio-net devices that our driver drives.
pub(super) const OURS: [Wire; 3] = [wire("wire9", 9), wire("wire10", 10), wire("wire11", 11)];
/// The wire of `ice.ko`.
pub(super) const ICE: Wire = wire("wire12", 12);

/// The host's end of the wire.
pub(super) struct Host {
    wire: Wire,
    busybox: PathBuf,
    begin: Option<Counts>,
    look: Option<Counts>,
    /// Turns in which the wire was not quiet.
    restless: u32,
}

/// So often the guest asks for a quiet moment.
const TURNS: u32 = 5;

/// What both ends of a quiet wire counted.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Counts {
    tap_rx: u64,
    tap_rx_bytes: u64,
    tap_tx: u64,
    nic_rx: u64,
    nic_tx: u64,
    nic_tx_bytes: u64,
}

impl Host {
    /// Brings the interface up, and serves traffic there.
    pub(super) fn set_up(tree: &Path, wire: Wire) -> Result<Self, String> {
        let Wire { tap, here, .. } = wire;
        let host = Self { wire, busybox: tree.join("usr/bin/busybox"), begin: None, look: None, restless: 0 };
        join(&host.busybox, wire)?;
        let serving = traffic::serve(here);
        let serving = serving.and_then(|()| if tap == IXGBE.tap { traffic::serve_multicast(here) } else { Ok(()) });
        serving.map_err(|error| format!("the host's end of the traffic: {error}"))?;
        Ok(host)
    }

    /// Does what the guest asks for; false when it is to ask again.
    pub(super) fn act(&mut self, stage: &mut Stage<'_>, action: &str) -> bool {
        match action.split_once(' ').unwrap_or((action, "")) {
            ("ping-sizes", most) => {
                let most = most.parse().unwrap_or(0);
                let name = format!("the guest answers pings of sizes up to {most}");
                stage.check(&name, self.ping(most));
                true
            }
            ("multicast-to-nobody", _) => {
                stage.check(
                    "multicast for nobody is sent",
                    traffic::to_nobody(self.wire.here).map_err(|error| error.to_string()),
                );
                true
            }
            ("counts-look", _) => {
                self.look = counts(stage, self.wire.tap).ok();
                true
            }
            ("counts-begin", _) => self.quiet(stage, |host, _, counts| host.begin = Some(counts)),
            ("counts-end", _) => self.quiet(stage, |host, stage, end| {
                stage.check("ethtool -S agrees with the wire", compare(host.begin, end, host.wire.unseen));
                stage.check("ethtool -S counts no error", errors(stage));
                stage.check("the host's stack found no wrong checksum", host_checksums());
            }),
            _ => {
                stage.check(action, Err("the host knows no such action".into()));
                true
            }
        }
    }

    /// Lets `then` have the counts, if they are what they were a moment ago at both ends: a frame between the looks at the
    /// two ends would be missing at one.
    fn quiet(&mut self, stage: &mut Stage<'_>, then: impl FnOnce(&mut Self, &mut Stage<'_>, Counts)) -> bool {
        match counts(stage, self.wire.tap) {
            Ok(now) if self.look == Some(now) => {
                self.restless = 0;
                then(self, stage, now);
                true
            }
            outcome => {
                self.restless += 1;
                if self.restless == TURNS {
                    let why = outcome.err().unwrap_or_else(|| "frames come and go all the time".into());
                    stage.check("the wire is quiet for a moment", Err(why));
                }
                false
            }
        }
    }

    /// Every size for small ones, some for large ones.
    fn ping(&self, most: usize) -> Result<String, String> {
        let step = if most <= 1500 { 1 } else { 101 };
        let sizes: Vec<usize> = (0..=most).step_by(step).chain([most]).collect();
        let guest = self.wire.guest.to_string();
        let mut again = 0;
        for size in &sizes {
            let answered = || {
                let size = size.to_string();
                let ping = Command::new(&self.busybox)
                    .args(["ping", "-q", "-c", "1", "-W", "2", "-s", &size, &guest])
                    .output();
                ping.is_ok_and(|output| output.status.success())
            };
            match (0..3).find(|_| answered()) {
                Some(tries) => again += tries,
                None => return Err(format!("no answer to {size} bytes in 3 tries")),
            }
        }
        Ok(format!("{} sizes, {again} sent again", sizes.len()))
    }
}

/// Gives the interface its address and brings it up.
pub(super) fn join(busybox: &Path, Wire { tap, here, .. }: Wire) -> Result<(), String> {
    // Its router solicitations would be frames that nobody asked for.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{tap}/disable_ipv6"), "1");
    ip(busybox, &["link", "set", "lo", "up"])?;
    ip(busybox, &["link", "set", tap, "mtu", "9000", "up"])?;
    ip(busybox, &["addr", "add", &format!("{here}/24"), "dev", tap])
}

pub(super) fn ip(busybox: &Path, args: &[&str]) -> Result<(), String> {
    let output = Command::new(busybox).arg("ip").args(args).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

fn counts(stage: &Stage<'_>, interface: &str) -> Result<Counts, String> {
    let tap = |name: &str| {
        let path = "/proc/net/dev";
        let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:")));
        let fields: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        let at = match name {
            "rx_bytes" => 0,
            "rx_packets" => 1,
            _ => 9,
        };
        fields
            .get(at)
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| format!("{path} does not count {name} of {interface}"))
    };
    Ok(Counts {
        tap_rx: tap("rx_packets")?,
        tap_rx_bytes: tap("rx_bytes")?,
        tap_tx: tap("tx_packets")?,
        nic_rx: stage.number("rx_pkts_nic")?,
        nic_tx: stage.number("tx_pkts_nic")?,
        nic_tx_bytes: stage.number("tx_bytes_nic")?,
    })
}

fn errors(stage: &Stage<'_>) -> Result<String, String> {
    let keys = ["rx_missed_errors", "rx_csum_offload_errors", "rx_crc_errors"];
    let counts: Result<Vec<u64>, String> = keys.iter().map(|key| stage.number(key)).collect();
    let counts = counts?;
    if counts.iter().all(|count| *count == 0) { Ok(String::new()) } else { Err(format!("{keys:?} are {counts:?}")) }
}

fn compare(begin: Option<Counts>, end: Counts, unseen: u64) -> Result<String, String> {
    let begin = begin.ok_or("there was no count at the beginning")?;
    let (to_host, from_nic) = (end.tap_rx.wrapping_sub(begin.tap_rx), end.nic_tx.wrapping_sub(begin.nic_tx));
    let (from_host, to_nic) = (end.tap_tx.wrapping_sub(begin.tap_tx), end.nic_rx.wrapping_sub(begin.nic_rx));
    let (wire, nic) = (
        end.tap_rx_bytes.wrapping_sub(begin.tap_rx_bytes).wrapping_add(unseen * to_host),
        end.nic_tx_bytes.wrapping_sub(begin.nic_tx_bytes),
    );
    if (to_host, from_host, wire) == (from_nic, to_nic, nic) && to_host > 0 && from_host > 0 {
        return Ok(format!("{to_host} frames and {wire} bytes out, {from_host} frames in"));
    }
    Err(format!(
        "out: {from_nic} frames by ethtool, {to_host} on the wire; bytes {nic} and {wire}; in: {to_nic} frames by ethtool, {from_host} on the wire"
    ))
}

/// No wrong checksum by the counters of the host's stack (in this network namespace).
fn host_checksums() -> Result<String, String> {
    match wrong_checksums()? {
        0 => Ok(String::new()),
        count => Err(format!("{count} wrong checksums")),
    }
}

/// Wrong checksums by the counters of the host's stack (in this network namespace), of all protocols.
pub(super) fn wrong_checksums() -> Result<u64, String> {
    let text = fs::read_to_string("/proc/net/snmp").map_err(|error| format!("/proc/net/snmp: {error}"))?;
    let lines: Vec<&str> = text.lines().collect();
    let (mut found, mut wrong) = (0, 0);
    for pair in lines.chunks(2) {
        let [names, values] = pair else { continue };
        for (_, value) in
            names.split_whitespace().zip(values.split_whitespace()).filter(|(name, _)| *name == "InCsumErrors")
        {
            found += 1;
            wrong += value.parse::<u64>().map_err(|_| format!("/proc/net/snmp: InCsumErrors is {value}"))?;
        }
    }
    if found >= 3 { Ok(wrong) } else { Err("/proc/net/snmp has no InCsumErrors".into()) }
}
