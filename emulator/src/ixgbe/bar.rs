//! Register reads and writes by message, and what else they do.

use super::config_space::{BAR0_LEN, BAR4_LEN};
use super::regs::{self, Mode};
use super::{Doorbells, Event, Model, Module, Part, State};

impl Model {
    /// Reads BAR `bar`. Registers answer 32-bit accesses; other sizes get the bytes of the words they touch.
    pub fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        if self.is_removed() {
            return data.fill(0xff);
        }
        self.poll_queues();
        match bar {
            _ if offset >= BAR0_LEN => data.fill(0),
            0 => {
                let mut word = None;
                for (at, byte) in (offset..).zip(data) {
                    let start = at & !3;
                    let value = match word {
                        Some((known, value)) if known == start => value,
                        _ => self.read_register(start),
                    };
                    word = Some((start, value));
                    *byte = (value >> (8 * (at & 3))) as u8;
                }
            }
            4 => {
                for (at, byte) in (offset..).zip(data) {
                    *byte = usize::try_from(at).ok().and_then(|at| self.msix.get(at)).copied().unwrap_or(0);
                }
            }
            _ => data.fill(0),
        }
    }

    /// Writes BAR `bar`. Registers take aligned 32-bit words; anything else is counted and changes nothing.
    pub fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        if self.is_removed() {
            return;
        }
        match bar {
            _ if offset >= BAR0_LEN => self.bus.counters.odd_accesses += 1,
            0 if offset.is_multiple_of(4) && data.len().is_multiple_of(4) => {
                for (at, word) in (offset..).step_by(4).zip(data.as_chunks::<4>().0) {
                    // What a client stored in the mapped pages before this message counts before it.
                    self.poll_queues();
                    self.write_register(at, u32::from_le_bytes(*word));
                }
                self.poll_queues();
            }
            4 => {
                for (at, byte) in (offset..BAR4_LEN).zip(data) {
                    self.msix[at as usize] = *byte;
                }
            }
            _ => self.bus.counters.odd_accesses += 1,
        }
    }

    fn known(&mut self, offset: u64, write: bool) -> Option<(u32, Mode)> {
        let canonical = regs::canonical(u32::try_from(offset).ok().filter(|at| u64::from(*at) < BAR0_LEN)?);
        self.history.touch(canonical, write);
        regs::lookup(canonical).map(|register| (canonical, register.mode))
    }

    fn read_register(&mut self, offset: u64) -> u32 {
        let Some((offset, mode)) = self.known(offset, false) else { return 0 };
        if regs::in_queue_pages(offset) {
            return self.read_queue_register(offset, mode);
        }
        match (offset, mode) {
            (_, Mode::Rc) => self.regs.take(offset),
            (regs::STATUS, _) => {
                let quiet = self.regs.has(regs::CTRL, regs::CTRL_GIO_DIS) && !self.dma_pending();
                let master = !quiet || self.faults.stuck_master;
                self.regs.get(offset) & !regs::STATUS_MASTER | if master { regs::STATUS_MASTER } else { 0 }
            }
            (regs::EICR, _) => {
                let causes = self.regs.take(offset);
                self.forget_causes(causes);
                causes
            }
            // The causes, and none is cleared: Linux looks at them there.
            (regs::EICS, _) => self.regs.get(regs::EICR),
            (regs::SWSM, _) => {
                let value = self.regs.get(offset);
                self.regs.set(offset, value | 1);
                value
            }
            (regs::LINKS, _) => self.links(),
            // Reading takes the semaphore of the registers that the X540 brought.
            (regs::SW_FW_SYNC, _) if self.part.is_copper() => {
                let value = self.regs.get(offset);
                self.regs.set(offset, value | regs::SW_FW_SYNC_REGSMP);
                value
            }
            (regs::ESDP, _) if self.cage_is_empty() => self.regs.get(offset) & !regs::ESDP_SDP2,
            (regs::I2CCTL, _) => self.i2c.lines(),
            (_, Mode::Wo) => 0,
            _ => self.regs.get(offset),
        }
    }

    fn read_queue_register(&mut self, offset: u32, mode: Mode) -> u32 {
        let value = self.pages.get(offset);
        let q = usize::from((offset / 0x40) as u8 & 0x3f);
        match (offset & 0x3f, offset < regs::TX_PAGE) {
            _ if mode == Mode::Rc => self.pages.set(offset, 0),
            (regs::tx::TXDCTL, false) => return with_enable(value, self.tx[q].state != State::Off),
            (regs::rx::RXDCTL, true) => return with_enable(value, self.rx[q].state != State::Off),
            _ => {}
        }
        value
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let Some((offset, mode)) = self.known(offset, true) else { return };
        if matches!(mode, Mode::Ro | Mode::Rc) || self.write_interrupt(offset, value) {
            return;
        }
        if regs::in_queue_pages(offset) {
            return self.write_queue_register(offset, value);
        }
        match offset {
            regs::CTRL if value & (regs::CTRL_RST | regs::CTRL_LNK_RST) != 0 => {
                self.history.note(Event::Reset);
                self.device_reset();
            }
            regs::CTRL => {
                if value & regs::CTRL_GIO_DIS != 0 {
                    self.history.note(Event::MasterDisable);
                }
                self.regs.set(offset, value);
            }
            regs::SWSM => self.regs.set(offset, value & 3),
            regs::ESDP => self.regs.set(offset, value | regs::ESDP_SDP2),
            regs::RDRXCTL => self.regs.set(offset, value | regs::RDRXCTL_DMAIDONE),
            regs::FDIRCTRL => self.regs.set(offset, value | regs::FDIRCTRL_INIT_DONE),
            regs::EERD if value & regs::EERD_START != 0 => {
                let word = self.eeprom.word((value >> 2) as u16 & 0x3fff);
                self.regs.set(offset, u32::from(word) << 16 | value & 0xfffc | regs::EERD_DONE);
            }
            regs::EEC => {
                let kept = value & (regs::EEC_REQ | regs::EEC_FLUP);
                let granted = if kept & regs::EEC_REQ != 0 { regs::EEC_GNT } else { 0 };
                let done = if kept & regs::EEC_FLUP != 0 { regs::EEC_FLUDONE } else { 0 };
                self.regs.set(offset, regs::EEC_READY | kept | granted | done);
            }
            regs::MSCA => self.mdio(value),
            regs::MSRWD => self.regs.set(offset, self.regs.get(offset) & !0xffff | value & 0xffff),
            regs::I2CCTL => {
                let module = if self.part == Part::Sfp { self.config.module } else { Module::None };
                self.i2c.drive(value, module);
            }
            regs::HICR => self.host_interface(value),
            // What the driver has dealt with is cleared by writing ones.
            _ if regs::is_blocked_queues(offset) => self.regs.set(offset, self.regs.get(offset) & !value),
            _ => self.regs.set(offset, value),
        }
    }

    fn cage_is_empty(&self) -> bool {
        self.part == Part::Sfp && self.config.module == Module::None
    }

    fn write_queue_register(&mut self, offset: u32, value: u32) {
        self.touched_queues = true;
        let q = usize::from((offset / 0x40) as u8 & 0x3f);
        let (state, tail) =
            if offset < regs::TX_PAGE { (self.rx[q].state, regs::rx::RDT) } else { (self.tx[q].state, regs::tx::TDT) };
        let messages = self.config.doorbells == Doorbells::Messages;
        match offset & 0x3f {
            at if at == tail && state == State::Off && value != 0 => {
                self.complain("a tail was written before its queue was enabled");
                self.pages.set(offset, value);
            }
            // Ring geometry stands while a queue runs.
            regs::tx::TDBAL | regs::tx::TDBAH | regs::tx::TDLEN | regs::tx::TDH if messages && state != State::Off => {
                self.complain("ring registers were written while the queue is enabled");
            }
            regs::tx::TXDCTL => self.pages.set(offset, value & !regs::DCTL_SWFLSH),
            _ => self.pages.set(offset, value),
        }
    }
}

fn with_enable(value: u32, enabled: bool) -> u32 {
    value & !regs::DCTL_ENABLE | if enabled { regs::DCTL_ENABLE } else { 0 }
}
