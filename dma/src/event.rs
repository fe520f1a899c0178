//! What an interrupt becomes in userspace: an eventfd to wait for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::{Error, Result};

/// An eventfd: a count of what happened since it was last [taken](Self::take). Give it to
/// [`PciFunction::set_msix`](crate::PciFunction::set_msix), wait for it here or in an epoll of your own.
#[derive(Debug)]
pub struct Event {
    fd: OwnedFd,
}

impl Event {
    /// One for which nothing has happened.
    ///
    /// # Errors
    /// When the process may open no more files.
    pub fn new() -> Result<Self> {
        let made = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        made.map(|fd| Self { fd }).map_err(|errno| Error::Event { what: "making one", source: errno.into() })
    }

    /// Waits until something has happened, at most for `timeout`; whether it has. A signal ends the wait early.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let timeout =
            Timespec { tv_sec: timeout.as_secs().min(i32::MAX as u64) as i64, tv_nsec: timeout.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(Error::Event { what: "waiting for it", source: errno.into() }),
        }
    }

    /// Takes what has happened, so that the next wait is for something new; whether there was anything.
    pub fn take(&self) -> bool {
        let mut count = [0; 8];
        // Nothing happened: it would block.
        rustix::io::read(&self.fd, &mut count).is_ok_and(|read| read == count.len())
    }

    /// Makes it happen: for a thread that is to be woken by another.
    pub fn ring(&self) {
        // A count that is full has been signalled already.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_waited_for_once() {
        let event = Event::new().unwrap();
        assert!(!event.wait(Duration::ZERO).unwrap() && !event.take());
        event.ring();
        event.ring();
        assert!(event.wait(Duration::from_secs(60)).unwrap());
        assert!(event.take());
        assert!(!event.wait(Duration::from_millis(1)).unwrap() && !event.take());
    }

    #[test]
    fn a_thread_is_woken() {
        let event = std::sync::Arc::new(Event::new().unwrap());
        let waiter = std::thread::spawn({
            let event = event.clone();
            move || event.wait(Duration::from_secs(60)).unwrap()
        });
        event.ring();
        assert!(waiter.join().unwrap());
    }
}
