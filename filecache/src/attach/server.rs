//! The cache's side: a socket, a thread that lets processes in, and a thread for each of them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, shutdown};

use super::protocol::{Message, VERSION, receive, send};
use super::seat::{End, Link, NotAsked, Remote};
use crate::cache::{Cache, CacheInner};
use crate::core::lock;
use crate::file::Opened;
use crate::kernel::Uffd;
use crate::mapping::ViewMap;
use crate::view::{GROWTH, add_view, remove_view};
use crate::worker::is_unanswered;
use crate::{Error, Result};

/// A socket at which writers in other processes attach to a cache's files. The cache lives at least as long.
///
/// Dropping it closes the door, has every process unmap its view and removes the socket; what a process does not unmap
/// within seconds stays guarded, and keeps the cache, until that process has ended.
pub struct Door {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Where processes attach.
    pub fn socket(&self) -> &Path {
        &self.inner.path
    }

    /// Number of processes that are attached.
    pub fn attached(&self) -> usize {
        lock(&self.inner.links).len()
    }
}

impl Cache {
    /// Lets writers in other processes attach at `socket` ([`attach`](crate::attach::attach)). A socket that a dead
    /// process has left there is replaced.
    ///
    /// **Whoever attaches can read and write every byte of the cache's memory**, and every file that this process can open for
    /// writing. So the socket is made with mode 0600, and whatever becomes of that, only processes of the same user, or of
    /// root, are let in.
    ///
    /// # Errors
    /// [`Error::Door`]: somebody listens there already, or the socket can not be made.
    pub fn serve(&self, socket: impl AsRef<Path>) -> Result<Door> {
        let path = socket.as_ref().to_path_buf();
        let listener = listen(&path)?;
        let error = |what| {
            let socket = path.clone();
            move |source: io::Error| Error::Door { socket, what, source, hint: "" }
        };
        let bell = eventfd(0, EventfdFlags::CLOEXEC).map_err(|code| error("eventfd")(code.into()))?;
        let identity = std::fs::symlink_metadata(&path).map(|meta| (meta.dev(), meta.ino())).ok();
        let inner = Arc::new(Inner {
            path: path.clone(),
            identity,
            cache: self.0.clone(),
            listener,
            bell,
            closed: AtomicBool::new(false),
            links: Mutex::default(),
            left: Condvar::new(),
        });
        // Made first, so that the socket is removed when the thread can not be started.
        let mut door = Door { inner: inner.clone(), thread: None };
        let thread = std::thread::Builder::new().name("stillwire-door".into()).spawn(move || inner.run());
        door.thread = Some(thread.map_err(error("starting a thread"))?);
        Ok(door)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let inner = &self.inner;
        if std::fs::symlink_metadata(&inner.path).map(|meta| (meta.dev(), meta.ino())).ok() == inner.identity {
            // Nothing is to be done about a socket that stays: the next to listen there replaces it.
            let _ = std::fs::remove_file(&inner.path);
        }
        inner.closed.store(true, Ordering::Release);
        // The only failure is a full counter, and then the thread is being woken anyway.
        let _ = rustix::io::write(&inner.bell, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let mut links = lock(&inner.links);
        // They read the end of what we say, unmap, say so, and leave.
        for link in links.iter() {
            let _ = shutdown(&link.socket, Shutdown::Write);
        }
        let deadline = Instant::now() + PATIENCE;
        while !links.is_empty() && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            links = inner.left.wait_timeout(links, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        links.iter().for_each(|link| link.hang_up());
    }
}

/// A listening socket at `path` that only this user can connect to.
fn listen(path: &Path) -> Result<OwnedFd> {
    let error =
        |what, hint| move |code: Errno| Error::Door { socket: path.to_path_buf(), what, source: code.into(), hint };
    let address = SocketAddrUnix::new(path).map_err(error("naming the socket", "; use a shorter path"))?;
    let new = || socket().map_err(error("socket", ""));
    let bind = || -> Result<std::result::Result<OwnedFd, Errno>> {
        let socket = new()?;
        // Before it has a name: the file of that name is never open to others, whatever the umask.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(error("fchmod", ""))?;
        Ok(rustix::net::bind(&socket, &address).map(|()| socket))
    };
    let socket = match bind()? {
        Err(Errno::ADDRINUSE) => {
            let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
            let alive = rustix::net::connect(new()?, &address) != Err(Errno::CONNREFUSED);
            if !is_socket || alive {
                let hint = "; another cache serves there, or it is no socket: use another path";
                return Err(error("binding", hint)(Errno::ADDRINUSE));
            }
            // Of a process that has ended.
            let _ = std::fs::remove_file(path);
            bind()?
        }
        other => other,
    };
    let socket = socket.map_err(error("binding", "; its folder must exist and this user be allowed to write there"))?;
    rustix::net::listen(&socket, 16).map_err(error("listen", ""))?;
    Ok(socket)
}

pub(super) fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

struct Inner {
    path: PathBuf,
    /// Device and inode of the socket's file.
    identity: Option<(u64, u64)>,
    cache: Arc<CacheInner>,
    listener: OwnedFd,
    bell: OwnedFd,
    closed: AtomicBool,
    /// Those that are attached or about to be.
    links: Mutex<Vec<Arc<Link>>>,
    /// One of them has left.
    left: Condvar,
}

impl Inner {
    fn run(self: Arc<Self>) {
        while !self.closed.load(Ordering::Acquire) {
            let fds = [self.listener.as_fd(), self.bell.as_fd()];
            let mut ready = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            // EINTR and the like: the next turn looks again.
            if poll(&mut ready, None).is_err() || ready[0].revents().is_empty() {
                continue;
            }
            match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(socket) => self.let_in(socket),
                // No descriptors left, say; a pause keeps it from becoming a busy loop.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Starts a thread for who has connected.
    fn let_in(self: &Arc<Self>, socket: OwnedFd) {
        // Whatever the mode of the socket's file has become: what is handed over is this user's memory and files. Before it
        // has a place, of which there are not many.
        if let Err(stranger) = stillwire_dma::peer::check(&socket) {
            tracing::warn!(socket = %self.path.display(), %stranger, "a process was refused");
            let _ = send(&socket, &Message::Refused { code: libc::EACCES, text: stranger.to_string() }, None, false);
            return;
        }
        let mut links = lock(&self.links);
        if links.len() >= MOST_ATTACHED {
            let text = format!("{MOST_ATTACHED} processes are attached already; detach one");
            let _ = send(&socket, &Message::Refused { code: libc::EUSERS, text }, None, false);
            return;
        }
        let link = Arc::new(Link::new(socket));
        links.push(link.clone());
        drop(links);
        let (door, link_there) = (self.clone(), link.clone());
        let attachment = move || {
            attachment(&door.cache, &link_there, &door.path);
            door.has_left(&link_there);
        };
        if std::thread::Builder::new().name("stillwire-attached".into()).spawn(attachment).is_err() {
            self.has_left(&link);
        }
    }

    fn has_left(&self, link: &Arc<Link>) {
        lock(&self.links).retain(|other| !Arc::ptr_eq(other, link));
        self.left.notify_all();
    }
}

/// A process and its view.
struct Attached {
    link: Arc<Link>,
    opened: Arc<Opened>,
    view: Arc<ViewMap>,
    /// Errands that are being run for it.
    errands: AtomicUsize,
}

/// From a process's first word to the end of its view.
fn attachment(cache: &Arc<CacheInner>, link: &Arc<Link>, socket: &Path) {
    let attached = match shake_hands(cache, link) {
        Ok(attached) => Arc::new(attached),
        Err(error) => {
            tracing::warn!(socket = %socket.display(), %error, "a process was refused");
            // The peer may have gone, or have said rubbish; then nobody reads it.
            let refused = Message::Refused { code: error.code(), text: error.to_string() };
            let _ = send(&link.socket, &refused, None, false);
            return;
        }
    };
    let (core, file) = (&cache.core, attached.opened.file.path().display());
    tracing::info!(socket = %socket.display(), %file, "a process has attached, and may write");
    let unmapped = attached.listen();
    tracing::info!(socket = %socket.display(), %file, unmapped, "a process has left");
    if !unmapped {
        link.has_ended(End::HungUp);
        link.hang_up();
        attached.until_it_is_gone();
    }
    link.has_ended(End::Unmapped);
    remove_view(core, &attached.view);
    core.unlisten(&attached.view.uffd);
    link.hang_up();
}

/// Opens the file that a process asks for, and takes the view that it has made.
fn shake_hands(cache: &Arc<CacheInner>, link: &Arc<Link>) -> Result<Attached> {
    let core = &cache.core;
    let peer = |why: &'static str| Error::Peer(why);
    set_socket_timeout(&link.socket, Timeout::Recv, Some(PATIENCE)).map_err(|_| peer("has a strange socket"))?;
    let Ok(Some((Message::Attach { version: VERSION, path }, _))) = receive(&link.socket) else {
        return Err(peer("did not ask for a file in this version of the protocol; run the same version on both sides"));
    };
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(&path));
    let file = Cache(cache.clone()).open(&path)?;
    let opened = file.0;
    let file = &opened.file;
    if !file.storage.writable() {
        return Err(Error::ReadOnly { path });
    }
    let shift = core.arena.page_shift();
    let least = file.pages().max(1);
    let most = (file.pages() * 2).max((GROWTH >> shift) as u64);
    let welcome = Message::Welcome { len: file.len(), page_shift: u64::from(shift), capacity: most };
    send(&link.socket, &welcome, Some(core.arena.memory().fd()), false).map_err(|_| peer("has gone"))?;
    let Ok(Some((Message::Ready { base, capacity, kernel_stores }, fds))) = receive(&link.socket) else {
        return Err(peer("did not make a view"));
    };
    let [fd] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| peer("did not send its userfaultfd, and nothing else"))?;
    let base = check_place(base, capacity, shift).ok_or_else(|| peer("has a view where none can be"))?;
    if !(1..=most).contains(&capacity) || capacity < least {
        return Err(peer("has a view of another size than it was told"));
    }
    let uffd = userfaultfd(fd, kernel_stores)?;
    set_socket_timeout(&link.socket, Timeout::Recv, None).map_err(|_| peer("has a strange socket"))?;
    core.listen(&uffd);
    // It listens to the view, but not for stores: nothing is laid yet. (Asked when the guard listens, for which the answer
    // may have to wait.)
    let page = core.arena.page_size();
    if uffd.protect(base, page).map_err(|error| error.raw_os_error()) != Err(Some(libc::ENOENT)) {
        core.unlisten(&uffd);
        return Err(peer("sent a userfaultfd that does not listen to its view"));
    }
    let seat = Box::new(Remote(link.clone()));
    let view = Arc::new(ViewMap::new(file.clone(), uffd, base, capacity, shift, seat));
    add_view(core, &view);
    // That it has gone is found when it is read from.
    let _ = send(&link.socket, &Message::Started, None, false);
    Ok(Attached { link: link.clone(), opened, view, errands: AtomicUsize::new(0) })
}

/// The first address of a view, if it is aligned and all of it below the end of what a process can have.
fn check_place(base: u64, capacity: u64, shift: u32) -> Option<usize> {
    let len = capacity.checked_mul(1 << shift)?;
    let end = base.checked_add(len)?;
    (base > 0 && base.is_multiple_of(1 << shift) && end <= 1 << 47).then_some(base as usize)
}

/// Takes a descriptor for a userfaultfd only if it is one, and one that the guard can read without being kept waiting.
fn userfaultfd(fd: OwnedFd, kernel_stores: bool) -> Result<Arc<Uffd>> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let is_one = link.is_ok_and(|link| link.as_os_str() == "anon_inode:[userfaultfd]");
    let waits = rustix::fs::fcntl_getfl(&fd).map_or(true, |flags| !flags.contains(OFlags::NONBLOCK));
    if !is_one || waits {
        return Err(Error::Peer("sent something else than a userfaultfd that does not block"));
    }
    Ok(Arc::new(Uffd::of(fd, kernel_stores)))
}

impl Attached {
    /// Reads what the process says, to its end; `true`: it has unmapped its view.
    fn listen(self: &Arc<Self>) -> bool {
        loop {
            // Whatever else it says is rubbish, and who says rubbish is cut off.
            let fine = match receive(&self.link.socket) {
                Ok(Some((Message::Detach, _))) => return true,
                Ok(Some((Message::Answer { call, code }, _))) => {
                    let core = &self.opened.cache.core;
                    match self.link.answered(core, &self.view, call, code) {
                        Ok(true) => self.spawn(|attached| attached.tidy()),
                        Ok(false) => Ok(()),
                        Err(NotAsked) => Err(()),
                    }
                }
                Ok(Some((Message::Touch { call, offset, len }, _))) => {
                    self.run(call, move |attached| attached.touch(offset, len))
                }
                Ok(Some((Message::Sync { call }, _))) => self.run(call, |attached| attached.opened.sync(0..u64::MAX)),
                _ => Err(()),
            };
            if fine.is_err() {
                return false;
            }
        }
    }

