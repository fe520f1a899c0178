//! A hold that outlasts the lease. In a program of its own, for it changes a setting of the whole system for a moment.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;

use common::*;
use stillwire_filecache::{DirectConfig, DirectFile, DirectKind, Error};

const SETTING: &str = "/proc/sys/fs/lease-break-time";

/// The shortest lease-break time there is; the old one comes back whatever happens.
struct Short(String);

impl Short {
    fn set() -> Option<Self> {
        let old = std::fs::read_to_string(SETTING).ok()?;
        std::fs::write(SETTING, "1").ok()?;
        Some(Self(old))
    }
}

impl Drop for Short {
    fn drop(&mut self) {
        std::fs::write(SETTING, &self.0).unwrap();
    }
}

#[test]
fn a_hold_that_outlasts_the_lease_is_reported() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, pattern(PAGE)).unwrap();
    if !matches!(DirectKind::of(&path), Ok(DirectKind::Leased)) {
        skip("a lease that is outlasted", &format!("{} has no leases", env!("CARGO_TARGET_TMPDIR")));
        return;
    }
    let Some(short) = Short::set() else {
        skip("a lease that is outlasted", &format!("{SETTING} can only be changed by root"));
        return;
    };
    let file = DirectFile::open(&path, None, DirectConfig::default()).unwrap();
    let hold = file.hold(0..file.len()).unwrap();
    // Comes back when the kernel has waited long enough: nobody drops the hold.
    let opening = std::thread::spawn({
        let path = path.clone();
        move || File::options().write(true).open(path).unwrap()
    });
    // Both sides look at the setting when the writer comes, so it is back before anything can go wrong here.
    eventually("the writer is heard of", || file.breaks() == 1);
    drop(short);
    let other = opening.join().unwrap();
    other.write_at(b"torn", 0).unwrap();
    eventually("it is noticed", || file.broken() == 1);
    assert!(!hold.is_still());
    assert!(matches!(hold.crc32(), Err(Error::Broken { .. })));
    drop(other);
    assert!(matches!(file.try_hold(0..1), Err(Error::Away { .. })), "not taken up again while an old hold is left");
    drop(hold);
    let hold = file.hold(0..4).unwrap();
    assert!(hold.is_still());
    let mut bytes = [0; 4];
    hold.read_at(0, &mut bytes).unwrap();
    assert_eq!((&bytes, file.broken(), file.breaks()), (b"torn", 1, 1));
}
