//! A cache ends while its pages are held: `Core::end` and `Core::last`.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::super::*;

/// A held page, and the count by which the memory goes.
struct Ending {
    page: PageWord,
    ending: AtomicU64,
    /// How often the memory went.
    freed: AtomicU64,
}

impl Ending {
    fn end(&self) {
        self.ending.store(1, Ordering::Relaxed);
        self.ending.fetch_add(1, Ordering::Relaxed);
        if !self.page.end() {
            self.ending.fetch_sub(1, Ordering::Relaxed);
        }
        self.last();
    }

    fn last(&self) {
        if self.ending.fetch_sub(1, Ordering::AcqRel) == 1 {
            assert_eq!(self.page.now().holds(), 0, "the memory went while a page was held");
            self.freed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As `Hold::drop`.
    fn release(&self) {
        if !self.page.release_quietly() {
            match self.page.release() {
                Released::Done => {}
                Released::Last => self.last(),
                other => unreachable!("{other:?}"),
            }
        }
    }
}

/// Whatever comes first, the memory goes once, and after the last release.
#[test]
fn loom_end_against_two_releases() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let page = PageWord::new();
        assert!(page.begin_fill());
        page.filled();
        let ending = Arc::new(Ending { page, ending: AtomicU64::new(0), freed: AtomicU64::new(0) });
        assert!(ending.page.hold().is_ok() && ending.page.hold().is_ok());
        let holders = [(); 2].map(|()| {
            let ending = ending.clone();
            thread::spawn(move || ending.release())
        });
        ending.end();
        for holder in holders {
            holder.join().unwrap();
        }
        assert_eq!(ending.freed.load(Ordering::Relaxed), 1, "the memory goes once");
    });
}
