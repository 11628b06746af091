//! A judge's evidence at one moment, with the figures of the outcome that it is about.

use super::evidence::{EVIDENCE_SCHEMA, Evidence, Measure as Measured, SinceFigures, interval_seconds};
use super::judge::{Judge, Watched, endpoint};
use super::record::{Measure, Opinion};
use crate::aggregate::Cell;
use crate::model::EndpointName;
use crate::sequential::{Crossing, Kind, SinceStart, Totals};

/// A regression that begins so soon after the build came began with it.
const LATE_AFTER_SECONDS: u64 = 60;
/// Without so many requests before it there is nothing to set it apart from.
const LATE_AFTER_REQUESTS: u64 = 20;

impl Judge {
    /// The evidence as it stands, with the interval, which costs milliseconds: for reports. `None` without a budget or
    /// without a request.
    pub fn evidence(&self) -> Option<Evidence> {
        self.as_it_stands(true)
    }

    /// As if a component had just crossed the bar: the one that speaks most against the build, or when none does, the one
    /// with most of the CPU.
    fn leading(&self) -> Option<Crossing> {
        let seen = |index: usize| self.seen_cpu_ns(index);
        let components = 0..self.engine.components().len();
        let suspect = |index: &usize| seen(*index) > 0 && self.engine.component_evidence(*index) > 1.0;
        let weighted =
            |index: usize| self.engine.components()[index].weight * self.engine.component_evidence(index);
        let strongest =
            components.clone().filter(suspect).max_by(|&a, &b| weighted(a).total_cmp(&weighted(b)));
        // The first of several: an absolute budget comes before a class.
        let component = strongest.or_else(|| components.rev().max_by_key(|&index| seen(index)))?;
        self.crossing_of(component)
    }

    pub(super) fn crossing_of(&self, component: usize) -> Option<Crossing> {
        let index = self.engine.components()[component].scope.endpoint;
        let requests = endpoint(&self.endpoints, index)?.requests();
        let second = self.second();
        let requests_in_all = self.engine.requests();
        (requests_in_all > 0).then_some(Crossing { component, second, requests, requests_in_all })
    }

    /// CPU of the requests that a component has looked at.
    fn seen_cpu_ns(&self, component: usize) -> u64 {
        let scope = self.engine.components()[component].scope;
        let Some(watched) = endpoint(&self.endpoints, scope.endpoint) else { return 0 };
        watched
            .seen
            .cells()
            .filter(|(cell, _)| is_of(watched, scope.class, *cell))
            .map(|(_, seen)| seen.cpu_ns)
            .fold(0, u64::saturating_add)
    }

    pub(super) fn as_it_stands(&self, with_interval: bool) -> Option<Evidence> {
        self.leading().map(|crossing| self.evidence_at(crossing, self.engine.max_evidence(), with_interval))
    }

    pub(super) fn evidence_at(&self, crossing: Crossing, evidence: f64, with_interval: bool) -> Evidence {
        let component = &self.engine.components()[crossing.component];
        let meaning = &self.meanings[crossing.component];
        let watched = endpoint(&self.endpoints, component.scope.endpoint)
            .expect("components are about configured endpoints");
        let seen = watched.seen.pooled(|cell| is_of(watched, component.scope.class, cell));
        let scale_ns = match component.kind {
            Kind::Mean => component.limit,
            Kind::Quantile { .. } => watched.plan.scale_ns.unwrap_or(component.limit),
        };
        Evidence {
            schema: EVIDENCE_SCHEMA,
            service: self.service().clone(),
            build: self.build().clone(),
            endpoint: watched.plan.name.clone(),
            budget: meaning.budget,
            outcome: meaning.outcome,
            measure: match component.kind {
                Kind::Mean => Measured::Mean,
                Kind::Quantile { p } => Measured::Quantile { p },
            },
            requests: crossing.requests,
            outcome_requests: seen.requests,
            above_limit: seen.requests_above(component.limit),
            limit_cpu_seconds: component.limit * 1e-9,
            mean_cpu_seconds: seen.mean_ns().unwrap_or(0.0) * 1e-9,
            interval_cpu_seconds: with_interval
                .then(|| interval_seconds(&seen, scale_ns, self.engine.parameters().cap)),
            baseline: meaning.baseline.clone(),
            projected_host_share: watched.figures().projected_host_share,
            log_evidence: libm::log(evidence),
            log_bar: libm::log(self.engine.parameters().bar()),
            second: crossing.second,
            last_end_mono_ns: self.last_end_mono_ns,
            measured_by: Measure::Direct,
            confidence: watched.opinion.as_ref().and_then(|opinion| opinion.confidence),
            estimate: watched.opinion.as_ref().and_then(Opinion::figures),
            unfinished: None,
            endpoint_mean_cpu_seconds: watched.seen.mean_ns().map(|ns| ns * 1e-9),
            since: self.since(crossing.component, &watched.plan.name),
            setting: None,
        }
    }

    /// When it began, where that was long after the build came: the mean over all its requests hides it then.
    fn since(&self, component: usize, endpoint: &EndpointName) -> Option<SinceFigures> {
        let speaks = self.engine.component_evidence(component) > std::f64::consts::E;
        let (since, whole) = (self.engine.since_start(component)?, self.engine.totals(component)?);
        let mean_ns = late_mean(&since, &whole).filter(|_| speaks)?;
        Some(SinceFigures {
            endpoint: endpoint.clone(),
            second: since.second,
            requests: since.totals.requests,
            mean_cpu_seconds: mean_ns * 1e-9,
        })
    }
}

/// The mean since a late start; `None`: the whole mean says as much.
fn late_mean(since: &SinceStart, whole: &Totals) -> Option<f64> {
    let before = whole.requests.saturating_sub(since.totals.requests);
    let late = since.second >= LATE_AFTER_SECONDS && before >= LATE_AFTER_REQUESTS;
    since
        .totals
        .mean_x()
        .zip(whole.mean_x())
        .filter(|(since, whole)| late && since > whole)
        .map(|(mean, _)| mean)
}

/// Whether a request is of this class as the engine numbers it; `None`: of all.
pub(super) fn is_of(watched: &Watched, class: Option<u8>, cell: Cell) -> bool {
    class.is_none_or(|own| watched.plan.class_of(cell) == own)
}
