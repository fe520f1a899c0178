//! Resources that functions share: locks, and numbers that are handed out.

use std::collections::{BTreeMap, BTreeSet};

use super::command::{Answer, Command, Refusal, read16, write};

/// The NVM.
const NVM: u16 = 1;
/// Changes of tables.
const CHANGE_LOCK: u16 = 3;
/// The package.
const GLOBAL_LOCK: u16 = 4;
/// The package is there already.
const STATUS_DONE: u16 = 2;
/// Time that a lock may be held, ms.
const TIMEOUT: u32 = 3000;
/// Access to write.
const WRITE: u16 = 2;
/// Numbers of each kind of resource.
const EACH: u16 = 512;
/// The bits of a kind of resource that say what it is.
const KIND: u16 = 0x7f;

/// Who has what.
#[derive(Default)]
pub struct Resources {
    held: BTreeSet<u16>,
    numbers: BTreeMap<u16, BTreeSet<u16>>,
}

impl Resources {
    /// 0x0008: a lock is asked for. `package` tells whether there is a package, which ends the global lock's purpose.
    pub fn request(&mut self, command: &mut Command, package: bool) -> Answer {
        let id = command.get16(0);
        if !(NVM..=GLOBAL_LOCK).contains(&id) {
            return Err(Refusal::Einval);
        }
        command.put32(4, TIMEOUT);
        command.put16(12, 0);
        if id == GLOBAL_LOCK && command.get16(2) == WRITE && package {
            command.put16(12, STATUS_DONE);
            return Ok(());
        }
        // The change lock may be taken again by whoever has it; there is one function.
        if !self.held.insert(id) && id != CHANGE_LOCK {
            return Err(Refusal::Ebusy);
        }
        Ok(())
    }

    /// 0x0009: a lock is given back.
    pub fn release(&mut self, command: &Command) -> Answer {
        if self.held.remove(&command.get16(0)) { Ok(()) } else { Err(Refusal::Einval) }
    }

    /// Whether somebody may bring a package.
    pub fn has_global_lock(&self) -> bool {
        self.held.contains(&GLOBAL_LOCK)
    }

    /// 0x0208: the lowest numbers that are free.
    pub fn allocate(&mut self, command: &mut Command) -> Answer {
        let (kind, count) = elements(&command.data)?;
        let taken = self.numbers.entry(kind).or_default();
        let found: Vec<u16> = (0..EACH).filter(|number| !taken.contains(number)).take(count).collect();
        if found.len() < count {
            return Err(Refusal::Enospc);
        }
        command.reply.clone_from(&command.data);
        for (i, number) in found.iter().enumerate() {
            taken.insert(*number);
            write(&mut command.reply, 4 + 2 * i, &number.to_le_bytes());
        }
        Ok(())
    }

    /// 0x0209: numbers are given back.
    pub fn free(&mut self, command: &Command) -> Answer {
        let (kind, count) = elements(&command.data)?;
        let taken = self.numbers.entry(kind).or_default();
        for i in 0..count {
            if !taken.remove(&read16(&command.data, 4 + 2 * i)?) {
                return Err(Refusal::Enoent);
            }
        }
        Ok(())
    }
}

/// Kind and number of a buffer's elements, all of which lie in it.
fn elements(data: &[u8]) -> Result<(u16, usize), Refusal> {
    let (kind, count) = (read16(data, 0)? & KIND, usize::from(read16(data, 2)?));
    if count == 0 || data.len() < 4 + 2 * count { Err(Refusal::Einval) } else { Ok((kind, count)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(params: [u16; 2], data: &[u8]) -> Command {
        let mut command = Command { data: data.to_vec(), ..Command::default() };
        command.put16(0, params[0]);
        command.put16(2, params[1]);
        command
    }

    #[test]
    fn locks() {
        let mut resources = Resources::default();
        assert_eq!(resources.request(&mut command([NVM, 1], &[]), false), Ok(()));
        assert_eq!(resources.request(&mut command([NVM, 1], &[]), false), Err(Refusal::Ebusy));
        assert_eq!(resources.release(&command([NVM, 0], &[])), Ok(()));
        assert_eq!(resources.release(&command([NVM, 0], &[])), Err(Refusal::Einval));
        assert_eq!(resources.request(&mut command([9, 1], &[]), false), Err(Refusal::Einval));
        let mut global = command([GLOBAL_LOCK, WRITE], &[]);
        assert_eq!((resources.request(&mut global, true), global.get16(12)), (Ok(()), STATUS_DONE));
        assert!(!resources.has_global_lock());
        assert_eq!((resources.request(&mut global, false), global.get16(12)), (Ok(()), 0));
        assert!(resources.has_global_lock());
    }

    #[test]
    fn numbers_are_the_lowest_that_are_free() {
        let mut resources = Resources::default();
        let mut two = command([1, 0], &[4, 0, 2, 0, 9, 9, 9, 9]);
        assert_eq!((resources.allocate(&mut two), &two.reply[4..]), (Ok(()), &[0, 0, 1, 0][..]));
        assert_eq!(resources.free(&command([1, 0], &[4, 0, 1, 0, 0, 0])), Ok(()));
        assert_eq!(resources.free(&command([1, 0], &[4, 0, 1, 0, 0, 0])), Err(Refusal::Enoent));
        assert_eq!((resources.allocate(&mut two), &two.reply[4..]), (Ok(()), &[0, 0, 2, 0][..]));
        for short in [&[4u8, 0][..], &[4, 0, 1, 0], &[4, 0, 0, 0]] {
            assert_eq!(resources.allocate(&mut command([1, 0], short)), Err(Refusal::Einval));
        }
        assert_eq!(
            resources.allocate(&mut command([1, 0], &[[4, 0, 0, 4].as_slice(), &[0; 2048]].concat())),
            Err(Refusal::Enospc)
        );
    }
}
