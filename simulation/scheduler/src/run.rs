//! The scheduler itself.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use generator::{Generator, Gn};

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What decides everything.
    pub seed: u64,
    /// Steps after which a run that has not ended is taken for one that never will.
    pub most_steps: u64,
    /// Whether [`log`] keeps what it is told.
    pub keeps_log: bool,
}

/// A run that came to its end.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Steps taken.
    pub steps: u64,
    /// Time that has passed in it.
    pub time: Duration,
    /// Times that a task was stopped for long, whatever it was at.
    pub stalls: u64,
    /// A digest of who went on at each step: equal for equal runs.
    pub trace: u64,
    /// What was logged.
    pub log: Vec<String>,
}

/// A run that found something.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What is wrong.
    pub what: String,
    /// As far as it came.
    pub until: Ended,
}

/// Runs `main` as the first task, and all that it starts, until it ends.
///
/// # Errors
/// What [`failed`] was told, a panic of any task, a run in which nobody can go on or that does not end. The tasks
/// stay as they are then, with all that they have: their memory is not given back.
pub fn run(settings: Settings, main: impl FnOnce() + Send + 'static) -> Result<Ended, Failure> {
    STATE.with_borrow_mut(|state| {
        assert!(state.is_none(), "a run within a run");
        *state = Some(State::new(settings));
    });
    ACTIVE.set(true);
    let first = spawn("main".into(), Box::new(main));
    let failure = go(first);
    ACTIVE.set(false);
    let state = STATE.with_borrow_mut(Option::take).unwrap_or_else(|| unreachable!("put there above"));
    let ended =
        Ended { steps: state.steps, time: state.now, stalls: state.stalled, trace: state.trace, log: state.log };
    match failure {
        None if !state.abandons => Ok(ended),
        None => {
            state.tasks.into_iter().for_each(std::mem::forget);
            Ok(ended)
        }
        Some(what) => {
            // Their ends would run code of tasks that were stopped in the middle of anything.
            state.tasks.into_iter().for_each(std::mem::forget);
            Err(Failure { what, until: ended })
        }
    }
}

/// Whether the caller is a task of a run.
pub(crate) fn is_active() -> bool {
    ACTIVE.get()
}

/// Somebody else may go on before the caller does.
pub fn step() {
    if is_active() && !std::thread::panicking() {
        let stays = with(|state| {
            let goes_on = state.count_step();
            if state.random.u32(0..1 << 20) < state.stalls {
                // Something else has the processor for long.
                let time = Duration::from_nanos(1 << state.random.u32(8..22));
                let until = state.now + time;
                state.stalled += 1;
                state.wait(Waits { key: None, until: Some(until), what: "a processor" });
                return false;
            }
            goes_on && state.stays()
        });
        if !stays {
            switch();
        }
    }
}

/// The caller goes on after all others that can.
pub(crate) fn give_way() {
    if is_active() && !std::thread::panicking() {
        with(|state| {
            state.count_step();
            let task = state.current;
            // Late enough that who is waited for gets there, where priorities would never let it.
            state.tasks[task].priority = state.lowest;
            state.lowest = state.lowest.wrapping_sub(1);
        });
        switch();
    }
}

/// The caller goes on after `time`.
pub fn sleep(time: Duration) {
    if !is_active() {
        return std::thread::sleep(time);
    }
    with(|state| {
        state.count_step();
        let until = state.now + time;
        state.wait(Waits { key: None, until: Some(until), what: "time" });
    });
    switch();
}

/// Time that has passed in the run.
pub(crate) fn now() -> Duration {
    with(|state| state.now)
}

/// One of `0..below`, by the seed; 0 outside of a run.
pub fn choose(below: u64) -> u64 {
    if !is_active() || below == 0 { 0 } else { with(|state| state.random.u64(0..below)) }
}

/// Yes, in so many of a thousand cases.
pub fn chance(of_thousand: u64) -> bool {
    is_active() && choose(1000) < of_thousand
}

/// Something is wrong, and the run is over. Does not return to the caller.
pub fn failed(what: String) -> ! {
    if !is_active() {
        panic!("{what}");
    }
    with(|state| {
        let name = state.tasks[state.current].name.clone();
        state.failure.get_or_insert(format!("{what} (in {name})"));
    });
    loop {
        switch();
    }
}

/// For a panic hook: the run is over, and the task that panics stays where it is. Returns when there is no run.
pub fn panicked(what: &str) {
    if is_active() && STATE.try_with(|state| state.try_borrow_mut().is_ok()).unwrap_or(false) {
        with(|state| {
            let name = state.tasks[state.current].name.clone();
            state.failure.get_or_insert(format!("a panic in {name}: {what}"));
        });
        // Not unwound: the ends of what it has would run code that others take part in, who do not go on any more.
        loop {
            switch();
        }
    }
    eprintln!("{what}");
}

