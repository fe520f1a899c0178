//! What is asked of whom, and what a right answer counts.

use serde::Serialize;

use super::answer::Answer;

/// A contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    Ours,
    Dpdk,
    Kernel,
}

impl Who {
    pub const ALL: [Self; 3] = [Self::Dpdk, Self::Ours, Self::Kernel];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Dpdk => "DPDK",
            Self::Kernel => "kernel",
        }
    }

    /// In names of files.
    pub fn file(self) -> &'static str {
        match self {
            Self::Dpdk => "dpdk",
            other => other.name(),
        }
    }
}

/// What a figure is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    #[serde(rename = "ns a frame")]
    Frame,
    #[serde(rename = "ns a KiB of payload")]
    Kib,
    #[serde(rename = "ns a page")]
    Page,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Frame => "ns a frame",
            Self::Kib => "ns a KiB",
            Self::Page => "ns a page",
        }
    }
}

/// What the device must have counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    /// Frames of one buffer.
    Small,
    /// A header and a payload each.
    Pages,
    /// The same, cut by the device: one post a burst.
    Cut,
    /// Received frames of 60 bytes.
    Received,
    /// No device.
    Memory,
    /// A file's bytes, in as many frames as the kernel makes of them.
    File,
}

/// One work of one contestant.
#[derive(Clone, Debug)]
pub struct Ask {
    pub who: Who,
    /// Unique with `who`: the work, and what is not as usual.
    pub name: &'static str,
    /// As the contestant calls it.
    pub work: &'static str,
    pub unit: Unit,
    /// Whether callgrind sees all of it.
    pub countable: bool,
    counts: Counts,
    ring: u64,
    burst: u64,
    pub frames: u64,
    cache_mib: u64,
    /// More keys.
    more: Option<&'static str>,
    file_mib: u64,
}

/// How much is asked in each run.
#[derive(Clone, Copy)]
pub struct Size {
    pub frames: u64,
    pub cache_mib: u64,
    pub file_mib: u64,
}

/// For figures.
pub const USUAL: Size = Size { frames: 65_536, cache_mib: 64, file_mib: 256 };
/// For counts alone.
pub const SMOKE: Size = Size { frames: 2048, cache_mib: 16, file_mib: 4 };
/// Under callgrind, where everything takes fifty times as long.
pub const COUNTED: Size = Size { frames: 2048, cache_mib: 16, file_mib: 4 };

/// Frames come in bursts that are full.
pub const WHOLE_BURSTS: u64 = BURST;
const BURST: u64 = 32;
const RING: u64 = 512;
/// Bytes of a 60-byte frame.
const SMALL: u64 = 60;
/// Ethernet, IPv4 and TCP.
const HEADER: u64 = 54;
/// Bytes a frame; with the header and the check sequence, 1518.
const PAYLOAD: u64 = 1460;
/// The cache that is large.
pub const LARGE_MIB: u64 = 4096;
/// From the smallest ring to the largest, all with bursts for which the smallest has room.
pub const RINGS: [&str; 5] =
    ["tx-page ring=64", "tx-page ring=256", "tx-page ring=512", "tx-page ring=1024", "tx-page ring=4096"];
const SMALL_BURST: u64 = 16;
/// Frames of 64 KiB, the last of which is short, and of four times that, for one doorbell.
const RUN: u64 = RUN_BYTES.div_ceil(PAYLOAD);
const RUN_BYTES: u64 = 64 << 10;
const RUN_BURST: u64 = 4 * RUN;
pub const HUGE: &str = "sender-segmented pages=2MiB";
pub const LARGE_CACHE: &str = "tx-page cache=4GiB";
pub const LARGE_BOTH: &str = "tx-page ring=4096 cache=4GiB";

