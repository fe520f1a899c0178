//! Looks at every byte that arrives.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use stillwire_driver::RxFrame;

use super::message::{MESSAGE, Message, datagram};
use crate::counts::{add, count};
use crate::ledger::Book;
use crate::world::{World, lock};

/// What the queues of a NIC know of what is arriving.
pub struct Receiver {
    books: HashMap<usize, Book>,
    /// By port: the run that is arriving.
    runs: Mutex<HashMap<u16, Arriving>>,
}

struct Arriving {
    message: Message,
    len: usize,
    digest: crc32fast::Hasher,
}

impl Receiver {
    /// One for files with these accounts.
    pub fn new(books: impl IntoIterator<Item = Book>) -> Self {
        Self { books: books.into_iter().map(|book| (book.file, book)).collect(), runs: Mutex::default() }
    }

    /// A frame has arrived; `bytes` is for its use.
    pub fn take(&self, world: &World, frame: &RxFrame<'_>, bytes: &mut Vec<u8>) {
        let counts = &world.counts;
        count(&counts.frames_received);
        frame.copy_to(bytes);
        let Some((port, payload)) = datagram(bytes) else {
            return world.violate(format!("a frame arrived that nobody sent: {:02x?}", &bytes[..bytes.len().min(64)]));
        };
        match Message::decode(payload) {
            Some(message) if message.is_run => self.begin(world, port, message),
            Some(message) => self.look(world, &message, &payload[MESSAGE..]),
            None if Message::decode(&mended(payload)).is_some() => count(&counts.frames_damaged),
            None => self.append(world, port, payload),
        }
    }

    fn look(&self, world: &World, message: &Message, bytes: &[u8]) {
        add(&world.counts.bytes_received, bytes.len() as u64);
        let is_right = |bytes: &[u8]| bytes.len() == message.len as usize && crc32fast::hash(bytes) == message.crc32;
        if !is_right(bytes) {
            // Not by its checksum: what is torn on its way into the device has a wrong one too, and of UDP an 82599 does
            // not say it.
            let is_damaged = is_right(&mended(bytes)) && world.counts.fault_damaged.load(Ordering::Relaxed) > 0;
            return if is_damaged { count(&world.counts.frames_damaged) } else { torn(world, message, bytes.len()) };
        }
        if !self.is_placed(message, 0, bytes) {
            world.violate(format!("bytes of another place were sent: {message:?}"));
        }
    }

    fn is_placed(&self, message: &Message, at: usize, bytes: &[u8]) -> bool {
        let book = self.books.get(&(message.file as usize));
        book.is_some_and(|book| book.is_placed(message.offset as usize + at, bytes))
    }

    fn begin(&self, world: &World, port: u16, message: Message) {
        let begun = Arriving { message, len: 0, digest: crc32fast::Hasher::new() };
        if lock(&self.runs).insert(port, begun).is_some() {
            count(&world.counts.runs_incomplete);
        }
    }

    /// A part of a run. It has no number; but a sender never has the same place twice in a row on a port, and words name
    /// theirs, so that a part of another run is not taken for one of this.
    fn append(&self, world: &World, port: u16, bytes: &[u8]) {
        let mut runs = lock(&self.runs);
        // The rest of one of which the message or a part was lost.
        let Some(run) = runs.get_mut(&port) else { return };
        if run.len + bytes.len() > run.message.len as usize || !self.is_placed(&run.message, run.len, bytes) {
            runs.remove(&port);
            return count(&world.counts.runs_incomplete);
        }
        run.digest.update(bytes);
        run.len += bytes.len();
        add(&world.counts.bytes_received, bytes.len() as u64);
        if run.len < run.message.len as usize {
            return;
        }
        let Some(run) = runs.remove(&port) else { return };
        count(&world.counts.runs_received);
        if run.digest.finalize() != run.message.crc32 {
            torn(world, &run.message, run.len);
        }
    }
}

/// The bytes with what a damaging fault does to them undone: it changes the last bit.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(byte) = bytes.last_mut() {
        *byte ^= 1;
    }
    bytes
}

fn torn(world: &World, message: &Message, len: usize) {
    count(&world.counts.torn);
    world.violate(format!("TORN: {len} bytes are not those of {message:?}"));
}
