//! The program, from outside.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_stillwire-emulator"))
}

fn started(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[test]
fn serves_until_a_signal_and_removes_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nic");
    for signal in [Signal::TERM, Signal::INT] {
        let mut child = program()
            .args(["--wire", "sink", "--mac", "02:00:00:00:00:07", "--device-id", "10f7", "--socket"])
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        assert_eq!(started(&mut child), format!("listening on {}", path.display()));
        let mut client = vfio_user::Client::new(&path).unwrap();
        let mut word = [0; 4];
        client.region_read(7, 0, &mut word).unwrap();
        assert_eq!(u32::from_le_bytes(word), 0x10f7_8086);
        client.region_read(0, 0x5400, &mut word).unwrap();
        assert_eq!(word, [2, 0, 0, 0]);
        // With a client connected.
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(!path.exists());
    }
}

#[test]
fn a_killed_one_leaves_a_socket_that_the_next_replaces() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nic");
    let mut child = program().arg("--socket").arg(&path).stdout(Stdio::piped()).spawn().unwrap();
    started(&mut child);
    // A second one on the same path is refused while the first lives.
    let mut second = program().arg("--socket").arg(&path).stderr(Stdio::piped()).spawn().unwrap();
    assert!(!second.wait().unwrap().success());
    let mut text = String::new();
    second.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("another program listens"), "{text}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(path.exists());
    let mut child = program().args(["--once", "--socket"]).arg(&path).stdout(Stdio::piped()).spawn().unwrap();
    started(&mut child);
    drop(vfio_user::Client::new(&path).unwrap());
    assert!(child.wait().unwrap().success());
}

#[test]
fn wrong_arguments_are_explained() {
    for (arguments, wanted) in [
        (&["--wire", "string"][..], "tap:NAME"),
        (&["--mac", "01:00:00:00:00:00"], "one card"),
        (&["--mac", "2"], "six hexadecimal"),
        (&["--device-id", "zz"], "four hexadecimal"),
        (&["--device-id", "1572"], "1528 (X540-T2)"),
        (&["--module", "lr"], "10GBASE-SR"),
        (&["--fault", "lose-every=2,wings"], "'wings' is no fault"),
        (&["--fault", "stuck@many"], "stuck@FRAMES"),
        (&["--model", "virtio", "--fault", "hang-tx=0:1"], "silent-control"),
        (&["--model", "ice", "--fault", "hang-tx=0:1"], "silent-adminq"),
    ] {
        let output = program().args(["--socket", "/nowhere/nic"]).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(wanted), "{arguments:?}: {text}");
    }
}

