//! Queue contexts: packed bits, which a driver hands over as bytes (transmit) or as eight registers (receive).

use super::desc;

/// Bytes of a transmit context; what follows is the device's own.
pub const TX_LEN: usize = 22;
/// Dwords of a receive context.
pub const RX_DWORDS: u32 = 8;
/// Bases count in units of so many bytes, as a shift.
const BASE_SHIFT: u32 = 7;
/// The kind of function in a transmit context that is a PF's own.
const TYPE_PF: u64 = 2;

/// `width` bits from bit `lsb` on, the lowest first.
fn bits(bytes: &[u8], lsb: usize, width: usize) -> u64 {
    (0..width).fold(0, |value, i| {
        let at = lsb + i;
        value | u64::from(bytes.get(at / 8).copied().unwrap_or(0) >> (at % 8) & 1) << i
    })
}

/// Descriptors in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ring {
    /// Device address.
    pub base: u64,
    /// Descriptors.
    pub count: u32,
    /// Bytes of one.
    stride: u64,
}

impl Ring {
    fn new(base: u64, count: u64, stride: u64, step: u64) -> Result<Self, &'static str> {
        let base = base << BASE_SHIFT;
        match () {
            () if count == 0 || count > 8160 || !count.is_multiple_of(step) => {
                Err("ring length is not one that the device takes (to 8160 descriptors, whole lines)")
            }
            () if base.checked_add(count * stride).is_none() => Err("ring wraps around the end of the address space"),
            () => Ok(Self { base, count: count as u32, stride }),
        }
    }

    /// Where a descriptor lies.
    pub fn descriptor(self, index: u32) -> u64 {
        self.base + u64::from(index) * self.stride
    }

    /// The index after one.
    pub fn after(self, index: u32) -> u32 {
        if index + 1 >= self.count { 0 } else { index + 1 }
    }
}

/// What a transmit queue was added with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TxContext {
    /// The ring.
    pub ring: Ring,
    /// The virtual interface that its frames come from.
    pub vsi: u16,
    /// Whether it may segment.
    pub segments: bool,
}

impl TxContext {
    /// Understands the bytes; the error says what the device cannot do.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let ring = Ring::new(bits(bytes, 0, 57), bits(bytes, 135, 13), desc::TX_LEN, 32)?;
        match () {
            () if ring.count < 64 => Err("a transmit ring has at least 64 descriptors"),
            () if bits(bytes, 57, 3) != 0 || bits(bytes, 65, 3) != 0 => Err("a transmit context of another port or PF"),
            () if bits(bytes, 78, 2) != TYPE_PF => Err("a transmit context whose VMVF_TYPE is not PF"),
            () if bits(bytes, 164, 1) != 1 => Err("a transmit context without LEGACY_INT"),
            () => Ok(Self { ring, vsi: bits(bytes, 80, 10) as u16, segments: bits(bytes, 152, 1) == 1 }),
        }
    }
}

/// What a receive queue was enabled with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RxContext {
    /// The ring.
    pub ring: Ring,
    /// First descriptor.
    pub head: u32,
    /// A buffer, bytes.
    pub buffer: usize,
    /// The longest frame, bytes.
    pub longest: usize,
    /// Whether a stripped tag goes into the descriptor's first place for one.
    pub tag_first: bool,
}

impl RxContext {
    /// Understands the registers; the error says what the device cannot do.
    pub fn decode(dwords: [u32; RX_DWORDS as usize]) -> Result<Self, &'static str> {
        let bytes: Vec<u8> = dwords.iter().flat_map(|dword| dword.to_le_bytes()).collect();
        let get = |lsb, width| bits(&bytes, lsb, width);
        let ring = Ring::new(get(32, 57), get(89, 13), desc::RX_LEN, 8)?;
        let context = Self {
            ring,
            head: get(0, 13) as u32,
            buffer: get(102, 7) as usize * 128,
            longest: get(174, 14) as usize,
            tag_first: get(119, 1) == 1,
        };
        match () {
            () if get(116, 1) != 1 => Err("only 32-byte receive descriptors (DSIZE 1) are modelled"),
            () if get(114, 2) != 0 || get(120, 6) != 0 => Err("header split is not modelled"),
            () if context.head >= ring.count => Err("head lies beyond the ring"),
            () if get(117, 1) != 1 => Err("check sequences stay out of memory here: CRCSTRIP is to be 1"),
            () if get(201, 1) != 1 => Err("PREFENA is 0: descriptors are not fetched"),
            () => Ok(context),
        }
    }

    /// Why no frame can be received; a queue that only takes reports is enabled without buffers.
    pub fn obstacle(&self) -> Option<&'static str> {
        let wrong = self.buffer == 0 || self.longest == 0 || self.longest > 5 * self.buffer;
        wrong.then_some("DBUF or RXMAX is 0, or RXMAX is more than five buffers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts a value where [`bits`] finds it.
    fn put(bytes: &mut [u8], lsb: usize, width: usize, value: u64) {
        for i in 0..width {
            bytes[(lsb + i) / 8] |= ((value >> i & 1) as u8) << ((lsb + i) % 8);
        }
    }

    fn transmit() -> [u8; TX_LEN] {
        let mut bytes = [0; TX_LEN];
        for (lsb, width, value) in
            [(0, 57, 0x12_3456_7880 >> 7), (78, 2, 2), (80, 10, 0x155), (135, 13, 8160), (152, 1, 1), (164, 1, 1)]
        {
            put(&mut bytes, lsb, width, value);
        }
        bytes
    }

    #[test]
    fn a_transmit_context_from_bytes() {
        let context = TxContext::decode(&transmit()).unwrap();
        assert_eq!((context.ring.base, context.ring.count), (0x12_3456_7880, 8160));
        assert_eq!((context.vsi, context.segments), (0x155, true));
        assert_eq!(context.ring.descriptor(3) - context.ring.base, 48);
        for (lsb, width, why) in [(57, 1, "port"), (65, 1, "PF"), (78, 1, "VMVF"), (135, 1, "length")] {
            let mut bytes = transmit();
            put(&mut bytes, lsb, width, 1);
            let error = TxContext::decode(&bytes).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(TxContext::decode(&[]).is_err());
    }

    #[test]
    fn a_receive_context_from_dwords() {
        let fields = [
            (0, 13, 0),
            (32, 57, 0x1000_0080 >> 7),
            (89, 13, 512),
            (102, 7, 16),
            (116, 1, 1),
            (117, 1, 1),
            (119, 1, 1),
            (174, 14, 9728),
            (201, 1, 1),
        ];
        let dwords = |skip: usize| {
            let mut bytes = [0; 32];
            for (_, (lsb, width, value)) in fields.iter().enumerate().filter(|(i, _)| *i != skip) {
                put(&mut bytes, *lsb, *width, *value);
            }
            let (words, _) = bytes.as_chunks::<4>();
            std::array::from_fn(|i| u32::from_le_bytes(words[i]))
        };
        let context = RxContext::decode(dwords(usize::MAX)).unwrap();
        assert_eq!((context.ring.base, context.ring.count, context.buffer), (0x1000_0080, 512, 2048));
        assert_eq!((context.longest, context.tag_first), (9728, true));
        assert_eq!(context.obstacle(), None);
        for needed in [2, 4, 5, 8] {
            assert!(RxContext::decode(dwords(needed)).is_err(), "{:?}", fields[needed]);
        }
        for needed in [3, 7] {
            assert!(RxContext::decode(dwords(needed)).unwrap().obstacle().is_some(), "{:?}", fields[needed]);
        }
    }
}
