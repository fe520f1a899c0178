//! Stopping, with proof (virtio 1.2, 2.4.1, 3.3).

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
    /// [`Error::NotQuiet`] when there is no proof; then nothing that the device may reach can be given back.
    pub(crate) fn stop(&self) -> Result<Quiet> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Quiet) {
            return Ok(Quiet(()));
        }
        let reset = self.reset(STOP);
        self.bells.take_down(&self.pci);
        let bus = self.pci.set_bus_master(false).map_err(Error::from);
        match (reset, bus) {
            (Ok(()), _) => {
                *state = State::Quiet;
                Ok(Quiet(()))
            }
            (Err(_), Ok(())) => {
                // No request begins any more, but one that began before may still be answered.
                self.pci.sleep(COMPLETION_TIMEOUT);
                *state = State::Quiet;
                Ok(Quiet(()))
            }
            (Err(reset), Err(bus)) => {
                *state = State::Unproven;
                // The device may still read and write its rings: neither they nor their device addresses are ever given back.
                self.keep_rings_mapped();
                Err(Error::NotQuiet { name: self.pci.name(), why: format!("{reset}; {bus}"), kept: 0 })
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

    /// Writes 0 to the status and waits until it reads 0: the device does no more DMA then, and has forgotten all.
    pub(super) fn reset(&self, deadline: Duration) -> Result<()> {
        self.parts.common.write(DEVICE_STATUS, 0);
        self.parts.common.wait(DEVICE_STATUS, 0xff, 0, deadline)
    }
}

const STOP: Duration = Duration::from_millis(500);
/// The longest range of PCIe completion timeouts that is on by default ends at 50 ms (PCIe 2.8).
const COMPLETION_TIMEOUT: Duration = Duration::from_millis(50);
