//! Which arena pages a hold is of: runs of neighbours.

use std::ops::Range;

/// The arena pages of a run of file pages, in order. One run is kept in place, more of them on the heap.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    first: Run,
    /// Boxed, so that a hold of one run is short: it is moved with every frame.
    #[expect(clippy::box_collection, reason = "a word instead of three, and hardly ever there")]
    more: Option<Box<Vec<Run>>>,
    /// Whether a page had to be read in first.
    read: bool,
}

/// The same, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Runs<'a> {
    first: Run,
    more: &'a [Run],
}

#[derive(Clone, Copy, Debug, Default)]
struct Run {
    /// Number of pages before it.
    before: u32,
    frame: u32,
    pages: u32,
}

impl Run {
    fn end(self) -> u32 {
        self.before + self.pages
    }
}

impl Frames {
    /// Adds an arena page.
    #[inline]
    pub(crate) fn push(&mut self, frame: u32) {
        if self.more.is_none() && self.first.frame + self.first.pages == frame && self.first.pages > 0 {
            self.first.pages += 1;
        } else if self.first.pages == 0 {
            self.first = Run { before: 0, frame, pages: 1 };
        } else {
            self.push_more(frame);
        }
    }

    #[cold]
    fn push_more(&mut self, frame: u32) {
        let more = self.more.get_or_insert_default();
        match more.last_mut() {
            Some(last) if last.frame + last.pages == frame => last.pages += 1,
            last => {
                let before = last.map_or(self.first.end(), |last| last.end());
                more.push(Run { before, frame, pages: 1 });
            }
        }
    }

    /// Notes that a page among them had to be read in first.
    pub(crate) fn note_read(&mut self) {
        self.read = true;
    }

    /// Whether one had to be.
    pub(crate) fn were_read(&self) -> bool {
        self.read
    }

    /// Number of pages.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.more.as_ref().and_then(|more| more.last()).unwrap_or(&self.first).end()
    }

    /// Every page.
    #[inline]
    pub(crate) fn each(&self, mut each: impl FnMut(u32)) {
        for frame in self.first.frame..self.first.frame + self.first.pages {
            each(frame);
        }
        if let Some(more) = &self.more {
            for run in more.iter() {
                (run.frame..run.frame + run.pages).for_each(&mut each);
            }
        }
    }

    /// First page and number of pages, if it is one run.
    #[inline]
    pub(crate) fn as_run(&self) -> Option<(u32, u32)> {
        (self.more.is_none() && self.first.pages > 0).then_some((self.first.frame, self.first.pages))
    }

    /// What they are.
    #[inline]
    pub(crate) fn runs(&self) -> Runs<'_> {
        Runs { first: self.first, more: self.more.as_ref().map_or(&[], |more| more) }
    }
}

impl<'a> Runs<'a> {
    /// One run.
    #[inline]
    pub(crate) fn run(frame: u32, pages: u32) -> Self {
        Self { first: Run { before: 0, frame, pages }, more: &[] }
    }

    /// The arena page at `index`.
    pub(crate) fn at(self, index: u32) -> u32 {
        let run = self.run_of(index);
        run.frame + (index - run.before)
    }

    /// The arena range (bytes) of `range` (bytes from the start of the first page), if it is one piece that is not empty.
    #[inline]
    pub(crate) fn piece(self, range: &Range<u64>, shift: u32) -> Option<Range<usize>> {
        let start = (u64::from(self.first.frame) << shift) + range.start;
        let len = range.end.saturating_sub(range.start);
        let inside = range.end <= u64::from(self.first.pages) << shift;
        (inside && len > 0 && len <= PIECE).then_some(start as usize..(start + len) as usize)
    }

    /// The arena ranges (bytes) of `range` (bytes from the start of the first page), in order, neighbours in one piece of
    /// at most [`PIECE`] bytes. `range` lies inside.
    pub(crate) fn pieces(self, range: Range<u64>, shift: u32) -> impl Iterator<Item = Range<usize>> + 'a {
        let mut at = range.start;
        std::iter::from_fn(move || {
            (at < range.end).then(|| {
                let run = self.run_of((at >> shift) as u32);
                let end = range.end.min(u64::from(run.end()) << shift).min(at + PIECE);
                let start = ((run.frame as usize) << shift) + (at - (u64::from(run.before) << shift)) as usize;
                let piece = start..start + (end - at) as usize;
                at = end;
                piece
            })
        })
    }

    /// The run that the page at `index` is in.
    fn run_of(self, index: u32) -> Run {
        if index < self.first.end() {
            return self.first;
        }
        self.more[self.more.partition_point(|run| run.end() <= index)]
    }
}

/// Longest piece, bytes: so that its length fits a DMA segment.
const PIECE: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pages_come_back_in_order(
            frames in prop::collection::vec(prop_oneof![0u32..5, Just(7), 100u32..110], 0..40),
            range in (0usize..40 * 4096, 0usize..40 * 4096),
        ) {
            let mut packed = Frames::default();
            frames.iter().for_each(|&frame| packed.push(frame));
            prop_assert_eq!(packed.len() as usize, frames.len());
            let mut each = Vec::new();
            packed.each(|frame| each.push(frame));
            prop_assert_eq!(&each, &frames);
            let packed = packed.runs();
            (0..).zip(&frames).for_each(|(index, &frame)| assert_eq!(packed.at(index), frame));

            let most = frames.len() * 4096;
            let (start, end) = (range.0.min(range.1).min(most), range.0.max(range.1).min(most));
            let expected = (start..end).map(|at| frames[at / 4096] as usize * 4096 + at % 4096);
            let range = start as u64..end as u64;
            let pieces: Vec<_> = packed.pieces(range.clone(), 12).collect();
            if let Some(piece) = packed.piece(&range, 12) {
                prop_assert_eq!(&pieces, &[piece]);
            }
            prop_assert!(pieces.iter().flat_map(Clone::clone).eq(expected));
            prop_assert!(pieces.windows(2).all(|two| two[0].end != two[1].start), "neighbours are one piece");
        }
    }
}
