//! The MAC's side of the wire: the link and what happens to it, frames out and in.

use super::{Model, Module, Part, regs};

/// Most frames kept by the MAC's own loopback.
const LOOPED: usize = 1024;

impl Model {
    /// Follows the cable, and the faults that a number of frames brings about.
    pub(super) fn step_link(&mut self) {
        self.ripen_faults();
        let module = self.part != Part::Sfp || self.config.module != Module::None;
        let flap = self.flap_until.is_some_and(|until| self.now < until);
        let up = self.config.link_up && module && !self.faults.link_down && !flap && self.wire.is_up();
        if !flap {
            self.flap_until = None;
        }
        if up != self.link_up {
            self.link_up = up;
            self.link_lost |= !up;
            self.pause.forget();
            self.link_event();
        }
    }

    /// What LINKS reads. A loss between two readings shows at the second: that is why drivers read twice.
    pub(super) fn links(&mut self) -> u32 {
        let up = !std::mem::take(&mut self.link_lost) && self.link_up;
        match (up, self.part) {
            (false, _) => 0,
            (true, Part::Backplane) => regs::LINKS_UP_10G | regs::LINKS_KX_AN_COMP,
            (true, _) => regs::LINKS_UP_10G,
        }
    }

    /// Sends a frame, unless a fault says otherwise.
    pub(super) fn put_on_wire(&mut self, frame: &mut [u8]) {
        self.sent = self.sent.wrapping_add(1);
        if is_nth(self.sent, self.faults.lose_every) {
            self.bus.counters.frames_lost += 1;
            return;
        }
        if is_nth(self.sent, self.faults.corrupt_every) {
            self.bus.counters.frames_corrupted += 1;
            if let Some(byte) = frame.last_mut() {
                *byte ^= 1;
            }
        }
        self.put_out(frame);
    }

    /// To the wire, or back into the MAC (HLREG0.LPBK).
    pub(super) fn put_out(&mut self, frame: &[u8]) {
        if !self.regs.has(regs::HLREG0, regs::HLREG0_LPBK) {
            self.wire.transmit(frame);
        } else if self.looped.len() < LOOPED {
            self.looped.push_back(frame.to_vec());
        }
    }

    /// The next frame from the wire, or from the MAC's own loopback.
    pub(super) fn take_frame(&mut self, frame: &mut Vec<u8>) -> bool {
        match self.looped.pop_front() {
            Some(looped) => {
                *frame = looped;
                true
            }
            None => self.wire.receive(frame),
        }
    }
}

pub(super) fn is_nth(count: u32, every: u32) -> bool {
    every != 0 && count.is_multiple_of(every)
}
