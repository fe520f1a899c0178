//! `send --queues N`: one file over several transmit queues, each with its owner.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{Guarded, contents, example, file, finish, kill, run, send, text, wait_for};
use stillwire_dma::PciFunction;
use stillwire_driver::Config;
use stillwire_emulator::wire::Loopback as Wire;
use stillwire_emulator::{LocalDevice, ixgbe};
use stillwire_examples::device::OpenDevice;
use stillwire_examples::metrics::{fetch, of_queue, value};
use stillwire_examples::packet::Endpoint;
use stillwire_examples::report::Report;
use stillwire_examples::sending::{Loopback, Options};
use stillwire_examples::source::Source;
use stillwire_examples::station::{Patience, Station};
use stillwire_filecache::Cache;
use tempfile::TempDir;

const DEVICES: [&str; 3] = ["emulated:ixgbe", "emulated:ice", "emulated:virtio"];
const LEN: usize = 4_000_001;

/// Processors that this process may run on.
fn allowed() -> Vec<u32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    stillwire_dma::numbers(list.trim()).unwrap()
}

/// Two of them as an argument, if there are two.
fn cores() -> String {
    allowed().iter().take(2).map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn each_device(arguments: &[&str], check: impl Fn(&str, Report)) {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), LEN);
    for device in DEVICES {
        let report = send(&[&[text(&path), "--device", device, "--queues", "2"], arguments].concat());
        assert_eq!((report.torn, report.verified), (0, true), "{device}: {report:?}");
        assert_eq!(report.bytes % LEN as u64, 0, "{device}: {report:?}");
        check(device, report);
    }
}

/// Every owner has its part: about as much as the others.
fn shared(report: &Report, queues: usize) {
    let sent = &report.queue_frames;
    let all: u64 = sent.iter().sum();
    assert_eq!(sent.len(), queues, "{report:?}");
    assert!(sent.iter().all(|frames| *frames >= all / queues as u64 / 8), "{report:?}");
    // Messages go in the first.
    assert!(all >= report.frames, "{report:?}");
}

#[test]
fn two_owners_send_one_file() {
    for arguments in [&[][..], &["--segment"], &["--cores", &cores()], &["--poll"]] {
        each_device(arguments, |_, report| shared(&report, 2));
    }
}

#[test]
fn sizes_around_a_run_and_numbers_of_queues() {
    let folder = TempDir::new().unwrap();
    for len in [0, 1, 1428, 1429, 65_536, 65_537, 200_000] {
        for (device, queues) in [("emulated:ixgbe", "16"), ("emulated:ice", "3"), ("emulated:virtio", "4")] {
            for segment in [&[][..], &["--segment"]] {
                let path = file(folder.path(), len);
                let report = send(&[&[text(&path), "--device", device, "--queues", queues], segment].concat());
                assert_eq!((report.bytes, report.torn, report.verified), (len as u64, 0, true), "{len}: {report:?}");
                assert_eq!(report.queue_frames.len().to_string(), queues, "{len}: {report:?}");
            }
        }
    }
}

#[test]
fn other_ways_to_send_have_several_queues_too() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 600_001);
    for arguments in
        [&["--payload", "100"][..], &["--mtu", "9000"], &["--cache", "1"], &["--rate", "0.2"], &["--direct"]]
    {
        let report = send(&[&[text(&path), "--queues", "3"], arguments].concat());
        assert_eq!((report.bytes, report.torn, report.verified), (600_001, 0, true), "{arguments:?}: {report:?}");
        assert!(report.queue_frames.iter().all(|frames| *frames > 0), "{arguments:?}: {report:?}");
    }
}

/// Slower than the wire by far: the rate is the file's, however many send it.
#[test]
fn a_rate_is_that_of_all_queues_together() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 1_000_000);
    let report = send(&[text(&path), "--queues", "2", "--rate", "0.02"]);
    let bits = report.frames as f64 * 1538.0 * 8.0;
    assert!(report.verified && report.seconds > bits / 0.02e9 * 0.8, "{report:?}");
}

