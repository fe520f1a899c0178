//! Counts alone: what `cargo xtask test` wants to know of a race.

use std::collections::BTreeMap;
use std::process::ExitCode;

use super::rounds::{Race, Without};

/// Prints a line a work as tests do, and how many passed.
pub fn report(race: &Race, failures: &[String]) -> ExitCode {
    let (lines, passed) = lines(race);
    let failed = race.series.iter().filter(|series| matches!(series.without, Some(Without::Failed(_)))).count();
    lines.iter().for_each(|line| println!("{line}"));
    failures.iter().for_each(|failure| println!("    {failure}"));
    // A contestant that did not end well is no work's fault.
    println!("{passed} passed, {} failed", failed.max(failures.len()));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn lines(race: &Race) -> (Vec<String>, usize) {
    let mut lines = Vec::new();
    let mut left_out: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    let mut passed = 0;
    for series in &race.series {
        let (who, name) = (series.ask.who.name(), series.ask.name);
        match &series.without {
            None => {
                passed += 1;
                lines.push(format!("test race, {who} {name}: counts are exact ... ok"));
            }
            Some(Without::Failed(_)) => lines.push(format!("test race, {who} {name}: counts are exact ... FAILED")),
            Some(Without::LeftOut(why)) => left_out.entry((who, why)).or_default().push(name),
        }
    }
    let skips =
        left_out.into_iter().map(|((who, why), names)| format!("SKIPPED: race, {who} {}: {why}", names.join(", ")));
    lines.extend(skips);
    (lines, passed)
}

#[cfg(test)]
mod tests {
    use super::super::goals::tests::race;
    use super::super::works::Who;
    use super::*;

    #[test]
    fn a_line_a_work_and_a_line_a_reason() {
        let mut race = race(1.0, &[]);
        let all = race.series.len();
        race.series[0].without = Some(Without::Failed("counted wrongly".into()));
        race.without(Who::Dpdk, &Without::LeftOut("no huge pages".into()));
        let (lines, passed) = lines(&race);
        assert_eq!(passed, all - 6);
        assert!(lines.contains(&"test race, ours tx60: counts are exact ... FAILED".into()), "{lines:?}");
        assert!(lines.contains(&"test race, ours tx-page: counts are exact ... ok".into()), "{lines:?}");
        let skip = "SKIPPED: race, DPDK tx60, tx60-full, tx-page, rx60, rx60-scatter: no huge pages";
        assert_eq!(lines.last().map(String::as_str), Some(skip));
    }
}
