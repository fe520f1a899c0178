//! The writer's side: a view of a file in another process's cache.
//!
//! Two threads: one reads what the cache says, the other changes the mappings it asks for. A change waits until the
//! cache's guard has read of it, and if the cache ends then, it is the first thread that reads instead.
#![allow(unsafe_code)]

mod laying;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::SealFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{Shutdown, SocketAddrUnix, shutdown};
use stillwire_dma::copy::{copy_in, copy_out};

use super::protocol::{Message, VERSION, receive, send};
use super::server::{MOST_ERRANDS, socket};
use crate::core::lock;
use crate::kernel::{Reserve, Uffd};
use crate::{Error, Result};

/// A writable view of a file that another process caches. Dropping it detaches; what was stored stays in the cache, which
/// brings it to the disk.
///
/// A store into a page that is held waits, as with a [`View`](crate::View); and what is said there of raw pointers is true
/// here. When the cache's process ends, the calls fail with [`Error::CacheGone`], and touches through
/// [`as_ptr`](Self::as_ptr), those that wait among them, become SIGBUS, as if the file had been cut off. (One that waits
/// at the very moment may be let through and be lost, like any store that the cache had not written back.)
pub struct AttachedFile {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Attaches to the file at `path` in the cache that serves at `socket` ([`Cache::serve`](crate::Cache::serve)).
///
/// # Errors
/// [`Error::Door`]: nobody serves there. [`Error::Stranger`]: somebody of another user does, who is not root. [`Error::Answered`]: the cache can not open the file for writing.
/// [`Error::NoUserfaultfd`], [`Error::NoWriteProtect`]: this process needs a userfaultfd of its own, as the cache does.
/// [`Error::View`]: no address space.
pub fn attach(socket: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<AttachedFile> {
    let shared = Arc::new(Shared::shake_hands(socket.as_ref(), path.as_ref())?);
    // Made first: whatever fails from here on, it is detached.
    let mut file = AttachedFile { shared: shared.clone(), threads: Vec::new() };
    let error = |source| shared.error("starting a thread", source);
    let (jobs, to_do) = channel();
    let seat = shared.clone();
    let seat = std::thread::Builder::new().name("stillwire-seat".into()).spawn(move || seat.serve(&to_do));
    let seat = seat.map_err(error)?;
    let reader = shared.clone();
    let read = move || {
        reader.read(&jobs);
        drop(jobs);
        reader.cache_is_gone(seat);
    };
    file.threads.push(std::thread::Builder::new().name("stillwire-attach".into()).spawn(read).map_err(error)?);
    Ok(file)
}

impl AttachedFile {
    /// Length of the file, bytes, as the cache last told it: with each answer to [`write_at`](Self::write_at) that had to
    /// ask, and to [`sync`](Self::sync).
    pub fn len(&self) -> u64 {
        self.shared.len.load(Ordering::Relaxed)
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Address space of the view, bytes: how far the file may grow and be seen here.
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// First byte, page aligned. See [`View::as_ptr`](crate::View::as_ptr).
    pub fn as_ptr(&self) -> *mut u8 {
        self.shared.reserve.base as *mut u8
    }

    /// Stores `bytes` at byte `offset` of the file. Waits while a page of that range is held.
    ///
    /// # Errors
    /// [`Error::Answered`]: outside of the file, or the cache can not read it in. [`Error::CacheGone`]: some of the bytes,
    /// or all, may have been stored in vain. A page that is cut off, or dropped and not to be read again, while this waits
    /// for a hold is a SIGBUS; only a [`View`](crate::View) tells that by an error.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.parts(offset, bytes.len(), |at, part| {
            // SAFETY: `parts` says that the range is inside of the view, which is mapped for writing as long as `self`
            // lives (or, when the cache is gone, as long as this is inside). Nobody has references into it.
            unsafe { copy_in(&bytes[part], self.as_ptr().add(at)) };
        })
    }

