//! The judge of one build.

use serde::{Deserialize, Serialize};

use super::estimated::Looks;
use super::evidence::{BaselineFigures, Evidence};
use super::plan::{EndpointPlan, Meaning, Plan};
use super::record::{Measure, Opinion, Record};
use super::unfinished::Cut;
use super::{
    HostFacts, MAX_LOST_SHARE, Measurability, Missing, NotMeasurable, Observation, Probation, Verdict,
};
use crate::aggregate::{Baseline, Cell, EndpointAggregate};
use crate::config::ServiceConfig;
use crate::model::{BuildId, EndpointName, ServiceName, StatusClass};
use crate::sequential::{Carrier, Conditions, Engine, Kind, Parameters, Scope};

/// Judges one build of one service while it is on probation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    service: ServiceName,
    pub(super) probation: Probation,
    pub(super) conditions: Conditions,
    cores: f64,
    pub(super) engine: Engine,
    pub(super) meanings: Vec<Meaning>,
    pub(super) endpoints: Vec<Watched>,
    pub(super) last_end_mono_ns: u64,
    /// Of the probation, before the host was started anew.
    #[serde(default)]
    carried_seconds: u64,
    pub(super) exceeds: Option<Box<Evidence>>,
    pub(super) over_budget: Option<Box<Evidence>>,
    /// The same by the estimate, where that is the measure of record.
    pub(super) estimated: Option<Box<Evidence>>,
    #[serde(default)]
    pub(super) unfinished: Cut,
}

/// One endpoint: what it is held to and what it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Watched {
    pub(super) plan: EndpointPlan,
    pub(super) seen: EndpointAggregate,
    /// Requests that were counted and not charged.
    #[serde(default)]
    pub(super) counted: u64,
    /// Mean of each outcome on the good build.
    pub(super) baseline_ns: [Option<f64>; StatusClass::ALL.len()],
    pub(super) opinion: Option<Opinion>,
    pub(super) looks: Looks,
}

impl Judge {
    /// `baseline` is the last good build, or `None` for a service that has none yet.
    pub fn new(
        service: &ServiceConfig,
        probation: Probation,
        host: HostFacts,
        baseline: Option<&Baseline>,
    ) -> Self {
        let parameters = Parameters {
            alpha: service.false_rollback_rate,
            outlier_allowance: probation.outlier_allowance,
            ..Parameters::default()
        };
        let plan = Plan::new(service, host, baseline, &parameters);
        let reserve = plan.reserve();
        let Plan { endpoints, components, meanings, pool } = plan;
        let engine = Engine::with_reserve(parameters, components, pool, reserve)
            .expect("the plan's limits are positive and its weights sum to 1");
        let watched = |plan: EndpointPlan| Watched {
            baseline_ns: outcomes_ns(baseline, &plan.name),
            plan,
            seen: EndpointAggregate::default(),
            counted: 0,
            opinion: None,
            looks: Looks::default(),
        };
        Self {
            service: service.name.clone(),
            probation,
            conditions: Conditions::NORMAL,
            cores: host.cores,
            engine,
            meanings,
            endpoints: endpoints.into_iter().map(watched).collect(),
            last_end_mono_ns: 0,
            carried_seconds: 0,
            exceeds: None,
            over_budget: None,
            estimated: None,
            unfinished: Cut::default(),
        }
    }

