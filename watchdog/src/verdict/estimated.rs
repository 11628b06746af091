//! What the estimate says of a build against its budgets, where it is the measure of record.

use serde::{Deserialize, Serialize};

use super::record::Opinion;
use crate::aggregate::EndpointAggregate;
use crate::estimate::{Answer, Figure};
use crate::model::StatusClass;

/// Part of the false rollbacks that the estimate may cause, over all endpoints and looks. The direct measurement keeps its
/// own; with both, a build at its budgets is called over with at most 1.1 times the configured rate.
const ERROR_SHARE: f64 = 0.1;
/// Each look at the estimate comes after so many times the requests of the one before; so there are few looks, and an error
/// is divided among them (1/2, 1/6, 1/12, ... of it: together all of it).
const REQUESTS_PER_LOOK: f64 = 1.3;
/// "Within" is wrong with at most this probability.
const WITHIN_ERROR: f64 = 0.01;

/// What the mean of an endpoint may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Allowed {
    /// The stricter of `mean_cpu` and the host's share.
    pub(super) absolute_ns: Option<f64>,
    pub(super) ratio: Option<f64>,
    /// Mean of the good build, had it had this build's mix of outcomes: a build is not to blame when users do other things.
    pub(super) baseline_ns: Option<f64>,
}

/// Which budget is broken, by how little chance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Broken {
    pub(super) limit_ns: f64,
    pub(super) relative: bool,
    pub(super) p: f64,
    pub(super) lower_ns: f64,
}

/// The looks at one endpoint's estimate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Looks {
    taken: u32,
    next_requests: f64,
}

impl Looks {
    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    /// The error that a look at this moment may have, if one is due.
    pub(super) fn due(&mut self, requests: u64, alpha: f64, endpoints: usize) -> Option<f64> {
        if (requests as f64) < self.next_requests {
            return None;
        }
        self.next_requests = REQUESTS_PER_LOOK * requests as f64;
        self.taken += 1;
        let taken = f64::from(self.taken);
        Some(ERROR_SHARE * alpha / endpoints.max(1) as f64 / (taken * (taken + 1.0)))
    }
}

impl Allowed {
    /// The smallest limit of the mean.
    pub(super) fn strictest_ns(&self) -> Option<f64> {
        let relative = self.ratio.zip(self.baseline_ns).map(|(ratio, baseline)| ratio * baseline);
        self.absolute_ns.into_iter().chain(relative).min_by(f64::total_cmp)
    }

    /// Whether the figure is above a limit, with this error in all. Where there is a good build, an absolute budget counts
    /// only if the build is dearer than it.
    pub(super) fn broken(&self, opinion: &Opinion, error: f64) -> Option<Broken> {
        let figure = known(opinion)?;
        let lower_ns = figure.lower_ns(error / 2.0);
        // The good build's own figure may be too low by chance.
        let baseline_ns = self.baseline_ns.map(|baseline| match &opinion.baseline {
            Some(estimate) => baseline.max(estimate.upper_ns(error / 2.0)),
            None => baseline,
        });
        let dearer = baseline_ns.is_none_or(|baseline| lower_ns > baseline);
        let absolute = self.absolute_ns.filter(|limit| dearer && lower_ns > *limit);
        let relative = self.ratio.zip(baseline_ns).map(|(ratio, baseline)| ratio * baseline);
        let relative = relative.filter(|limit| lower_ns > *limit);
        let (limit_ns, relative) =
            absolute.map(|limit| (limit, false)).or(relative.map(|limit| (limit, true)))?;
        Some(Broken { limit_ns, relative, p: figure.p_above(limit_ns), lower_ns })
    }

    /// Whether the figure is below every limit. `false` without a limit.
    pub(super) fn kept(&self, opinion: &Opinion) -> bool {
        let upper_ns = known(opinion).map(|figure| figure.upper_ns(WITHIN_ERROR));
        upper_ns.zip(self.strictest_ns()).is_some_and(|(upper, limit)| upper < limit)
    }
}

pub(super) fn known(opinion: &Opinion) -> Option<&Figure> {
    match &opinion.estimate.answer {
        Answer::Known { figure } => Some(figure),
        _ => None,
    }
}

/// Mean of the good build's outcomes in this build's proportions.
pub(super) fn mixed_ns(
    baseline_ns: &[Option<f64>; StatusClass::ALL.len()],
    overall_ns: f64,
    seen: &EndpointAggregate,
) -> f64 {
    let (mut sum, mut requests) = (0.0, 0.0);
    for (class, of_class) in seen.classes() {
        sum += of_class.requests as f64 * baseline_ns[class as usize].unwrap_or(overall_ns);
        requests += of_class.requests as f64;
    }
    if requests > 0.0 { sum / requests } else { overall_ns }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_looks_together_have_the_error_of_one() {
        let mut looks = Looks::default();
        let errors: Vec<f64> = (30..3_000_000).filter_map(|requests| looks.due(requests, 1e-3, 2)).collect();
        let sum: f64 = errors.iter().sum();
        assert!(errors.len() < 60 && sum <= 0.5e-4 && sum > 0.45e-4, "{} {sum}", errors.len());
        assert_eq!(looks.due(3_000_000, 1e-3, 2), None);
    }

    #[test]
    fn outcomes_are_weighed_as_they_are_now() {
        let mut seen = EndpointAggregate::default();
        seen.record(StatusClass::Success, 1, 3);
        seen.record(StatusClass::ClientError, 1, 1);
        let mut baseline_ns = [None; StatusClass::ALL.len()];
        baseline_ns[StatusClass::Success as usize] = Some(100.0);
        assert!((mixed_ns(&baseline_ns, 20.0, &seen) - 80.0).abs() < 1e-9);
        assert!((mixed_ns(&baseline_ns, 20.0, &EndpointAggregate::default()) - 20.0).abs() < 1e-9);
    }
}
