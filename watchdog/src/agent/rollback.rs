//! From "exceeds" to recovered or escalated: the incident's steps, each on disk before its effect.

use super::Agent;
use super::beside::reminder;
use super::repeats::with_repeat;
use super::verifying::Verifying;
use crate::action::{Live, RollbackEvent};
use crate::event::Event;
use crate::incident::{BuildState, Decision, Incident, IncidentId, IncidentKind, Moment, NewIncident, State};
use crate::model::{BuildId, EndpointName, ServiceName};
use crate::store::StoreError;
use crate::verdict::{Evidence, Repeat, Verdict};

/// What waits for a person is told again this often, until somebody acknowledges it or decides.
pub(super) const REMIND_EVERY_NS: u64 = 600_000_000_000;
/// What could not be written to the ledger is tried again this often.
const TRY_AGAIN_EVERY_NS: u64 = 1_000_000_000;

/// The incidents under way.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    pub(super) active: Vec<Active>,
    /// Escalated ones, with when they were last told.
    pub(super) escalated: Vec<(Incident, u64)>,
    /// What the ledger could not take, a full disk for one.
    unwritten: Vec<Unwritten>,
    tried_mono_ns: u64,
}

/// Nothing follows from these until they are on disk.
#[derive(Debug)]
enum Unwritten {
    Incident { kind: IncidentKind, new: Box<NewIncident>, label: String },
    Decision(Box<Incident>),
    Escalation { incident: IncidentId, note: String },
}

#[derive(Debug)]
pub(super) struct Active {
    pub(super) incident: Incident,
    pub(super) service: usize,
    pub(super) phase: Phase,
}