    /// Copies bytes out, as they are at the moment.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: as in `write_at`.
        self.parts(offset, bytes.len(), |at, part| unsafe { copy_out(self.as_ptr().add(at), &mut bytes[part]) })
    }

    /// Returns when every store that returned before is on the disk; see [`CachedFile::sync`](crate::CachedFile::sync).
    ///
    /// # Errors
    /// [`Error::Answered`], with the cache's error; [`Error::CacheGone`].
    pub fn sync(&self) -> Result<()> {
        self.shared.ask(|call| Message::Sync { call })
    }

    /// Has a range laid a part at a time, so that what fails beforehand is an error and no signal, and gives each part to `copy`: where
    /// it is in the view, and which bytes it is of.
    fn parts(&self, offset: u64, len: usize, mut copy: impl FnMut(usize, std::ops::Range<usize>)) -> Result<()> {
        let shared = &*self.shared;
        let _inside = Inside::enter(shared)?;
        let mut done = 0;
        loop {
            let part = done..len.min(done + AT_ONCE);
            let at = shared.touch(offset.saturating_add(done as u64), part.len())?;
            if !part.is_empty() {
                copy(at, part.clone());
            }
            if shared.gone.load(Ordering::SeqCst) {
                return Err(shared.cache_gone());
            }
            done = part.end;
            if done == len {
                return Ok(());
            }
        }
    }
}

