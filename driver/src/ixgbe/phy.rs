//! What is plugged in: the module in the cage by its two-wire bus, the copper PHY by MDIO.

use std::time::Duration;

use super::init::{Device, Function};
use super::part::Part;
use super::regs::*;
use crate::port::{Module, Socket};
use crate::{Error, Result};

impl Device {
    pub(crate) fn socket(&self) -> Result<Socket> {
        let function = &self.function;
        function.regs.alive()?;
        // One at a time: a bus has one master.
        let _others = function.starting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match function.part {
            Part::Fixed => Ok(Socket::Fixed),
            Part::Cage => Ok(Socket::Cage(function.with_phy(|| TwoWire(function).module()))),
            Part::X540 | Part::X550 => function.with_phy(|| {
                let (high, low) = (function.mdio(PMA, PHY_ID_HIGH)?, function.mdio(PMA, PHY_ID_LOW)?);
                Ok(Socket::TwistedPair { phy: u32::from(high) << 16 | u32::from(low) })
            }),
        }
    }
}

impl Function {
    /// Reads a register of the PHY (IEEE 802.3 clause 45; 82599 datasheet 3.7.4.2).
    fn mdio(&self, device: u32, register: u32) -> Result<u16> {
        for operation in [MSCA_ADDRESS, MSCA_READ] {
            self.regs.write(MSCA, register | device << 16 | operation | MSCA_COMMAND);
            self.regs.wait(MSCA, MSCA_COMMAND, 0, Duration::from_millis(10))?;
        }
        Ok((self.regs.read(MSRWD) >> 16) as u16)
    }
}

/// The bus to the module, bit by bit: I2CCTL drives two lines that anybody may pull down.
struct TwoWire<'a>(&'a Function);

impl TwoWire<'_> {
    /// The module's EEPROM; `None` when none answers, or something that is no SFP.
    fn module(&self) -> Option<Module> {
        let mut bytes = [0; 56];
        self.read(0, &mut bytes).ok()?;
        let text = |range: std::ops::Range<usize>| {
            // The maker's bytes: what is no letter is not shown.
            let letters =
                bytes[range].iter().map(|&byte| if (0x20..0x7f).contains(&byte) { byte as char } else { '?' });
            letters.collect::<String>().trim_end().to_owned()
        };
        (bytes[0] == SFP).then(|| Module {
            ethernet: bytes[3] & 0xf0,
            cable: bytes[8] & 0x0c,
            vendor: text(20..36),
            part: text(40..56),
        })
    }

    /// Reads EEPROM bytes from `first` on.
    fn read(&self, first: u8, bytes: &mut [u8]) -> Result<()> {
        let outcome = self.select(first).map(|()| {
            let last = bytes.len() - 1;
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte = (0..8).fold(0, |byte, _| byte << 1 | u8::from(self.clock_in()));
                // The last byte is not acknowledged: no more are wanted.
                self.clock_out(at == last);
            }
        });
        // Data rises while the clock is high: the end.
        self.drive(false, false);
        self.drive(true, false);
        self.drive(true, true);
        outcome
    }

    fn select(&self, first: u8) -> Result<()> {
        self.start();
        self.send(EEPROM)?;
        self.send(first)?;
        self.start();
        self.send(EEPROM | 1)
    }

    /// Data falls while the clock is high: a beginning.
    fn start(&self) {
        self.drive(false, true);
        self.drive(true, true);
        self.drive(true, false);
        self.drive(false, false);
    }

    /// Sends a byte, and hears whether anybody took it.
    fn send(&self, byte: u8) -> Result<()> {
        (0..8).rev().for_each(|bit| self.clock_out(byte >> bit & 1 == 1));
        match self.clock_in() {
            false => Ok(()),
            true => Err(Error::NoModule { name: self.0.pci.name() }),
        }
    }

    fn clock_out(&self, bit: bool) {
        self.drive(false, bit);
        self.drive(true, bit);
        self.drive(false, bit);
    }

    fn clock_in(&self) -> bool {
        // Let go of the data line: the other side drives it.
        self.drive(false, true);
        self.drive(true, true);
        let bit = self.0.regs.read(I2CCTL) & I2C_DATA_IN != 0;
        self.drive(false, true);
        bit
    }

    /// Puts both lines, and keeps them for half a period of 100 kHz.
    fn drive(&self, clock: bool, data: bool) {
        let bits = if clock { I2C_CLOCK_OUT } else { 0 } | if data { I2C_DATA_OUT } else { 0 };
        self.0.regs.write(I2CCTL, bits);
        self.0.regs.flush();
        self.0.regs.sleep(Duration::from_micros(5));
    }
}

/// The first byte of an SFP module's EEPROM.
const SFP: u8 = 3;
/// Its address on the bus, for writing.
const EEPROM: u8 = 0xa0;
/// The MDIO device with the PHY's identifier.
const PMA: u32 = 1;
const PHY_ID_HIGH: u32 = 2;
const PHY_ID_LOW: u32 = 3;
