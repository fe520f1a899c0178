//! QEMU, a kernel and a few tools from the machine's own Debian mirror, without installing anything.
//!
//! apt works in a folder of its own: lists, cache and status are there and nowhere else. What is fetched is unpacked into
//! a tree and stays there, so that the second run needs no network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The suite whose QEMU has vfio-user (10.1 or later) and whose kernel is current, and the one below it.
const SUITES: [&str; 2] = ["trixie", "trixie-backports"];
/// What the guest is made of; fetched with all that it depends on.
const GUEST: [&str; 3] = ["linux-image-amd64", "busybox-static", "ethtool"];
/// What the guest's drivers load into devices; beside the tree, for not every machine's mirror has it.
const FIRMWARE: &str = "firmware-intel-misc";
/// Fetched as well where there is no QEMU that is new enough.
const QEMU: &str = "qemu-system-x86";
/// Dependencies that nothing here uses, by the start of their names: they are not unpacked.
const UNUSED: [&str; 6] = ["systemd", "libsystemd-shared", "udev", "libnss3", "passwd", "e2fsprogs"];
/// Names the packages in the tree; written last, so a tree with it is whole.
const COMPLETE: &str = "complete";

/// The unpacked tree in `cache`, with QEMU or without; fetched when it is not there yet.
///
/// # Errors
/// In words: what could not be had, and what to do.
pub fn tree(cache: &Path, with_qemu: bool) -> Result<PathBuf, String> {
    let tree = cache.join(if with_qemu { "tree" } else { "tree-without-qemu" });
    if tree.join(COMPLETE).exists() {
        return Ok(tree);
    }
    let packages: Vec<&str> = GUEST.into_iter().chain(with_qemu.then_some(QEMU)).collect();
    fetch(cache, &packages, &tree)?;
    Ok(tree)
}

/// The package (DDP) that Intel's E810 takes its parser from, in `cache`; fetched when it is not there yet.
///
/// # Errors
/// In words.
pub fn firmware(cache: &Path) -> Result<(), String> {
    if fetched_firmware(cache).is_some() { Ok(()) } else { fetch(cache, &[FIRMWARE], &cache.join("firmware")) }
}

/// That package, where it was fetched before.
pub fn fetched_firmware(cache: &Path) -> Option<PathBuf> {
    let package = cache.join("firmware/usr/lib/firmware/intel/ice/ddp/ice.pkg");
    package.exists().then_some(package)
}

/// Fetches packages, with what they depend on, and unpacks them.
fn fetch(cache: &Path, packages: &[&str], tree: &Path) -> Result<(), String> {
    println!("── fetching {} into {}", packages.join(", "), cache.display());
    let mirror = mirror(Path::new("/etc/apt"))?;
    let apt = cache.join("apt");
    prepare(&apt, &mirror).map_err(|error| format!("{}: {error}", apt.display()))?;
    apt_get(&apt, &["update"])?;
    let mut install = vec!["install", "--yes", "--download-only", "--no-install-recommends"];
    install.extend(["--target-release", SUITES[1]]);
    install.extend(packages);
    apt_get(&apt, &install)?;
    unpack(&apt.join("cache/archives"), tree)
}

/// A folder in which apt finds a system of its own: nothing installed, one mirror.
fn prepare(apt: &Path, mirror: &Mirror) -> std::io::Result<()> {
    for folder in ["state/lists/partial", "cache/archives/partial", "etc"] {
        fs::create_dir_all(apt.join(folder))?;
    }
    fs::write(apt.join("status"), "")?;
    let Mirror { address, keyring } = mirror;
    let lines = SUITES.map(|suite| format!("deb [signed-by={keyring}] {address} {suite} main non-free-firmware\n"));
    fs::write(apt.join("sources.list"), lines.concat())?;
    let at = apt.display();
    // APT_CONFIG is read after the machine's own configuration, from which it keeps proxies and the like.
    let config = format!(
        r#"Dir::State "{at}/state";
Dir::State::status "{at}/status";
Dir::Cache "{at}/cache";
Dir::Etc::sourcelist "{at}/sources.list";
Dir::Etc::sourceparts "{at}/etc";
Dir::Etc::preferences "{at}/etc/none";
Dir::Etc::preferencesparts "{at}/etc";
APT::Sandbox::User "";
APT::Architecture "amd64";
#clear APT::Architectures;
APT::Architectures {{ "amd64"; }};
#clear APT::Update::Post-Invoke;
#clear DPkg::Post-Invoke;
#clear APT::Keep-Downloaded-Packages;
APT::Keep-Downloaded-Packages "true";
Acquire::Languages "none";
Acquire::Retries "1";
"#
    );
    fs::write(apt.join("apt.conf"), config)
}

fn apt_get(apt: &Path, args: &[&str]) -> Result<(), String> {
    let output = Command::new("apt-get")
        .arg("-q")
        .args(args)
        .env("APT_CONFIG", apt.join("apt.conf"))
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("apt-get cannot be run ({error}); {BY_HAND}"))?;
    // `update` succeeds without a network, and says so only in a warning.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() && !said.contains("Failed to fetch") {
        return Ok(());
    }
    let told = |start: &str| said.lines().find(|line| line.contains(start)).map(str::to_owned);
    let why = told("Failed to fetch").or_else(|| told("E:")).unwrap_or_else(|| "it does not say why".into());
    Err(format!(
        "apt-get {} failed: {why}. Is there no network? There is no copy of an earlier fetch in {} either; {BY_HAND}",
        args[0],
        apt.parent().unwrap_or(apt).display()
    ))
}

