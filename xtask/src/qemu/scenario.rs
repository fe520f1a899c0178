//! What is proved, and how it is judged.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::guest::{self, Kernel, Programs};
use super::host::{self, Host};
use super::machine::{Boot, Console, Emulator, Qemu};
use super::report::{self, Register, Report};
use super::virtio;

/// All that a scenario needs.
pub struct Bench {
    pub tree: PathBuf,
    pub qemu: Qemu,
    pub kernel: Kernel,
    pub programs: Programs,
    /// The current folder: sockets, consoles and reports go there.
    pub folder: PathBuf,
    /// A guest is killed after so long.
    pub deadline: Duration,
}

/// What was checked so far.
#[derive(Default)]
pub struct Results {
    pub passed: u64,
    pub failed: u64,
    /// Registers that the stock driver touched.
    pub registers: Vec<Register>,
}

impl Results {
    fn check(&mut self, scenario: &str, name: &str, outcome: Result<String, String>) {
        match outcome {
            Ok(said) if said.is_empty() => println!("test qemu, {scenario}: {name} ... ok"),
            Ok(said) => println!("test qemu, {scenario}: {name} ({said}) ... ok"),
            Err(why) => println!("test qemu, {scenario}: {name} ... FAILED\n    {why}"),
        }
    }

    fn count(&mut self, scenario: &str, name: &str, outcome: Result<String, String>) {
        match outcome.is_ok() {
            true => self.passed += 1,
            false => self.failed += 1,
        }
        self.check(scenario, name, outcome);
    }
}

/// One boot: its guest's results, and what the host does for it.
pub(super) struct Stage<'a> {
    name: &'static str,
    pub(super) results: &'a mut Results,
    facts: HashMap<String, String>,
    warnings: Vec<String>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(name: &'static str, results: &'a mut Results) -> Self {
        Self { name, results, facts: HashMap::new(), warnings: Vec::new() }
    }

    pub(super) fn check(&mut self, name: &str, outcome: Result<String, String>) {
        self.results.count(self.name, name, outcome);
    }

    /// Takes one line of the guest's results; an action that it asks for is done by `act`.
    fn line(&mut self, line: &str, act: &mut dyn FnMut(&mut Self, &str) -> bool) -> Option<String> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "ok" => {
                let (name, said) = rest.split_once('\t').unwrap_or((rest, ""));
                self.check(name, Ok(said.to_owned()));
            }
            "FAILED" => {
                let (name, why) = rest.split_once('\t').unwrap_or((rest, "no reason given"));
                self.check(name, Err(why.to_owned()));
            }
            "fact" => match rest.split_once(' ') {
                Some(("warning", text)) => self.warnings.push(text.to_owned()),
                Some((key, value)) => drop(self.facts.insert(key.to_owned(), value.to_owned())),
                None => {}
            },
            "host" => {
                return Some(if act(self, rest) { "go" } else { "again" }.into());
            }
            _ => {}
        }
        None
    }

    /// The guest kernel's warnings, but for those that have a reason.
    pub(super) fn judge_warnings(&mut self) {
        let expected = |line: &&String| EXPECTED_WARNINGS.iter().any(|(text, _)| line.contains(text));
        let odd: Vec<String> = self.warnings.iter().filter(|line| !expected(line)).cloned().collect();
        let outcome = if odd.is_empty() { Ok(String::new()) } else { Err(odd.join("\n    ")) };
        self.check("the guest's kernel warns of nothing", outcome);
    }

    pub(super) fn fact(&self, key: &str) -> Result<&str, String> {
        let text = self.facts.get(key).map(String::as_str);
        text.ok_or_else(|| format!("the guest did not tell {key}"))
    }

    pub(super) fn number(&self, key: &str) -> Result<u64, String> {
        let text = self.fact(key)?;
        text.parse().map_err(|_| format!("the guest told {key} as {text}"))
    }
}

