//! docs/USING.md speaks of every flag and of every figure, and of no other.

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::{example, run};
use stillwire_examples::metrics::families;

const PAGE: &str = include_str!("../../docs/USING.md");

/// The part of the page below a heading, to the next.
fn section(heading: &str) -> &'static str {
    let heading = format!("\n## {heading}\n");
    let (_, rest) = PAGE.split_once(&heading).unwrap_or_else(|| panic!("no heading{heading}"));
    rest.split("\n## ").next().unwrap_or(rest)
}

/// What is named first in the rows of its tables.
fn rows(section: &str, prefix: &str) -> BTreeSet<String> {
    let name = |line: &str| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned());
    section.lines().filter_map(name).filter(|name| name.starts_with(prefix)).collect()
}

/// What clap knows: the flags that begin a line of its help.
fn flags(program: &str) -> BTreeSet<String> {
    let output = run(Command::new(example(program)).arg("--help"));
    let help = String::from_utf8(output.stdout).unwrap();
    let words = help.lines().flat_map(|line| {
        let line = line.trim_start();
        let long = line.strip_prefix("-h, ").or(line.strip_prefix("-V, ")).unwrap_or(line);
        long.starts_with("--").then(|| long.split([' ', '[']).next().unwrap_or(long).to_owned())
    });
    let flags: BTreeSet<_> = words.collect();
    assert!(flags.contains("--help") && flags.contains("--version"), "{help}");
    flags.into_iter().filter(|flag| flag != "--help" && flag != "--version").collect()
}

#[test]
fn every_flag_is_on_the_page() {
    for program in ["send", "receive", "write", "info"] {
        assert_eq!(
            rows(section(program), "--"),
            flags(program),
            "docs/USING.md, {program}: left on the page, right known"
        );
    }
}

#[test]
fn every_figure_is_on_the_page_with_its_kind() {
    let figures = section("Figures");
    let known: BTreeSet<_> = families().map(|family| family.name.to_owned()).collect();
    assert_eq!(rows(figures, "stillwire_"), known, "docs/USING.md: left on the page, right served");
    for family in families() {
        let row = format!("| `{}` | {} | ", family.name, family.kind);
        assert!(figures.contains(&row), "no row '{row}'");
    }
}

#[test]
fn the_readme_links_to_the_page() {
    assert!(include_str!("../../README.md").contains("(docs/USING.md)"));
}
