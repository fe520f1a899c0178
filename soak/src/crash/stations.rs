//! Senders, their devices, and writers that attach to them.

use std::path::PathBuf;
use std::time::Duration;

use super::Rounds;
use crate::ledger::{Book, MOST_RECORDS};
use crate::processes::{Child, Ending};
use crate::stack::WRITERS;
use crate::world::Broken;

type Done = Result<(), Box<dyn std::error::Error>>;

/// Who is killed.
const VICTIMS: [&str; 5] = [
    "a sender with a device of its own and writers attached",
    "a writer that is attached to a sender",
    "a sender over vfio-user",
    "a device (emulator over vfio-user) of a sender",
    "a sender that is just starting",
];

/// What is there in a round.
struct Place {
    device: String,
    socket: PathBuf,
    door: PathBuf,
    path: PathBuf,
    book: Book,
    synced: Book,
}

/// Kills the `victim`th of [`VICTIMS`].
pub fn round(all: &mut Rounds, victim: usize) -> Done {
    let world = all.world.clone();
    let folder = &world.folder;
    [0, 1].into_iter().for_each(|file| world.ledger.clear(file));
    let [book, synced] = [0, 1].map(|file| world.ledger.book(file, MOST_RECORDS, MOST_RECORDS));
    let model = ["ixgbe", "ice", "virtio"][all.random.below(3)];
    let over_vfio_user = victim == 2 || victim == 3 || (victim == 4 && all.random.chance(500));
    let socket = folder.join("crash-socket");
    let device = if over_vfio_user { socket.display().to_string() } else { format!("emulated:{model}") };
    let place =
        Place { device, socket, door: folder.join("crash-door"), path: folder.join("crash-file"), book, synced };
    std::fs::write(&place.path, place.book.fresh())?;
    let emulate = |place: &Place| -> Result<Option<Child>, Box<dyn std::error::Error>> {
        if !over_vfio_user {
            return Ok(None);
        }
        let mut child = Child::start(&["emulator".into(), place.socket.display().to_string(), model.into()])?;
        if child.wait_for_a_word() { Ok(Some(child)) } else { Err(format!("no emulator: {:?}", child.end()).into()) }
    };

    let mut emulator = emulate(&place)?;
    let mut sender = start(all, &place)?;
    if victim < 4 {
        speaks(&mut sender)?;
    }
    let mut writers = Vec::new();
    if victim < 2 {
        for number in 0..2 {
            writers.push(attach(all, &place, WRITERS + number)?);
        }
    }
    // Any moment, and for the one that starts any of its start.
    std::thread::sleep(all.random.pause(if victim == 4 { 0..60 } else { 0..500 }));
    let floor = match victim {
        1 => {
            is_killed(&mut writers[0])?;
            // Those that are left go on, and so does another in its place.
            let again = attach(all, &place, WRITERS)?;
            writers[0] = again;
            std::thread::sleep(all.random.pause(10..200));
            for writer in &mut writers {
                writer.close();
                ends(writer, "a writer that was told to end", &[0])?;
            }
            sender.close();
            ends(&mut sender, "a sender that lost a writer", &[0])?;
            place.book.floor(0, place.book.len())
        }
        3 => {
            is_killed(emulator.as_mut().ok_or("no emulator")?)?;
            // It finds out, writes back what it has, and ends.
            ends(&mut sender, "a sender whose device is gone", &[3])?;
            emulator = None;
            place.synced.floor(0, place.book.len())
        }
        _ => {
            is_killed(&mut sender)?;
            for writer in &mut writers {
                ends(writer, "a writer whose cache is gone", &[3])?;
            }
            place.synced.floor(0, place.book.len())
        }
    };
    all.killed(VICTIMS[victim]);
    // What was acknowledged is there, before anybody repairs anything.
    let found = std::fs::read(&place.path)?;
    place.book.check(&floor, 0, 0, &found)?;
    let acknowledged = |book: &Book| {
        (0..book.records).filter(|at| book.returned(*at).load(std::sync::atomic::Ordering::Acquire) > 0).count()
    };
    all.report.acknowledged += acknowledged(if victim == 1 { &place.book } else { &place.synced }) as u64;

    // At once again, at the same places; stores that were lost with the process are not to be missed.
    (0..2).for_each(|file| world.ledger.clear(file));
    std::fs::write(&place.path, place.book.fresh())?;
    if over_vfio_user && emulator.is_none() {
        emulator = emulate(&place)?;
    }
    let mut again = start(all, &place)?;
    speaks(&mut again)?;
    let mut writer = attach(all, &place, WRITERS)?;
    std::thread::sleep(all.random.pause(1..150));
    writer.close();
    ends(&mut writer, "a writer after the restart", &[0])?;
    again.close();
    ends(&mut again, "the sender that was started again", &[0])?;
    place.book.check(&place.book.floor(0, place.book.len()), 0, 0, &std::fs::read(&place.path)?)?;
    if let Some(mut emulator) = emulator {
        emulator.close();
        ends(&mut emulator, "the emulator", &[0])?;
    }
    std::fs::remove_file(&place.path)?;
    Ok(())
}

fn start(all: &mut Rounds, place: &Place) -> std::io::Result<Child> {
    let mut arguments = vec![
        "station".into(),
        place.device.clone(),
        place.door.display().to_string(),
        place.path.display().to_string(),
        all.world.ledger.path(),
        "0".into(),
        all.random.next().to_string(),
    ];
    if all.world.broken == Some(Broken::EarlyAnswer) {
        arguments.push("--early".into());
    }
    Child::start(&arguments)
}

fn attach(all: &mut Rounds, place: &Place, owner: usize) -> std::io::Result<Child> {
    Child::start(&[
        "writer".into(),
        place.door.display().to_string(),
        place.path.display().to_string(),
        all.world.ledger.path(),
        "0".into(),
        owner.to_string(),
        all.random.next().to_string(),
    ])
}

fn speaks(child: &mut Child) -> Done {
    if child.wait_for_a_word() { Ok(()) } else { Err(format!("a process does not start: {:?}", child.end()).into()) }
}

fn is_killed(child: &mut Child) -> Done {
    match child.kill() {
        Ending::Killed => Ok(()),
        other => Err(format!("a process that was to be killed had ended by {other:?}: {}", child.said()).into()),
    }
}

/// Ends with one of `codes`, in time.
pub fn ends(child: &mut Child, who: &str, codes: &[i32]) -> Done {
    match child.end_within(DEADLINE) {
        Some(Ending::Exited(code)) if codes.contains(&code) => Ok(()),
        Some(other) => Err(format!("{who} ended by {other:?}, not with one of {codes:?}: {}", child.said()).into()),
        None => Err(format!("{who} did not end in {DEADLINE:?}").into()),
    }
}

/// The machine may be busy.
const DEADLINE: Duration = Duration::from_secs(60);
