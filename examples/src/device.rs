//! `--device` and `--wire`.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use stillwire_dma::{PciAddress, PciFunction};
use stillwire_emulator::{LocalDevice, Running, ixgbe, wire};

use crate::{Error, Result};

/// A device as the user names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceName {
    /// `emulated:ixgbe`: a model of the 82599 in this process.
    Emulated,
    /// `vfio-user:SOCKET`: a model in another process.
    VfioUser(PathBuf),
    /// `0000:03:00.0`: a card, bound to vfio-pci.
    Pci(PciAddress),
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("emulated", "ixgbe")) => Ok(Self::Emulated),
            Some(("vfio-user", path)) if !path.is_empty() => Ok(Self::VfioUser(path.into())),
            _ => text.parse().map(Self::Pci).map_err(|_| Error::Device(text.to_owned())),
        }
    }
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Emulated => f.write_str("emulated:ixgbe"),
            Self::VfioUser(path) => write!(f, "vfio-user:{}", path.display()),
            Self::Pci(address) => address.fmt(f),
        }
    }
}

/// A PCI function, and the thread of its model where there is one.
pub struct OpenDevice {
    /// The function.
    pub function: PciFunction,
    /// Stops the model when dropped; so it must be dropped after the NIC.
    pub model: Option<Running>,
}

/// How the emulated NIC is set up.
#[derive(Clone, Debug)]
pub struct Emulated {
    /// What the port is connected to: `loopback`, `tap:NAME`, `pcap:PATH`.
    pub wire: String,
    /// Time between the model's checksum pass and its transmit pass.
    pub transmit_delay: Duration,
}

impl DeviceName {
    /// Opens the device. `emulated` matters to a model in this process only.
    ///
    /// # Errors
    /// Says what stands in the way.
    pub fn open(&self, emulated: &Emulated) -> Result<OpenDevice> {
        match self {
            Self::Pci(address) => Ok(OpenDevice { function: PciFunction::open(*address)?, model: None }),
            Self::VfioUser(path) => Ok(OpenDevice { function: PciFunction::connect(path)?, model: None }),
            Self::Emulated => {
                let wire = wire::parse(&emulated.wire)?;
                let config = ixgbe::Config { transmit_delay: emulated.transmit_delay, ..Default::default() };
                let device = LocalDevice::new(ixgbe::Model::new(config, wire));
                let function = PciFunction::from_backend(Arc::clone(&device) as _);
                Ok(OpenDevice { function, model: Some(device.spawn()) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["emulated:ixgbe", "vfio-user:/run/nic.sock", "0000:03:00.0"] {
            assert_eq!(good.parse::<DeviceName>().unwrap().to_string(), good);
        }
        for bad in ["", "eth0", "emulated:", "emulated:e1000", "vfio-user:", "03:00"] {
            let text = bad.parse::<DeviceName>().unwrap_err().to_string();
            assert!(text.contains("emulated:ixgbe, vfio-user:SOCKET"), "{bad}: {text}");
        }
    }
}
