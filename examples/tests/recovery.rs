//! A link that goes and comes, and a queue that gets stuck, in the middle of a send.

mod common;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{Guarded, example, file, finish, run, send, text, wait_for};
use stillwire_dma::PciFunction;
use stillwire_driver::Config;
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{Event, Fault, LocalDevice, Scripted, ixgbe};
use stillwire_examples::device::OpenDevice;
use stillwire_examples::station::{Cargo, Patience, Station};
use stillwire_filecache::Cache;
use tempfile::TempDir;

const LEN: usize = 4_000_001;

fn each_device(arguments: &[&str], check: impl Fn(&str, stillwire_examples::report::Report)) {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), LEN);
    for device in ["emulated:ixgbe", "emulated:ice", "emulated:virtio"] {
        let report = send(&[&[text(&path), "--device", device], arguments].concat());
        assert_eq!((report.torn, report.verified), (0, true), "{device}: {report:?}");
        assert_eq!(report.bytes % LEN as u64, 0, "{device}: {report:?}");
        check(device, report);
    }
}

#[test]
fn a_link_that_comes_back_completes_the_send() {
    each_device(&["--fault", "link-down@1000:2"], |device, report| {
        assert_eq!((report.link_losses, report.resets), (1, 1), "{device}: {report:?}");
        assert!(report.not_sent > 0 && report.resent > 0, "{device}: {report:?}");
    });
}

/// What is in the ring waits for it.
#[test]
fn a_short_loss_of_link_costs_nothing_but_time() {
    each_device(&["--fault", "link-down@1000:0.05"], |device, report| {
        assert_eq!((report.resets, report.not_sent), (0, 0), "{device}: {report:?}");
    });
}

#[test]
fn a_stuck_queue_is_reset_and_its_frames_are_sent_again() {
    each_device(&["--fault", "stuck@1000", "--hang-after", "1"], |device, report| {
        assert_eq!((report.link_losses, report.resets), (0, 1), "{device}: {report:?}");
        assert!(report.not_sent > 0 && report.resent >= report.not_sent / 1428, "{device}: {report:?}");
    });
}

/// The promise holds across both, and across resets one after the other.
#[test]
fn no_frame_is_torn_by_a_recovery() {
    let faults =
        ["--fault", "stuck@500", "--fault", "link-down@1500:2", "--fault", "stuck@2500", "--fault", "stuck@2500"];
    let more = ["--hang-after", "0.5", "--scribble", "--seconds", "5"];
    each_device(&[&faults[..], &more].concat(), |device, report| {
        assert!(report.link_losses == 1 && report.resets >= 4, "{device}: {report:?}");
        assert!(report.writer_pauses > 0, "{device}: {report:?}");
    });
}

#[test]
fn what_does_not_come_back_is_given_up() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), LEN);
    let stuck = ["--fault", "stuck@0"].repeat(4);
    let cases: [(&[&str], &str); 2] = [
        (&["--fault", "link-down@1000:3600", "--give-up", "1", "--hang-after", "0.5"], "has no link after 1"),
        (&[&stuck[..], &["--hang-after", "0.3"]].concat(), "3 resets have not helped"),
    ];
    for (arguments, expect) in cases {
        let output = run(Command::new(example("send")).arg(&path).args(arguments));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(expect), "{arguments:?}: {said}");
    }
}

/// The same with the device in another process.
#[test]
fn a_device_behind_a_socket_is_brought_back_too() {
    let folder = TempDir::new().unwrap();
    let (path, socket) = (file(folder.path(), LEN), folder.path().join("nic"));
    for model in ["ixgbe", "virtio"] {
        let mut emulator = Command::new(common::emulator());
        emulator.args(["--model", model, "--once", "--fault", "stuck@500", "--fault", "link-down@1500:2", "--socket"]);
        let emulator = Guarded::start(emulator.arg(&socket).stdout(Stdio::null()));
        wait_for("the emulator's socket", Duration::from_secs(10), || socket.exists().then_some(()));
        let device = format!("vfio-user:{}", text(&socket));
        let report = send(&[text(&path), "--device", &device, "--hang-after", "1", "--scribble"]);
        assert_eq!((report.bytes, report.torn, report.verified), (LEN as u64, 0, true), "{model}: {report:?}");
        assert!(report.link_losses == 1 && report.resets >= 2 && report.not_sent > 0, "{model}: {report:?}");
        finish(emulator.take(), Duration::from_secs(10));
    }
}

/// A writer waits for a page that a stuck queue holds: as long as the device may read it, and no longer.
#[test]
fn a_held_page_is_let_go_behind_the_proof() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 100_000);
    let model = ixgbe::Model::new(ixgbe::Config::default(), Box::new(Loopback::new()));
    let device = LocalDevice::new(Scripted::new(model, Vec::new()));
    let function = PciFunction::from_backend(device.clone());
    let open = OpenDevice { function, model: Some(device.spawn()), package: None };
    let patience = Patience { hang_after: Duration::from_millis(800), link: Duration::from_secs(5) };
    let me = "192.0.2.1:4000".parse().unwrap();
    let mut station = Station::open(open, me, Config::default(), true, patience).unwrap();
    let cache = Cache::new(Default::default()).unwrap();
    let cached = cache.open(&path).unwrap();
    cache.attach_to(station.function().iommu()).unwrap();

    device.with_model(|model| model.add(Fault::Stuck { frames: 0 }));
    wait_for("the fault", Duration::from_secs(10), || device.with_model(|model| model.is_faulty().then_some(())));
    let range = 4096..4096 + 8 * 1024;
    let mut run = station.tx().unwrap().run(Cargo::Held(cached.hold(range.clone()).unwrap()));
    for start in (0..8 * 1024).step_by(1024) {
        assert!(run.post(&[0xff; 60], None, start..start + 1024).unwrap());
    }
    drop(run);
    station.tx().unwrap().publish();

    // What the device's story was when the store landed.
    let (view, looking) = (cached.view().unwrap(), Arc::clone(&device));
    let writer = std::thread::spawn(move || {
        view.write_at(5000, b"landed").unwrap();
        looking.with_model(|model| model.model().events().map(|(event, _)| *event).collect::<Vec<_>>())
    });
    let waits = || (cache.stats().writers_waiting == 1).then_some(());
    wait_for("the writer to wait", Duration::from_secs(10), waits);
    let before = device.with_model(|model| model.model().events().map(|(event, _)| *event).collect::<Vec<_>>());
    assert!(!before.iter().any(|event| matches!(event, Event::MasterOff { .. })), "{before:?}");
    wait_for("the store to land", Duration::from_secs(20), || {
        station.poll(&mut Vec::new()).unwrap();
        writer.is_finished().then_some(())
    });
    let landed = writer.join().unwrap();
    let since = &landed[before.len()..];
    assert!(since.contains(&Event::MasterOff { work_left: true }), "the store landed before the proof: {since:?}");
    assert_eq!(station.take_not_sent(), [range]);
    assert_eq!((station.nic.statistics().resets, station.nic.statistics().tx_frames), (1, 0));
    assert_eq!(station.tx().unwrap().in_flight(), 0);
}
