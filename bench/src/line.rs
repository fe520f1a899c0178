//! How many frames a second could go out: by the wire, by PCIe, and by one core. Pure arithmetic.
//!
//! `frame` is always a frame's length with its check sequence, bytes: 64 to 9018.

/// Bytes of a check sequence.
pub const FCS: usize = 4;
/// Bytes on the wire besides the frame: preamble, start, and the gap between two frames (IEEE 802.3).
const AROUND: usize = 20;

/// Frames a second on Ethernet of `gigabits` a second.
pub fn ethernet(gigabits: f64, frame: usize) -> f64 {
    gigabits * 1e9 / ((frame + AROUND) * 8) as f64
}

/// Frames a second of one core that takes `ns` for each.
pub fn core(ns: f64) -> f64 {
    1e9 / ns
}

/// Share of Ethernet's rate that one core reaches which takes `ns` a frame: 1 at the most.
pub fn reached(ns: f64, gigabits: f64, frame: usize) -> f64 {
    (core(ns) / ethernet(gigabits, frame)).min(1.0)
}

/// A slot that a NIC is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pcie {
    /// 1 to 4.
    pub generation: u8,
    /// 1 to 16.
    pub lanes: u8,
    /// Most bytes in a packet (Max_Payload_Size).
    pub max_payload: usize,
}

/// What of a frame lies in memory in one piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Bytes of the header, at the start of a slot of its own.
    pub header: usize,
    /// Bytes of payload, which begin anywhere; 0 for a frame that is all header.
    pub payload: usize,
}

impl Layout {
    /// The frame of that length whose header has `header` bytes.
    pub fn of(frame: usize, header: usize) -> Self {
        Self { header, payload: (frame - FCS).saturating_sub(header) }
    }

    /// Descriptors of the frame; a context stays in force and counts for nothing.
    fn descriptors(self) -> usize {
        1 + usize::from(self.payload > 0)
    }
}

impl Pcie {
    /// Where an X520 is: two ports share it.
    pub const X520: Self = Self { generation: 2, lanes: 8, max_payload: 256 };
    /// Where a 100 GbE NIC is.
    pub const GEN3_X16: Self = Self { generation: 3, lanes: 16, max_payload: 256 };

    /// Bytes a second in each direction, after the line code and after what the link layer keeps for itself.
    fn bytes(self) -> f64 {
        let a_lane = match self.generation {
            1 => 2.5e9 / 10.0,
            2 => 5e9 / 10.0,
            3 => 8e9 / 8.0 * 128.0 / 130.0,
            _ => 16e9 / 8.0 * 128.0 / 130.0,
        };
        a_lane * f64::from(self.lanes) * TRANSACTIONS
    }

    /// Frames a second that a NIC can fetch: the lesser of what is sent to it (completions, doorbells) and what it sends
    /// (read requests, write-backs).
    pub fn ceiling(self, layout: Layout) -> f64 {
        self.bytes() / self.down(layout).max(self.up(layout))
    }

    /// Bytes that a frame takes on the way to the device. Its descriptors come in a completion of their own: the least
    /// that a queue fetches ahead.
    fn down(self, layout: Layout) -> f64 {
        let descriptors = layout.descriptors() * DESCRIPTOR;
        let header = layout.header.div_ceil(self.max_payload);
        let data = (descriptors + layout.header + layout.payload) as f64;
        let packets = 1.0 + header as f64 + self.completions(layout.payload);
        data + packets * COMPLETION + (REQUEST + 4.0) / A_BATCH
    }

    /// Completions of `bytes` that begin anywhere: each ends where an address is a multiple of the largest packet, so on
    /// average there is almost one more than whole packets.
    fn completions(self, bytes: usize) -> f64 {
        match bytes {
            0 => 0.0,
            _ => (bytes + self.max_payload - 1) as f64 / self.max_payload as f64,
        }
    }

    /// Bytes that a frame takes on the way from the device.
    fn up(self, layout: Layout) -> f64 {
        let reads = 1 + layout.header.div_ceil(READ) + layout.payload.div_ceil(READ);
        reads as f64 * REQUEST + (REQUEST + DESCRIPTOR as f64) / A_BATCH
    }
}

