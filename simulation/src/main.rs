//! `simulate`: everything at once in one thread, from one seed, with faults; see `world/mod.rs`.
//!
//! It wants to be built with `--cfg simulation`, which `cargo xtask simulate` does.

#[cfg(simulation)]
mod hunt;
#[cfg(simulation)]
mod options;
#[cfg(simulation)]
mod world;

#[cfg(simulation)]
fn main() -> std::process::ExitCode {
    hunt::main(&<options::Options as clap::Parser>::parse())
}

#[cfg(not(simulation))]
fn main() {
    eprintln!("simulate: this was built without a scheduler in the place of threads; run `cargo xtask simulate`");
    std::process::exit(2);
}
