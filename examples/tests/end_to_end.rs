//! The programs, from outside.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Guarded, example, file, finish, kill, last_line, run, send, text, wait_for};
use tempfile::TempDir;

#[test]
fn files_around_a_page_come_back_byte_for_byte() {
    let folder = TempDir::new().unwrap();
    for len in [0, 1, 1427, 1428, 1429, 4095, 4096, 4097, 65_536, 65_537, 5_000_000] {
        let report = send(&[text(&file(folder.path(), len))]);
        assert_eq!((report.bytes, report.torn, report.verified), (len as u64, 0, true), "{len}: {report:?}");
        assert_eq!(report.frames, len.div_ceil(1428) as u64 + report.resent, "{len}");
        assert_eq!(report.device, "emulated:ixgbe");
        assert_eq!(report.holds > 0, len > 0);
    }
}

#[test]
fn another_family_s_device_carries_the_same_bytes() {
    let folder = TempDir::new().unwrap();
    for device in ["emulated:ice", "emulated:virtio"] {
        for len in [0, 1, 1428, 4097, 5_000_000] {
            let report = send(&[text(&file(folder.path(), len)), "--device", device]);
            assert_eq!((report.bytes, report.torn, report.verified), (len as u64, 0, true), "{len}: {report:?}");
            assert_eq!(report.device, device);
            assert_eq!(report.holds > 0, len > 0);
        }
    }
}

/// What the NIC cuts, around a segment, a run, and a segment that would be as long as an announcement.
#[test]
fn segments_come_back_byte_for_byte() {
    let folder = TempDir::new().unwrap();
    let sizes =
        [0, 1, 60, 1471, 1472, 1473, 2943, 2944, 3003, 3004, 3005, 16_252, 64_767, 64_768, 64_769, 64_828, 5_000_000];
    for (device, sizes) in [("emulated:ixgbe", &sizes[..]), ("emulated:virtio", &[0, 2944, 3004, 64_769, 5_000_000])] {
        for &len in sizes {
            let report = send(&[text(&file(folder.path(), len)), "--device", device, "--segment"]);
            let arrived = (report.bytes, report.torn, report.resent, report.verified);
            assert_eq!(arrived, (len as u64, 0, 0, true), "{device}: {len}: {report:?}");
            assert_eq!(report.runs > 0, len >= 2 * 1472, "{device}: {len}: {report:?}");
            let (fewest, most) = (len.div_ceil(1472) as u64, len.div_ceil(1428) as u64);
            assert!((fewest..=most).contains(&report.frames), "{device}: {len}: {report:?}");
        }
    }
}

#[test]
fn segments_of_other_lengths() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 300_001);
    for (arguments, segment) in [
        (&["--segment=64"][..], 64),
        (&["--segment=1000", "--payload", "17"], 1000),
        (&["--segment", "--mtu", "9000"], 8972),
        (&["--segment", "--mtu", "1280"], 1252),
        (&["--segment", "--cache", "1", "--rate", "0.5"], 1472),
    ] {
        let report = send(&[&[text(&path)], arguments].concat());
        assert_eq!((report.bytes, report.torn, report.verified), (300_001, 0, true), "{arguments:?}: {report:?}");
        assert!(report.runs > 0 && report.frames >= 300_001u64.div_ceil(segment), "{arguments:?}: {report:?}");
    }
}

#[test]
fn small_payloads_and_a_jumbo_mtu() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 100_001);
    for device in ["emulated:ixgbe", "emulated:ice", "emulated:virtio"] {
        for arguments in [&["--payload", "1000"][..], &["--payload", "17"], &["--mtu", "9000"], &["--mtu", "1280"]] {
            let report = send(&[&[text(&path), "--device", device], arguments].concat());
            let found = (report.bytes, report.torn, report.verified);
            assert_eq!(found, (100_001, 0, true), "{device} {arguments:?}: {report:?}");
        }
    }
}