fn unpack(archives: &Path, tree: &Path) -> Result<(), String> {
    let error = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let entries = fs::read_dir(archives).map_err(|problem| error(archives, &problem))?;
    let mut packages: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    packages.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    packages.sort();
    let mut names = String::new();
    for package in &packages {
        let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if UNUSED.iter().any(|unused| name.starts_with(unused)) {
            continue;
        }
        let status = Command::new("dpkg-deb").arg("-x").args([package, tree]).status();
        if !status.is_ok_and(|status| status.success()) {
            return Err(format!("dpkg-deb -x {} failed; remove it to have it fetched again", package.display()));
        }
        names.push_str(&name);
        names.push('\n');
    }
    fs::write(tree.join(COMPLETE), names).map_err(|problem| error(tree, &problem))?;
    // The tree is all that is needed from now on.
    for package in &packages {
        // What cannot be removed only takes up room.
        let _ = fs::remove_file(package);
    }
    Ok(())
}

/// Where this machine gets Debian from.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mirror {
    address: String,
    keyring: String,
}

/// Debian's own archive keys, where the package `debian-archive-keyring` has them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The first mirror of Debian proper in the machine's sources.
fn mirror(etc: &Path) -> Result<Mirror, String> {
    let mut files = vec![etc.join("sources.list")];
    let parts = fs::read_dir(etc.join("sources.list.d")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut parts: Vec<PathBuf> = parts.collect();
    parts.sort();
    files.extend(parts);
    let found = files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        match file.extension()?.to_str()? {
            "list" => text.lines().find_map(one_line),
            "sources" => text.split("\n\n").find_map(deb822),
            _ => None,
        }
    });
    found.ok_or_else(|| {
        format!(
            "no Debian mirror in {}; this needs a Debian machine of the architecture amd64; {BY_HAND}",
            etc.display()
        )
    })
}

/// `deb [options] ADDRESS SUITE main`.
fn one_line(line: &str) -> Option<Mirror> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (address, suite) = (words.next()?, words.next()?);
    let keyring = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    is_debian(address, suite).then(|| Mirror { address: address.into(), keyring: keyring.unwrap_or(KEYRING).into() })
}

/// A paragraph of `Key: value` lines.
fn deb822(paragraph: &str) -> Option<Mirror> {
    let field = |name: &str| {
        let lines = paragraph.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim())
    };
    if field("Enabled").is_some_and(|enabled| enabled.eq_ignore_ascii_case("no")) {
        return None;
    }
    let address = field("URIs")?.split_whitespace().next()?;
    let suite = field("Suites")?.split_whitespace().next()?;
    let keyring = field("Signed-By").filter(|keyring| keyring.starts_with('/')).unwrap_or(KEYRING);
    is_debian(address, suite).then(|| Mirror { address: address.into(), keyring: keyring.into() })
}

/// Not the security archive, which has other suites, and not a third party's.
fn is_debian(address: &str, suite: &str) -> bool {
    address.trim_end_matches('/').ends_with("/debian") && !suite.contains("security")
}

const BY_HAND: &str = "the folder target/qemu of a machine that has it can be copied, or named with STILLWIRE_CACHE";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_of_both_kinds_of_file() {
        let plain = |address: &str, keyring: &str| Some(Mirror { address: address.into(), keyring: keyring.into() });
        assert_eq!(
            one_line("deb http://m.example/debian trixie main contrib"),
            plain("http://m.example/debian", KEYRING)
        );
        assert_eq!(
            one_line("deb [arch=amd64 signed-by=/k.gpg] https://m.example/debian/ bookworm main"),
            plain("https://m.example/debian/", "/k.gpg")
        );
        for other in [
            "# deb http://m.example/debian trixie main",
            "deb-src http://m.example/debian trixie main",
            "deb http://m.example/debian-security trixie-security main",
            "deb http://m.example/ubuntu noble main",
            "deb",
        ] {
            assert_eq!(one_line(other), None, "{other}");
        }
        let paragraph =
            "Types: deb\nURIs: http://m.example/debian\nSuites: bookworm bookworm-updates\nSigned-By: /k.gpg";
        assert_eq!(deb822(paragraph), plain("http://m.example/debian", "/k.gpg"));
        assert_eq!(deb822(&format!("{paragraph}\nEnabled: no")), None);
        assert_eq!(deb822("Types: deb\nURIs: http://m.example/debian-security\nSuites: bookworm-security"), None);
    }

    #[test]
    fn a_machine_without_debian_is_told_what_is_needed() {
        let etc = tempfile::tempdir().unwrap();
        assert!(mirror(etc.path()).unwrap_err().contains("needs a Debian machine"));
        fs::create_dir(etc.path().join("sources.list.d")).unwrap();
        fs::write(etc.path().join("sources.list.d/debian.sources"), "URIs: http://m.example/debian\nSuites: trixie\n")
            .unwrap();
        assert_eq!(mirror(etc.path()).unwrap().address, "http://m.example/debian");
    }

    #[test]
    fn without_a_network_the_error_says_so_and_a_tree_that_is_there_is_used() {
        let cache = tempfile::tempdir().unwrap();
        let tree_folder = cache.path().join("tree");
        fs::create_dir(&tree_folder).unwrap();
        fs::write(tree_folder.join(COMPLETE), "").unwrap();
        assert_eq!(tree(cache.path(), true), Ok(tree_folder));
        // Nobody listens on port 9 of this machine.
        let nowhere = Mirror { address: "http://127.0.0.1:9/debian".into(), keyring: KEYRING.into() };
        let apt = cache.path().join("apt");
        prepare(&apt, &nowhere).unwrap();
        let error = apt_get(&apt, &["update"]).unwrap_err();
        assert!(error.contains("Is there no network?") || error.contains("cannot be run"), "{error}");
    }
}
