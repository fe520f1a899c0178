//! The kernel as a contestant of `cargo xtask race`: reads orders from stdin, answers each with a line of JSON.
use std::io::{BufRead, Write};

use stillwire_bench::kernel::{Contestant, refusal};

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout();
    let mut contestant = match Contestant::open() {
        Ok(contestant) => contestant,
        Err(why) => return writeln!(out, "{}", refusal("skip", &why)),
    };
    writeln!(out, "{}", contestant.ready())?;
    for line in std::io::stdin().lock().lines() {
        let answer = contestant.answer(&line?).unwrap_or_else(|why| refusal("error", &why));
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