/// Kernel messages of warning level that say nothing about driver and model; and why.
const EXPECTED_WARNINGS: &[(&str, &str)] = &[
    ("tsc: Unable to calibrate", "the emulated processor is slow"),
    ("APIC calibration not consistent", "the emulated processor is slow"),
    ("hpet: Lost", "the emulated processor is slow"),
    ("MP-BIOS bug: 8254 timer", "the emulated processor is slow"),
    ("mtrr: your CPUs had inconsistent", "QEMU's processors start with MTRRs that the kernel makes alike"),
    ("ACPI: IRQ", "q35's serial ports share no interrupt, and the kernel says so"),
    (": resetting", "vfio-pci says so each time that a program opens or closes a device"),
    (": reset done", "vfio-pci says so each time that a program opens or closes a device"),
    ("RLIMIT_MEMLOCK", "a sender is to run into its limit"),
    ("Direct firmware load for intel/ice/ddp/ice", "the first half of that scenario is without the package"),
    ("Fail during requesting FW", "the first half of that scenario is without the package"),
    ("Entering Safe Mode", "the first half of that scenario is without the package"),
    ("FW logging is not supported", "the E810's model keeps no log of its firmware"),
    ("Error initializing DCB", "the E810's model has no DCB, and the driver says so"),
    ("DCB init failed", "the E810's model has no DCB, and the driver says so"),
    ("Failed to remove Rx LLDP rule", "without DCB the driver takes away a rule that it never gave"),
    ("RDMA is not supported", "the E810's model has no RDMA, and the driver says so"),
];

/// Counters of the model that must not move, whoever drives it.
pub(super) const NEVER: [&str; 5] =
    ["bus_faults", "bad_descriptors", "gated", "odd_accesses", "payload_len_mismatches"];

/// The guest's own `ixgbe.ko`, and the host's network stack (in this process' network namespace) at the other end.
///
/// # Errors
/// In words, when it did not come to its end.
pub fn stock(bench: &Bench, results: &mut Results) -> Result<(), String> {
    let (socket, report) = ("stock.sock", "stock.report");
    let wire = format!("tap:{}", host::IXGBE.tap);
    let emulator = Emulator::start(
        &bench.programs.emulator(),
        &["--socket", socket, "--report", report, "--wire", &wire, "--device-id", STOCK_ID, "--once"],
    )?;
    let mut host = Host::set_up(&bench.tree, host::IXGBE)?;
    let mut stage = Stage::new("stock driver", results);
    let devices = Devices { models: &[(socket.into(), 5)], ..Devices::default() };
    boot(bench, "stock", include_str!("../../guest/stock.sh"), &devices, &mut stage, &mut |stage, action| {
        host.act(stage, action)
    })?;
    stage.judge_warnings();
    emulator.ended()?;
    let report = Report::read(Path::new(report))?;
    stage.check("the model saw nothing wrong", wordless(report.all_zero(&NEVER)));
    stage.check("the model has no complaint of the driver", complaints(&report));
    let offloads = report.counter("segmented")?.min(report.counter("checksummed")?);
    stage.check("the model segmented and computed checksums", some(offloads, "at least so many frames"));
    stage.check("the model interrupted", some(report.counter("interrupts")?, "MSI-X messages"));
    results.registers.extend(report.registers);
    Ok(())
}

/// Our driver in the guest, on vfio-pci behind the guest's IOMMU.
///
/// # Errors
/// In words, when it did not come to its end.
pub fn ours(bench: &Bench, results: &mut Results) -> Result<(), String> {
    let capture = Path::new(CAPTURE);
    let (mut emulators, mut devices) = our_devices(bench)?;
    // With the package that another driver would have left.
    let e810 = ["--model", "ice", "--package", "--socket", "e810.sock", "--report", "e810.report", "--once"];
    let late = ["--transmit-delay-us", "50"];
    emulators.push(Emulator::start(&bench.programs.emulator(), &[&e810[..], &late].concat())?);
    devices.push(("e810.sock".into(), 11));
    let mut stage = Stage::new("our driver", results);
    let script = concat!(include_str!("../../guest/sending.sh"), include_str!("../../guest/ours.sh"));
    let devices = Devices { models: &devices, iommu: true, ..Devices::default() };
    boot(bench, "ours", script, &devices, &mut stage, &mut |stage, action| {
        match action {
            "frames slow" => stage.check("the sender's frames are on their way", await_frames(capture)),
            _ => stage.check(action, Err("the host knows no such action".into())),
        }
        true
    })?;
    stage.judge_warnings();
    emulators.into_iter().try_for_each(Emulator::ended)?;
    let files = [("near", ""), ("near", ".cable"), ("loop", ""), ("slow", ""), ("e810", "")];
    for (name, more) in files {
        let report = Report::read(Path::new(&format!("{name}.report{more}")))?;
        let name = if more.is_empty() { name } else { "far" };
        judge(&mut stage, name, report)?;
    }
    Ok(())
}