#[test]
fn without_a_file_it_sends_its_own_executable() {
    let report = send(&[]);
    assert_eq!(report.bytes, example("send").metadata().unwrap().len());
    assert!(report.verified);
}

#[test]
fn an_empty_file_is_said_to_be_empty() {
    let folder = TempDir::new().unwrap();
    let output = run(Command::new(example("send")).arg(file(folder.path(), 0)));
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("zero bytes are sent"), "{output:?}");
}

/// The promise, and what happens without it: the same file, the same writers, with holds and without.
fn scribble_pair(arguments: &[&str], seconds: &str) {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 8 << 20);
    let send = |more: &[&str]| send(&[&[text(&path), "--scribble", "--seconds", seconds], arguments, more].concat());
    let held = send(&[]);
    assert_eq!(held.torn, 0, "{held:?}");
    assert!(held.writer_pauses > 0 && held.verified, "{held:?}");
    assert!(held.seconds >= seconds.parse().unwrap());
    assert!(held.writer_pause_us.max >= held.writer_pause_us.p50 && held.writer_pause_us.p50 > 0.0, "{held:?}");
    let unheld = send(&["--unheld"]);
    assert!(unheld.torn > 0, "{unheld:?}");
    // Writers may wait for write-back, but for no hold.
    assert_eq!(unheld.holds, 0, "{unheld:?}");
}

#[test]
fn scribbled_pages_are_still_when_held_and_torn_when_not() {
    scribble_pair(&[], "1.5");
}

#[test]
fn scribbled_pages_are_still_on_virtio_too() {
    scribble_pair(&["--device", "emulated:virtio"], "1.5");
}

#[test]
fn scribbled_pages_are_still_while_the_nic_cuts_them() {
    scribble_pair(&["--segment"], "1.5");
}

#[test]
fn scribbled_pages_are_still_on_ice_too() {
    scribble_pair(&["--device", "emulated:ice"], "1.5");
}

#[test]
#[ignore = "takes 60 s; cargo xtask test runs it"]
fn scribbled_pages_are_still_for_ten_seconds() {
    for arguments in [&[][..], &["--device", "emulated:ice"], &["--device", "emulated:virtio"], &["--segment"]] {
        scribble_pair(arguments, "10");
    }
}

#[test]
#[ignore = "100 MB; cargo xtask test runs it"]
fn a_hundred_megabytes() {
    let folder = TempDir::new().unwrap();
    for arguments in [&[][..], &["--segment"]] {
        let report = send(&[&[text(&file(folder.path(), 100_000_000))], arguments].concat());
        assert_eq!((report.bytes, report.torn, report.verified), (100_000_000, 0, true), "{report:?}");
    }
}

/// One page, written and sent over and over: the writers must get their turn all the same.
#[test]
fn writers_of_a_one_page_file_get_their_turn() {
    let folder = TempDir::new().unwrap();
    let report = send(&[text(&file(folder.path(), 4096)), "--scribble", "--seconds", "1"]);
    assert!(report.torn == 0 && report.verified && report.writer_pauses > 0, "{report:?}");
}

#[test]
fn info_says_what_the_device_is() {
    let output = run(Command::new(example("info")).arg("--json"));
    let info: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(info["identity"]["vendor"], 0x8086);
    assert_eq!(info["identity"]["device"], 0x10fb);
    assert_eq!((&info["link"]["up"], &info["link"]["megabits"]), (&true.into(), &10_000.into()));
    let human = run(&mut Command::new(example("info")));
    let ice = run(Command::new(example("info")).args(["--json", "--device", "emulated:ice"]));
    let ice: serde_json::Value = serde_json::from_slice(&ice.stdout).unwrap();
    assert_eq!((&ice["identity"]["device"], &ice["link"]["megabits"]), (&0x1592.into(), &100_000.into()));
    assert_eq!(ice["capabilities"]["tcp_segmentation"], true);
    assert!(String::from_utf8_lossy(&human.stdout).contains("8086:10fb"), "{human:?}");
}

