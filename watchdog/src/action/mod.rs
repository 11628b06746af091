//! Runs hooks: programs and webhooks, bounded in time and output; the rollback's once per incident, journaled before
//! it starts.
//!
//! The program that rolls back runs under a supervisor, a process of its own that outlives the agent and records how it ended.
//!
//! The only module that spawns processes, and the only one that speaks to other hosts. The hooks' contract with their
//! authors is docs/hooks.md.

mod attempt;
mod command;
mod exec;
mod failpoint;
mod hands;
mod hook;
mod output;
mod process;
mod record;
mod rollback;
mod settle;
mod supervised;
mod supervisor;
mod target;
mod webhook;

use serde::{Deserialize, Serialize};

pub use command::{HookKind, HookRequest, PAYLOAD_VERSION, Told};
#[doc(hidden)]
pub use failpoint::{DIE_AT, DieAt, FailPoint, NoFailPoint, Point};
#[doc(hidden)]
pub use hands::{Hands, Later, StartedHook, WatchedHook};
pub use hook::{run_hook, run_once};
pub use record::Recorder;
#[doc(hidden)]
pub use record::{Record, Seen};
pub use rollback::{Driver, RollbackError, RollbackEvent};
pub use settle::{Live, OperateError, Reconciled};
pub use supervisor::{SUPERVISE, supervise};

use crate::config::{HookConfig, RollbackConfig, ServiceConfig};
use crate::incident::IncidentId;
use crate::model::{EndpointName, ServiceName};
use crate::store::HookEnd;

/// Bytes of what a hook said last that are put into a sentence.
const MAX_SAID: usize = 300;

/// How one run of the hook ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum HookOutcome {
    /// Exit 0.
    Done,
    /// Exit 75 (`EX_TEMPFAIL`).
    TryAgain,
    /// Any other exit status.
    Failed {
        code: i32,
    },
    Signalled {
        signal: i32,
        name: String,
    },
    /// Killed with its process group; `forced`: SIGTERM was not enough.
    TimedOut {
        after_ms: u64,
        forced: bool,
    },
    /// A webhook's endpoint answered with an error, or not to the end; `again`: another attempt may help.
    NotConfirmed {
        why: String,
        again: bool,
    },
    /// It ran, and the system does not tell how it ended.
    Lost {
        why: String,
    },
    /// Nothing was run.
    NotStarted {
        why: String,
    },
}

impl HookOutcome {
    /// Whether the hook asks for another attempt: exit 75, or a webhook's passing trouble.
    pub fn asks_again(&self) -> bool {
        matches!(self, Self::TryAgain | Self::NotConfirmed { again: true, .. })
    }
}

impl std::fmt::Display for HookOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => write!(f, "done"),
            Self::TryAgain => write!(f, "asked to be tried again (exit 75)"),
            Self::Failed { code: code @ 126 } => {
                write!(f, "failed (exit {code}: a shell's \"not executable\")")
            }
            Self::Failed { code: code @ 127 } => write!(f, "failed (exit {code}: a shell's \"not found\")"),
            Self::Failed { code } => write!(f, "failed (exit {code})"),
            Self::Signalled { signal, name } => write!(f, "killed by {name} (signal {signal})"),
            Self::TimedOut { after_ms, forced } => {
                let how = if *forced { "SIGKILL, as SIGTERM was not enough" } else { "SIGTERM" };
                write!(f, "timed out after {after_ms} ms; its process group was ended with {how}")
            }
            Self::NotConfirmed { why, .. } => write!(f, "not confirmed: {why}"),
            Self::Lost { why } => write!(f, "ended in a way that cannot be known: {why}"),
            Self::NotStarted { why } => write!(f, "could not be started: {why}"),
        }
    }
}

/// One run of the hook, as seen from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HookRun {
    pub outcome: HookOutcome,
    /// Head and tail of what it wrote, or what a webhook's endpoint answered: 64 KiB at most, bytes that are not UTF-8
    /// replaced.
    pub stdout: String,
    pub stderr: String,
    pub took_ms: u64,
    /// What else people should know, such as a background process that keeps the output open.
    pub notes: Vec<String>,
}

