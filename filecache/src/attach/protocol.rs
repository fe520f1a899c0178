//! What the two processes say to each other: one message a packet of a Unix `SOCK_SEQPACKET` socket, a kind, four numbers
//! and a text, in the machine's byte order (both are on it).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// A message. `call` tells which answer belongs to which question; each side counts its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// To the cache: first of all. The file's path.
    Attach { version: u64, path: Vec<u8> },
    /// From the cache: the file's length (bytes), the page size (as a shift) and how many pages of address space to
    /// reserve. With the arena's descriptor.
    Welcome { len: u64, page_shift: u64, capacity: u64 },
    /// To the cache: where the address space is. With the userfaultfd that listens there.
    Ready { base: u64, capacity: u64, kernel_stores: bool },
    /// From the cache: the view is there.
    Started,
    /// From the cache, instead of an answer: why not.
    Refused { code: i32, text: String },
    /// From the cache: lay bytes of the arena from `offset` over the view, `at` bytes from its start.
    Lay { call: u64, at: u64, offset: u64, len: u64 },
    /// From the cache: take them away.
    Unlay { call: u64, at: u64, len: u64 },
    /// To the cache: that is done, or has failed.
    Answer { call: u64, code: i32 },
    /// To the cache: have these bytes of the file laid.
    Touch { call: u64, offset: u64, len: u64 },
    /// To the cache: bring the file to the disk.
    Sync { call: u64 },
    /// From the cache: that is done, or has failed; and the file's length.
    Done { call: u64, code: i32, len: u64, text: String },
    /// To the cache: nothing is mapped any more. The last message.
    Detach,
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let (kind, numbers, text): (u64, [u64; 4], &[u8]) = match self {
            Self::Attach { version, path } => (1, [*version, 0, 0, 0], path),
            Self::Welcome { len, page_shift, capacity } => (2, [*len, *page_shift, *capacity, 0], &[]),
            Self::Ready { base, capacity, kernel_stores } => (3, [*base, *capacity, u64::from(*kernel_stores), 0], &[]),
            Self::Started => (4, [0; 4], &[]),
            Self::Refused { code, text } => (5, [*code as u64, 0, 0, 0], text.as_bytes()),
            Self::Lay { call, at, offset, len } => (6, [*call, *at, *offset, *len], &[]),
            Self::Unlay { call, at, len } => (7, [*call, *at, *len, 0], &[]),
            Self::Answer { call, code } => (8, [*call, *code as u64, 0, 0], &[]),
            Self::Touch { call, offset, len } => (9, [*call, *offset, *len, 0], &[]),
            Self::Sync { call } => (10, [*call, 0, 0, 0], &[]),
            Self::Done { call, code, len, text } => (11, [*call, *code as u64, *len, 0], text.as_bytes()),
            Self::Detach => (12, [0; 4], &[]),
        };
        let mut bytes = Vec::with_capacity(HEADER + text.len());
        [kind].iter().chain(&numbers).for_each(|number| bytes.extend(number.to_ne_bytes()));
        bytes.extend(&text[..text.len().min(MOST_TEXT)]);
        bytes
    }

    /// `None`: rubbish.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, text) = bytes.split_at_checked(HEADER)?;
        let mut numbers =
            header.chunks_exact(8).map(|number| u64::from_ne_bytes(number.try_into().unwrap_or_default()));
        let mut next = || numbers.next().unwrap_or_default();
        let (kind, a, b, c, d) = (next(), next(), next(), next(), next());
        let words = || String::from_utf8_lossy(text).into_owned();
        let message = match kind {
            1 => Self::Attach { version: a, path: text.to_vec() },
            2 => Self::Welcome { len: a, page_shift: b, capacity: c },
            3 => Self::Ready { base: a, capacity: b, kernel_stores: c != 0 },
            4 => Self::Started,
            5 => Self::Refused { code: a as i32, text: words() },
            6 => Self::Lay { call: a, at: b, offset: c, len: d },
            7 => Self::Unlay { call: a, at: b, len: c },
            8 => Self::Answer { call: a, code: b as i32 },
            9 => Self::Touch { call: a, offset: b, len: c },
            10 => Self::Sync { call: a },
            11 => Self::Done { call: a, code: b as i32, len: c, text: words() },
            12 => Self::Detach,
            _ => return None,
        };
        Some(message)
    }
}

/// Sends a message, and a descriptor with it. With `wait` off it fails rather than wait for the peer to read.
pub(super) fn send(socket: impl AsFd, message: &Message, fd: Option<BorrowedFd<'_>>, wait: bool) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::NOSIGNAL | if wait { SendFlags::empty() } else { SendFlags::DONTWAIT };
    let bytes = message.encode();
    rustix::io::retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, flags))?;
    Ok(())
}

/// The next message, and the descriptors that came with it; `None` when the peer has gone.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let mut bytes = [0; HEADER + MOST_TEXT + 1];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = rustix::io::retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags))?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            fds.extend(some);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    let whole = !got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    let message = Message::decode(&bytes[..got.bytes]).filter(|_| whole && got.bytes <= HEADER + MOST_TEXT);
    message.map(|message| Some((message, fds))).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// What `result` says, as a number of `errno(3)`; 0 for success.
pub(super) fn code_of(result: &io::Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().filter(|code| *code > 0).unwrap_or(libc::EIO),
    }
}

/// Of this protocol.
pub(super) const VERSION: u64 = 1;
/// Longest text, bytes: a path's.
const MOST_TEXT: usize = 4096;
const HEADER: usize = 5 * 8;
/// Descriptors of one packet that are looked at; the kernel closes what is beyond.
const MOST_FDS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        let (one, other) = pair();
        let text = String::from("no space left");
        for message in [
            Message::Attach { version: VERSION, path: b"/a/\xff".to_vec() },
            Message::Welcome { len: 1, page_shift: 12, capacity: u64::MAX },
            Message::Ready { base: 4096, capacity: 9, kernel_stores: true },
            Message::Started,
            Message::Refused { code: 13, text: text.clone() },
            Message::Lay { call: 1, at: 2, offset: 3, len: 4 },
            Message::Unlay { call: 1, at: 2, len: 3 },
            Message::Answer { call: u64::MAX, code: -1 },
            Message::Touch { call: 3, offset: 2, len: 1 },
            Message::Sync { call: 8 },
            Message::Done { call: 1, code: 28, len: 5, text },
            Message::Detach,
        ] {
            send(&one, &message, Some(one.as_fd()), true).unwrap();
            let (arrived, fds) = receive(&other).unwrap().unwrap();
            assert_eq!((arrived, fds.len()), (message, 1));
        }
        drop(one);
        assert!(receive(&other).unwrap().is_none());
    }

    #[test]
    fn what_is_too_long_is_refused_and_a_long_text_is_cut() {
        let (one, other) = pair();
        rustix::net::send(&one, &[1; HEADER + MOST_TEXT + 1], SendFlags::empty()).unwrap();
        assert_eq!(receive(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
        send(&one, &Message::Refused { code: 0, text: "x".repeat(5000) }, None, true).unwrap();
        let Some((Message::Refused { text, .. }, _)) = receive(&other).unwrap() else { panic!() };
        assert_eq!(text.len(), MOST_TEXT);
    }

    proptest! {
        #[test]
        fn rubbish_is_no_message_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..HEADER * 2)) {
            let message = Message::decode(&bytes);
            prop_assert!(bytes.len() >= HEADER || message.is_none());
        }
    }
}
