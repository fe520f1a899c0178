//! Which command is whose, and those that are too small for a module of their own.

use super::command::{Answer, Command, Refusal};
use super::{Model, caps};

/// Firmware's version, and that of the commands' interface.
const FIRMWARE: [u8; 4] = [0, 7, 8, 1];
const INTERFACE: [u8; 4] = [0, 1, 5, 13];
const BUILD: u32 = 0x53_5743;
/// Receive descriptors of a line, as the driver says when it takes over from the boot ROM.
const RX_COUNT: u8 = 2;

/// The refusal of a code that a test asks for.
pub fn refusal(code: u16) -> Refusal {
    use Refusal::{Ebadbuf, Ebusy, Eexist, Einval, Enoent, Enomem, Enospc, Enosys, Eperm};
    let all = [Eperm, Enoent, Enomem, Ebusy, Eexist, Einval, Enospc, Enosys, Ebadbuf];
    all.into_iter().find(|refusal| *refusal as u16 == code).unwrap_or(Einval)
}

impl Model {
    /// Does what a command asks.
    pub(super) fn command(&mut self, command: &mut Command) -> Answer {
        let firmware = &mut self.firmware;
        match command.opcode {
            0x0001 => version(command),
            0x0002 => driver_version(command),
            // The queue ends by its registers; that the driver goes is not news.
            0x0003 => Ok(()),
            0x0008 => {
                let done = firmware.package.is_active();
                firmware.resources.request(command, done)
            }
            0x0009 => firmware.resources.release(command),
            0x000A | 0x000B => caps::list(command),
            0x0107 => firmware.port.read_mac(command),
            0x0108 => firmware.port.write_mac(command),
            0x0110 if command.params[0] == RX_COUNT => Ok(()),
            0x0200 => firmware.vsis.switch_config(command),
            // Port parameters: one port, nothing to choose.
            0x0203 => Ok(()),
            0x0208 => firmware.resources.allocate(command),
            0x0209 => firmware.resources.free(command),
            0x020A => allocated(command),
            0x0210 => firmware.vsis.add(command),
            0x0211 => firmware.vsis.update(command),
            0x0212 => firmware.vsis.get(command),
            0x0213 => firmware.free_vsi(command),
            0x02A0 => firmware.switch.add(command),
            0x02A1 => firmware.switch.update(command),
            0x02A2 => firmware.switch.remove(command),
            0x02A4 => {
                firmware.clear_function();
                Ok(())
            }
            0x0400..=0x0415 => firmware.scheduler.command(command),
            0x0600 => firmware.port.phy_caps(command),
            0x0601 | 0x0605 => self.configure_link(command),
            0x0603 => firmware.port.set_mac_config(command),
            0x0607 => self.link_status(command),
            0x0613 => firmware.port.set_event_mask(command),
            // Nodes of the link's topology: there are none beyond the port.
            0x06E0..=0x06EF => Err(Refusal::Enoent),
            0x0701 => firmware.nvm.read(command),
            0x0B02..=0x0B05 => firmware.rss_command(command),
            0x0C30 => self.add_tx_queues(command),
            0x0C31 => self.disable_tx_queues(command),
            0x0C40 => {
                let locked = firmware.resources.has_global_lock();
                firmware.package.download(command, locked)
            }
            0x0C41 | 0x0C42 => firmware.package.update(command),
            0x0C43 => firmware.package.list(command),
            _ => Err(Refusal::Enosys),
        }
    }

    /// Counts commands; those that were refused are told in the report.
    pub(super) fn note_command(&mut self, opcode: u16, granted: bool) {
        let counts = self.commands.entry(opcode).or_default();
        *if granted { &mut counts.0 } else { &mut counts.1 } += 1;
    }
}

fn version(command: &mut Command) -> Answer {
    command.put32(0, 0);
    command.put32(4, BUILD);
    command.params[8..12].copy_from_slice(&FIRMWARE);
    command.params[12..].copy_from_slice(&INTERFACE);
    Ok(())
}

/// The driver's own version: major, minor, build, and its name as text.
fn driver_version(command: &Command) -> Answer {
    let text = command.data.split(|byte| *byte == 0).next().unwrap_or_default();
    if text.is_empty() || !text.is_ascii() { Err(Refusal::Einval) } else { Ok(()) }
}

/// Resources of a kind that were allocated: this device tells of none.
fn allocated(command: &mut Command) -> Answer {
    command.put16(0, 0);
    Ok(())
}
