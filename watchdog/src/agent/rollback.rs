//! From "exceeds" to recovered or escalated: the incident's steps, each on disk before its effect.

use std::sync::Arc;
use std::time::Duration;

use super::Agent;
use super::repeats::with_repeat;
use super::verifying::Verifying;
use crate::action::{Rollback, RollbackEvent};
use crate::event::Event;
use crate::incident::{Decision, Facts, Incident, IncidentId, Moment, NewIncident, State, Step, decide};
use crate::model::{BuildId, EndpointName};
use crate::store::StoreError;
use crate::verdict::{Evidence, Repeat, Verdict};

/// An escalated incident is told again this often, until a person closes it.
const REMIND_EVERY_NS: u64 = 600_000_000_000;
const DAY: Duration = Duration::from_hours(24);

/// The incidents under way.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    pub(super) active: Vec<Active>,
    /// Escalated ones, with when they were last told.
    pub(super) escalated: Vec<(Incident, u64)>,
}

#[derive(Debug)]
pub(super) struct Active {
    pub(super) incident: Incident,
    pub(super) service: usize,
    pub(super) phase: Phase,
}

#[derive(Debug)]
pub(super) enum Phase {
    AwaitingApproval,
    Hook,
    Verifying(Verifying),
}

impl Agent {
    /// The incident that a person should look at for a service.
    pub(super) fn open_incident(&self, service: usize) -> Option<&IncidentId> {
        let name = &self.services[service].config.name;
        let active = self.incidents.active.iter().map(|active| &active.incident);
        let escalated = self.incidents.escalated.iter().map(|(incident, _)| incident);
        active.chain(escalated).find(|incident| incident.service == *name).map(|incident| &incident.id)
    }

    /// A judge has just found its build over budget.
    pub(super) fn exceeds(&mut self, service: usize, id: &BuildId, now_mono_ns: u64) {
        let name = self.services[service].config.name.clone();
        let Some(build) = self.services[service].builds.get(id) else { return };
        let Some(judged) = &build.judged else { return };
        let Some(verdict) = self.told(service, id, build) else { return };
        let sentence = verdict.sentence();
        let Verdict::Exceeds { evidence } = &verdict else {
            let why = format!("service {name}: {sentence}");
            Event::Warning {
                what: "over budget, but not because of the build: nothing is rolled back",
                why: &why,
            }
            .emit(&mut self.counters);
            return;
        };
        let evidence = (**evidence).clone();
        let seconds_since = |mono_ns: u64| now_mono_ns.saturating_sub(mono_ns) as f64 * 1e-9;
        Event::Exceeds {
            service: &name,
            build: id,
            endpoint: &evidence.endpoint,
            sentence: &sentence,
            detection_seconds: seconds_since(evidence.last_end_mono_ns),
            since_first_seconds: judged.first_end_mono_ns.map_or(0.0, seconds_since),
            requests: evidence.requests,
        }
        .emit(&mut self.counters);
        if build.state != crate::incident::BuildState::Probation {
            let why =
                format!("service {name}: build {id} is {}, and only a new build is rolled back", build.state);
            Event::Warning { what: "no rollback", why: &why }.emit(&mut self.counters);
            return;
        }
        let repeat = self.repeated(service, &evidence);
        let opened = self.open_for_evidence(service, id, &evidence, &sentence, repeat.as_ref());
        if let Some(Some(incident)) = self.report("opening an incident", opened) {
            self.opened(service, incident, evidence.budget.label());
        }
    }

    fn open_for_evidence(
        &self,
        service: usize,
        id: &BuildId,
        evidence: &Evidence,
        sentence: &str,
        repeat: Option<&Repeat>,
    ) -> anyhow::Result<Option<Incident>> {
        let (sentence, evidence_json) = with_repeat(evidence, sentence, repeat)?;
        Ok(self.open_new(service, id, evidence.endpoint.clone(), &sentence, evidence_json)?)
    }

