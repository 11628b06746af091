//! From a configured program to a child that runs it.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Stdio;

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::chdir;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::command::{HookRequest, sealed};
use super::output::pipe;
use super::process::identify;
use super::target::{Switch, Target, TargetError};
use crate::config::ExecConfig;
use crate::config::trust::{self, Distrust};
use crate::incident::HookProcess;

#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnError {
    #[error("`exec` in [service.rollback] is empty; name the program to run")]
    Empty,
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("not run: {0}")]
    Open(Distrust),
    #[error(
        "{0} does not exist, or the interpreter in its first line does not; \
         correct `exec` in [service.rollback] (a program without a path is looked up in PATH)"
    )]
    Missing(String),
    #[error(
        "{program} cannot be executed by user {user}; try `chmod +x`, and let the user enter its directory \
         and `cwd`"
    )]
    NotExecutable { program: String, user: String },
    #[error("{cwd} cannot be entered by user {user}: {errno}; correct `cwd` in [service.rollback]")]
    Directory { cwd: String, user: String, errno: Errno },
    #[error("the agent may not become user {0}; it needs CAP_SETUID and CAP_SETGID, or no `user`")]
    NotPermitted(String),
    #[error("{program}: {source}")]
    Other { program: String, source: io::Error },
}

/// The child, who it is, and the reader's ends of its standard output and error.
pub(super) type Started = (Child, HookProcess, OwnedFd, OwnedFd);

/// A program with everything that is looked up before it is started, so that another process can start it.
#[derive(Debug, Serialize, Deserialize)]
#[expect(
    clippy::unsafe_derive_deserialize,
    reason = "its fields are no invariant that the unsafe call relies on"
)]
pub(super) struct Prepared {
    /// The program and its arguments, without placeholders.
    argv: Vec<String>,
    environment: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    umask: u32,
    /// The name of the user that it runs as, for messages.
    user: String,
    /// `None`: the own user.
    switch: Option<Switch>,
    /// What it finds on its standard input.
    payload: String,
}

/// Looks at who may change the program, and at everything that it is started with. Blocks for the name service and the
/// disk.
pub(super) fn prepare(exec: &ExecConfig, request: &HookRequest) -> Result<Prepared, SpawnError> {
    let (program, arguments) = exec.argv.split_first().ok_or(SpawnError::Empty)?;
    let target = Target::look_up(exec.user.as_deref())?.with_groups(exec.groups.as_deref())?;
    match trust::program(&exec.argv, target.uid()) {
        Err(open @ Distrust::Open(_)) => return Err(SpawnError::Open(open)),
        // What cannot be seen cannot be executed either, and that says why.
        Ok(()) | Err(Distrust::Unseen { .. }) => {}
    }
    let payload = request
        .json()
        .map_err(|error| SpawnError::Other { program: program.clone(), source: error.into() })?;
    let expanded = arguments.iter().map(|argument| request.expand(argument));
    Ok(Prepared {
        argv: std::iter::once(program.clone()).chain(expanded).collect(),
        environment: request.environment(&target, exec),
        cwd: exec.cwd.clone(),
        umask: exec.umask,
        user: target.name,
        switch: target.switch,
        payload: String::from_utf8_lossy(&payload).into_owned(),
    })
}

impl Prepared {
    /// Starts the program. Needs a runtime; blocks until the program is executed.
    pub(super) fn start(&self) -> Result<Started, SpawnError> {
        let (program, arguments) = self.argv.split_first().ok_or(SpawnError::Empty)?;
        let other = |source| SpawnError::Other { program: program.clone(), source };
        let (stdout, hook_stdout) = pipe().map_err(other)?;
        let (stderr, hook_stderr) = pipe().map_err(other)?;
        let cwd = CString::new(self.cwd.as_os_str().as_bytes()).map_err(|error| other(error.into()))?;

        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(sealed(c"load-watchdog-payload", self.payload.as_bytes()).map_err(other)?)
            .stdout(Stdio::from(hook_stdout))
            .stderr(Stdio::from(hook_stderr));
        let (switch, mask) = (self.switch.clone(), Mode::from_bits_truncate(self.umask));
        let prepare = move || {
            umask(mask);
            close_others();
            default_signals();
            drop_ambient();
            if let Some(switch) = &switch {
                switch.enter()?;
            }
            // As the user: what it may not enter, its hook must not stand in.
            chdir(cwd.as_c_str())?;
            Ok(())
        };
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; `prepare` makes system calls and
        // nothing else: it neither allocates nor locks.
        unsafe { command.pre_exec(prepare) };

        let child = command.spawn().map_err(|error| self.explain(error))?;
        let process = child
            .id()
            .and_then(identify)
            .ok_or_else(|| other(io::Error::other("the hook was started but /proc does not show it")))?;
        Ok((child, process, stdout, stderr))
    }

    /// The child's last error does not say which of its steps failed; what stands there now does.
    fn explain(&self, error: io::Error) -> SpawnError {
        let program = self.argv.first().cloned().unwrap_or_default();
        let user = self.user.clone();
        let errno = error.raw_os_error().map(Errno::from_raw);
        if let (Some(errno), Err(_)) = (errno, self.cwd.metadata()) {
            return SpawnError::Directory { cwd: self.cwd.display().to_string(), user, errno };
        }
        match errno {
            Some(Errno::ENOENT | Errno::ENOTDIR) => SpawnError::Missing(program),
            Some(Errno::EACCES) => SpawnError::NotExecutable { program, user },
            Some(Errno::EPERM) => SpawnError::NotPermitted(user),
            _ => SpawnError::Other { program, source: error },
        }
    }
}

/// What a program that the agent starts must not inherit: every descriptor but the standard ones. To be called between
/// fork and exec.
pub(super) fn close_others() {
    // They close at the exec, whoever opened them. The pipe on which the standard library reports a failed exec is closed
    // by a successful one as before. A kernel without close_range (before 5.11) leaves the flags that each descriptor was
    // opened with.
    // SAFETY: plain system call without pointers.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Whoever started the agent may ignore signals (`nohup`, a shell's background job), and a program that is executed goes on
/// ignoring them: a hook that SIGTERM does not reach, or that hears nothing of a broken pipe, would depend on that.
fn default_signals() {
    for signal in Signal::iterator() {
        // SAFETY: no handler is installed. Those two can be neither ignored nor set.
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    }
}

/// An agent that got its capabilities as ambient ones (systemd's `AmbientCapabilities`) does not hand them on to a hook.
fn drop_ambient() {
    // SAFETY: plain system call without pointers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
}
