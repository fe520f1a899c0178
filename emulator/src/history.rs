//! What happened to the device, for whoever has to judge a driver afterwards.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// Events that are kept; older ones are forgotten.
const EVENTS: usize = 256;

/// How often a register was reached by message. Accesses to a mapped queue page are seen by nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Touched {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// What decides whether memory may be given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Bus mastering was switched on.
    MasterOn,
    /// Bus mastering was switched off.
    MasterOff {
        /// Descriptors were posted and not completed, or a frame was between its passes.
        work_left: bool,
    },
    /// PCIe master disable (CTRL.GIO_DIS) was asked for.
    MasterDisable,
    /// The device's own reset: a register of it was written.
    Reset,
    /// A function-level reset, or the return from D3hot.
    FunctionReset,
    /// A range of device addresses was taken away.
    Unmapped {
        /// The device could still have started an access.
        master: bool,
    },
    /// A fault that waited for its time has come.
    Fault(&'static str),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Event::Fault(what) => return write!(f, "fault: {what}"),
            Event::MasterOn => "bus master on",
            Event::MasterOff { work_left: false } => "bus master off, nothing queued",
            Event::MasterOff { work_left: true } => "bus master off, work queued",
            Event::MasterDisable => "PCIe master disable",
            Event::Reset => "reset",
            Event::FunctionReset => "function-level reset",
            Event::Unmapped { master: false } => "unmapped, bus master off",
            Event::Unmapped { master: true } => "unmapped, bus master on",
        })
    }
}

/// Registers reached, and events in order.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) touched: BTreeMap<u32, Touched>,
    /// An event, and how often it came in a row.
    pub(crate) events: VecDeque<(Event, u64)>,
}

impl History {
    pub(crate) fn touch(&mut self, offset: u32, write: bool) {
        let touched = self.touched.entry(offset).or_default();
        *if write { &mut touched.writes } else { &mut touched.reads } += 1;
    }

    pub(crate) fn note(&mut self, event: Event) {
        match self.events.back_mut() {
            Some((last, times)) if *last == event => *times += 1,
            _ => {
                if self.events.len() == EVENTS {
                    self.events.pop_front();
                }
                self.events.push_back((event, 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_events_are_one_entry_and_old_ones_are_forgotten() {
        let mut history = History::default();
        (0..3).for_each(|_| history.note(Event::Reset));
        history.note(Event::MasterOn);
        assert_eq!(history.events, [(Event::Reset, 3), (Event::MasterOn, 1)]);
        for _ in 0..EVENTS {
            history.note(Event::MasterOn);
            history.note(Event::Reset);
        }
        assert_eq!(history.events.len(), EVENTS);
    }
}
