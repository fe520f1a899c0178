//! Threads, locks and time of a simulation.
//!
//! Everything runs in one thread of the machine. A *task* is what a thread is elsewhere; whenever one touches what others may
//! touch too (an atomic, a lock), the scheduler decides by its seed who goes on. So a run is its seed: the same one
//! gives the same run, step by step.
//!
//! [`sync`], [`thread`] and [`time`] have the names of the standard library, as far as they are needed: code that takes
//! them from here instead needs no other change.
//!
//! - A run in which nobody can go on is over, and says who waits for what: a wake-up was lost, or locks were taken in a circle.
//! - Time passes a little with every step, and in one leap when all wait for it.
//! - All orders of memory are the strongest one. What weaker ones may do is for loom.
//!
//! (`shuttle` does the same, and better, for programs without time: its waits with a timeout never time out. Here
//! timeouts are half of what is looked at.)
#![warn(missing_docs)]

mod run;
pub mod seeded;
pub mod sync;
pub mod thread;
pub mod time;

pub use run::{
    Ended, Failure, Settings, abandon, chance, choose, failed, log, on_step, panicked, run, sleep, step, wait_for, wake,
};
