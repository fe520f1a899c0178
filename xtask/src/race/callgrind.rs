//! Instructions, counted by valgrind: the same on every run, however busy the machine is.
//!
//! Counted is what runs between entering and leaving a function whose name contains `timed_`: in every contestant that is
//! the body of the timed region and nothing else.

use std::path::Path;
use std::time::Duration;

use super::answer::Greeting;
use super::contestant::{Contestant, Failed};
use super::works::{Ask, Who};
use crate::run::mortal;

/// Instructions that `program` executes in the timed regions of a work, a frame or page. What callgrind and the program
/// write goes into `folder`.
///
/// # Errors
/// Says what went wrong.
pub fn count(program: &Path, ask: &Ask, folder: &Path, deadline: Duration) -> Result<f64, String> {
    let name = format!("callgrind.{}.{}", ask.who.file(), ask.work);
    let out = folder.join(format!("{name}.out"));
    // One of an earlier run must not be taken for this run's.
    let _ = std::fs::remove_file(&out);
    let mut command = mortal(Path::new("valgrind"));
    command.args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*timed_*"]);
    command.arg(format!("--callgrind-out-file={}", out.display())).arg(program);
    if ask.who == Who::Dpdk {
        // valgrind has no room for the address space that DPDK reserves for huge pages.
        command.arg("--small-pages");
    }
    let (mut contestant, greeting) = Contestant::start(command, &folder.join(format!("{name}.log")), deadline)?;
    if let Greeting::Skip(why) = greeting {
        return Err(why);
    }
    let answer = contestant.run(ask.work, &ask.line()).map_err(|failed| match failed {
        Failed::Work(why) | Failed::Gone(why) => why,
    })?;
    ask.check(&answer)?;
    contestant.finish()?;
    let text = std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    match collected(&text) {
        Some(0) => Err("callgrind counted nothing: the program has no function with timed_ in its name".into()),
        Some(count) => Ok(count as f64 / answer.frames as f64),
        None => Err(format!("{} has no totals", out.display())),
    }
}

/// The sum of all `summary:` lines, of which there is one for each thread, or `totals:` where there are none.
fn collected(text: &str) -> Option<u64> {
    let lines = |key: &str| -> Vec<u64> {
        let values = text.lines().filter_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok());
        values.collect()
    };
    let totals = lines("totals:");
    let counts = if totals.is_empty() { lines("summary:") } else { totals };
    (!counts.is_empty()).then(|| counts.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        let text = "version: 1\nevents: Ir\nsummary: 10\n\nfn=(1) timed_tx\n5 7\n\ntotals: 12345\n";
        assert_eq!(collected(text), Some(12345));
        assert_eq!(collected("events: Ir\nsummary: 99\n"), Some(99));
        assert_eq!(collected("events: Ir\ntotals: \n"), None);
        assert_eq!(collected(""), None);
    }
}
