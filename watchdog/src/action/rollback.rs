//! Drives an armed incident to the end of its hook: each step on disk before its effect.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::attempt::milliseconds;
use super::command::{HookKind, HookRequest};
use super::failpoint::{FailPoint, Point};
use super::hands::{Hands, OwnHands};
use super::hook::{BACKOFF, pause};
use super::record::{Record, Recorder};
use super::{HookOutcome, HookRun, failpoint};
use crate::config::{HookConfig, RollbackConfig};
use crate::incident::{HookProcess, Incident, IncidentId, Step};
use crate::store::{HookEnd, Store, StoreError};

/// What the driver tells the agent, for the log, the metrics and the status. All of it is on disk already.
#[derive(Clone, Debug, PartialEq)]
pub enum RollbackEvent {
    HookStarted {
        incident: IncidentId,
        attempt: u32,
        pid: i32,
    },
    HookEnded {
        incident: IncidentId,
        attempt: u32,
        run: HookRun,
    },
    /// The hook before the rollback is done.
    Prepared {
        incident: IncidentId,
        run: HookRun,
    },
    /// A hook that tells others has ended, be it well or not.
    BesideEnded {
        incident: IncidentId,
        kind: HookKind,
        run: HookRun,
    },
    /// The hook asked for it: the next attempt begins after this pause.
    TryAgain {
        incident: IncidentId,
        attempt: u32,
        after: Duration,
    },
    /// The agent now verifies.
    Verifying {
        incident: IncidentId,
    },
    /// A dry run is over.
    Rehearsed {
        incident: IncidentId,
        note: String,
    },
    Escalated {
        incident: IncidentId,
        note: String,
    },
}

impl RollbackEvent {
    pub fn incident(&self) -> &IncidentId {
        match self {
            Self::HookStarted { incident, .. }
            | Self::HookEnded { incident, .. }
            | Self::Prepared { incident, .. }
            | Self::BesideEnded { incident, .. }
            | Self::TryAgain { incident, .. }
            | Self::Verifying { incident }
            | Self::Rehearsed { incident, .. }
            | Self::Escalated { incident, .. } => incident,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("incident {0} names no good build, so there is nothing to roll back to")]
    NoGoodBuild(IncidentId),
    #[error("a task of the agent ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Carries incidents forward: every step that has an effect, or follows from one, is taken here.
#[derive(Clone)]
pub struct Driver {
    pub(super) store: Arc<Store>,
    pub(super) hands: Arc<dyn Hands>,
    pub(super) fail: Arc<dyn FailPoint>,
    backoff: Duration,
}

impl Driver {
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            hands: Arc::new(OwnHands { recorder: None }),
            fail: failpoint::of_this_program(),
            backoff: BACKOFF,
        }
    }

    /// Runs the program that rolls back under a supervisor, which records its end also when no agent is there.
    #[must_use]
    pub fn with_recorder(mut self, recorder: Recorder) -> Self {
        self.hands = Arc::new(OwnHands { recorder: Some(recorder) });
        self
    }

