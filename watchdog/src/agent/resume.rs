//! What an incident needs besides its own course: an agent that was killed, and a person who approves.

use super::Agent;
use super::rollback::{Active, Phase, REMOVED};
use super::verifying::Verifying;
use crate::action::{OperateError, Reconciled};
use crate::config::RollbackConfig;
use crate::config::defaults::ROLLBACK_TIMEOUT;
use crate::control::{Outcome, Refusal, RefusalCode};
use crate::event::Event;
use crate::incident::{
    HookProcess, Incident, IncidentId, IncidentKind, Moment, Operator, Reconciliation, State,
};
use crate::store::StoreError;

impl Agent {
    /// Settles what an earlier agent left open; before anything else is decided.
    pub(super) fn reconcile(&mut self) -> Result<(), StoreError> {
        for Reconciled { incident, next } in self.driver.reconcile()? {
            let service = self.services.iter().position(|s| s.config.name == incident.service);
            let Some(service) = service else {
                self.left_behind(incident, next);
                continue;
            };
            match next {
                // Decided on when its build serves.
                Reconciliation::Decide
                    if incident.kind == IncidentKind::ReleaseWindow && incident.state == State::Detected => {}
                Reconciliation::Decide => self.decide_incident(service, incident),
                Reconciliation::Retry { .. } => self.run_hook(service, incident),
                Reconciliation::Leave if incident.state == State::AwaitingApproval => {
                    let phase = Phase::AwaitingApproval { told_mono_ns: 0 };
                    self.incidents.active.push(Active { incident, service, phase });
                }
                Reconciliation::Leave if incident.state == State::Escalated => {
                    self.incidents.escalated.push((incident, 0));
                }
                Reconciliation::Leave => {}
                Reconciliation::Wait { attempt, process } => {
                    let id = incident.id.clone();
                    self.incidents.active.push(Active { incident, service, phase: Phase::Hook });
                    let hook = self.services[service].config.rollback.clone();
                    self.wait_for_hook(hook, id, attempt, process);
                }
                Reconciliation::Verify => self.go_on_verifying(service, incident),
                Reconciliation::Rehearsed { note } => {
                    self.tell_end(&incident, State::Observed, &note);
                    let (service, incident) = (&incident.service, incident.id.as_str());
                    Event::IncidentStep { service, incident, step: &note }.emit(&mut self.counters);
                }
                Reconciliation::Escalate { note } => {
                    let attempts = self.store.attempts(&incident.id)?;
                    let is_known = attempts.last().is_some_and(|last| last.outcome.is_some());
                    self.escalated(incident, if is_known { "failed" } else { "unknown" }, &note);
                }
            }
        }
        Ok(())
    }

    /// An incident of a service that is not configured any more. A hook that runs is left to its end, and escalated then:
    /// no other one may run beside it.
    fn left_behind(&mut self, incident: Incident, next: Reconciliation) {
        match (incident.state, next) {
            (State::Observed, _) => {}
            (State::Escalated, _) => self.incidents.escalated.push((incident, 0)),
            (_, Reconciliation::Wait { attempt, process }) => {
                self.wait_for_hook(None, incident.id, attempt, process);
            }
            _ => self.give_up(&incident.id, REMOVED),
        }
    }

    /// `hook`: as configured now; `None`: not at all any more.
    fn wait_for_hook(
        &self,
        hook: Option<RollbackConfig>,
        id: IncidentId,
        attempt: u32,
        process: HookProcess,
    ) {
        let (driver, events) = (self.driver.clone(), self.rollback_events.clone());
        tokio::spawn(async move {
            let timeout = hook.as_ref().map_or(ROLLBACK_TIMEOUT, |rollback| rollback.hook.timeout);
            // What went wrong was told as an event, here and below.
            let Ok(incident) = driver.adopt(timeout, &id, attempt, process, &events).await else { return };
            if incident.state == State::Armed {
                let _ = match hook {
                    Some(hook) => driver.roll_back(hook, &id, &events).await,
                    None => driver.give_up(&id, REMOVED.to_owned(), &events).await,
                };
            }
        });
    }

    fn go_on_verifying(&mut self, service: usize, incident: Incident) {
        let ago = incident.state_since.until(&Moment::now());
        let since_mono_ns =
            crate::clock::mono_ns().saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX));
        let seen = Verifying::since(since_mono_ns, None);
        self.incidents.active.push(Active { incident, service, phase: Phase::Verifying(Box::new(seen)) });
        let index = self.incidents.active.len() - 1;
        let seen = Verifying::since(since_mono_ns, self.cost_limit(index));
        self.incidents.active[index].phase = Phase::Verifying(Box::new(seen));
    }

    /// A person decides about an incident.
    pub(super) fn operator(&mut self, id: &str, decision: &Operator) -> Outcome {
        let id = IncidentId::from(id);
        let refuse = |code, message: String| Outcome::Error(Refusal { code, message });
        let decided = self.operate(&id, decision);
        let (incident, service) = match decided {
            Ok(decided) => decided,
            Err(OperateError::Store(error @ StoreError::NoIncident(_))) => {
                return refuse(
                    RefusalCode::NotFound,
                    format!("{error}; `load-watchdog incidents` lists them"),
                );
            }
            Err(OperateError::Store(StoreError::IllegalStep(illegal))) => {
                let message = format!("incident {id} is {}: it cannot be {}", illegal.from, verb(decision));
                return refuse(RefusalCode::Conflict, message);
            }
            Err(error @ OperateError::Refused(_)) => {
                return refuse(RefusalCode::Conflict, error.to_string());
            }
            Err(OperateError::Store(error)) => return refuse(RefusalCode::Failed, error.to_string()),
        };
        self.incidents.active.retain(|active| active.incident.id != id);
        self.incidents.escalated.retain(|(escalated, _)| escalated.id != id);
        let step = decision.note();
        Event::IncidentStep { service: &incident.service, incident: id.as_str(), step: &step }
            .emit(&mut self.counters);
        if let (Operator::Approved { .. }, Some(service)) = (decision, service) {
            self.prepare(service, incident);
        }
        Outcome::Done(format!("{}; `load-watchdog incidents show {id}` follows it", verb(decision)))
    }

    fn operate(
        &self,
        id: &IncidentId,
        decision: &Operator,
    ) -> Result<(Incident, Option<usize>), OperateError> {
        let incident = self.store.incident(id)?;
        let service = self.services.iter().position(|s| s.config.name == incident.service);
        let incident = match service {
            Some(index) => {
                let live = self.live(index, &incident)?;
                self.driver.operate(Some((&self.services[index].config, &live)), id, decision)?
            }
            None => self.driver.operate(None, id, decision)?,
        };
        Ok((incident, service))
    }
}

fn verb(decision: &Operator) -> &'static str {
    match decision {
        Operator::Approved { .. } => "approved",
        Operator::Rejected { .. } => "rejected",
        Operator::Acknowledged { .. } => "acknowledged",
    }
}
