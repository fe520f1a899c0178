//! Frames off the wire, and their capture.

use std::num::NonZeroU16;

use stillwire_driver::{Ip, Offload, Transport};
use stillwire_examples::capture::{Capture, Spec};
use stillwire_examples::packet::{Received, checksums_hold, write_checksums};

use crate::input::Input;

/// A frame, and the same behind a header that gets it past the first look.
pub fn packet(bytes: &[u8]) {
    look(bytes);
    let (kind, rest) = bytes.split_at(bytes.len().min(1));
    let ether_type: [u8; 2] = [[8, 0], [8, 6], [0x86, 0xdd], [0x81, 0]][usize::from(kind.first().unwrap_or(&0) & 3)];
    look(&[&[2; 12][..], &ether_type, rest].concat());
    if bytes.len() >= 42 {
        let mut frame = bytes.to_vec();
        write_checksums(&mut frame, Default::default());
        look(&frame);
    }
}

fn look(frame: &[u8]) {
    let holds = checksums_hold(frame);
    if let Received::Udp { payload, .. } = Received::parse(frame) {
        assert!(payload.len() + 42 <= frame.len().max(42), "payload that is not in the frame");
        let _ = holds;
    }
}

/// The flag, then frames that were received and posted.
pub fn capture(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flag = String::from_utf8_lossy(input.piece());
    let port = flag.parse::<Spec>().ok().and_then(|spec| spec.port).or_else(|| input.flag().then(|| input.u16()));
    let Ok(mut capture) = Capture::create(Spec { path: "/dev/null".into(), port }) else { return };
    let mut frames = 0;
    while input.more() && frames < 64 {
        frames += 1;
        match input.u8() % 3 {
            0 => capture.received(input.piece()),
            1 => {
                let (offload, header) = (offload(&mut input), input.piece());
                capture.posted(header, offload, None);
            }
            _ => capture.end_batch(),
        }
    }
    capture.end_batch();
    let counts = capture.counts();
    assert_eq!(counts.lost, 0, "/dev/null takes everything");
    assert!(counts.frames + counts.filtered <= frames);
}

/// Any offload, those that no device can do included.
pub fn offload(input: &mut Input<'_>) -> Option<Offload> {
    let plain = [Offload::UDP_V4, Offload::TCP_V4, Offload::UDP_V6, Offload::TCP_V6];
    match input.u8() {
        0..=63 => None,
        kind @ 64..=191 => {
            let segment = if kind & 1 == 1 { input.u16() } else { 0 };
            let offload = plain[usize::from(kind >> 1) % 4].segmented(segment);
            Some(if kind & 8 == 8 { offload.tagged(input.u16()) } else { offload })
        }
        _ => Some(Offload {
            ethernet_len: input.u8(),
            ip: if input.flag() { Ip::V6 } else { Ip::V4 },
            ip_len: input.u16(),
            transport: input.one_of(&[None, Some(Transport::Udp), Some(Transport::Tcp), Some(Transport::Sctp)]),
            segment: NonZeroU16::new(input.u16()),
            vlan: input.flag().then(|| input.u16()),
        }),
    }
}
