//! A NIC that hangs or has lost its link, and how it is brought back.

use std::time::{Duration, Instant};

use stillwire_driver::{Look, Returned, Verdict, Watchdog};

use super::{ASK_EVERY, LINK_GRACE, MOST_RESETS, Patience, Queues, Station, stopped};
use crate::station::Cargo;
use crate::{Error, Result};

/// What is known of a transmit queue.
pub(super) struct Watch {
    dog: Watchdog,
    /// Descriptors that were ever reclaimed.
    completed: u64,
    /// Its owner's turns when it was last looked at.
    turns: Option<u64>,
    /// Resets because of it, since the last descriptor.
    in_vain: u32,
}

impl Watch {
    pub(super) fn new(patience: Patience) -> Self {
        Self { dog: Watchdog::new(patience.hang_after), completed: 0, turns: None, in_vain: 0 }
    }

    /// Judges what is seen at `now`. `turns` is how often an owner other than us has looked at its ring.
    fn judge(&mut self, now: Duration, look: Look, turns: Option<u64>) -> Verdict {
        // An owner that was away has not looked whether the device got on: that says nothing against the device.
        if turns.is_some() && std::mem::replace(&mut self.turns, turns) == turns {
            return Verdict::Fine;
        }
        if std::mem::replace(&mut self.completed, look.completed) != look.completed {
            self.in_vain = 0;
        }
        self.dog.look(now, look)
    }
}

impl Station {
    /// Notices a NIC that is gone, hangs, or has no link; `reclaimed` descriptors came back in our own ring.
    pub(super) fn watch(&mut self, reclaimed: usize) -> Result<()> {
        self.completed += reclaimed as u64;
        if self.asked.elapsed() < ASK_EVERY.min(self.patience.hang_after / 8) {
            return Ok(());
        }
        self.asked = Instant::now();
        let link_up = self.nic.link()?.up;
        for queue in 0..self.watches.len() {
            match self.look(queue, link_up)? {
                Verdict::Fine => {}
                Verdict::LinkDown(time) if time < LINK_GRACE || !self.needs_link => {}
                Verdict::Hung(waited) if self.watches[queue].in_vain >= MOST_RESETS => {
                    let (device, seconds, resets) = (self.name.clone(), waited.as_secs_f64(), MOST_RESETS);
                    let tokens = self.tokens();
                    return Err(Error::Hang { device, seconds, tokens, resets });
                }
                Verdict::Hung(waited) => {
                    tracing::warn!(queue, ?waited, "a transmit queue hangs");
                    self.watches[queue].in_vain += 1;
                    return self.recover();
                }
                // Writers must not wait for a cable.
                Verdict::LinkDown(_) => return self.recover(),
            }
        }
        Ok(())
    }

    /// Judges one transmit queue: ours, or that of somebody in the crew.
    fn look(&mut self, queue: usize, link_up: bool) -> Result<Verdict> {
        let (descriptors, completed) = (self.descriptors(), self.completed);
        let (in_flight, completed, turns) = match (queue, &self.crew) {
            (0, _) => (descriptors - self.tx()?.free(), completed, None),
            (_, Some(crew)) => {
                let seen = crew.seen(queue);
                (seen.level.in_flight, seen.completed, Some(seen.turns))
            }
            // Nothing is posted there without a crew.
            (_, None) => return Ok(Verdict::Fine),
        };
        let look = Look { in_flight, completed, link_up };
        Ok(self.watches[queue].judge(self.start.elapsed(), look, turns))
    }

    /// File runs and buffers that the NIC has.
    fn tokens(&self) -> usize {
        let ours = self.queues.as_ref().map_or(0, |queues| queues.tx.in_flight());
        ours + self.crew.iter().flat_map(|crew| crew.levels()).map(|level| level.tokens).sum::<usize>()
    }

    /// Resets the NIC and waits for its link. Holds are released behind the proof that the device is quiet.
    fn recover(&mut self) -> Result<()> {
        let start = Instant::now();
        let Some(queues) = self.queues.take() else { return Err(stopped(&self.name)) };
        self.dropped += queues.rx.iter().map(|rx| rx.dropped()).sum::<u64>();
        let not_sent = &mut self.not_sent;
        // First of all the queues that others have: the driver wants them all.
        let mut tx = vec![queues.tx];
        tx.extend(queues.spare);
        if let Some(crew) = &mut self.crew {
            tx.extend(crew.recall(|range| not_sent.push(range))?);
        }
        let mut outcome = self.nic.reset(tx, queues.rx, |_, returned| {
            if let Returned::NotSent(cargo) = returned {
                not_sent.extend(cargo.file_range());
            }
        });
        for _ in 1..MOST_RESETS {
            match outcome {
                Ok(()) | Err(stillwire_driver::Error::NotQuiet { .. }) => break,
                Err(_) => outcome = self.nic.reset::<Cargo>([], [], |_, _| ()),
            }
        }
        outcome?;
        self.nic.wait_for_link(self.patience.link)?;
        let mut queues = Queues::of(&self.nic)?;
        if let Some(crew) = &mut self.crew {
            crew.equip(std::mem::take(&mut queues.spare))?;
        }
        self.queues = Some(queues);
        for watch in &mut self.watches {
            watch.dog = Watchdog::new(self.patience.hang_after);
        }
        self.away += start.elapsed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { hang_after: Duration::from_secs(1), link: Duration::from_secs(1) };

    /// Looks ten times a second for three seconds; the turns of the owner, and what it completed, at each.
    fn verdicts(seen: impl Fn(u64) -> (u64, u64)) -> (Vec<Verdict>, Watch) {
        let mut watch = Watch::new(PATIENCE);
        let mut look = |tenth: u64| {
            let (turns, completed) = seen(tenth);
            let look = Look { in_flight: 5, completed, link_up: true };
            watch.judge(Duration::from_millis(100 * tenth), look, Some(turns))
        };
        ((0..30).map(&mut look).collect(), watch)
    }

    #[test]
    fn a_queue_hangs_when_its_owner_looks_and_nothing_comes() {
        let (verdicts, _) = verdicts(|tenth| (tenth, 7));
        assert!(verdicts[..9].iter().all(|verdict| *verdict == Verdict::Fine), "{verdicts:?}");
        assert!(matches!(verdicts[29], Verdict::Hung(_)), "{verdicts:?}");
    }

    #[test]
    fn an_owner_that_is_away_says_nothing_against_its_queue() {
        let (away, _) = verdicts(|_| (1, 7));
        assert!(away.iter().all(|verdict| *verdict == Verdict::Fine), "{away:?}");
        // It comes back for a moment, and goes again.
        let (now_and_then, _) = verdicts(|tenth| (tenth / 8, 7));
        assert!(now_and_then.iter().all(|verdict| *verdict == Verdict::Fine), "{now_and_then:?}");
    }

    #[test]
    fn resets_were_in_vain_until_the_queue_itself_gets_on() {
        let mut watch = Watch::new(PATIENCE);
        let look = |watch: &mut Watch, turns, completed| {
            watch.judge(Duration::ZERO, Look { in_flight: 5, completed, link_up: true }, Some(turns))
        };
        look(&mut watch, 1, 3);
        watch.in_vain = 2;
        look(&mut watch, 2, 3);
        assert_eq!(watch.in_vain, 2);
        look(&mut watch, 3, 4);
        assert_eq!(watch.in_vain, 0);
    }
}
