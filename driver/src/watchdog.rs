//! Whether a transmit queue hangs. Pure: it is told the time and what was seen, and reads no clock and no register.

use std::time::Duration;

/// Tells a transmit queue that hangs from one that has nothing to do, has no link, or was not looked at.
///
/// There is one for each queue; after a [reset](crate::Nic::reset) a new one is made. What counts against the device is time
/// between two looks that follow each other within half of the time it is given, both of them with link and with work, and no
/// progress at the second. So a thread that was away (a slow disk, a stopped process) says nothing about the device, and a queue
/// that is looked at often enough is found out when it has stood still for that time and one gap between looks more.
///
/// ```
/// # use std::time::Duration;
/// # use stillwire_driver::{Look, Verdict, Watchdog};
/// let mut watchdog = Watchdog::new(Duration::from_secs(2));
/// let look = Look { in_flight: 7, completed: 100, link_up: true };
/// assert_eq!(watchdog.look(Duration::from_secs(10), look), Verdict::Fine);
/// assert_eq!(watchdog.look(Duration::from_secs(11), look), Verdict::Fine);
/// assert_eq!(watchdog.look(Duration::from_secs(12), look), Verdict::Hung(Duration::from_secs(2)));
/// ```
#[derive(Clone, Debug)]
pub struct Watchdog {
    hang_after: Duration,
    last: Option<(Duration, Look)>,
    /// Time that counts against the device since it last got on.
    stuck: Duration,
    down_since: Option<Duration>,
}

/// What is seen of a transmit queue, just after a [reclaim](crate::TxQueue::reclaim).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Descriptors that the device has and is not done with.
    pub in_flight: usize,
    /// Descriptors that were ever reclaimed: [`reclaim`](crate::TxQueue::reclaim)'s returns, added up.
    pub completed: u64,
    /// What [`Nic::link`](crate::Nic::link) says.
    pub link_up: bool,
}

/// What a [`Watchdog`] makes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing speaks against the device.
    Fine,
    /// The link has been down for so long. That is no hang: what is in the ring waits for it.
    LinkDown(Duration),
    /// The device has work and link, and has completed nothing for so long.
    Hung(Duration),
}

impl Watchdog {
    /// One that lets the device stand still for `hang_after`.
    pub fn new(hang_after: Duration) -> Self {
        Self { hang_after, last: None, stuck: Duration::ZERO, down_since: None }
    }

    /// Judges what is seen at `now`, counted from any moment that stays the same.
    pub fn look(&mut self, now: Duration, look: Look) -> Verdict {
        let last = self.last.replace((now, look));
        if !look.link_up {
            let since = *self.down_since.get_or_insert(now);
            return Verdict::LinkDown(now.saturating_sub(since));
        }
        self.down_since = None;
        match last {
            Some((then, before)) if before.waits() && look.waits() && before.completed == look.completed => {
                let gap = now.saturating_sub(then);
                if gap <= self.hang_after / 2 {
                    self.stuck += gap;
                }
            }
            _ => self.stuck = Duration::ZERO,
        }
        if look.waits() && self.stuck >= self.hang_after { Verdict::Hung(self.stuck) } else { Verdict::Fine }
    }
}

