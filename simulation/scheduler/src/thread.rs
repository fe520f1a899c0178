//! Tasks, by the names of `std::thread`.

use std::any::Any;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::run;

/// Waits.
pub fn sleep(time: Duration) {
    run::sleep(time);
}

/// Lets the others go on.
pub fn yield_now() {
    run::give_way();
}

/// Lets the others go on: who spins waits for one of them.
pub fn spin_loop() {
    run::give_way();
}

/// A task that can be waited for.
#[derive(Debug)]
pub struct JoinHandle<T> {
    task: usize,
    answer: Arc<Mutex<Option<T>>>,
}

impl<T> JoinHandle<T> {
    /// Waits for the end of the task.
    ///
    /// # Errors
    /// None: a run is over when a task panics.
    pub fn join(self) -> Result<T, Box<dyn Any + Send>> {
        run::step();
        while !run::is_done(self.task) {
            run::wait_for(run::key_of(self.task), None, "the end of another");
        }
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        answer.ok_or_else(|| Box::new("it was stopped") as Box<dyn Any + Send>)
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        run::step();
        run::is_done(self.task)
    }
}

/// Starts a task.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    named("task".into(), work)
}

/// What a task is started with.
#[derive(Debug, Default)]
pub struct Builder {
    name: Option<String>,
}

impl Builder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a name, for who reads what happened.
    #[must_use]
    pub fn name(self, name: String) -> Self {
        Self { name: Some(name) }
    }

    /// Starts it.
    ///
    /// # Errors
    /// None; the signature is that of the standard library.
    pub fn spawn<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
        Ok(named(self.name.unwrap_or_else(|| "task".into()), work))
    }
}

fn named<T: Send + 'static>(name: String, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let answer = Arc::new(Mutex::new(None));
    let place = answer.clone();
    let body = move || {
        let answer = work();
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    };
    let task = run::spawn(name, Box::new(body));
    run::step();
    JoinHandle { task, answer }
}
