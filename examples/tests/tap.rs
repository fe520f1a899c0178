//! The sender's NIC on a TAP interface, and the kernel's own stack at the far end.
//!
//! Needs root and a kernel with TAP and network namespaces; each test makes a namespace of its own and removes it.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Guarded, contents, example, finish, last_line, run, skip, wait_for};
use serde_json::Value;
use stillwire_examples::report::Report;
use tempfile::TempDir;

/// A network namespace with a TAP interface `sw0` that has the address 10.99.0.2.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can make network namespaces; run the tests as root".into());
        }
        let namespace = Self(format!("stillwire-{name}-{}", std::process::id()));
        call(Command::new("ip").args(["netns", "add", &namespace.0]))?;
        namespace.call("ip", &["tuntap", "add", "dev", "sw0", "mode", "tap"])?;
        namespace.call("ip", &["address", "add", "10.99.0.2/24", "dev", "sw0"])?;
        namespace.call("ip", &["link", "set", "dev", "sw0", "up"])?;
        namespace.call("ip", &["link", "set", "dev", "lo", "up"])?;
        Ok(namespace)
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program.as_ref());
        command
    }

    fn call(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        call(self.command(program).args(arguments))
    }

    /// One of the kernel's UDP counters.
    fn udp(&self, name: &str) -> u64 {
        let output = run(self.command("cat").arg("/proc/net/snmp"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let found = names.split_whitespace().zip(values.split_whitespace()).find(|(field, _)| *field == name);
        found.unwrap_or_else(|| panic!("no {name} in {text}")).1.parse().unwrap()
    }

    /// `send` through the emulated NIC and the TAP, to `receive` on the kernel's socket. What both report.
    fn transfer(&self, file: &Path, out: &Path, flags: &[&str]) -> (Report, Value) {
        self.transfer_by(file, out, &[&["--wire", "tap:sw0"], flags].concat())
    }

    fn transfer_by(&self, file: &Path, out: &Path, flags: &[&str]) -> (Report, Value) {
        let mut receive = self.command(example("receive"));
        receive.args(["--listen", "10.99.0.2:9000", "--keep", "--json", "--out"]).arg(out);
        let receive = Guarded::start(receive.stdout(Stdio::piped()).stderr(Stdio::null()));
        wait_for("receive's socket", Duration::from_secs(10), || {
            let sockets = run(self.command("cat").arg("/proc/net/udp"));
            // 10.99.0.2:9000 as the kernel writes it.
            String::from_utf8_lossy(&sockets.stdout).contains("0200630A:2328").then_some(())
        });
        let mut send = self.command(example("send"));
        send.arg(file).args(["--from", "10.99.0.1:4000", "--to", "10.99.0.2:9000", "--json"]);
        let send = send.args(flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = finish(send, Duration::from_secs(120));
        assert!(output.status.success(), "{output:?}");
        // The file is in its place before the sender hears that it is complete.
        common::kill(receive.id(), "-TERM");
        let received = finish(receive.take(), Duration::from_secs(10)).stdout;
        let received = String::from_utf8_lossy(&received).into_owned();
        (last_line(&output), serde_json::from_str(received.lines().last().unwrap_or_default()).unwrap())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = call(Command::new("ip").args(["netns", "delete", &self.0]));
    }
}

fn call(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}; install iproute2"))?;
    let said = || format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(said()) }
}

fn namespace(name: &str, what: &str) -> Option<Namespace> {
    Namespace::new(name).map_err(|why| skip(what, &why)).ok()
}

#[test]
fn a_file_through_the_kernels_stack_with_checksums_that_it_accepts() {
    let what = "send to a kernel UDP socket over TAP";
    let Some(net) = namespace("tap", what) else { return };
    let folder = TempDir::new().unwrap();
    let file = common::file(folder.path(), 10_000_001);
    let out = folder.path().join("out");
    let (report, _) = net.transfer(&file, &out, &[]);
    assert_eq!((report.torn, report.verified), (0, true), "{report:?}");
    assert!(std::fs::read(&out).unwrap() == contents(10_000_001), "the file differs");
    assert_eq!(net.udp("InCsumErrors"), 0);
    assert!(net.udp("InDatagrams") >= report.frames - report.resent);

    // Held pages under writers: whatever arrives is whole, and the kernel still finds every checksum right.
    let (report, _) = net.transfer(&file, &out, &["--scribble", "--seconds", "2"]);
    assert!(report.torn == 0 && report.writer_pauses > 0, "{report:?}");
    assert_eq!(net.udp("InCsumErrors"), 0);

    // And the kernel does look: without holds the same writers make it count wrong checksums.
    let (report, _) = net.transfer(&file, &out, &["--scribble", "--unheld", "--seconds", "2"]);
    assert!(net.udp("InCsumErrors") > 0, "{report:?}");
}

#[test]
fn what_the_nic_cuts_through_the_kernels_stack() {
    let what = "send segments to a kernel UDP socket over TAP";
    let Some(net) = namespace("cut", what) else { return };
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    for len in [0, 1, 1471, 1472, 1473, 3004, 64_767, 64_768, 64_769, 10_000_001] {
        let (report, received) = net.transfer(&common::file(folder.path(), len), &out, &["--segment"]);
        assert_eq!((report.torn, report.verified), (0, true), "{len}: {report:?}");
        assert!(std::fs::read(&out).unwrap() == contents(len), "the file of {len} bytes differs");
        // The socket has room, and nothing on the way changes the order: each run adds up.
        assert_eq!((&received["broken"], &received["mismatched"]), (&0.into(), &0.into()), "{len}: {received}");
        assert_eq!(received["runs"], report.runs, "{len}: {received}");
        assert_eq!(report.runs > 0, len >= 2944, "{len}: {report:?}");
    }
    assert_eq!(net.udp("InCsumErrors"), 0);
    let file = common::file(folder.path(), 10_000_001);
    let (report, _) = net.transfer(&file, &out, &["--segment", "--scribble", "--seconds", "2"]);
    assert!(report.torn == 0 && report.writer_pauses > 0, "{report:?}");
    assert_eq!(net.udp("InCsumErrors"), 0);
    let (report, _) = net.transfer(&file, &out, &["--segment", "--scribble", "--unheld", "--seconds", "2"]);
    assert!(net.udp("InCsumErrors") > 0, "{report:?}");
}

