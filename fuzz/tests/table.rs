//! The table of targets is the only one: what else names them follows it. And what is not survived is told.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use stillwire_fuzz::{TARGETS, Target, judge, named};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.map(|name| name.trim_end_matches(".rs").to_owned()).collect()
}

#[test]
fn every_target_has_a_program_for_libfuzzer_and_a_small_corpus() {
    let table: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(table.len(), TARGETS.len(), "a name is there twice");
    assert_eq!(names(&folder("fuzz_targets")), table);
    assert_eq!(names(&folder("corpus")), table);
    let manifest = std::fs::read_to_string(folder("Cargo.toml")).unwrap();
    for Target { name, longest, .. } in TARGETS {
        let program =
            format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\nrequired-features = [\"libfuzzer\"]");
        assert!(manifest.contains(&program), "{name} is no program");
        let corpus: Vec<_> = std::fs::read_dir(folder("corpus").join(name)).unwrap().map(Result::unwrap).collect();
        assert!((1..20).contains(&corpus.len()), "{name}: {} files", corpus.len());
        for file in corpus {
            assert!(file.metadata().unwrap().len() <= *longest as u64, "{:?} is too long", file.path());
        }
    }
}

#[test]
fn the_whole_corpus_is_survived() {
    for target in TARGETS {
        for file in std::fs::read_dir(folder("corpus").join(target.name)).unwrap() {
            let path = file.unwrap().path();
            judge(target, &std::fs::read(&path).unwrap()).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        }
    }
}

fn program(self_test: &str, args: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_stillwire-fuzz"));
    program.args(args).env(stillwire_fuzz::SELF_TEST, self_test).output().unwrap()
}

#[test]
fn what_is_not_survived_is_kept_can_be_run_again_and_ends_nothing_else() {
    assert!(named("self_test").is_none(), "only the environment brings it in");
    for (self_test, expect) in [("panic", "an odd byte"), ("thread", "an odd byte"), ("abort", "signal 6")] {
        let out = tempfile::tempdir().unwrap();
        let args = ["run", "packet", "self_test", "capture", "--seconds", "3", "--out", out.path().to_str().unwrap()];
        let output = program(self_test, &args);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{said}");
        let figures = std::fs::read(out.path().join("figures.json")).unwrap();
        let figures: serde_json::Value = serde_json::from_slice(&figures).unwrap();
        let figure = |index: usize, what: &str| figures["targets"][index][what].clone();
        assert_eq!((figure(0, "outcome"), figure(2, "outcome")), ("held".into(), "held".into()), "{said}");
        assert!(figure(0, "executions").as_u64() > Some(16) && figure(1, "executions").as_u64() > Some(0), "{said}");
        let (outcome, input) = (figure(1, "outcome"), figure(1, "input"));
        assert!(outcome.as_str().unwrap().contains(expect), "{outcome}");
        let input = input.as_str().unwrap();
        assert!(said.contains(&format!("replay self_test {input}")), "{said}");
        assert_eq!(std::fs::read(input).unwrap()[0] & 1, 1);
        assert!(!program(self_test, &["replay", "self_test", input]).status.success());
    }
}
