//! A model on a vfio-user socket: for QEMU's `vfio-user-pci`, or for a driver in another process.
//!
//! What a peer says is hardly ever answered with an error beyond what the protocol crate itself finds, for QEMU gives up on
//! one: an unmap of what was never mapped is fine, a map that cannot be made leaves addresses that fault. A read of more than
//! the server says it takes is one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};
use stillwire_dma::peer::{self, Stranger};
use vfio_bindings::bindings::vfio as sys;
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, ServerBackend, ServerRegion, SparseArea};

use crate::config_space::LEN as CONFIG_LEN;
use crate::ixgbe;
use crate::local::LocalDevice;
use crate::model::{DeviceModel, DoorbellPages};
use crate::pages::PAGE;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another server is there.
    #[error("socket {}: another program listens on it; stop that program or use another path", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("socket {}: the path exists and is no socket; remove it or use another path", .0.display())]
    NotASocket(PathBuf),
    /// The socket could not be made.
    #[error("socket {}: {what}: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Step that failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The report could not be written.
    #[error("report {}: {source}; use a path that can be written", path.display())]
    Report {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A listening socket and the model behind it.
pub struct Server<M: DeviceModel = ixgbe::Model> {
    device: Arc<LocalDevice<M>>,
    listener: OwnedFd,
    stopper: Stopper,
    refused_maps: AtomicU64,
    strangers: AtomicU64,
    report: Option<PathBuf>,
}

/// Ends [`Server::serve`] from another thread.
#[derive(Clone)]
pub struct Stopper(Arc<StopState>);

struct StopState {
    stop: AtomicBool,
    listener: OwnedFd,
    path: PathBuf,
}

impl<M: DeviceModel> Server<M> {
    /// Listens on `path`, which only the owner may connect to. A socket file that nobody listens on is replaced.
    ///
    /// # Errors
    /// [`enum@Error`], with what to do.
    pub fn bind(path: &Path, model: M) -> Result<Self, Error> {
        clear_stale(path)?;
        let error = |what| move |source: io::Error| Error::Socket { path: path.to_owned(), what, source };
        let listener = listen(path).map_err(error("listening"))?;
        let twin = listener.try_clone().map_err(error("duplicating"))?;
        let state = StopState { stop: AtomicBool::new(false), listener: twin, path: path.to_owned() };
        Ok(Self {
            device: LocalDevice::new(model),
            listener,
            stopper: Stopper(Arc::new(state)),
            refused_maps: AtomicU64::new(0),
            strangers: AtomicU64::new(0),
            report: None,
        })
    }

    /// When a client has left, writes [`report`](crate::report()) into a file, before the device is reset for the next.
    pub fn report_to(&mut self, path: PathBuf) {
        self.report = Some(path);
    }

    /// The device behind the socket.
    pub fn device(&self) -> &Arc<LocalDevice<M>> {
        &self.device
    }

    /// What ends [`serve`](Self::serve).
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Maps that a client asked for and that could not be made.
    pub fn refused_maps(&self) -> u64 {
        self.refused_maps.load(Ordering::Relaxed)
    }

    /// Clients that were cut off because they are another user's.
    pub fn strangers(&self) -> u64 {
        self.strangers.load(Ordering::Relaxed)
    }

    /// Serves one client after the other until [`Stopper::stop`], or one only. Between two clients the device is as
    /// after power-on: bus mastering off, no memory mapped, no interrupts routed.
    ///
    /// # Errors
    /// [`Error::Socket`] when the listening socket cannot be used any more.
    pub fn serve(&self, once: bool) -> Result<(), Error> {
        let _running = self.device.spawn();
        while !self.stopper.stopped() {
            let admitted = self.serve_client()?;
            if admitted {
                self.write_report()?;
            }
            self.forget_client();
            if once && admitted {
                break;
            }
        }
        Ok(())
    }

    /// Whether the client was one that may be served.
    fn serve_client(&self) -> Result<bool, Error> {
        let error = |what| move |source: io::Error| Error::Socket { path: self.stopper.0.path.clone(), what, source };
        let listener = self.listener.try_clone().map_err(error("duplicating"))?;
        let server = vfio_user::Server::from_owned_fd(
            listener,
            true,
            irqs(self.device.with_model(|model| model.vectors())),
            self.regions(),
        );
        // Then the client is there, when it is looked for. (A listener that is shut down is ready as well.)
        while let Err(Errno::INTR) = poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], None) {}
        let visit = Visit { listener: &self.listener, admitted: OnceLock::new(), over: AtomicBool::new(false) };
        let mut session = Session { device: &self.device, refused_maps: &self.refused_maps, visit: &visit };
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| visit.watch());
            // The protocol crate computes with lengths that the peer sent; a panic of its ends this client, not the server.
            let outcome = catch_unwind(AssertUnwindSafe(|| server.run(&mut session)));
            visit.over.store(true, Ordering::Release);
            outcome
        });
        if let Some(Err(stranger)) = visit.admitted.get() {
            self.strangers.fetch_add(1, Ordering::Relaxed);
            eprintln!("{}: a client was refused: {stranger}", self.stopper.0.path.display());
            return Ok(false);
        }
        match outcome {
            Ok(Err(vfio_user::Error::SocketAccept(source))) if !self.stopper.stopped() => {
                Err(error("accepting")(source))
            }
            // A client that hangs up in the middle of a message is a client that left.
            _ => Ok(true),
        }
    }

    fn write_report(&self) -> Result<(), Error> {
        let Some(path) = &self.report else { return Ok(()) };
        let mut text = self.device.with_model(|model| crate::report(model, self.device.memory()));
        text.push_str(&format!("counter refused_maps {}\n", self.refused_maps()));
        std::fs::write(path, text).map_err(|source| Error::Report { path: path.clone(), source })
    }

    /// Memory first, so that nothing is reached while the model is reset.
    fn forget_client(&self) {
        self.device.memory().clear();
        self.device.eventfds().clear();
        self.device.with_model(M::function_reset);
    }

    fn regions(&self) -> Vec<ServerRegion> {
        self.device.with_model(|model| {
            let doorbells = model.doorbells();
            let count = sys::VFIO_PCI_CONFIG_REGION_INDEX + 2;
            (0..count)
                .map(|index| {
                    let len = match index {
                        sys::VFIO_PCI_CONFIG_REGION_INDEX => CONFIG_LEN as u64,
                        0..=5 => model.bar_len(index as u8),
                        _ => 0,
                    };
                    region(index, len, doorbells.filter(|pages| u32::from(pages.bar) == index))
                })
                .collect()
        })
    }
}

