//! Looks whether every actor gets on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::world::{Pulse, World};

/// Who was seen, and when each got on last.
#[derive(Default)]
pub struct Watch(HashMap<*const Pulse, (u64, Instant)>);

impl Watch {
    /// The actors that have not got on for longer than the world is patient.
    pub fn look(&mut self, world: &World) -> Vec<String> {
        let (actors, now) = (world.actors(), Instant::now());
        self.0.retain(|key, _| actors.iter().any(|actor| Arc::as_ptr(actor) == *key));
        let mut stuck = Vec::new();
        for actor in &actors {
            let (beats, since) = self.0.entry(Arc::as_ptr(actor)).or_insert((0, now));
            if *beats != actor.beats() {
                (*beats, *since) = (actor.beats(), now);
            } else if now - *since > world.patience {
                stuck.push(format!("{} {} since {:.0} s", actor.name, actor.at(), (now - *since).as_secs_f64()));
            }
        }
        stuck
    }

    /// Who is at what, for how long, and what the kernel says of each thread.
    pub fn dump(&self, world: &World) -> String {
        let now = Instant::now();
        let mut text = String::from("actors:\n");
        for actor in world.actors() {
            let since = self.0.get(&Arc::as_ptr(&actor)).map_or(Duration::ZERO, |(_, since)| now - *since);
            text.push_str(&format!("  {:<34} {:<40} for {:.1} s\n", actor.name, actor.at(), since.as_secs_f64()));
        }
        for (name, cache) in world.caches() {
            text.push_str(&format!("cache {name}: {:?}, held {:?}\n", cache.stats(), cache.held()));
        }
        text.push_str("threads:\n");
        for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let state = read("stat").rsplit(')').next().map(|rest| rest.trim().chars().take(1).collect::<String>());
            text.push_str(&format!(
                "  {:<18} {} {} {}\n",
                read("comm").trim(),
                state.unwrap_or_default(),
                read("wchan"),
                read("syscall").split(' ').next().unwrap_or_default()
            ));
        }
        text
    }
}
