//! The guest's own `ice.ko` on the model of the E810, with the host's network stack at the other end of the wire.

use std::path::Path;

use super::host::{self, Host};
use super::machine::Emulator;
use super::report::Report;
use super::scenario::{Bench, Devices, NEVER, Results, Stage, boot, complaints, some, wordless};

/// What its lines are called.
pub const NAME: &str = "stock ice driver";

/// First without a package, in what the driver calls safe mode; then with the package that Debian has.
///
/// # Errors
/// In words, when it did not come to its end.
pub fn stock(bench: &Bench, results: &mut Results) -> Result<(), String> {
    let (socket, report) = ("ice.sock", "ice.report");
    let wire = format!("tap:{}", host::ICE.tap);
    let fixed = ["--model", "ice", "--socket", socket, "--report", report, "--wire", &wire, "--once"];
    let emulator = Emulator::start(&bench.programs.emulator(), &fixed)?;
    let mut host = Host::set_up(&bench.tree, host::ICE)?;
    let mut stage = Stage::new(NAME, results);
    let script = include_str!("../../guest/ice.sh");
    let models = [(socket.into(), 5)];
    let devices = Devices { models: &models, ..Devices::default() };
    boot(bench, "ice", script, &devices, &mut stage, &mut |stage, action| host.act(stage, action))?;
    stage.judge_warnings();
    emulator.ended()?;
    let report = Report::read(Path::new(report))?;
    stage.check("the model saw nothing wrong", wordless(report.all_zero(&NEVER)));
    stage.check("the model has no complaint of the driver", complaints(&report));
    stage.check("the model interrupted", some(report.counter("interrupts")?, "MSI-X messages"));
    if bench.programs.firmware.is_some() {
        let buffers = some(report.counter("package_buffers")?, "buffers");
        stage.check("the driver brought its package", buffers);
        let offloads = report.counter("segmented")?.min(report.counter("checksummed")?);
        stage.check("the model segmented and computed checksums", some(offloads, "at least so many frames"));
    }
    stage.results.registers.extend(report.registers);
    Ok(())
}
