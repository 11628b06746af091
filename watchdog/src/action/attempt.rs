//! One run of the hook: from the fork to the end of its process group.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::command::HookRequest;
use super::exec::{Prepared, SpawnError, prepare};
use super::output::Pump;
use super::process::end_group;
use super::{HookOutcome, HookRun};
use crate::config::ExecConfig;
use crate::incident::HookProcess;

/// The exit status that asks for another attempt (sysexits.h).
pub(super) const EX_TEMPFAIL: i32 = 75;
/// Between SIGTERM and SIGKILL.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How long output is still awaited once the hook has ended.
const DRAIN: Duration = Duration::from_millis(500);

/// A hook that was started.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    pub(super) process: HookProcess,
    stdout: Pump,
    stderr: Pump,
    started: Instant,
}

/// Starts the program. The lookup of the user, the fork and the exec happen off the agent's loop.
pub(super) async fn spawn(exec: &ExecConfig, request: &HookRequest) -> Result<Running, SpawnError> {
    let program = exec.argv.first().cloned().ok_or(SpawnError::Empty)?;
    let (exec, request) = (exec.clone(), request.clone());
    tokio::task::spawn_blocking(move || Running::start(&prepare(&exec, &request)?))
        .await
        .map_err(|error| SpawnError::Other { program, source: io::Error::other(error) })?
}

/// What reads on once the hook has ended, one for each stream that is still open.
pub(super) type Leftover = Vec<JoinHandle<()>>;

impl Running {
    /// Starts a program whose surroundings are known. Needs a runtime; blocks until the program is executed.
    pub(super) fn start(prepared: &Prepared) -> Result<Self, SpawnError> {
        let (child, process, stdout, stderr) = prepared.start()?;
        let other = |source| SpawnError::Other { program: "its output".to_owned(), source };
        Ok(Self {
            child,
            process,
            stdout: Pump::new(stdout).map_err(other)?,
            stderr: Pump::new(stderr).map_err(other)?,
            started: Instant::now(),
        })
    }

    /// Waits for the hook's main process, for at most `limit`; then its whole process group is ended.
    ///
    /// A process that the hook left in the background is not waited for, whatever it holds open.
    pub(super) async fn finish(self, limit: Duration) -> HookRun {
        self.finish_with_leftover(limit).await.0
    }

    /// The same for a process that has nothing else to do, and so can wait for what was left.
    pub(super) async fn finish_with_leftover(self, limit: Duration) -> (HookRun, Leftover) {
        let Self { mut child, process, mut stdout, mut stderr, started } = self;
        let mut notes = Vec::new();
        let outcome = {
            let pump = async {
                tokio::join!(stdout.run(), stderr.run());
            };
            tokio::pin!(pump);
            let mut pumped = false;
            let end = wait(&mut child, &process, started, limit);
            tokio::pin!(end);
            let outcome = loop {
                tokio::select! {
                    outcome = &mut end => break outcome,
                    () = &mut pump, if !pumped => pumped = true,
                }
            };
            if !pumped {
                // Ends at once when nobody holds the streams any more.
                let _ = timeout(DRAIN, pump).await;
            }
            outcome
        };
        let took_ms = milliseconds(started.elapsed());
        let (stdout, stdout_open) = stdout.finish();
        let (stderr, stderr_open) = stderr.finish();
        let leftover: Leftover = stdout_open.into_iter().chain(stderr_open).collect();
        if !leftover.is_empty() {
            notes.push(
                "a background process still holds its output open; redirect it in the hook (`>/dev/null 2>&1`)"
                    .to_owned(),
            );
        }
        (HookRun { outcome, stdout, stderr, took_ms, notes }, leftover)
    }
}

async fn wait(child: &mut Child, process: &HookProcess, started: Instant, limit: Duration) -> HookOutcome {
    let remaining = limit.saturating_sub(started.elapsed());
    if let Ok(status) = timeout(remaining, child.wait()).await {
        return match status {
            Ok(status) => of_status(status),
            Err(error) => HookOutcome::Lost { why: error.to_string() },
        };
    }
    let forced = end_group(process, GRACE).await;
    // Reaps it. A process in uninterruptible sleep survives SIGKILL for a while; it is not worth waiting for.
    tokio::select! {
        _ = child.wait() => {}
        () = sleep(GRACE) => tracing::warn!(pid = process.pid, "the hook survives SIGKILL in the kernel"),
    }
    HookOutcome::TimedOut { after_ms: milliseconds(limit), forced }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn of_status(status: ExitStatus) -> HookOutcome {
    match (status.code(), status.signal()) {
        (Some(0), _) => HookOutcome::Done,
        (Some(EX_TEMPFAIL), _) => HookOutcome::TryAgain,
        (Some(code), _) => HookOutcome::Failed { code },
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            let name =
                Signal::try_from(signal).map_or_else(|_| "a signal".to_owned(), |name| name.to_string());
            HookOutcome::Signalled { signal, name }
        }
    }
}
