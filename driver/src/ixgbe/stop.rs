//! Stopping, with proof (82599 datasheet 4.6.7.1.2, 5.2.5.3.2).

use std::sync::PoisonError;
use std::time::Duration;

use super::init::Function;
use super::regs::*;
use crate::{Error, Result};

/// Whether the device may start DMA.
pub(super) enum State {
    /// It may.
    Running,
    /// It was proved that it cannot.
    Quiet,
    /// It was told to stop, and no proof was to be had.
    Unproven,
}

/// Proof that the device reads and writes no host memory, and will not start to.
///
/// Only [`Function::stop`] makes one.
pub(crate) struct Quiet(());

impl Function {
    /// Stops all DMA of the function. Asked again, it answers as before without touching the device, but tries again
    /// while there is no proof.
    ///
    /// # Errors
    /// [`Error::NotQuiet`] when there is no proof; then nothing that the device may read can be given back.
    pub(crate) fn stop(&self) -> Result<Quiet> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Quiet) {
            return Ok(Quiet(()));
        }
        // In the order of the datasheet. A step that fails does not end it: the later ones are stronger.
        let queues = self.disable_queues();
        self.regs.clear(RXCTRL, RXCTRL_RXEN);
        self.regs.clear(DMATXCTL, DMATXCTL_TE);
        let master = self.disable_master();
        if master.is_err() {
            self.flush_pending();
        }
        self.regs.clear(CTRL_EXT, CTRL_EXT_DRV_LOAD);
        self.bells.take_down(&self.pci);
        // The disable bit of a queue may sit in a page that a model merely polls, where reading it back shows only what
        // was written. What counts as proof is answered by the device itself (STATUS) or enforced by the bus.
        let bus = self.pci.set_bus_master(false).map_err(Error::from);
        if master.is_err() && bus.is_ok() {
            self.outlive_pending();
        }
        match (&master, &bus) {
            (Ok(()), _) | (_, Ok(())) => {
                *state = State::Quiet;
                Ok(Quiet(()))
            }
            (Err(master), Err(bus)) => {
                let mut why = format!("{master}; {bus}");
                if let Err(queues) = queues {
                    why = format!("{queues}; {why}");
                }
                *state = State::Unproven;
                Err(Error::NotQuiet { name: self.pci.name(), why, kept: 0 })
            }
        }
    }

    /// Refuses new queues on a device that was stopped.
    pub(crate) fn running(&self) -> Result<()> {
        match *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Running => Ok(()),
            State::Quiet | State::Unproven => Err(Error::Stopped { name: self.pci.name() }),
        }
    }

    fn disable_queues(&self) -> Result<()> {
        let controls = || (0..u32::from(self.config.queues)).flat_map(|queue| [TXDCTL.at(queue), RXDCTL.at(queue)]);
        controls().for_each(|control| self.regs.clear(control, DCTL_ENABLE));
        let mut outcome = Ok(());
        for control in controls() {
            // All are waited for; the first that does not answer is told.
            outcome = outcome.and(self.regs.wait(control, DCTL_ENABLE, 0, QUEUE_DISABLE));
        }
        // The device may still write back for a moment after the acknowledgement (4.6.7.1.2).
        self.pci.sleep(Duration::from_micros(200));
        outcome
    }

    /// Asks the device to start no more requests and waits until none is pending (5.2.5.3.2).
    pub(super) fn disable_master(&self) -> Result<()> {
        self.regs.set(CTRL, CTRL_GIO_DIS);
        self.regs.wait(STATUS, STATUS_GIO, 0, MASTER_DISABLE)
    }

    /// Without bus mastering no request begins, but one that began before may still be answered. It is waited for (PCIe
    /// Device Status, transaction pending), at most until the device's completion timeout must have ended it.
    fn outlive_pending(&self) {
        let status = match self.pci.capability(CAP_PCIE) {
            Ok(Some(capability)) => capability + DEVICE_STATUS,
            _ => return self.pci.sleep(COMPLETION_TIMEOUT),
        };
        let start = self.pci.now();
        while self.pci.now().saturating_sub(start) < COMPLETION_TIMEOUT {
            if self.pci.config_read16(status).is_ok_and(|status| status & TRANSACTION_PENDING == 0) {
                return;
            }
            self.pci.sleep(Duration::from_millis(1));
        }
    }

    /// With the link down or paused, requests can stay pending for ever; this drops them (5.2.5.3.2). A reset must
    /// follow before the device is used again.
    pub(super) fn flush_pending(&self) {
        self.regs.set(HLREG0, HLREG0_LPBK);
        self.regs.clear(RXCTRL, RXCTRL_RXEN);
        self.regs.set(GCR_EXT, GCR_EXT_BUFFERS_CLEAR);
        self.regs.flush();
        self.pci.sleep(Duration::from_micros(20));
        self.regs.clear(HLREG0, HLREG0_LPBK);
        self.regs.clear(GCR_EXT, GCR_EXT_BUFFERS_CLEAR);
    }
}

const QUEUE_DISABLE: Duration = Duration::from_millis(20);
/// PCIe capability, its Device Status register, and the bit that says a request is not answered yet.
const CAP_PCIE: u8 = 0x10;
const DEVICE_STATUS: u16 = 0x0a;
const TRANSACTION_PENDING: u16 = 1 << 5;
/// The default range of the 82599's completion timeout ends at 32 ms (specification update, clarification 2).
const COMPLETION_TIMEOUT: Duration = Duration::from_millis(50);
/// Linux allows 800 times 100 us.
const MASTER_DISABLE: Duration = Duration::from_millis(80);
