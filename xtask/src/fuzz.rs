//! Hostile inputs: `fuzz/`'s program on stable Rust, or its targets by libFuzzer where a nightly toolchain is at hand.

use std::path::Path;
use std::process::{Command, ExitCode};

use crate::sanitize::{ENDED, Ended, nightly, run, tell};
use crate::setup;

/// What the command line asks for.
pub struct Flags {
    libfuzzer: bool,
    seconds: u64,
    seed: u64,
    targets: Vec<String>,
}

impl Flags {
    /// Reads `args`.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn parse(args: &[String]) -> Result<Self, String> {
        let mut flags = Self { libfuzzer: false, seconds: 0, seed: 1, targets: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut number = || args.next().and_then(|text| text.parse().ok()).ok_or(format!("{arg} wants a number"));
            match arg.as_str() {
                "--libfuzzer" => flags.libfuzzer = true,
                "--seconds" => flags.seconds = number()?,
                "--seed" => flags.seed = number()?,
                unknown if unknown.starts_with('-') => return Err(format!("no flag `{unknown}`")),
                target => flags.targets.push(target.to_owned()),
            }
        }
        if flags.seconds == 0 {
            flags.seconds = if flags.libfuzzer { MINUTES_EACH * 60 } else { SECONDS_IN_ALL };
        }
        Ok(flags)
    }
}

/// Feeds the targets.
pub fn fuzz(root: &Path, target: &Path, flags: &Flags) -> ExitCode {
    if flags.libfuzzer {
        return tell("fuzz", &[("libFuzzer", libfuzzer(root, target, flags))]);
    }
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "-p", "stillwire-fuzz", "--", "run", "--seconds", &flags.seconds.to_string()]);
    command.args(["--seed", &flags.seed.to_string(), "--out"]).arg(target.join("fuzz")).args(&flags.targets);
    tell("fuzz", &[("hostile inputs", run(command.current_dir(root)))])
}

/// Each target for so many seconds, one after the other, with AddressSanitizer. What it comes upon is kept in
/// `target/libfuzzer/corpus`.
fn libfuzzer(root: &Path, target: &Path, flags: &Flags) -> Ended {
    nightly()?;
    if !setup::is_there("cargo-fuzz") {
        return Err(Some("cargo-fuzz is not installed: `cargo install cargo-fuzz`".into()));
    }
    let folder = target.join("libfuzzer");
    let cargo_fuzz = |what: &str| {
        let mut command = Command::new("cargo");
        command.args(["+nightly", "fuzz", what, "--features", "libfuzzer", "--target-dir"]).arg(&folder);
        command.current_dir(root);
        command
    };
    let list =
        Command::new("cargo").args(["run", "--quiet", "-p", "stillwire-fuzz", "--", "list"]).current_dir(root).output();
    let list = list.map_err(|error| Some(error.to_string()))?;
    let all = String::from_utf8_lossy(&list.stdout);
    let all = all.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned);
    let chosen: Vec<String> = if flags.targets.is_empty() { all.collect() } else { flags.targets.clone() };
    for name in &chosen {
        let corpus = folder.join("corpus").join(name);
        std::fs::create_dir_all(&corpus).map_err(|error| Some(format!("{}: {error}", corpus.display())))?;
        println!("── {name}");
        let mut command = cargo_fuzz("run");
        command.arg(name).arg(&corpus).arg(root.join("fuzz/corpus").join(name)).arg("--");
        command.arg(format!("-max_total_time={}", flags.seconds)).arg(format!("-seed={}", flags.seed));
        // A driver that has no proof of quiet keeps memory on purpose; and a peer's word for a length may be 4 GiB of zeroes that
        // nobody touches.
        command.args(["-timeout=60", "-detect_leaks=0", "-rss_limit_mb=4096", "-malloc_limit_mb=9000"]);
        command.args(["-max_len=16384", "-len_control=50", "-print_final_stats=1"]);
        run(&mut command).map_err(|why| Some(format!("{name}: {}", why.unwrap_or_default())))?;
    }
    println!("{ENDED} {} targets, {} s each", chosen.len(), flags.seconds);
    Ok(())
}

/// For all targets together, on stable.
const SECONDS_IN_ALL: u64 = 90;
/// For each, by libFuzzer.
const MINUTES_EACH: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        let parse = |args: &[&str]| Flags::parse(&args.iter().map(ToString::to_string).collect::<Vec<_>>());
        let flags = parse(&["packet", "--seed", "7"]).unwrap();
        assert_eq!((flags.libfuzzer, flags.seconds, flags.seed, flags.targets.len()), (false, SECONDS_IN_ALL, 7, 1));
        assert_eq!(parse(&["--libfuzzer"]).unwrap().seconds, 120);
        assert_eq!(parse(&["--libfuzzer", "--seconds", "5"]).unwrap().seconds, 5);
        assert!(parse(&["--seconds"]).is_err() && parse(&["--seconds", "x"]).is_err() && parse(&["--fast"]).is_err());
    }
}
