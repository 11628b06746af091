//! Bounds for limits that are learned from a baseline.

/// `z` with `P(standard normal > z) = tail`, `tail` in 0 to 1/2.
pub fn normal_upper_quantile(tail: f64) -> f64 {
    let beyond = |z: f64| 0.5 * libm::erfc(z * std::f64::consts::FRAC_1_SQRT_2);
    let (mut low, mut high) = (0.0, 38.0);
    while high - low > 1e-13 * high {
        let middle = 0.5 * (low + high);
        if beyond(middle) > tail { low = middle } else { high = middle }
    }
    high
}

/// Rank (from 1) of the order statistic that lies at or above the `p`-quantile with probability `1 - error` or more,
/// among `n` independent figures of any distribution. `None` when `n` is too small for there to be one.
pub fn quantile_upper_rank(n: u64, p: f64, error: f64) -> Option<u64> {
    let rank = binomial_quantile(n, p, error) + 1;
    (rank <= n).then_some(rank)
}

/// The least `k` with `P(Binomial(n, p) > k) <= tail`, from the exact probabilities, as multiples of the likeliest one.
fn binomial_quantile(n: u64, p: f64, tail: f64) -> u64 {
    const NEGLIGIBLE: f64 = 1e-25;
    let odds = p / (1.0 - p);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and n")]
    let mode = ((n as f64 + 1.0) * p).floor().min(n as f64) as u64;

    let mut below = 0.0;
    let mut term = 1.0;
    for k in (1..=mode).rev() {
        term *= k as f64 / ((n - k + 1) as f64 * odds);
        if term < NEGLIGIBLE {
            break;
        }
        below += term;
    }
    let mut above = vec![1.0];
    for k in mode..n {
        let next = above[above.len() - 1] * (n - k) as f64 / (k + 1) as f64 * odds;
        if next < NEGLIGIBLE {
            break;
        }
        above.push(next);
    }
    let allowed = tail * (below + above.iter().sum::<f64>());
    let mut beyond = 0.0;
    let mut k = mode + above.len() as u64 - 1;
    // From the far end, so that the small terms add up exactly.
    for &term in above.iter().rev() {
        beyond += term;
        if beyond > allowed {
            return k;
        }
        k = k.saturating_sub(1);
    }
    k
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_quantiles_as_tabulated() {
        for (tail, z) in
            [(0.025, 1.959_963_984_540_054), (1e-4, 3.719_016_485_455_709), (2.5e-5, 4.055_626_981_122_4)]
        {
            assert!(
                (normal_upper_quantile(tail) - z).abs() < 1e-9,
                "{tail}: {}",
                normal_upper_quantile(tail)
            );
        }
        assert!(normal_upper_quantile(0.5).abs() < 1e-9);
    }

    #[test]
    fn small_binomials_by_hand() {
        // P(Binomial(3, 1/2) > k) = 7/8, 1/2, 1/8, 0 for k = 0 to 3.
        assert_eq!(binomial_quantile(3, 0.5, 0.2), 2);
        assert_eq!(binomial_quantile(3, 0.5, 0.6), 1);
        assert_eq!(binomial_quantile(3, 0.5, 0.01), 3);
        assert_eq!(quantile_upper_rank(3, 0.5, 0.01), None);
        assert_eq!(quantile_upper_rank(3, 0.5, 0.2), Some(3));
    }

    #[test]
    fn a_p99_needs_about_eleven_hundred_figures() {
        // 0.99^n <= 2.5e-5 from n = 1055 on.
        assert_eq!(quantile_upper_rank(1054, 0.99, 2.5e-5), None);
        assert_eq!(quantile_upper_rank(1055, 0.99, 2.5e-5), Some(1055));
    }

    /// Figures from exact rational arithmetic.
    #[test]
    fn large_binomials_exactly() {
        for (n, p, tail, rank) in EXACT {
            assert_eq!(quantile_upper_rank(n, p, tail), Some(rank), "n {n}, p {p}, tail {tail}");
        }
    }
    const EXACT: [(u64, f64, f64, u64); 4] = [
        (1_000, 0.9, 2.5e-5, 937),
        (10_000, 0.9, 2.5e-5, 9_121),
        (10_000, 0.99, 2.5e-5, 9_939),
        (5_000, 0.5, 1e-4, 2_632),
    ];
}
