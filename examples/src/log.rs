//! `--log LEVEL`: what the libraries tell of, on the standard error output.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The flag, for the command line of a program.
#[derive(clap::Args, Clone, Debug)]
pub struct Log {
    /// Tell of rare events (devices, links, mappings, writers that attach, failures) on the standard error output: off,
    /// error, warn, info, debug, or a list like info,stillwire_driver=debug. Without it, what RUST_LOG says; else warn.
    #[arg(long = "log", value_name = "LEVEL", value_parser = parse)]
    level: Option<Targets>,
}

impl Log {
    /// Tells of events from now on. `program` says first, if a RUST_LOG is of no use, that it is not used.
    pub fn start(&self, program: &str) {
        let variable =
            || match std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty()).map(|text| parse(&text))? {
                Ok(targets) => Some(targets),
                Err(why) => {
                    eprintln!("{program}: note: RUST_LOG is not used: {why}");
                    None
                }
            };
        let targets = self.level.clone().or_else(variable).unwrap_or_else(|| Targets::new().with_default(DEFAULT));
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        // Nobody else in these programs takes events; a second call changes nothing.
        let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
    }
}

fn parse(text: &str) -> Result<Targets, String> {
    let said =
        || format!("'{text}': write off, error, warn, info, debug, trace, or a list like info,stillwire_driver=debug");
    // A lone word that is no level would be taken for the name of a crate, all of whose events are wanted.
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    if !text.split(',').all(|word| word.contains('=') || is_level(word)) {
        return Err(said());
    }
    text.parse().map_err(|_| said())
}

const DEFAULT: LevelFilter = LevelFilter::WARN;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for good in ["off", "info", "WARN", "info,stillwire_driver=debug", "stillwire_dma=trace"] {
            parse(good).unwrap();
        }
        for bad in ["", "loud", "info,stillwire_driver", "stillwire_driver=loud"] {
            assert!(parse(bad).unwrap_err().contains("write off, error"), "{bad}");
        }
        let targets = parse("info,stillwire_driver=debug").unwrap();
        let would = |target, level| targets.would_enable(target, &level);
        assert!(
            would("stillwire_driver::nic", tracing::Level::DEBUG) && !would("stillwire_dma", tracing::Level::DEBUG)
        );
    }
}
