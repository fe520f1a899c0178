//! A NIC behind a bus on which things go wrong, in one thread and in a time of its own; and what is true of it all the same.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stillwire_dma::{Access, HugePages, Mapping, Payload, PciFunction, Segment, SharedMemory};
use stillwire_driver::{
    Config, Error, Frame, Look, Nic, Posted, Result, Returned, RxQueue, TxQueue, Verdict, Watchdog,
};
use stillwire_emulator::scripted::Faulty;
use stillwire_emulator::{
    Clock, DmaAccess, DmaFate, FaultyBus, InterruptFate, LocalDevice, MemoryTable, Mishaps, RegisterAccess,
    RegisterFate, StepFate, VirtualClock,
};

/// Bytes of a payload, and how many there can be at a time.
pub const SLOT: usize = 256;
pub const SLOTS: usize = 64;

/// Numbers from a seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// How often, in 4096 accesses, what goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    pub dma: Vec<(u16, DmaFate)>,
    pub register: Vec<(u16, RegisterFate)>,
    pub interrupt: Vec<(u16, InterruptFate)>,
    pub step: Vec<(u16, StepFate)>,
    /// Nothing makes a device use what nobody gave it, or say what is not true: registers are lost when they are read, never when
    /// they are written; and of the device's writes only single words are lost or overtaken, for one that is part of something
    /// could come when its place is used for something else.
    pub honest: bool,
}

fn pick<F: Clone + Default>(random: &mut Random, rates: &[(u16, F)]) -> F {
    let mut at = random.below(4096);
    for (rate, fate) in rates {
        match at.checked_sub(u64::from(*rate)) {
            Some(rest) => at = rest,
            None => return fate.clone(),
        }
    }
    F::default()
}

/// Decides for an access.
pub type Rule<A, F> = Box<dyn FnMut(A) -> F + Send>;

/// Decides from a seed, or by rules, and watches the device meanwhile.
pub struct Chance {
    /// Decides before chance does.
    pub dma_rule: Option<Rule<DmaAccess, DmaFate>>,
    /// The same.
    pub register_rule: Option<Rule<RegisterAccess, RegisterFate>>,
    pub random: Random,
    pub rates: Rates,
    /// Nothing goes wrong until this is set.
    pub armed: bool,
    /// Where the payloads are, once they are mapped.
    pub payloads: Range<u64>,
    /// Whose payloads may be read.
    pub held: [bool; SLOTS],
    /// Accesses that no honest device makes behind an honest driver.
    pub breaches: Vec<String>,
    /// What happened to the device, for two runs to be compared.
    pub seen: Vec<(DmaAccess, DmaFate)>,
    /// How often something went wrong.
    pub mishaps: u64,
}

impl Mishaps for Chance {
    fn dma(&mut self, access: DmaAccess) -> DmaFate {
        if !access.mapped {
            self.breaches.push(format!("{access:x?}: not mapped"));
        }
        let (start, end) = (access.address, access.address.saturating_add(access.len as u64));
        if start < self.payloads.end && end > self.payloads.start {
            let first = (start.saturating_sub(self.payloads.start)) as usize / SLOT;
            let last = (end.min(self.payloads.end) - 1 - self.payloads.start) as usize / SLOT;
            if access.write || (first..=last).any(|slot| !self.held[slot]) {
                self.breaches.push(format!("{access:x?}: payload that is not held"));
            }
        }
        let fate = match &mut self.dma_rule {
            Some(rule) => rule(access),
            None if self.armed => pick(&mut self.random, &self.rates.dma),
            None => DmaFate::Pass,
        };
        let lies = matches!(fate, DmaFate::Lose | DmaFate::Overtaken(_)) && access.len != 4;
        let fate = if self.rates.honest && lies { DmaFate::Pass } else { fate };
        self.mishaps += u64::from(fate != DmaFate::Pass);
        self.seen.push((access, fate));
        fate
    }

    fn register(&mut self, access: RegisterAccess) -> RegisterFate {
        let mut fate = match &mut self.register_rule {
            Some(rule) => rule(access),
            None if self.armed => pick(&mut self.random, &self.rates.register),
            None => RegisterFate::Pass,
        };
        if self.rates.honest && access.write && fate == RegisterFate::Lose {
            fate = RegisterFate::Pass;
        }
        self.mishaps += u64::from(fate != RegisterFate::Pass);
        fate
    }

    fn interrupt(&mut self, _vector: u16) -> InterruptFate {
        let fate = if self.armed { pick(&mut self.random, &self.rates.interrupt) } else { InterruptFate::Pass };
        self.mishaps += u64::from(fate != InterruptFate::Pass);
        fate
    }

