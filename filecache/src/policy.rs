//! Which folio goes when room is needed: a scan-resistant policy of the S3-FIFO class (Yang et al., SOSP 2023), over
//! folios of different weight.
//!
//! ```text
//!               new                used                +--+ used: once more round
//!   insert -----------> small -------------> main -----+  |
//!      |                  |                  ^ | ^       |
//!      |                  | idle             | | +-------+
//!      |                  v                  | |
//!      |               ghosts (names only)   | | idle
//!      |                                     | v
//!      +-------------------------------------+ gone
//!              its name is a ghost
//! ```
//!
//! Most of what is read once is not read again. So a new folio has to be used a second time while it passes through the
//! *small* queue, a tenth of all weight, before it may stay; what a scan reads leaves through small and never moves
//! *main*. A folio that small judged too early is recognised by its name when it comes back soon, and goes to main.
//!
//! Pure: a folio is a number, a name and a weight, and whether it was used is asked of the caller. Nothing is done when a
//! folio is used, so using one costs no lock.

use crate::sync::HashMap;
use std::collections::BTreeMap;

/// Names what an entry caches, so that it is recognised when it comes back: file id and first file page.
pub(crate) type Ghost = (u64, u64);

/// What the caller finds when it looks at a candidate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Look {
    /// Used again since the last look.
    Used,
    /// Not used since the last look.
    Idle,
    /// Can not go now: held, dirty, being filled.
    Pinned,
}

/// The residents in their order, and the names of those that left small unused.
#[derive(Debug)]
pub(crate) struct Policy {
    /// By id. Links are kept in the entries, so one that leaves from the middle leaves nothing behind.
    entries: Vec<Option<Entry>>,
    small: Queue,
    main: Queue,
    /// Weight that small may keep.
    share: u64,
    ghosts: Ghosts,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Ghost,
    weight: u32,
    place: Place,
    /// Towards the head: who goes before this one; [`NONE`] at the head.
    before: u32,
    /// Towards the tail.
    after: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Small,
    Main,
}

#[derive(Debug)]
struct Queue {
    head: u32,
    tail: u32,
    entries: usize,
    weight: u64,
}

impl Policy {
    /// `capacity`: weight of all that can be resident, pages.
    pub(crate) fn new(capacity: u64) -> Self {
        let share = (capacity / SHARE_OF_SMALL).max(1);
        Self {
            entries: Vec::new(),
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            share,
            ghosts: Ghosts::new(capacity.saturating_sub(share)),
        }
    }

    /// A new resident; `id` is the first arena page of the folio. An id that is resident already is replaced.
    pub(crate) fn insert(&mut self, id: u32, name: Ghost, weight: u32) {
        self.remove(id);
        let place = if self.ghosts.take(name) { Place::Main } else { Place::Small };
        self.push(id, name, weight, place);
    }

    /// A resident left by other means: its file was closed or truncated. Ids that are not resident are ignored.
    pub(crate) fn remove(&mut self, id: u32) {
        if self.entries.get(id as usize).is_some_and(Option::is_some) {
            self.unlink(id);
        }
    }

    /// The next victim, no longer a resident.
    ///
    /// `look` is asked of candidates in order and clears what it reports as [`Look::Used`]. `None` when every resident
    /// is pinned. No resident is looked at more than three times in one call, whatever the answers are.
    pub(crate) fn evict(&mut self, mut look: impl FnMut(u32) -> Look) -> Option<u32> {
        // What was used is spared in the first round only: in the second, everybody has had a look since its use.
        for spares in [true, false] {
            let mut unseen = self.small.entries;
            while unseen > 0 && self.small.weight > self.share {
                unseen -= 1;
                if let Some(victim) = self.try_head(Place::Small, spares, &mut look) {
                    return Some(victim);
                }
            }
            for _ in 0..self.main.entries {
                if let Some(victim) = self.try_head(Place::Main, spares, &mut look) {
                    return Some(victim);
                }
            }
            // Main has nothing to give: what is idle in small goes before what is used in main.
            for _ in 0..unseen {
                if let Some(victim) = self.try_head(Place::Small, spares, &mut look) {
                    return Some(victim);
                }
            }
        }
        None
    }

    /// A victim that could not be taken after all is a resident again, at the tail of the queue that it left.
    pub(crate) fn put_back(&mut self, id: u32, name: Ghost, weight: u32) {
        self.remove(id);
        // A ghost: it left small. (Not one any more, because others left meanwhile: main, as if recognised.)
        let place = if self.ghosts.take(name) { Place::Small } else { Place::Main };
        self.push(id, name, weight, place);
    }

