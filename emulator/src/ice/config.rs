//! What is modelled, and what goes wrong.

use std::time::Duration;

use crate::pages::Doorbells;

/// PCI device IDs of the E810: backplane, QSFP, SFP.
pub const DEVICE_IDS: [u16; 3] = [0x1591, 0x1592, 0x1593];

/// What is to be modelled.
#[derive(Clone, Debug)]
pub struct Config {
    /// PCI device ID, of [`DEVICE_IDS`].
    pub device_id: u16,
    /// The address in the NVM.
    pub mac: [u8; 6],
    /// How tails are written.
    pub doorbells: Doorbells,
    /// Time between the checksum pass and the transmit pass of a frame.
    pub transmit_delay: Duration,
    /// Most frames that one step moves in each direction, for each queue.
    pub frames_per_step: usize,
    /// Whether the cable is in.
    pub link_up: bool,
    /// Whether a package (DDP) is there from the beginning, as an earlier driver leaves it. Without one the device knows no
    /// protocols: nothing is said of received checksums, and all frames of a VSI come on its first queue.
    pub package: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            device_id: 0x1592,
            mac: [0x02, 0x53, 0x57, 0, 2, 1],
            doorbells: Doorbells::Mapped,
            transmit_delay: Duration::ZERO,
            frames_per_step: 64,
            link_up: true,
            package: false,
        }
    }
}

/// What goes wrong, on demand; may be changed at any time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Descriptors are fetched and checksums computed, but nothing is sent or completed until this is cleared.
    pub stall_tx: bool,
    /// A frame is reported so long after it was sent.
    pub completion_delay: Duration,
    /// The command that disables transmit queues is never answered.
    pub stuck_tx_disable: bool,
    /// QRX_CTRL.QENA_STAT never follows QENA_REQ.
    pub stuck_rx: bool,
    /// PFGEN_CTRL.PFSWR never clears.
    pub stuck_reset: bool,
    /// The card was pulled: all reads give ones, and it does no DMA.
    pub all_ones: bool,
    /// The cable is out.
    pub link_down: bool,
    /// Every nth frame sent is lost; 0 for none.
    pub lose_every: u32,
    /// Every nth frame sent has one bit flipped; 0 for none.
    pub corrupt_every: u32,
    /// Commands on the admin queue are not answered.
    pub silent_adminq: bool,
    /// Commands on the admin queue are answered with ones, descriptor and buffer.
    pub garbage_adminq: bool,
    /// The command of this opcode is refused with this code.
    pub refuse_command: Option<(u16, u16)>,
}

/// Names of faults with the shape of their values.
const NAMES: &str = "stall-tx, stuck-tx-disable, stuck-rx, stuck-reset, all-ones, link-down, silent-adminq, \
    garbage-adminq (each also with =off), completion-delay=MICROSECONDS, lose-every=N, corrupt-every=N";

impl Faults {
    /// Changes one fault as a text says: `stall-tx`, `stall-tx=off`, `lose-every=100`.
    ///
    /// # Errors
    /// When the text is no fault; says which there are.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text.split_once('=').unwrap_or((text, "on"));
        self.set_value(name, value).ok_or_else(|| format!("'{text}' is no fault; use {NAMES}"))
    }

    fn set_value(&mut self, name: &str, value: &str) -> Option<()> {
        let switch = match name {
            "stall-tx" => &mut self.stall_tx,
            "stuck-tx-disable" => &mut self.stuck_tx_disable,
            "stuck-rx" => &mut self.stuck_rx,
            "stuck-reset" => &mut self.stuck_reset,
            "all-ones" => &mut self.all_ones,
            "link-down" => &mut self.link_down,
            "silent-adminq" => &mut self.silent_adminq,
            "garbage-adminq" => &mut self.garbage_adminq,
            "completion-delay" => {
                self.completion_delay = Duration::from_micros(value.parse().ok()?);
                return Some(());
            }
            "lose-every" | "corrupt-every" => {
                let every = if name == "lose-every" { &mut self.lose_every } else { &mut self.corrupt_every };
                *every = value.parse().ok()?;
                return Some(());
            }
            _ => return None,
        };
        *switch = match value {
            "on" => true,
            "off" => false,
            _ => return None,
        };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_by_name() {
        let mut faults = Faults::default();
        for text in ["stall-tx", "silent-adminq", "completion-delay=50", "lose-every=3", "silent-adminq=off"] {
            assert_eq!(faults.set(text), Ok(()), "{text}");
        }
        let completion_delay = Duration::from_micros(50);
        assert_eq!(faults, Faults { stall_tx: true, completion_delay, lose_every: 3, ..Faults::default() });
        for wrong in ["wings", "stall-tx=maybe", "lose-every", "completion-delay=-1"] {
            assert!(faults.set(wrong).unwrap_err().contains("use stall-tx"), "{wrong}");
        }
    }
}
