//! Sending what nobody writes costs no system call: counted from outside, by strace.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;

const PAGES: usize = 64;
const SENDS: u64 = 5000;
const BEGIN: &str = "steady state begins";
const END: &str = "steady state ends";

/// Tells whoever traces this process where it is. One call of the kernel.
fn mark(text: &str) {
    std::io::stdout().write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// The child: holds, digests and releases in a steady loop, with or without a writer of the same pages.
#[test]
fn child_that_sends() {
    let Ok(mode) = std::env::var("STILLWIRE_CALLS") else { return };
    let (cache, file, _) = cached(PAGES * PAGE);
    let view = file.view().unwrap();
    let (stop, all) = (AtomicBool::new(false), 0..(PAGES * PAGE) as u64);
    // Read in, and every digest known.
    let digest = file.hold(all.clone()).unwrap().crc32();
    std::thread::scope(|scope| {
        if mode == "with a writer" {
            let before = cache.stats().opens;
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    view.write_at(5, b"changed").unwrap();
                }
            });
            eventually("the writer writes", || cache.stats().opens > before);
        }
        mark(BEGIN);
        for send in 0..SENDS {
            let first = send % PAGES as u64 * PAGE as u64;
            let hold = file.hold(first..all.end).unwrap();
            let found = hold.crc32();
            assert!(first > 0 || mode == "with a writer" || found == digest);
        }
        mark(END);
        stop.store(true, Ordering::Relaxed);
    });
}

/// What a traced child called between its marks.
struct Calls {
    /// By the thread that sends.
    own: Vec<String>,
    /// By any thread.
    all: Vec<String>,
}

impl Calls {
    fn of(&self, name: &str) -> usize {
        self.all.iter().filter(|call| call.starts_with(&format!("{name}("))).count()
    }
}

/// Runs the child under strace. `None`, with the reason told: that can not be done here.
fn traced(mode: &str) -> Option<Calls> {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("calls");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-s", "64", "-o"]).arg(&log).arg(std::env::current_exe().unwrap());
    strace.args(["--exact", "child_that_sends", "--include-ignored", "--nocapture"]).env("STILLWIRE_CALLS", mode);
    let why = match strace.stdin(Stdio::null()).output() {
        Err(error) => format!("strace does not start: {error}; `apt-get install strace`"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let refused = said.contains("ptrace") || said.contains("PTRACE");
            assert!(output.status.success() || refused, "the child failed: {output:?}");
            if output.status.success() { String::new() } else { format!("strace may not trace here: {said}") }
        }
    };
    if !why.is_empty() {
        skip("that a send makes no system call", &why);
        return None;
    }
    let log = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = log.lines().filter_map(|line| line.split_once(' ')).collect();
    let at = |mark| lines.iter().position(|(_, call)| call.contains(mark)).expect("the child came so far");
    let (begin, end) = (at(BEGIN), at(END));
    let between = &lines[begin + 1..end];
    let sender = lines[begin].0;
    let of = |mine: bool| {
        let chosen = between.iter().filter(|(thread, _)| !mine || *thread == sender);
        chosen.map(|(_, call)| call.trim_start().to_owned()).collect()
    };
    Some(Calls { own: of(true), all: of(false) })
}

#[test]
fn sending_what_nobody_writes_makes_no_system_call() {
    let Some(calls) = traced("alone") else { return };
    // Of the cache's memory, that is: a thread of the cache that starts late on a busy machine maps memory of its own.
    let mapped = calls.all.iter().filter(|call| call.starts_with("mmap(") && call.contains("MAP_SHARED")).count();
    assert_eq!((calls.of("ioctl"), mapped), (0, 0), "in {SENDS} sends: {:?}", calls.all);
    let foreign = |call: &&String| !call.starts_with("+++") && !call.starts_with("---");
    // The first line of the sender may be the end of the call that made the mark.
    let own: Vec<_> =
        calls.own.iter().filter(foreign).filter(|call| !call.starts_with("<... write resumed>")).collect();
    assert!(own.is_empty(), "in {SENDS} sends: {own:?}");
}

#[test]
fn the_same_with_a_writer_makes_some() {
    let Some(calls) = traced("with a writer") else { return };
    assert!(calls.of("ioctl") > 0, "{:?}", &calls.all[..calls.all.len().min(50)]);
}
