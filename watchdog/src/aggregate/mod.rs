//! What a build's requests cost: count, exact sum and sketch per endpoint, status and age of the process.
//!
//! One [`BuildAggregate`] per (service, build). The agent records every finished watched request in it; the store keeps
//! it cell by cell; the [`Baseline`] of the next build is made from it. Pure values: merging two aggregates gives what
//! recording everything in one would have given, so that increments can be journaled.

#![forbid(unsafe_code)]

mod baseline;
mod cell;
mod classes;
mod peak;
mod sketch;
mod starts;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{EndpointName, StatusClass};

pub use baseline::{
    Baseline, ClassLimits, EndpointLimits, MIN_CLASS_REQUESTS, MIN_REQUESTS, QuantileLimit, Strictness,
};
pub use cell::{Age, Cell};
pub use classes::{ClassKey, ClassMap, MAX_CLASSES};
pub use peak::{NEEDED_SECONDS, PeakRate, WINDOW_MINUTES};
pub use sketch::{Bucket, Sketch};
pub use starts::{NEEDED_STARTS, Starts};

/// Exact statuses that are told apart on one endpoint; of further ones only the class is kept. A server that invents
/// statuses must not take memory without bound.
const MAX_STATUSES: usize = 32;

/// Requests of one (service, endpoint, build) in one cell or several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassAggregate {
    /// Finished requests.
    pub requests: u64,
    /// Exact on-CPU time of all of them, continuations included (2^64 ns are 584 years).
    pub cpu_ns: u64,
    /// On-CPU time of single requests, in nanoseconds.
    pub sketch: Sketch,
}

impl ClassAggregate {
    /// `count` requests of `cpu_ns` each.
    pub fn record(&mut self, cpu_ns: u64, count: u64) {
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
#[serde(from = "Vec<(Cell, ClassAggregate)>", into = "Vec<(Cell, ClassAggregate)>")]
pub struct EndpointAggregate {
    cells: BTreeMap<Cell, ClassAggregate>,
}

impl EndpointAggregate {
    /// `count` requests of `cpu_ns` each.
    pub fn record(&mut self, cell: impl Into<Cell>, cpu_ns: u64, count: u64) {
        if count > 0 {
            self.cell_mut(cell.into()).record(cpu_ns, count);
        }
    }

    pub fn continuation(&mut self, cell: impl Into<Cell>, cpu_ns: u64) {
        self.cell_mut(cell.into()).continuation(cpu_ns);
    }

    /// Adds what is known of a cell from elsewhere.
    pub fn merge_cell(&mut self, cell: Cell, aggregate: &ClassAggregate) {
        self.cell_mut(cell).merge(aggregate);
    }

    fn cell_mut(&mut self, mut cell: Cell) -> &mut ClassAggregate {
        if cell.status != 0 && !self.cells.contains_key(&cell) && self.is_full_for(cell.status) {
            cell.status = 0;
        }
        self.cells.entry(cell).or_default()
    }

    fn is_full_for(&self, status: u16) -> bool {
        let mut statuses: Vec<u16> = self.cells.keys().map(|cell| cell.status).collect();
        // In the order of classes, so of statuses.
        statuses.dedup();
        statuses.sort_unstable();
        statuses.dedup();
        statuses.iter().filter(|known| **known != 0).count() >= MAX_STATUSES && !statuses.contains(&status)
    }

    /// All of a status class, `None` without any.
    pub fn class(&self, class: StatusClass) -> Option<ClassAggregate> {
        let mut of_class = self.cells.iter().filter(|(cell, _)| cell.class == class).peekable();
        of_class.peek()?;
        let mut all = ClassAggregate::default();
        of_class.for_each(|(_, aggregate)| all.merge(aggregate));
        Some(all)
    }

    /// By status class, those with any.
    pub fn classes(&self) -> impl Iterator<Item = (StatusClass, ClassAggregate)> {
        StatusClass::ALL.into_iter().filter_map(|class| Some((class, self.class(class)?)))
    }

    pub fn cells(&self) -> impl Iterator<Item = (Cell, &ClassAggregate)> {
        self.cells.iter().map(|(cell, aggregate)| (*cell, aggregate))
    }

    pub fn requests(&self) -> u64 {
        self.cells.values().map(|cell| cell.requests).sum()
    }

    pub fn cpu_ns(&self) -> u64 {
        self.cells.values().map(|cell| cell.cpu_ns).fold(0, u64::saturating_add)
    }

    /// Nanoseconds per request, `None` without requests.
    pub fn mean_ns(&self) -> Option<f64> {
        (self.requests() > 0).then(|| self.cpu_ns() as f64 / self.requests() as f64)
    }

    /// All cells (or those that `keep` names) in one.
    pub fn pooled(&self, keep: impl Fn(Cell) -> bool) -> ClassAggregate {
        let mut all = ClassAggregate::default();
        self.cells.iter().filter(|(cell, _)| keep(**cell)).for_each(|(_, aggregate)| all.merge(aggregate));
        all
    }

    pub fn merge(&mut self, other: &Self) {
        for (cell, aggregate) in &other.cells {
            self.merge_cell(*cell, aggregate);
        }
    }
}

impl From<Vec<(Cell, ClassAggregate)>> for EndpointAggregate {
    fn from(cells: Vec<(Cell, ClassAggregate)>) -> Self {
        let mut endpoint = Self::default();
        for (cell, aggregate) in &cells {
            endpoint.merge_cell(*cell, aggregate);
        }
        endpoint
    }
}

impl From<EndpointAggregate> for Vec<(Cell, ClassAggregate)> {
    fn from(endpoint: EndpointAggregate) -> Self {
        endpoint.cells.into_iter().collect()
    }
}

/// Requests of one (service, build), by endpoint name: an index changes with the configuration, a name does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildAggregate {
    pub endpoints: BTreeMap<EndpointName, EndpointAggregate>,
    /// How often its processes were seen from their beginning.
    #[serde(default)]
    pub starts: Starts,
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
        self.starts.merge(&other.starts);
    }

