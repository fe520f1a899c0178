//! `send` and `receive` on the two ends of an emulated cable, as users run them. One of the three is killed; what was to be
//! replaced is whole, old or new; and then the file is sent once more.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Rounds;
use super::stations::ends;
use crate::processes::{Child, Ending};
use crate::random::Random;

type Done = Result<(), Box<dyn std::error::Error>>;

/// Where the programs are.
pub struct Programs {
    send: PathBuf,
    receive: PathBuf,
    emulator: PathBuf,
}

impl Programs {
    /// Beside this one, as cargo builds them.
    pub fn find() -> Result<Self, String> {
        let me = std::env::current_exe().map_err(|error| error.to_string())?;
        let folder = me.parent().unwrap_or(Path::new("."));
        let there = |path: PathBuf| match path.exists() {
            true => Ok(path),
            false => Err(format!("there is no {}; cargo xtask soak builds it", path.display())),
        };
        Ok(Self {
            send: there(folder.join("examples/send"))?,
            receive: there(folder.join("examples/receive"))?,
            emulator: there(folder.join("stillwire-emulator"))?,
        })
    }
}

/// Kills one of the three at any moment.
pub fn round(all: &mut Rounds, programs: &Programs) -> Done {
    let folder = tempfile::Builder::new().prefix("crash-transfer-").tempdir_in(&all.world.folder)?;
    let path = |name: &str| folder.path().join(name);
    let victim = all.random.below(3);
    // One after the other, so that nobody takes another's port.
    let (old, new) = (contents(all.random.next(), 100_000), contents(all.random.next(), 3_000_000));
    std::fs::write(path("file"), &new)?;
    std::fs::write(path("out"), &old)?;
    let model = ["ixgbe", "virtio"][all.random.below(2)];
    let emulate = || -> Result<Child, Box<dyn std::error::Error>> {
        let mut command = Command::new(&programs.emulator);
        command.args(["--model", model, "--socket"]).arg(path("near")).arg("--cable").arg(path("far"));
        let mut child = Child::of(command)?;
        if child.wait_for_a_word() { Ok(child) } else { Err(format!("no emulator: {:?}", child.end()).into()) }
    };
    let receive = || {
        let mut command = Command::new(&programs.receive);
        command.args(["--listen", "192.0.2.2:9000", "--idle-seconds", "60", "--json", "--device"]);
        command.arg(format!("vfio-user:{}", path("far").display())).arg("--out").arg(path("out"));
        Child::of(quiet(command))
    };
    let send = |give_up: &str| {
        let mut command = Command::new(&programs.send);
        command.arg(path("file")).args(["--from", "192.0.2.1:4000", "--to", "192.0.2.2:9000", "--give-up", give_up]);
        command.args(["--json", "--device"]).arg(format!("vfio-user:{}", path("near").display()));
        Child::of(quiet(command))
    };

    let mut emulator = emulate()?;
    let mut receiver = receive()?;
    let mut sender = send("3")?;
    std::thread::sleep(all.random.pause(0..700));
    let what = ["a receiver", "a sender on the other end of a cable", "a device with programs on both ends"][victim];
    match victim {
        0 => {
            let _ = receiver.kill();
            // It may have got all before.
            ends(&mut sender, "a sender whose receiver is gone", &[0, 1])?;
        }
        1 => {
            let _ = sender.kill();
        }
        _ => {
            let _ = emulator.kill();
            ends(&mut sender, "a sender whose device is gone", &[0, 1])?;
            ends(&mut receiver, "a receiver whose device is gone", &[0, 1])?;
        }
    }
    all.killed(what);
    let found = std::fs::read(path("out"))?;
    if found != old && found != new {
        return Err(format!("{} bytes were left that are neither the old file nor the new one", found.len()).into());
    }

    // Once more, at once.
    if victim == 2 {
        emulator = emulate()?;
    }
    // One that had got all may be about to end, and one that had begun can begin again.
    if victim != 1 || receiver.end_within(Duration::from_millis(1500)).is_some() {
        receiver = receive()?;
    }
    let mut again = send("30")?;
    ends(&mut again, "the sender that was started again", &[0])?;
    ends(&mut receiver, "the receiver", &[0])?;
    if std::fs::read(path("out"))? != new {
        return Err("the file that was sent again is another".into());
    }
    match emulator.kill() {
        Ending::Killed => {}
        other => return Err(format!("the emulator had ended by {other:?}").into()),
    }
    let known = ["file", "out", "near", "far"].map(std::ffi::OsString::from);
    let left = std::fs::read_dir(folder.path())?.flatten().map(|entry| entry.file_name());
    let left: Vec<_> = left.filter(|name| !known.contains(name)).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("{what} was killed, and has left {left:?}").into()) }
}

/// What a program that ends badly says is its matter.
fn quiet(mut command: Command) -> Command {
    command.stderr(Stdio::null());
    command
}

fn contents(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed, "contents");
    (0..len / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}
