//! What a leak would show in, and whether it grows.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::world::World;

/// What the process has at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Seconds since the start.
    pub seconds: u64,
    /// Memory in use, KiB.
    pub rss_kib: u64,
    /// Of that private and not of a file (heap, stacks), KiB.
    pub anonymous_kib: u64,
    /// Of that allocated and not freed, KiB.
    pub heap_kib: u64,
    /// Open descriptors.
    pub fds: u64,
    /// Those among them that are userfaultfds.
    pub userfaultfds: u64,
    /// Threads.
    pub threads: u64,
    /// Memory mappings.
    pub mappings: u64,
    /// Processes started by this one.
    pub children: u64,
    /// Huge pages of the machine in use.
    pub huge_pages: u64,
    /// Pages that are held.
    pub held_pages: u64,
    /// Files in the folder for temporary files.
    pub files: u64,
}

/// The figures by name.
pub type Named = [(&'static str, fn(&Figures) -> u64); 11];

/// Each figure with its name.
pub const NAMED: Named = [
    ("rss KiB", |figures| figures.rss_kib),
    ("anon KiB", |figures| figures.anonymous_kib),
    ("heap KiB", |figures| figures.heap_kib),
    ("fds", |figures| figures.fds),
    ("uffds", |figures| figures.userfaultfds),
    ("threads", |figures| figures.threads),
    ("maps", |figures| figures.mappings),
    ("children", |figures| figures.children),
    ("huge", |figures| figures.huge_pages),
    ("held", |figures| figures.held_pages),
    ("files", |figures| figures.files),
];

impl Figures {
    /// As they are now.
    pub fn now(world: &World, seconds: u64) -> Self {
        let heap_kib = heap() >> 10;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let held = world.caches().iter().map(|(_, cache)| cache.held().pages).sum();
        let (fds, userfaultfds) = descriptors();
        Self {
            seconds,
            rss_kib: number_after(&status, "VmRSS:"),
            anonymous_kib: number_after(&status, "RssAnon:"),
            heap_kib,
            fds,
            userfaultfds,
            threads: number_after(&status, "Threads:"),
            mappings: std::fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count() as u64),
            children: children(),
            huge_pages: huge_pages(),
            held_pages: held,
            files: files_in(&std::env::temp_dir()),
        }
    }
}

/// Bytes that are allocated and not freed. Has the allocator give back what it keeps for later, which is no leak.
#[allow(unsafe_code)]
fn heap() -> u64 {
    // SAFETY: both take and return numbers, reach no memory of ours, and may be called by any thread at any time
    // (malloc_trim(3), mallinfo2(3)).
    let info = unsafe {
        libc::malloc_trim(0);
        libc::mallinfo2()
    };
    (info.uordblks + info.hblkhd) as u64
}

fn number_after(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn descriptors() -> (u64, u64) {
    let Ok(folder) = std::fs::read_dir("/proc/self/fd") else { return (0, 0) };
    let links = folder.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.fold((0, 0), |(all, userfaultfds), link| {
        (all + 1, userfaultfds + u64::from(link.as_os_str() == "anon_inode:[userfaultfd]"))
    })
}

fn children() -> u64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let lists = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.map(|list| list.split_whitespace().count() as u64).sum()
}

fn huge_pages() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    number_after(&meminfo, "HugePages_Total:").saturating_sub(number_after(&meminfo, "HugePages_Free:"))
}

fn files_in(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let count = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => 1 + files_in(&entry.path()),
        _ => 1,
    };
    entries.flatten().map(count).sum()
}

/// How much of a figure is no growth: percent of what it was, and so much more.
struct Margin {
    name: &'static str,
    percent: u64,
    more: u64,
}

/// While everything is at work, figures go up and down with caches, NICs and processes that come and go; so medians of the first and
/// the last quarter are compared.
const AT_WORK: [Margin; 9] = [
    // Parts of caches that are not touched yet; what the allocator keeps for each arena.
    Margin { name: "rss KiB", percent: 15, more: 8 << 10 },
    Margin { name: "anon KiB", percent: 15, more: 4 << 10 },
    Margin { name: "heap KiB", percent: 15, more: 2 << 10 },
    Margin { name: "fds", percent: 10, more: 20 },
    Margin { name: "uffds", percent: 0, more: 3 },
    Margin { name: "threads", percent: 10, more: 10 },
    // A view of a file is a mapping for every run of pages that lies together in the arena.
    Margin { name: "maps", percent: 25, more: 1000 },
    Margin { name: "held", percent: 50, more: 200 },
    Margin { name: "files", percent: 0, more: 4 },
];

