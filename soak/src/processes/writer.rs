//! A process that attaches to a cache and stores until it is killed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stillwire_filecache::attach::attach;

use super::end_with_the_parent;
use crate::ledger::{Ledger, MOST_RECORDS, RECORD};
use crate::random::Random;
use crate::stack::{OWNERS, begin};

/// Where it attaches, and which records are its own.
#[derive(clap::Args)]
pub struct Arguments {
    socket: PathBuf,
    path: PathBuf,
    ledger: String,
    file: usize,
    owner: usize,
    seed: u64,
}

/// Ends with 3 when the cache is no more.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let over = Arc::new(AtomicBool::new(false));
    let told = over.clone();
    end_with_the_parent(move || told.store(true, Ordering::Release))?;
    let book = Ledger::open(&arguments.ledger)?.book(arguments.file, MOST_RECORDS, MOST_RECORDS);
    let gone = ExitCode::from(3);
    use stillwire_filecache::Error;
    let file = match attach(&arguments.socket, &arguments.path) {
        Ok(file) => file,
        Err(Error::Door { .. } | Error::CacheGone { .. }) => return Ok(gone),
        // A cache waits for an answer for two seconds, and this process was not run for as long.
        Err(Error::Answered { text, .. }) if text.starts_with("attach: the process that connected") => return Ok(gone),
        Err(error) => return Err(error.into()),
    };
    let mut random = Random::new(arguments.seed, "writer");
    while !over.load(Ordering::Acquire) {
        let turns = MOST_RECORDS / OWNERS;
        let turn = if random.chance(300) { 16 } else { turns };
        let record = random.below(turn) * OWNERS + arguments.owner;
        let mut bytes = [0; RECORD];
        let version = begin(&book, record, &mut bytes);
        match file.write_at((record * RECORD) as u64, &bytes) {
            Ok(()) => book.returned(record).store(version, Ordering::Release),
            Err(Error::CacheGone { .. }) => return Ok(gone),
            // For the moment.
            Err(Error::Answered { text, .. }) if text.contains("full of pages that are held") => {}
            Err(error) => return Err(error.into()),
        }
        if random.chance(4) {
            match file.sync() {
                Ok(()) => {}
                Err(Error::CacheGone { .. }) => return Ok(gone),
                Err(error) => return Err(error.into()),
            }
        }
        std::thread::sleep(Duration::from_micros(random.within(100..3000) as u64));
    }
    drop(file);
    Ok(ExitCode::SUCCESS)
}
