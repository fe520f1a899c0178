//! `cargo xtask bind [--user USER] ADDRESS...` and `unbind`: a PCI function goes to vfio-pci, and back to the driver that it
//! had. With a user, the group's file is that user's; it goes when the function leaves vfio-pci, and its owner with it.
//!
//! Only sysfs is written, as one would by hand, and each write is shown. Nothing is done before the whole IOMMU group was
//! looked at: VFIO opens a group only when none of its functions is with a kernel driver.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Drivers that leave a function of a group to VFIO; a bridge may keep its own.
const HARMLESS: [&str; 3] = ["vfio-pci", "pcieport", "pci-stub"];

/// Where the kernel and this program keep what they know.
pub struct Paths {
    /// `/sys/bus/pci`.
    pub bus: PathBuf,
    /// Which driver each function had, for `unbind`.
    pub memory: PathBuf,
    /// `/dev/vfio`.
    pub groups: PathBuf,
}

impl Paths {
    pub fn of_machine() -> Self {
        Self { bus: "/sys/bus/pci".into(), memory: "/run/stillwire".into(), groups: "/dev/vfio".into() }
    }

    fn device(&self, address: &str) -> PathBuf {
        self.bus.join("devices").join(address)
    }

    fn driver(&self, address: &str) -> Option<String> {
        link_name(&self.device(address).join("driver"))
    }

    fn note(&self, address: &str) -> PathBuf {
        self.memory.join(format!("driver-of-{address}"))
    }

    /// Writes to a file of sysfs, and says so.
    fn write(&self, path: &Path, text: &str) -> Result<(), String> {
        println!("echo '{text}' > {}", path.display());
        fs::write(path, format!("{text}\n")).map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => format!("{}: {error}; run this as root", path.display()),
            _ => format!("{}: {error}", path.display()),
        })
    }
}

/// Gives functions to vfio-pci.
///
/// # Errors
/// Says what stands in the way; nothing was changed then, unless a write of sysfs failed.
pub fn bind(paths: &Paths, args: &[String]) -> Result<(), String> {
    let (user, addresses) = user(args)?;
    if addresses.is_empty() {
        return Err("say which: cargo xtask bind 0000:03:00.0".into());
    }
    for address in &addresses {
        look(paths, address, &addresses)?;
    }
    if !paths.bus.join("drivers/vfio-pci").exists() {
        println!("modprobe vfio-pci");
        let loaded = Command::new("modprobe").arg("vfio-pci").stdin(Stdio::null()).status();
        if !loaded.is_ok_and(|status| status.success()) {
            return Err("there is no driver vfio-pci, and modprobe vfio-pci failed; load it (as root) first".into());
        }
    }
    for address in &addresses {
        give(paths, address)?;
        own(paths, address, user)?;
    }
    Ok(())
}

