//! One target after the other, each in a process of its own: one that dies does not end the rest, and its last input is known.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stillwire_fuzz::generate::Generator;
use stillwire_fuzz::{TARGETS, Target, judge, named};

/// What is fed, and for how long.
#[derive(clap::Args)]
pub struct Options {
    /// Targets; all when none is named.
    targets: Vec<String>,
    /// For all of them together, seconds.
    #[arg(long, default_value_t = 90)]
    seconds: u64,
    /// Where the inputs come from; another makes others.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where figures, and inputs that were not survived, are written.
    #[arg(long, default_value = "target/fuzz")]
    out: PathBuf,
}

/// One target's share.
#[derive(clap::Args)]
pub struct One {
    target: String,
    #[arg(long)]
    milliseconds: u64,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    out: PathBuf,
}

/// Feeds all, tells what became of each, and writes `figures.json`.
pub fn all(options: &Options) -> ExitCode {
    let chosen: Vec<&Target> = if options.targets.is_empty() {
        TARGETS.iter().collect()
    } else {
        let unknown = options.targets.iter().find(|name| named(name).is_none());
        if let Some(unknown) = unknown {
            eprintln!("no target {unknown}; `list` names them");
            return ExitCode::FAILURE;
        }
        options.targets.iter().filter_map(|name| named(name)).collect()
    };
    if let Err(error) = std::fs::create_dir_all(&options.out) {
        eprintln!("{}: {error}; name another folder with --out", options.out.display());
        return ExitCode::FAILURE;
    }
    let share = Duration::from_secs(options.seconds) / chosen.len().max(1) as u32;
    println!("{:18} {:>10} {:>7} {:>8}  outcome", "target", "executions", "corpus", "seconds");
    let figures: Vec<Value> = chosen.iter().map(|target| feed(target, share, options)).collect();
    let held = figures.iter().all(|figure| figure["outcome"] == HELD);
    let file = options.out.join("figures.json");
    let figures = json!({ "seed": options.seed, "targets": figures });
    match std::fs::write(&file, format!("{figures:#}\n")) {
        Ok(()) => println!("figures: {}", file.display()),
        Err(error) => eprintln!("{}: {error}", file.display()),
    }
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one target in a child, and says what became of it.
fn feed(target: &Target, share: Duration, options: &Options) -> Value {
    let start = Instant::now();
    let child = std::env::current_exe().and_then(|program| {
        let mut child = Command::new(program);
        child.args(["one", target.name, "--milliseconds", &share.as_millis().to_string()]);
        child.args(["--seed", &options.seed.to_string(), "--out"]).arg(&options.out);
        child.stdout(Stdio::piped()).stderr(Stdio::piped()).output()
    });
    let (said, ended, complaint) = match child {
        Ok(child) => {
            let said = serde_json::from_slice(&child.stdout).unwrap_or(Value::Null);
            let ended = match (child.status.code(), child.status.signal()) {
                (Some(0 | 1), _) => None,
                (Some(HUNG), _) => Some(format!("did not end within {} s", DEADLINE.as_secs())),
                (_, Some(signal)) => Some(format!("died of signal {signal}")),
                (code, None) => Some(format!("left with {code:?}")),
            };
            (said, ended, String::from_utf8_lossy(&child.stderr).trim().to_owned())
        }
        Err(error) => (Value::Null, Some(error.to_string()), String::new()),
    };
    let outcome = ended.unwrap_or_else(|| said["outcome"].as_str().unwrap_or("said nothing").to_owned());
    let executions = said["executions"].as_u64().unwrap_or_else(|| counted(&options.out, target.name));
    let (corpus, seconds) = (corpus(target.name).len(), start.elapsed().as_secs_f64());
    println!("{:18} {executions:>10} {corpus:>7} {seconds:>8.1}  {outcome}", target.name);
    let mut figure = json!({
        "target": target.name, "what": target.what, "executions": executions, "corpus": corpus,
        "seconds": (seconds * 10.0).round() / 10.0, "outcome": outcome,
    });
    if outcome != HELD {
        let input = keep(&options.out, target.name);
        if !complaint.is_empty() {
            println!("    {}", complaint.replace('\n', "\n    "));
        }
        println!("    the input is {}; once more:", input.display());
        println!("    cargo run -p stillwire-fuzz -- replay {} {}", target.name, input.display());
        figure["input"] = input.display().to_string().into();
    }
    figure
}

/// Feeds one target until its time is over: the whole corpus, then as many others as there is time for.
pub fn one(options: &One) -> ExitCode {
    let Some(target) = named(&options.target) else { return ExitCode::FAILURE };
    let current = match File::create(current(&options.out, target.name)) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("{}: {error}", options.out.display());
            return ExitCode::from(2);
        }
    };
    let count = Arc::new(AtomicU64::new(0));
    watch(count.clone());
    let corpus = corpus(target.name);
    let mut generator = Generator::new(options.seed, &corpus, target.longest);
    let (start, time) = (Instant::now(), Duration::from_millis(options.milliseconds));
    let mut outcome = HELD.to_owned();
    let mut committed = corpus.iter();
    loop {
        let done = count.load(Ordering::Relaxed);
        let input = match committed.next() {
            Some(input) => input.clone(),
            // However little time there is, some are made up.
            None if start.elapsed() < time || done < corpus.len() as u64 + LEAST => generator.next_input(),
            None => break,
        };
        // Where it is found if this process dies of it: the count, the length, the input. What an earlier one left behind it stays.
        let head = [done, input.len() as u64].map(u64::to_le_bytes).concat();
        let _ = current.write_all_at(&[&head[..], &input].concat(), 0);
        let ended = judge(target, &input);
        count.fetch_add(1, Ordering::Relaxed);
        if let Err(why) = ended {
            outcome = why;
            break;
        }
    }
    println!("{}", json!({ "executions": count.load(Ordering::Relaxed), "outcome": outcome }));
    if outcome == HELD { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ends the process when one input takes too long.
fn watch(count: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let (mut seen, mut since) = (u64::MAX, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = count.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > DEADLINE {
                std::process::exit(HUNG);
            }
        }
    });
}

/// The committed inputs of a target, by name.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.iter().filter_map(|file| std::fs::read(file).ok()).collect()
}

/// Where a target's input lies while it is fed.
fn current(out: &Path, target: &str) -> PathBuf {
    out.join(format!("current-{target}"))
}

fn counted(out: &Path, target: &str) -> u64 {
    let bytes = std::fs::read(current(out, target)).unwrap_or_default();
    // Those before it, and the one that it died of.
    bytes.first_chunk().map_or(0, |count| u64::from_le_bytes(*count) + 1)
}

/// Puts the last input where it stays.
fn keep(out: &Path, target: &str) -> PathBuf {
    let bytes = std::fs::read(current(out, target)).unwrap_or_default();
    let len = bytes.get(8..16).and_then(|len| len.first_chunk()).map_or(0, |len| u64::from_le_bytes(*len) as usize);
    let input = bytes.get(16..16 + len).unwrap_or_default();
    let file = out.join(format!("{target}-{:08x}", crc32fast::hash(input)));
    let _ = std::fs::write(&file, input);
    file
}

/// Nothing was found.
const HELD: &str = "held";
/// How a target leaves that did not end.
const HUNG: i32 = 3;
/// For one input; machines are slow.
const DEADLINE: Duration = Duration::from_secs(60);
/// Inputs that are made up for each target at least.
const LEAST: u64 = 16;