/// All works, those that are compared beside each other.
pub fn all(size: Size) -> Vec<Ask> {
    use Counts::{Cut, File, Memory, Pages, Received, Small};
    use Who::{Dpdk, Kernel, Ours};
    let ask = |who, name: &'static str, counts| Ask {
        who,
        name,
        work: name.split(' ').next().unwrap_or(name),
        unit: match counts {
            File | Cut => Unit::Kib,
            Memory => Unit::Page,
            _ => Unit::Frame,
        },
        countable: who != Kernel && !name.contains(' '),
        counts,
        ring: RING,
        burst: BURST,
        frames: size.frames,
        cache_mib: size.cache_mib,
        more: None,
        file_mib: size.file_mib,
    };
    let cut = |name, more| Ask {
        more,
        burst: RUN_BURST,
        frames: size.frames / RUN_BURST * RUN_BURST,
        ..ask(Ours, name, Cut)
    };
    let mut all = vec![
        ask(Ours, "tx60", Small),
        ask(Dpdk, "tx60", Small),
        ask(Dpdk, "tx60-full", Small),
        ask(Ours, "tx-page", Pages),
        ask(Dpdk, "tx-page", Pages),
        ask(Ours, "tx-page-each", Pages),
        ask(Ours, "rx60", Received),
        ask(Dpdk, "rx60", Received),
        ask(Dpdk, "rx60-scatter", Received),
        ask(Ours, "hold", Memory),
        ask(Ours, "atomics", Memory),
        ask(Ours, "hold-run", Memory),
        Ask { unit: Unit::Kib, ..ask(Ours, "sender", Pages) },
        Ask { unit: Unit::Kib, ..ask(Ours, "sender-digest", Pages) },
        cut("sender-segmented", None),
        // Few pages: the pool is small.
        Ask { cache_mib: SMOKE.cache_mib, ..cut(HUGE, Some("pages=2MiB")) },
        ask(Kernel, "sendfile", File),
        ask(Kernel, "sendfile-mtu", File),
        ask(Kernel, "write", File),
        ask(Kernel, "read-write", File),
        ask(Kernel, "zerocopy-gso", File),
        Ask { more: Some("device=model"), ..ask(Ours, "tx-page device=model", Pages) },
    ];
    let rings = RINGS.iter().zip([64, 256, 512, 1024, 4096]);
    let sized = |name, ring, cache_mib| Ask { ring, cache_mib, burst: SMALL_BURST, ..ask(Ours, name, Pages) };
    all.extend(rings.map(|(name, ring)| sized(name, ring, size.cache_mib)));
    all.push(sized(LARGE_CACHE, 512, LARGE_MIB));
    all.push(sized(LARGE_BOTH, 4096, LARGE_MIB));
    all
}

impl Ask {
    /// As the contestant reads it.
    pub fn line(&self) -> String {
        let Self { work, ring, burst, frames, cache_mib, file_mib, .. } = self;
        match self.counts {
            Counts::File => format!("run {work} mib={file_mib} payload={PAYLOAD}"),
            Counts::Memory => format!("run {work} frames={frames} burst={burst} cache_mib={cache_mib}"),
            Counts::Small | Counts::Received => format!("run {work} ring={ring} frames={frames} burst={burst}"),
            Counts::Pages | Counts::Cut => {
                let usual = format!("run {work} ring={ring} frames={frames} burst={burst} payload={PAYLOAD}");
                match (self.who, self.more) {
                    (Who::Ours, Some(more)) => format!("{usual} cache_mib={cache_mib} {more}"),
                    (Who::Ours, None) => format!("{usual} cache_mib={cache_mib}"),
                    _ => usual,
                }
            }
        }
    }

    /// Whether the cache that it needs is the large one.
    pub fn is_large(&self) -> bool {
        self.cache_mib == LARGE_MIB
    }

    /// Whether it wants huge pages.
    pub fn is_huge(&self) -> bool {
        self.name == HUGE
    }

    /// ns a unit.
    pub fn figure(&self, answer: &Answer) -> f64 {
        let units = match (self.unit, self.counts) {
            (Unit::Kib, Counts::File) => (self.file_mib * 1024) as f64,
            (Unit::Kib, _) => answer.bytes.saturating_sub(answer.frames * header(answer)) as f64 / 1024.0,
            _ => answer.frames as f64,
        };
        answer.ns as f64 / units
    }

