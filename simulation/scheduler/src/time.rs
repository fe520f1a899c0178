//! Time of the run, by the names of `std::time`.

use std::ops::{Add, Sub};

pub use std::time::Duration;

use crate::run;

/// Time that has passed in the run; none outside of one.
pub fn now() -> Duration {
    Instant::now().0
}

/// A moment of the run; outside of one, all moments are the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Instant(Duration);

impl Instant {
    /// This one.
    pub fn now() -> Self {
        Self(if run::is_active() { run::now() } else { Duration::ZERO })
    }

    /// Time from the run's beginning to this moment.
    pub fn since_start(&self) -> Duration {
        self.0
    }

    /// Time since then.
    pub fn elapsed(&self) -> Duration {
        Self::now().saturating_duration_since(*self)
    }

    /// Time from an earlier moment to this one; none if it is later.
    pub fn saturating_duration_since(&self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The same.
    pub fn duration_since(&self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}
