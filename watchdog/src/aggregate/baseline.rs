//! Limits from the last good build, outcome class by outcome class.
//!
//! A class is limited by itself, so that a change in what users do (more failed logins at night) moves no limit, and by
//! quantiles besides its mean: bets on "more than 1 in 100 above the old 99th percentile" find a slow-down of a
//! uniform path in a fraction of the requests that bets on the mean need.

use serde::{Deserialize, Serialize};

use super::{Age, BuildAggregate, ClassAggregate, ClassKey, ClassMap, EndpointAggregate, NEEDED_STARTS};
use crate::model::{BuildId, EndpointName};
use crate::sequential::stats::{normal_upper_quantile, quantile_upper_rank};

/// Requests of an endpoint below which a build is no baseline for it.
pub const MIN_REQUESTS: u64 = 200;
/// Requests of a class below which it is judged together with other rare ones.
pub const MIN_CLASS_REQUESTS: u64 = 50;
/// Part of the endpoint's mean that every limit leaves as room: nobody is woken for a path of 1 ms that needs 1.3 ms.
const FLOOR: f64 = 0.05;
/// Added to each class's share of the CPU before the shares are made weights, so that no class goes unwatched.
const LEAST_WEIGHT: f64 = 0.05;
/// Limits stay within what a request can have been measured at.
const LEAST_NS: f64 = 1.0;
const MOST_NS: f64 = u64::MAX as f64;
const QUANTILES: [f64; 2] = [0.9, 0.99];

/// The last good build of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    pub build: BuildId,
    pub aggregate: BuildAggregate,
}

impl Baseline {
    pub fn new(build: BuildId, aggregate: BuildAggregate) -> Self {
        Self { build, aggregate }
    }

    /// The endpoint's figures, if there are enough of them to compare with.
    pub fn endpoint(&self, name: &EndpointName) -> Option<&EndpointAggregate> {
        self.aggregate.endpoint(name).filter(|endpoint| endpoint.requests() >= MIN_REQUESTS)
    }

    /// Requests of the endpoint, enough or not.
    pub fn requests(&self, name: &EndpointName) -> u64 {
        self.aggregate.endpoint(name).map_or(0, EndpointAggregate::requests)
    }

    /// Whether it is known what requests cost on processes that have just started: [`NEEDED_STARTS`] starts were seen,
    /// with enough requests of the endpoint in each bucket of the first 30 s. Then the age is a part of the class, and no
    /// declared warm-up factor is to be applied as well.
    pub fn knows_warm_up(&self, name: &EndpointName) -> bool {
        let Some(endpoint) = self.endpoint(name) else { return false };
        let seen = |age| endpoint.pooled(|cell| cell.age == age).requests >= MIN_CLASS_REQUESTS;
        self.aggregate.starts.count() >= NEEDED_STARTS
            && [Age::To3, Age::To10, Age::To30].into_iter().all(seen)
    }
}

/// How the limits follow from the baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strictness {
    /// Allowed multiple of the baseline.
    pub ratio: f64,
    /// Probability that one limit lies below `ratio` times the truth.
    pub error: f64,
    /// Requests count for at most so many times their class's mean.
    pub cap: f64,
}

/// Limits of one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointLimits {
    /// In the order of `map`; the last one takes all the others.
    pub classes: Vec<ClassLimits>,
    pub map: ClassMap,
}

/// Limits of one outcome class, in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassLimits {
    /// `None`: all outcomes without a class of their own.
    pub class: Option<ClassKey>,
    /// Share of the endpoint's capital; the weights sum to 1.
    pub weight: f64,
    /// Share of the endpoint's CPU at baseline time.
    pub cpu_share: f64,
    pub mean_ns: f64,
    pub quantiles: Vec<QuantileLimit>,
    /// What the limits rest on.
    pub aggregate: ClassAggregate,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantileLimit {
    pub p: f64,
    pub limit_ns: f64,
}

impl EndpointLimits {
    /// Number of classes that [`Self::new`] makes of `baseline`.
    pub fn classes_of(baseline: &EndpointAggregate, warm_up_known: bool) -> usize {
        ClassMap::new(baseline, warm_up_known).len() + 1
    }

