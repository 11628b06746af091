//! What measuring costs a server: the same load without and with something that watches, in turns.
//!
//! The server has one CPU and the load driver another, where there are two. A row first finds how many requests per
//! second the server can do; then come pairs of runs at saturation and sets of runs at half of that, each set in
//! another order; CPU is what the server's processes themselves used, by their own clocks. One more run has the
//! kernel's statistics of the programs on, beside a program that does nothing: what that one seems to cost is what
//! the statistics cost.

pub mod empty;
pub mod extremes;
pub mod telemetry;
pub mod watcher;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use crate::burn::meter;
use crate::load::{LoadOptions, LoadReport, Step, Target, run};
use crate::servers::{Running, Server};
use crate::window::family;
use watcher::{Programs, Watcher};

/// Keep-alive connections at saturation, and at a rate.
const CONNECTIONS: usize = 16;
/// Share of the saturated throughput that is offered where servers are compared below saturation.
const OFFERED: f64 = 0.5;
/// More is not offered: the driver is a thread per connection.
const MAX_RATE: f64 = 4_000.0;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    pub pairs: u32,
    pub run: Duration,
    /// Compare with bpftrace, too.
    pub bpftrace: bool,
    pub steps: Vec<Step>,
}

/// One run's outcome.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Run {
    pub requests: u64,
    pub requests_per_second: f64,
    /// CPU of the server's processes per request.
    pub cpu_ns: f64,
    pub p99_us: u64,
    /// Requests that the watcher counted; those of nobody are 0.
    pub counted: u64,
}

/// Without and with the agent's kernel programs, one after the other.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pair {
    pub without: Run,
    pub with: Run,
}

/// At the same rate, one after the other: by watcher's name.
pub type Set = BTreeMap<String, Run>;

/// A server's row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub model: String,
    pub tls: bool,
    pub saturated: Vec<Pair>,
    /// Offered requests per second of the sets.
    pub rate: f64,
    pub steady: Vec<Set>,
    pub programs: Programs,
}

/// Pins this process (and what it starts from now on) to a CPU, where there are at least two.
pub fn pin(cpu: usize) -> anyhow::Result<()> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 && !others()? {
        return Ok(());
    }
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("pinning to CPU {cpu}"))
}

/// Whether the machine has a second CPU, whatever this process is pinned to.
fn others() -> anyhow::Result<bool> {
    Ok(std::fs::read_to_string("/sys/devices/system/cpu/online")?.trim() != "0")
}

/// CPU that processes have used so far, by their own clocks, nanoseconds.
pub(crate) fn cpu_ns(roots: &[u32]) -> anyhow::Result<BTreeMap<u32, u64>> {
    let mut all = BTreeMap::new();
    for root in roots {
        all.extend(family(*root)?.into_iter().filter_map(|pid| Some((pid, meter::process_cpu_ns(pid)?))));
    }
    ensure!(!all.is_empty(), "none of the server's processes runs any more");
    Ok(all)
}

/// Loads a server for a while and reads its processes' clocks before and after.
pub(crate) fn load(
    target: &Target,
    roots: &[u32],
    plan: &Plan,
    rate: Option<f64>,
) -> anyhow::Result<(Run, LoadReport)> {
    let options = LoadOptions {
        concurrency: CONNECTIONS,
        requests: None,
        duration: Some(plan.run),
        rate,
        ..LoadOptions::new(target.clone(), plan.steps.clone(), 1)
    };
    let before = cpu_ns(roots)?;
    let report = run(options)?;
    // What follows an answer belongs to it.
    std::thread::sleep(Duration::from_millis(50));
    let after = cpu_ns(roots)?;
    ensure!(report.failures == 0, "{} requests failed: {:?}", report.failures, report.failed);
    ensure!(report.requests > 0, "no request was answered");
    let used: u64 =
        after.iter().map(|(pid, now)| now.saturating_sub(before.get(pid).copied().unwrap_or(0))).sum();
    let run = Run {
        requests: report.requests,
        requests_per_second: report.rate(),
        cpu_ns: used as f64 / report.requests as f64,
        p99_us: report.endpoints.iter().map(|endpoint| endpoint.p99_us).max().unwrap_or(0),
        counted: 0,
    };
    Ok((run, report))
}