/// Bytes of a completion besides its data: framing and sequence 4, header 12, check 4.
const COMPLETION: f64 = 20.0;
/// The same of a read request or a write with a 64-bit address: header 16.
const REQUEST: f64 = 24.0;
/// Share of a link's bytes that are transactions; the others acknowledge and give credit. 57.88 of 62.96 Gb/s on Gen3 x8
/// (Neugebauer et al., Understanding PCIe performance for end host networking, SIGCOMM 2018).
const TRANSACTIONS: f64 = 57.88 / 62.96;
/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// Most bytes that a NIC asks for at once (Max_Read_Request_Size, usual value).
const READ: usize = 512;
/// Frames to a doorbell and to a write-back.
const A_BATCH: f64 = 32.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// Within half of the last digit given.
    fn is(found: f64, expect: f64, digit: f64) {
        assert!((found / 1e6 - expect).abs() <= digit / 2.0 + 1e-9, "{} is not {expect}", found / 1e6);
    }

    #[test]
    fn ethernet_rates_are_those_of_the_tables() {
        // (frame, Mpps at 10, 25 and 100 Gb/s, the last digit of each)
        let table = [
            (64, [14.88, 37.20, 148.8], [0.01, 0.01, 0.1]),
            (512, [2.350, 5.874, 23.50], [0.001, 0.001, 0.01]),
            (1518, [0.813, 2.032, 8.127], [0.001; 3]),
            (9018, [0.138, 0.346, 1.383], [0.001; 3]),
        ];
        for (frame, rates, digits) in table {
            for ((gigabits, rate), digit) in [10.0, 25.0, 100.0].into_iter().zip(rates).zip(digits) {
                is(ethernet(gigabits, frame), rate, digit);
            }
        }
    }

    /// Figures that were worked out apart from this: within a percent, as they do not say how they count what the link
    /// layer takes.
    #[test]
    fn pcie_ceilings_are_within_a_percent_of_those_of_the_tables() {
        let page = Layout::of(1518, 54);
        assert_eq!(page, Layout { header: 54, payload: 1460 });
        for (slot, expect) in [(Pcie::X520, 2.12e6), (Pcie::GEN3_X16, 8.41e6)] {
            let found = slot.ceiling(page);
            assert!((found / expect - 1.0).abs() < 0.01, "{found} is not {expect}");
        }
    }

    /// By hand, Gen2 x8: 60 + 16 bytes, two completions of 20, a 32nd of a doorbell of 28: 116.875 of 4e9 * 0.91931.
    #[test]
    fn a_frame_that_is_all_header_takes_one_descriptor() {
        let all = Layout::of(64, 60);
        assert_eq!(all, Layout { header: 60, payload: 0 });
        assert!((Pcie::X520.down(all) - 116.875).abs() < 1e-9);
        assert!((Pcie::X520.ceiling(all) - 31.4632e6).abs() < 1e3, "{}", Pcie::X520.ceiling(all));
    }

    #[test]
    fn twice_the_lanes_carry_twice_the_frames_and_larger_packets_more() {
        let page = Layout::of(1518, 54);
        let slot = Pcie::X520;
        let ratio = Pcie { lanes: 16, ..slot }.ceiling(page) / slot.ceiling(page);
        assert!((ratio - 2.0).abs() < 1e-9);
        assert!(Pcie { max_payload: 512, ..slot }.ceiling(page) > slot.ceiling(page));
        assert!(Pcie { max_payload: 128, ..slot }.ceiling(page) < slot.ceiling(page));
        let fourth = Pcie { generation: 4, ..Pcie::GEN3_X16 }.ceiling(page);
        assert!((fourth / Pcie::GEN3_X16.ceiling(page) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn one_core_reaches_the_line_or_a_share_of_it() {
        // 100 ns a frame are ten million a second.
        assert!((core(100.0) - 10e6).abs() < 1e-3);
        assert!((reached(100.0, 10.0, 64) - 0.672).abs() < 1e-3);
        assert_eq!(reached(100.0, 10.0, 1518), 1.0);
    }
}
