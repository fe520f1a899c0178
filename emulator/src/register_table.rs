//! What the tables of registers of all models are made of, and the account of what a model makes of a register.
//!
//! The tables themselves are each model's own.

/// One line of a table: `count` registers, `stride` bytes apart, that answer as `M` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register<M> {
    /// Name, as the datasheet or Linux has it.
    pub name: &'static str,
    /// Offset of the first in BAR0, bytes.
    pub offset: u32,
    /// How many there are.
    pub count: u32,
    /// Distance between two, bytes.
    pub stride: u32,
    /// How they answer.
    pub mode: M,
    /// Value after reset.
    pub reset: u32,
}

/// A line of one register.
pub(crate) const fn one<M: Copy>(name: &'static str, offset: u32, mode: M, reset: u32) -> Register<M> {
    many(name, offset, 1, 4, mode, reset)
}

/// A line of several.
pub(crate) const fn many<M: Copy>(
    name: &'static str,
    offset: u32,
    count: u32,
    stride: u32,
    mode: M,
    reset: u32,
) -> Register<M> {
    Register { name, offset, count, stride, mode, reset }
}

/// What a model makes of a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coverage {
    /// `implemented`, `stored` (reads what was written, without effect) or `unknown` (reads 0).
    pub kind: &'static str,
    /// Name; empty for a register that nobody here knows.
    pub name: &'static str,
    /// Why it is not implemented; empty for one that is, or when there is no reason.
    pub why: &'static str,
}

/// Why registers from `first` to `last` (offsets, bytes) are not implemented.
pub(crate) struct Reason {
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// What lies there; names a register that the model does not have.
    what: &'static str,
    why: &'static str,
}

pub(crate) const fn reason(first: u32, last: u32, what: &'static str, why: &'static str) -> Reason {
    Reason { first, last, what, why }
}

impl Coverage {
    /// Of the register at `offset`, which is `found` in the model's table; `stored` is the mode of those without effect.
    pub(crate) fn of<M: PartialEq>(reasons: &[Reason], offset: u32, found: Option<&Register<M>>, stored: &M) -> Self {
        let reason = reasons.iter().find(|reason| (reason.first..=reason.last).contains(&offset));
        let why = reason.map_or("", |reason| reason.why);
        match found {
            Some(register) if register.mode == *stored => Self { kind: "stored", name: register.name, why },
            Some(register) => Self { kind: "implemented", name: register.name, why: "" },
            None => Self { kind: "unknown", name: reason.map_or("", |reason| reason.what), why },
        }
    }
}
