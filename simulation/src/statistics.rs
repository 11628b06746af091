//! Figures of many runs, with intervals that assume nothing of their distribution.

/// Probability that an interval leaves out the truth.
const ERROR: f64 = 0.05;

/// A share with its Clopper-Pearson interval of 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    pub count: u64,
    pub of: u64,
    pub low: f64,
    pub high: f64,
}

impl Share {
    pub fn new(count: u64, of: u64) -> Self {
        let solve = |wanted: &dyn Fn(f64) -> bool| {
            let (mut low, mut high) = (0.0, 1.0);
            for _ in 0..60 {
                let middle = 0.5 * (low + high);
                if wanted(middle) { low = middle } else { high = middle }
            }
            0.5 * (low + high)
        };
        // The least share for which so many are not too many, and the largest for which so few are not too few.
        let low =
            if count == 0 { 0.0 } else { solve(&|p| 1.0 - binomial_up_to(of, p, count - 1) < ERROR / 2.0) };
        let high = if count == of { 1.0 } else { solve(&|p| binomial_up_to(of, p, count) > ERROR / 2.0) };
        Self { count, of, low, high }
    }

    pub fn share(self) -> f64 {
        self.count as f64 / self.of as f64
    }
}

/// `P(Binomial(n, p) <= k)`.
pub fn binomial_up_to(n: u64, p: f64, k: u64) -> f64 {
    if p <= 0.0 || k >= n {
        return 1.0;
    }
    if p >= 1.0 {
        return 0.0;
    }
    let ln_choose =
        |i: f64| libm::lgamma(n as f64 + 1.0) - libm::lgamma(i + 1.0) - libm::lgamma(n as f64 - i + 1.0);
    let term = |i: u64| {
        let i = i as f64;
        libm::exp(ln_choose(i) + i * libm::log(p) + (n as f64 - i) * libm::log1p(-p))
    };
    (0..=k).map(term).sum::<f64>().min(1.0)
}

/// A quantile of runs, with an interval of at least `1 - error` between two order statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantile {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Quantile {
    /// Runs without a figure count as infinite.
    pub fn of(runs: &[f64], p: f64) -> Self {
        Self::with_error(runs, p, ERROR)
    }

    pub fn with_error(runs: &[f64], p: f64, error: f64) -> Self {
        assert!(!runs.is_empty(), "a quantile needs runs");
        let mut sorted = runs.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let n = sorted.len();
        let least_rank = |wanted: f64| {
            let (mut low, mut high) = (0, n);
            while low < high {
                let middle = usize::midpoint(low, high);
                if binomial_up_to(n as u64, p, middle as u64) >= wanted {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            low
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let place = (p * (n - 1) as f64).ceil() as usize;
        let below = least_rank(error / 2.0);
        let low = if below == 0 { 0.0 } else { sorted[below - 1] };
        let high = sorted.get(least_rank(1.0 - error / 2.0)).copied().unwrap_or(f64::INFINITY);
        Self { value: sorted[place], low, high }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_as_tabulated() {
        // Clopper-Pearson: 0 of 3000 has 1 - 0.025^(1/3000); 6 of 10000 and 10 of 20 from R's binom.test.
        let zero = Share::new(0, 3000);
        assert!(zero.low.abs() < 1e-12 && (zero.high - 0.001_228_9).abs() < 1e-6, "{zero:?}");
        let six = Share::new(6, 10_000);
        assert!((six.low - 0.000_220_2).abs() < 1e-6 && (six.high - 0.001_305_5).abs() < 1e-6, "{six:?}");
        let half = Share::new(10, 20);
        assert!((half.low - 0.271_96).abs() < 1e-4 && (half.high - 0.728_04).abs() < 1e-4, "{half:?}");
        assert!((Share::new(20, 20).high - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_median_lies_between_order_statistics() {
        let runs: Vec<f64> = (1..=101).map(f64::from).collect();
        let median = Quantile::of(&runs, 0.5);
        // Binomial(101, 1/2): ranks 41 and 61 hold 95 %.
        assert_eq!((median.value, median.low, median.high), (51.0, 41.0, 61.0));
        let p95 = Quantile::of(&runs[..20], 0.95);
        assert!(p95.high.is_infinite() && (p95.value - 20.0).abs() < 1e-12, "{p95:?}");
    }
}
