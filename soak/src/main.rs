//! Everything at once, for as long as one likes: caches, NICs, writers, outsiders, faults, and processes that are killed.
//!
//! - `stack/`: a cache with a NIC that sends from it and everybody who is at its files;
//! - `nic/`: a NIC's lives, its senders and receivers, its faults;
//! - `vfio.rs`, `processes/`: the same with processes that are killed;
//! - `crash/`: one process at a time is killed, at any moment, and then everything is looked at;
//! - `ledger.rs`: what must be seen of every word of every file;
//! - `figures.rs`: what a leak would show in;
//! - `watch.rs`: whether everybody gets on;
//! - `run.rs`, `report.rs`: from the start to what is said at the end.
#![warn(missing_docs)]

mod counts;
mod crash;
mod document;
mod elsewhere;
mod figures;
mod ledger;
mod nic;
mod processes;
mod random;
mod report;
mod run;
mod stack;
mod tickets;
mod vfio;
mod watch;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Does everything at once, and looks whether anything is torn, lost or leaked.
#[derive(Parser)]
#[command(name = "soak", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    soak: run::Arguments,
}

/// What this program is in other processes.
#[derive(Subcommand)]
enum Other {
    /// A writer that attaches.
    #[command(hide = true)]
    Writer(processes::writer::Arguments),
    /// A device.
    #[command(hide = true)]
    Emulator(processes::emulator::Arguments),
    /// Writes docs/RELIABILITY.md.
    #[command(hide = true)]
    Document(document::Arguments),
    /// A sender over a device in another process.
    #[command(hide = true)]
    Station(processes::station::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.other {
        Some(Other::Writer(arguments)) => processes::writer::run(arguments),
        Some(Other::Emulator(arguments)) => processes::emulator::run(arguments),
        Some(Other::Station(arguments)) => processes::station::run(arguments),
        Some(Other::Document(arguments)) => document::run(arguments),
        None => run::run(&arguments.soak),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("soak: {error}");
        ExitCode::FAILURE
    })
}
