//! Tokens that tell what became of them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stillwire_dma::{Access, HugePages, Mapping, Payload, PciFunction, Segment, SharedMemory};

/// What became of every token.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    states: Vec<State>,
    /// The last one that came back.
    last: Option<usize>,
    may_drop: bool,
    wrong: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The driver has it.
    Lent,
    /// It came back.
    Back,
    /// It was dropped by the driver, which was allowed.
    Dropped,
}

impl Ledger {
    /// A token over pieces of `memory`.
    pub fn token(&self, memory: &Arc<Memory>, pieces: Vec<Range<usize>>) -> Token {
        let mut book = self.book();
        book.states.push(State::Lent);
        Token { number: book.states.len() - 1, ledger: self.clone(), memory: memory.clone(), pieces }
    }

    /// The driver may drop tokens: it was just given some that it did not take, or it ends.
    pub fn may_drop(&self, may: bool) {
        self.book().may_drop = may;
    }

    /// A token came back, or one that was never taken.
    pub fn back(&self, token: Token, in_order: bool) -> usize {
        let mut book = self.book();
        let number = token.number;
        if book.states[number] != State::Lent {
            book.wrong.push(format!("token {number} came back twice"));
        }
        book.states[number] = State::Back;
        if in_order {
            if book.last.is_some_and(|last| last >= number) {
                let last = book.last;
                book.wrong.push(format!("token {number} came back behind {last:?}"));
            }
            book.last = Some(number);
        }
        drop(book);
        number
    }

    /// Tokens that the driver has.
    pub fn lent(&self) -> usize {
        self.book().states.iter().filter(|state| **state == State::Lent).count()
    }

    /// # Panics
    /// When something was wrong.
    pub fn check(&self) {
        let book = self.book();
        assert!(book.wrong.is_empty(), "{}", book.wrong.join("; "));
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Payload memory.
pub struct Memory {
    mapping: Mapping,
}

impl Memory {
    /// So many bytes, which the device may read.
    pub fn new(function: &PciFunction, bytes: usize) -> Option<Arc<Self>> {
        let memory = SharedMemory::new("hostile-payload", bytes, HugePages::Never).ok()?;
        Some(Arc::new(Self { mapping: function.iommu().map(&memory, Access::ReadOnly).ok()? }))
    }
}

/// A payload in pieces.
pub struct Token {
    number: usize,
    ledger: Ledger,
    memory: Arc<Memory>,
    pieces: Vec<Range<usize>>,
}

impl Token {
    /// Its number: they count up.
    pub fn number(&self) -> usize {
        self.number
    }
}

impl Payload for Token {
    fn len(&self) -> usize {
        self.pieces.iter().map(ExactSizeIterator::len).sum()
    }

    fn segments(&self, range: Range<usize>, mut each: impl FnMut(Segment)) {
        let mut at = 0;
        for piece in &self.pieces {
            let start = range.start.clamp(at, at + piece.len());
            let end = range.end.clamp(at, at + piece.len());
            if let Some(segment) = self.memory.mapping.segment(piece.start + start - at..piece.start + end - at) {
                each(segment);
            }
            at += piece.len();
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let mut book = self.ledger.book();
        let may = book.may_drop;
        match &mut book.states[self.number] {
            state @ State::Lent if may => *state = State::Dropped,
            State::Lent => book.wrong.push(format!("token {} was dropped by the driver", self.number)),
            State::Back => {}
            State::Dropped => book.wrong.push(format!("token {} was dropped twice", self.number)),
        }
    }
}
