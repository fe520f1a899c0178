//! A request under way: which call of the kernel comes next, and what its answer means. Makes no call itself.

use std::io;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::file::Descriptors;
use super::{Operation, Request};

/// A request, the file it is for, and how far it has come.
pub(super) struct Transfer {
    request: Request,
    /// Kept open until the last call has been answered.
    files: Arc<Descriptors>,
    /// Bytes read or written so far.
    moved: usize,
    /// The last answer was "not now".
    again: bool,
    outcome: Option<io::Result<usize>>,
}

/// One call of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Call {
    pub(super) kind: Kind,
    /// Past the kernel's page cache.
    pub(super) direct: bool,
    /// Bytes to move.
    pub(super) len: usize,
    /// Asked before, and answered "not now": it may block this time.
    pub(super) again: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write,
    Sync,
}

impl Transfer {
    pub(super) fn new(request: Request, files: Arc<Descriptors>) -> Self {
        let outcome = match request.operation() {
            Operation::Read(buffer) | Operation::Write(buffer) if buffer.is_empty() => Some(Ok(0)),
            _ => None,
        };
        Self { request, files, moved: 0, again: false, outcome }
    }

    /// What to ask the kernel next; `None` when there is nothing left to ask.
    pub(super) fn call(&self) -> Option<Call> {
        if self.outcome.is_some() {
            return None;
        }
        let (kind, buffer) = match self.request.operation() {
            Operation::Read(buffer) => (Kind::Read, buffer),
            Operation::Write(buffer) => (Kind::Write, buffer),
            Operation::Sync => return Some(Call { kind: Kind::Sync, direct: false, len: 0, again: self.again }),
        };
        let left = (buffer.len() - self.moved).min(MOST);
        let direct = self.files.direct_part(buffer.start() as usize + self.moved, self.offset(), left);
        let len = if direct > 0 { direct } else { left };
        Some(Call { kind, direct: direct > 0, len, again: self.again })
    }

    /// The kernel's answer to `call`.
    pub(super) fn answer(&mut self, call: Call, answer: io::Result<usize>) {
        self.again = false;
        match answer {
            Ok(_) if call.kind == Kind::Sync => self.outcome = Some(Ok(0)),
            Ok(0) if call.kind == Kind::Read => self.outcome = Some(Ok(self.moved)),
            Ok(0) => self.outcome = Some(Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => {
                self.moved += more;
                if self.moved >= self.len() {
                    self.outcome = Some(Ok(self.moved));
                }
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN) => self.again = true,
                Some(libc::EINVAL | libc::EOPNOTSUPP) if call.direct => self.files.refuse_direct(),
                _ => self.outcome = Some(Err(error)),
            },
        }
    }

    /// Tells whoever asked how it ended. A panic of theirs is theirs: it is printed, and this thread goes on with the
    /// requests of others.
    pub(super) fn end(mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| Err(io::Error::other("ended before it was done")));
        self.end_with(outcome);
    }

    /// Ends it, whatever it has come to.
    pub(super) fn end_with(self, outcome: io::Result<usize>) {
        let Self { request, files, .. } = self;
        // Closed first: a caller that has heard of the end finds the descriptors gone if the file is.
        drop(files);
        let _ = catch_unwind(AssertUnwindSafe(|| request.complete(outcome)));
    }

    /// The descriptor that `call` is for.
    pub(super) fn fd(&self, call: Call) -> BorrowedFd<'_> {
        self.files.fd(call.direct)
    }

    /// Where in the file the next call begins, bytes.
    pub(super) fn offset(&self) -> u64 {
        self.request.offset().wrapping_add(self.moved as u64)
    }

    /// The descriptor that `call` is for, and what is still to be filled; nothing unless this is a read.
    pub(super) fn unfilled(&mut self, call: Call) -> (BorrowedFd<'_>, &mut [u8]) {
        let moved = self.moved;
        let left = self.request.read_buffer().map_or(&mut [][..], |buffer| &mut buffer[moved..]);
        (self.files.fd(call.direct), left)
    }

    /// What is still to be written; nothing unless this is a write.
    pub(super) fn unwritten(&self) -> &[u8] {
        match self.request.operation() {
            Operation::Write(buffer) => &buffer.bytes()[self.moved..],
            Operation::Read(_) | Operation::Sync => &[],
        }
    }

    fn len(&self) -> usize {
        match self.request.operation() {
            Operation::Read(buffer) | Operation::Write(buffer) => buffer.len(),
            Operation::Sync => 0,
        }
    }
}

