//! A disk that takes its time, does one thing before another, and fails.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stillwire_filecache::{MemoryStorage, Operation, Request, Stamp, Storage};
use stillwire_scheduler::sync::{Condvar, Mutex};
use stillwire_scheduler::thread::{self, JoinHandle};
use stillwire_scheduler::{chance, choose, log, sleep};

use super::ledger;

/// One file of it.
pub struct Disk {
    pub inner: MemoryStorage,
    line: Mutex<Line>,
    bell: Condvar,
    /// Of a thousand requests, how many fail.
    fails: u64,
    /// Most time that a request takes, ns.
    slow: u64,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Request>,
    heals: bool,
    stop: bool,
}

impl Disk {
    /// A file with these bytes.
    pub fn new(path: &str, bytes: &[u8], fails: u64, slow: u64) -> Arc<Self> {
        let inner = MemoryStorage::new(path, bytes);
        Arc::new(Self { inner, line: Mutex::default(), bell: Condvar::new(), fails, slow })
    }

    /// The tasks that carry out what is asked for.
    pub fn start(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let work = || {
            let disk = self.clone();
            let work = move || {
                while let Some(request) = disk.next() {
                    disk.carry_out(request);
                }
            };
            thread::Builder::new().name("disk".into()).spawn(work).unwrap_or_else(|_| unreachable!("tasks start"))
        };
        (0..2).map(|_| work()).collect()
    }

    /// No failure from now on.
    pub fn heal(&self) {
        self.line.lock().unwrap_or_else(|_| unreachable!("never poisoned")).heals = true;
    }

    /// Nothing more is asked for.
    pub fn stop(&self) {
        self.line.lock().unwrap_or_else(|_| unreachable!("never poisoned")).stop = true;
        self.bell.notify_all();
    }

    fn next(&self) -> Option<Request> {
        let mut line = self.line.lock().unwrap_or_else(|_| unreachable!("never poisoned"));
        loop {
            if !line.waiting.is_empty() {
                // Not in the order in which they came.
                let which = choose(line.waiting.len() as u64) as usize;
                return line.waiting.remove(which);
            }
            if line.stop {
                return None;
            }
            line = self.bell.wait(line).unwrap_or_else(|_| unreachable!("never poisoned"));
        }
    }

    fn carry_out(&self, request: Request) {
        sleep(Duration::from_nanos(choose(self.slow.max(1))));
        let heals = self.line.lock().unwrap_or_else(|_| unreachable!("never poisoned")).heals;
        if !heals && chance(self.fails) {
            let errno = [libc::EIO, libc::ENOSPC, libc::EINTR][choose(3) as usize];
            self.inner.fail(0, errno);
            ledger::count(|counts| counts.disk_errors += 1);
            ledger::harm(match errno {
                libc::EIO => "the disk fails (EIO)",
                libc::ENOSPC => "the disk is full (ENOSPC)",
                _ => "a call of the disk is interrupted (EINTR)",
            });
            log(|| format!("{} fails with {errno}", self.inner.path().display()));
        }
        log(|| {
            let (what, len) = match request.operation() {
                Operation::Read(buffer) => ("reads", buffer.len()),
                Operation::Write(buffer) => ("writes", buffer.len()),
                Operation::Sync => ("syncs", 0),
            };
            format!("{what} {len} bytes at {} of {}", request.offset(), self.inner.path().display())
        });
        self.inner.submit(request);
    }
}

impl Storage for Disk {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn writable(&self) -> bool {
        true
    }

    fn stamp(&self) -> io::Result<Stamp> {
        self.inner.stamp()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn submit(&self, request: Request) {
        self.line.lock().unwrap_or_else(|_| unreachable!("never poisoned")).waiting.push_back(request);
        self.bell.notify_one();
    }
}
