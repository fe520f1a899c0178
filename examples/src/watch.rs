//! `info --watch`: what changes from one moment to the next, a line an interval.

use std::fmt;
use std::time::Duration;

use crate::metrics::{MOST_QUEUES, QueueFigures, StationFigures, of_queue, value};

/// What is looked at, at one moment. What a program does not count is `None`.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Reading {
    tx: Flow,
    rx: Flow,
    missed: u64,
    errors: u64,
    /// Wrong checksums.
    checksums: u64,
    ring_free: Option<u64>,
    ring_used: Option<u64>,
    holds: Option<u64>,
    pages: Option<u64>,
    pauses: Option<u64>,
    waiting: Option<u64>,
    link_up: Option<bool>,
    /// The same of each queue, as far as it is known of one, where there are several.
    queues: Vec<Reading>,
}

/// Frames and the bytes in them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Flow {
    frames: u64,
    bytes: u64,
}

impl Reading {
    /// Of a NIC of this process's own, and of its queues if it has several.
    pub fn of_station(figures: &StationFigures, queues: &[QueueFigures]) -> Self {
        Self {
            tx: Flow { frames: figures.tx_frames, bytes: figures.tx_bytes },
            rx: Flow { frames: figures.rx_frames, bytes: figures.rx_bytes },
            missed: figures.rx_missed,
            errors: figures.rx_errors + figures.rx_dropped,
            checksums: figures.rx_checksum_errors.max(figures.bad_checksums),
            ring_free: Some(figures.tx_ring_free),
            ring_used: Some(figures.tx_ring_used),
            holds: Some(figures.holds_in_ring),
            link_up: Some(figures.link_up != 0),
            queues: queues.iter().map(Self::of_queue).collect(),
            ..Self::default()
        }
    }

    fn of_queue(figures: &QueueFigures) -> Self {
        Self {
            tx: Flow { frames: figures.tx_frames, bytes: figures.tx_bytes },
            rx: Flow { frames: figures.rx_frames, bytes: figures.rx_bytes },
            missed: figures.rx_missed,
            ring_free: Some(figures.ring_free),
            ring_used: Some(figures.ring_used),
            holds: Some(figures.holds),
            ..Self::default()
        }
    }

    /// One of the queues in a program's figures.
    fn of_queue_in_text(text: &str, queue: usize) -> Option<Self> {
        let get =
            |name: &str| value(text, &of_queue(&format!("stillwire_queue_{name}"), queue)).map(|value| value as u64);
        Some(Self::of_queue(&QueueFigures {
            tx_frames: get("tx_frames_total")?,
            tx_bytes: get("tx_bytes_total")?,
            rx_frames: get("rx_frames_total")?,
            rx_bytes: get("rx_bytes_total")?,
            rx_missed: get("rx_missed_frames_total")?,
            ring_free: get("tx_ring_free_descriptors")?,
            ring_used: get("tx_ring_used_descriptors")?,
            holds: get("holds")?,
        }))
    }

    /// Of the figures that a program serves with `--metrics`. `None` when there are none that this can show.
    pub fn of_text(text: &str) -> Option<Self> {
        let get = |name: &str| value(text, name).map(|value| value as u64);
        let nic = |name: &str| get(&format!("stillwire_{name}"));
        let common = Self {
            holds: nic("holds_in_ring"),
            pages: nic("held_pages"),
            pauses: nic("writer_pause_seconds_count"),
            waiting: nic("writers_waiting"),
            ..Self::default()
        };
        if let Some(tx_frames) = nic("tx_frames_total") {
            let checksums = [nic("rx_checksum_error_frames_total"), nic("rx_bad_checksum_frames_total")];
            return Some(Self {
                tx: Flow { frames: tx_frames, bytes: nic("tx_bytes_total")? },
                rx: Flow { frames: nic("rx_frames_total")?, bytes: nic("rx_bytes_total")? },
                missed: nic("rx_missed_frames_total")?,
                errors: nic("rx_error_frames_total")? + nic("rx_dropped_frames_total")?,
                checksums: checksums.into_iter().flatten().max()?,
                ring_free: nic("tx_ring_free_descriptors"),
                ring_used: nic("tx_ring_used_descriptors"),
                link_up: nic("link_up").map(|up| up != 0),
                queues: (0..MOST_QUEUES).map_while(|queue| Self::of_queue_in_text(text, queue)).collect(),
                ..common
            });
        }
        // A receiver on a socket of the kernel's has no NIC.
        Some(Self {
            rx: Flow { frames: nic("received_datagrams_total")?, bytes: nic("received_bytes_total")? },
            errors: nic("received_malformed_datagrams_total")?,
            checksums: nic("received_torn_datagrams_total")?,
            ..common
        })
    }
}

