//! A cache, a NIC that sends from it, and everybody who is at its files: opened, used and closed again and again.

mod attached;
mod device;
mod direct;
mod files;
mod keeper;
mod lengths;
mod outside;
mod syncs;
mod writers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use stillwire_filecache::{Cache, Config, Hold};

pub use device::{Device, Model};
use files::Files;
pub use files::{OWNERS, WRITERS};
pub use writers::begin;

use crate::counts::count;
use crate::nic::Port;
use crate::random::Random;
use crate::world::World;

/// A place for caches and NICs that come and go.
pub struct Stack {
    /// The world.
    pub world: Arc<World>,
    /// What is emulated.
    pub model: Model,
    /// Its files have numbers from here on.
    pub first_file: usize,
    /// How long a cache lives, milliseconds.
    pub life: std::ops::Range<usize>,
}

/// What the actors of a stack share, from its opening to its closing.
struct Scene<'a> {
    world: &'a Arc<World>,
    name: String,
    cache: Cache,
    files: Files,
    over: AtomicBool,
}

impl Scene<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) || self.world.is_over()
    }
}

impl Stack {
    /// Opens and closes until the world is over.
    pub fn run(&self) {
        let name = self.model.name();
        let mut random = self.world.random(name);
        while !self.world.is_over() {
            if let Err(error) = self.live(name, &mut random) {
                self.world.violate(format!("{name}: {error}"));
            }
        }
    }

    fn live(&self, name: &str, random: &mut Random) -> Result<(), Box<dyn std::error::Error>> {
        let world = &self.world;
        let beating = world.pulse(name);
        beating.at("opens the cache");
        let end = Instant::now() + random.pause(self.life.clone());
        let cache = Cache::new(config(name, random))?;
        count(&world.counts.caches);
        let device = self.model.start(random)?;
        cache.attach_to(device.function.iommu())?;
        beating.at("opens the files");
        let files = Files::open(world, &cache, name, self.first_file, &device.function)?;
        let socket = world.folder.join(format!("{name}-door"));
        let door = cache.serve(&socket)?;
        world.add_cache(name, &cache);
        let scene = Scene { world, name: name.to_owned(), cache, files, over: AtomicBool::new(false) };
        let (keep, kept) = sync_channel::<Hold>(keeper::MOST);
        std::thread::scope(|scope| {
            let scene = &scene;
            let mut choices = || Random::new(random.next(), name);
            let keeper = choices();
            scope.spawn(move || keeper::keep(scene, keeper, &kept));
            for number in 0..files::WRITERS {
                let random = choices();
                scope.spawn(move || writers::write(scene, number, random));
            }
            for number in 0..files::PROCESSES {
                let (random, socket) = (choices(), &socket);
                scope.spawn(move || attached::attach(scene, number, socket, random));
            }
            let (one, two, three, four) = (choices(), choices(), choices(), choices());
            scope.spawn(move || syncs::sync(scene, one));
            scope.spawn(move || lengths::change(scene, two));
            scope.spawn(move || outside::change(scene, three));
            direct::spawn(scope, scene, four);
            // A full keeper takes no more: its holds are released by and by.
            let keep_it = move |hold| drop(keep.try_send(hold));
            let port = Port {
                world,
                name: name.to_owned(),
                function: device.function.clone(),
                mischief: Some(&*device.mischief),
                config: self.model.config(),
                sources: scene.files.sources(),
                keep: &keep_it,
            };
            let is_over = || scene.is_over() || Instant::now() >= end;
            port.run(&beating, random, &is_over);
            drop(port);
            scene.over.store(true, Ordering::Release);
            // The keeper ends when nobody can send to it any more.
            drop(keep_it);
            beating.at("waits for the other actors");
        });
        beating.at("looks at everything once more");
        if !world.has_failed() {
            syncs::check_all(&scene);
            let held = scene.cache.held();
            if held.pages > 0 {
                world.violate(format!("{name}: {} pages are held, and nobody is left who may", held.pages));
            }
        }
        beating.at("closes");
        world.remove_cache(name);
        drop(door);
        drop(scene);
        drop(device);
        Ok(())
    }
}

/// Smaller than its files, and always different.
fn config(name: &str, random: &mut Random) -> Config {
    Config {
        bytes: CACHE,
        name: format!("soak-{name}"),
        max_folio: 4096 << random.below(6),
        direct_io: random.chance(700),
        io_uring: random.chance(800),
        read_ahead: random.below(512 << 10),
        dirty_background: random.within(5..30) as u8,
        dirty_most: random.within(30..60) as u8,
        flush_after: random.pause(20..3000),
        patience: Duration::from_secs(20),
        snapshots: random.chance(850),
        closed_files: random.below(8),
        ..Config::default()
    }
}

/// Bytes of a cache; its files have three times as many.
const CACHE: usize = 4 << 20;
