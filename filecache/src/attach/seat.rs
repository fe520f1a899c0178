//! The seat of a view in another process: what it is asked for, and what it has answered.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use rustix::net::{Shutdown, shutdown};

use super::protocol::{Message, send};
use super::server::PATIENCE;
use crate::core::{Core, lock};
use crate::mapping::{Seat, ViewMap};

/// The connection to a process with a view.
pub(super) struct Link {
    pub(super) socket: OwnedFd,
    calls: Mutex<Calls>,
    bell: Condvar,
}

#[derive(Default)]
struct Calls {
    next: u64,
    end: End,
    /// Calls that somebody waits for, and their answers.
    waiting: BTreeMap<u64, Option<i32>>,
    /// Calls that nobody waits for any more.
    late: BTreeMap<u64, Asked>,
}

/// How far a connection has ended.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum End {
    /// Not at all.
    #[default]
    Not,
    /// Nothing more is said, but what is mapped may still be there.
    HungUp,
    /// Nothing is mapped any more.
    Unmapped,
}

/// What a process was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Lay { at: usize },
    Unlay { at: usize },
}

/// An answer to a question that was not put.
pub(super) struct NotAsked;

impl Link {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, calls: Mutex::default(), bell: Condvar::new() }
    }

    /// Asks, and waits for the answer.
    fn call(&self, asked: Asked, message: impl FnOnce(u64) -> Message) -> io::Result<()> {
        let mut calls = lock(&self.calls);
        calls.may_ask(asked)?;
        if calls.end == End::Unmapped {
            return Ok(());
        }
        let call = calls.next;
        calls.next += 1;
        if let Err(error) = send(&self.socket, &message(call), None, false) {
            // Gone; or it lets hundreds of messages lie about, which none does that means well.
            self.hang_up();
            return Err(error);
        }
        calls.waiting.insert(call, None);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(Some(code)) = calls.waiting.get(&call).copied() {
                calls.waiting.remove(&call);
                return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || calls.end != End::Not {
                calls.waiting.remove(&call);
                if calls.end == End::Unmapped {
                    return calls.may_ask(asked);
                }
                calls.late.insert(call, asked);
                return Err(io::ErrorKind::TimedOut.into());
            }
            calls = self.bell.wait_timeout(calls, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The process has answered. `true`: it had not for too long, and has now done all that it was asked for.
    pub(super) fn answered(&self, core: &Core, view: &ViewMap, call: u64, code: i32) -> Result<bool, NotAsked> {
        let mut calls = lock(&self.calls);
        if let Some(answer) = calls.waiting.get_mut(&call) {
            *answer = Some(code);
            self.bell.notify_all();
            return Ok(false);
        }
        let asked = *calls.late.get(&call).ok_or(NotAsked)?;
        match asked {
            Asked::Lay { at } if code != 0 => view.is_unlaid(at),
            Asked::Unlay { at } if code == 0 => view.is_unlaid(at),
            _ => {}
        }
        core.let_go(view);
        // In this order: it is asked for something new when it is known what has become of the old.
        calls.late.remove(&call);
        let all = calls.late.is_empty();
        if all {
            // Touches that were not served meanwhile.
            view.wake_all();
            self.bell.notify_all();
        }
        Ok(all)
    }

    /// Waits until the process has done all that it was asked for; `false`: it never will.
    pub(super) fn wait_until_it_answers(&self) -> bool {
        let mut calls = lock(&self.calls);
        while !calls.late.is_empty() && calls.end == End::Not {
            calls = self.bell.wait(calls).unwrap_or_else(PoisonError::into_inner);
        }
        calls.end == End::Not
    }

    /// Nothing more is said to the process.
    pub(super) fn hang_up(&self) {
        // Of no consequence if the peer did it already.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    pub(super) fn has_ended(&self, how: End) {
        let mut calls = lock(&self.calls);
        calls.end = how;
        if how == End::Unmapped {
            calls.late.clear();
        }
        drop(calls);
        self.bell.notify_all();
    }

    pub(super) fn end(&self) -> End {
        lock(&self.calls).end
    }
}

impl Calls {
    /// Whether the process can be asked; what is not mapped is not laid, and can not be.
    fn may_ask(&self, asked: Asked) -> io::Result<()> {
        match (self.end, asked) {
            (End::Unmapped, Asked::Unlay { .. }) => Ok(()),
            (End::Unmapped, Asked::Lay { .. }) | (End::HungUp, _) => Err(io::ErrorKind::NotConnected.into()),
            (End::Not, _) if !self.late.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            (End::Not, _) => Ok(()),
        }
    }
}

/// A view in another process.
pub(super) struct Remote(pub(super) Arc<Link>);

impl Seat for Remote {
    fn lay(&self, at: usize, offset: u64, len: usize) -> io::Result<()> {
        let message = |call| Message::Lay { call, at: at as u64, offset, len: len as u64 };
        self.0.call(Asked::Lay { at }, message)
    }

    fn unlay(&self, at: usize, len: usize) -> io::Result<()> {
        self.0.call(Asked::Unlay { at }, |call| Message::Unlay { call, at: at as u64, len: len as u64 })
    }

    fn unmap(&self) {
        // The process has done it, or has ended: before that, its view is not removed.
    }

    fn is_foreign(&self) -> bool {
        true
    }

    fn answers(&self) -> bool {
        let calls = lock(&self.0.calls);
        calls.late.is_empty() && calls.end != End::HungUp
    }
}
