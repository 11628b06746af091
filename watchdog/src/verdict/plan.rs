//! From budgets and a baseline to what the engine is to bet on.
//!
//! Endpoints share the capital of a deploy equally, and so do the budgets of an endpoint: the average of e-processes is
//! one again, whatever depends on whatever. It finds the one endpoint that is bad.
//!
//! Where two or more endpoints have a limit of their mean, half of the capital is on the pool instead: one process that
//! all their requests feed, each in multiples of its own limit, which finds what makes everything a little slower. What a
//! request is measured by there:
//!
//! * With `vs_baseline`, the mean limit of its outcome class, also when the endpoint has an absolute budget besides: the
//!   finer of two limits that hold for it while all budgets are kept.
//! * With an absolute budget of the mean only, that budget. Against the build the pool counts no further than a second one
//!   in which each class is measured by what confirms that budget, as the component itself does.
//! * An endpoint with quantile budgets only does not feed the pool: there is no limit of its mean.

use serde::{Deserialize, Serialize};

use super::evidence::{BaselineFigures, BudgetKind, Outcome};
use super::{HostFacts, Missing};
use crate::aggregate::{
    Baseline, ClassLimits, EndpointAggregate, EndpointLimits, MIN_CLASS_REQUESTS, MIN_REQUESTS, Strictness,
};
use crate::config::{EndpointConfig, ServiceConfig};
use crate::model::{EndpointName, StatusClass};
use crate::sequential::{
    Clearance, Component, Kind, Parameters, Pool, PoolLimit, Scope, Stratum, cap_for_clearing,
};

/// Part of the false rollbacks that may come from a baseline that was itself unlucky.
const BASELINE_ERROR_SHARE: f64 = 0.1;
/// A class with less of the endpoint's CPU need not be cleared by itself.
const CLEARED_CPU_SHARE: f64 = 0.05;
/// Parts of a class's capital: its mean, its p90, its p99.
const MEAN_PART: f64 = 0.5;
const QUANTILE_PART: f64 = 0.25;
/// The pool's part of a deploy's capital, where there is a pool.
const POOL_PART: f64 = 0.5;
/// With a single endpoint the pool would be that endpoint's own process once more, or a coarser one.
const LEAST_POOLED_ENDPOINTS: usize = 2;
/// Without a baseline nothing is known of the tail.
const WIDEST_CLEARING_CAP: f64 = 50.0;

/// Classes as the engine numbers them: the index of the status class, or this.
pub(super) const REST: u8 = 6;

/// All that follows from the configuration, the host and the baseline; fixed for a build's probation.
pub(super) struct Plan {
    pub(super) endpoints: Vec<EndpointPlan>,
    pub(super) components: Vec<Component>,
    /// Of each component.
    pub(super) meanings: Vec<Meaning>,
    pub(super) pool: Option<Pool>,
}

/// One endpoint, with what was known of it before the build came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EndpointPlan {
    pub(super) name: EndpointName,
    /// Engine class of each status class.
    pub(super) class_of: [u8; StatusClass::ALL.len()],
    /// For the projected share: requests per second at peak over cores.
    pub(super) peak_rate_per_core: Option<f64>,
    /// The absolute budget of the mean, if there is one.
    pub(super) mean_limit_ns: Option<f64>,
    /// `vs_baseline`, if there is one that can be judged.
    pub(super) ratio: Option<f64>,
    /// What the mean is measured in when there is no limit for it.
    pub(super) scale_ns: Option<f64>,
    pub(super) baseline: Option<BaselineFigures>,
    pub(super) claims: Vec<Claim>,
    /// A budget that cannot be judged, if there is one.
    pub(super) missing: Option<Missing>,
}

/// What a component stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Meaning {
    pub(super) budget: BudgetKind,
    pub(super) outcome: Outcome,
    /// Of that outcome.
    pub(super) baseline: Option<BaselineFigures>,
}

/// One thing that has to be cleared before the build is within its budgets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Claim {
    pub(super) class: Option<u8>,
    pub(super) kind: Kind,
    pub(super) limit_ns: f64,
    pub(super) clearance: Clearance,
}

