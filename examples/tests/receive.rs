//! The `receive` program at the far end of a sender that plays over a kernel socket on loopback.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{contents, example, text};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use stillwire_examples::transfer::{
    DATA_HEADER_LEN, Header, Next, ProtocolError, RUN_PORTS, Reason, Run, Sender, SenderConfig, Summary,
};
use tempfile::TempDir;

#[test]
fn a_file_arrives_over_a_path_that_loses_a_tenth() {
    let place = TempDir::new().unwrap();
    let out = place.path().join("file");
    std::fs::write(&out, "the old one").unwrap();
    let receive = Receive::start(&["--out", text(&out), "--json"]);
    let file = contents(3_000_001);
    let summary = Peer::new(receive.address, 10).send(1, &file).unwrap();
    assert!(summary.resent > 0, "nothing was lost: {summary:?}");
    let (status, json) = receive.end();
    assert_eq!(status, Some(0));
    assert!(std::fs::read(&out).unwrap() == file, "the bytes differ");
    assert_eq!((&json["bytes"], &json["torn"], &json["transfers"]), (&3_000_001.into(), &0.into(), &1.into()));
    assert_eq!((&json["verified"], &json["error"]), (&true.into(), &Value::Null));
    assert_eq!(json["crc32"], format!("{:08x}", crc32fast::hash(&file)));
    assert!(json["datagrams"].as_u64() > Some(2143) && json["seconds"].as_f64() > Some(0.0), "{json}");
    assert_only(place.path(), &["file"]);
}

/// What a NIC would cut, from sockets with the ports of runs.
#[test]
fn runs_arrive_over_a_path_that_loses_a_hundredth() {
    let place = TempDir::new().unwrap();
    let out = place.path().join("file");
    let receive = Receive::start(&["--out", text(&out), "--json"]);
    let file = contents(3_000_001);
    let summary = Peer::new(receive.address, 1).with_runs().send(1, &file).unwrap();
    assert!(summary.resent > 0, "nothing was lost: {summary:?}");
    let (status, json) = receive.end();
    assert_eq!(status, Some(0));
    assert!(std::fs::read(&out).unwrap() == file, "the bytes differ");
    let count = |key: &str| json[key].as_u64().unwrap();
    assert!(count("runs") > summary.runs / 2 && count("broken") > 0, "{summary:?}: {json}");
    // A run that lost a segment may have been filled up by a later one, whose announcement was lost: not torn.
    assert_eq!((count("torn"), count("malformed")), (0, 0), "{json}");
}

#[test]
fn files_around_a_page_and_none_at_all() {
    let place = TempDir::new().unwrap();
    let out = place.path().join("file");
    let receive = Receive::start(&["--out", text(&out), "--json", "--keep"]);
    let sizes = [0, 1, 1399, 1400, 1401, 4095, 4096, 4097];
    for (transfer, size) in sizes.into_iter().enumerate() {
        let file = contents(size);
        Peer::new(receive.address, 0).send(transfer as u64, &file).unwrap();
        assert_eq!(std::fs::read(&out).unwrap(), file, "a file of {size} bytes");
    }
    receive.signal(Signal::TERM);
    let (status, json) = receive.end();
    assert_eq!((status, &json["transfers"], &json["verified"]), (Some(0), &8.into(), &true.into()));
}

#[test]
fn killed_in_the_middle_it_leaves_the_old_file_and_nothing_else() {
    let place = TempDir::new().unwrap();
    let out = place.path().join("file");
    std::fs::write(&out, "the old one").unwrap();
    let mut receive = Receive::start(&["--out", text(&out)]);
    let file = contents(200_000);
    let pid = Pid::from_child(&receive.child);
    let mut peer = Peer::new(receive.address, 0);
    peer.half_way = Some(Box::new(move || {
        let _ = kill_process(pid, Signal::KILL);
    }));
    peer.send(1, &file).unwrap_err();
    assert_eq!(receive.child.wait().unwrap().code(), None);
    assert_eq!(std::fs::read(&out).unwrap(), b"the old one");
    assert_only(place.path(), &["file"]);
}

#[test]
fn stopped_in_the_middle_it_leaves_the_old_file_and_tells_the_sender() {
    let place = TempDir::new().unwrap();
    let out = place.path().join("file");
    std::fs::write(&out, "the old one").unwrap();
    let receive = Receive::start(&["--out", text(&out), "--json"]);
    let file = contents(200_000);
    let mut peer = Peer::new(receive.address, 0);
    peer.half_way = Some(Box::new(|| (0..2).for_each(|_| receive.signal(Signal::INT))));
    let error = peer.send(1, &file).unwrap_err();
    drop(peer);
    assert_eq!(error, ProtocolError::Refused { to: receive.address, reason: Reason::Stopped });
    let (status, json) = receive.end();
    assert_eq!((status, &json["verified"]), (Some(130), &false.into()));
    assert!(json["error"].as_str().unwrap().contains("stopped before"), "{json}");
    assert_eq!(std::fs::read(&out).unwrap(), b"the old one");
    assert_only(place.path(), &["file"]);
}

