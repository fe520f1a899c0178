//! Runs of a file as the NIC is given them: one header, and up to 64 KiB that it cuts into datagrams.

use std::net::SocketAddrV4;
use std::ops::Range;

use stillwire_dma::Payload;
use stillwire_driver::{Error, Frame, Offload, Posted, TxQueue};

use crate::packet::{Endpoint, UDP_HEADERS, UdpTemplate};
use crate::transfer::{ANNOUNCEMENT_LEN, MAX_RUN, RUN_PORTS, RUNS, Run};

/// Posts runs from one end to another.
pub struct Runs {
    /// One for each of [`RUN_PORTS`], with the lengths of an announcement. Those of segments are the NIC's work.
    headers: Vec<UdpTemplate>,
    segment: u16,
    /// Runs that were posted. It goes on over transfers, so that late segments of one do not meet a run of the next.
    posted: u32,
    /// The numbers, modulo [`RUNS`], that runs from here have.
    numbers: Range<u32>,
}

/// The file that a run is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunOf {
    /// The transfer's number.
    pub transfer: u64,
    /// Size of the file, bytes.
    pub file_size: u64,
}

impl Runs {
    /// Runs `from` (whose port does not matter) → `to`, in segments of `segment` bytes.
    pub fn new(from: Endpoint, to: Endpoint, segment: u16) -> Self {
        Self::of_queue(from, to, segment, (0, 1))
    }

    /// The same, for the queue `(number, of)` of several, at most [`RUNS`]. What the receiver takes to be in order is what comes
    /// from one port: so each port is of one queue only.
    ///
    /// # Panics
    /// When there are more queues than ports.
    pub fn of_queue(from: Endpoint, to: Endpoint, segment: u16, (queue, of): (usize, usize)) -> Self {
        assert!(queue < of && of <= RUNS, "queue {queue} of {of}: there are {RUNS} ports");
        let share = (RUNS / of) as u32;
        let first = queue as u32 * share;
        let template = |port| {
            let address = SocketAddrV4::new(*from.address.ip(), port);
            let mut template = UdpTemplate::new(Endpoint { address, ..from }, to);
            let _ = template.next(ANNOUNCEMENT_LEN);
            template
        };
        let numbers = first..first + share;
        Self { headers: RUN_PORTS.map(template).collect(), segment, posted: 0, numbers }
    }

    /// Bytes of the file in each segment.
    pub fn segment(&self) -> u16 {
        self.segment
    }

    /// Number of the next run: counted up by one through those that are to be had from here, and then again [`RUNS`] further on.
    fn number(&self) -> u32 {
        let share = self.numbers.end - self.numbers.start;
        (self.posted / share).wrapping_mul(RUNS as u32) + self.numbers.start + self.posted % share
    }

    /// Posts `payload`, the bytes at `offset` of the file `of`, with their `crc32`, behind their announcement. When the ring
    /// has no room for that, `payload` comes back; an announcement without a run does no harm.
    ///
    /// # Errors
    /// What the driver refuses: on a device that does not cut UDP, everything.
    ///
    /// # Panics
    /// When the payload is longer than [`MAX_RUN`].
    pub fn post<T: Payload>(
        &mut self,
        tx: &mut TxQueue<T>,
        of: RunOf,
        offset: u64,
        crc32: u32,
        payload: T,
    ) -> Result<Option<T>, Error> {
        self.post_seen(tx, of, offset, crc32, payload, |_, _, _| {})
    }

    /// The same; `seen` is shown what is about to be posted: the announcement, then the run's header and its payload.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    ///
    /// # Panics
    /// As [`post`](Self::post).
    #[inline]
    pub fn post_seen<T: Payload>(
        &mut self,
        tx: &mut TxQueue<T>,
        of: RunOf,
        offset: u64,
        crc32: u32,
        payload: T,
        mut seen: impl FnMut(&[u8], Offload, Option<&T>),
    ) -> Result<Option<T>, Error> {
        let len = u32::try_from(payload.len()).ok().filter(|len| *len <= MAX_RUN).expect("a run fits into a packet");
        let run = Run { number: self.number(), offset, len, segment: self.segment.into(), crc32 };
        let headers = self.headers[usize::from(run.port() - RUN_PORTS.start)].next(ANNOUNCEMENT_LEN);
        let mut announcement = [0; UDP_HEADERS + ANNOUNCEMENT_LEN];
        announcement[..UDP_HEADERS].copy_from_slice(headers);
        announcement[UDP_HEADERS..].copy_from_slice(&run.announcement(of.transfer, of.file_size));
        seen(&announcement, Offload::UDP_V4, None);
        if let Posted::Full(_) = tx.post(Frame::new(&announcement).offload(Offload::UDP_V4))? {
            return Ok(Some(payload));
        }
        self.posted = self.posted.wrapping_add(1);
        let offload = Offload::UDP_V4.segmented(self.segment);
        seen(headers, offload, Some(&payload));
        let frame = Frame::new(headers).offload(offload).payload(payload);
        match tx.post(frame)? {
            Posted::Queued => Ok(None),
            Posted::Full(frame) => Ok(frame.into_payload()),
        }
    }
}

/// Descriptors of a run: its announcement, its header, a context for each of these, and the payload in pieces: of a page
/// where the cache is so scattered, and there are 17 of them.
pub const RUN_DESCRIPTORS: usize = 4 + 17;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Mac;

    fn numbers(queue: usize, of: usize, count: u32) -> Vec<u32> {
        let end = Endpoint { mac: Mac([2; 6]), address: "192.0.2.1:1".parse().unwrap() };
        let mut runs = Runs::of_queue(end, end, 1000, (queue, of));
        (0..count).map(|posted| (runs.posted = posted, runs.number()).1).collect()
    }

    #[test]
    fn one_queue_counts_through_all_ports() {
        assert_eq!(numbers(0, 1, 40), (0..40).collect::<Vec<_>>());
    }

    #[test]
    fn no_two_queues_have_a_number_or_a_port_in_common() {
        for of in 1..=RUNS {
            let (mut all, mut ports) = (std::collections::HashSet::new(), vec![None; RUNS]);
            for queue in 0..of {
                for number in numbers(queue, of, 100) {
                    assert!(all.insert(number), "{number} twice, of {of} queues");
                    let owner = ports[number as usize % RUNS].get_or_insert(queue);
                    assert_eq!(*owner, queue, "two of {of} queues send from one port");
                }
            }
        }
    }
}