impl Plan {
    pub(super) fn new(
        service: &ServiceConfig,
        host: HostFacts,
        baseline: Option<&Baseline>,
        parameters: &Parameters,
    ) -> Self {
        let known: Vec<Option<Known<'_>>> =
            service.endpoints.iter().map(|e| Known::new(e, baseline)).collect();
        let compared = service.endpoints.iter().zip(&known);
        let classes: usize = compared
            .filter_map(|(_, known)| known.as_ref())
            .map(|known| EndpointLimits::classes_of(known.aggregate))
            .sum();
        let error = BASELINE_ERROR_SHARE * parameters.alpha / classes.max(1) as f64;
        let pool = Some(Pool { weight: POOL_PART, limits: Vec::new() });
        let mut plan = Self { endpoints: Vec::new(), components: Vec::new(), meanings: Vec::new(), pool };
        for (index, (config, known)) in (1u16..).zip(service.endpoints.iter().zip(known)) {
            let strictness = Strictness { ratio: 1.0, error, cap: parameters.cap };
            Builder { index, config, host, known, strictness, out: &mut plan }.build(baseline);
        }
        plan.share_capital();
        plan
    }

    /// So far the weights sum to 1 within each budget.
    fn share_capital(&mut self) {
        self.pool = self.pool.take().filter(|pool| {
            let mut endpoints: Vec<u16> = pool.limits.iter().map(|limit| limit.scope.endpoint).collect();
            endpoints.dedup();
            endpoints.len() >= LEAST_POOLED_ENDPOINTS
        });
        let to_share = 1.0 - self.pool.as_ref().map_or(0.0, |pool| pool.weight);
        let budgets = |components: &[Component], endpoint: Option<u16>| -> f64 {
            let of =
                components.iter().filter(|c| endpoint.is_none_or(|endpoint| c.scope.endpoint == endpoint));
            of.map(|component| component.weight).sum()
        };
        let mut endpoints: Vec<u16> =
            self.components.iter().map(|component| component.scope.endpoint).collect();
        endpoints.dedup();
        let shares: Vec<f64> = self
            .components
            .iter()
            .map(|component| {
                let of_endpoint = budgets(&self.components, Some(component.scope.endpoint));
                to_share * component.weight / of_endpoint / endpoints.len() as f64
            })
            .collect();
        self.components.iter_mut().zip(shares).for_each(|(component, share)| component.weight = share);
    }
}

/// A baseline that has enough requests of an endpoint.
struct Known<'a> {
    aggregate: &'a EndpointAggregate,
    baseline: &'a Baseline,
}

impl<'a> Known<'a> {
    fn new(config: &EndpointConfig, baseline: Option<&'a Baseline>) -> Option<Self> {
        let baseline = baseline?;
        let aggregate = baseline.endpoint(&config.name)?;
        // A good build that used no CPU at all compares with nothing.
        (aggregate.cpu_ns() > 0).then_some(Self { aggregate, baseline })
    }

    fn figures(&self, requests: u64, mean_ns: Option<f64>) -> BaselineFigures {
        let mean_cpu_seconds = mean_ns.unwrap_or(0.0) * 1e-9;
        BaselineFigures { build: self.baseline.build.clone(), requests, mean_cpu_seconds }
    }
}

struct Builder<'a, 'k> {
    index: u16,
    config: &'a EndpointConfig,
    host: HostFacts,
    known: Option<Known<'k>>,
    strictness: Strictness,
    out: &'a mut Plan,
}

impl Builder<'_, '_> {
    fn build(mut self, baseline: Option<&Baseline>) {
        let mut endpoint = EndpointPlan {
            name: self.config.name.clone(),
            class_of: [REST; StatusClass::ALL.len()],
            peak_rate_per_core: self.config.budget.peak_rate.map(|rate| rate / self.host.cores),
            mean_limit_ns: None,
            ratio: None,
            scale_ns: None,
            baseline: None,
            claims: Vec::new(),
            missing: None,
        };
        if let Some(known) = &self.known {
            let (requests, mean_ns) = (known.aggregate.requests(), known.aggregate.mean_ns());
            endpoint.baseline = Some(known.figures(requests, mean_ns));
            endpoint.scale_ns = mean_ns;
            for class in self.limits(1.0).iter().flat_map(|limits| &limits.classes) {
                if let Some(class) = class.class {
                    endpoint.class_of[class as usize] = number(Some(class));
                }
            }
        }
        self.mean(&mut endpoint);
        self.quantiles(&mut endpoint);
        self.relative(&mut endpoint, baseline);
        self.out.endpoints.push(endpoint);
    }

