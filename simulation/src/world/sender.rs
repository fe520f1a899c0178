//! Who sends files through a NIC: holds, posts, reclaims, sends again what was lost, and resets a device that hangs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use stillwire_dma::{Payload, PciFunction, Segment};
use stillwire_driver::{Config, Error, Frame, Look, Nic, Posted, Returned, RxQueue, TxQueue, Verdict, Watchdog};
use stillwire_scheduler::time::Instant;
use stillwire_scheduler::{chance, choose, failed, log, sleep};

use super::holder::Watched;
use super::wire::Header;
use super::{File, ledger, place};

/// A hold on its way through a ring.
pub struct Token {
    watched: Watched,
    /// What it is in the books.
    number: u64,
}

impl Token {
    fn new(watched: Watched) -> Self {
        let mut segments = Vec::new();
        watched.hold().segments(0..watched.hold().len(), |segment| segments.push((segment.iova.get(), segment.len)));
        Self { number: ledger::posted(segments), watched }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        ledger::returned(self.number);
    }
}

impl Payload for Token {
    fn len(&self) -> usize {
        self.watched.hold().len()
    }

    fn segments(&self, range: Range<usize>, each: impl FnMut(Segment)) {
        self.watched.hold().segments(range, each);
    }

    fn segment(&self, range: Range<usize>) -> Option<Segment> {
        self.watched.hold().segment(range)
    }
}

/// What has to arrive.
struct Item {
    file: usize,
    range: Range<u64>,
    /// Not before then is it sent again.
    sent: Option<Instant>,
}

/// The queues of one life of the device.
struct Queues {
    tx: TxQueue<Token>,
    rx: RxQueue,
    watchdog: Watchdog,
    completed: u64,
    /// When something last arrived.
    heard: Instant,
}

/// Sends so many pieces of the files, until all are answered for. `may_be_lost`: there may come a time at which the device cannot
/// be proved quiet. `gone`: told then, for pages are held for good.
pub fn work(function: &PciFunction, files: &[File], pieces: u32, may_be_lost: bool, gone: impl Fn()) {
    let Some(mut nic) = open(function) else { return };
    let mut queues = None;
    let mut sender = Sender { files, items: pieces_of(files, pieces), resets: 0, is_busy: true };
    for _ in 0..MOST_ROUNDS {
        if sender.items.is_empty() {
            break;
        }
        let answer = match &mut queues {
            None => sender.take(&nic).map(|taken| {
                queues = Some(taken);
                true
            }),
            Some(queues) => sender.round(&nic, queues),
        };
        if matches!(answer, Ok(true)) {
            // Who has nothing to do looks less often.
            let busy = if sender.is_busy { [200, 2_000, 20_000] } else { [5_000, 50_000, 200_000] };
            sleep(Duration::from_nanos(choose(busy[choose(3) as usize])));
            continue;
        }
        log(|| format!("resets: {:?}", answer.err()));
        match sender.reset(&mut nic, queues.take()) {
            Ok(()) => {}
            Err(Error::NotQuiet { kept, .. }) => {
                if !may_be_lost {
                    failed("an honest device that is there could not be proved quiet".into());
                }
                log(|| format!("not quiet, {kept} kept"));
                return gone();
            }
            Err(error) => log(|| format!("no reset: {error}")),
        }
        sleep(Duration::from_micros(100 + choose(2000)));
    }
    if !sender.items.is_empty() && !ledger::is_troubled() {
        failed(format!("{} pieces were not sent in {MOST_ROUNDS} rounds", sender.items.len()));
    }
    // In any order, also with frames in the ring.
    if chance(500) {
        drop(nic);
        drop(queues);
    } else {
        drop(queues);
        drop(nic);
    }
    if ledger::in_rings() > 0 {
        if !may_be_lost {
            failed(format!(
                "{} tokens did not come back, and nothing says that the device may still read",
                ledger::in_rings()
            ));
        }
        gone();
    }
}

/// A device with trouble may come up at the second try, or later.
fn open(function: &PciFunction) -> Option<Nic> {
    for _ in 0..20 {
        let config =
            Config { tx_ring: 64, rx_ring: 64, promiscuous: true, interrupts: chance(200), ..Config::default() };
        match Nic::open(function.clone(), config) {
            Ok(nic) => return Some(nic),
            Err(error) => log(|| format!("does not open: {error}")),
        }
        sleep(Duration::from_millis(1 + choose(5)));
    }
    if !ledger::is_troubled() {
        failed("a device without trouble does not come up".into());
    }
    None
}

fn pieces_of(files: &[File], pieces: u32) -> BTreeMap<u64, Item> {
    let mut items = BTreeMap::new();
    for _ in 0..pieces {
        let file = choose(files.len() as u64) as usize;
        let range = place(files[file].len);
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + PIECE);
            items.insert(items.len() as u64, Item { file, range: at as u64..end as u64, sent: None });
            at = end;
        }
    }
    items
}

struct Sender<'a> {
    files: &'a [File],
    /// What was not answered for, by number.
    items: BTreeMap<u64, Item>,
    resets: u32,
    /// Whether the last round did something.
    is_busy: bool,
}

