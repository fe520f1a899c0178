//! Private memory on huge pages, by `hugepage-rs`: for what only the CPU touches but touches on every frame.
#![allow(unsafe_code)]

use std::alloc::Layout;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::meminfo;

/// A boxed slice on huge pages where the system has some free, else on the heap.
pub struct HugeArray<T> {
    first: NonNull<T>,
    len: usize,
    /// What was asked of `hugepage-rs`; `None` for a box's memory.
    huge: Option<Layout>,
}

impl<T> HugeArray<T> {
    /// `len` values, each made by `make` from its index.
    ///
    /// Arrays below 256 KiB stay on the heap: a huge page for them would be mostly waste.
    pub fn from_fn(len: usize, mut make: impl FnMut(usize) -> T) -> Self {
        match Self::reserve(len) {
            Some((first, layout)) => {
                // `built` drops what was made if `make` panics.
                let mut built = Built { first, len: 0, layout };
                while built.len < len {
                    let value = make(built.len);
                    // SAFETY: `reserve` gave room for `len` values of `T` at `first`, and `built.len < len`.
                    unsafe { first.add(built.len).write(value) };
                    built.len += 1;
                }
                std::mem::forget(built);
                Self { first, len, huge: Some(layout) }
            }
            None => {
                let values: Box<[T]> = (0..len).map(make).collect();
                let values = NonNull::from(Box::leak(values));
                Self { first: values.cast(), len, huge: None }
            }
        }
    }

    /// Whether the values are on huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge.is_some()
    }

    fn reserve(len: usize) -> Option<(NonNull<T>, Layout)> {
        let layout = Layout::array::<T>(len).ok()?;
        // `hugepage-rs` maps without asking, and a pool that is merely overcommitted faults later: look first.
        if layout.size() < SMALLEST || meminfo::free_huge_bytes() < layout.size() {
            return None;
        }
        // SAFETY: the layout's size is not zero (it is at least SMALLEST), which is all `alloc` asks.
        let first = unsafe { hugepage_rs::alloc(layout) };
        NonNull::new(first.cast::<T>()).map(|first| (first, layout))
    }
}

struct Built<T> {
    first: NonNull<T>,
    len: usize,
    layout: Layout,
}

impl<T> Drop for Built<T> {
    fn drop(&mut self) {
        // SAFETY: `first` came from `alloc(layout)`, its first `len` values were written and not yet dropped, and
        // nothing uses them after this.
        unsafe {
            std::ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.len).drop_in_place();
            hugepage_rs::dealloc(self.first.as_ptr().cast(), self.layout);
        }
    }
}

impl<T> Drop for HugeArray<T> {
    fn drop(&mut self) {
        match self.huge {
            Some(layout) => drop(Built { first: self.first, len: self.len, layout }),
            None => {
                let values = std::ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.len);
                // SAFETY: `from_fn` leaked a box of `len` values at `first`; this is the only place that takes it back.
                drop(unsafe { Box::from_raw(values) });
            }
        }
    }
}

impl<T> Deref for HugeArray<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `from_fn` wrote `len` values at `first`; they live until drop, and `&self` borrows them.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for HugeArray<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `&mut self` makes the borrow the only one.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

// SAFETY: the array owns its values as a `Box<[T]>` does, and shares nothing else.
unsafe impl<T: Send> Send for HugeArray<T> {}
// SAFETY: as above; `&HugeArray<T>` gives only `&[T]`.
unsafe impl<T: Sync> Sync for HugeArray<T> {}

/// Bytes below which the heap is used.
const SMALLEST: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn values_are_made_in_order_and_dropped_once() {
        // 512 KiB of pointers: on huge pages where there are some, on the heap elsewhere; the same behaviour.
        let shared = Rc::new(());
        let mut array = HugeArray::from_fn(65_536, |index| (index, shared.clone()));
        assert_eq!(array.len(), 65_536);
        assert!(array.iter().enumerate().all(|(index, (value, _))| index == *value));
        array[7].0 = 70;
        assert_eq!(array[7].0, 70);
        assert_eq!(Rc::strong_count(&shared), 65_537);
        drop(array);
        assert_eq!(Rc::strong_count(&shared), 1);
    }

    #[test]
    fn small_and_empty_arrays_are_on_the_heap() {
        assert!(!HugeArray::from_fn(10, |index| index).is_huge());
        assert!(HugeArray::from_fn(0, |index| index).is_empty());
    }
}
