//! `receive` on a NIC of its own, from outside: to whom it answers, what its figures and its captures say.
//!
//! Two NICs on a cable, both models in a process of their own; no root.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Guarded, contents, example, file, finish, kill, send, text, wait_for};
use pcap_file::pcap::PcapReader;
use serde_json::Value;
use stillwire_examples::device::{DeviceName, Emulated};
use stillwire_examples::metrics::{fetch, value};
use stillwire_examples::packet::{Endpoint, Received, UdpTemplate};
use stillwire_examples::station::{Datagram, Patience, Station};
use stillwire_examples::transfer::{Header, Kind, Message, RUN_PORTS, Run};
use tempfile::TempDir;

const HERE: &str = "192.0.2.1:4000";
const THERE: &str = "192.0.2.2:9000";
/// The machine may be busy; nothing takes so long when all is well.
const PATIENT: Duration = Duration::from_secs(60);

/// A cable: what is at its near end is a test's, `receive` has the far one.
struct Cable {
    emulator: Guarded,
    near: PathBuf,
    far: PathBuf,
}

impl Cable {
    fn new(folder: &Path, model: &str) -> Self {
        let (near, far) = (folder.join("near"), folder.join("far"));
        let mut command = Command::new(common::emulator());
        command.args(["--model", model]).arg("--socket").arg(&near).arg("--cable").arg(&far);
        let emulator = Guarded::start(command.stdout(Stdio::null()));
        wait_for("the emulator's sockets", PATIENT, || (near.exists() && far.exists()).then_some(()));
        Self { emulator, near, far }
    }

    fn end(self) {
        kill(self.emulator.id(), "-TERM");
        finish(self.emulator.take(), PATIENT);
    }
}

/// `receive` on the far end; it goes on after a file.
struct Receive {
    child: Guarded,
    figures: SocketAddr,
    said: BufReader<std::process::ChildStderr>,
}

impl Receive {
    fn start(cable: &Cable, out: &Path, capture: &str) -> Self {
        let mut command = Command::new(example("receive"));
        command.args(["--listen", THERE, "--device", &device(&cable.far), "--out", text(out), "--keep", "--json"]);
        command.args(["--metrics", "127.0.0.1:0", "--capture", capture]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let child = Guarded(Some(child));
        let mut line = || {
            let mut line = String::new();
            assert!(said.read_line(&mut line).unwrap() > 0, "receive ended before it listened");
            line
        };
        let address = |line: &str| line.split("http://").nth(1).and_then(|at| at.split('/').next()?.parse().ok());
        let mut figures = None;
        loop {
            let line = line();
            figures = figures.or(address(&line));
            if line.contains("listening on") {
                break;
            }
        }
        Self { child, figures: figures.unwrap(), said }
    }

    /// The figure once it is `expect`: what was done last may not have been counted at the first look.
    fn figure(&self, name: &str, expect: u64) {
        let mut last = None;
        let start = Instant::now();
        while last != Some(expect as f64) {
            assert!(start.elapsed() < PATIENT, "{name} is {last:?}, not {expect}");
            last = value(&fetch(self.figures).unwrap(), &format!("stillwire_{name}"));
        }
    }

    /// Its last figures, the JSON object that it prints at its end, and what it says.
    fn end(mut self) -> (String, Value, String) {
        let figures = fetch(self.figures).unwrap();
        kill(self.child.id(), "-TERM");
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        let child: Child = self.child.take();
        let output = finish(child, PATIENT);
        assert!(output.status.success(), "{said}");
        let printed = String::from_utf8(output.stdout).unwrap();
        (figures, serde_json::from_str(printed.lines().last().unwrap()).unwrap(), said)
    }
}

fn device(socket: &Path) -> String {
    format!("vfio-user:{}", text(socket))
}

/// Frames of a capture as UDP datagrams: from where, to where, what.
fn datagrams(capture: &Path) -> Vec<(SocketAddrV4, SocketAddrV4, Vec<u8>)> {
    let mut reader = PcapReader::new(File::open(capture).unwrap()).unwrap();
    let mut found = Vec::new();
    while let Some(packet) = reader.next_packet() {
        if let Received::Udp { from, to, payload } = Received::parse(&packet.unwrap().data) {
            found.push((from.address, to, payload.to_vec()));
        }
    }
    found
}

/// A host that speaks from any port.
struct Host {
    station: Station,
    there: Endpoint,
    heard: Vec<Datagram>,
}

impl Host {
    fn new(cable: &Cable) -> Self {
        let device = device(&cable.near).parse::<DeviceName>().unwrap().open(&Emulated::default()).unwrap();
        let patience = Patience { hang_after: PATIENT, link: PATIENT };
        let mut station = Station::open(device, HERE.parse().unwrap(), Default::default(), false, patience).unwrap();
        let address: SocketAddrV4 = THERE.parse().unwrap();
        let there = Endpoint { mac: station.resolve(*address.ip()).unwrap(), address };
        Self { station, there, heard: Vec::new() }
    }