    /// Nothing was recorded in it.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.starts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sums_are_exact_and_means_come_from_them() {
        let mut endpoint = EndpointAggregate::default();
        endpoint.record(StatusClass::Success, 1_000_003, 1);
        endpoint.record(StatusClass::ClientError, 7, 3);
        endpoint.continuation(StatusClass::Success, 5);
        assert_eq!((endpoint.requests(), endpoint.cpu_ns()), (4, 1_000_029));
        assert_eq!(endpoint.mean_ns(), Some(250_007.25));
        assert_eq!(endpoint.pooled(|_| true).cpu_ns, 1_000_029);
        assert_eq!(EndpointAggregate::default().mean_ns(), None);
    }

    #[test]
    fn capping_takes_the_tail_and_leaves_the_rest() {
        let mut class = ClassAggregate::default();
        class.record(1_000_000, 90);
        class.record(11_000_000, 10);
        let (mean, sd) = class.capped_moments_ns(1e12).unwrap();
        assert!((mean - 2e6).abs() < 1.0, "{mean}");
        assert!((sd / 3.015e6 - 1.0).abs() < 0.01, "{sd}");
        let (mean, sd) = class.capped_moments_ns(1e6).unwrap();
        assert!((mean / 1e6 - 1.0).abs() < 0.01 && sd < 5e3, "{mean} {sd}");
        assert!((class.share_above(1e6) - 0.5).abs() < 0.01);
    }

    proptest! {
        #[test]
        fn merging_is_recording_all(samples in prop::collection::vec((100u16..600, 0u8..5, 0..1_000_000_000u64, 1u64..3), 0..40), cut in 0usize..40) {
            let record = |samples: &[(u16, u8, u64, u64)]| {
                let mut build = BuildAggregate::default();
                for &(status, age, cpu_ns, count) in samples {
                    let cell = Cell::new(status / 20 * 20, age.into());
                    build.endpoint_mut(&"login".into()).record(cell, cpu_ns, count);
                }
                build
            };
            let cut = cut.min(samples.len());
            let mut merged = record(&samples[..cut]);
            merged.merge(&record(&samples[cut..]));
            let all = record(&samples);
            let kept: BuildAggregate = serde_json::from_str(&serde_json::to_string(&merged).unwrap()).unwrap();
            prop_assert_eq!(serde_json::to_string(&kept).unwrap(), serde_json::to_string(&all).unwrap());
            prop_assert_eq!(kept.requests(), samples.iter().map(|sample| sample.3).sum::<u64>());
        }
    }

    #[test]
    fn a_server_that_invents_statuses_takes_no_more_memory() {
        let mut endpoint = EndpointAggregate::default();
        for status in 200..300 {
            endpoint.record(Cell::new(status, Age::Older), 5, 1);
        }
        endpoint.record(Cell::new(204, Age::To3), 5, 1);
        assert_eq!(endpoint.cells().count(), MAX_STATUSES + 2);
        assert_eq!(endpoint.class(StatusClass::Success).unwrap().requests, 101);
    }
}