    /// Replaces the pause before the second attempt.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Duration) -> Self {
        self.backoff = backoff;
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub fn with_fail_point(mut self, fail: Arc<dyn FailPoint>) -> Self {
        self.fail = fail;
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub fn with_hands(mut self, hands: Arc<dyn Hands>) -> Self {
        self.hands = hands;
        self
    }

    /// Runs the hook before the rollback of an armed incident, which stays armed when that is done. Else nothing is rolled back:
    /// it is escalated, or (a dry run) observed.
    ///
    /// The ledger knows nothing of this hook, as nothing follows from it but what comes next: the next agent runs it again.
    pub async fn prepare(
        &self,
        pre: &HookConfig,
        id: &IncidentId,
        events: &UnboundedSender<RollbackEvent>,
    ) -> Result<Incident, RollbackError> {
        let result = self.run_before(pre, id, events).await;
        self.or_escalate(result, id, "the hook before the rollback could not be run", events).await
    }

    async fn run_before(
        &self,
        pre: &HookConfig,
        id: &IncidentId,
        events: &UnboundedSender<RollbackEvent>,
    ) -> Result<Incident, RollbackError> {
        let of = id.clone();
        let incident = self.durable(move |store| store.incident(&of)).await?;
        let run = self.hands.run(pre, &HookRequest::about(&incident, HookKind::Pre, None)).await;
        if run.outcome == HookOutcome::Done {
            tell(events, RollbackEvent::Prepared { incident: id.clone(), run });
            return Ok(incident);
        }
        let why = format!("the hook before the rollback did not succeed: {}", run.sentence());
        if !incident.dry_run {
            return self.give_up(id, format!("not rolled back: {why}"), events).await;
        }
        let note = format!("the dry run is over: {why}");
        let observed = self.advance(id, Step::Observe, note.clone()).await?;
        tell(events, RollbackEvent::Rehearsed { incident: id.clone(), note });
        Ok(observed)
    }

    /// Journals the intent of an armed incident, runs its hook, again as often as it asks for that and `retries` allow, and
    /// writes down what follows. Returns the incident, verifying, escalated or (a dry run) observed.
    ///
    /// Once the intent is durable, the hook is never begun again by another agent but when it asked for it. Dropping the future
    /// leaves the hook running and the incident as it is on disk: the next agent reconciles it. What goes wrong here is
    /// escalated, also when the ledger cannot be written: then the event alone tells.
    pub async fn roll_back(
        &self,
        hook: RollbackConfig,
        id: &IncidentId,
        events: &UnboundedSender<RollbackEvent>,
    ) -> Result<Incident, RollbackError> {
        let result = self.drive(&hook, id, events).await;
        self.or_escalate(result, id, "the rollback could not be carried through", events).await
    }

    async fn drive(
        &self,
        hook: &RollbackConfig,
        id: &IncidentId,
        events: &UnboundedSender<RollbackEvent>,
    ) -> Result<Incident, RollbackError> {
        let of = id.clone();
        let (incident, begun) =
            self.durable(move |store| Ok((store.incident(&of)?, store.attempts(&of)?.len()))).await?;
        let good_build = incident.good_build.clone().ok_or_else(|| RollbackError::NoGoodBuild(id.clone()))?;
        let last_attempt = hook.hook.retries.saturating_add(1);
        let mut attempt = u32::try_from(begun).unwrap_or(u32::MAX).saturating_add(1);
        if attempt > last_attempt {
            let note = format!("the hook asked to be tried again in attempt {begun}, and no attempt is left");
            if incident.dry_run {
                let observed = self.advance(id, Step::Observe, note.clone()).await?;
                tell(events, RollbackEvent::Rehearsed { incident: id.clone(), note });
                return Ok(observed);
            }
            return self.give_up(id, note, events).await;
        }
        loop {
            let note = if attempt == 1 {
                format!("the hook is about to run, back to {good_build}")
            } else {
                format!("attempt {attempt}, as the hook asked for it")
            };
            let (of, now) = (id.clone(), self.hands.now());
            let incident = self.durable(move |store| store.journal_intent(&of, attempt, &note, &now)).await?;
            self.fail.reached(Point::IntentJournaled);
            let run = self.attempt(hook, &incident, attempt, events).await?;
            let again = run.outcome.asks_again() && attempt < last_attempt;
            let step = if again { Step::TryAgain } else { last_step(&run.outcome) };
            let end = run.end();
            let outcome = end.outcome.clone();
            let (of, now) = (id.clone(), self.hands.now());
            self.durable(move |store| store.hook_ended(&of, attempt, &end, step, &now)).await?;
            self.fail.reached(Point::EndRecorded);
            self.hands.forget(id, attempt);
            tell(events, RollbackEvent::HookEnded { incident: id.clone(), attempt, run });
            if !again {
                return self.follow(&incident, step, attempt, &outcome, events).await;
            }
            let after = pause(self.backoff, attempt);
            attempt += 1;
            tell(events, RollbackEvent::TryAgain { incident: id.clone(), attempt, after });
            self.hands.pause(after).await;
        }
    }

    async fn attempt(
        &self,
        hook: &RollbackConfig,
        incident: &Incident,
        attempt: u32,
        events: &UnboundedSender<RollbackEvent>,
    ) -> Result<HookRun, RollbackError> {
        let request = HookRequest::of(incident, attempt);
        let running = match self.hands.spawn(hook, &request).await {
            Ok(running) => running,
            Err(why) => return Ok(HookRun::not_started(why)),
        };
        self.fail.reached(Point::Spawned);
        let process = running.process().clone();
        let pid = process.pid;
        let (of, now) = (incident.id.clone(), self.hands.now());
        // The hook runs: when its start cannot be recorded (a full disk), its end is awaited all the same.
        let recorded = self.durable(move |store| store.hook_started(&of, attempt, &process, &now)).await;
        self.fail.reached(Point::StartRecorded);
        tell(events, RollbackEvent::HookStarted { incident: incident.id.clone(), attempt, pid });
        let run = running.finish(hook.hook.timeout).await;
        self.fail.reached(Point::Ended);
        recorded?;
        Ok(run)
    }

    /// What follows from the hook's end.
    async fn follow(
        &self,
        incident: &Incident,
        step: Step,
        attempt: u32,
        outcome: &str,
        events: &UnboundedSender<RollbackEvent>,
    ) -> Result<Incident, RollbackError> {
        let id = &incident.id;
        if incident.dry_run {
            let note = format!("the dry run is over, the hook's outcome: {outcome}; nothing was changed");
            let rehearsed = self.advance(id, Step::Rehearsed, note.clone()).await?;
            tell(events, RollbackEvent::Rehearsed { incident: id.clone(), note });
            return Ok(rehearsed);
        }
        if step == Step::HookDone {
            let verifying = self.advance(id, Step::Verify, "the hook is done".to_owned()).await?;
            tell(events, RollbackEvent::Verifying { incident: id.clone() });
            return Ok(verifying);
        }
        self.give_up(id, format!("the hook did not succeed in attempt {attempt}: {outcome}"), events).await
    }

    pub(crate) async fn give_up(
        &self,
        id: &IncidentId,
        note: String,
        events: &UnboundedSender<RollbackEvent>,
    ) -> Result<Incident, RollbackError> {
        let incident = self.advance(id, Step::Escalate, note.clone()).await?;
        tell(events, RollbackEvent::Escalated { incident: id.clone(), note });
        Ok(incident)
    }

    /// Waits for a hook that an earlier agent started and that still runs, see [`Driver::reconcile`].
    ///
    /// Its supervisor records how it ends, and that counts as if the earlier agent had seen it; when it asks for another
    /// attempt, the incident is armed for it. Without a supervisor its exit status goes to nobody, so the incident is
    /// verified: what it changed shows in the traffic. The rest of its time limit holds.
    pub async fn adopt(
        &self,
        timeout: Duration,
        id: &IncidentId,
        attempt: u32,
        process: HookProcess,
        events: &UnboundedSender<RollbackEvent>,
    ) -> Result<Incident, RollbackError> {
        let result = self.watch(timeout, id, attempt, &process, events).await;
        self.or_escalate(result, id, "the hook could not be waited for", events).await
    }

    async fn watch(
        &self,
        timeout: Duration,
        id: &IncidentId,
        attempt: u32,
        process: &HookProcess,
        events: &UnboundedSender<RollbackEvent>,
    ) -> Result<Incident, RollbackError> {
        let of = id.clone();
        let attempts = self.durable(move |store| store.attempts(&of)).await?;
        let ran = attempts
            .last()
            .and_then(|last| last.started.as_ref())
            .map_or(Duration::ZERO, |started| started.until(&self.hands.now()));
        let rest = timeout.saturating_sub(ran);
        if let Some(record) = self.hands.record(id, attempt, rest).await.filter(|it| it.is_of(process)) {
            return self.take_record(*record, events).await;
        }
        let watched = self.hands.watch(process, rest).await;
        self.fail.reached(Point::Ended);
        let (outcome, step) = match watched.forced {
            None => {
                ("ended while a later agent watched; its exit status is unknown".to_owned(), Step::Verify)
            }
            Some(forced) => {
                let after_ms = milliseconds(timeout);
                (HookOutcome::TimedOut { after_ms, forced }.to_string(), Step::HookTimedOut)
            }
        };
        let end = HookEnd {
            outcome: outcome.clone(),
            exit_code: None,
            signal: None,
            stdout: watched.stdout,
            stderr: watched.stderr,
        };
        let (of, now) = (id.clone(), self.hands.now());
        let incident = self
            .durable(move |store| {
                // A dry run is not verified: nothing was to change.
                let rehearsed = store.incident(&of)?.dry_run && step == Step::Verify;
                let step = if rehearsed { Step::HookFailed } else { step };
                store.hook_ended(&of, attempt, &end, step, &now)
            })
            .await?;
        self.fail.reached(Point::EndRecorded);
        if step == Step::Verify && !incident.dry_run {
            tell(events, RollbackEvent::Verifying { incident: id.clone() });
            return Ok(incident);
        }
        self.follow(&incident, step, attempt, &outcome, events).await
    }

    /// Goes on as if this agent had seen the end that a supervisor recorded.
    async fn take_record(
        &self,
        record: Record,
        events: &UnboundedSender<RollbackEvent>,
    ) -> Result<Incident, RollbackError> {
        self.fail.reached(Point::Ended);
        let (id, attempt, run) = (record.incident.clone(), record.attempt, record.run.clone());
        let outcome = run.end().outcome;
        let step = record.step();
        let incident = self.durable(move |store| record.enter(store)).await?;
        self.fail.reached(Point::EndRecorded);
        self.hands.forget(&id, attempt);
        tell(events, RollbackEvent::HookEnded { incident: id.clone(), attempt, run });
        if step == Step::TryAgain {
            self.hands.pause(pause(self.backoff, attempt)).await;
            return Ok(incident);
        }
        self.follow(&incident, step, attempt, &outcome, events).await
    }

    /// An error that left an incident under way gives it to a person.
    async fn or_escalate(
        &self,
        result: Result<Incident, RollbackError>,
        id: &IncidentId,
        what: &str,
        events: &UnboundedSender<RollbackEvent>,
    ) -> Result<Incident, RollbackError> {
        match result {
            // Another one carries it.
            Err(error @ RollbackError::Store(StoreError::IllegalStep(_) | StoreError::NoIncident(_))) => {
                Err(error)
            }
            Err(error) => {
                let note = format!("{what}: {error}");
                let escalated = self.advance(id, Step::Escalate, note.clone()).await;
                tell(events, RollbackEvent::Escalated { incident: id.clone(), note });
                escalated.map_err(|_| error)
            }
            ok => ok,
        }
    }

    async fn advance(&self, id: &IncidentId, step: Step, note: String) -> Result<Incident, RollbackError> {
        let (id, now) = (id.clone(), self.hands.now());
        let incident = self.durable(move |store| store.advance(&id, step, &note, &now)).await?;
        self.fail.reached(Point::Concluded);
        Ok(incident)
    }

    /// Runs a store call off the agent's loop: each one waits for the disk.
    async fn durable<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, RollbackError> {
        let store = Arc::clone(&self.store);
        Ok(tokio::task::spawn_blocking(move || call(&store)).await??)
    }
}

/// What an outcome leads to when no other attempt is made.
pub(super) fn last_step(outcome: &HookOutcome) -> Step {
    match outcome {
        HookOutcome::Done => Step::HookDone,
        HookOutcome::TimedOut { .. } => Step::HookTimedOut,
        _ => Step::HookFailed,
    }
}

fn tell(events: &UnboundedSender<RollbackEvent>, event: RollbackEvent) {
    // The agent may be going down; what is told is on disk.
    let _ = events.send(event);
}
