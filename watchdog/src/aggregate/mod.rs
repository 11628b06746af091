//! What a build's requests cost: count, exact sum and sketch per endpoint and status class.
//!
//! One [`BuildAggregate`] per (service, build). The agent records every finished watched request in it; the store keeps
//! it as JSON; the [`Baseline`] of the next build is made from it. Pure values: merging two aggregates gives what
//! recording everything in one would have given.

#![forbid(unsafe_code)]

mod baseline;
mod sketch;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{EndpointName, StatusClass};

pub use baseline::{
    Baseline, ClassLimits, EndpointLimits, MIN_CLASS_REQUESTS, MIN_REQUESTS, QuantileLimit, Strictness,
};
pub use sketch::{Bucket, Sketch};

/// Requests of one (service, endpoint, build, status class).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassAggregate {
    /// Finished requests.
    pub requests: u64,
    /// Exact on-CPU time of all of them, continuations included (2^64 ns are 584 years).
    pub cpu_ns: u64,
    /// On-CPU time of single requests, in nanoseconds.
    pub sketch: Sketch,
    /// End of the first and of the last request, `CLOCK_MONOTONIC`.
    pub first_mono_ns: u64,
    pub last_mono_ns: u64,
}

impl ClassAggregate {
    /// `count` requests of `cpu_ns` each.
    pub fn record(&mut self, cpu_ns: u64, count: u64, end_mono_ns: u64) {
        if count == 0 {
            return;
        }
        if self.requests == 0 {
            self.first_mono_ns = end_mono_ns;
        }
        self.first_mono_ns = self.first_mono_ns.min(end_mono_ns);
        self.last_mono_ns = self.last_mono_ns.max(end_mono_ns);
        self.requests += count;
        self.cpu_ns = self.cpu_ns.saturating_add(cpu_ns.saturating_mul(count));
        self.sketch.record(cpu_ns, count);
    }

    /// More on-CPU time of a request that was recorded already.
    pub fn continuation(&mut self, cpu_ns: u64) {
        self.cpu_ns = self.cpu_ns.saturating_add(cpu_ns);
    }

    /// Nanoseconds per request, `None` without requests.
    pub fn mean_ns(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.cpu_ns as f64 / self.requests as f64)
    }

    pub fn merge(&mut self, other: &Self) {
        if other.requests > 0 {
            let first = if self.requests == 0 { other.first_mono_ns } else { self.first_mono_ns };
            self.first_mono_ns = first.min(other.first_mono_ns);
            self.last_mono_ns = self.last_mono_ns.max(other.last_mono_ns);
        }
        self.requests += other.requests;
        self.cpu_ns = self.cpu_ns.saturating_add(other.cpu_ns);
        self.sketch.merge(&other.sketch);
    }

    /// How many requests were above `limit_ns`; those in the limit's own bucket count as above when the bucket's middle is.
    pub fn requests_above(&self, limit_ns: f64) -> u64 {
        self.sketch.buckets().filter(|bucket| bucket.middle() > limit_ns).map(|bucket| bucket.count).sum()
    }

    /// Share of the CPU above `cap_ns` per request, 0 to 1, from the sketch.
    pub fn share_above(&self, cap_ns: f64) -> f64 {
        let (mut above, mut all) = (0.0, 0.0);
        for bucket in self.sketch.buckets() {
            all += bucket.middle() * bucket.count as f64;
            above += (bucket.middle() - cap_ns).max(0.0) * bucket.count as f64;
        }
        if all > 0.0 { above / all } else { 0.0 }
    }

    /// Mean and sample standard deviation of `min(x, cap_ns)` in nanoseconds: the mean from the exact sum less what the
    /// sketch has above the cap. `None` below two requests.
    pub fn capped_moments_ns(&self, cap_ns: f64) -> Option<(f64, f64)> {
        if self.requests < 2 {
            return None;
        }
        let n = self.requests as f64;
        let sum = |figure: &dyn Fn(f64) -> f64| -> f64 {
            self.sketch.buckets().map(|bucket| figure(bucket.middle()) * bucket.count as f64).sum()
        };
        let mean = (self.cpu_ns as f64 - sum(&|x| (x - cap_ns).max(0.0))).max(0.0) / n;
        let centre = sum(&|x| x.min(cap_ns)) / n;
        let squares = sum(&|x| (x.min(cap_ns) - centre) * (x.min(cap_ns) - centre));
        Some((mean, libm::sqrt(squares / (n - 1.0))))
    }
}

/// Requests of one (service, endpoint, build).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointAggregate {
    classes: BTreeMap<StatusClass, ClassAggregate>,
}

impl EndpointAggregate {
    pub fn record(&mut self, class: StatusClass, cpu_ns: u64, count: u64, end_mono_ns: u64) {
        self.classes.entry(class).or_default().record(cpu_ns, count, end_mono_ns);
    }

    pub fn continuation(&mut self, class: StatusClass, cpu_ns: u64) {
        self.classes.entry(class).or_default().continuation(cpu_ns);
    }

