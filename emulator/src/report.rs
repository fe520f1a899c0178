//! What a device went through, as text that a program can read: one fact a line, its kind first.
//!
//! ```text
//! counter bus_faults 0
//! register 0x04240 implemented reads 3 writes 2 HLREG0:
//! register 0x08220 stored reads 0 writes 1 PFDTXGSWC: one pool, nothing is switched between pools
//! event 1 bus master on
//! complaint TXDCTL.PTHRESH without HTHRESH
//! halt TX queue 0: bus fault while fetching a descriptor
//! ```

use std::fmt::{Display, Write};

use crate::counters::Counters;
use crate::history::{Event, Touched};
use crate::memory::MemoryTable;
use crate::model::DeviceModel;

/// All that is known about `model` and its `memory`.
pub fn report<M: DeviceModel>(model: &M, memory: &MemoryTable) -> String {
    let mut report = Report::default();
    let peak = memory.peak();
    report.counter("most_read_only_bytes", peak.read_only);
    report.counter("most_writable_bytes", peak.writable);
    model.report(&mut report);
    report.0
}

/// The text as far as it is written.
#[derive(Default)]
pub struct Report(String);

impl Report {
    /// A count.
    pub fn counter(&mut self, name: &str, value: u64) {
        self.line(format_args!("counter {name} {value}"));
    }

    /// What every model counts.
    pub fn counters(&mut self, counters: &Counters) {
        for (name, value) in [
            ("bus_faults", counters.bus_faults),
            ("gated", counters.gated),
            ("bad_descriptors", counters.bad_descriptors),
            ("payload_len_mismatches", counters.payload_len_mismatches),
            ("odd_accesses", counters.odd_accesses),
            ("dma_reads", counters.dma_reads),
            ("dma_writes", counters.dma_writes),
            ("dma_read_bytes", counters.dma_read_bytes),
            ("dma_write_bytes", counters.dma_write_bytes),
            ("frames_sent", counters.frames_sent),
            ("frames_received", counters.frames_received),
            ("rx_dropped", counters.rx_dropped),
            ("checksummed", counters.checksummed),
            ("segmented", counters.segmented),
            ("interrupts", counters.interrupts),
            ("resets", counters.resets),
        ] {
            self.counter(name, value);
        }
    }

    /// A register that was reached by message: how well it is modelled, its name, and why no better.
    pub fn register(&mut self, offset: u32, touched: Touched, kind: impl Display, name: &str, why: &str) {
        let Touched { reads, writes } = touched;
        self.line(format_args!("register {offset:#07x} {kind} reads {reads} writes {writes} {name}: {why}"));
    }

    /// What happened to the device, and how often it came in a row.
    pub fn event(&mut self, times: u64, event: Event) {
        self.line(format_args!("event {times} {event}"));
    }

    /// What the driver did that hardware forgives or answers with garbage.
    pub fn complaint(&mut self, what: &str) {
        self.line(format_args!("complaint {what}"));
    }

    /// Why the device, or a queue of it, stopped.
    pub fn halt(&mut self, why: &str) {
        self.line(format_args!("halt {why}"));
    }

    fn line(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.0, "{arguments}");
    }
}
