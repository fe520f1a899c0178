//! A wire that loses frames.

use super::Wire;

/// Drops every nth frame that is sent over it.
pub struct Lossy<W> {
    wire: W,
    every: u32,
    count: u32,
}

impl<W: Wire> Lossy<W> {
    /// Loses every `every`th frame; 0 loses none.
    pub fn new(wire: W, every: u32) -> Self {
        Self { wire, every, count: 0 }
    }
}

impl<W: Wire> Wire for Lossy<W> {
    fn transmit(&mut self, frame: &[u8]) {
        self.count = self.count.wrapping_add(1);
        if self.every == 0 || !self.count.is_multiple_of(self.every) {
            self.wire.transmit(frame);
        }
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        self.wire.receive(frame)
    }

    fn is_up(&self) -> bool {
        self.wire.is_up()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Loopback;
    use super::*;

    #[test]
    fn every_third_is_lost() {
        let mut wire = Lossy::new(Loopback::new(), 3);
        (1..=7u8).for_each(|i| wire.transmit(&[i]));
        let mut frame = Vec::new();
        let arrived: Vec<u8> = std::iter::from_fn(|| wire.receive(&mut frame).then(|| frame[0])).collect();
        assert_eq!(arrived, [1, 2, 4, 5, 7]);
    }
}
