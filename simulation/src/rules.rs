//! The rules that are compared, by name.

use watchdog::sequential::{Component, Conditions, Engine, Parameters};

use crate::limits::Limits;
use crate::naive;
use crate::world::Request;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Mean of the last minute over the budget, looked at every 15 s.
    Mean,
    Prometheus,
    Argo,
    Flagger,
    Kayenta,
    /// The engine with one component: the mean over all requests.
    Pooled,
    PooledJ3,
    PooledCalibrated,
    /// The mean over all requests, confirmed outcome by outcome: what the agent runs for an absolute budget.
    Confirmed,
    /// The mean of each outcome class.
    Strata,
    /// Mean, p90 and p99 of each class: what the agent runs for a budget relative to the last good build.
    Bundle,
    BundleJ3,
    BundleCalibrated,
    /// Not in the agent; see [`crate::ladder`].
    Ladder,
}

pub const NAIVE: [Rule; 5] = [Rule::Mean, Rule::Prometheus, Rule::Argo, Rule::Flagger, Rule::Kayenta];
pub const ENGINE: [Rule; 8] = [
    Rule::Pooled,
    Rule::PooledJ3,
    Rule::PooledCalibrated,
    Rule::Confirmed,
    Rule::Strata,
    Rule::Bundle,
    Rule::BundleJ3,
    Rule::BundleCalibrated,
];

impl Rule {
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean of 1 min > budget",
            Self::Prometheus => "Prometheus `for: 1m`",
            Self::Argo => "Argo, failureLimit 3",
            Self::Flagger => "Flagger, threshold 5",
            Self::Kayenta => "Kayenta, Mann-Whitney",
            Self::Pooled => "pooled",
            Self::PooledJ3 => "pooled, J = 3",
            Self::PooledCalibrated => "pooled, calibrated",
            Self::Confirmed => "pooled, confirmed",
            Self::Strata => "strata",
            Self::Bundle => "bundle",
            Self::BundleJ3 => "bundle, J = 3",
            Self::BundleCalibrated => "bundle, calibrated",
            Self::Ladder => "ladder*",
        }
    }

    /// Index among the rules of windows.
    pub(crate) fn of_windows(self) -> Option<usize> {
        match self {
            Self::Mean => Some(naive::MEAN),
            Self::Prometheus => Some(naive::PROMETHEUS),
            Self::Argo => Some(naive::ARGO),
            Self::Flagger => Some(naive::FLAGGER),
            Self::Kayenta => Some(naive::KAYENTA),
            _ => None,
        }
    }
}

/// The agent's engine, told of every request.
pub struct Watched {
    engine: Engine,
    calibrated: bool,
    /// Whether "over budget, for whatever reason" is asked for, or "the build is".
    overall: bool,
}

impl Watched {
    /// `None` for rules that are not the engine's.
    pub fn new(rule: Rule, limits: &Limits, parameters: &Parameters) -> Option<Self> {
        let components: Vec<Component> = match rule {
            Rule::Pooled | Rule::PooledJ3 | Rule::PooledCalibrated => {
                let alone = |component| Component { confirmation: Vec::new(), ..component };
                limits.pooled().into_iter().map(alone).collect()
            }
            Rule::Confirmed => limits.pooled(),
            Rule::Strata => limits.strata(),
            Rule::Bundle | Rule::BundleJ3 | Rule::BundleCalibrated => limits.bundle(),
            _ => return None,
        };
        let outlier_allowance =
            if matches!(rule, Rule::PooledJ3 | Rule::BundleJ3) { 3 } else { parameters.outlier_allowance };
        let parameters = Parameters { outlier_allowance, ..parameters.clone() };
        let engine = Engine::new(parameters, components).expect("the limits make valid components");
        let calibrated = matches!(rule, Rule::PooledCalibrated | Rule::BundleCalibrated);
        Some(Self { engine, calibrated, overall: rule == Rule::Pooled })
    }

    pub fn observe(&mut self, request: &Request, class: u8) -> bool {
        let environment = if self.calibrated { request.environment } else { 1.0 };
        let conditions = Conditions::new(request.warm_up, environment);
        self.engine.observe(request.second, 0, class, request.ms, 1, conditions);
        if self.overall { self.engine.over_budget().is_some() } else { self.engine.violated().is_some() }
    }

    pub fn evidence(&self) -> f64 {
        self.engine.evidence()
    }
}