impl Sender<'_> {
    fn take(&self, nic: &Nic) -> Result<Queues, Error> {
        let (tx, rx) = (nic.tx_queue()?, nic.rx_queue()?);
        Ok(Queues { tx, rx, watchdog: Watchdog::new(HANG_AFTER), completed: 0, heard: Instant::now() })
    }

    /// A bit of everything; `false` when the device hangs.
    fn round(&mut self, nic: &Nic, queues: &mut Queues) -> Result<bool, Error> {
        let link_up = nic.link()?.up;
        if chance(700) {
            self.post(queues)?;
        }
        if chance(800) {
            queues.tx.publish();
        }
        let freed = queues.tx.reclaim(|token| {
            ledger::count(|counts| counts.tokens_sent += 1);
            drop(token);
        });
        queues.completed += freed as u64;
        let items = &mut self.items;
        let heard = queues.rx.poll(1 + choose(32) as usize, |frame| {
            if frame.first::<{ BUFFER + 8 }>().is_some() {
                failed(format!("a frame of {} bytes is said to be in a buffer of {BUFFER}", frame.len()));
            }
            let mut bytes = Vec::new();
            frame.copy_to(&mut bytes);
            if let Some(header) = Header::parse(&bytes).filter(|header| header.is_answer) {
                items.remove(&header.number);
            }
        });
        if heard > 0 {
            queues.heard = Instant::now();
        }
        self.is_busy = heard > 0 || freed > 0 || self.items.values().any(|item| item.sent.is_none());
        let look = Look { in_flight: queues.tx.in_flight(), completed: queues.completed, link_up };
        let now = Instant::now();
        let verdict = queues.watchdog.look(now.since_start(), look);
        let is_silent = now.saturating_duration_since(queues.heard) > SILENT_AFTER;
        Ok(match verdict {
            Verdict::Hung(_) => false,
            Verdict::LinkDown(time) => time < HANG_AFTER,
            // What answers is lost on its way in, for good.
            Verdict::Fine => !is_silent,
        })
    }

    /// Posts what was not sent yet, or so long ago that it must be lost; a run of neighbours, or one of them.
    fn post(&mut self, queues: &mut Queues) -> Result<(), Error> {
        let now = Instant::now();
        let is_due = |item: &Item| item.sent.is_none_or(|sent| now.saturating_duration_since(sent) > AGAIN_AFTER);
        let due: Vec<u64> = self.items.iter().filter(|(_, item)| is_due(item)).map(|(number, _)| *number).collect();
        let Some(&first) = due.get(choose(due.len() as u64) as usize) else { return Ok(()) };
        let (file, range) = (self.items[&first].file, self.items[&first].range.clone());
        let mut numbers = vec![first];
        let mut end = range.end;
        while chance(700)
            && let Some(next) = self.items.get(&(first + numbers.len() as u64))
            && (next.file, next.range.start) == (file, end)
        {
            end = next.range.end;
            numbers.push(first + numbers.len() as u64);
        }
        let watched = match Watched::of(&self.files[file], range.start..end) {
            Ok(watched) => watched,
            Err(error) => {
                log(|| format!("nothing to send: {error}"));
                // There may be room when the disk has been tried again.
                sleep(Duration::from_millis(1));
                return Ok(());
            }
        };
        let frames: Vec<_> = numbers
            .iter()
            .map(|number| {
                let item = &self.items[number].range;
                let part = (item.start - range.start) as usize..(item.end - range.start) as usize;
                let crc = watched.hold().crc32_range(part.clone());
                (Header { is_answer: false, number: *number, len: part.len() as u32, crc }.encode(), part)
            })
            .collect();
        let token = Token::new(watched);
        let posted = if let [(header, _)] = &*frames {
            match queues.tx.post(Frame::new(header).payload(token))? {
                Posted::Queued => 1,
                Posted::Full(_) => 0,
            }
        } else {
            let mut run = queues.tx.run(token);
            let mut posted = 0;
            for (header, part) in &frames {
                if !run.post(header, None, part.clone())? {
                    break;
                }
                posted += 1;
            }
            posted
        };
        log(|| format!("posts {posted} of {numbers:?}"));
        for number in &numbers[..posted] {
            if let Some(item) = self.items.get_mut(number) {
                item.sent = Some(now);
            }
        }
        Ok(())
    }

    fn reset(&mut self, nic: &mut Nic, queues: Option<Queues>) -> Result<(), Error> {
        self.resets += 1;
        ledger::count(|counts| counts.resets += 1);
        // All that was under way is owed again.
        self.items.values_mut().for_each(|item| item.sent = None);
        let (tx, rx) = queues.map(|queues| (queues.tx, queues.rx)).unzip();
        nic.reset(tx, rx, |_, returned| {
            ledger::count(|counts| match &returned {
                Returned::Done(_) => counts.tokens_sent += 1,
                Returned::NotSent(_) => counts.tokens_unsent += 1,
            });
            drop(returned);
        })
    }
}

/// Bytes of a receive buffer, of any family.
const BUFFER: usize = 2048;
/// Bytes of a frame.
const PIECE: usize = 1400;
const HANG_AFTER: Duration = Duration::from_millis(5);
const SILENT_AFTER: Duration = Duration::from_millis(20);
const AGAIN_AFTER: Duration = Duration::from_millis(2);
const MOST_ROUNDS: u32 = 20_000;
