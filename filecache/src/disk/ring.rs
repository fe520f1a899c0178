//! io_uring: one thread that submits, reaps and tells.
//!
//! Other threads put transfers in the mailbox; only the reaper touches the ring. So there is no submission queue for a
//! `done` to find full, and the kernel has no request that was submitted by a thread that has ended since (it would cancel
//! some of them). A transfer is in a slot while the kernel has a call of it, and leaves the slot only when that call has
//! been answered: nothing that the kernel may touch is given back before.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::ThreadId;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode, squeue, types};
use rustix::event::{EventfdFlags, PollFlags, eventfd};

use super::engine::{Queue, Started};
use super::transfer::{Call, Kind, Transfer};

/// Starts the reaper with a ring of `entries` submissions.
pub(super) fn start(entries: u32) -> io::Result<Started> {
    let mailbox = Arc::new(Mailbox {
        state: Mutex::default(),
        bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        reaper: OnceLock::new(),
    });
    let own = mailbox.clone();
    let (tell, told) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("stillwire-disk".into()).spawn(move || {
        // Made here: the kernel wants a ring of one submitter to be made by it.
        match Reaper::new(entries, own) {
            Ok(reaper) => {
                let _ = tell.send(Ok(()));
                reaper.run();
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    })?;
    told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))?;
    Ok((mailbox, vec![thread]))
}

/// What other threads share with the reaper.
struct Mailbox {
    state: Mutex<Mail>,
    /// Rung when the mailbox is no longer empty, and when it is closed.
    bell: OwnedFd,
    reaper: OnceLock<ThreadId>,
}

#[derive(Default)]
struct Mail {
    transfers: Vec<Transfer>,
    closed: bool,
}

impl Queue for Mailbox {
    fn put(&self, transfer: Transfer) -> Result<(), Transfer> {
        let mut mail = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if mail.closed {
            return Err(transfer);
        }
        // Whoever put the first one has rung, or is the reaper, which looks before it sleeps.
        let first = mail.transfers.is_empty();
        mail.transfers.push(transfer);
        drop(mail);
        if first && self.reaper.get() != Some(&std::thread::current().id()) {
            self.ring();
        }
        Ok(())
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.ring();
    }
}

impl Mailbox {
    fn ring(&self) {
        // The only failure is a counter that is full, and then the reaper is being woken anyway.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn silence(&self) {
        // Fails if it does not ring.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }

    /// What has come, and whether more may.
    fn take(&self) -> (Vec<Transfer>, bool) {
        let mut mail = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut mail.transfers), mail.closed)
    }
}

struct Reaper {
    ring: IoUring,
    mailbox: Arc<Mailbox>,
    /// Transfers whose next call has no slot yet.
    waiting: VecDeque<Transfer>,
    /// Transfers whose call the kernel has; a slot's number is the call's `user_data`.
    slots: Vec<Option<(Transfer, Call)>>,
    free: Vec<usize>,
    /// The ring waits for the bell, too.
    listening: bool,
}

impl Reaper {
    fn new(entries: u32, mailbox: Arc<Mailbox>) -> io::Result<Self> {
        let ring = make(entries)?;
        let _ = mailbox.reaper.set(std::thread::current().id());
        // One submission is the bell's. Completions have twice as many entries, so they do not overflow.
        let slots = (ring.params().sq_entries() as usize).saturating_sub(1).max(1);
        Ok(Self {
            ring,
            mailbox,
            waiting: VecDeque::new(),
            slots: (0..slots).map(|_| None).collect(),
            free: (0..slots).collect(),
            listening: false,
        })
    }

    fn run(mut self) {
        while self.feed() {
            if let Err(error) = self.ring.submit_and_wait(1)
                && error.raw_os_error() != Some(libc::EINTR)
            {
                // The kernel is short of memory for a moment; what it has not taken is in the ring still. A pause keeps
                // it from becoming a busy loop.
                std::thread::sleep(Duration::from_millis(1));
            }
            self.reap();
        }
    }

