//! Processes of another user at a cache's socket, and caches of another user.
//!
//! Root can be two users, so these tests need it.

mod common;
#[path = "common/process.rs"]
mod process;

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use process::Process;
use stillwire_filecache::attach::attach;
use stillwire_filecache::{Cache, Error};
use tempfile::TempDir;

/// Not a test: what the other processes run.
#[test]
fn another_process() {
    process::child();
}

/// A folder that everybody can go to, a copy of this program there, and a file of `user`'s.
struct Place {
    folder: TempDir,
    program: PathBuf,
    file: PathBuf,
}

impl Place {
    /// `None`, and a note: not as root.
    fn of(user: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("strangers at a cache's socket", "only root can be two users; run this test as root");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let (program, file) = (folder.path().join("program"), folder.path().join("file"));
        // By another process: a descriptor of ours that writes it could be inherited by a process that another test starts at this
        // moment, and what is open for writing can not be run.
        let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status();
        assert!(copied.unwrap().success());
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        std::fs::write(&file, pattern(4 * PAGE)).unwrap();
        for path in [folder.path(), &file] {
            chown(path, Some(user), Some(user)).unwrap();
        }
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        Some(Self { folder, program, file })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn process(&self, user: u32, serves: bool) -> Process {
        Process::of_user(user, &self.program, serves, &self.socket(), &self.file)
    }
}

#[test]
fn a_stranger_is_not_let_in_whatever_the_sockets_mode() {
    let Some(place) = Place::of(ROOT) else { return };
    // Nothing else is in the way.
    std::fs::set_permissions(&place.file, Permissions::from_mode(0o666)).unwrap();
    let cache = Cache::new(quiet()).unwrap();
    let door = cache.serve(place.socket()).unwrap();
    let said = place.process(NOBODY, false).answer();
    assert!(said.contains("connecting") && said.contains("Permission denied"), "the mode keeps it out: {said}");
    std::fs::set_permissions(place.socket(), Permissions::from_mode(0o666)).unwrap();
    let said = place.process(NOBODY, false).answer();
    assert!(
        said.contains("the cache there answers") && said.contains("is of user 65534, this one of user 0"),
        "{said}"
    );
    assert!(said.contains("only the same user, or root"), "{said}");
    assert_eq!(door.attached(), 0);
    // The door stands open for others.
    let mut writer = place.process(ROOT, false);
    assert_eq!((writer.answer(), writer.ask("write 0 1 1")), ("attached".into(), "ok".into()));
}

/// What serves gets a descriptor that can stop every thread that stores, and gives memory it can do anything with.
#[test]
fn a_strangers_cache_is_not_attached_to() {
    let Some(place) = Place::of(NOBODY) else { return };
    let server = place.process(NOBODY, true);
    assert_eq!(server.answer(), "serving");
    let error = attach(place.socket(), &place.file).err().unwrap();
    assert!(matches!(&error, Error::Stranger { stranger, .. } if stranger.uid == NOBODY), "{error}");
    assert!(error.to_string().contains("sudo -u"), "{error}");
}

/// All of it needs no privilege: cache, guard and writer of an ordinary user.
#[test]
fn an_ordinary_user_serves_and_attaches() {
    let Some(place) = Place::of(NOBODY) else { return };
    let mut server = place.process(NOBODY, true);
    assert_eq!(server.answer(), "serving");
    assert_eq!(mode(&place.socket()), 0o600);
    let mut writer = place.process(NOBODY, false);
    assert_eq!(writer.answer(), "attached");
    assert_eq!(server.ask("hold"), "ok");
    writer.tell("write 0 9 1");
    assert!(writer.is_silent(), "it waits for the hold");
    assert_eq!((server.ask("release"), writer.answer()), ("ok".into(), "ok".into()));
    assert_eq!(writer.ask("sync"), "ok");
    assert_eq!(std::fs::read(&place.file).unwrap()[0], 9);
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

const ROOT: u32 = 0;
/// Of nobody, by convention; the tests own nothing by it but what they make.
const NOBODY: u32 = 65534;
