//! docs/SECURITY.md names files and tests that there are; and what it says of the programs' words.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Guarded, example, finish, kill};
use tempfile::TempDir;

const PAGE: &str = include_str!("../../docs/SECURITY.md");

#[test]
fn every_file_and_test_that_the_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut tests = 0;
    // What is between backticks, in one line each.
    for code in PAGE.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
        let (file, test) = code.split_once("::").map_or((code, None), |(file, test)| (file, Some(test)));
        if !file.ends_with(".rs") || file.contains(' ') {
            continue;
        }
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        if let Some(test) = test {
            assert!(text.contains(&format!("fn {test}(")), "{file} has no test {test}");
            tests += 1;
        }
    }
    assert!(tests > 20, "only {tests} tests were found on the page: is it read as it is written?");
}

#[test]
fn figures_for_everybody_are_warned_of() {
    let folder = TempDir::new().unwrap();
    // (address, whether it is warned of)
    for (address, expect) in [("127.0.0.1:0", false), ("0.0.0.0:0", true), ("[::1]:0", false)] {
        let mut command = Command::new(example("receive"));
        command.args(["--listen", "127.0.0.1:0", "--metrics", address, "--out"]).arg(folder.path().join("out"));
        let mut child = Guarded::start(command.stdout(Stdio::null()).stderr(Stdio::piped()));
        let said = BufReader::new(child.0.as_mut().unwrap().stderr.take().unwrap());
        let mut lines = Vec::new();
        for line in said.lines().map(Result::unwrap) {
            lines.push(line);
            if lines.last().unwrap().contains("listening on") {
                kill(child.id(), "-INT");
            }
        }
        finish(child.take(), std::time::Duration::from_secs(60));
        let said = lines.join("\n");
        if address.starts_with('[') && said.contains("--metrics [::1]") {
            common::skip("figures on IPv6's loopback", "this machine has none");
            continue;
        }
        assert!(said.contains("metrics at http://"), "{said}");
        assert_eq!(said.contains("all who can reach that address"), expect, "{address}: {said}");
    }
}