impl Look {
    /// Whether the device could get on.
    fn waits(&self) -> bool {
        self.link_up && self.in_flight > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIVEN: Duration = Duration::from_millis(1000);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Looks at (time, in flight, completed, link) in turn; the last verdict.
    fn check(looks: &[(u64, usize, u64, bool)], expect: Verdict) {
        let mut watchdog = Watchdog::new(GIVEN);
        let verdicts = looks
            .iter()
            .map(|&(at, in_flight, completed, link_up)| watchdog.look(ms(at), Look { in_flight, completed, link_up }));
        assert_eq!(verdicts.last(), Some(expect), "{looks:?}");
    }

    #[test]
    fn what_is_a_hang_and_what_is_not() {
        let steady = [(0, 5, 9, true), (400, 5, 9, true), (800, 5, 9, true), (1000, 5, 9, true)];
        check(&steady, Verdict::Hung(ms(1000)));
        check(&steady[..3], Verdict::Fine);
        // Progress, an empty ring, and work that came just now.
        check(&[&steady[..], &[(1100, 5, 10, true)]].concat(), Verdict::Fine);
        check(&[&steady[..], &[(1100, 0, 9, true)]].concat(), Verdict::Fine);
        check(&[(0, 0, 9, true), (400, 0, 9, true), (800, 0, 9, true), (1200, 5, 9, true)], Verdict::Fine);
        // Away for longer than half the time, twice.
        check(&[(0, 5, 9, true), (900, 5, 9, true), (1800, 5, 9, true)], Verdict::Fine);
        // Down, and up again: time begins anew.
        let down = [&steady[..], &[(1100, 5, 9, false), (1500, 5, 9, false)]].concat();
        check(&down, Verdict::LinkDown(ms(400)));
        check(&[&down[..], &[(1600, 5, 9, true), (2000, 5, 9, true)]].concat(), Verdict::Fine);
        let again = [(1600, 5, 9, true), (2100, 5, 9, true), (2600, 5, 9, true)];
        check(&[&down[..], &again].concat(), Verdict::Hung(ms(1000)));
        check(&[(0, 0, 0, false)], Verdict::LinkDown(ms(0)));
    }

    /// The verdict from all that was ever seen, from the newest look back.
    fn judged_by_all(looks: &[(Duration, Look)]) -> Verdict {
        let Some((now, newest)) = looks.last() else { return Verdict::Fine };
        if !newest.link_up {
            let down = looks.iter().rev().take_while(|(_, look)| !look.link_up);
            return Verdict::LinkDown(*now - down.last().map_or(*now, |(at, _)| *at));
        }
        let mut against = Duration::ZERO;
        for pair in looks.windows(2).rev() {
            let [(then, before), (at, after)] = pair else { unreachable!() };
            let able = [before, after].iter().all(|look| look.link_up && look.in_flight != 0);
            if !able || before.completed != after.completed {
                break;
            }
            let gap = *at - *then;
            against += if gap > GIVEN / 2 { Duration::ZERO } else { gap };
        }
        if against >= GIVEN && newest.in_flight > 0 { Verdict::Hung(against) } else { Verdict::Fine }
    }

    fn looks() -> impl Strategy<Value = Vec<(u64, usize, u64, bool)>> {
        // Mostly with work, mostly without progress, mostly with link, or hangs would be rare.
        let look = (0..700u64, prop_oneof![1 => Just(0usize), 9 => 1..9usize]);
        let more = (prop_oneof![9 => Just(0u64), 1 => 1..9u64], prop::bool::weighted(0.9));
        prop::collection::vec((look, more).prop_map(|((gap, work), (done, up))| (gap, work, done, up)), 1..60)
    }

    proptest! {
        #[test]
        fn agrees_with_one_who_remembers_everything(looks in looks()) {
            let (mut watchdog, mut seen) = (Watchdog::new(GIVEN), Vec::new());
            let (mut now, mut completed) = (Duration::ZERO, 0);
            for (gap, in_flight, done, link_up) in looks {
                now += ms(gap);
                completed += done;
                let look = Look { in_flight, completed, link_up };
                seen.push((now, look));
                prop_assert_eq!(watchdog.look(now, look), judged_by_all(&seen));
            }
        }

        /// Whatever went before, and however it is looked at, as long as often enough.
        #[test]
        fn a_hang_is_found_within_the_time_given(before in looks(), gaps in prop::collection::vec(1..=500u64, 1..200)) {
            let mut watchdog = Watchdog::new(GIVEN);
            let (mut now, mut completed) = (Duration::ZERO, 0);
            for (gap, in_flight, done, link_up) in before {
                now += ms(gap);
                completed += done;
                watchdog.look(now, Look { in_flight, completed, link_up });
            }
            let stuck = Look { in_flight: 3, completed: completed + 1, link_up: true };
            let since = now;
            watchdog.look(now, stuck);
            for gap in gaps {
                now += ms(gap);
                let hung = matches!(watchdog.look(now, stuck), Verdict::Hung(_));
                prop_assert_eq!(hung, now - since >= GIVEN);
            }
        }
    }
}