#[test]
fn mistakes_are_explained() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 100_000);
    let (path, folder) = (text(&path), text(folder.path()));
    let ends = ["--from", "192.0.2.1:1", "--to", "192.0.2.2:2"];
    let cases: &[(&[&str], &str)] = &[
        (&["/nowhere/file"], "there is no such file"),
        (&[folder], "is a directory"),
        (&["/dev/null"], "only regular files"),
        (&[path, "--device", "eth0"], "is not a device"),
        (&[path, "--device", "emulated:ice", "--ddp", path], "ddp package: the file has format"),
        (&[path, "--device", "emulated:ice", "--ddp", "/nowhere/ice.pkg"], "/nowhere/ice.pkg"),
        (&[path, "--device", "0000:ff:1f.7"], "there is no device 0000:ff:1f.7"),
        (&[path, "--device", "vfio-user:/nowhere/socket"], "there is no such socket"),
        (&[path, "--device", "vfio-user:/nowhere/socket", "--wire", "loopback"], "--wire goes with"),
        (&[path, "--device", "vfio-user:/nowhere/socket", "--fault", "stuck@1"], "--fault goes with"),
        (&[path, "--fault", "fire@1"], "use link-down@FRAMES:SECONDS"),
        (&[path, "--hang-after", "10"], "below --give-up"),
        (&[path, "--payload", "1429"], "room for 1 to 1428 bytes"),
        (&[path, "--payload", "0"], "room for 1 to 1428 bytes"),
        (&[path, "--segment=63"], "64 to 1472 bytes"),
        (&[path, "--segment=1473"], "64 to 1472 bytes"),
        (&[path, "--from", "192.0.2.1:65295"], "65280 to 65295"),
        (&[path, "--mtu", "1279"], "1280 to 9700"),
        (&[path, "--rate=-1"], "--rate -1"),
        (&[&[path][..], &ends, &["--wire", "carrier-pigeon"]].concat(), "carrier-pigeon"),
        (&[path, "--wire", "pcap:/nowhere/file"], "/nowhere/file"),
        (&[path, "--wire", "sink"], "say who receives"),
        (&[path, "--wire", "sink", "--to", "192.0.2.2:2"], "say who sends"),
        (&[path, "--to-mac", "52:54"], "write it as"),
        (&[path, "--cache", "0"], "cache"),
        (&[&[path, "--wire", "sink"][..], &ends].concat(), "arp: nobody answered for 192.0.2.2"),
        (
            &[&[path, "--wire", "sink"][..], &ends, &["--to-mac", "2:0:0:0:0:1", "--give-up", "0.5"]].concat(),
            "receive --listen",
        ),
    ];
    for (arguments, expect) in cases {
        let output = run(Command::new(example("send")).args(*arguments));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(said.contains(expect), "{arguments:?}: expected '{expect}' in: {said}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_file_that_shrinks_during_the_send_is_noticed() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 40 << 20);
    // Slowly, so that most of the file is still on the disk alone when it is cut off.
    let mut command = Command::new(example("send"));
    command.arg(&path).args(["--rate", "0.01", "--wire"]).arg(format!("pcap:{}/record", text(folder.path())));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let record = folder.path().join("record");
    wait_for("the first frames", Duration::from_secs(30), || record.metadata().ok().filter(|meta| meta.len() > 10_000));
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(3 << 20).unwrap();
    let output = finish(child, Duration::from_secs(60));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("truncated") && said.contains("3145728"), "{said}");
}

struct Emulator {
    child: Guarded,
    socket: std::path::PathBuf,
}

impl Emulator {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let socket = folder.join("nic");
        let mut command = Command::new(common::emulator());
        command.arg("--socket").arg(&socket).args(arguments);
        let child = Guarded::start(command.stdout(Stdio::null()));
        wait_for("the emulator's socket", Duration::from_secs(10), || socket.exists().then_some(()));
        Self { child, socket }
    }

    fn device(&self) -> String {
        format!("vfio-user:{}", text(&self.socket))
    }
}

