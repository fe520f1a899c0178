//! What can be seen of a program while it runs: captures, figures, lines, events.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::{Guarded, contents, example, file, finish, kill, run, send, text, wait_for};
use pcap_file::pcap::PcapReader;
use stillwire_examples::capture::{Capture, Counts};
use stillwire_examples::device::{DeviceName, Emulated};
use stillwire_examples::metrics::{Exposed, Metrics, Server, fetch, value};
use stillwire_examples::packet::{Endpoint, Received};
use stillwire_examples::sending::{Loopback, Options, Totals};
use stillwire_examples::source::Source;
use stillwire_examples::station::{Patience, Station};
use stillwire_examples::transfer::{ANNOUNCEMENT_LEN, DATA_HEADER_LEN, Header, Kind, RUN_PORTS};
use stillwire_filecache::Cache;
use tempfile::TempDir;

/// Bytes of the file by their place in it, each as often as it was captured in a frame to the receiver.
fn captured(path: &Path) -> BTreeMap<u64, Vec<Vec<u8>>> {
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let (mut found, mut last) = (BTreeMap::<u64, Vec<Vec<u8>>>::new(), Duration::ZERO);
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        assert!(packet.timestamp >= last && packet.orig_len as usize == packet.data.len(), "{:?}", packet.timestamp);
        last = packet.timestamp;
        let Received::Udp { payload, .. } = Received::parse(&packet.data) else { continue };
        let (header, payload) = Header::parse(payload).unwrap();
        if header.kind == Kind::Data {
            found.entry(header.offset).or_default().push(payload.to_vec());
        }
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let just_now = last <= now && now - last < Duration::from_secs(300);
    assert!(just_now || found.is_empty(), "the last frame was captured at {last:?}, now is {now:?}");
    found
}

#[test]
fn a_capture_has_every_byte_sent_and_received() {
    let folder = TempDir::new().unwrap();
    let (path, capture) = (file(folder.path(), 300_001), folder.path().join("capture.pcap"));
    for device in ["emulated:ixgbe", "emulated:virtio"] {
        let report = send(&[text(&path), "--device", device, "--capture", text(&capture)]);
        assert!(report.verified && report.resent == 0, "{report:?}");
        let frames = captured(&capture);
        assert_eq!(frames.len() as u64, report.frames);
        assert!(frames.values().all(|twice| twice.len() == 2 && twice[0] == twice[1]), "once sent, once received");
        let bytes: Vec<u8> = frames.into_values().flat_map(|mut twice| twice.swap_remove(0)).collect();
        assert!(bytes == contents(300_001), "{device}: not the file's bytes");
    }
}

/// A run is there as it was posted, announced and whole, and as it came back, in segments.
#[test]
fn a_capture_has_runs_whole_and_their_segments() {
    let folder = TempDir::new().unwrap();
    let (path, capture) = (file(folder.path(), 300_001), folder.path().join("capture.pcap"));
    for device in ["emulated:ixgbe", "emulated:virtio"] {
        let report = send(&[text(&path), "--device", device, "--segment=1000", "--capture", text(&capture)]);
        assert!(report.verified && report.resent == 0 && report.runs > 1, "{report:?}");
        let mut reader = PcapReader::new(File::open(&capture).unwrap()).unwrap();
        let (mut whole, mut segments, mut announced) = (Vec::new(), Vec::new(), 0);
        while let Some(packet) = reader.next_packet() {
            let data = packet.unwrap().data;
            let Received::Udp { from, payload, .. } = Received::parse(&data) else { continue };
            match payload.len() {
                _ if !RUN_PORTS.contains(&from.address.port()) => {}
                ANNOUNCEMENT_LEN => announced += 1,
                1001.. => whole.extend_from_slice(payload),
                _ => segments.extend_from_slice(payload),
            }
        }
        assert_eq!(announced, 2 * report.runs, "{device}: once sent, once received");
        assert!(whole == segments, "{device}: what was cut is not what was posted");
        // Where the ring has no room for a run, what is left of it comes as data: then the runs are not all of the file.
        let all = whole.len() == 300_001;
        assert!(!all || whole == contents(300_001), "{device}: the runs are not the file's bytes");
        assert!(whole.len() > 50_000, "{device}: {} bytes in runs", whole.len());
    }
}