#[test]
fn a_file_that_the_disk_cannot_hold_is_refused() {
    let place = TempDir::new().unwrap();
    let receive = Receive::start(&["--out", text(&place.path().join("file")), "--json"]);
    let peer = Peer::new(receive.address, 0);
    let error = peer.talk(Sender::new(SenderConfig::new(receive.address, 1, i64::MAX as u64, 1400)), &[0; 1 << 20]);
    assert_eq!(error, Err(ProtocolError::Refused { to: receive.address, reason: Reason::StorageFull }));
    let (status, json) = receive.end();
    assert_eq!(status, Some(1));
    assert!(json["error"].as_str().unwrap().contains("are free on its disk"), "{json}");
    assert_only(place.path(), &[]);
}

#[test]
fn nobody_sends() {
    let place = TempDir::new().unwrap();
    let receive = Receive::start(&["--out", text(&place.path().join("file")), "--json", "--idle-seconds", "0.2"]);
    let (status, json) = receive.end();
    assert_eq!(status, Some(1));
    assert!(json["error"].as_str().unwrap().contains("for 0.2 s: is `send --to` running"), "{json}");
    assert_only(place.path(), &[]);
}

#[test]
fn what_cannot_be_done_is_said_at_once() {
    let place = TempDir::new().unwrap();
    let out = place.path().join("file");
    let check = |listen: &str, out: &Path, expected: &str| {
        let output = Command::new(example("receive")).args(["--listen", listen, "--out", text(out)]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(expected), "{listen} {}: {said}", out.display());
        assert_eq!(output.status.code(), Some(1));
    };
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let holder = UdpSocket::bind(taken).unwrap();
    check(&taken.to_string(), &out, "another program listens on UDP 127.0.0.1:");
    drop(holder);
    check("192.0.2.1:4000", &out, "192.0.2.1 is not an address of this host");
    check("127.0.0.1:0", place.path(), "is a directory");
    check("127.0.0.1:0", &place.path().join("no/file"), "cannot write beside");
    check("127.0.0.1:0", Path::new("/dev/null"), "/dev/null is neither a file nor free to become one");
    let check = |listen: &str, more: &[&str], expected: &str| {
        let mut receive = Command::new(example("receive"));
        let output = receive.args(["--listen", listen, "--out", text(&out)]).args(more).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(expected), "{listen} {more:?}: {said}");
    };
    let card = "0000:ff:1f.7";
    check("192.0.2.1:9", &["--device", card], "there is no device 0000:ff:1f.7");
    check("192.0.2.1:9", &["--device", card, "--wire", "tap:a"], "--wire goes with an emulated device");
    check("192.0.2.1:9", &["--device", "emulated:ixgbe"], "needs --wire tap:NAME");
    check("192.0.2.1:9", &["--device", "eth0"], "is not a device");
    check("192.0.2.1:9", &["--device", card, "--mtu", "100"], "1280 to 9700");
    check("192.0.2.1:9", &["--mtu", "9000"], "--device");
    for bad in ["192.0.2.1:0", "0.0.0.0:9", "[2001:db8::1]:9"] {
        check(bad, &["--device", card], "it gives the NIC its address");
    }
    assert_only(place.path(), &[]);
}

/// The program, running.
struct Receive {
    child: Child,
    address: SocketAddr,
}

