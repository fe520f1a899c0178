//! Senders and devices in processes of their own, on a vfio-user socket between them; either is killed, and started again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::counts::count;
use crate::ledger::MOST_RECORDS;
use crate::processes::{Child, Ending};
use crate::world::{Beating, World};

/// Goes on until the world is over; its file has number `file`.
pub fn run(world: &Arc<World>, file: usize) {
    let beating = world.pulse("vfio-user");
    if let Err(error) = rounds(world, &beating, file) {
        world.violate(format!("vfio-user: {error}"));
    }
}

fn rounds(world: &Arc<World>, beating: &Beating, file: usize) -> std::io::Result<()> {
    let mut random = world.random("vfio-user");
    let path = world.folder.join("vfio-user-file");
    let socket = world.folder.join("vfio-user-socket");
    let door = world.folder.join("vfio-user-door");
    let mut emulator: Option<Child> = None;
    while !world.is_over() {
        // What was stored and not synced when a sender was killed is gone.
        let book = world.ledger.book(file, MOST_RECORDS, MOST_RECORDS);
        world.ledger.clear(file);
        world.ledger.clear(file + 1);
        std::fs::write(&path, book.fresh())?;
        let device = match emulator.take() {
            Some(device) => emulator.insert(device),
            None => {
                beating.at("starts an emulator");
                let model = ["ixgbe", "ice", "virtio"][random.below(3)];
                let arguments = ["emulator".to_owned(), socket.display().to_string(), model.to_owned()];
                let device = emulator.insert(Child::start(&arguments)?);
                // Where the last one was killed its socket still is.
                if !device.wait_for_a_word() {
                    world.violate("vfio-user: an emulator does not start");
                }
                device
            }
        };
        beating.at("starts a sender");
        let arguments = [
            "station".to_owned(),
            socket.display().to_string(),
            door.display().to_string(),
            path.display().to_string(),
            world.ledger.path(),
            file.to_string(),
            random.next().to_string(),
        ];
        let mut sender = Child::start(&arguments)?;
        if !sender.wait_for_a_word() {
            world.violate(format!("vfio-user: a sender does not start: {:?}", sender.end()));
        }
        beating.sleep(random.pause(50..4000), || world.is_over());
        match random.below(3) {
            0 => {
                beating.at("kills an emulator");
                if device.kill() == Ending::Killed {
                    count(&world.counts.killed_emulators);
                }
                beating.at("waits for a sender whose device has gone");
                judge(world, &mut sender, Child::end, &[3]);
                emulator = None;
            }
            1 => {
                beating.at("kills a sender");
                if sender.kill() == Ending::Killed {
                    count(&world.counts.killed_senders);
                }
            }
            _ => {
                beating.at("ends a sender");
                judge(world, &mut sender, Child::let_end, &[0]);
            }
        }
    }
    drop(emulator);
    // Who is killed leaves them, for the next one to replace.
    for left in [socket, door] {
        let _ = std::fs::remove_file(left);
    }
    Ok(())
}

fn judge(world: &World, sender: &mut Child, end: impl FnOnce(&mut Child) -> Ending, codes: &[i32]) {
    let ending = end(sender);
    match ending {
        Ending::Exited(code) if codes.contains(&code) => count(&world.counts.processes_ended),
        other => {
            world.violate(format!("vfio-user: a sender ended by {other:?}, not one of {codes:?}: {}", sender.said()))
        }
    }
    let last = sender.said().lines().last().unwrap_or_default();
    if let Ok(counts) = serde_json::from_str::<BTreeMap<String, u64>>(last) {
        world.counts.add_all(&counts);
    }
}
