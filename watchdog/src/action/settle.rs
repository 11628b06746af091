//! What is done about an incident before and instead of its hook: the decision when it is detected, and the
//! reconciliation when the agent starts.

use super::process::{find, is_alive};
use crate::config::ServiceConfig;
use crate::incident::{
    Decision, Facts, Incident, IncidentId, Moment, Reconciliation, State, Step, decide, reconcile,
};
use crate::store::{Store, StoreError};

/// The span of `max_per_day`.
const DAY: std::time::Duration = std::time::Duration::from_hours(24);

/// Decides about a detected incident from the ledger, and writes the decision down.
///
/// After `Act` the incident is still detected and [`super::Rollback::start`] is next; after the others it is observed,
/// awaiting approval or escalated. Blocks for the disk.
pub fn settle(
    store: &Store,
    service: &ServiceConfig,
    id: &IncidentId,
    now: &Moment,
) -> Result<(Incident, Decision), StoreError> {
    let incident = store.incident(id)?;
    let state_of = |build| Ok::<_, StoreError>(store.build(&service.name, build)?.map(|record| record.state));
    let good_build = match &incident.good_build {
        Some(build) => state_of(build)?.map(|state| (build, state)),
        None => None,
    };
    let history = store.rollback_history(&service.name)?;
    let open = store.open_incident_for(&service.name, &incident.bad_build)?;
    let hook = service.rollback.as_ref();
    let decision = decide(&Facts {
        mode: incident.mode,
        hook_configured: hook.is_some(),
        bad_build: &incident.bad_build,
        bad_state: state_of(&incident.bad_build)?,
        good_build,
        other_open_incident: open.is_some_and(|open| open.id != incident.id),
        restored_by_rollback: history.just_restored(&incident.bad_build),
        since_last_rollback: history.since_last(now),
        cooldown: hook.map_or_else(Default::default, |hook| hook.cooldown),
        rollbacks_last_day: history.within(DAY, now),
        max_per_day: hook.map_or(0, |hook| hook.max_per_day),
    });
    let good = incident.good_build.as_ref().map_or("none", |build| build.as_str());
    let incident = match &decision {
        Decision::Act => incident,
        Decision::Observe { refusal: None } => store.advance(
            id,
            Step::Observe,
            &format!("mode enforce would have rolled back to {good}"),
            now,
        )?,
        Decision::Observe { refusal: Some(refusal) } => store.advance(
            id,
            Step::Observe,
            &format!("mode enforce would not have rolled back: {refusal}"),
            now,
        )?,
        Decision::AskApproval => store.advance(
            id,
            Step::AskApproval,
            &format!("`load-watchdog approve {id}` rolls back to {good}"),
            now,
        )?,
        Decision::Refuse { reason } => {
            store.advance(id, Step::Escalate, &format!("not rolled back: {reason}"), now)?
        }
    };
    Ok((incident, decision))
}

/// An open incident found at the start, with what is left to do for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconciled {
    pub incident: Incident,
    /// `Escalate` and the step into `verifying` are on disk already.
    pub next: Reconciliation,
}

/// Settles the incidents that an earlier agent left open; call it once, before anything else is decided.
///
/// A hook that the earlier agent started without coming to record it is looked for and recorded now.
/// No hook is run here, and none whose outcome is unknown is ever run again. Blocks for the disk.
pub fn reconcile_open(store: &Store) -> Result<Vec<Reconciled>, StoreError> {
    let mut found = Vec::new();
    for incident in store.open_incidents()? {
        let mut attempts = store.attempts(&incident.id)?;
        let incident = match (incident.state, attempts.last()) {
            (State::IntentJournaled, Some(last)) => match find(&incident.id) {
                Some(process) => {
                    let found = store.hook_started(&incident.id, last.attempt, &process, &Moment::now())?;
                    attempts = store.attempts(&incident.id)?;
                    found
                }
                None => incident,
            },
            _ => incident,
        };
        let next = reconcile(&incident, attempts.last(), is_alive);
        let incident = match &next {
            Reconciliation::Escalate { note } => {
                store.advance(&incident.id, Step::Escalate, note, &Moment::now())?
            }
            Reconciliation::Verify if incident.state == State::HookDone => store.advance(
                &incident.id,
                Step::Verify,
                "the hook was done before the restart",
                &Moment::now(),
            )?,
            _ => incident,
        };
        found.push(Reconciled { incident, next });
    }
    Ok(found)
}
