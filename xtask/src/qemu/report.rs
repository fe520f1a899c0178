//! What a device model says it went through (`stillwire-emulator --report`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// One report.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Report {
    counters: BTreeMap<String, u64>,
    pub registers: Vec<Register>,
    /// Oldest first, with how often each came in a row.
    pub events: Vec<(String, u64)>,
    /// What the driver did that hardware forgives or answers with garbage.
    pub complaints: Vec<String>,
    pub halts: Vec<String>,
}

/// A register that was reached by message.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Register {
    pub offset: String,
    pub kind: String,
    pub reads: u64,
    pub writes: u64,
    pub name: String,
    pub why: String,
}

impl Report {
    /// # Errors
    /// In words.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).ok_or_else(|| format!("{}: this is no report of a device model", path.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut report = Self::default();
        for line in text.lines() {
            let (kind, rest) = line.split_once(' ')?;
            match kind {
                "counter" => {
                    let (name, value) = rest.split_once(' ')?;
                    report.counters.insert(name.to_owned(), value.parse().ok()?);
                }
                "register" => report.registers.push(Register::parse(rest)?),
                "event" => {
                    let (times, event) = rest.split_once(' ')?;
                    report.events.push((event.to_owned(), times.parse().ok()?));
                }
                "complaint" => report.complaints.push(rest.to_owned()),
                "halt" => report.halts.push(rest.to_owned()),
                _ => return None,
            }
        }
        Some(report)
    }

    /// # Errors
    /// When the model has no such counter.
    pub fn counter(&self, name: &str) -> Result<u64, String> {
        self.counters.get(name).copied().ok_or_else(|| format!("the model's report has no counter {name}"))
    }

    /// That none of these counters moved.
    ///
    /// # Errors
    /// Names those that did.
    pub fn all_zero(&self, names: &[&str]) -> Result<(), String> {
        let mut moved = String::new();
        for name in names {
            let value = self.counter(name)?;
            if value != 0 {
                let _ = write!(moved, "{name} is {value}; ");
            }
        }
        if moved.is_empty() { Ok(()) } else { Err(format!("{moved}{}", self.halts.join("; "))) }
    }

    /// That no memory was taken away while the device could still reach it, and that nobody had to be stopped by force.
    ///
    /// # Errors
    /// Says what came in which order.
    pub fn quiet_before_unmapped(&self) -> Result<(), String> {
        match self.events.iter().any(|(event, _)| event == "unmapped, bus master on") {
            false => Ok(()),
            true => Err(format!("memory went while the device could reach it: {}", self.story())),
        }
    }

    /// That at some time bus mastering went off with work queued, and that the device was reset before memory went.
    ///
    /// # Errors
    /// Says what came in which order.
    pub fn stopped_at_work(&self) -> Result<(), String> {
        let mut events = self.events.iter().map(|(event, _)| event.as_str());
        let stopped = events.any(|event| event == "bus master off, work queued");
        let (reset, gone) = (events.clone().position(is_reset), events.position(|event| event.starts_with("unmapped")));
        match (stopped, reset, gone) {
            (true, Some(reset), Some(gone)) if reset < gone => Ok(()),
            _ => Err(format!("not in the order: bus master off with work queued, reset, unmapped: {}", self.story())),
        }
    }

    fn story(&self) -> String {
        self.events.iter().map(|(event, times)| format!("{event} ({times})")).collect::<Vec<_>>().join(", ")
    }
}

fn is_reset(event: &str) -> bool {
    matches!(event, "reset" | "function-level reset")
}

impl Register {
    /// `0x04240 stored reads 3 writes 2 NAME: why`.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(7, ' ');
        let (offset, kind) = (words.next()?.to_owned(), words.next()?.to_owned());
        let reads = words.nth(1)?.parse().ok()?;
        let writes = words.nth(1)?.parse().ok()?;
        let (name, why) = words.next()?.split_once(':')?;
        Some(Self { offset, kind, reads, writes, name: name.to_owned(), why: why.trim().to_owned() })
    }
}

