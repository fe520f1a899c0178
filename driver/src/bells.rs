//! Interrupts, for owners of queues that have nothing to do: a vector for each pair of queues, and an eventfd for each vector.

use std::os::fd::AsFd;
use std::time::Duration;

use stillwire_dma::{Event, PciFunction};

use crate::{Error, Result};

/// The eventfds of a NIC's vectors, by pair; none when [`Config::interrupts`](crate::Config::interrupts) is off.
#[derive(Default)]
pub(crate) struct Bells(Vec<Event>);

impl Bells {
    /// One for each of `pairs`, and the function's vectors lead to them.
    pub(crate) fn hang(function: &PciFunction, pairs: u16) -> Result<Self> {
        let vectors = function.msix_vectors();
        if vectors < u32::from(pairs) {
            return Err(Error::NoInterrupts { name: function.name(), vectors, needed: pairs.into() });
        }
        let events = (0..pairs).map(|_| Event::new()).collect::<stillwire_dma::Result<Vec<_>>>()?;
        function.set_msix(&events.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
        Ok(Self(events))
    }

    pub(crate) fn are_hung(&self) -> bool {
        !self.0.is_empty()
    }

    /// The vectors lead nowhere any more. The device is stopped: it has none to say that it could not be done.
    pub(crate) fn take_down(&self, function: &PciFunction) {
        if self.are_hung() {
            let _ = function.set_msix(&[]);
        }
    }

    /// The eventfd of a pair.
    pub(crate) fn of(&self, pair: usize, function: &PciFunction) -> Result<&Event> {
        let none =
            || Error::NoInterrupts { name: function.name(), vectors: self.0.len() as u32, needed: pair as u32 + 1 };
        self.0.get(pair).ok_or_else(none)
    }

    /// Waits at most for `timeout` until the vector of `pair`, whose number is `number`, is signalled, unless there is something
    /// to do already. Returns whether there may be something.
    pub(crate) fn wait(
        &self,
        number: usize,
        function: &PciFunction,
        pair: impl Pair,
        timeout: Duration,
    ) -> Result<bool> {
        Ok(sleep(self.of(number, function)?, pair, |event| function.wait(event, timeout))?)
    }
}

fn sleep(
    event: &Event,
    mut pair: impl Pair,
    wait: impl FnOnce(&Event) -> stillwire_dma::Result<bool>,
) -> stillwire_dma::Result<bool> {
    // What rang before the last look is no news.
    event.take();
    pair.listen(true);
    // Looked after the device was told: what it did before, it does not ring for.
    let found = if pair.is_ready() { Ok(true) } else { wait(event) };
    pair.listen(false);
    found
}

/// A pair of queues whose owner waits.
pub(crate) trait Pair {
    /// Tells the device whether to interrupt.
    fn listen(&mut self, on: bool);
    /// Whether the device has done something for either queue.
    fn is_ready(&mut self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that works in one moment, and rings if it was told to by then.
    struct Device<'a> {
        event: &'a Event,
        /// How many calls it waits for.
        works_at: usize,
        calls: usize,
        listens: bool,
        ready: bool,
    }

    impl Device<'_> {
        fn call(&mut self) {
            self.calls += 1;
            if self.calls == self.works_at {
                self.ready = true;
                if self.listens {
                    self.event.ring();
                }
            }
        }
    }

    impl Pair for &mut Device<'_> {
        fn listen(&mut self, on: bool) {
            self.call(); // before the device knows
            self.listens = on;
            self.call(); // and after
        }

        fn is_ready(&mut self) -> bool {
            self.call();
            let ready = self.ready;
            self.call(); // after the look
            ready
        }
    }

    #[test]
    fn no_moment_is_slept_over() {
        for works_at in 0..=4 {
            let event = Event::new().unwrap();
            event.ring(); // an old one
            let mut device = Device { event: &event, works_at, calls: 0, listens: false, ready: works_at == 0 };
            assert!(
                sleep(&event, &mut device, |event| event.wait(Duration::from_secs(60))).unwrap(),
                "worked at {works_at}"
            );
            assert!(!device.listens, "worked at {works_at}");
        }
    }

    #[test]
    fn nothing_is_waited_for_in_vain() {
        let event = Event::new().unwrap();
        event.ring();
        let mut device = Device { event: &event, works_at: usize::MAX, calls: 0, listens: false, ready: false };
        assert!(
            !sleep(&event, &mut device, |event| event.wait(Duration::from_millis(1))).unwrap(),
            "what rang before is no news"
        );
    }
}
