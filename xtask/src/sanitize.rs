//! The emulated send under AddressSanitizer and under valgrind, and the pure modules in Miri: each where it can be had.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::setup;

/// How something ended: in an error, `None` says that it failed and has said why; a text, why it cannot run here.
pub type Ended = Result<(), Option<String>>;

/// Before the line that sums up.
pub const ENDED: &str = "──";

/// AddressSanitizer, where there is a nightly toolchain, and memcheck, where valgrind is installed.
pub fn sanitize(root: &Path, target: &Path) -> ExitCode {
    let folder = target.join("sanitize");
    let file = folder.join("file");
    let made = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, bytes()));
    if let Err(error) = made {
        eprintln!("xtask: sanitize: {}: {error}", folder.display());
        return ExitCode::FAILURE;
    }
    let address = address(root, &folder, &file);
    let memcheck = memcheck(root, &folder, &file);
    tell("sanitize", &[("AddressSanitizer, the emulated send", address), ("valgrind, the emulated send", memcheck)])
}

/// The crates are built with it, the standard library is not: what it does with our memory is seen all the same, as it asks for
/// memory by the functions that the sanitizer replaces.
fn address(root: &Path, folder: &Path, file: &Path) -> Ended {
    nightly()?;
    let built = folder.join("address");
    let mut build = Command::new("cargo");
    // For a target by its name, so that build scripts and macros are not built with it.
    build.args(["+nightly", "build", "--quiet", "--target", TARGET, "-p", "stillwire-examples", "--example", "send"]);
    build.arg("--target-dir").arg(&built).env("RUSTFLAGS", "-Zsanitizer=address").current_dir(root);
    run(&mut build)?;
    for device in DEVICES {
        let mut send = Command::new(built.join(TARGET).join("debug/examples/send"));
        // Leaks are looked for too; nothing is kept on purpose in a send that ends well.
        send.arg(file).args(["--device", device]).env("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=1");
        run(&mut send)?;
        send.arg("--scribble");
        run(&mut send)?;
    }
    Ok(())
}

fn memcheck(root: &Path, folder: &Path, file: &Path) -> Ended {
    if !setup::is_there("valgrind") {
        return Err(Some("valgrind is not installed: `apt-get install valgrind`".into()));
    }
    let built = folder.join("memcheck");
    let mut build = Command::new("cargo");
    build.args(["build", "--quiet", "-p", "stillwire-examples", "--example", "send", "--target-dir"]).arg(&built);
    // By itself it looks for the page size where valgrind has moved it.
    build.env("RUSTFLAGS", "--cfg=rustix_use_libc").current_dir(root);
    run(&mut build)?;
    for device in DEVICES {
        let mut send = Command::new("valgrind");
        send.args(["--error-exitcode=9", "--quiet", "--leak-check=full", "--errors-for-leak-kinds=definite"]);
        // It runs one thread at a time; the model's must get its turn.
        send.arg("--fair-sched=yes").arg(built.join("debug/examples/send")).arg(file);
        send.args(["--device", device, "--disk", "threads"]);
        run(&mut send)?;
    }
    Ok(())
}

/// Pure modules in Miri, which sees what no machine does: a reference that is used after another was made, memory that is read and
/// was not written, a race that did not happen.
pub fn miri(root: &Path) -> ExitCode {
    let there = nightly().and_then(|()| {
        let there = quietly(Command::new("cargo").args(["+nightly", "miri", "--version"]));
        there
            .then_some(())
            .ok_or_else(|| Some("the component is missing: `rustup +nightly component add miri`".to_owned()))
    });
    let outcomes: Vec<(&str, Ended)> = match there {
        Err(why) => vec![("the pure modules", Err(why))],
        Ok(()) => PURE.iter().map(|(package, filters)| (*package, in_miri(root, package, filters))).collect(),
    };
    tell("miri", &outcomes)
}

fn in_miri(root: &Path, package: &str, filters: &[&str]) -> Ended {
    let mut command = Command::new("cargo");
    command.args(["+nightly", "miri", "test", "-p", package, "--lib", "--"]).args(filters).current_dir(root);
    // Properties read the time and write what they found; a few cases each are slow enough.
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "4");
    run(&mut command)
}

/// What makes no system call, by package and names of tests.
#[rustfmt::skip]
const PURE: [(&str, &[&str]); 4] = [
    ("stillwire-dma", &["address::", "iova::"]),
    ("stillwire-driver", &["ring::", "watchdog::", "offload::", "desc::", "ddp::", "scheduler::", "switch::", "plan::"]),
    ("stillwire-filecache", &["page_tests::", "pair::", "word::", "buddy::", "policy_tests::", "attach::protocol::tests::rubbish"]),
    ("stillwire-examples", &["transfer::", "packet::"]),
];

/// # Errors
/// Why there is no nightly toolchain.
pub fn nightly() -> Ended {
    let there = quietly(Command::new("cargo").args(["+nightly", "--version"]));
    there
        .then_some(())
        .ok_or_else(|| Some("there is no nightly toolchain: `rustup toolchain install nightly`".to_owned()))
}

/// Runs a command to its end, in sight.
///
/// # Errors
/// `None`: it has said why.
pub fn run(command: &mut Command) -> Ended {
    println!("── {}", line(command));
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            println!("── {status}");
            Err(None)
        }
        Err(error) => {
            println!("── cannot be run: {error}");
            Err(None)
        }
    }
}

/// Says what was left out and what failed, in the words that `cargo xtask test` counts.
pub fn tell(command: &str, outcomes: &[(&str, Ended)]) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for (what, ended) in outcomes {
        match ended {
            Ok(()) => passed += 1,
            Err(Some(why)) => println!("SKIPPED: {command}, {what}: {why}"),
            Err(None) => {
                println!("FAILED: {command}, {what}");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn quietly(command: &mut Command) -> bool {
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    silent.status().is_ok_and(|status| status.success())
}

/// As one would type it.
fn line(command: &Command) -> String {
    let env = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}='{}' ", name.to_string_lossy(), value?.to_string_lossy())));
    let args = command.get_args().map(|arg| format!(" {}", arg.to_string_lossy()));
    let program = command.get_program().to_string_lossy().into_owned();
    env.chain([program]).chain(args).collect()
}

/// What is sent: not whole pages, and no two alike.
fn bytes() -> Vec<u8> {
    (0..200_001u32).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes()).take(700_003).collect()
}

const DEVICES: [&str; 3] = ["emulated:ixgbe", "emulated:ice", "emulated:virtio"];
const TARGET: &str = "x86_64-unknown-linux-gnu";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_as_they_are_typed() {
        let mut command = Command::new("cargo");
        command.args(["+nightly", "build"]).env("RUSTFLAGS", "-Zsanitizer=address");
        assert_eq!(line(&command), "RUSTFLAGS='-Zsanitizer=address' cargo +nightly build");
    }

    #[test]
    fn what_failed_fails_and_what_cannot_run_does_not() {
        let same = |code: ExitCode, other: ExitCode| format!("{code:?}") == format!("{other:?}");
        assert!(same(tell("x", &[("a", Ok(())), ("b", Err(Some("no".into())))]), ExitCode::SUCCESS));
        assert!(same(tell("x", &[("a", Ok(())), ("b", Err(None))]), ExitCode::FAILURE));
        assert_eq!(run(Command::new("false").arg("x")), Err(None));
        assert_eq!(run(&mut Command::new("/nowhere/program")), Err(None));
    }
}
