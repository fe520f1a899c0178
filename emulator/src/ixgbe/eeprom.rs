//! The EEPROM's words: just enough that a driver accepts them.

use super::part::Part;

/// Words in the EEPROM (what EEC's size field says).
const WORDS: usize = 4096;
/// All words below this one, and this one, sum to [`SUM`].
const CHECKSUM: usize = 0x3F;
/// What drivers compare with.
const SUM: u16 = 0xBABA;
/// Capabilities: any SFP is allowed (b0), the crosstalk workaround is not needed (b7).
const DEVICE_CAPS: u16 = 1 << 7 | 1;

/// Where the list of what each kind of module needs begins, and the writes to CORECTL that it points to.
const MODULES: u16 = 0x100;
const WRITES: u16 = 0x120;
/// Where the firmware's section begins, and the part of it with its version.
const FIRMWARE: u16 = 0x140;
const PASS_THROUGH: u16 = 0x150;

/// A read-only EEPROM.
pub struct Eeprom {
    words: Vec<u16>,
}

impl Eeprom {
    /// An EEPROM for a card with this address. A part with a cage has a list for modules and firmware with a version, which
    /// drivers look at; other sections (thermal, names) are absent.
    pub fn new(part: Part, mac: [u8; 6]) -> Self {
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
        // An X550 counts two words behind the checksum as well.
        words[CHECKSUM + 1..=CHECKSUM + 2].fill(0);
        if part == Part::Sfp {
            cage(&mut words);
        }
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

/// What belongs to a cage. Modules by the drivers' numbers (3: direct attach, 5: optics; port 0): each is the address of
/// words for CORECTL, behind a length that nobody reads.
fn cage(words: &mut [u16]) {
    let mut put = |at: u16, section: &[u16]| {
        let at = usize::from(at);
        words[at..at + section.len()].copy_from_slice(section);
    };
    put(0x2B, &[MODULES]);
    put(MODULES, &[4, 3, WRITES, 5, WRITES + 4, 0xFFFF]);
    put(WRITES, &[2, 0x0013, 0xFFFF, 0, 2, 0x0015, 0xFFFF]);
    // Firmware: no smart speed (2), pass-through (4) of a version that optics want.
    put(0x0F, &[FIRMWARE]);
    put(FIRMWARE, &[0; 8]);
    put(FIRMWARE + 4, &[PASS_THROUGH]);
    put(PASS_THROUGH + 7, &[0x0006]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_holds_by_the_drivers_rule() {
        for part in [Part::Backplane, Part::Sfp, Part::X540, Part::X550] {
            check(&Eeprom::new(part, [2, 3, 4, 5, 6, 7]));
        }
        assert_eq!(Eeprom::new(Part::Backplane, [2; 6]).word(0xF), 0xFFFF);
    }

    fn check(eeprom: &Eeprom) {
        let mut sum = (0..0x40).fold(0u16, |sum, at| sum.wrapping_add(eeprom.word(at)));
        for pointer in 0x3..0xF {
            let section = eeprom.word(pointer);
            if section != 0 && section != 0xFFFF {
                let length = eeprom.word(section);
                sum = (0..=length).fold(sum, |sum, i| sum.wrapping_add(eeprom.word(section.wrapping_add(i))));
            }
        }
        assert_eq!(sum, 0xBABA);
        assert_eq!(eeprom.word(0), 0x0302);
        // The X550's rule goes on to word 0x41.
        assert_eq!((eeprom.word(0x40), eeprom.word(0x41)), (0, 0));
    }
}
