//! A guest that runs, and the device models that it sees.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::guest::{LIBRARIES, LOADER};
use crate::run::mortal;

/// QEMU with the client of vfio-user: since 10.1.
const OLDEST: (u32, u32) = (10, 1);
/// So much of the guest's console is shown when something went wrong, lines.
const TAIL: usize = 40;

/// A QEMU that can be run.
#[derive(Clone)]
pub enum Qemu {
    /// The machine's own.
    Installed(PathBuf),
    /// In a fetched tree.
    Tree(PathBuf),
}

impl Qemu {
    /// The machine's own, if it is new enough; `STILLWIRE_QEMU` names another.
    ///
    /// # Errors
    /// When the one that was named is too old: it was asked for.
    pub fn installed() -> Result<Option<Self>, String> {
        let named = std::env::var_os("STILLWIRE_QEMU").map(PathBuf::from);
        let program = named.clone().unwrap_or_else(|| "qemu-system-x86_64".into());
        let output = Command::new(&program).arg("--version").stdin(Stdio::null()).output();
        let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        match (said.map(|said| version(&said)), &named) {
            (Ok(Some(found)), _) if found >= OLDEST => {
                let path = if named.is_some() { std::path::absolute(&program).unwrap_or(program) } else { program };
                Ok(Some(Self::Installed(path)))
            }
            (_, None) => Ok(None),
            (Ok(Some((major, minor))), Some(named)) => Err(format!(
                "STILLWIRE_QEMU={}: QEMU {major}.{minor} is too old: vfio-user-pci came with {}.{}; without the variable a newer one is fetched",
                named.display(),
                OLDEST.0,
                OLDEST.1
            )),
            (_, Some(named)) => Err(format!("STILLWIRE_QEMU={}: this is no QEMU that can be run", named.display())),
        }
    }

    fn command(&self) -> Command {
        match self {
            Self::Installed(program) => mortal(program),
            Self::Tree(tree) => {
                let libraries = tree.join(LIBRARIES);
                let mut command = mortal(&libraries.join(LOADER));
                command.arg("--library-path").arg(&libraries).arg(tree.join("usr/bin/qemu-system-x86_64"));
                for firmware in ["usr/share/qemu", "usr/share/seabios"] {
                    command.arg("-L").arg(tree.join(firmware));
                }
                command.env("QEMU_MODULE_DIR", libraries.join("qemu"));
                command
            }
        }
    }
}

/// `QEMU emulator version 11.1.3 (...)`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split("version ").nth(1)?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A device model in a process of its own; ended when dropped.
pub struct Emulator(Child);

impl Emulator {
    /// Starts it and waits until it listens.
    pub fn start(program: &Path, args: &[&str]) -> Result<Self, String> {
        let error = |error: std::io::Error| format!("{}: {error}", program.display());
        let child = mortal(program).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut emulator = Self(child.map_err(error)?);
        let mut line = String::new();
        if let Some(stdout) = emulator.0.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut line).map_err(error)?;
        }
        match line.starts_with("listening") {
            true => Ok(emulator),
            false => Err(format!("{} {}: it does not listen", program.display(), args.join(" "))),
        }
    }
}

impl Emulator {
    /// Waits until it has written its report, which it does when its clients are gone.
    ///
    /// # Errors
    /// When it fails, or does not end.
    pub fn ended(mut self) -> Result<(), String> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            match self.0.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("the emulator ended with {status}")),
                Err(error) => return Err(format!("the emulator: {error}")),
            }
        }
        Err("the emulator does not end, although the guest is gone".into())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where the guest's console goes.
pub enum Console<'a> {
    /// Into a file; results come beside it.
    File(&'a Path),
    /// To this terminal, with a shell.
    Terminal,
}

/// What is to run.
pub struct Boot<'a> {
    pub qemu: &'a Qemu,
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    /// Socket of each device model, and its slot on the guest's bus.
    pub devices: &'a [(PathBuf, u8)],
    /// QEMU's own devices, and what they are joined to: further arguments.
    pub own: &'a [String],
    pub iommu: bool,
    /// A driver asks for as many queues as there are processors.
    pub processors: u8,
    pub console: Console<'a>,
}

