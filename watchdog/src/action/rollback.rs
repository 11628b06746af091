//! Drives an incident from the decision to the end of the hook: each step on disk before its effect.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;

use super::attempt::milliseconds;
use super::command::HookRequest;
use super::failpoint::{FailPoint, NoFailPoint, Point};
use super::hook::{BACKOFF, begin, pause};
use super::output::Pump;
use super::process::{end_group, ended};
use super::{HookOutcome, HookRun};
use crate::config::RollbackConfig;
use crate::incident::{HookProcess, Incident, IncidentId, Moment, Step};
use crate::model::BuildId;
use crate::store::{HookEnd, Store, StoreError};

/// Between SIGTERM and SIGKILL for a hook that an earlier agent started.
const GRACE: Duration = Duration::from_secs(5);

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
    /// Exit 75: the next attempt begins after this pause.
    TryAgain {
        incident: IncidentId,
        attempt: u32,
        after: Duration,
    },
    /// The agent now verifies.
    Verifying {
        incident: IncidentId,
    },
    Escalated {
        incident: IncidentId,
        note: String,
    },
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

/// A rollback whose intent is on disk.
pub struct Rollback {
    store: Arc<Store>,
    hook: RollbackConfig,
    incident: Incident,
    good_build: BuildId,
    backoff: Duration,
    fail: Arc<dyn FailPoint>,
}

