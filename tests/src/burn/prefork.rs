//! Forked children that serve one connection after the other. With `--refork-after` a child ends after so many
//! connections and the parent forks another, so that children appear long after the start.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

use super::handler::serve_connection;
use super::meter;
use super::{Listener, Server};

pub fn serve(server: &Arc<Server>, listener: &Listener) -> anyhow::Result<()> {
    for _ in 0..server.options.workers.max(1) {
        start_child(server, listener)?;
    }
    loop {
        let Some(ended) = wait_for_child()? else { continue };
        // The dead child's clock can be read until it is reaped.
        server.stats.retire(ended, meter::process_cpu_ns(ended).unwrap_or(0));
        reap(ended)?;
        start_child(server, listener)?;
    }
}

fn start_child(server: &Arc<Server>, listener: &Listener) -> anyhow::Result<()> {
    let parent = getpid();
    // SAFETY: this process has one thread, so the child finds every lock free.
    match unsafe { fork() }.context("forking a child")? {
        ForkResult::Parent { child } => {
            server.stats.enlist(child.as_raw().unsigned_abs());
            Ok(())
        }
        ForkResult::Child => {
            let ended = child_loop(server, listener, parent);
            // SAFETY: ends the child at once, without running what the parent registered for its own end.
            unsafe { libc::_exit(i32::from(ended.is_err())) }
        }
    }
}

fn child_loop(server: &Server, listener: &Listener, parent: Pid) -> anyhow::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // It may have ended before it was asked for; then nobody would end this child.
    if getppid() != parent {
        return Ok(());
    }
    let limit = match server.options.refork_after {
        0 => u64::MAX,
        limit => limit,
    };
    for _ in 0..limit {
        let connection = listener.accept().with_context(|| format!("accepting on {:?}", listener.as_fd()))?;
        serve_connection(server, connection);
    }
    Ok(())
}

/// Waits for a child to end and leaves it unreaped; `None` when interrupted.
fn wait_for_child() -> anyhow::Result<Option<u32>> {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
        Ok(status) => Ok(status.pid().map(|pid| pid.as_raw().unsigned_abs())),
        Err(Errno::EINTR) => Ok(None),
        Err(error) => Err(error).context("waiting for the children"),
    }
}

fn reap(pid: u32) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?);
    nix::sys::wait::waitpid(pid, None).context("reaping a child")?;
    Ok(())
}
