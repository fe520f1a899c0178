//! Wires in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{QUEUE, Wire};

/// Frames under way in one direction.
type Lane = Arc<Mutex<VecDeque<Vec<u8>>>>;

fn lock(lane: &Lane) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

fn push(lane: &Lane, frame: &[u8]) {
    let mut lane = lock(lane);
    if lane.len() < QUEUE {
        lane.push_back(frame.to_vec());
    }
}

fn pop(lane: &Lane, frame: &mut Vec<u8>) -> bool {
    let found = lock(lane).pop_front();
    found.is_some_and(|found| {
        *frame = found;
        true
    })
}

/// What is sent comes back. Clones are the same wire, so that a test can look at it or put frames in.
#[derive(Clone, Default)]
pub struct Loopback(Lane);

impl Loopback {
    /// An empty wire.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Wire for Loopback {
    fn transmit(&mut self, frame: &[u8]) {
        push(&self.0, frame);
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        pop(&self.0, frame)
    }
}

/// One end of a cable between two models. There is link while the other end lives.
pub struct Cable {
    out: Lane,
    back: Lane,
}

impl Cable {
    /// Both ends.
    pub fn pair() -> (Self, Self) {
        let (there, back) = (Lane::default(), Lane::default());
        (Self { out: there.clone(), back: back.clone() }, Self { out: back, back: there })
    }
}

impl Wire for Cable {
    fn transmit(&mut self, frame: &[u8]) {
        push(&self.out, frame);
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        pop(&self.back, frame)
    }

    fn is_up(&self) -> bool {
        Arc::strong_count(&self.out) > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cable_crosses_over_and_knows_its_far_end() {
        let (mut a, mut b) = Cable::pair();
        a.transmit(b"one");
        a.transmit(b"two");
        let mut frame = Vec::new();
        assert!(b.receive(&mut frame) && frame == b"one");
        assert!(!a.receive(&mut frame));
        assert!(a.is_up());
        drop(b);
        assert!(!a.is_up());
    }

    #[test]
    fn a_full_wire_drops() {
        let mut wire = Loopback::new();
        (0..QUEUE + 1).for_each(|_| wire.transmit(b"x"));
        let mut frame = Vec::new();
        assert_eq!((0..QUEUE + 1).filter(|_| wire.receive(&mut frame)).count(), QUEUE);
    }
}
