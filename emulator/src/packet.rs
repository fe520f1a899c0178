//! What a device makes of the bytes that it read: which of them go out, and which fields it computed.
//!
//! A plan is made from the bytes of the *first* read and says how to change the bytes of the *second* read before they go
//! out. So a page that changes between the two goes out torn: new bytes under an old checksum.

use std::ops::Range;

/// One frame to put on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Bytes of header, from the start of what was read.
    pub header: usize,
    /// The bytes that follow, as a range of what was read.
    pub payload: Range<usize>,
    /// Then these fields are overwritten.
    pub patches: Vec<Patch>,
}

impl Packet {
    /// All of `len` bytes, unchanged.
    pub fn whole(len: usize) -> Self {
        Self { header: 0, payload: 0..len, patches: Vec::new() }
    }

    /// Puts the frame together from what was read.
    pub fn build(&self, bytes: &[u8], frame: &mut Vec<u8>) {
        frame.clear();
        frame.extend_from_slice(&bytes[..self.header]);
        frame.extend_from_slice(&bytes[self.payload.clone()]);
        for patch in &self.patches {
            frame[patch.at..patch.at + patch.bytes().len()].copy_from_slice(patch.bytes());
        }
    }
}

/// A field that the device computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patch {
    /// Offset in the frame, bytes.
    pub at: usize,
    bytes: [u8; 4],
    len: usize,
}

impl Patch {
    /// The field's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A copy of the headers and the list of what was changed in it.
pub struct Fields {
    /// The headers as they are by now.
    pub header: Vec<u8>,
    /// What was changed.
    pub patches: Vec<Patch>,
}

impl Fields {
    /// Nothing is changed yet.
    pub fn new(header: &[u8]) -> Self {
        Self { header: header.to_vec(), patches: Vec::with_capacity(8) }
    }

    /// Changes up to four bytes.
    pub fn put(&mut self, at: usize, value: &[u8]) {
        let mut bytes = [0; 4];
        bytes[..value.len()].copy_from_slice(value);
        self.patches.push(Patch { at, bytes, len: value.len() });
        if let Some(place) = self.header.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }

    /// Changes a big-endian word.
    pub fn put16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_be_bytes());
    }

    /// A big-endian word of the headers.
    pub fn get16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.header[at], self.header[at + 1]])
    }
}
