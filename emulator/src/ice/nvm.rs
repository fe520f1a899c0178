//! The NVM: a flash, and the shadow of its first part in RAM.
//!
//! No image of a real card: empty, but for what drivers look for (Linux `ice_nvm.c`): which banks are valid and where they
//! are, versions, and the copy of the shadow RAM in the NVM bank behind a signed header of a length that it says.

use std::sync::OnceLock;

use super::command::{Answer, Command, Refusal};

/// Bytes of the flash.
const FLASH: usize = 1 << 20;
/// Bytes of the shadow RAM, as GLNVM_GENS says.
const SHADOW: usize = 64 << 10;
/// A pointer counts in units of 4 KiB.
const IN_SECTORS: u16 = 1 << 15;
const SECTOR: usize = 4096;
/// First bank and sectors of each pair of banks: NVM, boot ROM, netlist.
const BANKS: [(u16, u16); 3] = [(32, 64), (160, 8), (176, 8)];
/// Dwords of the header of the NVM bank, to which an authentication header of eight words is added.
const HEADER_DWORDS: u16 = 330;
/// Where the shadow RAM's copy is in the NVM bank, words: behind both headers, rounded up to 32.
const COPY: usize = (2 * HEADER_DWORDS as usize + 8).next_multiple_of(32);

/// Words of the shadow RAM.
const WORDS: [(usize, u16); 10] = [
    // The image is valid, and the first bank of each pair is in use.
    (0x00, 1 << 6),
    (0x18, 0x4302),
    (0x2D, 0x8001),
    (0x2E, 0x5357),
    (0x42, IN_SECTORS | BANKS[0].0),
    (0x43, BANKS[0].1),
    (0x44, IN_SECTORS | BANKS[1].0),
    (0x45, BANKS[1].1),
    (0x46, IN_SECTORS | BANKS[2].0),
    (0x47, BANKS[2].1),
];

/// Flag of a read: from the flash, not from the shadow RAM.
const FLASH_ONLY: u8 = 1 << 7;

/// The flash's bytes; nothing writes them, so all devices share them.
pub struct Nvm(&'static [u8]);

impl Nvm {
    /// The image.
    pub fn new() -> Self {
        static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
        Self(IMAGE.get_or_init(Self::image))
    }

    fn image() -> Vec<u8> {
        let mut flash = vec![0; FLASH];
        let bank = usize::from(BANKS[0].0) * SECTOR;
        for (word, value) in WORDS {
            for start in [0, bank + 2 * COPY] {
                flash[start + 2 * word..][..2].copy_from_slice(&value.to_le_bytes());
            }
        }
        flash[bank + 4..][..2].copy_from_slice(&HEADER_DWORDS.to_le_bytes());
        flash
    }

    /// 0x0701: bytes at an offset; there is one module, the whole.
    pub fn read(&self, command: &mut Command) -> Answer {
        let [low, mid, high, flags, ..] = command.params;
        let start = u32::from_le_bytes([low, mid, high, 0]) as usize;
        let len = usize::from(command.get16(6));
        let end = if flags & FLASH_ONLY != 0 { FLASH } else { SHADOW };
        if command.get16(4) != 0 || len > command.room || start + len > end {
            return Err(Refusal::Einval);
        }
        command.reply = self.0[start..start + len].to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(offset: u32, flags: u8, len: u16) -> Result<Vec<u8>, Refusal> {
        let mut command = Command { room: 4096, ..Command::default() };
        command.put32(0, offset);
        command.params[3] = flags;
        command.put16(6, len);
        Nvm::new().read(&mut command).map(|()| command.reply)
    }

    #[test]
    fn the_shadow_ends_before_the_flash() {
        assert_eq!(read(0, 0, 2), Ok(vec![0x40, 0]));
        assert_eq!(read(SHADOW as u32 - 2, 0, 2), Ok(vec![0; 2]));
        assert_eq!(read(SHADOW as u32 - 1, 0, 2), Err(Refusal::Einval));
        assert_eq!(read(SHADOW as u32 - 1, FLASH_ONLY, 2), Ok(vec![0; 2]));
        assert_eq!(read(FLASH as u32, FLASH_ONLY, 1), Err(Refusal::Einval));
        assert_eq!(read(0xff_ffff, FLASH_ONLY, 1), Err(Refusal::Einval));
    }

    #[test]
    fn the_copy_lies_behind_the_headers_that_its_bank_says() {
        let bank = u32::from(BANKS[0].0) * SECTOR as u32;
        let header = read(bank + 4, FLASH_ONLY, 4).unwrap();
        let words = 2 * u32::from(u16::from_le_bytes([header[0], header[1]])) + 8;
        let copy = bank + 2 * words.next_multiple_of(32);
        assert_eq!(read(copy + 2 * 0x18, FLASH_ONLY, 2), read(2 * 0x18, 0, 2));
    }
}
