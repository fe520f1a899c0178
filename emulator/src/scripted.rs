//! Faults at a place in the traffic, for any model: what a test or a user cannot time from outside.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::bus::Interrupts;
use crate::counters::Counters;
use crate::memory::MemoryTable;
use crate::model::{DeviceModel, DoorbellPages};
use crate::report::Report;
use crate::{ice, ixgbe, virtio};

/// What goes wrong, once, when the device has sent so many frames or a few more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// `link-down@FRAMES:SECONDS`: the cable is out for a time.
    LinkDown {
        /// Frames sent before.
        frames: u64,
        /// How long.
        time: Duration,
    },
    /// `stuck@FRAMES`: frames are fetched, and nothing is sent or completed until the device is reset.
    Stuck {
        /// Frames sent before.
        frames: u64,
    },
}

/// The faults of any model, as a text names them.
const PLACES: &str = "link-down@FRAMES:SECONDS (link-down@500:2) or stuck@FRAMES (stuck@500)";

/// A text that names no fault.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("fault: '{0}' is none; use {PLACES}")]
pub struct UnknownFault(String);

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let fault = || match text.split_once('@')? {
            ("stuck", frames) => Some(Self::Stuck { frames: frames.parse().ok()? }),
            ("link-down", rest) => {
                let (frames, seconds) = rest.split_once(':')?;
                let time = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
                Some(Self::LinkDown { frames: frames.parse().ok()?, time })
            }
            _ => None,
        };
        fault().ok_or_else(|| UnknownFault(text.to_owned()))
    }
}

/// A model whose faults can be scripted.
pub trait Faulty: DeviceModel {
    /// What was done so far.
    fn counters(&self) -> Counters;
    /// Pulls the cable, or puts it in again.
    fn set_link_down(&mut self, down: bool);
    /// Lets transmit stand still, or go on.
    fn set_stalled(&mut self, stalled: bool);
}

impl Faulty for ixgbe::Model {
    fn counters(&self) -> Counters {
        self.counters()
    }

    fn set_link_down(&mut self, down: bool) {
        self.faults().link_down = down;
    }

    fn set_stalled(&mut self, stalled: bool) {
        self.faults().stall_tx = stalled;
    }
}

impl Faulty for ice::Model {
    fn counters(&self) -> Counters {
        self.counters()
    }

    fn set_link_down(&mut self, down: bool) {
        self.faults().link_down = down;
    }

    fn set_stalled(&mut self, stalled: bool) {
        self.faults().stall_tx = stalled;
    }
}

impl Faulty for virtio::Model {
    fn counters(&self) -> Counters {
        self.counters()
    }

    fn set_link_down(&mut self, down: bool) {
        self.faults().link_down = down;
    }

    fn set_stalled(&mut self, stalled: bool) {
        self.faults().stall_tx = stalled;
    }
}

/// A model and the faults that it will have.
pub struct Scripted<M> {
    model: M,
    /// Those that have not begun.
    script: Vec<Fault>,
    /// When the cable is put in again.
    link_back: Option<Duration>,
    /// Resets before the one that ends a standstill.
    stuck_at: Option<u64>,
}

impl<M: Faulty> Scripted<M> {
    /// `model` with `script`, in any order.
    pub fn new(model: M, script: Vec<Fault>) -> Self {
        Self { model, script, link_back: None, stuck_at: None }
    }

    /// The model itself.
    pub fn model(&mut self) -> &mut M {
        &mut self.model
    }

    /// One fault more.
    pub fn add(&mut self, fault: Fault) {
        self.script.push(fault);
    }

    /// Whether every fault has begun; some may be over.
    pub fn has_begun(&self) -> bool {
        self.script.is_empty()
    }

    /// Faults that have begun and are not over.
    pub fn is_faulty(&self) -> bool {
        self.link_back.is_some() || self.stuck_at.is_some()
    }

    /// A standstill ends with a reset. One driver resets before it switches bus mastering off, another after that: there must
    /// have been both, or a second fault would begin between them.
    fn end_standstill(&mut self) {
        let was_reset = self.stuck_at.is_some_and(|before| self.model.counters().resets != before);
        if was_reset && !self.is_bus_master() {
            self.stuck_at = None;
            self.model.set_stalled(false);
        }
    }

    fn is_bus_master(&mut self) -> bool {
        let mut command = [0; 2];
        self.model.config_read(4, &mut command);
        command[0] & 4 != 0
    }

    /// Ends what is over and begins what is due.
    fn follow_script(&mut self, now: Duration) {
        let Counters { frames_sent, resets, .. } = self.model.counters();
        if self.link_back.is_some_and(|back| now >= back) {
            self.link_back = None;
            self.model.set_link_down(false);
        }
        // One at a time: two outages do not become one.
        let is_due = |fault: &Fault| match *fault {
            Fault::LinkDown { frames, .. } | Fault::Stuck { frames } => frames <= frames_sent,
        };
        let Some(due) = self.script.iter().position(is_due) else { return };
        // Nor does one begin while nobody drives the device.
        if self.is_faulty() || !self.is_bus_master() {
            return;
        }
        match self.script.remove(due) {
            Fault::LinkDown { time, .. } => {
                self.link_back = Some(now + time);
                self.model.set_link_down(true);
            }
            Fault::Stuck { .. } => {
                self.stuck_at = Some(resets);
                self.model.set_stalled(true);
            }
        }
    }
}