/// What the model of one of our driver's devices says.
fn judge(stage: &mut Stage<'_>, name: &str, report: Report) -> Result<(), String> {
    stage.check(&format!("the model of {name} saw nothing wrong"), wordless(report.all_zero(&NEVER)));
    stage.check(&format!("the model of {name} has no complaint"), complaints(&report));
    match name {
        "loop" | "e810" => {
            let (mapped, file) = (report.counter("most_read_only_bytes")?, stage.number("file_bytes")?);
            let said = format!("{mapped} bytes were mapped so, the file has {file}");
            stage.check("payload is mapped read-only in the IOMMU", if mapped >= file { Ok(said) } else { Err(said) });
            stage.check("no memory went before the device was quiet", wordless(report.quiet_before_unmapped()));
        }
        "slow" => {
            let ordered = wordless(report.stopped_at_work());
            stage.check("killed at work: bus master off, reset, then unmapped", ordered);
            let quiet = wordless(report.quiet_before_unmapped());
            stage.check("killed at work: no memory went before the device was quiet", quiet);
        }
        // Driven by the stock driver at one time.
        _ => stage.results.registers.extend(report.registers),
    }
    Ok(())
}

pub(super) fn wordless(outcome: Result<(), String>) -> Result<String, String> {
    outcome.map(|()| String::new())
}

/// A socket, and a slot on the guest's bus.
pub(super) type Device = (PathBuf, u8);

/// Two devices on a cable, one that hears itself, and one that does so late.
fn our_devices(bench: &Bench) -> Result<(Vec<Emulator>, Vec<Device>), String> {
    let start = |args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Emulator::start(&bench.programs.emulator(), &args)
    };
    let device = |name: &str, more: &[&str]| {
        let (socket, report) = (format!("{name}.sock"), format!("{name}.report"));
        let fixed = ["--socket", &socket, "--report", &report, "--device-id", STOCK_ID, "--once"];
        fixed.iter().chain(more).map(ToString::to_string).collect::<Vec<_>>()
    };
    let emulators = vec![
        // Every register by message, so that each access is seen.
        start(&device("near", &["--cable", "far.sock", "--doorbells", "messages"]))?,
        start(&device("loop", &["--transmit-delay-us", "50"]))?,
        start(&device("slow", &["--transmit-delay-us", "300000", "--wire", &format!("pcap:{CAPTURE}")]))?,
    ];
    let devices = [("near", 5), ("far", 6), ("loop", 7), ("slow", 8)];
    let devices = devices.map(|(name, slot)| (PathBuf::from(format!("{name}.sock")), slot)).to_vec();
    Ok((emulators, devices))
}

/// A guest with our driver's devices and a shell, in this terminal.
///
/// # Errors
/// In words.
pub fn shell(bench: &Bench) -> Result<(), String> {
    let (_emulators, devices) = our_devices(bench)?;
    let initramfs = bench.folder.join("shell.cpio");
    guest::initramfs(&bench.tree, &bench.kernel, &bench.programs, include_str!("../../guest/shell.sh"), &initramfs)?;
    let boot = Boot {
        qemu: &bench.qemu,
        kernel: &bench.kernel.image(),
        initramfs: &initramfs,
        devices: &devices,
        own: &virtio::two_on_a_hub(),
        iommu: true,
        processors: PROCESSORS,
        console: Console::Terminal,
    };
    boot.run_here()
}

