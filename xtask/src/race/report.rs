//! What a race leaves behind: a table, `race.json`, a plot, a page, and docs/PERFORMANCE.md.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::goals::{self, HEAD, Row, Verdict};
use super::machine::Machine;
use super::rounds::Race;
use super::table::{escaped, grid, html};
use super::works::Who;
use super::{plot, rates};

/// A race that was run, and how.
pub struct Report<'a> {
    pub race: &'a Race,
    pub machine: &'a Machine,
    /// What contestants call themselves.
    pub versions: &'a BTreeMap<Who, String>,
    pub rounds: usize,
    pub warm_up: usize,
    pub frames: u64,
}

impl Report<'_> {
    /// The table, and below it what is missing from it.
    pub fn text(&self) -> String {
        let rows = goals::judge(self.race);
        format!("{}{}", self.table(&rows), self.left_out(&rows))
    }

    fn table(&self, rows: &[Row]) -> String {
        grid(&HEAD, &rows.iter().map(Row::cells).collect::<Vec<_>>())
    }

    /// What has no figure, by its reason.
    fn left_out(&self, rows: &[Row]) -> String {
        let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for series in &self.race.series {
            if let Some(without) = &series.without {
                let name = format!("{} {}", series.ask.who.name(), series.ask.name);
                by_reason.entry(without.why().to_owned()).or_default().push(name);
            }
        }
        for row in rows {
            if let Verdict::NotJudged(why) = &row.verdict {
                by_reason.entry(why.clone()).or_default().push(format!("\"{}\" is not judged", row.work));
            }
        }
        let line = |(why, what): (String, Vec<String>)| format!("- {}: {why}\n", what.join(", "));
        let lines: String = by_reason.into_iter().map(line).collect();
        if lines.is_empty() { lines } else { format!("\nNot to be had:\n\n{lines}") }
    }

    /// Everything, raw.
    pub fn json(&self) -> Value {
        let series = self.race.series.iter().map(|series| {
            json!({
                "who": series.ask.who, "name": series.ask.name, "asked": series.ask.line(), "unit": series.ask.unit,
                "answers": series.answers, "samples": series.samples(), "figure": series.figure(),
                "instructions": series.instructions, "without": series.without,
            })
        });
        json!({
            "machine": self.machine, "contestants": self.versions, "rounds": self.rounds,
            "warm_up": self.warm_up, "frames": self.frames,
            "series": series.collect::<Vec<_>>(), "goals": goals::judge(self.race),
        })
    }

    /// Bars.
    pub fn svg(&self) -> String {
        let Self { rounds, machine, .. } = self;
        plot::svg(self.race, &format!("{rounds} rounds, {} UTC, commit {}", machine.date, machine.commit))
    }

    /// Table and plot on one page.
    pub fn html(&self) -> String {
        let rows = goals::judge(self.race);
        let table = html(&HEAD, &rows.iter().map(Row::cells).collect::<Vec<_>>());
        let (machine, missing, svg) = (escaped(&self.machine.text()), escaped(&self.left_out(&rows)), self.svg());
        format!("{PAGE}<p>{machine}</p>\n{table}<pre>{missing}</pre>\n{svg}</body>\n</html>\n")
    }

    /// docs/PERFORMANCE.md.
    ///
    /// # Errors
    /// When its template asks for what is not known.
    pub fn markdown(&self) -> Result<String, String> {
        let rows = goals::judge(self.race);
        let versions: Vec<String> = self.versions.iter().map(|(who, what)| format!("{}: {what}", who.name())).collect();
        let Self { rounds, warm_up, frames, machine, .. } = self;
        let method = format!(
            "{warm_up} rounds to warm up, then {rounds} that count; in each, every contestant does every work once, {frames} frames of it."
        );
        fill(
            TEMPLATE,
            &[
                ("date", machine.date.clone()),
                ("commit", machine.commit.clone()),
                ("rounds", format!("{rounds} rounds")),
                ("rounds_method", method),
                ("machine", machine.text()),
                ("versions", versions.join("; ")),
                ("table", self.table(&rows)),
                ("left_out", self.left_out(&rows)),
                ("held_back", held_back(&rows)),
                ("instructions", self.instructions()),
                ("rates", grid(&rates::HEAD, &rates::rows(self.race))),
            ],
        )
    }

    fn instructions(&self) -> String {
        let counted = self.race.series.iter().filter_map(|series| {
            let count = series.instructions?;
            Some(vec![series.ask.who.name().into(), series.ask.name.into(), format!("{count:.0}")])
        });
        let rows: Vec<_> = counted.collect();
        if rows.is_empty() {
            return "They were not counted in this run; `--instructions` counts them.\n".into();
        }
        grid(&["who", "work", "instructions a frame or page"], &rows)
    }

    /// Writes all of it, except what goes into the repository.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        let json = serde_json::to_string_pretty(&self.json()).map_err(|error| format!("race.json: {error}"))?;
        for (name, text) in [("race.json", json + "\n"), ("race.svg", self.svg()), ("race.html", self.html())] {
            put(&folder.join(name), &text)?;
        }
        Ok(())
    }

    /// Writes docs/PERFORMANCE.md and its plot below `root`.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn write_docs(&self, root: &Path) -> Result<(), String> {
        let docs = root.join("docs");
        std::fs::create_dir_all(&docs).map_err(|error| format!("{}: {error}", docs.display()))?;
        put(&docs.join("PERFORMANCE.md"), &self.markdown()?)?;
        put(&docs.join("performance.svg"), &self.svg())
    }
}

fn put(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("── wrote {}", path.display());
    Ok(())
}

