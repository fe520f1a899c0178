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

use std::fmt::Write;

use crate::ixgbe::{Coverage, Model, describe};
use crate::memory::MemoryTable;

/// All that is known about `model` and its `memory`.
pub fn report(model: &Model, memory: &MemoryTable) -> String {
    let mut text = String::new();
    let counters = model.counters();
    let peak = memory.peak();
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
        ("most_read_only_bytes", peak.read_only),
        ("most_writable_bytes", peak.writable),
    ] {
        line(&mut text, format_args!("counter {name} {value}"));
    }
    for (offset, touched) in model.touched() {
        let Coverage { kind, name, why } = describe(*offset);
        let (reads, writes) = (touched.reads, touched.writes);
        line(&mut text, format_args!("register {offset:#07x} {kind} reads {reads} writes {writes} {name}: {why}"));
    }
    for (event, times) in model.events() {
        line(&mut text, format_args!("event {times} {event}"));
    }
    model.complaints().iter().for_each(|complaint| line(&mut text, format_args!("complaint {complaint}")));
    model.halts().iter().for_each(|halt| line(&mut text, format_args!("halt {halt}")));
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = writeln!(text, "{arguments}");
}
