//! The file's place on disk: written beside it without a name, or under another, and given its name when whole.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use stillwire_examples::transfer::Sink;
use tempfile::NamedTempFile;

use crate::failure::Failure;

/// The file's place on disk. FILE is at all times what it was before or a whole received file; what is written in
/// between lies beside it, and goes away when this is dropped.
pub struct Place {
    out: PathBuf,
    directory: PathBuf,
    part: Option<Part>,
    /// Bytes written since they were last on the disk for sure.
    unsynced: u64,
    file_size: u64,
    finished: Option<File>,
}

/// A file that is being received.
enum Part {
    /// Without a name: of a program that is killed nothing is left.
    Unnamed(File),
    /// Under another name, where the file system has no files without.
    Named(NamedTempFile),
}

impl Part {
    fn as_file(&self) -> &File {
        match self {
            Self::Unnamed(file) => file,
            Self::Named(file) => file.as_file(),
        }
    }
}

impl Place {
    /// A place for `out`, when there is one: finds out about what is wrong before a sender has begun.
    pub fn new(out: &Path) -> Result<Place, Failure> {
        // A link stays a link; what it points to is replaced.
        let out = out.canonicalize().unwrap_or_else(|_| out.to_path_buf());
        if out.is_dir() || out.file_name().is_none() {
            return Err(Failure::Directory(out));
        }
        // As root, a rename over /dev/null would succeed.
        if out.exists() && !out.is_file() {
            return Err(Failure::NotAFile(out));
        }
        let directory = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let mut place = Place { out, directory, part: None, unsynced: 0, file_size: 0, finished: None };
        let part = place.new_part().map_err(|source| Failure::Beside { out: place.out.clone(), source })?;
        place.part = Some(part);
        Ok(place)
    }

    /// Where the file goes.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// CRC-32 of the last file received, read again from its place. `None` before there is one.
    pub fn digest(&mut self) -> Result<Option<u32>, Failure> {
        let Some(file) = &mut self.finished else { return Ok(None) };
        let (found, crc32) = read_again(file).map_err(|source| Failure::ReadBack { out: self.out.clone(), source })?;
        if found != self.file_size {
            return Err(Failure::Changed { out: self.out.clone(), found, expected: self.file_size });
        }
        Ok(Some(crc32))
    }

    fn new_part(&self) -> io::Result<Part> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        // A received file is readable by whom the umask says, as a file made by `cp` is.
        match rustix::fs::open(&self.directory, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => Ok(Part::Unnamed(file.into())),
            // What there is to say of the folder, the other way says as well.
            Err(_) => {
                let permissions = Permissions::from_mode(0o666);
                let prefix = self.other_name();
                let mut builder = tempfile::Builder::new();
                builder.prefix(&prefix).suffix(".part").permissions(permissions);
                builder.tempfile_in(&self.directory).map(Part::Named)
            }
        }
    }

    /// How another name begins.
    fn other_name(&self) -> OsString {
        let mut prefix = OsString::from(".");
        prefix.push(self.out.file_name().unwrap_or_default());
        prefix.push(".");
        prefix
    }

    /// Gives `part` the file's name, in place of whatever has it. A name can only be taken over from another one: a program
    /// that is killed between the two leaves that, with the whole file.
    fn persist(&self, part: Part) -> io::Result<File> {
        let named = match part {
            Part::Named(file) => file,
            Part::Unnamed(file) => {
                let prefix = self.other_name();
                tempfile::Builder::new().prefix(&prefix).suffix(".part").make_in(&self.directory, |path| {
                    let of_file = format!("/proc/self/fd/{}", file.as_raw_fd());
                    rustix::fs::linkat(CWD, of_file, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
                    file.try_clone()
                })?
            }
        };
        named.persist(&self.out).map_err(|error| error.error)
    }
}

impl Sink for Place {
    fn begin(&mut self, _transfer: u64, file_size: u64) -> io::Result<()> {
        let part = match self.part.take() {
            Some(part) => part,
            None => self.new_part()?,
        };
        let part = self.part.insert(part);
        part.as_file().set_len(0)?;
        let disk = rustix::fs::fstatvfs(part.as_file())?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < file_size {
            let message = format!("the file has {file_size} bytes, but only {free} are free on its disk");
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        part.as_file().set_len(file_size)?;
        (self.unsynced, self.file_size) = (0, file_size);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let part = self.part.as_ref().ok_or(io::ErrorKind::NotFound)?.as_file();
        part.write_all_at(bytes, offset)?;
        self.unsynced += bytes.len() as u64;
        // On the way and not all at the end, where the sender would wait for it longer than its deadline.
        if self.unsynced >= SYNC_EACH {
            part.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        let part = self.part.take().ok_or(io::ErrorKind::NotFound)?;
        // First the bytes, then the name: after a power failure a renamed file must not be empty.
        part.as_file().sync_all()?;
        self.finished = Some(self.persist(part)?);
        File::open(&self.directory)?.sync_all()
    }
}

fn read_again(file: &mut File) -> io::Result<(u64, u32)> {
    file.rewind()?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut found = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((found, hasher.finalize())),
            count => {
                hasher.update(&buffer[..count]);
                found += count as u64;
            }
        }
    }
}

/// Bytes; a disk takes them in about a second or less.
const SYNC_EACH: u64 = 64 << 20;
