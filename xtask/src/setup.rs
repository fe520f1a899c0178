//! What tests need beside Rust.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::summary::Summary;

/// A program that some tests run.
struct Tool {
    program: &'static str,
    /// Debian's package.
    package: &'static str,
    what_for: &'static str,
}

const TOOLS: [Tool; 5] = [
    Tool { program: "tshark", package: "tshark", what_for: "reading the pcap files that we write" },
    Tool { program: "ip", package: "iproute2", what_for: "network namespaces and TAP devices" },
    Tool { program: "tc", package: "iproute2", what_for: "a path that loses datagrams" },
    Tool { program: "nft", package: "nftables", what_for: "the same where the kernel has no netem" },
    Tool { program: "strace", package: "strace", what_for: "counting the system calls of a send" },
];

/// Installs what is missing when that is possible and wanted; notes what stays missing.
pub fn tools(install: bool, summary: &mut Summary) {
    for component in ["rustfmt", "clippy"] {
        let has_it = quietly(Command::new("cargo").args([component.trim_start_matches("rust"), "--version"]));
        if !has_it && install {
            println!("── {component} is missing: rustup component add {component}");
            quietly(Command::new("rustup").args(["component", "add", component]));
        }
    }
    for tool in TOOLS.iter().filter(|tool| !is_there(tool.program)) {
        if let Err(why) = package(tool.program, tool.package, install) {
            summary.skip(&format!("tests with {}, for {}", tool.program, tool.what_for), why);
        }
    }
}

/// Installs Debian's `package` for `what`, which is missing.
///
/// # Errors
/// Says why it stays missing, and what to type.
pub fn package(what: &str, package: &str, install: bool) -> Result<(), String> {
    let missing = |why: &str| format!("{what} is not installed and {why}: `apt-get install {package}`");
    if !install {
        return Err(missing("--no-install was given"));
    }
    if !is_root() || !is_there("apt-get") {
        return Err(missing("only root can install it, with apt-get"));
    }
    println!("── {what} is missing: apt-get install {package}");
    // The package lists of a fresh machine may be empty or old; where they are not, there is no need to fetch them.
    if apt_get(&["install", "--yes", "--no-install-recommends", package])
        || apt_get(&["update"]) && apt_get(&["install", "--yes", "--no-install-recommends", package])
    {
        Ok(())
    } else {
        Err(missing("apt-get could not install it"))
    }
}

fn apt_get(args: &[&str]) -> bool {
    quietly(Command::new("apt-get").args(["-qq"]).args(args).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn quietly(command: &mut Command) -> bool {
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    silent.status().is_ok_and(|status| status.success())
}

/// Whether a program is installed.
pub fn is_there(program: &str) -> bool {
    // Where `ip` and `tc` are, also when the PATH is a plain user's.
    let system = ["/usr/sbin", "/sbin"].map(Into::into);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(system).any(|directory| directory.join(program).is_file())
}

fn is_root() -> bool {
    // The owner of the process's own folder is its effective user.
    use std::os::unix::fs::MetadataExt;
    Path::new("/proc/self").metadata().is_ok_and(|metadata| metadata.uid() == 0)
}
