//! What a build may need, from a good build of which everything is known, or from so many requests of it.

use watchdog::aggregate::{EndpointAggregate, EndpointLimits, Strictness};
use watchdog::model::StatusClass;
use watchdog::sequential::stats::{normal_upper_quantile, quantile_upper_rank};
use watchdog::sequential::{Component, Kind, Parameters, Scope, Stratum};

use crate::rng::Rng;
use crate::workload::Workload;

/// How much of a good build is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// The distribution itself.
    Exact,
    /// So many of its requests, in the agent's own sketch and by the agent's own rules.
    Stored(u32),
}

/// Part of the false rollbacks that an unlucky baseline may cause, as in the agent.
const BASELINE_ERROR_SHARE: f64 = 0.1;
/// As the agent does: room that every limit leaves, and the least weight of a class.
const FLOOR: f64 = 0.05;
const LEAST_WEIGHT: f64 = 0.05;
const QUANTILES: [f64; 2] = [0.90, 0.99];
/// Shares above the levels of the ladder.
pub const TAILS: [f64; 7] = [0.5, 0.2, 0.1, 0.03, 0.01, 0.003, 0.001];
/// Parts of a class's capital.
const MEAN_PART: f64 = 0.5;
const QUANTILE_PART: f64 = 0.25;

#[derive(Clone, Debug)]
pub struct ClassLimits {
    pub number: u8,
    /// The weights of all classes sum to 1.
    pub weight: f64,
    pub mean_ms: f64,
    /// Level and limit.
    pub quantiles: Vec<(f64, f64)>,
    /// Share above and limit of the levels of [`crate::ladder`], as many as the baseline tells.
    pub ladder: Vec<(f64, f64)>,
}

/// Limits in milliseconds that are `ratio` times what the good build needs.
#[derive(Clone, Debug)]
pub struct Limits {
    pub pooled_ms: f64,
    pub classes: Vec<ClassLimits>,
    /// Number of the class of each outcome of the workload.
    pub class_of: Vec<u8>,
}

impl Limits {
    pub fn new(
        workload: &Workload,
        ratio: f64,
        baseline: Baseline,
        parameters: &Parameters,
        rng: &mut Rng,
    ) -> Self {
        match baseline {
            Baseline::Exact => Self::exact(workload, ratio),
            Baseline::Stored(requests) => Self::stored(workload, ratio, requests, parameters, rng),
        }
    }

    fn exact(workload: &Workload, ratio: f64) -> Self {
        let all = workload.mean();
        let limit = |figure: f64| (ratio * figure).max(figure + FLOOR * all);
        let numbers = 0..u8::try_from(workload.outcomes.len()).expect("an endpoint has few outcomes");
        let mut classes: Vec<ClassLimits> = numbers
            .clone()
            .zip(workload.outcomes)
            .map(|(number, outcome)| ClassLimits {
                number,
                weight: outcome.share * outcome.cost.mean() / all + LEAST_WEIGHT,
                mean_ms: limit(outcome.cost.mean()),
                quantiles: QUANTILES.iter().map(|&p| (p, limit(outcome.cost.quantile(p)))).collect(),
                ladder: TAILS.iter().map(|&tail| (tail, limit(outcome.cost.quantile(1.0 - tail)))).collect(),
            })
            .collect();
        let total: f64 = classes.iter().map(|class| class.weight).sum();
        for class in &mut classes {
            class.weight /= total;
        }
        Self { pooled_ms: ratio * all, classes, class_of: numbers.collect() }
    }

