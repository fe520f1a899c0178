//! The thread that keeps a leased file: it hears of a writer, lets the holds drain, lets the writer on, and takes the file
//! up again when the writer is done.
//!
//! ```text
//!   writer elsewhere     kernel                 keeper                          holders
//!   open, truncate ----> waits; signal ------>  shuts the gate                  new holds wait
//!                                               (asleep)           <----------- the last hold is dropped
//!                                               unmaps for the device
//!   goes on     <------- lease given back <---  looks for the end
//!   close       -------> lease again -------->  length as before? maps anew
//!                                               opens the gate ---------------> go on, with the new bytes
//! ```
//!
//! The mapping is made anew each time: an IOMMU has pinned the pages that the file had when it was mapped, and a file that
//! was cut short and written again (or written with `O_DIRECT`) has others.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::kind::not_leased;
use super::lease::{Ear, Given, Lease, break_time};
use super::{Core, Loss};

/// Keeps the file until it is told to stop, or until the file is not the same any more.
pub(super) fn keep(core: &Core, ear: &Ear, lease: &Lease) {
    while !core.is_stopping() {
        sleep(core, Some(ear.as_fd()), None);
        ear.drain();
        // A signal can also be of an earlier lease.
        if lease.is_quiet() {
            continue;
        }
        drain(core);
        // From before the writer can go on, so that its end is not missed.
        let watch = Watch::on(lease.file());
        let taken_up = let_on(core, lease).and_then(|()| take_up(core, ear, lease, watch));
        match taken_up {
            Ok(true) => {}
            Ok(false) => return,
            Err(loss) => return core.lose(loss),
        }
    }
}

/// Waits until no hold is left, and takes the file away from the device.
fn drain(core: &Core) {
    core.gate.shut();
    // The kernel's clock began to run before this one, by the time that the signal took.
    let mut patience = break_time();
    let start = Instant::now();
    // Release: who sees the count sees the gate shut.
    core.breaks.fetch_add(1, Ordering::Release);
    while !core.gate.close() {
        let left = patience.map(|whole| whole.saturating_sub(start.elapsed()));
        if left == Some(Duration::ZERO) {
            core.overdue();
            patience = None;
            continue;
        }
        sleep(core, None, left);
    }
    drop(core.gate.change(None));
}

/// Gives the lease back.
fn let_on(core: &Core, lease: &Lease) -> Result<(), Loss> {
    match lease.give_back() {
        Ok(Given::Back) => Ok(()),
        Ok(Given::WasTaken) => {
            core.overdue();
            Ok(())
        }
        Err(error) => Err(Loss::Failed(format!("giving the lease back: {error}"))),
    }
}

/// Takes the lease again when no writer is left, and opens the gate; `false` if told to stop.
fn take_up(core: &Core, ear: &Ear, lease: &Lease, watch: Option<Watch>) -> Result<bool, Loss> {
    // An event comes a moment before the kernel stops counting the writer, and truncate(2) is no opening at all: so
    // there are more looks after one, further and further apart.
    let longest = if watch.is_some() { LAST_NAP } else { LAST_NAP_UNWATCHED };
    let mut nap = FIRST_NAP;
    while let Err(error) = lease.take(ear.thread()) {
        if error.raw_os_error() != Some(libc::EAGAIN) {
            return Err(Loss::Failed(not_leased(&core.path, error).to_string()));
        }
        sleep(core, watch.as_ref().map(AsFd::as_fd), Some(nap));
        if core.is_stopping() {
            return Ok(false);
        }
        let seen = watch.as_ref().is_some_and(Watch::drain);
        nap = if seen { FIRST_NAP } else { (nap * 2).min(longest) };
    }
    // Under the lease, so it stays true.
    let found = lease.file().metadata().map_err(|error| Loss::Failed(format!("fstat: {error}")))?.len();
    if found != core.len {
        return Err(Loss::Changed { found });
    }
    core.gate.change(core.map().map_err(|error| Loss::Failed(error.to_string()))?);
    core.open();
    Ok(true)
}

/// Returns when the bell rang, `also` is readable, or the time is over.
fn sleep(core: &Core, also: Option<BorrowedFd<'_>>, time: Option<Duration>) {
    let mut fds = vec![PollFd::new(&core.bell, PollFlags::IN)];
    fds.extend(also.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
    let time = time.and_then(|time| Timespec::try_from(time).ok());
    // Interrupted or not, the caller looks again.
    let _ = poll(&mut fds, time.as_ref());
    let _ = rustix::io::read(&core.bell, &mut [0u8; 8]);
}

/// Hears when a writer closes the file.
struct Watch(OwnedFd);

impl Watch {
    /// `None` when the user has no more watches (`/proc/sys/fs/inotify`): then looking now and then must do.
    fn on(file: &File) -> Option<Self> {
        let watch = || -> io::Result<OwnedFd> {
            let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            let events = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MODIFY;
            inotify::add_watch(&fd, format!("/proc/self/fd/{}", file.as_raw_fd()), events)?;
            Ok(fd)
        };
        watch().ok().map(Self)
    }

    /// Takes all events; whether there were any.
    fn drain(&self) -> bool {
        let mut events = [0u8; 4096];
        let mut seen = false;
        while rustix::io::read(&self.0, &mut events).is_ok() {
            seen = true;
        }
        seen
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const FIRST_NAP: Duration = Duration::from_micros(100);
const LAST_NAP: Duration = Duration::from_secs(1);
const LAST_NAP_UNWATCHED: Duration = Duration::from_millis(20);
