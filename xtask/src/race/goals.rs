//! What is compared with what, and whether the goals are met.

use serde::Serialize;

use super::rounds::Race;
use super::statistics::{Figure, three_digits};
use super::works::{LARGE_BOTH, LARGE_CACHE, RINGS, Who};

/// One comparison.
#[derive(Serialize)]
pub struct Row {
    pub work: &'static str,
    pub unit: &'static str,
    pub ours: Cell,
    /// What it is compared with, and its figure.
    pub beside: Option<(String, Cell)>,
    /// Of the minima.
    pub ratio: Option<f64>,
    pub goal: String,
    pub verdict: Verdict,
}

/// A figure, or why there is none.
pub type Cell = Result<Figure, String>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    #[serde(rename = "met")]
    Met,
    #[serde(rename = "missed")]
    Missed,
    /// A figure is missing.
    #[serde(rename = "not judged")]
    NotJudged(String),
    /// There is no goal.
    #[serde(rename = "information")]
    Information,
}

/// What a comparison is to show.
#[derive(Clone, Copy)]
enum Limit {
    /// Of the other's minimum.
    Ratio(f64),
    /// ns a unit.
    Nanoseconds(f64),
    /// A frame.
    Instructions(f64),
    /// There is none.
    None,
}

struct Line {
    work: &'static str,
    ours: &'static str,
    beside: Option<(Who, &'static str)>,
    limit: Limit,
}

const fn line(work: &'static str, ours: &'static str, beside: Option<(Who, &'static str)>, limit: Limit) -> Line {
    Line { work, ours, beside, limit }
}

const LINES: [Line; 18] = [
    line(
        "TX header + held page + checksum, a hold a 64 KiB run",
        "tx-page",
        Some((Who::Dpdk, "tx-page")),
        Limit::Ratio(0.35),
    ),
    line("the same, instructions", "tx-page", Some((Who::Dpdk, "tx-page")), Limit::Instructions(150.0)),
    line("the same, a hold a frame", "tx-page-each", Some((Who::Dpdk, "tx-page")), Limit::Ratio(0.75)),
    line("TX 60 B, one buffer", "tx60", Some((Who::Dpdk, "tx60")), Limit::Ratio(1.0)),
    line("RX 60 B + recycle", "rx60", Some((Who::Dpdk, "rx60")), Limit::Ratio(1.0)),
    line("sender, in MTU frames", "sender", Some((Who::Kernel, "sendfile")), Limit::Nanoseconds(10.0)),
    line(
        "sender, 64 KiB cut by the NIC, a post and a hold a run",
        "sender-segmented",
        Some((Who::Kernel, "sendfile")),
        Limit::Nanoseconds(2.0),
    ),
    line("the same, in pages of 2 MiB", super::works::HUGE, Some((Who::Kernel, "sendfile")), Limit::Nanoseconds(2.0)),
    line("hold + release of a clean page", "hold", Some((Who::Ours, "atomics")), Limit::Ratio(1.3)),
    line("TX 60 B, beside the full-featured path", "tx60", Some((Who::Dpdk, "tx60-full")), Limit::None),
    line("RX 60 B, beside scatter + checksum", "rx60", Some((Who::Dpdk, "rx60-scatter")), Limit::None),
    line("sender, beside sendfile in MTU frames", "sender", Some((Who::Kernel, "sendfile-mtu")), Limit::None),
    line("sender, beside write", "sender", Some((Who::Kernel, "write")), Limit::None),
    line("sender, beside read and write", "sender", Some((Who::Kernel, "read-write")), Limit::None),
    line("sender, beside zero-copy UDP GSO", "sender", Some((Who::Kernel, "zerocopy-gso")), Limit::None),
    line("sender with digests", "sender-digest", Some((Who::Ours, "sender")), Limit::None),
    line("hold + release of a page of a 64 KiB run", "hold-run", Some((Who::Ours, "atomics")), Limit::None),
    line(
        "TX header + held page, on the emulator's full model",
        "tx-page device=model",
        Some((Who::Ours, "tx-page")),
        Limit::None,
    ),
];

/// A cost that should not grow.
struct Flat {
    work: &'static str,
    settings: &'static [&'static str],
}

const FLAT: [Flat; 3] = [
    Flat { work: "cost a frame as rings grow 64 -> 4096", settings: &RINGS },
    Flat { work: "cost a frame as the cache grows 64 MiB -> 4 GiB", settings: &[RINGS[2], LARGE_CACHE] },
    Flat {
        work: "cost a frame as both grow",
        settings: &[RINGS[0], RINGS[1], RINGS[2], RINGS[3], RINGS[4], LARGE_CACHE, LARGE_BOTH],
    },
];
/// The dearest setting beside the cheapest.
const FLAT_WITHIN: f64 = 1.5;

/// What holds a row back that misses its goal, as far as it is known; by the row's work.
const HELD_BACK: [(&str, &str); 5] = [
    (
        "hold + release of a clean page",
        "The look-up: loads that depend on each other, before an addition on what the last of them names. Holding a run pays \
         for it once.",
    ),
    (
        "the same, a hold a frame",
        "Two locked instructions a hold, and a locked instruction waits until all stores before it are done; a third of the \
         frames lie across a page border. `atomics` says what the two cost alone: most of what the goal leaves. A hold a run \
         pays for them once in eleven frames.",
    ),
    (
        "sender, 64 KiB cut by the NIC, a post and a hold a run",
        "Holding sixteen pages takes eight locked instructions, and releasing them eight more (two pages share a word): that \
         alone is beyond the goal here, see `hold-run`. In pages of 2 MiB a run is one page.",
    ),
    ("cost a frame as rings grow 64 -> 4096", "Misses of the first-level cache: see what grows with a ring, below."),
    ("cost a frame as both grow", "The same, and misses of the second level for the page words of 4 GiB."),
];

/// All rows: those with goals first.
pub fn judge(race: &Race) -> Vec<Row> {
    let (goals, information): (Vec<&Line>, Vec<&Line>) =
        LINES.iter().partition(|line| !matches!(line.limit, Limit::None));
    let goals = goals.into_iter().map(|line| line.row(race));
    let flat = FLAT.iter().map(|flat| flat.row(race));
    goals.chain(flat).chain(information.into_iter().map(|line| line.row(race))).collect()
}

impl Line {
    fn row(&self, race: &Race) -> Row {
        let counted = matches!(self.limit, Limit::Instructions(_));
        let cell = |who, name| if counted { instructions(race, who, name) } else { nanoseconds(race, who, name) };
        let ours = cell(Who::Ours, self.ours);
        let beside = self.beside.map(|(who, name)| (format!("{} {name}", who.name()), cell(who, name)));
        let ratio = match (&ours, &beside) {
            (Ok(ours), Some((_, Ok(beside)))) => Some(ours.min / beside.min),
            _ => None,
        };
        let unit = race.series.iter().find(|series| series.ask.who == Who::Ours && series.ask.name == self.ours);
        let unit = unit.map_or("", |series| series.ask.unit.name());
        Row {
            work: self.work,
            unit: if counted { "instructions a frame" } else { unit },
            verdict: self.limit.verdict(&ours, beside.as_ref().map(|(_, cell)| cell)),
            goal: self.limit.text(),
            ours,
            beside,
            ratio,
        }
    }
}

impl Limit {
    fn text(self) -> String {
        match self {
            Self::Ratio(ratio) => format!("≤ {ratio}x"),
            Self::Nanoseconds(ns) => format!("≤ {ns} ns"),
            Self::Instructions(count) => format!("≤ {count}"),
            Self::None => String::new(),
        }
    }