    fn say(&mut self, port: u16, payload: &[u8]) {
        let me = self.station.me();
        let from = Endpoint { address: SocketAddrV4::new(*me.address.ip(), port), ..me };
        self.station.send(&mut UdpTemplate::new(from, self.there), payload);
    }

    /// The next answer, and the port that it came to. Nothing is said again meanwhile: on a cable nothing is lost.
    fn answer(&mut self) -> (u16, Message) {
        let start = Instant::now();
        while self.heard.is_empty() {
            assert!(start.elapsed() < PATIENT, "no answer");
            self.station.poll(&mut self.heard).unwrap();
        }
        let Datagram { from, port, payload } = self.heard.remove(0);
        assert_eq!(from, self.there);
        let (header, payload) = Header::parse(&payload).unwrap();
        (port, Message::parse(&header, payload).unwrap().unwrap())
    }
}

/// Whatever port a host speaks from, the answer comes there; and what a run brings to its end is answered at the port of the
/// transfer that it is of, not at the one that the run came from.
#[test]
fn a_host_is_answered_at_the_port_that_it_listens_on() {
    for model in ["ixgbe", "virtio"] {
        let folder = TempDir::new().unwrap();
        let cable = Cable::new(folder.path(), model);
        let (out, capture) = (folder.path().join("out"), folder.path().join("capture"));
        let receive = Receive::start(&cable, &out, text(&capture));
        let mut host = Host::new(&cable);
        let bytes = contents(3000);
        let size = bytes.len() as u64;
        let ports = [1, 80, 4000, 9000, 49_152, RUN_PORTS.start - 1, RUN_PORTS.end, u16::MAX];
        for (transfer, port) in (1..).zip(ports) {
            host.say(port, &Message::Probe { number: 1, offset: 0 }.datagram(transfer, size));
            let (at, message) = host.answer();
            assert!(at == port && matches!(message, Message::Missing { .. }), "{model}, {port}: {message:?} at {at}");
            // A run brings all of it, and nothing asks.
            let crc32 = crc32fast::hash(&bytes);
            let run = Run { number: transfer as u32 * 7, offset: 0, len: size as u32, segment: 1000, crc32 };
            host.say(run.port(), &run.announcement(transfer, size));
            bytes.chunks(1000).for_each(|segment| host.say(run.port(), segment));
            let (at, message) = host.answer();
            let whole = matches!(message, Message::Complete { status } if status.received == size);
            assert!(at == port && whole, "{model}, {port}: {message:?} at {at}");
            assert!(std::fs::read(&out).unwrap() == bytes, "{model}, {port}: the file differs");
        }
        let count = ports.len() as u64;
        receive.figure("received_runs_total", count);
        receive.figure("received_transfers_total", count);
        // A probe, an announcement and three segments each.
        receive.figure("received_datagrams_total", 5 * count);
        drop(host);
        let (_, json, _) = receive.end();
        assert_eq!((&json["transfers"], &json["malformed"]), (&count.into(), &0.into()), "{json}");
        // And a capture tells the same of who was answered.
        let to: Vec<u16> = datagrams(&capture)
            .iter()
            .filter(|(from, ..)| *from == THERE.parse().unwrap())
            .map(|(_, to, _)| to.port())
            .collect();
        assert_eq!(to, ports.map(|port| [port; 2]).concat(), "{model}");
        cable.end();
    }
}

/// A whole file by `send`: what was captured are the file's bytes, and what the figures say are the sums at the end.
#[test]
fn a_receiving_nic_is_measured_and_captured() {
    for (model, flags) in [("ixgbe", &[][..]), ("virtio", &[]), ("ixgbe", &["--segment"])] {
        let folder = TempDir::new().unwrap();
        let cable = Cable::new(folder.path(), model);
        let (path, out) = (file(folder.path(), 300_001), folder.path().join("out"));
        let capture = folder.path().join("capture");
        let receive = Receive::start(&cable, &out, text(&capture));
        receive.figure("received_datagrams_total", 0);
        receive.figure("link_up", 1);
        let near = device(&cable.near);
        let report = send(&[&[text(&path), "--device", &near, "--from", HERE, "--to", THERE], flags].concat());
        assert!(report.verified && report.torn == 0, "{report:?}");
        receive.figure("received_transfers_total", 1);
        let (figures, json, said) = receive.end();
        let figure = |name: &str| value(&figures, &format!("stillwire_{name}")).unwrap() as u64;
        let sum = |name: &str| json[name].as_u64().unwrap();
        for name in ["transfers", "bytes", "runs"] {
            assert_eq!(figure(&format!("received_{name}_total")), sum(name), "{model} {flags:?}: {name}");
        }
        for (name, of) in [("datagrams", "datagrams"), ("torn", "torn_datagrams"), ("malformed", "malformed_datagrams")]
        {
            assert_eq!(figure(&format!("received_{of}_total")), sum(name), "{model} {flags:?}: {name}");
        }
        assert_eq!((sum("bytes"), sum("torn"), sum("runs") > 0), (300_001, 0, !flags.is_empty()), "{json}");
        assert!(figures.contains(&format!("on=\"{THERE}\"")), "{figures}");
        // The question for our address is a frame, too; and answers are.
        assert!(figure("rx_frames_total") > sum("datagrams") && figure("tx_frames_total") > 1, "{figures}");

        let frames = datagrams(&capture);
        let came = frames.iter().filter(|(_, to, _)| *to == THERE.parse().unwrap()).count() as u64;
        assert_eq!(came, sum("datagrams"), "{model} {flags:?}: each that came is there once");
        assert!(figure("captured_frames_total") >= frames.len() as u64 + 2, "ARP is captured as well");
        assert!(said.contains(&format!("{} frames in ", figure("captured_frames_total"))), "{said}");
        let mut bytes = BTreeMap::new();
        for (from, _, payload) in &frames {
            let Ok((header, payload)) = Header::parse(payload) else { continue };
            if header.kind == Kind::Data && !RUN_PORTS.contains(&from.port()) {
                bytes.insert(header.offset, payload);
            }
        }
        if flags.is_empty() {
            let bytes: Vec<u8> = bytes.into_values().flatten().copied().collect();
            assert!(bytes == contents(300_001), "{model}: what was captured is not the file");
        }
        assert_eq!(capture.metadata().unwrap().permissions().mode() & 0o777, 0o600, "not everybody may read the file");
        cable.end();
    }
}

#[test]
fn a_receivers_captures_filter_is_by_port_and_what_can_not_be_written_costs_no_reset() {
    let folder = TempDir::new().unwrap();
    let cable = Cable::new(folder.path(), "virtio");
    let (path, out) = (file(folder.path(), 50_000), folder.path().join("out"));
    let mut refused = Command::new(example("receive"));
    refused.args(["--listen", THERE, "--device", &device(&cable.far), "--out", text(&out)]);
    let output = common::run(refused.args(["--capture", "/nowhere/capture"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("/nowhere/capture"), "{said}");
    // One that is there keeps its mode: somebody wanted it so.
    let capture = folder.path().join("capture");
    std::fs::write(&capture, "older and longer than nothing").unwrap();
    std::fs::set_permissions(&capture, std::fs::Permissions::from_mode(0o640)).unwrap();
    let receive = Receive::start(&cable, &out, &format!("{},port=4001", text(&capture)));
    let near = device(&cable.near);
    for from in ["192.0.2.1:4000", "192.0.2.1:4001"] {
        assert!(send(&[text(&path), "--device", &near, "--from", from, "--to", THERE]).verified);
    }
    receive.figure("received_transfers_total", 2);
    let (_, json, said) = receive.end();
    let frames = datagrams(&capture);
    assert!(frames.iter().all(|(from, to, _)| [from.port(), to.port()].contains(&4001)) && !frames.is_empty());
    let came = frames.iter().filter(|(_, to, _)| to.port() == 9000).count() as u64;
    assert!(came > 35 && came < json["datagrams"].as_u64().unwrap(), "{came} of {json}");
    assert!(said.contains(&format!("{} frames in ", frames.len())), "{said}");
    assert_eq!(capture.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    cable.end();
}
