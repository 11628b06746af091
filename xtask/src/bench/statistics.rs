//! Medians and spreads of interleaved measurements.

/// Median, quartiles and extremes of some ratios.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) low_quartile: f64,
    pub(super) high_quartile: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` without values.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            max: *sorted.last()?,
            median: quantile(&sorted, 2),
            low_quartile: quantile(&sorted, 1),
            high_quartile: quantile(&sorted, 3),
        })
    }
}

/// The quantile at `quarters` quarters, between neighbours where it falls between them.
fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    let at = (sorted.len() - 1) * quarters;
    let (below, rest) = (at / 4, at % 4);
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * rest as f64 / 4.0
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.3} (middle half {:.3} to {:.3}, all {:.3} to {:.3})",
            self.median, self.low_quartile, self.high_quartile, self.min, self.max
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_that_of_the_sorted_values() {
        let spread = Spread::of([5.0, 1.0, 3.0, 2.0, 4.0]).expect("there are values");
        assert_eq!(
            [spread.min, spread.low_quartile, spread.median, spread.high_quartile, spread.max],
            [1.0, 2.0, 3.0, 4.0, 5.0].map(f64::from)
        );
        let even = Spread::of([1.0, 2.0]).expect("there are values");
        assert!((even.median - 1.5).abs() < 1e-12 && (even.high_quartile - 1.75).abs() < 1e-12);
        let one = Spread::of([7.0]).expect("there is a value");
        assert!((one.median - 7.0).abs() < 1e-12 && (one.min - one.max).abs() < 1e-12);
        assert_eq!(Spread::of([]), None);
    }
}