impl Rollback {
    /// Journals the intent of a detected or approved incident and condemns its bad build.
    ///
    /// When this returns `Ok`, the intent is durable: from here on the hook is never begun again by another agent.
    pub async fn start(
        store: Arc<Store>,
        hook: RollbackConfig,
        incident: &IncidentId,
        note: &str,
    ) -> Result<Self, RollbackError> {
        let (id, note) = (incident.clone(), note.to_owned());
        let incident = durable(&store, move |store| {
            let incident = store.incident(&id)?;
            if incident.good_build.is_none() {
                return Ok(incident);
            }
            store.journal_intent(&id, 1, &note, &Moment::now())
        })
        .await?;
        let Some(good_build) = incident.good_build.clone() else {
            return Err(RollbackError::NoGoodBuild(incident.id));
        };
        Ok(Self { store, hook, incident, good_build, backoff: BACKOFF, fail: Arc::new(NoFailPoint) })
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

    /// Runs the hook, again after exit 75, up to `retries` times. Returns the incident, verifying or escalated.
    ///
    /// Dropping the future leaves the hook running and the incident as it is on disk: the next agent reconciles it.
    pub async fn drive(self, events: UnboundedSender<RollbackEvent>) -> Result<Incident, RollbackError> {
        let id = self.incident.id.clone();
        let tell = |event| {
            // The agent may be going down; what is told is on disk.
            let _ = events.send(event);
        };
        self.fail.reached(Point::IntentJournaled);
        let last_attempt = self.hook.hook.retries.saturating_add(1);
        let mut attempt = 1;
        loop {
            let run = self.attempt(attempt, &tell).await?;
            let again = run.outcome.asks_again() && attempt < last_attempt;
            let step = match run.outcome {
                _ if again => None,
                HookOutcome::Done => Some(Step::HookDone),
                HookOutcome::TimedOut { .. } => Some(Step::HookTimedOut),
                _ => Some(Step::HookFailed),
            };
            let end = run.end();
            let outcome = end.outcome.clone();
            let of = id.clone();
            durable(&self.store, move |store| store.hook_ended(&of, attempt, &end, step, &Moment::now()))
                .await?;
            self.fail.reached(Point::EndRecorded);
            tell(RollbackEvent::HookEnded { incident: id.clone(), attempt, run });
            if !again {
                return self.conclude(step, attempt, &outcome, &tell).await;
            }
            let after = pause(self.backoff, attempt);
            attempt += 1;
            tell(RollbackEvent::TryAgain { incident: id.clone(), attempt, after });
            sleep(after).await;
            let (of, note) = (id.clone(), format!("attempt {attempt}, as the hook asked for it"));
            durable(&self.store, move |store| store.journal_intent(&of, attempt, &note, &Moment::now()))
                .await?;
            self.fail.reached(Point::IntentJournaled);
        }
    }

    async fn attempt(&self, attempt: u32, tell: &impl Fn(RollbackEvent)) -> Result<HookRun, RollbackError> {
        let id = self.incident.id.clone();
        let request = HookRequest::of(&self.incident, &self.good_build, attempt);
        let running = match begin(&self.hook.hook, &request).await {
            Ok(running) => running,
            Err(why) => return Ok(HookRun::not_started(why)),
        };
        self.fail.reached(Point::Spawned);
        let process = running.process().clone();
        let pid = process.pid;
        let of = id.clone();
        // The hook runs: when its start cannot be recorded (a full disk), its end is awaited all the same.
        let recorded =
            durable(&self.store, move |store| store.hook_started(&of, attempt, &process, &Moment::now()))
                .await;
        self.fail.reached(Point::StartRecorded);
        tell(RollbackEvent::HookStarted { incident: id, attempt, pid });
        let run = running.finish(self.hook.hook.timeout).await;
        self.fail.reached(Point::Ended);
        recorded?;
        Ok(run)
    }

    async fn conclude(
        &self,
        step: Option<Step>,
        attempt: u32,
        outcome: &str,
        tell: &impl Fn(RollbackEvent),
    ) -> Result<Incident, RollbackError> {
        let id = self.incident.id.clone();
        if step == Some(Step::HookDone) {
            let incident = advance(&self.store, &id, Step::Verify, "the hook is done".to_owned()).await?;
            tell(RollbackEvent::Verifying { incident: id });
            return Ok(incident);
        }
        let note = format!("the hook did not succeed in attempt {attempt}: {outcome}");
        let incident = advance(&self.store, &id, Step::Escalate, note.clone()).await?;
        tell(RollbackEvent::Escalated { incident: id, note });
        Ok(incident)
    }

    /// Waits for a hook that an earlier agent started and that still runs, see [`super::reconcile_open`].
    ///
    /// Its exit status went to nobody, so the incident is verified: what it changed shows in the traffic. The rest of
    /// its time limit still holds.
    pub async fn adopt(
        store: Arc<Store>,
        hook: RollbackConfig,
        incident: &IncidentId,
        attempt: u32,
        process: HookProcess,
        events: UnboundedSender<RollbackEvent>,
    ) -> Result<Incident, RollbackError> {
        let id = incident.clone();
        let of = id.clone();
        let attempts = durable(&store, move |store| store.attempts(&of)).await?;
        let ran = attempts
            .last()
            .and_then(|last| last.started.as_ref())
            .map_or(Duration::ZERO, |started| started.until(&Moment::now()));
        let (mut stdout, mut stderr) = (Pump::join(process.pid, 1), Pump::join(process.pid, 2));
        let in_time = {
            let pump = async {
                tokio::join!(stdout.run(), stderr.run());
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = ended(&process) => true,
                () = sleep(hook.hook.timeout.saturating_sub(ran)) => false,
                () = pump => false,
            }
        };
        let (outcome, step) = if in_time {
            ("ended while a later agent watched; its exit status is unknown".to_owned(), Step::Verify)
        } else {
            let forced = end_group(&process, GRACE).await;
            let after_ms = milliseconds(hook.hook.timeout);
            (HookOutcome::TimedOut { after_ms, forced }.to_string(), Step::HookTimedOut)
        };
        let end = HookEnd {
            outcome: outcome.clone(),
            exit_code: None,
            signal: None,
            stdout: stdout.finish().0,
            stderr: stderr.finish().0,
        };
        let of = id.clone();
        let incident =
            durable(&store, move |store| store.hook_ended(&of, attempt, &end, Some(step), &Moment::now()))
                .await?;
        let (incident, event) = if step == Step::Verify {
            (incident, RollbackEvent::Verifying { incident: id })
        } else {
            let note = format!("the hook did not succeed in attempt {attempt}: {outcome}");
            let incident = advance(&store, &id, Step::Escalate, note.clone()).await?;
            (incident, RollbackEvent::Escalated { incident: id, note })
        };
        let _ = events.send(event);
        Ok(incident)
    }
}

async fn advance(
    store: &Arc<Store>,
    id: &IncidentId,
    step: Step,
    note: String,
) -> Result<Incident, RollbackError> {
    let id = id.clone();
    durable(store, move |store| store.advance(&id, step, &note, &Moment::now())).await
}

/// Runs a store call off the agent's loop: each one waits for the disk.
async fn durable<T: Send + 'static>(
    store: &Arc<Store>,
    call: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, RollbackError> {
    let store = Arc::clone(store);
    Ok(tokio::task::spawn_blocking(move || call(&store)).await??)
}