    fn step(&mut self) -> StepFate {
        let fate = if self.armed { pick(&mut self.random, &self.rates.step) } else { StepFate::Pass };
        self.mishaps += u64::from(fate != StepFate::Pass);
        fate
    }
}

/// What became of a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The ring has it.
    Held,
    /// The frame was refused.
    Refused,
    Done,
    NotSent,
    /// It came back when the queue was stopped by itself.
    Stopped,
}

/// A payload, and its entry in the book.
pub struct Token {
    pub number: usize,
    slot: usize,
    memory: Arc<(SharedMemory, Mapping)>,
    chance: Arc<Mutex<Chance>>,
    book: Rc<RefCell<Book>>,
}

/// Of all tokens.
#[derive(Default)]
pub struct Book {
    pub fates: Vec<Fate>,
    pub dropped: Vec<bool>,
    free: Vec<usize>,
}

impl Payload for Token {
    fn len(&self) -> usize {
        SLOT - self.number % 100
    }

    fn segments(&self, range: Range<usize>, mut each: impl FnMut(Segment)) {
        let start = self.slot * SLOT;
        if let Some(segment) = self.memory.1.segment(start + range.start..start + range.end) {
            each(segment);
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let mut book = self.book.borrow_mut();
        assert!(!std::mem::replace(&mut book.dropped[self.number], true), "token {} was dropped twice", self.number);
        book.free.push(self.slot);
        self.chance.lock().unwrap().held[self.slot] = false;
    }
}

/// A NIC, perhaps, and its device.
pub struct Sim<M> {
    pub device: Arc<LocalDevice<FaultyBus<M>>>,
    pub clock: Arc<VirtualClock>,
    pub chance: Arc<Mutex<Chance>>,
    pub function: PciFunction,
    pub nic: Option<Nic>,
    pub tx: Vec<TxQueue<Token>>,
    pub rx: Vec<RxQueue>,
    pub book: Rc<RefCell<Book>>,
    memory: Arc<(SharedMemory, Mapping)>,
    /// Tokens that were kept because there was no proof.
    pub kept: usize,
    pub received: usize,
}

impl<M: Faulty> Sim<M> {
    pub fn new(model: M, seed: u64, rates: Rates) -> Self {
        let chance = Arc::new(Mutex::new(Chance {
            dma_rule: None,
            register_rule: None,
            random: Random(seed),
            rates,
            armed: false,
            payloads: 0..0,
            held: [false; SLOTS],
            breaches: Vec::new(),
            seen: Vec::new(),
            mishaps: 0,
        }));
        let clock = Arc::new(VirtualClock::new());
        let bus = FaultyBus::new(model, chance.clone());
        let device = LocalDevice::stepped(bus, MemoryTable::new(), clock.clone());
        let function = PciFunction::from_backend(device.clone());
        let memory = SharedMemory::new("payloads", SLOT * SLOTS, HugePages::Never).unwrap();
        let mapping = function.iommu().map(&memory, Access::ReadOnly).unwrap();
        let start = mapping.iova_of(0).unwrap().get();
        chance.lock().unwrap().payloads = start..start + (SLOT * SLOTS) as u64;
        let book = Rc::new(RefCell::new(Book { free: (0..SLOTS).rev().collect(), ..Book::default() }));
        Self {
            device,
            clock,
            chance,
            function,
            nic: None,
            tx: Vec::new(),
            rx: Vec::new(),
            book,
            memory: Arc::new((memory, mapping)),
            kept: 0,
            received: 0,
        }
    }

    pub fn arm(&self, on: bool) {
        self.chance.lock().unwrap().armed = on;
    }

    /// From now on `rule` decides of the device's accesses to memory.
    pub fn on_dma(&self, rule: impl FnMut(DmaAccess) -> DmaFate + Send + 'static) {
        self.chance.lock().unwrap().dma_rule = Some(Box::new(rule));
    }

    /// From now on `rule` decides of the driver's accesses.
    pub fn on_register(&self, rule: impl FnMut(RegisterAccess) -> RegisterFate + Send + 'static) {
        self.chance.lock().unwrap().register_rule = Some(Box::new(rule));
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        let mut chance = self.chance.lock().unwrap();
        (chance.dma_rule, chance.register_rule, chance.armed) = (None, None, false);
    }

    /// What became of all tokens so far.
    pub fn fates(&self) -> Vec<Fate> {
        self.book.borrow().fates.clone()
    }

    pub fn open(&mut self, config: Config) -> Result<()> {
        self.nic = Some(Nic::open(self.function.clone(), config)?);
        Ok(())
    }

    pub fn take_queues(&mut self) -> Result<()> {
        let Some(nic) = &self.nic else { return Ok(()) };
        for _ in 0..nic.capabilities().queues {
            self.tx.push(nic.tx_queue()?);
            self.rx.push(nic.rx_queue()?);
        }
        Ok(())
    }