    fn verdict(self, ours: &Cell, beside: Option<&Cell>) -> Verdict {
        let ours = match (self, ours) {
            (Self::None, _) => return Verdict::Information,
            (_, Err(why)) => return Verdict::NotJudged(why.clone()),
            (_, Ok(figure)) => figure.min,
        };
        let met = match (self, beside) {
            (Self::Ratio(ratio), Some(Ok(beside))) => ours <= ratio * beside.min,
            (Self::Ratio(_), Some(Err(why))) => return Verdict::NotJudged(why.clone()),
            (Self::Nanoseconds(limit) | Self::Instructions(limit), _) => ours <= limit,
            (Self::Ratio(_), None) | (Self::None, _) => return Verdict::Information,
        };
        if met { Verdict::Met } else { Verdict::Missed }
    }
}

impl Flat {
    fn row(&self, race: &Race) -> Row {
        let cells: Vec<(&str, Cell)> =
            self.settings.iter().map(|name| (*name, nanoseconds(race, Who::Ours, name))).collect();
        let missing = cells.iter().find_map(|(name, cell)| cell.as_ref().err().map(|why| format!("{name}: {why}")));
        let mut there: Vec<(&str, Figure)> =
            cells.into_iter().filter_map(|(name, cell)| Some((name, cell.ok()?))).collect();
        there.sort_by(|a, b| a.1.min.total_cmp(&b.1.min));
        let nothing = || missing.clone().unwrap_or_default();
        let (low, high) = (there.first(), there.last());
        let ratio = low.zip(high).filter(|_| there.len() > 1).map(|(low, high)| high.1.min / low.1.min);
        // A spread over some of the settings can be too large already, but not small enough.
        let verdict = match (ratio, &missing) {
            (Some(ratio), _) if ratio > FLAT_WITHIN => Verdict::Missed,
            (Some(_), None) => Verdict::Met,
            _ => Verdict::NotJudged(nothing()),
        };
        Row {
            work: self.work,
            unit: "ns a frame",
            ours: high.map(|(_, figure)| *figure).ok_or_else(nothing),
            beside: low.filter(|_| there.len() > 1).map(|(name, figure)| (format!("ours {name}"), Ok(*figure))),
            ratio,
            goal: format!("≤ {FLAT_WITHIN}x"),
            verdict,
        }
    }
}

fn nanoseconds(race: &Race, who: Who, name: &str) -> Cell {
    race.find(who, name)?.figure().ok_or_else(|| "no round was run".to_owned())
}

fn instructions(race: &Race, who: Who, name: &str) -> Cell {
    let count = race.find(who, name)?.instructions;
    count.map(|count| Figure { min: count, median: count }).ok_or_else(|| NOT_COUNTED.to_owned())
}

const NOT_COUNTED: &str = "not counted; --instructions counts them";

impl Row {
    /// A figure as the table shows it.
    fn cell(&self, cell: &Cell) -> String {
        match cell {
            Ok(figure) if self.unit.starts_with("instructions") => format!("{:.0}", figure.min),
            Ok(Figure { min, median }) => format!("{} / {}", three_digits(*min), three_digits(*median)),
            Err(_) => "-".into(),
        }
    }

