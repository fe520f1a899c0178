//! `--metrics ADDR`: what a program counts, for Prometheus, over HTTP.
//!
//! The data path answers when it is asked, and only then:
//!
//! ```text
//!  who scrapes          server thread                       data path
//!  ───────────          ─────────────                       ─────────
//!  GET /metrics ──────▶ question + 1                        once a turn of its loop: a new question?
//!                         waits (at most WAIT) ◀────────────── figures into its atomics, then the answer's number
//!  text ◀────────────── reads the atomics; the cache's
//!                       counters it reads by itself
//! ```
//!
//! So a NIC's registers, which cost a microsecond each, are read as often as somebody looks; a ring or a hold is never
//! counted twice; and a data path that is stuck on a slow disk is shown as it was before.

mod figures;
mod server;

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use stillwire_filecache::Cache;

pub use figures::{
    CacheFigures, Family, Figures, INFO, PAUSE_BOUNDS, PAUSES, QueueFigures, ReceiverFigures, SenderFigures,
    StationFigures, families,
};
pub use server::{Server, fetch};

/// Where the data path leaves its figures.
#[derive(Default)]
pub struct Metrics {
    /// A NIC's.
    pub station: Board<StationFigures>,
    /// Those of its pairs of queues by number, where there are several.
    pub queues: [Board<QueueFigures>; MOST_QUEUES],
    /// A sender's.
    pub sender: Board<SenderFigures>,
    /// A receiver's.
    pub receiver: Board<ReceiverFigures>,
    /// Number of the last question, and of the last that was answered.
    questions: AtomicU64,
    answered: AtomicU64,
}

impl Metrics {
    /// The question that has not been answered yet, if there is one: for the data path, once a batch.
    #[inline]
    pub fn question(&self) -> Option<u64> {
        let asked = self.questions.load(Ordering::Relaxed);
        (asked > self.answered.load(Ordering::Relaxed)).then_some(asked)
    }

    /// The figures are as they were after `question` was asked.
    pub fn answer(&self, question: u64) {
        // Release: who sees the answer sees the figures.
        self.answered.store(question, Ordering::Release);
    }

    /// The figures are the last ones: nobody is kept waiting any more.
    pub fn end(&self) {
        self.answer(u64::MAX);
    }

    /// Asks the data path, and waits for its answer for a while.
    fn ask(&self) {
        let (question, start) = (self.questions.fetch_add(1, Ordering::Relaxed) + 1, Instant::now());
        while self.answered.load(Ordering::Acquire) < question && start.elapsed() < WAIT {
            std::thread::sleep(LOOK);
        }
    }
}

/// Figures in atomics, written by one thread and read by another.
pub struct Board<F: Figures> {
    /// There when the first figures are.
    values: OnceLock<Box<[AtomicU64]>>,
    figures: std::marker::PhantomData<fn(F)>,
}

impl<F: Figures> Default for Board<F> {
    fn default() -> Self {
        Self { values: OnceLock::new(), figures: std::marker::PhantomData }
    }
}

impl<F: Figures> Board<F> {
    /// Replaces what is there.
    pub fn store(&self, figures: F) {
        let values = self.values.get_or_init(|| F::families().iter().map(|_| AtomicU64::new(0)).collect());
        for (atomic, value) in values.iter().zip(figures.values().as_ref()) {
            atomic.store(*value, Ordering::Relaxed);
        }
    }

    fn write(&self, text: &mut String) {
        let Some(values) = self.values.get() else { return };
        for (family, value) in F::families().iter().zip(values) {
            write_one(text, family, value.load(Ordering::Relaxed));
        }
    }
}

/// What is served.
pub struct Exposed {
    /// What the data path leaves.
    pub metrics: Arc<Metrics>,
    /// The cache, if there is one.
    pub cache: Option<Cache>,
    /// The program, and what it works on: a device, an address.
    pub program: &'static str,
    /// See above.
    pub on: String,
}

impl Exposed {
    /// Everything, in Prometheus' text format 0.0.4.
    pub fn text(&self) -> String {
        self.metrics.ask();
        let mut text = String::new();
        write_head(&mut text, &INFO);
        let (name, version) = (INFO.name, env!("CARGO_PKG_VERSION"));
        let (program, on) = (self.program, escape(&self.on));
        let _ = writeln!(text, "{name}{{program=\"{program}\",version=\"{version}\",on=\"{on}\"}} 1");
        self.metrics.station.write(&mut text);
        write_queues(&mut text, &self.metrics.queues);
        self.metrics.sender.write(&mut text);
        self.metrics.receiver.write(&mut text);
        if let Some(cache) = &self.cache {
            for (family, value) in CacheFigures::FAMILIES.iter().zip(CacheFigures::of(cache).values()) {
                write_one(&mut text, family, value);
            }
            write_pauses(&mut text, cache);
        }
        text
    }
}

/// Each figure of all queues that have figures, with their numbers.
fn write_queues(text: &mut String, queues: &[Board<QueueFigures>]) {
    let known: Vec<_> = queues.iter().map_while(|board| board.values.get()).collect();
    if known.is_empty() {
        return;
    }
    for (at, family) in QueueFigures::FAMILIES.iter().enumerate() {
        write_head(text, family);
        for (queue, values) in known.iter().enumerate() {
            let _ = writeln!(text, "{} {}", of_queue(family.name, queue), values[at].load(Ordering::Relaxed));
        }
    }
}

