//! Who holds bytes, looks at them, and lets them go.

use std::time::Duration;

use stillwire_filecache::Hold;
use stillwire_scheduler::{choose, failed, log, sleep};

use super::{File, check, ledger, place};

/// Takes so many holds, and keeps each for at most `time` ns.
pub fn work(files: &[File], holds: u32, time: u64) {
    for _ in 0..holds {
        let file = &files[choose(files.len() as u64) as usize];
        let range = place(file.len);
        match Watched::of(file, range.start as u64..range.end as u64) {
            Ok(hold) => {
                sleep(Duration::from_nanos(choose(time.max(1))));
                drop(hold);
            }
            Err(error) => log(|| format!("no hold: {error}")),
        }
    }
}

/// A hold that the world knows of.
pub struct Watched {
    hold: Option<Hold>,
    bytes: Vec<u8>,
}

impl Watched {
    /// Holds a range, and looks whether it shows what it must.
    pub fn of(file: &File, range: std::ops::Range<u64>) -> stillwire_filecache::Result<Self> {
        let floor = file.content.floor();
        let hold = file.cached.hold(range.clone()).inspect_err(|error| {
            if matches!(error, stillwire_filecache::Error::ArenaFull { .. }) {
                ledger::harm("there is no memory for a page");
            }
        })?;
        ledger::held(&addresses(&hold));
        ledger::count(|counts| counts.holds += 1);
        let mut bytes = vec![0; hold.len()];
        hold.read_at(0, &mut bytes);
        log(|| format!("holds {range:?} of {}", file.cached.path().display()));
        check(file.content.check(range.start as usize, &bytes, &floor, "a hold"));
        if hold.crc32() != crc32fast::hash(&bytes) {
            failed("the digest of a hold is not that of its bytes".into());
        }
        Ok(Self { hold: Some(hold), bytes })
    }

    /// The hold itself.
    pub fn hold(&self) -> &Hold {
        self.hold.as_ref().unwrap_or_else(|| unreachable!("there until it is dropped"))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Some(hold) = self.hold.take() else { return };
        let mut bytes = vec![0; hold.len()];
        hold.read_at(0, &mut bytes);
        if bytes != self.bytes {
            failed("what was held has changed".into());
        }
        // First here: from the release on, stores may land.
        ledger::let_go(&addresses(&hold));
        drop(hold);
    }
}

fn addresses(hold: &Hold) -> Vec<(usize, usize)> {
    hold.chunks().map(|chunk| (chunk.as_ptr().addr(), chunk.len())).collect()
}
