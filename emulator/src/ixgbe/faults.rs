//! What goes wrong, on demand.

use std::time::Duration;

use super::{Event, Model};

/// What goes wrong, on demand; may be changed at any time.
///
/// "After so many frames" counts what the device has sent since it was made ([`Counters::frames_sent`]); such a fault
/// comes once.
///
/// [`Counters::frames_sent`]: crate::Counters::frames_sent
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Descriptors are fetched and checksums computed, but nothing is sent or completed until this is cleared.
    pub stall_tx: bool,
    /// TXDCTL.ENABLE never goes back to 0.
    pub stuck_tx_disable: bool,
    /// STATUS' master bit never clears.
    pub stuck_master: bool,
    /// The card was pulled: all reads give ones, and it does no DMA.
    pub all_ones: bool,
    /// The card is pulled after so many frames.
    pub pull_after: Option<u64>,
    /// The cable is out.
    pub link_down: bool,
    /// After so many frames the link goes down for a time.
    pub link_flap: Option<(u64, Duration)>,
    /// A transmit queue that hangs after so many frames: nothing of it is fetched, sent or completed until a reset.
    pub hang_tx: Option<(u16, u64)>,
    /// Every nth completion of a transmit queue is not written back; 0 for none.
    pub lose_write_back_every: u32,
    /// Completions of transmit queues are written back so much later.
    pub write_back_delay: Duration,
    /// Every nth frame sent is lost; 0 for none.
    pub lose_every: u32,
    /// Every nth frame sent has one bit flipped; 0 for none.
    pub corrupt_every: u32,
}

/// Names of faults with the shape of their values.
const NAMES: &str = "stall-tx, stuck-tx-disable, stuck-master, all-ones, link-down (each also with =off), pull-after=FRAMES, \
    link-flap=FRAMES:MILLISECONDS, hang-tx=QUEUE:FRAMES, lose-write-back-every=N, write-back-delay=MICROSECONDS, \
    lose-every=N, corrupt-every=N";

impl Faults {
    /// Changes one fault as a text says: `stall-tx`, `stall-tx=off`, `link-flap=1000:50`.
    ///
    /// # Errors
    /// When the text is no fault; says which there are.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text.split_once('=').unwrap_or((text, "on"));
        self.set_value(name, value).ok_or_else(|| format!("'{text}' is no fault; use {NAMES}"))
    }

    fn set_value(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "stall-tx" => self.stall_tx = switch(value)?,
            "stuck-tx-disable" => self.stuck_tx_disable = switch(value)?,
            "stuck-master" => self.stuck_master = switch(value)?,
            "all-ones" => self.all_ones = switch(value)?,
            "link-down" => self.link_down = switch(value)?,
            "pull-after" => self.pull_after = unless_off(value, |text| text.parse().ok())?,
            "link-flap" => {
                let flap = |text: &str| pair(text).map(|(frames, ms)| (frames, Duration::from_millis(ms)));
                self.link_flap = unless_off(value, flap)?;
            }
            "hang-tx" => {
                let hang = |text: &str| pair(text).and_then(|(queue, frames)| Some((queue.try_into().ok()?, frames)));
                self.hang_tx = unless_off(value, hang)?;
            }
            "lose-write-back-every" => self.lose_write_back_every = every(value)?,
            "write-back-delay" => self.write_back_delay = Duration::from_micros(every(value)?.into()),
            "lose-every" => self.lose_every = every(value)?,
            "corrupt-every" => self.corrupt_every = every(value)?,
            _ => return None,
        }
        Some(())
    }
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn every(value: &str) -> Option<u32> {
    if value == "off" { Some(0) } else { value.parse().ok() }
}

fn unless_off<T>(value: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if value == "off" { Some(None) } else { parse(value).map(Some) }
}

fn pair(value: &str) -> Option<(u64, u64)> {
    let (one, other) = value.split_once(':')?;
    Some((one.parse().ok()?, other.parse().ok()?))
}

impl Model {
    /// Faults that wait for a number of frames come when it is reached.
    pub(super) fn ripen_faults(&mut self) {
        let sent = self.bus.counters.frames_sent;
        if let Some((_, time)) = self.faults.link_flap.take_if(|(after, _)| *after <= sent) {
            self.flap_until = Some(self.now.saturating_add(time));
            self.history.note(Event::Fault("link flap"));
        }
        if let Some((queue, _)) = self.faults.hang_tx.take_if(|(_, after)| *after <= sent) {
            self.hung |= 1u64.checked_shl(queue.into()).unwrap_or(0);
            self.history.note(Event::Fault("a TX queue hangs"));
        }
        if self.faults.pull_after.take_if(|after| *after <= sent).is_some() {
            self.faults.all_ones = true;
            self.history.note(Event::Fault("the card is pulled"));
        }
    }

    /// Whether a queue hangs until the next reset.
    pub(super) fn is_hung(&self, q: usize) -> bool {
        self.hung >> q & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_by_name() {
        let mut faults = Faults::default();
        for text in [
            "stall-tx",
            "stuck-tx-disable=on",
            "stuck-master",
            "all-ones",
            "link-down",
            "pull-after=7",
            "link-flap=100:50",
            "hang-tx=3:9",
            "lose-write-back-every=2",
            "write-back-delay=40",
            "lose-every=5",
            "corrupt-every=6",
        ] {
            faults.set(text).unwrap();
        }
        let wanted = Faults {
            stall_tx: true,
            stuck_tx_disable: true,
            stuck_master: true,
            all_ones: true,
            pull_after: Some(7),
            link_down: true,
            link_flap: Some((100, Duration::from_millis(50))),
            hang_tx: Some((3, 9)),
            lose_write_back_every: 2,
            write_back_delay: Duration::from_micros(40),
            lose_every: 5,
            corrupt_every: 6,
        };
        assert_eq!(faults, wanted);
        let names = NAMES.split(", ").map(|name| name.split(['=', ' ']).next().unwrap());
        names.for_each(|name| faults.set(&format!("{name}=off")).unwrap());
        assert_eq!(faults, Faults::default());
    }

    #[test]
    fn what_is_no_fault_is_told_what_there_is() {
        for wrong in ["", "stall", "stall-tx=7", "link-flap=5", "hang-tx=70000:1", "lose-every=x", "pull-after=-1"] {
            let mut faults = Faults::default();
            assert!(faults.set(wrong).unwrap_err().contains("link-flap=FRAMES"), "{wrong}");
            assert_eq!(faults, Faults::default());
        }
    }
}