#[derive(Debug)]
pub(super) enum Phase {
    AwaitingApproval {
        told_mono_ns: u64,
    },
    /// The hook before the rollback, or the rollback's own.
    Hook,
    Verifying(Box<Verifying>),
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
        let Verdict::Exceeds { evidence } = verdict else { return };
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
        if build.state != BuildState::Probation {
            let why =
                format!("service {name}: build {id} is {}, and only a new build is rolled back", build.state);
            Event::Warning { what: "no rollback", why: &why }.emit(&mut self.counters);
            return;
        }
        let repeat = self.repeated(service, &evidence);
        let opened = self.open_for_evidence(service, id, &evidence, &sentence, repeat.as_ref());
        self.report("opening an incident", opened);
    }

    /// A budget is broken, and for a good while nobody has known whether by the build.
    pub(super) fn over_budget_unattributed(&mut self, service: usize, id: &BuildId) {
        let name = &self.services[service].config.name;
        let Some(build) = self.services[service].builds.get(id) else { return };
        let Some(verdict) = self.told(service, id, build) else { return };
        let why = format!("service {name}: {}", verdict.sentence());
        let what = "over budget, but not shown to be the build's doing: nothing is rolled back";
        Event::Warning { what, why: &why }.emit(&mut self.counters);
    }

    fn open_for_evidence(
        &mut self,
        service: usize,
        id: &BuildId,
        evidence: &Evidence,
        sentence: &str,
        repeat: Option<&Repeat>,
    ) -> anyhow::Result<()> {
        let (sentence, figures) = with_repeat(evidence, sentence, repeat)?;
        let label = evidence.budget.label();
        let kind = IncidentKind::Cost;
        self.open_new(service, kind, id, evidence.endpoint.clone(), &sentence, figures, label)?;
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "what an incident is made of")]
    pub(super) fn open_new(
        &mut self,
        service: usize,
        kind: IncidentKind,
        bad: &BuildId,
        endpoint: EndpointName,
        reason: &str,
        evidence: serde_json::Value,
        label: &str,
    ) -> Result<(), StoreError> {
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
        self.open_incident_of(service, kind, new, label);
        Ok(())
    }

    /// An incident that cannot be written yet is kept; one of the same build that is open already stands for it.
    pub(super) fn open_incident_of(
        &mut self,
        service: usize,
        kind: IncidentKind,
        new: NewIncident,
        label: &str,
    ) {
        match self.driver.open_of(kind, &new) {
            Ok(incident) => self.opened(service, incident, label),
            Err(StoreError::AlreadyOpen { .. }) => {}
            Err(error) => {
                self.report::<(), _>("opening an incident", Err(error));
                let label = label.to_owned();
                self.incidents.unwritten.push(Unwritten::Incident { kind, new: Box::new(new), label });
            }
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
        self.decide(service, incident, false);
    }

    /// `prepared`: the hook before the rollback is done, so the rollback's own is next.
    pub(super) fn decide(&mut self, service: usize, incident: Incident, prepared: bool) {
        let settled = self
            .live(service, &incident)
            .and_then(|live| self.driver.settle(&self.services[service].config, &incident.id, &live));
        match settled {
            Ok((incident, Decision::Act | Decision::Rehearse)) if prepared => {
                self.run_hook(service, incident);
            }
            Ok((incident, Decision::Act | Decision::Rehearse)) => self.prepare(service, incident),
            Ok((incident, decision)) => self.tell_decision(service, incident, &decision),
            Err(error) => {
                self.report::<(), _>("deciding an incident", Err(error));
                self.incidents.unwritten.push(Unwritten::Decision(Box::new(incident)));
            }
        }
    }

    /// What the rails want to know of the present.
    pub(super) fn live(&self, service: usize, incident: &Incident) -> Result<Live, StoreError> {
        let service = &self.services[service];
        let records = self.store.builds(Some(&service.config.name))?;
        let now = Moment::now();
        let bad_age = records
            .iter()
            .find(|record| record.build == incident.bad_build)
            .map(|record| record.first_seen.until(&now));
        let is_newer = |record: &&crate::store::BuildRecord| {
            let runs = service.builds.get(&record.build).is_some_and(|build| !build.processes.is_empty());
            runs && record.state == BuildState::Probation
                && bad_age.is_some_and(|bad_age| record.first_seen.until(&now) < bad_age)
        };
        Ok(Live {
            mode: service.config.mode,
            dry_run: service.config.rollback.as_ref().is_some_and(|hook| hook.dry_run),
            newer_build: records.iter().find(is_newer).map(|record| record.build.clone()),
        })
    }

    fn tell_decision(&mut self, service: usize, incident: Incident, decision: &Decision) {
        let now_mono_ns = self.last_tick_mono_ns;
        let said = match decision {
            Decision::Refuse { reason } => {
                self.escalated(incident, "refused", &format!("not rolled back: {reason}"));
                return;
            }
            Decision::Ask { because: Some(reason) } => format!("not rolled back: {reason}; "),
            Decision::Observe { refusal: Some(reason) } => {
                format!("mode observe: mode enforce would not have run the hook either, because {reason}")
            }
            Decision::Observe { refusal: None } => {
                "mode observe: mode enforce would have run the hook".to_owned()
            }
            _ => String::new(),
        };
        let asks = matches!(decision, Decision::Ask { .. });
        let step = if asks { format!("{said}{}", ask(&incident)) } else { said };
        Event::IncidentStep { service: &incident.service, incident: incident.id.as_str(), step: &step }
            .emit(&mut self.counters);
        if asks {
            self.tell_people(&incident, &step, 0);
            let phase = Phase::AwaitingApproval { told_mono_ns: now_mono_ns };
            self.incidents.active.push(Active { incident, service, phase });
        } else {
            self.windows.observed(incident);
        }
    }

    /// Runs the hook of an armed incident, in a task of its own: the loop goes on measuring.
    pub(super) fn run_hook(&mut self, service: usize, incident: Incident) {
        let id = incident.id.clone();
        self.incidents.active.retain(|active| active.incident.id != id);
        let Some(hook) = self.services[service].config.rollback.clone() else {
            self.give_up(&id, "the service has no [service.rollback] any more");
            return;
        };
        self.incidents.active.push(Active { incident, service, phase: Phase::Hook });
        let (driver, events) = (self.driver.clone(), self.rollback_events.clone());
        tokio::spawn(async move {
            // What went wrong was told as an event.
            let _ = driver.roll_back(hook, &id, &events).await;
        });
    }

    /// What the driver tells; all of it is on disk.
    pub(super) fn on_rollback_event(&mut self, event: RollbackEvent, now_mono_ns: u64) {
        if let RollbackEvent::BesideEnded { incident, kind, run } = &event {
            self.beside_ended(incident, *kind, run);
            return;
        }
        let id = event.incident().clone();
        let Some(index) = self.incidents.active.iter().position(|active| active.incident.id == id) else {
            self.of_nobody(event);
            return;
        };
        let (service, bad) =
            (self.incidents.active[index].service, self.incidents.active[index].incident.bad_build.clone());
        self.refresh_state(service, &bad);
        let name = self.services[service].config.name.clone();
        let step = match event {
            RollbackEvent::BesideEnded { .. } => return,
            RollbackEvent::Prepared { run, .. } => {
                let step =
                    format!("the hook before the rollback ended after {} ms: {}", run.took_ms, run.outcome);
                Event::IncidentStep { service: &name, incident: id.as_str(), step: &step }
                    .emit(&mut self.counters);
                self.prepared(index);
                return;
            }
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
                let seen = Verifying::since(now_mono_ns, self.cost_limit(index));
                self.incidents.active[index].phase = Phase::Verifying(Box::new(seen));
                "verifying that the good build serves and its cost is back".to_owned()
            }
            RollbackEvent::Rehearsed { note, .. } => {
                let Active { incident, .. } = self.incidents.active.swap_remove(index);
                self.tell_end(&incident, State::Observed, &note);
                self.windows.observed(Incident { state: State::Observed, ..incident });
                note
            }
            RollbackEvent::Escalated { note, .. } => {
                let Active { incident, .. } = self.incidents.active.swap_remove(index);
                let incident = match self.store.incident(&id) {
                    Ok(found) if found.state == State::Escalated => found,
                    _ => {
                        self.escalate_later(&id, &note);
                        incident
                    }
                };
                self.escalated(incident, "failed", &note);
                return;
            }
        };
        Event::IncidentStep { service: &name, incident: id.as_str(), step: &step }.emit(&mut self.counters);
    }

    /// The end of a hook whose service was taken out of the configuration meanwhile: nothing can be verified.
    fn of_nobody(&mut self, event: RollbackEvent) {
        match event {
            RollbackEvent::Verifying { incident } | RollbackEvent::Prepared { incident, .. } => {
                self.give_up(&incident, REMOVED);
            }
            RollbackEvent::Escalated { incident, note } => match self.store.incident(&incident) {
                Ok(found) if found.state == State::Escalated => self.escalated(found, "failed", &note),
                _ => self.escalate_later(&incident, &note),
            },
            _ => {}
        }
    }

    /// Escalates an incident that nothing carries any more.
    pub(super) fn give_up(&mut self, id: &IncidentId, note: &str) {
        match self.driver.escalate(id, note) {
            Ok(incident) => {
                let known = self.incidents.escalated.iter().any(|(known, _)| known.id == *id);
                if !known {
                    self.escalated(incident, "unknown", note);
                }
            }
            // It came to an end meanwhile.
            Err(StoreError::IllegalStep(_)) => {}
            Err(error) => {
                self.report::<(), _>("recording an incident's step", Err(error));
                self.escalate_later(id, note);
            }
        }
    }

    fn escalate_later(&mut self, id: &IncidentId, note: &str) {
        let (incident, note) = (id.clone(), note.to_owned());
        self.incidents.unwritten.push(Unwritten::Escalation { incident, note });
    }

    pub(super) fn escalated(&mut self, incident: Incident, outcome: &str, note: &str) {
        Event::RollbackEnded {
            service: &incident.service,
            incident: incident.id.as_str(),
            outcome,
            recovered: false,
            detail: note,
        }
        .emit(&mut self.counters);
        self.tell_people(&incident, note, 0);
        self.tell_end(&incident, State::Escalated, note);
        self.incidents.escalated.push((incident, self.last_tick_mono_ns));
    }

    /// The driver condemned the build in the ledger.
    pub(super) fn refresh_state(&mut self, service: usize, build: &BuildId) {
        let name = self.services[service].config.name.clone();
        let found = self.store.build(&name, build);
        if let Some(Some(record)) = self.report("reading the ledger", found)
            && let Some(build) = self.services[service].builds.get_mut(build)
        {
            build.state = record.state;
            build.state_since = record.state_since;
        }
    }

    /// Tells again what waits for a person, and tries again what could not be written.
    pub(super) fn remind(&mut self, now_mono_ns: u64) {
        let is_due = |told_mono_ns: &mut u64| {
            // Zero: not told by this agent.
            let due = *told_mono_ns == 0 || now_mono_ns.saturating_sub(*told_mono_ns) >= REMIND_EVERY_NS;
            if due {
                *told_mono_ns = now_mono_ns;
            }
            due
        };
        let mut told = Vec::new();
        for (incident, told_mono_ns) in &mut self.incidents.escalated {
            if is_due(told_mono_ns) {
                let step = format!("still escalated, a person is needed: {}", incident.reason);
                told.push((incident.clone(), step));
            }
        }
        for Active { incident, phase, .. } in &mut self.incidents.active {
            if let Phase::AwaitingApproval { told_mono_ns } = phase
                && is_due(told_mono_ns)
            {
                let step = format!("{}: {}", ask(incident), incident.reason);
                told.push((incident.clone(), step));
            }
        }
        let now = Moment::now();
        for (incident, step) in told {
            Event::IncidentStep { service: &incident.service, incident: incident.id.as_str(), step: &step }
                .emit(&mut self.counters);
            self.tell_people(&incident, &step, reminder(incident.state_since.until(&now)));
        }
        if now_mono_ns.saturating_sub(self.incidents.tried_mono_ns) >= TRY_AGAIN_EVERY_NS {
            self.incidents.tried_mono_ns = now_mono_ns;
            self.write_again();
        }
    }

    fn write_again(&mut self) {
        for unwritten in std::mem::take(&mut self.incidents.unwritten) {
            match unwritten {
                // Nothing of a service is opened that nobody watches any more.
                Unwritten::Incident { kind, new, label } => {
                    if let Some(service) = self.index_of(&new.service) {
                        self.open_incident_of(service, kind, *new, &label);
                    }
                }
                Unwritten::Decision(incident) => match self.index_of(&incident.service) {
                    Some(service) => self.decide_incident(service, *incident),
                    None => self.give_up(&incident.id, REMOVED),
                },
                Unwritten::Escalation { incident, note } => self.give_up(&incident, &note),
            }
        }
    }

    pub(super) fn index_of(&self, name: &ServiceName) -> Option<usize> {
        self.services.iter().position(|service| service.config.name == *name)
    }

    /// Indices of services change with the configuration. The incidents of a service that is gone are a person's: nothing
    /// can be run or verified for it any more. A hook that runs is left to its end, and escalated then.
    pub(super) fn renumber_incidents(&mut self) {
        let services = &self.services;
        let mut gone = Vec::new();
        self.incidents.active.retain_mut(|active| {
            let index = services.iter().position(|service| service.config.name == active.incident.service);
            if let Some(index) = index {
                active.service = index;
            } else if !matches!(active.phase, Phase::Hook) {
                gone.push(active.incident.id.clone());
            }
            index.is_some()
        });
        for id in gone {
            self.give_up(&id, REMOVED);
        }
    }
}

/// Why an incident is given up.
pub(super) const REMOVED: &str =
    "the service was taken out of the configuration in the middle of the incident";

fn ask(incident: &Incident) -> String {
    let good = incident.good_build.as_ref().map_or("none", BuildId::as_str);
    format!("waiting for approval: `load-watchdog approve {}` runs the hook, back to {good}", incident.id)
}
