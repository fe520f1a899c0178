//! An E810's firmware that answers in time, and wrongly.

use std::collections::VecDeque;

use stillwire_driver::{Config, Nic};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{BusMemory, Doorbells, LocalDevice, ice};

use crate::bus::Bus;
use crate::input::Input;

/// A life of the driver; each answer is twisted as the input says, then events are made up.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let settings = input.u8();
    let model = ice::Config { doorbells: Doorbells::Messages, package: settings & 1 == 1, ..ice::Config::default() };
    let bus = Bus::new(ice::Model::new(model, Box::new(Loopback::new())).expect("a device"));
    let twists = input.u16();
    bus.hook(Box::new(Firmware { left: input.take(twists.into()).to_vec().into(), head: 0 }.into_hook()));
    let config = Config {
        tx_ring: 64,
        rx_ring: 64,
        queues: u16::from(settings >> 1 & 3) + 1,
        vlan_strip: settings & 8 == 8,
        promiscuous: settings & 16 == 16,
        ..Config::default()
    };
    let Ok(nic) = Nic::open(bus.function(), config) else { return };
    assert!(nic.mac().0[0] & 1 == 0 && nic.mac().0 != [0; 6], "{} is no NIC's address", nic.mac());
    let able = nic.capabilities();
    assert!((1..=usize::from(config.queues)).contains(&able.queues));
    for _ in 0..16 {
        if !input.more() {
            break;
        }
        match input.u8() % 6 {
            0 => drop(nic.link()),
            1 => drop(nic.statistics()),
            2 => drop((nic.tx_queue::<()>(), nic.rx_queue())),
            3 => event(&bus, &mut input),
            4 => drop(nic.socket()),
            _ => drop(nic.queue_statistics()),
        }
    }
}

/// Something in the queue of events, of which the firmware says or does not say that it is there.
fn event(bus: &Bus<ice::Model>, input: &mut Input<'_>) {
    let (base, slot) = (ring(bus.device(), EVENTS), u64::from(input.u8() % 16));
    let at = base + slot * 32;
    let buffer = bus.word(at + 24).rotate_left(32);
    bus.write(
        at,
        &(u64::from(input.u16()) | u64::from(input.u16()) << 16 | u64::from(input.u16()) << 32).to_le_bytes(),
    );
    bus.write(buffer, input.piece());
    let head = u32::from(if input.flag() { input.u16() } else { u16::from(input.u8() % 18) });
    bus.device().with_model(|model| model.bar_write(0, EVENTS[2], &head.to_le_bytes()));
}

struct Firmware {
    /// Decisions that are not made yet.
    left: VecDeque<u8>,
    /// The driver's head of the commands as it saw it last.
    head: u32,
}

impl Firmware {
    fn into_hook(mut self) -> impl FnMut(&LocalDevice<ice::Model>, u32, &mut [u8]) + Send {
        move |device, offset, bytes| {
            if u64::from(offset) != COMMANDS[2] || bytes.len() != 4 {
                return;
            }
            let head = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) % 32;
            if head != self.head {
                let at = ring(device, COMMANDS) + u64::from(self.head) * 32;
                self.head = head;
                self.twist(device, at);
            }
        }
    }

    /// Changes an answer that is there and not read yet.
    fn twist(&mut self, device: &LocalDevice<ice::Model>, at: u64) {
        let memory = device.memory();
        let mut descriptor = [0; 32];
        if memory.read(at, &mut descriptor).is_err() {
            return;
        }
        let buffer = device_address(&descriptor);
        loop {
            let what = self.byte();
            if what < 0x80 {
                return;
            }
            match what & 7 {
                0 => descriptor[6] = self.byte(),
                1 => descriptor[2] ^= self.byte(),
                2 => (descriptor[0], descriptor[1]) = (self.byte(), self.byte()),
                3 => (descriptor[4], descriptor[5]) = (self.byte(), self.byte()),
                4 => {
                    let index = usize::from(self.byte() % 16);
                    descriptor[16 + index] = self.byte();
                }
                5 => {
                    let index = u64::from(self.byte()) | u64::from(self.byte() & 15) << 8;
                    let _ = memory.write(buffer + index, &[self.byte()]);
                }
                6 => {
                    let (index, len) = (u64::from(self.byte()) * 8, self.byte());
                    let bytes: Vec<u8> = (0..len).map(|_| self.byte()).collect();
                    let _ = memory.write(buffer + index, &bytes);
                }
                _ => {
                    let fill = self.byte();
                    let _ = memory.write(buffer, &[fill; 4096]);
                }
            }
            let _ = memory.write(at, &descriptor);
            if what & 0x40 == 0 {
                return;
            }
        }
    }

    fn byte(&mut self) -> u8 {
        self.left.pop_front().unwrap_or(0)
    }
}

/// Where a ring of the admin queues lies.
fn ring(device: &LocalDevice<ice::Model>, [low, high, _]: [u64; 3]) -> u64 {
    let read = |offset| {
        let mut bytes = [0; 4];
        device.with_model(|model| model.bar_read(0, offset, &mut bytes));
        u64::from(u32::from_le_bytes(bytes))
    };
    read(low) | read(high) << 32
}

/// The buffer of a descriptor that was written back: firmware may have put parameters there, so the driver's own place for it is
/// taken, which lies a page behind the rings.
fn device_address(descriptor: &[u8; 32]) -> u64 {
    let address = u64::from_le_bytes([24, 25, 26, 27, 28, 29, 30, 31].map(|at| descriptor[at]));
    address.rotate_left(32)
}

/// Base, low and high, and head of the two queues (PF_FW_ATQ..., PF_FW_ARQ...).
const COMMANDS: [u64; 3] = [0x8_0000, 0x8_0100, 0x8_0300];
const EVENTS: [u64; 3] = [0x8_0080, 0x8_0180, 0x8_0380];
