//! The process between the agent and a rollback hook: `load-watchdog hook-run`, started by the agent alone.
//!
//! It has a session of its own, so that what ends the agent, or the hook's group, does not end it. It starts the hook, reads
//! what it writes, holds it to its time limit, and records its end, whether an agent is there or not.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, FromRawFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::dup2_stdout;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use super::HookRun;
use super::attempt::{Leftover, Running};
use super::exec::Prepared;
use super::record::{Attempt, Record, write};
use crate::incident::HookProcess;

/// The only argument of a supervisor. Not a command for people, so it is in no help.
pub const SUPERVISE: &str = "hook-run";

/// What the agent asks of it, on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) of: Attempt,
    pub(super) program: Prepared,
    pub(super) limit_ms: u64,
    /// The inherited descriptor that holds the attempt's lock.
    pub(super) lock: RawFd,
    /// Where the record is to be written.
    pub(super) record: PathBuf,
}

/// What it tells the agent, on its standard output: a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    Started(HookProcess),
    /// Nothing runs, because of this.
    NotStarted(String),
    Ended {
        run: HookRun,
        /// Why the record could not be written.
        unrecorded: Option<String>,
    },
}

/// Supervises one run of a hook.
pub fn supervise() -> ExitCode {
    let Some(order) = order() else {
        eprintln!(
            "load-watchdog: {SUPERVISE} is what the agent starts hooks with; `load-watchdog hook test SERVICE` tries one"
        );
        return ExitCode::from(64);
    };
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            runtime.block_on(run(order));
            ExitCode::SUCCESS
        }
        Err(error) => {
            tell(&Word::NotStarted(format!("its supervisor has no runtime: {error}")));
            ExitCode::FAILURE
        }
    }
}

/// From a sealed file in memory; nothing else is read, be it a terminal.
fn order() -> Option<Order> {
    let mut stdin = io::stdin();
    fcntl(stdin.as_fd(), FcntlArg::F_GET_SEALS).ok()?;
    let mut text = Vec::new();
    stdin.read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

async fn run(order: Order) {
    // What stops the agent's whole control group must not stop the one who records how the hook took it. A handler, unlike an
    // ignored signal, is not inherited.
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let _deaf: Vec<_> = kinds.into_iter().map(signal).collect();
    // SAFETY: the agent opened this descriptor for this process, and nothing else here knows of it.
    let mut lock = unsafe { File::from_raw_fd(order.lock) };
    // The hook must not hold the lock.
    let _ = fcntl(lock.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));

    let Order { of, program, limit_ms, record: path, .. } = order;
    let running = match Running::start(&program) {
        Ok(running) => running,
        Err(error) => {
            let why = error.to_string();
            let record = Record::new(of, None, HookRun::not_started(why.clone()));
            let _ = write(&path, &record);
            drop(lock);
            tell(&Word::NotStarted(why));
            return;
        }
    };
    let process = running.process.clone();
    // For a later agent; it is of no use after a power cut, so it need not be durable.
    let _ = serde_json::to_vec(&process).map(|name| lock.rewind().and_then(|()| lock.write_all(&name)));
    tell(&Word::Started(process.clone()));

    let (run, leftover) = running.finish_with_leftover(Duration::from_millis(limit_ms)).await;
    let record = Record::new(of, Some(process), run);
    let unrecorded = write(&path, &record).err().map(|error| format!("{}: {error}", path.display()));
    drop(lock);
    tell(&Word::Ended { run: record.run, unrecorded });
    linger(leftover).await;
}

/// The agent may be gone: what it needs is on disk by then.
fn tell(word: &Word) {
    let mut stdout = io::stdout().lock();
    if let Ok(mut line) = serde_json::to_vec(word) {
        line.push(b'\n');
        let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
    }
}

/// Reads on for the processes that the hook left with its output, so that none stops at a full pipe.
async fn linger(leftover: Leftover) {
    // The agent has heard all.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = dup2_stdout(null);
    }
    for stream in leftover {
        let _ = stream.await;
    }
}