/// The table of registers that were touched and are not implemented, each once, in the order of their offsets; as Markdown.
pub fn coverage(registers: &[Register]) -> String {
    let mut missing: BTreeMap<&str, Register> = BTreeMap::new();
    let (mut implemented, mut all) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for register in registers {
        all.insert(&register.offset);
        if register.kind == "implemented" {
            implemented.insert(&register.offset);
            continue;
        }
        let entry = missing.entry(&register.offset).or_insert(Register { reads: 0, writes: 0, ..register.clone() });
        entry.reads += register.reads;
        entry.writes += register.writes;
    }
    let mut text = format!(
        "The stock driver touched {} registers, of which the model implements {}. The others:\n\n\
         | offset | register | read | written | the model | why |\n|---|---|---|---|---|---|\n",
        all.len(),
        implemented.len()
    );
    for line in groups(missing.into_values().collect()) {
        text.push_str(&line);
    }
    text
}

/// Registers of one name are one line.
fn groups(registers: Vec<Register>) -> Vec<String> {
    let mut lines: Vec<(Register, String)> = Vec::new();
    for register in registers {
        match lines.last_mut() {
            Some((group, last))
                if !group.name.is_empty() && group.name == register.name && group.kind == register.kind =>
            {
                *last = register.offset;
                group.reads += register.reads;
                group.writes += register.writes;
            }
            _ => lines.push((register.clone(), register.offset)),
        }
    }
    let line = |(group, last): (Register, String)| {
        let Register { offset, kind, reads, writes, name, why } = group;
        let offsets = if offset == last { offset } else { format!("{offset}..{last}") };
        let kind = if kind == "stored" { "stores it" } else { "reads 0" };
        format!("| {offsets} | {name} | {reads} | {writes} | {kind} | {why} |\n")
    };
    lines.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "counter bus_faults 0\ncounter gated 2\n\
        register 0x00018 stored reads 1 writes 2 CTRL_EXT: no firmware\n\
        register 0x04240 implemented reads 3 writes 2 HLREG0: \n\
        register 0x0c000 unknown reads 1 writes 0 : \n\
        event 1 bus master on\nevent 3 unmapped, bus master off\ncomplaint an odd thing\nhalt TX queue 0: a reason\n";

    #[test]
    fn a_report_is_read_back() {
        let report = Report::parse(TEXT).unwrap();
        assert_eq!((report.counter("gated"), report.registers.len()), (Ok(2), 3));
        assert_eq!(report.events[1], ("unmapped, bus master off".to_owned(), 3));
        assert!(report.counter("none").is_err());
        assert_eq!(report.all_zero(&["bus_faults"]), Ok(()));
        assert!(report.all_zero(&["bus_faults", "gated"]).unwrap_err().contains("gated is 2; TX queue 0"));
        let table = coverage(&report.registers);
        assert!(table.contains("touched 3 registers, of which the model implements 1"), "{table}");
        assert!(table.contains("| 0x00018 | CTRL_EXT | 1 | 2 | stores it | no firmware |"), "{table}");
        assert!(table.contains("| 0x0c000 |  | 1 | 0 | reads 0 |  |"), "{table}");
        assert_eq!(Report::parse("nonsense"), None);
    }

    fn story(events: &[&str]) -> Report {
        Report { events: events.iter().map(|event| ((*event).to_owned(), 1)).collect(), ..Report::default() }
    }

    #[test]
    fn the_order_of_a_crash() {
        let (off, reset, gone) = ("bus master off, work queued", "function-level reset", "unmapped, bus master off");
        assert_eq!(story(&["bus master on", off, reset, gone]).stopped_at_work(), Ok(()));
        for wrong in
            [&[off, gone, reset][..], &[reset, gone], &[off, reset], &["bus master off, nothing queued", reset, gone]]
        {
            assert!(story(wrong).stopped_at_work().is_err(), "{wrong:?}");
        }
        assert_eq!(story(&[off, gone]).quiet_before_unmapped(), Ok(()));
        assert!(story(&["bus master on", "unmapped, bus master on"]).quiet_before_unmapped().is_err());
    }
}
