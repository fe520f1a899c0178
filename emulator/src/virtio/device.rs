//! The device as any bus carries it.

use std::sync::Arc;
use std::time::Duration;

use super::{BAR0_LEN, BAR4_LEN, Model, VECTORS, pci};
use crate::bus::Interrupts;
use crate::memory::MemoryTable;
use crate::model::{DeviceModel, DoorbellPages};
use crate::report::Report;

impl DeviceModel for Model {
    fn ids(&self) -> String {
        "1af4:1041".into()
    }

    fn attach_memory(&mut self, memory: Arc<MemoryTable>) {
        self.attach_memory(memory);
    }

    fn attach_interrupts(&mut self, interrupts: Box<dyn Interrupts>) {
        self.attach_interrupts(interrupts);
    }

    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config_read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config_write(offset, data);
    }

    fn bar_len(&self, bar: u8) -> u64 {
        match bar {
            0 => BAR0_LEN,
            4 => BAR4_LEN,
            _ => 0,
        }
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        self.bar_read(bar, offset, data);
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        self.bar_write(bar, offset, data);
    }

    fn doorbells(&self) -> Option<DoorbellPages<'_>> {
        self.doorbell_file().map(|file| DoorbellPages { bar: 4, file, offsets: self.doorbells.offsets() })
    }

    fn vectors(&self) -> u16 {
        VECTORS
    }

    fn step(&mut self, now: Duration) -> bool {
        self.step(now)
    }

    fn function_reset(&mut self) {
        self.function_reset();
    }

    fn note_unmapped(&mut self, ranges: usize) {
        self.note_unmapped(ranges);
    }

    fn set_fault(&mut self, text: &str) -> Result<(), String> {
        self.faults().set(text)
    }

    fn report(&self, report: &mut Report) {
        report.counters(&self.counters());
        for (offset, touched) in &self.history.touched {
            let name = pci::name(*offset);
            let kind = if name.is_empty() { "unknown" } else { "implemented" };
            report.register(*offset, *touched, kind, name, "");
        }
        self.events().for_each(|(event, times)| report.event(*times, *event));
        self.complaints().iter().for_each(|complaint| report.complaint(complaint));
        self.halts().iter().for_each(|halt| report.halt(halt));
    }
}
