//! Starting programs so that none outlives the demo, whichever way it ends.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_interrupt(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Ctrl-C and the signals that ask to end: noted, so that the demo ends by returning and cleans up.
pub(super) struct Interrupt(());

impl Interrupt {
    pub(super) fn install() -> Result<Self> {
        let action = SigAction::new(SigHandler::Handler(note_interrupt), SaFlags::empty(), SigSet::empty());
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // SAFETY: the handler only stores to an atomic, which is safe in a signal handler.
            unsafe { sigaction(signal, &action) }.context("installing the signal handlers")?;
        }
        // What gunicorn leaves behind when a master ends becomes a child of this process and is found at the end.
        set_child_subreaper(true).context("asking to be given orphaned processes")?;
        Ok(Self(()))
    }

    // Takes self so that nobody asks before the handlers are installed.
    #[expect(clippy::unused_self, reason = "see above")]
    pub(super) fn happened(&self) -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.happened() {
            bail!("interrupted");
        }
        Ok(())
    }
}

/// A child that is ended when dropped.
pub(super) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a process group of its own, so that Ctrl-C reaches only the demo, which then ends it.
    /// Its error output, and unless it is to be piped its standard output, go to `log`.
    pub(super) fn start(name: &str, command: &mut Command, log: &Path, pipe_stdout: bool) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let stdout = if pipe_stdout { Stdio::piped() } else { file.try_clone()?.into() };
        command.stdout(stdout).stderr(file).process_group(0);
        // SAFETY: prctl is a plain system call, allowed between fork and exec.
        unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGTERM)?)) };
        let child =
            command.spawn().with_context(|| format!("starting {}", crate::process::describe(command)))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned() })
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("asking after {}", self.name))
    }

    /// An error that tells why, when a process that should run has ended.
    pub(super) fn check_running(&mut self) -> Result<()> {
        match self.ended()? {
            Some(status) => bail!("{} has ended ({status}):\n{}", self.name, tail(&self.log)),
            None => Ok(()),
        }
    }

    /// Waits for the end; `None` when the time is over.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            match self.ended()? {
                Some(status) => return Ok(Some(status)),
                None if Instant::now() > end => return Ok(None),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Asks it to end, and makes it end after `limit`.
    pub(super) fn stop(&mut self, limit: Duration) {
        if !matches!(self.ended(), Ok(None)) {
            return;
        }
        // These fail only when it has just ended.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        if !matches!(self.wait(limit), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(3));
    }
}

/// The last lines of a log, indented.
pub(super) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(15)).map(|line| format!("  {line}"));
    let mut text: Vec<String> = last.collect();
    text.push(format!("  (all of it: {})", log.display()));
    text.join("\n")
}

pub(super) fn is_alive(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descendants;

    #[test]
    fn a_dropped_process_is_gone() {
        let folder = std::env::temp_dir();
        let log = folder.join(format!("xtask-processes-{}.log", std::process::id()));
        let mut process = Process::start("sleep", Command::new("sleep").arg("60"), &log, false).unwrap();
        let pid = process.child().id().cast_signed();
        assert!(descendants::all().contains(&pid));
        drop(process);
        assert!(!is_alive(pid));
        fs::remove_file(log).unwrap();
    }
}