impl Boot<'_> {
    fn command(&self) -> Command {
        let mut command = self.qemu.command();
        let iommu = if self.iommu { " intel_iommu=on iommu=pt" } else { " intel_iommu=off" };
        let shell = if matches!(self.console, Console::Terminal) { " stillwire.shell" } else { "" };
        let kernel = format!("console=ttyS0 quiet panic=-1 rdinit=/init{iommu}{shell}");
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"])
            // KVM inside of a virtual machine is not to be had everywhere and is not sound everywhere: the proof must not
            // depend on it.
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", &self.processors.to_string()])
            .args(["-machine", "q35,memory-backend=ram"])
            .args(["-object", "memory-backend-memfd,id=ram,size=1G,share=on", "-m", "1G"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", &kernel]);
        match self.console {
            Console::File(path) => {
                command.arg("-serial").arg(format!("file:{}", path.display())).args(["-serial", "stdio"])
            }
            // With the monitor beside it, Ctrl-C is the guest's.
            Console::Terminal => command.args(["-serial", "mon:stdio"]),
        };
        if self.iommu {
            command.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
        }
        for (socket, slot) in self.devices {
            command.arg("-device").arg(format!(
                r#"{{"driver":"vfio-user-pci","socket":{{"type":"unix","path":"{}"}},"addr":"{slot:02x}.0","rombar":0}}"#,
                socket.display()
            ));
        }
        command.args(self.own);
        command
    }

    /// Runs the guest to its end, for at most `deadline`; `each` is told every line of results, and answers what the guest
    /// is to read.
    ///
    /// # Errors
    /// In words, with the last lines of the guest's console.
    pub fn run(&self, deadline: Duration, each: &mut dyn FnMut(&str) -> Option<String>) -> Result<(), String> {
        let outcome = converse(self.command(), deadline, each);
        let console = if let Console::File(path) = self.console { tail(path) } else { String::new() };
        outcome.map_err(|what| format!("{what}\n{console}"))
    }

    /// Runs the guest in this terminal until its user ends it.
    ///
    /// # Errors
    /// In words.
    pub fn run_here(&self) -> Result<(), String> {
        let status = self.command().status().map_err(|error| format!("QEMU cannot be run: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("QEMU ended with {status}")) }
    }
}

/// Runs a program whose standard output says `done` in its own line at its end.
fn converse(
    mut command: Command,
    deadline: Duration,
    each: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<(), String> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = Running(child.map_err(|error| format!("QEMU cannot be run: {error}"))?);
    let (stdout, stderr) = (child.0.stdout.take(), child.0.stderr.take());
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(stdout.expect("the standard output is piped")).split(b'\n');
        // The receiver is gone when the guest was given up.
        lines.map_while(Result::ok).take_while(|line| send.send(line.clone()).is_ok()).for_each(drop);
    });
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.expect("the standard error is piped").read_to_string(&mut text);
        text
    });
    let start = Instant::now();
    let mut done = false;
    loop {
        match lines.recv_timeout(deadline.saturating_sub(start.elapsed())) {
            Ok(line) => {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim();
                done |= line == "done";
                if let Some(answer) = each(line)
                    && let Some(stdin) = child.0.stdin.as_mut()
                {
                    // A guest that is gone shows as the end of its lines.
                    let _ = stdin.write_all(format!("{answer}\n").as_bytes()).and_then(|()| stdin.flush());
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("the guest did not end within {} s and was killed", deadline.as_secs()));
            }
            Err(RecvTimeoutError::Disconnected) if done => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                drop(child);
                let said = errors.join().unwrap_or_default();
                return Err(format!("the guest ended before it was done. QEMU said: {}", said.trim()));
            }
        }
    }
}

/// A process that does not outlive this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tail(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(TAIL)..].join("\n  | ");
    format!("The last lines of {}:\n  | {last}", console.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn versions() {
        assert_eq!(version("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds)\nCopyright"), Some((11, 1)));
        assert_eq!(version("QEMU emulator version 9.2.50\n"), Some((9, 2)));
        assert!(version("QEMU emulator version 10.0.2").unwrap() < OLDEST);
        assert_eq!(version("busybox"), None);
    }

    #[test]
    fn a_guest_is_answered_and_heard() {
        let mut heard = Vec::new();
        let outcome =
            converse(shell("echo host x; read a; echo got $a; echo done"), Duration::from_secs(60), &mut |line| {
                heard.push(line.to_owned());
                line.starts_with("host ").then(|| "go".to_owned())
            });
        assert_eq!(outcome, Ok(()));
        assert_eq!(heard, ["host x", "got go", "done"]);
    }

    #[test]
    fn a_guest_that_hangs_is_killed_and_one_that_breaks_off_is_noticed() {
        let mut nobody = |_: &str| None;
        // `exec`, so that what is killed is what holds the pipe.
        let hung = converse(shell("echo ok a; exec sleep 600"), Duration::from_millis(300), &mut nobody).unwrap_err();
        assert!(hung.contains("was killed"), "{hung}");
        let broken =
            converse(shell("echo ok a; echo why >&2; exit 1"), Duration::from_secs(60), &mut nobody).unwrap_err();
        assert!(broken.contains("before it was done") && broken.contains("why"), "{broken}");
    }

    #[test]
    fn the_console_is_shown_from_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("console");
        fs::write(&console, (0..100).map(|i| format!("line {i}\n")).collect::<String>()).unwrap();
        let shown = tail(&console);
        assert!(shown.contains("line 60\n") && shown.ends_with("line 99") && !shown.contains("line 59\n"), "{shown}");
    }
}
