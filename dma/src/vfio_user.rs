//! A device model in another process, over a vfio-user socket, by the `vfio_user` client.
//!
//! The client always asks for mappings that the device may read and write. A read-only mapping is therefore made with a
//! read-only descriptor: the peer's kernel refuses to map it for writing, which no flag could promise.

use std::fs::File;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use memmap2::MmapOptions;
use rustix::fs::SealFlags;
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_BAR0_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_REGION_INFO_FLAG_MMAP,
};
use vfio_user::Client;

use crate::{Access, Backend, BarInfo, Error, MappedArea, Result, SharedMemory, peer};

pub(crate) struct VfioUser {
    path: PathBuf,
    client: Mutex<State>,
}

struct State {
    client: Client,
    /// What broke the connection; nothing is sent any more then.
    broken: Option<String>,
}

impl VfioUser {
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let refused = |text: String| Error::VfioUser { path: path.to_owned(), text };
        let unseen = |error| refused(format!("asking whose it is: {error}; is /proc mounted?"));
        let before = peer::connected().map_err(unseen)?;
        // The crate trusts the lengths in the peer's first answers and panics on absurd ones.
        let client = panic::catch_unwind(|| Client::new(path))
            .map_err(|_| refused("the peer's greeting makes no sense; is this a vfio-user socket?".into()))?
            .map_err(|error| refused(explain(&error)))?;
        // So far it was only greeted; next it would be given memory. The crate keeps its socket to itself, so all that has been
        // connected meanwhile must lead to the right user.
        let mut ends = peer::connected().map_err(unseen)?;
        ends.retain(|inode, _| !before.contains_key(inode));
        ends.values().try_for_each(peer::check).map_err(|stranger| refused(stranger.to_string()))?;
        if ends.is_empty() {
            return Err(refused("the peer is gone already".into()));
        }
        Ok(Self { path: path.to_owned(), client: Mutex::new(State { client, broken: None }) })
    }

    fn error(&self, text: impl Into<String>) -> Error {
        Error::VfioUser { path: self.path.clone(), text: text.into() }
    }

    /// One request. After a failure the stream is out of step, so that failure is what every later request gets.
    fn ask<R>(&self, request: impl FnOnce(&mut Client) -> std::result::Result<R, vfio_user::Error>) -> Result<R> {
        let mut state = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = &state.broken {
            return Err(self.error(text.clone()));
        }
        // After a panic the client is shut down below and never used again, so no broken state is seen.
        let answer = panic::catch_unwind(AssertUnwindSafe(|| request(&mut state.client)));
        let text = match answer {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => explain(&error),
            Err(_) => "the peer's answer makes no sense".to_owned(),
        };
        state.broken = Some(text.clone());
        let _ = state.client.shutdown();
        Err(self.error(text))
    }
}

