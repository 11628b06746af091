//! A server's process, ended with its children when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::window::family;

/// How long a server may take to end when asked to.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// What of a log is told when a server fails, bytes.
const LOG_TAIL: usize = 2_000;

#[derive(Debug)]
pub(super) struct Process {
    pub(super) name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with its output in `<name>.log` of the folder.
    pub(super) fn start(name: &'static str, folder: &Path, command: &mut Command) -> anyhow::Result<Self> {
        use std::os::unix::process::CommandExt as _;

        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // SAFETY: prctl is async-signal-safe and nothing is allocated between fork and exec.
        unsafe {
            // A test that is killed leaves no server behind.
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?));
        }
        let child =
            command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self { name, child, log })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("asking whether {} has ended", self.name))
    }

    /// The end of what it wrote.
    pub(super) fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL)..]).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A pid alone could be another process's by the time it is killed; with its start time it could not.
        let family: Vec<_> = family(self.pid())
            .unwrap_or_default()
            .into_iter()
            .filter_map(|pid| Some((pid, started(pid)?)))
            .collect();
        let end = Instant::now() + ENDS_WITHIN;
        // All of these fail only for what has ended already.
        let _ = signal(self.pid(), Signal::SIGTERM);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        for (pid, since) in family {
            if started(pid) == Some(since) {
                let _ = signal(pid, Signal::SIGKILL);
            }
        }
        let _ = self.child.wait();
    }
}

fn signal(pid: u32, signal: Signal) -> nix::Result<()> {
    kill(Pid::from_raw(pid.cast_signed()), signal)
}

/// When a process started, in clock ticks since boot; `None` once it is gone.
fn started(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; after it comes the third field.
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
