//! Whether the hook helped: what the good and the bad build serve from then on.

use std::time::Duration;

use super::Agent;
use super::rollback::{Active, Phase};
use crate::aggregate::MIN_REQUESTS;
use crate::event::Event;
use crate::incident::{IncidentId, Moment, State, Step, Verification, VerifyFacts, verify};
use crate::model::BuildId;
use crate::verdict::Observation;

/// The bad build serves as long as a request of it, begun after the hook, ended less than this ago.
const STILL_SERVES_NS: u64 = 3_000_000_000;
/// Tolerance of "cost is back" for an endpoint without `vs_baseline`.
const DEFAULT_TOLERANCE: f64 = 1.25;

/// What was seen since the hook ended.
#[derive(Debug, Default)]
pub(super) struct Verifying {
    since_mono_ns: u64,
    requests: u64,
    cpu_ns: u64,
    /// End of the last request of the bad build that began after the hook.
    bad_end_mono_ns: Option<u64>,
    /// The good build's own mean, from before.
    pub(super) baseline: Option<Duration>,
}

impl Verifying {
    pub(super) fn since(mono_ns: u64, baseline: Option<Duration>) -> Self {
        Self { since_mono_ns: mono_ns, baseline, ..Self::default() }
    }
}

impl Agent {
    /// The good build's mean cost of the incident's endpoint, if enough requests are known.
    pub(super) fn good_mean(&mut self, index: usize) -> Option<Duration> {
        let active = &self.incidents.active[index];
        let (service, endpoint) = (&self.services[active.service], active.incident.endpoint.clone());
        let good = active.incident.good_build.clone()?;
        let aggregate = match service.builds.get(&good) {
            Some(build) => Ok(build.aggregate.clone()),
            None => service.stored_aggregate(&self.store, &good),
        };
        let aggregate = self.report("reading the ledger", aggregate)?;
        let figures = aggregate.endpoint(&endpoint).filter(|figures| figures.requests() >= MIN_REQUESTS)?;
        figures.mean_ns().map(|mean_ns| Duration::from_secs_f64(mean_ns * 1e-9))
    }

    /// Counts a finished request for the verifications under way.
    pub(super) fn verify_request(&mut self, slot: u16, seen: &Observation, began_mono_ns: u64) {
        if self.incidents.active.is_empty() {
            return;
        }
        let Some(slot) = self.slots.get(&slot) else { return };
        let service = &self.services[slot.service];
        for active in self.incidents.active.iter_mut().filter(|active| active.service == slot.service) {
            let Phase::Verifying(verifying) = &mut active.phase else { continue };
            let of_endpoint =
                service.endpoints.get(usize::from(seen.endpoint)) == Some(&active.incident.endpoint);
            if began_mono_ns < verifying.since_mono_ns {
                continue;
            }
            if slot.build == active.incident.bad_build {
                verifying.bad_end_mono_ns = verifying.bad_end_mono_ns.max(Some(seen.end_mono_ns));
            } else if of_endpoint && active.incident.good_build.as_ref() == Some(&slot.build) {
                verifying.requests += seen.count;
                verifying.cpu_ns += seen.cpu_ns.saturating_mul(seen.count);
            }
        }
    }

    /// Judges the verifications and repeats what is escalated.
    pub(super) fn carry_incidents(&mut self, now_mono_ns: u64) {
        let mut ended = Vec::new();
        for active in &self.incidents.active {
            if let Phase::Verifying(verifying) = &active.phase {
                let facts = self.verify_facts(active, verifying, now_mono_ns);
                match verify(&facts) {
                    Verification::Pending => {}
                    outcome => ended.push((active.incident.id.clone(), outcome, facts)),
                }
            }
        }
        for (id, outcome, facts) in ended {
            self.end_verification(&id, outcome, &facts);
        }
        self.remind(now_mono_ns);
    }

    fn verify_facts(&self, active: &Active, verifying: &Verifying, now_mono_ns: u64) -> VerifyFacts {
        let service = &self.services[active.service];
        let endpoint = service.config.endpoints.iter().find(|e| e.name == active.incident.endpoint);
        let serves = |build: &BuildId| service.builds.get(build).is_some_and(|b| !b.processes.is_empty());
        let mean_ns = verifying.cpu_ns.checked_div(verifying.requests);
        VerifyFacts {
            good_build_serves: active.incident.good_build.as_ref().is_some_and(serves),
            bad_build_serves: verifying
                .bad_end_mono_ns
                .is_some_and(|end| now_mono_ns.saturating_sub(end) < STILL_SERVES_NS),
            requests: verifying.requests,
            mean_cpu: mean_ns.map(Duration::from_nanos),
            budget: endpoint.and_then(|endpoint| endpoint.budget.mean_cpu),
            baseline: verifying.baseline,
            vs_baseline: endpoint.and_then(|e| e.budget.vs_baseline).unwrap_or(DEFAULT_TOLERANCE),
            since_hook: Duration::from_nanos(now_mono_ns.saturating_sub(verifying.since_mono_ns)),
            verify_within: service
                .config
                .rollback
                .as_ref()
                .map_or(crate::config::defaults::VERIFY_WITHIN, |hook| hook.verify_within),
        }
    }

    fn end_verification(&mut self, id: &IncidentId, outcome: Verification, facts: &VerifyFacts) {
        let Some(index) = self.incidents.active.iter().position(|active| active.incident.id == *id) else {
            return;
        };
        let service = self.incidents.active[index].service;
        let (step, note) = match outcome {
            Verification::Recovered => (
                Step::Recover,
                format!(
                    "the good build serves, {:.1} ms per request over {} requests, {:.1} s after the hook",
                    facts.mean_cpu.unwrap_or_default().as_secs_f64() * 1e3,
                    facts.requests,
                    facts.since_hook.as_secs_f64()
                ),
            ),
            Verification::Failed(missing) => {
                (Step::Escalate, format!("the rollback did not help: {missing}"))
            }
            Verification::Pending => return,
        };
        let advanced = self.store.advance(id, step, &note, &Moment::now());
        let Some(incident) = self.report("recording an incident's step", advanced) else { return };
        self.incidents.active.swap_remove(index);
        if incident.state == State::Escalated {
            self.escalated(incident, service, "not_recovered", &note);
            return;
        }
        let name = self.services[service].config.name.clone();
        Event::RollbackEnded {
            service: &name,
            incident: id.as_str(),
            outcome: "recovered",
            recovered: true,
            detail: &note,
        }
        .emit(&mut self.counters);
    }
}
