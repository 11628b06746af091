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
//!
//! A comparison with a good build of which too little is known yet keeps its part of the capital in reserve: when the
//! build is known, the comparison begins (`take_up`). The pool stays as it was.

use serde::{Deserialize, Serialize};

use super::evidence::{BaselineFigures, BudgetKind, Outcome};
use super::{HostFacts, Missing};
use crate::aggregate::{
    Baseline, Cell, ClassKey, ClassLimits, ClassMap, EndpointAggregate, EndpointLimits, MIN_CLASS_REQUESTS,
    MIN_REQUESTS, Strictness,
};
use crate::config::{EndpointConfig, ServiceConfig};
use crate::model::EndpointName;
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

/// Classes as the engine numbers them: the place in the endpoint's map, or this.
pub(super) const REST: u8 = u8::MAX;

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
    /// What outcome is of which class; empty without a baseline.
    pub(super) classes: ClassMap,
    /// For the projected share: requests per second at peak over cores.
    pub(super) peak_rate_per_core: Option<f64>,
    /// What the absolute budget of the mean follows from.
    pub(super) absolute: Option<Absolute>,
    /// The absolute budget of the mean, if there is one.
    pub(super) mean_limit_ns: Option<f64>,
    /// `vs_baseline`, if there is one that can be judged.
    pub(super) ratio: Option<f64>,
    /// What the mean is measured in when there is no limit for it.
    pub(super) scale_ns: Option<f64>,
    pub(super) baseline: Option<BaselineFigures>,
    /// Outcomes of processes that have just started are classes of their own.
    #[serde(default)]
    pub(super) warm_up_is_known: bool,
    pub(super) claims: Vec<Claim>,
    /// A budget that cannot be judged, if there is one.
    pub(super) missing: Option<Missing>,
    /// Part of the deploy's capital that is kept for the comparison with a good build that is not known yet.
    #[serde(default)]
    pub(super) reserve: f64,
}

impl EndpointPlan {
    /// Whether the comparison with a good build is what is missing.
    pub(super) fn waits_for_baseline(&self) -> bool {
        matches!(self.missing, Some(Missing::Baseline { .. }))
    }

    /// The engine's class of a request.
    pub(super) fn class_of(&self, cell: Cell) -> u8 {
        self.classes.of(cell).unwrap_or(REST)
    }
}

/// The absolute budgets of a mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Absolute {
    mean_ns: Option<f64>,
    /// Requests per second at peak, and the share of the cores that they may take then.
    host_share: Option<(f64, f64)>,
}

impl Absolute {
    /// The one that allows less on so many cores.
    pub(super) fn stricter(&self, cores: f64) -> Option<(BudgetKind, f64)> {
        let own = self.mean_ns.map(|limit_ns| (BudgetKind::MeanCpu, limit_ns));
        let host = self.host_share.map(|(peak_rate, max_share)| {
            (BudgetKind::HostShare { peak_rate, max_share }, 1e9 * max_share * cores / peak_rate)
        });
        let limits = own.into_iter().chain(host).filter(|(_, limit_ns)| usable(*limit_ns));
        limits.min_by(|a, b| a.1.total_cmp(&b.1))
    }
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

impl Claim {
    /// The limit is another one from now on. What was shown of the old one says nothing of it.
    pub(super) fn rescale(&mut self, factor: f64) {
        let cap = (self.clearance.cap() / factor).max(2.0);
        self.limit_ns *= factor;
        self.clearance = Clearance::new(cap);
    }
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
            .map(|known| EndpointLimits::classes_of(known.aggregate, known.ages_apart))
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
        let budgets = |number: u16| -> f64 {
            let own = self.components.iter().filter(|component| component.scope.endpoint == number);
            own.map(|component| component.weight).sum()
        };
        // A budget that waits counts like one that bets.
        let of_endpoint: Vec<f64> = (1u16..)
            .zip(&self.endpoints)
            .map(|(number, plan)| budgets(number) + f64::from(u8::from(plan.waits_for_baseline())))
            .collect();
        let endpoints = of_endpoint.iter().filter(|weight| **weight > 0.0).count() as f64;
        for component in &mut self.components {
            let of_endpoint = of_endpoint[usize::from(component.scope.endpoint) - 1];
            component.weight *= to_share / of_endpoint / endpoints;
        }
        for (plan, of_endpoint) in self.endpoints.iter_mut().zip(&of_endpoint) {
            if plan.waits_for_baseline() {
                plan.reserve = to_share / of_endpoint / endpoints;
            }
        }
    }

    /// What is kept for comparisons that wait.
    pub(super) fn reserve(&self) -> f64 {
        self.endpoints.iter().map(|endpoint| endpoint.reserve).sum()
    }
}

/// A baseline that has enough requests of an endpoint.
struct Known<'a> {
    aggregate: &'a EndpointAggregate,
    baseline: &'a Baseline,
    /// Its warm-up is known: classes are divided by the process's age.
    ages_apart: bool,
}

