//! Limits from the last good build, outcome class by outcome class.
//!
//! A class is limited by itself, so that a change in what users do (more failed logins at night) moves no limit, and by
//! quantiles besides its mean: bets on "more than 1 in 100 above the old 99th percentile" find a slow-down of a
//! uniform path in a fraction of the requests that bets on the mean need.

use serde::{Deserialize, Serialize};

use super::{BuildAggregate, ClassAggregate, EndpointAggregate};
use crate::model::{BuildId, EndpointName, StatusClass};
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
    /// Classes of their own first; the last one takes all the others.
    pub classes: Vec<ClassLimits>,
}

/// Limits of one outcome class, in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassLimits {
    /// `None`: all status classes without one of their own.
    pub class: Option<StatusClass>,
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
    pub fn classes_of(baseline: &EndpointAggregate) -> usize {
        own_classes(baseline).count() + 1
    }

    /// `baseline` needs [`MIN_REQUESTS`].
    pub fn new(baseline: &EndpointAggregate, strictness: Strictness) -> Self {
        let mean_ns = baseline.mean_ns().unwrap_or(0.0);
        let own: Vec<_> = own_classes(baseline).collect();
        let rest = baseline.pooled(|class| own.iter().all(|(own, _)| *own != class));
        let mut classes: Vec<_> = own
            .into_iter()
            .map(|(class, aggregate)| ClassLimits::known(Some(class), aggregate.clone(), mean_ns, strictness))
            .collect();
        let rest = if rest.requests >= MIN_CLASS_REQUESTS {
            ClassLimits::known(None, rest, mean_ns, strictness)
        } else {
            let dearest = classes.iter().map(|class| class.mean_ns).fold(0.0, f64::max);
            ClassLimits::hardly_known(rest, dearest, mean_ns, strictness)
        };
        classes.push(rest);

        let cpu_ns = (baseline.cpu_ns() as f64).max(1.0);
        for class in &mut classes {
            class.cpu_share = class.aggregate.cpu_ns as f64 / cpu_ns;
            class.weight = class.cpu_share + LEAST_WEIGHT;
        }
        let total: f64 = classes.iter().map(|class| class.weight).sum();
        for class in &mut classes {
            class.weight /= total;
        }
        Self { classes }
    }
}

impl ClassLimits {
    fn known(class: Option<StatusClass>, aggregate: ClassAggregate, all_ns: f64, how: Strictness) -> Self {
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

    /// An outcome that the good build (almost) never had may cost what its dearest one may, and no less than three times
    /// what it was seen to: a build that answers every login with an error must not escape for lack of comparison.
    fn hardly_known(aggregate: ClassAggregate, dearest_ns: f64, all_ns: f64, how: Strictness) -> Self {
        let seen = aggregate.mean_ns().unwrap_or(0.0);
        let mean_ns =
            dearest_ns.max(3.0 * how.ratio * seen).max(seen + 5.0 * FLOOR * all_ns).clamp(LEAST_NS, MOST_NS);
        Self { class: None, weight: 0.0, cpu_share: 0.0, mean_ns, quantiles: Vec::new(), aggregate }
    }
}

fn limit(bound_ns: f64, all_ns: f64, ratio: f64) -> f64 {
    (ratio * bound_ns).max(bound_ns + FLOOR * all_ns).clamp(LEAST_NS, MOST_NS)
}

fn own_classes(baseline: &EndpointAggregate) -> impl Iterator<Item = (StatusClass, &ClassAggregate)> {
    baseline.classes().filter(|(_, aggregate)| aggregate.requests >= MIN_CLASS_REQUESTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOW: Strictness = Strictness { ratio: 1.3, error: 2.5e-5, cap: 50.0 };

    fn endpoint(classes: &[(StatusClass, u64, u64)]) -> EndpointAggregate {
        let mut endpoint = EndpointAggregate::default();
        for &(class, cpu_ns, count) in classes {
            endpoint.record(class, cpu_ns, count, 0);
        }
        endpoint
    }

    #[test]
    fn limits_follow_the_ratio_and_leave_the_floor() {
        let baseline = endpoint(&[
            (StatusClass::Redirect, 100_000_000, 900),
            (StatusClass::ClientError, 1_000_000, 400),
        ]);
        let limits = EndpointLimits::new(&baseline, HOW);
        let [success, failure, rest] = limits.classes.as_slice() else { panic!("{limits:?}") };
        assert!((success.mean_ns / 130e6 - 1.0).abs() < 0.01, "{}", success.mean_ns);
        let floor = 1e6 + 0.05 * baseline.mean_ns().unwrap();
        assert!((failure.mean_ns / floor - 1.0).abs() < 0.01, "{} and {floor}", failure.mean_ns);
        assert!((rest.mean_ns / success.mean_ns - 1.0).abs() < 1e-12);
        assert_eq!((rest.class, rest.quantiles.len()), (None, 0));
        let total: f64 = limits.classes.iter().map(|class| class.weight).sum();
        assert!((total - 1.0).abs() < 1e-12);
        assert_eq!(EndpointLimits::classes_of(&baseline), 3);
    }

    #[test]
    fn a_p99_limit_needs_enough_requests() {
        let of = |n| {
            EndpointLimits::new(&endpoint(&[(StatusClass::Success, 5_000_000, n)]), HOW).classes[0]
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
        let limits = EndpointLimits::new(&baseline, HOW);
        let [_, rest] = limits.classes.as_slice() else { panic!("{limits:?}") };
        assert_eq!(rest.aggregate.requests, 60);
        assert!((rest.mean_ns / 39e6 - 1.0).abs() < 0.01, "{}", rest.mean_ns);
    }

    #[test]
    fn a_small_baseline_is_none() {
        let mut aggregate = BuildAggregate::default();
        let login = EndpointName::from("login");
        aggregate.endpoint_mut(&login).record(StatusClass::Success, 1, 199, 0);
        let mut baseline = Baseline::new("a".into(), aggregate);
        assert!(baseline.endpoint(&login).is_none());
        assert_eq!(baseline.requests(&login), 199);
        baseline.aggregate.endpoint_mut(&login).record(StatusClass::Success, 1, 1, 0);
        assert!(baseline.endpoint(&login).is_some());
    }
}