    /// `baseline` needs [`MIN_REQUESTS`]. `warm_up_known` as [`Baseline::knows_warm_up`] says.
    pub fn new(baseline: &EndpointAggregate, warm_up_known: bool, strictness: Strictness) -> Self {
        let mean_ns = baseline.mean_ns().unwrap_or(0.0);
        let map = ClassMap::new(baseline, warm_up_known);
        let mut classes: Vec<_> = map
            .keys()
            .map(|key| {
                let aggregate = baseline.pooled(|cell| key.holds(cell));
                ClassLimits::known(Some(key), aggregate, mean_ns, strictness)
            })
            .collect();
        let dearest_ns = classes.iter().map(|class| class.mean_ns).fold(0.0, f64::max);
        let rest = baseline.pooled(|cell| map.of(cell).is_none());
        classes.push(ClassLimits::other(rest, dearest_ns, mean_ns, strictness));

        let cpu_ns = (baseline.cpu_ns() as f64).max(1.0);
        for class in &mut classes {
            class.cpu_share = class.aggregate.cpu_ns as f64 / cpu_ns;
            class.weight = class.cpu_share + LEAST_WEIGHT;
        }
        let total: f64 = classes.iter().map(|class| class.weight).sum();
        for class in &mut classes {
            class.weight /= total;
        }
        Self { classes, map }
    }
}

impl ClassLimits {
    fn known(class: Option<ClassKey>, aggregate: ClassAggregate, all_ns: f64, how: Strictness) -> Self {
        let cap_ns = how.cap * aggregate.mean_ns().unwrap_or(0.0);
        let (mean, sd) = aggregate.capped_moments_ns(cap_ns).expect("a known class has 50 requests");
        let upper = mean + normal_upper_quantile(how.error) * sd / libm::sqrt(aggregate.requests as f64);
        let quantile = |p: f64| {
            let rank = quantile_upper_rank(aggregate.requests, p, how.error)?;
            let bound = aggregate.sketch.order_statistic(rank)?.high as f64;
            Some(QuantileLimit { p, limit_ns: limit(bound, all_ns, how.ratio) })
        };
        Self {
            class,
            weight: 0.0,
            cpu_share: 0.0,
            mean_ns: limit(upper, all_ns, how.ratio),
            quantiles: QUANTILES.into_iter().filter_map(quantile).collect(),
            aggregate,
        }
    }

    /// Outcomes that are rare on the good build, and those that it never had, together: they may cost what its dearest one
    /// may, so only their mean is limited. A build that answers every login with an error must not escape for lack of
    /// comparison, and one with a new outcome is not called bad for a rare one that was cheap.
    fn other(aggregate: ClassAggregate, dearest_ns: f64, all_ns: f64, how: Strictness) -> Self {
        let own_ns = if aggregate.requests >= MIN_CLASS_REQUESTS {
            Self::known(None, aggregate.clone(), all_ns, how).mean_ns
        } else {
            // No less than three times what they were seen to cost.
            let seen = aggregate.mean_ns().unwrap_or(0.0);
            (3.0 * how.ratio * seen).max(seen + 5.0 * FLOOR * all_ns)
        };
        let mean_ns = dearest_ns.max(own_ns).clamp(LEAST_NS, MOST_NS);
        Self { class: None, weight: 0.0, cpu_share: 0.0, mean_ns, quantiles: Vec::new(), aggregate }
    }
}

