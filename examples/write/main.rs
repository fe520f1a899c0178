//! Writes to a file that another process caches and sends, and says how long the slowest store waited.
//!
//! `send FILE --serve SOCKET --seconds 60` in one terminal, `write --attach SOCKET FILE --pattern 0 --repeat 10` in
//! another: not one frame is torn.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use stillwire_examples::log::Log;
use stillwire_examples::{Error, Result};
use stillwire_filecache::AttachedFile;
use stillwire_filecache::attach::attach;

/// Writes to a file in another process's cache. A store into a page that is being sent waits until the NIC is done.
#[derive(Parser, Debug)]
#[command(name = "write", version)]
struct Arguments {
    /// Where the cache's process serves: `send FILE --serve SOCKET`.
    #[arg(long, value_name = "SOCKET")]
    attach: PathBuf,
    /// The file, by a name that is good in that process too.
    file: PathBuf,
    /// Where to begin, bytes.
    #[arg(long, default_value_t = 0, value_name = "N")]
    offset: u64,
    /// Write this byte, 0 to 255; with --repeat, one more with each pass.
    #[arg(long, value_name = "BYTE", conflicts_with = "from")]
    pattern: Option<u8>,
    /// Write the bytes of this file.
    #[arg(long, value_name = "FILE2", required_unless_present = "pattern")]
    from: Option<PathBuf>,
    /// How many bytes; without it, all of FILE2, or up to the end of FILE.
    #[arg(long, value_name = "N")]
    len: Option<u64>,
    /// Return when it is on the disk.
    #[arg(long)]
    sync: bool,
    /// Write the same place again and again for so long.
    #[arg(long, value_name = "SECONDS")]
    repeat: Option<f64>,
    #[command(flatten)]
    log: Log,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    arguments.log.start("write");
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("write: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let repeat = arguments.repeat.unwrap_or(0.0);
    let repeat = Duration::try_from_secs_f64(repeat)
        .map_err(|_| Error::Usage(format!("--repeat {repeat}: a number of seconds would do")))?;
    let file = attach(&arguments.attach, &arguments.file)?;
    let mut source = Source::new(arguments, &file)?;
    let (start, mut total) = (Instant::now(), Written::default());
    loop {
        total.add(&file, arguments.offset, &source)?;
        if start.elapsed() >= repeat {
            break;
        }
        source.next_pass();
    }
    if arguments.sync {
        file.sync()?;
    }
    println!(
        "{} bytes at {} of {}, {} in {:.2} s{}; the slowest store took {:.0} us",
        source.len(),
        arguments.offset,
        arguments.file.display(),
        match total.passes {
            1 => "once".to_owned(),
            passes => format!("{passes} times"),
        },
        start.elapsed().as_secs_f64(),
        if arguments.sync { ", on the disk" } else { "" },
        total.slowest.as_secs_f64() * 1e6
    );
    Ok(())
}

/// What is written.
enum Source {
    Pattern { byte: u8, len: u64 },
    Bytes(Vec<u8>),
}

impl Source {
    fn new(arguments: &Arguments, file: &AttachedFile) -> Result<Self> {
        match (&arguments.from, arguments.pattern) {
            (Some(path), _) => {
                let mut bytes = std::fs::read(path).map_err(|source| Error::File { path: path.clone(), source })?;
                bytes.truncate(arguments.len.map_or(usize::MAX, |len| usize::try_from(len).unwrap_or(usize::MAX)));
                Ok(Self::Bytes(bytes))
            }
            (None, byte) => {
                let len = arguments.len.unwrap_or(file.len().saturating_sub(arguments.offset));
                Ok(Self::Pattern { byte: byte.unwrap_or_default(), len })
            }
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Pattern { len, .. } => *len,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    fn next_pass(&mut self) {
        if let Self::Pattern { byte, .. } = self {
            *byte = byte.wrapping_add(1);
        }
    }
}

/// What has been written.
#[derive(Default)]
struct Written {
    passes: u64,
    slowest: Duration,
}

impl Written {
    fn add(&mut self, file: &AttachedFile, offset: u64, source: &Source) -> Result<()> {
        let mut done = 0;
        while done < source.len() {
            let len = STORE.min(source.len() - done) as usize;
            let begun = Instant::now();
            match source {
                Source::Pattern { byte, .. } => file.write_at(offset + done, &[*byte; STORE as usize][..len])?,
                Source::Bytes(bytes) => file.write_at(offset + done, &bytes[done as usize..][..len])?,
            }
            self.slowest = self.slowest.max(begun.elapsed());
            done += len as u64;
        }
        self.passes += 1;
        Ok(())
    }
}

/// Bytes of a store.
const STORE: u64 = 4096;