    /// Does something for the process and tells it the outcome.
    fn run(
        self: &Arc<Self>,
        call: u64,
        errand: impl FnOnce(&Self) -> Result<()> + Send + 'static,
    ) -> std::result::Result<(), ()> {
        self.spawn(move |attached| attached.tell(call, &errand(attached)))
    }

    /// Does something that may take time. Meanwhile the process is listened to: it may have to be asked for something in
    /// order to get it done. An error: it has too many errands.
    fn spawn(self: &Arc<Self>, errand: impl FnOnce(&Self) + Send + 'static) -> std::result::Result<(), ()> {
        if self.errands.fetch_add(1, Ordering::Relaxed) >= MOST_ERRANDS {
            return Err(());
        }
        let attached = self.clone();
        let run = move || {
            errand(&attached);
            attached.errands.fetch_sub(1, Ordering::Relaxed);
        };
        let started = std::thread::Builder::new().name("stillwire-errand".into()).spawn(run);
        started.map(drop).map_err(drop)
    }

    /// Takes away what the process went on to show when it did not answer: pages that are not the file's any more.
    fn tidy(&self) {
        let _layout = lock(&self.opened.file.layout);
        for run in self.view.kept_runs() {
            // When it does not answer again, this is done when it does.
            let _: io::Result<()> = self.view.unlay(&run);
        }
        self.opened.cache.core.let_go(&self.view);
    }

