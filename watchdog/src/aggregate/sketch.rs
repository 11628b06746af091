//! Counts in logarithmic buckets of at most 0.8 % relative width.
//!
//! Ready-made histograms answer "the value at quantile q"; limits that hold with a stated probability need the bucket
//! edges of an exact order statistic, and a build keeps many sketches, so this one stores only the span it has seen.

use serde::{Deserialize, Serialize};

const SUB_BITS: u32 = 7;
const SUB: u64 = 1 << SUB_BITS;

/// Below 128 every value has a bucket of its own; above, 128 buckets to an octave.
fn bucket_of(value: u64) -> u32 {
    if value < SUB {
        return u32::try_from(value).expect("less than 128");
    }
    let octave = value.ilog2();
    let within = u32::try_from((value >> (octave - SUB_BITS)) & (SUB - 1)).expect("less than 128");
    ((octave - SUB_BITS + 1) << SUB_BITS) + within
}

/// Smallest and largest value of a bucket.
fn edges(bucket: u32) -> (u64, u64) {
    if u64::from(bucket) < SUB {
        return (bucket.into(), bucket.into());
    }
    let shift = (bucket >> SUB_BITS) - 1;
    let low = (SUB + u64::from(bucket) % SUB) << shift;
    (low, low + ((1 << shift) - 1))
}

/// How many values fell into each bucket. Memory: 8 bytes for every bucket between the smallest and the largest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u32, u64)>", into = "Vec<(u32, u64)>")]
pub struct Sketch {
    first: u32,
    counts: Vec<u64>,
    total: u64,
}

/// One non-empty bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Smallest value it stands for.
    pub low: u64,
    /// Largest value it stands for.
    pub high: u64,
    pub count: u64,
}

impl Bucket {
    pub fn middle(self) -> f64 {
        0.5 * (self.low as f64 + self.high as f64)
    }
}

impl Sketch {
    pub fn record(&mut self, value: u64, count: u64) {
        self.add(bucket_of(value), count);
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// Non-empty buckets, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> + Clone {
        (self.first..).zip(&self.counts).filter(|(_, count)| **count > 0).map(|(bucket, &count)| {
            let (low, high) = edges(bucket);
            Bucket { low, high, count }
        })
    }

    /// The bucket of the `rank`-th smallest value, from 1.
    pub fn order_statistic(&self, rank: u64) -> Option<Bucket> {
        let mut before = 0;
        self.buckets().find(|bucket| {
            before += bucket.count;
            rank >= 1 && before >= rank
        })
    }

    pub fn merge(&mut self, other: &Self) {
        for (bucket, &count) in (other.first..).zip(&other.counts) {
            self.add(bucket, count);
        }
    }

    fn add(&mut self, bucket: u32, count: u64) {
        if count == 0 {
            return;
        }
        if self.counts.is_empty() {
            self.first = bucket;
        }
        if bucket < self.first {
            let missing = (self.first - bucket) as usize;
            self.counts.splice(0..0, std::iter::repeat_n(0, missing));
            self.first = bucket;
        }
        let index = (bucket - self.first) as usize;
        if index >= self.counts.len() {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += count;
        self.total += count;
    }
}

impl From<Vec<(u32, u64)>> for Sketch {
    /// Buckets beyond the last possible one are folded into it.
    fn from(pairs: Vec<(u32, u64)>) -> Self {
        let mut sketch = Self::default();
        for (bucket, count) in pairs {
            sketch.add(bucket.min(bucket_of(u64::MAX)), count);
        }
        sketch
    }
}

impl From<Sketch> for Vec<(u32, u64)> {
    fn from(sketch: Sketch) -> Self {
        (sketch.first..).zip(sketch.counts).filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_buckets_cover_everything_and_are_narrow() {
        let mut next = 0;
        for bucket in 0..=bucket_of(u64::MAX) {
            let (low, high) = edges(bucket);
            assert_eq!(low, next, "bucket {bucket}");
            assert!((high - low) * 125 < low.max(125), "bucket {bucket}: {low} to {high}");
            next = high.wrapping_add(1);
        }
        assert_eq!(next, 0, "the last bucket ends at u64::MAX");
    }

    proptest! {
        #[test]
        fn order_statistics_lie_in_their_bucket(mut values in prop::collection::vec(0..200_000_000u64, 1..60)) {
            let mut sketch = Sketch::default();
            for &value in &values {
                sketch.record(value, 1);
            }
            values.sort_unstable();
            for (rank, value) in (1..).zip(values) {
                let bucket = sketch.order_statistic(rank).unwrap();
                prop_assert!(bucket.low <= value && value <= bucket.high);
            }
            prop_assert_eq!(sketch.order_statistic(0), None);
            prop_assert_eq!(sketch.order_statistic(sketch.total() + 1), None);
        }

        #[test]
        fn merging_is_recording_all(left in prop::collection::vec(any::<u64>(), 0..20), right in prop::collection::vec(0..1000u64, 0..20)) {
            let of = |values: &[u64]| {
                let mut sketch = Sketch::default();
                for &value in values {
                    sketch.record(value, 2);
                }
                sketch
            };
            let mut merged = of(&left);
            merged.merge(&of(&right));
            let all = of(&[left, right].concat());
            prop_assert!(merged.buckets().eq(all.buckets()));
            prop_assert_eq!(merged.total(), all.total());
            let kept: Sketch = serde_json::from_str(&serde_json::to_string(&merged).unwrap()).unwrap();
            prop_assert!(kept.buckets().eq(merged.buckets()));
        }
    }
}
