//! What a sync answers for, when a store comes between its steps.

mod common;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::*;
use stillwire_filecache::{MemoryStorage, Operation, Request, Stamp, Storage};

/// A disk that does something before it carries out the next write, or the next sync.
struct Between {
    inner: MemoryStorage,
    before_write: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    before_sync: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Between {
    fn new(bytes: &[u8]) -> Arc<Self> {
        let inner = MemoryStorage::new("simulated", bytes);
        Arc::new(Self { inner, before_write: Mutex::default(), before_sync: Mutex::default() })
    }
}

impl Storage for Between {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn writable(&self) -> bool {
        true
    }

    fn stamp(&self) -> io::Result<Stamp> {
        self.inner.stamp()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn submit(&self, request: Request) {
        let before = match request.operation() {
            Operation::Write(_) => self.before_write.lock().unwrap().take(),
            Operation::Sync => self.before_sync.lock().unwrap().take(),
            Operation::Read(_) => None,
        };
        if let Some(before) = before {
            before();
        }
        self.inner.submit(request);
    }
}

#[test]
fn a_store_that_overtakes_the_copy_that_is_written_does_not_undo_the_sync() {
    let cache = cache(16 * PAGE);
    let disk = Between::new(&[0; PAGE]);
    let file = cache.open_storage((1, 1), disk.clone()).unwrap();
    let view = file.view().unwrap();
    view.write_at(0, &[1; PAGE]).unwrap();
    let hold = file.hold(0..1).unwrap();
    std::thread::scope(|scope| {
        let late = scope.spawn(|| view.write_at(0, &[2]).unwrap());
        eventually("the second store waits", || cache.stats().writers_waiting == 1);
        // What is written now is a copy. Before it is on the disk, the store that waits for the page goes on.
        let watched = cache.clone();
        *disk.before_write.lock().unwrap() = Some(Box::new(move || {
            let opens = watched.stats().opens;
            drop(hold);
            eventually("the second store goes on", || watched.stats().opens > opens);
        }));
        file.sync().unwrap();
        assert_eq!(cache.stats().snapshots, 1, "a copy was written");
        late.join().unwrap();
    });
    for seed in 0..64 {
        let left = disk.inner.durable_after_crash(seed);
        assert!(left[0] >= 1 && left[1..].iter().all(|byte| *byte == 1), "a crash left {:?}", &left[..2]);
    }
    assert!(cache.stats().dirty_bytes > 0, "the second store is not on the disk");
    file.sync().unwrap();
    assert_eq!(disk.inner.durable_after_crash(0)[0], 2);
}

#[test]
fn a_store_between_write_and_flush_is_not_taken_for_written() {
    let cache = cache(16 * PAGE);
    let disk = Between::new(&[0; PAGE]);
    let file = cache.open_storage((1, 1), disk.clone()).unwrap();
    let view = file.view().unwrap();
    view.write_at(0, &[1]).unwrap();
    let late = view.clone();
    *disk.before_sync.lock().unwrap() = Some(Box::new(move || late.write_at(0, &[2]).unwrap()));
    file.sync().unwrap();
    assert_eq!((disk.inner.durable_after_crash(0)[0], cache.stats().dirty_bytes), (1, PAGE as u64));
    file.sync().unwrap();
    assert_eq!((disk.inner.durable_after_crash(0)[0], cache.stats().dirty_bytes), (2, 0));
}
