//! What the command line says.

use std::path::PathBuf;

use clap::Parser;
use stillwire_scheduler::seeded::Bug;

/// Everything at once in one thread, from one seed, with faults.
#[derive(Parser, Debug)]
#[command(name = "simulate")]
pub struct Options {
    /// How many seeds.
    #[arg(long, default_value_t = 3000)]
    pub seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// One seed alone, again: what happened, line by line, and as little of it as still fails.
    #[arg(long, value_name = "SEED")]
    pub replay: Option<u64>,
    /// Threads, with other seeds each. As many as there are processors, if it is not said.
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Puts a mistake in, and ends well when it is found: release-at-post, ..., or all of them one after the other.
    #[arg(long, value_name = "NAME")]
    pub bug: Option<String>,
    /// Where to write the figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Options {
    /// The mistakes that are asked for.
    pub fn bugs(&self) -> Result<Vec<(&'static str, Bug)>, String> {
        match self.bug.as_deref() {
            None => Ok(Vec::new()),
            Some("all") => Ok(Bug::ALL.to_vec()),
            Some(name) => {
                let found = Bug::ALL.into_iter().find(|(other, _)| *other == name);
                found.map(|bug| vec![bug]).ok_or_else(|| {
                    let names = Bug::ALL.map(|(name, _)| name).join(", ");
                    format!("'{name}' is no mistake that is known; there are {names}, and all")
                })
            }
        }
    }
}
