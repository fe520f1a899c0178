//! What a station tells of itself.

use stillwire_driver::QueueStatistics;

use super::Station;
use crate::crew::Level;
use crate::metrics::{MOST_QUEUES, Metrics, QueueFigures, StationFigures};

impl Station {
    /// Leaves figures for who has asked for them; `more` adds those of the caller. One look at a counter when nobody has.
    #[inline]
    pub fn answer(&self, more: impl FnOnce(&Metrics)) {
        if let Some(metrics) = &self.metrics
            && let Some(question) = metrics.question()
        {
            more(metrics);
            self.leave_figures(metrics);
            metrics.answer(question);
        }
    }

    /// Leaves the figures as they are now: those of the NIC, and where it has several queues those of each.
    #[cold]
    pub fn leave_figures(&self, metrics: &Metrics) {
        metrics.station.store(self.figures());
        let queues = self.queue_figures();
        if queues.len() > 1 {
            metrics.queues.iter().zip(queues).for_each(|(board, figures)| board.store(figures));
        }
    }

    /// The NIC's counts, its rings, its link, now. It reads registers: not for every batch.
    #[cold]
    pub fn figures(&self) -> StationFigures {
        // The look at the link is what counts losses.
        let (link, counted) = (self.nic.link().ok(), self.nic.statistics());
        let captured = self.capture.as_ref().map(|capture| capture.counts()).unwrap_or_default();
        let rings = self.levels().fold(Rings::default(), |sum, level| Rings {
            free: sum.free + self.descriptors().saturating_sub(level.in_flight) as u64,
            used: sum.used + level.in_flight as u64,
            holds: sum.holds + level.tokens as u64,
        });
        let dropped = self.queues.as_ref().map_or(0, |queues| queues.rx.iter().map(|rx| rx.dropped()).sum());
        StationFigures {
            tx_frames: counted.tx_frames,
            tx_bytes: counted.tx_bytes,
            rx_frames: counted.rx_frames,
            rx_bytes: counted.rx_bytes,
            rx_missed: counted.rx_missed,
            rx_errors: counted.rx_errors,
            rx_checksum_errors: counted.rx_checksum_errors,
            rx_dropped: self.dropped + dropped,
            bad_checksums: self.bad_checksums,
            tx_ring_free: rings.free,
            tx_ring_used: rings.used,
            holds_in_ring: rings.holds,
            link_up: link.is_some_and(|link| link.up).into(),
            link_speed: link.map_or(0, |link| u64::from(link.megabits) * 1_000_000),
            link_losses: counted.link_losses,
            resets: counted.resets,
            pauses_sent: counted.pauses_sent,
            pauses_received: counted.pauses_received,
            captured: captured.frames,
            capture_lost: captured.lost,
        }
    }

    /// The same of each pair of queues, by its number.
    #[cold]
    pub fn queue_figures(&self) -> Vec<QueueFigures> {
        let levels = self.levels().chain(std::iter::repeat(Level::default()));
        let figures = |(counted, level): (QueueStatistics, Level)| QueueFigures {
            tx_frames: counted.tx_frames,
            tx_bytes: counted.tx_bytes,
            rx_frames: counted.rx_frames,
            rx_bytes: counted.rx_bytes,
            rx_missed: counted.rx_dropped,
            ring_free: self.descriptors().saturating_sub(level.in_flight) as u64,
            ring_used: level.in_flight as u64,
            holds: level.tokens as u64,
        };
        self.nic.queue_statistics().into_iter().take(MOST_QUEUES).zip(levels).map(figures).collect()
    }

    /// How full the transmit rings are, by their numbers; a NIC that is down has none.
    fn levels(&self) -> impl Iterator<Item = Level> {
        let queues = self.queues.iter().flat_map(|queues| [&queues.tx].into_iter().chain(&queues.spare));
        let ours = queues.map(|tx| {
            // Buffers of our own are all in the first ring.
            let buffers = if tx.index() == 0 { self.pool.in_use() } else { 0 };
            Level { in_flight: self.descriptors() - tx.free(), tokens: tx.in_flight().saturating_sub(buffers) }
        });
        ours.chain(self.crew.iter().flat_map(|crew| crew.levels()))
    }

    /// Descriptors of a ring that are free when nothing is in flight.
    pub(super) fn descriptors(&self) -> usize {
        self.nic.capabilities().tx_ring - 1
    }
}

/// Sums over the transmit rings.
#[derive(Default)]
struct Rings {
    free: u64,
    used: u64,
    holds: u64,
}
