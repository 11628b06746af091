//! What people decide while the agent runs: modes, a pause, builds taken for good or bad, incidents answered.
//!
//! Each command is one durable transaction with its line in the audit trail, written before anything follows from it; and
//! what is in force is found again by the next agent. [`builds`] has the decisions on builds.

mod builds;

use std::collections::HashMap;
use std::time::Duration;

use super::Agent;
use crate::config::Mode;
use crate::control::{Command, DecisionRecord, Outcome, Refusal, RefusalCode, span};
use crate::decision::{AuditEntry, Decision, Decisions, Observed, Subject, Who};
use crate::event::Event;
use crate::incident::{IncidentKind, Moment, NewIncident, Operator, PausedUntil};
use crate::model::{BuildId, EndpointName, ServiceName};
use crate::store::{Change, NewDecision, Store, StoreError};

/// How often is looked for decisions that are over.
const LOOK_EVERY_NS: u64 = 1_000_000_000;

/// What is in force.
#[derive(Debug, Default)]
pub(super) struct Manual {
    pub(super) decisions: Decisions,
    /// As the ledger has it, until it is over.
    paused: Option<PausedUntil>,
    looked_mono_ns: u64,
    /// Requests of a build on an endpoint that it is condemned on, when this agent first looked.
    condemned_requests: HashMap<(ServiceName, BuildId, EndpointName), u64>,
}

/// Why a command is not carried out.
#[derive(Debug)]
struct Refused(RefusalCode, String);

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self(RefusalCode::Failed, format!("nothing was done: {error}"))
    }
}

fn conflict(message: impl Into<String>) -> Refused {
    Refused(RefusalCode::Conflict, message.into())
}

fn not_found(message: impl Into<String>) -> Refused {
    Refused(RefusalCode::NotFound, message.into())
}

impl Manual {
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        Ok(Self { decisions: store.decisions()?, paused: store.pause()?, ..Self::default() })
    }
}

impl Agent {
    /// Carries out a command that changes something. The audit trail says so, whether it was done or refused.
    pub(super) fn change(&mut self, command: &Command, by: &Who) -> Outcome {
        let done = match command {
            Command::Approve { incident } => {
                self.answer_incident(command, by, incident, &Operator::Approved { by: by.to_string() })
            }
            Command::Reject { incident } => {
                self.answer_incident(command, by, incident, &Operator::Rejected { by: by.to_string() })
            }
            Command::Acknowledge { incident } => {
                self.answer_incident(command, by, incident, &Operator::Acknowledged { by: by.to_string() })
            }
            Command::Accept { service, build, endpoint, .. } => {
                self.accept(command, by, service, build, endpoint.as_ref())
            }
            Command::Condemn { service, build, endpoint, .. } => {
                self.condemn(command, by, service, build, endpoint.as_ref())
            }
            Command::Forget { service, build, endpoint } => {
                self.forget(command, by, service, build, endpoint.as_ref())
            }
            Command::Mode { service, mode, .. } => self.set_mode(command, by, service, *mode),
            Command::Pause { .. } => self.pause(command, by),
            Command::Resume => self.resume(command, by),
            _ => Err(Refused(RefusalCode::BadRequest, "this command changes nothing".to_owned())),
        };
        match done {
            Ok(said) => {
                tracing::warn!(%by, "{}: {said}", command.typed());
                Outcome::Done(said)
            }
            Err(Refused(code, message)) => {
                let refused = self.store.record(&AuditEntry { done: false, ..line(command, by, &message) });
                self.report("writing the audit trail", refused);
                Outcome::Error(Refusal { code, message })
            }
        }
    }

    /// Hands a person's decision to the incident's state machine. What follows from it, and who decided, is in the incident's
    /// own timeline before any hook starts.
    fn answer_incident(
        &mut self,
        command: &Command,
        by: &Who,
        incident: &str,
        decision: &Operator,
    ) -> Result<String, Refused> {
        let said = match self.operator(incident, decision) {
            Outcome::Done(said) => said,
            Outcome::Error(Refusal { code, message }) => return Err(Refused(code, message)),
            _ => decision.note(),
        };
        self.done(command, by, said)
    }

    /// Writes down what was done already.
    fn done(&self, command: &Command, by: &Who, said: String) -> Result<String, Refused> {
        match self.store.record(&line(command, by, &said)) {
            Ok(()) => Ok(said),
            Err(error) => {
                let message = format!("{said}; but the audit trail could not be written: {error}");
                Err(Refused(RefusalCode::Failed, message))
            }
        }
    }

