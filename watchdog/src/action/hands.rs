//! What the driver does outside the ledger, in one place: processes, clocks and pauses.
//!
//! The agent has its own hands. A test gives the driver others, and so runs thousands of incidents against the real ledger
//! and the real driver in a minute.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::command::HookRequest;
use super::hook::{Begun, begin, run_hook};
use super::process::{POLL, find, is_alive};
use super::record::{Record, Recorder, Seen};
use super::supervised::Unstarted;
use super::{HookRun, supervised};
use crate::config::{HookCall, HookConfig, RollbackConfig};
use crate::incident::{HookProcess, IncidentId, Moment};

/// A value that is there later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub trait Hands: Send + Sync {
    fn now(&self) -> Moment;

    fn pause(&self, span: Duration) -> Later<'_, ()>;

    /// Starts the hook; an error is a sentence for people, and nothing runs then.
    fn spawn<'a>(
        &'a self,
        hook: &'a RollbackConfig,
        request: &'a HookRequest,
    ) -> Later<'a, Result<Box<dyn StartedHook>, String>>;

    /// Runs a hook beside the rollback to its end, as often as it asks for that and its `retries` allow.
    fn run<'a>(&'a self, hook: &'a HookConfig, request: &'a HookRequest) -> Later<'a, HookRun>;

    /// The running hook of an incident, whoever started it.
    fn find(&self, incident: &IncidentId) -> Option<HookProcess>;

    /// Whether the very process still runs.
    fn is_alive(&self, process: &HookProcess) -> bool;

    /// Waits for a hook that an earlier agent started, for at most `rest`; then ends its process group.
    fn watch<'a>(&'a self, process: &'a HookProcess, rest: Duration) -> Later<'a, WatchedHook>;

    /// What the supervisor of an attempt left, or is about to leave.
    fn seen(&self, _incident: &IncidentId, _attempt: u32) -> Seen {
        Seen::Nothing
    }

    /// Waits for the supervisor of an attempt, which holds the hook to the `rest` of its limit. `None`: there was none, or it
    /// has left no record.
    fn record<'a>(
        &'a self,
        _incident: &'a IncidentId,
        _attempt: u32,
        _rest: Duration,
    ) -> Later<'a, Option<Box<Record>>> {
        Box::pin(std::future::ready(None))
    }

    /// The ledger has the end of an attempt.
    fn forget(&self, _incident: &IncidentId, _attempt: u32) {}

    /// Clears what incidents left that are at their end; `None`: the ledger does not know the incident.
    fn sweep(&self, _is_under_way: &dyn Fn(&IncidentId) -> Option<bool>) {}
}

/// A hook that this agent started.
pub trait StartedHook: Send {
    fn process(&self) -> &HookProcess;

    /// Waits for its end, for at most `limit`; then it is broken off.
    fn finish(self: Box<Self>, limit: Duration) -> Later<'static, HookRun>;
}

/// What was seen of a hook that another process started. Its exit status went to nobody.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchedHook {
    /// `None`: it ended by itself; else whether SIGTERM was not enough.
    pub forced: Option<bool>,
    /// What it wrote since the earlier agent had died.
    pub stdout: String,
    pub stderr: String,
}

/// The agent's own.
#[derive(Clone, Debug)]
pub(super) struct OwnHands {
    /// `None`: hooks run without a supervisor, and their end is known to the agent that started them only.
    pub(super) recorder: Option<Recorder>,
}

impl Hands for OwnHands {
    fn now(&self) -> Moment {
        Moment::now()
    }

    fn pause(&self, span: Duration) -> Later<'_, ()> {
        Box::pin(sleep(span))
    }

    fn spawn<'a>(
        &'a self,
        hook: &'a RollbackConfig,
        request: &'a HookRequest,
    ) -> Later<'a, Result<Box<dyn StartedHook>, String>> {
        Box::pin(async move {
            if let (HookCall::Exec(exec), Some(recorder)) = (&hook.hook.call, &self.recorder) {
                match supervised::spawn(recorder, exec, hook.hook.timeout, request).await {
                    Ok(begun) => return Ok(Box::new(begun) as Box<dyn StartedHook>),
                    Err(Unstarted::Hook(why)) => return Err(why),
                    Err(Unstarted::NoSupervisor(error)) => {
                        // A bad build serves: better a rollback that a later agent cannot judge than none.
                        tracing::warn!(
                            "the hook runs without a supervisor, as none could be started: {error}"
                        );
                    }
                }
            }
            let begun = begin(&hook.hook, request).await?;
            Ok(Box::new(begun) as Box<dyn StartedHook>)
        })
    }

    fn run<'a>(&'a self, hook: &'a HookConfig, request: &'a HookRequest) -> Later<'a, HookRun> {
        Box::pin(run_hook(hook, request))
    }

    fn find(&self, incident: &IncidentId) -> Option<HookProcess> {
        find(incident)
    }

    fn is_alive(&self, process: &HookProcess) -> bool {
        is_alive(process)
    }

    fn watch<'a>(&'a self, process: &'a HookProcess, rest: Duration) -> Later<'a, WatchedHook> {
        Box::pin(supervised::watch(process, rest))
    }

    fn seen(&self, incident: &IncidentId, attempt: u32) -> Seen {
        self.recorder.as_ref().map_or(Seen::Nothing, |recorder| recorder.seen(incident, attempt))
    }

    fn record<'a>(
        &'a self,
        incident: &'a IncidentId,
        attempt: u32,
        rest: Duration,
    ) -> Later<'a, Option<Box<Record>>> {
        Box::pin(async move {
            let recorder = self.recorder.as_ref()?;
            let end = Instant::now() + rest + supervised::SLACK;
            while recorder.is_held(incident, attempt) && Instant::now() < end {
                sleep(POLL).await;
            }
            recorder.read(incident, attempt).map(Box::new)
        })
    }

    fn forget(&self, incident: &IncidentId, attempt: u32) {
        if let Some(recorder) = &self.recorder {
            recorder.forget(incident, attempt);
        }
    }

    fn sweep(&self, is_under_way: &dyn Fn(&IncidentId) -> Option<bool>) {
        if let Some(recorder) = &self.recorder {
            recorder.sweep(is_under_way);
        }
    }
}

impl StartedHook for Begun {
    fn process(&self) -> &HookProcess {
        Begun::process(self)
    }

    fn finish(self: Box<Self>, limit: Duration) -> Later<'static, HookRun> {
        Box::pin(Begun::finish(*self, limit))
    }
}
