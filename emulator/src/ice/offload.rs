//! What the device makes of the bytes that it read: which frames go out, and what it takes for malicious.

use super::desc::{Command, Context, Data};
use crate::headers::Transport;
use crate::offload::{self, FlagMasks, Layout};
use crate::packet::Packet;

/// Shortest and longest frame without check sequence, bytes.
pub const SHORTEST: usize = 17;
pub const LONGEST: usize = 9728;
/// Data buffers that a frame on the wire may lie in.
pub const BUFFERS: usize = 8;
/// Longest frame to be cut: what TSO_LEN can say, behind the longest header, bytes.
const LONGEST_TSO: usize = (1 << 18) - 1 + 254 + 508 + 60;
/// Payload of a segment, bytes.
const MSS: std::ops::RangeInclusive<u16> = 64..=9728;

/// FIN and PSH are the last segment's, CWR the first's.
const FLAGS: FlagMasks = FlagMasks { first: 0xff6, middle: 0xf76, last: 0xf7f };

/// IIPT: the network header.
const IP_NONE: u8 = 0;
const IP_V6: u8 = 1;
const IP_V4_CHECKSUM: u8 = 3;
/// L4T: the transport.
const L4_NONE: u8 = 0;
const L4_TCP: u8 = 1;
const L4_SCTP: u8 = 2;

/// Decides what goes out for one frame's `bytes`, which lie in buffers as `gather` says; the error says what is malicious.
pub fn plan(
    command: &Command,
    context: Option<&Context>,
    gather: &[(u64, Data)],
    bytes: &[u8],
) -> Result<Vec<Packet>, &'static str> {
    let layout = Layout {
        mac: command.mac_len.into(),
        ip: command.ip_len.into(),
        l4: command.l4_len.into(),
        ipv4: command.ip & 2 != 0,
    };
    if let Some(context) = context.filter(|context| context.segment) {
        check_segmentation(command, context, &layout, bytes.len())?;
        check_buffers(gather, layout.headers(), context.mss.into())?;
        return Ok(offload::segment(&layout, command.l4 == L4_TCP, context.mss.into(), bytes, FLAGS));
    }
    if bytes.len() < SHORTEST {
        return Err("a frame is shorter than 17 bytes");
    }
    if bytes.len() > LONGEST {
        return Err("a frame is longer than 9728 bytes");
    }
    if gather.len() > BUFFERS {
        return Err("a frame lies in more than eight buffers");
    }
    if command.ip == IP_NONE && command.l4 == L4_NONE {
        return Ok(vec![Packet::whole(bytes.len())]);
    }
    let transport = transport(command)?;
    check_network(command, &layout, bytes.len())?;
    let least = match transport {
        Some(Transport::Tcp) => 20,
        Some(Transport::Udp) => 8,
        Some(Transport::Sctp) => 12,
        None => 0,
    };
    if layout.l4 < least {
        return Err("L4LEN is shorter than the transport's header");
    }
    Ok(vec![offload::checksums(&layout, command.ip == IP_V4_CHECKSUM, transport, bytes)?])
}

/// Longest that the buffers of one frame may be together; beyond it nobody needs to read them.
pub fn longest(context: Option<&Context>) -> usize {
    if context.is_some_and(|context| context.segment) { LONGEST_TSO } else { LONGEST }
}

fn transport(command: &Command) -> Result<Option<Transport>, &'static str> {
    match command.l4 {
        L4_NONE => Ok(None),
        _ if command.ip == IP_NONE => Err("L4T without IIPT: a transport without a network"),
        L4_TCP => Ok(Some(Transport::Tcp)),
        L4_SCTP => Ok(Some(Transport::Sctp)),
        _ => Ok(Some(Transport::Udp)),
    }
}

fn check_network(command: &Command, layout: &Layout, len: usize) -> Result<(), &'static str> {
    let least = if command.ip == IP_V6 { 40 } else { 20 };
    if layout.mac < 14 || layout.ip < least || layout.transport() > len {
        return Err("MACLEN and IPLEN are no link and network header inside the frame");
    }
    Ok(())
}

fn check_segmentation(command: &Command, context: &Context, layout: &Layout, len: usize) -> Result<(), &'static str> {
    let least = match command.l4 {
        L4_TCP => 20,
        L4_SCTP | L4_NONE => return Err("L4T says no transport that can be cut"),
        _ => 8,
    };
    check_network(command, layout, len)?;
    match () {
        () if !MSS.contains(&context.mss) => Err("MSS is not within 64 to 9728 bytes"),
        () if layout.l4 < least || layout.headers() >= len => Err("the headers of a frame to be cut do not fit it"),
        () if context.payload_len as usize != len - layout.headers() => Err("TSO_LEN is not the payload's length"),
        () if command.ip & 2 != 0 && command.ip != IP_V4_CHECKSUM => {
            Err("a frame to be cut needs its IPv4 checksum completed")
        }
        () if layout.headers() + usize::from(context.mss) > LONGEST => Err("a segment is longer than 9728 bytes"),
        () => Ok(()),
    }
}

/// Every segment is fetched from the buffers that it and the headers lie in.
fn check_buffers(gather: &[(u64, Data)], header: usize, mss: usize) -> Result<(), &'static str> {
    let ends: Vec<usize> = gather
        .iter()
        .scan(0, |end, (_, data)| {
            *end += usize::from(data.len);
            Some(*end)
        })
        .collect();
    // Buffers that end at or before a place hold nothing of what begins there.
    let before = |at: usize| ends.partition_point(|end| *end <= at);
    let total = ends.last().copied().unwrap_or(0);
    let of_header = before(header.saturating_sub(1)) + 1;
    for start in (header..total).step_by(mss) {
        let last = (start + mss).min(total) - 1;
        if of_header + before(last) - before(start) + 1 > BUFFERS {
            return Err("a segment lies in more than eight buffers, its headers' among them");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(lens: &[u16]) -> Vec<(u64, Data)> {
        lens.iter().map(|len| (0, Data { len: *len, ..Data::default() })).collect()
    }

    #[test]
    fn buffers_of_a_segment_are_counted_with_those_of_the_headers() {
        // One header, then payload in pieces of 200: a segment of 1400 lies in seven, of 1401 in eight.
        let pieces: Vec<u16> = [54].into_iter().chain([200; 20]).collect();
        assert_eq!(check_buffers(&gather(&pieces), 54, 1400), Ok(()));
        assert!(check_buffers(&gather(&pieces), 54, 1401).is_err());
        // Seven pieces, but the second segment begins inside of one.
        let pieces: Vec<u16> = [54, 100].into_iter().chain([200; 20]).collect();
        assert!(check_buffers(&gather(&pieces), 54, 1400).is_err());
        assert_eq!(check_buffers(&gather(&[54, 16_000, 16_000]), 54, 1448), Ok(()));
        // The headers' buffer holds payload as well.
        assert_eq!(check_buffers(&gather(&[254, 200, 200, 200, 200, 200, 200]), 54, 1400), Ok(()));
    }
}
