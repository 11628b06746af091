//! What is done about an incident before and instead of its hook: the decision, what people say, and the reconciliation
//! when the agent starts.

use std::time::Duration;

use super::{Driver, Point, Seen};
use crate::config::{Mode, ReleaseWindow, ServiceConfig};
use crate::decision::{WOULD_HAVE_RUN, WOULD_NOT_HAVE_RUN};
use crate::incident::{
    Attempt, Breaker, BuildState, Decision, Facts, HookProcess, Incident, IncidentId, IncidentKind, Moment,
    NewIncident, Operator, PausedUntil, Reconciliation, Refusal, RollbackHistory, State, Step, Verification,
    VerifyFacts, decide, reconcile,
};
use crate::model::BuildId;
use crate::store::{Release, Store, StoreError};

/// The span of `max_per_day`.
const DAY: Duration = Duration::from_hours(24);

/// What only the running agent knows of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// The mode in force.
    pub mode: Mode,
    /// Dry run: hooks are only rehearsed.
    pub dry_run: bool,
    /// A build that appeared after the bad one, and runs.
    pub newer_build: Option<BuildId>,
}

/// Why a person's decision was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The incident waits on.
    #[error("the rollback cannot be approved: {0}")]
    Refused(Refusal),
}

/// What the ledger says to the rails.
struct Known {
    bad_state: Option<BuildState>,
    good_state: Option<BuildState>,
    history: RollbackHistory,
    under_way: Option<Incident>,
    rejected_by: Option<String>,
    breaker: Option<Breaker>,
    pause: Option<PausedUntil>,
}

impl Known {
    fn read(store: &Store, incident: &Incident) -> Result<Self, StoreError> {
        let service = &incident.service;
        let state_of = |build| Ok::<_, StoreError>(store.build(service, build)?.map(|record| record.state));
        Ok(Self {
            bad_state: state_of(&incident.bad_build)?,
            good_state: incident.good_build.as_ref().map(state_of).transpose()?.flatten(),
            history: store.rollback_history(service)?.without(&incident.id),
            under_way: store.rollback_under_way(service, &incident.id)?,
            rejected_by: store.rejected_by(service, &incident.bad_build, incident.kind)?,
            breaker: store.breaker(service)?,
            pause: store.pause()?,
        })
    }

    fn decide(
        &self,
        incident: &Incident,
        service: &ServiceConfig,
        live: &Live,
        approved: bool,
        now: &Moment,
    ) -> Decision {
        let hook = service.rollback.as_ref();
        let bad_build = &incident.bad_build;
        // Decided on as a build on probation; whoever condemned it since said what the verdict says.
        let bad_state = match self.bad_state {
            Some(BuildState::Condemned) if incident.state == State::Armed => Some(BuildState::Probation),
            state => state,
        };
        // The wall clock: a window is a matter of the calendar.
        let has_opened =
            |window: &ReleaseWindow| window.hours.opened_between(incident.detected.unix_ms, now.unix_ms);
        decide(&Facts {
            mode: live.mode,
            dry_run: live.dry_run || incident.dry_run,
            approved,
            hook_configured: hook.is_some(),
            bad_build,
            bad_state,
            good_build: incident.good_build.as_ref().map(|build| (build, self.good_state)),
            newer_build: live.newer_build.as_ref(),
            window_opened: incident.kind == IncidentKind::ReleaseWindow
                && service.release_window.as_ref().is_none_or(has_opened),
            rollback_under_way: self.under_way.as_ref().map(|incident| &incident.id),
            restored_by: self.history.restored(bad_build).map(|mark| &mark.incident),
            rolled_back_by: self.history.took_away(bad_build).map(|mark| &mark.incident),
            rejected_by: self.rejected_by.as_deref(),
            since_last_rollback: self.history.since_last(now),
            cooldown: hook.map_or(Duration::ZERO, |hook| hook.cooldown),
            rollbacks_last_day: self.history.within(DAY, now),
            max_per_day: hook.map_or(0, |hook| hook.max_per_day),
            breaker: self.breaker.as_ref(),
            paused: self.pause.as_ref().and_then(|pause| Some((pause.left(now)?, pause.by.as_str()))),
        })
    }
}

impl Driver {
    /// Records what a verdict said. At most one incident is open per service and bad build.
    pub fn open(&self, new: &NewIncident) -> Result<Incident, StoreError> {
        self.open_of(IncidentKind::Cost, new)
    }

