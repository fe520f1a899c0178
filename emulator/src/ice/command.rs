//! A command on the admin queue, and why firmware refuses one.

/// Bytes of a descriptor.
pub const LEN: u64 = 32;

/// Flags of a descriptor.
pub mod flags {
    /// Done.
    pub const DD: u16 = 1 << 0;
    /// Completed: an answer, not an event.
    pub const CMP: u16 = 1 << 1;
    /// Refused.
    pub const ERR: u16 = 1 << 2;
    /// The buffer is longer than 512 bytes.
    pub const LB: u16 = 1 << 9;
    /// The device reads the buffer.
    pub const RD: u16 = 1 << 10;
    /// There is a buffer.
    pub const BUF: u16 = 1 << 12;
}

/// Codes of Linux `ice_aq_err`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Refusal {
    /// Not allowed now.
    Eperm = 1,
    /// There is no such thing.
    Enoent = 2,
    /// The buffer is too small.
    Enomem = 9,
    /// Somebody else has it.
    Ebusy = 12,
    /// It is there already.
    Eexist = 13,
    /// It makes no sense.
    Einval = 14,
    /// There is no more of it.
    Enospc = 16,
    /// There is no such command.
    Enosys = 17,
    /// A buffer of a package makes no sense.
    Ebadbuf = 28,
    /// No refusal: the answer comes later.
    Later = u16::MAX,
}

/// What a handler says.
pub type Answer = Result<(), Refusal>;

/// A command as its handler sees it; the handler leaves the answer's parameters and bytes in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Command {
    /// What is asked.
    pub opcode: u16,
    /// Parameters, of the command and then of its answer. The address of the buffer in them is not the handler's.
    pub params: [u8; 16],
    /// What the driver's buffer holds, if the device may read it.
    pub data: Vec<u8>,
    /// What goes into the driver's buffer; nothing leaves it alone.
    pub reply: Vec<u8>,
    /// Bytes that the driver's buffer has.
    pub room: usize,
}

impl Command {
    /// A parameter of 16 bits.
    pub fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.params[at], self.params[at + 1]])
    }

    /// A parameter of 16 bits in the answer.
    pub fn put16(&mut self, at: usize, value: u16) {
        self.params[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// A parameter of 32 bits in the answer.
    pub fn put32(&mut self, at: usize, value: u32) {
        self.params[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// 16 bits of a buffer; refused where it ends.
pub fn read16(bytes: &[u8], at: usize) -> Result<u16, Refusal> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map(|bytes| u16::from_le_bytes(*bytes)).ok_or(Refusal::Einval)
}

/// 32 bits of a buffer; refused where it ends.
pub fn read32(bytes: &[u8], at: usize) -> Result<u32, Refusal> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map(|bytes| u32::from_le_bytes(*bytes)).ok_or(Refusal::Einval)
}

/// Changes `bytes` where they are known to reach.
pub fn write(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}
