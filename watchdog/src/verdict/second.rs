//! The judge's second opinion: the estimate beside, or in place of, what was charged to requests.

use super::Missing;
use super::estimated::{Allowed, known, mixed_ns};
use super::evidence::{BudgetKind, EVIDENCE_SCHEMA, Evidence, Measure as Measured, Outcome};
use super::judge::{Judge, Watched};
use super::record::{Measure, Opinion, Record};
use crate::model::EndpointName;
use crate::sequential::Kind;

impl Judge {
    /// What else is known of the endpoints, from the build's recent windows; replaces what was known before.
    ///
    /// Where the estimate is the measure of record, this is where it is held against the budgets.
    pub fn consult(&mut self, opinions: Vec<Opinion>) {
        for watched in &mut self.endpoints {
            watched.opinion = None;
        }
        for opinion in opinions {
            let place = usize::from(opinion.estimate.endpoint).checked_sub(1);
            if let Some(watched) = place.and_then(|place| self.endpoints.get_mut(place)) {
                watched.opinion = Some(opinion);
            }
        }
        let records = self.records();
        let judged = self.endpoints.iter().filter(|watched| watched.is_judged()).count();
        let alpha = self.engine.parameters().alpha;
        for (place, record) in records.iter().enumerate() {
            let estimates = record.as_ref().is_some_and(|record| record.measure == Measure::Estimate);
            if !estimates || self.estimated.is_some() {
                continue;
            }
            let watched = &mut self.endpoints[place];
            if let Some(error) = watched.looks.due(watched.requests(), alpha, judged) {
                self.estimated = self.broken_by_estimate(place, error).map(Box::new);
            }
        }
    }

    /// What was last told of an endpoint, by its number.
    pub fn opinion(&self, endpoint: u16) -> Option<&Opinion> {
        self.endpoints.get(usize::from(endpoint).checked_sub(1)?)?.opinion.as_ref()
    }

    /// How often the estimate was held against a budget: each time uses up a part of its error.
    pub fn looks(&self) -> u32 {
        self.endpoints.iter().map(|watched| watched.looks.taken()).sum()
    }

    /// Which measurement of each endpoint is believed; `None` without a budget or without an opinion.
    pub(super) fn records(&self) -> Vec<Option<Record>> {
        let mut names = vec![EndpointName::other()];
        names.extend(self.endpoints.iter().map(|watched| watched.plan.name.clone()));
        let record = |watched: &Watched| {
            let opinion = watched.opinion.as_ref().filter(|_| watched.is_judged())?;
            Some(opinion.record(&watched.plan.name, watched.allowed().strictest_ns(), &names))
        };
        self.endpoints.iter().map(record).collect()
    }

    /// Which measurement of an endpoint is believed; `None` without a budget, or while there is no second opinion.
    pub fn record(&self, endpoint: &EndpointName) -> Option<Record> {
        let place = self.endpoints.iter().position(|watched| watched.plan.name == *endpoint)?;
        self.records().swap_remove(place)
    }

    pub(super) fn missing_of_estimates(&self, records: &[Option<Record>]) -> Vec<Missing> {
        let mut missing = Vec::new();
        for (watched, record) in self.endpoints.iter().zip(records) {
            let endpoint = watched.plan.name.clone();
            match record {
                Some(Record { measure: Measure::Waiting, why, .. }) => {
                    missing.push(Missing::Estimate { endpoint, why: why.clone() });
                }
                Some(Record { measure: Measure::Estimate, .. }) if watched.has_quantiles() => {
                    missing.push(Missing::Quantile { endpoint });
                }
                _ => {}
            }
        }
        missing
    }

    fn broken_by_estimate(&self, place: usize, error: f64) -> Option<Evidence> {
        let watched = &self.endpoints[place];
        let broken = watched.allowed().broken(watched.opinion.as_ref()?, error)?;
        self.estimated_at(place, broken.limit_ns, broken.relative, broken.p)
    }

