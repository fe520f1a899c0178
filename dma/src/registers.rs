//! Register windows.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

use memmap2::MmapRaw;

use crate::{Backend, Error, Result};

/// A window of little-endian registers: a BAR. Most devices' are 32 bits wide; those of virtio have 8 and 16 as well, and each
/// access is as wide as its name says.
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

/// A 16-bit register with its address worked out, to be written: the notification of virtio.
#[derive(Clone)]
pub struct Register16 {
    /// Keeps the mapped pages alive.
    space: RegisterSpace,
    offset: u32,
    /// The register's place when its page is mapped; it lies in pages that `space` owns.
    place: Option<NonNull<AtomicU16>>,
}

// SAFETY: `place` points to an atomic, which any thread may use, in pages that `space` keeps mapped wherever the value goes.
unsafe impl Send for Register16 {}
// SAFETY: as above; the one method takes `&self` and does a single atomic access.
unsafe impl Sync for Register16 {}

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

    /// The device's time ([`Backend::now`]): a register is waited for in it.
    pub fn now(&self) -> Duration {
        self.0.backend.now()
    }

    /// Lets time pass for the device ([`Backend::sleep`]).
    pub fn sleep(&self, time: Duration) {
        self.0.backend.sleep(time);
    }

    /// Reads the register at `offset` (bytes); all ones when the device is gone.
    ///
    /// # Panics
    /// When `offset` is not aligned to 4 bytes or outside of the window.
    pub fn read(&self, offset: u32) -> u32 {
        match self.word(offset) {
            Some(word) => u32::from_le(word.load(Ordering::Relaxed)),
            None => self.ask(offset).map_or(u32::MAX, u32::from_le_bytes),
        }
    }

    /// The same by message, also where the page is mapped: for a register that changes when it is read, which the memory that
    /// stands for a model's page does not.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn read_by_message(&self, offset: u32) -> u32 {
        assert!(offset.is_multiple_of(4) && u64::from(offset) + 4 <= self.0.len, "no register at {offset:#x}");
        self.ask(offset).map_or(u32::MAX, u32::from_le_bytes)
    }

    /// Writes the register at `offset` (bytes); a write to a device that is gone goes nowhere, as on the bus.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn write(&self, offset: u32, value: u32) {
        match self.word(offset) {
            Some(word) => word.store(value.to_le(), Ordering::Relaxed),
            None => self.tell(offset, &value.to_le_bytes()),
        }
    }

    /// Reads the 16-bit register at `offset` (bytes); all ones when the device is gone.
    ///
    /// # Panics
    /// When `offset` is not aligned to 2 bytes or outside of the window.
    pub fn read16(&self, offset: u32) -> u16 {
        match self.half(offset) {
            Some(half) => u16::from_le(half.load(Ordering::Relaxed)),
            None => self.ask(offset).map_or(u16::MAX, u16::from_le_bytes),
        }
    }

    /// Writes the 16-bit register at `offset` (bytes); a write to a device that is gone goes nowhere.
    ///
    /// # Panics
    /// As [`read16`](Self::read16).
    pub fn write16(&self, offset: u32, value: u16) {
        match self.half(offset) {
            Some(half) => half.store(value.to_le(), Ordering::Relaxed),
            None => self.tell(offset, &value.to_le_bytes()),
        }
    }

    /// Reads the 8-bit register at `offset` (bytes); all ones when the device is gone.
    ///
    /// # Panics
    /// When `offset` is outside of the window.
    pub fn read8(&self, offset: u32) -> u8 {
        match self.byte(offset) {
            Some(byte) => byte.load(Ordering::Relaxed),
            None => self.ask(offset).map_or(u8::MAX, u8::from_le_bytes),
        }
    }

    /// Writes the 8-bit register at `offset` (bytes); a write to a device that is gone goes nowhere.
    ///
    /// # Panics
    /// As [`read8`](Self::read8).
    pub fn write8(&self, offset: u32, value: u8) {
        match self.byte(offset) {
            Some(byte) => byte.store(value, Ordering::Relaxed),
            None => self.tell(offset, &[value]),
        }
    }

    /// Works out the address of a 16-bit register once, for a data path.
    ///
    /// # Panics
    /// As [`read16`](Self::read16).
    pub fn register16(&self, offset: u32) -> Register16 {
        Register16 { place: self.half(offset).map(NonNull::from), space: self.clone(), offset }
    }

    /// Works out a register's address once, for a data path.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn register(&self, offset: u32) -> Register {
        Register { word: self.word(offset).map(NonNull::from), space: self.clone(), offset }
    }

    fn word(&self, offset: u32) -> Option<&AtomicU32> {
        let place = self.place(offset, 4)?;
        // SAFETY: four bytes, aligned to 4, in pages that stay mapped as long as `self.0` lives (`place`). The device is the
        // other user of the word; atomics are made for that, and compile to one 32-bit access, as registers demand.
        Some(unsafe { AtomicU32::from_ptr(place.as_ptr().cast()) })
    }

    fn half(&self, offset: u32) -> Option<&AtomicU16> {
        let place = self.place(offset, 2)?;
        // SAFETY: as in `word`: two bytes, aligned to 2, and one 16-bit access.
        Some(unsafe { AtomicU16::from_ptr(place.as_ptr().cast()) })
    }

    fn byte(&self, offset: u32) -> Option<&AtomicU8> {
        let place = self.place(offset, 1)?;
        // SAFETY: as in `word`: one byte, and one 8-bit access.
        Some(unsafe { AtomicU8::from_ptr(place.as_ptr()) })
    }

    /// Where the `width` bytes (1, 2 or 4) at `offset`, which is aligned to them, are mapped, if they are: they stay so for as
    /// long as `self.0` lives, and the address is aligned like `offset`.
    fn place(&self, offset: u32, width: u32) -> Option<NonNull<u8>> {
        let (at, end) = (u64::from(offset), u64::from(offset) + u64::from(width));
        assert!(offset.is_multiple_of(width), "register {offset:#x} is not aligned");
        assert!(end <= self.0.len, "register {offset:#x} is outside of a window of {:#x} bytes", self.0.len);
        let (start, pages) =
            self.0.mapped.iter().find(|(start, pages)| (*start..*start + pages.len() as u64).contains(&at))?;
        // SAFETY: the first byte is inside of the mapping, just looked for. `new` took only mappings whose address, length
        // and offset are multiples of 4096, so aligned bytes, of which there are at most 4, are inside when the first is.
        NonNull::new(unsafe { pages.as_mut_ptr().add((at - start) as usize) })
    }

    /// Reads by message; `None` when the device is gone.
    fn ask<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.0.backend.bar_read(self.0.bar, offset.into(), &mut bytes).ok()?;
        Some(bytes)
    }

    /// Writes by message.
    fn tell(&self, offset: u32, bytes: &[u8]) {
        let _ = self.0.backend.bar_write(self.0.bar, offset.into(), bytes);
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

impl Register16 {
    /// Writes. Ordered as [`Register::write`].
    #[inline]
    pub fn write(&self, value: u16) {
        match self.place {
            // SAFETY: `RegisterSpace::register16` took the pointer from a live reference into pages that `self.space` owns;
            // they stay mapped at least as long as the borrow of `self`.
            Some(place) => unsafe { place.as_ref() }.store(value.to_le(), Ordering::Relaxed),
            None => self.space.write16(self.offset, value),
        }
    }
}
