//! What was done.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[doc = $text:literal])+ $name:ident,)+) => {
        /// What was done, by all threads.
        #[derive(Default)]
        pub struct Counts {
            $($(#[doc = $text])+ pub $name: AtomicU64,)+
        }

        impl Counts {
            /// Each by its name.
            pub fn each(&self) -> BTreeMap<String, u64> {
                BTreeMap::from([$((stringify!($name).to_owned(), self.$name.load(Ordering::Relaxed)),)+])
            }

            /// Adds what another process counted.
            pub fn add_all(&self, others: &BTreeMap<String, u64>) {
                $(if let Some(more) = others.get(stringify!($name)) {
                    self.$name.fetch_add(*more, Ordering::Relaxed);
                })+
            }
        }
    };
}

counts! {
    /// Frames posted, a run that the NIC cuts as one.
    frames_posted,
    /// Frames that arrived, segments each.
    frames_received,
    /// Bytes of files in them.
    bytes_received,
    /// Runs cut by the NIC that arrived whole.
    runs_received,
    /// Runs of which a part was lost.
    runs_incomplete,
    /// Frames that arrived damaged by a fault, as their checksum says.
    frames_damaged,
    /// Frames or runs whose bytes were not those of the digest.
    torn,
    /// Holds taken.
    holds,
    /// Holds for which there was no room at that moment.
    holds_refused,
    /// Holds kept for long and dropped in another thread.
    holds_kept,
    /// Holds of files that are sent without a cache.
    direct_holds,
    /// Stores through views of this process.
    stores,
    /// Stores by processes that were attached.
    stores_attached,
    /// Stores by who knows nothing of the cache.
    stores_outside,
    /// Syncs after which the file was read from the disk and compared.
    syncs_checked,
    /// Changes of a file's length.
    resizes,
    /// Conflicts with who knows nothing of the cache, decided one way or the other.
    conflicts_decided,
    /// Caches opened.
    caches,
    /// NICs opened.
    nics,
    /// NICs that were reset and came up again.
    recoveries,
    /// Devices that did not answer in time when they were to come up: their thread was not run.
    devices_slow,
    /// Transmit queues that hung.
    hangs_found,
    /// Tokens that a reset gave back as not sent.
    tokens_not_sent,
    /// Processes killed: writers that were attached.
    killed_writers,
    /// Processes killed: senders.
    killed_senders,
    /// Processes killed: emulators.
    killed_emulators,
    /// Processes that ended by themselves.
    processes_ended,
    /// Writers that waited for a hold.
    writer_pauses,
    /// Copies of pages for which a writer waited.
    snapshots,
    /// Pages evicted.
    evictions,
    /// Pages written back.
    written_back,
    /// Changes by somebody else that a cache noticed.
    outside_changes,
    /// Faults: the link was away for a moment.
    fault_link_down,
    /// Faults: the device completed nothing until it was reset.
    fault_stuck,
    /// Faults: one queue hung until a reset.
    fault_hung_queue,
    /// Faults: completions came late.
    fault_late,
    /// Faults: completions were not written back.
    fault_lost_write_back,
    /// Faults: frames were lost by the device.
    fault_lost,
    /// Faults: frames were damaged by the device.
    fault_damaged,
}

/// Counts one more.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counts `more`.
pub fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
