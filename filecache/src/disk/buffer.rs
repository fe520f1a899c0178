//! Memory lent to a request, and through it to the kernel.
#![allow(unsafe_code)]

/// Arena memory lent to a request.
#[derive(Debug)]
pub struct Buffer {
    start: *mut u8,
    len: usize,
}

// SAFETY: what `Buffer::new` asks for holds on every thread: memory that is valid until `done` has been called, and
// exclusively the request's (a read) or written by nobody (a write). The value has no other state.
unsafe impl Send for Buffer {}
// SAFETY: as above; `&Buffer` gives only shared reads of the memory.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Lends the `len` bytes from `start`.
    ///
    /// # Safety
    /// From now until the request that gets this value has called its `done`, or until the value is dropped without
    /// having been in a request, the bytes are allocated, initialised and
    /// - for [`Operation::Read`](super::Operation::Read): read and written through this value only;
    /// - for [`Operation::Write`](super::Operation::Write): written by nobody, through [`bytes_mut`](Self::bytes_mut)
    ///   neither.
    pub unsafe fn new(start: *mut u8, len: usize) -> Self {
        Self { start, len }
    }

    /// Length, bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the maker of this value promised that the bytes are valid and initialised while it lives (a request
        // drops it before it calls `done`), and that nobody writes them but through this value, which is borrowed.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// Where a read puts what it finds. Not for a buffer that is written to a file: see [`new`](Self::new).
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the value is borrowed uniquely. The maker promised that the bytes are exclusively
        // this value's if they are for reading, and that this is not called if they are for writing; a request gives
        // unique access to the buffer of a read only (`Request::read_buffer`).
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// Address of the first byte, for the kernel.
    pub(super) fn start(&self) -> *mut u8 {
        self.start
    }
}
