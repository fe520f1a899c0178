//! A NIC of any family on a bus on which things go wrong, and what goes wrong.

use std::sync::Arc;
use std::time::Duration;

use stillwire_dma::PciFunction;
use stillwire_emulator::{
    Clock, DeviceModel, DmaAccess, DmaFate, FaultyBus, InterruptFate, LocalDevice, MemoryTable, Mishaps,
    RegisterAccess, RegisterFate, StepFate, ice, ixgbe, virtio,
};
use stillwire_scheduler::{chance, choose, log};

use super::ledger;
use super::wire::Ether;

/// Which NIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    Ixgbe,
    Ice,
    Virtio,
}

/// How much goes wrong on the bus, and of what kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// Of 100,000 things, how many go wrong.
    pub rate: u64,
    /// At most so many things.
    pub most: u32,
    /// Whether the device says what is not so: reports that were never meant, lengths that are not, garbage. Then all that can be
    /// asked for is that nothing of ours breaks.
    pub lies: bool,
    /// Whether the card may be pulled.
    pub pulls: bool,
}

/// The device, for who steps it.
pub trait Device: Send + Sync {
    /// It does something; `false` if it has nothing to do.
    fn step(&self) -> bool;
    /// Whether the card is out.
    fn is_out(&self) -> bool;
    /// It is put back.
    fn put_back(&self);
}

impl<M: DeviceModel> Device for LocalDevice<FaultyBus<M>> {
    fn step(&self) -> bool {
        LocalDevice::step(self, Time.now())
    }

    fn is_out(&self) -> bool {
        self.with_model(|bus| bus.is_removed())
    }

    fn put_back(&self) {
        self.with_model(|bus| bus.put_back());
    }
}

/// Makes one.
pub fn plug_in(family: Family, trouble: Trouble, wire: Ether) -> (Arc<dyn Device>, PciFunction) {
    let transmit_delay = Duration::from_nanos(choose(3) * choose(20_000));
    let frames_per_step = 1 + choose(8) as usize;
    match family {
        Family::Ixgbe => {
            let doorbells = stillwire_emulator::Doorbells::Messages;
            let config = ixgbe::Config { doorbells, transmit_delay, frames_per_step, ..ixgbe::Config::default() };
            plug(ixgbe::Model::new(config, Box::new(wire)), trouble)
        }
        Family::Ice => {
            let doorbells = stillwire_emulator::Doorbells::Messages;
            let config =
                ice::Config { doorbells, transmit_delay, frames_per_step, package: true, ..ice::Config::default() };
            plug(ice::Model::new(config, Box::new(wire)).unwrap_or_else(|_| unreachable!("a wire is enough")), trouble)
        }
        Family::Virtio => {
            let doorbells = stillwire_emulator::Doorbells::Messages;
            let config = virtio::Config { doorbells, transmit_delay, frames_per_step, ..virtio::Config::default() };
            let model = virtio::Model::new(config, Box::new(wire));
            plug(model.unwrap_or_else(|_| unreachable!("a wire is enough")), trouble)
        }
    }
}

fn plug<M: DeviceModel>(model: M, trouble: Trouble) -> (Arc<dyn Device>, PciFunction) {
    let bus = FaultyBus::new(model, Bus { trouble, left: trouble.most, ends: Vec::new() });
    let device = LocalDevice::stepped(bus, MemoryTable::new(), Arc::new(Time));
    (device.clone(), PciFunction::from_backend(device))
}

/// The run's time.
struct Time;

impl Clock for Time {
    fn now(&self) -> Duration {
        stillwire_scheduler::time::now()
    }

    fn sleep(&self, time: Duration) {
        stillwire_scheduler::sleep(time);
    }
}

/// What goes wrong.
struct Bus {
    trouble: Trouble,
    /// So many things still may.
    left: u32,
    /// What is over after so many steps more.
    ends: Vec<(u32, &'static str)>,
}

impl Bus {
    /// Whether something does, of a kind of which there are so many times fewer than of the commonest.
    fn happens(&mut self, weight: u64) -> bool {
        let happens = self.left > 0 && choose(1_000_000) < self.trouble.rate * weight;
        self.left -= u32::from(happens);
        happens
    }

