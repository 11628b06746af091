//! What an incident needs besides its own course: an agent that was killed, and a person who approves.

use std::sync::Arc;

use super::Agent;
use super::rollback::{Active, Phase, escalate};
use super::verifying::Verifying;
use crate::action::{Reconciled, Rollback, reconcile_open};
use crate::control::{Outcome, Refusal, RefusalCode};
use crate::event::Event;
use crate::incident::{HookProcess, Incident, Moment, Reconciliation, State};
use crate::store::StoreError;

impl Agent {
    /// Settles what an earlier agent left open; before anything else is decided.
    pub(super) fn reconcile(&mut self) -> Result<(), StoreError> {
        for Reconciled { incident, next } in reconcile_open(&self.store)? {
            let service = self.services.iter().position(|s| s.config.name == incident.service);
            let Some(service) = service else {
                let why = format!(
                    "incident {} is of service {}, which is not configured",
                    incident.id, incident.service
                );
                Event::Warning { what: "an open incident is left alone", why: &why }.emit(&mut self.counters);
                continue;
            };
            match next {
                Reconciliation::Decide => self.decide_incident(service, incident),
                Reconciliation::Leave if incident.state == State::AwaitingApproval => {
                    self.incidents.active.push(Active { incident, service, phase: Phase::AwaitingApproval });
                }
                Reconciliation::Leave if incident.state == State::Escalated => {
                    self.incidents.escalated.push((incident, 0));
                }
                Reconciliation::Leave => {}
                Reconciliation::Wait { attempt, process } => {
                    self.wait_for_hook(service, incident, attempt, process);
                }
                Reconciliation::Verify => self.go_on_verifying(service, incident),
                Reconciliation::Escalate { note } => self.escalated(incident, service, "unknown", &note),
            }
        }
        Ok(())
    }

    fn wait_for_hook(&mut self, service: usize, incident: Incident, attempt: u32, process: HookProcess) {
        let (store, events, id) =
            (Arc::clone(&self.store), self.rollback_events.clone(), incident.id.clone());
        let hook = self.services[service].config.rollback.clone();
        self.incidents.active.push(Active { incident, service, phase: Phase::Hook });
        tokio::spawn(async move {
            let Some(hook) = hook else {
                escalate(
                    &store,
                    id,
                    "the hook of an earlier agent runs, but none is configured any more",
                    &events,
                )
                .await;
                return;
            };
            let adopted =
                Rollback::adopt(Arc::clone(&store), hook, &id, attempt, process, events.clone()).await;
            if let Err(error) = adopted {
                escalate(&store, id, &format!("the hook could not be waited for: {error}"), &events).await;
            }
        });
    }

    fn go_on_verifying(&mut self, service: usize, incident: Incident) {
        let ago = incident.state_since.until(&Moment::now());
        let since_mono_ns =
            crate::clock::mono_ns().saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX));
        let seen = Verifying::since(since_mono_ns, None);
        self.incidents.active.push(Active { incident, service, phase: Phase::Verifying(seen) });
        let index = self.incidents.active.len() - 1;
        let mean = self.good_mean(index);
        if let Phase::Verifying(verifying) = &mut self.incidents.active[index].phase {
            verifying.baseline = mean;
        }
    }

    /// A person lets a hook run.
    pub(super) fn approve(&mut self, id: &str, by: &str) -> Outcome {
        let refuse = |code, message: String| Outcome::Error(Refusal { code, message });
        let Some(index) = self.incidents.active.iter().position(|active| active.incident.id.as_str() == id)
        else {
            return refuse(RefusalCode::NotFound, format!("no incident {id} waits for approval"));
        };
        if !matches!(self.incidents.active[index].phase, Phase::AwaitingApproval) {
            return refuse(RefusalCode::Conflict, format!("incident {id} does not wait for approval"));
        }
        let service = self.incidents.active[index].service;
        if self.services[service].config.rollback.is_none() {
            let message = "the service has no [service.rollback] to run; add one and reload".to_owned();
            return refuse(RefusalCode::Conflict, message);
        }
        let incident = self.incidents.active[index].incident.clone();
        self.run_hook(service, incident, &format!("approved by {by}"));
        Outcome::Done(format!("approved; `load-watchdog incidents show {id}` follows it"))
    }
}
