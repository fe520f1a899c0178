//! `cargo xtask simulate`: builds everything with a scheduler in the place of threads, and runs it.

use std::path::Path;
use std::process::{Command, ExitCode};

/// Builds in `root` and runs; `flags` are the program's.
pub fn run(root: &Path, target: &Path, flags: &[String]) -> ExitCode {
    // In a directory of its own, as for loom; and with what the compiler warns of refused, as no lint step sees this code.
    let folder = target.join("simulation");
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "-p", "stillwire-simulation"]).current_dir(root);
    build.env("RUSTFLAGS", "--cfg simulation -D warnings").env("CARGO_TARGET_DIR", &folder);
    let figures = target.join("reliability");
    if let Err(error) = std::fs::create_dir_all(&figures) {
        eprintln!("xtask: simulate: {}: {error}", figures.display());
        return ExitCode::FAILURE;
    }
    let has = |flag: &str| flags.iter().any(|given| given.split('=').next() == Some(flag));
    let mut program = Command::new(folder.join("release/simulate"));
    program.args(flags);
    if !has("--json") && !has("--replay") {
        program.arg("--json");
        program.arg(figures.join(if has("--bug") { "mistakes.json" } else { "simulation.json" }));
    }
    if succeeds(&mut build) && succeeds(&mut program) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn succeeds(command: &mut Command) -> bool {
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("xtask: simulate: {} cannot be run: {error}", command.get_program().display());
            false
        }
    }
}
