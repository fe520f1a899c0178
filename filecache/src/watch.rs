//! The watch: a thread that hears from the kernel (inotify) that a cached file was changed, and looks what it was.
//!
//! Stores through other people's mappings of the file make no event, so every file is also looked at once in a while.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify;

use crate::core::{Core, lock};
use crate::file::FileCore;
use crate::{Error, Result};

/// The kernel's watch list of a cache.
pub(crate) struct Watch {
    inotify: OwnedFd,
    bell: OwnedFd,
    files: Mutex<HashMap<i32, Weak<FileCore>>>,
}

impl Watch {
    pub(crate) fn new() -> Result<Self> {
        let error = |what| move |error: rustix::io::Errno| Error::Guard { what, source: error.into() };
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        Ok(Self {
            inotify: inotify::init(flags)
                .map_err(error("inotify_init1; where too many files are open, ulimit -n or sysctl fs.inotify.max_user_instances is too low"))?,
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(error("eventfd"))?,
            files: Mutex::default(),
        })
    }

    /// Hears of changes of `file`, which `fd` is open on. Where the kernel has no more watches to give, the file is only
    /// looked at once in a while.
    pub(crate) fn add(&self, file: &Arc<FileCore>, fd: BorrowedFd<'_>) {
        use inotify::WatchFlags as Flags;
        // By descriptor, so that it is this very file.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let events = Flags::MODIFY | Flags::ATTRIB | Flags::DELETE_SELF | Flags::MOVE_SELF;
        let mut files = lock(&self.files);
        if let Ok(watch) = inotify::add_watch(&self.inotify, path, events) {
            files.insert(watch, Arc::downgrade(file));
        }
    }

    /// Lets the thread end.
    pub(crate) fn stop(&self) {
        // The only failure is a full counter, and then the thread is being woken anyway.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Starts the thread.
    pub(crate) fn start(self: &Arc<Self>, core: Arc<Core>) -> Result<JoinHandle<()>> {
        let watch = self.clone();
        std::thread::Builder::new()
            .name("stillwire-watch".into())
            .spawn(move || watch.run(&core))
            .map_err(|source| Error::Guard { what: "starting the watch", source })
    }

    fn run(&self, core: &Arc<Core>) {
        let mut looked = Instant::now();
        while !self.sleep() {
            for file in self.heard() {
                // A conflict is kept with the file, for who syncs it.
                let _: Result<()> = file.recheck(core);
            }
            if looked.elapsed().as_secs() >= EVERY {
                for file in core.all_files() {
                    let _: Result<()> = file.recheck(core);
                }
                self.forget();
                looked = Instant::now();
            }
        }
    }

    /// Gives the kernel's watches of files back that are not cached any more.
    fn forget(&self) {
        lock(&self.files).retain(|&watch, file| {
            let there = file.strong_count() > 0;
            if !there {
                // Fails when the file itself has gone, and its watch with it.
                let _ = inotify::remove_watch(&self.inotify, watch);
            }
            there
        });
    }

    /// Until something was heard, or a second has passed; `true`: the end.
    fn sleep(&self) -> bool {
        let fds = [self.inotify.as_fd(), self.bell.as_fd()];
        let mut ready = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let timeout = Timespec { tv_sec: EVERY as i64, tv_nsec: 0 };
        // EINTR and the like: the caller looks in any case.
        let _ = poll(&mut ready, Some(&timeout));
        rustix::io::read(&self.bell, &mut [0; 8]).is_ok()
    }

    /// The files of which something was heard.
    fn heard(&self) -> Vec<Arc<FileCore>> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut heard = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => heard.push(event.wd()),
                Err(rustix::io::Errno::INTR) => {}
                // Nothing more.
                Err(_) => break,
            }
        }
        heard.sort_unstable();
        heard.dedup();
        let files = lock(&self.files);
        heard.iter().filter_map(|watch| files.get(watch)?.upgrade()).collect()
    }
}

/// Seconds between two looks at every file.
const EVERY: u64 = 1;
