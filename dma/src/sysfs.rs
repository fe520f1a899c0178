//! What the kernel says about a PCI function, and whether VFIO can have it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::{Error, Result};

/// Domain, bus, device and function of a PCI function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PciAddress {
    /// Domain (segment).
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device, 0..=31.
    pub device: u8,
    /// Function, 0..=7.
    pub function: u8,
}

impl FromStr for PciAddress {
    type Err = Error;

    /// Reads `0000:03:00.0`, or `03:00.0` in domain 0.
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text).ok_or_else(|| Error::BadAddress(text.to_owned()))
    }
}

impl PciAddress {
    fn parse(text: &str) -> Option<Self> {
        // `from_str_radix` takes a leading '+', which no address has.
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')) {
            return None;
        }
        let (rest, function) = text.rsplit_once('.')?;
        let (rest, device) = rest.rsplit_once(':')?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
        let address = Self {
            domain: u32::from_str_radix(domain, 16).ok()?,
            bus: u8::from_str_radix(bus, 16).ok()?,
            device: u8::from_str_radix(device, 16).ok()?,
            function: u8::from_str_radix(function, 16).ok()?,
        };
        (address.device < 32 && address.function < 8).then_some(address)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.device, self.function)
    }
}

/// Drivers that leave a function of the group to VFIO. A bridge may keep `pcieport`.
const HARMLESS: [&str; 3] = ["vfio-pci", "pcieport", "pci-stub"];

/// The folder of a function that VFIO can open.
///
/// # Errors
/// Says what stands in the way and how to remove it.
pub(crate) fn viable(devices: &Path, address: PciAddress) -> Result<PathBuf> {
    let path = devices.join(address.to_string());
    let address = address.to_string();
    if !path.exists() {
        return Err(Error::NoDevice(address));
    }
    let Some(group) = link_name(&path.join("iommu_group")) else {
        return Err(Error::NoGroup { address });
    };
    match link_name(&path.join("driver")) {
        None => return Err(Error::NoDriver { address }),
        Some(driver) if driver != "vfio-pci" => return Err(Error::OtherDriver { address, driver }),
        Some(_) => {}
    }
    let members = fs::read_dir(path.join("iommu_group/devices")).into_iter().flatten().flatten();
    for member in members {
        if let Some(driver) = link_name(&member.path().join("driver"))
            && !HARMLESS.contains(&driver.as_str())
        {
            let other = member.file_name().to_string_lossy().into_owned();
            return Err(Error::NotViable { group, other, driver });
        }
    }
    Ok(path)
}

/// The memory node that a function is on; `None` where the kernel does not know of one (-1), or there is no such function.
pub(crate) fn node_of(devices: &Path, address: PciAddress) -> Option<u32> {
    let text = fs::read_to_string(devices.join(address.to_string()).join("numa_node")).ok()?;
    text.trim().parse().ok()
}

/// The machine's nodes that have memory, from the folder `/sys/devices/system/node`; none where the kernel knows no nodes.
pub(crate) fn nodes_with_memory(nodes: &Path) -> Vec<u32> {
    let text = fs::read_to_string(nodes.join("has_memory")).unwrap_or_default();
    numbers(text.trim()).unwrap_or_default()
}

/// Reads numbers as the kernel writes sets of processors and nodes, `0,2,4-6`, in the order in which they are there; an empty
/// text is none of them. `None` for what is no such list, or has numbers above 65535.
pub fn numbers(text: &str) -> Option<Vec<u32>> {
    // A sign is not a number's here.
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|number| digits && *number <= u32::from(u16::MAX))
    };
    let mut found = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || found.len() > MOST_NUMBERS {
            return None;
        }
        found.extend(first..=last);
    }
    Some(found)
}

/// More than the processors and nodes of any machine: a list that goes on for ever ends.
const MOST_NUMBERS: usize = 1 << 16;

