//! Kills a process at a moment from the seed, looks at what is left, and starts again at once: many times.
//!
//! - `stations.rs`: senders with a cache, over a device of their own or in another process, and writers that attach to it;
//! - `transfer.rs`: `send`, `receive` and `stillwire-emulator` as users run them;
//! - `leftovers.rs`: what nobody may leave.

mod leftovers;
mod stations;
mod transfer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::random::Random;
use crate::world::{Broken, World};
use leftovers::Leftovers;

/// What was killed how often, and what was wrong.
#[derive(Serialize, Deserialize)]
pub struct Report {
    /// Of all choices.
    pub seed: u64,
    /// Rounds.
    pub rounds: u64,
    /// How long.
    pub minutes: f64,
    /// What was killed, and how often.
    pub killed: BTreeMap<String, u64>,
    /// Stores that a sync had answered for when a process was killed, and that were looked for on the disk.
    pub acknowledged: u64,
    /// What was not done, and why.
    pub skipped: Vec<String>,
    /// What went wrong.
    pub violations: Vec<String>,
}

/// What rounds share.
struct Rounds {
    world: Arc<World>,
    random: Random,
    report: Report,
}

/// Does `rounds` of them.
pub fn run(world: &Arc<World>, rounds: u64) -> Report {
    let start = Instant::now();
    let mut all = Rounds { world: world.clone(), random: world.random("crash"), report: Report::of(world.seed) };
    let programs = transfer::Programs::find();
    if let Err(why) = &programs {
        println!("SKIPPED: kills of send, receive and stillwire-emulator: {why}");
        all.report.skipped.push(format!("send, receive and stillwire-emulator: {why}"));
    }
    let before = Leftovers::now(world);
    for round in 0..rounds {
        // Each in its turn, so that few rounds have all of them.
        let done = match (round % 7, &programs) {
            (0..=4, _) | (_, Err(_)) => stations::round(&mut all, (round % 5) as usize),
            (_, Ok(programs)) => transfer::round(&mut all, programs),
        };
        if let Err(error) = done {
            world.violate(format!("round {round}: {error}"));
        }
        all.report.rounds += 1;
        match world.broken {
            Some(Broken::LeakFile) => drop(std::fs::write(std::env::temp_dir().join("left"), "left")),
            Some(Broken::LeakFd) => drop(std::fs::File::open("/dev/null").map(std::mem::forget)),
            _ => {}
        }
        for left in Leftovers::now(world).beyond(&before) {
            world.violate(format!("round {round} has left {left}"));
        }
        if world.has_failed() {
            break;
        }
    }
    all.report.minutes = start.elapsed().as_secs_f64() / 60.0;
    all.report.violations = world.violations();
    all.report
}

impl Rounds {
    fn killed(&mut self, what: &str) {
        *self.report.killed.entry(what.to_owned()).or_default() += 1;
    }
}

impl Report {
    /// Of nothing yet.
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            rounds: 0,
            minutes: 0.0,
            killed: BTreeMap::new(),
            acknowledged: 0,
            skipped: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// As people read it.
    pub fn text(&self) -> String {
        let mut text = format!(
            "\nsoak --crash: {} rounds in {:.1} minutes, seed {}\n\nkilled:\n",
            self.rounds, self.minutes, self.seed
        );
        for (what, count) in &self.killed {
            text.push_str(&format!("  {what:<64}{count:>6}\n"));
        }
        text.push_str(&format!("  {:<60}{:>10}\n", "stores acknowledged by sync before, all found", self.acknowledged));
        match self.violations.as_slice() {
            [] => text.push_str("\nstarted again at once each time; nothing acknowledged was lost, nothing was left\n"),
            wrong => {
                text.push_str(&format!("\nFAILED (seed {}):\n", self.seed));
                wrong.iter().for_each(|what| text.push_str(&format!("  {what}\n")));
            }
        }
        text
    }
}
