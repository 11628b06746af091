//! What a deploy is held to, as the engine knows it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Which requests a component looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    pub endpoint: u16,
    /// Outcome class, `None` for all of the endpoint.
    pub class: Option<u8>,
}

/// What a component claims about its requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Their mean is at most the limit.
    Mean,
    /// At most a share `1 - p` of them is above the limit.
    Quantile { p: f64 },
}

impl Kind {
    /// A request's figure: 1 or less in expectation while the claim holds.
    #[inline]
    pub fn z(self, x: f64, limit: f64, cap: f64) -> f64 {
        match self {
            Self::Mean => (x / limit).min(cap),
            Self::Quantile { p } if x > limit => 1.0 / (1.0 - p),
            Self::Quantile { .. } => 0.0,
        }
    }
}

/// One claim that the build keeps while it is within budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// Share of the deploy's capital; all weights, and that of the pool, sum to 1.
    pub weight: f64,
    pub scope: Scope,
    pub kind: Kind,
    /// In the unit of the requests' figures.
    pub limit: f64,
    /// Mean limits by outcome class that say the same of the build alone, weights summing to 1. When there are any, the
    /// component counts against the build no further than they do: a mean also rises when users do other things.
    pub confirmation: Vec<Stratum>,
}

/// One outcome class of a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stratum {
    pub weight: f64,
    pub class: u8,
    pub limit: f64,
}

/// The product over all endpoints: one process that all requests feed, each by its own limit, which finds "everything a
/// little slower" far sooner than an average over endpoints does. The average finds the single bad endpoint, which a
/// product never would.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// Share of the deploy's capital.
    pub weight: f64,
    pub limits: Vec<PoolLimit>,
}

/// What the requests of a scope are measured by in the pool. A class that is named goes before one that is not, and
/// requests without a limit do not feed the pool.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolLimit {
    pub scope: Scope,
    /// Their mean while the budgets hold, as far as the budgets say: "over budget, for whatever reason".
    pub overall: f64,
    /// Their mean while the budgets hold, or no outcome class became dearer: as [`Component::confirmation`] is to the
    /// component. The same as `overall` where there is none.
    pub of_build: f64,
}

/// What scales the limits; has to be known before the request it is used for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// Declared factor while a process warms up, 1 or more.
    warmup: f64,
    /// How much slower than at baseline time the host is, by something the build cannot change.
    environment: f64,
}

impl Conditions {
    pub const NORMAL: Self = Self { warmup: 1.0, environment: 1.0 };

    /// The environment factor is kept within 0.8 to 1.25: beyond, it explains nothing any more. What is no number counts
    /// as 1: it must not move a limit.
    pub fn new(warmup: f64, environment: f64) -> Self {
        let environment = if environment.is_nan() { 1.0 } else { environment.clamp(0.8, 1.25) };
        Self { warmup: warmup.clamp(1.0, f64::MAX).max(1.0), environment }
    }

    /// No warm-up is declared: requests count towards clearing a build, too.
    pub fn is_warm(self) -> bool {
        self.warmup <= 1.0
    }

    pub fn warmup(self) -> f64 {
        self.warmup
    }

    pub fn environment(self) -> f64 {
        self.environment
    }

    pub fn factor(self) -> f64 {
        self.warmup * self.environment
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum InvalidComponents {
    #[error("the weights of the components sum to {0}, not to 1")]
    Weights(f64),
    #[error("component {0} has a limit that is not a positive number")]
    Limit(usize),
    #[error("component {0} is about a quantile outside 0 to 1")]
    Quantile(usize),
    #[error("component {0} stands apart from the others of its endpoint")]
    Scattered(usize),
    #[error("component {0} has a weight that is not a number from 0 on")]
    Weight(usize),
    #[error("limit {0} of the pool is not a positive number")]
    PoolLimit(usize),
    #[error("{0} of the capital is asked of a reserve that is smaller")]
    Reserve(f64),
    #[error("it was decided already")]
    Decided,
}

pub(super) fn positive(limit: f64) -> bool {
    limit.is_finite() && limit > 0.0
}

fn share(weight: f64) -> bool {
    weight.is_finite() && weight >= 0.0
}

/// `reserve` is the part of the capital that is on nothing yet.
pub(super) fn check(
    components: &[Component],
    pool: Option<&Pool>,
    reserve: f64,
) -> Result<(), InvalidComponents> {
    let all_to_one = |weights: f64| (weights - 1.0).abs() < 1e-9;
    let of_pool = pool.map_or(0.0, |pool| pool.weight);
    let total: f64 = reserve + of_pool + components.iter().map(|component| component.weight).sum::<f64>();
    if !share(reserve) || !share(of_pool) || !components.is_empty() && !all_to_one(total) {
        return Err(InvalidComponents::Weights(total));
    }
    for (index, component) in components.iter().enumerate() {
        let strata = &component.confirmation;
        if !share(component.weight) || !strata.iter().all(|stratum| share(stratum.weight)) {
            return Err(InvalidComponents::Weight(index));
        }
        if !positive(component.limit) || !strata.iter().all(|stratum| positive(stratum.limit)) {
            return Err(InvalidComponents::Limit(index));
        }
        if matches!(component.kind, Kind::Quantile { p } if !(p > 0.0 && p < 1.0)) {
            return Err(InvalidComponents::Quantile(index));
        }
        let total: f64 = strata.iter().map(|stratum| stratum.weight).sum();
        if !strata.is_empty() && !all_to_one(total) {
            return Err(InvalidComponents::Weights(total));
        }
    }
    let limits = pool.into_iter().flat_map(|pool| &pool.limits);
    match limits.into_iter().position(|limit| !(positive(limit.overall) && positive(limit.of_build))) {
        Some(index) => Err(InvalidComponents::PoolLimit(index)),
        None => Ok(()),
    }
}