/// A line: what changed between two readings, and what is at the second. Where there are several queues, a line for each
/// follows.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    /// Frames a second, and megabits a second.
    tx: (f64, f64),
    rx: (f64, f64),
    missed: u64,
    errors: u64,
    checksums: u64,
    pauses: Option<u64>,
    now: Reading,
    queues: Vec<Line>,
}

impl Line {
    /// `after` was read `elapsed` after `before`.
    pub fn between(before: &Reading, after: &Reading, elapsed: Duration) -> Self {
        // No interval is as short as that; it only keeps a clock that stands from dividing by nothing.
        let seconds = elapsed.as_secs_f64().max(1e-6);
        let rates = |before: Flow, after: Flow| {
            let (frames, bytes) = (more(before.frames, after.frames), more(before.bytes, after.bytes));
            (frames as f64 / seconds, bytes as f64 * 8.0 / 1e6 / seconds)
        };
        let nothing = Reading::default();
        let queue =
            |(at, after): (usize, &Reading)| Self::between(before.queues.get(at).unwrap_or(&nothing), after, elapsed);
        Self {
            tx: rates(before.tx, after.tx),
            rx: rates(before.rx, after.rx),
            missed: more(before.missed, after.missed),
            errors: more(before.errors, after.errors),
            checksums: more(before.checksums, after.checksums),
            pauses: after.pauses.map(|pauses| more(before.pauses.unwrap_or(0), pauses)),
            now: after.clone(),
            queues: after.queues.iter().enumerate().map(queue).collect(),
        }
    }
}

/// How much a counter has grown. One that is less than before belongs to a program that began anew, and counts from 0.
fn more(before: u64, after: u64) -> u64 {
    after.checked_sub(before).unwrap_or(after)
}

