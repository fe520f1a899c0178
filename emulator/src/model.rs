//! What a bus needs to know of a device model, whichever device it is.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::bus::Interrupts;
use crate::memory::MemoryTable;
use crate::report::Report;

/// A PCI function with BARs, MSI-X and DMA, that is stepped: it has no thread and no clock.
///
/// Offsets and lengths are bytes. Nothing that a driver or a wire says makes a call panic.
pub trait DeviceModel: Send + 'static {
    /// Vendor and device ID, as a user would write them.
    fn ids(&self) -> String;

    /// The memory that the device reaches from now on.
    fn attach_memory(&mut self, memory: Arc<MemoryTable>);

    /// Where MSI-X messages go from now on.
    fn attach_interrupts(&mut self, interrupts: Box<dyn Interrupts>);

    /// Reads configuration space, which has [`CONFIG_LEN`](crate::CONFIG_LEN) bytes.
    fn config_read(&mut self, offset: u16, data: &mut [u8]);

    /// Writes configuration space.
    fn config_write(&mut self, offset: u16, data: &[u8]);

    /// Size of a BAR; 0 when there is none.
    fn bar_len(&self, bar: u8) -> u64;

    /// Reads BAR `bar`.
    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes BAR `bar`.
    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]);

    /// The pages that a client may map instead of sending messages, where there are some.
    fn doorbells(&self) -> Option<DoorbellPages<'_>>;

    /// Number of MSI-X vectors.
    fn vectors(&self) -> u16;

    /// Does what can be done at `now` (since any epoch that does not change); false when there was nothing to do.
    fn step(&mut self, now: Duration) -> bool;

    /// Function-level reset: everything as after power-on, bus mastering off.
    fn function_reset(&mut self);

    /// Notes that `ranges` of device addresses were taken away by whoever has the memory table.
    fn note_unmapped(&mut self, ranges: usize);

    /// Changes one fault as a text says ([`ixgbe::Faults::set`](crate::ixgbe::Faults::set)).
    ///
    /// # Errors
    /// When the text is no fault of this model; says which there are.
    fn set_fault(&mut self, text: &str) -> Result<(), String> {
        Err(format!("'{text}': this model has no faults that have a name"))
    }

    /// What the device went through.
    fn report(&self, report: &mut Report);
}

/// Pages of a BAR that are memory.
#[derive(Clone, Copy, Debug)]
pub struct DoorbellPages<'a> {
    /// The BAR.
    pub bar: u8,
    /// A file as long as the BAR; an offset in one is an offset in the other.
    pub file: BorrowedFd<'a>,
    /// Where each page begins.
    pub offsets: &'static [u32],
}