/// The promise, and what happens without it.
fn scribble_pair(device: &str, more: &[&str]) {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 8 << 20);
    let cores = cores();
    let flags = ["--device", device, "--queues", "2", "--cores", &cores, "--scribble", "--seconds", "1.5"];
    let send = |last: &[&str]| send(&[&[text(&path)], &flags[..], more, last].concat());
    let held = send(&[]);
    assert!(held.torn == 0 && held.writer_pauses > 0 && held.verified, "{held:?}");
    shared(&held, 2);
    let unheld = send(&["--unheld"]);
    assert!(unheld.torn > 0, "{unheld:?}");
}

#[test]
fn no_owner_sends_a_torn_frame() {
    DEVICES.iter().for_each(|device| scribble_pair(device, &[]));
    scribble_pair("emulated:ixgbe", &["--segment"]);
}

#[test]
fn a_stuck_queue_is_collected_and_its_runs_are_sent_again() {
    // Several times: when the window is used up there may be nothing but messages in the rings, and nothing to give back.
    let stuck = ["stuck@500", "stuck@1000", "stuck@1500", "stuck@2000", "stuck@2500"].map(|fault| ["--fault", fault]);
    each_device(&[stuck.as_flattened(), &["--hang-after", "0.5"]].concat(), |device, report| {
        assert_eq!((report.link_losses, report.resets), (0, 5), "{device}: {report:?}");
        assert!(report.not_sent > 0 && report.resent > 0, "{device}: {report:?}");
    });
}

#[test]
fn a_link_that_comes_back_completes_the_send() {
    for segment in [&[][..], &["--segment"]] {
        each_device(&[&["--fault", "link-down@1000:2"], segment].concat(), |device, report| {
            assert_eq!((report.link_losses, report.resets), (1, 1), "{device}: {report:?}");
        });
    }
}

#[test]
fn no_frame_is_torn_by_a_recovery() {
    let faults = ["--fault", "stuck@500", "--fault", "link-down@1500:2", "--fault", "stuck@2500"];
    let more = ["--hang-after", "0.5", "--scribble", "--seconds", "4"];
    each_device(&[&faults[..], &more].concat(), |device, report| {
        assert!(report.link_losses == 1 && report.resets >= 3, "{device}: {report:?}");
        assert!(report.writer_pauses > 0, "{device}: {report:?}");
    });
}

#[test]
fn what_does_not_come_back_is_given_up() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), LEN);
    let stuck = ["--fault", "stuck@0"].repeat(4);
    let output = run(Command::new(example("send")).arg(&path).args(stuck).args([
        "--hang-after",
        "0.3",
        "--queues",
        "2",
        "--scribble",
    ]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("3 resets have not helped"), "{said}");
}

/// The second queue's enable bit is cleared behind the driver's back, while the first goes on.
#[test]
fn one_queue_that_hangs_alone_is_found_and_everything_arrives() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 2_000_001);
    let device = LocalDevice::new(ixgbe::Model::new(ixgbe::Config::default(), Box::new(Wire::new())));
    let function = PciFunction::from_backend(device.clone());
    let registers = function.registers(0, 0x2_0000).unwrap();
    let open = OpenDevice { function, model: Some(device.spawn()), package: None };
    let patience = Patience { hang_after: Duration::from_millis(800), link: Duration::from_secs(10) };
    let config = Config { promiscuous: true, queues: 2, ..Config::default() };
    let mut station = Station::open(open, "192.0.2.1:4000".parse().unwrap(), config, true, patience).unwrap();
    let cache = Cache::new(stillwire_filecache::Config { bytes: 8 << 20, ..Default::default() }).unwrap();
    cache.attach_to(station.function().iommu()).unwrap();
    let source = Source::Cached(cache.open(&path).unwrap());
    let options = Options {
        to: Endpoint { mac: station.me().mac, address: "192.0.2.2:4001".parse().unwrap() },
        payload: 1428,
        segment: None,
        rate: Some(0.1),
        repeat_for: None,
        deadline: Duration::from_secs(60),
        cores: Vec::new(),
    };
    let mut far = Loopback::new(&path, &source, true, 2).unwrap();
    let switched = AtomicBool::new(false);
    let totals = stillwire_examples::sending::send(
        &mut station,
        &source,
        &options,
        Some(&mut far),
        &AtomicU64::new(0),
        &mut |bytes| {
            if bytes > 500_000 && !switched.swap(true, Ordering::Relaxed) {
                const TXDCTL_OF_1: u32 = 0x6028 + 0x40;
                registers.write(TXDCTL_OF_1, registers.read(TXDCTL_OF_1) & !(1 << 25));
            }
        },
    );
    let totals = totals.unwrap();
    assert!(totals.verified && totals.bytes == 2_000_001, "{totals:?}");
    assert!(totals.not_sent > 0 && station.nic.statistics().resets == 1, "{totals:?}");
    // The receiver was not asked for what stood in the queue: what goes twice is what came back, in frames of each range.
    assert!(totals.resent <= totals.not_sent / 1428 + 32, "{totals:?}");
    // The queues are the station's again, and may go to others.
    wait_for("the rings to be empty", Duration::from_secs(20), || {
        station.poll(&mut Vec::new()).unwrap();
        station.is_idle().then_some(())
    });
    assert_eq!(cache.held().pages, 0);
    let again = stillwire_examples::sending::send(
        &mut station,
        &source,
        &Options { rate: None, ..options },
        Some(&mut Loopback::new(&path, &source, true, 2).unwrap()),
        &AtomicU64::new(0),
        &mut |_| {},
    );
    assert!(again.unwrap().verified);
    let sent = station.nic.queue_statistics();
    assert!(sent.iter().all(|queue| queue.tx_frames > 300), "of some 1400 since the reset: {sent:?}");
}