    /// As [`Driver::open`]; one of each kind may be open.
    pub fn open_of(&self, kind: IncidentKind, new: &NewIncident) -> Result<Incident, StoreError> {
        let incident = self.store.open_incident_of(kind, new, &self.hands.now())?;
        self.fail.reached(Point::Detected);
        Ok(incident)
    }

    /// Records a build that appeared outside its service's release window, see [`Store::released_outside`].
    pub fn open_release(&self, new: &NewIncident, release: &Release<'_>) -> Result<Incident, StoreError> {
        let incident = self.store.released_outside(new, release, &self.hands.now())?;
        self.fail.reached(Point::Detected);
        Ok(incident)
    }

    /// Decides about an incident that is detected, or was armed when the agent died before it did anything, and writes the
    /// decision down.
    ///
    /// After `Act` and `Rehearse` the incident is armed, and [`Driver::roll_back`] is next; after the others it is
    /// observed, awaiting approval or escalated. Blocks for the disk.
    pub fn settle(
        &self,
        service: &ServiceConfig,
        id: &IncidentId,
        live: &Live,
    ) -> Result<(Incident, Decision), StoreError> {
        let now = self.hands.now();
        let incident = self.store.incident(id)?;
        let approved = incident.approved_by.is_some();
        let decision = Known::read(&self.store, &incident)?.decide(&incident, service, live, approved, &now);
        let good = incident.good_build.as_ref().map_or("none", |build| build.as_str());
        let (step, note) = match &decision {
            Decision::Act => {
                (Step::Arm, format!("mode enforce, and every rail holds: rolling back to {good}"))
            }
            Decision::Rehearse => {
                (Step::ArmRehearsal, format!("dry run: the hook for {good} runs in its test mode"))
            }
            Decision::Observe { refusal: None } => {
                (Step::Observe, format!("{WOULD_HAVE_RUN}, back to {good}"))
            }
            Decision::Observe { refusal: Some(reason) } => {
                (Step::Observe, format!("{WOULD_NOT_HAVE_RUN}, because {reason}"))
            }
            Decision::Ask { because } => {
                let why = match because {
                    Some(reason) => format!("not rolled back: {reason}"),
                    None => "mode approve".to_owned(),
                };
                (Step::Ask, format!("{why}; `load-watchdog approve {id}` runs the hook, back to {good}"))
            }
            Decision::Refuse { reason } => (Step::Escalate, format!("not rolled back: {reason}")),
        };
        let is_armed = incident.state == State::Armed;
        let stays = match step {
            Step::Arm => is_armed,
            Step::ArmRehearsal => is_armed && incident.dry_run,
            _ => false,
        };
        let incident = if stays { incident } else { self.store.advance(id, step, &note, &now)? };
        self.fail.reached(Point::Decided);
        Ok((incident, decision))
    }

    /// Carries out what a person decided. After an approval the incident is armed, and [`Driver::roll_back`] is next. An
    /// approval that a rail is stronger than changes nothing. Blocks for the disk.
    ///
    /// `service`: `None` when it is not configured any more.
    pub fn operate(
        &self,
        service: Option<(&ServiceConfig, &Live)>,
        id: &IncidentId,
        operator: &Operator,
    ) -> Result<Incident, OperateError> {
        let now = self.hands.now();
        let incident = self.store.incident(id)?;
        let rehearse = match operator {
            Operator::Approved { .. } if incident.state == State::AwaitingApproval => {
                let (service, live) = service.ok_or(OperateError::Refused(Refusal::NoHook))?;
                let known = Known::read(&self.store, &incident)?;
                match known.decide(&incident, service, live, true, &now) {
                    Decision::Act => false,
                    Decision::Rehearse => true,
                    Decision::Ask { because: Some(reason) } | Decision::Refuse { reason } => {
                        return Err(OperateError::Refused(reason));
                    }
                    Decision::Ask { because: None } | Decision::Observe { .. } => {
                        unreachable!("an approval is stronger than the mode")
                    }
                }
            }
            _ => false,
        };
        let mut incident = self.store.decided(id, operator, &now)?;
        if rehearse && !incident.dry_run {
            incident = self.store.advance(
                id,
                Step::ArmRehearsal,
                "dry run: the hook runs in its test mode",
                &now,
            )?;
        }
        self.fail.reached(Point::Decided);
        Ok(incident)
    }

