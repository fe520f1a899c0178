//! One door for development: `cargo xtask test` formats, lints and tests everything, and says what it could not test.

mod bind;
mod fuzz;
mod qemu;
mod race;
mod run;
mod sanitize;
mod setup;
mod simulate;
mod soak;
mod steps;
mod summary;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use run::Outcome;
use steps::Step;
use summary::Summary;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, flags) = args.split_first().map_or(("help", &[][..]), |(first, rest)| (first.as_str(), rest));
    match command {
        "bind" => return told("bind", bind::bind(&bind::Paths::of_machine(), flags)),
        "unbind" => return told("unbind", bind::unbind(&bind::Paths::of_machine(), flags)),
        "traffic" => return told("traffic", qemu::traffic::run(flags).map(|said| println!("{said}"))),
        "qemu" => {
            return match qemu::Flags::parse(flags) {
                Ok(flags) => qemu::run(&root(), &target(), &flags),
                Err(why) => complain(&why),
            };
        }
        "race" => {
            return match race::Flags::parse(flags) {
                Ok(flags) => race::run(&root(), &target(), &flags),
                Err(why) => complain(&why),
            };
        }
        "fuzz" => {
            return match fuzz::Flags::parse(flags) {
                Ok(flags) => fuzz::fuzz(&root(), &target(), &flags),
                Err(why) => complain(&why),
            };
        }
        "sanitize" | "miri" if !flags.is_empty() => return complain(&format!("{command} has no flags")),
        "sanitize" => return sanitize::sanitize(&root(), &target()),
        "miri" => return sanitize::miri(&root()),
        "simulate" => return simulate::run(&root(), &target(), flags),
        "soak" => return soak::run(&root(), &target(), flags),
        _ => {}
    }
    match (command, Flags::parse(flags)) {
        ("test" | "prepush", Ok(flags)) => test(&flags),
        ("help" | "--help" | "-h", _) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        ("test" | "prepush", Err(unknown)) => complain(&format!("no flag `{unknown}`")),
        (unknown, _) => complain(&format!("no subcommand `{unknown}`")),
    }
}

/// What the command line asks for.
#[derive(Default)]
struct Flags {
    keep_going: bool,
    no_install: bool,
}

impl Flags {
    fn parse(args: &[String]) -> Result<Flags, &str> {
        let mut flags = Flags::default();
        for arg in args {
            match arg.as_str() {
                "--keep-going" => flags.keep_going = true,
                "--no-install" => flags.no_install = true,
                unknown => return Err(unknown),
            }
        }
        Ok(flags)
    }
}

fn test(flags: &Flags) -> ExitCode {
    let (root, target) = (root(), target());
    let skips = target.join(format!("xtask-skips-{}.txt", std::process::id()));
    let mut summary = Summary::default();
    setup::tools(!flags.no_install, &mut summary);
    for step in steps::all(&target, !flags.no_install) {
        if let Some(why) = step.not_here(&root) {
            println!("\n── {}: left out: {why}", step.name);
            summary.skip(step.name, why);
            continue;
        }
        println!("\n── {}: {}", step.name, step.command_line());
        let outcome = run::run(&step, &root, &skips, &mut summary);
        report(&step, &outcome);
        summary.ended(&step, &outcome);
        if !outcome.success && !flags.keep_going {
            break;
        }
    }
    summary.read_skips(&skips);
    summary.print();
    if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(step: &Step, outcome: &Outcome) {
    let seconds = outcome.took.as_secs_f64();
    if outcome.success {
        println!("── {}: ok, {seconds:.1} s", step.name);
    } else {
        println!("── {}: FAILED after {seconds:.1} s ({}); to repeat it:", step.name, outcome.how);
        println!("   {}", step.command_line());
    }
}

/// The workspace's folder, wherever the command was given.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo writes.
fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

fn told(command: &str, outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {command}: {why}");
            ExitCode::FAILURE
        }
    }
}

fn complain(what: &str) -> ExitCode {
    eprint!("xtask: {what}\n\n{HELP}");
    ExitCode::FAILURE
}

const HELP: &str = "\
One door for development.

cargo xtask test     Install what tests need (as root, where apt-get is), then check the formatting, lint,
                     and run all unit, integration, doc, loom and end-to-end tests.
cargo xtask prepush  The same, before you push.
cargo xtask qemu     Prove models and driver in a virtual machine: the stock ixgbe and virtio_net drivers on our models,
                     our driver on the kernel's VFIO. Fetches QEMU and a kernel into target/qemu (or $STILLWIRE_CACHE), installs
                     nothing; uses an installed QEMU of 10.1 or later ($STILLWIRE_QEMU names another).
                     --shell gives a shell in such a machine instead; --deadline SECONDS kills a guest that takes
                     longer (600); --only NAME runs one scenario: 'stock driver', 'stock virtio driver', 'our driver'.
cargo xtask race     Our driver and page cache beside DPDK's driver and the kernel, in one run: a table with ratios and goals,
                     and race.json, race.svg and race.html in target/race. Needs libdpdk-dev, pkg-config and huge pages;
                     as root, it installs the former and lends itself the latter. Who cannot run here is left out, with
                     the reason.
                     --rounds N (15); --frames N a run (65536); --instructions counts them as well, by valgrind;
                     --write renews docs/PERFORMANCE.md and docs/performance.svg; --smoke checks counts alone;
                     --deadline SECONDS kills a contestant that does not answer for longer (120).
cargo xtask fuzz [TARGET ...]
                     Feed hostile inputs to what faces devices, peers and files, on stable Rust, for 90 s in all; figures and
                     inputs that were not survived are in target/fuzz.
                     --seconds N; --seed N makes other inputs; --libfuzzer has libFuzzer look for them, with AddressSanitizer, two
                     minutes for each target (needs a nightly toolchain, cargo-fuzz, a C++ compiler).
cargo xtask sanitize The emulated send under AddressSanitizer (where there is a nightly toolchain) and under valgrind (where that is
                     installed).
cargo xtask miri     Tests of pure modules in Miri, where the nightly toolchain has it.
cargo xtask simulate Everything at once in one thread: cache, driver, device, wire and receiver, from one seed, with faults. A seed
                     that fails says how to see it again.
                     --seeds N (3000); --from SEED; --replay SEED does one again and makes it smaller; --bug NAME puts a mistake
                     in that must be found ('all': each of them); figures are in target/reliability.
cargo xtask soak     Everything at once: caches, NICs, writers in threads and processes, faults from a seed, processes that are killed;
                     nothing may be torn, lost, stuck or leaked.
                     --minutes N (1); --seed S repeats what is tried; --crash ROUNDS kills one process at a time instead, at any
                     moment, and looks at what is left; --json FILE (target/soak/soak.json or crash.json); --break WHAT does
                     something wrong on purpose, which must be found; --write renews docs/RELIABILITY.md from these files.
cargo xtask bind [--user USER] 0000:03:00.0 ...
                     Give PCI functions to vfio-pci, after a look at their whole IOMMU group; shows what it writes. USER gets
                     the group's file, which is all that an ordinary user needs of a device.
cargo xtask unbind 0000:03:00.0 ...
                     Give them back to the driver that they had.
cargo xtask help     This text.

  --keep-going       After a step that failed, go on with the next.
  --no-install       Install nothing (test, race); tests that need what is missing are skipped, and the summary says so.
";
