//! Whether the hook helped: what the good and the bad build serve from then on.

use std::time::Duration;

use super::Agent;
use super::rollback::{Active, Phase};
use crate::aggregate::Age;
use crate::config::defaults::VERIFY_WITHIN;
use crate::event::Event;
use crate::incident::{
    BuildState, CostLimit, CostTest, Incident, IncidentId, IncidentKind, State, Verification, VerifyFacts,
    verify, verify_release,
};
use crate::model::{BuildId, EndpointName};
use crate::verdict::Observation;

/// The bad build serves as long as a request of it, begun after the hook, ended less than this ago.
const STILL_SERVES_NS: u64 = 3_000_000_000;
/// Tolerance of "cost is back" for an endpoint without `vs_baseline`.
const DEFAULT_TOLERANCE: f64 = 1.25;

/// What was seen since the hook ended.
#[derive(Debug)]
pub(super) struct Verifying {
    since_mono_ns: u64,
    /// Of the good build's requests.
    cost: CostTest,
    /// End of the good build's first request that began after the hook.
    good_end_mono_ns: Option<u64>,
    /// End of the last request of the bad build that began after the hook.
    bad_end_mono_ns: Option<u64>,
}

impl Verifying {
    pub(super) fn since(mono_ns: u64, limit: Option<CostLimit>) -> Self {
        Self {
            since_mono_ns: mono_ns,
            cost: CostTest::new(limit),
            good_end_mono_ns: None,
            bad_end_mono_ns: None,
        }
    }

    fn until(&self, mono_ns: u64) -> Duration {
        Duration::from_nanos(mono_ns.saturating_sub(self.since_mono_ns))
    }
}

impl Agent {
    /// What a request of the incident's endpoint may cost, from its budget and from what the good build had cost before.
    pub(super) fn cost_limit(&mut self, index: usize) -> Option<CostLimit> {
        let active = &self.incidents.active[index];
        let (service, name) = (&self.services[active.service], &active.incident.endpoint);
        let endpoint = service.config.endpoints.iter().find(|endpoint| endpoint.name == *name)?.clone();
        let aggregate = match &active.incident.good_build {
            Some(good) => match service.builds.get(good) {
                Some(build) => Ok(Some(build.aggregate.clone())),
                None => service.stored_aggregate(&self.store, good).map(Some),
            },
            None => Ok(None),
        };
        let aggregate = self.report("reading the ledger", aggregate).flatten();
        let figures = aggregate.as_ref().and_then(|aggregate| aggregate.endpoint(&endpoint.name));
        let pooled = figures.map(|figures| figures.pooled(|_| true));
        let budget = &endpoint.budget;
        CostLimit::new(budget.mean_cpu, pooled.as_ref(), budget.vs_baseline.unwrap_or(DEFAULT_TOLERANCE))
    }

    /// Counts a finished request for the verifications under way.
    pub(super) fn verify_request(&mut self, slot: u16, seen: &Observation, began_mono_ns: u64) {
        if self.incidents.active.is_empty() {
            return;
        }
        let Some(slot) = self.slots.get(&slot) else { return };
        let service = &self.services[slot.service];
        let within = service.config.rollback.as_ref().map_or(VERIFY_WITHIN, |hook| hook.verify_within);
        for active in self.incidents.active.iter_mut().filter(|active| active.service == slot.service) {
            let Phase::Verifying(verifying) = &mut active.phase else { continue };
            if began_mono_ns < verifying.since_mono_ns {
                continue;
            }
            let elapsed = verifying.until(seen.end_mono_ns);
            if slot.build == active.incident.bad_build {
                verifying.bad_end_mono_ns = verifying.bad_end_mono_ns.max(Some(seen.end_mono_ns));
            } else if active.incident.good_build.as_ref() == Some(&slot.build) {
                verifying.good_end_mono_ns.get_or_insert(seen.end_mono_ns);
                // An incident from the ledger names no endpoint: any request shows that the good build serves.
                let any = active.incident.endpoint == EndpointName::other();
                if any || service.endpoints.get(usize::from(seen.endpoint)) == Some(&active.incident.endpoint)
                {
                    let warm = matches!(seen.age, Age::To100 | Age::Older);
                    verifying.cost.observe(seen.cpu_ns, seen.count, warm, elapsed, within);
                }
            }
        }
    }

