//! Receive-side scaling: keys and redirection tables. What is hashed is fixed: addresses, and ports where there are some.

use std::collections::BTreeMap;

use super::command::{Answer, Command, Refusal};
use super::vsi::{Lut, Vsi};
use crate::headers::Headers;
use crate::toeplitz;

/// Bytes of a key; the last twelve extend it.
const KEY: usize = 52;
/// Entries of an interface's own table.
const OWN: usize = 64;
/// Of a command: the number of an interface, and that it is one.
const VSI: u16 = 0x3ff;
const VALID: u16 = 1 << 15;

/// Which table a command means.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Table {
    Own(u16),
    Function,
    Global(u8),
}

/// All keys and tables.
#[derive(Default)]
pub struct Rss {
    keys: BTreeMap<u16, [u8; KEY]>,
    tables: BTreeMap<Table, Vec<u8>>,
}

impl Rss {
    /// The hash of a frame, if its interface has a key.
    pub fn hash(&self, vsi: u16, frame: &[u8], headers: Option<&Headers>) -> Option<u32> {
        Some(toeplitz::hash(self.keys.get(&vsi)?, &toeplitz::input(frame, headers?, true)))
    }

    /// The queue of a hash.
    pub fn queue(&self, number: u16, vsi: &Vsi, hash: u32) -> usize {
        let table = match vsi.lut() {
            Lut::Own => Table::Own(number),
            Lut::Function => Table::Function,
            Lut::Global(which) => Table::Global(which),
        };
        let place = self.tables.get(&table).map_or(0, |table| table[hash as usize % table.len()]);
        vsi.queue(place.into())
    }

    /// An interface is gone.
    pub fn forget(&mut self, vsi: u16) {
        self.keys.remove(&vsi);
        self.tables.remove(&Table::Own(vsi));
    }

    /// 0x0B02, 0x0B04: sets a key, or tells it.
    pub fn key(&mut self, command: &mut Command) -> Answer {
        let vsi = command.get16(0) & VSI;
        if command.opcode == 0x0B02 {
            let key = command.data.first_chunk().ok_or(Refusal::Einval)?;
            self.keys.insert(vsi, *key);
        } else {
            command.reply = self.keys.get(&vsi).map_or(vec![0; KEY], |key| key.to_vec());
        }
        Ok(())
    }

    /// 0x0B03, 0x0B05: sets a table, or tells it.
    pub fn table(&mut self, command: &mut Command) -> Answer {
        let (vsi, flags) = (command.get16(0), command.get16(2));
        let (table, len) = match (flags & 3, flags >> 2 & 3) {
            // Its size is one; some drivers leave the code 0, which means 128 elsewhere.
            (0, _) if vsi & VALID != 0 => (Table::Own(vsi & VSI), OWN),
            (1, code) => (Table::Function, [128, 512, 2048].get(usize::from(code)).copied().ok_or(Refusal::Einval)?),
            (2, _) => (Table::Global((flags >> 4 & 0xf) as u8), 512),
            _ => return Err(Refusal::Einval),
        };
        if command.opcode == 0x0B03 {
            let bytes = command.data.get(..len).ok_or(Refusal::Einval)?;
            self.tables.insert(table, bytes.to_vec());
        } else {
            command.reply = self.tables.get(&table).cloned().unwrap_or(vec![0; len]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(opcode: u16, params: [u16; 2], data: Vec<u8>) -> Command {
        let mut command = Command { opcode, data, ..Command::default() };
        command.put16(0, params[0]);
        command.put16(2, params[1]);
        command
    }

    #[test]
    fn tables_and_keys_are_told_as_they_were_set() {
        let mut rss = Rss::default();
        for (params, len) in [([VALID | 3, 0], 64), ([VALID | 3, 1 | 2 << 2], 2048), ([VALID, 2], 512)] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            assert_eq!(rss.table(&mut command(0x0B03, params, bytes.clone())), Ok(()));
            let mut told = command(0x0B05, params, Vec::new());
            rss.table(&mut told).unwrap();
            assert_eq!(told.reply, bytes);
            assert_eq!(rss.table(&mut command(0x0B03, params, vec![0; len - 1])), Err(Refusal::Einval));
        }
        assert_eq!(rss.table(&mut command(0x0B03, [3, 0], vec![0; 64])), Err(Refusal::Einval), "no interface");
        rss.key(&mut command(0x0B02, [VALID | 3, 0], vec![9; KEY])).unwrap();
        let mut told = command(0x0B04, [VALID | 3, 0], Vec::new());
        rss.key(&mut told).unwrap();
        assert_eq!(told.reply, vec![9; KEY]);
        rss.forget(3);
        rss.key(&mut told).unwrap();
        assert_eq!(told.reply, vec![0; KEY]);
    }
}
