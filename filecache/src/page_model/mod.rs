//! The page word under every interleaving of those who use it.
//!
//! [`World`] is what lies around the word: memory and the views' protection, the file's table, the guard's mailbox, the
//! disk. The parties (`holder.rs`, `writer.rs`, `keeper.rs`) go through the same steps as the code that they stand for, in
//! the same order. Each file of tests looks at one kind of meeting: `holds.rs` holders and writers, `evict.rs` a page that
//! leaves its file, `copy.rs` copies for who does not wait, `write_back.rs` the disk, `cut.rs` truncation,
//! `pair.rs` two pages held at once, `group.rs` by one word for both. The first two arena pages share a word in all of them.
//!
//! Found are: a store that lands in a held page (the holder reads two different values), bytes of another page, a store
//! that is lost, a page that is freed twice or while it is held, memory accesses without an order (loom's cell reports
//! them), and somebody who is never woken (loom reports the deadlock). That this is so is tested too: the same meetings
//! take place with a seeded mistake in them ([`Variant`]), and loom must find it.

// Not loom's: counts of handles order nothing here.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Plain, Ordering as PlainOrdering};

use loom::thread;

use super::*;

mod copy;
mod cut;
mod end;
mod evict;
mod group;
mod holder;
mod holds;
mod keeper;
mod pair;
mod world;
mod write_back;
mod writer;

use world::{Event, Found, World};
use writer::Kernel;

/// What is done in the world: what is right, or one mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variant {
    /// As the code does it.
    Right,
    /// A holder protects an open page and counts itself in, with no phase in between that keeps the guard out.
    NoClosing,
    /// The guard unprotects, and looks for holds after.
    UnprotectBeforeCheck,
    /// Who releases looks for a waiting writer first, and wakes by what it saw then.
    ReleaseBeforeWake,
    /// The table shows the page instead of its copy only after the page was unprotected.
    SnapshotAfterUnprotect,
    /// New holds are of the page, although a writer waits for it. A mistake only where the writer must not wait for them.
    NoCopy,
    /// Every holder that meets a waiting writer puts a copy in the table, also when there is one.
    CopyOfCopy,
    /// A holder does not look the page up again once it is counted in.
    NoRecheck,
    /// A page leaves its file and stays in the view.
    NoUnlay,
    /// A page is free before the table has forgotten it.
    EmptiedBeforeTable,
    /// Writers that came while the page was taken are not told that it has left its file.
    NoRetry,
    /// Writers that came while the page was taken are not told that it was put back.
    NoOpening,
    /// A page counts as written after it was released.
    CleanAfterRelease,
    /// A page is clean once the disk has it, whatever happened since it was written.
    DurableWithoutLook,
    /// A copy's original counts as written although the copy has ended.
    WrittenWithoutCopy,
    /// A page that leaves its file is freed although somebody else holds it.
    FreeAtDetach,
    /// Who holds two pages at once looks at the phase of one of them.
    HoldLooksAtOneHalf,
    /// Who releases two pages at once looks for the lower one's writers.
    ReleaseLooksAtOneHalf,
    /// Who forms a group does not look for writers after.
    FormWithoutLook,
    /// A group that nobody holds is in the way of a writer that waits.
    StandsAgainstWriter,
    /// The group parts before the writer is known to wait.
    PartBeforeWaiter,
    /// A group that nobody holds keeps a page that has left its file.
    StandsAtDetach,
    /// A holder of a group does not look its pages up again.
    GroupWithoutRecheck,
    /// Who parts a group that is held releases its pages.
    PartsWhatIsHeld,
    /// The last release of a group that is to part leaves its pages held.
    LastKeepsPages,
    /// Of two pages the lower is not simply held; the upper is let go, and nobody looks for its writers.
    HalfIsForgotten,
}

/// Looks at every interleaving of `meeting` with at most `preemptions` switches that nobody asked for.
fn explore(variant: Variant, preemptions: usize, meeting: fn(Variant)) {
    let runs = Arc::new(Plain::new(0));
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    // Waiting by yielding costs branches.
    model.max_branches = 10_000;
    let counted = runs.clone();
    model.check(move || {
        counted.fetch_add(1, PlainOrdering::Relaxed);
        meeting(variant);
    });
    println!("{variant:?}: {} interleavings", runs.load(PlainOrdering::Relaxed));
}

/// The bytes of page `A` at first, in memory and on the disk.
const OLD: u64 = 1;
/// What a writer stores there.
const NEW: u64 = 7;
/// The bytes of the file's other page, which nobody stores into.
const OTHER: u64 = 2;
/// The page that has a view.
const A: usize = 0;
/// The page that has none.
const B: usize = 1;
