//! The EEPROM's words: just enough that a driver accepts them.

/// Words in the EEPROM (what EEC's size field says).
const WORDS: usize = 4096;
/// All words below this one, and this one, sum to [`SUM`].
const CHECKSUM: usize = 0x3F;
/// What drivers compare with.
const SUM: u16 = 0xBABA;
/// Capabilities: any SFP is allowed (b0), the crosstalk workaround is not needed (b7).
const DEVICE_CAPS: u16 = 1 << 7 | 1;

/// A read-only EEPROM.
pub struct Eeprom {
    words: Vec<u16>,
}

impl Eeprom {
    /// An EEPROM for a card with this address; sections (firmware, PHY lists, thermal) are absent.
    pub fn new(mac: [u8; 6]) -> Self {
        let mut words = vec![0xFFFF; WORDS];
        words[..CHECKSUM].fill(0);
        for (word, bytes) in words.iter_mut().zip(mac.chunks(2)) {
            *word = u16::from_le_bytes([bytes[0], bytes[1]]);
        }
        // Section pointers, the firmware's, PBA string, thermal, WWN, SAN MAC, PHY list: none there.
        words[0x03..=0x0F].fill(0xFFFF);
        words[0x15..=0x16].fill(0xFFFF);
        words[0x26..=0x28].fill(0xFFFF);
        words[0x2B] = 0xFFFF;
        words[0x2C] = DEVICE_CAPS;
        let sum = words[..CHECKSUM].iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
        words[CHECKSUM] = SUM.wrapping_sub(sum);
        Self { words }
    }

    /// A word; all ones beyond the end.
    pub fn word(&self, at: u16) -> u16 {
        self.words.get(usize::from(at)).copied().unwrap_or(0xFFFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_holds_by_the_drivers_rule() {
        let eeprom = Eeprom::new([2, 3, 4, 5, 6, 7]);
        let mut sum = (0..0x40).fold(0u16, |sum, at| sum.wrapping_add(eeprom.word(at)));
        for pointer in 0x3..0xF {
            let section = eeprom.word(pointer);
            if section != 0 && section != 0xFFFF {
                let length = eeprom.word(section);
                sum = (0..=length).fold(sum, |sum, i| sum.wrapping_add(eeprom.word(section.wrapping_add(i))));
            }
        }
        assert_eq!(sum, 0xBABA);
        assert_eq!(eeprom.word(0xF), 0xFFFF);
        assert_eq!(eeprom.word(0), 0x0302);
    }
}
