//! What a model counts, whatever it is a model of.

/// What the model did since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Reads of host memory that were made.
    pub dma_reads: u64,
    /// Writes to host memory that were made.
    pub dma_writes: u64,
    /// Bytes read.
    pub dma_read_bytes: u64,
    /// Bytes written.
    pub dma_write_bytes: u64,
    /// Accesses that the IOMMU refused.
    pub bus_faults: u64,
    /// Accesses that the model wanted to make while bus mastering was off; none reached memory.
    pub gated: u64,
    /// Descriptors, rings and doorbells that stopped a queue, bus faults included.
    pub bad_descriptors: u64,
    /// Frames given to the wire's side of the MAC (each segment counts).
    pub frames_sent: u64,
    /// Frames written to host memory.
    pub frames_received: u64,
    /// Frames that a fault lost.
    pub frames_lost: u64,
    /// Frames that a fault damaged.
    pub frames_corrupted: u64,
    /// Frames dropped for want of a descriptor or of packet memory.
    pub rx_dropped: u64,
    /// Frames without offload whose PAYLEN was not their length: sent all the same.
    pub payload_len_mismatches: u64,
    /// Frames whose transport checksum the device computed (before segmentation).
    pub checksummed: u64,
    /// Frames that the device cut into segments.
    pub segmented: u64,
    /// MSI-X messages.
    pub interrupts: u64,
    /// Register accesses of no valid size or place.
    pub odd_accesses: u64,
    /// Resets of any kind.
    pub resets: u64,
}
