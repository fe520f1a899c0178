//! Who is at the other end of a Unix socket: what is handed over there (memory, descriptors) is for this user's processes only.
//!
//! The mode of a socket's file keeps others from connecting, as long as nobody changes it, and says nothing about who
//! listens. So both ends look, before anything is said.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::net::{SocketAddrUnix, getpeername, getsockname};

/// A process that is neither this user's nor root's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "process {pid} at the other end is of user {uid}, this one of user {ours}: only the same user, or root, is let in; run both as one user (sudo -u '#{one}', setpriv --reuid {one}, User= of a service)",
    one = lesser(.uid, .ours)
)]
pub struct Stranger {
    /// Its user, as seen from this process' user namespace.
    pub uid: u32,
    /// Its process; 0 when it is in another PID namespace.
    pub pid: i32,
    /// The user of this process.
    pub ours: u32,
}

/// Lets through whom this process may trust with its memory: its own user, and root, who could take it anyway.
///
/// Asked of the end that connected, it tells who listened; of the end that accepted, who connected: each at that moment.
///
/// # Errors
/// [`Stranger`]. Where the kernel does not say (no Unix socket, not connected) the answer is a stranger, too.
pub fn check(socket: impl AsFd) -> Result<(), Stranger> {
    let ours = rustix::process::geteuid().as_raw();
    let (uid, pid) = credentials(socket).unwrap_or((u32::MAX, 0));
    if uid == ours || uid == ROOT { Ok(()) } else { Err(Stranger { uid, pid, ours }) }
}

/// Which of two users a program should rather be run as.
fn lesser<'a>(one: &'a u32, ours: &'a u32) -> &'a u32 {
    if *ours == ROOT && *one != u32::MAX { one } else { ours }
}

/// This process' connected sockets that are the accepted end of a connection to where `listener` listens.
///
/// # Errors
/// When `/proc` can not be read.
pub fn accepted_from(listener: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let name = getsockname(listener)?;
    connections(|socket| getpeername(socket).is_ok() && getsockname(socket).is_ok_and(|found| found == name))
}

/// This process' sockets that have connected to a Unix socket with a name, by inode. The name tells nothing: it is what the
/// listener has called itself, in its own folder, and may have been another's since.
///
/// # Errors
/// When `/proc` can not be read.
pub fn connected() -> io::Result<BTreeMap<u64, OwnedFd>> {
    let named = |socket: &OwnedFd| {
        let name = getpeername(socket).ok().flatten().and_then(|name| SocketAddrUnix::try_from(name).ok());
        // (A socket without a name may look like one with an abstract name of no bytes.)
        let bytes = name.as_ref().and_then(|name| name.path_bytes().or(name.abstract_name()));
        bytes.is_some_and(|name| !name.is_empty())
    };
    let inode = |socket: OwnedFd| Some((rustix::fs::fstat(&socket).ok()?.st_ino, socket));
    Ok(connections(named)?.into_iter().filter_map(inode).collect())
}

/// Duplicates of this process' descriptors that are wanted: a library that keeps its socket to itself has it under some number.
fn connections(wanted: impl Fn(&OwnedFd) -> bool) -> io::Result<Vec<OwnedFd>> {
    let numbers = std::fs::read_dir("/proc/self/fd")?.flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.filter_map(duplicate).filter(wanted).collect())
}

/// Another descriptor of what `number` stands for at this moment, if it does for anything.
fn duplicate(number: i32) -> Option<OwnedFd> {
    // SAFETY: the call touches no memory of ours. That `number` may be closed by its owner meanwhile is an error here, or
    // the duplicate is of what has that number then, which the caller looks at anyway.
    let twin = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    (twin >= 0).then(|| unsafe { OwnedFd::from_raw_fd(twin) })
}

/// User and process at the other end. (`rustix` has this call, but its process number can not be 0.)
fn credentials(socket: impl AsFd) -> Option<(u32, i32)> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `found`, which is plain integers and lives across the call,
    // and the length that it has written into `len`.
    let answer = unsafe {
        let number = socket.as_fd().as_raw_fd();
        libc::getsockopt(number, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut found).cast(), &mut len)
    };
    // Of a socket that is not connected the kernel says user -1.
    (answer == 0 && len as usize == size_of::<libc::ucred>()).then_some((found.uid, found.pid))
}

const ROOT: u32 = 0;

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn who_is_of_this_user_is_let_through_and_who_is_not_known_is_not() {
        let (one, other) = UnixStream::pair().unwrap();
        assert_eq!((check(&one), check(&other)), (Ok(()), Ok(())));
        let (ours, me) = (rustix::process::geteuid().as_raw(), std::process::id() as i32);
        assert_eq!(credentials(&one), Some((ours, me)));
        let unknown = Stranger { uid: u32::MAX, pid: 0, ours };
        let nobody_there = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None);
        assert_eq!(check(nobody_there.unwrap()), Err(unknown));
        assert_eq!(check(std::fs::File::open("/dev/null").unwrap()), Err(unknown), "no socket at all");
        assert!(unknown.to_string().contains(&format!("sudo -u '#{ours}'")));
        let of = |uid, ours| Stranger { uid, pid: 1, ours }.to_string();
        assert!(of(1000, ROOT).contains("sudo -u '#1000'") && of(1000, 1001).contains("sudo -u '#1001'"));
    }

    #[test]
    fn the_ends_of_connections_are_found_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let (unnamed, _other) = UnixStream::pair().unwrap();
        let before = connected().unwrap();
        assert!(accepted_from(&listener).unwrap().is_empty());
        let near = UnixStream::connect(&path).unwrap();
        let (far, _) = listener.accept().unwrap();
        let inode = |fd: &dyn AsFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_ino;
        // Other tests of this process may hold duplicates for a moment, and have connections.
        let accepted = accepted_from(&listener).unwrap();
        assert!(!accepted.is_empty() && accepted.iter().all(|fd| inode(fd) == inode(&far)));
        let now = connected().unwrap();
        let is = |end: &UnixStream| (before.contains_key(&inode(end)), now.contains_key(&inode(end)));
        assert_eq!((is(&near), is(&far), is(&unnamed)), ((false, true), (false, false), (false, false)));
    }
}
