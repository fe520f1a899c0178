//! Runs one step, showing its output as it comes and reading along.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::steps::Step;
use crate::summary::Summary;

/// How a step ended.
pub struct Outcome {
    pub success: bool,
    /// In words, when it did not succeed.
    pub how: String,
    pub took: Duration,
}

/// Runs `step` in `root`. Tests append what they skip to the file `skips`, a line each.
pub fn run(step: &Step, root: &Path, skips: &Path, summary: &mut Summary) -> Outcome {
    let start = Instant::now();
    let before = summary.tests();
    let ended = stream(step, root, skips, summary);
    let took = start.elapsed();
    match ended {
        Ok(status) if status.success() && step.must_test && summary.tests() == before => {
            Outcome { success: false, how: "it found no test to run".into(), took }
        }
        Ok(status) => Outcome { success: status.success(), how: status.to_string(), took },
        Err(error) => Outcome { success: false, how: format!("`{}` cannot be run: {error}", step.command[0]), took },
    }
}

fn stream(step: &Step, root: &Path, skips: &Path, summary: &mut Summary) -> std::io::Result<std::process::ExitStatus> {
    // The standard error stays the terminal's own, for cargo's progress; test results come on the standard output.
    let mut child = Command::new(step.command[0])
        .args(&step.command[1..])
        .envs(step.env.iter().map(|(name, value)| (name, value)))
        .env("STILLWIRE_SKIPS", skips)
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(child.stdout.take().expect("the standard output is piped"));
    let mut line = Vec::new();
    let mut stdout = std::io::stdout();
    // Bytes and not text: what a failing test prints need not be UTF-8.
    while output.read_until(b'\n', &mut line)? > 0 {
        stdout.write_all(&line)?;
        stdout.flush()?;
        summary.line(&String::from_utf8_lossy(&line));
        line.clear();
    }
    child.wait()
}

/// A command that does not outlive this process, however it ends: a guest or a contestant that nobody watches would run for
/// ever. (`setpriv` is of util-linux, as `unshare` is, and becomes the program.)
pub fn mortal(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}
