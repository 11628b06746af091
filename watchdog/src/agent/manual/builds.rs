//! Builds that a person takes for good or bad, or wants judged anew.

use std::collections::{BTreeMap, BTreeSet};

use super::{Refused, conflict, held, not_found};
use crate::agent::Agent;
use crate::agent::keeping::Unsaved;
use crate::aggregate::{BuildAggregate, EndpointAggregate};
use crate::control::{Command, Outcome};
use crate::decision::{Opinion, Subject, Who};
use crate::event::Event;
use crate::incident::{BuildState, Incident, IncidentKind, Moment, Operator, State};
use crate::model::{BuildId, EndpointName, ServiceName};
use crate::store::{BuildChange, Change, StoreError};

impl Agent {
    /// A person takes a build for good before its guard time is over, or although it was condemned: budgets do not bind it
    /// any more, and new builds are compared with it. On one endpoint: the budgets of that endpoint do not bind it.
    pub(super) fn accept(
        &mut self,
        command: &Command,
        by: &Who,
        service: &ServiceName,
        id: &BuildId,
        endpoint: Option<&EndpointName>,
    ) -> Result<String, Refused> {
        let index = self.service_index(service)?;
        let record = self.store.build(service, id)?.ok_or_else(|| {
            not_found(format!("service {service} has no build {id}; `load-watchdog builds` lists them"))
        })?;
        let subject = subject(service, id, endpoint, Opinion::Accepted);
        let holds = held(command);
        if let Some(endpoint) = endpoint {
            self.known_endpoint(index, endpoint)?;
            let said =
                format!("the budgets of endpoint {endpoint} do not bind build {id} of {service} {holds}");
            self.decide_anew(command, by, subject, None, None, &said)?;
            self.renew_build(service, id, false)?;
            return Ok(said);
        }
        let decided = self.manual.decisions.build(service, id).map(|(decision, _)| decision.before);
        if record.state.is_restorable() && decided.is_none() {
            return Err(conflict(format!(
                "build {id} is {}, and only one on probation is accepted, or a condemned one",
                record.state
            )));
        }
        let open = self.settleable(service, id)?;
        let said = format!("build {id} of {service} is good {holds}: the next builds are compared with it");
        let change = BuildChange {
            service: service.clone(),
            build: id.clone(),
            state: Some(BuildState::Good),
            anew: false,
            why: format!("accepted by {by}"),
        };
        let before = decided.unwrap_or(Some(record.state));
        self.decide_anew(command, by, subject, before, Some(change), &said)?;
        self.renew_build(service, id, true)?;
        Event::Accepted { service, build: id, by: &by.to_string() }.emit(&mut self.counters);
        self.settle(open, by);
        Ok(said)
    }

    /// A person takes a build for bad. One that serves on probation is an incident at once, which the mode decides on like
    /// any other; one that is not there is an incident when it comes.
    pub(super) fn condemn(
        &mut self,
        command: &Command,
        by: &Who,
        service: &ServiceName,
        id: &BuildId,
        endpoint: Option<&EndpointName>,
    ) -> Result<String, Refused> {
        let index = self.service_index(service)?;
        let subject = subject(service, id, endpoint, Opinion::Condemned);
        let holds = held(command);
        if let Some(endpoint) = endpoint {
            self.known_endpoint(index, endpoint)?;
            let said = format!(
                "build {id} of {service} is known to be bad on endpoint {endpoint} {holds}: its next request there is an \
                 incident"
            );
            self.decide_anew(command, by, subject, None, None, &said)?;
            self.apply_build_decisions();
            self.look_for_condemned();
            return Ok(said);
        }
        let state = self.store.build(service, id)?.map(|record| record.state);
        let decided = self.manual.decisions.build(service, id).map(|(decision, _)| decision.before);
        let serves = self.services[index].builds.get(id).is_some_and(|build| !build.processes.is_empty());
        let said = format!(
            "build {id} of {service} is condemned {holds}: {}",
            if serves { "it serves, which is an incident now" } else { "its coming is an incident at once" }
        );
        let condemned = BuildChange {
            service: service.clone(),
            build: id.clone(),
            state: Some(BuildState::Condemned),
            anew: false,
            why: format!("condemned by {by}"),
        };
        // Only a build on probation is rolled back, so a serving one is condemned after its incident was decided.
        let at_once = (!serves).then(|| condemned.clone());
        self.decide_anew(command, by, subject, decided.unwrap_or(state), at_once, &said)?;
        if serves {
            let reason = format!("build {id} was condemned by {by}");
            self.known_bad_serves(index, id, EndpointName::other(), &reason);
            self.store.set_build_state(service, id, BuildState::Condemned, &condemned.why, &Moment::now())?;
        }
        self.renew_build(service, id, true)?;
        Ok(said)
    }

