//! The hooks beside the rollback: before it, after the end of an incident, and when a person is needed.
//!
//! Only the first one decides anything. The other two tell others, and what becomes of them is logged: no incident waits for
//! them, and no later agent repeats them but with the next reminder.

use std::time::Duration;

use super::Agent;
use super::rollback::{Active, Phase, REMIND_EVERY_NS};
use crate::action::{HookKind, HookOutcome, HookRequest, HookRun, RollbackEvent, Told, hook_of, run_hook};
use crate::event::Event;
use crate::incident::{Incident, IncidentId, State};

impl Agent {
    /// An incident is armed: runs the hook before the rollback, in a task of its own. Without one, the rollback is next.
    pub(super) fn prepare(&mut self, service: usize, incident: Incident) {
        let rollback = self.services[service].config.rollback.as_ref();
        let Some(pre) = rollback.and_then(|rollback| rollback.pre.clone()) else {
            self.run_hook(service, incident);
            return;
        };
        let id = incident.id.clone();
        self.incidents.active.retain(|active| active.incident.id != id);
        self.incidents.active.push(Active { incident, service, phase: Phase::Hook });
        let (driver, events) = (self.driver.clone(), self.rollback_events.clone());
        tokio::spawn(async move {
            // What went wrong was told as an event.
            let _ = driver.prepare(&pre, &id, &events).await;
        });
    }

    /// The hook before the rollback is done. It took its time, so the rails are asked again: somebody may have paused all
    /// rollbacks, or deployed.
    pub(super) fn prepared(&mut self, index: usize) {
        let Active { incident, service, .. } = self.incidents.active.swap_remove(index);
        self.decide(service, incident, true);
    }

    /// A person is needed, for the first time or again.
    pub(super) fn tell_people(&self, incident: &Incident, note: &str, repeat: u32) {
        let state = match incident.state {
            State::AwaitingApproval => State::AwaitingApproval,
            // On disk, or about to be.
            _ => State::Escalated,
        };
        self.run_beside(HookKind::Escalate, incident, state, note, repeat);
    }

    /// The incident has come to its end, as far as the agent carries it.
    pub(super) fn tell_end(&self, incident: &Incident, state: State, note: &str) {
        self.run_beside(HookKind::Post, incident, state, note, 0);
    }

    fn run_beside(&self, kind: HookKind, incident: &Incident, state: State, note: &str, repeat: u32) {
        let service = self.services.iter().find(|service| service.config.name == incident.service);
        let Some(rollback) = service.and_then(|service| service.config.rollback.as_ref()) else { return };
        let Some(hook) = hook_of(rollback, kind).cloned() else { return };
        let told = Told { outcome: state.name().to_owned(), note: note.to_owned(), repeat };
        let mut request = HookRequest::about(incident, kind, Some(told));
        // A rail or the mode may keep an incident from becoming a dry run where all of them would be.
        request.test |= rollback.dry_run;
        let (incident, events) = (incident.id.clone(), self.rollback_events.clone());
        tokio::spawn(async move {
            let run = run_hook(&hook, &request).await;
            // The agent may be going down.
            let _ = events.send(RollbackEvent::BesideEnded { incident, kind, run });
        });
    }

    /// What became of a hook that tells others: nothing follows from it.
    pub(super) fn beside_ended(&mut self, id: &IncidentId, kind: HookKind, run: &HookRun) {
        let kind = kind.name();
        let Ok(incident) = self.store.incident(id) else { return };
        if run.outcome == HookOutcome::Done {
            let step = format!("the {kind} hook ended after {} ms: done", run.took_ms);
            Event::IncidentStep { service: &incident.service, incident: id.as_str(), step: &step }
                .emit(&mut self.counters);
            return;
        }
        let why = format!("service {}, incident {id}: the {kind} hook: {}", incident.service, run.sentence());
        Event::Warning { what: "nobody was told", why: &why }.emit(&mut self.counters);
    }
}

/// The number of a reminder of what has waited so long. It goes by the time, so that an agent that starts in between counts on;
/// half an interval of tolerance, since the loop's turns and the ledger's times are not the same.
pub(super) fn reminder(waited: Duration) -> u32 {
    let every = u128::from(REMIND_EVERY_NS);
    u32::try_from((waited.as_nanos() + every / 2) / every).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reminders_count_on_after_a_restart() {
        let minutes = |minutes: u64| reminder(Duration::from_mins(minutes));
        assert_eq!([minutes(0), minutes(10), minutes(20), minutes(600)], [0, 1, 2, 60]);
        assert_eq!(reminder(Duration::from_millis(599_950)), 1, "a turn of the loop too early");
        assert_eq!(minutes(4), 0, "an agent that starts at once tells the first one again");
        assert_eq!(minutes(17), 2);
    }
}