    fn token(&self) -> Option<Token> {
        let mut book = self.book.borrow_mut();
        let slot = book.free.pop()?;
        let number = book.fates.len();
        book.fates.push(Fate::Held);
        book.dropped.push(false);
        drop(book);
        self.chance.lock().unwrap().held[slot] = true;
        let (memory, chance, book) = (self.memory.clone(), self.chance.clone(), self.book.clone());
        Some(Token { number, slot, memory, chance, book })
    }

    /// Posts a frame to queue `queue`, if there is room.
    pub fn post(&mut self, queue: usize) {
        if queue >= self.tx.len() {
            return;
        }
        let Some(token) = self.token() else { return };
        let number = token.number;
        let fate = match self.tx[queue].post(Frame::new(&[0xff; 60]).payload(token)) {
            Ok(Posted::Queued) => return,
            Ok(Posted::Full(frame)) => {
                drop(frame);
                Fate::Refused
            }
            Err(_) => Fate::Refused,
        };
        assert!(self.book.borrow().dropped[number], "a frame that was refused is in nobody's hands");
        self.book.borrow_mut().fates[number] = fate;
    }

    pub fn publish(&mut self) {
        self.tx.iter_mut().for_each(TxQueue::publish);
    }

    /// Takes what is done and what has arrived; how much of the first.
    pub fn poll(&mut self) -> usize {
        let mut done = 0;
        for tx in &mut self.tx {
            tx.reclaim(|token| {
                done += 1;
                come_back(token, Fate::Done);
            });
        }
        for rx in &mut self.rx {
            let mut bytes = Vec::new();
            self.received += rx.poll(64, |frame| frame.copy_to(&mut bytes));
        }
        done
    }

    /// Waits for the first pair, as an owner that has nothing to do.
    pub fn wait(&mut self, time: Duration) {
        if let (Some(tx), Some(rx)) = (self.tx.first_mut(), self.rx.first_mut()) {
            // Without interrupts it is an error.
            let _ = rx.wait(tx, time);
        }
    }

    pub fn reset(&mut self) -> Result<()> {
        let Some(nic) = &mut self.nic else { return Ok(()) };
        let (tx, rx) = (std::mem::take(&mut self.tx), std::mem::take(&mut self.rx));
        let outcome = nic.reset(tx, rx, |_, returned| match returned {
            Returned::Done(token) => come_back(token, Fate::Done),
            Returned::NotSent(token) => come_back(token, Fate::NotSent),
        });
        if let Err(Error::NotQuiet { kept, .. }) = &outcome {
            self.kept += kept;
        }
        outcome
    }

    /// What a sender does about a queue that stands still: looks for some seconds, and resets the NIC when it is told that it
    /// hangs.
    pub fn watch(&mut self) {
        let mut dogs: Vec<_> = self.tx.iter().map(|_| (Watchdog::new(Duration::from_secs(2)), 0)).collect();
        for _ in 0..8 {
            let Some(nic) = &self.nic else { return };
            let link_up = nic.link().is_ok_and(|link| link.up);
            let now = self.clock.now();
            let mut hung = false;
            for (tx, (dog, completed)) in self.tx.iter_mut().zip(&mut dogs) {
                *completed += tx.reclaim(|token| come_back(token, Fate::Done)) as u64;
                let look = Look { in_flight: tx.in_flight(), completed: *completed, link_up };
                hung |= !matches!(dog.look(now, look), Verdict::Fine);
            }
            if hung {
                let _ = self.reset();
                let _ = self.take_queues();
                return;
            }
            self.function.sleep(Duration::from_millis(500));
        }
    }

    /// Ends all, and checks that each token came back once.
    pub fn finish(mut self) {
        for tx in std::mem::take(&mut self.tx) {
            let outcome = tx.stop(|token| come_back(token, Fate::Stopped));
            if let Err(Error::NotQuiet { kept, .. }) = outcome {
                self.kept += kept;
            }
        }
        self.rx.clear();
        self.nic = None;
        let book = self.book.borrow();
        let held: Vec<_> = (0..book.fates.len()).filter(|&token| book.fates[token] == Fate::Held).collect();
        assert_eq!(held.len(), self.kept, "in nobody's hands: {held:?}");
        for (number, dropped) in book.dropped.iter().enumerate() {
            assert_eq!(*dropped, !held.contains(&number), "token {number}, {:?}", book.fates[number]);
        }
    }
}

fn come_back(token: Token, fate: Fate) {
    let mut book = token.book.borrow_mut();
    let before = std::mem::replace(&mut book.fates[token.number], fate);
    assert_eq!(before, Fate::Held, "token {} came back as {fate:?}", token.number);
}