    /// `None`: an incident for this build is open already.
    fn open_new(
        &self,
        service: usize,
        bad: &BuildId,
        endpoint: EndpointName,
        reason: &str,
        evidence: serde_json::Value,
    ) -> Result<Option<Incident>, StoreError> {
        let config = &self.services[service].config;
        let good = self.store.last_good_build(&config.name)?;
        let new = NewIncident {
            service: config.name.clone(),
            endpoint,
            bad_build: bad.clone(),
            good_build: good.map(|record| record.build).filter(|good| good != bad),
            reason: reason.to_owned(),
            evidence,
            mode: config.mode,
        };
        match self.store.open_incident(&new, &Moment::now()) {
            Ok(incident) => Ok(Some(incident)),
            Err(StoreError::AlreadyOpen { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A build that was condemned runs again: an incident at once, from the ledger.
    pub(super) fn condemned_is_back(&mut self, service: usize, bad: &BuildId) {
        let under_way = self
            .incidents
            .active
            .iter()
            .any(|active| active.service == service && active.incident.bad_build == *bad);
        if under_way {
            return;
        }
        let reason = format!("build {bad} was condemned before and is back");
        let evidence = serde_json::json!({ "schema": crate::verdict::EVIDENCE_SCHEMA, "condemned": true });
        let opened = self.open_new(service, bad, EndpointName::other(), &reason, evidence);
        if let Some(Some(incident)) = self.report("opening an incident", opened) {
            self.opened(service, incident, "condemned_build");
        }
    }

    fn opened(&mut self, service: usize, incident: Incident, reason: &str) {
        let name = self.services[service].config.name.clone();
        Event::IncidentOpened {
            service: &name,
            incident: incident.id.as_str(),
            reason,
            sentence: &incident.reason,
        }
        .emit(&mut self.counters);
        self.decide_incident(service, incident);
    }

    pub(super) fn decide_incident(&mut self, service: usize, incident: Incident) {
        let decided = self.decision(service, &incident);
        let Some(decision) = self.report("deciding an incident", decided) else { return };
        let step = match decision {
            Decision::Act => {
                self.run_hook(service, incident, "mode enforce");
                return;
            }
            Decision::AskApproval => {
                let note = format!("mode approve: `load-watchdog approve {}` runs the hook", incident.id);
                (Step::AskApproval, note)
            }
            Decision::Observe { refusal: None } => {
                (Step::Observe, "mode observe: mode enforce would have run the hook".to_owned())
            }
            Decision::Observe { refusal: Some(reason) } => (
                Step::Observe,
                format!("mode observe: mode enforce would not have run the hook either, because {reason}"),
            ),
            Decision::Refuse { reason } => (Step::Escalate, format!("not rolled back: {reason}")),
        };
        self.take_step(service, &incident.id, step.0, &step.1);
    }

    fn decision(&self, service: usize, incident: &Incident) -> Result<Decision, StoreError> {
        let config = &self.services[service].config;
        let bad = self.store.build(&config.name, &incident.bad_build)?;
        let good = match &incident.good_build {
            Some(good) => self.store.build(&config.name, good)?,
            None => None,
        };
        let history = self.store.rollback_history(&config.name)?;
        let now = Moment::now();
        let hook = config.rollback.as_ref();
        Ok(decide(&Facts {
            mode: config.mode,
            hook_configured: hook.is_some(),
            bad_build: &incident.bad_build,
            bad_state: bad.map(|record| record.state),
            good_build: good.as_ref().map(|record| (&record.build, record.state)),
            other_open_incident: false,
            restored_by_rollback: history.just_restored(&incident.bad_build),
            since_last_rollback: history.since_last(&now),
            cooldown: hook.map_or(Duration::ZERO, |hook| hook.cooldown),
            rollbacks_last_day: history.within(DAY, &now),
            max_per_day: hook.map_or(0, |hook| hook.max_per_day),
        }))
    }

    /// Takes a step that runs nothing, and tells it.
    fn take_step(&mut self, service: usize, id: &IncidentId, step: Step, note: &str) {
        let advanced = self.store.advance(id, step, note, &Moment::now());
        let Some(incident) = self.report("recording an incident's step", advanced) else { return };
        let name = self.services[service].config.name.clone();
        match incident.state {
            State::Escalated => {
                Event::RollbackEnded {
                    service: &name,
                    incident: id.as_str(),
                    outcome: "refused",
                    recovered: false,
                    detail: note,
                }
                .emit(&mut self.counters);
                self.incidents.escalated.push((incident, self.last_tick_mono_ns));
            }
            State::AwaitingApproval => {
                Event::IncidentStep { service: &name, incident: id.as_str(), step: note }
                    .emit(&mut self.counters);
                self.incidents.active.push(Active { incident, service, phase: Phase::AwaitingApproval });
            }
            _ => Event::IncidentStep { service: &name, incident: id.as_str(), step: note }
                .emit(&mut self.counters),
        }
    }

    /// Journals the intent and runs the hook, in a task of its own: the loop goes on measuring.
    pub(super) fn run_hook(&mut self, service: usize, incident: Incident, note: &str) {
        let Some(hook) = self.services[service].config.rollback.clone() else { return };
        let (store, events) = (Arc::clone(&self.store), self.rollback_events.clone());
        let (id, note) = (incident.id.clone(), note.to_owned());
        self.incidents.active.retain(|active| active.incident.id != id);
        self.incidents.active.push(Active { incident, service, phase: Phase::Hook });
        tokio::spawn(async move {
            let result = match Rollback::start(Arc::clone(&store), hook, &id, &note).await {
                Ok(rollback) => rollback.drive(events.clone()).await,
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                escalate(&store, id, &format!("the rollback could not be carried through: {error}"), &events)
                    .await;
            }
        });
    }

    /// What the driver tells; all of it is on disk.
    pub(super) fn on_rollback_event(&mut self, event: RollbackEvent, now_mono_ns: u64) {
        let id = match &event {
            RollbackEvent::HookStarted { incident, .. }
            | RollbackEvent::HookEnded { incident, .. }
            | RollbackEvent::TryAgain { incident, .. }
            | RollbackEvent::Verifying { incident }
            | RollbackEvent::Escalated { incident, .. } => incident.clone(),
        };
        let Some(index) = self.incidents.active.iter().position(|active| active.incident.id == id) else {
            return;
        };
        let (service, bad) =
            (self.incidents.active[index].service, self.incidents.active[index].incident.bad_build.clone());
        self.refresh_state(service, &bad);
        let name = self.services[service].config.name.clone();
        let step = match event {
            RollbackEvent::HookStarted { attempt, pid, .. } => {
                let detected = &self.incidents.active[index].incident.detected;
                let after = detected.until(&Moment::now()).as_secs_f64();
                format!("the hook runs (attempt {attempt}, pid {pid}), {after:.2} s after the verdict")
            }
            RollbackEvent::HookEnded { attempt, run, .. } => {
                format!("the hook ended (attempt {attempt}) after {} ms: {}", run.took_ms, run.outcome)
            }
            RollbackEvent::TryAgain { attempt, after, .. } => {
                format!("attempt {attempt} of the hook begins in {} s", after.as_secs_f64())
            }
            RollbackEvent::Verifying { .. } => {
                let baseline = self.good_mean(index);
                let seen = Verifying::since(now_mono_ns, baseline);
                self.incidents.active[index].phase = Phase::Verifying(seen);
                "verifying that the good build serves and its cost is back".to_owned()
            }
            RollbackEvent::Escalated { note, .. } => {
                let active = self.incidents.active.swap_remove(index);
                self.escalated(active.incident, service, "failed", &note);
                return;
            }
        };
        Event::IncidentStep { service: &name, incident: id.as_str(), step: &step }.emit(&mut self.counters);
    }

    pub(super) fn escalated(&mut self, incident: Incident, service: usize, outcome: &str, note: &str) {
        let name = self.services[service].config.name.clone();
        Event::RollbackEnded {
            service: &name,
            incident: incident.id.as_str(),
            outcome,
            recovered: false,
            detail: note,
        }
        .emit(&mut self.counters);
        self.incidents.escalated.push((incident, self.last_tick_mono_ns));
    }

    /// The driver condemned the build in the ledger.
    fn refresh_state(&mut self, service: usize, build: &BuildId) {
        let name = self.services[service].config.name.clone();
        let found = self.store.build(&name, build);
        if let Some(Some(record)) = self.report("reading the ledger", found)
            && let Some(build) = self.services[service].builds.get_mut(build)
        {
            build.state = record.state;
            build.state_since = record.state_since;
        }
    }

    pub(super) fn remind(&mut self, now_mono_ns: u64) {
        for (incident, told_mono_ns) in &mut self.incidents.escalated {
            if now_mono_ns.saturating_sub(*told_mono_ns) >= REMIND_EVERY_NS {
                *told_mono_ns = now_mono_ns;
                let step = format!("still escalated, a person is needed: {}", incident.reason);
                Event::IncidentStep {
                    service: &incident.service,
                    incident: incident.id.as_str(),
                    step: &step,
                }
                .emit(&mut self.counters);
            }
        }
    }

    /// Indices of services change with the configuration; incidents of services that are gone are left to the ledger.
    pub(super) fn renumber_incidents(&mut self) {
        let services = &self.services;
        self.incidents.active.retain_mut(|active| {
            match services.iter().position(|service| service.config.name == active.incident.service) {
                Some(index) => {
                    active.service = index;
                    true
                }
                None => false,
            }
        });
    }
}

/// Escalates in the ledger, if it can be written, and tells the loop either way.
pub(super) async fn escalate(
    store: &Arc<crate::store::Store>,
    id: IncidentId,
    note: &str,
    events: &tokio::sync::mpsc::UnboundedSender<RollbackEvent>,
) {
    let (store, of, text) = (Arc::clone(store), id.clone(), note.to_owned());
    let _ =
        tokio::task::spawn_blocking(move || store.advance(&of, Step::Escalate, &text, &Moment::now())).await;
    let _ = events.send(RollbackEvent::Escalated { incident: id, note: note.to_owned() });
}
