//! Mistakes that can be put in on purpose, to see that a simulation finds them.
//!
//! The code that would make one asks [`is`]; that is compiled in for simulations only.

use std::cell::Cell;

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The driver gives a token back when its frame is posted.
    ReleaseAtPost,
    /// The driver gives tokens back when the doorbell has rung.
    ReleaseAtDoorbell,
    /// The guard lets a writer through that has waited long, although the page is held.
    UnprotectOnTimeout,
    /// The copy that holders are shown while a writer waits stays when the writer goes on.
    ForgetSnapshot,
    /// A reset gives tokens back before the device is quiet.
    DropBeforeQuiet,
    /// The driver believes the length of a received frame that the device writes.
    TrustDeviceLength,
    /// A last release does not tell the guard that a writer waits.
    LostWake,
    /// A hold's pages are released twice.
    DoubleRelease,
    /// A page is not looked up again after it was counted in.
    NoSecondLook,
    /// A write-back takes a page for clean although there was a store since.
    CleanTooSoon,
    /// The driver takes a descriptor for done without looking at its DD bit.
    IgnoreDone,
    /// An open page is held without keeping stores out first.
    HoldOpen,
    /// A group that nobody holds goes on holding its pages, whoever wants one.
    StandingGroup,
    /// Who forms a group does not look whether somebody wants a page of it meanwhile.
    FormWithoutLook,
}

impl Bug {
    /// All of them, with the names that command lines know.
    pub const ALL: [(&'static str, Bug); 14] = [
        ("release-at-post", Bug::ReleaseAtPost),
        ("release-at-doorbell", Bug::ReleaseAtDoorbell),
        ("unprotect-on-timeout", Bug::UnprotectOnTimeout),
        ("forget-snapshot", Bug::ForgetSnapshot),
        ("drop-before-quiet", Bug::DropBeforeQuiet),
        ("trust-device-length", Bug::TrustDeviceLength),
        ("lost-wake", Bug::LostWake),
        ("double-release", Bug::DoubleRelease),
        ("no-second-look", Bug::NoSecondLook),
        ("clean-too-soon", Bug::CleanTooSoon),
        ("ignore-done", Bug::IgnoreDone),
        ("hold-open", Bug::HoldOpen),
        ("standing-group", Bug::StandingGroup),
        ("form-without-look", Bug::FormWithoutLook),
    ];
}

/// The mistake that this thread's runs have from now on.
pub fn set(bug: Option<Bug>) {
    SEEDED.set(bug);
}

/// Whether it is this one.
pub fn is(bug: Bug) -> bool {
    SEEDED.get() == Some(bug)
}

thread_local! {
    static SEEDED: Cell<Option<Bug>> = const { Cell::new(None) };
}