#[test]
fn the_same_sender_over_a_vfio_user_socket() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 3_000_001);
    let kinds = [("ixgbe", "mapped"), ("ixgbe", "messages"), ("virtio", "mapped"), ("virtio", "messages")];
    for (model, doorbells) in kinds {
        let kind = ["--model", model, "--doorbells", doorbells, "--transmit-delay-us", "50"];
        let emulator = Emulator::start(folder.path(), &kind);
        // A second client on the same emulator finds a NIC that was reset.
        for scribble in [&[][..], &["--scribble", "--seconds", "1"]] {
            let report = send(&[&[text(&path), "--device", &emulator.device()], scribble].concat());
            assert_eq!((report.torn, report.verified), (0, true), "{kind:?}: {report:?}");
            assert_eq!(report.writer_pauses > 0, !scribble.is_empty(), "{kind:?}: {report:?}");
        }
        kill(emulator.child.id(), "-TERM");
        finish(emulator.child.take(), Duration::from_secs(10));
        assert!(!emulator.socket.exists(), "the socket stays behind");
    }
}

/// Where the NIC computes no checksums the sender does, over pages that are still.
#[test]
fn a_nic_without_checksums() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 3_000_001);
    let emulator =
        Emulator::start(folder.path(), &[&["--model", "virtio", "--transmit-delay-us", "50"], SUMLESS].concat());
    let send = |flags: &[&str]| send(&[&[text(&path), "--device", &emulator.device()], flags].concat());
    // Cut in odd places of pages.
    for flags in [&[][..], &["--payload", "1001"], &["--scribble", "--seconds", "1"]] {
        let report = send(flags);
        assert_eq!((report.torn, report.verified), (0, true), "{flags:?}: {report:?}");
    }
    // And the receiver does look: frames that changed behind their sums did not get to the protocol.
    let unheld = send(&["--scribble", "--unheld", "--seconds", "1"]);
    assert!(unheld.torn > 0, "{unheld:?}");
}

/// A virtio-net device that computes no checksum and takes no partial one.
const SUMLESS: &[&str] = &["--without", "csum,guest_csum,host_tso4,host_tso6,host_uso"];

/// Two NICs on a cable, a program on each.
#[test]
fn from_nic_to_nic() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 3_000_001);
    let (out, far) = (folder.path().join("out"), folder.path().join("far"));
    let sumless = [&["--model", "virtio"], SUMLESS].concat();
    let (ixgbe, virtio) = (&["--model", "ixgbe"][..], &["--model", "virtio"][..]);
    let whole: &[&str] = &[];
    let kinds = [(ixgbe, whole), (virtio, whole), (&sumless, whole), (ixgbe, &["--segment"]), (virtio, &["--segment"])];
    for (kind, flags) in kinds {
        let emulator = Emulator::start(folder.path(), &[kind, &["--cable", text(&far)]].concat());
        let mut receive = Command::new(example("receive"));
        receive.args(["--listen", "192.0.2.2:9000", "--device", &format!("vfio-user:{}", text(&far))]);
        receive.args(["--out", text(&out), "--json", "--idle-seconds", "20"]).stdout(Stdio::piped());
        let receive = Guarded::start(receive.stderr(Stdio::piped()));
        let ends = ["--from", "192.0.2.1:4000", "--to", "192.0.2.2:9000"];
        let report = send(&[&[text(&path), "--device", &emulator.device()][..], &ends, flags].concat());
        assert_eq!((report.torn, report.verified), (0, true), "{kind:?} {flags:?}: {report:?}");
        let output = finish(receive.take(), Duration::from_secs(30));
        assert!(output.status.success(), "{kind:?}: {output:?}");
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let expect = (&3_000_001.into(), &0.into(), &true.into());
        assert_eq!((&found["bytes"], &found["torn"], &found["verified"]), expect, "{kind:?}");
        assert_eq!(found["wrong_checksums"], 0, "{kind:?}");
        assert!(std::fs::read(&out).unwrap() == common::contents(3_000_001), "{kind:?}: the file differs");
        std::fs::remove_file(&out).unwrap();
        kill(emulator.child.id(), "-TERM");
        finish(emulator.child.take(), Duration::from_secs(10));
    }
}

