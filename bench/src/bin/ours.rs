//! Our contestant in the race: answers on standard output what it is asked on standard input.
//!
//! `cargo xtask race` starts it; by hand, `echo "run tx-page" | cargo run --release -p stillwire-bench --bin ours`.

use std::io::{Write, stdin, stdout};
use std::process::ExitCode;

use stillwire_bench::race::{Racer, WORKS, serve};
use stillwire_filecache::{Cache, Config};

fn main() -> ExitCode {
    // A machine that gives no cache gives none later.
    let greeting = match Cache::new(Config { bytes: 4 << 20, io_uring: false, ..Config::default() }) {
        Ok(_) => {
            let works: Vec<&str> = WORKS.iter().map(|(name, _)| *name).collect();
            serde_json::json!({ "ready": concat!("stillwire ", env!("CARGO_PKG_VERSION")), "works": works })
        }
        Err(error) => serde_json::json!({ "skip": error.to_string() }),
    };
    let mut racer = Racer::default();
    let told = writeln!(stdout(), "{greeting}").and_then(|()| match greeting.get("skip") {
        None => serve(stdin().lock(), stdout(), |ask| racer.run(ask)),
        Some(_) => Ok(()),
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ours: nobody listens any more: {error}");
            ExitCode::FAILURE
        }
    }
}
