//! Every figure, a line each: field, kind, name, meaning. A counter only grows; a gauge is as it is at this moment.

use std::time::Duration;

use stillwire_filecache::Cache;

use crate::transfer::ReceiverStats;

/// A figure as Prometheus knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Family {
    /// Its name, unit included.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What it means.
    pub help: &'static str,
}

macro_rules! figures {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ident $metric:literal $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct $name {
            $(#[doc = $help] pub $field: u64,)*
        }

        impl $name {
            /// What each is.
            pub const FAMILIES: &[Family] =
                &[$(Family { name: $metric, kind: stringify!($kind), help: $help }),*];
        }

        impl Figures for $name {
            type Values = [u64; $name::FAMILIES.len()];

            fn families() -> &'static [Family] {
                Self::FAMILIES
            }

            fn values(self) -> Self::Values {
                [$(self.$field),*]
            }
        }
    };
}

/// A group of figures.
pub trait Figures {
    /// As many numbers as there are families.
    type Values: AsRef<[u64]>;

    /// What each is.
    fn families() -> &'static [Family];

    /// In the order of the families.
    fn values(self) -> Self::Values;
}

figures! {
    /// What a [`Station`](crate::station::Station) knows of its NIC.
    StationFigures {
        tx_frames: counter "stillwire_tx_frames_total" "Frames sent, as the NIC counts them.";
        tx_bytes: counter "stillwire_tx_bytes_total" "Bytes in them, with check sequences.";
        rx_frames: counter "stillwire_rx_frames_total" "Good frames received, as the NIC counts them.";
        rx_bytes: counter "stillwire_rx_bytes_total" "Bytes in them, with check sequences.";
        rx_missed: counter "stillwire_rx_missed_frames_total" "Frames lost for want of receive buffers.";
        rx_errors: counter "stillwire_rx_error_frames_total" "Damaged frames (check sequence, length).";
        rx_checksum_errors: counter "stillwire_rx_checksum_error_frames_total" "Frames in which the NIC found a wrong IP, UDP or TCP checksum.";
        rx_dropped: counter "stillwire_rx_dropped_frames_total" "Frames that the NIC handed over damaged, or in a way that made no sense.";
        bad_checksums: counter "stillwire_rx_bad_checksum_frames_total" "Frames that the program dropped because their checksum was wrong.";
        tx_ring_free: gauge "stillwire_tx_ring_free_descriptors" "Descriptors of the transmit rings that are free.";
        tx_ring_used: gauge "stillwire_tx_ring_used_descriptors" "Descriptors in flight: posted, and not given back yet.";
        holds_in_ring: gauge "stillwire_holds_in_ring" "Holds in the transmit rings: runs of file pages that are still until the NIC is done. With --unheld, runs without a hold.";
        link_up: gauge "stillwire_link_up" "1: frames can pass; 0: no link, or no NIC any more.";
        link_speed: gauge "stillwire_link_speed_bits_per_second" "Speed of the link; 0 where it is down or not known.";
        link_losses: counter "stillwire_link_losses_total" "Times that the link was lost.";
        resets: counter "stillwire_resets_total" "Times that the NIC was reset and came up again.";
        pauses_sent: counter "stillwire_pauses_sent_total" "Pauses (Ethernet flow control) that the port asked the far end for.";
        pauses_received: counter "stillwire_pauses_received_total" "Pauses that the far end asked for.";
        captured: counter "stillwire_captured_frames_total" "Frames in the file of --capture.";
        capture_lost: counter "stillwire_capture_lost_frames_total" "Frames that could not be written there.";
    }
}

figures! {
    /// What a [`Station`](crate::station::Station) knows of one of several pairs of queues: with the label `queue`, its number.
    QueueFigures {
        tx_frames: counter "stillwire_queue_tx_frames_total" "Frames that the queue sent, since the NIC was last reset.";
        tx_bytes: counter "stillwire_queue_tx_bytes_total" "Bytes in them; with check sequences on virtio only.";
        rx_frames: counter "stillwire_queue_rx_frames_total" "Frames that the queue received, since the NIC was last reset.";
        rx_bytes: counter "stillwire_queue_rx_bytes_total" "Bytes in them; with check sequences on virtio only.";
        rx_missed: counter "stillwire_queue_rx_missed_frames_total" "Frames for the queue that were lost for want of its buffers.";
        ring_free: gauge "stillwire_queue_tx_ring_free_descriptors" "Descriptors of its transmit ring that are free.";
        ring_used: gauge "stillwire_queue_tx_ring_used_descriptors" "Descriptors of its transmit ring in flight.";
        holds: gauge "stillwire_queue_holds" "Holds in its transmit ring.";
    }
}

figures! {
    /// What a sender knows.
    SenderFigures {
        transfers: counter "stillwire_transfers_total" "Transfers completed: times that the receiver had the whole file.";
        bytes: counter "stillwire_transferred_bytes_total" "Bytes of the file that the receiver said it has, over all transfers.";
        frames: counter "stillwire_data_frames_total" "Frames with file data, those sent again included.";
        resent: counter "stillwire_resent_frames_total" "Frames with file data that were sent again.";
        torn: counter "stillwire_torn_frames_total" "Frames whose bytes were not those that were digested, as the receiver told.";
        probes: counter "stillwire_probes_total" "Questions to the receiver what it has.";
        runs: counter "stillwire_runs_total" "With --segment: runs that the NIC was given to cut into frames.";
        not_sent: counter "stillwire_not_sent_bytes_total" "Bytes of the file that the NIC gave back as not sent when it was reset; they were sent again.";
        breaks: counter "stillwire_lease_breaks_total" "With --direct: times that a writer came, and the sender stepped back.";
    }
}