/// The run ends well with the first task, whoever has not ended then.
pub fn abandon() {
    with(|state| state.abandons = true);
}

/// Keeps a line of what happens, if the run keeps them.
pub fn log(line: impl FnOnce() -> String) {
    if is_active() && with(|state| state.keeps_log) {
        let line = line();
        with(|state| {
            let name = &state.tasks[state.current].name;
            let line = format!("{:>10} {name:<10} {line}", state.now.as_nanos());
            state.log.push(line);
        });
    }
}

/// Has `check` look at everything whenever another task goes on. It must not use anything of [`sync`](crate::sync).
pub fn on_step(check: impl FnMut() -> Result<(), String> + 'static) {
    with(|state| state.check = Some(Box::new(check)));
}

/// Waits until somebody wakes who waits for `key` (an address that nothing else has), or until `time` has passed: whether
/// it was woken. `what` is for who reads who waits for what.
pub fn wait_for(key: usize, time: Option<Duration>, what: &'static str) -> bool {
    with(|state| {
        state.count_step();
        let until = time.map(|time| state.now + time);
        state.wait(Waits { key: Some(key), until, what });
    });
    switch();
    with(|state| {
        let task = state.current;
        std::mem::take(&mut state.tasks[task].woken)
    })
}

/// Wakes all who wait for `key`.
pub fn wake(key: usize) {
    wake_some(key, true);
}

/// Wakes all who wait for `key`, or one of them.
pub(crate) fn wake_some(key: usize, all: bool) {
    if !is_active() {
        return;
    }
    with(|state| {
        if let Some(mut waiting) = state.waiting.remove(&key) {
            let woken = match all {
                true => std::mem::take(&mut waiting),
                false => vec![waiting.swap_remove(state.random.usize(0..waiting.len()))],
            };
            if !waiting.is_empty() {
                state.waiting.insert(key, waiting);
            }
            for task in woken {
                state.tasks[task].woken = true;
                state.tasks[task].waits = None;
            }
        }
    });
}

/// A new task.
pub(crate) fn spawn(name: String, body: Box<dyn FnOnce() + Send>) -> usize {
    let work = move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            with(|state| {
                let what = format!("a panic in {}: {}", state.tasks[state.current].name, text_of(&*panic));
                state.failure.get_or_insert(what);
            });
        }
        with(|state| {
            let task = state.current;
            state.tasks[task].is_done = true;
        });
    };
    let body = Some(Gn::new_opt(STACK, work));
    with(|state| {
        let priority = state.random.i64(0..1 << 40);
        state.tasks.push(Task { name, body, waits: None, woken: false, is_done: false, priority });
        state.tasks.len() - 1
    })
}

/// Whether a task has ended.
pub(crate) fn is_done(task: usize) -> bool {
    with(|state| state.tasks[task].is_done)
}

/// What a task is waited for by.
pub(crate) fn key_of(task: usize) -> usize {
    // No address: those are even, or of bytes that nobody waits for.
    usize::MAX - task
}

/// Steps until the first task has ended, or something is wrong: what.
fn go(first: usize) -> Option<String> {
    loop {
        let (task, mut body) = match with(State::next) {
            Ok(task) => (task, with(|state| state.tasks[task].body.take())),
            Err(failure) => return Some(failure),
        };
        if let Some(body) = &mut body {
            body.resume();
        }
        let (failure, check, done) = with(|state| {
            state.tasks[task].body = body;
            (state.failure.take(), state.check.take(), state.tasks[task].is_done)
        });
        if failure.is_some() {
            return failure;
        }
        if let Some(mut check) = check {
            let answer = check();
            with(|state| state.check = Some(check));
            if let Err(what) = answer {
                return Some(format!("{what} (after {})", with(|state| state.tasks[task].name.clone())));
            }
        }
        if done {
            wake(key_of(task));
            if task == first {
                return with(|state| state.left_behind(first));
            }
        }
    }
}

/// To the scheduler, and back when it is the task's turn.
// The other way to say it hands a reference down to everything that may wait; here that is everything.
#[allow(deprecated)]
fn switch() {
    generator::yield_with(());
}

fn with<T>(act: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(|state| act(state.as_mut().unwrap_or_else(|| panic!("not in a run"))))
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "of something that is no text".into())
}

struct State {
    tasks: Vec<Task>,
    current: usize,
    waiting: HashMap<usize, Vec<usize>>,
    random: fastrand::Rng,
    now: Duration,
    /// How likely the task that runs goes on at a step, of 1024.
    stays: u16,
    /// How likely the task that runs is stopped for long at a step, of 2^20.
    stalls: u32,
    stalled: u64,
    /// Whether who goes on is told by priorities that change seldom, and not by a die at each step.
    by_priority: bool,
    lowest: i64,
    /// Time of a step.
    tick: Duration,
    steps: u64,
    most_steps: u64,
    trace: u64,
    failure: Option<String>,
    abandons: bool,
    check: Option<Check>,
    keeps_log: bool,
    log: Vec<String>,
}