    /// What was decided of a build does not hold any more, be it by a person or by an incident. A build that is there is on
    /// probation and judged anew; of another one nothing is known any more.
    pub(super) fn forget(
        &mut self,
        command: &Command,
        by: &Who,
        service: &ServiceName,
        id: &BuildId,
        endpoint: Option<&EndpointName>,
    ) -> Result<String, Refused> {
        let index = self.service_index(service)?;
        let decisions = self.manual.decisions.of_build(service, id);
        let ends: Vec<i64> = decisions
            .filter(|(_, on, _)| endpoint.is_none() || *on == endpoint)
            .map(|(decision, ..)| decision.id)
            .collect();
        if let Some(endpoint) = endpoint {
            if ends.is_empty() {
                return Err(not_found(format!("nothing was decided of build {id} on endpoint {endpoint}")));
            }
            let said = format!(
                "what was decided of build {id} of {service} on endpoint {endpoint} does not hold any more"
            );
            self.withdraw(command, by, ends, None, &said)?;
            self.renew_build(service, id, false)?;
            return Ok(said);
        }
        if self.store.build(service, id)?.is_none() && ends.is_empty() {
            return Err(not_found(format!(
                "service {service} has no build {id}; `load-watchdog builds` lists them"
            )));
        }
        let open = self.settleable(service, id)?;
        // Figures that are on their way to the ledger must not come after it forgot them.
        self.save_all_now();
        let is_here = self.services[index].builds.contains_key(id);
        let change = BuildChange {
            service: service.clone(),
            build: id.clone(),
            state: is_here.then_some(BuildState::Probation),
            anew: true,
            why: format!("forgotten by {by}, and judged anew"),
        };
        let mut said = format!("build {id} of {service} is forgotten: ");
        said.push_str(if is_here {
            "it is on probation and judged anew"
        } else {
            "when it comes, it is new"
        });
        self.withdraw(command, by, ends, Some(change), &said)?;
        if let Some(build) = self.services[index].builds.get_mut(id) {
            build.aggregate = BuildAggregate::default();
            build.unsaved = Unsaved::default();
            build.guarded_ns = 0;
        }
        self.renew_build(service, id, true)?;
        self.settle(open, by);
        if self.store.last_good_build(service)?.is_none() {
            said.push_str("; no good build is left that a rollback could go back to");
        }
        Ok(said)
    }

    fn withdraw(
        &mut self,
        command: &Command,
        by: &Who,
        ends: Vec<i64>,
        build: Option<BuildChange>,
        said: &str,
    ) -> Result<(), Refused> {
        self.manual.decisions.0.retain(|decision| !ends.contains(&decision.id));
        let written =
            self.store.change(&Change { ends, new: None, build, audit: super::line(command, by, said) });
        if written.is_err() {
            // As the ledger has it.
            let kept = self.store.decisions();
            self.manual.decisions = self.report("reading the ledger", kept).unwrap_or_default();
        }
        written?;
        Ok(())
    }

    fn known_endpoint(&self, index: usize, endpoint: &EndpointName) -> Result<(), Refused> {
        let endpoints = &self.services[index].config.endpoints;
        if endpoints.iter().any(|known| known.name == *endpoint) {
            return Ok(());
        }
        let known: Vec<&str> = endpoints.iter().map(|known| known.name.as_str()).collect();
        Err(not_found(format!("the service has no endpoint {endpoint}; it has: {}", known.join(", "))))
    }

    /// The open incidents of a build that a decision on it settles; refused while a rollback of it is under way.
    fn settleable(&self, service: &ServiceName, id: &BuildId) -> Result<Vec<Incident>, Refused> {
        let mut open = self.store.open_incidents()?;
        open.retain(|incident| incident.service == *service && incident.bad_build == *id);
        let waits = |incident: &Incident| match incident.state {
            State::Observed | State::AwaitingApproval | State::Escalated => true,
            // Of a build that has not served.
            State::Detected => incident.kind == IncidentKind::ReleaseWindow,
            _ => false,
        };
        if let Some(incident) = open.iter().find(|incident| !waits(incident)) {
            return Err(conflict(format!(
                "incident {} of build {id} is {}: wait for its end",
                incident.id, incident.state
            )));
        }
        // An alert is closed by what becomes of its build, and says so.
        open.retain(|incident| {
            incident.kind == IncidentKind::Cost
                || !matches!(incident.state, State::Observed | State::Detected)
        });
        Ok(open)
    }

    /// A person has decided on the build, and so on its incidents.
    fn settle(&mut self, open: Vec<Incident>, by: &Who) {
        // Not rejected: that would be remembered of the build when the decision is long over.
        let decision = Operator::Acknowledged { by: by.to_string() };
        for incident in open {
            if let Outcome::Error(refusal) = self.operator(incident.id.as_str(), &decision) {
                let message = refusal.message;
                self.report("closing the incident of a build that was decided on", Err::<(), _>(message));
            }
        }
    }