    /// Judges the verifications and repeats what is escalated.
    pub(super) fn carry_incidents(&mut self, now_mono_ns: u64) {
        let mut ended = Vec::new();
        for active in &self.incidents.active {
            if let Phase::Verifying(verifying) = &active.phase {
                let facts = self.verify_facts(active, verifying, now_mono_ns);
                let outcome = match active.incident.kind {
                    IncidentKind::Cost => verify(&facts),
                    IncidentKind::ReleaseWindow => {
                        let runs = self.runs(active.service, &active.incident.bad_build);
                        verify_release(&facts, runs, Duration::from_nanos(STILL_SERVES_NS))
                    }
                };
                match outcome {
                    Verification::Pending => {}
                    outcome => ended.push((active.incident.id.clone(), outcome, facts)),
                }
            }
        }
        for (id, outcome, facts) in ended {
            self.end_verification(&id, &outcome, &facts);
        }
        self.remind(now_mono_ns);
    }

    fn verify_facts(&self, active: &Active, verifying: &Verifying, now_mono_ns: u64) -> VerifyFacts {
        let service = &self.services[active.service];
        let Incident { bad_build, good_build, .. } = &active.incident;
        let serves = |build: &BuildId| self.runs(active.service, build);
        let newer = service.builds.iter().find(|(id, build)| {
            *id != bad_build
                && Some(*id) != good_build.as_ref()
                && !build.processes.is_empty()
                && build.state == BuildState::Probation
        });
        VerifyFacts {
            good_build_serves: good_build.as_ref().is_some_and(serves),
            bad_build_serves: verifying
                .bad_end_mono_ns
                .is_some_and(|end| now_mono_ns.saturating_sub(end) < STILL_SERVES_NS),
            newer_build: newer.map(|(id, _)| id.clone()),
            cost: verifying.cost.cost(),
            good_served_after: verifying.good_end_mono_ns.map(|end| verifying.until(end)),
            bad_served_until: verifying.bad_end_mono_ns.map(|end| verifying.until(end)),
            since_hook: verifying.until(now_mono_ns),
            verify_within: service.config.rollback.as_ref().map_or(VERIFY_WITHIN, |hook| hook.verify_within),
        }
    }

    fn end_verification(&mut self, id: &IncidentId, outcome: &Verification, facts: &VerifyFacts) {
        let Some(index) = self.incidents.active.iter().position(|active| active.incident.id == *id) else {
            return;
        };
        let concluded = self.driver.conclude(id, outcome, facts);
        let Some(Some((incident, note))) = self.report("recording an incident's step", concluded) else {
            return;
        };
        let service = self.incidents.active.swap_remove(index).service;
        if incident.state == State::Escalated {
            self.pardoned(service, &incident.bad_build);
            self.escalated(incident, "not_recovered", &note);
            return;
        }
        Event::RollbackEnded {
            service: &incident.service,
            incident: id.as_str(),
            outcome: "recovered",
            recovered: true,
            detail: &note,
        }
        .emit(&mut self.counters);
        self.tell_end(&incident, State::Recovered, &note);
        self.close_others(&incident);
    }

    /// Whether a process of a build is there.
    pub(super) fn runs(&self, service: usize, build: &BuildId) -> bool {
        self.services[service].builds.get(build).is_some_and(|build| !build.processes.is_empty())
    }

    /// A build whose condemnation was lifted is judged anew when it comes back.
    fn pardoned(&mut self, service: usize, build: &BuildId) {
        self.refresh_state(service, build);
        if let Some(build) = self.services[service].builds.get_mut(build)
            && build.state == BuildState::Probation
        {
            build.judged = None;
        }
    }
}
