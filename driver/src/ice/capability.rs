//! What the function has (Linux `ice_common.c`, command 0x000A). Pure.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// One capability, as the firmware lists it.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Element {
    id: U16,
    version: [u8; 2],
    number: U32,
    logical: U32,
    physical: U32,
    reserved: [u8; 16],
}

/// What matters here. A capability that is not listed is 0.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct FunctionCaps {
    /// Receive queues.
    pub rx_queues: u32,
    /// Transmit queues.
    pub tx_queues: u32,
    /// Vectors.
    pub vectors: u32,
}

impl FunctionCaps {
    /// Reads the list, of which the firmware says that it has `count` elements.
    pub(super) fn parse(buffer: &[u8], count: u32) -> Result<Self, String> {
        let (elements, _) = <[Element]>::ref_from_prefix_with_elems(buffer, count as usize)
            .map_err(|_| format!("{count} capabilities in {} bytes", buffer.len()))?;
        let mut caps = Self::default();
        for element in elements {
            let field = match element.id.get() {
                RX_QUEUES => &mut caps.rx_queues,
                TX_QUEUES => &mut caps.tx_queues,
                VECTORS => &mut caps.vectors,
                _ => continue,
            };
            *field = element.number.get();
        }
        if caps.rx_queues == 0 || caps.tx_queues == 0 {
            return Err(format!("{} receive and {} transmit queues", caps.rx_queues, caps.tx_queues));
        }
        Ok(caps)
    }
}

const RX_QUEUES: u16 = 0x41;
const TX_QUEUES: u16 = 0x42;
const VECTORS: u16 = 0x43;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element(id: u16, number: u32) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        bytes[..2].copy_from_slice(&id.to_le_bytes());
        bytes[4..8].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    #[test]
    fn a_list_is_read() {
        let list = [element(0x41, 256), element(0x1234, 9), element(0x42, 128), element(0x43, 64)].concat();
        let expect = FunctionCaps { rx_queues: 256, tx_queues: 128, vectors: 64 };
        assert_eq!(FunctionCaps::parse(&list, 4), Ok(expect));
        assert!(FunctionCaps::parse(&list, 5).unwrap_err().contains("5 capabilities in 128 bytes"));
        assert!(FunctionCaps::parse(&list, 1).unwrap_err().contains("0 transmit queues"));
    }

    proptest! {
        #[test]
        fn any_list_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), count: u32) {
            let _ = FunctionCaps::parse(&bytes, count);
        }
    }
}
