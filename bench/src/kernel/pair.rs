//! The sender's core and the far end's, and what a thread has used of its own.

use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use super::Error;

/// Two cores, or one twice.
pub struct Cores {
    far: usize,
    /// Whether there are two.
    pub apart: bool,
}

impl Cores {
    /// The first two cores that this process may use. This thread, the sender, goes to the first.
    ///
    /// # Errors
    /// The system refuses.
    pub fn of_this_process() -> Result<Self, Error> {
        let allowed = sched_getaffinity(None).map_err(Error::system("the cores this process may use"))?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
        let near = cores.next().unwrap_or(0);
        let far = cores.next();
        pin(near)?;
        Ok(Self { far: far.unwrap_or(near), apart: far.is_some() })
    }

    /// Moves this thread, the far end, to its core.
    ///
    /// # Errors
    /// The system refuses.
    pub fn go_far(&self) -> Result<(), Error> {
        pin(self.far)
    }
}

fn pin(core: usize) -> Result<(), Error> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(Error::system("a core for a thread"))
}

/// CPU time of this thread so far.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
