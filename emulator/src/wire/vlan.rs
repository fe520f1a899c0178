//! A switch's access port between a NIC that tags and a far end that knows no VLANs.

use super::Wire;

const TAG: [u8; 2] = [0x81, 0x00];

/// Frames of one VLAN lose their tag on the way out and get it on the way in; others end here, as at a switch.
pub struct Vlan<W> {
    wire: W,
    id: u16,
    untagged: Vec<u8>,
}

impl<W: Wire> Vlan<W> {
    /// The port of VLAN `id`.
    pub fn new(wire: W, id: u16) -> Self {
        Self { wire, id, untagged: Vec::new() }
    }
}

impl<W: Wire> Wire for Vlan<W> {
    fn transmit(&mut self, frame: &[u8]) {
        let tagged = frame.len() >= 18 && frame[12..14] == TAG;
        if tagged && u16::from_be_bytes([frame[14], frame[15]]) & 0xfff == self.id {
            self.untagged.clear();
            self.untagged.extend_from_slice(&frame[..12]);
            self.untagged.extend_from_slice(&frame[16..]);
            self.wire.transmit(&self.untagged);
        }
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        if !self.wire.receive(frame) {
            return false;
        }
        if frame.len() >= 14 {
            let [high, low] = self.id.to_be_bytes();
            frame.splice(12..12, [TAG[0], TAG[1], high, low]);
        }
        true
    }

    fn is_up(&self) -> bool {
        self.wire.is_up()
    }
}

impl Wire for Box<dyn Wire> {
    fn transmit(&mut self, frame: &[u8]) {
        (**self).transmit(frame);
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        (**self).receive(frame)
    }

    fn is_up(&self) -> bool {
        (**self).is_up()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Loopback;
    use super::*;

    #[test]
    fn only_its_own_vlan_passes() {
        let far = Loopback::new();
        let mut port = Vlan::new(far.clone(), 5);
        let frame = |tag: &[u8]| [&[1; 12][..], tag, &[8, 0, 7, 7]].concat();
        for (sent, passes) in [
            (frame(&[0x81, 0, 0x60, 5]), true),
            (frame(&[0x81, 0, 0, 6]), false),
            (frame(&[]), false),
            (vec![1; 3], false),
        ] {
            port.transmit(&sent);
            let mut seen = Vec::new();
            assert_eq!(far.clone().receive(&mut seen), passes, "{sent:x?}");
            assert!(!passes || seen == frame(&[]));
        }
        far.clone().transmit(&frame(&[]));
        let mut seen = Vec::new();
        assert!(port.receive(&mut seen) && !port.receive(&mut Vec::new()));
        assert_eq!(seen, frame(&[0x81, 0, 0, 5]));
    }
}