impl Backend for VfioUser {
    fn name(&self) -> String {
        format!("vfio-user:{}", self.path.display())
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        self.ask(|client| client.region_read(VFIO_PCI_CONFIG_REGION_INDEX, offset.into(), data))
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Result<()> {
        self.ask(|client| client.region_write(VFIO_PCI_CONFIG_REGION_INDEX, offset.into(), data))
    }

    fn bar(&self, index: u8) -> Result<BarInfo> {
        let state = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(region) = state.client.region(VFIO_PCI_BAR0_REGION_INDEX + u32::from(index)) else {
            return Ok(BarInfo { len: 0, mapped: Vec::new() });
        };
        let mut mapped = Vec::new();
        // A peer that could cut its file short under the mapping could kill us (SIGBUS); registers then go by message.
        let sealed =
            |file: &File| rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        let mappable = region.flags & VFIO_REGION_INFO_FLAG_MMAP != 0;
        let file = region.file_offset.as_ref().filter(|file| mappable && sealed(file.file()));
        for area in region.sparse_areas.iter().filter(|area| area.size > 0) {
            let Some(file) = file else { break };
            let inside = area.offset.checked_add(area.size).is_some_and(|end| end <= region.size);
            let aligned = |at: u64| [at, area.offset, area.size].iter().all(|value| value.is_multiple_of(PAGE));
            let long_enough = |at: u64| {
                let end = at.checked_add(area.size);
                file.file().metadata().is_ok_and(|meta| end.is_some_and(|end| meta.len() >= end))
            };
            let Some(at) = file.start().checked_add(area.offset).filter(|&at| inside && aligned(at) && long_enough(at))
            else {
                return Err(self.error(format!("BAR{index} offers a mapping that is not whole pages of its file")));
            };
            let pages = MmapOptions::new().offset(at).len(area.size as usize).map_raw(file.file().as_raw_fd());
            let pages = pages.map_err(|error| self.error(format!("mapping BAR{index}: {error}")))?;
            mapped.push(MappedArea { offset: area.offset, pages });
        }
        Ok(BarInfo { len: region.size, mapped })
    }

    fn bar_read(&self, index: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        self.ask(|client| client.region_read(VFIO_PCI_BAR0_REGION_INDEX + u32::from(index), offset, data))
    }

    fn bar_write(&self, index: u8, offset: u64, data: &[u8]) -> Result<()> {
        self.ask(|client| client.region_write(VFIO_PCI_BAR0_REGION_INDEX + u32::from(index), offset, data))
    }

    fn reset(&self) -> Result<()> {
        self.ask(|client| client.reset())
    }

    fn msix_vectors(&self) -> u32 {
        self.ask(|client| client.get_irq_info(VFIO_PCI_MSIX_IRQ_INDEX)).map_or(0, |info| info.count)
    }

    fn set_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        let set = |kind, start: usize, fds: &[RawFd]| {
            let (start, count) = (start as u32, fds.len() as u32);
            let flags = kind | VFIO_IRQ_SET_ACTION_TRIGGER;
            self.ask(|client| client.set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, flags, start, count, fds))
        };
        if eventfds.is_empty() {
            return set(VFIO_IRQ_SET_DATA_NONE, 0, &[]);
        }
        let fds: Vec<_> = eventfds.iter().map(AsRawFd::as_raw_fd).collect();
        let mut batches = fds.chunks(FDS_A_MESSAGE).enumerate();
        batches.try_for_each(|(batch, fds)| set(VFIO_IRQ_SET_DATA_EVENTFD, batch * FDS_A_MESSAGE, fds))
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        // The protocol has no such request. A model takes any address; 48 bits without x86's MSI window is what an
        // IOMMU would offer, so the same addresses work everywhere.
        vec![0..=0xfedf_ffff, 0xfef0_0000..=0xffff_ffff_ffff]
    }

    fn dma_map(&self, iova: u64, memory: &SharedMemory, range: Range<usize>, access: Access) -> Result<()> {
        let (offset, len) = (range.start as u64, range.len() as u64);
        match access {
            Access::ReadWrite => self.ask(|client| client.dma_map(offset, iova, len, memory.fd().as_raw_fd())),
            Access::ReadOnly => {
                let fd = memory.read_only_fd()?;
                self.ask(|client| client.dma_map(offset, iova, len, fd.as_raw_fd()))
            }
        }
    }

    fn dma_unmap(&self, iova: u64, len: usize) -> Result<()> {
        self.ask(|client| client.dma_unmap(iova, len as u64))
    }
}

/// Register pages, bytes.
const PAGE: u64 = 4096;
/// Descriptors that a peer built on the same crate takes with one message.
const FDS_A_MESSAGE: usize = 16;

fn explain(error: &vfio_user::Error) -> String {
    use vfio_user::Error as Peer;
    match error {
        Peer::Connect(source) => {
            let why = match source.kind() {
                io::ErrorKind::NotFound => "there is no such socket",
                io::ErrorKind::ConnectionRefused => "nobody listens on it",
                io::ErrorKind::PermissionDenied => "you may not connect to it",
                _ => return format!("cannot connect: {source}"),
            };
            format!("{why}; start the model first: stillwire-emulator --model ixgbe --socket PATH --wire loopback")
        }
        Peer::StreamRead(source) | Peer::StreamWrite(source) => {
            format!("the peer went away ({source}); was the emulator stopped?")
        }
        other => format!("{other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    fn refusal(path: &Path) -> String {
        VfioUser::connect(path).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn no_socket_and_no_listener_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(refusal(&path).contains("there is no such socket"));
        drop(UnixListener::bind(&path).unwrap());
        assert!(refusal(&path).contains("nobody listens"));
    }

    #[test]
    fn a_peer_that_talks_nonsense_or_leaves_is_an_error_not_a_panic() {
        // (what the peer sends, what the user reads). The first answer claims a message shorter than its own header.
        let cases: [(&[u8], &str); 2] = [(&[0; 20], "makes no sense"), (&[], "went away")];
        for (answer, expect) in cases {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("socket");
            let listener = UnixListener::bind(&path).unwrap();
            let peer = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut greeting = [0; 20];
                stream.read_exact(&mut greeting).unwrap();
                stream.write_all(answer).unwrap();
            });
            let text = refusal(&path);
            assert!(text.contains(expect), "expected '{expect}' in: {text}");
            peer.join().unwrap();
        }
    }
}