figures! {
    /// What a receiver knows.
    ReceiverFigures {
        transfers: counter "stillwire_received_transfers_total" "Files received whole.";
        bytes: counter "stillwire_received_bytes_total" "Bytes of files received, each counted once.";
        datagrams: counter "stillwire_received_datagrams_total" "Datagrams of any kind.";
        torn: counter "stillwire_received_torn_datagrams_total" "Datagrams whose bytes did not match their digest: dropped, and asked for again.";
        runs: counter "stillwire_received_runs_total" "Runs that arrived whole.";
        mismatched: counter "stillwire_received_mismatched_runs_total" "Runs whose bytes all arrived and did not match their digest: asked for again.";
        broken: counter "stillwire_received_broken_runs_total" "Runs of which bytes did not arrive: asked for again.";
        duplicates: counter "stillwire_received_duplicate_datagrams_total" "Datagrams that brought nothing new.";
        malformed: counter "stillwire_received_malformed_datagrams_total" "Datagrams that are not of the protocol, or damaged.";
    }
}

figures! {
    /// What a cache knows.
    CacheFigures {
        holds: counter "stillwire_holds_total" "Holds taken.";
        hits: counter "stillwire_cache_hits_total" "Holds that found all their pages in the cache.";
        misses: counter "stillwire_cache_misses_total" "Holds for which a page had to be read in, or was just being read.";
        fills: counter "stillwire_cache_fills_total" "Reads of the file into the cache: one a folio.";
        fill_bytes: counter "stillwire_cache_fill_bytes_total" "Bytes read by them.";
        read_ahead: counter "stillwire_cache_read_ahead_total" "Reads among them ahead of who reads in sequence.";
        written_back: counter "stillwire_cache_written_back_pages_total" "Pages written back, and on the disk.";
        write_errors: counter "stillwire_cache_write_errors_total" "Write-backs that failed.";
        evictions: counter "stillwire_cache_evicted_pages_total" "Pages that had to make room for others.";
        snapshots: counter "stillwire_cache_snapshot_pages_total" "Pages copied for holders because a writer waited for them.";
        no_snapshot: counter "stillwire_cache_snapshots_refused_total" "Holds that made a writer wait longer, for want of memory for a copy.";
        outside_changes: counter "stillwire_cache_outside_changes_total" "Changes of files by somebody else.";
        conflicts: counter "stillwire_cache_conflicts_total" "Those that met stores that are not on the disk.";
        held_back: counter "stillwire_cache_held_back_stores_total" "Stores that waited because too much was dirty.";
        memory: gauge "stillwire_cache_memory_bytes" "Memory for file pages.";
        free: gauge "stillwire_cache_free_bytes" "Of that, not in use.";
        dirty: gauge "stillwire_cache_dirty_bytes" "Of that, stored into and not on the disk yet.";
        held_pages: gauge "stillwire_held_pages" "Pages that are held now.";
        page_holds: gauge "stillwire_page_holds" "Holds of each page now, added up: a hold of sixteen pages counts sixteen times.";
        writers_waiting: gauge "stillwire_writers_waiting" "Writers that wait now, for a hold or because too much is dirty.";
    }
}

impl ReceiverFigures {
    /// The receiver's sums.
    pub fn of(stats: &ReceiverStats) -> Self {
        let ReceiverStats {
            transfers, bytes, datagrams, torn, runs, mismatched, broken, duplicates, malformed, ..
        } = *stats;
        Self { transfers, bytes, datagrams, torn, runs, mismatched, broken, duplicates, malformed }
    }
}

impl CacheFigures {
    /// The cache's figures now.
    pub fn of(cache: &Cache) -> Self {
        let (stats, held) = (cache.stats(), cache.held());
        Self {
            holds: stats.holds,
            hits: stats.holds - stats.holds_missed,
            misses: stats.holds_missed,
            fills: stats.fills,
            fill_bytes: stats.fill_bytes,
            read_ahead: stats.read_ahead,
            written_back: stats.written_back,
            write_errors: stats.write_errors,
            evictions: stats.evictions,
            snapshots: stats.snapshots,
            no_snapshot: stats.no_snapshot,
            outside_changes: stats.outside_changes,
            conflicts: stats.conflicts,
            held_back: stats.held_back,
            memory: stats.arena_bytes,
            free: stats.free_bytes,
            dirty: stats.dirty_bytes,
            held_pages: held.pages,
            page_holds: held.page_holds,
            writers_waiting: stats.writers_waiting,
        }
    }
}

/// Writers' waits for holds.
pub const PAUSES: Family = Family {
    name: "stillwire_writer_pause_seconds",
    kind: "histogram",
    help: "How long writers waited for a hold to end, those whose wait is over.",
};

/// Upper bounds of its buckets.
pub const PAUSE_BOUNDS: [Duration; 8] = [
    Duration::from_micros(10),
    Duration::from_micros(30),
    Duration::from_micros(100),
    Duration::from_micros(300),
    Duration::from_millis(1),
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
];

/// Which program this is.
pub const INFO: Family = Family {
    name: "stillwire_info",
    kind: "gauge",
    help: "1; its labels say which program this is, its version, and what it works on.",
};

/// Everything that can be asked for.
pub fn families() -> impl Iterator<Item = Family> {
    let programs = [SenderFigures::FAMILIES, ReceiverFigures::FAMILIES, CacheFigures::FAMILIES];
    let groups = [StationFigures::FAMILIES, QueueFigures::FAMILIES].into_iter().chain(programs);
    [INFO].into_iter().chain(groups.flatten().copied()).chain([PAUSES])
}