impl Receive {
    fn start(args: &[&str]) -> Receive {
        let mut child = Command::new(example("receive"))
            .args(["--listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "receive ended before it listened");
            if let Some(address) = line.trim().strip_prefix("receive: listening on ") {
                break address.parse().unwrap();
            }
        };
        // So that it never waits for us to read.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Receive { child, address }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit status and the last line that it printed.
    fn end(mut self) -> (Option<i32>, Value) {
        let mut printed = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        let status = self.child.wait().unwrap().code();
        (status, serde_json::from_str(printed.lines().last().unwrap_or_default()).unwrap())
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A sender on a kernel socket that throws away some of what it sends and hears.
struct Peer<'a> {
    socket: UdpSocket,
    lost_percent: u32,
    drawn: std::cell::Cell<u32>,
    half_way: Option<Box<dyn Fn() + 'a>>,
    /// A socket for each port that runs come from; none when it sends none.
    runs: Vec<UdpSocket>,
    announced: std::cell::Cell<u32>,
}

impl Peer<'_> {
    fn new(to: SocketAddr, lost_percent: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(to).unwrap();
        Peer { socket, lost_percent, drawn: 1.into(), half_way: None, runs: Vec::new(), announced: 0.into() }
    }

    /// From an address that no other test has: its ports are given.
    fn with_runs(mut self) -> Self {
        let to = self.socket.peer_addr().unwrap();
        let id = std::process::id().to_be_bytes();
        let from = std::net::IpAddr::from([127, 64 | id[1] & 63, id[2], id[3].clamp(1, 254)]);
        self.socket = UdpSocket::bind((from, 0)).unwrap();
        self.runs = RUN_PORTS.map(|port| UdpSocket::bind((from, port)).unwrap()).collect();
        for socket in self.runs.iter().chain([&self.socket]) {
            socket.connect(to).unwrap();
        }
        self
    }

    fn send(&self, transfer: u64, file: &[u8]) -> Result<Summary, ProtocolError> {
        let to = self.socket.peer_addr().unwrap();
        let segment = (!self.runs.is_empty()).then_some(1472);
        let config = SenderConfig { segment, ..SenderConfig::new(to, transfer, file.len() as u64, 1400) };
        self.talk(Sender::new(config), file)
    }

    fn talk(&self, mut sender: Sender, file: &[u8]) -> Result<Summary, ProtocolError> {
        let start = Instant::now();
        let mut half_way = self.half_way.as_ref();
        loop {
            self.hear(&mut sender, start, Duration::ZERO);
            match sender.next_run(start.elapsed(), 65536) {
                Next::Data(run) => {
                    let run = run.start as usize..run.end as usize;
                    for start in run.clone().step_by(1400) {
                        self.data(&sender, start as u64, &file[start..run.end.min(start + 1400)]);
                    }
                    if run.end > file.len() / 2 {
                        half_way.take().inspect(|act| act());
                    }
                }
                Next::Run(run) => self.run(&sender, run.start, &file[run.start as usize..run.end as usize]),
                Next::Probe(datagram) => self.emit(&self.socket, &datagram),
                Next::Wait(until) => {
                    let wait = until.saturating_sub(start.elapsed());
                    self.hear(&mut sender, start, wait.max(Duration::from_micros(1)));
                }
                Next::Done(summary) => return Ok(summary),
                Next::Failed(error) => return Err(error),
            }
        }
    }

    fn data(&self, sender: &Sender, offset: u64, payload: &[u8]) {
        let mut datagram = vec![0; DATA_HEADER_LEN];
        let config = sender.config();
        let crc32 = crc32fast::hash(payload);
        Header::data(config.transfer, config.file_size, offset, payload.len() as u32, crc32).emit(&mut datagram);
        datagram.extend_from_slice(payload);
        self.emit(&self.socket, &datagram);
    }

    fn run(&self, sender: &Sender, offset: u64, bytes: &[u8]) {
        let number = self.announced.replace(self.announced.get() + 1);
        let (len, crc32) = (bytes.len() as u32, crc32fast::hash(bytes));
        let run = Run { number, offset, len, segment: 1472, crc32 };
        let socket = &self.runs[usize::from(run.port() - RUN_PORTS.start)];
        self.emit(socket, &run.announcement(sender.config().transfer, sender.config().file_size));
        for segment in bytes.chunks(1472) {
            self.emit(socket, segment);
        }
    }

    fn emit(&self, socket: &UdpSocket, datagram: &[u8]) {
        let sent = if self.is_lost() { Ok(0) } else { socket.send(datagram) };
        // Refused: an earlier datagram met a closed port, as when `receive` has just been stopped.
        if let Err(error) = sent {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
        }
    }

    /// Hands everything that came in to `sender`, after waiting for the first of it.
    fn hear(&self, sender: &mut Sender, start: Instant, wait: Duration) {
        let mut buffer = [0; 2048];
        self.socket.set_nonblocking(wait.is_zero()).unwrap();
        self.socket.set_read_timeout((!wait.is_zero()).then_some(wait)).unwrap();
        while let Ok(len) = self.socket.recv(&mut buffer) {
            self.socket.set_nonblocking(true).unwrap();
            if !self.is_lost() {
                sender.datagram(start.elapsed(), &buffer[..len]).unwrap();
            }
        }
    }

    fn is_lost(&self) -> bool {
        self.drawn.set(self.drawn.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        (self.drawn.get() >> 16) % 100 < self.lost_percent
    }
}

/// No temporary file may stay behind.
fn assert_only(directory: &Path, names: &[&str]) {
    let found: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(found, names, "in {}", directory.display());
}
