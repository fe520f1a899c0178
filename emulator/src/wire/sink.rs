//! A wire that checks what it gets.

use std::sync::{Arc, Mutex, PoisonError};

use super::Wire;
use crate::headers::{self, Verdict};

/// Takes every frame, checks the IPv4, TCP, UDP and SCTP checksums in software, and counts. Clones are the same sink.
#[derive(Clone, Default)]
pub struct Sink(Arc<Mutex<SinkReport>>);

/// What a sink saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SinkReport {
    /// Frames.
    pub frames: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Frames with a checksum that does not hold.
    pub bad: u64,
    /// Frames with a transport checksum that holds.
    pub good: u64,
}

impl Sink {
    /// A sink that saw nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it saw so far.
    pub fn report(&self) -> SinkReport {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire for Sink {
    fn transmit(&mut self, frame: &[u8]) {
        let (ip, l4) = match headers::parse(frame) {
            Some(headers) => (headers.check_ip(frame), headers.check_transport(frame)),
            None => (Verdict::Absent, Verdict::Absent),
        };
        let mut report = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        report.frames += 1;
        report.bytes += frame.len() as u64;
        report.bad += u64::from(ip == Verdict::Bad || l4 == Verdict::Bad);
        report.good += u64::from(ip != Verdict::Bad && l4 == Verdict::Good);
    }

    fn receive(&mut self, _frame: &mut Vec<u8>) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn one_wrong_bit_is_a_bad_frame() {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(7, 9, 1, 2);
        builder.write(&mut frame, b"payload").unwrap();
        let mut wire = Sink::new();
        wire.transmit(&frame);
        for at in [20, 40, frame.len() - 1] {
            let mut broken = frame.clone();
            broken[at] ^= 0x10;
            wire.transmit(&broken);
        }
        wire.transmit(&[0; 60]);
        let bytes = 4 * frame.len() as u64 + 60;
        assert_eq!(wire.report(), SinkReport { frames: 5, bytes, bad: 3, good: 1 });
    }
}
