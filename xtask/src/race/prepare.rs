//! What the race needs before it can begin: programs, packages, huge pages, and one processor for those that are compared.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::works::Who;
use crate::run::mortal;
use crate::setup;

/// DPDK's own files, as a program is built with them.
const DPDK_PACKAGES: [(&str, &str); 2] = [("pkg-config", "pkg-config"), ("libdpdk", "libdpdk-dev")];
const DPDK_SOURCES: &str = "bench/peers/dpdk";

/// Builds our contestant and the kernel's.
///
/// # Errors
/// Cargo has said why by then.
pub fn build_ours(root: &Path) -> Result<(), String> {
    let cargo = ["build", "--release", "-p", "stillwire-bench", "--bins"];
    let status = Command::new("cargo").args(cargo).current_dir(root).stdin(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo {} ended with {status}", cargo.join(" "))),
        Err(error) => Err(format!("cargo cannot be run: {error}")),
    }
}

/// Why DPDK's contestant is not there.
pub enum NoDpdk {
    /// The machine lacks DPDK.
    CannotBeHad(String),
    Failed(String),
}

/// Builds DPDK's contestant into `folder`.
///
/// # Errors
/// With the compiler's words.
pub fn build_dpdk(root: &Path, folder: &Path, install: bool) -> Result<(), NoDpdk> {
    for (needed, package) in DPDK_PACKAGES {
        let there = if needed == "libdpdk" { pkg_config(&["--exists"]).is_ok() } else { setup::is_there(needed) };
        if !there {
            setup::package(needed, package, install).map_err(NoDpdk::CannotBeHad)?;
        }
    }
    let sources = root.join(DPDK_SOURCES);
    let mut command = Command::new("cc");
    let error = |error: std::io::Error| NoDpdk::Failed(format!("{}: {error}", sources.display()));
    command.args(["-std=gnu11", "-O3", "-D_GNU_SOURCE", "-DALLOW_EXPERIMENTAL_API"]);
    command.args(pkg_config(&["--cflags"]).map_err(NoDpdk::CannotBeHad)?);
    // After Debian's own, which name an older processor; the last one counts.
    command.arg("-march=native");
    if cfg!(target_arch = "x86_64") {
        // valgrind knows no AVX-512, and what is counted is to be what is timed. DPDK's driver uses none of its own accord.
        command.arg("-mno-avx512f");
    }
    command.args(c_files(&sources).map_err(error)?).arg("-o").arg(folder.join(Who::Dpdk.file()));
    command.args(pkg_config(&["--libs-only-L"]).map_err(NoDpdk::CannotBeHad)?);
    command.arg(format!("@{}", sources.join("link.args").display()));
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| NoDpdk::CannotBeHad(format!("cc cannot be run ({error}); install gcc")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(NoDpdk::Failed(format!("{command:?}:\n{}", String::from_utf8_lossy(&output.stderr).trim())))
}

fn c_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let files: Result<Vec<_>, _> = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut files = files?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "c"));
    // The same program each time, whatever the folder's order.
    files.sort();
    Ok(files)
}

/// What `pkg-config` says of DPDK.
fn pkg_config(args: &[&str]) -> Result<Vec<String>, String> {
    let output = Command::new("pkg-config").args(args).arg("libdpdk").stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("pkg-config cannot be run: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("pkg-config {} libdpdk: {}", args.join(" "), said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
}

/// Where a contestant's program is.
pub fn program(who: Who, target: &Path, folder: &Path) -> PathBuf {
    match who {
        Who::Dpdk => folder.join(who.file()),
        Who::Ours | Who::Kernel => target.join("release").join(who.file()),
    }
}

/// The command that starts a contestant. Those that are compared by the nanosecond share one processor, so that what
/// disturbs it disturbs both; the kernel's needs two.
pub fn command(who: Who, program: &Path) -> Command {
    let first = allowed(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    match first {
        Some(processor) if who != Who::Kernel && setup::is_there("taskset") => {
            let mut command = mortal(Path::new("taskset"));
            command.args(["-c", &processor.to_string()]).arg(program);
            command
        }
        _ => mortal(program),
    }
}

/// The first processor that we may run on, of the text of `/proc/self/status`.
fn allowed(status: &str) -> Option<u32> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    list.trim().split(['-', ',']).next()?.parse().ok()
}

/// Huge pages that were added to the pool, and are given back when this is dropped.
pub struct HugePages {
    pool: PathBuf,
    before: Option<u64>,
}

/// So many must be free, of 2 MiB: what DPDK takes, and a cache of 33 MiB.
const HUGE_PAGES: u64 = 96;

impl HugePages {
    /// Adds what is missing, where that is allowed. It may still be too few: whoever needs them will say so.
    pub fn provide() -> Self {
        Self::provide_at(Path::new("/proc/sys/vm/nr_hugepages"), Path::new("/proc/meminfo"))
    }

    /// Free ones.
    pub fn free() -> u64 {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        number(&text, "HugePages_Free:").unwrap_or(0)
    }

    fn provide_at(pool: &Path, meminfo: &Path) -> Self {
        let text = std::fs::read_to_string(meminfo).unwrap_or_default();
        let all = std::fs::read_to_string(pool).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let mut pages = Self { pool: pool.to_owned(), before: None };
        if let (Some(all), Some(free)) = (all, number(&text, "HugePages_Free:"))
            && free < HUGE_PAGES
            && std::fs::write(pool, (all + HUGE_PAGES - free).to_string()).is_ok()
        {
            println!(
                "── huge pages: {} more, until the end (echo {all} > {} for good)",
                HUGE_PAGES - free,
                pool.display()
            );
            pages.before = Some(all);
        }
        pages
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // Nobody is left to be told of an error; the line above says what to type.
            let _ = std::fs::write(&self.pool, before.to_string());
        }
    }
}

/// A number of `/proc/meminfo`, in its own unit.
pub fn number(meminfo: &str, key: &str) -> Option<u64> {
    meminfo.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_added_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let (pool, meminfo) = (folder.path().join("nr_hugepages"), folder.path().join("meminfo"));
        let now = || std::fs::read_to_string(&pool).unwrap();
        for (free, during) in [(92, "104"), (96, "100\n"), (500, "100\n")] {
            std::fs::write(&pool, "100\n").unwrap();
            std::fs::write(&meminfo, format!("HugePages_Total:     100\nHugePages_Free:      {free}\n")).unwrap();
            let pages = HugePages::provide_at(&pool, &meminfo);
            assert_eq!(now(), during, "{free} free");
            drop(pages);
            assert_eq!(now().trim(), "100", "{free} free");
        }
        drop(HugePages::provide_at(&folder.path().join("none"), &meminfo));
        assert!(!folder.path().join("none").exists());
    }

    #[test]
    fn the_first_processor() {
        for (list, first) in [("0-1", Some(0)), ("3", Some(3)), ("2,5-7", Some(2)), ("", None)] {
            assert_eq!(allowed(&format!("Cpus_allowed:\t3\nCpus_allowed_list:\t{list}\n")), first, "{list}");
        }
    }

    #[test]
    fn sources_are_the_c_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.c", "a.c", "a.h", "link.args"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let files = c_files(folder.path()).unwrap();
        assert_eq!(files, [folder.path().join("a.c"), folder.path().join("b.c")]);
    }
}