impl HookRun {
    pub(crate) fn not_started(why: String) -> Self {
        Self {
            outcome: HookOutcome::NotStarted { why },
            stdout: String::new(),
            stderr: String::new(),
            took_ms: 0,
            notes: Vec::new(),
        }
    }

    /// How it ended, and the last line that it wrote, for people.
    pub(crate) fn sentence(&self) -> String {
        let said =
            [&self.stderr, &self.stdout].into_iter().find_map(|text| text.trim_end().lines().next_back());
        match said {
            Some(said) => {
                format!("{}; it said: {}", self.outcome, &said[..said.floor_char_boundary(MAX_SAID)])
            }
            None => self.outcome.to_string(),
        }
    }

    pub(crate) fn end(&self) -> HookEnd {
        let (exit_code, signal) = match self.outcome {
            HookOutcome::Done => (Some(0), None),
            HookOutcome::TryAgain => (Some(attempt::EX_TEMPFAIL), None),
            HookOutcome::Failed { code } => (Some(code), None),
            HookOutcome::Signalled { signal, .. } => (None, Some(signal)),
            HookOutcome::TimedOut { .. }
            | HookOutcome::NotConfirmed { .. }
            | HookOutcome::NotStarted { .. }
            | HookOutcome::Lost { .. } => (None, None),
        };
        let notes = self.notes.iter().fold(String::new(), |text, note| text + "; " + note);
        HookEnd {
            outcome: format!("{}{notes}", self.outcome),
            exit_code,
            signal,
            stdout: self.stdout.clone(),
            stderr: self.stderr.clone(),
        }
    }
}

/// The hook that a service has for this, if any.
pub(crate) fn hook_of(rollback: &RollbackConfig, kind: HookKind) -> Option<&HookConfig> {
    match kind {
        HookKind::Pre => rollback.pre.as_ref(),
        HookKind::Rollback => Some(&rollback.hook),
        HookKind::Post => rollback.post.as_ref(),
        HookKind::Escalate => rollback.escalate.as_ref(),
    }
}

/// There is nothing to test.
#[derive(Debug, thiserror::Error)]
pub enum NoHook {
    #[error("service {0} has no [service.rollback] in the configuration; add one with `exec = [...]`")]
    NoRollback(ServiceName),
    #[error("service {service} has no [service.rollback.{}] in the configuration", .kind.name())]
    NotConfigured { service: ServiceName, kind: HookKind },
}

/// Runs one of a service's hooks once with `LOAD_WATCHDOG_TEST=1` and a payload marked as a test.
///
/// The builds are called `test-bad-build` and `test-good-build`, so that a hook that ignores the mark finds nothing to
/// roll back to. Nothing is journaled and nothing is tried again.
pub async fn hook_test(service: &ServiceConfig, kind: HookKind) -> Result<HookRun, NoHook> {
    let rollback = service.rollback.as_ref().ok_or_else(|| NoHook::NoRollback(service.name.clone()))?;
    let hook = hook_of(rollback, kind)
        .ok_or_else(|| NoHook::NotConfigured { service: service.name.clone(), kind })?;
    let now = crate::incident::Moment::now();
    let told = matches!(kind, HookKind::Post | HookKind::Escalate).then(|| Told {
        outcome: if kind == HookKind::Post { "recovered" } else { "escalated" }.to_owned(),
        note: "a test of the hook: nothing has happened".to_owned(),
        repeat: 0,
    });
    let request = HookRequest {
        hook: kind,
        incident: IncidentId::from(format!("test-{}", now.unix_ms).as_str()),
        service: service.name.clone(),
        endpoint: service
            .endpoints
            .first()
            .map_or_else(EndpointName::other, |endpoint| endpoint.name.clone()),
        bad_build: command::TEST_BAD_BUILD.into(),
        good_build: Some(command::TEST_GOOD_BUILD.into()),
        reason: "a test of the hook: no build is bad and nothing is to be changed".to_owned(),
        attempt: 1,
        test: true,
        detected_unix_ms: now.unix_ms,
        told,
        evidence: serde_json::json!({ "test": true }),
    };
    Ok(run_once(hook, &request).await)
}