    /// Weight of all residents, pages.
    pub(crate) fn resident(&self) -> u64 {
        self.small.weight + self.main.weight
    }

    /// Looks at the head of a queue that is not empty: a victim, or moved to a tail.
    fn try_head(&mut self, from: Place, spares: bool, look: &mut impl FnMut(u32) -> Look) -> Option<u32> {
        let id = self.queue(from).head;
        let to = match look(id) {
            // To the tail, so that pinned entries are not looked at again by each call.
            Look::Pinned => from,
            Look::Used if spares => Place::Main,
            Look::Used | Look::Idle => {
                let entry = self.unlink(id);
                if entry.place == Place::Small {
                    self.ghosts.remember(entry.name, entry.weight);
                }
                return Some(id);
            }
        };
        let entry = self.unlink(id);
        self.push(id, entry.name, entry.weight, to);
        None
    }

    /// Puts an entry that is nowhere at the tail of a queue.
    fn push(&mut self, id: u32, name: Ghost, weight: u32, place: Place) {
        if self.entries.len() <= id as usize {
            self.entries.resize(id as usize + 1, None);
        }
        let queue = self.queue(place);
        let before = std::mem::replace(&mut queue.tail, id);
        queue.entries += 1;
        queue.weight += u64::from(weight);
        match before {
            NONE => queue.head = id,
            before => self.entry(before).after = id,
        }
        self.entries[id as usize] = Some(Entry { name, weight, place, before, after: NONE });
    }

    /// Takes an entry out of its queue.
    fn unlink(&mut self, id: u32) -> Entry {
        let entry = self.entries[id as usize].take().unwrap_or_else(|| unreachable!("{id} is in a queue"));
        let Entry { before, after, .. } = entry;
        let queue = self.queue(entry.place);
        queue.entries -= 1;
        queue.weight -= u64::from(entry.weight);
        if before == NONE {
            queue.head = after;
        }
        if after == NONE {
            queue.tail = before;
        }
        if before != NONE {
            self.entry(before).after = after;
        }
        if after != NONE {
            self.entry(after).before = before;
        }
        entry
    }

    fn entry(&mut self, id: u32) -> &mut Entry {
        self.entries[id as usize].as_mut().unwrap_or_else(|| unreachable!("{id} is a neighbour in a queue"))
    }

    fn queue(&mut self, place: Place) -> &mut Queue {
        match place {
            Place::Small => &mut self.small,
            Place::Main => &mut self.main,
        }
    }
}

impl Queue {
    const EMPTY: Self = Self { head: NONE, tail: NONE, entries: 0, weight: 0 };
}

/// Names of folios that left small unused, oldest first, up to a weight.
#[derive(Debug)]
struct Ghosts {
    /// By age. A tree and not a ring: one that is recognised leaves nothing behind.
    by_age: BTreeMap<u64, (Ghost, u32)>,
    age_of: HashMap<Ghost, u64>,
    weight: u64,
    most: u64,
    next_age: u64,
}

impl Ghosts {
    /// `most`: how much weight is remembered, as much as main can hold. What has not come back after that much else
    /// would not have been hit in main either.
    fn new(most: u64) -> Self {
        Self { by_age: BTreeMap::new(), age_of: HashMap::default(), weight: 0, most, next_age: 0 }
    }

    /// Remembers a name as the youngest.
    fn remember(&mut self, name: Ghost, weight: u32) {
        self.take(name);
        self.by_age.insert(self.next_age, (name, weight));
        self.age_of.insert(name, self.next_age);
        self.next_age += 1;
        self.weight += u64::from(weight);
        while self.weight > self.most
            && let Some((_, (oldest, weight))) = self.by_age.pop_first()
        {
            self.age_of.remove(&oldest);
            self.weight -= u64::from(weight);
        }
    }

    /// Forgets a name; whether it was remembered.
    fn take(&mut self, name: Ghost) -> bool {
        let Some(age) = self.age_of.remove(&name) else { return false };
        if let Some((_, weight)) = self.by_age.remove(&age) {
            self.weight -= u64::from(weight);
        }
        true
    }
}

/// Small's share of the weight is one in this many: the paper's tenth.
const SHARE_OF_SMALL: u64 = 10;
/// No entry. Not an id: an arena has fewer pages.
const NONE: u32 = u32::MAX;

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