/// The same with a watcher beside it.
pub(crate) fn watched(
    watcher: Watcher,
    target: &Target,
    roots: &[u32],
    plan: &Plan,
    rate: Option<f64>,
) -> anyhow::Result<Run> {
    let guard = watcher.start(target, roots, &plan.steps)?;
    let (run, _) = load(target, roots, plan, rate)?;
    let counted = guard.end()?.counted;
    ensure!(
        watcher == Watcher::Nobody || counted > 0,
        "{} counted none of {} requests",
        watcher.name(),
        run.requests
    );
    Ok(Run { counted, ..run })
}

/// Starts a server on the first CPU and stays on the second.
pub fn start(server: &Server) -> anyhow::Result<Running> {
    pin(0)?;
    let running = (server.start)();
    pin(1)?;
    running
}

/// Measures one server.
pub fn row(server: &Server, plan: &Plan, tell: &dyn Fn(&str)) -> anyhow::Result<Row> {
    let running = start(server)?;
    let roots: Vec<u32> =
        running.roots.iter().copied().chain(running.fronts.iter().map(|(_, pid)| *pid)).collect();
    let tls = matches!(running.target, Target::Tls(_));
    let target = &running.target;
    // Warms caches, compilers and connections, and finds the throughput; it counts for neither side.
    load(target, &roots, plan, None)?;
    let (warm, _) = load(target, &roots, plan, None)?;
    let rate = (OFFERED * warm.requests_per_second).min(MAX_RATE);
    tell(&format!("{:.0} requests/s at saturation", warm.requests_per_second));

    let mut saturated = Vec::new();
    for pair in 0..plan.pairs {
        let of = |watcher| watched(watcher, target, &roots, plan, None);
        let (without, with) = if pair.is_multiple_of(2) {
            let without = of(Watcher::Nobody)?;
            (without, of(Watcher::Agent)?)
        } else {
            let with = of(Watcher::Agent)?;
            (of(Watcher::Nobody)?, with)
        };
        tell(&format!(
            "pair {}: {:.0} and {:.0} requests/s",
            pair + 1,
            without.requests_per_second,
            with.requests_per_second
        ));
        saturated.push(Pair { without, with });
    }
    let steady = sets(target, &roots, plan, rate, tell)?;
    let programs = watcher::programs(target, &roots, plan, rate)?;
    tell(&format!("programs: {:.0} ns per request", programs.net_ns_per_request));
    Ok(Row {
        name: server.name.to_owned(),
        model: server.model.to_owned(),
        tls,
        saturated,
        rate,
        steady,
        programs,
    })
}

/// Runs at a rate without anybody, with the agent's programs, and with bpftrace, in an order that changes.
pub(crate) fn sets(
    target: &Target,
    roots: &[u32],
    plan: &Plan,
    rate: f64,
    tell: &dyn Fn(&str),
) -> anyhow::Result<Vec<Set>> {
    let mut watchers = vec![Watcher::Nobody, Watcher::Agent];
    // The script reads sockets, where TLS shows nothing, and takes a handful of processes.
    let processes = roots.iter().map(|root| Ok(family(*root)?.len())).sum::<anyhow::Result<usize>>()?;
    if plan.bpftrace && !matches!(target, Target::Tls(_)) && processes <= watcher::SCRIPT_PIDS {
        watchers.push(Watcher::Bpftrace);
    }
    let mut sets = Vec::new();
    for number in 0..plan.pairs as usize {
        let mut set = Set::new();
        for step in 0..watchers.len() {
            let watcher = watchers[(number + step) % watchers.len()];
            set.insert(watcher.name().to_owned(), watched(watcher, target, roots, plan, Some(rate))?);
        }
        let told: Vec<String> =
            set.iter().map(|(name, run)| format!("{name} {:.1} us", run.cpu_ns / 1e3)).collect();
        tell(&format!("set {}: {}", number + 1, told.join(", ")));
        sets.push(set);
    }
    Ok(sets)
}