#[test]
fn two_devices_on_a_cable_and_what_they_went_through() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut child = program()
        .args(["--once", "--doorbells", "messages", "--socket"])
        .args([at("near").as_os_str(), "--cable".as_ref(), at("far").as_os_str(), "--report".as_ref()])
        .arg(at("report"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    started(&mut child);
    let mut near = vfio_user::Client::new(&at("near")).unwrap();
    let mut far = vfio_user::Client::new(&at("far")).unwrap();
    let read = |client: &mut vfio_user::Client, offset: u64| {
        let mut word = [0; 4];
        client.region_read(0, offset, &mut word).unwrap();
        u32::from_le_bytes(word)
    };
    // The addresses' last bytes: two cards, not one.
    assert_ne!(read(&mut near, 0x5404), read(&mut far, 0x5404));
    near.region_write(7, 4, &6u16.to_le_bytes()).unwrap();
    near.region_write(0, 0x4c, &[1; 4]).unwrap();
    near.region_write(0, 0x1_9990, &[1; 4]).unwrap();
    near.region_write(7, 4, &2u16.to_le_bytes()).unwrap();
    drop((near, far));
    assert!(child.wait().unwrap().success());
    let report = std::fs::read_to_string(at("report")).unwrap();
    for line in [
        "counter bus_faults 0",
        "register 0x0004c stored reads 0 writes 1 TCPTIMER: TCP timer interrupts",
        "register 0x19990 unknown reads 0 writes 1 : ",
        "register 0x0a204 implemented reads 1 writes 0 RAL, RAH: ",
        "event 1 bus master on",
        "event 1 bus master off, nothing queued",
    ] {
        assert!(report.lines().any(|found| found == line), "{line} is not in:\n{report}");
    }
    assert!(!std::fs::read_to_string(at("report.cable")).unwrap().contains("bus master on"));
}

#[test]
fn faults_from_the_start_and_on_command() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut child = program()
        .args(["--device-id", "1528", "--fault", "link-down,lose-every=3", "--control"])
        .args([at("control").as_os_str(), "--socket".as_ref(), at("nic").as_os_str()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    started(&mut child);
    let mut client = vfio_user::Client::new(&at("nic")).unwrap();
    let control = std::os::unix::net::UnixStream::connect(at("control")).unwrap();
    let mut answers = BufReader::new(&control);
    let mut say = |text: &str| {
        std::io::Write::write_all(&mut &control, format!("{text}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        answer
    };
    // A step follows each message sooner or later; the device answers what it is by then.
    let mut links = |up: bool| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let mut word = [0; 4];
        while std::time::Instant::now() < deadline {
            client.region_read(0, 0x42a4, &mut word).unwrap();
            if (u32::from_le_bytes(word) != 0) == up {
                return true;
            }
            std::thread::yield_now();
        }
        false
    };
    assert!(links(false));
    assert_eq!(say("link-down=off"), "ok\n");
    assert!(links(true));
    assert!(say("wings").starts_with("error 'wings' is no fault"));
    assert_eq!(say("link-flap=0:3600000"), "ok\n");
    assert!(links(false));
    assert_eq!(say("stuck@5"), "ok\n");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!at("control").exists() && !at("nic").exists());
}

#[test]
fn virtio_offers_what_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nic");
    let mut child = program()
        .args(["--model", "virtio", "--without", "ring_packed,in_order", "--mtu", "9000", "--once", "--socket"])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    started(&mut child);
    let mut client = vfio_user::Client::new(&path).unwrap();
    let mut read = |region: u32, offset: u64| {
        let mut word = [0; 4];
        client.region_read(region, offset, &mut word).unwrap();
        u32::from_le_bytes(word)
    };
    assert_eq!(read(7, 0), 0x1041_1af4);
    assert_eq!(read(4, 0x2008), 9000 << 16 | 4);
    client.region_write(4, 0, &1u32.to_le_bytes()).unwrap();
    let mut word = [0; 4];
    client.region_read(4, 4, &mut word).unwrap();
    // VERSION_1 and ACCESS_PLATFORM; HOST_USO.
    assert_eq!(u32::from_le_bytes(word), 0b11 | 1 << 24);
    drop(client);
    assert!(child.wait().unwrap().success());
    let refused = program().args(["--model", "virtio", "--without", "wings", "--socket", "x"]).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("ring_packed"), "{text}");
}

#[test]
fn an_e810_is_served_with_its_bars() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nic");
    let mut child = program()
        .args(["--model", "ice", "--device-id", "1593", "--package", "--once", "--socket"])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    started(&mut child);
    let mut client = vfio_user::Client::new(&path).unwrap();
    let mut word = [0; 4];
    client.region_read(7, 0, &mut word).unwrap();
    assert_eq!(u32::from_le_bytes(word), 0x1593_8086);
    client.region_read(0, 0xb_6008, &mut word).unwrap();
    assert_eq!(u32::from_le_bytes(word), 0x33b, "GLNVM_ULD");
    assert_eq!(client.region(0).unwrap().size, 32 << 20);
    assert_eq!(client.region(3).unwrap().size, 64 << 10);
    drop(client);
    assert!(child.wait().unwrap().success());
}
