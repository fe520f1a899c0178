//! Time for devices that are stepped by their user.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The time in which a [stepped](crate::LocalDevice::stepped) device and its driver live.
pub trait Clock: Send + Sync {
    /// Now, from any moment that does not change; never less than before.
    fn now(&self) -> Duration;

    /// Lets `time` pass; [`now`](Self::now) is later by so much at least. A simulation of several parties may let the others do
    /// something meanwhile: no lock of a device is held.
    fn sleep(&self, time: Duration);
}

/// Time that passes when somebody says so.
#[derive(Default, Debug)]
pub struct VirtualClock {
    /// Since 0, ns.
    now: AtomicU64,
}

impl VirtualClock {
    /// One that stands at 0.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.now.load(Ordering::Relaxed))
    }

    fn sleep(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let add = |now: u64| Some(now.saturating_add(nanos));
        let _ = self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_when_it_is_told_to_and_ends_at_its_end() {
        let clock = VirtualClock::new();
        assert_eq!(clock.now(), Duration::ZERO);
        clock.sleep(Duration::from_millis(3));
        clock.sleep(Duration::from_nanos(1));
        assert_eq!(clock.now(), Duration::new(0, 3_000_001));
        clock.sleep(Duration::MAX);
        clock.sleep(Duration::MAX);
        assert_eq!(clock.now(), Duration::from_nanos(u64::MAX));
    }
}
