//! Each token comes back exactly once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Tickets that are out, by number.
pub struct Tickets {
    /// How often each number was given out and came back: odd while it is out.
    turns: Vec<AtomicU32>,
    free: Mutex<Vec<u32>>,
    twice: AtomicU32,
}

/// Travels with a token; it comes back when it is dropped.
pub struct Ticket {
    tickets: Arc<Tickets>,
    number: u32,
    turn: u32,
}

impl Tickets {
    /// `count` of them.
    pub fn new(count: u32) -> Arc<Self> {
        let turns = (0..count).map(|_| AtomicU32::new(0)).collect();
        Arc::new(Self { turns, free: Mutex::new((0..count).collect()), twice: AtomicU32::new(0) })
    }

    /// One of them; `None` when all are out.
    pub fn take(self: &Arc<Self>) -> Option<Ticket> {
        let number = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        let turn = self.turns[number as usize].fetch_add(1, Ordering::AcqRel) + 1;
        Some(Ticket { tickets: self.clone(), number, turn })
    }

    /// How many are out.
    pub fn out(&self) -> usize {
        self.turns.iter().filter(|turn| turn.load(Ordering::Acquire) % 2 == 1).count()
    }

    /// How many came back that were not out.
    pub fn twice(&self) -> u32 {
        self.twice.load(Ordering::Relaxed)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let turn = &self.tickets.turns[self.number as usize];
        match turn.compare_exchange(self.turn, self.turn.wrapping_add(1), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => self.tickets.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.number),
            Err(_) => drop(self.tickets.twice.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_out_once_and_back_once() {
        let tickets = Tickets::new(2);
        let (one, two) = (tickets.take().unwrap(), tickets.take().unwrap());
        assert!(tickets.take().is_none() && tickets.out() == 2);
        let twin = Ticket { tickets: tickets.clone(), number: one.number, turn: one.turn };
        drop(one);
        assert_eq!((tickets.out(), tickets.twice()), (1, 0));
        // As if a ring had handed out its token twice.
        drop(twin);
        assert_eq!((tickets.out(), tickets.twice()), (1, 1));
        drop(two);
        assert_eq!(tickets.out(), 0);
    }
}
