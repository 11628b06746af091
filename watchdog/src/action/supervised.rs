//! A hook under its supervisor, as the agent sees it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::setsid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::attempt::{GRACE, milliseconds};
use super::command::{HookRequest, sealed};
use super::exec::{SpawnError, close_others, prepare};
use super::hands::{Later, StartedHook, WatchedHook};
use super::output::Pump;
use super::process::{end_group, ended, find, identify};
use super::record::{Attempt, Recorder};
use super::supervisor::{Order, SUPERVISE, Word};
use super::{HookOutcome, HookRun};
use crate::config::ExecConfig;
use crate::incident::HookProcess;

/// How long a supervisor may take to start the hook.
const STARTED_WITHIN: Duration = Duration::from_secs(10);
/// How long after a hook's time limit its supervisor may take to end it and to say so.
pub(super) const SLACK: Duration = Duration::from_secs(20);

/// Why no hook runs.
#[derive(Debug)]
pub(super) enum Unstarted {
    /// No supervisor could be started: the hook can be started without one.
    NoSupervisor(io::Error),
    /// The hook itself cannot be started.
    Hook(String),
}

/// A hook that a supervisor of this agent started.
#[derive(Debug)]
pub(super) struct Supervised {
    /// Kept, so that the runtime reaps it.
    _supervisor: Child,
    words: BufReader<Receiver>,
    /// The hook's; the supervisor's where that died before it could name it.
    process: HookProcess,
    started: Instant,
}

/// Starts a supervisor, and the hook under it. What blocks happens off the agent's loop.
pub(super) async fn spawn(
    recorder: &Recorder,
    exec: &ExecConfig,
    limit: Duration,
    request: &HookRequest,
) -> Result<Supervised, Unstarted> {
    let (recorder, exec, request) = (recorder.clone(), exec.clone(), request.clone());
    let incident = request.incident.clone();
    let begun = tokio::task::spawn_blocking(move || start(&recorder, &exec, limit, &request)).await;
    let (supervisor, own, words) =
        begun.map_err(|error| Unstarted::NoSupervisor(io::Error::other(error)))??;
    let mut supervised = Supervised {
        _supervisor: supervisor,
        words: BufReader::new(words),
        process: own,
        started: Instant::now(),
    };
    match timeout(STARTED_WITHIN, supervised.next_word()).await {
        Ok(Some(Word::Started(process))) => supervised.process = process,
        Ok(Some(Word::NotStarted(why))) => return Err(Unstarted::Hook(why)),
        // Whether the hook runs is not known, so it counts as started: it is never started again.
        _ => {
            if let Some(process) = find(&incident) {
                supervised.process = process;
            }
        }
    }
    Ok(supervised)
}

fn start(
    recorder: &Recorder,
    exec: &ExecConfig,
    limit: Duration,
    request: &HookRequest,
) -> Result<(Child, HookProcess, Receiver), Unstarted> {
    let program = prepare(exec, request).map_err(|error: SpawnError| Unstarted::Hook(error.to_string()))?;
    let of = Attempt { incident: request.incident.clone(), attempt: request.attempt };
    let start = || {
        let record = recorder.record_path(&of)?;
        let lock = recorder.begin(&of)?;
        let lock_fd = lock.as_raw_fd();
        let order = Order { of: of.clone(), program, limit_ms: milliseconds(limit), lock: lock_fd, record };
        let (words, their_words) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let words = Receiver::from_owned_fd(words)?;
        let supervisor = supervisor(&recorder.program, &order, Stdio::from(their_words), lock.as_fd())?;
        let own = supervisor
            .id()
            .and_then(identify)
            .ok_or_else(|| io::Error::other("/proc does not show the supervisor"))?;
        Ok((supervisor, own, words))
    };
    start().map_err(Unstarted::NoSupervisor)
}

fn supervisor(program: &Path, order: &Order, words: Stdio, lock: BorrowedFd<'_>) -> io::Result<Child> {
    let order = sealed(c"load-watchdog-order", &serde_json::to_vec(order)?)?;
    let mut command = Command::new(program);
    command
        .arg0("load-watchdog")
        .arg(SUPERVISE)
        .env_clear()
        .current_dir("/")
        .stdin(order)
        .stdout(words)
        .stderr(Stdio::null());
    let lock = lock.as_raw_fd();
    let prepare = move || {
        setsid()?;
        close_others();
        // SAFETY: the file outlives the call to `spawn`, and so this borrow of it in the child.
        fcntl(unsafe { BorrowedFd::borrow_raw(lock) }, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; `prepare` makes system calls and
    // nothing else: it neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

impl Supervised {
    /// `None`: the supervisor is gone.
    async fn next_word(&mut self) -> Option<Word> {
        let mut line = Vec::new();
        match self.words.read_until(b'\n', &mut line).await {
            Ok(_) if line.ends_with(b"\n") => serde_json::from_slice(&line).ok(),
            _ => None,
        }
    }

    /// Waits until the supervisor tells the end; it is the one who holds the hook to its limit.
    async fn wait(mut self, limit: Duration) -> HookRun {
        let rest = (limit + SLACK).saturating_sub(self.started.elapsed());
        if let Ok(Some(Word::Ended { run, unrecorded })) = timeout(rest, self.next_word()).await {
            if let Some(why) = unrecorded {
                tracing::warn!("the end of the hook could not be recorded: {why}");
            }
            return run;
        }
        let watched = watch(&self.process, limit.saturating_sub(self.started.elapsed())).await;
        let outcome = match watched.forced {
            Some(forced) => HookOutcome::TimedOut { after_ms: milliseconds(limit), forced },
            None => HookOutcome::Lost {
                why: "its supervisor was killed, and nobody else saw its exit".to_owned(),
            },
        };
        HookRun {
            outcome,
            stdout: watched.stdout,
            stderr: watched.stderr,
            took_ms: milliseconds(self.started.elapsed()),
            notes: Vec::new(),
        }
    }
}

impl StartedHook for Supervised {
    fn process(&self) -> &HookProcess {
        &self.process
    }

    fn finish(self: Box<Self>, limit: Duration) -> Later<'static, HookRun> {
        Box::pin(self.wait(limit))
    }
}

/// Waits for a hook that is no child of this agent and has no supervisor, for at most `rest`; then ends its process group.
pub(super) async fn watch(process: &HookProcess, rest: Duration) -> WatchedHook {
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
    let forced = if in_time { None } else { Some(end_group(process, GRACE).await) };
    WatchedHook { forced, stdout: stdout.finish().0, stderr: stderr.finish().0 }
}
