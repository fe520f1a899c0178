//! What a NIC or its user can do wrong.

use std::time::Duration;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What was asked, what was found, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A function that no driver here knows.
    #[error(
        "nic: {name} is {vendor:04x}:{device:04x}, which no driver here knows; known are the Intel 82599 family (8086:10fb and sisters, X540, X550), the Intel E810 family (8086:1592 and sisters) and modern virtio-net (1af4:1041)"
    )]
    UnknownDevice {
        /// How the user named it.
        name: String,
        /// PCI vendor.
        vendor: u16,
        /// PCI device.
        device: u16,
    },
    /// A register did not come to the value waited for.
    #[error(
        "nic: {register} ({offset:#07x}) read {found:#010x} for {waited:?}, waited for {wanted:#x} under mask {mask:#x}"
    )]
    Timeout {
        /// Name of the register.
        register: &'static str,
        /// Its offset, bytes.
        offset: u32,
        /// The last value read.
        found: u32,
        /// The bits looked at.
        mask: u32,
        /// What they should have become.
        wanted: u32,
        /// How long.
        waited: Duration,
    },
    /// All registers read as ones: the card was pulled out, lost power, or its model's socket closed.
    #[error(
        "nic: {name} no longer answers (all registers read as ones); was it pulled out, reset, or its emulator stopped?"
    )]
    Gone {
        /// How the user named it.
        name: String,
    },
    /// Nothing answers in the cage.
    #[error("nic: {name}: no SFP+ module answers; is one in the cage?")]
    NoModule {
        /// How the user named it.
        name: String,
    },
    /// There is no interrupt to wait for.
    #[error(
        "nic: {name}: waiting for interrupts needs {needed} MSI-X vectors, {vectors} are there; open it with Config::interrupts, or with fewer queues"
    )]
    NoInterrupts {
        /// How the user named it.
        name: String,
        /// Vectors that there are.
        vectors: u32,
        /// Vectors asked for.
        needed: u32,
    },
    /// No link in time.
    #[error("nic: {name} has no link after {waited:?}; is the cable in, and the far end up?")]
    NoLink {
        /// How the user named it.
        name: String,
        /// How long.
        waited: Duration,
    },
    /// The device could not be proved quiet, so what it may still read was not given back.
    #[error(
        "nic: {name} could not be stopped: {why}; {kept} buffers it may still read stay held until this program ends"
    )]
    NotQuiet {
        /// How the user named it.
        name: String,
        /// What failed last.
        why: String,
        /// Tokens kept.
        kept: usize,
    },
    /// The device was stopped; open the NIC again to use it.
    #[error("nic: {name} was stopped; open it again to use it")]
    Stopped {
        /// How the user named it.
        name: String,
    },
    /// A setting outside of what the device can do.
    #[error("nic: {setting} is {found}; {allowed}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// The value asked for.
        found: u64,
        /// What would do.
        allowed: &'static str,
    },
    /// A queue that was already taken.
    #[error("nic: {name} has one {queue} queue, and it is already taken")]
    QueueTaken {
        /// How the user named it.
        name: String,
        /// "transmit" or "receive".
        queue: &'static str,
    },
    /// A frame that the device cannot send.
    #[error("frame: {what} is {found}, the limit is {limit}")]
    Frame {
        /// What is wrong with it.
        what: &'static str,
        /// The value found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The NIC has no usable address of its own.
    #[error(
        "nic: {name} has no valid MAC address of its own (found {found}); give it one, in its EEPROM or where it is emulated"
    )]
    NoMac {
        /// How the user named it.
        name: String,
        /// What it says.
        found: String,
    },
    /// A device without something that this driver cannot do without.
    #[error("nic: {name} does not offer {feature}: {hint}")]
    Feature {
        /// How the user named it.
        name: String,
        /// What is missing.
        feature: &'static str,
        /// Why it matters, and what to do.
        hint: &'static str,
    },
    /// A device said what none may say. Nothing that it says later is believed.
    #[error(
        "nic: {name} breaks the protocol of its kind: {what}; stop it to get back what it holds, and tell who makes the device"
    )]
    Protocol {
        /// How the user named it.
        name: String,
        /// What it said, and what would have been right.
        what: String,
    },
    /// A command that a device did not carry out.
    #[error("nic: {name} was told {command} and {why}; without it the device does not do what was asked of it")]
    Command {
        /// How the user named it.
        name: String,
        /// The command, as the device's standard names it.
        command: &'static str,
        /// What it said, or that it said nothing.
        why: String,
    },
    /// A DDP package that is none, or that the device cannot use.
    #[error(
        "ddp package: the file {what}; give the ice.pkg of linux-firmware (intel/ice/ddp), or none for a card without offloads"
    )]
    Package {
        /// What is wrong with it.
        what: String,
    },
    /// Memory, mappings, configuration space.
    #[error(transparent)]
    Dma(#[from] stillwire_dma::Error),
}
