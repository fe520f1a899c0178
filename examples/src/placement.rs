//! `--cores`: which processor each owner of a queue runs on.

use std::str::FromStr;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{Error, Result};

/// Processors, in the order in which they were named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cores(pub Vec<usize>);

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let cores = stillwire_dma::numbers(text).filter(|cores| !cores.is_empty());
        let cores = cores.ok_or_else(|| format!("'{text}': write numbers of processors, as 2,4-6"))?;
        match cores.iter().find(|core| **core as usize >= CpuSet::MAX_CPU) {
            Some(core) => Err(format!("{core}: processors are numbered from 0 to {}", CpuSet::MAX_CPU - 1)),
            None => Ok(Self(cores.into_iter().map(|core| core as usize).collect())),
        }
    }
}

/// The processor for the owner of `queue`: a list that is too short begins again.
pub fn in_turn(cores: &[usize], queue: usize) -> Option<usize> {
    cores.get(queue.checked_rem(cores.len())?).copied()
}

/// Keeps the calling thread, and those that it starts from now on, on one processor.
///
/// # Errors
/// [`Error::Core`] when this process may not run there.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(|source| Error::Core { core, source: source.into() })
}

/// Sees whether this process may run on all of them.
///
/// # Errors
/// [`Error::Core`] for the first on which it may not.
pub fn check(cores: &[usize]) -> Result<()> {
    let refuse = |core: usize| move |source: rustix::io::Errno| Error::Core { core, source: source.into() };
    let Some(&first) = cores.first() else { return Ok(()) };
    let before = sched_getaffinity(None).map_err(refuse(first))?;
    let checked = cores.iter().try_for_each(|core| pin(*core));
    sched_setaffinity(None, &before).map_err(refuse(first))?;
    checked
}

/// Processors that this process may run on.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let read = |text: &str| text.parse::<Cores>().map(|cores| cores.0).ok();
        assert_eq!(read("2,4-6"), Some(vec![2, 4, 5, 6]));
        assert_eq!(read("3,0"), Some(vec![3, 0]), "in the order in which they are named");
        for bad in ["", "a", "1,", "2-1", "1-", "-1", "1024", "0-4294967295"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!([0, 1, 2].map(|queue| in_turn(&[7, 9], queue)), [Some(7), Some(9), Some(7)]);
        assert_eq!(in_turn(&[], 0), None);
    }

    #[test]
    fn a_thread_stays_where_it_was_pinned_and_a_check_changes_nothing() {
        let before = sched_getaffinity(None).unwrap();
        let last = (0..CpuSet::MAX_CPU).rev().find(|core| before.is_set(*core)).unwrap();
        let pinned = std::thread::spawn(move || {
            pin(last).unwrap();
            sched_getaffinity(None).unwrap()
        });
        let pinned = pinned.join().unwrap();
        assert_eq!((pinned.count(), pinned.is_set(last)), (1, true));
        check(&[last]).unwrap();
        let refused = check(&[last, CpuSet::MAX_CPU - 1]).unwrap_err().to_string();
        assert!(refused.contains("1023"), "{refused}");
        assert!(sched_getaffinity(None).unwrap() == before);
    }
}