    /// Warm-up and environment from the next request on. They have to be known before it: record them with the requests.
    pub fn set_conditions(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    /// Whether the baseline says what the endpoint's requests cost on processes that have just started.
    pub fn knows_warm_up(&self, index: u16) -> bool {
        endpoint(&self.endpoints, index).is_some_and(|watched| watched.plan.warm_up_is_known)
    }

    pub fn conditions(&self) -> Conditions {
        self.conditions
    }

    pub fn cores(&self) -> f64 {
        self.cores
    }

    /// The service may use more or fewer cores from the next request on: limits that are a share of them change, and what
    /// was found by the old ones stays. Known before the requests it is used for, so the evidence stays valid.
    pub fn set_cores(&mut self, cores: f64) {
        let usable = cores.is_finite() && cores > 0.0;
        if !usable {
            return;
        }
        let rate_factor = self.cores / cores;
        self.cores = cores;
        for (number, watched) in (1_u16..).zip(&mut self.endpoints) {
            let plan = &mut watched.plan;
            plan.peak_rate_per_core = plan.peak_rate_per_core.map(|rate| rate * rate_factor);
            let Some(absolute) = &plan.absolute else { continue };
            let Some((budget, limit_ns)) = absolute.stricter(cores) else { continue };
            let Some(before_ns) = plan.mean_limit_ns.replace(limit_ns) else { continue };
            if limit_ns.to_bits() == before_ns.to_bits() {
                continue;
            }
            plan.scale_ns = Some(limit_ns);
            let factor = limit_ns / before_ns;
            // The mean over all outcomes is the endpoint's first component and claim.
            let mean = |index: &usize| {
                let component = &self.engine.components()[*index];
                component.scope == Scope { endpoint: number, class: None } && component.kind == Kind::Mean
            };
            if let Some(index) = (0..self.engine.components().len()).find(mean) {
                // Where a comparison with the good build takes its place in the pool, cores do not matter there.
                self.engine.scale_limit(index, factor, plan.ratio.is_none());
                self.meanings[index].budget = budget;
            }
            let claim =
                plan.claims.iter_mut().find(|claim| claim.class.is_none() && claim.kind == Kind::Mean);
            if let Some(claim) = claim {
                claim.rescale(factor);
            }
        }
    }

    /// Requests on unwatched endpoints are passed over.
    pub fn observe(&mut self, seen: &Observation) {
        let Some(watched) = endpoint_mut(&mut self.endpoints, seen.endpoint) else { return };
        if seen.count == 0 {
            return;
        }
        watched.seen.record(seen.cell(), seen.cpu_ns, seen.count);
        self.last_end_mono_ns = self.last_end_mono_ns.max(seen.end_mono_ns);
        let class = watched.plan.class_of(seen.cell());
        let x = seen.cpu_ns as f64;
        if self.conditions.is_warm() {
            watched.settle_claims(class, x / self.conditions.factor(), seen.count, self.engine.parameters());
        }
        let second = self.second_of(seen.end_mono_ns);
        self.engine.observe(second, seen.endpoint, class, x, seen.count, self.conditions);
        if self.exceeds.is_none()
            && let Some(crossing) = self.engine.violated()
        {
            self.exceeds = Some(Box::new(self.evidence_at(crossing, self.engine.max_evidence(), true)));
        }
        if self.over_budget.is_none()
            && let Some(crossing) = self.engine.over_budget()
        {
            let overall = self.engine.max_evidence_overall();
            self.over_budget = Some(Box::new(self.evidence_at(crossing, overall, true)));
        }
    }

    /// Whole seconds of the probation until the last request.
    pub(super) fn second(&self) -> u64 {
        self.second_of(self.last_end_mono_ns)
    }

    pub(super) fn second_of(&self, mono_ns: u64) -> u64 {
        self.carried_seconds + mono_ns.saturating_sub(self.probation.began_mono_ns) / 1_000_000_000
    }

    /// The judge was saved before the host was started anew, and its clock with it: goes on from the second of the last
    /// request.
    pub fn carry_over_reboot(&mut self, now_mono_ns: u64) {
        self.carried_seconds = self.second();
        self.probation.began_mono_ns = now_mono_ns;
        self.last_end_mono_ns = now_mono_ns;
    }

    /// More CPU of a request that was observed already: in the means, not in the evidence, which has judged it.
    pub fn continuation(&mut self, endpoint: u16, cell: impl Into<Cell>, cpu_ns: u64) {
        if let Some(watched) = endpoint_mut(&mut self.endpoints, endpoint) {
            watched.seen.continuation(cell, cpu_ns);
        }
    }

    /// Requests that have ended and whose CPU time nobody knows: only the estimate can judge them.
    pub fn count(&mut self, endpoint: u16, requests: u64, end_mono_ns: u64) {
        if let Some(watched) = endpoint_mut(&mut self.endpoints, endpoint) {
            watched.counted += requests;
            self.last_end_mono_ns = self.last_end_mono_ns.max(end_mono_ns);
        }
    }

    /// Cheap enough for every tick: no interval is worked out, except that of an earlier decision.
    pub fn verdict(&self, measured: &Measurability) -> Verdict {
        let records = self.records();
        if let Some(reason) = self.not_measurable(measured).or_else(|| unresolved(&records)) {
            return Verdict::NotMeasurable { reason };
        }
        if let Some(evidence) = self.estimated.clone().or_else(|| self.exceeds_directly(&records)) {
            return Verdict::Exceeds { evidence };
        }
        let over_budget =
            self.over_budget.clone().filter(|evidence| self.is_believed(&evidence.endpoint, &records));
        if let Some(evidence) = over_budget {
            return Verdict::OverBudgetNotAttributed { evidence };
        }
        let evidence = self.as_it_stands(false).or_else(|| self.as_estimated(&records)).map(Box::new);
        match evidence {
            Some(evidence) if self.is_cleared(&records) => Verdict::Within { evidence },
            evidence => Verdict::Undecided { missing: self.missing(&records), evidence },
        }
    }

    /// The direct evidence, as far as it is about endpoints whose direct figures are believed.
    fn exceeds_directly(&self, records: &[Option<Record>]) -> Option<Box<Evidence>> {
        let evidence = self.exceeds.clone()?;
        // What the pool carried rests on every endpoint that feeds it.
        let pooled = self.engine.stop().is_some_and(|stop| stop.carrier == Carrier::Pool);
        let pool_is_believed = (1u16..)
            .zip(records)
            .all(|(index, record)| is_direct(record.as_ref()) || !self.engine.feeds_pool(index));
        if self.is_believed(&evidence.endpoint, records) && (pool_is_believed || !pooled) {
            return Some(evidence);
        }
        // The others by themselves, without the pool: a part of the capital, so the bar holds for it too.
        let value =
            |index: usize| self.engine.components()[index].weight * self.engine.component_evidence(index);
        let believed = (0..self.engine.components().len()).filter(|&index| {
            let number = usize::from(self.engine.components()[index].scope.endpoint);
            number
                .checked_sub(1)
                .and_then(|place| records.get(place))
                .is_some_and(|record| is_direct(record.as_ref()))
        });
        let sum: f64 = believed.clone().map(value).sum();
        let component = believed.max_by(|&a, &b| value(a).total_cmp(&value(b)))?;
        let crossing = self.crossing_of(component)?;
        (sum >= self.engine.parameters().bar()).then(|| Box::new(self.evidence_at(crossing, sum, false)))
    }

    fn is_believed(&self, name: &EndpointName, records: &[Option<Record>]) -> bool {
        self.endpoints
            .iter()
            .zip(records)
            .any(|(watched, record)| watched.plan.name == *name && is_direct(record.as_ref()))
    }

    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    pub fn build(&self) -> &BuildId {
        &self.probation.build
    }

    pub fn probation(&self) -> &Probation {
        &self.probation
    }

    /// Requests on watched endpoints.
    pub fn requests(&self) -> u64 {
        self.endpoints.iter().map(Watched::requests).sum()
    }

    /// What each endpoint did and is held to, in the configuration's order: for metrics and `status`.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointFigures<'_>> {
        self.endpoints.iter().map(Watched::figures)
    }