/// What the columns are: per second are frames and megabits, during the interval are missed, errors, checksums and pauses,
/// and at its end are the others.
pub const HEADER: &str = "\
 ----------send--------- --------receive-------- ------lost------ ---tx ring--- ---held---- --writers--
   frames/s       Mb/s     frames/s       Mb/s   miss  err  csum   free   used holds pages pause  wait link";

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let link = self.now.link_up.map_or("-", |up| if up { "up" } else { "down" });
        let ((tx, tx_mb), (rx, rx_mb)) = (self.tx, self.rx);
        write!(f, "{tx:>11.0} {tx_mb:>10.2}  {rx:>11.0} {rx_mb:>10.2}  ")?;
        write!(f, "{:>5} {:>4} {:>5} ", self.missed, self.errors, self.checksums)?;
        write!(f, "{:>6} {:>6} ", known(self.now.ring_free), known(self.now.ring_used))?;
        write!(f, "{:>5} {:>5} ", known(self.now.holds), known(self.now.pages))?;
        write!(f, "{:>5} {:>5} {link:>4}", known(self.pauses), known(self.now.waiting))?;
        self.queues.iter().enumerate().try_for_each(|(queue, line)| write!(f, "\n{line}  queue {queue}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(frames: u64, bytes: u64) -> Reading {
        Reading { tx: Flow { frames, bytes }, ..Reading::default() }
    }

    #[test]
    fn rates_are_differences_by_time() {
        let line = |before, after, ms| Line::between(&before, &after, Duration::from_millis(ms)).tx;
        assert_eq!(line(reading(100, 1000), reading(300, 251_000), 500), (400.0, 4.0));
        assert_eq!(line(reading(100, 1000), reading(100, 1000), 1000), (0.0, 0.0));
        assert_eq!(line(reading(100, 1_000_000), reading(50, 500_000), 2000), (25.0, 2.0), "it has begun anew");
        let (frames, megabits) = line(reading(0, 0), reading(1, 1), 0);
        assert!(frames.is_finite() && megabits.is_finite());
    }

    #[test]
    fn counts_are_of_the_interval_and_levels_of_its_end() {
        let before =
            Reading { missed: 5, errors: 1, checksums: 7, pauses: Some(10), holds: Some(3), ..Reading::default() };
        let after = Reading {
            missed: 6,
            errors: 1,
            checksums: 9,
            pauses: Some(14),
            holds: Some(2),
            waiting: Some(1),
            link_up: Some(false),
            ..Reading::default()
        };
        let line = Line::between(&before, &after, Duration::from_secs(1));
        assert_eq!((line.missed, line.errors, line.checksums, line.pauses), (1, 0, 2, Some(4)));
        let columns: Vec<_> = line.to_string().split_whitespace().map(str::to_owned).collect();
        assert_eq!(columns, ["0", "0.00", "0", "0.00", "1", "0", "2", "-", "-", "2", "-", "4", "1", "down"]);
        let names = HEADER.lines().last().unwrap().split_whitespace().count();
        assert_eq!(columns.len(), names);
    }

    #[test]
    fn columns_stand_below_their_names() {
        let line =
            Line::between(&reading(0, 0), &reading(14_880_952, 1_190_000_000), Duration::from_secs(1)).to_string();
        let names = HEADER.lines().last().unwrap();
        assert_eq!(line.len(), names.len(), "\n{names}\n{line}");
        let ends = |text: &str| -> Vec<usize> {
            let end = |at: &usize| {
                !text[..=*at].ends_with(' ') && text[at + 1..].chars().next().is_none_or(|next| next == ' ')
            };
            (0..text.len()).filter(end).collect()
        };
        assert_eq!(ends(&line), ends(names), "\n{names}\n{line}");
    }

    /// A reading of the text is the reading of the figures that were written into it.
    #[test]
    fn texts_are_read_back() {
        use crate::metrics::{Exposed, Metrics, ReceiverFigures};
        let figures = StationFigures {
            tx_frames: 1,
            tx_bytes: 2,
            rx_frames: 3,
            rx_bytes: 4,
            rx_missed: 5,
            rx_errors: 6,
            rx_checksum_errors: 7,
            rx_dropped: 8,
            bad_checksums: 9,
            tx_ring_free: 10,
            tx_ring_used: 11,
            holds_in_ring: 12,
            link_up: 1,
            link_speed: 14,
            link_losses: 15,
            resets: 16,
            pauses_sent: 17,
            pauses_received: 18,
            captured: 19,
            capture_lost: 20,
        };
        let text = |fill: &dyn Fn(&Metrics)| {
            let metrics = std::sync::Arc::<Metrics>::default();
            fill(&metrics);
            metrics.end();
            Exposed { metrics, cache: None, program: "test", on: String::new() }.text()
        };
        let read = Reading::of_text(&text(&|metrics| metrics.station.store(figures)));
        assert_eq!(read, Some(Reading::of_station(&figures, &[])));
        assert_eq!(read.as_ref().map(|read| (read.errors, read.checksums)), Some((14, 9)));
        let queue = |frames| QueueFigures {
            tx_frames: frames,
            tx_bytes: 2,
            rx_frames: 3,
            rx_bytes: 4,
            rx_missed: 5,
            ring_free: 6,
            ring_used: 7,
            holds: 8,
        };
        let queues = [queue(20), queue(30)];
        let read = Reading::of_text(&text(&|metrics| {
            metrics.station.store(figures);
            metrics.queues.iter().zip(queues).for_each(|(board, figures)| board.store(figures));
        }));
        assert_eq!(read, Some(Reading::of_station(&figures, &queues)));
        let line = Line::between(&Reading::of_station(&figures, &[queue(10)]), &read.unwrap(), Duration::from_secs(1));
        assert_eq!(line.queues.iter().map(|line| line.tx.0).collect::<Vec<_>>(), [10.0, 30.0]);
        let lines = line.to_string();
        let lines: Vec<_> = lines.lines().collect();
        let (first, second) = ("         10       0.00", "         30       0.00");
        assert!(lines[1].starts_with(first) && lines[1].ends_with("queue 0"), "{lines:?}");
        assert!(lines[2].starts_with(second) && lines[2].ends_with("queue 1"), "{lines:?}");
        let received = ReceiverFigures { bytes: 1, datagrams: 2, torn: 3, malformed: 4, ..Default::default() };
        let read = Reading::of_text(&text(&|metrics| metrics.receiver.store(received))).unwrap();
        assert_eq!((read.rx, read.checksums, read.errors), (Flow { frames: 2, bytes: 1 }, 3, 4));
        assert_eq!((read.link_up, Reading::of_text("")), (None, None));
    }
}
