//! From the start to the report.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::crash;
use crate::figures::{self, Figures};
use crate::ledger::Ledger;
use crate::processes::end_with_the_parent;
use crate::report::Report;
use crate::stack::{Model, Stack};
use crate::vfio;
use crate::watch::Watch;
use crate::world::{Broken, World};

/// How long, from which seed.
#[derive(clap::Args)]
#[group(skip)]
pub struct Arguments {
    /// How long, minutes.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Of all choices; without it, one of the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// Writes the report into this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Instead: kills processes one at a time at any moment, so many times, and looks at what is left.
    #[arg(long, value_name = "ROUNDS")]
    crash: Option<u64>,
    /// Seconds without progress after which an actor is stuck.
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// Does something wrong on purpose, which must be found.
    #[arg(long = "break", value_name = "WHAT")]
    broken: Option<Broken>,
    /// Set for the process that does it all, whose folder for temporary files is its own.
    #[arg(long, hide = true)]
    inner: bool,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Runs, reports, and says whether all went well.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.inner { soak(arguments) } else { watched_from_outside() }
}

/// The same in a process of its own, with a folder for temporary files of its own: whatever happens to it is told, and what
/// it leaves is seen and removed.
fn watched_from_outside() -> Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("stillwire-soak-").tempdir()?;
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).arg("--inner").env("TMPDIR", folder.path()).stdin(Stdio::piped());
    // What is free goes back to the kernel at once: what is left in memory is in use.
    command.env("MALLOC_ARENA_MAX", "2").env("MALLOC_TRIM_THRESHOLD_", "65536");
    let mut child = command.spawn()?;
    // Open until it has ended: it ends when this process does.
    let input = child.stdin.take();
    let status = child.wait()?;
    drop(input);
    let left: Vec<_> = std::fs::read_dir(folder.path())?.flatten().map(|entry| entry.path()).collect();
    if status.success() && !left.is_empty() {
        eprintln!("soak: WRONG: left behind: {left:?}");
        return Ok(ExitCode::FAILURE);
    }
    if status.code().is_none() {
        eprintln!("soak: WRONG: the process was ended by {status}");
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn soak(arguments: &Arguments) -> Result<ExitCode> {
    end_with_the_parent(|| std::process::exit(1))?;
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64 & 0xffff_ffff)
    });
    if let Some(rounds) = arguments.crash {
        return crash(arguments, seed, rounds);
    }
    let time = Duration::try_from_secs_f64(arguments.minutes * 60.0)?;
    println!(
        "soak: {:.1} minutes, seed {seed}; to repeat: cargo xtask soak --minutes {} --seed {seed}",
        arguments.minutes, arguments.minutes
    );
    let folder = tempfile::Builder::new().prefix("soak-files-").tempdir()?;
    let patience = Duration::from_secs(arguments.patience);
    let world = World::new(seed, arguments.broken, Ledger::new()?, folder.path().to_owned(), patience);
    tell_panics(&world);
    let mut soak = Soak {
        world: world.clone(),
        start: Instant::now(),
        time,
        watch: Watch::default(),
        at_work: Vec::new(),
        at_rest: Vec::new(),
    };
    soak.epochs();
    let report = soak.report(seed);
    drop(folder);
    print!("{}", report.text());
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn crash(arguments: &Arguments, seed: u64, rounds: u64) -> Result<ExitCode> {
    println!("soak: {rounds} rounds, seed {seed}; to repeat: cargo xtask soak --crash {rounds} --seed {seed}");
    let folder = tempfile::Builder::new().prefix("soak-files-").tempdir()?;
    let patience = Duration::from_secs(arguments.patience);
    let world = World::new(seed, arguments.broken, Ledger::new()?, folder.path().to_owned(), patience);
    let report = crash::run(&world, rounds);
    print!("{}", report.text());
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A panic in any thread is a failure of the run.
fn tell_panics(world: &Arc<World>) {
    let (world, usual) = (Arc::downgrade(world), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        if let Some(world) = world.upgrade() {
            world.violate(format!("a panic: {panic}"));
        }
    }));
}

struct Soak {
    world: Arc<World>,
    start: Instant,
    time: Duration,
    watch: Watch,
    at_work: Vec<Figures>,
    at_rest: Vec<Figures>,
}

impl Soak {
    /// Several times: everything begins, is at work for long, and ends. What is there at rest must be the same each time.
    fn epochs(&mut self) {
        let count = EPOCHS.min((self.time.as_secs() / 8).max(1) as u32);
        for epoch in 0..count {
            let end = self.time * (epoch + 1) / count;
            self.epoch(end);
            if self.world.has_failed() {
                return;
            }
            let rest = self.rest();
            println!("soak: at rest, epoch {} of {count}:\n{}", epoch + 1, figures::table(&[rest], 1));
            self.at_rest.push(rest);
        }
    }

