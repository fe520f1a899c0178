//! The X550's firmware, as far as a driver talks to it: commands in FLEX_MNG, started by HICR.

use super::{Model, Part, regs};

/// Reads words of the EEPROM.
const READ_EEPROM: u8 = 0x31;
/// Tells the driver's version.
const DRIVER_INFO: u8 = 0xdd;
/// Clears RXCTRL.RXEN.
const DISABLE_RECEIVE: u8 = 0xde;
/// Status in the third byte of an answer: it was done.
const DONE: u32 = 1;
/// Status: no such command.
const UNKNOWN: u32 = 2;
/// The answer's bytes begin here when they are the EEPROM's.
const ANSWER: u32 = regs::FLEX_MNG + 12;
/// Most bytes in an answer.
const LONGEST: u32 = 244;

impl Model {
    /// A write to HICR; the other parts have no firmware that listens.
    pub(super) fn host_interface(&mut self, value: u32) {
        if self.part != Part::X550 || value & regs::HICR_COMMAND == 0 {
            return;
        }
        let header = self.regs.get(regs::FLEX_MNG);
        let status = match header as u8 {
            READ_EEPROM => {
                self.read_eeprom();
                DONE
            }
            DISABLE_RECEIVE => {
                self.regs.set(regs::RXCTRL, self.regs.get(regs::RXCTRL) & !regs::RXCTRL_RXEN);
                DONE
            }
            DRIVER_INFO => DONE,
            _ => {
                self.complain("the firmware was given a command that it does not know");
                UNKNOWN
            }
        };
        // The command, no further length, the status; no checksum is kept.
        self.regs.set(regs::FLEX_MNG, header & 0xff | status << 16 | 0xff << 24);
        self.regs.set(regs::HICR, regs::HICR_ENABLED | regs::HICR_STATUS_VALID);
    }

    /// Address and length, bytes, are big endian in the command; the words come little endian.
    fn read_eeprom(&mut self) {
        let first = self.regs.get(regs::FLEX_MNG + 4).swap_bytes() / 2;
        let length = u32::from((self.regs.get(regs::FLEX_MNG + 8) as u16).swap_bytes()).min(LONGEST);
        let word = |at: u32| u32::from(u16::try_from(at).map_or(0xffff, |at| self.eeprom.word(at)));
        let answer: Vec<u32> = (0..length.div_ceil(4))
            .map(|i| first.saturating_add(2 * i))
            .map(|at| word(at) | word(at.saturating_add(1)) << 16)
            .collect();
        answer.into_iter().zip((ANSWER..).step_by(4)).for_each(|(value, at)| self.regs.set(at, value));
    }
}
