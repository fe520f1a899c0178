//! On what a race was run: figures mean nothing without.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;

use super::prepare::number;

#[derive(Serialize)]
pub struct Machine {
    pub processor: String,
    pub processors: usize,
    /// Whether it says that it is a virtual one.
    pub is_virtual: bool,
    pub memory_mib: u64,
    pub kernel: String,
    pub rustc: String,
    pub compiler: String,
    /// UTC.
    pub date: String,
    /// Of this repository, with `+` when files have changed since.
    pub commit: String,
}

impl Machine {
    /// The one that we are on; the repository is at `root`.
    pub fn this(root: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let said = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).current_dir(root).stdin(Stdio::null()).output();
            let output = output.ok().filter(|output| output.status.success());
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            text.and_then(|text| Some(text.lines().next()?.trim().to_owned())).unwrap_or_default()
        };
        let changed = if said("git", &["status", "--porcelain"]).is_empty() { "" } else { "+" };
        Self {
            processor: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            is_virtual: field(&cpuinfo, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory_mib: number(&meminfo, "MemTotal:").unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            rustc: said("rustc", &["--version"]),
            compiler: said("cc", &["--version"]),
            date: said("date", &["-u", "+%Y-%m-%d %H:%M"]),
            commit: format!("{}{changed}", said("git", &["rev-parse", "--short=12", "HEAD"])),
        }
    }

    /// In one sentence.
    pub fn text(&self) -> String {
        let Self { processor, processors, memory_mib, kernel, rustc, compiler, .. } = self;
        let kind = if self.is_virtual { " (a virtual machine)" } else { "" };
        format!("{processor}, {processors} processors{kind}, {memory_mib} MiB; Linux {kernel}; {rustc}; {compiler}")
    }
}

/// MiB that can be had without swapping.
pub fn memory_available() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    number(&meminfo, "MemAvailable:").unwrap_or(0) / 1024
}

/// The first value of a key of `/proc/cpuinfo`.
fn field<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_cpuinfo() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2.10GHz\nflags\t\t: fpu hypervisor\n\nprocessor\t: 1\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2.10GHz"));
        assert_eq!(field(text, "model"), None);
    }
}
