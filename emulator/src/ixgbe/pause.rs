//! Flow control (IEEE 802.3 annex 31B): PAUSE frames that stop this MAC, and those that it sends when its packet memory
//! fills. Priority flow control is not here: there is one traffic class.

use std::time::Duration;

use super::{Model, regs};

/// Who PAUSE is for: whoever is at the other end of the cable.
const EVERYBODY: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 1];
const MAC_CONTROL: [u8; 2] = [0x88, 0x08];
const PAUSE: [u8; 2] = [0, 1];
/// A quantum is 512 bit times: at 10 Gb/s 51.2 ns.
const QUANTUM_PS: u64 = 51_200;

/// Where flow control stands.
#[derive(Default)]
pub(super) struct Pause {
    /// The transmitter stands still until then.
    until: Duration,
    /// When the last XOFF went out that no XON has taken back.
    asked: Option<Duration>,
}

impl Pause {
    /// A new link knows of no pause.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

fn quanta(count: u16) -> Duration {
    Duration::from_nanos(u64::from(count) * QUANTUM_PS / 1000)
}

impl Model {
    /// Whether a PAUSE frame holds the transmitter.
    pub(super) fn is_paused(&self) -> bool {
        self.now < self.pause.until
    }

    /// Obeys and counts a MAC control frame; true when the host does not get it.
    pub(super) fn take_mac_control(&mut self, frame: &[u8]) -> bool {
        if frame[12..14] != MAC_CONTROL {
            return false;
        }
        let mflcn = self.regs.get(regs::MFLCN);
        let mine = frame[..6] == EVERYBODY || frame[..6] == self.address();
        let pause = mine && frame[14..16] == PAUSE;
        if pause && mflcn & regs::MFLCN_RFCE != 0 {
            let count = u16::from_be_bytes([frame[16], frame[17]]);
            self.regs.add(if count == 0 { regs::LXONRXCNT } else { regs::LXOFFRXCNT }, 1);
            self.pause.until = if count == 0 { Duration::ZERO } else { self.now.saturating_add(quanta(count)) };
        }
        mflcn & regs::MFLCN_PMCF == 0 || pause && mflcn & regs::MFLCN_DPF != 0
    }

    /// Asks the far end to stop when packet memory is fuller than the high mark, again when that time is half over, and
    /// to go on when it is below the low mark.
    pub(super) fn watch_packet_buffer(&mut self) {
        let high = self.regs.get(regs::FCRTH);
        let enabled = self.regs.has(regs::FCCFG, regs::FCCFG_TFCE) && high & regs::FCRTH_FCEN != 0;
        if !enabled || !self.link_up {
            return;
        }
        let low = self.regs.get(regs::FCRTL);
        let bytes = self.packet_buffer_bytes;
        let timer = self.regs.get(regs::FCTTV) as u16;
        let again = self.pause.asked.is_none_or(|asked| self.now >= asked.saturating_add(quanta(timer) / 2));
        if bytes > (high & regs::MARK) as usize && again {
            self.pause.asked = Some(self.now);
            self.send_pause(timer);
            self.regs.add(regs::LXOFFTXC, 1);
        } else if bytes < (low & regs::MARK) as usize
            && self.pause.asked.take().is_some()
            && low & regs::FCRTL_XONE != 0
        {
            self.send_pause(0);
            self.regs.add(regs::LXONTXC, 1);
        }
    }

    /// Such a frame is counted as every other multicast frame is; drivers subtract.
    fn send_pause(&mut self, count: u16) {
        let mut frame = [0; 60];
        frame[..6].copy_from_slice(&EVERYBODY);
        frame[6..12].copy_from_slice(&self.address());
        frame[12..14].copy_from_slice(&MAC_CONTROL);
        frame[14..16].copy_from_slice(&PAUSE);
        frame[16..18].copy_from_slice(&count.to_be_bytes());
        self.count_tx_port(&frame);
        self.put_out(&frame);
    }

    /// The port's own address (RAR 0).
    fn address(&self) -> [u8; 6] {
        let [a, b, c, d] = self.regs.get(regs::RAR).to_le_bytes();
        let [e, f, ..] = self.regs.get(regs::RAR + 4).to_le_bytes();
        [a, b, c, d, e, f]
    }
}
