//! SFP+ modules, as their EEPROM describes them (SFF-8472, address A0).

/// What is in the cage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Module {
    /// Nothing: there is no link.
    None,
    /// An optical module for short reach, 10GBASE-SR.
    #[default]
    Sr,
    /// A copper cable with a plug at each end, passive.
    Da,
}

/// Intel's, who lets its own modules in.
const OUI: [u8; 3] = [0x00, 0x1b, 0x21];
const VENDOR: &[u8; 16] = b"stillwire       ";
/// Its last two letters say which.
const PART: &[u8; 16] = b"MODEL-          ";

impl Module {
    /// A byte of its EEPROM.
    pub(super) fn byte(self, at: u8) -> u8 {
        match at {
            63 => self.sum(0, 62),
            95 => self.sum(64, 94),
            at => self.field(at),
        }
    }

    fn field(self, at: u8) -> u8 {
        let of = |sr, da| if self == Module::Sr { sr } else { da };
        match at {
            // SFP, by its two-wire interface only.
            0 => 0x03,
            1 => 0x04,
            // Connector: LC, or none that can be parted.
            2 => of(0x07, 0x21),
            3 => of(0x10, 0),
            8 => of(0, 0x04),
            11 => 0x06,
            // 10.3 Gb/s; 300 m of fibre in tens, or 3 m of copper.
            12 => 0x67,
            16 => of(30, 0),
            18 => of(0, 3),
            20..=35 => VENDOR[usize::from(at) - 20],
            37..=39 => OUI[usize::from(at) - 37],
            46 => of(b'S', b'D'),
            47 => of(b'R', b'A'),
            40..=55 => PART[usize::from(at) - 40],
            56 => b'1',
            57..=59 => b' ',
            // 850 nm.
            60 => of(0x03, 0),
            61 => of(0x52, 0),
            68..=91 => b'0',
            _ => 0,
        }
    }

    fn sum(self, first: u8, last: u8) -> u8 {
        (first..=last).fold(0u8, |sum, at| sum.wrapping_add(self.byte(at)))
    }
}

impl std::str::FromStr for Module {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Module::None),
            "sr" => Ok(Module::Sr),
            "da" => Ok(Module::Da),
            _ => Err(format!("'{text}' is no module; use none, sr (10GBASE-SR) or da (direct attach)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_check_codes_hold_and_the_two_are_told_apart() {
        for module in [Module::Sr, Module::Da] {
            for (range, code) in [(0..63, 63), (64..95, 95)] {
                let sum = range.map(|at| module.byte(at)).fold(0u8, u8::wrapping_add);
                assert_eq!(module.byte(code), sum, "{module:?} {code}");
            }
        }
        assert_eq!((Module::Sr.byte(3), Module::Sr.byte(8)), (0x10, 0));
        assert_eq!((Module::Da.byte(3), Module::Da.byte(8)), (0, 4));
    }
}
