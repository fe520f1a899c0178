//! Register windows.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::MmapRaw;

use crate::{Backend, Error, Result};

/// A window of 32-bit little-endian registers: a BAR.
///
/// Mapped pages are read and written by pointer, the rest by message to the device's carrier. A register that cannot be
/// read reads as all ones, which is what the bus of a machine answers for a card that was pulled out; drivers have to
/// expect that value anyway.
#[derive(Clone)]
pub struct RegisterSpace(Arc<Window>);

struct Window {
    backend: Arc<dyn Backend>,
    bar: u8,
    len: u64,
    mapped: Vec<(u64, MmapRaw)>,
}

/// One register with its address worked out: what a data path keeps.
#[derive(Clone)]
pub struct Register {
    /// Keeps the mapped pages alive.
    space: RegisterSpace,
    offset: u32,
    /// The register's word when its page is mapped; it lies in pages that `space` owns.
    word: Option<NonNull<AtomicU32>>,
}

// SAFETY: `word` points to an atomic, which any thread may use, in pages that `space` (an `Arc`, itself `Send` and
// `Sync`) keeps mapped wherever the value goes.
unsafe impl Send for Register {}
// SAFETY: as above; all methods take `&self` and do single atomic accesses.
unsafe impl Sync for Register {}

impl RegisterSpace {
    pub(crate) fn new(backend: Arc<dyn Backend>, bar: u8, needed: u64) -> Result<Self> {
        let info = backend.bar(bar)?;
        if info.len < needed {
            return Err(Error::NoBar { device: backend.name(), index: bar, needed, found: info.len });
        }
        let len = info.len;
        // An area that reaches outside of the window or is not aligned is the carrier's mistake; messages still work.
        let fits = |offset: u64, pages: &MmapRaw| {
            let whole =
                [offset, pages.len() as u64, pages.as_ptr() as u64].iter().all(|value| value.is_multiple_of(4096));
            whole && offset.checked_add(pages.len() as u64).is_some_and(|end| end <= len)
        };
        let mapped =
            info.mapped.into_iter().map(|area| (area.offset, area.pages)).filter(|(o, p)| fits(*o, p)).collect();
        Ok(Self(Arc::new(Window { backend, bar, len, mapped })))
    }

    /// Size of the window, bytes.
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Whether the window has no registers.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Reads the register at `offset` (bytes); all ones when the device is gone.
    ///
    /// # Panics
    /// When `offset` is not aligned to 4 bytes or outside of the window.
    pub fn read(&self, offset: u32) -> u32 {
        match self.word(offset) {
            Some(word) => u32::from_le(word.load(Ordering::Relaxed)),
            None => {
                let mut bytes = [0; 4];
                match self.0.backend.bar_read(self.0.bar, offset.into(), &mut bytes) {
                    Ok(()) => u32::from_le_bytes(bytes),
                    Err(_) => u32::MAX,
                }
            }
        }
    }

    /// Writes the register at `offset` (bytes); a write to a device that is gone goes nowhere, as on the bus.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn write(&self, offset: u32, value: u32) {
        match self.word(offset) {
            Some(word) => word.store(value.to_le(), Ordering::Relaxed),
            None => {
                let _ = self.0.backend.bar_write(self.0.bar, offset.into(), &value.to_le_bytes());
            }
        }
    }

    /// Works out a register's address once, for a data path.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn register(&self, offset: u32) -> Register {
        Register { word: self.word(offset).map(NonNull::from), space: self.clone(), offset }
    }

    fn word(&self, offset: u32) -> Option<&AtomicU32> {
        let at = u64::from(offset);
        assert!(offset.is_multiple_of(4), "register {offset:#x} is not aligned");
        assert!(at + 4 <= self.0.len, "register {offset:#x} is outside of a window of {:#x} bytes", self.0.len);
        let (start, pages) =
            self.0.mapped.iter().find(|(start, pages)| (*start..*start + pages.len() as u64).contains(&at))?;
        let inside = (at - start) as usize;
        // SAFETY: `inside` is a multiple of 4 below the length of the mapping; `new` took only mappings whose address,
        // length and offset are multiples of 4096, so four aligned bytes are there. They live as long as `self.0`. The device is the other
        // user of the word; atomics are made for that, and compile to one 32-bit access, as registers demand.
        Some(unsafe { AtomicU32::from_ptr(pages.as_mut_ptr().add(inside).cast()) })
    }
}

impl Register {
    /// Reads; all ones when the device is gone.
    #[inline]
    pub fn read(&self) -> u32 {
        match self.word() {
            Some(word) => u32::from_le(word.load(Ordering::Relaxed)),
            None => self.space.read(self.offset),
        }
    }

    /// Writes. The caller orders it after what the device shall see first:
    /// [`release_to_device`](crate::fence::release_to_device).
    #[inline]
    pub fn write(&self, value: u32) {
        match self.word() {
            Some(word) => word.store(value.to_le(), Ordering::Relaxed),
            None => self.space.write(self.offset, value),
        }
    }

    #[inline]
    fn word(&self) -> Option<&AtomicU32> {
        // SAFETY: `RegisterSpace::register` took the pointer from a live reference into pages that `self.space` owns;
        // they stay mapped at least as long as the borrow of `self`.
        self.word.map(|word| unsafe { word.as_ref() })
    }
}