    fn set_mode(
        &mut self,
        command: &Command,
        by: &Who,
        name: &ServiceName,
        mode: Option<Mode>,
    ) -> Result<String, Refused> {
        let service = self.service_index(name)?;
        let configured = self.configured_mode(name);
        let before = self.manual.decisions.mode(name).map(|(decision, _)| decision.id);
        let Some(mode) = mode else {
            let Some(id) = before else {
                return Err(conflict(format!("{name} is in its configuration's mode already: {configured}")));
            };
            let said = format!("{name} is in mode {configured} again, as configured");
            self.store.change(&Change {
                ends: vec![id],
                new: None,
                build: None,
                audit: line(command, by, &said),
            })?;
            self.manual.decisions.0.retain(|decision| decision.id != id);
            self.services[service].config.mode = configured;
            return Ok(said);
        };
        if mode != Mode::Observe && self.services[service].config.rollback.is_none() {
            return Err(conflict(format!(
                "{name} has no [service.rollback] to run in mode {mode}; add one to the configuration and reload"
            )));
        }
        let holds = held(command);
        let said = format!("{name} is in mode {mode} {holds}; the configuration says {configured}");
        let subject = Subject::Mode { service: name.clone(), mode };
        self.decide_anew(command, by, subject, None, None, &said)?;
        self.services[service].config.mode = mode;
        Ok(said)
    }

    /// The brake first, the trail then. Where the disk takes neither, no hook can start: its intent cannot be written.
    fn pause(&mut self, command: &Command, by: &Who) -> Result<String, Refused> {
        let lasts = command.holds_for().unwrap_or_default();
        let pause = PausedUntil { by: by.to_string(), since: Moment::now(), lasts };
        self.store.set_pause(&pause)?;
        self.manual.paused = Some(pause);
        let said =
            format!("all rollbacks are paused for {}: what would have run asks for approval", span(lasts));
        self.done(command, by, said)
    }

    fn resume(&mut self, command: &Command, by: &Who) -> Result<String, Refused> {
        let now = Moment::now();
        if self.manual.paused.as_ref().and_then(|pause| pause.left(&now)).is_none() {
            return Err(conflict("rollbacks are not paused"));
        }
        self.store.end_pause()?;
        self.manual.paused = None;
        let said = "rollbacks are not paused any more; what asked for approval meanwhile still does";
        self.done(command, by, said.to_owned())
    }

    /// Writes a decision and takes it into force, in the place of the one before it on the same subject.
    fn decide_anew(
        &mut self,
        command: &Command,
        by: &Who,
        subject: Subject,
        before: Option<crate::incident::BuildState>,
        build: Option<crate::store::BuildChange>,
        said: &str,
    ) -> Result<(), Refused> {
        let replaced = self.manual.decisions.replaced_by(&subject).map(|decision| decision.id);
        let made = self.store.change(&Change {
            ends: replaced.into_iter().collect(),
            new: Some(NewDecision { subject, holds_for: command.holds_for(), before }),
            build,
            audit: line(command, by, said),
        })?;
        self.manual.decisions.0.retain(|decision| Some(decision.id) != replaced);
        self.manual.decisions.0.extend(made);
        Ok(())
    }

    fn service_index(&self, name: &ServiceName) -> Result<usize, Refused> {
        self.services
            .iter()
            .position(|known| known.config.name == *name)
            .ok_or_else(|| not_found(format!("no service {name} is configured")))
    }

    /// What the file says, whatever people decided.
    pub(super) fn configured_mode(&self, name: &ServiceName) -> Mode {
        let configured = self.config.services.iter().find(|service| service.name == *name);
        configured.map_or(crate::config::defaults::MODE, |service| service.mode)
    }

    /// Takes what is in force into services that were made from the configuration.
    pub(super) fn apply_decisions(&mut self) {
        for index in 0..self.services.len() {
            let name = self.services[index].config.name.clone();
            if let Some((_, mode)) = self.manual.decisions.mode(&name) {
                self.services[index].config.mode = mode;
            }
        }
        self.apply_build_decisions();
    }

    /// Once a second: what is over ends, and what people condemned is looked for.
    pub(super) fn look_at_decisions(&mut self, now_mono_ns: u64) {
        if now_mono_ns.saturating_sub(self.manual.looked_mono_ns) < LOOK_EVERY_NS {
            return;
        }
        self.manual.looked_mono_ns = now_mono_ns;
        let now = Moment::now();
        let over: Vec<Decision> =
            self.manual.decisions.0.iter().filter(|decision| decision.is_over(&now)).cloned().collect();
        for decision in over {
            let ended = self.end(&decision);
            self.report("ending a decision", ended);
        }
        if let Some(pause) = self.manual.paused.take_if(|pause| pause.left(&now).is_none()) {
            self.pause_is_over(&pause);
        }
        self.look_for_condemned();
    }

