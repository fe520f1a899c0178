//! What carries requests to the kernel: one a cache.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::file::Descriptors;
use super::transfer::Transfer;
use super::{Request, pool, ring};

/// Threads that bring requests to the kernel and tell of their ends.
///
/// Dropping it waits until every request has ended, unless one of its own threads drops it (a `done` had the last share):
/// then that thread goes on until every request has ended. So it must not be dropped with a lock taken that a `done` takes.
pub(crate) struct Engine {
    queue: Arc<dyn Queue>,
    threads: Vec<JoinHandle<()>>,
    notice: Option<String>,
}

/// Where an engine's threads find their work.
pub(super) trait Queue: Send + Sync {
    /// Puts a transfer in line; gives it back if the engine has been closed.
    fn put(&self, transfer: Transfer) -> Result<(), Transfer>;

    /// Nothing is taken any more; the threads end when they have no work left.
    fn close(&self);
}

/// A queue, and the threads that have begun to work on it.
pub(super) type Started = (Arc<dyn Queue>, Vec<JoinHandle<()>>);

impl Engine {
    /// With io_uring if it is wanted, or with threads where that cannot be had.
    pub(crate) fn new(io_uring: bool) -> io::Result<Self> {
        if cfg!(simulation) {
            // Simulated files do not come here.
            let (queue, threads) = pool::start(0)?;
            return Ok(Self { queue, threads, notice: None });
        }
        if io_uring {
            return Self::with_ring_of(ring::ENTRIES);
        }
        let (queue, threads) = pool::start(pool::THREADS)?;
        Ok(Self { queue, threads, notice: None })
    }

    /// Why io_uring is not used, and what to set so that it is.
    pub(crate) fn notice(&self) -> Option<String> {
        self.notice.clone()
    }

    /// Starts `request` for the file that `files` are open of.
    pub(super) fn submit(&self, request: Request, files: &Arc<Descriptors>) {
        let transfer = Transfer::new(request, files.clone());
        if transfer.call().is_none() {
            return transfer.end();
        }
        if let Err(refused) = self.queue.put(transfer) {
            refused.end_with(Err(io::Error::other("the cache's disk engine has been closed")));
        }
    }

    fn with_ring_of(entries: u32) -> io::Result<Self> {
        Self::with_ring(entries).or_else(|why| Self::with_threads(pool::THREADS, &why))
    }

    fn with_ring(entries: u32) -> io::Result<Self> {
        let (queue, threads) = ring::start(entries)?;
        Ok(Self { queue, threads, notice: None })
    }

    fn with_threads(count: usize, why: &io::Error) -> io::Result<Self> {
        let (queue, threads) = pool::start(count)?;
        let notice = format!(
            "disk: io_uring cannot be had ({why}); {count} threads read and write files instead, which is slower. {}",
            remedy(why)
        );
        Ok(Self { queue, threads, notice: Some(notice) })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.queue.close();
        let own = std::thread::current().id();
        if self.threads.iter().any(|thread| thread.thread().id() == own) {
            // Waiting for this very thread would never end, and for the others may not: they may wait for this one.
            return;
        }
        for thread in self.threads.drain(..) {
            // They catch the panics of others and have none of their own.
            let _ = thread.join();
        }
    }
}

/// What to do about a refusal of io_uring.
fn remedy(why: &io::Error) -> &'static str {
    match why.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "Set sysctl kernel.io_uring_disabled=0; in a container its seccomp profile must allow io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::ENOMEM) => "Raise the limit of locked memory (ulimit -l), or the memory of this control group",
        Some(libc::EMFILE | libc::ENFILE) => "Raise the limit of open files (ulimit -n)",
        _ => "Linux 5.6 or newer with CONFIG_IO_URING is needed",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::Weak;

    impl Engine {
        /// One of each sort that can be had, as small as it goes: what is in flight is soon more than fits.
        pub(crate) fn each() -> Vec<(&'static str, Arc<Self>)> {
            let mut engines = vec![("threads", Arc::new(Self::refused(libc::EPERM)))];
            match Self::with_ring(4) {
                Ok(ring) => {
                    assert_eq!(ring.notice(), None);
                    engines.push(("io_uring", Arc::new(ring)));
                }
                Err(why) => println!("skipped: io_uring cannot be had here ({why})"),
            }
            engines
        }

        /// What comes of it when io_uring is refused with `errno`.
        fn refused(errno: i32) -> Self {
            Self::with_threads(2, &io::Error::from_raw_os_error(errno)).unwrap()
        }

        /// Gone when the engine and its threads are.
        pub(in crate::disk) fn trace(&self) -> Weak<dyn Queue> {
            Arc::downgrade(&self.queue)
        }

        pub(crate) fn close(&self) {
            self.queue.close();
        }
    }

    #[test]
    fn threads_that_were_asked_for_are_nothing_to_tell_of() {
        let engine = Engine::new(false).unwrap();
        assert_eq!((engine.threads.len(), engine.notice()), (pool::THREADS, None));
    }

    #[test]
    fn a_refusal_is_told_with_its_remedy() {
        for (errno, word) in [
            (libc::EPERM, "kernel.io_uring_disabled=0"),
            (libc::ENOSYS, "CONFIG_IO_URING"),
            (libc::ENOMEM, "ulimit -l"),
            (libc::EMFILE, "ulimit -n"),
        ] {
            let notice = Engine::refused(errno).notice().unwrap();
            let cause = io::Error::from_raw_os_error(errno).to_string();
            assert!(notice.contains(word) && notice.contains(&cause), "{notice}");
        }
    }

    #[test]
    fn threads_stand_in_where_a_ring_is_refused() {
        // More entries than the kernel gives.
        let engine = Arc::new(Engine::with_ring_of(1 << 20).unwrap());
        assert!(engine.notice().unwrap().contains("4 threads"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = super::super::DiskFile::open(file.path(), &engine, true).unwrap();
        super::super::tests::sync(&disk).unwrap();
    }
}
