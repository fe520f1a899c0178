//! Without io_uring: a few threads, each with one blocking call at a time.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::engine::{Queue, Started};
use super::transfer::{Call, Kind, Transfer};

/// Starts `count` threads.
pub(super) fn start(count: usize) -> io::Result<Started> {
    let line = Arc::new(Line::default());
    let mut threads = Vec::with_capacity(count);
    for _ in 0..count {
        let own = line.clone();
        match std::thread::Builder::new().name("stillwire-disk".into()).spawn(move || own.work()) {
            Ok(thread) => threads.push(thread),
            // Fewer do as well, if there is one.
            Err(_) if !threads.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok((line, threads))
}

/// Transfers in line.
#[derive(Default)]
struct Line {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Transfer>,
    closed: bool,
}

impl Queue for Line {
    fn put(&self, transfer: Transfer) -> Result<(), Transfer> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(transfer);
        }
        state.waiting.push_back(transfer);
        drop(state);
        self.bell.notify_one();
        Ok(())
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.bell.notify_all();
    }
}

impl Line {
    fn work(&self) {
        while let Some(mut transfer) = self.next() {
            while let Some(call) = transfer.call() {
                let answer = carry_out(&mut transfer, call);
                transfer.answer(call, answer);
            }
            transfer.end();
        }
    }

    /// Waits for work; `None` when there will be none.
    fn next(&self) -> Option<Transfer> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(transfer) = state.waiting.pop_front() {
                return Some(transfer);
            }
            if state.closed {
                return None;
            }
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn carry_out(transfer: &mut Transfer, call: Call) -> io::Result<usize> {
    if call.again {
        std::thread::yield_now();
    }
    let offset = transfer.offset();
    let answer = match call.kind {
        Kind::Read => {
            let (fd, bytes) = transfer.unfilled(call);
            rustix::io::pread(fd, &mut bytes[..call.len], offset)
        }
        Kind::Write => rustix::io::pwrite(transfer.fd(call), &transfer.unwritten()[..call.len], offset),
        Kind::Sync => rustix::fs::fdatasync(transfer.fd(call)).map(|()| 0),
    };
    Ok(answer?)
}

/// Calls at a time: enough to keep a disk's queue from running dry, few enough to be no burden where they sleep.
pub(super) const THREADS: usize = 4;
