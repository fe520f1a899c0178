//! A network namespace of this process, and the interfaces in it.

use std::fs;
use std::io;
use std::process::Command;

use rustix::io::Errno;
use rustix::thread::UnshareFlags;

use super::{Error, sys};

/// Goes to a new network namespace; without the right to, to a new user namespace as its root as well.
///
/// # Errors
/// Neither is allowed, or the process has several threads.
pub fn enter() -> Result<(), Error> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    match sys::unshare(UnshareFlags::NEWNET) {
        Err(Errno::PERM) => {}
        outcome => return outcome.map_err(|error| Error::Namespace(error.into())),
    }
    sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET).map_err(|error| Error::Namespace(error.into()))?;
    // A program that is started by a user whom the namespace does not know loses its rights: `ip` must be root.
    let write = |file: &str, text: String| fs::write(format!("/proc/self/{file}"), text).map_err(Error::Namespace);
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {user} 1"))?;
    write("gid_map", format!("0 {group} 1"))
}

/// Calls `ip` with these words.
///
/// # Errors
/// It is not installed, or did not like them.
pub fn ip(arguments: &str) -> Result<(), Error> {
    let wrong = |found: String| Error::Ip { arguments: arguments.to_owned(), found };
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => wrong("there is no such program; install iproute2".into()),
        _ => wrong(error.to_string()),
    })?;
    if output.status.success() { Ok(()) } else { Err(wrong(String::from_utf8_lossy(&output.stderr).trim().into())) }
}

/// What an interface has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Packets that it was given by the wire.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
}

impl Counters {
    /// Those of `interface` in this thread's namespace.
    ///
    /// # Errors
    /// It is not there.
    pub fn of(interface: &str) -> Result<Self, Error> {
        let asked = "the interface's counters in /proc/thread-self/net/dev";
        let table = fs::read_to_string("/proc/thread-self/net/dev").map_err(Error::system(asked))?;
        Self::parse(&table, interface)
            .ok_or_else(|| Error::System { asked, source: io::Error::other(format!("no {interface} in {table:?}")) })
    }

    fn parse(table: &str, interface: &str) -> Option<Self> {
        let line = table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
        let mut fields = line.split_whitespace().map_while(|field| field.parse().ok());
        Some(Self { rx_bytes: fields.next()?, rx_packets: fields.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_the_whole_name() {
        let table = "Inter-|   Receive                   |  Transmit\n face |bytes packets errs\n   \
                     if01: 9 9 9\n    if0: 1234 5 0 0 0\n  if2:12 3\n if3: 1\n";
        assert_eq!(Counters::parse(table, "if0"), Some(Counters { rx_bytes: 1234, rx_packets: 5 }));
        assert_eq!(Counters::parse(table, "if2"), Some(Counters { rx_bytes: 12, rx_packets: 3 }));
        assert_eq!((Counters::parse(table, "if"), Counters::parse(table, "if3")), (None, None));
    }
}
