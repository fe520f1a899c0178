//! The tables at the end: ns a frame, and what they mean.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use stillwire_bench::TCP_HEADERS;
use stillwire_bench::line::{Layout, Pcie, core, ethernet, reached};

use crate::works::{BURST, FRAMES, Work, Works, all};

/// The least that a frame took, ns, by length and work.
pub struct Tables(BTreeMap<(usize, &'static str), f64>);

/// Times all works in turns, `rounds` times.
pub fn measure(works: &mut Works, rounds: usize) -> Tables {
    let mut least = BTreeMap::new();
    for _ in 0..rounds {
        for frame in FRAMES {
            for work in all(frame) {
                let spent: Duration = (0..TURN).map(|_| works.burst(work, frame)).sum();
                let ns = spent.as_secs_f64() * 1e9 / (TURN * BURST) as f64;
                let entry = least.entry((frame, work.name())).or_insert(f64::INFINITY);
                *entry = entry.min(ns);
            }
        }
    }
    Tables(least)
}

impl Tables {
    fn ns(&self, frame: usize, work: Work) -> Option<f64> {
        self.0.get(&(frame, work.name())).copied()
    }

    fn works(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [Work::HeaderOnly, Work::HoldARun, Work::HoldAFrame, Work::Unheld, Work::Receive];
        writeln!(f, "\nns a frame, bursts of {BURST}, the least of all rounds:\n")?;
        write!(f, "| frame, B |")?;
        columns.iter().try_for_each(|work| write!(f, " {} |", work.name()))?;
        writeln!(f, "\n|{}", "---|".repeat(1 + columns.len()))?;
        for frame in FRAMES {
            write!(f, "| {frame} |")?;
            for work in columns {
                let ns = self.ns(frame, work).map_or(String::new(), |ns| format!("{ns:.1}"));
                write!(f, " {ns} |")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn rates(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nOne core, header + page, a hold a run; PCIe with packets of 256 B:\n")?;
        writeln!(
            f,
            "| frame, B | ns | Mpps | 10 GbE | 25 GbE | 100 GbE | PCIe 2 x8, Mpps | PCIe 3 x16, Mpps | line at 100 GbE, Mpps |"
        )?;
        writeln!(f, "|{}", "---|".repeat(9))?;
        for frame in FRAMES {
            let Some(ns) = self.ns(frame, Work::HoldARun) else { continue };
            write!(f, "| {frame} | {ns:.1} | {:.2} |", core(ns) / 1e6)?;
            for gigabits in [10.0, 25.0, 100.0] {
                write!(f, " {:.0} % |", 100.0 * reached(ns, gigabits, frame))?;
            }
            let layout = Layout::of(frame, TCP_HEADERS);
            for slot in [Pcie::X520, Pcie::GEN3_X16] {
                write!(f, " {:.2} |", slot.ceiling(layout) / 1e6)?;
            }
            writeln!(f, " {:.2} |", ethernet(100.0, frame) / 1e6)?;
        }
        Ok(())
    }

    fn shares(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nWhere they go, by differences, ns a frame (share):\n")?;
        writeln!(f, "| frame, B | hold | header, checksums | descriptors | doorbell, report, reclaim | all |")?;
        writeln!(f, "|{}", "---|".repeat(6))?;
        for frame in FRAMES {
            let of = |work| self.ns(frame, work);
            let all = [Work::HoldARun, Work::Unheld, Work::Bare, Work::Doorbells].map(of);
            let [Some(whole), Some(unheld), Some(bare), Some(doorbells)] = all else { continue };
            let Shares { hold, header, descriptors, batch } = Shares::of(whole, unheld, bare, doorbells);
            write!(f, "| {frame} |")?;
            for part in [hold, header, descriptors, batch] {
                write!(f, " {part:.1} ({:.0} %) |", 100.0 * part / whole)?;
            }
            writeln!(f, " {whole:.1} |")?;
        }
        Ok(())
    }
}

/// Parts of a frame's cost, ns.
struct Shares {
    hold: f64,
    header: f64,
    descriptors: f64,
    batch: f64,
}

impl Shares {
    /// By what each of the works has more than the next.
    fn of(whole: f64, unheld: f64, bare: f64, doorbells: f64) -> Self {
        // A burst has one doorbell and one report; with one a frame it has as many as frames.
        let batch = (doorbells - bare) / (BURST - 1) as f64;
        Self { hold: whole - unheld, header: unheld - bare, descriptors: bare - batch, batch }
    }
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.works(f)?;
        self.rates(f)?;
        self.shares(f)?;
        writeln!(f, "\nSegmentation: the driver cannot ask for it yet; its rows come here.")
    }
}

/// Bursts of a work before it is the next one's turn.
const TURN: usize = 16;