    /// The cells of its line in the table, in the order of [`HEAD`].
    pub fn cells(&self) -> Vec<String> {
        let beside = self.beside.as_ref().map(|(who, cell)| format!("{} {who}", self.cell(cell)));
        vec![
            self.work.into(),
            self.unit.into(),
            self.cell(&self.ours),
            beside.unwrap_or_default(),
            self.ratio.map(three_digits).unwrap_or_default(),
            self.goal.clone(),
            self.verdict.text(),
        ]
    }

    /// What is known of why a goal is missed; `None` when it is not missed.
    pub fn held_back(&self) -> Option<&'static str> {
        let known = HELD_BACK.iter().find(|(work, _)| *work == self.work).map(|(_, why)| *why);
        (self.verdict == Verdict::Missed).then(|| known.unwrap_or("Not known yet."))
    }
}

impl Verdict {
    fn text(&self) -> String {
        match self {
            Self::Met => "met".into(),
            Self::Missed => "MISSED".into(),
            Self::NotJudged(_) => "not judged".into(),
            Self::Information => String::new(),
        }
    }
}

/// Heads the table's columns.
pub const HEAD: [&str; 7] = ["work", "unit", "ours, min / median", "beside", "ratio of minima", "goal", "goal met"];

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::super::answer::Answer;
    use super::super::rounds::{Series, Without};
    use super::super::works::{USUAL, Unit, all};
    use super::*;

    /// A race in which everything takes `ns` a unit, except what `but` names.
    pub fn race(ns: f64, but: &[(Who, &str, f64)]) -> Race {
        let series = all(USUAL).into_iter().map(|ask| {
            let special = but.iter().find(|(who, name, _)| *who == ask.who && *name == ask.name);
            let ns = special.map_or(ns, |(_, _, ns)| *ns);
            let frames = USUAL.frames;
            let mut answer = Answer { work: ask.work.into(), frames, bytes: frames * 1514, ..Answer::default() };
            let units = match (ask.unit, ask.who) {
                (Unit::Kib, Who::Kernel) => (USUAL.file_mib * 1024) as f64,
                (Unit::Kib, _) => (frames * 1460) as f64 / 1024.0,
                _ => frames as f64,
            };
            answer.ns = (ns * units).round() as u64;
            let slower = Answer { ns: answer.ns * 2, ..answer.clone() };
            Series { answers: vec![slower.clone(), answer, slower], ..Series::new(ask) }
        });
        Race { contestants: BTreeMap::new(), series: series.collect() }
    }

    fn verdict(race: &Race, work: &str) -> Verdict {
        let rows = judge(race);
        rows.iter().find(|row| row.work == work).unwrap_or_else(|| panic!("no row {work}")).verdict.clone()
    }

    #[test]
    fn every_goal_can_be_met_and_missed() {
        let limits = [
            ("TX header + held page + checksum, a hold a 64 KiB run", "tx-page", 3.5),
            ("the same, a hold a frame", "tx-page-each", 7.5),
            ("TX 60 B, one buffer", "tx60", 10.0),
            ("RX 60 B + recycle", "rx60", 10.0),
            ("sender, in MTU frames", "sender", 10.0),
            ("hold + release of a clean page", "hold", 13.0),
        ];
        for (work, name, limit) in limits {
            assert_eq!(verdict(&race(10.0, &[(Who::Ours, name, limit - 0.01)]), work), Verdict::Met, "{work}");
            assert_eq!(verdict(&race(10.0, &[(Who::Ours, name, limit + 0.01)]), work), Verdict::Missed, "{work}");
        }
        for (name, works) in [
            ("tx-page ring=64", &["rings grow 64 -> 4096", "both grow"][..]),
            (LARGE_CACHE, &["the cache grows 64 MiB -> 4 GiB", "both grow"]),
            (LARGE_BOTH, &["both grow"]),
        ] {
            for work in works {
                let work = format!("cost a frame as {work}");
                assert_eq!(verdict(&race(10.0, &[(Who::Ours, name, 14.9)]), &work), Verdict::Met);
                assert_eq!(verdict(&race(10.0, &[(Who::Ours, name, 15.1)]), &work), Verdict::Missed);
                assert_eq!(verdict(&race(10.0, &[(Who::Ours, name, 6.5)]), &work), Verdict::Missed);
            }
        }
    }

    #[test]
    fn instructions_are_judged_when_they_were_counted() {
        let mut race = race(10.0, &[]);
        let work = "the same, instructions";
        assert_eq!(verdict(&race, work), Verdict::NotJudged(NOT_COUNTED.into()));
        for (count, expected) in [(150.0, Verdict::Met), (150.5, Verdict::Missed)] {
            let ours = |series: &&mut Series| series.ask.who == Who::Ours && series.ask.name == "tx-page";
            race.series.iter_mut().find(ours).unwrap().instructions = Some(count);
            assert_eq!(verdict(&race, work), expected);
        }
        let rows = judge(&race);
        assert_eq!(rows[1].cells()[2..4], ["150".to_string(), "- DPDK tx-page".into()]);
    }

    #[test]
    fn what_was_left_out_is_not_judged_and_says_why() {
        let mut race = race(10.0, &[]);
        race.without(Who::Dpdk, &Without::LeftOut("no huge pages".into()));
        let why = Verdict::NotJudged("no huge pages".into());
        assert_eq!(verdict(&race, "TX 60 B, one buffer"), why);
        assert_eq!(judge(&race)[0].cells()[6], "not judged");
        assert_eq!(verdict(&race, "TX 60 B, beside the full-featured path"), Verdict::Information);
        let large = |series: &&mut Series| series.ask.is_large();
        race.series.iter_mut().filter(large).for_each(|series| series.without = Some(Without::LeftOut("small".into())));
        assert_eq!(verdict(&race, "cost a frame as rings grow 64 -> 4096"), Verdict::Met);
        let both = verdict(&race, "cost a frame as both grow");
        assert_eq!(both, Verdict::NotJudged(format!("{LARGE_CACHE}: small")));
    }

    #[test]
    fn a_row_shows_minimum_median_ratio_and_goal() {
        let race = race(10.0, &[(Who::Ours, "tx60", 7.5), (Who::Ours, "hold", 20.0)]);
        let rows = judge(&race);
        let row = rows.iter().find(|row| row.work == "TX 60 B, one buffer").unwrap();
        let expected =
            ["TX 60 B, one buffer", "ns a frame", "7.50 / 15.0", "10.0 / 20.0 DPDK tx60", "0.75", "≤ 1x", "met"];
        assert_eq!(row.cells(), expected);
        assert_eq!(row.held_back(), None);
        let hold = rows.iter().find(|row| row.work == "hold + release of a clean page").unwrap();
        assert!(hold.held_back().unwrap().contains("look-up") && hold.cells()[6] == "MISSED");
        let information = rows.iter().position(|row| row.verdict == Verdict::Information).unwrap();
        assert!(rows[information..].iter().all(|row| row.verdict == Verdict::Information), "goals come first");
    }

    #[test]
    fn each_reason_belongs_to_a_row() {
        let rows = judge(&race(1.0, &[]));
        assert!(HELD_BACK.iter().all(|(work, _)| rows.iter().any(|row| row.work == *work)));
    }
}
