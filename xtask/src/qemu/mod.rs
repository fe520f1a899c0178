//! `cargo xtask qemu`: the proof that needs no hardware.
//!
//! ```text
//!   host                                         guest (QEMU, emulated CPU)
//!   traffic <-> network stack <-> TAP            ixgbe.ko, not ours      "the model is right"
//!                                  |                |
//!   stillwire-emulator: model <----+--vfio-user-----+
//!                                                   |
//!                                                send, our driver        "our driver is right"
//!                                                   on vfio-pci, behind intel-iommu
//! ```
//!
//! Everything runs in a network namespace of its own, so that nothing reaches the machine's network and nothing is left.
//! QEMU's processor is emulated: slow, but the same everywhere.

mod apt;
mod guest;
mod host;
mod ice;
mod ixgbe;
mod machine;
mod qmp;
mod report;
mod scenario;
pub mod traffic;
mod virtio;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use guest::{Kernel, Programs};
use machine::Qemu;
use scenario::{Bench, Results};

use crate::run::mortal;

/// What the command line asks for.
#[derive(Default)]
pub struct Flags {
    /// Without the means, say that it is skipped, and succeed.
    pub or_skip: bool,
    /// A guest to try things in, instead of the proof.
    shell: bool,
    /// A guest is killed after so long; `None` for the usual.
    deadline: Option<Duration>,
    /// One scenario, by its name, instead of all.
    only: Option<String>,
    /// In a network namespace of our own already.
    inside: bool,
}

impl Flags {
    pub fn parse(args: &[String]) -> Result<Self, String> {
        let mut flags = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--deadline" => {
                    let seconds = args.next().and_then(|text| text.parse().ok());
                    flags.deadline = Some(Duration::from_secs(seconds.ok_or("--deadline wants a number of seconds")?));
                }
                "--or-skip" => flags.or_skip = true,
                "--only" => {
                    flags.only =
                        Some(args.next().ok_or("--only wants the name of a scenario, as its lines give it")?.clone());
                }
                "--shell" => flags.shell = true,
                "--inside" => flags.inside = true,
                unknown => return Err(format!("no flag `{unknown}`")),
            }
        }
        Ok(flags)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }
}

