//! `cargo xtask race`: our driver and cache beside DPDK's driver and the kernel, in one run.
//!
//! ```text
//!   xtask: rounds, counts, statistics, goals
//!     |  "run tx-page ring=512 ..."        a line each way, in turns; who is not asked sleeps
//!     |  {"work":"tx-page","ns":...}
//!     +-- ours     bench/src/bin/ours.rs    our driver on a NIC on paper
//!     +-- dpdk     bench/peers/dpdk         DPDK's ixgbe driver on the same
//!     +-- kernel   bench/src/bin/kernel.rs  sendfile and its like
//! ```
//!
//! Every answer says what the device counted; one whose counts are not exactly what was asked for has no figure.

mod answer;
mod callgrind;
mod contestant;
mod goals;
mod machine;
mod plot;
mod prepare;
mod rates;
mod report;
mod rounds;
mod smoke;
mod statistics;
mod table;
mod works;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use answer::Greeting;
use contestant::Contestant;
use prepare::{HugePages, NoDpdk};
use rounds::{Race, Series, Without};
use works::{Size, Who};

/// What the command line asks for.
pub struct Flags {
    rounds: usize,
    frames: u64,
    /// Count instructions as well.
    instructions: bool,
    /// Counts alone, no figures.
    smoke: bool,
    /// Renew docs/PERFORMANCE.md.
    write: bool,
    /// Where our own contestant cannot run, say that it is skipped, and succeed.
    or_skip: bool,
    install: bool,
    /// A contestant that does not answer for so long is killed.
    deadline: Duration,
}

/// Of filling a cache of 4 GiB from a slow disk, the longest that is asked for.
const DEADLINE: Duration = Duration::from_secs(120);
const ROUNDS: usize = 15;
/// Before those that count.
const WARM_UP: usize = 3;

impl Flags {
    pub fn parse(args: &[String]) -> Result<Self, String> {
        let mut flags = Self {
            rounds: ROUNDS,
            frames: works::USUAL.frames,
            instructions: false,
            smoke: false,
            write: false,
            or_skip: false,
            install: true,
            deadline: DEADLINE,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut number = || match args.next().and_then(|text| text.parse::<u64>().ok()) {
                Some(number) if number > 0 => Ok(number),
                _ => Err(format!("{arg} wants a number above 0")),
            };
            match arg.as_str() {
                "--rounds" => flags.rounds = number()? as usize,
                "--frames" => flags.frames = number()?.next_multiple_of(works::WHOLE_BURSTS),
                "--deadline" => flags.deadline = Duration::from_secs(number()?),
                "--instructions" => flags.instructions = true,
                "--smoke" => flags.smoke = true,
                "--write" => flags.write = true,
                "--or-skip" => flags.or_skip = true,
                "--no-install" => flags.install = false,
                unknown => return Err(format!("no flag `{unknown}`")),
            }
        }
        match flags.smoke && (flags.write || flags.instructions) {
            true => Err("--smoke measures nothing: it goes with neither --write nor --instructions".into()),
            false => Ok(flags),
        }
    }

    fn size(&self) -> Size {
        if self.smoke { works::SMOKE } else { Size { frames: self.frames, ..works::USUAL } }
    }
}

