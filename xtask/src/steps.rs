//! What `cargo xtask test` does, in order.

use std::ffi::OsString;
use std::path::Path;

/// One command.
pub struct Step {
    pub name: &'static str,
    /// Set for the command besides what is set already.
    pub env: Vec<(&'static str, OsString)>,
    pub command: &'static [&'static str],
    /// A file of the workspace without which there is nothing to do.
    pub needs: Option<&'static str>,
    /// The command picks tests by name: when it finds none, the name has gone stale.
    pub must_test: bool,
}

/// All steps; cargo writes to `target`. They may `install` what they need.
pub fn all(target: &Path, install: bool) -> Vec<Step> {
    // In directories of their own, as other RUSTFLAGS would have everything built again at each change between them.
    let loom = vec![("RUSTFLAGS", "--cfg loom".into()), ("CARGO_TARGET_DIR", target.join("loom").into())];
    let step = |name, command| Step { name, env: Vec::new(), command, needs: None, must_test: false };
    vec![
        step("formatting", &["cargo", "fmt", "--all", "--check"]),
        step("clippy", &["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        step("tests", &["cargo", "test", "--workspace", "--no-fail-fast"]),
        Step {
            name: "loom",
            env: loom,
            command: &["cargo", "test", "--release", "-p", "stillwire-filecache", "--lib", "loom"],
            needs: None,
            must_test: true,
        },
        step("release build", &["cargo", "build", "--release", "-p", "stillwire-examples", "--examples"]),
        Step {
            name: "end to end",
            env: Vec::new(),
            command: &[
                "cargo",
                "test",
                "--release",
                "-p",
                "stillwire-examples",
                "--test",
                "end_to_end",
                "--",
                "--include-ignored",
            ],
            needs: Some("examples/tests/end_to_end.rs"),
            must_test: true,
        },
        Step {
            name: "writers, the long way",
            env: Vec::new(),
            command: &[
                "cargo",
                "test",
                "--release",
                "-p",
                "stillwire-filecache",
                "--test",
                "attach",
                "--",
                "--include-ignored",
                "in_ten_seconds",
            ],
            needs: Some("filecache/tests/attach.rs"),
            must_test: true,
        },
        step("simulation", &["cargo", "xtask", "simulate", "--seeds", "3000"]),
        step("simulation, with mistakes", &["cargo", "xtask", "simulate", "--bug", "all", "--seeds", "10000"]),
        step("hostile inputs", &["cargo", "xtask", "fuzz"]),
        step("soak", &["cargo", "xtask", "soak", "--minutes", "0.7"]),
        step("crash", &["cargo", "xtask", "soak", "--crash", "42"]),
        step("race", if install { &RACE[..RACE.len() - 1] } else { &RACE }),
        step("qemu", &["cargo", "xtask", "qemu", "--or-skip"]),
    ]
}

const RACE: [&str; 6] = ["cargo", "xtask", "race", "--smoke", "--or-skip", "--no-install"];

impl Step {
    /// As one would type it.
    pub fn command_line(&self) -> String {
        let env = self.env.iter().map(|(name, value)| {
            let value = value.to_string_lossy();
            if value.contains(' ') { format!("{name}='{value}'") } else { format!("{name}={value}") }
        });
        env.chain(self.command.iter().map(ToString::to_string)).collect::<Vec<_>>().join(" ")
    }

    /// Why there is nothing to do.
    pub fn not_here(&self, root: &Path) -> Option<String> {
        let needs = self.needs.filter(|needs| !root.join(needs).exists())?;
        Some(format!("there is no {needs} yet"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_typed() {
        let lines: Vec<String> = all(Path::new("t"), true).iter().map(Step::command_line).collect();
        assert_eq!(lines[0], "cargo fmt --all --check");
        let loom =
            "RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=t/loom cargo test --release -p stillwire-filecache --lib loom";
        assert!(lines.iter().any(|line| line == loom), "{lines:?}");
        assert!(lines.iter().any(|line| line == "cargo xtask race --smoke --or-skip"), "{lines:?}");
        let without = all(Path::new("t"), false);
        assert!(without.iter().any(|step| step.command_line() == "cargo xtask race --smoke --or-skip --no-install"));
    }
}
