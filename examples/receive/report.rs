//! What the program says at its end.

use std::path::Path;

use serde::Serialize;
use stillwire_examples::transfer::ReceiverStats;

use crate::failure::Failure;

/// The sums of a run.
#[derive(Default)]
pub struct Report {
    pub stats: ReceiverStats,
    /// Frames that a NIC of ours dropped; a kernel counts its own.
    pub wrong_checksums: u64,
    pub seconds: f64,
    /// Of the last file received.
    pub crc32: Option<u32>,
}

/// The JSON object.
#[derive(Serialize)]
struct Json<'a> {
    file: &'a Path,
    transfers: u64,
    bytes: u64,
    datagrams: u64,
    torn: u64,
    /// Runs that arrived whole, and those that did not match their crc32 or did not arrive whole: these came again as data.
    runs: u64,
    mismatched: u64,
    broken: u64,
    duplicates: u64,
    malformed: u64,
    wrong_checksums: u64,
    seconds: f64,
    /// Eight hexadecimal digits.
    crc32: Option<String>,
    /// Every byte of the file came in a datagram whose crc32 matched, and the file could be read again in full.
    verified: bool,
    error: Option<String>,
}

impl Report {
    pub fn print(&self, json: bool, file: &Path, failure: Option<&Failure>) {
        if let Some(failure) = failure {
            eprintln!("receive: {failure}");
        } else {
            eprintln!("receive: {}", self.sentence(file));
        }
        if json {
            println!("{}", self.json(file, failure));
        }
    }

    fn sentence(&self, file: &Path) -> String {
        let ReceiverStats { bytes, datagrams, torn, duplicates, transfers, runs, mismatched, broken, .. } = self.stats;
        format!(
            "{}: {bytes} bytes in {:.3} s ({:.2} Gbit/s), crc32 {}; {transfers} transfer{}, {datagrams} datagrams, \
             {torn} torn, {duplicates} duplicate; {runs} runs, {} that did not add up{}",
            file.display(),
            self.seconds,
            if self.seconds > 0.0 { bytes as f64 * 8e-9 / self.seconds } else { 0.0 },
            self.crc32.map_or_else(|| "none".into(), |crc32| format!("{crc32:08x}")),
            if transfers == 1 { "" } else { "s" },
            mismatched + broken,
            if self.wrong_checksums > 0 {
                format!(", {} wrong checksums", self.wrong_checksums)
            } else {
                String::new()
            },
        )
    }

    fn json(&self, file: &Path, failure: Option<&Failure>) -> String {
        let json = Json {
            file,
            transfers: self.stats.transfers,
            bytes: self.stats.bytes,
            datagrams: self.stats.datagrams,
            torn: self.stats.torn,
            runs: self.stats.runs,
            mismatched: self.stats.mismatched,
            broken: self.stats.broken,
            duplicates: self.stats.duplicates,
            malformed: self.stats.malformed,
            wrong_checksums: self.wrong_checksums,
            seconds: self.seconds,
            crc32: self.crc32.map(|crc32| format!("{crc32:08x}")),
            verified: failure.is_none() && self.crc32.is_some(),
            error: failure.map(ToString::to_string),
        };
        // A path that is not UTF-8 is the one thing that JSON cannot say.
        serde_json::to_string(&json).unwrap_or_else(|error| format!("{{\"verified\":false,\"error\":\"{error}\"}}"))
    }
}
