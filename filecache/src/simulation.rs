//! What a simulation sees of a cache, and cannot see elsewhere.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use crate::Cache;
use crate::core::Core;

/// Has `look` told of every store into the memory of a cache through a view, just before it lands: address, length.
pub fn on_store(look: impl FnMut(usize, usize) + 'static) {
    STORED.set(Some(Box::new(look)));
}

/// Pages that one word holds at once, if they begin at a multiple of that.
pub const GROUP_PAGES: u32 = crate::group::PAGES;

/// Who looks at a cache from outside, without keeping it.
pub struct Eye(Weak<Core>);

impl Eye {
    /// On `cache`.
    pub fn on(cache: &Cache) -> Self {
        Self(Arc::downgrade(&cache.0.core))
    }

    /// Where its memory is: first address, number of pages.
    pub fn memory(&self) -> Option<(usize, usize)> {
        let core = self.0.upgrade()?;
        Some((core.arena.memory().as_ptr().addr(), core.arena.pages() as usize))
    }

    /// Holds of each page, those that pass by included; `None` when the cache has gone.
    pub fn holds(&self) -> Option<Vec<u32>> {
        // Only for this look, during which nobody goes on: it is never the last share.
        let core = self.0.upgrade()?;
        Some((0..core.arena.pages()).map(|page| core.arena.holds_now(page)).collect())
    }
}

pub(crate) fn stored(address: usize, len: usize) {
    // Taken out meanwhile: what it finds may end the run there.
    let look = STORED.take();
    if let Some(mut look) = look {
        look(address, len);
        STORED.set(Some(look));
    }
}

type Look = Box<dyn FnMut(usize, usize)>;

thread_local! {
    static STORED: RefCell<Option<Look>> = const { RefCell::new(None) };
}
