//! What users write to the emulator.

use stillwire_emulator::ixgbe::Module;
use stillwire_emulator::virtio::{self, Features};
use stillwire_emulator::wire::{self, Loopback};
use stillwire_emulator::{DeviceModel, Fault, ice, ixgbe};

/// One line after the other, to all that take lines.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let wire = || Box::new(Loopback::new());
    let mut models: [Box<dyn DeviceModel>; 3] = [
        Box::new(ixgbe::Model::new(ixgbe::Config::default(), wire())),
        Box::new(ice::Model::new(ice::Config::default(), wire()).expect("the default is a device")),
        Box::new(virtio::Model::new(virtio::Config::default(), wire()).expect("the default is a device")),
    ];
    for line in text.lines().take(16) {
        for model in &mut models {
            if let Err(why) = model.set_fault(line) {
                assert!(!why.is_empty());
            }
            model.step(std::time::Duration::from_secs(1));
        }
        let _ = line.parse::<Fault>();
        let _ = line.parse::<Module>();
        let _ = Features::from_name(&line.to_uppercase());
        // These open what they name.
        if !["pcap", "tap"].iter().any(|opens| line.contains(opens)) {
            let _ = wire::parse(line);
        }
    }
}
