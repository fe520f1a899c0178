//! What a killed process may not leave.

use std::collections::BTreeSet;
use std::path::Path;

use crate::figures::Figures;
use crate::world::World;

/// What there is between two rounds.
pub struct Leftovers {
    figures: Figures,
    /// Files in the folder for temporary files, sockets of that folder that the kernel knows, shared memory with a name, mounts
    /// in that folder.
    names: BTreeSet<String>,
}

impl Leftovers {
    /// As it is now.
    pub fn now(world: &World) -> Self {
        let temporary = std::env::temp_dir();
        let mut names = BTreeSet::new();
        add_files(&temporary, &mut names);
        for list in ["/proc/net/unix", "/proc/self/mountinfo"] {
            let text = std::fs::read_to_string(list).unwrap_or_default();
            let ours = text
                .lines()
                .filter_map(|line| line.split(' ').find(|word| word.starts_with(&*temporary.to_string_lossy())));
            names.extend(ours.map(|name| format!("{name} in {list}")));
        }
        // Other programs may use it meanwhile: ours are known by their names.
        let shared = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten().map(|entry| entry.path());
        names.extend(shared.map(|path| path.display().to_string()).filter(|path| path.contains("stillwire")));
        Self { figures: Figures::now(world, 0), names }
    }

    /// What there was not `before`.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        let mut more: Vec<String> = self.names.difference(&before.names).cloned().collect();
        let (now, then) = (&self.figures, &before.figures);
        for (name, now, then) in [
            ("descriptors", now.fds, then.fds),
            ("userfaultfds", now.userfaultfds, then.userfaultfds),
            ("threads", now.threads, then.threads),
            ("processes", now.children, then.children),
            ("huge pages in use", now.huge_pages, then.huge_pages),
        ] {
            if now > then {
                more.push(format!("{} {name} more than there were", now - then));
            }
        }
        more
    }
}

fn add_files(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            add_files(&entry.path(), names);
        }
        names.insert(entry.path().display().to_string());
    }
}