    fn pause_is_over(&mut self, pause: &PausedUntil) {
        let command = format!("pause --for {}", span(pause.lasts));
        let said = "rollbacks are not paused any more".to_owned();
        let why = format!("{command}, by {}: {said}", pause.by);
        let audit = AuditEntry {
            at: Moment::now(),
            who: Who::agent(),
            command: format!("end of: {command}"),
            done: true,
            said,
        };
        let ended = self.store.end_pause().and_then(|_| self.store.record(&audit));
        self.report("ending a pause", ended);
        Event::Warning { what: "a decision is over", why: &why }.emit(&mut self.counters);
    }

    /// A decision is over: what was there before it holds again.
    fn end(&mut self, decision: &Decision) -> Result<(), StoreError> {
        let (command, said, build) = match &decision.subject {
            Subject::Mode { service, mode } => {
                let configured = self.configured_mode(service);
                let said = format!("{service} is in mode {configured} again, as configured");
                (format!("mode {service} {mode}"), said, None)
            }
            Subject::Build { service, build, endpoint, opinion } => {
                self.end_of_build(decision, service, build, endpoint.as_ref(), *opinion)
            }
        };
        let audit = AuditEntry {
            at: Moment::now(),
            who: Who::agent(),
            command: format!("end of: {command}"),
            done: true,
            said: said.clone(),
        };
        self.store.change(&Change { ends: vec![decision.id], new: None, build, audit })?;
        self.manual.decisions.0.retain(|other| other.id != decision.id);
        let why = format!("{command}, by {}: {said}", decision.who);
        Event::Warning { what: "a decision is over", why: &why }.emit(&mut self.counters);
        match &decision.subject {
            Subject::Mode { service, .. } => {
                let configured = self.configured_mode(service);
                if let Some(of) = self.services.iter_mut().find(|of| of.config.name == *service) {
                    of.config.mode = configured;
                }
            }
            Subject::Build { service, build, endpoint, .. } => {
                self.renew_build(service, build, endpoint.is_none())?;
            }
        }
        Ok(())
    }

    pub(super) fn is_configured(&self, name: &ServiceName) -> bool {
        self.services.iter().any(|service| service.config.name == *name)
    }

    pub(super) fn unknown_service(&self, name: &ServiceName) -> Outcome {
        let known: Vec<&str> = self.services.iter().map(|known| known.config.name.as_str()).collect();
        let message = format!("no service {name} is configured; there are: {}", known.join(", "));
        Outcome::Error(Refusal { code: RefusalCode::NotFound, message })
    }

    /// A build is there that people know to be bad: an incident, which the mode and the rails decide on.
    fn known_bad_serves(&mut self, service: usize, id: &BuildId, endpoint: EndpointName, reason: &str) {
        let config = &self.services[service].config;
        let found = self.store.last_good_build(&config.name);
        let (name, mode) = (config.name.clone(), config.mode);
        let Some(good) = self.report("reading the ledger", found) else { return };
        let new = NewIncident {
            service: name,
            endpoint,
            bad_build: id.clone(),
            good_build: good.map(|record| record.build).filter(|good| good != id),
            reason: reason.to_owned(),
            evidence: serde_json::json!({ "schema": crate::verdict::EVIDENCE_SCHEMA, "condemned": true }),
            mode,
        };
        self.open_incident_of(service, IncidentKind::Cost, new, "condemned_build");
    }

    /// What is in force, for `status`.
    pub(super) fn decision_records(&self) -> Vec<DecisionRecord> {
        let now = Moment::now();
        let pause = self.manual.paused.as_ref().and_then(|pause| DecisionRecord::of_pause(pause, &now));
        let decisions = self.manual.decisions.0.iter().map(|decision| DecisionRecord::of(decision, &now));
        pause.into_iter().chain(decisions).collect()
    }

    /// What mode observe kept from happening.
    pub(super) fn observed(&self, service: &ServiceName) -> Observed {
        self.store.observed().ok().and_then(|mut all| all.remove(service)).unwrap_or_default()
    }
}

/// A line of the trail.
fn line(command: &Command, by: &Who, said: &str) -> AuditEntry {
    AuditEntry {
        at: Moment::now(),
        who: by.clone(),
        command: command.typed(),
        done: true,
        said: crate::text::line(said).into_owned(),
    }
}

/// For how long, as people say it.
fn held(command: &Command) -> String {
    held_for(command.holds_for())
}

fn held_for(holds_for: Option<Duration>) -> String {
    holds_for.map_or_else(|| "until that is withdrawn".to_owned(), |for_| format!("for {}", span(for_)))
}
