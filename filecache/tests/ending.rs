//! A cache that is gone leaves nothing behind. Alone in its process, which it counts.

mod common;

use common::*;

fn guards() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter(|task| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("stillwire-guard"))
        })
        .count()
}

fn left_behind() -> (usize, usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    (guards(), maps.lines().filter(|line| line.contains("stillwire-cache")).count(), descriptors)
}

#[test]
fn guard_mappings_and_descriptors_end_with_the_last_user() {
    let before = left_behind();
    for _ in 0..60 {
        let (cache, file, _) = cached(40 * PAGE);
        let view = file.view().unwrap();
        view.write_at(0, b"dirty").unwrap();
        let hold = file.hold(0..PAGE as u64).unwrap();
        drop((cache, file, view));
        let (guards, mappings, _) = left_behind();
        assert_eq!((guards, mappings), (0, 1), "the hold keeps the memory, and nothing else");
        assert_eq!(hold.chunks().flatten().count(), PAGE);
        drop(hold);
        assert_eq!(left_behind(), before);
    }
}
