//! Atomics, by the names of `std::sync::atomic`: before each operation others may go on.

use std::fmt;
pub use std::sync::atomic::Ordering;
use std::sync::atomic::Ordering::SeqCst;

use crate::run;

/// Nothing: all operations have the strongest order.
pub fn fence(_: Ordering) {
    run::step();
}

macro_rules! atomic {
    ($name:ident, $of:ty $(, $more:tt)?) => {
        #[doc = concat!("`std::sync::atomic::", stringify!($name), "`.")]
        #[derive(Default)]
        pub struct $name(std::sync::atomic::$name);

        #[allow(missing_docs)]
        impl $name {
            pub const fn new(value: $of) -> Self {
                Self(std::sync::atomic::$name::new(value))
            }

            /// The value, and nobody goes on meanwhile.
            pub fn peek(&self) -> $of {
                self.0.load(SeqCst)
            }

            pub fn load(&self, _: Ordering) -> $of {
                run::step();
                self.0.load(SeqCst)
            }

            pub fn store(&self, value: $of, _: Ordering) {
                run::step();
                self.0.store(value, SeqCst);
            }

            pub fn swap(&self, value: $of, _: Ordering) -> $of {
                run::step();
                self.0.swap(value, SeqCst)
            }

            pub fn compare_exchange(&self, from: $of, to: $of, _: Ordering, _: Ordering) -> Result<$of, $of> {
                run::step();
                self.0.compare_exchange(from, to, SeqCst, SeqCst)
            }

            pub fn compare_exchange_weak(&self, from: $of, to: $of, _: Ordering, _: Ordering) -> Result<$of, $of> {
                run::step();
                // It may fail without reason.
                if run::chance(10) { Err(self.0.load(SeqCst)) } else { self.0.compare_exchange(from, to, SeqCst, SeqCst) }
            }

            pub fn fetch_or(&self, value: $of, _: Ordering) -> $of {
                run::step();
                self.0.fetch_or(value, SeqCst)
            }

            pub fn fetch_and(&self, value: $of, _: Ordering) -> $of {
                run::step();
                self.0.fetch_and(value, SeqCst)
            }

            $(
                pub fn fetch_add(&self, value: $of, _: Ordering) -> $of {
                    let $more = ();
                    run::step();
                    self.0.fetch_add(value, SeqCst)
                }

                pub fn fetch_sub(&self, value: $of, _: Ordering) -> $of {
                    run::step();
                    self.0.fetch_sub(value, SeqCst)
                }

                pub fn fetch_max(&self, value: $of, _: Ordering) -> $of {
                    run::step();
                    self.0.fetch_max(value, SeqCst)
                }

                pub fn fetch_update(
                    &self,
                    _: Ordering,
                    _: Ordering,
                    next: impl FnMut($of) -> Option<$of>,
                ) -> Result<$of, $of> {
                    run::step();
                    self.0.fetch_update(SeqCst, SeqCst, next)
                }
            )?
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

atomic!(AtomicU64, u64, _number);
atomic!(AtomicU32, u32, _number);
atomic!(AtomicUsize, usize, _number);
atomic!(AtomicBool, bool);

/// `std::sync::atomic::AtomicPtr`.
#[derive(Debug)]
pub struct AtomicPtr<T>(std::sync::atomic::AtomicPtr<T>);

impl<T> Default for AtomicPtr<T> {
    fn default() -> Self {
        Self(std::sync::atomic::AtomicPtr::default())
    }
}

#[allow(missing_docs)]
impl<T> AtomicPtr<T> {
    pub fn load(&self, _: Ordering) -> *mut T {
        run::step();
        self.0.load(SeqCst)
    }

    pub fn store(&self, value: *mut T, _: Ordering) {
        run::step();
        self.0.store(value, SeqCst);
    }
}