/// With everything ended, nothing may be left but what the allocator keeps.
const AT_REST: [Margin; 11] = [
    Margin { name: "rss KiB", percent: 5, more: 6 << 10 },
    Margin { name: "anon KiB", percent: 5, more: 3 << 10 },
    // What a thread keeps of freed pieces for itself counts as allocated.
    Margin { name: "heap KiB", percent: 5, more: 1 << 10 },
    Margin { name: "fds", percent: 0, more: 0 },
    Margin { name: "uffds", percent: 0, more: 0 },
    Margin { name: "threads", percent: 0, more: 0 },
    // Arenas of the allocator and stacks that are kept for the next thread.
    Margin { name: "maps", percent: 0, more: 40 },
    Margin { name: "children", percent: 0, more: 0 },
    Margin { name: "huge", percent: 0, more: 0 },
    Margin { name: "held", percent: 0, more: 0 },
    Margin { name: "files", percent: 0, more: 0 },
];

/// What has grown from the first quarter of `samples` to the last, while everything was at work.
pub fn grown_at_work(samples: &[Figures]) -> Vec<String> {
    let quarter = samples.len() / 4;
    if quarter < 3 {
        return Vec::new();
    }
    let (first, last) = (&samples[..quarter], &samples[samples.len() - quarter..]);
    grown(&AT_WORK, "at work", |figure| (median(first, figure), median(last, figure)))
}

/// What there is more of in `last` than in `first`, with everything ended.
pub fn grown_at_rest(first: &Figures, last: &Figures) -> Vec<String> {
    grown(&AT_REST, "at rest", |figure| (figure(first), figure(last)))
}

fn grown(margins: &[Margin], when: &str, both: impl Fn(fn(&Figures) -> u64) -> (u64, u64)) -> Vec<String> {
    let look = |margin: &Margin| {
        let figure = NAMED.iter().find(|(name, _)| *name == margin.name)?.1;
        let (before, after) = both(figure);
        let most = before + before * margin.percent / 100 + margin.more;
        let text = || format!("{}, {when}: {before} at first, {after} at last; {most} would be no growth", margin.name);
        (after > most).then(text)
    };
    margins.iter().filter_map(look).collect()
}

/// The middle value of a figure.
pub fn median(samples: &[Figures], figure: fn(&Figures) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(figure).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// By how much a figure grows in an hour, by least squares over `samples`.
pub fn slope_an_hour(samples: &[Figures], figure: fn(&Figures) -> u64) -> f64 {
    let count = samples.len() as f64;
    let (x, y) = (|one: &Figures| one.seconds as f64, |one: &Figures| figure(one) as f64);
    let mean = |of: &dyn Fn(&Figures) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(&x), mean(&y));
    let spread: f64 = samples.iter().map(|one| (x(one) - mean_x).powi(2)).sum();
    let both: f64 = samples.iter().map(|one| (x(one) - mean_x) * (y(one) - mean_y)).sum();
    if spread > 0.0 { both / spread * 3600.0 } else { 0.0 }
}

/// Samples as a table, at most `lines` of them.
pub fn table(samples: &[Figures], lines: usize) -> String {
    let mut text = format!("{:>8}", "seconds");
    NAMED.iter().for_each(|(name, _)| text.push_str(&format!("{name:>10}")));
    let step = samples.len().div_ceil(lines.max(1)).max(1);
    for sample in samples.iter().step_by(step) {
        text.push_str(&format!("\n{:>8}", sample.seconds));
        NAMED.iter().for_each(|(_, figure)| text.push_str(&format!("{:>10}", figure(sample))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(count: u64, fds: impl Fn(u64) -> u64) -> Vec<Figures> {
        (0..count).map(|at| Figures { seconds: 10 * at, fds: fds(at), ..Figures::default() }).collect()
    }

    #[test]
    fn growth_is_told_from_noise() {
        assert!(grown_at_work(&samples(40, |at| 100 + at % 7 * 5)).is_empty());
        let leak = samples(40, |at| 100 + at % 7 * 5 + at * 2);
        let found = grown_at_work(&leak);
        assert!(found.len() == 1 && found[0].starts_with("fds, at work"), "{found:?}");
        let slope = slope_an_hour(&leak, |one| one.fds);
        assert!((600.0..840.0).contains(&slope), "two in ten seconds are 720 in an hour, not {slope}");
    }

    #[test]
    fn at_rest_one_is_too_many() {
        let (one, two) = (Figures::default(), Figures { threads: 1, ..Figures::default() });
        assert!(grown_at_rest(&one, &one).is_empty());
        assert!(grown_at_rest(&one, &two)[0].starts_with("threads, at rest"));
    }
}