    /// What the estimate says where only it can say something: of the endpoint with most requests.
    pub(super) fn as_estimated(&self, records: &[Option<Record>]) -> Option<Evidence> {
        let estimated = |place: &usize| {
            records[*place].as_ref().is_some_and(|record| record.measure == Measure::Estimate)
        };
        let places = (0..self.endpoints.len()).rev().filter(estimated);
        let place = places.max_by_key(|place| self.endpoints[*place].requests())?;
        let watched = &self.endpoints[place];
        let limit_ns = watched.allowed().strictest_ns()?;
        let relative = watched.plan.mean_limit_ns.is_none_or(|absolute| limit_ns < absolute);
        let p = known(watched.opinion.as_ref()?)?.p_above(limit_ns);
        self.estimated_at(place, limit_ns, relative, p)
    }

    fn estimated_at(&self, place: usize, limit_ns: f64, relative: bool, p: f64) -> Option<Evidence> {
        let watched = &self.endpoints[place];
        let opinion = watched.opinion.as_ref()?;
        let figure = known(opinion)?;
        let requests = watched.requests();
        let (lower_ns, upper_ns) = figure.interval_ns(0.05);
        Some(Evidence {
            schema: EVIDENCE_SCHEMA,
            service: self.service().clone(),
            build: self.build().clone(),
            endpoint: watched.plan.name.clone(),
            budget: self.budget_of(place, relative),
            outcome: Outcome::All,
            measure: Measured::Mean,
            requests,
            outcome_requests: requests,
            above_limit: watched.seen.pooled(|_| true).requests_above(limit_ns),
            limit_cpu_seconds: limit_ns * 1e-9,
            mean_cpu_seconds: figure.mean_ns * 1e-9,
            interval_cpu_seconds: Some((lower_ns * 1e-9, upper_ns * 1e-9)),
            baseline: watched.plan.baseline.clone(),
            projected_host_share: watched.plan.peak_rate_per_core.map(|rate| rate * figure.mean_ns * 1e-9),
            log_evidence: -libm::log(p.max(f64::MIN_POSITIVE)),
            log_bar: libm::log(self.engine.parameters().bar()),
            second: self.second(),
            last_end_mono_ns: self.last_end_mono_ns,
            measured_by: Measure::Estimate,
            confidence: opinion.confidence,
            estimate: opinion.figures(),
            unfinished: None,
            endpoint_mean_cpu_seconds: Some(figure.mean_ns * 1e-9),
            since: None,
            setting: None,
        })
    }

    /// The strictest budget of the endpoint's mean, relative or absolute.
    fn budget_of(&self, place: usize, relative: bool) -> BudgetKind {
        self.engine
            .components()
            .iter()
            .zip(&self.meanings)
            .filter(|(component, meaning)| {
                usize::from(component.scope.endpoint) == place + 1
                    && matches!(component.kind, Kind::Mean)
                    && matches!(meaning.budget, BudgetKind::VsBaseline { .. }) == relative
            })
            .min_by(|(a, _), (b, _)| a.limit.total_cmp(&b.limit))
            .map_or(BudgetKind::MeanCpu, |(_, meaning)| meaning.budget)
    }
}

impl Watched {
    fn is_judged(&self) -> bool {
        !self.plan.claims.is_empty()
    }

    fn has_quantiles(&self) -> bool {
        // A comparison with the baseline looks at quantiles of its own accord; only a budget of one asks for it.
        self.plan
            .claims
            .iter()
            .any(|claim| claim.class.is_none() && matches!(claim.kind, Kind::Quantile { .. }))
    }

    pub(super) fn allowed(&self) -> Allowed {
        let baseline_ns = self
            .plan
            .baseline
            .as_ref()
            .map(|baseline| mixed_ns(&self.baseline_ns, baseline.mean_cpu_seconds * 1e9, &self.seen));
        Allowed { absolute_ns: self.plan.mean_limit_ns, ratio: self.plan.ratio, baseline_ns }
    }

    /// Whether the measure of record shows that every budget is kept.
    pub(super) fn is_cleared(&self, record: Option<&Record>) -> bool {
        match (record.map(|record| record.measure), &self.opinion) {
            (None | Some(Measure::Direct), _) => {
                self.plan.claims.iter().all(|claim| claim.clearance.cleared_after().is_some())
            }
            (Some(Measure::Estimate), Some(opinion)) => !self.has_quantiles() && self.allowed().kept(opinion),
            _ => false,
        }
    }
}
