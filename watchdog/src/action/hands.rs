//! What the driver does outside the ledger, in one place: processes, clocks and pauses.
//!
//! The agent has its own hands. A test gives the driver others, and so runs thousands of incidents against the real ledger
//! and the real driver in a minute.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::sleep;

use super::command::HookRequest;
use super::hook::{Begun, begin, run_hook};
use super::output::Pump;
use super::process::{end_group, ended, find, is_alive};
use super::{HookRun, attempt};
use crate::config::{HookConfig, RollbackConfig};
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
}

/// A hook that this agent started.
pub trait StartedHook: Send {
    fn process(&self) -> &HookProcess;

    /// Waits for its end, for at most `limit`; then it is broken off.
    fn finish(self: Box<Self>, limit: Duration) -> Later<'static, HookRun>;
}

/// What was seen of a hook that an earlier agent started. Its exit status went to nobody.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchedHook {
    /// `None`: it ended by itself; else whether SIGTERM was not enough.
    pub forced: Option<bool>,
    /// What it wrote since the earlier agent had died.
    pub stdout: String,
    pub stderr: String,
}

/// The agent's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnHands;

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
        Box::pin(async move {
            let (mut stdout, mut stderr) = (Pump::join(process.pid, 1), Pump::join(process.pid, 2));
            let in_time = {
                let pump = async {
                    tokio::join!(stdout.run(), stderr.run());
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = ended(process) => true,
                    () = sleep(rest) => false,
                    () = pump => false,
                }
            };
            let forced = if in_time { None } else { Some(end_group(process, attempt::GRACE).await) };
            WatchedHook { forced, stdout: stdout.finish().0, stderr: stderr.finish().0 }
        })
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
