//! Stopping, with proof (Linux `ice_main.c`, `ice_down` and after).

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::adminq::Request;
use super::commands::DISABLE_TX_QUEUES;
use super::init::Function;
use super::regs::*;
use super::scheduler;
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
        // A step that fails does not end it: the later ones are stronger.
        let queues = self.disable_queues();
        self.take_down_bells();
        self.admin().shut_down();
        let bus = self.pci.set_bus_master(false).map_err(Error::from);
        // A reset says that it is over by a bit that reads 0, which a device that did not take it would answer as well. So it is
        // proof only together with queues that the firmware says are empty.
        let silent = queues.and(self.reset_function());
        if bus.is_ok() {
            self.outlive_pending();
        }
        match (silent, bus) {
            (Ok(()), _) | (_, Ok(())) => {
                *state = State::Quiet;
                Ok(Quiet(()))
            }
            (Err(silent), Err(bus)) => {
                *state = State::Unproven;
                self.admin().keep_mapped();
                Err(Error::NotQuiet { name: self.pci.name(), why: format!("{silent}; {bus}"), kept: 0 })
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
        let rx = 0..u32::from(self.rx_taken.load(Ordering::Relaxed));
        let tx = 0..self.tx_taken.load(Ordering::Relaxed);
        for queue in rx.clone() {
            self.regs.write(QRX_CTRL.at(queue), 0);
            self.regs.write(QINT_RQCTL.at(queue), 0);
        }
        let mut outcome = Ok(());
        let mut admin = self.admin();
        admin.deadline = QUEUE_DISABLE;
        for queue in tx {
            self.regs.write(QINT_TQCTL.at(queue.into()), 0);
            let buffer = scheduler::disable_queue(self.parent(queue), queue);
            let request = Request::new(DISABLE_TX_QUEUES).with(0, &[FLUSH, 1]).with(2, &TIMEOUT.to_le_bytes());
            // All are tried; the first that does not answer is told.
            outcome = outcome.and(admin.ask(request.giving(&buffer)).map(drop));
        }
        drop(admin);
        for queue in rx {
            outcome = outcome.and(self.regs.wait(QRX_CTRL.at(queue), QRX_CTRL_QENA_STAT, 0, QUEUE_DISABLE));
        }
        outcome
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
}

const QUEUE_DISABLE: Duration = Duration::from_millis(500);
/// "Disable TX queues": what is still under way is flushed when it takes longer than the timeout (5, as Linux has it).
const FLUSH: u8 = 1 << 3;
const TIMEOUT: u16 = 5 << 10;
/// PCIe capability, its Device Status register, and the bit that says a request is not answered yet.
const CAP_PCIE: u8 = 0x10;
const DEVICE_STATUS: u16 = 0x0a;
const TRANSACTION_PENDING: u16 = 1 << 5;
/// The default range of completion timeouts ends at 50 ms (PCI Express base specification, Device Control 2).
const COMPLETION_TIMEOUT: Duration = Duration::from_millis(50);
