//! `--device` and `--wire`.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use stillwire_dma::{Node, PciAddress, PciFunction};
use stillwire_driver::{Config, Nic};
use stillwire_emulator::scripted::{Fault, Faulty, Scripted};
use stillwire_emulator::{DeviceModel, LocalDevice, Running, ice, ixgbe, virtio, wire};

use crate::{Error, Result};

/// A device as the user names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceName {
    /// `emulated:MODEL`: a model in this process.
    Emulated(Model),
    /// `vfio-user:SOCKET`: a model in another process.
    VfioUser(PathBuf),
    /// `0000:03:00.0`: a card, bound to vfio-pci.
    Pci(PciAddress),
}

/// What is modelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    /// `ixgbe`: an 82599.
    Ixgbe,
    /// `ice`: an E810 that has a package.
    Ice,
    /// `virtio`: virtio-net 1.x.
    Virtio,
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("emulated", "ixgbe")) => Ok(Self::Emulated(Model::Ixgbe)),
            Some(("emulated", "ice")) => Ok(Self::Emulated(Model::Ice)),
            Some(("emulated", "virtio")) => Ok(Self::Emulated(Model::Virtio)),
            Some(("vfio-user", path)) if !path.is_empty() => Ok(Self::VfioUser(path.into())),
            _ => text.parse().map(Self::Pci).map_err(|_| Error::Device(text.to_owned())),
        }
    }
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Emulated(Model::Ixgbe) => f.write_str("emulated:ixgbe"),
            Self::Emulated(Model::Ice) => f.write_str("emulated:ice"),
            Self::Emulated(Model::Virtio) => f.write_str("emulated:virtio"),
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
    /// `--ddp`: what an E810 is to learn protocols from.
    pub package: Option<Vec<u8>>,
}

impl OpenDevice {
    /// The same, with the DDP package in the file `path`.
    ///
    /// # Errors
    /// When the file can not be read.
    pub fn with_package(self, path: Option<&Path>) -> Result<Self> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source });
        Ok(Self { package: path.map(read).transpose()?, ..self })
    }

    /// Brings the NIC up.
    ///
    /// # Errors
    /// What the driver says.
    pub fn nic(&self, config: Config) -> Result<Nic> {
        let function = self.function.clone();
        Ok(match &self.package {
            Some(package) => Nic::open_with_package(function, config, package)?,
            None => Nic::open(function, config)?,
        })
    }
}

/// How the emulated NIC is set up.
#[derive(Clone, Debug)]
pub struct Emulated {
    /// What the port is connected to: `loopback`, `tap:NAME`, `pcap:PATH`.
    pub wire: String,
    /// Time between the model's checksum pass and its transmit pass.
    pub transmit_delay: Duration,
    /// Largest IP packet, bytes, where the model has a say in it.
    pub mtu: u16,
    /// What goes wrong on the way.
    pub faults: Vec<Fault>,
    /// An E810 has no package.
    pub bare: bool,
}

impl Default for Emulated {
    fn default() -> Self {
        Self { wire: "loopback".to_owned(), transmit_delay: Duration::ZERO, mtu: 1500, faults: Vec::new(), bare: false }
    }
}

impl DeviceName {
    /// The memory node that the device is on, if that makes a difference ([`Node::of`]): a model has none.
    pub fn node(&self) -> Option<Node> {
        match self {
            Self::Pci(address) => Node::of(*address),
            Self::VfioUser(_) | Self::Emulated(_) => None,
        }
    }

    /// Opens the device. `emulated` matters to a model in this process only.
    ///
    /// # Errors
    /// Says what stands in the way.
    pub fn open(&self, emulated: &Emulated) -> Result<OpenDevice> {
        match self {
            Self::Pci(address) => Ok(OpenDevice { function: PciFunction::open(*address)?, model: None, package: None }),
            Self::VfioUser(path) => {
                Ok(OpenDevice { function: PciFunction::connect(path)?, model: None, package: None })
            }
            Self::Emulated(model) => {
                let wire = wire::parse(&emulated.wire)?;
                let transmit_delay = emulated.transmit_delay;
                match model {
                    Model::Ixgbe => {
                        let config = ixgbe::Config { transmit_delay, ..Default::default() };
                        Ok(start_with(ixgbe::Model::new(config, wire), &emulated.faults))
                    }
                    Model::Ice => {
                        // As another driver may have left it; with `--ddp` as after power-on.
                        let package = !emulated.bare;
                        let config = ice::Config { transmit_delay, package, ..Default::default() };
                        Ok(start_with(ice::Model::new(config, wire).map_err(Error::Model)?, &emulated.faults))
                    }
                    Model::Virtio => {
                        let config = virtio::Config { transmit_delay, mtu: emulated.mtu, ..Default::default() };
                        Ok(start_with(virtio::Model::new(config, wire).map_err(Error::Model)?, &emulated.faults))
                    }
                }
            }
        }
    }
}

fn start_with(model: impl Faulty, faults: &[Fault]) -> OpenDevice {
    if faults.is_empty() { start(model) } else { start(Scripted::new(model, faults.to_vec())) }
}

fn start(model: impl DeviceModel) -> OpenDevice {
    let device = LocalDevice::new(model);
    let function = PciFunction::from_backend(Arc::clone(&device) as _);
    OpenDevice { function, model: Some(device.spawn()), package: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["emulated:ixgbe", "emulated:ice", "emulated:virtio", "vfio-user:/run/nic.sock", "0000:03:00.0"] {
            assert_eq!(good.parse::<DeviceName>().unwrap().to_string(), good);
        }
        for bad in ["", "eth0", "emulated:", "emulated:e1000", "vfio-user:", "03:00"] {
            let text = bad.parse::<DeviceName>().unwrap_err().to_string();
            assert!(text.contains("emulated:ixgbe, emulated:ice, emulated:virtio, vfio-user:SOCKET"), "{bad}: {text}");
        }
    }

    #[test]
    fn a_model_opens() {
        let emulated = Emulated { wire: "sink".into(), ..Emulated::default() };
        let models = [("emulated:ixgbe", "8086:10fb"), ("emulated:ice", "8086:1592"), ("emulated:virtio", "1af4:1041")];
        for (name, ids) in models {
            let device = name.parse::<DeviceName>().unwrap().open(&emulated).unwrap();
            assert!(device.model.is_some() && device.function.name().contains(ids), "{}", device.function.name());
        }
    }
}
