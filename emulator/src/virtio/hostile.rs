//! What a hostile device does to the used ring.

use super::queue::Used;
use super::{Misuse, Model};

impl Model {
    /// What is to be done to a queue's used ring, if anything.
    pub(super) fn misuse(&self, queue: usize) -> Option<Misuse> {
        self.faults.used.filter(|(misused, _)| usize::from(*misused) == queue).map(|(_, misuse)| misuse)
    }

    /// Gives chains back as the fault says.
    pub(super) fn push_misused(&mut self, queue: usize, used: &[Used], misuse: Misuse) {
        self.with_ring(queue, |ring, memory| match misuse {
            Misuse::IdOutOfRange => {
                let id = ring.size();
                used.iter().try_for_each(|used| ring.push_raw(memory, id, used.len))
            }
            Misuse::Twice => {
                ring.push(memory, used)?;
                ring.push(memory, used)
            }
            Misuse::LenTooLong => {
                let long: Vec<Used> = used.iter().map(|used| Used { len: used.capacity + 1, ..*used }).collect();
                ring.push(memory, &long)
            }
            Misuse::Jump(count) => {
                ring.push(memory, used)?;
                ring.jump(memory, count)
            }
            Misuse::LastOnly => used.last().map_or(Ok(()), |last| ring.push_raw(memory, last.id, last.len)),
            Misuse::Endless => ring.push(memory, used),
        });
    }

    /// The whole ring is used, at every step.
    pub(super) fn step_hostile(&mut self) {
        let Some((queue, Misuse::Endless)) = self.faults.used else { return };
        let queue = usize::from(queue);
        self.with_ring(queue, |ring, memory| (0..ring.size()).try_for_each(|id| ring.push_raw(memory, id, 0)));
        if self.queues.get(queue).is_some_and(|queue| queue.ring.is_some()) {
            self.signal(queue);
        }
    }
}