    /// `mean_cpu` and the host's share limit the same mean: the stricter one is the budget.
    fn mean(&mut self, endpoint: &mut EndpointPlan) {
        let budget = &self.config.budget;
        let own = budget.mean_cpu.map(|limit| (BudgetKind::MeanCpu, limit.as_nanos() as f64));
        let host = budget.peak_rate.zip(budget.max_host_share).map(|(peak_rate, max_share)| {
            let limit_ns = 1e9 * max_share * self.host.cores / peak_rate;
            (BudgetKind::HostShare { peak_rate, max_share }, limit_ns)
        });
        let limits = own.into_iter().chain(host).filter(|(_, limit_ns)| usable(*limit_ns));
        let stricter = limits.min_by(|a, b| a.1.total_cmp(&b.1));
        let Some((budget, limit_ns)) = stricter else { return };
        (endpoint.mean_limit_ns, endpoint.scale_ns) = (Some(limit_ns), Some(limit_ns));
        let confirmation = self.confirmation(limit_ns);
        if confirmation.is_empty() {
            self.pooled(None, limit_ns, limit_ns);
        }
        for stratum in &confirmation {
            self.pooled(Some(stratum.class), limit_ns, stratum.limit);
        }
        self.component(1.0, None, Kind::Mean, limit_ns, confirmation, budget, endpoint.baseline.clone());
        let pooled = self.known.as_ref().map(|known| known.aggregate.pooled(|_| true));
        endpoint.claims.push(mean_claim(None, limit_ns, pooled.as_ref()));
    }

    /// The same budget outcome by outcome: what the good build needs for each, scaled to the budget.
    fn confirmation(&self, limit_ns: f64) -> Vec<Stratum> {
        let Some(mean_ns) = self.known.as_ref().and_then(|known| known.aggregate.mean_ns()) else {
            return Vec::new();
        };
        let limits = self.limits(limit_ns / mean_ns);
        let stratum = |class: &ClassLimits| {
            // An outcome that is hardly known is not held to less than the budget itself.
            let known = class.aggregate.requests >= MIN_CLASS_REQUESTS;
            let limit = if known { class.mean_ns } else { class.mean_ns.max(limit_ns) };
            Stratum { weight: class.weight, class: number(class.class), limit }
        };
        limits.iter().flat_map(|limits| &limits.classes).map(stratum).collect()
    }

    fn quantiles(&mut self, endpoint: &mut EndpointPlan) {
        for &(p, limit) in &self.config.budget.quantile_cpu {
            let limit_ns = limit.as_nanos() as f64;
            if !(usable(limit_ns) && p > 0.0 && p < 1.0) {
                continue;
            }
            let (budget, kind) = (BudgetKind::QuantileCpu { p }, Kind::Quantile { p });
            self.component(1.0, None, kind, limit_ns, Vec::new(), budget, endpoint.baseline.clone());
            endpoint.scale_ns.get_or_insert(limit_ns);
            let clearance = Clearance::new(1.0 / (1.0 - p));
            endpoint.claims.push(Claim { class: None, kind, limit_ns, clearance });
        }
    }