    /// Natural logarithm of the largest evidence so far, and of the bar: for the metric.
    pub fn log_evidence(&self) -> (f64, f64) {
        (libm::log(self.engine.max_evidence()), libm::log(self.engine.parameters().bar()))
    }

    fn not_measurable(&self, measured: &Measurability) -> Option<NotMeasurable> {
        if let Some(why) = measured.blind.clone() {
            return Some(NotMeasurable::Blind { why });
        }
        let needed = measured.min_coverage;
        if let Some(coverage) = measured.coverage
            && (coverage.is_nan() || coverage < needed)
        {
            return Some(NotMeasurable::Coverage { coverage, needed });
        }
        let (lost, seen) = (measured.lost_requests, self.requests());
        (lost as f64 > MAX_LOST_SHARE * (lost + seen) as f64).then_some(NotMeasurable::Lost { lost, seen })
    }

    fn is_cleared(&self, records: &[Option<Record>]) -> bool {
        let judged = self.endpoints.iter().any(|endpoint| !endpoint.plan.claims.is_empty());
        let missing = self.endpoints.iter().any(|endpoint| endpoint.plan.missing.is_some());
        let mut each = self.endpoints.iter().zip(records);
        judged && !missing && each.all(|(watched, record)| watched.is_cleared(record.as_ref()))
    }

