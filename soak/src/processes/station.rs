//! A process that sends a file over a device, of its own or in another process, while it writes and syncs it, and lets others
//! attach.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stillwire_dma::PciFunction;
use stillwire_driver::Config;
use stillwire_filecache::{Cache, CachedFile, Error, View};

use super::end_with_the_parent;
use crate::ledger::{Book, Ledger, MOST_RECORDS, RECORD};
use crate::nic::{Ended, Port, Source};
use crate::random::Random;
use crate::stack::{Device, Model, OWNERS, WRITERS, begin};
use crate::world::{Broken, World};

/// What it sends, over what.
#[derive(clap::Args)]
pub struct Arguments {
    /// A model in this process, `emulated:ixgbe`, or the socket of one.
    device: String,
    /// Where others attach.
    door: PathBuf,
    path: PathBuf,
    ledger: String,
    /// Its number in the ledger. What a sync has answered for is in the account of the next.
    file: usize,
    seed: u64,
    /// Wrong on purpose: notes what a sync will have answered for before it has.
    #[arg(long)]
    early: bool,
}

/// Ends with 3 when the device is no more, with 4 when something was wrong.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let ledger = Ledger::open(&arguments.ledger)?;
    let [book, synced] = [0, 1].map(|more| ledger.book(arguments.file + more, MOST_RECORDS, MOST_RECORDS));
    let broken = arguments.early.then_some(Broken::EarlyAnswer);
    let world = World::new(arguments.seed, broken, ledger, std::env::temp_dir(), Duration::from_secs(60));
    let told: Arc<World> = world.clone();
    end_with_the_parent(move || told.set_over(true))?;
    let mut random = Random::new(arguments.seed, "station");
    let (function, _device) = match Model::of(&arguments.device) {
        Some(model) => {
            let device = model.start(&mut random)?;
            (device.function.clone(), Some(device))
        }
        None => match PciFunction::connect(arguments.device.as_ref()) {
            Ok(function) => (function, None::<Device>),
            Err(_) => return Ok(ExitCode::from(3)),
        },
    };
    let bytes = if random.chance(500) { 1 << 20 } else { 4 << 20 };
    let flush_after = random.pause(10..500);
    let config = stillwire_filecache::Config { bytes, max_folio: 64 << 10, flush_after, ..Default::default() };
    let cache = Cache::new(config)?;
    if cache.attach_to(function.iommu()).is_err() {
        return Ok(ExitCode::from(3));
    }
    let _door = cache.serve(&arguments.door)?;
    let file = cache.open(&arguments.path)?;
    let view = file.view()?;
    println!("sending");
    world.add_cache("station", &cache);
    let over = AtomicBool::new(false);
    let random_of = |name| Random::new(arguments.seed, name);
    std::thread::scope(|scope| {
        scope.spawn(|| write(&world, &view, &book, random_of("writes"), &over));
        scope.spawn(|| sync(&world, &file, [&book, &synced], random_of("syncs"), &over));
        let keep = |hold| drop(hold);
        let port = Port {
            world: &world,
            name: "station".into(),
            function: function.clone(),
            mischief: None,
            config: Config { queues: 1, tx_ring: 256, rx_ring: 256, ..Config::default() },
            sources: vec![Source::Cached(file.clone(), book.clone())],
            keep: &keep,
        };
        let beating = world.pulse("station");
        let ended = port.run(&beating, &mut random, &|| world.is_over());
        over.store(true, Ordering::Release);
        if ended == Ended::Gone {
            // What the device may still read stays held until this process ends, and a writer that waits for it does not end.
            last_words(&world, &file, 3);
        }
    });
    if let Err(error) = file.sync() {
        world.violate(format!("station: the last sync: {error}"));
    }
    drop(_door);
    last_words(&world, &file, 0)
}

fn write(world: &World, view: &View, book: &Book, mut random: Random, over: &AtomicBool) {
    while !over.load(Ordering::Acquire) {
        let record = random.below(book.records / OWNERS) * OWNERS + random.below(WRITERS);
        let mut bytes = [0; RECORD];
        let version = begin(book, record, &mut bytes);
        match view.write_at((record * RECORD) as u64, &bytes) {
            Ok(()) => book.returned(record).store(version, Ordering::Release),
            Err(Error::ArenaFull { .. }) => {}
            Err(error) => world.violate(format!("station: a store: {error}")),
        }
        std::thread::sleep(Duration::from_micros(random.within(100..2000) as u64));
    }
}

/// Syncs, and notes what that has answered for.
fn sync(world: &World, file: &CachedFile, [book, synced]: [&Book; 2], mut random: Random, over: &AtomicBool) {
    while !over.load(Ordering::Acquire) {
        let returned: Vec<u64> = (0..book.records).map(|at| book.returned(at).load(Ordering::Acquire)).collect();
        let note = || {
            for (record, version) in returned.iter().enumerate() {
                synced.returned(record).store(*version, Ordering::Release);
            }
        };
        if world.broken == Some(Broken::EarlyAnswer) {
            note();
            // Long enough that nearly every kill falls between the answer and what it answers for, on any machine.
            std::thread::sleep(Duration::from_millis(300));
        }
        match file.sync() {
            Ok(()) => note(),
            Err(error) => world.violate(format!("station: a sync: {error}")),
        }
        std::thread::sleep(random.pause(1..60));
    }
}

/// Syncs, says what was done, and ends the process: with 4 if something was wrong.
fn last_words(world: &World, file: &CachedFile, code: i32) -> ! {
    if let Err(error) = file.sync() {
        world.violate(format!("station: the last sync: {error}"));
    }
    world.remove_cache("station");
    println!("{}", serde_json::to_string(&world.counts.each()).unwrap_or_default());
    std::process::exit(if world.has_failed() { 4 } else { code })
}
