//! Models, driven by a driver that means harm: registers, configuration space, rings and buffers.

use std::time::Duration;

use stillwire_dma::{Access, Backend, HugePages, SharedMemory};
use stillwire_driver::{Config, Nic};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{CONFIG_LEN, DeviceModel, Doorbells, ice as e810, ixgbe as i82599, virtio as net};

use crate::bus::Bus;
use crate::input::Input;

/// Intel's 82599 and its sisters.
pub fn ixgbe(bytes: &[u8]) {
    let device_id = [0x10fb, 0x10f7, 0x1528, 0x1563][usize::from(bytes.first().unwrap_or(&0) >> 6)];
    let config = i82599::Config { device_id, doorbells: Doorbells::Messages, ..i82599::Config::default() };
    // Queue 0 of each kind, interrupts, EEPROM, two-wire bus, MDIO, semaphores, filters.
    let known = [
        0x0, 0x8, 0x18, 0x28, 0x800, 0x808, 0x880, 0x1000, 0x1004, 0x1008, 0x1010, 0x1018, 0x1028, 0x3000, 0x4240,
        0x425c, 0x4260, 0x5080, 0x5400, 0x5404, 0x6000, 0x6004, 0x6008, 0x6010, 0x6018, 0x6028, 0x4a80, 0x1_0010,
        0x1_0014, 0x1_0140, 0x1_0160, 0x5818,
    ];
    drive(i82599::Model::new(config, Box::new(Loopback::new())), 0, &known, |_, _| (), bytes);
}

/// Intel's E810.
pub fn ice(bytes: &[u8]) {
    let config = e810::Config { doorbells: Doorbells::Messages, ..e810::Config::default() };
    // Admin queues, reset, tails, contexts of receive queues and their control.
    let known = [
        0x8_0000, 0x8_0100, 0x8_0200, 0x8_0300, 0x8_0400, 0x8_0080, 0x8_0180, 0x8_0280, 0x8_0380, 0x8_0480, 0x9_1000,
        0x2c_0000, 0x2c_0004, 0x29_0000, 0x29_0004, 0x28_0000, 0x28_2000, 0x28_4000, 0x12_0000, 0x12_0004, 0x16_0000,
        0x15_4000,
    ];
    drive(e810::Model::new(config, Box::new(Loopback::new())).expect("a device"), 0, &known, command, bytes);
}

/// A command to the E810's firmware, of those that there are or any, with a buffer.
fn command(bus: &Bus<e810::Model>, input: &mut Input<'_>) {
    const OPCODES: [u16; 35] = [
        0x0001, 0x0002, 0x0008, 0x0009, 0x000a, 0x0107, 0x0110, 0x0200, 0x020d, 0x0210, 0x0211, 0x0213, 0x02a0, 0x02a1,
        0x02a2, 0x02a4, 0x0400, 0x0401, 0x0402, 0x0404, 0x040f, 0x0412, 0x0600, 0x0601, 0x0603, 0x0605, 0x0607, 0x0613,
        0x0b02, 0x0b03, 0x0c30, 0x0c31, 0x0c40, 0x0c41, 0x0c43,
    ];
    let read = |offset| {
        let mut bytes = [0; 4];
        bus.device().with_model(|model| model.bar_read(0, offset, &mut bytes));
        u32::from_le_bytes(bytes)
    };
    let ring = u64::from(read(0x8_0000)) | u64::from(read(0x8_0100)) << 32;
    let (size, head) = (read(0x8_0200) & 0x3ff, read(0x8_0300));
    let opcode = if input.u8() < 240 { input.one_of(&OPCODES) } else { input.u16() };
    let flags = if input.u8() < 200 { 0x3600 } else { input.u16() };
    let len = if input.u8() < 200 { 4096 } else { input.u16() };
    let mut params = [0; 16];
    let given = input.take(8);
    params[..given.len()].copy_from_slice(given);
    params[8..].copy_from_slice(&PLACE.rotate_left(32).to_le_bytes());
    bus.write(PLACE + u64::from(input.u8()), input.piece());
    let words = [flags, opcode, len, 0].map(u16::to_le_bytes).concat();
    bus.write(ring + u64::from(head) * 32, &[&words[..], &[0; 8], &params].concat());
    let _ = bus.bar_write(0, 0x8_0400, &((head + 1) % size.max(1)).to_le_bytes());
}