#[test]
fn a_device_that_does_not_cut_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 100_000);
    let emulator = Emulator::start(folder.path(), &["--model", "virtio", "--without", "host_uso"]);
    let device = emulator.device();
    let output = run(Command::new(example("send")).args([text(&path), "--device", &device, "--segment"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains(&format!("{device} does not cut UDP")) && said.contains("emulated:ixgbe"), "{said}");
    assert!(send(&[text(&path), "--device", &device]).verified, "without --segment it does");
}

#[test]
fn an_e810_over_a_vfio_user_socket() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 3_000_001);
    for doorbells in ["mapped", "messages"] {
        let arguments = ["--model", "ice", "--package", "--doorbells", doorbells, "--transmit-delay-us", "50"];
        let emulator = Emulator::start(folder.path(), &arguments);
        for scribble in [&[][..], &["--scribble", "--seconds", "1"]] {
            let report = send(&[&[text(&path), "--device", &emulator.device()], scribble].concat());
            assert_eq!((report.torn, report.verified), (0, true), "{doorbells}: {report:?}");
        }
        kill(emulator.child.id(), "-TERM");
        finish(emulator.child.take(), Duration::from_secs(10));
    }
}

#[test]
fn an_emulator_that_dies_in_mid_send_is_an_error() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 3_000_000);
    let emulator = Emulator::start(folder.path(), &[]);
    let mut command = Command::new(example("send"));
    // With writers: they wait for holds that nobody will ever release, and that must not keep the program from ending.
    command.arg(&path).args(["--scribble", "--seconds", "60", "--json", "--device", &emulator.device()]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It has begun when it holds the memory of its rings.
    let maps = format!("/proc/{}/maps", child.id());
    wait_for("the transmit ring", Duration::from_secs(20), || {
        std::fs::read_to_string(&maps).ok().filter(|maps| maps.contains("stillwire-pool"))
    });
    kill(emulator.child.id(), "-KILL");
    let output = finish(child, Duration::from_secs(20));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("no longer answers"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// Killed at many moments, it leaves nothing: no file, no socket, no huge page, no process.
#[test]
fn a_killed_sender_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 2_000_000);
    let temporary = folder.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let huge = || {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
        meminfo.lines().filter(|line| line.starts_with("HugePages_")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = huge();
    for after_ms in [0, 1, 3, 10, 30, 60, 70, 80, 100, 150, 300] {
        let mut command = Command::new(example("send"));
        command.args([text(&path), "--scribble", "--seconds", "60", "--huge"]).env("TMPDIR", &temporary);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Not waiting for anything: the moment is meant to be any.
        std::thread::sleep(Duration::from_millis(after_ms));
        let id = child.id();
        kill(id, "-KILL");
        let output = finish(child, Duration::from_secs(10));
        assert_eq!(output.status.code(), None, "killed after {after_ms} ms: {output:?}");
        assert!(!Path::new(&format!("/proc/{id}")).exists());
        let left: Vec<_> = std::fs::read_dir(&temporary).unwrap().collect();
        assert!(left.is_empty(), "after {after_ms} ms: {left:?}");
    }
    wait_for("huge pages to come back", Duration::from_secs(10), || (huge() == before).then_some(()));
}

#[test]
fn an_interrupted_sender_ends_at_once() {
    let mut command = Command::new(example("send"));
    let child = command.args(["--seconds", "60"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    kill(child.id(), "-INT");
    let output = finish(child, Duration::from_secs(10));
    assert!(!output.status.success());
}

/// An independent reader finds every checksum of the recording right; and, so that this can fail, wrong ones in the
/// recording of a send without holds.
#[test]
fn a_recording_has_right_checksums_for_tshark() {
    if Command::new("tshark").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return common::skip("checksums of a recording, by tshark", "tshark is not installed: apt-get install tshark");
    }
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 700_001);
    let record = folder.path().join("record.pcap");
    let wire = format!("pcap:{}", text(&record));
    let count = |filter: &str| {
        let mut tshark = Command::new("tshark");
        tshark.args(["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-Y", filter, "-r"]);
        let output = run(tshark.arg(&record).args(["-T", "fields", "-e", "frame.number"]));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).lines().count() as u64
    };
    for device in ["emulated:ice", "emulated:ixgbe"] {
        let report = send(&[text(&path), "--device", device, "--wire", &wire]);
        assert!(report.verified);
        let all = count("frame");
        assert!(all >= report.frames, "{all} frames in the recording, {} sent", report.frames);
        // 1 is "good" to tshark.
        assert_eq!(count("ip.checksum.status == 1 && udp.checksum.status == 1"), all);
        assert_eq!(count("udp.dstport == 4001 && udp.length == 1480"), report.frames - 1, "all but the last are full");
    }
    let report = send(&[text(&path), "--wire", &wire, "--scribble", "--unheld", "--seconds", "1"]);
    assert!(report.torn > 0);
    assert!(count("udp.checksum.status == 0") > 0, "torn frames have wrong checksums");
    assert_eq!(count("ip.checksum.status != 1"), 0, "headers are not shared with anybody");
}

#[test]
fn what_is_printed_last_is_the_report() {
    let folder = TempDir::new().unwrap();
    let output = run(Command::new(example("send")).arg(file(folder.path(), 10)).arg("--json"));
    assert_eq!(last_line(&output).bytes, 10);
    let keys: serde_json::Value =
        serde_json::from_str(String::from_utf8_lossy(&output.stdout).lines().last().unwrap()).unwrap();
    let keys: Vec<_> = keys.as_object().unwrap().keys().map(String::as_str).collect();
    let expect = [
        "device",
        "bytes",
        "frames",
        "runs",
        "seconds",
        "torn",
        "resent",
        "holds",
        "fills",
        "evictions",
        "snapshots",
        "breaks",
        "writer_pauses",
        "writer_pause_us",
        "resets",
        "link_losses",
        "not_sent",
        "verified",
    ];
    assert!(expect.iter().all(|key| keys.contains(key)), "{keys:?}");
}

/// Another process writes to the file while it is sent.
#[test]
fn a_writer_in_another_process() {
    let folder = TempDir::new().unwrap();
    let (path, socket) = (file(folder.path(), 1 << 20), folder.path().join("socket"));
    let mut sender = Command::new(example("send"));
    sender.args([text(&path), "--serve", text(&socket), "--seconds", "3", "--json"]).stdout(Stdio::piped());
    let sender = Guarded::start(sender.stderr(Stdio::piped()));
    wait_for("the socket", Duration::from_secs(20), || socket.exists().then_some(()));
    let write = |more: &[&str]| {
        let output = run(Command::new(example("write")).args(["--attach", text(&socket), text(&path)]).args(more));
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (well, said) = write(&["--pattern", "0", "--repeat", "1.5"]);
    assert!(well && said.contains("times") && said.contains("the slowest store took"), "{said}");
    let other = file(folder.path(), 5000);
    let (well, said) = write(&["--from", text(&other), "--offset", "4000", "--sync"]);
    assert!(well && said.contains("5000 bytes at 4000"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap()[4000..9000], common::contents(5000));
    let (well, said) = write(&["--pattern", "1", "--offset", "1048570", "--len", "7"]);
    assert!(!well && said.contains("the file has 1048576"), "{said}");
    let output = finish(sender.take(), Duration::from_secs(60));
    assert!(output.status.success(), "{output:?}");
    let report = last_line(&output);
    assert!(report.torn == 0 && report.verified && report.writer_pauses > 0, "{report:?}");
    let (well, said) = write(&["--pattern", "1"]);
    assert!(!well && said.contains("send --serve"), "{said}");
}
