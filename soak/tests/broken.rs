//! What is wrong on purpose is found: a run that could not fail would say nothing.
#![allow(missing_docs)]

use std::process::Command;

/// Runs with something wrong; what is said of it must have `finding` in it.
fn check(broken: &str, minutes: &str, finding: &str) {
    run(broken, &["--minutes", minutes], finding);
}

/// The same for kills.
fn check_kills(broken: &str, finding: &str) {
    run(broken, &["--crash", "40"], finding);
}

fn run(broken: &str, arguments: &[&str], finding: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soak"));
    command.args(arguments).args(["--seed", "5", "--patience", "10", "--break", broken]);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(1), "{broken}: {said}");
    assert!(said.contains(finding), "{broken}: '{finding}' was not found: {said}");
}

#[test]
fn bytes_that_nobody_holds_are_torn() {
    check("unheld", "5", "TORN");
}

#[test]
fn a_store_that_was_lost_is_missed() {
    check("lost-store", "5", "had returned");
}

#[test]
fn an_actor_that_stands_still_is_named() {
    check("stall", "5", "writer 0 stores since");
}

#[test]
fn a_panic_in_any_thread_fails_the_run() {
    check("panic", "5", "a panic");
}

#[test]
fn holds_that_leak_are_found() {
    check("leak-hold", "0.2", "tokens never came back");
}

#[test]
#[ignore = "half a minute"]
fn descriptors_that_leak_are_found() {
    check("leak-fd", "0.4", "fds, at rest");
}

#[test]
#[ignore = "half a minute"]
fn memory_that_leaks_is_found() {
    check("leak-memory", "0.4", "heap KiB, at rest");
}

#[test]
#[ignore = "half a minute"]
fn threads_that_leak_are_found() {
    check("leak-thread", "0.4", "threads, at rest");
}

#[test]
#[ignore = "half a minute"]
fn files_that_are_left_are_found() {
    check("leak-file", "0.4", "files, at rest");
}

#[test]
fn an_answer_before_the_sync_is_found() {
    check_kills("early-answer", "had returned");
}

#[test]
fn what_a_round_of_kills_leaves_is_found() {
    check_kills("leak-file", "has left");
    check_kills("leak-fd", "descriptors more than there were");
}
