//! What goes wrong with a device, from the seed.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use stillwire_emulator::LocalDevice;
use stillwire_emulator::scripted::{Fault, Faulty, Scripted};

use crate::counts::{Counts, count};
use crate::random::Random;

/// A device whose faults are ours.
pub trait Mischief: Send + Sync {
    /// A fault that every model has.
    fn script(&self, fault: Fault);
    /// A fault by its name; false if this model has none of that name.
    fn set(&self, text: &str) -> bool;
}

impl<M: Faulty> Mischief for Arc<LocalDevice<Scripted<M>>> {
    fn script(&self, fault: Fault) {
        self.with_model(|model| model.add(fault));
    }

    fn set(&self, text: &str) -> bool {
        use stillwire_emulator::DeviceModel;
        self.with_model(|model| model.set_fault(text).is_ok())
    }
}

/// One fault. It ends by itself, or with a reset, or when [`mend`] is called.
pub fn inject(device: &dyn Mischief, random: &mut Random, queues: usize, counts: &Counts) {
    let set = |name: &str, counter: &AtomicU64| {
        if device.set(name) {
            count(counter);
        }
    };
    match random.below(12) {
        0..=2 => {
            device.script(Fault::LinkDown { frames: 0, time: random.pause(5..400) });
            count(&counts.fault_link_down);
        }
        3 => {
            // Long enough for the NIC to be given up, and reset.
            device.script(Fault::LinkDown { frames: 0, time: Duration::from_millis(1500) });
            count(&counts.fault_link_down);
        }
        4 => {
            device.script(Fault::Stuck { frames: 0 });
            count(&counts.fault_stuck);
        }
        5 => set(&format!("hang-tx={}:0", random.below(queues)), &counts.fault_hung_queue),
        6 => set(&format!("write-back-delay={}", random.within(50..5000)), &counts.fault_late),
        7 => set(&format!("completion-delay={}", random.within(50..5000)), &counts.fault_late),
        8 => set(&format!("lose-write-back-every={}", random.within(2..40)), &counts.fault_lost_write_back),
        9 => set(&format!("lose-every={}", random.within(5..100)), &counts.fault_lost),
        _ => set(&format!("corrupt-every={}", random.within(5..100)), &counts.fault_damaged),
    }
}

/// Ends the faults that do not end by themselves.
pub fn mend(device: &dyn Mischief) {
    for name in ["write-back-delay", "completion-delay", "lose-write-back-every", "lose-every", "corrupt-every"] {
        let _ = device.set(&format!("{name}=0"));
    }
}