impl<'a> Known<'a> {
    fn new(config: &EndpointConfig, baseline: Option<&'a Baseline>) -> Option<Self> {
        let baseline = baseline?;
        let aggregate = baseline.endpoint(&config.name)?;
        // A good build that used no CPU at all compares with nothing.
        let ages_apart = baseline.knows_warm_up(&config.name);
        (aggregate.cpu_ns() > 0).then_some(Self { aggregate, baseline, ages_apart })
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
            classes: ClassMap::default(),
            peak_rate_per_core: self.config.budget.peak_rate.map(|rate| rate / self.host.cores),
            absolute: None,
            mean_limit_ns: None,
            ratio: None,
            scale_ns: None,
            baseline: None,
            warm_up_is_known: false,
            claims: Vec::new(),
            missing: None,
            reserve: 0.0,
        };
        if let Some(known) = &self.known {
            let (requests, mean_ns) = (known.aggregate.requests(), known.aggregate.mean_ns());
            endpoint.baseline = Some(known.figures(requests, mean_ns));
            endpoint.scale_ns = mean_ns;
            endpoint.classes = ClassMap::new(known.aggregate, known.ages_apart);
            endpoint.warm_up_is_known = known.ages_apart;
        }
        self.mean(&mut endpoint);
        self.quantiles(&mut endpoint);
        self.relative(&mut endpoint, baseline);
        self.out.endpoints.push(endpoint);
    }

    /// `mean_cpu` and the host's share limit the same mean: the stricter one is the budget.
    fn mean(&mut self, endpoint: &mut EndpointPlan) {
        let budget = &self.config.budget;
        if budget.learn_peak_rate && budget.peak_rate.is_none() {
            endpoint.missing = Some(Missing::PeakRate { endpoint: endpoint.name.clone() });
        }
        let absolute = Absolute {
            mean_ns: budget.mean_cpu.map(|limit| limit.as_nanos() as f64),
            host_share: budget.peak_rate.zip(budget.max_host_share),
        };
        let Some((budget, limit_ns)) = absolute.stricter(self.host.cores) else { return };
        endpoint.absolute = Some(absolute);
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
        let Some(limits) = limits else { return Vec::new() };
        let stratum = |class: &ClassLimits| {
            // An outcome that is hardly known is not held to less than the budget itself.
            let known = class.aggregate.requests >= MIN_CLASS_REQUESTS;
            let limit = if known { class.mean_ns } else { class.mean_ns.max(limit_ns) };
            Stratum { weight: class.weight, class: number(&limits.map, class.class), limit }
        };
        limits.classes.iter().map(stratum).collect()
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
        for class in &limits.classes {
            let own = Some(number(&limits.map, class.class));
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
        Some(EndpointLimits::new(known.aggregate, known.ages_apart, Strictness { ratio, ..self.strictness }))
    }

    fn outcome(&self, class: Option<u8>) -> Outcome {
        let Some(number) = class else { return Outcome::All };
        let key = self
            .known
            .as_ref()
            .and_then(|known| ClassMap::new(known.aggregate, known.ages_apart).key(number));
        key.map_or(Outcome::Rest, Outcome::of_class)
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
        let outcome = self.outcome(class);
        self.out.meanings.push(Meaning { budget, outcome, baseline });
    }
}

fn mean_claim(
    class: Option<u8>,
    limit_ns: f64,
    baseline: Option<&crate::aggregate::ClassAggregate>,
) -> Claim {
    let (limit_ns, cap) = clearing(limit_ns, baseline);
    Claim { class, kind: Kind::Mean, limit_ns, clearance: Clearance::new(cap) }
}

/// What a mean is cleared against, in nanoseconds, and the cap in multiples of that.
///
/// With a baseline the cap is where hardly any of its CPU lies above; what does lie there comes off the limit, twice.
pub(crate) fn clearing(limit_ns: f64, baseline: Option<&crate::aggregate::ClassAggregate>) -> (f64, f64) {
    let known = baseline.and_then(|baseline| baseline.mean_ns().map(|mean_ns| (baseline, mean_ns)));
    match known.filter(|(_, mean_ns)| *mean_ns > 0.0) {
        Some((baseline, mean_ns)) => {
            let (cap, tail) = cap_for_clearing(|cap| baseline.share_above(cap * mean_ns));
            let reduced_ns = limit_ns * (1.0 - 2.0 * tail.min(0.25));
            // At least twice the budget itself.
            (reduced_ns, (cap * mean_ns).max(2.0 * limit_ns) / reduced_ns)
        }
        None => (limit_ns, WIDEST_CLEARING_CAP),
    }
}

/// The configuration is checked before; a judge does not fall over what slipped through.
fn usable(limit: f64) -> bool {
    limit.is_finite() && limit > 0.0
}

fn number(map: &ClassMap, class: Option<ClassKey>) -> u8 {
    let place = class.and_then(|class| map.keys().position(|key| key == class));
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(REST)
}
