//! The guest's own `ixgbe.ko` on the parts of the family, each for what it alone has, and through faults.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::host::{self, Host};
use super::machine::Emulator;
use super::report::Report;
use super::scenario::{self, Bench, Devices, Results, Stage};

/// The scenario's name.
pub const FAMILY: &str = "stock driver, the family";

/// As many processors has the guest, so that the driver takes as many queues.
const QUEUES: u8 = 4;
/// Each part's name in the guest's script, its device ID, and what its wire begins with.
const PARTS: [(&str, &str, &str); 4] =
    [("x540", "1528", "tap:"), ("x550", "1563", "tap:"), ("sfp", "10fb", "tap:"), ("vlan", "10f7", "vlan:5:tap:")];

/// An X540 with four queues and jumbo frames, an X550, an 82599 with an SFP+ module, and one whose frames are tagged; the
/// host's network stack at the other ends.
///
/// # Errors
/// In words, when it did not come to its end.
pub fn family(bench: &Bench, results: &mut Results) -> Result<(), String> {
    let mut devices = Vec::new();
    let mut ends = Vec::new();
    for ((name, id, kind), (wire, slot)) in PARTS.into_iter().zip(host::FAMILY.into_iter().zip(5..)) {
        let (socket, report) = (format!("{name}.sock"), format!("{name}.report"));
        let far = format!("{kind}{}", wire.tap);
        let control = control(name);
        let fixed = ["--socket", &socket, "--report", &report, "--control", &control, "--once"];
        let args = [&fixed[..], &["--wire", &far, "--device-id", id]].concat();
        let emulator = Emulator::start(&bench.programs.emulator(), &args)?;
        devices.push((PathBuf::from(&socket), slot));
        ends.push((name, report, emulator, Host::set_up(&bench.tree, wire)?));
    }
    let mut stage = Stage::new(FAMILY, results);
    let script = include_str!("../../guest/family.sh");
    let devices = Devices { models: &devices, processors: QUEUES, ..Devices::default() };
    scenario::boot(bench, "family", script, &devices, &mut stage, &mut |stage, action| {
        let (part, action) = action.split_once(' ').unwrap_or((action, ""));
        if let Some(fault) = action.strip_prefix("fault ") {
            stage.check(&format!("{part}: {fault} is what the model is told"), tell(part, fault));
            return true;
        }
        let end = ends.iter_mut().find(|(name, ..)| *name == part);
        end.is_some_and(|(.., host)| host.act(stage, action))
    })?;
    stage.judge_warnings();
    for (name, report, emulator, _) in ends {
        emulator.ended()?;
        let report = Report::read(Path::new(&report))?;
        let quiet = scenario::wordless(report.all_zero(&scenario::NEVER));
        stage.check(&format!("the {name} model saw nothing wrong"), quiet);
        stage.check(&format!("the {name} model has no complaint of the driver"), scenario::complaints(&report));
        let offloads = report.counter("segmented")?.min(report.counter("checksummed")?);
        let said = scenario::some(offloads, "at least so many frames");
        stage.check(&format!("the {name} model segmented and computed checksums"), said);
        stage.results.registers.extend(report.registers);
    }
    Ok(())
}

/// The socket where a part's model takes faults.
fn control(part: &str) -> String {
    format!("{part}.control")
}

/// Tells a model what is to go wrong.
fn tell(part: &str, fault: &str) -> Result<String, String> {
    let said = || -> io::Result<String> {
        let mut socket = UnixStream::connect(control(part))?;
        writeln!(socket, "{fault}")?;
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer)?;
        Ok(answer)
    };
    match said() {
        Ok(answer) if answer == "ok\n" => Ok(String::new()),
        Ok(answer) => Err(answer),
        Err(error) => Err(format!("{}: {error}", control(part))),
    }
}
