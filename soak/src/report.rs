//! What is said at the end.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::figures::{self, Figures, NAMED};

/// What was done, what there was, and what went wrong.
#[derive(Serialize, Deserialize)]
pub struct Report {
    /// Of all choices.
    pub seed: u64,
    /// How long.
    pub minutes: f64,
    /// What was done.
    pub counts: BTreeMap<String, u64>,
    /// Figures while everything was at work.
    pub at_work: Vec<Figures>,
    /// Figures when everything had ended.
    pub at_rest: Vec<Figures>,
    /// What went wrong.
    pub violations: Vec<String>,
}

impl Report {
    /// As people read it.
    pub fn text(&self) -> String {
        let mut text = format!("\nsoak: {:.1} minutes, seed {}\n\ndone:\n", self.minutes, self.seed);
        for (name, count) in &self.counts {
            let _ = writeln!(text, "  {:<24}{count:>14}", name.replace('_', " "));
        }
        if !self.at_work.is_empty() {
            let _ = writeln!(text, "\nat work:\n{}", figures::table(&self.at_work, 24));
            self.trends(&mut text);
        }
        if !self.at_rest.is_empty() {
            let _ = writeln!(text, "\nat rest, after each part:\n{}", figures::table(&self.at_rest, 24));
        }
        match self.violations.as_slice() {
            [] => text.push_str("\nnothing torn, lost, stuck or leaked\n"),
            wrong => {
                let _ = writeln!(text, "\nFAILED, {} findings (seed {}):", wrong.len(), self.seed);
                wrong.iter().for_each(|what| text.push_str(&format!("  {what}\n")));
            }
        }
        text
    }

    fn trends(&self, text: &mut String) {
        let quarter = (self.at_work.len() / 4).max(1);
        let (first, last) = (&self.at_work[..quarter], &self.at_work[self.at_work.len() - quarter..]);
        let _ = writeln!(text, "\n{:>10}{:>16}{:>16}{:>16}", "", "first quarter", "last quarter", "slope an hour");
        for (name, figure) in NAMED {
            let (before, after) = (figures::median(first, figure), figures::median(last, figure));
            let slope = figures::slope_an_hour(&self.at_work, figure);
            let _ = writeln!(text, "{name:>10}{before:>16}{after:>16}{slope:>16.1}");
        }
    }
}
