//! From the kernel's 994 fine buckets to the few bounds that Prometheus stores.

use watchdog_common::histogram::{BUCKETS, edges_ns};
use watchdog_common::types::Series;

/// Upper bounds (`le`) of `request_cpu_seconds`: 1, 2, 5 per decade from half a millisecond to 50 s.
pub const BOUNDS_SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0];

const BOUNDS_NS: [u64; BOUNDS_SECONDS.len()] = [
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
    20_000_000_000,
    50_000_000_000,
];

/// For each fine bucket the index of the first bound that its upper edge does not exceed; the last index is `+Inf`.
///
/// A bucket that a bound cuts counts above it, so a cumulative count never claims a request below a bound that
/// might have been above; the error is at most one fine bucket (3.2 % of the bound).
const TARGETS: [u8; BUCKETS] = {
    let mut targets = [0; BUCKETS];
    let mut bucket = 0;
    while bucket < BUCKETS {
        let (_, upper) = edges_ns(bucket);
        let mut bound = 0;
        while bound < BOUNDS_NS.len() && upper > BOUNDS_NS[bound] {
            bound += 1;
        }
        #[expect(clippy::cast_possible_truncation, reason = "16 bounds")]
        let target = bound as u8;
        targets[bucket] = target;
        bucket += 1;
    }
    targets
};

/// Count, exact sum and counts per bound (not cumulative; the last one is `+Inf`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    pub count: u64,
    pub oncpu_sum_ns: u64,
    pub per_bound: [u64; BOUNDS_SECONDS.len() + 1],
}

impl Folded {
    pub fn of(series: &Series) -> Self {
        let mut folded = Self {
            count: series.count,
            oncpu_sum_ns: series.oncpu_sum_ns,
            per_bound: [0; BOUNDS_SECONDS.len() + 1],
        };
        for (bucket, count) in series.buckets.iter().enumerate() {
            folded.per_bound[usize::from(TARGETS[bucket])] += count;
        }
        folded
    }

    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.oncpu_sum_ns += other.oncpu_sum_ns;
        for (mine, theirs) in self.per_bound.iter_mut().zip(&other.per_bound) {
            *mine += theirs;
        }
    }

    /// Field by field the larger one: a counter that is read while the kernel adds to it never goes back.
    pub fn rise_to(&mut self, other: &Self) {
        self.count = self.count.max(other.count);
        self.oncpu_sum_ns = self.oncpu_sum_ns.max(other.oncpu_sum_ns);
        for (mine, theirs) in self.per_bound.iter_mut().zip(&other.per_bound) {
            *mine = (*mine).max(*theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use watchdog_common::histogram::bucket_of;

    #[test]
    fn the_two_forms_of_the_bounds_agree() {
        for (seconds, ns) in BOUNDS_SECONDS.iter().zip(BOUNDS_NS) {
            assert!((seconds * 1e9 - ns as f64).abs() < 0.5, "{seconds} s and {ns} ns");
        }
    }

    fn folded(values_ns: &[u64]) -> Folded {
        let mut series = Series::default();
        for &ns in values_ns {
            series.count += 1;
            series.oncpu_sum_ns += ns;
            series.buckets[bucket_of(ns)] += 1;
        }
        Folded::of(&series)
    }

    proptest! {
        #[test]
        fn cumulative_counts_bracket_the_truth(values in prop::collection::vec(0u64..100_000_000_000, 0..200)) {
            let folded = folded(&values);
            prop_assert_eq!(folded.count, values.len() as u64);
            prop_assert_eq!(folded.oncpu_sum_ns, values.iter().sum::<u64>());
            prop_assert_eq!(folded.per_bound.iter().sum::<u64>(), folded.count);
            let mut cumulative = 0;
            for (bound, count) in BOUNDS_NS.iter().zip(folded.per_bound) {
                cumulative += count;
                let below = values.iter().filter(|&&ns| ns <= *bound).count() as u64;
                let surely_below = values.iter().filter(|&&ns| ns <= bound - bound / 30).count() as u64;
                prop_assert!(surely_below <= cumulative && cumulative <= below, "{bound}: {surely_below} {cumulative} {below}");
            }
        }
    }
}
