//! A judge whose surroundings turned bad: what it must forget, and what may still be said.

use serde::{Deserialize, Serialize};

use super::evidence::{BudgetKind, Evidence};
use super::judge::{Judge, endpoint_mut};
use super::{Observation, Verdict};
use crate::sequential::{Conditions, Engine};

/// The evidence of a judge at one moment.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    engine: Engine,
    exceeds: Option<Box<Evidence>>,
    over_budget: Option<Box<Evidence>>,
}

/// What a judge is told about requests and their surroundings. Whoever keeps a judge has to hear it too.
pub trait TellJudge {
    fn judge(&self) -> &Judge;
    fn set_conditions(&mut self, conditions: Conditions);
    fn observe(&mut self, seen: &Observation);
    fn note(&mut self, seen: &Observation);
    fn go_back_to(&mut self, checkpoint: Checkpoint);
}

impl TellJudge for Judge {
    fn judge(&self) -> &Judge {
        self
    }

    fn set_conditions(&mut self, conditions: Conditions) {
        Self::set_conditions(self, conditions);
    }

    fn observe(&mut self, seen: &Observation) {
        Self::observe(self, seen);
    }

    fn note(&mut self, seen: &Observation) {
        Self::note(self, seen);
    }

    fn go_back_to(&mut self, checkpoint: Checkpoint) {
        Self::go_back_to(self, checkpoint);
    }
}

/// Something that the build cannot change has become dearer than a build may.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// What it is, for people.
    pub control: String,
    /// What it costs now, in multiples of what it used to.
    pub ratio: f64,
    /// What it may: the smallest ratio that the service's budgets allow.
    pub allowed: f64,
}

impl Judge {
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            engine: self.engine.clone(),
            exceeds: self.exceeds.clone(),
            over_budget: self.over_budget.clone(),
        }
    }

    /// Takes back the bets since then: which requests are bet on was decided by something else than these requests, so the
    /// evidence stays valid.
    pub fn go_back_to(&mut self, checkpoint: Checkpoint) {
        let Checkpoint { engine, exceeds, over_budget } = checkpoint;
        (self.engine, self.exceeds, self.over_budget) = (engine, exceeds, over_budget);
    }

    /// The direct evidence at the moment when it reached the bar, if it did.
    pub fn exceeding(&self) -> Option<&Evidence> {
        self.exceeds.as_deref()
    }

    /// A request that is counted and not bet on.
    pub fn note(&mut self, seen: &Observation) {
        let Some(watched) = endpoint_mut(&mut self.endpoints, seen.endpoint) else { return };
        watched.seen.record(seen.cell(), seen.cpu_ns, seen.count);
        self.last_end_mono_ns = self.last_end_mono_ns.max(seen.end_mono_ns);
    }

    /// The smallest ratio to the last good build that a budget allows; `None` without such a budget, or without a baseline.
    pub fn strictest_ratio(&self) -> Option<f64> {
        self.endpoints.iter().filter_map(|watched| watched.plan.ratio).min_by(f64::total_cmp)
    }

    /// Whether an endpoint has a budget in CPU time itself, counted as the kernel does.
    pub fn has_absolute_budget(&self, endpoint: u16) -> bool {
        let components = self.engine.components().iter().zip(&self.meanings);
        let mut own = components.filter(|(component, _)| component.scope.endpoint == endpoint);
        own.any(|(_, meaning)| !matches!(meaning.budget, BudgetKind::VsBaseline { .. }))
    }
}

impl Verdict {
    /// What may be said while the surroundings are bad. Of budgets relative to the last good build nothing; an absolute
    /// budget that is broken is broken, but nobody can say that it is the build's doing, and so nothing is rolled back.
    #[must_use]
    pub fn in_bad_surroundings(self, violation: &Violation, relative: bool) -> Self {
        match self {
            Self::NotMeasurable { .. } | Self::OverBudgetNotAttributed { .. } => self,
            Self::Exceeds { evidence } if !matches!(evidence.budget, BudgetKind::VsBaseline { .. }) => {
                Self::OverBudgetNotAttributed { evidence }
            }
            Self::Exceeds { .. } => Self::Environment { violation: violation.clone() },
            verdict if relative => {
                drop(verdict);
                Self::Environment { violation: violation.clone() }
            }
            verdict => verdict,
        }
    }
}