/// The backplane part: stock drivers bring it up without an SFP module.
const STOCK_ID: &str = "10f7";
/// Processors of a guest, if its scenario wants no other number.
const PROCESSORS: u8 = 2;
/// Frames that came out of the slow device.
const CAPTURE: &str = "slow.pcap";

/// Does what the guest asks for; false when the guest is to ask again.
pub(super) type Act<'a> = &'a mut dyn FnMut(&mut Stage<'_>, &str) -> bool;

/// What a guest finds on its bus.
pub(super) struct Devices<'a> {
    /// Models of ours: sockets, and slots.
    pub(super) models: &'a [Device],
    /// QEMU's own, as its arguments.
    pub(super) own: &'a [String],
    pub(super) iommu: bool,
    pub(super) processors: u8,
}

impl Default for Devices<'_> {
    fn default() -> Self {
        Self { models: &[], own: &[], iommu: false, processors: PROCESSORS }
    }
}

pub(super) fn boot(
    bench: &Bench,
    name: &str,
    scenario: &str,
    devices: &Devices<'_>,
    stage: &mut Stage<'_>,
    act: Act<'_>,
) -> Result<(), String> {
    let initramfs = bench.folder.join(format!("{name}.cpio"));
    guest::initramfs(&bench.tree, &bench.kernel, &bench.programs, scenario, &initramfs)?;
    let console = bench.folder.join(format!("{name}.console"));
    println!("── qemu, {}: booting {}; its console: {}", stage.name, bench.kernel.version(), console.display());
    let start = Instant::now();
    let boot = Boot {
        qemu: &bench.qemu,
        kernel: &bench.kernel.image(),
        initramfs: &initramfs,
        devices: devices.models,
        own: devices.own,
        iommu: devices.iommu,
        processors: devices.processors,
        console: Console::File(&console),
    };
    let outcome = boot.run(bench.deadline, &mut |line| stage.line(line, act));
    println!("── qemu, {}: {:.1} s", stage.name, start.elapsed().as_secs_f64());
    outcome
}

pub(super) fn complaints(report: &Report) -> Result<String, String> {
    let odd: Vec<&str> = report.complaints.iter().map(String::as_str).collect();
    if odd.is_empty() { Ok(String::new()) } else { Err(odd.join("\n    ")) }
}

pub(super) fn some(count: u64, of_what: &str) -> Result<String, String> {
    if count > 0 { Ok(format!("{of_what}: {count}")) } else { Err(format!("{of_what}: none")) }
}

/// Waits until a frame has come out of the slow model: the sender is then in the middle of its work.
fn await_frames(capture: &Path) -> Result<String, String> {
    const FILE_HEADER: u64 = 24;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        if fs::metadata(capture).is_ok_and(|file| file.len() > FILE_HEADER) {
            return Ok(String::new());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("no frame within a minute".into())
}

/// Judges the registers and writes the table.
///
/// # Errors
/// When the table cannot be written.
pub fn coverage(bench: &Bench, results: &mut Results) -> Result<(), String> {
    let path = bench.folder.join("registers.md");
    let table = report::coverage(&results.registers);
    fs::write(&path, &table).map_err(|error| format!("{}: {error}", path.display()))?;
    println!(
        "── registers that the stock driver touched and the model does not implement ({}):\n{table}",
        path.display()
    );
    let unexplained: Vec<String> = results
        .registers
        .iter()
        .filter(|register| register.kind != "implemented" && register.why.is_empty())
        .map(|register| register.offset.clone())
        .collect();
    let outcome = match () {
        () if results.registers.is_empty() => Err("no register was touched: nothing was shown".into()),
        () if unexplained.is_empty() => Ok(String::new()),
        () => Err(format!("no reason is known for {}", unexplained.join(", "))),
    };
    results.count("registers", "each that is not implemented has its reason", outcome);
    Ok(())
}
