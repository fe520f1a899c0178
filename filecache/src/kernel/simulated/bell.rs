use std::sync::Arc;
use std::time::Duration;

use super::Uffd;
use crate::Result;
use crate::core::lock;
use crate::sync::{Condvar, Mutex};

/// What wakes the guard.
#[derive(Debug)]
pub(crate) struct Bell(Arc<Ring>);

/// What address spaces know of it.
#[derive(Debug, Default)]
pub(super) struct Ring {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Ring {
    pub(super) fn ring(&self) {
        *lock(&self.rung) = true;
        self.bell.notify_all();
    }
}

impl Bell {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Arc::default()))
    }

    pub(crate) fn ring(&self) {
        self.0.ring();
    }

    pub(crate) fn wait(&self, listening: &[Arc<Uffd>], time: Option<Duration>) {
        listening.iter().for_each(|uffd| uffd.space.tells(&self.0));
        let mut rung = lock(&self.0.rung);
        if !*rung && !listening.iter().any(|uffd| uffd.space.has_news()) {
            rung = match time {
                None => self.0.bell.wait(rung).unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(time) => self.0.bell.wait_timeout(rung, time).unwrap_or_else(std::sync::PoisonError::into_inner).0,
            };
        }
        *rung = false;
    }
}