    /// Writes the result of a verification down; `None` while it is pending. Blocks for the disk.
    pub fn conclude(
        &self,
        id: &IncidentId,
        verification: &Verification,
        facts: &VerifyFacts,
    ) -> Result<Option<(Incident, String)>, StoreError> {
        let Some((step, note)) = verification.conclusion(facts) else { return Ok(None) };
        self.fail.reached(Point::Verified);
        let incident = self.store.verified(id, step, &note, &facts.record(), &self.hands.now())?;
        self.fail.reached(Point::Settled);
        Ok(Some((incident, note)))
    }

    /// Gives an incident to a person. Blocks for the disk.
    pub fn escalate(&self, id: &IncidentId, note: &str) -> Result<Incident, StoreError> {
        let incident = self.store.advance(id, Step::Escalate, note, &self.hands.now())?;
        self.fail.reached(Point::Settled);
        Ok(incident)
    }

    /// Settles the incidents that an earlier agent left open; call it once, before anything else is decided.
    ///
    /// A hook that the earlier agent started without coming to record it is looked for and recorded now, and so is the end that
    /// its supervisor saw. No hook is run here, and none whose outcome is unknown is ever run again. Blocks for the disk, and
    /// up to two seconds for a supervisor that was just started.
    pub fn reconcile(&self) -> Result<Vec<Reconciled>, StoreError> {
        let open = self.store.open_incidents()?;
        let settled = open.into_iter().map(|incident| self.reconcile_one(incident)).collect();
        let state_of = |id: &IncidentId| match self.store.incident(id) {
            Err(StoreError::NoIncident(_)) => None,
            // What the ledger cannot tell stays.
            found => Some(found.map_or(true, |incident| incident.state.is_under_way())),
        };
        self.hands.sweep(&state_of);
        settled
    }

    fn reconcile_one(&self, mut incident: Incident) -> Result<Reconciled, StoreError> {
        let store = &self.store;
        let now = self.hands.now();
        let mut attempts = store.attempts(&incident.id)?;
        let mut is_supervised = false;
        if let (State::IntentJournaled | State::HookRunning, Some(last)) = (incident.state, attempts.last()) {
            is_supervised = self.look_for(&incident, last)?;
            incident = store.incident(&incident.id)?;
            attempts = store.attempts(&incident.id)?;
        }
        let is_alive = |process: &HookProcess| is_supervised || self.hands.is_alive(process);
        let next = reconcile(&incident, attempts.last(), is_alive);
        let step = match &next {
            Reconciliation::Escalate { note } => Some((Step::Escalate, note.as_str())),
            Reconciliation::Rehearsed { note } => Some((Step::Rehearsed, note.as_str())),
            Reconciliation::Verify if incident.state == State::HookDone => {
                Some((Step::Verify, "the hook was done before the restart"))
            }
            _ => None,
        };
        if let Some((step, note)) = step {
            incident = store.advance(&incident.id, step, note, &now)?;
        }
        Ok(Reconciled { incident, next })
    }

    /// Brings the ledger up to what can be found of an attempt whose end it does not have: its record, its supervisor, or its
    /// process. Returns whether its supervisor lives, and so will record its end.
    fn look_for(&self, incident: &Incident, last: &Attempt) -> Result<bool, StoreError> {
        let (store, id, attempt) = (&self.store, &incident.id, last.attempt);
        let seen = self.hands.seen(id, attempt);
        let named = match &seen {
            Seen::Nothing => None,
            Seen::Supervised(process) => process.clone(),
            Seen::Ended(record) => record.process.clone(),
        };
        if incident.state == State::IntentJournaled
            && let Some(process) = named.or_else(|| self.hands.find(id))
        {
            store.hook_started(id, attempt, &process, &self.hands.now())?;
        }
        if let Seen::Ended(record) = &seen
            && last.process.as_ref().is_none_or(|process| record.is_of(process))
        {
            record.enter(store)?;
            self.hands.forget(id, attempt);
        }
        Ok(matches!(seen, Seen::Supervised(_)))
    }
}

/// An open incident found at the start, with what is left to do for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconciled {
    pub incident: Incident,
    /// `Escalate`, `Rehearsed` and the step into `verifying` are on disk already.
    pub next: Reconciliation,
}
