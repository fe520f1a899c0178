//! Running the programs as a user does.
#![allow(dead_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use stillwire_examples::report::Report;

/// Path of an example program of the profile under test. A whole `cargo test` builds them all; with `--test` it does not.
pub fn example(name: &str) -> PathBuf {
    let path = profile().join("examples").join(name);
    assert!(path.exists(), "{} is not there: `cargo build -p stillwire-examples --examples`", path.display());
    path
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are ASCII")
}

/// Path of the emulator's program, built now if need be: it belongs to another package.
pub fn emulator() -> PathBuf {
    let path = profile().join("stillwire-emulator");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "stillwire-emulator", "--bin", "stillwire-emulator"]);
    if profile().ends_with("release") {
        build.arg("--release");
    }
    let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
    assert!(built.success(), "the emulator does not build");
    path
}

fn profile() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST").to_owned()
}

/// Runs a command to its end, at most a minute; what it printed.
pub fn run(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    finish(child, Duration::from_secs(60))
}

/// Waits for a child; one that outstays `deadline` is killed, and the test fails.
pub fn finish(child: Child, deadline: Duration) -> Output {
    let (id, (ended, watch)) = (child.id(), std::sync::mpsc::channel::<()>());
    let watchdog = std::thread::spawn(move || {
        let late = watch.recv_timeout(deadline) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            // The child has not been waited for, so the number is still its own.
            kill(id, "-KILL");
        }
        late
    });
    let output = child.wait_with_output().expect("it ends");
    let _ = ended.send(());
    assert!(!watchdog.join().expect("the watchdog lives"), "still running after {deadline:?}: {output:?}");
    output
}

/// Sends a signal to a process that this test started.
pub fn kill(id: u32, signal: &str) {
    let _ = Command::new("kill").args([signal, &id.to_string()]).status();
}

/// Runs `send --json` and reads its report.
pub fn send(arguments: &[&str]) -> Report {
    let output = run(Command::new(example("send")).args(arguments).arg("--json"));
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    last_line(&output)
}

/// The JSON object in the last line of the output.
pub fn last_line(output: &Output) -> Report {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in '{line}': {output:?}"))
}

/// Bytes that do not repeat within a page or a frame.
pub fn contents(len: usize) -> Vec<u8> {
    let mut state = len as u64 | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| byte()).collect()
}

/// A file of `len` bytes in `folder`.
pub fn file(folder: &Path, len: usize) -> PathBuf {
    let path = folder.join(format!("{len}-bytes"));
    std::fs::write(&path, contents(len)).expect("a test folder can be written");
    path
}

/// Notes that something was not tested, for `cargo xtask test` to say at its end.
pub fn skip(what: &str, why: &str) {
    let line = format!("SKIPPED: {what}: {why}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("STILLWIRE_SKIPS")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = writeln!(file, "{line}");
    }
}

/// Polls until `check` gives something.
pub fn wait_for<R>(what: &str, deadline: Duration, mut check: impl FnMut() -> Option<R>) -> R {
    let start = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(start.elapsed() < deadline, "{what}: not within {deadline:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child that is killed if the test ends before it does.
pub struct Guarded(pub Option<Child>);

impl Guarded {
    pub fn start(command: &mut Command) -> Self {
        Self(Some(command.stdin(Stdio::null()).spawn().expect("it starts")))
    }

    pub fn id(&self) -> u32 {
        self.0.as_ref().expect("not yet taken").id()
    }

    pub fn take(mut self) -> Child {
        self.0.take().expect("not yet taken")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