    fn tell(&self, call: u64, answer: &Result<()>) {
        let (code, text) = answer.as_ref().err().map_or((0, String::new()), |error| (error.code(), error.to_string()));
        let done = Message::Done { call, code, len: self.opened.file.len(), text };
        // One that lets this many answers lie about is not listening.
        if send(&self.link.socket, &done, None, false).is_err() {
            self.link.hang_up();
        }
    }

    /// Has bytes of the file laid, as `View::write_at` has.
    fn touch(&self, offset: u64, len: u64) -> Result<()> {
        let file = &self.opened.file;
        let range = file.check(offset..offset.saturating_add(len))?;
        let most = self.view.capacity << self.opened.cache.core.arena.page_shift();
        if range.end > most {
            let path = file.path().to_path_buf();
            return Err(Error::OutOfRange { path, start: range.start, end: range.end, len: most });
        }
        for page in file.pages_of(&range) {
            loop {
                if self.link.end() != End::Not {
                    return Err(Error::Peer("has gone"));
                }
                match file.lay(&self.opened.cache.core, &self.view, page) {
                    Err(Error::View { source, .. }) if is_unanswered(&source) && self.link.wait_until_it_answers() => {}
                    other => break other?,
                }
            }
        }
        Ok(())
    }

    /// Waits until the process's address space is gone. A process that has ended has none, and one that runs another
    /// program has another: so it is the userfaultfd that is asked, which belongs to the address space.
    fn until_it_is_gone(&self) {
        let page = self.opened.cache.core.arena.page_size();
        let mut pause = Duration::from_millis(1);
        // Protecting what is not protected costs a writer a fault.
        while self.view.uffd.protect(self.view.base, page).map_err(|error| error.raw_os_error())
            != Err(Some(libc::ESRCH))
        {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }
}

/// How long a process may take for what it is asked for, and for the handshake.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Processes that can be attached at the same time, at a thread each.
const MOST_ATTACHED: usize = 64;
/// Errands that are run for a process at the same time; [`AttachedFile`](super::AttachedFile) asks for half as many.
pub(super) const MOST_ERRANDS: usize = 8;
