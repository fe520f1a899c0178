//! A DDP package: a file that somebody was given.

use stillwire_driver::{Config, Error, Nic};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{Doorbells, ice};

use crate::bus::Bus;

/// The driver's parser takes it apart, or says why not; what it lets through goes to the model's.
pub fn run(bytes: &[u8]) {
    let config = ice::Config { doorbells: Doorbells::Messages, ..ice::Config::default() };
    let bus = Bus::new(ice::Model::new(config, Box::new(Loopback::new())).expect("a device"));
    match Nic::open_with_package(bus.function(), Config { tx_ring: 64, rx_ring: 64, ..Config::default() }, bytes) {
        Ok(nic) => assert!(nic.mac().0[0] & 1 == 0),
        Err(Error::Package { what }) => assert!(!what.is_empty()),
        Err(other) => assert!(!other.to_string().is_empty()),
    }
}
