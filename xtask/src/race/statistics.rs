//! Minimum and median: on a machine that others use as well, the minimum is the figure and the median says how noisy it was.

use serde::Serialize;

/// Of one work over all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    pub min: f64,
    pub median: f64,
}

impl Figure {
    /// `None` without samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
        Some(Self { min: sorted[0], median: (sorted[low] + sorted[high]) / 2.0 })
    }
}

/// With three digits that count: more would be noise.
pub fn three_digits(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.095 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimum_and_median() {
        assert_eq!(Figure::of(&[]), None);
        assert_eq!(Figure::of(&[4.0]), Some(Figure { min: 4.0, median: 4.0 }));
        assert_eq!(Figure::of(&[9.0, 1.0, 2.0]), Some(Figure { min: 1.0, median: 2.0 }));
        assert_eq!(Figure::of(&[9.0, 1.0, 2.0, 3.0]), Some(Figure { min: 1.0, median: 2.5 }));
    }

    #[test]
    fn digits() {
        for (value, text) in [(171.4, "171"), (34.14, "34.1"), (7.616, "7.62"), (0.351, "0.35"), (0.0512, "0.051")] {
            assert_eq!(three_digits(value), text);
        }
        assert_eq!((three_digits(99.99), three_digits(9.999)), ("100".into(), "10.0".into()));
    }
}
