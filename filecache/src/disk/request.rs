//! One thing to do with a file, and whom to tell how it ended.

use std::fmt;
use std::io;

use super::Buffer;

/// What to do.
#[derive(Debug)]
pub enum Operation {
    /// Fill the buffer.
    Read(Buffer),
    /// Write all of the buffer.
    Write(Buffer),
    /// Make what has been written durable (`fdatasync`).
    Sync,
}

type Done = Box<dyn FnOnce(io::Result<usize>) + Send>;

/// An operation at an offset of a file. Its `done` is called exactly once: dropping the request calls it with an error, so
/// that nobody waits for ever.
#[must_use = "dropping a request fails it"]
pub struct Request {
    operation: Operation,
    offset: u64,
    /// Taken by the one call.
    done: Option<Done>,
}

impl Request {
    /// `operation` at `offset` bytes; `done` hears of the end, and from then on the buffer is its maker's again.
    ///
    /// `done` runs on a thread that has other requests to complete: it should be short, must not wait for another request,
    /// and may submit new ones.
    pub fn new(operation: Operation, offset: u64, done: impl FnOnce(io::Result<usize>) + Send + 'static) -> Self {
        Self { operation, offset, done: Some(Box::new(done)) }
    }

    /// What to do.
    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    /// Where a read's bytes go; `None` for another operation.
    pub fn read_buffer(&mut self) -> Option<&mut [u8]> {
        match &mut self.operation {
            Operation::Read(buffer) => Some(buffer.bytes_mut()),
            Operation::Write(_) | Operation::Sync => None,
        }
    }

    /// Where in the file, bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Ends the request: calls `done`.
    pub fn complete(mut self, result: io::Result<usize>) {
        self.end(result);
    }

    fn end(&mut self, result: io::Result<usize>) {
        if let Some(done) = self.done.take() {
            // The buffer is not touched from here on: `done` may give its memory to somebody else.
            self.operation = Operation::Sync;
            done(result);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.end(Err(io::Error::other("the request was dropped before it was carried out")));
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("operation", &self.operation).field("offset", &self.offset).finish()
    }
}