    /// Each outcome stands for a status class; what the agent makes of them, rare ones together included, is its own.
    fn stored(
        workload: &Workload,
        ratio: f64,
        requests: u32,
        parameters: &Parameters,
        rng: &mut Rng,
    ) -> Self {
        let mut good = EndpointAggregate::default();
        for _ in 0..requests {
            let class = workload.pick(rng, 0.0);
            let ns = 1e6 * workload.outcomes[usize::from(class)].cost.draw(rng);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a request's nanoseconds"
            )]
            good.record(StatusClass::ALL[usize::from(class)], ns as u64, 1);
        }
        let classes = EndpointLimits::classes_of(&good, false);
        let error = BASELINE_ERROR_SHARE * parameters.alpha / classes as f64;
        let limits = EndpointLimits::new(&good, false, Strictness { ratio, error, cap: parameters.cap });
        let rest = u8::try_from(workload.outcomes.len()).expect("an endpoint has few outcomes");
        let number = |class: Option<StatusClass>| {
            let index = class.and_then(|class| StatusClass::ALL.iter().position(|other| *other == class));
            index.and_then(|index| u8::try_from(index).ok()).unwrap_or(rest)
        };
        let own: Vec<u8> =
            limits.classes.iter().map(|class| number(class.class.map(|key| key.class))).collect();
        let class_of = (0..rest).map(|class| if own.contains(&class) { class } else { rest }).collect();
        // As for a class, with the error of a budget by itself.
        let all = good.pooled(|_| true);
        let cap_ns = parameters.cap * all.mean_ns().unwrap_or(0.0);
        let (mean, sd) = all.capped_moments_ns(cap_ns).expect("a baseline has requests");
        let z = normal_upper_quantile(BASELINE_ERROR_SHARE * parameters.alpha);
        let upper = mean + z * sd / libm::sqrt(f64::from(requests));
        // As the agent limits its two quantiles.
        let all_ns = good.mean_ns().unwrap_or(0.0);
        let step = |class: &watchdog::aggregate::ClassLimits, tail: f64| {
            let (requests, sketch) = (class.aggregate.requests, &class.aggregate.sketch);
            // Those that are hardly known have no quantiles.
            let rank =
                quantile_upper_rank(requests, 1.0 - tail, error).filter(|_| !class.quantiles.is_empty())?;
            let bound = sketch.order_statistic(rank)?.high as f64;
            Some((ratio * bound).max(bound + FLOOR * all_ns) * 1e-6)
        };
        let classes = limits.classes.iter().zip(own).map(|(class, number)| ClassLimits {
            number,
            weight: class.weight,
            mean_ms: class.mean_ns * 1e-6,
            quantiles: class.quantiles.iter().map(|q| (q.p, q.limit_ns * 1e-6)).collect(),
            ladder: TAILS.iter().filter_map(|&tail| Some((tail, step(class, tail)?))).collect(),
        });
        Self { pooled_ms: ratio * upper * 1e-6, classes: classes.collect(), class_of }
    }

    /// The mean of all requests, confirmed by the means of the classes: what the agent makes of an absolute budget.
    pub fn pooled(&self) -> Vec<Component> {
        let stratum =
            |class: &ClassLimits| Stratum { weight: class.weight, class: class.number, limit: class.mean_ms };
        let confirmation = self.classes.iter().map(stratum).collect();
        vec![Component { confirmation, ..component(1.0, None, Kind::Mean, self.pooled_ms) }]
    }

    /// The means of the classes.
    pub fn strata(&self) -> Vec<Component> {
        let of = |class: &ClassLimits| component(class.weight, Some(class.number), Kind::Mean, class.mean_ms);
        self.classes.iter().map(of).collect()
    }

    /// Mean, p90 and p99 of every class: what the agent makes of a budget relative to the last good build.
    pub fn bundle(&self) -> Vec<Component> {
        let mut components = Vec::new();
        for class in &self.classes {
            let of_quantiles = QUANTILE_PART * class.quantiles.len() as f64;
            let of_mean = MEAN_PART + QUANTILE_PART * QUANTILES.len() as f64 - of_quantiles;
            let own = Some(class.number);
            components.push(component(class.weight * of_mean, own, Kind::Mean, class.mean_ms));
            for &(p, limit) in &class.quantiles {
                components.push(component(class.weight * QUANTILE_PART, own, Kind::Quantile { p }, limit));
            }
        }
        components
    }
}

fn component(weight: f64, class: Option<u8>, kind: Kind, limit: f64) -> Component {
    Component { weight, scope: Scope { endpoint: 0, class }, kind, limit, confirmation: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::LOGIN;

    fn limits(baseline: Baseline) -> Limits {
        Limits::new(&LOGIN, 1.1, baseline, &Parameters::default(), &mut Rng::of(1, "limits", 0))
    }

    #[test]
    fn a_stored_baseline_is_looser_and_approaches_the_truth() {
        let exact = limits(Baseline::Exact).classes[0].clone();
        let gap = |requests| {
            let class = limits(Baseline::Stored(requests)).classes[0].clone();
            let looser = class.quantiles.iter().zip(&exact.quantiles);
            let quantiles = looser.map(|(stored, exact)| stored.1 / exact.1 - 1.0).fold(0.0, f64::max);
            (class.mean_ms / exact.mean_ms - 1.0, quantiles)
        };
        let (few, many) = (gap(1_000), gap(50_000));
        assert!(few.0 > many.0 && few.1 > many.1, "{few:?} {many:?}");
        assert!(many.0 > 0.0 && many.0 < 0.02 && many.1 > 0.0 && many.1 < 0.06, "{many:?}");
    }

    #[test]
    fn the_weights_are_a_capital() {
        for baseline in [Baseline::Exact, Baseline::Stored(1_000)] {
            let limits = limits(baseline);
            for components in [limits.pooled(), limits.strata(), limits.bundle()] {
                let total: f64 = components.iter().map(|component| component.weight).sum();
                assert!((total - 1.0).abs() < 1e-9);
            }
        }
        assert_eq!(limits(Baseline::Exact).bundle().len(), 12);
    }
}
