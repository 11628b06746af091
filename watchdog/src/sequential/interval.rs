//! What the mean can be: an interval that holds whenever one looks, also at the moment of the verdict.

use serde::{Deserialize, Serialize};

use super::bets::Bets;

const LN_40: f64 = 3.688_879_454_113_936;

/// Values with how many requests had each, in multiples of the limit. `low` and `high` are a bucket's edges, or the same.
#[derive(Clone, Copy, Debug)]
pub struct Weighted {
    pub low: f64,
    pub high: f64,
    pub count: u64,
}

/// Of the mean of capped requests, in multiples of the limit. Each side is wrong with probability 1/40 at most, over
/// all times at which one might look, provided the mean does not change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub lower: f64,
    pub upper: f64,
}

/// Logarithm of the evidence against "the mean is at most `mean`" from bets since the deploy.
pub fn ln_evidence_above(values: &[Weighted], cap: f64, mean: f64) -> f64 {
    ln_evidence_above_with(&Bets::default(), values, cap, mean)
}

/// The same with a grid of one's own.
pub fn ln_evidence_above_with(bets: &Bets, values: &[Weighted], cap: f64, mean: f64) -> f64 {
    ln_mixture(bets, values.iter().map(|v| (v.low.min(cap) / mean - 1.0, v.count)))
}

/// Logarithm of the evidence against "the mean of requests capped at `cap` is at least `mean`", `mean < cap`.
pub fn ln_evidence_below(values: &[Weighted], cap: f64, mean: f64) -> f64 {
    ln_evidence_below_with(&Bets::default(), values, cap, mean)
}

/// The same with a grid of one's own.
pub fn ln_evidence_below_with(bets: &Bets, values: &[Weighted], cap: f64, mean: f64) -> f64 {
    ln_mixture(bets, values.iter().map(|v| ((mean - v.high.min(cap)) / (cap - mean), v.count)))
}

fn ln_mixture(bets: &Bets, gains: impl Iterator<Item = (f64, u64)>) -> f64 {
    let mut sums: Vec<f64> = bets.shares().map(libm::log).collect();
    for (gain, count) in gains {
        for (sum, bet) in sums.iter_mut().zip(bets.bets()) {
            *sum += count as f64 * libm::log1p(bet * gain);
        }
    }
    let largest = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest.is_infinite() {
        return largest;
    }
    largest + libm::log(sums.iter().map(|sum| libm::exp(sum - largest)).sum())
}

/// By bisection, to twelve digits. `cap` in multiples of the limit.
///
/// Costs some hundred logarithms per value: for the moment of a verdict and for reports, not for every tick.
pub fn interval(values: &[Weighted], cap: f64) -> Interval {
    interval_with(&Bets::default(), values, cap)
}

/// The same with a grid of one's own.
pub fn interval_with(bets: &Bets, values: &[Weighted], cap: f64) -> Interval {
    let count: u64 = values.iter().map(|v| v.count).sum();
    if count == 0 {
        return Interval { lower: 0.0, upper: cap };
    }
    let mean = |value: fn(&Weighted) -> f64| {
        values.iter().map(|v| value(v).min(cap) * v.count as f64).sum::<f64>() / count as f64
    };
    Interval {
        lower: lower(bets, values, cap, mean(|v| v.low)),
        upper: upper(bets, values, cap, mean(|v| v.high)),
    }
}

const SMALLEST: f64 = 1e-9;

fn lower(bets: &Bets, values: &[Weighted], cap: f64, mean: f64) -> f64 {
    let (mut refuted, mut open) = (SMALLEST, mean.max(SMALLEST));
    if ln_evidence_above_with(bets, values, cap, refuted) < LN_40 {
        return 0.0;
    }
    while open - refuted > 1e-12 * open {
        // The geometric middle: the answer may be many orders of magnitude below the mean.
        let middle = libm::sqrt(refuted * open);
        if ln_evidence_above_with(bets, values, cap, middle) >= LN_40 {
            refuted = middle
        } else {
            open = middle
        }
    }
    refuted
}

fn upper(bets: &Bets, values: &[Weighted], cap: f64, mean: f64) -> f64 {
    let (mut open, mut refuted) = (mean.max(1e-12), cap * (1.0 - 1e-12));
    if ln_evidence_below_with(bets, values, cap, refuted) < LN_40 {
        return cap;
    }
    while refuted - open > 1e-12 * refuted {
        let middle = 0.5 * (open + refuted);
        if ln_evidence_below_with(bets, values, cap, middle) >= LN_40 {
            refuted = middle
        } else {
            open = middle
        }
    }
    refuted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Vec<Weighted> {
        values.iter().map(|&z| Weighted { low: z, high: z, count: 1 }).collect()
    }

    #[test]
    fn without_requests_everything_is_possible() {
        assert_eq!(interval(&[], 50.0), Interval { lower: 0.0, upper: 50.0 });
    }

    #[test]
    fn it_closes_in_on_the_mean() {
        let mut last = f64::INFINITY;
        for n in [10, 100, 1000, 10_000] {
            let values: Vec<f64> = (0..n).map(|i| if i % 2 == 0 { 1.0 } else { 3.0 }).collect();
            let Interval { lower, upper } = interval(&of(&values), 50.0);
            assert!(lower < 2.0 && 2.0 < upper && upper - lower < last, "{n}: {lower}..{upper}");
            last = upper - lower;
        }
        assert!(last < 1.2, "{last}");
    }

    #[test]
    fn bucket_edges_only_widen_it() {
        let exact = interval(&of(&[2.0; 200]), 50.0);
        let edges = interval(&[Weighted { low: 1.99, high: 2.01, count: 200 }], 50.0);
        assert!(edges.lower < exact.lower && edges.upper > exact.upper);
        assert!((edges.lower / exact.lower - 0.995).abs() < 1e-3);
    }
}
