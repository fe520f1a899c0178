//! What wakes the guard: a ring of its bell, or something heard.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::Uffd;
use crate::{Error, Result};

/// An eventfd.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        bell.map(Self).map_err(|error| Error::Guard { what: "eventfd", source: error.into() })
    }

    pub(crate) fn ring(&self) {
        // The only failure is a counter that is full, and then the guard is being woken anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Until it has rung, one of `listening` has heard something, or the time is over.
    pub(crate) fn wait(&self, listening: &[Arc<Uffd>], time: Option<Duration>) {
        let all = std::iter::once(self.0.as_fd()).chain(listening.iter().map(|uffd| uffd.as_fd()));
        let mut ready: Vec<_> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let timeout = time.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        // EINTR and the like: the caller looks at all sources in any case.
        let _ = poll(&mut ready, timeout.as_ref());
        // Read before the caller looks: what rings after that look rings again.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}