impl Drop for AttachedFile {
    fn drop(&mut self) {
        let shared = &self.shared;
        {
            let mut mapped = lock(&shared.mapped);
            if std::mem::replace(&mut *mapped, false) {
                // SAFETY: safe users borrow `self`, which is being dropped; users of `as_ptr` were told to stop before
                // that. The seat looks at `mapped`, under the lock.
                unsafe { shared.reserve.unmap() };
            }
        }
        // In this order: the cache may stop guarding when it hears it. If it has gone, nobody need hear it.
        let _ = send(&shared.socket, &Message::Detach, None, true);
        let _ = shutdown(&shared.socket, Shutdown::Both);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

struct Shared {
    socket: OwnedFd,
    socket_path: PathBuf,
    path: PathBuf,
    uffd: Uffd,
    /// The whole arena.
    arena: OwnedFd,
    /// Bytes of it, which nobody can cut off.
    arena_len: u64,
    reserve: Reserve,
    /// Of the view, bytes.
    capacity: usize,
    page_shift: u32,
    len: AtomicU64,
    /// What is laid, by first byte in the view: length. For not asking the cache about every store.
    laid: RwLock<BTreeMap<usize, usize>>,
    /// Whether the view is still there. Locked while its mappings are changed.
    mapped: Mutex<bool>,
    /// The cache is gone; what is stored is stored in vain.
    gone: AtomicBool,
    /// Threads inside of `write_at` or `read_at`.
    inside: AtomicUsize,
    calls: Mutex<Calls>,
    bell: Condvar,
}

#[derive(Default)]
struct Calls {
    next: u64,
    /// Questions put, and their answers.
    open: HashMap<u64, Option<(i32, String)>>,
}

/// A thread is inside of a call.
struct Inside<'a>(&'a Shared);

impl<'a> Inside<'a> {
    fn enter(shared: &'a Shared) -> Result<Self> {
        shared.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Self(shared);
        // After it is counted: either this sees that the cache is gone, or who finds that out sees this.
        if shared.gone.load(Ordering::SeqCst) { Err(shared.cache_gone()) } else { Ok(inside) }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    /// Connects, and makes the view.
    fn shake_hands(socket_path: &Path, path: &Path) -> Result<Self> {
        let door =
            |what, hint| move |source: io::Error| Error::Door { socket: socket_path.to_path_buf(), what, source, hint };
        let strange = || {
            let source = io::ErrorKind::InvalidData.into();
            door("attaching", "; what serves there does not speak this version of the protocol")(source)
        };
        let path = std::path::absolute(path).map_err(Error::file(path, "finding its absolute path"))?;
        let socket = socket().map_err(|code| door("socket", "")(code.into()))?;
        let address = SocketAddrUnix::new(socket_path).map_err(|code| door("naming the socket", "")(code.into()))?;
        let hint = "; start what serves the cache there (send --serve, Cache::serve), as the same user";
        rustix::net::connect(&socket, &address).map_err(|code| door("connecting", hint)(code.into()))?;
        // It will get a descriptor that can stop every thread here, and give memory that it could make anything of.
        let stranger = |stranger| Error::Stranger { socket: socket_path.to_path_buf(), stranger };
        stillwire_dma::peer::check(&socket).map_err(stranger)?;
        let _ = set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER));
        // Who refuses without having heard us out resets the connection: the kernel says that first, and then what was said.
        let listen = || match receive(&socket) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => receive(&socket),
            other => other,
        };
        let hear = || match listen() {
            Ok(Some((Message::Refused { code, text }, _))) => {
                let source = io::Error::from_raw_os_error(code);
                Err(Error::Answered { socket: socket_path.to_path_buf(), text, source })
            }
            Ok(Some(other)) => Ok(other),
            Ok(None) => Err(Error::CacheGone { path: path.clone(), socket: socket_path.to_path_buf() }),
            Err(source) => Err(door("attaching", "")(source)),
        };
        // A peer that refuses may have closed its end by now; what it says tells more than that.
        let hello = Message::Attach { version: VERSION, path: path.as_os_str().as_bytes().to_vec() };
        let _ = send(&socket, &hello, None, true);
        let (Message::Welcome { len, page_shift, capacity }, fds) = hear()? else { return Err(strange()) };
        let [arena] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| strange())?;
        let arena_len = lasting_len(arena.as_fd()).ok_or_else(strange)?;
        let sane = (12..=30).contains(&page_shift) && (1..=1u64 << 47 >> page_shift).contains(&capacity);
        let page_shift = Some(page_shift as u32).filter(|_| sane).ok_or_else(strange)?;
        let uffd = Uffd::open()?;
        let least = len.div_ceil(1 << page_shift).clamp(1, capacity);
        let (reserve, capacity) = Reserve::for_view(&path, &uffd, page_shift, least, capacity)?;
        let ready = Message::Ready { base: reserve.base as u64, capacity, kernel_stores: uffd.hears_kernel_stores() };
        // When it can not be sent, no answer comes.
        let _ = send(&socket, &ready, Some(uffd.as_fd()), true);
        let started = match hear() {
            Ok((Message::Started, _)) => Ok(()),
            Ok(_) => Err(strange()),
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            // SAFETY: made above, and nobody has been told of it.
            unsafe { reserve.unmap() };
            return Err(error);
        }
        let _ = set_socket_timeout(&socket, Timeout::Recv, None);
        Ok(Self {
            socket_path: socket_path.to_path_buf(),
            socket,
            path,
            uffd,
            arena,
            arena_len,
            reserve,
            capacity: (capacity as usize) << page_shift,
            page_shift,
            len: AtomicU64::new(len),
            laid: RwLock::default(),
            mapped: Mutex::new(true),
            gone: AtomicBool::new(false),
            inside: AtomicUsize::new(0),
            calls: Mutex::default(),
            bell: Condvar::new(),
        })
    }

    /// Makes sure that the pages of a range are laid; where the range is in the view.
    fn touch(&self, offset: u64, len: usize) -> Result<usize> {
        let end = offset.saturating_add(len as u64);
        let inside = end <= self.len() && end <= self.capacity as u64;
        if !inside || !self.is_laid(offset as usize, end as usize) {
            // It knows the length, and says what is wrong.
            self.ask(|call| Message::Touch { call, offset, len: len as u64 })?;
        }
        match usize::try_from(end) {
            Ok(end) if end <= self.capacity => Ok(offset as usize),
            _ => Err(self.error("checking a range that the cache takes for good", io::ErrorKind::InvalidData.into())),
        }
    }

    fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    fn is_laid(&self, mut at: usize, end: usize) -> bool {
        let laid = self.laid.read().unwrap_or_else(PoisonError::into_inner);
        while at < end {
            match laid.range(..=at).next_back() {
                Some((start, len)) if start + len > at => at = start + len,
                _ => return false,
            }
        }
        true
    }

    /// Puts a question to the cache and waits for the answer.
    fn ask(&self, question: impl FnOnce(u64) -> Message) -> Result<()> {
        let mut calls = lock(&self.calls);
        let gone = || self.gone.load(Ordering::SeqCst);
        // Half of what the cache grants: it counts an errand a moment longer than it takes.
        while calls.open.len() >= MOST_ERRANDS / 2 && !gone() {
            calls = self.bell.wait(calls).unwrap_or_else(PoisonError::into_inner);
        }
        let call = calls.next;
        calls.next += 1;
        calls.open.insert(call, None);
        drop(calls);
        // When it can not be sent, the reader finds out too.
        let _ = send(&self.socket, &question(call), None, true);
        let mut calls = lock(&self.calls);
        loop {
            if let Some(Some(_)) = calls.open.get(&call) {
                break;
            }
            if gone() {
                calls.open.remove(&call);
                return Err(self.cache_gone());
            }
            calls = self.bell.wait(calls).unwrap_or_else(PoisonError::into_inner);
        }
        let answer = calls.open.remove(&call).flatten().unwrap_or_default();
        drop(calls);
        self.bell.notify_all();
        match answer {
            (0, _) => Ok(()),
            (code, text) => {
                let source = io::Error::from_raw_os_error(code);
                Err(Error::Answered { socket: self.socket_path.clone(), text, source })
            }
        }
    }

    /// Reads what the cache says, to its end.
    fn read(&self, jobs: &Sender<Message>) {
        loop {
            match receive(&self.socket) {
                Ok(Some((job @ (Message::Lay { .. } | Message::Unlay { .. }), _))) => {
                    if jobs.send(job).is_err() {
                        return;
                    }
                }
                Ok(Some((Message::Done { call, code, len, text }, _))) => {
                    self.len.store(len, Ordering::Relaxed);
                    if let Some(answer) = lock(&self.calls).open.get_mut(&call) {
                        *answer = Some((code, text));
                    }
                    self.bell.notify_all();
                }
                _ => return,
            }
        }
    }

    fn cache_gone(&self) -> Error {
        Error::CacheGone { path: self.path.clone(), socket: self.socket_path.clone() }
    }

    fn error(&self, what: &'static str, source: io::Error) -> Error {
        Error::Door { socket: self.socket_path.clone(), what, source, hint: "" }
    }
}

/// Length of memory that can not become shorter: what is laid beyond its end would be a SIGBUS, and no error.
fn lasting_len(memory: BorrowedFd<'_>) -> Option<u64> {
    let seals = rustix::fs::fcntl_get_seals(memory).ok()?;
    let len = rustix::fs::fstat(memory).ok()?.st_size;
    u64::try_from(len).ok().filter(|_| seals.contains(SealFlags::SHRINK))
}

/// Bytes that are laid and copied before more are laid.
const AT_ONCE: usize = 256 << 10;
/// How long the cache may take to open a file.
const ANSWER: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;

    #[test]
    fn memory_that_can_be_cut_off_is_not_taken() {
        let memory = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&memory, 8192).unwrap();
        rustix::fs::fcntl_add_seals(&memory, SealFlags::GROW).unwrap();
        assert_eq!(lasting_len(memory.as_fd()), None);
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK).unwrap();
        assert_eq!(lasting_len(memory.as_fd()), Some(8192));
        assert_eq!(lasting_len(std::fs::File::open("/dev/null").unwrap().as_fd()), None);
    }
}
