//! Many seeds, or one of them again.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use stillwire_scheduler::seeded::{self, Bug};
use stillwire_scheduler::{Ended, Failure, Settings, run};

use crate::options::Options;
use crate::world::ledger::{self, Counts};
use crate::world::{self, Shape};

/// Does what the command line says.
pub fn main(options: &Options) -> ExitCode {
    quiet_panics();
    let bugs = match options.bugs() {
        Ok(bugs) => bugs,
        Err(why) => {
            eprintln!("simulate: {why}");
            return ExitCode::from(2);
        }
    };
    if let Some(seed) = options.replay {
        return replay(seed, bugs.first().map(|(_, bug)| *bug));
    }
    if bugs.is_empty() {
        let all = hunt(options, None);
        all.print(options);
        if let Err(why) = write(options, &all.figures(options)) {
            eprintln!("simulate: {why}");
            return ExitCode::FAILURE;
        }
        return if all.failed.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let (mut missed, mut figures) = (0, Vec::new());
    for (name, bug) in bugs {
        let all = hunt(options, Some(bug));
        let found = all.failed.as_ref();
        figures.push(json!({
            "mistake": name,
            "seeds": all.seeds,
            "found_by": found.map(|(seed, _)| seed),
            "said": found.map(|(_, failure)| &failure.what),
        }));
        match &all.failed {
            Some((seed, failure)) => println!("{name}: found by seed {seed}, of {}: {}", all.seeds, failure.what),
            None => {
                println!("{name}: NOT FOUND by {} seeds", all.seeds);
                missed += 1;
            }
        }
    }
    if let Err(why) = write(options, &json!({ "most_seeds": options.seeds, "mistakes": figures })) {
        eprintln!("simulate: {why}");
        return ExitCode::FAILURE;
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Keeps the figures where they are wanted.
fn write(options: &Options, figures: &Value) -> Result<(), String> {
    let Some(path) = &options.json else { return Ok(()) };
    let text = serde_json::to_string_pretty(figures).unwrap_or_default();
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// What many seeds came to.
#[derive(Default)]
struct All {
    seeds: u64,
    steps: u64,
    counts: Counts,
    /// How often each thing went wrong on purpose, and in how many seeds.
    faults: BTreeMap<&'static str, (u64, u64)>,
    failed: Option<(u64, Failure)>,
    took: std::time::Duration,
}

impl All {
    fn figures(&self, options: &Options) -> Value {
        let faults =
            self.faults.iter().map(|(name, (times, seeds))| json!({ "fault": name, "times": times, "seeds": seeds }));
        json!({
            "from": options.from,
            "seeds": self.seeds,
            "steps": self.steps,
            "seconds": self.took.as_secs_f64(),
            "violations": u64::from(self.failed.is_some()),
            "counts": self.counts,
            "faults": faults.collect::<Vec<_>>(),
        })
    }

    fn print(&self, options: &Options) {
        let Self { seeds, steps, counts, took, .. } = self;
        println!("simulate: {seeds} seeds from {}, {steps} steps, {:.1} s", options.from, took.as_secs_f64());
        println!("{counts:?}");
        for (name, (times, seeds)) in &self.faults {
            println!("  {times:>9} times in {seeds:>7} seeds: {name}");
        }
        if let Some((seed, failure)) = &self.failed {
            println!("seed {seed} FAILED: {}", failure.what);
            println!("to see it again: simulate --replay {seed}");
        }
    }
}

fn hunt(options: &Options, bug: Option<Bug>) -> All {
    let begun = Instant::now();
    let jobs = options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    let (next, end) = (AtomicU64::new(options.from), options.from + options.seeds);
    let all = Mutex::new(All::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                seeded::set(bug);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let answer = one(seed, None, false);
                    let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    all.seeds += 1;
                    all.counts += ledger::counts();
                    for (name, times) in ledger::faults() {
                        let (total, seeds) = all.faults.entry(name).or_default();
                        *total += times;
                        *seeds += 1;
                    }
                    match answer {
                        Ok(ended) => {
                            all.steps += ended.steps;
                            let (total, seeds) = all.faults.entry(STALLED).or_default();
                            *total += ended.stalls;
                            *seeds += u64::from(ended.stalls > 0);
                        }
                        Err(failure) => {
                            // The others end with the seed that they are at.
                            next.store(end, Ordering::Relaxed);
                            if all.failed.as_ref().is_none_or(|(other, _)| seed < *other) {
                                all.failed = Some((seed, failure));
                            }
                        }
                    }
                }
            });
        }
    });
    let mut all = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    all.took = begun.elapsed();
    all
}

/// One seed; in a thread of its own, if it may fail.
fn one(seed: u64, shape: Option<Shape>, keeps_log: bool) -> Result<Ended, Failure> {
    run(Settings { seed, most_steps: MOST_STEPS, keeps_log }, move || {
        let drawn = Shape::draw();
        world::live(&shape.unwrap_or(drawn));
    })
}

fn replay(seed: u64, bug: Option<Bug>) -> ExitCode {
    // Each in a thread of its own: what a run that fails leaves behind, stays with it.
    let one = |shape: Option<Shape>| {
        let run = std::thread::spawn(move || {
            seeded::set(bug);
            one(seed, shape, true)
        });
        run.join().unwrap_or_else(|_| unreachable!("a panic is a failure of its run"))
    };
    let drawn = std::thread::spawn(move || {
        let shape = std::sync::Arc::new(Mutex::new(None));
        let place = shape.clone();
        let _ = run(Settings { seed, most_steps: 1000, keeps_log: false }, move || {
            *place.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Shape::draw());
        });
        shape.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    });
    let Some(mut shape) = drawn.join().ok().flatten() else { return ExitCode::FAILURE };
    let (first, second) = (one(None), one(None));
    let trace = |answer: &Result<Ended, Failure>| match answer {
        Ok(ended) => ended.trace,
        Err(failure) => failure.until.trace,
    };
    if trace(&first) != trace(&second) {
        println!("seed {seed} does not do the same twice: something is not decided by the seed");
        return ExitCode::FAILURE;
    }
    let Err(mut failure) = first else {
        println!("seed {seed} is fine: {shape:?}");
        return ExitCode::SUCCESS;
    };
    let mut tries = 0;
    'shrinking: while tries < 300 {
        for smaller in shape.smaller() {
            tries += 1;
            if let Err(still) = one(Some(smaller.clone())) {
                (shape, failure) = (smaller, still);
                continue 'shrinking;
            }
        }
        break;
    }
    failure.until.log.iter().for_each(|line| println!("{line}"));
    println!("seed {seed} FAILED after {} steps: {}", failure.until.steps, failure.what);
    println!("with as little as still fails ({tries} tries): {shape:?}");
    ExitCode::FAILURE
}

/// A panic is told with its run, and not as it comes.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| {
        stillwire_scheduler::panicked(&panic.to_string());
    }));
}

const STALLED: &str = "a thread is stopped for long, the guard among them";
/// A run takes some thousands.
const MOST_STEPS: u64 = 3_000_000;
