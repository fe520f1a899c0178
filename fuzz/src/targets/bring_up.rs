//! Bringing up a device whose registers lie.

use stillwire_driver::{Config, Nic};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{DeviceModel, Doorbells, ixgbe as i82599, virtio as net};

use crate::bus::Bus;
use crate::input::Input;

/// Intel's: the address comes out of the EEPROM, what is in the cage over two wires.
pub fn ixgbe(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let device_id = input.one_of(&[0x10fb, 0x10fb, 0x1528, 0x1563]);
    let config = i82599::Config { device_id, doorbells: Doorbells::Messages, ..i82599::Config::default() };
    come_up(i82599::Model::new(config, Box::new(Loopback::new())), &mut input);
}

/// Virtio's: where everything is stands in capabilities.
pub fn virtio(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let config = net::Config { doorbells: Doorbells::Messages, ..net::Config::default() };
    come_up(net::Model::new(config, Box::new(Loopback::new())).expect("a device"), &mut input);
}

fn come_up<M: DeviceModel>(model: M, input: &mut Input<'_>) {
    let bus = Bus::new(model);
    let config = Config {
        tx_ring: 64,
        rx_ring: 64,
        queues: u16::from(input.u8() % 4) + 1,
        interrupts: input.flag(),
        promiscuous: input.flag(),
        ..Config::default()
    };
    // As many for what comes up as for what is asked of it then.
    let most = usize::from(input.u8() % 24);
    bus.lie(input, most);
    let Ok(nic) = Nic::open(bus.function(), config) else { return };
    bus.stop_lying();
    for _ in 0..8 {
        if !input.more() {
            break;
        }
        let what = input.u8();
        bus.lie(input, usize::from(what >> 4));
        match what % 5 {
            0 => drop(nic.link()),
            1 => drop(nic.statistics()),
            2 => drop(nic.socket()),
            3 => drop((nic.tx_queue::<()>(), nic.rx_queue())),
            _ => drop(nic.queue_statistics()),
        }
        bus.stop_lying();
    }
    assert!(nic.mac().0[0] & 1 == 0 && nic.mac().0 != [0; 6], "{} is no NIC's address", nic.mac());
}