fn limit(bound_ns: f64, all_ns: f64, ratio: f64) -> f64 {
    (ratio * bound_ns).max(bound_ns + FLOOR * all_ns).clamp(LEAST_NS, MOST_NS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Cell, Starts};
    use crate::model::StatusClass;

    const HOW: Strictness = Strictness { ratio: 1.3, error: 2.5e-5, cap: 50.0 };

    fn endpoint(classes: &[(StatusClass, u64, u64)]) -> EndpointAggregate {
        let mut endpoint = EndpointAggregate::default();
        for &(class, cpu_ns, count) in classes {
            endpoint.record(class, cpu_ns, count);
        }
        endpoint
    }

    #[test]
    fn limits_follow_the_ratio_and_leave_the_floor() {
        let baseline = endpoint(&[
            (StatusClass::Redirect, 100_000_000, 900),
            (StatusClass::ClientError, 1_000_000, 400),
        ]);
        let limits = EndpointLimits::new(&baseline, false, HOW);
        let [success, failure, rest] = limits.classes.as_slice() else { panic!("{limits:?}") };
        assert!((success.mean_ns / 130e6 - 1.0).abs() < 0.01, "{}", success.mean_ns);
        let floor = 1e6 + 0.05 * baseline.mean_ns().unwrap();
        assert!((failure.mean_ns / floor - 1.0).abs() < 0.01, "{} and {floor}", failure.mean_ns);
        assert!((rest.mean_ns / success.mean_ns - 1.0).abs() < 1e-12);
        assert_eq!((rest.class, rest.quantiles.len()), (None, 0));
        let total: f64 = limits.classes.iter().map(|class| class.weight).sum();
        assert!((total - 1.0).abs() < 1e-12);
        assert_eq!(EndpointLimits::classes_of(&baseline, false), 3);
    }

    #[test]
    fn a_p99_limit_needs_enough_requests() {
        let of = |n| {
            EndpointLimits::new(&endpoint(&[(StatusClass::Success, 5_000_000, n)]), false, HOW).classes[0]
                .quantiles
                .len()
        };
        assert_eq!((of(200), of(1054), of(1055)), (1, 1, 2));
    }

    #[test]
    fn rare_outcomes_are_judged_together() {
        let baseline = endpoint(&[
            (StatusClass::Success, 10_000_000, 500),
            (StatusClass::ClientError, 30_000_000, 30),
            (StatusClass::ServerError, 30_000_000, 30),
        ]);
        let limits = EndpointLimits::new(&baseline, false, HOW);
        let [_, rest] = limits.classes.as_slice() else { panic!("{limits:?}") };
        assert_eq!(rest.aggregate.requests, 60);
        assert!((rest.mean_ns / 39e6 - 1.0).abs() < 0.01, "{}", rest.mean_ns);
    }

    #[test]
    fn a_small_baseline_is_none() {
        let mut aggregate = BuildAggregate::default();
        let login = EndpointName::from("login");
        aggregate.endpoint_mut(&login).record(StatusClass::Success, 1, 199);
        let mut baseline = Baseline::new("a".into(), aggregate);
        assert!(baseline.endpoint(&login).is_none());
        assert_eq!(baseline.requests(&login), 199);
        baseline.aggregate.endpoint_mut(&login).record(StatusClass::Success, 1, 1);
        assert!(baseline.endpoint(&login).is_some());
    }

    #[test]
    fn statuses_of_a_class_are_limited_by_themselves_and_new_ones_by_the_dearest() {
        let mut baseline = EndpointAggregate::default();
        baseline.record(Cell::new(401, Age::Older), 1_000_000, 500);
        baseline.record(Cell::new(422, Age::Older), 20_000_000, 500);
        // Rare and cheap, but enough to be known as "other".
        baseline.record(Cell::new(429, Age::Older), 100_000, 30);
        baseline.record(Cell::new(404, Age::Older), 100_000, 30);
        let limits = EndpointLimits::new(&baseline, false, HOW);
        let [unauthorized, invalid, other] = limits.classes.as_slice() else { panic!("{limits:?}") };
        assert_eq!(unauthorized.class.and_then(|key| key.status), Some(401));
        assert!(unauthorized.mean_ns < 2e6, "{}", unauthorized.mean_ns);
        assert!((invalid.mean_ns / 26e6 - 1.0).abs() < 0.01, "{}", invalid.mean_ns);
        // A 500, which it never had, is not held to what a 429 costs.
        assert_eq!(limits.map.of(Cell::new(500, Age::Older)), None);
        assert!((other.mean_ns / invalid.mean_ns - 1.0).abs() < 1e-9 && other.quantiles.is_empty());
    }

    #[test]
    fn the_warm_up_is_known_after_three_starts_with_requests_in_each_bucket() {
        let login = EndpointName::from("login");
        let baseline = |starts: u64, young: u64| {
            let mut aggregate = BuildAggregate::default();
            for start in 0..starts {
                aggregate.starts.record("boot", start * 1000);
            }
            for age in [Age::To3, Age::To10, Age::To30] {
                aggregate.endpoint_mut(&login).record(Cell::new(200, age), 9_000_000, young);
            }
            aggregate.endpoint_mut(&login).record(Cell::new(200, Age::Older), 3_000_000, 500);
            Baseline::new("a".into(), aggregate)
        };
        assert!(!baseline(2, 50).knows_warm_up(&login));
        assert!(!baseline(3, 49).knows_warm_up(&login));
        assert!(!baseline(3, 50).knows_warm_up(&"search".into()));
        assert!(baseline(3, 50).knows_warm_up(&login));
        assert!(Starts::default().is_empty());
        let limits = EndpointLimits::new(&baseline(3, 50).aggregate.endpoints[&login], true, HOW);
        let young = &limits.classes[0];
        assert_eq!(young.class.and_then(|key| key.age), Some(Age::To3));
        assert!((young.mean_ns / 11.7e6 - 1.0).abs() < 0.02, "{}", young.mean_ns);
        assert!((limits.classes[3].mean_ns / 3.9e6 - 1.0).abs() < 0.02, "{}", limits.classes[3].mean_ns);
    }
}
