//! A NIC: opened, used by several threads, harmed, reset, closed, and opened again.

mod cargo;
mod faults;
mod message;
mod receiver;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stillwire_dma::PciFunction;
use stillwire_driver::{Config, Error, Nic, Returned, RxQueue, TxQueue};
use stillwire_filecache::Hold;

pub use cargo::Source;
use cargo::Token;
pub use faults::Mischief;
use receiver::Receiver;
use worker::{Life, Worker};

use crate::counts::count;
use crate::random::Random;
use crate::tickets::Tickets;
use crate::world::{Beating, World};

/// A NIC's place in the world.
pub struct Port<'a> {
    /// The world.
    pub world: &'a Arc<World>,
    /// Whose NIC it is.
    pub name: String,
    /// The device.
    pub function: PciFunction,
    /// Its faults, if they are ours.
    pub mischief: Option<&'a dyn Mischief>,
    /// How the NIC is set up, but for what is chosen at each opening.
    pub config: Config,
    /// What there is to send.
    pub sources: Vec<Source>,
    /// Takes holds that are kept for long.
    pub keep: &'a (dyn Fn(Hold) + Sync),
}

/// Why a port came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It was told to.
    Told,
    /// The device is no more.
    Gone,
}

impl Port<'_> {
    /// Opens, uses and closes the NIC again and again, until `over` says so or the device is no more.
    pub fn run(&self, beating: &Beating, random: &mut Random, over: &(dyn Fn() -> bool + Sync)) -> Ended {
        let tickets = Tickets::new(1024);
        let mut ended = Ended::Told;
        let mut slow = 0;
        while !over() && ended == Ended::Told {
            beating.at("opens the NIC");
            let interrupts = random.chance(500) && self.function.msix_vectors() >= self.config.queues.into();
            let config = Config { interrupts, ..self.config };
            match Nic::open(self.function.clone(), config) {
                Ok(nic) => {
                    count(&self.world.counts.nics);
                    slow = 0;
                    ended = self.lives(nic, interrupts, &tickets, beating, random, over);
                }
                // Its model is a thread, which a machine that is busy may not run for as long as a device is waited for.
                Err(Error::Timeout { .. } | Error::Command { .. }) if slow < MOST_SLOW => {
                    slow += 1;
                    count(&self.world.counts.devices_slow);
                }
                Err(error) => ended = self.judge("opening the NIC", &error),
            }
        }
        if tickets.twice() > 0 {
            self.world.violate(format!("{}: {} tokens came back twice", self.name, tickets.twice()));
        }
        if ended == Ended::Told && tickets.out() > 0 {
            self.world.violate(format!("{}: {} tokens never came back", self.name, tickets.out()));
        }
        ended
    }

    /// A device of another process may end at any time; one of ours has no reason to.
    fn judge(&self, what: &str, error: &Error) -> Ended {
        if self.mischief.is_some() || self.function.identity().is_ok() {
            self.world.violate(format!("{}: {what}: {error}", self.name));
        }
        Ended::Gone
    }

    /// From an opening to the closing, with resets between.
    fn lives(
        &self,
        mut nic: Nic,
        interrupts: bool,
        tickets: &Arc<Tickets>,
        beating: &Beating,
        random: &mut Random,
        over: &(dyn Fn() -> bool + Sync),
    ) -> Ended {
        let end = Instant::now() + random.pause(2000..12_000);
        loop {
            beating.at("takes the queues");
            let mut pairs = Vec::new();
            for _ in 0..nic.capabilities().queues {
                match nic.tx_queue::<Token>().and_then(|tx| Ok((tx, nic.rx_queue()?))) {
                    Ok(pair) => pairs.push(pair),
                    Err(error) => return self.judge("taking queues", &error),
                }
            }
            let life = Life {
                sources: self.sources.clone(),
                receiver: Receiver::new(self.sources.iter().map(|source| source.book().clone())),
                tickets: tickets.clone(),
                over: AtomicBool::new(false),
                ill: AtomicBool::new(false),
                link_up: AtomicBool::new(false),
                drains: random.chance(500),
                interrupts,
                mac: nic.mac(),
                can: nic.capabilities(),
            };
            let outcome = self.live(&nic, &life, &mut pairs, beating, random, &|| over() || Instant::now() >= end);
            if let Err(error) = outcome {
                drop(pairs);
                return self.judge("the link", &error);
            }
            let is_over = over() || Instant::now() >= end;
            if is_over && !life.ill.load(Ordering::Acquire) && random.chance(700) {
                // Closed with whatever is in the rings; in either order.
                beating.at("closes the NIC");
                if random.chance(500) {
                    drop(nic);
                    drop(pairs);
                } else {
                    drop(pairs);
                    drop(nic);
                }
                return Ended::Told;
            }
            beating.at("resets the NIC");
            if let Err(error) = self.reset(&mut nic, pairs) {
                return self.judge("a reset", &error);
            }
            if is_over {
                return Ended::Told;
            }
        }
    }

    fn reset(&self, nic: &mut Nic, pairs: Vec<(TxQueue<Token>, RxQueue)>) -> Result<(), Error> {
        let (tx, rx): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let counts = &self.world.counts;
        let mut outcome = nic.reset(tx, rx, |_, token| match token {
            Returned::Done(token) => drop(token),
            Returned::NotSent(token) => {
                count(&counts.tokens_not_sent);
                drop(token);
            }
        });
        // On a machine that is busy a device may not be up in time; that is what a second try is for.
        for _ in 0..MOST_SLOW {
            match outcome {
                Err(Error::Timeout { .. } | Error::Command { .. }) => {
                    count(&counts.devices_slow);
                    outcome = nic.reset::<Token>([], [], |_, _| ());
                }
                _ => break,
            }
        }
        outcome.inspect(|()| count(&counts.recoveries))
    }

    /// From taking the queues to giving them back.
    fn live(
        &self,
        nic: &Nic,
        life: &Life,
        pairs: &mut [(TxQueue<Token>, RxQueue)],
        beating: &Beating,
        random: &mut Random,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        std::thread::scope(|scope| {
            for (number, (tx, rx)) in pairs.iter_mut().enumerate() {
                let name = format!("{} queue {number}", self.name);
                let random = Random::new(random.next(), &name);
                let beating = self.world.pulse(name);
                scope.spawn(move || Worker::new(self.world, life, beating, random, number, self.keep).run(tx, rx));
            }
            let watched = self.watch(nic, life, beating, random, is_over);
            life.over.store(true, Ordering::Release);
            if let Some(mischief) = self.mischief {
                faults::mend(mischief);
            }
            beating.at("waits for the owners of the queues");
            watched
        })
    }

    /// Looks at the link and does harm until the life is over.
    fn watch(
        &self,
        nic: &Nic,
        life: &Life,
        beating: &Beating,
        random: &mut Random,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        let mut harm = Instant::now() + random.pause(200..3000);
        let mut mend = None;
        while !is_over() && !life.ill.load(Ordering::Acquire) && !self.world.is_over() {
            beating.at("looks at the link");
            life.link_up.store(nic.link()?.up, Ordering::Relaxed);
            if let Some(mischief) = self.mischief.filter(|_| Instant::now() >= harm) {
                faults::inject(mischief, random, life.can.queues, &self.world.counts);
                harm = Instant::now() + random.pause(300..4000);
                mend = Some(Instant::now() + random.pause(20..400));
            }
            if let Some(mischief) = self.mischief.filter(|_| mend.is_some_and(|at| Instant::now() >= at)) {
                mend = None;
                faults::mend(mischief);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// How often in a row a device may be waited for in vain.
const MOST_SLOW: usize = 4;
