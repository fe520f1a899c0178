//! Where `send` takes the bytes from: a cache that is smaller than the file, a copy for writers, the kernel's own pages.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Guarded, contents, example, file, finish, last_line, run, send, text, wait_for};
use tempfile::TempDir;

#[test]
fn a_file_that_is_scribbled_over_stays_as_it_is() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 1_000_001);
    let before = path.metadata().unwrap().modified().unwrap();
    let report = send(&[text(&path), "--scribble", "--seconds", "1"]);
    assert!(report.verified && report.torn == 0, "{report:?}");
    assert!(report.writer_pauses > 0, "somebody did write: {report:?}");
    assert!(std::fs::read(&path).unwrap() == contents(1_000_001), "the file was written to");
    assert_eq!(path.metadata().unwrap().modified().unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the copy has no name");
}

#[test]
fn a_file_may_be_larger_than_the_cache() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 64 << 20);
    let report = send(&[text(&path), "--cache", "8"]);
    assert_eq!((report.bytes, report.torn, report.verified), (64 << 20, 0, true), "{report:?}");
    assert!(report.evictions >= (56 << 20) / 4096, "{report:?}");
}

/// What the sender has in its ring keeps whole folios in the cache, and here one folio is nearly all of it: the sender
/// must go on reclaiming where a hold finds no room.
#[test]
fn a_cache_may_be_hardly_larger_than_the_ring() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 4_000_001);
    let report = send(&[text(&path), "--cache", "1"]);
    assert_eq!((report.bytes, report.torn, report.verified), (4_000_001, 0, true), "{report:?}");
    let report = send(&[text(&path), "--cache", "1", "--mtu", "9000", "--scribble", "--seconds", "1"]);
    assert!(report.torn == 0 && report.verified && report.bytes >= 4_000_001, "{report:?}");
}

#[test]
fn direct_files_take_no_flags_of_the_cache() {
    for flag in [&["--scribble"][..], &["--unheld"], &["--huge"], &["--cache", "8"]] {
        let output = run(Command::new(example("send")).arg("--direct").args(flag));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("goes without the cache"), "{flag:?}: {said}");
    }
}

#[test]
fn a_direct_file_is_compared_with_the_disk() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 3_000_001);
    if !has_leases(&path) {
        return;
    }
    let report = send(&[text(&path), "--direct"]);
    assert_eq!((report.bytes, report.torn, report.verified), (3_000_001, 0, true), "{report:?}");
    assert_eq!((report.holds, report.fills, report.breaks), (0, 0, 0), "no cache: {report:?}");
}

/// Somebody who knows nothing of this program overwrites the file while it is sent, again and again: the kernel lets them
/// wait, the sender steps back, they write, and it goes on with what they wrote.
#[test]
fn a_direct_file_is_still_against_a_writer_from_outside() {
    let folder = TempDir::new().unwrap();
    let path = file(folder.path(), 2 << 20);
    if !has_leases(&path) {
        return;
    }
    let mut command = Command::new(example("send"));
    command.args([text(&path), "--direct", "--seconds", "3", "--emulated-delay", "50", "--json"]);
    let child = Guarded::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    // It has the file when the kernel lists its lease.
    let lease = format!(" {} ", child.id());
    wait_for("the lease", Duration::from_secs(20), || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("LEASE") && line.contains(&lease)).then_some(())
    });
    let new = folder.path().join("new");
    std::fs::write(&new, vec![0xa5; 2 << 20]).unwrap();
    for _ in 0..5 {
        let mut dd = Command::new("dd");
        let output = run(dd
            .args([format!("if={}", text(&new)), format!("of={}", text(&path))])
            .args(["conv=notrunc", "bs=64k"]));
        assert!(output.status.success(), "a writer is paused, not failed: {output:?}");
    }
    let output = finish(child.take(), Duration::from_secs(60));
    assert!(output.status.success(), "{output:?}");
    let report = last_line(&output);
    assert!(report.breaks > 0, "the writer came while it was sent: {report:?}");
    assert!(report.torn == 0 && report.verified, "{report:?}");
    assert!(std::fs::read(&path).unwrap() == vec![0xa5; 2 << 20], "a store was lost");
}

/// Whether the file can be leased; where it can not, the test says so and is none.
fn has_leases(path: &Path) -> bool {
    let output = run(Command::new(example("send")).arg(path).arg("--direct"));
    let said = String::from_utf8_lossy(&output.stderr);
    let refused = said.contains("file system");
    if refused {
        common::skip("files that are sent without the cache", &said);
    }
    !refused
}