/// Most bytes a call: below the kernel's own limit of 2 GiB less a page, and a multiple of every alignment.
const MOST: usize = 1 << 30;

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    type Ended = Arc<Mutex<Vec<io::Result<usize>>>>;

    enum Want {
        Read,
        Write,
        Sync,
    }

    /// A transfer of `memory` at offset 8192.
    fn transfer(want: &Want, memory: &mut [u8], direct: bool) -> (Transfer, Ended) {
        // SAFETY: every test keeps its memory until its transfer has ended, and touches it no more before.
        let buffer = unsafe { super::super::Buffer::new(memory.as_mut_ptr(), memory.len()) };
        let operation = match want {
            Want::Read => Operation::Read(buffer),
            Want::Write => Operation::Write(buffer),
            Want::Sync => Operation::Sync,
        };
        let ended = Ended::default();
        let tell = ended.clone();
        let request = Request::new(operation, 8192, move |result| tell.lock().unwrap().push(result));
        (Transfer::new(request, super::super::file::tests::unnamed(direct)), ended)
    }

    #[repr(align(4096))]
    struct Page([u8; 10_000]);

    /// Answers each call in turn; what was called (direct, at, bytes, again) and how it ended.
    fn check(want: Want, direct: bool, answers: &[Result<usize, i32>]) -> (Vec<(bool, u64, usize, bool)>, String) {
        let mut memory = Page([0; 10_000]);
        let (mut transfer, ended) = transfer(&want, &mut memory.0, direct);
        let mut calls = Vec::new();
        for &answer in answers {
            let call = transfer.call().expect("it has ended early");
            calls.push((call.direct, transfer.offset() - 8192, call.len, call.again));
            transfer.answer(call, answer.map_err(io::Error::from_raw_os_error));
        }
        assert_eq!(transfer.call(), None, "it goes on");
        transfer.end();
        let ended = std::mem::take(&mut *ended.lock().unwrap());
        let [ended] = <[_; 1]>::try_from(ended).unwrap();
        (calls, ended.map_or_else(|error| format!("{:?}", error.kind()), |bytes| bytes.to_string()))
    }

    #[test]
    fn answers_lead_to_the_next_call_or_the_end() {
        use io::ErrorKind::{StorageFull, WriteZero};
        let (eof, whole) = (Ok(0), 10_000);
        // Past the page cache up to the last page, its tail through it.
        let (calls, end) = check(Want::Write, true, &[Ok(8192), Ok(1808)]);
        assert_eq!((calls, end), (vec![(true, 0, 8192, false), (false, 8192, 1808, false)], whole.to_string()));
        // A short direct read may be the end of the file or not: only a read of nothing says.
        let (calls, end) = check(Want::Read, true, &[Ok(5000), eof]);
        assert_eq!((calls, end), (vec![(true, 0, 8192, false), (false, 5000, 5000, false)], "5000".into()));
        let (calls, end) = check(Want::Read, true, &[Ok(4096), Ok(4096), Ok(1808)]);
        assert_eq!(calls, [(true, 0, 8192, false), (true, 4096, 4096, false), (false, 8192, 1808, false)]);
        assert_eq!(end, whole.to_string());
        // Interrupted, and not now.
        let (calls, end) = check(Want::Write, false, &[Err(libc::EINTR), Ok(6000), Err(libc::EAGAIN), Ok(4000)]);
        let expected = [(0, 10_000, false), (0, 10_000, true), (6000, 4000, false), (6000, 4000, true)];
        assert_eq!(calls, expected.map(|(at, len, again)| (false, at, len, again)));
        assert_eq!(end, whole.to_string());
        // Direct calls refused: through the page cache from then on.
        let (calls, end) = check(Want::Read, true, &[Err(libc::EINVAL), Ok(10_000)]);
        assert_eq!((calls, end), (vec![(true, 0, 8192, false), (false, 0, 10_000, false)], whole.to_string()));
        // Ends that are none to be glad of.
        assert_eq!(check(Want::Write, false, &[Ok(1), Ok(0)]).1, format!("{WriteZero:?}"));
        assert_eq!(check(Want::Write, true, &[Ok(4096), Err(libc::ENOSPC)]).1, format!("{StorageFull:?}"));
        assert_eq!(check(Want::Read, false, &[Err(libc::EINVAL)]).1, "InvalidInput");
        // Syncs.
        assert_eq!(check(Want::Sync, true, &[Err(libc::EINTR), eof]).0[0], (false, 0, 0, false));
        assert_eq!(check(Want::Sync, true, &[eof]).1, "0");
    }

    #[test]
    fn nothing_to_move_has_ended_already() {
        let (transfer, ended) = transfer(&Want::Write, &mut [], true);
        assert_eq!(transfer.call(), None);
        transfer.end();
        assert!(matches!(ended.lock().unwrap()[..], [Ok(0)]));
    }

    #[test]
    fn a_transfer_that_is_dropped_tells_so() {
        let (transfer, ended) = transfer(&Want::Sync, &mut [], false);
        drop(transfer);
        assert!(matches!(ended.lock().unwrap()[..], [Err(_)]));
    }
}
