//! What a device may not do, and a driver has to see.

use std::fmt;

/// What a device did that no device may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Breach {
    /// More chains are used than it has.
    Index { new: u16, outstanding: u16 },
    /// A chain that cannot be.
    OutOfRange { id: u32, size: u16 },
    /// A chain that it does not have.
    NotInFlight { id: u32 },
    /// One entry for more chains than the used index says.
    Batch { id: u32, chains: u16, new: u16 },
    /// More bytes written than there was room.
    Len { id: u32, len: u32, room: u32 },
    /// A received frame shorter than its net header.
    Short { id: u32, len: u32 },
    /// A received frame in so many buffers.
    Buffers { count: u16, most: usize },
    /// A received frame whose buffers did not all come with it.
    Missing { count: u16, found: u16 },
    /// A buffer that is not the last of its frame and not full.
    Hole { id: u32, len: u32, room: u32 },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Index { new, outstanding } => {
                write!(f, "the used index moved by {new}, and the device had {outstanding} chains")
            }
            Self::OutOfRange { id, size } => write!(f, "chain {id} was used in a ring of {size}"),
            Self::NotInFlight { id } => write!(f, "chain {id} was used, which the device did not have"),
            Self::Batch { id, chains, new } => {
                write!(f, "chain {id} ends a batch of {chains}, and the used index moved by {new}")
            }
            Self::Len { id, len, room } => write!(f, "{len} bytes were written into the {room} of chain {id}"),
            Self::Short { id, len } => write!(f, "a frame of {len} bytes in chain {id} has no net header"),
            Self::Buffers { count, most } => write!(f, "num_buffers of a frame is {count}, from 1 to {most} can be"),
            Self::Missing { count, found } => {
                write!(f, "num_buffers of a frame is {count}, and {found} buffers were used")
            }
            Self::Hole { id, len, room } => {
                write!(f, "{len} bytes of {room} in chain {id}, which is not the last of its frame")
            }
        }
    }
}
