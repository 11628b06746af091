//! One run of the hook: from the fork to the end of its process group.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::command::HookRequest;
use super::output::{Pump, pipe};
use super::process::{end_group, identify};
use super::target::{Switch, Target, TargetError};
use super::{HookOutcome, HookRun};
use crate::config::RollbackConfig;
use crate::incident::HookProcess;

/// The exit status that asks for another attempt (sysexits.h).
pub(super) const EX_TEMPFAIL: i32 = 75;
/// Between SIGTERM and SIGKILL.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How long output is still awaited once the hook has ended.
const DRAIN: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnError {
    #[error("`exec` in [service.rollback] is empty; name the program to run")]
    Empty,
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(
        "{0} does not exist, or the interpreter in its first line does not; \
         correct `exec` in [service.rollback] (a program without a path is looked up in PATH)"
    )]
    Missing(String),
    #[error(
        "{program} cannot be executed by user {user}; try `chmod +x`, and let the user enter its directory"
    )]
    NotExecutable { program: String, user: String },
    #[error("the agent may not become user {0}; it needs CAP_SETUID and CAP_SETGID, or no `user`")]
    NotPermitted(String),
    #[error("{program}: {source}")]
    Other { program: String, source: io::Error },
}

/// A hook that was started.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    pub(super) process: HookProcess,
    stdout: Pump,
    stderr: Pump,
    started: Instant,
}

/// Starts the hook. The lookup of the user, the fork and the exec happen off the agent's loop.
pub(super) async fn spawn(hook: &RollbackConfig, request: &HookRequest) -> Result<Running, SpawnError> {
    let (hook, request) = (hook.clone(), request.clone());
    let program = hook.exec.first().cloned().ok_or(SpawnError::Empty)?;
    let other = |source| SpawnError::Other { program: program.clone(), source };
    let (child, process, stdout, stderr) = tokio::task::spawn_blocking(move || start(&hook, &request))
        .await
        .map_err(|error| other(io::Error::other(error)))??;
    Ok(Running {
        child,
        process,
        stdout: Pump::new(stdout).map_err(other)?,
        stderr: Pump::new(stderr).map_err(other)?,
        started: Instant::now(),
    })
}

type Started = (Child, HookProcess, OwnedFd, OwnedFd);

fn start(hook: &RollbackConfig, request: &HookRequest) -> Result<Started, SpawnError> {
    let (program, arguments) = hook.exec.split_first().ok_or(SpawnError::Empty)?;
    let other = |source| SpawnError::Other { program: program.clone(), source };
    let target = Target::look_up(hook.user.as_deref())?;
    let (stdout, hook_stdout) = pipe().map_err(other)?;
    let (stderr, hook_stderr) = pipe().map_err(other)?;

    let mut command = Command::new(program);
    command
        .args(arguments.iter().map(|argument| request.expand(argument)))
        .env_clear()
        .envs(request.environment(&target))
        .current_dir("/")
        .process_group(0)
        .stdin(request.payload().map_err(other)?)
        .stdout(Stdio::from(hook_stdout))
        .stderr(Stdio::from(hook_stderr));
    let switch = target.switch.clone();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; `prepare` makes system calls and
    // nothing else: it neither allocates nor locks.
    unsafe { command.pre_exec(move || prepare(switch.as_ref())) };

    let child = command.spawn().map_err(|error| explain(error, program, &target))?;
    let process = child
        .id()
        .and_then(identify)
        .ok_or_else(|| other(io::Error::other("the hook was started but /proc does not show it")))?;
    Ok((child, process, stdout, stderr))
}

/// The last steps of the child before it becomes the hook.
fn prepare(switch: Option<&Switch>) -> io::Result<()> {
    umask(Mode::from_bits_truncate(0o022));
    // Every descriptor but the standard ones closes at the exec, whoever opened it. The pipe on which the standard
    // library reports a failed exec is closed by a successful one as before. A kernel without close_range (before
    // 5.11) leaves the flags that each descriptor was opened with.
    // SAFETY: plain system call without pointers.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    // An agent that got its capabilities as ambient ones (systemd's AmbientCapabilities) does not hand them on.
    // SAFETY: plain system call without pointers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    if let Some(switch) = switch {
        switch.enter()?;
    }
    Ok(())
}

fn explain(error: io::Error, program: &str, target: &Target) -> SpawnError {
    let program = program.to_owned();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR) => SpawnError::Missing(program),
        Some(Errno::EACCES) => SpawnError::NotExecutable { program, user: target.name.clone() },
        Some(Errno::EPERM) => SpawnError::NotPermitted(target.name.clone()),
        _ => SpawnError::Other { program, source: error },
    }
}

impl Running {
    /// Waits for the hook's main process, for at most `limit`; then its whole process group is ended.
    ///
    /// A process that the hook left in the background is not waited for, whatever it holds open.
    pub(super) async fn finish(self, limit: Duration) -> HookRun {
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
        if stdout_open || stderr_open {
            notes.push(
                "a background process still holds its output open; redirect it in the hook (`>/dev/null 2>&1`)"
                    .to_owned(),
            );
        }
        HookRun { outcome, stdout, stderr, took_ms, notes }
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