/// Runs it all.
pub fn run(root: &Path, target: &Path, flags: &Flags) -> ExitCode {
    let cache = std::env::var_os("STILLWIRE_CACHE").map_or_else(|| target.join("qemu"), PathBuf::from);
    let cache = std::path::absolute(&cache).unwrap_or(cache);
    let prepared = if flags.inside { prove(target, &cache, flags) } else { prepare(root, target, &cache, flags) };
    match prepared {
        Ok(code) => code,
        Err(Trouble::CannotBeHad(why)) if flags.or_skip => {
            println!("SKIPPED: qemu: {why}");
            ExitCode::SUCCESS
        }
        Err(Trouble::CannotBeHad(why) | Trouble::Failed(why)) => {
            eprintln!("xtask: qemu: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Why there is no result.
enum Trouble {
    /// The machine lacks something.
    CannotBeHad(String),
    Failed(String),
}

/// What needs a network and the machine's own configuration; then the rest, in a namespace.
fn prepare(root: &Path, target: &Path, cache: &Path, flags: &Flags) -> Result<ExitCode, Trouble> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(Trouble::CannotBeHad("only x86-64 guests are known here".into()));
    }
    let installed = Qemu::installed().map_err(Trouble::Failed)?;
    std::fs::create_dir_all(cache).map_err(|error| Trouble::Failed(format!("{}: {error}", cache.display())))?;
    apt::tree(cache, installed.is_none()).map_err(Trouble::CannotBeHad)?;
    if let Err(why) = apt::firmware(cache) {
        println!("SKIPPED: qemu, {} with its package: {why}", ice::NAME);
    }
    println!("── building the guest's programs");
    Programs::build(root, target).map_err(Trouble::Failed)?;
    let program = std::env::current_exe().map_err(|error| Trouble::Failed(format!("this program: {error}")))?;
    let mut command = match namespace() {
        Some(mut command) => {
            let inner = mortal(&program);
            command.arg(inner.get_program()).args(inner.get_args());
            command
        }
        None => {
            println!("SKIPPED: qemu, stock drivers, and our virtio driver on TAP and user networks: {NO_NAMESPACE}");
            mortal(&program)
        }
    };
    command.args(["qemu", "--inside"]);
    if flags.shell {
        command.arg("--shell");
    }
    if let Some(only) = &flags.only {
        command.args(["--only", only]);
    }
    if let Some(deadline) = flags.deadline {
        command.args(["--deadline", &deadline.as_secs().to_string()]);
    }
    let status = command.status();
    let status = status.map_err(|error| Trouble::Failed(format!("{}: {error}", program.display())))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const NO_NAMESPACE: &str = "their wires are TAP interfaces in a network namespace of its own: that needs root or \
    unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1), and /dev/net/tun";

/// A command that runs what follows in a network namespace, as root there; `None` where that is not allowed.
fn namespace() -> Option<Command> {
    let ways = [&["--net"][..], &["--net", "--map-root-user"]];
    let allowed = |way: &&&[&str]| {
        let mut trial = Command::new("unshare");
        // Opening the device is what the emulator will do there.
        trial.args(**way).args(["--", "sh", "-c", "exec 3<>/dev/net/tun"]).stdin(Stdio::null());
        trial.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let way = ways.iter().find(allowed)?;
    let mut command = Command::new("unshare");
    command.args(*way).arg("--").env(NAMESPACE, "1");
    Some(command)
}

/// A guest that is not done by then hangs; it takes a minute on two idle processors.
const DEADLINE: Duration = Duration::from_secs(600);
/// Set where there is a network namespace of our own.
const NAMESPACE: &str = "STILLWIRE_NAMESPACE";

/// A scenario.
type Prove = fn(&Bench, &mut Results) -> Result<(), String>;
/// What needs a network of our own.
const STOCK: [(&str, Prove); 4] = [
    ("stock driver", scenario::stock),
    (ixgbe::FAMILY, ixgbe::family),
    ("stock virtio driver", virtio::stock),
    (ice::NAME, ice::stock),
];
/// What does without, as far as it goes.
const OURS: [(&str, Prove); 2] = [("our driver", scenario::ours), ("our virtio driver", virtio::ours)];

fn prove(target: &Path, cache: &Path, flags: &Flags) -> Result<ExitCode, Trouble> {
    let installed = Qemu::installed().map_err(Trouble::Failed)?;
    let tree = apt::tree(cache, installed.is_none()).map_err(Trouble::CannotBeHad)?;
    // A shell that is left open must not lose its folder to a proof.
    let folder = target.join(if flags.shell { "qemu-shell" } else { "qemu-run" });
    // A result of an earlier run must not be taken for one of this.
    let _ = std::fs::remove_dir_all(&folder);
    // Sockets are named relative to it: a socket's path may have 107 bytes, and a folder's has as many as it likes.
    let entered = std::fs::create_dir_all(&folder).and_then(|()| std::env::set_current_dir(&folder));
    entered.map_err(|error| Trouble::Failed(format!("{}: {error}", folder.display())))?;
    let bench = Bench {
        qemu: installed.unwrap_or_else(|| Qemu::Tree(tree.clone())),
        kernel: Kernel::find(&tree).map_err(Trouble::Failed)?,
        programs: Programs::built(target, apt::fetched_firmware(cache)),
        deadline: flags.deadline.unwrap_or(DEADLINE),
        folder,
        tree,
    };
    if flags.shell {
        return scenario::shell(&bench).map(|()| ExitCode::SUCCESS).map_err(Trouble::Failed);
    }
    let mut results = Results::default();
    let mut outcomes = Vec::new();
    if std::env::var_os(NAMESPACE).is_some() {
        for (name, prove) in STOCK {
            if flags.wants(name) {
                outcomes.push((name, prove(&bench, &mut results)));
            }
        }
    }
    for (name, prove) in OURS {
        if flags.wants(name) {
            outcomes.push((name, prove(&bench, &mut results)));
        }
    }
    if flags.only.is_none() || !results.registers.is_empty() {
        outcomes.push(("registers", scenario::coverage(&bench, &mut results)));
    }
    for (name, outcome) in outcomes {
        if let Err(why) = outcome {
            println!("test qemu, {name}: comes to its end ... FAILED\n    {why}");
            results.failed += 1;
        }
    }
    println!("{} passed, {} failed", results.passed, results.failed);
    Ok(if results.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
