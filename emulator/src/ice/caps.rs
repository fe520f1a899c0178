//! What the device and its function can do, as firmware lists it.

use super::VECTORS;
use super::command::{Answer, Command, Refusal};
use super::regs::QUEUES;
use super::vsi::MOST;

/// Bytes of an element.
const ELEMENT: usize = 32;
/// Longest frame, bytes.
const MAX_MTU: u32 = 9728;
/// Entries of the function's redirection table, and bits of one.
const LUT: (u32, u32) = (2048, 6);

/// Rules of the flow director.
const FLOWS: u32 = 1024;

/// A capability: number of it, what it is, how many, and two words whose sense is its own.
const CAPS: [(u16, u32, u32, u32); 8] = [
    // Valid functions: a bit each.
    (0x0005, 1, 0, 0),
    (0x0017, MOST as u32, 0, 0),
    (0x0040, LUT.0, LUT.1, 0),
    (0x0041, QUEUES as u32, 0, 0),
    (0x0042, QUEUES as u32, 0, 0),
    (0x0043, VECTORS as u32, 0, 0),
    // The flow director, which stock drivers set up without asking: rules are taken, and none ever matches.
    (0x0045, FLOWS, 0, 0),
    (0x0047, MAX_MTU, 0, 0),
];

/// The list; device and function are the same, for there is one function.
pub fn list(command: &mut Command) -> Answer {
    command.put32(4, CAPS.len() as u32);
    if command.room < CAPS.len() * ELEMENT {
        return Err(Refusal::Enomem);
    }
    for (capability, number, logical, physical) in CAPS {
        let mut element = [0; ELEMENT];
        element[..2].copy_from_slice(&capability.to_le_bytes());
        element[2] = 1;
        element[4..8].copy_from_slice(&number.to_le_bytes());
        element[8..12].copy_from_slice(&logical.to_le_bytes());
        element[12..16].copy_from_slice(&physical.to_le_bytes());
        command.reply.extend_from_slice(&element);
    }
    Ok(())
}