/// A figure's name with the label of a queue, as [`value`] finds it.
pub fn of_queue(name: &str, queue: usize) -> String {
    format!("{name}{{queue=\"{queue}\"}}")
}

fn write_pauses(text: &mut String, cache: &Cache) {
    let pauses = cache.pauses(&PAUSE_BOUNDS);
    write_head(text, &PAUSES);
    let name = PAUSES.name;
    for (bound, up_to) in PAUSE_BOUNDS.iter().zip(&pauses.up_to) {
        let _ = writeln!(text, "{name}_bucket{{le=\"{}\"}} {up_to}", bound.as_secs_f64());
    }
    let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {}", pauses.count);
    let _ = writeln!(text, "{name}_sum {}\n{name}_count {}", pauses.total.as_secs_f64(), pauses.count);
}

fn write_head(text: &mut String, Family { name, kind, help }: &Family) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn write_one(text: &mut String, family: &Family, value: u64) {
    write_head(text, family);
    let _ = writeln!(text, "{} {value}", family.name);
}

/// A label's value: backslash, quote and newline are written as escapes.
fn escape(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

/// The value of a figure in such a text, by its name and its labels if it has any; `None` when it is not there.
pub fn value(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Most pairs of queues of a NIC (`stillwire_driver::Config::queues`).
pub const MOST_QUEUES: usize = 16;
/// How long who scrapes is kept waiting for the data path.
const WAIT: Duration = Duration::from_millis(250);
/// Between two looks for its answer.
const LOOK: Duration = Duration::from_micros(200);

#[cfg(test)]
mod tests {
    use super::*;

    fn exposed(metrics: Arc<Metrics>, cache: Option<Cache>) -> Exposed {
        Exposed { metrics, cache, program: "test", on: "a \"b\"\n\\".into() }
    }

    #[test]
    fn names_are_unlike_each_other_and_say_their_unit() {
        let mut names = std::collections::HashSet::new();
        for Family { name, kind, help } in families() {
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("stillwire_") && help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            assert!(name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()), "{name}");
        }
    }

    #[test]
    fn every_figure_has_its_help_its_type_and_its_value() {
        let metrics = Arc::new(Metrics::default());
        metrics.station.store(StationFigures { tx_frames: 1, capture_lost: 2, ..Default::default() });
        metrics.queues[0].store(QueueFigures { tx_frames: 6, ..Default::default() });
        metrics.queues[1].store(QueueFigures { tx_frames: 7, holds: 8, ..Default::default() });
        metrics.sender.store(SenderFigures { transfers: 3, breaks: 4, ..Default::default() });
        metrics.receiver.store(ReceiverFigures { transfers: 5, malformed: u64::MAX, ..Default::default() });
        metrics.end();
        let cache = Cache::new(stillwire_filecache::Config { bytes: 1 << 20, ..Default::default() }).unwrap();
        let text = exposed(metrics, Some(cache)).text();
        for Family { name, kind, help } in families() {
            assert_eq!(
                text.matches(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name}")).count(),
                1,
                "{name}"
            );
        }
        assert!(text.contains(r#"on="a \"b\"\n\\"} 1"#), "{text}");
        let expect = [
            ("stillwire_tx_frames_total", 1.0),
            ("stillwire_capture_lost_frames_total", 2.0),
            ("stillwire_queue_tx_frames_total{queue=\"0\"}", 6.0),
            ("stillwire_queue_tx_frames_total{queue=\"1\"}", 7.0),
            ("stillwire_queue_holds{queue=\"1\"}", 8.0),
            ("stillwire_transfers_total", 3.0),
            ("stillwire_lease_breaks_total", 4.0),
            ("stillwire_received_transfers_total", 5.0),
            ("stillwire_cache_memory_bytes", f64::from(1 << 20)),
            ("stillwire_writer_pause_seconds_count", 0.0),
        ];
        for (name, found) in expect {
            assert_eq!(value(&text, name), Some(found), "{name} in {text}");
        }
        assert_eq!(text.matches("stillwire_writer_pause_seconds_bucket").count(), PAUSE_BOUNDS.len() + 1);
        assert_eq!((value(&text, "stillwire_tx_frames"), value(&text, "# HELP")), (None, None));
    }

    #[test]
    fn the_data_path_is_asked_and_answers_once() {
        let metrics = Arc::new(Metrics::default());
        assert_eq!(metrics.question(), None);
        let asker = std::thread::spawn({
            let exposed = exposed(metrics.clone(), None);
            move || exposed.text()
        });
        let question = loop {
            match metrics.question() {
                Some(question) => break question,
                None => std::thread::yield_now(),
            }
        };
        metrics.sender.store(SenderFigures { probes: 7, ..Default::default() });
        metrics.answer(question);
        let text = asker.join().unwrap();
        assert_eq!(value(&text, "stillwire_probes_total"), Some(7.0));
        assert_eq!((metrics.question(), value(&text, "stillwire_tx_frames_total")), (None, None));
    }
}