/// What keeps each missed goal.
fn held_back(rows: &[Row]) -> String {
    let line = |row: &Row| Some(format!("- {}: {}\n", row.work, row.held_back()?));
    let lines: String = rows.iter().filter_map(line).collect();
    if lines.is_empty() { lines } else { format!("\nWhat holds back those that are missed:\n\n{lines}") }
}

/// Puts values into the places of a template, which are written `{{name}}`.
fn fill(template: &str, values: &[(&str, String)]) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").ok_or("the template has a {{ without its }}")?;
        let value = values.iter().find(|(known, _)| *known == name);
        let (_, value) = value.ok_or_else(|| format!("the template asks for {name}, which nobody knows"))?;
        text.push_str(before);
        text.push_str(value);
        rest = after;
    }
    Ok(text + rest)
}

const TEMPLATE: &str = include_str!("performance.md");

const PAGE: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<title>stillwire race</title>
<style>
:root{color-scheme:light dark}
body{font:15px system-ui,sans-serif;margin:2em;max-width:70em}
table{border-collapse:collapse;margin:1em 0}
th,td{text-align:left;padding:.3em .8em;border-bottom:1px solid #8884}
svg{max-width:100%;height:auto}
</style>
</head>
<body>
<h1>stillwire race</h1>
";

#[cfg(test)]
mod tests {
    use super::super::goals::tests::race;
    use super::super::rounds::Without;
    use super::*;

    fn machine() -> Machine {
        Machine {
            processor: "Some CPU <2 GHz>".into(),
            processors: 2,
            is_virtual: true,
            memory_mib: 1024,
            kernel: "6.18".into(),
            rustc: "rustc 1.90".into(),
            compiler: "cc 12".into(),
            date: "2026-01-02 03:04".into(),
            commit: "abcdef+".into(),
        }
    }

    fn with<T>(race: &Race, look: impl FnOnce(&Report<'_>) -> T) -> T {
        let versions = BTreeMap::from([(Who::Dpdk, "dpdk 22.11".to_owned())]);
        look(&Report { race, machine: &machine(), versions: &versions, rounds: 3, warm_up: 2, frames: 64 })
    }

    #[test]
    fn the_results_page_is_filled_and_says_that_it_is_generated() {
        let mut race = race(10.0, &[(Who::Ours, "hold", 90.0)]);
        race.series[3].instructions = Some(140.4);
        let page = with(&race, |report| report.markdown()).unwrap();
        assert!(page.starts_with("<!-- Written by `cargo xtask race"), "{page}");
        assert!(!page.contains("{{") && !page.contains("}}"));
        for part in [
            "commit abcdef+",
            "a virtual machine",
            "DPDK: dpdk 22.11",
            "| TX 60 B, one buffer",
            "MISSED",
            "- hold + release of a clean page: The look-up",
            "2 rounds to warm up, then 3",
            "6.72x (14.9)",
            "| 140 ",
        ] {
            assert!(page.contains(part), "no {part} in {page}");
        }
    }

    #[test]
    fn a_template_that_asks_for_the_unknown_is_refused() {
        let values = [("a", "1".to_owned())];
        assert_eq!(fill("x {{a}} y", &values), Ok("x 1 y".into()));
        assert!(fill("{{b}}", &values).unwrap_err().contains("asks for b"));
        assert!(fill("{{a", &values).is_err());
        // What a value holds is no place.
        assert_eq!(fill("{{a}}", &[("a", "{{b}}".into())]), Ok("{{b}}".into()));
    }

    #[test]
    fn what_is_missing_is_said_with_its_reason() {
        let mut race = race(10.0, &[]);
        race.without(Who::Dpdk, &Without::LeftOut("no huge pages; get some".into()));
        let text = with(&race, |report| report.text());
        let line = text.lines().find(|line| line.ends_with(": no huge pages; get some")).unwrap();
        assert!(line.contains("DPDK tx60, ") && line.contains("\"TX 60 B, one buffer\" is not judged"), "{line}");
        assert!(text.contains("- DPDK tx60 "), "the row stays: {text}");
    }

    #[test]
    fn everything_raw_is_kept() {
        let json = with(&race(10.0, &[]), |report| report.json());
        let series = json["series"].as_array().unwrap();
        let find = |who: &str, name: &str| series.iter().find(|one| one["who"] == who && one["name"] == name).unwrap();
        assert_eq!(find("dpdk", "tx60")["samples"], json!([20.0, 10.0, 20.0]));
        assert_eq!(find("dpdk", "tx60")["figure"], json!({"min": 10.0, "median": 20.0}));
        assert_eq!(find("ours", "tx60")["answers"][1]["frames"], 65_536);
        assert_eq!(json["machine"]["kernel"], "6.18");
        assert_eq!(json["goals"][0]["verdict"], "missed");
    }

    #[test]
    fn the_page_escapes_and_has_both() {
        let page = with(&race(10.0, &[]), |report| report.html());
        assert!(page.contains("Some CPU &lt;2 GHz&gt;") && page.contains("<table>") && page.contains("<svg "));
        assert!(page.trim_end().ends_with("</html>"));
    }

    #[test]
    fn files_are_written_where_they_belong() {
        let folder = tempfile::tempdir().unwrap();
        with(&race(10.0, &[]), |report| report.write(folder.path()).and_then(|()| report.write_docs(folder.path())))
            .unwrap();
        for name in ["race.json", "race.svg", "race.html", "docs/PERFORMANCE.md", "docs/performance.svg"] {
            assert!(folder.path().join(name).metadata().is_ok_and(|file| file.len() > 1000), "{name}");
        }
    }
}