    /// That the device counted exactly what was asked: a figure for other work is none.
    ///
    /// # Errors
    /// Says which count is wrong, and what it should be.
    pub fn check(&self, answer: &Answer) -> Result<(), String> {
        let frames = self.frames;
        if answer.ns == 0 {
            return Err(format!("{}: it took 0 ns, which nothing does", self.name));
        }
        let exactly = |what, found, right| is(self.name, what, found, right..=right);
        let between = |what, found, low, high| is(self.name, what, found, low..=high);
        match self.counts {
            Counts::Small => {
                exactly("frames", answer.frames, frames)?;
                exactly("bytes", answer.bytes, frames * SMALL)?;
                exactly("descriptors", answer.descriptors, frames)?;
                self.check_batches(answer)
            }
            Counts::Pages => {
                exactly("frames", answer.frames, frames)?;
                exactly("bytes", answer.bytes, frames * (header(answer) + PAYLOAD))?;
                // The header's, the payload's, and at most a context descriptor each.
                between("descriptors", answer.descriptors, 2 * frames, 3 * frames)?;
                self.check_batches(answer)
            }
            Counts::Cut => {
                exactly("frames", answer.frames, frames)?;
                let (runs, bursts) = (frames / RUN, frames / self.burst);
                exactly("bytes", answer.bytes, frames * header(answer) + runs * RUN_BYTES)?;
                // The header's, and the payload's in pieces of 16 KiB, a piece more where it lies in two folios.
                between("descriptors", answer.descriptors, 5 * runs, 7 * runs)?;
                between("descriptors with RS", answer.reports, bursts, runs)?;
                exactly("doorbells", answer.doorbells, bursts)
            }
            Counts::Received => {
                exactly("frames", answer.frames, frames)?;
                exactly("bytes", answer.bytes, frames * SMALL)?;
                exactly("descriptors written back", answer.reports, frames)?;
                between("doorbells", answer.doorbells, 1, frames / FEW)
            }
            Counts::Memory => exactly("pages", answer.frames, frames),
            Counts::File => {
                let payload = self.file_mib << 20;
                exactly("bytes of payload", answer.bytes, payload)?;
                exactly("completions that say copied", answer.number("copied").unwrap_or(0), 0)?;
                // Segments may be whole still when the device takes them.
                between("frames", answer.frames, payload >> 16, payload / 512)
            }
        }
    }

    /// Reports are what makes a batch a batch: one a burst at least, or buffers would not come back; and few, or each
    /// frame would pay for a write-back.
    fn check_batches(&self, answer: &Answer) -> Result<(), String> {
        let bursts = self.frames / self.burst;
        is(self.name, "descriptors with RS", answer.reports, bursts..=answer.descriptors / FEW)?;
        is(self.name, "doorbells", answer.doorbells, bursts..=bursts)
    }
}

fn is(work: &str, what: &str, found: u64, right: std::ops::RangeInclusive<u64>) -> Result<(), String> {
    if right.contains(&found) {
        return Ok(());
    }
    let (low, high) = (right.start(), right.end());
    let right = if low == high { low.to_string() } else { format!("{low} to {high}") };
    Err(format!("{work}: the device counted {found} {what}, right is {right}"))
}

fn header(answer: &Answer) -> u64 {
    answer.number("header").unwrap_or(HEADER)
}

