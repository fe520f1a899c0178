//! Feeds the targets on stable Rust, for a bounded time.

mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stillwire_fuzz::{TARGETS, judge, named};

#[derive(Parser)]
#[command(name = "stillwire-fuzz", about = "Feeds hostile inputs to what faces devices, peers and files.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// All targets, or those named, one after the other.
    Run(run::Options),
    /// One target in this process; what `run` starts.
    #[command(hide = true)]
    One(run::One),
    /// Inputs of a target once more.
    Replay {
        /// Its name.
        target: String,
        /// Files with one input each.
        #[arg(required = true)]
        inputs: Vec<PathBuf>,
    },
    /// The table of targets.
    List,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(options) => run::all(&options),
        Command::One(one) => run::one(&one),
        Command::Replay { target, inputs } => replay(&target, &inputs),
        Command::List => {
            TARGETS.iter().for_each(|target| println!("{:18} {}", target.name, target.what));
            ExitCode::SUCCESS
        }
    }
}

fn replay(target: &str, inputs: &[PathBuf]) -> ExitCode {
    let Some(target) = named(target) else {
        eprintln!("no target {target}; `list` names them");
        return ExitCode::FAILURE;
    };
    let mut outcome = ExitCode::SUCCESS;
    for path in inputs {
        let ended = std::fs::read(path).map_err(|error| error.to_string()).and_then(|bytes| judge(target, &bytes));
        match ended {
            Ok(()) => println!("{}: survived", path.display()),
            Err(why) => {
                println!("{}: {why}", path.display());
                outcome = ExitCode::FAILURE;
            }
        }
    }
    outcome
}