type Check = Box<dyn FnMut() -> Result<(), String>>;

struct Task {
    name: String,
    /// Not there while it runs.
    body: Option<Generator<'static, (), ()>>,
    waits: Option<Waits>,
    /// Its wait ended by somebody, not by time.
    woken: bool,
    is_done: bool,
    priority: i64,
}

struct Waits {
    key: Option<usize>,
    until: Option<Duration>,
    what: &'static str,
}

impl State {
    fn new(settings: Settings) -> Self {
        let mut random = fastrand::Rng::with_seed(settings.seed);
        // Each run has a manner of its own: some mistakes show when tasks take turns, others when one is left alone long.
        let stays = [0, 512, 870, 980, 1010][random.usize(0..5)];
        let stalls = [0, 0, 500, 5_000][random.usize(0..4)];
        let tick = Duration::from_nanos([5, 50, 500, 5000][random.usize(0..4)]);
        Self {
            tasks: Vec::new(),
            current: 0,
            waiting: HashMap::new(),
            by_priority: random.u8(0..4) == 0,
            lowest: -1,
            random,
            now: Duration::ZERO,
            stays,
            stalls,
            stalled: 0,
            tick,
            steps: 0,
            most_steps: settings.most_steps,
            trace: 0,
            failure: None,
            abandons: false,
            check: None,
            keeps_log: settings.keeps_log,
            log: Vec::new(),
        }
    }

    /// False: something is due first.
    fn count_step(&mut self) -> bool {
        self.steps += 1;
        self.now += self.tick;
        self.failure.is_none() && self.steps < self.most_steps
    }

    fn stays(&mut self) -> bool {
        self.random.u16(0..1024) < self.stays
    }

    fn wait(&mut self, waits: Waits) {
        let task = self.current;
        if let Some(key) = waits.key {
            self.waiting.entry(key).or_default().push(task);
        }
        self.tasks[task].woken = false;
        self.tasks[task].waits = Some(waits);
    }

    /// Who goes on.
    fn next(&mut self) -> Result<usize, String> {
        if self.steps >= self.most_steps {
            return Err(format!("no end after {} steps; {}", self.steps, self.all()));
        }
        self.end_waits();
        let mut ready: Vec<usize> = self.ready();
        if ready.is_empty() {
            let waits = self.tasks.iter().filter(|task| !task.is_done).filter_map(|task| task.waits.as_ref()?.until);
            let Some(first) = waits.min() else {
                return Err(format!("nobody can go on; {}", self.all()));
            };
            self.now = self.now.max(first);
            self.end_waits();
            ready = self.ready();
        }
        let by_die = |state: &mut Self| ready[state.random.usize(0..ready.len())];
        let task = if self.by_priority {
            // Now and then another becomes the first.
            if self.random.u8(0..32) == 0 {
                let raised = by_die(self);
                self.tasks[raised].priority = self.random.i64(0..1 << 40);
            }
            ready.iter().copied().max_by_key(|&task| self.tasks[task].priority).unwrap_or(ready[0])
        } else {
            by_die(self)
        };
        self.current = task;
        self.trace = (self.trace ^ task as u64 ^ self.steps << 8).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        Ok(task)
    }

    fn ready(&self) -> Vec<usize> {
        (0..self.tasks.len()).filter(|&task| !self.tasks[task].is_done && self.tasks[task].waits.is_none()).collect()
    }

    /// Those whose time has come wait no longer.
    fn end_waits(&mut self) {
        let now = self.now;
        for (number, task) in self.tasks.iter_mut().enumerate() {
            if let Some(waits) = task.waits.take_if(|waits| waits.until.is_some_and(|until| until <= now))
                && let Some(key) = waits.key
                && let Some(waiting) = self.waiting.get_mut(&key)
            {
                waiting.retain(|&other| other != number);
                if waiting.is_empty() {
                    self.waiting.remove(&key);
                }
            }
        }
    }

    /// The first task has ended: who has not.
    fn left_behind(&self, first: usize) -> Option<String> {
        let left: Vec<_> = self.tasks.iter().filter(|task| !task.is_done).collect();
        (!left.is_empty() && !self.abandons)
            .then(|| format!("{} has ended before others; {}", self.tasks[first].name, self.all()))
    }

    /// Who does what.
    fn all(&self) -> String {
        let mut text = String::from("the tasks:");
        for task in self.tasks.iter().filter(|task| !task.is_done) {
            let does = task.waits.as_ref().map_or("runs".into(), |waits| match waits.until {
                Some(until) => format!("waits for {} until {} ns", waits.what, until.as_nanos()),
                None => format!("waits for {}", waits.what),
            });
            let _ = write!(text, " {} {does};", task.name);
        }
        text
    }
}

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
}

/// Stack of a task, words of 8 bytes. What is not touched is not there.
const STACK: usize = 64 << 10;