/// Virtio's network card.
pub fn virtio(bytes: &[u8]) {
    let without = net::Features::from_bits_truncate(bytes.first().map_or(0, |byte| u64::from(byte >> 6) << 34));
    let features = net::Features::all() - without;
    let config = net::Config { features, doorbells: Doorbells::Messages, ..net::Config::default() };
    let known: Vec<u64> =
        (0..0x38).step_by(2).chain((0x3000..0x3010).step_by(2)).chain((0x1000..0x1010).step_by(4)).collect();
    drive(net::Model::new(config, Box::new(Loopback::new())).expect("a device"), 4, &known, |_, _| (), bytes);
}

/// Bytes that the device reaches beside the driver's, and where.
const LEN: usize = 1 << 16;
const PLACE: u64 = 0x7000_0000;
const READ_ONLY: u64 = 0x7100_0000;

/// `known` are registers of `bar` that matter; `extra` is what no register alone does.
fn drive<M: DeviceModel>(model: M, bar: u8, known: &[u64], extra: impl Fn(&Bus<M>, &mut Input<'_>), bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let bus = Bus::new(model);
    let settings = input.u8();
    let Ok(memory) = SharedMemory::new("hostile-driver", LEN, HugePages::Never) else { return };
    let _ = bus.dma_map(PLACE, &memory, 0..LEN, Access::ReadWrite);
    let _ = bus.dma_map(READ_ONLY, &memory, 0..LEN, Access::ReadOnly);
    // Half of the time an honest driver brings the device up, and is then replaced.
    let nic = (settings & 1 == 1).then(|| {
        let config = Config { tx_ring: 64, rx_ring: 64, interrupts: settings & 2 == 2, ..Config::default() };
        Nic::open(bus.function(), config).ok().map(|nic| (nic.tx_queue::<()>(), nic.rx_queue(), nic))
    });
    let _ = bus.config_write(4, &[6, 0]).is_ok();
    for _ in 0..400 {
        if !input.more() {
            break;
        }
        match input.u8() % 11 {
            10 => extra(&bus, &mut input),
            0..=2 => {
                let (bar, offset) = place(&bus, bar, known, &mut input);
                let value = if input.flag() { address(&bus, &mut input) as u32 } else { input.u32() };
                let width = input.one_of(&[4, 4, 4, 2, 1, 8]);
                let _ = bus.bar_write(bar, offset, &u64::from(value).to_le_bytes()[..width]);
            }
            3 => {
                let (bar, offset) = place(&bus, bar, known, &mut input);
                let mut value = [0; 8];
                let width = input.one_of(&[4, 4, 2, 1, 8]);
                let _ = bus.bar_read(bar, offset, &mut value[..width]);
            }
            4 => {
                let offset = input.u16() % CONFIG_LEN as u16;
                let _ = bus.config_write(offset, input.take(4));
            }
            5 => {
                let mut value = [0; 4];
                let _ = bus.config_read(input.u16() % CONFIG_LEN as u16, &mut value);
            }
            6 => {
                let at = address(&bus, &mut input);
                bus.write(at, input.piece());
            }
            7 => {
                // A pointer, as in a descriptor.
                let (at, to) = (address(&bus, &mut input), address(&bus, &mut input));
                bus.write(at & !7, &to.to_le_bytes());
            }
            8 => bus.pass(Duration::from_micros(u64::from(input.u16()) * 8)),
            _ if input.u8() < 32 => {
                bus.device().with_model(M::function_reset);
                let _ = bus.config_write(4, &[6, 0]);
            }
            _ => bus.pass(Duration::from_micros(1)),
        }
    }
    bus.pass(Duration::from_secs(1));
    // Or a driver waits for a device that it does not know any more.
    bus.device().with_model(M::function_reset);
    bus.pull();
    drop(nic);
}

/// A register: one that matters, or any.
fn place<M: DeviceModel>(bus: &Bus<M>, main: u8, known: &[u64], input: &mut Input<'_>) -> (u8, u64) {
    match input.u8() {
        index @ 0..=199 => (main, known[usize::from(index) % known.len()]),
        bar => {
            let bar = bar % 6;
            let len = bus.device().with_model(|model| model.bar_len(bar)).max(1);
            (bar, u64::from(input.u32()) % len)
        }
    }
}

/// Memory: of the hostile driver, of the honest one, or none at all.
fn address<M: DeviceModel>(bus: &Bus<M>, input: &mut Input<'_>) -> u64 {
    match input.u8() {
        0..=99 => PLACE + u64::from(input.u16()),
        100..=119 => READ_ONLY + u64::from(input.u16()),
        120..=239 => {
            let maps = bus.maps();
            let map = maps[usize::from(input.u8()) % maps.len()];
            map.iova + u64::from(input.u32()) % map.len
        }
        _ => input.u64(),
    }
}
