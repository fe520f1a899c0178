//! Times, and what is said of them.

use std::time::{Duration, Instant};

/// Times of one thing.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Times `work`.
    pub fn of<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.add(start.elapsed());
        result
    }

    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let index = ((sorted.len() - 1) as f64 * share).round() as usize;
        sorted[index]
    }

    /// Median and the time that 99 of 100 did not exceed.
    pub fn spread(&self) -> String {
        format!("{} (99 %: {})", text(self.median()), text(self.quantile(0.99)))
    }
}

/// One time as a part of another.
pub fn ratio(a: Duration, b: Duration) -> Option<f64> {
    Some(a.as_secs_f64() / b.as_secs_f64())
}

/// A time with three digits.
pub fn text(time: Duration) -> String {
    let ns = time.as_secs_f64() * 1e9;
    let (value, unit) = match ns {
        ..1e3 => (ns, "ns"),
        ..1e6 => (ns / 1e3, "us"),
        ..1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}
