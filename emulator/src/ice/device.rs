//! The E810 as any bus carries it.

use std::sync::Arc;
use std::time::Duration;

use super::{BAR0_LEN, BAR3_LEN, Coverage, Model, VECTORS, describe};
use crate::bus::Interrupts;
use crate::memory::MemoryTable;
use crate::model::{DeviceModel, DoorbellPages};
use crate::report::Report;

impl DeviceModel for Model {
    fn ids(&self) -> String {
        format!("8086:{:04x}", self.config.device_id)
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
            3 => BAR3_LEN,
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
        self.doorbell_file().map(|file| DoorbellPages { bar: 0, file, offsets: self.tails.offsets() })
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
        report.counter("package_buffers", self.firmware.package.buffers);
        for (opcode, (granted, refused)) in self.commands() {
            report.counter(&format!("command_{opcode:04x}"), *granted);
            if *refused > 0 {
                report.counter(&format!("refused_{opcode:04x}"), *refused);
            }
        }
        for (offset, touched) in self.touched() {
            let Coverage { kind, name, why } = describe(*offset);
            report.register(*offset, *touched, kind, name, why);
        }
        self.events().for_each(|(event, times)| report.event(*times, *event));
        self.complaints().iter().for_each(|complaint| report.complaint(complaint));
        self.halts().iter().for_each(|halt| report.halt(halt));
    }
}
