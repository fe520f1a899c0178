//! `docs/RELIABILITY.md`, from the reports of a long run and of many kills.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

use crate::crash;
use crate::elsewhere;
use crate::figures::{self, NAMED};
use crate::report::Report;

/// Which reports.
#[derive(clap::Args)]
pub struct Arguments {
    /// Of a run for a time.
    soak: PathBuf,
    /// Of many kills.
    crash: PathBuf,
    /// What is written.
    out: PathBuf,
    /// Of many seeds of the simulation.
    #[arg(long)]
    simulation: PathBuf,
    /// Of the mistakes that were put into it.
    #[arg(long)]
    mistakes: PathBuf,
    /// Of hostile inputs.
    #[arg(long)]
    fuzz: PathBuf,
}

/// Writes it. Reports of runs that failed are written as well, and say so.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let soak: Report = serde_json::from_slice(&std::fs::read(&arguments.soak)?)?;
    let crash: crash::Report = serde_json::from_slice(&std::fs::read(&arguments.crash)?)?;
    let read = |path: &PathBuf| -> Result<Value, Box<dyn std::error::Error>> {
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    let text = text(&soak, &crash)
        + &elsewhere::simulation(&read(&arguments.simulation)?, &read(&arguments.mistakes)?)
        + &elsewhere::fuzz(&read(&arguments.fuzz)?)
        + FOOT;
    std::fs::write(&arguments.out, text)?;
    println!("soak: wrote {}", arguments.out.display());
    Ok(ExitCode::SUCCESS)
}

fn text(soak: &Report, crash: &crash::Report) -> String {
    let mut text = String::from(HEAD);
    let _ = writeln!(text, "## {:.0} minutes of everything\n", soak.minutes);
    let _ = writeln!(text, "`cargo xtask soak --minutes {:.0} --seed {}`\n", soak.minutes, soak.seed);
    verdict(&mut text, &soak.violations, "Nothing was torn, lost, stuck or leaked.");
    for (heading, names) in GROUPS {
        let _ = writeln!(text, "| {heading} | |\n|---|---:|");
        for name in names {
            let count = soak.counts.get(*name).copied().unwrap_or(0);
            let _ = writeln!(text, "| {} | {} |", name.replace('_', " "), with_spaces(count));
        }
        text.push('\n');
    }
    let quarter = (soak.at_work.len() / 4).max(1).min(soak.at_work.len());
    let (first, last) = (&soak.at_work[..quarter], &soak.at_work[soak.at_work.len() - quarter..]);
    let _ = writeln!(
        text,
        "Figures while all were at work, {} samples: medians of the first and of the last quarter, and least squares.\n\n\
         | figure | first quarter | last quarter | slope an hour |\n|---|---:|---:|---:|",
        soak.at_work.len()
    );
    for (name, figure) in NAMED {
        let (before, after) = (figures::median(first, figure), figures::median(last, figure));
        let slope = figures::slope_an_hour(&soak.at_work, figure);
        let _ = writeln!(text, "| {name} | {before} | {after} | {slope:+.1} |");
    }
    let _ = writeln!(text, "\nFigures when all had ended, after each part of the run:\n");
    let names: Vec<_> = NAMED.iter().map(|(name, _)| *name).collect();
    let _ = writeln!(text, "| seconds | {} |\n|---:|{}", names.join(" | "), "---:|".repeat(names.len()));
    for rest in &soak.at_rest {
        let values: Vec<_> = NAMED.iter().map(|(_, figure)| figure(rest).to_string()).collect();
        let _ = writeln!(text, "| {} | {} |", rest.seconds, values.join(" | "));
    }
    let _ = writeln!(text, "\n## {} kills\n", crash.rounds);
    let _ = writeln!(text, "`cargo xtask soak --crash {} --seed {}`\n", crash.rounds, crash.seed);
    let good = "After each kill what a sync had answered for was on the disk, all started again at once at the same places, and \
                nothing was left: no file, socket, process, descriptor, shared memory, huge page or mount.";
    verdict(&mut text, &crash.violations, good);
    let _ = writeln!(text, "| killed, at a moment from the seed | times |\n|---|---:|");
    kills(&mut text, &crash.killed);
    let _ = writeln!(
        text,
        "\nRecords acknowledged by sync before a kill, and looked for after: {}.",
        with_spaces(crash.acknowledged)
    );
    crash.skipped.iter().for_each(|what| text.push_str(&format!("\nNot done: {what}.\n")));
    text
}

fn kills(text: &mut String, killed: &BTreeMap<String, u64>) {
    for (what, count) in killed {
        let _ = writeln!(text, "| {what} | {count} |");
    }
}

