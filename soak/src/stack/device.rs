//! The devices of the stacks, in this process.

use std::sync::Arc;

use stillwire_dma::PciFunction;
use stillwire_driver::Config;
use stillwire_emulator::scripted::{Faulty, Scripted};
use stillwire_emulator::wire::{Loopback, Lossy};
use stillwire_emulator::{LocalDevice, Running, ice, ixgbe, virtio};

use crate::nic::Mischief;
use crate::random::Random;

/// What is emulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    /// An 82599, three queues, a wire that loses frames.
    Ixgbe,
    /// An E810, two queues.
    Ice,
    /// virtio-net, two queues, rings of either layout.
    Virtio,
}

/// A device that runs.
pub struct Device {
    /// What a driver takes.
    pub function: PciFunction,
    /// What goes wrong.
    pub mischief: Box<dyn Mischief>,
    _running: Running,
}

impl Model {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ixgbe => "ixgbe",
            Self::Ice => "ice",
            Self::Virtio => "virtio",
        }
    }

    /// What `emulated:NAME` means.
    pub fn of(name: &str) -> Option<Self> {
        let name = name.strip_prefix("emulated:")?;
        [Self::Ixgbe, Self::Ice, Self::Virtio].into_iter().find(|model| model.name() == name)
    }

    /// How its NIC is set up.
    pub fn config(self) -> Config {
        let (queues, max_frame) = match self {
            Self::Ixgbe => (3, 9014),
            Self::Ice => (2, 9014),
            Self::Virtio => (2, 1514),
        };
        Config { queues, max_frame, tx_ring: 512, rx_ring: 512, ..Config::default() }
    }

    /// Starts one.
    pub fn start(self, random: &mut Random) -> Result<Device, Box<dyn std::error::Error>> {
        let transmit_delay = random.pause(0..3);
        let wire = Box::new(Lossy::new(Loopback::new(), 97));
        Ok(match self {
            Self::Ixgbe => {
                let config = ixgbe::Config { transmit_delay, ..Default::default() };
                start(ixgbe::Model::new(config, wire))
            }
            Self::Ice => {
                let config = ice::Config { transmit_delay, package: true, ..Default::default() };
                start(ice::Model::new(config, Box::new(Loopback::new()))?)
            }
            Self::Virtio => {
                let mut config = virtio::Config { transmit_delay, ..Default::default() };
                for feature in [virtio::Features::RING_PACKED, virtio::Features::IN_ORDER, virtio::Features::EVENT_IDX]
                {
                    config.features.set(feature, random.chance(500));
                }
                config.out_of_order = !config.features.contains(virtio::Features::IN_ORDER) && random.chance(500);
                start(virtio::Model::new(config, Box::new(Loopback::new()))?)
            }
        })
    }
}

fn start<M: Faulty>(model: M) -> Device {
    let device = LocalDevice::new(Scripted::new(model, Vec::new()));
    let function = PciFunction::from_backend(Arc::clone(&device) as _);
    let running = device.spawn();
    Device { function, mischief: Box::new(device), _running: running }
}