#[test]
fn a_captures_filter_is_by_port() {
    let folder = TempDir::new().unwrap();
    let (path, capture) = (file(folder.path(), 50_000), folder.path().join("capture.pcap"));
    for (port, frames) in [(4001, 36), (4000, 36), (9, 0)] {
        let report = send(&[text(&path), "--capture", &format!("{},port={port}", text(&capture))]);
        assert_eq!((report.frames, captured(&capture).len()), (36, frames), "port {port}");
    }
    let output = run(Command::new(example("send")).args([text(&path), "--capture", "x,prot=1"]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("FILE,port=N"), "{said}");
    let output = run(Command::new(example("send")).args([text(&path), "--capture", "/nowhere/file"]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/file"), "{output:?}");
}

/// An independent reader finds the checksums right that the NIC had yet to compute; and, so that this can fail, those of torn
/// frames wrong.
#[test]
fn a_capture_is_read_by_tshark() {
    if Command::new("tshark").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return common::skip("a capture, by tshark", "tshark is not installed: apt-get install tshark");
    }
    let folder = TempDir::new().unwrap();
    let (path, capture) = (file(folder.path(), 400_000), folder.path().join("capture.pcap"));
    let count = |filter: &str| {
        let mut tshark = Command::new("tshark");
        tshark.args(["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-Y", filter, "-r"]);
        let output = run(tshark.arg(&capture).args(["-T", "fields", "-e", "frame.number"]));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).lines().count() as u64
    };
    let report = send(&[text(&path), "--capture", text(&capture)]);
    let all = count("frame");
    assert_eq!(
        count("udp.dstport == 4001 && udp.length == 1480"),
        2 * (report.frames - 1),
        "all but the last are full"
    );
    assert_eq!(count("ip.checksum.status == 1 && udp.checksum.status == 1"), all);
    // So late after its checksum was computed that a writer comes to some frame, and so large that it does not come to every
    // one: a transfer that never gets on is given up.
    let large = folder.path().join("large");
    std::fs::write(&large, contents(2 << 20)).unwrap();
    let torn = ["--scribble", "--unheld", "--seconds", "2", "--rate", "0.3", "--emulated-delay", "500"];
    let report = send(&[&[text(&large), "--capture", text(&capture)], &torn[..]].concat());
    assert!(report.torn > 0);
    assert!(count("udp.checksum.status == 0") > 0, "what was received torn is there, too");
    assert_eq!(count("ip.checksum.status != 1"), 0);
}

/// A sender in this process, on a loopback; `look` looks on from another thread until the sender has ended.
fn sender(folder: &Path, look: impl FnOnce(SocketAddr, mpsc::Receiver<()>) + Send) -> (Totals, Cache, Station, Server) {
    let path = file(folder, 1_000_000);
    let cache = Cache::new(stillwire_filecache::Config { bytes: 4 << 20, ..Default::default() }).unwrap();
    let emulated = Emulated::default();
    let device = "emulated:ixgbe".parse::<DeviceName>().unwrap().open(&emulated).unwrap();
    let patience = Patience { hang_after: Duration::from_secs(5), link: Duration::from_secs(10) };
    let config = stillwire_driver::Config { promiscuous: true, ..Default::default() };
    let mut station = Station::open(device, "192.0.2.1:4000".parse().unwrap(), config, true, patience).unwrap();
    cache.attach_to(station.function().iommu()).unwrap();
    let source = Source::Cached(cache.open(&path).unwrap());
    let metrics = Arc::<Metrics>::default();
    station.metrics = Some(metrics.clone());
    station.capture =
        Some(Box::new(Capture::create(folder.join("capture,port=4001").to_str().unwrap().parse().unwrap()).unwrap()));
    let exposed = Exposed { metrics, cache: Some(cache.clone()), program: "test", on: "here".into() };
    let server = Server::start("127.0.0.1:0".parse().unwrap(), exposed).unwrap();
    let options = Options {
        to: Endpoint { mac: station.me().mac, address: "192.0.2.2:4001".parse().unwrap() },
        payload: 1428,
        segment: None,
        rate: None,
        repeat_for: Some(Duration::from_secs(2)),
        deadline: Duration::from_secs(10),
        cores: Vec::new(),
    };
    let mut far = Loopback::new(&path, &source, true, 1).unwrap();
    let (address, (ended, end)) = (server.address(), mpsc::channel());
    let totals = std::thread::scope(|scope| {
        scope.spawn(move || look(address, end));
        let totals = stillwire_examples::sending::send(
            &mut station,
            &source,
            &options,
            Some(&mut far),
            &AtomicU64::new(0),
            &mut |_| {},
        );
        // Who looks on may have failed, and says so.
        let _ = ended.send(());
        totals.unwrap()
    });
    (totals, cache, station, server)
}

#[test]
fn figures_grow_during_a_send_and_are_its_sums_at_the_end() {
    let folder = TempDir::new().unwrap();
    let growing = ["stillwire_tx_frames_total", "stillwire_data_frames_total", "stillwire_holds_total"];
    let (totals, cache, station, server) = sender(folder.path(), |address, end| {
        let (mut before, mut grown) = ([0.0; 3], 0);
        while end.try_recv().is_err() {
            let text = fetch(address).unwrap();
            let now = growing.map(|name| value(&text, name).unwrap_or(0.0));
            assert!((0..3).all(|at| now[at] >= before[at]), "{before:?}, then {now:?}");
            grown += u32::from((0..3).all(|at| now[at] > before[at]));
            before = now;
        }
        assert!(grown >= 3, "the figures grew {grown} times in two seconds");
    });
    let text = fetch(server.address()).unwrap();
    let (stats, counted, captured) =
        (cache.stats(), station.nic.statistics(), station.capture.as_ref().map(|capture| capture.counts()));
    assert!(totals.verified && totals.transfers > 0, "{totals:?}");
    assert!(captured.is_some_and(|Counts { frames, lost, .. }| frames > 0 && lost == 0), "{captured:?}");
    let expect = [
        ("transfers_total", totals.transfers),
        ("transferred_bytes_total", totals.bytes),
        ("data_frames_total", totals.frames),
        ("resent_frames_total", totals.resent),
        ("torn_frames_total", totals.torn),
        ("runs_total", 0),
        ("not_sent_bytes_total", totals.not_sent),
        ("resets_total", counted.resets),
        ("link_losses_total", counted.link_losses),
        ("pauses_sent_total", counted.pauses_sent),
        ("pauses_received_total", counted.pauses_received),
        ("tx_frames_total", counted.tx_frames),
        ("rx_bytes_total", counted.rx_bytes),
        ("captured_frames_total", captured.map_or(0, |counts| counts.frames)),
        ("link_up", 1),
        ("link_speed_bits_per_second", 10_000_000_000),
        ("holds_total", stats.holds),
        ("cache_misses_total", stats.holds_missed),
        ("cache_hits_total", stats.holds - stats.holds_missed),
        ("cache_fills_total", stats.fills),
        ("cache_fill_bytes_total", 1_000_000),
        ("held_pages", cache.held().pages),
    ];
    for (name, expect) in expect {
        assert_eq!(value(&text, &format!("stillwire_{name}")), Some(expect as f64), "{name} in {text}");
    }
    // Every run is given back, or is still in the ring, which its holds say too.
    assert_eq!(value(&text, "stillwire_holds_in_ring") == Some(0.0), cache.held().pages == 0, "{text}");
}

/// Starts a program, and reads where it serves its figures.
fn serving(command: &mut Command) -> (Guarded, SocketAddr, BufReader<impl Read + use<>>) {
    let mut child =
        command.args(["--metrics", "127.0.0.1:0"]).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let child = Guarded(Some(child));
    let mut line = String::new();
    while !line.contains("metrics at http://") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended, and served nothing");
    }
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    (child, address, said)
}

