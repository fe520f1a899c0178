//! The table at the end.

use std::fmt;

/// What was measured, in the order in which it was.
#[derive(Default)]
pub struct Table(Vec<Row>);

/// One thing that was measured.
pub struct Row {
    pub work: String,
    /// What it took here.
    pub here: String,
    /// What it is measured by; empty if by nothing.
    pub beside: String,
    /// The one divided by the other.
    pub ratio: Option<f64>,
    pub goal: Goal,
}

/// What the ratio should be.
pub enum Goal {
    None,
    AtMost(f64),
    AtLeast(f64),
    Above(f64),
}

impl Table {
    pub fn add(&mut self, row: Row) {
        // What takes long shows that it goes on.
        eprintln!("{row}");
        self.0.push(row);
    }
}

impl Goal {
    /// The goal, and whether `ratio` reaches it.
    fn judge(&self, ratio: Option<f64>) -> String {
        let (sign, goal, reached) = match *self {
            Self::None => return String::new(),
            Self::AtMost(goal) => ("≤", goal, ratio.is_some_and(|ratio| ratio <= goal)),
            Self::AtLeast(goal) => ("≥", goal, ratio.is_some_and(|ratio| ratio >= goal)),
            Self::Above(goal) => (">", goal, ratio.is_some_and(|ratio| ratio > goal)),
        };
        format!("{sign} {goal:.1}: {}", if reached { "reached" } else { "missed" })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = self.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let (work, here, beside) = (&self.work, &self.here, &self.beside);
        write!(f, "| {work} | {here} | {beside} | {ratio} | {} |", self.goal.judge(self.ratio))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| work (medians) | here | beside | ratio | goal |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        self.0.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}
