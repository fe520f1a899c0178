//! The transfer protocol: both ends, fed with datagrams that somebody made up.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use stillwire_examples::transfer::{
    Header, Message, Next, RUN_PORTS, RUNS, Reason, Receiver, ReceiverConfig, Run, Sender, SenderConfig, Sink, State,
    Status,
};

use crate::input::Input;

/// A file of which every byte must arrive before it is finished.
#[derive(Default)]
struct Checked {
    size: u64,
    /// What was written, as ranges that do not overlap; files here may be of any size.
    written: Vec<(u64, u64)>,
    finished: usize,
    fail: bool,
}

impl Sink for Checked {
    fn begin(&mut self, _transfer: u64, file_size: u64) -> io::Result<()> {
        (self.size, self.written) = (file_size, Vec::new());
        if self.fail { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).expect("no file is so long");
        assert!(end <= self.size, "bytes {offset}..{end} of a file of {}", self.size);
        self.written.push((offset, end));
        if self.fail { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.written.sort_unstable();
        let covered = self.written.iter().fold(0, |through, &(start, end)| {
            assert!(start <= through, "bytes {through}..{start} are missing from a file that is finished");
            through.max(end)
        });
        assert_eq!(covered, self.size, "the end is missing from a file that is finished");
        self.finished += 1;
        Ok(())
    }
}

/// A receiver, and any datagrams from anywhere.
pub fn receiver(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let config = ReceiverConfig {
        keep: flags & 1 == 1,
        in_order: flags & 2 == 2,
        max_ranges: if flags & 4 == 4 { 3 } else { 64 },
        ..ReceiverConfig::default()
    };
    let (mut receiver, mut sink) = (Receiver::new(config), Checked { fail: flags & 8 == 8, ..Checked::default() });
    let (mut now, mut completed) = (Duration::ZERO, 0);
    while input.more() {
        now += Duration::from_millis(input.u8().into());
        let port = match input.u8() {
            port @ 0..=127 => RUN_PORTS.start + u16::from(port) % RUNS as u16,
            port => u16::from(port),
        };
        let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, input.u8() & 1)), port);
        let bytes = datagram(&mut input);
        if let Some(reply) = receiver.datagram(now, from, &bytes, &mut sink) {
            let (header, payload) = Header::parse(&reply.datagram).expect("what it says can be read");
            let said = Message::parse(&header, payload).expect("and makes sense");
            completed += usize::from(matches!(said, Some(Message::Complete { .. })));
            assert!(completed == 0 || sink.finished > 0, "complete, and the file is not finished");
        }
        if let State::Receiving { received, file_size, .. } = receiver.state() {
            assert!(received <= file_size);
        }
        assert!(receiver.run_memory() <= 1 << 20, "{} bytes of runs that are not whole", receiver.run_memory());
    }
    let _ = (receiver.stop(), receiver.take_error());
}

/// A sender, whose receiver says anything.
pub fn sender(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let to = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
    let size = input.one_of(&[0, 1, 1000, 100_000, 1 << 40, u64::MAX >> 1]);
    let flags = input.u8();
    let config = SenderConfig {
        segment: (flags & 1 == 1).then_some(1400),
        window: (flags & 2 == 0).then_some(u64::from(input.u16()) * 16),
        ..SenderConfig::new(to, TRANSFER, size, 1 + u32::from(input.u16()))
    };
    let mut sender = Sender::new(config);
    let (mut now, mut told) = (Duration::ZERO, false);
    while input.more() {
        match input.u8() % 4 {
            0 => {
                let bytes = datagram(&mut input);
                let parsed = Header::parse(&bytes).and_then(|(header, rest)| Message::parse(&header, rest));
                told |= matches!(parsed, Ok(Some(Message::Complete { .. } | Message::Refuse { .. })));
                let _ = sender.datagram(now, &bytes);
            }
            1 => {
                let start = input.u64() % (size + 1);
                sender.unsent(start..start.saturating_add(input.u32().into()));
            }
            2 => now += Duration::from_millis(input.u16().into()),
            _ => match sender.next_run(now, input.u32().into()) {
                Next::Data(range) | Next::Run(range) => {
                    assert!(range.start < range.end && range.end <= size, "{range:?} of a file of {size}");
                }
                Next::Probe(bytes) => drop(Header::parse(&bytes).expect("what it says can be read")),
                Next::Wait(until) => now = now.max(until.min(now + Duration::from_secs(1))),
                Next::Done(_) => assert!(told, "done, and nobody said so"),
                Next::Failed(_) => {}
            },
        }
        assert!(sender.sent_once() <= size);
    }
}

/// A datagram: bytes as they are, or something that the protocol could say, with sums that hold, and then changed a little.
fn datagram(input: &mut Input<'_>) -> Vec<u8> {
    let transfer = if input.u8() < 250 { TRANSFER + u64::from(input.u8() & 1) } else { input.u64() };
    let size = input.one_of(&[1000, 0, 1, 100_000, 1 << 40, u64::MAX >> 1]);
    let place = |input: &mut Input<'_>| match input.u8() {
        near @ 0..=199 => u64::from(near) * u64::from(input.u8()),
        200..=227 => size.saturating_sub(input.u8().into()),
        _ => input.u64(),
    };
    let status = |input: &mut Input<'_>| Status {
        number: input.u8().into(),
        window: input.u32(),
        received: input.u32().into(),
        torn: input.u64(),
        duplicates: input.u64(),
    };
    let mut bytes = match input.u8() % 8 {
        0 | 1 => return input.piece().to_vec(),
        2 | 3 => {
            let (offset, bytes) = (place(input), input.piece());
            let header = Header::data(transfer, size, offset, bytes.len() as u32, crc32fast::hash(bytes));
            let mut datagram = vec![0; 44];
            header.emit(&mut datagram);
            datagram.extend_from_slice(bytes);
            datagram
        }
        4 => Message::Probe { number: input.u8().into(), offset: place(input) }.datagram(transfer, size),
        5 => {
            let (status, offset) = (status(input), place(input));
            let ranges = (0..input.u8() % 65).map(|_| place(input)..place(input)).collect();
            Message::Missing { status, offset, ranges, more: input.flag() }.datagram(transfer, size)
        }
        6 => match input.u8() % 6 {
            0 => Message::Complete { status: status(input) }.datagram(transfer, size),
            reason => {
                let reasons = [Reason::Busy, Reason::Finished, Reason::StorageFull, Reason::Storage, Reason::Stopped];
                Message::Refuse { reason: reasons[usize::from(reason) % 5] }.datagram(transfer, size)
            }
        },
        _ => {
            let (number, offset, len) = (input.u8().into(), place(input), place(input) as u32);
            let run = Run { number, offset, len, segment: input.u8().into(), crc32: input.u32() };
            Message::Run(run).datagram(transfer, size)
        }
    };
    if input.u8() >= 192 && !bytes.is_empty() {
        let at = input.below(bytes.len());
        bytes[at] = input.u8();
        mend(&mut bytes);
    }
    bytes
}

/// Has the sums of a datagram hold again, so that what is in it is looked at.
fn mend(bytes: &mut [u8]) {
    if bytes.len() < 44 {
        return;
    }
    let crc32 = crc32fast::hash(&bytes[44..]);
    bytes[36..40].copy_from_slice(&crc32.to_be_bytes());
    let check = crc32fast::hash(&bytes[..40]);
    bytes[40..44].copy_from_slice(&check.to_be_bytes());
}

const TRANSFER: u64 = 7;
