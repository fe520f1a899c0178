//! From ns a frame to line rates: arithmetic, as no wire is here.

use super::rounds::Race;
use super::statistics::three_digits;
use super::works::Who;

/// Gb/s.
const SPEEDS: [u64; 3] = [10, 25, 100];
/// Preamble, start of frame and the gap to the next, bytes (IEEE 802.3).
const GAP: u64 = 20;
const CHECK_SEQUENCE: u64 = 4;

/// What is compared: a contestant's work, and bytes a frame without the check sequence.
const FRAMES: [(Who, &str, u64); 8] = [
    (Who::Ours, "tx60", 60),
    (Who::Dpdk, "tx60", 60),
    (Who::Ours, "rx60", 60),
    (Who::Dpdk, "rx60", 60),
    (Who::Ours, "tx-page", 1514),
    (Who::Ours, "tx-page-each", 1514),
    (Who::Dpdk, "tx-page", 1514),
    (Who::Ours, "tx-page device=model", 1514),
];

/// Million frames a second of a full wire.
fn line_rate(gigabits: u64, bytes: u64) -> f64 {
    gigabits as f64 * 1000.0 / ((bytes + CHECK_SEQUENCE + GAP) * 8) as f64
}

pub const HEAD: [&str; 6] = ["work", "frame, bytes", "one core, Mpps", "of 10 GbE", "of 25 GbE", "of 100 GbE"];

/// One core's frames a second beside those of full wires.
pub fn rows(race: &Race) -> Vec<Vec<String>> {
    let row = |&(who, name, bytes): &(Who, &str, u64)| {
        let ns = race.find(who, name).ok()?.figure()?.min;
        let core = 1000.0 / ns;
        let mut row = vec![format!("{} {name}", who.name()), (bytes + CHECK_SEQUENCE).to_string(), three_digits(core)];
        row.extend(SPEEDS.map(|speed| {
            let wire = line_rate(speed, bytes);
            format!("{}x ({})", three_digits(core / wire), three_digits(wire))
        }));
        Some(row)
    };
    FRAMES.iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::goals::tests::race;
    use super::*;

    #[test]
    fn line_rates() {
        for (gigabits, bytes, right) in
            [(10, 60, 14.88), (25, 60, 37.20), (100, 60, 148.8), (10, 1514, 0.8127), (100, 1514, 8.127)]
        {
            let rate = line_rate(gigabits, bytes);
            assert!((rate / right - 1.0).abs() < 0.001, "{gigabits} {bytes}: {rate}");
        }
    }

    #[test]
    fn one_core_beside_the_wire() {
        let rows = rows(&race(10.0, &[]));
        assert_eq!(rows[0], ["ours tx60", "64", "100", "6.72x (14.9)", "2.69x (37.2)", "0.67x (149)"]);
        assert_eq!(rows.len(), FRAMES.len());
        let mut none = race(10.0, &[]);
        none.series.clear();
        assert!(super::rows(&none).is_empty());
    }
}
