//! What a device model may do on the bus: reach the host's memory, and raise interrupts.

/// Host memory as the device reaches it: by device address (IOVA), through the IOMMU.
///
/// The model never holds a reference into host memory; every byte is copied by one of these calls.
pub trait BusMemory: Send + Sync {
    /// Reads `bytes.len()` bytes at `address`.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), BusFault>;

    /// Writes `bytes` at `address`.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), BusFault>;

    /// Writes one naturally aligned 32-bit word; whoever sees it sees all earlier writes too.
    fn store_u32(&self, address: u64, value: u32) -> Result<(), BusFault>;

    /// Writes one naturally aligned 64-bit word; whoever sees it sees all earlier writes too.
    fn store_u64(&self, address: u64, value: u64) -> Result<(), BusFault>;
}

/// An access that no mapping allows: an unmapped address, a write to a read-only mapping, a misaligned word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("bus fault: {} of {len} bytes at {address:#x}", if *.write { "write" } else { "read" })]
pub struct BusFault {
    /// First byte of the access.
    pub address: u64,
    /// Bytes asked for.
    pub len: usize,
    /// Whether it was a write.
    pub write: bool,
}

/// Host memory before anything is mapped: every access faults.
pub struct NoMemory;

impl BusMemory for NoMemory {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), BusFault> {
        Err(BusFault { address, len: bytes.len(), write: false })
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), BusFault> {
        Err(BusFault { address, len: bytes.len(), write: true })
    }

    fn store_u32(&self, address: u64, _value: u32) -> Result<(), BusFault> {
        Err(BusFault { address, len: 4, write: true })
    }

    fn store_u64(&self, address: u64, _value: u64) -> Result<(), BusFault> {
        Err(BusFault { address, len: 8, write: true })
    }
}

/// Where MSI-X messages go.
pub trait Interrupts: Send {
    /// Vector `vector` fires.
    fn raise(&mut self, vector: u16);
}

/// Interrupts that nobody listens to.
pub struct NoInterrupts;

impl Interrupts for NoInterrupts {
    fn raise(&mut self, _vector: u16) {}
}