/// The sender's own checksums, for a NIC that computes none.
#[test]
fn the_kernel_accepts_checksums_of_held_pages() {
    let Some(net) = namespace("sums", "a sender's own checksums, by a kernel UDP socket") else { return };
    let folder = TempDir::new().unwrap();
    let (file, out) = (common::file(folder.path(), 3_000_001), folder.path().join("out"));
    let socket = folder.path().join("nic");
    let mut emulator = net.command(common::emulator());
    emulator.args(["--model", "virtio", "--without", "csum,host_tso4,host_tso6,host_uso", "--transmit-delay-us", "50"]);
    emulator.args(["--wire", "tap:sw0", "--socket"]).arg(&socket);
    let _emulator = Guarded::start(emulator.stdout(Stdio::null()));
    wait_for("the emulator's socket", Duration::from_secs(10), || socket.exists().then_some(()));
    let device = format!("vfio-user:{}", common::text(&socket));
    for flags in [&[][..], &["--payload", "1001"]] {
        let (report, _) = net.transfer_by(&file, &out, &[&["--device", &device], flags].concat());
        assert_eq!((report.torn, report.verified), (0, true), "{flags:?}: {report:?}");
        assert!(std::fs::read(&out).unwrap() == contents(3_000_001), "{flags:?}: the file differs");
        std::fs::remove_file(&out).unwrap();
    }
    let (report, _) = net.transfer_by(&file, &out, &["--device", &device, "--scribble", "--seconds", "2"]);
    assert!(report.torn == 0 && report.writer_pauses > 0, "{report:?}");
    assert_eq!(net.udp("InCsumErrors"), 0);
    net.transfer_by(&file, &out, &["--device", &device, "--scribble", "--unheld", "--seconds", "2"]);
    assert!(net.udp("InCsumErrors") > 0);
}

#[test]
fn an_e810_s_checksums_are_accepted_as_well() {
    let Some(net) = namespace("ice", "send from an emulated E810 to a kernel UDP socket over TAP") else { return };
    let folder = TempDir::new().unwrap();
    let (file, out) = (common::file(folder.path(), 5_000_001), folder.path().join("out"));
    for flags in [&["--device", "emulated:ice"][..], &["--device", "emulated:ice", "--scribble", "--seconds", "2"]] {
        let (report, _) = net.transfer(&file, &out, flags);
        assert_eq!((report.torn, report.verified), (0, true), "{report:?}");
        assert_eq!(net.udp("InCsumErrors"), 0);
        assert!(net.udp("InDatagrams") >= report.frames - report.resent);
    }
}

#[test]
fn a_file_over_a_path_that_loses_one_datagram_in_a_hundred() {
    let what = "send over a path with 1 % loss";
    let Some(net) = namespace("loss", what) else { return };
    if let Err(why) = lose(&net) {
        return skip(what, &why);
    }
    let folder = TempDir::new().unwrap();
    let file = common::file(folder.path(), 10_000_001);
    let out = folder.path().join("out");
    let (report, _) = net.transfer(&file, &out, &[]);
    assert!(report.resent > 0, "nothing was lost: {report:?}");
    assert_eq!((report.torn, report.verified), (0, true), "{report:?}");
    assert!(std::fs::read(&out).unwrap() == contents(10_000_001), "the file differs");
    let (report, received) = net.transfer(&file, &out, &["--segment"]);
    assert!(report.resent > 0 && report.verified, "{report:?}");
    assert!(received["broken"].as_u64() > Some(0) && received["runs"].as_u64() > Some(0), "{received}");
    assert!(std::fs::read(&out).unwrap() == contents(10_000_001), "the file in runs differs");
}

/// Loses one datagram in a hundred in each direction: by `tc netem` on the way out and by nftables on the way in,
/// because netem works on what leaves an interface only; and by nftables alone where the kernel has no netem.
fn lose(net: &Namespace) -> Result<(), String> {
    let netem = net.call("tc", &["qdisc", "add", "dev", "sw0", "root", "netem", "loss", "1%"]);
    let out = if netem.is_ok() {
        ""
    } else {
        "add chain inet loss out { type filter hook output priority 0; }; add rule inet loss out meta l4proto udp numgen random mod 100 0 drop;"
    };
    if let Err(why) = netem {
        skip("tc netem as the cause of loss (nftables drops 1 % instead)", &why);
    }
    let rules = format!(
        "add table inet loss; add chain inet loss in {{ type filter hook input priority 0; }}; \
         add rule inet loss in meta l4proto udp numgen random mod 100 0 drop; {out}"
    );
    net.call("nft", &[&rules])
}

#[test]
fn a_tap_that_cannot_be_had_is_explained() {
    let mut send = Command::new(example("send"));
    send.args(["--wire", "tap:a/b", "--from", "10.99.0.1:1", "--to", "10.99.0.2:2"]);
    let output = run(&mut send);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no interface name"), "{output:?}");
}
