//! Why a work was not done.

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// What was asked, what was found, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The driver's answer.
    #[error(transparent)]
    Driver(#[from] stillwire_driver::Error),
    /// The device's answer.
    #[error(transparent)]
    Device(#[from] stillwire_dma::Error),
    /// The cache's answer.
    #[error(transparent)]
    Cache(#[from] stillwire_filecache::Error),
    /// A cache of huge pages was asked for.
    #[error("{0}; `echo 64 > /proc/sys/vm/nr_hugepages` makes some")]
    NoHugePages(String),
    /// A line that asks for nothing.
    #[error("'{line}' is no question: {why}; ask `run WORK key=value ...`")]
    Ask {
        /// The line.
        line: String,
        /// What is wrong with it.
        why: String,
    },
    /// The ring was full within a burst.
    #[error(
        "a ring of {ring} descriptors has no room for a burst of {burst} frames; a smaller burst or a larger ring would do"
    )]
    Full {
        /// Descriptors.
        ring: u16,
        /// Frames.
        burst: usize,
    },
    /// The device counted something else than was asked for.
    #[error("{work}: {found} {what} were counted, {asked} were asked for; what was timed is not this work")]
    Counts {
        /// The work.
        work: &'static str,
        /// What was counted.
        what: &'static str,
        /// How many there were.
        found: u64,
        /// How many there should have been.
        asked: u64,
    },
}
