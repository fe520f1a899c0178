//! The calls that no library wraps, or wraps as unsafe.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use memmap2::{Mmap, MmapOptions};
use rustix::thread::UnshareFlags;
use socket2::Socket;

/// Leaves the namespaces in `flags` for new ones.
pub fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "descriptors stay common to all threads");
    // SAFETY: what makes it unsafe is a thread's own table of descriptors, in which a descriptor that another thread
    // owns means something else; such a table was not asked for.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Maps all of `file` for reading, with its pages in the page table.
pub fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the bytes behind a `&[u8]` must not change, nor the file shrink, while it is borrowed. The file has no
    // name that another process could open, and this one writes it before it is mapped and never after.
    unsafe { MmapOptions::new().populate().map(file) }
}

/// Makes `file`, an open `/dev/net/tun`, the far side of the interface `name`: IP packets, each behind 10 bytes that say
/// what is left to do with it (`struct virtio_net_hdr`).
pub fn attach_tun(file: &File, name: &str) -> io::Result<()> {
    // SAFETY: `ifreq` is a C structure of integers and a union of them, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    assert!(name.len() < request.ifr_name.len(), "{name} and a zero fit");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`; `request` is one, lives across the call, and its name is ended by
    // a zero, for it is shorter than the field. The descriptor is open.
    done(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) })
}

/// Says what the far side of a TUN interface takes: `TUN_F_…`.
pub fn set_offloads(file: &File, offloads: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours. The descriptor is open.
    done(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
}

/// Allows `MSG_ZEROCOPY` on a socket.
pub fn allow_zero_copy(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1)
}

/// Has the kernel cut what is sent on a UDP socket into datagrams of `bytes`.
pub fn set_segment(socket: &Socket, bytes: u16) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, bytes.into())
}

fn set_option(socket: &Socket, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let len = mem::size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from the pointer, which is that of an integer of that size that lives across
    // the call. The descriptor is open.
    done(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) })
}

/// Sends whose pages the kernel has let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// How many sends.
    pub sends: u32,
    /// Whether they were copied after all.
    pub copied: bool,
}

/// The next completion in a socket's error queue, if there is one.
pub fn completion(socket: &Socket) -> io::Result<Option<Completion>> {
    let mut control = Control([0; 128]);
    // SAFETY: `msghdr` is a C structure of integers and pointers, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: the kernel writes at most `msg_controllen` bytes to `msg_control`, a buffer of that length that nothing
    // else refers to and that lives across the call; there is no other buffer. The descriptor is open.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_ERRQUEUE) };
    if got < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    let Some(said) = extended_error(&message) else {
        return Err(io::Error::other("the error queue held a message without an error"));
    };
    if said.ee_origin != SO_EE_ORIGIN_ZEROCOPY {
        return Err(io::Error::from_raw_os_error(said.ee_errno as i32));
    }
    // The ends of the range are numbers of sends, which wrap.
    let sends = said.ee_data.wrapping_sub(said.ee_info).wrapping_add(1);
    Ok(Some(Completion { sends, copied: said.ee_code & SO_EE_CODE_ZEROCOPY_COPIED != 0 }))
}

fn extended_error(message: &libc::msghdr) -> Option<libc::sock_extended_err> {
    // SAFETY: `msg_control` and `msg_controllen` describe a live buffer, aligned for `cmsghdr`, of which the kernel has
    // written `msg_controllen` bytes; `CMSG_FIRSTHDR` and `CMSG_NXTHDR` give only headers that lie within them.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(message);
        while let Some(header) = at.as_ref() {
            let room = libc::CMSG_LEN(mem::size_of::<libc::sock_extended_err>() as u32) as usize;
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_IP, libc::IP_RECVERR) && header.cmsg_len >= room {
                // The header says that a whole error follows, of integers only, perhaps not aligned.
                return Some(libc::CMSG_DATA(at).cast::<libc::sock_extended_err>().read_unaligned());
            }
            at = libc::CMSG_NXTHDR(message, at);
        }
    }
    None
}

fn done(outcome: c_int) -> io::Result<()> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Room for control messages, aligned as `cmsghdr` wants it.
#[repr(align(8))]
struct Control([u8; 128]);

/// `include/uapi/linux/errqueue.h`.
const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
/// The same file.
const SO_EE_CODE_ZEROCOPY_COPIED: u8 = 1;

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    use super::*;

    /// A receiver on this machine could keep the pages for ever, so the kernel copies them, and says so.
    #[test]
    fn a_completion_on_loopback_says_that_the_send_was_copied() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let sender = Socket::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        allow_zero_copy(&sender).unwrap();
        sender.connect(&receiver.local_addr().unwrap().into()).unwrap();
        assert_eq!(completion(&sender).unwrap(), None, "nothing was sent");
        assert_eq!(sender.send_with_flags(&[7; 3000], libc::MSG_ZEROCOPY).unwrap(), 3000);
        let mut buffer = [0; 4000];
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 3000);
        let begin = Instant::now();
        let completion = loop {
            if let Some(completion) = completion(&sender).unwrap() {
                break completion;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "no completion");
            std::thread::yield_now();
        };
        assert_eq!(completion, Completion { sends: 1, copied: true });
    }
}
