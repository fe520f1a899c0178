//! The contestant `kernel`, asked as `cargo xtask race` asks it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

/// The program, with a thread that reads what it says: a program that is stuck fails the test.
struct Running {
    child: Child,
    orders: Option<ChildStdin>,
    said: Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (sender, said) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { orders: child.stdin.take(), child, said }
    }

    fn line(&self) -> Value {
        let line = self.said.recv_timeout(Duration::from_secs(60)).expect("a line within a minute");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }

    fn ask(&mut self, order: &str) -> Value {
        writeln!(self.orders.as_mut().expect("not yet ended"), "{order}").expect("it reads");
        self.line()
    }

    /// Ends its input; it must end too, without another word and without a complaint.
    fn end(mut self) {
        self.orders = None;
        assert_eq!(self.said.recv_timeout(Duration::from_secs(60)).ok(), None, "nothing was asked");
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_kernel"))
}

/// Notes that something was not tested, for `cargo xtask test` to say at its end.
fn skip(what: &str, why: &str) {
    let line = format!("SKIPPED: {what}: {why}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("STILLWIRE_SKIPS")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = writeln!(file, "{line}");
    }
}

/// Every work on a small file: what the far end counted is asserted, not the time.
fn every_work(kernel: &mut Running) {
    let ready = kernel.line();
    if let Some(why) = ready["skip"].as_str() {
        return skip("the kernel's contestant", why);
    }
    assert!(ready["ready"].as_str().is_some_and(|name| name.starts_with("Linux ")), "{ready}");
    let works: Vec<&str> = ready["works"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for work in ["sendfile", "sendfile-mtu", "write", "read-write", "zerocopy-gso"] {
        if !works.contains(&work) {
            let why = ready["cannot"][work].as_str().expect("a work that cannot be done has a reason");
            skip(&format!("the kernel's {work}"), why);
            continue;
        }
        for payload in [1460, 536] {
            let answer = kernel.ask(&format!("run {work} mib=1 payload={payload} ring=512"));
            assert_eq!((&answer["work"], &answer["bytes"]), (&json!(work), &json!(1 << 20)), "{answer}");
            assert!(answer["ns"].as_u64().is_some_and(|ns| ns > 0), "{answer}");
            let frames = answer["frames"].as_u64().expect("a number");
            let wasted = answer["wasted"].as_u64().unwrap_or(0);
            match work {
                "sendfile-mtu" => assert!(frames - wasted >= (1 << 20) / payload, "frames, not segments: {answer}"),
                _ => assert!(frames > 0 && frames < (1 << 20) / payload, "segments, not frames: {answer}"),
            }
            if work == "zerocopy-gso" {
                assert_eq!((&answer["completed"], &answer["copied"]), (&json!(frames), &json!(0)), "{answer}");
            } else {
                let time = |key: &str| answer[key].as_u64().filter(|&ns| ns > 0);
                assert!(time("ack_ns").is_some() && time("ack_ns") < time("far_ns"), "{answer}");
            }
        }
    }
}

#[test]
fn every_work_delivers_the_whole_file() {
    let mut kernel = Running::start(&mut program());
    every_work(&mut kernel);
    kernel.end();
}

#[test]
fn a_wrong_order_is_an_error_and_not_the_end() {
    let mut kernel = Running::start(&mut program());
    if let Some(why) = kernel.line()["skip"].as_str() {
        return skip("the kernel's contestant", why);
    }
    for (order, what) in
        [("sprint", "begin with `run`"), ("run tx60", "none of the works"), ("run write mib=0", "mib is")]
    {
        let answer = kernel.ask(order);
        assert!(answer["error"].as_str().is_some_and(|why| why.contains(what)), "{order}: {answer}");
    }
    kernel.end();
}

#[test]
fn without_ip_it_says_what_to_install() {
    let kernel = Running::start(program().env("PATH", "/nowhere"));
    let line = kernel.line();
    let why = line["skip"].as_str().unwrap_or_else(|| panic!("no skip: {line}"));
    assert!(why.contains("install iproute2") || why.contains("run as root") || why.contains("modprobe tun"), "{why}");
    kernel.end();
}
