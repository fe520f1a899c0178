//! `cargo xtask soak`: builds the programs as users run them, and runs the one that does everything at once.

use std::path::Path;
use std::process::{Command, ExitCode};

/// Builds in `root`, runs what is in `target`; `flags` are the program's, but for `--write`, which renews the document from
/// the last reports instead.
pub fn run(root: &Path, target: &Path, flags: &[String]) -> ExitCode {
    let packages = ["-p", "stillwire-soak", "-p", "stillwire-examples", "-p", "stillwire-emulator"];
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--bins", "--examples"]).args(packages).current_dir(root);
    if !succeeds(&mut build) {
        return ExitCode::FAILURE;
    }
    let reports = target.join("soak");
    if let Err(error) = std::fs::create_dir_all(&reports) {
        eprintln!("xtask: soak: {}: {error}", reports.display());
        return ExitCode::FAILURE;
    }
    let (of_time, of_kills) = (reports.join("soak.json"), reports.join("crash.json"));
    let has = |flag: &str| flags.iter().any(|given| given.split('=').next() == Some(flag));
    let mut program = Command::new(target.join("release/soak"));
    if has("--write") {
        program.arg("document").args([&of_time, &of_kills]).arg(root.join("docs/RELIABILITY.md"));
        program.arg("--simulation").arg(target.join("reliability/simulation.json"));
        program.arg("--mistakes").arg(target.join("reliability/mistakes.json"));
        program.arg("--fuzz").arg(target.join("fuzz/figures.json"));
    } else {
        program.args(flags);
        // What is wrong on purpose is no report to keep.
        if !has("--json") && !has("--break") {
            program.arg("--json").arg(if has("--crash") { of_kills } else { of_time });
        }
    }
    if succeeds(&mut program) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn succeeds(command: &mut Command) -> bool {
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("xtask: soak: {} cannot be run: {error}", command.get_program().display());
            false
        }
    }
}
