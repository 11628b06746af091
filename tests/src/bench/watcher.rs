//! What may watch a server: nobody, the agent's kernel programs, or a bpftrace script.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use watchdog::clock::mono_ns;
use watchdog::kernel::{EndpointPattern, Kernel, KernelOptions, Uprobes};

use super::empty::Empty;
use super::{Plan, load};
use crate::load::{Step, Target};
use crate::window::Watched;

/// How often the agent drains.
const TICK: Duration = Duration::from_millis(100);
const SCRIPT: &str = "bench/bpftrace/request-cpu.bt";
/// The script takes so many processes.
pub(super) const SCRIPT_PIDS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watcher {
    Nobody,
    Agent,
    Bpftrace,
}

/// The kernel's statistics of the programs over a run at a rate.
#[derive(Clone, Debug, Serialize)]
pub struct Programs {
    pub requests: u64,
    pub counted: u64,
    pub list: Vec<Program>,
    /// What the statistics themselves add to each run: nanoseconds of a program that does nothing.
    pub statistics_ns: f64,
    /// All programs' time without that, whichever process they ran in.
    pub net_ns_per_request: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Program {
    pub program: String,
    pub runs: u64,
    pub ns: u64,
}

/// What a watcher tells at its end.
#[derive(Debug, Default)]
pub struct Ended {
    pub counted: u64,
    pub programs: Vec<Program>,
}

/// A watcher at work.
#[derive(Debug)]
pub enum Guard {
    Nobody,
    Agent(Draining),
    Bpftrace(Script),
}

impl Watcher {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Agent => "agent",
            Self::Bpftrace => "bpftrace",
        }
    }

    /// Starts it on processes and their children, and returns when it watches.
    pub fn start(self, target: &Target, roots: &[u32], steps: &[Step]) -> anyhow::Result<Guard> {
        Ok(match self {
            Self::Nobody => Guard::Nobody,
            Self::Agent => Guard::Agent(Draining::start(uprobes(target), roots, steps, false)?),
            Self::Bpftrace => Guard::Bpftrace(Script::start(roots)?),
        })
    }
}

impl Guard {
    pub fn end(self) -> anyhow::Result<Ended> {
        match self {
            Self::Nobody => Ok(Ended::default()),
            Self::Agent(draining) => draining.end(),
            Self::Bpftrace(script) => script.end(),
        }
    }
}

/// The user probes without which a server cannot be watched.
fn uprobes(target: &Target) -> Uprobes {
    Uprobes { tls: matches!(target, Target::Tls(_)), ..Uprobes::NONE }
}

/// The kernel programs with a thread that drains them as the agent does.
#[derive(Debug)]
pub struct Draining {
    stop: Sender<()>,
    thread: JoinHandle<anyhow::Result<Ended>>,
}

impl Draining {
    pub fn start(uprobes: Uprobes, roots: &[u32], steps: &[Step], probe_stats: bool) -> anyhow::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let (ready, is_ready) = mpsc::channel();
        let roots = roots.to_vec();
        let mut patterns: Vec<EndpointPattern> = Vec::new();
        for step in steps {
            let path = step.path.split('?').next().unwrap_or_default().to_owned();
            if patterns.iter().all(|pattern| pattern.path != path) {
                let index = u16::try_from(patterns.len() + 1)?;
                patterns.push(EndpointPattern { index, method: Some(step.method.clone()), path });
            }
        }
        let thread = std::thread::Builder::new().name("agent".to_owned()).spawn(move || {
            let mut kernel =
                Kernel::load(&KernelOptions { probe_stats, uprobes, ..KernelOptions::default() })?;
            let watched = Watched::open(&mut kernel, 0, &patterns, &roots)?;
            kernel.tick(mono_ns())?;
            let before = kernel.probe_stats();
            let _ = ready.send(());
            let finished = |kernel: &mut Kernel| -> anyhow::Result<u64> {
                let tick = kernel.tick(mono_ns())?;
                let figures = tick.conservation.iter().find(|(slot, _)| *slot == watched.slot);
                Ok(figures.map_or(0, |(_, figures)| figures.finished))
            };
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                finished(&mut kernel)?;
            }
            let programs = kernel.probe_stats().into_iter().map(|(program, runs, ns)| {
                let old = before.iter().find(|(name, ..)| *name == program);
                let (old_runs, old_ns) = old.map_or((0, 0), |(_, runs, ns)| (*runs, *ns));
                Program { program, runs: runs - old_runs, ns: ns - old_ns }
            });
            let programs = programs.filter(|program| program.runs > 0).collect();
            Ok(Ended { counted: finished(&mut kernel)?, programs })
        })?;
        if is_ready.recv().is_err() {
            let ended = thread.join().map_err(|_| anyhow!("the agent's thread panicked"))?;
            return Err(ended.err().unwrap_or_else(|| anyhow!("the kernel programs ended at once")));
        }
        Ok(Self { stop, thread })
    }

    pub fn end(self) -> anyhow::Result<Ended> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow!("the agent's thread panicked"))?
    }
}

/// bpftrace with the script of this repository, in a mount namespace that has the tracepoints' files.
#[derive(Debug)]
pub struct Script {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Script {
    pub fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(SCRIPT)
    }

    fn start(roots: &[u32]) -> anyhow::Result<Self> {
        let mut pids = Vec::new();
        for root in roots {
            pids.extend(crate::window::family(*root)?);
        }
        ensure!(pids.len() <= SCRIPT_PIDS, "the script takes {SCRIPT_PIDS} processes, not {}", pids.len());
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--", "sh", "-c"])
            // Mounted by the host already, or to be mounted for this process alone.
            .arg("mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; exec bpftrace \"$@\"")
            .arg("sh")
            .arg(Self::path())
            .args(pids.iter().map(ToString::to_string));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run unshare and bpftrace; `cargo xtask setup bench` installs it")?;
        let output = BufReader::new(child.stdout.take().context("its standard output was asked for")?);
        let mut script = Self { child, output };
        loop {
            let mut line = String::new();
            ensure!(script.output.read_line(&mut line)? > 0, "bpftrace ended before it was ready");
            if line.trim() == "ready" {
                return Ok(script);
            }
        }
    }

    fn end(mut self) -> anyhow::Result<Ended> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT)?;
        let mut counted = 0;
        for line in (&mut self.output).lines() {
            if let Some(count) = line?.strip_prefix("@requests: ") {
                counted = count.trim().parse().context("bpftrace's count")?;
            }
        }
        self.child.wait()?;
        Ok(Ended { counted, programs: Vec::new() })
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One run at a rate with the kernel's statistics on.
pub fn programs(target: &Target, roots: &[u32], plan: &Plan, rate: f64) -> anyhow::Result<Programs> {
    let empty = Empty::attach("sched_switch")?;
    let draining = Draining::start(uprobes(target), roots, &plan.steps, true)?;
    let (runs_before, ns_before) = empty.figures()?;
    let (run, _) = load(target, roots, plan, Some(rate))?;
    let (runs, ns) = empty.figures()?;
    let ended = draining.end()?;
    ensure!(runs > runs_before, "the kernel kept no statistics");
    let statistics_ns = (ns - ns_before) as f64 / (runs - runs_before) as f64;
    let net: f64 = ended
        .programs
        .iter()
        .map(|program| (program.ns as f64 - statistics_ns * program.runs as f64).max(0.0))
        .sum();
    Ok(Programs {
        requests: run.requests,
        counted: ended.counted,
        list: ended.programs,
        statistics_ns,
        net_ns_per_request: net / run.requests as f64,
    })
}
