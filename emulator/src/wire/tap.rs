//! A TAP interface: the kernel's own network stack at the far end.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use super::{Error, Wire};

/// Longest frame, bytes.
const LONGEST: usize = 16 * 1024;
/// Shortest frame without check sequence, bytes: a sending MAC pads up to it, and the kernel does not.
const SHORTEST: usize = 60;

/// One end of the interface `name`; the kernel has the other.
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Opens the interface, and makes it if it does not exist; it is not brought up and gets no address.
    ///
    /// # Errors
    /// No `/dev/net/tun`, no permission, a name that is none, an interface in use.
    pub fn open(name: &str) -> Result<Self, Error> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..libc::IFNAMSIZ).contains(&name.len()) || !name.bytes().all(valid) {
            return Err(Error::TapName(name.to_owned()));
        }
        let error = |source: io::Error| explain(name, source);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(|source| if source.kind() == ErrorKind::NotFound { Error::NoTun } else { error(source) })?;
        attach(&file, name).map_err(error)?;
        Ok(Self { file, name: name.to_owned() })
    }

    /// The interface.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn explain(name: &str, source: io::Error) -> Error {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Error::TapNotPermitted { name },
        Some(libc::EBUSY) => Error::TapBusy { name },
        Some(libc::ENODEV | libc::ENXIO) => Error::NoTun,
        _ => Error::Tap { name, source },
    }
}

fn attach(file: &File, name: &str) -> io::Result<()> {
    // SAFETY: `ifreq` is a C structure of integers and a union of them, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`; `request` is one, lives across the call, and its name is ended by
    // a zero, for `open` checked that it is shorter than the field. The descriptor is open.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Wire for Tap {
    fn transmit(&mut self, frame: &[u8]) {
        // An interface that is down or full drops, as a wire does.
        let _ = self.file.write(frame);
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        frame.resize(LONGEST, 0);
        let len = self.file.read(frame).unwrap_or(0);
        frame.truncate(len);
        if len > 0 && len < SHORTEST {
            frame.resize(SHORTEST, 0);
        }
        len > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_what_to_do() {
        let of = |code| explain("tap9", io::Error::from_raw_os_error(code)).to_string();
        assert!(of(libc::EPERM).contains("ip tuntap add dev tap9"));
        assert!(of(libc::EBUSY).contains("another program"));
        assert!(of(libc::ENODEV).contains("modprobe tun"));
        assert!(of(libc::EINVAL).contains("tap9"));
    }
}