/// Who is to have the devices, if anybody is named, and which.
fn user(args: &[String]) -> Result<(Option<&str>, Vec<String>), String> {
    let Some(at) = args.iter().position(|arg| arg == "--user") else { return Ok((None, args.to_vec())) };
    let user = args.get(at + 1).ok_or("--user wants a name, or a number: --user alice")?;
    // A number may be of nobody yet. A name must be known before anything is changed, and be no flag of `chown`'s.
    let known = || {
        let asked = Command::new("id").args(["-u", "--", user]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        !user.starts_with('-') && asked.is_ok_and(|status| status.success())
    };
    if user.parse::<u32>().is_err() && !known() {
        return Err(format!("there is no user {user}; getent passwd lists those that there are. Nothing was changed"));
    }
    let addresses = args[..at].iter().chain(&args[at + 2..]).cloned().collect();
    Ok((Some(user), addresses))
}

/// Gives the file of a function's group to `user`, who can then open all that is in it.
fn own(paths: &Paths, address: &str, user: Option<&str>) -> Result<(), String> {
    let file = paths.groups.join(group(&paths.device(address)));
    let Some(user) = user else {
        println!("to let an ordinary user have it: chown USER {}, or bind --user USER", file.display());
        return Ok(());
    };
    println!("chown {user} {}", file.display());
    let done = Command::new("chown").args([user.as_ref(), file.as_os_str()]).stdin(Stdio::null()).output();
    match done {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{}; run this as root", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("chown: {error}")),
    }
}

fn look(paths: &Paths, address: &str, with: &[String]) -> Result<(), String> {
    let device = paths.device(address);
    if !device.exists() {
        return Err(format!("there is no device {address}; lspci -D lists what there is, write it as 0000:03:00.0"));
    }
    let Some(group) = link_name(&device.join("iommu_group")) else {
        return Err(format!(
            "{address} is in no IOMMU group; switch the IOMMU on in the firmware (VT-d, AMD-Vi) and on the kernel's \
             command line (intel_iommu=on). Without one the device could reach all memory: nothing was changed"
        ));
    };
    let members = fs::read_dir(device.join("iommu_group/devices")).into_iter().flatten().flatten();
    let mut members: Vec<String> = members.map(|member| member.file_name().to_string_lossy().into_owned()).collect();
    members.sort();
    let other = members.iter().find_map(|member| {
        let driver = paths.driver(member)?;
        (!with.contains(member) && !HARMLESS.contains(&driver.as_str())).then_some((member, driver))
    });
    match other {
        None => Ok(()),
        Some((other, driver)) => Err(format!(
            "group {group} has other functions: {other} is bound to {driver}, and VFIO takes all of a group or none. Name all \
             of them if none is needed by this machine: cargo xtask bind {}. Nothing was changed",
            members.join(" ")
        )),
    }
}

fn give(paths: &Paths, address: &str) -> Result<(), String> {
    let device = paths.device(address);
    match paths.driver(address) {
        Some(driver) if driver == "vfio-pci" => {
            println!("{address} is bound to vfio-pci already");
            return Ok(());
        }
        Some(driver) => {
            remember(paths, address, &driver)?;
            // The override first: the function must not go back to its driver in between.
            paths.write(&device.join("driver_override"), "vfio-pci")?;
            paths.write(&device.join("driver/unbind"), address)?;
        }
        None => {
            // A note of an earlier `bind` that failed half way knows better.
            if !paths.note(address).exists() {
                remember(paths, address, "")?;
            }
            paths.write(&device.join("driver_override"), "vfio-pci")?;
        }
    }
    paths.write(&paths.bus.join("drivers_probe"), address)?;
    match paths.driver(address).as_deref() {
        Some("vfio-pci") => {
            println!("{address} is bound to vfio-pci");
            Ok(())
        }
        found => {
            Err(format!("{address}: vfio-pci did not take it (found {}); dmesg says why", found.unwrap_or("no driver")))
        }
    }
}

fn remember(paths: &Paths, address: &str, driver: &str) -> Result<(), String> {
    let note = paths.note(address);
    let written = fs::create_dir_all(&paths.memory).and_then(|()| fs::write(&note, driver));
    written.map_err(|error| format!("{}: {error}; run this as root", note.display()))
}

/// Gives functions back to the driver that they had.
///
/// # Errors
/// When a function does not exist or sysfs refuses.
pub fn unbind(paths: &Paths, addresses: &[String]) -> Result<(), String> {
    if addresses.is_empty() {
        return Err("say which: cargo xtask unbind 0000:03:00.0".into());
    }
    addresses.iter().try_for_each(|address| take_back(paths, address))
}

fn take_back(paths: &Paths, address: &str) -> Result<(), String> {
    let device = paths.device(address);
    if !device.exists() {
        return Err(format!("there is no device {address}; lspci -D lists what there is, write it as 0000:03:00.0"));
    }
    match paths.driver(address) {
        Some(driver) if driver != "vfio-pci" => {
            println!("{address} is bound to {driver}, not to vfio-pci: nothing to do");
            return Ok(());
        }
        Some(_) => paths.write(&device.join("driver/unbind"), address)?,
        None => {}
    }
    // An empty line takes the override away.
    paths.write(&device.join("driver_override"), "")?;
    let note = paths.note(address);
    let before = fs::read_to_string(&note).unwrap_or_default();
    if before.is_empty() {
        println!("{address} had no driver before, as far as this program knows; it has none now");
        println!("to let the kernel choose one: echo {address} > {}", paths.bus.join("drivers_probe").display());
        return Ok(());
    }
    paths.write(&paths.bus.join("drivers_probe"), address)?;
    match paths.driver(address) {
        Some(driver) => {
            println!("{address} is bound to {driver} again");
            // It has served; the next `bind` writes it anew.
            let _ = fs::remove_file(note);
            Ok(())
        }
        None => Err(format!("{address}: no driver took it; load the one it had: modprobe {before}")),
    }
}

fn group(device: &Path) -> String {
    link_name(&device.join("iommu_group")).unwrap_or_default()
}

/// Last component of what a symbolic link points to.
fn link_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const NIC: &str = "0000:03:00.0";
    const TWIN: &str = "0000:03:00.1";

    /// Folders as sysfs has them: (address, driver, group). Nobody acts on what is written.
    fn machine(functions: &[(&str, Option<&str>, Option<&str>)]) -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let (bus, memory, groups) = (root.path().join("pci"), root.path().join("run"), root.path().join("vfio"));
        let paths = Paths { bus, memory, groups };
        fs::create_dir_all(paths.bus.join("drivers/vfio-pci")).unwrap();
        fs::create_dir_all(&paths.groups).unwrap();
        fs::write(paths.groups.join("12"), "").unwrap();
        for (address, driver, group) in functions {
            let device = paths.device(address);
            fs::create_dir_all(&device).unwrap();
            if let Some(driver) = driver {
                let driver = paths.bus.join("drivers").join(driver);
                fs::create_dir_all(&driver).unwrap();
                symlink(&driver, device.join("driver")).unwrap();
            }
            if let Some(group) = group {
                let members = root.path().join("groups").join(group).join("devices");
                fs::create_dir_all(&members).unwrap();
                symlink(members.parent().unwrap(), device.join("iommu_group")).unwrap();
                symlink(&device, members.join(address)).unwrap();
            }
        }
        (root, paths)
    }

    fn refused(functions: &[(&str, Option<&str>, Option<&str>)], addresses: &[&str]) -> String {
        let (_root, paths) = machine(functions);
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let why = bind(&paths, &addresses).unwrap_err();
        // A refusal changes nothing.
        assert!(!paths.bus.join("drivers_probe").exists() && !paths.device(NIC).join("driver_override").exists());
        why
    }

    #[test]
    fn what_stands_in_the_way_is_said_before_anything_is_changed() {
        let ixgbe = Some("ixgbe");
        assert!(refused(&[], &[]).contains("say which"));
        assert!(refused(&[], &[NIC]).contains("there is no device 0000:03:00.0"));
        assert!(refused(&[(NIC, ixgbe, None)], &[NIC]).contains("intel_iommu=on"));
        let twins = [(NIC, ixgbe, Some("12")), (TWIN, ixgbe, Some("12"))];
        let why = refused(&twins, &[NIC]);
        assert!(
            why.contains("0000:03:00.1 is bound to ixgbe") && why.contains("bind 0000:03:00.0 0000:03:00.1"),
            "{why}"
        );
    }

    #[test]
    fn the_groups_file_is_the_users_and_a_user_that_is_not_there_is_noticed_first() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let (bound, unbound) = ([(NIC, Some("vfio-pci"), Some("12"))], [(NIC, Some("ixgbe"), Some("12"))]);
        let args = |user: &str| [NIC.to_owned(), "--user".into(), user.into()];
        assert!(refused(&unbound, &[NIC, "--user"]).contains("--user wants a name"));
        for user in ["no-such-user", "--help", "0:0", ""] {
            assert!(refused(&unbound, &[NIC, "--user", user]).contains("there is no user"), "{user}");
        }
        let (_root, paths) = machine(&bound);
        let file = paths.groups.join("12");
        let me = fs::metadata(&file).unwrap().uid();
        // Root can give it away; others can give it to themselves.
        let user = if me == 0 { 65534 } else { me };
        bind(&paths, &args(&user.to_string())).unwrap();
        let found = fs::metadata(&file).unwrap();
        assert_eq!((found.uid(), found.permissions().mode() & 0o7), (user, 0o4), "nobody else gets anything");
        fs::remove_file(&file).unwrap();
        let why = bind(&paths, &args(&user.to_string())).unwrap_err();
        assert!(why.contains("/vfio/12") && why.contains("run this as root"), "{why}");
    }

    #[test]
    fn the_old_driver_is_remembered_and_sysfs_is_written_in_order() {
        let (_root, paths) =
            machine(&[(NIC, Some("ixgbe"), Some("12")), ("0000:00:01.0", Some("pcieport"), Some("12"))]);
        // Here no kernel answers the probe, so the function stays where it is, and that is noticed.
        let why = bind(&paths, &[NIC.to_owned()]).unwrap_err();
        assert!(why.contains("vfio-pci did not take it (found ixgbe)"), "{why}");
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(read(paths.device(NIC).join("driver_override")), "vfio-pci\n");
        assert_eq!(read(paths.bus.join("drivers/ixgbe/unbind")), "0000:03:00.0\n");
        assert_eq!(read(paths.bus.join("drivers_probe")), "0000:03:00.0\n");
        assert_eq!(read(paths.note(NIC)), "ixgbe");
        // Asked again when it has neither driver: the first note stands.
        fs::remove_file(paths.device(NIC).join("driver")).unwrap();
        assert!(bind(&paths, &[NIC.to_owned()]).is_err());
        assert_eq!(read(paths.note(NIC)), "ixgbe");
    }

    #[test]
    fn unbind_clears_the_override_and_leaves_other_drivers_alone() {
        let (_root, paths) = machine(&[(NIC, Some("ixgbe"), Some("12"))]);
        unbind(&paths, &[NIC.to_owned()]).unwrap();
        assert!(!paths.device(NIC).join("driver_override").exists());
        let (_root, paths) = machine(&[(NIC, Some("vfio-pci"), Some("12"))]);
        unbind(&paths, &[NIC.to_owned()]).unwrap();
        assert_eq!(fs::read_to_string(paths.device(NIC).join("driver_override")).unwrap(), "\n");
        assert_eq!(fs::read_to_string(paths.bus.join("drivers/vfio-pci/unbind")).unwrap(), "0000:03:00.0\n");
        assert!(unbind(&paths, &[TWIN.to_owned()]).unwrap_err().contains("there is no device"));
    }
}