    /// Hands the kernel as many calls as there are slots for; `false` when there is nothing left to do, for good.
    fn feed(&mut self) -> bool {
        let (mail, closed) = self.mailbox.take();
        self.waiting.extend(mail);
        if closed && self.waiting.is_empty() && self.idle() {
            return false;
        }
        if !self.listening {
            self.listening = self.listen();
        }
        while let Some(slot) = self.free.pop() {
            let Some(transfer) = self.waiting.pop_front() else {
                self.free.push(slot);
                break;
            };
            if let Err(transfer) = self.hand(slot, transfer) {
                self.waiting.push_front(transfer);
                self.free.push(slot);
                break;
            }
        }
        true
    }

    fn idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Asks the ring to tell when the bell rings; `false` if there is no room now.
    fn listen(&mut self) -> bool {
        let fd = types::Fd(self.mailbox.bell.as_raw_fd());
        let entry = opcode::PollAdd::new(fd, u32::from(PollFlags::IN.bits())).build().user_data(BELL);
        // SAFETY: a poll touches no memory of this process, and the mailbox keeps the descriptor open for longer than
        // the ring is there: `self` has both and drops the ring first.
        unsafe { self.ring.submission().push(&entry) }.is_ok()
    }

    /// Puts the next call of `transfer` into the ring and the transfer into `slot`; gives it back if there is no room now.
    fn hand(&mut self, slot: usize, mut transfer: Transfer) -> Result<(), Transfer> {
        let Some(call) = transfer.call() else { unreachable!("what has ended is not in line") };
        let entry = entry(&mut transfer, call).user_data(slot as u64);
        // SAFETY: the entry points to the first `call.len` bytes of what the request's buffer has still to fill or to
        // write. The maker of the buffer promised them valid, and for a read exclusively ours, until `done` is called;
        // `done` is called by `Transfer::end` only (or by dropping the transfer), and the transfer stays in its slot
        // until the kernel has answered the entry: `reap` takes it out by the answer's `user_data`, and `Drop` below
        // does not let the slots be dropped before. The descriptor is open as long: the transfer has a share in it.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            return Err(transfer);
        }
        self.slots[slot] = Some((transfer, call));
        Ok(())
    }

    /// Takes the kernel's answers: what has ended is told, what has not comes next again.
    fn reap(&mut self) {
        let answers: Vec<_> = self.ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (user_data, result) in answers {
            if user_data == BELL {
                self.listening = false;
                // Before the mailbox is looked at: mail that comes after that look rings again.
                self.mailbox.silence();
                continue;
            }
            let slot = user_data as usize;
            let Some((mut transfer, call)) = self.slots.get_mut(slot).and_then(Option::take) else { continue };
            self.free.push(slot);
            transfer.answer(call, answer(result));
            if transfer.call().is_some() { self.waiting.push_front(transfer) } else { transfer.end() }
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if !self.idle() {
            // Only by a panic in this file. The kernel may still write to memory that would be given back.
            std::process::abort();
        }
    }
}

/// A ring that knows all the operations used here.
fn make(entries: u32) -> io::Result<IoUring> {
    // Completion work is done when the reaper asks for it, instead of interrupting it (Linux 6.1).
    let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries);
    let ring = match ring {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(entries)?,
        other => other?,
    };
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE, opcode::PollAdd::CODE];
    if needed.iter().all(|&code| probe.is_supported(code)) {
        Ok(ring)
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }
}

fn entry(transfer: &mut Transfer, call: Call) -> squeue::Entry {
    let fd = types::Fd(transfer.fd(call).as_raw_fd());
    let (offset, len) = (transfer.offset(), call.len as u32);
    let entry = match call.kind {
        Kind::Read => opcode::Read::new(fd, transfer.unfilled(call).1.as_mut_ptr(), len).offset(offset).build(),
        Kind::Write => opcode::Write::new(fd, transfer.unwritten().as_ptr(), len).offset(offset).build(),
        Kind::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
    };
    // A call that was answered "not now" goes to a thread of the kernel's, which may wait.
    if call.again { entry.flags(squeue::Flags::ASYNC) } else { entry }
}

fn answer(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.wrapping_neg()))
}

/// Submissions in a ring: more in flight than a disk's queue takes is no gain.
pub(super) const ENTRIES: u32 = 256;
/// The bell's `user_data`; no slot has it.
const BELL: u64 = u64::MAX;