fn verdict(text: &mut String, violations: &[String], good: &str) {
    if violations.is_empty() {
        let _ = writeln!(text, "{good}\n");
        return;
    }
    let _ = writeln!(text, "**This run failed:**\n");
    violations.iter().for_each(|what| text.push_str(&format!("- {what}\n")));
    text.push('\n');
}

/// 1234567 as `1 234 567`.
pub fn with_spaces(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

const GROUPS: [(&str, &[&str]); 5] = [
    (
        "sent and received",
        &[
            "frames_posted",
            "frames_received",
            "bytes_received",
            "runs_received",
            "runs_incomplete",
            "torn",
            "holds",
            "holds_kept",
            "direct_holds",
        ],
    ),
    (
        "written",
        &[
            "stores",
            "stores_attached",
            "stores_outside",
            "writer_pauses",
            "snapshots",
            "syncs_checked",
            "written_back",
            "evictions",
            "resizes",
            "outside_changes",
            "conflicts_decided",
        ],
    ),
    (
        "faults of devices",
        &[
            "fault_link_down",
            "fault_stuck",
            "fault_hung_queue",
            "fault_late",
            "fault_lost_write_back",
            "fault_lost",
            "fault_damaged",
            "frames_damaged",
        ],
    ),
    ("recovery", &["hangs_found", "devices_slow", "recoveries", "tokens_not_sent"]),
    (
        "opened, closed, killed",
        &["caches", "nics", "killed_writers", "killed_senders", "killed_emulators", "processes_ended"],
    ),
];

const HEAD: &str = "\
# Reliability

Written by `cargo xtask soak --write` from the last reports of `cargo xtask soak`, `soak --crash`, `simulate`, `simulate --bug all` and
`fuzz`; do not edit.

## What is done, and what must hold

`cargo xtask soak` does everything at once, in threads of one process and in others. Three stacks, each a page cache that is smaller
than its files and a NIC on an emulated device: an 82599 with three queues on a wire that loses frames, an E810 with two, a
virtio-net with two and rings of either layout. Each has senders on every queue (single frames, runs cut by the CPU, runs cut
by the NIC), a receiver for every queue, writers through views in threads and in attached processes, somebody who syncs and
compares with the disk, one who changes a file's length, one who changes a file behind the cache's back, one who keeps holds for
seconds and drops them in another thread, and files sent without the cache (memfd, sealed, leased). Devices lose their link, stand
still, hang, write back late or never, lose and damage frames. Beside them senders and devices in processes of their own speak
vfio-user. NICs, caches, doors and processes come and go; processes are killed by SIGKILL at any moment.

What must hold, all the time:

- the bytes that arrive are those that the digest was computed over when they were held; they are bytes of the right file and place;
- a hold shows every store that had returned before it, and none that had not begun; it is the same when it is let go;
- after `sync` every store that had returned before is on the disk;
- every token comes back from its ring once;
- nobody stands still for a minute, nothing panics, nothing is refused that should not be;
- what a leak would show in does not grow: memory, descriptors, userfaultfds, threads, mappings, holds, processes, files, huge pages.

";

const FOOT: &str = "
## How it could fail, and what it does not show

`cargo test -p stillwire-soak` runs it with something wrong on purpose and sees that found: bytes that nobody holds, a store that was
never made, an actor that stands still, a panic, leaks of holds, descriptors, memory, threads and files (`--break`).

It shows nothing of real cards, of a power failure (a kill leaves the kernel's page cache as it is), or of other kernels than the one it
ran on. A seed repeats what is tried, not when the kernel runs whom.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figures;

    #[test]
    fn numbers_can_be_read() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(with_spaces(number), text);
        }
    }

    #[test]
    fn a_run_that_failed_says_so() {
        let counts = BTreeMap::from([("torn".to_owned(), 7)]);
        let at = vec![Figures::default(); 8];
        let wrong = vec!["TORN: it".to_owned()];
        let soak = Report { seed: 5, minutes: 60.0, counts, at_work: at.clone(), at_rest: at, violations: wrong };
        let crash = crash::Report { rounds: 3, ..crash::Report::of(5) };
        let text = text(&soak, &crash);
        assert!(text.contains("**This run failed:**\n\n- TORN: it") && text.contains("| torn | 7 |"), "{text}");
        assert!(text.contains("## 3 kills") && text.contains("nothing was left"));
    }

    #[test]
    fn every_name_is_one_that_is_counted() {
        let counted = crate::counts::Counts::default().each();
        let names = GROUPS.iter().flat_map(|(_, names)| names.iter());
        names.for_each(|name| assert!(counted.contains_key(*name), "{name}"));
    }
}
