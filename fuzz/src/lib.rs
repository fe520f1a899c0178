//! Hostile inputs: what a device, a peer on a socket, a wire or a file may say to us.
//!
//! A *target* is a plain function of bytes; [`TARGETS`] is the one table of them. Two drivers feed them:
//!
//! - this crate's program, on stable Rust: it makes inputs from a seed, and from the files in `corpus/`, for a bounded time. That
//!   is a step of `cargo xtask test`. What it finds it writes into a file and says how to run that again.
//! - libFuzzer, which looks for new ways through the code (`cargo xtask fuzz --libfuzzer`; nightly, and a C++ compiler). Its
//!   programs in `fuzz_targets/` are a line each.
//!
//! A target is survived if nothing panics, in any thread, if it ends, and if what it says itself holds: that tokens come back at
//! most once and not before the device said so, that no byte of a file is stored outside of it.
#![warn(missing_docs)]

pub mod bus;
pub mod generate;
pub mod input;
pub mod judge;
mod process;
mod targets;
pub mod tokens;

pub use judge::{feed, judge};

/// One thing that must survive anything.
pub struct Target {
    /// As on the command line, and the name of its corpus.
    pub name: &'static str,
    /// What is fed with what.
    pub what: &'static str,
    /// Longest input that makes sense, bytes.
    pub longest: usize,
    /// Takes an input; panics if it was not survived.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, longest: usize, run: fn(&[u8]), what: &'static str) -> Target {
    Target { name, what, longest, run }
}

/// All targets.
#[rustfmt::skip]
pub const TARGETS: &[Target] = &[
    target("ixgbe_rings", 4096, targets::rings::ixgbe, "the ixgbe driver's rings, written by its device at any time"),
    target("ice_rings", 4096, targets::rings::ice, "the ice driver's rings, likewise"),
    target("virtio_split", 4096, targets::rings::virtio_split, "the virtio driver's split rings, likewise"),
    target("virtio_packed", 4096, targets::rings::virtio_packed, "the virtio driver's packed rings, likewise"),
    target("ixgbe_bring_up", 1024, targets::bring_up::ixgbe, "the ixgbe driver: registers, EEPROM and module that lie"),
    target("virtio_bring_up", 1024, targets::bring_up::virtio, "the virtio driver: capabilities and registers that lie"),
    target("ice_firmware", 4096, targets::firmware::run, "the ice driver: firmware whose answers and events lie"),
    target("ddp_package", 16384, targets::package::run, "a DDP package file: the driver's parser and the model's"),
    target("model_ixgbe", 4096, targets::models::ixgbe, "the 82599's model, driven by a hostile driver"),
    target("model_ice", 8192, targets::models::ice, "the E810's model, likewise"),
    target("model_virtio", 4096, targets::models::virtio, "virtio-net's model, likewise"),
    target("vfio_user_client", 4096, targets::vfio_user::client, "the vfio-user client, of a hostile server"),
    target("vfio_user_server", 4096, targets::vfio_user::server, "the vfio-user server, of a hostile client"),
    target("packet", 2048, targets::frames::packet, "received frames: Ethernet, ARP, IPv4, UDP"),
    target("capture", 2048, targets::frames::capture, "a capture: its filter, what it fills in, its flag"),
    target("transfer_receiver", 8192, targets::transfer::receiver, "the transfer's receiver: any datagrams"),
    target("transfer_sender", 8192, targets::transfer::sender, "the transfer's sender: any datagrams"),
    target("attach_server", 4096, targets::attach::server, "the page cache's door: a hostile writer"),
    target("attach_client", 4096, targets::attach::client, "an attached writer: a hostile cache"),
    target("emulator_text", 512, targets::text::run, "texts of the emulator: faults, scripts, wires, features"),
];

/// The target of that name.
pub fn named(name: &str) -> Option<&'static Target> {
    let wanted = std::env::var_os(SELF_TEST).is_some();
    TARGETS.iter().chain(wanted.then_some(&FAULTY)).find(|target| target.name == name)
}

/// The environment variable with which tests bring in a target that is not survived: `panic`, `thread` or `abort` says how.
pub const SELF_TEST: &str = "STILLWIRE_FUZZ_SELF_TEST";

const FAULTY: Target = target("self_test", 64, self_test, "a target that breaks, to see that this is seen");

fn self_test(bytes: &[u8]) {
    if bytes.first().is_none_or(|byte| byte & 1 == 0) {
        return;
    }
    let how = std::env::var(SELF_TEST).unwrap_or_default();
    match how.as_str() {
        // Somewhere else, and caught.
        "thread" => drop(std::thread::spawn(|| panic!("the input begins with an odd byte")).join()),
        "abort" => std::process::abort(),
        _ => panic!("the input begins with an odd byte"),
    }
}