#[test]
fn a_running_sender_is_watched() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 1_000_000);
    let mut command = Command::new(example("send"));
    command.args([text(&path), "--scribble", "--seconds", "60"]).stdout(Stdio::null());
    let (sender, address, _said) = serving(&mut command);
    wait_for("the first transfer", Duration::from_secs(30), || {
        value(&fetch(address).ok()?, "stillwire_transfers_total").filter(|&transfers| transfers > 0.0)
    });
    let mut info = Command::new(example("info"));
    let output = run(info.args(["--watch", "1", "--count", "3", "--from", &address.to_string()]));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
    assert!(output.status.success() && lines.len() == 3, "{text}");
    for line in lines {
        let number = |at: usize| line[at].parse::<f64>().unwrap_or_else(|_| panic!("{at} in {line:?}"));
        assert!(number(0) > 0.0 && number(1) > 0.0 && number(2) > 0.0 && number(7) > 0.0, "{text}");
        assert!((4..13).all(|at| number(at) >= 0.0) && line[13] == "up", "{text}");
    }
    // And what is seen of one that ends.
    let mut info = Command::new(example("info"));
    info.args(["--watch", "0.05", "--from", &address.to_string()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watching = Guarded::start(&mut info);
    let mut out = BufReader::new(watching.0.as_mut().unwrap().stdout.take().unwrap());
    (0..3).for_each(|_| assert!(out.read_line(&mut String::new()).unwrap() > 0));
    kill(sender.id(), "-KILL");
    let output = finish(watching.take(), Duration::from_secs(20));
    assert!(output.status.success() && String::from_utf8_lossy(&output.stderr).contains("has ended"), "{output:?}");
    let output = run(Command::new(example("info")).args(["--watch", "--from", &address.to_string()]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no metrics at"), "{output:?}");
}

#[test]
fn a_device_of_its_own_is_watched() {
    for device in ["emulated:ixgbe", "emulated:virtio"] {
        let output = run(Command::new(example("info")).args(["--device", device, "--watch", "0.05", "--count", "2"]));
        let text = String::from_utf8(output.stdout).unwrap();
        let last: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!((text.lines().count(), last.len(), last[8], last[13]), (4, 14, "0", "up"), "{text}");
    }
    let output = run(Command::new(example("info")).args(["--watch", "0"]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--watch 0:"), "{output:?}");
}

#[test]
fn a_receiver_serves_its_figures() {
    let folder = TempDir::new().unwrap();
    let mut command = Command::new(example("receive"));
    command.args(["--listen", "127.0.0.1:0", "--out"]).arg(folder.path().join("out"));
    let (receiver, address, mut said) = serving(&mut command);
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let listen: SocketAddr = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let rubbish = [0; DATA_HEADER_LEN];
    socket.send_to(&rubbish, listen).unwrap();
    let text = wait_for("the datagram", Duration::from_secs(20), || {
        fetch(address).ok().filter(|text| value(text, "stillwire_received_datagrams_total") == Some(1.0))
    });
    assert_eq!(value(&text, "stillwire_received_malformed_datagrams_total"), Some(1.0), "{text}");
    assert!(text.contains(&format!("on=\"{listen}\"")) && !text.contains("stillwire_tx_"), "{text}");
    kill(receiver.id(), "-INT");
    finish(receiver.take(), Duration::from_secs(20));
}

#[test]
fn events_are_told_as_far_as_they_are_asked_for() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 10_000);
    let said = |arguments: &[&str], variable: &str| {
        let mut command = Command::new(example("send"));
        let output = run(command.arg(&path).args(arguments).env("RUST_LOG", variable));
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let all = ["brought up", "the link has changed", "proved quiet"];
    let (_, info) = said(&["--log", "info"], "");
    assert!(all.iter().all(|event| info.contains(event)) && !info.contains("mapped"), "{info}");
    let (_, by_variable) = said(&[], "off,stillwire_dma=debug");
    assert!(by_variable.contains("mapped") && !by_variable.contains("brought up"), "{by_variable}");
    assert_eq!(said(&["--log", "off"], "debug").1, "");
    assert_eq!(said(&[], "").1, "", "nothing went wrong");
    let (code, refused) = said(&["--log", "loud"], "");
    assert!(code == Some(2) && refused.contains("'loud': write off"), "{refused}");
    let (code, ignored) = said(&[], "loud");
    assert!(code == Some(0) && ignored.contains("RUST_LOG is not used"), "{ignored}");
}

#[test]
fn writers_that_attach_are_told_of() {
    let folder = TempDir::new().unwrap();
    let (path, socket) = (file(folder.path(), 100_000), folder.path().join("socket"));
    let mut command = Command::new(example("send"));
    command.args([text(&path), "--serve", text(&socket), "--seconds", "60", "--log", "info"]).stdout(Stdio::null());
    let (sender, _, said) = serving(&mut command);
    wait_for("the socket", Duration::from_secs(20), || socket.exists().then_some(()));
    let mut write = Command::new(example("write"));
    let output = run(write.args(["--attach", text(&socket), text(&path), "--pattern", "1", "--len", "10"]));
    assert!(output.status.success(), "{output:?}");
    let mut events = said.lines().map(Result::unwrap).filter(|line| line.contains("a process has"));
    assert!(events.next().is_some_and(|event| event.contains("attached")));
    assert!(events.next().is_some_and(|event| event.contains("left") && event.contains("unmapped=true")));
    drop(sender);
}
