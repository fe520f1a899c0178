//! The port: its address, its PHY and its link, as firmware tells of them.

use super::Model;
use super::adminq::Event;
use super::command::{Answer, Command, Refusal, write};

/// 100 Gb/s, in a status and as a PHY (100GBASE-SR4).
const SPEED_100G: u16 = 1 << 10;
const PHY_100GBASE_SR4: u64 = 1 << 52;
/// Largest frame, bytes, unless a driver says less.
const LARGEST: u16 = 9728;
/// Bytes of what is told of a PHY, of what is set, and of a status.
const CAPS: usize = 560;
const CONFIG: usize = 24;
const STATUS: usize = 56;
/// Where a PHY's flags are, and two of them: the link may be up; a change takes effect at once.
const FLAGS: usize = 16;
const ENABLE: u8 = 1 << 3;
const AUTO_UPDATE: u8 = 1 << 5;
/// Of a restart.
const RESTART_ENABLE: u8 = 1 << 2;
/// In a status: link, link of the port, a module is there, and it sees light.
const UP: u8 = 1 << 0 | 1 << 5;
const MEDIA: u8 = 1 << 6;
const SIGNAL: u8 = 1 << 7;
const NEGOTIATED: u8 = 1;
/// Link events: asked for in a command's flags, told in an answer's, and masked.
const EVENTS_OFF: u16 = 2;
const EVENTS_ON: u16 = 3;
const EVENTS_ARE_ON: u16 = 1;
const MASK_UP_DOWN: u16 = 1 << 1;
/// The address is valid.
const MAC_VALID: u16 = 1 << 4;

/// What a driver chose.
pub struct Port {
    mac: [u8; 6],
    phy: [u8; CONFIG],
    /// The link may be up.
    pub enabled: bool,
    max_frame: u16,
    events: bool,
    mask: u16,
}

impl Port {
    /// A port after a reset: its link comes up without a driver.
    pub fn new(mac: [u8; 6]) -> Self {
        let mut phy = [0; CONFIG];
        write(&mut phy, 0, &PHY_100GBASE_SR4.to_le_bytes());
        phy[FLAGS] = ENABLE;
        Self { mac, phy, enabled: true, max_frame: LARGEST, events: false, mask: 0 }
    }

    /// Longest frame with its check sequence, bytes.
    pub fn max_frame(&self) -> usize {
        self.max_frame.into()
    }

    /// 0x0107: the address.
    pub fn read_mac(&self, command: &mut Command) -> Answer {
        command.put16(0, MAC_VALID);
        command.params[4] = 1;
        command.reply = [&[0, 0][..], &self.mac].concat();
        Ok(())
    }

    /// 0x0108: another address, until the reset.
    pub fn write_mac(&mut self, command: &Command) -> Answer {
        let mac: [u8; 6] = std::array::from_fn(|i| command.params[2 + i]);
        if mac[0] & 1 == 1 || mac == [0; 6] {
            return Err(Refusal::Einval);
        }
        self.mac = mac;
        Ok(())
    }

    /// 0x0600: the PHY, as it could be and as it is; both are the same but for what was set.
    pub fn phy_caps(&self, command: &mut Command) -> Answer {
        let mut caps = vec![0; CAPS];
        write(&mut caps, 0, &self.phy[..16]);
        write(&mut caps, FLAGS, &self.phy[FLAGS..22]);
        if self.phy[..8] == [0; 8] {
            write(&mut caps, 0, &PHY_100GBASE_SR4.to_le_bytes());
        }
        command.reply = caps;
        Ok(())
    }

    /// 0x0603.
    pub fn set_mac_config(&mut self, command: &Command) -> Answer {
        let max_frame = command.get16(0);
        if !(64..=LARGEST).contains(&max_frame) {
            return Err(Refusal::Einval);
        }
        self.max_frame = max_frame;
        Ok(())
    }

    /// 0x0613: bits of events that are not told.
    pub fn set_event_mask(&mut self, command: &Command) -> Answer {
        self.mask = command.get16(8);
        Ok(())
    }

    fn status(&self, up: bool) -> Vec<u8> {
        let mut status = vec![0; STATUS];
        status[2] = MEDIA | if up { UP | SIGNAL } else { 0 };
        write(&mut status, 6, &self.max_frame.to_le_bytes());
        if up {
            status[3] = NEGOTIATED;
            write(&mut status, 10, &SPEED_100G.to_le_bytes());
            write(&mut status, 16, &PHY_100GBASE_SR4.to_le_bytes());
        }
        status
    }
}

impl Model {
    /// 0x0601, 0x0605: the PHY is set, or the link restarts.
    pub(super) fn configure_link(&mut self, command: &mut Command) -> Answer {
        let port = &mut self.firmware.port;
        if command.params[0] != 0 {
            return Err(Refusal::Einval);
        }
        if command.opcode == 0x0605 {
            port.enabled = command.params[2] & RESTART_ENABLE != 0;
        } else {
            port.phy = *command.data.first_chunk().ok_or(Refusal::Einval)?;
            if port.phy[FLAGS] & AUTO_UPDATE != 0 {
                port.enabled = port.phy[FLAGS] & ENABLE != 0;
            }
        }
        self.look_at_link();
        Ok(())
    }

    /// 0x0607: the link, and whether its changes are told.
    pub(super) fn link_status(&mut self, command: &mut Command) -> Answer {
        let up = self.link_up;
        let port = &mut self.firmware.port;
        match command.get16(2) & 3 {
            EVENTS_OFF => port.events = false,
            EVENTS_ON => port.events = true,
            _ => {}
        }
        command.put16(2, if port.events { EVENTS_ARE_ON } else { 0 });
        command.reply = port.status(up);
        Ok(())
    }

    /// Sees whether the link went up or down, and tells.
    pub(super) fn look_at_link(&mut self) {
        let wire = self.config.link_up && !self.faults.link_down && self.wire.is_up();
        let up = wire && self.firmware.port.enabled;
        if up == self.link_up {
            return;
        }
        self.link_up = up;
        let port = &self.firmware.port;
        if port.events && port.mask & MASK_UP_DOWN == 0 {
            let mut params = [0; 16];
            params[2] = EVENTS_ARE_ON as u8;
            let data = port.status(up);
            self.post_event(Event { opcode: 0x0607, params, data });
        }
    }
}
