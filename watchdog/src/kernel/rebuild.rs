//! Requests whose samples the ring dropped, from the kernel's histogram.
//!
//! The histogram of a series minus the samples that arrived is what was lost. Each lost request is put on the
//! lower or the upper edge of its bucket, in the proportion that keeps the sum exact: rounding all of them down
//! would be valid too, but would need 30 % more requests for a verdict (decision engine, section 3.9).

use watchdog_common::histogram::{BUCKETS, bucket_of, edges_ns};
use watchdog_common::types::{Sample, Series, SeriesKey};

use super::tick::RebuiltRequests;

/// What has arrived of one series, as samples or rebuilt.
#[derive(Clone, Debug)]
pub(super) struct Accounted {
    sum_ns: u64,
    buckets: Box<[u64; BUCKETS]>,
}

impl Default for Accounted {
    fn default() -> Self {
        Self { sum_ns: 0, buckets: Box::new([0; BUCKETS]) }
    }
}

impl Accounted {
    pub(super) fn add(&mut self, sample: &Sample) {
        self.sum_ns += sample.oncpu_ns;
        self.buckets[bucket_of(sample.oncpu_ns)] += 1;
    }

    /// What the kernel's `series` has beyond what has arrived; it counts as arrived afterwards. A bucket that is
    /// behind (its sample came after the series was read) is left for the next time.
    pub(super) fn catch_up(&mut self, key: SeriesKey, series: &Series) -> Option<RebuiltRequests> {
        let missing: Vec<(usize, u64)> = (0..BUCKETS)
            .filter_map(|b| series.buckets[b].checked_sub(self.buckets[b]).filter(|n| *n > 0).map(|n| (b, n)))
            .collect();
        if missing.is_empty() {
            return None;
        }
        let sum_ns = (series.oncpu_sum_ns - series.continued_ns).saturating_sub(self.sum_ns);
        let oncpu_ns = split(&missing, sum_ns);
        for (bucket, count) in missing {
            self.buckets[bucket] += count;
        }
        self.sum_ns += oncpu_ns.iter().map(|(ns, count)| ns * count).sum::<u64>();
        Some(RebuiltRequests {
            build_slot: key.build_slot,
            endpoint: key.endpoint,
            status_class: key.status_class,
            oncpu_ns,
        })
    }
}

/// Puts each bucket's requests on its two edges so that all of them together have `sum_ns`, as nearly as whole
/// requests allow; a sum outside what the buckets allow gives all lower or all upper edges.
fn split(missing: &[(usize, u64)], sum_ns: u64) -> Vec<(u64, u64)> {
    let edges = |bucket: usize| {
        let (low, high) = edges_ns(bucket);
        (low, if high == u64::MAX { low } else { high })
    };
    let (low_sum, room) = missing.iter().fold((0u64, 0u64), |(sum, room), &(bucket, count)| {
        let (low, high) = edges(bucket);
        (sum + low * count, room + (high - low) * count)
    });
    let share = if room == 0 { 0.0 } else { (sum_ns.saturating_sub(low_sum) as f64 / room as f64).min(1.0) };
    let mut carried = 0.0;
    let mut out = Vec::with_capacity(2 * missing.len());
    for &(bucket, count) in missing {
        let (low, high) = edges(bucket);
        let exact = count as f64 * share + carried;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rounded, from 0 to count"
        )]
        let upper = (exact.round().max(0.0) as u64).min(count);
        carried = exact - upper as f64;
        for (ns, n) in [(low, count - upper), (high, upper)] {
            if n > 0 {
                out.push((ns, n));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_dropped_comes_back_in_number_bucket_and_sum(
            figures in proptest::collection::vec((1_000u64..2_000_000_000, any::<bool>()), 1..300),
        ) {
            let mut series = Series::default();
            let mut accounted = Accounted::default();
            let (mut lost, mut lost_ns) = (0u64, 0u64);
            for (ns, arrives) in &figures {
                series.count += 1;
                series.oncpu_sum_ns += ns;
                series.buckets[bucket_of(*ns)] += 1;
                if *arrives {
                    accounted.add(&Sample { oncpu_ns: *ns, ..Sample::default() });
                } else {
                    lost += 1;
                    lost_ns += ns;
                }
            }
            let rebuilt = accounted.catch_up(SeriesKey::default(), &series);
            let got = rebuilt.as_ref().map_or(&[][..], |r| &r.oncpu_ns);
            prop_assert_eq!(got.iter().map(|(_, n)| n).sum::<u64>(), lost);
            let got_ns = got.iter().map(|(ns, n)| ns * n).sum::<u64>();
            // One request on the other edge is the most that rounding can cost.
            let widest = figures.iter().map(|(ns, _)| ns / 32 + 1024).max().unwrap_or(0);
            prop_assert!(got_ns.abs_diff(lost_ns) <= widest, "{got_ns} {lost_ns} {widest}");
            prop_assert!(accounted.catch_up(SeriesKey::default(), &series).is_none());
        }
    }

    #[test]
    fn a_sample_that_came_before_its_count_is_not_rebuilt_later() {
        let mut series = Series::default();
        let mut accounted = Accounted::default();
        accounted.add(&Sample { oncpu_ns: 5_000_000, ..Sample::default() });
        assert!(accounted.catch_up(SeriesKey::default(), &series).is_none());
        series.buckets[bucket_of(5_000_000)] = 1;
        series.oncpu_sum_ns = 5_000_000;
        assert!(accounted.catch_up(SeriesKey::default(), &series).is_none());
    }
}