impl<M: Faulty> DeviceModel for Scripted<M> {
    fn ids(&self) -> String {
        self.model.ids()
    }

    fn attach_memory(&mut self, memory: Arc<MemoryTable>) {
        self.model.attach_memory(memory);
    }

    fn attach_interrupts(&mut self, interrupts: Box<dyn Interrupts>) {
        self.model.attach_interrupts(interrupts);
    }

    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.model.config_read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.end_standstill();
        self.model.config_write(offset, data);
        self.end_standstill();
    }

    fn bar_len(&self, bar: u8) -> u64 {
        self.model.bar_len(bar)
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        self.model.bar_read(bar, offset, data);
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        self.model.bar_write(bar, offset, data);
    }

    fn doorbells(&self) -> Option<DoorbellPages<'_>> {
        self.model.doorbells()
    }

    fn vectors(&self) -> u16 {
        self.model.vectors()
    }

    fn step(&mut self, now: Duration) -> bool {
        self.follow_script(now);
        self.model.step(now)
    }

    fn function_reset(&mut self) {
        self.model.function_reset();
        self.end_standstill();
    }

    fn note_unmapped(&mut self, ranges: usize) {
        self.model.note_unmapped(ranges);
    }

    fn set_fault(&mut self, text: &str) -> Result<(), String> {
        match text.parse() {
            Ok(fault) => self.add(fault),
            Err(UnknownFault(_)) => self.model.set_fault(text).map_err(|why| format!("{why}; {PLACES}"))?,
        }
        Ok(())
    }

    fn report(&self, report: &mut Report) {
        self.model.report(report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_faults() {
        assert_eq!("stuck@500".parse(), Ok(Fault::Stuck { frames: 500 }));
        let down = Fault::LinkDown { frames: 0, time: Duration::from_millis(1500) };
        assert_eq!("link-down@0:1.5".parse(), Ok(down));
        for wrong in [
            "",
            "stuck",
            "stuck@",
            "stuck@x",
            "stuck@1:2",
            "link-down@5",
            "link-down@5:-1",
            "link-down@5:inf",
            "fire@1",
        ] {
            let said = wrong.parse::<Fault>().unwrap_err().to_string();
            assert!(said.contains("stuck@FRAMES"), "{said}");
        }
    }

    /// One language for all models: what is at a place in the traffic, and what the model itself can do.
    #[test]
    fn faults_by_text() {
        fn check<M: Faulty>(model: M, own: &str) {
            let mut model = Scripted::new(model, Vec::new());
            for text in ["stuck@5", "link-down@7:0.5", "link-down", "link-down=off", "stall-tx", "lose-every=3", own] {
                assert_eq!(model.set_fault(text), Ok(()), "{text}");
            }
            let down = Fault::LinkDown { frames: 7, time: Duration::from_millis(500) };
            assert_eq!(model.script, [Fault::Stuck { frames: 5 }, down]);
            for wrong in ["", "wings", "stuck@x", "stuck=5", "stall-tx=maybe", "lose-every=x"] {
                let why = model.set_fault(wrong).unwrap_err();
                assert!(why.contains(&format!("'{wrong}' is no fault")), "{why}");
                assert!(why.contains("stall-tx") && why.contains("stuck@FRAMES"), "{why}");
            }
            assert_eq!(model.script.len(), 2);
        }
        let wire = || Box::new(crate::wire::Loopback::new());
        check(ixgbe::Model::new(ixgbe::Config::default(), wire()), "stuck-master");
        check(ice::Model::new(ice::Config::default(), wire()).unwrap(), "silent-adminq");
        check(virtio::Model::new(virtio::Config::default(), wire()).unwrap(), "silent-control");
    }

    fn follow(model: &mut Scripted<ixgbe::Model>, ms: u64) -> ixgbe::Faults {
        model.step(Duration::from_millis(ms));
        model.model().faults().clone()
    }

    #[test]
    fn faults_begin_and_end_one_after_the_other() {
        let model = ixgbe::Model::new(ixgbe::Config::default(), Box::new(crate::wire::Loopback::new()));
        let down = Fault::LinkDown { frames: 0, time: Duration::from_millis(20) };
        let mut model = Scripted::new(model, vec![Fault::Stuck { frames: 1 }, down, Fault::Stuck { frames: 0 }]);
        assert!(!follow(&mut model, 99).link_down, "no driver has switched it on");
        model.config_write(4, &[6, 0]);
        for at in [100, 119] {
            assert!(follow(&mut model, at).link_down && model.is_faulty());
        }
        let faults = follow(&mut model, 120);
        assert!(!faults.link_down && faults.stall_tx);
        assert!(follow(&mut model, 99_999).stall_tx, "time is no cure");
        model.function_reset();
        assert!(!follow(&mut model, 99_999).stall_tx);
        assert!(!model.is_faulty(), "the third waits for a frame");
    }
}