/// What the device has behind a VFIO region index.
fn region(index: u32, size: u64, doorbells: Option<DoorbellPages<'_>>) -> ServerRegion {
    let mut flags = if size > 0 { sys::VFIO_REGION_INFO_FLAG_READ | sys::VFIO_REGION_INFO_FLAG_WRITE } else { 0 };
    let mut sparse_areas = Vec::new();
    if let Some(pages) = doorbells {
        flags |= sys::VFIO_REGION_INFO_FLAG_MMAP;
        sparse_areas.extend(pages.offsets.iter().map(|offset| SparseArea {
            area: sys::vfio_region_sparse_mmap_area { offset: (*offset).into(), size: PAGE as u64 },
        }));
    }
    let argsz = size_of::<sys::vfio_region_info>() as u32;
    let region_info = sys::vfio_region_info { argsz, flags, index, cap_offset: 0, size, offset: 0 };
    ServerRegion { region_info, sparse_areas, mmap_fd: doorbells.map(|pages| pages.file.as_raw_fd()) }
}

/// INTx, MSI, MSI-X, errors, requests: only MSI-X is there. An error interrupt is offered, for QEMU warns without, and never
/// fires.
fn irqs(vectors: u16) -> Vec<IrqInfo> {
    (0..5)
        .map(|index| IrqInfo {
            index,
            flags: sys::VFIO_IRQ_INFO_EVENTFD | sys::VFIO_IRQ_INFO_NORESIZE,
            count: match index {
                sys::VFIO_PCI_MSIX_IRQ_INDEX => vectors.into(),
                sys::VFIO_PCI_ERR_IRQ_INDEX => 1,
                _ => 0,
            },
        })
        .collect()
}

fn clear_stale(path: &Path) -> Result<(), Error> {
    let error = |what| move |source: io::Error| Error::Socket { path: path.to_owned(), what, source };
    match std::fs::symlink_metadata(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(error("looking")(source)),
        Ok(found) if !found.file_type().is_socket() => return Err(Error::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(error("removing a stale socket"))
        }
        Err(source) => Err(error("asking who listens")(source)),
        Ok(_) => Err(Error::InUse(path.to_owned())),
    }
}

/// A listening socket at `path` that only this user can connect to.
pub(crate) fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Linux gives the file the mode of the socket, so it is never open to others, not even for a moment.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 8)?;
    Ok(socket)
}

impl Stopper {
    /// Ends the server: no new client, and the one that is there is cut off.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Release);
        let _ = rustix::net::shutdown(&self.0.listener, Shutdown::Both);
        let _ = self.hang_up();
    }

    fn stopped(&self) -> bool {
        self.0.stop.load(Ordering::Acquire)
    }

    /// Cuts the client's connection, which the protocol crate keeps to itself.
    fn hang_up(&self) -> io::Result<()> {
        let clients = peer::accepted_from(&self.0.listener)?;
        clients.iter().for_each(cut_off);
        Ok(())
    }
}