    pub fn class(&self, class: StatusClass) -> Option<&ClassAggregate> {
        self.classes.get(&class)
    }

    pub fn classes(&self) -> impl Iterator<Item = (StatusClass, &ClassAggregate)> {
        self.classes.iter().map(|(class, aggregate)| (*class, aggregate))
    }

    pub fn requests(&self) -> u64 {
        self.classes.values().map(|class| class.requests).sum()
    }

    pub fn cpu_ns(&self) -> u64 {
        self.classes.values().map(|class| class.cpu_ns).fold(0, u64::saturating_add)
    }

    /// Nanoseconds per request, `None` without requests.
    pub fn mean_ns(&self) -> Option<f64> {
        (self.requests() > 0).then(|| self.cpu_ns() as f64 / self.requests() as f64)
    }

    /// All classes (or those that `keep` names) in one.
    pub fn pooled(&self, keep: impl Fn(StatusClass) -> bool) -> ClassAggregate {
        let mut all = ClassAggregate::default();
        self.classes
            .iter()
            .filter(|(class, _)| keep(**class))
            .for_each(|(_, aggregate)| all.merge(aggregate));
        all
    }

    pub fn merge(&mut self, other: &Self) {
        for (class, aggregate) in &other.classes {
            self.classes.entry(*class).or_default().merge(aggregate);
        }
    }
}

/// Requests of one (service, build), by endpoint name: an index changes with the configuration, a name does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildAggregate {
    pub endpoints: BTreeMap<EndpointName, EndpointAggregate>,
}

impl BuildAggregate {
    /// The endpoint's aggregate, made if there is none yet.
    pub fn endpoint_mut(&mut self, name: &EndpointName) -> &mut EndpointAggregate {
        if !self.endpoints.contains_key(name) {
            self.endpoints.insert(name.clone(), EndpointAggregate::default());
        }
        self.endpoints.get_mut(name).expect("it was made above")
    }

    pub fn endpoint(&self, name: &EndpointName) -> Option<&EndpointAggregate> {
        self.endpoints.get(name)
    }

    pub fn requests(&self) -> u64 {
        self.endpoints.values().map(EndpointAggregate::requests).sum()
    }

    pub fn merge(&mut self, other: &Self) {
        for (name, aggregate) in &other.endpoints {
            self.endpoint_mut(name).merge(aggregate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sums_are_exact_and_means_come_from_them() {
        let mut endpoint = EndpointAggregate::default();
        endpoint.record(StatusClass::Success, 1_000_003, 1, 50);
        endpoint.record(StatusClass::ClientError, 7, 3, 40);
        endpoint.continuation(StatusClass::Success, 5);
        assert_eq!((endpoint.requests(), endpoint.cpu_ns()), (4, 1_000_029));
        assert_eq!(endpoint.mean_ns(), Some(250_007.25));
        let pooled = endpoint.pooled(|_| true);
        assert_eq!((pooled.first_mono_ns, pooled.last_mono_ns), (40, 50));
        assert_eq!(EndpointAggregate::default().mean_ns(), None);
    }

    #[test]
    fn capping_takes_the_tail_and_leaves_the_rest() {
        let mut class = ClassAggregate::default();
        class.record(1_000_000, 90, 0);
        class.record(11_000_000, 10, 0);
        let (mean, sd) = class.capped_moments_ns(1e12).unwrap();
        assert!((mean - 2e6).abs() < 1.0, "{mean}");
        assert!((sd / 3.015e6 - 1.0).abs() < 0.01, "{sd}");
        let (mean, sd) = class.capped_moments_ns(1e6).unwrap();
        assert!((mean / 1e6 - 1.0).abs() < 0.01 && sd < 5e3, "{mean} {sd}");
        assert!((class.share_above(1e6) - 0.5).abs() < 0.01);
    }

    proptest! {
        #[test]
        fn merging_is_recording_all(samples in prop::collection::vec((0u16..6, 0..1_000_000_000u64, 1u64..3, any::<u64>()), 0..40), cut in 0usize..40) {
            let record = |samples: &[(u16, u64, u64, u64)]| {
                let mut build = BuildAggregate::default();
                for &(class, cpu_ns, count, at) in samples {
                    build.endpoint_mut(&"login".into()).record(StatusClass::of_index(class), cpu_ns, count, at);
                }
                build
            };
            let cut = cut.min(samples.len());
            let mut merged = record(&samples[..cut]);
            merged.merge(&record(&samples[cut..]));
            let all = record(&samples);
            let kept: BuildAggregate = serde_json::from_str(&serde_json::to_string(&merged).unwrap()).unwrap();
            prop_assert_eq!(serde_json::to_string(&kept).unwrap(), serde_json::to_string(&all).unwrap());
            prop_assert_eq!(kept.requests(), samples.iter().map(|sample| sample.2).sum::<u64>());
        }
    }
}