#[test]
fn what_cannot_be_is_explained() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 100_000);
    let first = allowed()[0].to_string();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--queues", "0"], 1, "--queues 0: 1 to 16 would do"),
        (&["--queues", "17"], 1, "--queues 17: 1 to 16 would do"),
        (&["--queues", "5", "--device", "emulated:virtio"], 1, "has 4 pairs of queues, and 5 are asked for"),
        (&["--queues", "2", "--capture", "/tmp/never"], 1, "--capture sees the frames of one queue"),
        (&["--cores", "2-1"], 2, "write numbers of processors, as 2,4-6"),
        (&["--cores", ""], 2, "write numbers of processors"),
        (&["--cores", &format!("{first},1023")], 1, "may not run on processor 1023"),
    ];
    for (arguments, code, expect) in cases {
        let output = run(Command::new(example("send")).arg(&path).args(*arguments));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {output:?}");
        assert!(said.contains(expect), "{arguments:?}: expected '{expect}' in: {said}");
    }
    // More owners than processors is no mistake.
    for arguments in [&["--queues", "2", "--cores", &first][..], &["--queues", "16"]] {
        let output = run(Command::new(example("send")).arg(&path).args(arguments));
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        let enough = std::thread::available_parallelism().unwrap().get() >= 16;
        assert!(said.contains("some share one") || arguments[1] == "16" && enough, "{arguments:?}: {said}");
    }
}

/// A process that sends for a while, and what it says as its figures.
fn sender(path: &Path, arguments: &[&str]) -> (Guarded, std::net::SocketAddr) {
    use std::io::{BufRead, BufReader};
    let mut command = Command::new(example("send"));
    command.arg(path).args(["--seconds", "60", "--metrics", "127.0.0.1:0"]).args(arguments);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(child.stderr.take().unwrap());
    let child = Guarded(Some(child));
    let line = said.lines().map_while(Result::ok).find(|line| line.contains("metrics at http://"));
    let line = line.expect("it ended, and served nothing");
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    (child, address)
}

#[test]
fn each_owner_is_where_it_was_put() {
    let folder = TempDir::new().unwrap();
    let [one, other, ..] = allowed()[..] else {
        return common::skip("owners on processors", "this process may run on one only");
    };
    let path = file(folder.path(), 300_000);
    let (child, _) = sender(&path, &["--queues", "3", "--cores", &format!("{other},{one}")]);
    let runs_on = |name: &str| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().flatten();
        let status = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status")).ok();
        let found = tasks.filter_map(status).find(|status| status.starts_with(&format!("Name:\t{name}\n")))?;
        Some(found.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).unwrap().to_owned())
    };
    // The first is the program's own thread; a list that is too short begins again.
    for (name, core) in [("send", other), ("stillwire-tx1", one), ("stillwire-tx2", other)] {
        wait_for(name, Duration::from_secs(60), || (runs_on(name)? == core.to_string()).then_some(()));
    }
}

