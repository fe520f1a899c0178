//! A process that attached and is gone leaves nothing behind. Alone in its process, which it counts.

mod common;
#[path = "common/process.rs"]
mod process;

use common::*;
use process::Process;
use rustix::process::Signal;
use tempfile::TempDir;

/// Not a test: what the other processes run.
#[test]
fn another_process() {
    process::child();
}

/// Descriptors, threads that serve a process, mappings.
fn left_behind() -> (usize, usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mapped = maps.lines().filter(|line| line.contains("stillwire-cache")).count();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let serves = |name: &String| name.starts_with("stillwire-attac") || name.starts_with("stillwire-erran");
    let threads = tasks.map(name).filter(serves).count();
    (std::fs::read_dir("/proc/self/fd").unwrap().count(), threads, mapped)
}

#[test]
fn a_writer_that_is_killed_while_it_waits() {
    if std::env::var_os("STILLWIRE_TEST_SOCKET").is_some() {
        return;
    }
    let (cache, folder) = (cache(64 * PAGE), TempDir::new().unwrap());
    let disk = file_of(&pattern(8 * PAGE));
    let file = cache.open(disk.path()).unwrap();
    let door = cache.serve(folder.path().join("socket")).unwrap();
    let before = left_behind();
    for round in 0..5u8 {
        let mut waits = Process::attached(door.socket(), disk.path());
        let mut lives = Process::attached(door.socket(), disk.path());
        let hold = file.hold(0..PAGE as u64).unwrap();
        let digest = hold.crc32();
        waits.tell("write 0 200 1");
        eventually("one waits", || cache.stats().writers_waiting == 1);
        lives.tell("write 1 201 1");
        eventually("both wait", || cache.stats().writers_waiting == 2);
        waits.signal(Signal::KILL);
        assert_eq!(waits.end(), Some(9));
        eventually("it waits no more", || cache.stats().writers_waiting == 1);
        eventually("it has left", || door.attached() == 1);
        assert_eq!(hold.crc32(), digest);
        lives.signal(Signal::KILL);
        assert_eq!(lives.end(), Some(9));
        eventually("nobody waits", || cache.stats().writers_waiting == 0);
        // The hold still stands; the page is as usable as any after it.
        drop(hold);
        let again = file.hold(0..PAGE as u64).unwrap();
        assert_eq!(again.crc32(), digest, "round {round}: a store of a dead process landed");
        drop(again);
        file.sync().unwrap();
        eventually("it can be evicted", || {
            file.evict(0..u64::MAX);
            cache.stats().free_bytes == 64 * PAGE as u64
        });
        drop((waits, lives));
        eventually("nothing is left behind", || left_behind() == before);
    }
    assert_eq!(cache.stats().writer_pauses, 0, "nobody went on");
    drop(door);
    assert!(!folder.path().join("socket").exists());
}