    fn missing(&self, records: &[Option<Record>]) -> Vec<Missing> {
        let judged = |watched: &&Watched| !watched.plan.claims.is_empty() || watched.plan.missing.is_some();
        let mut missing: Vec<Missing> = Vec::new();
        for watched in self.endpoints.iter().filter(judged) {
            if watched.requests() == 0 {
                missing.push(Missing::Requests { endpoint: watched.plan.name.clone() });
            }
            missing.extend(watched.plan.missing.clone());
        }
        missing.extend(self.missing_of_estimates(records));
        if !self.endpoints.iter().any(|watched| judged(&watched)) {
            missing.push(Missing::Budget);
            return missing;
        }
        let counted: u64 = self.endpoints.iter().map(|watched| watched.counted).sum();
        let requests = self.engine.requests() + counted;
        if requests > 0 {
            missing.push(Missing::Evidence { requests });
        }
        missing
    }
}

/// Mean of each outcome on the good build, where it is known.
pub(super) fn outcomes_ns(
    baseline: Option<&Baseline>,
    endpoint: &EndpointName,
) -> [Option<f64>; StatusClass::ALL.len()] {
    let known = baseline.and_then(|baseline| baseline.endpoint(endpoint));
    StatusClass::ALL.map(|class| known?.class(class)?.mean_ns())
}

/// Without an opinion there is only the direct figure.
pub(super) fn is_direct(record: Option<&Record>) -> bool {
    record.is_none_or(|record| record.measure == Measure::Direct)
}

fn unresolved(records: &[Option<Record>]) -> Option<NotMeasurable> {
    records.iter().flatten().find_map(|record| record.reason.clone())
}

/// An endpoint's requests on the build. Times are on-CPU seconds per request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EndpointFigures<'a> {
    pub name: &'a EndpointName,
    pub requests: u64,
    /// `None` without requests.
    pub mean_cpu_seconds: Option<f64>,
    /// The stricter of `mean_cpu` and the host's share.
    pub limit_cpu_seconds: Option<f64>,
    pub baseline: Option<&'a BaselineFigures>,
    /// Mean over what is allowed, by the budget it is nearest to (or furthest over); 1 is just within.
    pub budget_ratio: Option<f64>,
    /// Share of the host's cores at `peak_rate`; 1 is the whole host.
    pub projected_host_share: Option<f64>,
}

impl Watched {
    /// All that have ended, charged or only counted.
    pub(super) fn requests(&self) -> u64 {
        self.seen.requests() + self.counted
    }

    pub(super) fn figures(&self) -> EndpointFigures<'_> {
        let plan = &self.plan;
        let mean = self.seen.mean_ns().map(|ns| ns * 1e-9);
        let limit = plan.mean_limit_ns.map(|ns| ns * 1e-9);
        let relative = plan.ratio.zip(plan.baseline.as_ref()).map(|(ratio, b)| ratio * b.mean_cpu_seconds);
        let strictest = limit.into_iter().chain(relative).min_by(f64::total_cmp);
        EndpointFigures {
            name: &plan.name,
            requests: self.requests(),
            mean_cpu_seconds: mean,
            limit_cpu_seconds: limit,
            baseline: plan.baseline.as_ref(),
            budget_ratio: mean.zip(strictest).map(|(mean, allowed)| mean / allowed),
            projected_host_share: mean.zip(plan.peak_rate_per_core).map(|(mean, rate)| mean * rate),
        }
    }

    fn settle_claims(&mut self, class: u8, x: f64, count: u64, parameters: &Parameters) {
        for claim in &mut self.plan.claims {
            if claim.class.is_none_or(|own| own == class) {
                let z = match claim.kind {
                    Kind::Mean => x / claim.limit_ns,
                    Kind::Quantile { p } if x > claim.limit_ns => 1.0 / (1.0 - p),
                    Kind::Quantile { .. } => 0.0,
                };
                claim.clearance.settle(z, count, parameters.min_requests, 1.0 / parameters.beta);
            }
        }
    }
}

/// Index 0 is "other", which no budget is about.
pub(super) fn endpoint_mut(endpoints: &mut [Watched], index: u16) -> Option<&mut Watched> {
    endpoints.get_mut(usize::from(index.checked_sub(1)?))
}

pub(super) fn endpoint(endpoints: &[Watched], index: u16) -> Option<&Watched> {
    endpoints.get(usize::from(index.checked_sub(1)?))
}
