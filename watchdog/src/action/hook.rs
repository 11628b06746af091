//! A hook of either kind: begun, waited for, and tried again where it asks for that.

use std::time::Duration;

use tokio::time::sleep;

use super::HookRun;
use super::attempt::{Running, spawn};
use super::command::HookRequest;
use super::webhook::{Call, prepare};
use crate::config::{HookCall, HookConfig};
use crate::incident::HookProcess;

/// Pause before the second attempt; doubled for each further one.
pub(super) const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// A hook that is under way.
pub(super) enum Begun {
    Program(Box<Running>),
    Webhook(Box<Call>),
}

/// Starts the program, or makes the request ready. The error says why not; then nothing has happened.
pub(super) async fn begin(hook: &HookConfig, request: &HookRequest) -> Result<Begun, String> {
    match &hook.call {
        HookCall::Exec(exec) => match spawn(exec, request).await {
            Ok(running) => Ok(Begun::Program(Box::new(running))),
            Err(error) => Err(error.to_string()),
        },
        HookCall::Webhook(webhook) => Ok(Begun::Webhook(Box::new(prepare(webhook, request).await?))),
    }
}

impl Begun {
    /// Whose life the attempt hangs on: the program's process, or the agent's own for a webhook, which is under way
    /// only while the agent lives.
    pub(super) fn process(&self) -> &HookProcess {
        match self {
            Self::Program(running) => &running.process,
            Self::Webhook(call) => &call.process,
        }
    }

    /// Waits for its end, for at most `limit`.
    pub(super) async fn finish(self, limit: Duration) -> HookRun {
        match self {
            Self::Program(running) => running.finish(limit).await,
            Self::Webhook(call) => call.finish(limit).await,
        }
    }
}

/// The pause after an attempt, which counts from 1.
pub(super) fn pause(backoff: Duration, attempt: u32) -> Duration {
    (backoff * 2_u32.saturating_pow(attempt.saturating_sub(1))).min(MAX_BACKOFF)
}

/// One attempt.
pub async fn run_once(hook: &HookConfig, request: &HookRequest) -> HookRun {
    match begin(hook, request).await {
        Ok(begun) => begun.finish(hook.timeout).await,
        Err(why) => HookRun::not_started(why),
    }
}

/// Attempts until one does not ask for another, or as many as are configured. Returns the last one.
///
/// For the hooks beside the rollback, whose attempts are not journaled one by one.
pub async fn run_hook(hook: &HookConfig, request: &HookRequest) -> HookRun {
    let mut request = request.clone();
    loop {
        let run = run_once(hook, &request).await;
        if !run.outcome.asks_again() || request.attempt > hook.retries {
            return run;
        }
        sleep(pause(BACKOFF, request.attempt)).await;
        request.attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute() {
        let seconds: Vec<u64> = (1..=8).map(|attempt| pause(BACKOFF, attempt).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(pause(BACKOFF, u32::MAX), MAX_BACKOFF);
    }
}
