//! Runs that are arriving: their segments one after the other, until they add up or can no longer.

use std::net::IpAddr;

use super::{RUN_PORTS, RUNS, Run};

/// Runs that are arriving, one for each of [`RUN_PORTS`].
///
/// A segment says nothing but where it comes from. So they are taken in the order in which they arrive, each of the length
/// that is due, and only the crc32 of the whole says whether that was right.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    slots: [Option<Partial>; RUNS],
}

#[derive(Debug)]
struct Partial {
    run: Run,
    from: IpAddr,
    /// Has room for the run from its first segment on: an announcement alone costs no memory.
    bytes: Vec<u8>,
    /// Of what has arrived.
    crc32: crc32fast::Hasher,
}

/// What a segment did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// No run waits for it.
    Stray,
    /// Its run is not yet whole.
    Part,
    /// It is not of the length that is due; its run is given up.
    Broken,
    /// The last one of a run whose bytes are not those that were digested.
    Mismatched,
    /// The last one: here is the run.
    Whole(Run, Vec<u8>),
}

impl Assembly {
    /// Expects `run` from the host `from`. Returns whether another had to be given up for it.
    pub(super) fn announce(&mut self, run: Run, from: IpAddr) -> bool {
        let partial = Partial { run, from, bytes: Vec::new(), crc32: crc32fast::Hasher::new() };
        self.slots[slot(run.port())].replace(partial).is_some()
    }

    /// Takes what came in from `port`, one of [`RUN_PORTS`], of the host `from`.
    pub(super) fn segment(&mut self, port: u16, from: IpAddr, bytes: &[u8]) -> Taken {
        let slot = &mut self.slots[slot(port)];
        let Some(partial) = slot.as_mut().filter(|partial| partial.from == from) else { return Taken::Stray };
        let due = partial.run.segment_at(partial.bytes.len() as u32);
        if bytes.len() != due as usize {
            *slot = None;
            return Taken::Broken;
        }
        if partial.bytes.is_empty() {
            partial.bytes.reserve_exact(partial.run.len as usize);
        }
        partial.bytes.extend_from_slice(bytes);
        partial.crc32.update(bytes);
        if partial.bytes.len() < partial.run.len as usize {
            return Taken::Part;
        }
        let Some(Partial { run, bytes, crc32, .. }) = slot.take() else { return Taken::Stray };
        if crc32.finalize() == run.crc32 { Taken::Whole(run, bytes) } else { Taken::Mismatched }
    }

    /// Gives up all runs but that of `port`; returns how many.
    pub(super) fn give_up_all_but(&mut self, port: u16) -> u64 {
        let others = self.slots.iter_mut().zip(RUN_PORTS).filter(|(_, other)| *other != port);
        others.filter_map(|(slot, _)| slot.take()).count() as u64
    }

    /// Memory that segments have taken, bytes.
    pub(super) fn memory(&self) -> usize {
        self.slots.iter().flatten().map(|partial| partial.bytes.capacity()).sum()
    }
}

fn slot(port: u16) -> usize {
    usize::from(port.wrapping_sub(RUN_PORTS.start)) % RUNS
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::MAX_RUN;
    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    /// 250 bytes in segments of 100.
    fn run(number: u32) -> (Run, Vec<u8>) {
        let bytes: Vec<u8> = (0..250).collect();
        (Run { number, offset: 1000, len: 250, segment: 100, crc32: crc32fast::hash(&bytes) }, bytes)
    }

    /// Announces a run and hands in `segments`, ranges of its bytes; what the last of them did.
    fn check(segments: &[std::ops::Range<usize>], expected: Taken) {
        let (mut assembly, (run, bytes)) = (Assembly::default(), run(5));
        assert!(!assembly.announce(run, HERE));
        let taken: Vec<_> =
            segments.iter().map(|range| assembly.segment(run.port(), HERE, &bytes[range.clone()])).collect();
        assert!(taken.iter().rev().skip(1).all(|taken| *taken == Taken::Part), "{segments:?}: {taken:?}");
        assert_eq!(taken.last(), Some(&expected), "{segments:?}");
        if expected != Taken::Part {
            assert_eq!(assembly.memory(), 0, "{segments:?}");
            assert_eq!(assembly.segment(run.port(), HERE, &bytes[..100]), Taken::Stray);
        }
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one segment")]
    fn what_adds_up() {
        let (run, bytes) = run(5);
        check(&[0..100, 100..200], Taken::Part);
        check(&[0..100, 100..200, 200..250], Taken::Whole(run, bytes));
        check(&[100..200, 0..100, 200..250], Taken::Mismatched);
        check(&[0..100, 0..100, 200..250], Taken::Mismatched);
        check(&[0..100, 200..250], Taken::Broken);
        check(&[0..100, 0..100, 100..200], Taken::Broken);
        check(&[0..99], Taken::Broken);
        check(&[0..101], Taken::Broken);
        check(&[0..0], Taken::Broken);
    }

    #[test]
    fn segments_of_others_are_stray() {
        let (mut assembly, (run, bytes)) = (Assembly::default(), run(5));
        assert_eq!(assembly.segment(run.port(), HERE, &bytes[..100]), Taken::Stray);
        assembly.announce(run, HERE);
        assert_eq!(assembly.segment(run.port() + 1, HERE, &bytes[..100]), Taken::Stray);
        assert_eq!(assembly.segment(run.port(), THERE, &bytes[..100]), Taken::Stray);
        assert_eq!(assembly.segment(run.port(), HERE, &bytes[..100]), Taken::Part);
    }

    #[test]
    fn an_announcement_makes_room_for_itself() {
        let (mut assembly, (first, bytes)) = (Assembly::default(), run(5));
        assembly.announce(first, HERE);
        assembly.segment(first.port(), HERE, &bytes[..100]);
        let next = Run { number: first.number + RUNS as u32, ..first };
        assert!(assembly.announce(next, HERE));
        for part in [0..100, 100..200] {
            assert_eq!(assembly.segment(next.port(), HERE, &bytes[part]), Taken::Part);
        }
        assert_eq!(assembly.segment(next.port(), HERE, &bytes[200..]), Taken::Whole(next, bytes));
    }

    #[test]
    fn in_order_the_others_are_over() {
        let (mut assembly, (run, bytes)) = (Assembly::default(), run(5));
        for number in 0..5 {
            assembly.announce(Run { number, ..run }, HERE);
        }
        assert_eq!(assembly.give_up_all_but(RUN_PORTS.start + 2), 4);
        assert_eq!(assembly.segment(RUN_PORTS.start + 1, HERE, &bytes[..100]), Taken::Stray);
        assert_eq!(assembly.segment(RUN_PORTS.start + 2, HERE, &bytes[..100]), Taken::Part);
    }

    #[test]
    fn memory_is_taken_for_what_arrives_and_is_bounded() {
        let mut assembly = Assembly::default();
        let segment = vec![7; 1000];
        for number in 0..1000 {
            let run = Run { number, offset: 0, len: MAX_RUN, segment: 1000, crc32: 0 };
            assembly.announce(run, HERE);
            let before = assembly.memory();
            assert!(before <= RUNS * MAX_RUN as usize);
            assembly.segment(run.port(), HERE, &segment);
        }
        assert_eq!(assembly.memory(), RUNS * MAX_RUN as usize);
    }
}