#[test]
fn figures_and_lines_show_each_queue() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 1_000_000);
    let (child, address) = sender(&path, &["--queues", "2", "--scribble"]);
    let get = |text: &str, name: &str, queue: usize| value(text, &of_queue(&format!("stillwire_queue_{name}"), queue));
    let text = wait_for("frames in both queues", Duration::from_secs(60), || {
        let text = fetch(address).ok()?;
        (0..2).all(|queue| get(&text, "tx_frames_total", queue).is_some_and(|frames| frames > 100.0)).then_some(text)
    });
    assert_eq!(get(&text, "tx_frames_total", 2), None);
    let ring = |queue| {
        let of = |name| get(&text, name, queue).unwrap();
        of("tx_ring_free_descriptors") + of("tx_ring_used_descriptors")
    };
    assert_eq!((ring(0), ring(1)), (1023.0, 1023.0));
    let all = value(&text, "stillwire_tx_ring_free_descriptors").unwrap()
        + value(&text, "stillwire_tx_ring_used_descriptors").unwrap();
    assert_eq!(all, 2046.0, "of both rings");

    let from = address.to_string();
    let output = run(Command::new(example("info")).args(["--watch", "0.5", "--count", "2", "--from", &from]));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().skip(2).collect();
    assert!(output.status.success() && lines.len() == 6, "{text}");
    for (at, line) in lines.iter().enumerate() {
        let frames: f64 = line.split_whitespace().next().unwrap().parse().unwrap();
        assert!(frames > 0.0, "{text}");
        let queue = (at % 3).checked_sub(1).map(|queue| format!("queue {queue}"));
        assert!(queue.is_none_or(|queue| line.ends_with(&queue)), "{text}");
    }
    kill(child.id(), "-KILL");
}

/// Two programs, two NICs, a cable.
#[test]
fn the_far_end_has_the_file_byte_for_byte() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), LEN);
    for (model, segment) in [("ixgbe", &[][..]), ("ixgbe", &["--segment"]), ("virtio", &[]), ("ice", &[])] {
        let (near, far, out) = (folder.path().join("near"), folder.path().join("far"), folder.path().join("out"));
        let mut emulator = Command::new(common::emulator());
        emulator.args(["--model", model, "--cable", text(&far), "--socket", text(&near)]);
        let emulator = Guarded::start(emulator.stdout(Stdio::null()));
        wait_for("the sockets", Duration::from_secs(60), || (near.exists() && far.exists()).then_some(()));
        let mut receive = Command::new(example("receive"));
        receive.args(["--listen", "192.0.2.2:9000", "--device", &format!("vfio-user:{}", text(&far))]);
        receive.args(["--out", text(&out), "--json", "--idle-seconds", "60"]).stdout(Stdio::piped());
        let receive = Guarded::start(receive.stderr(Stdio::piped()));
        let device = format!("vfio-user:{}", text(&near));
        let ends = ["--from", "192.0.2.1:4000", "--to", "192.0.2.2:9000", "--queues", "2"];
        let report = send(&[&[text(&path), "--device", &device][..], &ends, segment].concat());
        assert_eq!((report.torn, report.verified), (0, true), "{model}: {report:?}");
        shared(&report, 2);
        let output = finish(receive.take(), Duration::from_secs(60));
        assert!(output.status.success(), "{model}: {output:?}");
        assert!(std::fs::read(&out).unwrap() == contents(LEN), "{model}: the file differs");
        std::fs::remove_file(&out).unwrap();
        kill(emulator.id(), "-TERM");
        finish(emulator.take(), Duration::from_secs(20));
    }
}

/// What an owner finds ends the send.
#[test]
fn a_file_that_shrinks_is_noticed_by_whoever_comes_to_it() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 40 << 20);
    let mut command = Command::new(example("send"));
    command.arg(&path).args(["--queues", "3", "--rate", "0.05", "--wire"]);
    let record = folder.path().join("record");
    command.arg(format!("pcap:{}", text(&record))).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for("the first frames", Duration::from_secs(60), || record.metadata().ok().filter(|meta| meta.len() > 10_000));
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(3 << 20).unwrap();
    let output = finish(child, Duration::from_secs(60));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("truncated") && said.contains("3145728"), "{said}");
}
