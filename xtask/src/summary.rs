//! What was passed, failed and skipped over all steps.

use std::collections::BTreeMap;
use std::path::Path;

use crate::run::Outcome;
use crate::steps::Step;

/// Sums over all steps.
#[derive(Default)]
pub struct Summary {
    passed: u64,
    failed: u64,
    /// What was skipped → why. A test that runs in several steps skips once.
    skipped: BTreeMap<String, String>,
    /// Tests marked `#[ignore]` that no step has run yet → why.
    ignored: BTreeMap<String, String>,
    failed_steps: Vec<&'static str>,
    failed_before: u64,
}

impl Summary {
    /// Notes that `what` is not tested.
    pub fn skip(&mut self, what: &str, why: String) {
        self.skipped.entry(what.to_string()).or_insert(why);
    }

    /// Reads one line of a step's output.
    pub fn line(&mut self, line: &str) {
        let line = without_colour(line);
        let line = line.trim();
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
        } else if let Some((passed, failed)) = closing(line) {
            self.passed += passed;
            self.failed += failed;
        } else if let Some(skip) = line.strip_prefix(SKIPPED) {
            self.skip_line(skip);
        } else if let Some((name, how)) = line.strip_prefix("test ").and_then(|test| test.rsplit_once(" ... ")) {
            let name = name.trim_end_matches(" - should panic").to_string();
            if let Some(why) = how.strip_prefix("ignored") {
                let why = why.trim_start_matches(", ");
                let why = if why.is_empty() { "marked #[ignore]" } else { why };
                self.ignored.insert(name, why.to_string());
            } else {
                self.ignored.remove(&name);
            }
        }
    }

    /// Tests that ran so far.
    pub fn tests(&self) -> u64 {
        self.passed + self.failed
    }

    /// Notes how a step ended.
    pub fn ended(&mut self, step: &Step, outcome: &Outcome) {
        if !outcome.success {
            self.failed_steps.push(step.name);
            // Formatting and lints have no tests to count, and must not read as `0 failed`.
            if self.failed == self.failed_before {
                self.failed += 1;
            }
        }
        self.failed_before = self.failed;
    }

    /// Reads what tests have written to the file that the environment variable `STILLWIRE_SKIPS` names.
    pub fn read_skips(&mut self, file: &Path) {
        let Ok(text) = std::fs::read_to_string(file) else { return };
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            self.skip_line(line.trim().trim_start_matches(SKIPPED));
        }
        // It has been read; a leftover in the target directory harms nobody.
        let _ = std::fs::remove_file(file);
    }

    /// Whether everything that ran went well.
    pub fn is_good(&self) -> bool {
        self.failed == 0 && self.failed_steps.is_empty()
    }

    pub fn print(&self) {
        println!();
        if !self.failed_steps.is_empty() {
            println!("Failed steps: {}", self.failed_steps.join(", "));
        }
        for (what, why) in self.skipped.iter().chain(&self.ignored) {
            println!("{SKIPPED}{what}: {why}");
        }
        let skipped = self.skipped.len() + self.ignored.len();
        println!("{} passed, {} failed, {skipped} skipped", self.passed, self.failed);
    }

    fn skip_line(&mut self, skip: &str) {
        let (what, why) = skip.trim().split_once(": ").unwrap_or((skip, "no reason given"));
        self.skip(what, why.to_string());
    }
}

/// The counts of `3 passed, 0 failed`, the closing line of `cargo xtask qemu`, and nothing else on the line.
fn closing(line: &str) -> Option<(u64, u64)> {
    let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
    Some((passed.parse().ok()?, failed.parse().ok()?))
}

/// The number before `word` in `ok. 3 passed; 0 failed; ...`.
fn count(counts: &str, word: &str) -> u64 {
    let words: Vec<&str> = counts.split_whitespace().collect();
    let before = words.windows(2).find(|pair| pair[1].trim_end_matches(';') == word);
    before.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

/// Without escape sequences such as `ESC [ 3 2 m`.
fn without_colour(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let mut plain = parts.next().unwrap_or_default().to_string();
    for part in parts {
        plain.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    plain
}

const SKIPPED: &str = "SKIPPED: ";

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lines: &[&str]) -> Summary {
        let mut summary = Summary::default();
        lines.iter().for_each(|line| summary.line(line));
        summary
    }

    #[test]
    fn results_add_up() {
        let summary = after(&[
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
            "test result: \x1b[31mFAILED\x1b[0m. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n",
            "something says test result: 7 passed",
            "65 passed, 1 failed\n",
            "qemu: 65 passed, 1 failed",
        ]);
        assert_eq!((summary.passed, summary.failed), (78, 3));
        assert!(!summary.is_good());
    }

    #[test]
    fn ignored_tests_count_until_a_step_runs_them() {
        let lines = [
            "test a ... ignored",
            "test b ... ignored, takes a minute",
            "test lib.rs - c (line 3) ... ignored",
            "test a ... ok",
        ];
        let ignored = after(&lines).ignored;
        let ignored: Vec<_> = ignored.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
        assert_eq!(ignored, [("b", "takes a minute"), ("lib.rs - c (line 3)", "marked #[ignore]")]);
    }

    #[test]
    fn skips_come_from_lines_and_from_the_file_and_count_once() {
        let mut summary = after(&["SKIPPED: tap: not root\n", "SKIPPED: tap: not root\n"]);
        let file = std::env::temp_dir().join(format!("xtask-skips-test-{}", std::process::id()));
        std::fs::write(&file, "SKIPPED: tap: not root\nSKIPPED: tshark: not installed: get it\n\npcap: odd\n").unwrap();
        summary.read_skips(&file);
        assert!(!file.exists());
        let skipped: Vec<_> = summary.skipped.iter().map(|(what, why)| (what.as_str(), why.as_str())).collect();
        assert_eq!(skipped, [("pcap", "odd"), ("tap", "not root"), ("tshark", "not installed: get it")]);
        assert!(summary.is_good());
    }

    #[test]
    fn a_step_that_fails_without_tests_counts_as_one() {
        let mut summary = after(&["test result: FAILED. 1 passed; 2 failed; 0 ignored"]);
        let outcome = Outcome { success: false, how: String::new(), took: std::time::Duration::ZERO };
        let steps = crate::steps::all(Path::new("t"), true);
        summary.ended(&steps[2], &outcome);
        assert_eq!(summary.failed, 2);
        summary.ended(&steps[0], &outcome);
        assert_eq!((summary.failed, summary.failed_steps.len()), (3, 2));
    }
}