/// A batch amortises what it costs over at least so many.
const FEW: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn find(who: Who, name: &str) -> Ask {
        all(USUAL).into_iter().find(|ask| ask.who == who && ask.name == name).unwrap()
    }

    #[test]
    fn names_are_unique_and_lines_say_what_is_not_as_usual() {
        let mut names: Vec<_> = all(USUAL).iter().map(|ask| (ask.who, ask.name)).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for (who, name, line) in [
            (Who::Dpdk, "tx60", "run tx60 ring=512 frames=65536 burst=32"),
            (Who::Dpdk, "tx-page", "run tx-page ring=512 frames=65536 burst=32 payload=1460"),
            (
                Who::Ours,
                "tx-page ring=4096 cache=4GiB",
                "run tx-page ring=4096 frames=65536 burst=16 payload=1460 cache_mib=4096",
            ),
            (
                Who::Ours,
                "tx-page device=model",
                "run tx-page ring=512 frames=65536 burst=32 payload=1460 cache_mib=64 device=model",
            ),
            (
                Who::Ours,
                HUGE,
                "run sender-segmented ring=512 frames=65520 burst=180 payload=1460 cache_mib=16 pages=2MiB",
            ),
            (Who::Ours, "hold", "run hold frames=65536 burst=32 cache_mib=64"),
            (Who::Kernel, "sendfile", "run sendfile mib=256 payload=1460"),
        ] {
            assert_eq!(find(who, name).line(), line);
        }
    }

    /// A right answer to each, and one changed count at a time.
    #[test]
    fn every_wrong_count_is_found() {
        let frames = USUAL.frames;
        let tx60 = Answer {
            ns: 9,
            frames,
            bytes: frames * 60,
            descriptors: frames,
            reports: frames / 32,
            doorbells: frames / 32,
            ..Answer::default()
        };
        let page = Answer { bytes: frames * 1514, descriptors: 2 * frames, reports: frames / 16, ..tx60.clone() };
        let received = Answer { reports: frames, ..tx60.clone() };
        let file = Answer { bytes: 256 << 20, frames: 185_000, ..tx60.clone() };
        type Change = fn(&mut Answer);
        let less: [(&str, Change); 5] = [
            ("0 ns", |answer| answer.ns = 0),
            ("frames", |answer| answer.frames -= 1),
            ("bytes", |answer| answer.bytes -= 1),
            ("RS", |answer| answer.reports = answer.frames / 32 - 1),
            ("doorbells", |answer| answer.doorbells = answer.frames),
        ];
        for (ask, right) in [(find(Who::Dpdk, "tx60"), &tx60), (find(Who::Ours, "tx-page"), &page)] {
            assert_eq!(ask.check(right), Ok(()));
            let more: [(&str, Change); 2] = [
                ("descriptors", |answer| answer.descriptors *= 2),
                ("RS", |answer| answer.reports = answer.descriptors / 2),
            ];
            for (what, change) in less.iter().chain(&more) {
                let mut wrong = right.clone();
                change(&mut wrong);
                let why = ask.check(&wrong).unwrap_err();
                assert!(why.contains(what), "{what}: {why}");
            }
        }
        let rx60 = find(Who::Ours, "rx60");
        assert_eq!(rx60.check(&received), Ok(()));
        for change in [|answer: &mut Answer| answer.reports -= 1, |answer: &mut Answer| answer.doorbells = 0] {
            let mut wrong = received.clone();
            change(&mut wrong);
            assert!(rx60.check(&wrong).is_err());
        }
        let sendfile = find(Who::Kernel, "sendfile");
        assert_eq!(sendfile.check(&file), Ok(()));
        assert!(sendfile.check(&Answer { bytes: (256 << 20) - 1, ..file.clone() }).is_err());
        let copied = serde_json::Map::from_iter([("copied".to_owned(), 1.into())]);
        assert!(sendfile.check(&Answer { more: copied, ..file }).unwrap_err().contains("copied"));
        let (frames, runs) = (65_520, 1456);
        let right = Answer {
            ns: 9,
            frames,
            bytes: frames * 54 + runs * 65_536,
            descriptors: runs * 5,
            reports: 364,
            doorbells: 364,
            ..Answer::default()
        };
        let cut = find(Who::Ours, "sender-segmented");
        assert_eq!(cut.check(&right), Ok(()));
        let wrong: [(&str, Change); 5] = [
            ("frames", |answer| answer.frames -= 1),
            ("bytes", |answer| answer.bytes -= 1),
            ("descriptors", |answer| answer.descriptors = answer.frames * 2),
            ("RS", |answer| answer.reports -= 1),
            ("doorbells", |answer| answer.doorbells -= 1),
        ];
        for (what, change) in wrong {
            let mut answer = right.clone();
            change(&mut answer);
            let why = cut.check(&answer).unwrap_err();
            assert!(why.contains(what), "{what}: {why}");
        }
        assert!(find(Who::Ours, "hold").check(&Answer { ns: 1, frames: 1, ..Answer::default() }).is_err());
    }

    #[test]
    fn a_header_of_another_length_is_believed() {
        let line = r#"{"work":"sender","ns":1048576,"frames":65536,"bytes":98435072,"header":42,"descriptors":131072,"reports":2048,"doorbells":2048}"#;
        let answer = super::super::answer::answer(line, "sender").unwrap();
        let sender = find(Who::Ours, "sender");
        assert_eq!(sender.check(&answer), Ok(()));
        let kib = (65536 * 1460) as f64 / 1024.0;
        assert!((sender.figure(&answer) - 1_048_576.0 / kib).abs() < 1e-9);
    }

    #[test]
    fn figures_are_divided_by_their_unit() {
        let answer = Answer { ns: 131_072, frames: 65_536, ..Answer::default() };
        assert_eq!(find(Who::Ours, "tx60").figure(&answer), 2.0);
        assert_eq!(find(Who::Kernel, "write").figure(&answer), 0.5);
    }
}
