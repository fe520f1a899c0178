//! The other side of the bus: device models of NICs, the wires between them, and a vfio-user server.
//!
//! A model answers configuration space and registers, reads descriptors and frames by DMA, computes the checksums and
//! segments that the NIC would, and reports back. It is written from the device's side and shares no table with any
//! driver.
//!
//! - [`ixgbe`]: Intel 82599, X540 and X550, a stepped model without a thread or a clock of its own;
//! - [`ice`]: Intel E810, stepped likewise, with its firmware;
//! - [`virtio`]: virtio-net 1.x over PCI, stepped likewise;
//! - [`Scripted`]: a model that loses its link or gets stuck at a place in the traffic;
//! - [`FaultyBus`]: a bus between any model and any driver on which things go wrong as somebody decides;
//! - [`wire`]: loopback, cable, TAP, pcap file, checking sink;
//! - [`DeviceModel`]: what all models are to a bus;
//! - [`LocalDevice`]: a model in this process, as a [`stillwire_dma::Backend`], with a thread or stepped in a [`Clock`]'s time;
//! - [`control`]: faults on command, by a socket;
//! - [`server`]: the same model on a vfio-user socket, for QEMU or another process.
#![warn(missing_docs)]

pub mod bus;
mod checksum;
mod clock;
mod config_space;
pub mod control;
mod counters;
mod dma;
pub mod faulty;
mod headers;
mod history;
pub mod ice;
pub mod ixgbe;
mod local;
mod memory;
mod model;
mod offload;
mod packet;
mod pages;
mod register_table;
mod report;
pub mod scripted;
pub mod server;
mod toeplitz;
pub mod virtio;
pub mod wire;

pub use bus::{BusFault, BusMemory, Interrupts};
pub use clock::{Clock, VirtualClock};
pub use config_space::LEN as CONFIG_LEN;
pub use counters::Counters;
pub use faulty::{FaultyBus, InterruptFate, Mishaps, RegisterAccess, RegisterFate, StepFate};
pub use history::{Event, Touched};
pub use ixgbe::{Config, Faults, Model};
pub use local::{LocalDevice, Running};
pub use memory::{DmaAccess, DmaFate, Interposer, Mapped, MemoryTable};
pub use model::{DeviceModel, DoorbellPages};
pub use pages::Doorbells;
pub use report::{Report, report};
pub use scripted::{Fault, Scripted};
pub use wire::Wire;
