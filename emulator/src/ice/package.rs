//! The package (DDP): what drivers bring to the parser. It is taken, checked for its form, and told of; it teaches nothing,
//! for the model's parser is fixed.

use super::command::{Answer, Command, Refusal, read16, read32, write};

/// Bytes of a buffer.
const BUFFER: usize = 4096;
/// Bytes of a section's entry, and where the first is.
const ENTRY: usize = 8;
const ENTRIES: usize = 4;
/// Sections that a buffer may have.
const SECTIONS: usize = 511;
/// The section that says what the package is: version, name, number.
const METADATA: u32 = 1;
/// The last buffer.
const LAST: u8 = 1 << 0;
/// Bytes of version and name and number: what [`METADATA`] and the list of packages have alike.
const IDENTITY: usize = 36;
/// What firmware says of the package that it had when [`super::Config::package`] is set.
const EARLIER: ([u8; 4], &[u8]) = ([1, 3, 41, 0], b"ICE OS Default Package");

/// How far a package has come.
#[derive(Default)]
pub struct Package {
    /// Version, name and number of the one that is active.
    active: Option<[u8; IDENTITY]>,
    /// Of the one that is on its way.
    coming: Option<[u8; IDENTITY]>,
    /// Buffers that were taken.
    pub buffers: u64,
}

impl Package {
    /// The one that an earlier driver left.
    pub fn earlier() -> Self {
        let mut identity = [0; IDENTITY];
        write(&mut identity, 0, &EARLIER.0);
        write(&mut identity, 4, EARLIER.1);
        Self { active: Some(identity), ..Self::default() }
    }

    /// Whether there is one.
    pub fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// 0x0C40: the next buffer.
    pub fn download(&mut self, command: &mut Command, locked: bool) -> Answer {
        if !locked || self.is_active() {
            return Err(Refusal::Eperm);
        }
        let answer = self.take(&command.data);
        // Where the error is, and which; the driver's buffer takes it in place of what it held.
        command.reply = vec![0; 8];
        answer?;
        if command.params[0] & LAST != 0 {
            self.active = Some(self.coming.take().ok_or(Refusal::Ebadbuf)?);
        }
        Ok(())
    }

    /// 0x0C41, 0x0C42: changes to the tables, which the fixed parser does not have.
    pub fn update(&mut self, command: &mut Command) -> Answer {
        if !self.is_active() {
            return Err(Refusal::Eperm);
        }
        sections(&command.data)?;
        command.reply.clone_from(&command.data);
        Ok(())
    }

    /// 0x0C43: the packages that there are.
    pub fn list(&self, command: &mut Command) -> Answer {
        command.reply = (u32::from(self.is_active())).to_le_bytes().to_vec();
        if let Some(identity) = self.active {
            command.reply.extend_from_slice(&identity);
            // Not in the NVM, active, not at boot, not changed.
            command.reply.extend_from_slice(&[0, 1, 0, 0]);
        }
        Ok(())
    }

    fn take(&mut self, data: &[u8]) -> Answer {
        for (kind, section) in sections(data)? {
            if kind == METADATA {
                let identity: &[u8; IDENTITY] = section.first_chunk().ok_or(Refusal::Ebadbuf)?;
                self.coming = Some(*identity);
            }
        }
        self.buffers += 1;
        Ok(())
    }
}

/// Kind and bytes of each section of a buffer.
fn sections(data: &[u8]) -> Result<Vec<(u32, &[u8])>, Refusal> {
    let count = usize::from(read16(data, 0).map_err(|_| Refusal::Ebadbuf)?);
    let end = usize::from(read16(data, 2).map_err(|_| Refusal::Ebadbuf)?);
    if count > SECTIONS || end > BUFFER || end < ENTRIES + count * ENTRY {
        return Err(Refusal::Ebadbuf);
    }
    let section = |i: usize| {
        let at = ENTRIES + i * ENTRY;
        let (kind, offset, len) = (read32(data, at)?, read16(data, at + 4)?, read16(data, at + 6)?);
        let range = usize::from(offset)..usize::from(offset) + usize::from(len);
        Ok((kind, data.get(range).ok_or(Refusal::Ebadbuf)?))
    };
    (0..count).map(|i| section(i).map_err(|_: Refusal| Refusal::Ebadbuf)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer with one section.
    fn buffer(kind: u32, section: &[u8]) -> Vec<u8> {
        let mut data = vec![0; BUFFER];
        write(&mut data, 0, &[1, 0]);
        write(&mut data, 2, &(64 + section.len() as u16).to_le_bytes());
        write(&mut data, 4, &kind.to_le_bytes());
        write(&mut data, 8, &64u16.to_le_bytes());
        write(&mut data, 10, &(section.len() as u16).to_le_bytes());
        write(&mut data, 64, section);
        data
    }

    fn download(package: &mut Package, data: Vec<u8>, last: bool) -> Answer {
        let mut command = Command { data, room: BUFFER, ..Command::default() };
        command.params[0] = last.into();
        package.download(&mut command, true)
    }

    #[test]
    fn a_package_is_active_after_its_last_buffer() {
        let mut package = Package::default();
        let mut identity = vec![1, 3, 30, 0];
        identity.extend(*b"some package");
        identity.resize(IDENTITY, 0);
        assert_eq!(download(&mut package, buffer(METADATA, &identity), false), Ok(()));
        assert!(!package.is_active());
        assert_eq!(download(&mut package, buffer(77, &[1; 100]), true), Ok(()));
        let mut listed = Command::default();
        package.list(&mut listed).unwrap();
        assert_eq!((listed.reply.len(), &listed.reply[..8], listed.reply[41]), (44, &[1, 0, 0, 0, 1, 3, 30, 0][..], 1));
        assert_eq!(download(&mut package, buffer(77, &[]), true), Err(Refusal::Eperm), "there is one");
    }

    #[test]
    fn what_is_no_package_is_refused() {
        let mut package = Package::default();
        assert_eq!(
            package.download(&mut Command { data: buffer(77, &[]), ..Command::default() }, false),
            Err(Refusal::Eperm)
        );
        assert_eq!(download(&mut package, buffer(77, &[1; 8]), true), Err(Refusal::Ebadbuf), "no name");
        assert_eq!(download(&mut package, vec![1], false), Err(Refusal::Ebadbuf));
        let mut beyond = buffer(77, &[1; 8]);
        write(&mut beyond, 8, &4095u16.to_le_bytes());
        assert_eq!(download(&mut package, beyond, false), Err(Refusal::Ebadbuf));
        assert_eq!(download(&mut package, buffer(METADATA, &[1; 8]), false), Err(Refusal::Ebadbuf));
        assert_eq!(package.update(&mut Command { data: buffer(13, &[]), ..Command::default() }), Err(Refusal::Eperm));
    }
}