fn cut_off(client: &OwnedFd) {
    // One that has gone already is cut off.
    let _ = rustix::net::shutdown(client, Shutdown::Both);
}

impl<M: DeviceModel> Drop for Server<M> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.stopper.0.path);
    }
}

/// Who a client is. The protocol crate accepts it by itself and greets it at once, so the look comes a moment later, and
/// before anything that it asks of the device is done.
struct Visit<'a> {
    listener: &'a OwnedFd,
    admitted: OnceLock<Result<(), Stranger>>,
    over: AtomicBool,
}

impl Visit<'_> {
    /// Looks as soon as there is a client: a stranger that asks for nothing must not keep others out.
    fn watch(&self) {
        while !self.over.load(Ordering::Acquire) && self.admitted.get().is_none() {
            match peer::accepted_from(self.listener) {
                Ok(clients) if clients.is_empty() => std::thread::sleep(Duration::from_millis(1)),
                _ => drop(self.admits()),
            }
        }
    }

    /// Whether the client, which has been accepted, may do anything. A stranger is cut off.
    fn admits(&self) -> bool {
        let verdict = self.admitted.get_or_init(|| {
            // Without /proc nothing can be seen of it; the socket's mode has to do.
            let clients = peer::accepted_from(self.listener).unwrap_or_default();
            let verdict = clients.iter().try_for_each(peer::check);
            if verdict.is_err() {
                clients.iter().for_each(cut_off);
            }
            verdict
        });
        verdict.is_ok()
    }
}

/// One client's messages.
struct Session<'a, M: DeviceModel> {
    device: &'a LocalDevice<M>,
    refused_maps: &'a AtomicU64,
    visit: &'a Visit<'a>,
}

impl<M: DeviceModel> Session<'_, M> {
    /// An error that nobody reads: who is not admitted has been cut off.
    fn admitted(&self) -> io::Result<()> {
        if self.visit.admits() { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

/// Most bytes of one read or write: what the protocol crate says in its greeting (`max_data_xfer_size`), and does not look at.
const LONGEST: usize = 1 << 20;

impl<M: DeviceModel> ServerBackend for Session<'_, M> {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.admitted()?;
        // The one error that is told. The crate has asked for as much memory as the peer said, which may be 4 GiB, and costs
        // nothing as long as nobody writes it.
        if data.len() > LONGEST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match (region, u16::try_from(offset)) {
            (sys::VFIO_PCI_CONFIG_REGION_INDEX, Ok(offset)) => {
                self.device.with_model(|model| model.config_read(offset, data));
            }
            (0..=5, _) => self.device.with_model(|model| model.bar_read(region as u8, offset, data)),
            _ => data.fill(0),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        self.admitted()?;
        match (region, u16::try_from(offset)) {
            (sys::VFIO_PCI_CONFIG_REGION_INDEX, Ok(offset)) => {
                self.device.with_model(|model| model.config_write(offset, data));
            }
            (0..=5, _) => self.device.with_model(|model| model.bar_write(region as u8, offset, data)),
            _ => {}
        }
        self.device.wake();
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        self.admitted()?;
        // Memory without a descriptor cannot be reached; the protocol's DMA messages are not spoken here.
        let Some(fd) = fd else { return Ok(()) };
        let memory = self.device.memory();
        memory.unmap(address, size);
        if memory.map(address, fd.as_fd(), offset, size, flags.contains(DmaMapFlags::WRITE)).is_err() {
            self.refused_maps.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        self.admitted()?;
        let memory = self.device.memory();
        let ranges = if flags.contains(DmaUnmapFlags::UNMAP_ALL) {
            let ranges = memory.len();
            memory.clear();
            ranges
        } else {
            memory.unmap(address, size)
        };
        self.device.with_model(|model| model.note_unmapped(ranges));
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.admitted()?;
        self.device.with_model(M::function_reset);
        Ok(())
    }

    fn set_irqs(&mut self, index: u32, flags: u32, start: u32, count: u32, fds: Vec<File>) -> io::Result<()> {
        self.admitted()?;
        if index != sys::VFIO_PCI_MSIX_IRQ_INDEX || flags & sys::VFIO_IRQ_SET_ACTION_TRIGGER == 0 {
            return Ok(());
        }
        let vectors = self.device.with_model(|model| model.vectors());
        let count = (count as usize).min(vectors.into());
        if flags & sys::VFIO_IRQ_SET_DATA_EVENTFD != 0 {
            let fds = fds.into_iter().map(|fd| Some(OwnedFd::from(fd))).chain(std::iter::repeat_with(|| None));
            self.device.eventfds().set(vectors, start as usize, fds.take(count));
        } else if count == 0 {
            self.device.eventfds().clear();
        }
        Ok(())
    }
}
