//! Clients of another user at a model's socket, and models of another user.
//!
//! Root can be two users, so these tests need it. The other user's process is this program again, told by its environment
//! what to be.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use stillwire_dma::PciFunction;
use stillwire_emulator::control::Control;
use stillwire_emulator::server::{Server, Stopper};
use stillwire_emulator::wire::Sink;
use stillwire_emulator::{Config, LocalDevice, Model};
use tempfile::TempDir;
use vfio_user::Client;

/// Not a test: what the other user's process does, with a line that begins with `@` as the outcome.
#[test]
fn another_user() {
    let (Ok(part), Ok(socket)) = (std::env::var(PART), std::env::var(SOCKET)) else { return };
    let outcome = match part.as_str() {
        "serve" => {
            let server = Server::bind(Path::new(&socket), model()).unwrap();
            println!("@serving");
            server.serve(false).map_err(|error| error.to_string()).map(|()| "ended".to_owned())
        }
        // Listens, or asks for something.
        "listen" => UnixStream::connect(socket)
            .and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                stream.read_to_string(&mut String::new())
            })
            .map_or_else(|error| Err(error.to_string()), |read| Ok(format!("read {read} bytes to the end"))),
        "ask" => Client::new(Path::new(&socket))
            .and_then(|mut client| client.region_read(7, 0, &mut [0; 4]))
            .map_or_else(|error| Err(error.to_string()), |()| Ok("was answered".to_owned())),
        "control" => UnixStream::connect(socket)
            .and_then(|mut stream| stream.write_all(b"stall-tx\n").and_then(|()| stream.read(&mut [0; 2])))
            .map_or_else(|error| Err(error.to_string()), |read| Ok(format!("was answered by {read} bytes"))),
        other => panic!("{other}"),
    };
    println!("@{}", outcome.unwrap_or_else(|error| format!("error {error}")));
}

fn model() -> Model {
    Model::new(Config::default(), Box::new(Sink::new()))
}

struct Place {
    folder: TempDir,
    program: PathBuf,
}

impl Place {
    /// `None`, and a note: not as root.
    fn new(user: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("strangers at a model's socket", "only root can be two users; run this test as root");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let program = folder.path().join("program");
        // By another process: a descriptor of ours that writes it could be inherited by a process that another test starts at this
        // moment, and what is open for writing can not be run.
        let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status();
        assert!(copied.unwrap().success());
        for path in [folder.path(), &program] {
            std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        chown(folder.path(), Some(user), Some(user)).unwrap();
        Some(Self { folder, program })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("nic")
    }

    fn nobody(&self, part: &str) -> Nobody {
        let mut command = Command::new(&self.program);
        command.args(["--exact", "another_user", "--nocapture"]).env(PART, part).env(SOCKET, self.socket());
        command.current_dir("/").uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Nobody { child, lines }
    }
}

/// Killed when it goes.
struct Nobody {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Nobody {
    fn says(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "it ended without a word");
            // The harness writes its own words before the first of ours, on the same line.
            if let Some((_, said)) = line.split_once('@') {
                return said.trim().to_owned();
            }
        }
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_stranger_is_cut_off_whatever_the_sockets_mode() {
    let Some(place) = Place::new(ROOT) else { return };
    let server = Server::bind(&place.socket(), model()).unwrap();
    std::thread::scope(|scope| {
        // The scope waits for the server, also when something here has failed.
        let _stop = Stop(server.stopper());
        // Once: a stranger is not the one.
        let served = scope.spawn(|| server.serve(true).unwrap());
        assert!(place.nobody("ask").says().contains("Permission denied"), "the mode keeps it out");
        std::fs::set_permissions(place.socket(), Permissions::from_mode(0o666)).unwrap();
        let said = place.nobody("ask").says();
        assert!(said.starts_with("error"), "{said}");
        eventually("the stranger is counted", || server.strangers() == 1);
        // One that only sits there.
        let said = place.nobody("listen").says();
        assert!(said == "read 0 bytes to the end" || said.contains("reset by peer"), "{said}");
        eventually("the other is counted", || server.strangers() == 2);
        let function = PciFunction::connect(&place.socket()).unwrap();
        assert_eq!(function.identity().unwrap().device, 0x10fb);
        assert!(!served.is_finished());
        drop(function);
        eventually("it served the one", || served.is_finished());
        assert_eq!(server.strangers(), 2);
    });
}

#[test]
fn a_strangers_model_is_given_nothing() {
    let Some(place) = Place::new(NOBODY) else { return };
    let mut server = place.nobody("serve");
    assert_eq!(server.says(), "serving");
    assert_eq!(mode(&place.socket()), 0o600);
    let why = PciFunction::connect(&place.socket()).map(|_| ()).unwrap_err().to_string();
    assert!(why.contains("is of user 65534, this one of user 0") && why.contains("setpriv"), "{why}");
}

#[test]
fn faults_are_not_taken_from_strangers() {
    let Some(place) = Place::new(ROOT) else { return };
    let device = LocalDevice::new(model());
    let _control = Control::listen(&place.socket(), &device).unwrap();
    assert_eq!(mode(&place.socket()), 0o600);
    assert!(place.nobody("control").says().contains("Permission denied"), "the mode keeps it out");
    std::fs::set_permissions(place.socket(), Permissions::from_mode(0o666)).unwrap();
    let said = place.nobody("control").says();
    assert!(said == "was answered by 0 bytes" || said.starts_with("error"), "{said}");
    let mut ours = UnixStream::connect(place.socket()).unwrap();
    ours.write_all(b"stall-tx\n").unwrap();
    let mut answer = [0; 2];
    ours.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ok");
}

/// Ends a server when it goes.
struct Stop(Stopper);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "still waiting for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
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

const PART: &str = "STILLWIRE_TEST_PART";
const SOCKET: &str = "STILLWIRE_TEST_SOCKET";
const ROOT: u32 = 0;
/// Of nobody, by convention; the tests own nothing by it but what they make.
const NOBODY: u32 = 65534;
