//! Our side of the race: a program that does a work when it is asked to, and answers what that took.
//!
//! ```text
//!   {"ready":"stillwire 0.1.0","works":["tx60",...]}                      <- when it is up
//!   run tx-page ring=512 frames=16384 burst=32                            -> one line in
//!   {"work":"tx-page","ns":500000,"frames":16384,...}                     <- one line out, or {"error":"..."}
//! ```
//!
//! What is timed is the library's public path as `examples/src/sending.rs` takes it, in [`timed`]; the device moves
//! between the timed regions ([`Device`](crate::Device)). What the device counted must be what was asked for: a figure
//! for other work is none.

mod ask;
mod error;
mod racer;
pub mod timed;

use std::io::{BufRead, Write};

pub use ask::{Answer, Ask, Kind, WORKS, Work};
pub use error::{Error, Result};
pub use racer::Racer;

/// Answers what is asked on `input`, a line each, until it ends.
///
/// # Errors
/// When `output` is gone.
pub fn serve(
    input: impl BufRead,
    mut output: impl Write,
    mut run: impl FnMut(&Ask) -> Result<Answer>,
) -> std::io::Result<()> {
    for line in input.lines() {
        let answer = match Ask::parse(&line?).and_then(|ask| run(&ask)) {
            Ok(answer) => serde_json::to_value(answer)?,
            Err(error) => serde_json::json!({ "error": error.to_string() }),
        };
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