/// Last component of what a symbolic link points to.
fn link_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn addresses() {
        let read = |text: &str| PciAddress::from_str(text).map(|address| address.to_string()).ok();
        assert_eq!(read("0000:03:00.0").as_deref(), Some("0000:03:00.0"));
        assert_eq!(read("03:1f.7").as_deref(), Some("0000:03:1f.7"));
        assert_eq!(read("10000:e1:00.1").as_deref(), Some("10000:e1:00.1"));
        for bad in ["", "eth0", "03:00", "03:20.0", "03:00.8", "0000:+3:00.0", "0000:103:00.0", "a:b:c:d.0", "é:00.0"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    /// A folder of devices as sysfs has it: (address, driver, group).
    fn sysfs(functions: &[(&str, Option<&str>, Option<&str>)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (address, driver, group) in functions {
            let device = root.path().join("devices").join(address);
            fs::create_dir_all(&device).unwrap();
            if let Some(driver) = driver {
                let driver = root.path().join("drivers").join(driver);
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
        root
    }

    fn check(functions: &[(&str, Option<&str>, Option<&str>)], expect: &str) {
        let root = sysfs(functions);
        let found = viable(&root.path().join("devices"), "0000:03:00.0".parse().unwrap());
        let text = found.map(|_| "ok".to_owned()).unwrap_or_else(|error| error.to_string());
        assert!(text.contains(expect), "expected '{expect}' in: {text}");
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let vfio = Some("vfio-pci");
        check(&[("0000:03:00.0", vfio, Some("12"))], "ok");
        check(&[("0000:03:00.0", vfio, Some("12")), ("0000:03:00.1", vfio, Some("12"))], "ok");
        check(&[("0000:03:00.0", vfio, Some("12")), ("0000:00:01.0", Some("pcieport"), Some("12"))], "ok");
        check(&[("0000:04:00.0", vfio, Some("12"))], "there is no device 0000:03:00.0");
        check(&[("0000:03:00.0", Some("ixgbe"), Some("12"))], "bound to ixgbe; unbind it");
        check(&[("0000:03:00.0", None, Some("12"))], "bound to no driver");
        check(&[("0000:03:00.0", vfio, None)], "intel_iommu=on");
        check(
            &[("0000:03:00.0", vfio, Some("12")), ("0000:03:00.1", Some("ixgbe"), Some("12"))],
            "group 12 is not viable: 0000:03:00.1 is still bound to ixgbe",
        );
    }

    #[test]
    fn lists_of_numbers() {
        for (text, expect) in [
            ("0", Some(vec![0])),
            ("", Some(vec![])),
            ("2,4-6", Some(vec![2, 4, 5, 6])),
            ("7,0-1", Some(vec![7, 0, 1])),
            ("65535", Some(vec![65535])),
            ("65536", None),
            ("0-4294967295", None),
            ("4-2", None),
            ("-1", None),
            ("+1", None),
            ("1,", None),
            ("1 2", None),
            ("one", None),
        ] {
            assert_eq!(numbers(text), expect, "'{text}'");
        }
        assert_eq!(numbers(&["0-65535"; 3].join(",")), None, "a list without end");
    }

    #[test]
    fn where_a_function_and_memory_are() {
        let root = sysfs(&[("0000:03:00.0", None, None), ("0000:04:00.0", None, None)]);
        let devices = root.path().join("devices");
        let node = |address: &str| node_of(&devices, address.parse().unwrap());
        fs::write(devices.join("0000:03:00.0/numa_node"), "1\n").unwrap();
        fs::write(devices.join("0000:04:00.0/numa_node"), "-1\n").unwrap();
        assert_eq!((node("0000:03:00.0"), node("0000:04:00.0"), node("0000:05:00.0")), (Some(1), None, None));
        let nodes = root.path().join("node");
        assert!(nodes_with_memory(&nodes).is_empty(), "a kernel without nodes");
        fs::create_dir(&nodes).unwrap();
        fs::write(nodes.join("has_memory"), "0-1,3\n").unwrap();
        assert_eq!(nodes_with_memory(&nodes), [0, 1, 3]);
    }
}