    fn relative(&mut self, endpoint: &mut EndpointPlan, baseline: Option<&Baseline>) {
        let Some(ratio) = self.config.budget.vs_baseline.filter(|ratio| usable(*ratio)) else { return };
        let Some(limits) = self.limits(ratio) else {
            let requests = baseline.map_or(0, |baseline| baseline.requests(&self.config.name));
            let endpoint_name = self.config.name.clone();
            endpoint.missing =
                Some(Missing::Baseline { endpoint: endpoint_name, requests, needed: MIN_REQUESTS });
            return;
        };
        endpoint.ratio = Some(ratio);
        let budget = BudgetKind::VsBaseline { ratio };
        // In place of the absolute budget's.
        let index = self.index;
        self.out.pool.iter_mut().for_each(|pool| pool.limits.retain(|l| l.scope.endpoint != index));
        for class in limits.classes {
            let own = Some(number(class.class));
            self.pooled(own, class.mean_ns, class.mean_ns);
            let of_quantiles = QUANTILE_PART * class.quantiles.len() as f64;
            let rest_to_mean = MEAN_PART + 2.0 * QUANTILE_PART - of_quantiles;
            let known = self.known.as_ref().expect("there are limits");
            let figures = known.figures(class.aggregate.requests, class.aggregate.mean_ns());
            let mean_weight = class.weight * rest_to_mean;
            let none = Vec::new;
            self.component(
                mean_weight,
                own,
                Kind::Mean,
                class.mean_ns,
                none(),
                budget,
                Some(figures.clone()),
            );
            for quantile in &class.quantiles {
                let (kind, weight) = (Kind::Quantile { p: quantile.p }, class.weight * QUANTILE_PART);
                self.component(weight, own, kind, quantile.limit_ns, none(), budget, Some(figures.clone()));
            }
            if class.cpu_share >= CLEARED_CPU_SHARE {
                endpoint.claims.push(mean_claim(own, class.mean_ns, Some(&class.aggregate)));
            }
        }
    }

    fn limits(&self, ratio: f64) -> Option<EndpointLimits> {
        let known = self.known.as_ref()?;
        Some(EndpointLimits::new(known.aggregate, Strictness { ratio, ..self.strictness }))
    }

    fn pooled(&mut self, class: Option<u8>, overall: f64, of_build: f64) {
        let scope = Scope { endpoint: self.index, class };
        self.out.pool.iter_mut().for_each(|pool| pool.limits.push(PoolLimit { scope, overall, of_build }));
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one row, each named at the caller")]
    fn component(
        &mut self,
        weight: f64,
        class: Option<u8>,
        kind: Kind,
        limit: f64,
        confirmation: Vec<Stratum>,
        budget: BudgetKind,
        baseline: Option<BaselineFigures>,
    ) {
        let scope = Scope { endpoint: self.index, class };
        self.out.components.push(Component { weight, scope, kind, limit, confirmation });
        self.out.meanings.push(Meaning { budget, outcome: outcome(class), baseline });
    }
}

/// With a baseline the cap is where hardly any of its CPU lies above; what does lie there comes off the limit, twice.
fn mean_claim(
    class: Option<u8>,
    limit_ns: f64,
    baseline: Option<&crate::aggregate::ClassAggregate>,
) -> Claim {
    let known = baseline.and_then(|baseline| baseline.mean_ns().map(|mean_ns| (baseline, mean_ns)));
    let (limit_ns, cap) = match known.filter(|(_, mean_ns)| *mean_ns > 0.0) {
        Some((baseline, mean_ns)) => {
            let (cap, tail) = cap_for_clearing(|cap| baseline.share_above(cap * mean_ns));
            let reduced_ns = limit_ns * (1.0 - 2.0 * tail.min(0.25));
            // At least twice the budget itself.
            (reduced_ns, (cap * mean_ns).max(2.0 * limit_ns) / reduced_ns)
        }
        None => (limit_ns, WIDEST_CLEARING_CAP),
    };
    Claim { class, kind: Kind::Mean, limit_ns, clearance: Clearance::new(cap) }
}

/// The configuration is checked before; a judge does not fall over what slipped through.
fn usable(limit: f64) -> bool {
    limit.is_finite() && limit > 0.0
}

fn number(class: Option<StatusClass>) -> u8 {
    class.map_or(REST, |class| class as u8)
}

fn outcome(number: Option<u8>) -> Outcome {
    match number {
        None => Outcome::All,
        Some(REST) => Outcome::Rest,
        Some(class) => Outcome::Class(StatusClass::of_index(class.into())),
    }
}