/// Runs it all.
pub fn run(root: &Path, target: &Path, flags: &Flags) -> ExitCode {
    match contest(root, target, flags) {
        Ok(code) => code,
        Err(Trouble::CannotBeHad(why)) if flags.or_skip => {
            println!("SKIPPED: race: {why}");
            ExitCode::SUCCESS
        }
        Err(Trouble::CannotBeHad(why) | Trouble::Failed(why)) => {
            eprintln!("xtask: race: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Why there is no result.
enum Trouble {
    /// The machine lacks what our own contestant needs.
    CannotBeHad(String),
    Failed(String),
}

/// Where contestants are, and how they are started.
struct Track {
    target: PathBuf,
    /// Results, and what is written on the way.
    folder: PathBuf,
    deadline: Duration,
}

fn contest(root: &Path, target: &Path, flags: &Flags) -> Result<ExitCode, Trouble> {
    let track = Track { target: target.to_owned(), folder: target.join("race"), deadline: flags.deadline };
    let made = std::fs::create_dir_all(&track.folder);
    made.map_err(|error| Trouble::Failed(format!("{}: {error}", track.folder.display())))?;
    let mut race = build(root, &track, flags)?;
    // Given back after the contestants have ended.
    let _pages = HugePages::provide();
    leave_out_huge(&mut race);
    let versions = track.line_up(&mut race)?;
    let (warm_up, rounds) = if flags.smoke { (0, 1) } else { (WARM_UP, flags.rounds) };
    for number in 0..warm_up + rounds {
        if !flags.smoke {
            println!("── round {} of {}", number + 1, warm_up + rounds);
        }
        race.round(number, number >= warm_up);
    }
    let mut failures = send_home(&mut race);
    failures.splice(0..0, race.failures());
    if flags.smoke {
        return Ok(smoke::report(&race, &failures));
    }
    if flags.instructions {
        failures.extend(track.count_instructions(&mut race, flags.install));
    }
    let (machine, frames) = (machine::Machine::this(root), flags.frames);
    let report = report::Report { race: &race, machine: &machine, versions: &versions, rounds, warm_up, frames };
    println!("\n{}", report.text());
    report.write(&track.folder).map_err(Trouble::Failed)?;
    // A page with a hole that should not be there would be believed.
    if flags.write && failures.is_empty() {
        report.write_docs(root).map_err(Trouble::Failed)?;
    }
    failures.iter().for_each(|failure| eprintln!("xtask: race: {failure}"));
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the contestants, and lists what they will be asked for.
fn build(root: &Path, track: &Track, flags: &Flags) -> Result<Race, Trouble> {
    println!("── building the contestants");
    prepare::build_ours(root).map_err(Trouble::Failed)?;
    let series = works::all(flags.size()).into_iter().map(Series::new).collect();
    let mut race = Race { contestants: BTreeMap::new(), series };
    match prepare::build_dpdk(root, &track.folder, flags.install) {
        Ok(()) => {}
        Err(NoDpdk::CannotBeHad(why)) => race.without(Who::Dpdk, &Without::LeftOut(why)),
        Err(NoDpdk::Failed(why)) => return Err(Trouble::Failed(why)),
    }
    leave_out_large(&mut race, flags.smoke);
    Ok(race)
}

/// Leaves out what needs the large cache, where it does not fit or is not wanted.
fn leave_out_large(race: &mut Race, smoke: bool) {
    let available = machine::memory_available();
    let why = match smoke {
        true => "its counts are those of the small cache".to_owned(),
        false if available < LARGE_NEEDS_MIB => {
            format!("a cache of {} MiB wants {LARGE_NEEDS_MIB} MiB of free memory, {available} are", works::LARGE_MIB)
        }
        false => return,
    };
    let large = race.series.iter_mut().filter(|series| series.ask.is_large());
    large.for_each(|series| series.without = Some(Without::LeftOut(why.clone())));
}

/// Leaves out what needs huge pages, where there are too few.
fn leave_out_huge(race: &mut Race) {
    let free = HugePages::free();
    if free < HUGE_NEEDS {
        let why = format!("a cache of huge pages wants {HUGE_NEEDS} of them, {free} are free");
        let huge = race.series.iter_mut().filter(|series| series.ask.is_huge());
        huge.for_each(|series| series.without = Some(Without::LeftOut(why.clone())));
    }
}

/// The file, what a cache of it has besides, and some.
const HUGE_NEEDS: u64 = 20;

/// The large cache, its file in the kernel's cache, and room for others.
const LARGE_NEEDS_MIB: u64 = 12 * 1024;

/// Ends all contestants; says who did not end well.
fn send_home(race: &mut Race) -> Vec<String> {
    let ended = std::mem::take(&mut race.contestants).into_iter();
    ended.filter_map(|(who, one)| one.finish().err().map(|why| format!("{}: {why}", who.name()))).collect()
}

impl Track {
    /// Starts all contestants, and says what they call themselves.
    fn line_up(&self, race: &mut Race) -> Result<BTreeMap<Who, String>, Trouble> {
        let mut versions = BTreeMap::new();
        for who in Who::ALL {
            if race.series.iter().all(|series| series.ask.who != who || series.without.is_some()) {
                continue;
            }
            let program = prepare::program(who, &self.target, &self.folder);
            let log = self.folder.join(format!("{}.log", who.file()));
            match Contestant::start(prepare::command(who, &program), &log, self.deadline) {
                Ok((contestant, Greeting::Ready { version, works, cannot })) => {
                    race.enter(who, contestant, &works, &cannot);
                    versions.insert(who, version);
                }
                Ok((_, Greeting::Skip(why))) if who == Who::Ours => return Err(Trouble::CannotBeHad(why)),
                Ok((_, Greeting::Skip(why))) => race.without(who, &Without::LeftOut(why)),
                Err(why) => race.without(who, &Without::Failed(why)),
            }
        }
        Ok(versions)
    }

    /// Runs every contestant again under callgrind; says what went wrong.
    fn count_instructions(&self, race: &mut Race, install: bool) -> Vec<String> {
        if !crate::setup::is_there("valgrind")
            && let Err(why) = crate::setup::package("valgrind", "valgrind", install)
        {
            return vec![format!("instructions: {why}")];
        }
        let mut failures = Vec::new();
        let asks = works::all(works::COUNTED);
        for (series, ask) in race.series.iter_mut().zip(asks).filter(|(_, ask)| ask.countable) {
            if series.without.is_some() {
                continue;
            }
            println!("── counting instructions: {} {}", ask.who.name(), ask.name);
            let program = prepare::program(ask.who, &self.target, &self.folder);
            match callgrind::count(&program, &ask, &self.folder, self.deadline) {
                Ok(count) => series.instructions = Some(count),
                Err(why) => failures.push(format!("instructions of {} {}: {why}", ask.who.name(), ask.name)),
            }
        }
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Flags, String> {
        Flags::parse(&args.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn flags() {
        let flags = parse(&[]).unwrap();
        assert_eq!((flags.rounds, flags.size().frames, flags.install), (15, 65_536, true));
        let flags = parse(&["--rounds", "5", "--frames", "1000", "--no-install", "--instructions", "--write"]).unwrap();
        assert_eq!((flags.rounds, flags.size().frames, flags.install), (5, 1024, false));
        assert_eq!(parse(&["--smoke", "--or-skip"]).unwrap().size().frames, works::SMOKE.frames);
        for wrong in [&["--rounds"][..], &["--rounds", "0"], &["--deadline", "x"], &["--fast"], &["--smoke", "--write"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_large_cache_is_left_out_with_a_reason() {
        let series = works::all(works::SMOKE).into_iter().map(Series::new).collect();
        let mut race = Race { contestants: BTreeMap::new(), series };
        leave_out_large(&mut race, true);
        let left_out = race.series.iter().filter(|series| series.without.is_some());
        assert_eq!(left_out.map(|series| series.ask.name).collect::<Vec<_>>(), [works::LARGE_CACHE, works::LARGE_BOTH]);
    }
}
