//! Checksums and segmentation: what the device makes of the bytes that it read.
//!
//! [`plan`] looks at the bytes of the *first* read only and says how to change the bytes of the *second* read before they
//! go out. So a page that changes between the two goes out torn: new bytes under an old checksum.

use super::desc::{Command, Context};
use crate::checksum::ones_complement_sum;
use crate::headers::Transport;
use crate::offload::{self, FlagMasks, Layout};
use crate::packet::{Fields, Packet};

/// Longest frame without segmentation, bytes (15.5 KiB, datasheet 7.2.3.2.2).
pub const LONGEST_FRAME: usize = 15_872;
/// Most that PAYLEN can say, plus the longest header, bytes.
pub const LONGEST_TSO: usize = (1 << 18) - 1 + 511;
/// Shortest frame, bytes: an Ethernet header.
pub const SHORTEST_FRAME: usize = 14;

const L4_UDP: u8 = 0;
const L4_TCP: u8 = 1;
const L4_SCTP: u8 = 2;

/// Decides what goes out for one frame's `bytes`; the error says why hardware would hang.
pub fn plan(
    command: &Command,
    context: Option<&Context>,
    bytes: &[u8],
    masks: FlagMasks,
) -> Result<Vec<Packet>, &'static str> {
    check_command(command, context, bytes.len())?;
    if let Some((from, at)) = command.legacy_checksum {
        return plan_legacy(from.into(), at.into(), bytes);
    }
    match context.filter(|_| command.ip_checksum || command.l4_checksum || command.segment) {
        None => Ok(vec![Packet::whole(bytes.len())]),
        Some(context) if command.segment => segment(command, context, bytes, masks),
        Some(context) => checksums(command, context, bytes),
    }
}

fn check_command(command: &Command, context: Option<&Context>, len: usize) -> Result<(), &'static str> {
    let offload = command.ip_checksum || command.l4_checksum || command.segment || command.vlan;
    if len < SHORTEST_FRAME {
        return Err("frame is shorter than an Ethernet header");
    }
    if !command.segment && len > LONGEST_FRAME {
        return Err("frame is longer than 15.5 KiB");
    }
    if !offload {
        return Ok(());
    }
    if !command.insert_fcs {
        return Err("IFCS must be set with any offload");
    }
    let context = context.ok_or("an offload without a context descriptor before it")?;
    if !(14..=127).contains(&context.mac_len) {
        return Err("MACLEN is not within 14..127");
    }
    if !command.segment && command.payload_len as usize != len {
        return Err("PAYLEN is not the frame's length");
    }
    Ok(())
}

fn plan_legacy(from: usize, at: usize, bytes: &[u8]) -> Result<Vec<Packet>, &'static str> {
    if from >= bytes.len() || at + 2 > bytes.len() {
        return Err("legacy checksum offsets lie beyond the frame");
    }
    let mut fields = Fields::new(bytes);
    fields.put16(at, !ones_complement_sum(&bytes[from..]));
    Ok(vec![Packet { header: 0, payload: 0..bytes.len(), patches: fields.patches }])
}

fn checksums(command: &Command, context: &Context, bytes: &[u8]) -> Result<Vec<Packet>, &'static str> {
    if command.ip_checksum {
        check_ip_checksum(context, bytes.len())?;
    }
    let transport = match context.l4_type {
        _ if !command.l4_checksum => None,
        L4_TCP => Some(Transport::Tcp),
        L4_UDP => Some(Transport::Udp),
        L4_SCTP => Some(Transport::Sctp),
        _ => return Err("L4T says no transport that has a checksum"),
    };
    Ok(vec![offload::checksums(&context.layout(), command.ip_checksum, transport, bytes)?])
}

fn check_ip_checksum(context: &Context, len: usize) -> Result<(), &'static str> {
    if !context.ipv4 {
        return Err("IXSM without TUCMD.IPV4");
    }
    if context.ip_len < 20 || usize::from(context.mac_len + context.ip_len) > len {
        return Err("IPLEN is no IPv4 header inside the frame");
    }
    Ok(())
}

fn segment(command: &Command, context: &Context, bytes: &[u8], masks: FlagMasks) -> Result<Vec<Packet>, &'static str> {
    check_segmentation(command, context, bytes.len())?;
    let tcp = context.l4_type == L4_TCP;
    Ok(offload::segment(&context.layout(), tcp, context.mss.into(), bytes, masks))
}

/// Checks what a segmentation needs.
fn check_segmentation(command: &Command, context: &Context, len: usize) -> Result<(), &'static str> {
    let header = context.layout().headers();
    let least = match context.l4_type {
        L4_TCP => 20,
        L4_UDP => 8,
        _ => return Err("L4T says no transport that can be segmented"),
    };
    if context.l4_len < least || header >= 512 || header >= len {
        return Err("TSO header lengths do not fit the frame");
    }
    if context.ip_len < if context.ipv4 { 20 } else { 40 } {
        return Err("IPLEN is shorter than the network header");
    }
    if context.mss == 0 {
        return Err("TSO with an MSS of 0");
    }
    if !command.l4_checksum || command.ip_checksum != context.ipv4 {
        return Err("TSO needs TXSM, and IXSM for IPv4 only");
    }
    if command.payload_len as usize != len - header {
        return Err("PAYLEN is not the payload's length");
    }
    Ok(())
}

impl Context {
    fn layout(&self) -> Layout {
        Layout { mac: self.mac_len.into(), ip: self.ip_len.into(), l4: self.l4_len.into(), ipv4: self.ipv4 }
    }
}