    fn steps() -> u32 {
        [1, 3, 20, 300][choose(4) as usize]
    }
}

impl Mishaps for Bus {
    fn dma(&mut self, access: DmaAccess) -> DmaFate {
        if !self.trouble.lies {
            ledger::device_reaches(access);
        }
        if !self.happens(100) {
            return DmaFate::Pass;
        }
        let kinds = if self.trouble.lies { 10 } else { 4 };
        // Reports are where lies are believed.
        let is_report = self.trouble.lies && access.write && access.len <= 16;
        let (name, fate) = match choose(kinds) {
            _ if is_report && chance(500) => ("a device's report is garbled", DmaFate::Garble(1 << choose(16))),
            0 => ("a device's access is refused by the IOMMU", DmaFate::Refuse),
            1 => ("a device's write is lost", DmaFate::Lose),
            2 => ("a device's writes come late", DmaFate::Late(Self::steps())),
            3 => ("a device's writes change places", DmaFate::Overtaken(Self::steps())),
            4 => ("a device's write comes twice", DmaFate::Twice(Self::steps())),
            5 => ("a device's write goes to another descriptor", DmaFate::Astray(16 * (choose(9) as i64 - 4))),
            _ => ("a device writes or reads garbage", DmaFate::Garble(1 << choose(32))),
        };
        ledger::fault(name);
        log(|| format!("bus: {name}, {access:?}"));
        fate
    }

    fn register(&mut self, access: RegisterAccess) -> RegisterFate {
        // What is late does not count as trouble.
        if chance(5) {
            ledger::harm("a register access is late");
            return RegisterFate::Late(1 + choose(8) as u32);
        }
        if !self.happens(5) {
            return RegisterFate::Pass;
        }
        let (name, fate) = match choose(4) {
            0 if self.trouble.pulls => ("the card is pulled at a register", RegisterFate::Remove),
            0 | 1 if self.trouble.lies => ("a register is garbled", RegisterFate::Garble(1 << choose(32))),
            2 if self.trouble.lies => ("a register access is lost", RegisterFate::Lose),
            _ => ("somebody resets the function at a register", RegisterFate::Reset),
        };
        ledger::fault(name);
        log(|| format!("bus: {name}, {access:?}"));
        fate
    }

    fn interrupt(&mut self, _: u16) -> InterruptFate {
        let (name, fate) = match choose(20) {
            0 => ("an interrupt is lost", InterruptFate::Lose),
            1 => ("an interrupt comes late", InterruptFate::Late(Self::steps())),
            2 => ("an interrupt comes twice", InterruptFate::Twice(Self::steps())),
            _ => return InterruptFate::Pass,
        };
        ledger::harm(name);
        fate
    }

    fn step(&mut self) -> StepFate {
        self.ends.iter_mut().for_each(|(steps, _)| *steps = steps.saturating_sub(1));
        if let Some(over) = self.ends.iter().position(|(steps, _)| *steps == 0) {
            return StepFate::Fault(self.ends.swap_remove(over).1);
        }
        if chance(100) {
            return StepFate::Skip;
        }
        if !self.happens(1) {
            return StepFate::Pass;
        }
        let (name, fate) = match choose(5) {
            0 if self.trouble.pulls => ("the card is pulled", StepFate::Remove),
            0 | 1 => ("somebody resets the function", StepFate::Reset),
            2 => {
                self.ends.push((choose(5000) as u32, "link-down=off"));
                ("the link is lost for a time", StepFate::Fault("link-down"))
            }
            _ => {
                self.ends.push((choose(20_000) as u32, "stall-tx=off"));
                ("transmit stands still for a time", StepFate::Fault("stall-tx"))
            }
        };
        ledger::fault(name);
        log(|| format!("bus: {name}"));
        fate
    }
}