    /// Everything at work until `end`, since the start.
    fn epoch(&mut self, end: Duration) {
        let world = self.world.clone();
        world.set_over(false);
        let mut threads = Vec::new();
        let mut spawn = |name: &str, work: Box<dyn FnOnce() + Send>| match std::thread::Builder::new()
            .name(name.into())
            .spawn(work)
        {
            Ok(thread) => threads.push(thread),
            Err(error) => self.world.violate(format!("starting a thread: {error}")),
        };
        // One cache lives as long as the epoch, the others come and go.
        let all = 24 * 3600 * 1000;
        let stacks = [(Model::Ixgbe, all..all + 1), (Model::Ice, 15_000..60_000), (Model::Virtio, 4_000..20_000)];
        for (number, (model, life)) in stacks.into_iter().enumerate() {
            let stack = Stack { world: world.clone(), model, first_file: number * 16, life };
            spawn(model.name(), Box::new(move || stack.run()));
        }
        let vfio = world.clone();
        spawn("vfio-user", Box::new(move || vfio::run(&vfio, 60)));
        let every = (self.time / 60).clamp(Duration::from_millis(500), Duration::from_secs(10));
        let mut sampled = Instant::now();
        let mut told = Instant::now();
        while self.start.elapsed() < end && !world.has_failed() {
            std::thread::sleep(Duration::from_millis(100));
            self.look();
            self.break_on_purpose();
            if sampled.elapsed() >= every {
                sampled = Instant::now();
                self.at_work.push(Figures::now(&world, self.start.elapsed().as_secs()));
            }
            if told.elapsed() >= Duration::from_secs(60) {
                told = Instant::now();
                self.tell();
            }
        }
        world.set_over(true);
        while threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            self.look();
        }
        // A panic was told by the hook.
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }

    /// Ends the process when somebody does not get on: who is stuck can not be waited for.
    fn look(&mut self) {
        let stuck = self.watch.look(&self.world);
        if !stuck.is_empty() {
            stuck.iter().for_each(|who| self.world.violate(format!("stuck: {who}")));
            eprintln!("{}", self.watch.dump(&self.world));
            print!("{}", self.report(self.world.seed).text());
            std::process::exit(1);
        }
    }

    fn tell(&self) {
        let counts = &self.world.counts;
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        println!(
            "soak: {:>5} s: {} frames, {} MiB, {} holds, {} stores, {} recoveries, {} killed, torn {}",
            self.start.elapsed().as_secs(),
            of(&counts.frames_received),
            of(&counts.bytes_received) >> 20,
            of(&counts.holds),
            of(&counts.stores) + of(&counts.stores_attached),
            of(&counts.recoveries),
            of(&counts.killed_writers) + of(&counts.killed_senders) + of(&counts.killed_emulators),
            of(&counts.torn),
        );
    }

    fn break_on_purpose(&self) {
        match self.world.broken {
            Some(Broken::LeakFd) => drop(std::fs::File::open("/dev/null").map(std::mem::forget)),
            Some(Broken::LeakMemory) => std::mem::forget(std::hint::black_box(vec![1u8; 256 << 10])),
            Some(Broken::LeakFile) => drop(std::fs::write(
                std::env::temp_dir().join(format!("left-{}", self.start.elapsed().as_millis())),
                "left",
            )),
            Some(Broken::LeakThread) => drop(std::thread::spawn(std::thread::park)),
            _ => {}
        }
    }

    /// The figures when all is over. What goes later than its owner (a thread that the kernel has not taken away yet) is
    /// waited for a while.
    fn rest(&self) -> Figures {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let now = Figures::now(&self.world, self.start.elapsed().as_secs());
            let is_done = match self.at_rest.first() {
                Some(first) => figures::grown_at_rest(first, &now).is_empty(),
                None => now.children == 0 && now.userfaultfds == 0,
            };
            if is_done || Instant::now() >= end {
                return now;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn report(&self, seed: u64) -> Report {
        let mut violations = self.world.violations();
        violations.extend(figures::grown_at_work(&self.at_work));
        if let [first, .., last] = &self.at_rest[..] {
            violations.extend(figures::grown_at_rest(first, last));
        }
        // Of all that there ever was.
        for rest in &self.at_rest {
            if rest.userfaultfds + rest.held_pages + rest.children > 0 {
                violations.push(format!("at rest there are userfaultfds, holds or processes: {rest:?}"));
            }
        }
        Report {
            seed,
            minutes: self.start.elapsed().as_secs_f64() / 60.0,
            counts: self.world.counts.each(),
            at_work: self.at_work.clone(),
            at_rest: self.at_rest.clone(),
            violations,
        }
    }
}

const EPOCHS: u32 = 4;