    /// What ends with a decision on a build: the command that made it, what follows, and what becomes of the build.
    pub(super) fn end_of_build(
        &self,
        decision: &crate::decision::Decision,
        service: &ServiceName,
        id: &BuildId,
        endpoint: Option<&EndpointName>,
        opinion: Opinion,
    ) -> (String, String, Option<BuildChange>) {
        let verb = match opinion {
            Opinion::Accepted => "accept",
            Opinion::Condemned => "condemn",
        };
        if let Some(endpoint) = endpoint {
            let command = format!("builds {verb} {service} {id} --endpoint {endpoint}");
            let said = format!("build {id} of {service} is judged on endpoint {endpoint} as any other");
            return (command, said, None);
        }
        let before = decision.before.unwrap_or(BuildState::Probation);
        // An incident, or another hand, may have changed it since.
        let is_as_decided =
            matches!(self.store.build(service, id), Ok(Some(record)) if record.state == opinion.state());
        let change = is_as_decided.then(|| BuildChange {
            service: service.clone(),
            build: id.clone(),
            state: Some(before),
            anew: false,
            why: format!("was {} by {} for a time that is over", opinion.name(), decision.who),
        });
        let said = format!("build {id} of {service} is {before} again, as before");
        (format!("builds {verb} {service} {id}"), said, change)
    }

    /// Takes the ledger's word on a build, and makes the judge that belongs to it. Does nothing for a build that is not here.
    pub(in crate::agent) fn renew_build(
        &mut self,
        service: &ServiceName,
        id: &BuildId,
        whole: bool,
    ) -> Result<(), StoreError> {
        self.apply_build_decisions();
        let Some(index) = self.services.iter().position(|known| known.config.name == *service) else {
            return Ok(());
        };
        let Some(record) = self.store.build(service, id)? else { return Ok(()) };
        if !self.services[index].builds.contains_key(id) {
            return Ok(());
        }
        let judged = self.judged_for(index, id, record.state, None, self.last_tick_mono_ns)?;
        let Some(build) = self.services[index].builds.get_mut(id) else { return Ok(()) };
        build.state = record.state;
        build.state_since = record.state_since;
        if whole || build.judged.is_some() {
            build.judged = judged;
        }
        Ok(())
    }

    /// Tells the services which budgets do not bind which build, and which builds are no good ones, whatever they passed.
    pub(super) fn apply_build_decisions(&mut self) {
        for service in &mut self.services {
            service.waived = BTreeMap::new();
            service.known_bad = BTreeSet::new();
        }
        for decision in &self.manual.decisions.0 {
            let Subject::Build { service, build, endpoint: Some(endpoint), opinion } = &decision.subject
            else {
                continue;
            };
            let Some(of) = self.services.iter_mut().find(|of| of.config.name == *service) else { continue };
            match opinion {
                Opinion::Accepted => {
                    of.waived.entry(build.clone()).or_default().insert(endpoint.clone());
                }
                Opinion::Condemned => {
                    of.known_bad.insert(build.clone());
                }
            }
        }
    }

    /// A build that a person condemned on an endpoint is an incident with its next request there. And a decision holds
    /// whatever an incident makes of the build meanwhile.
    pub(super) fn look_for_condemned(&mut self) {
        let mut returned = Vec::new();
        let mut otherwise = Vec::new();
        for decision in &self.manual.decisions.0 {
            let Subject::Build { service, build: id, endpoint, opinion } = &decision.subject else {
                continue;
            };
            let Some(index) = self.services.iter().position(|of| of.config.name == *service) else {
                continue;
            };
            let Some(build) = self.services[index].builds.get(id) else { continue };
            let Some(endpoint) = endpoint else {
                if build.state != opinion.state() {
                    otherwise.push((service.clone(), id.clone(), *opinion, decision.who.clone()));
                }
                continue;
            };
            if *opinion == Opinion::Accepted {
                continue;
            }
            let place = self.services[index].endpoints.iter().position(|name| name == endpoint);
            let requests = build.aggregate.endpoint(endpoint).map_or(0, EndpointAggregate::requests)
                + place.map_or(0, |place| build.second.uncharged(place));
            let key = (service.clone(), id.clone(), endpoint.clone());
            if build.processes.is_empty() {
                // When it comes again, its first request there is another incident.
                self.manual.condemned_requests.remove(&key);
                continue;
            }
            let before = self.manual.condemned_requests.entry(key).or_insert(requests);
            if requests > *before {
                *before = u64::MAX;
                returned.push((index, id.clone(), endpoint.clone(), decision.who.clone()));
            }
        }
        for (index, id, endpoint, who) in returned {
            let reason = format!("build {id}, condemned by {who} on endpoint {endpoint}, serves it");
            self.known_bad_serves(index, &id, endpoint, &reason);
        }
        for (service, id, opinion, who) in otherwise {
            let why = format!("{} by {who}", opinion.name());
            let held = self.store.set_build_state(&service, &id, opinion.state(), &why, &Moment::now());
            if self.report("holding a decision", held).is_some() {
                let renewed = self.renew_build(&service, &id, true);
                self.report("holding a decision", renewed);
            }
        }
    }
}

fn subject(
    service: &ServiceName,
    build: &BuildId,
    endpoint: Option<&EndpointName>,
    opinion: Opinion,
) -> Subject {
    Subject::Build { service: service.clone(), build: build.clone(), endpoint: endpoint.cloned(), opinion }
}
